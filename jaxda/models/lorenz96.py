"""The model of Lorenz (1996), "Predictability: a problem partly solved", eq. 1, in any dimension.

dx_i/dt = (x_{i+1} - x_{i-2}) x_{i-1} - x_i + F, indices periodic. One time unit is five days.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import Field

from jaxda.numerics import timestep
from jaxda.settings import Positive, described, settings
from jaxda.shown import in_brief

#: Lorenz (1996) matches one time unit to five days of the atmosphere.
HOURS_PER_TIME_UNIT = 120.0


@settings
class Lorenz96Config:
    """Settings of the Lorenz-96 model."""

    kind: Literal["lorenz96"] = described("lorenz96", "forecast model")
    dim: Annotated[int, Field(ge=4, lt=2**31)] = described(40, "number of variables [1]")
    forcing: float = described(8.0, "forcing F [1]")
    dt: Positive = described(0.05, "time step; one time unit is 120 h [time units]")

    def __post_init__(self):
        # Found by running: RK4 stays on the attractor up to 0.12 at F = 8 and 0.06 at F = 16, not at 0.14, 0.07.
        limit = 0.12 * 8.0 / max(abs(self.forcing), 8.0)
        if self.dt > limit:
            raise ValueError(f"dt = {self.dt:g} is over the stability limit of RK4; use dt <= {limit:.3g}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        return (self.dim,)

    @property
    def spacing(self) -> float:
        """Grid spacing [grid points]."""
        return 1.0

    @property
    def rossby_radius(self) -> None:
        """There is one level only."""
        return None

    @property
    def cutoff(self) -> float:
        """Zero radius of the taper with which 20 members serve well [grid points] (docs/score_table.md)."""
        return 30.0

    @property
    def step_hours(self) -> float:
        """Length of one time step [h]."""
        return self.dt * HOURS_PER_TIME_UNIT


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Lorenz96Params:
    """Traced parameters: forcing F and time step."""

    forcing: Array
    dt: Array

    __repr__ = in_brief


def make_params(config: Lorenz96Config, dtype=None) -> Lorenz96Params:
    """The model's parameters as arrays of `dtype` (the default float type)."""
    return Lorenz96Params(*(jnp.asarray(value, dtype or float) for value in (config.forcing, config.dt)))


def tendency(params: Lorenz96Params, x: Array) -> Array:
    """dx/dt of states `(..., d)`, in units of x per time unit (Lorenz 1996, eq. 1)."""
    return (jnp.roll(x, -1, -1) - jnp.roll(x, 2, -1)) * jnp.roll(x, 1, -1) - x + params.forcing


def step(params: Lorenz96Params, x: Array) -> Array:
    """States `(..., d)` one time step later, by RK4."""
    return timestep.rk4(lambda x: tendency(params, x), params.dt)(x)


def initial_state(key: Array, config: Lorenz96Config) -> Array:
    """A state `(d,)` near the unstable rest state x = F, from which a spin-up reaches the attractor."""
    return config.forcing + jax.random.normal(key, config.shape)


def make_advance(config: Lorenz96Config, n_steps: int, dtype=None) -> timestep.Step:
    """States `(..., d)` -> the same `n_steps` later.

    Examples:
        >>> config = Lorenz96Config(dim=8)
        >>> advance = jax.jit(make_advance(config, 4))  # 4 steps of 0.05
        >>> advance(initial_state(jax.random.key(0), config)).shape
        (8,)
        >>> at_rest = jax.numpy.full((2, 8), 8.0)  # x = F moves nowhere
        >>> bool((advance(at_rest) == at_rest).all())
        True
    """
    params = make_params(config, dtype)
    return timestep.repeated(lambda x: step(params, x), n_steps)
