"""jaxda: data assimilation of turbulence in JAX.

The floors, from the ground: `numerics` and `parallel`; `models` and `observations`; `filters` and
`diagnostics`; `twin`; `output`; `config`. Each imports from below only.
"""

__version__ = "0.1.0"
