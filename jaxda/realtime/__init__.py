"""The operational form: observation files as they arrive, a cycle for each, on time and in order."""

from jaxda import lazy

__getattr__, __dir__ = lazy.modules_of(__name__, __path__)
