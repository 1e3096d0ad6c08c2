"""Training of surrogates: samples, losses, the step, online updates."""

from jaxda import lazy

__getattr__, __dir__ = lazy.modules_of(__name__, __path__)
