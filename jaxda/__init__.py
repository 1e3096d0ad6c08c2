"""jaxda: data assimilation of turbulence in JAX.

The floors, from the ground: `numerics` and `parallel`; `models` and `observations`; `filters` and
`diagnostics`; `twin`; `output`; `config`; `experiment` and `compare`. Each imports from below only. `import jaxda`
imports none of them: `jaxda.models.sqg` is there when it is used.

Examples:
    >>> import jaxda
    >>> jaxda.models.sqg.SQGConfig(N=16).shape
    (2, 16, 16)
"""

from jaxda import lazy

__getattr__, __dir__ = lazy.modules_of(__name__, __path__)

__version__ = "0.1.0"
