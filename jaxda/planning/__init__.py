"""What trainings and analyses would cost on machines that are not here."""

from jaxda import lazy

__getattr__, __dir__ = lazy.modules_of(__name__, __path__)
