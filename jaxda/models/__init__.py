"""Floor 1: forecast models, each a config, `make_params`, `step`: state -> state."""

from jaxda import lazy

__getattr__, __dir__ = lazy.modules_of(__name__, __path__)
