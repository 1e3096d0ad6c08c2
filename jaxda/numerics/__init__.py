"""Floor 0: transforms and time stepping."""

from jaxda import lazy

__getattr__, __dir__ = lazy.modules_of(__name__, __path__)
