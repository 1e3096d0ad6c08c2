"""Floor 2: analyses, each made by `make_analysis` and called as (key, ensemble, observation) -> ensemble."""

from jaxda import lazy

__getattr__, __dir__ = lazy.modules_of(__name__, __path__)
