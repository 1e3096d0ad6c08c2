"""Floor 0: devices, meshes and what runs over them."""

from jaxda import lazy

__getattr__, __dir__ = lazy.modules_of(__name__, __path__)
