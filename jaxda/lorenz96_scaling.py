"""The Lorenz-96 scaling problem of Yin et al. (2024, SC24, Sec. 5): up to 1e8 variables, a member or more on each rank.

arctan of every variable is observed with an error of 0.1 every ten RK4 steps of 0.01. A cycle of a member is

    pre-predictions   samplings from noise whose likelihood is that of the forecast, grad_z log p(y | M(z)),
    forecast          M, the ten steps,
    update            one sampling with grad_z log p(y | z),

each of 100 Euler steps of the published EnSF, each member its own kernel. Members never meet but in the statistics.

A rank's devices have a part of the line each (`jaxda.parallel.ring`). Truth and observations are functions of keys and
of the number of a point: every rank makes its own, of one time, and they are the same on all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec
from pydantic import Field

from jaxda.filters import ensf, ensf_ring
from jaxda.models import lorenz96_windows
from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.numerics import counter
from jaxda.parallel import kernels
from jaxda.parallel import ring as rings
from jaxda.parallel.ring import AXIS, Ring
from jaxda.settings import Count, Fraction, Positive, Seed, described, settings


@settings
class ScalingConfig:
    """Settings of the scaling problem; the defaults are the published ones, and few variables."""

    d: Annotated[int, Field(ge=4, lt=2**31)] = described(1000, "number of variables [1]")
    members: Count = described(1, "of each rank [1]")
    cycles: Annotated[int, Field(ge=0, lt=2**31)] = described(10, "analyses [1]")
    forcing: float = described(8.0, "forcing F [1]")
    dt: Positive = described(0.01, "time step of RK4 [time units]")
    between: Annotated[int, Field(ge=1, le=100)] = described(10, "time steps between observations [1]")
    spinup: Annotated[int, Field(ge=0)] = described(50, "such intervals before the first cycle [1]")
    sigma: Positive = described(0.1, "standard deviation of the observations of arctan(x) [1]")
    analysis: Literal["ensf", "observations", "none"] = described(
        "ensf", "what a cycle does to a member: the filter; tan of the observations up to pi/2 - sigma; nothing"
    )
    pre_predictions: Annotated[int, Field(ge=0)] = described(3, "samplings before the forecast [1]")
    compared: Literal["observed", "state"] = described(
        "observed",
        "what they compare with the data: arctan of the forecast, or the forecast itself (public program)",
    )
    steps: Count = described(100, "Euler steps of a sampling [1]")
    eps_alpha: Positive = described(0.01, "alpha at t = 1 [1]")
    eps_beta: Fraction = described(0.05, "beta^2 at t = 0 [1]")
    state: Literal["float32", "bfloat16"] = described("float32", "type of a pre-prediction's path between its steps")
    seed: Seed = described(0, "of everything random [1]")
    mpi: Literal["auto", "mpi4jax", "mpi4py", "none"] = described("auto", "what statistics go through")

    @property
    def model(self) -> Lorenz96Config:
        """The model; raises pydantic's ValidationError where it would be unstable."""
        return Lorenz96Config(dim=self.d, dt=self.dt, forcing=self.forcing)

    @property
    def filter(self) -> ensf.EnSFConfig:
        """The filter; nothing in it is normalised, relaxed or ended by what other members do."""
        return ensf.EnSFConfig(
            eps_alpha=self.eps_alpha, eps_beta=self.eps_beta, steps=self.steps, stop=0.0, tolerance=0.0,
            normalise=False, relaxation=0.0, spread_cap=math.inf,
        )  # fmt: skip

    def __post_init__(self):
        _ = self.model, self.filter  # which check themselves


def make_ring(config: ScalingConfig, devices: list | None = None, largest: int | None = None) -> Ring:
    """The line over this rank's devices; arguments and ValueError as of `jaxda.parallel.ring.make_ring`."""
    return rings.make_ring(config.d, lorenz96_windows.halo(config.between), devices, largest)


def make_start(config: ScalingConfig, ring: Ring) -> Callable[[Array], tuple[Array, Array]]:
    """A jitted function: numbers of members `(m,)` -> a true state `(d,)` on the attractor, members `(m, d)`."""
    key_truth, key_members = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 0))
    advance = make_advance(config, ring)

    def start(numbers):
        places = _places(ring)
        draw = lambda key: counter.normals(counter.words_of(key), 0, places)
        truth = jax.lax.fori_loop(0, config.spinup, lambda _, x: advance(x), config.forcing + draw(key_truth))
        return truth, jax.lax.map(lambda number: draw(jax.random.fold_in(key_members, number)), numbers)

    whole, members = PartitionSpec(), PartitionSpec(None, AXIS)
    return _jitted(ring, start, (whole,), (ring.spec, members))


def make_cycle(config: ScalingConfig, ring: Ring) -> Callable[..., tuple[Array, Array]]:
    """A jitted function: cycle, numbers `(m,)`, truth `(d,)`, members `(m, d)` -> truth and members, one cycle later.

    Members are taken one after another: memory is that of one, and a member's figures depend on nothing but the seed
    and its number. Truth and members that are given are gone afterwards.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    advance, analyse = make_advance(config, ring), make_member(config, ring)

    def cycle(number, numbers, truth, members):
        key_observe, key_analysis = jax.random.split(jax.random.fold_in(key, number))
        truth = advance(truth)
        errors = counter.normals(counter.words_of(key_observe), 0, _places(ring))
        y = ensf_ring.arctan_and_slope(truth)[0] + config.sigma * errors
        around = rings.extended(ring, y)
        one = lambda given: analyse(jax.random.fold_in(key_analysis, given[0]), given[1], y, around)
        return truth, jax.lax.map(one, (numbers, members))

    whole, members = PartitionSpec(), PartitionSpec(None, AXIS)
    return _jitted(ring, cycle, (whole, whole, ring.spec, members), (ring.spec, members), donated=(2, 3))


def make_member(config: ScalingConfig, ring: Ring) -> Callable[[Array, Array, Array, Array], Array]:
    """What a cycle does to a member on each device: key, `(part,)`, data without and with halos -> `(part,)`."""
    advance = make_advance(config, ring)
    if config.analysis == "none":
        return lambda key, x, y, around: advance(x)
    if config.analysis == "observations":
        return lambda key, x, y, around: jnp.tan(jnp.clip(y, config.sigma - np.pi / 2, np.pi / 2 - config.sigma))
    update = ensf_ring.make_update(config.filter, ring, config.sigma)
    before = ensf_ring.make_pre_prediction(
        config.filter, ring, config.model, config.between, config.sigma, config.compared, config.state
    )

    def analyse(key, x, y, around):
        words = lambda k: counter.words_of(jax.random.fold_in(key, k))
        if config.pre_predictions:
            x = jax.lax.fori_loop(0, config.pre_predictions, lambda k, x: before(words(k), x, around), x)
        return update(words(config.pre_predictions), advance(x), y)

    return analyse


def make_advance(config: ScalingConfig, ring: Ring) -> Callable[[Array], Array]:
    """The model over the time between observations, of a state on the devices: `(part,)` -> `(part,)`."""
    forward, _ = lorenz96_windows.make_window(config.model, config.between, ring.platform)
    left = config.between * lorenz96_windows.LEFT
    inner = lambda z: z[ring.halo - left : ring.window + 2 * ring.halo - left]
    return lambda x: rings.sweep(ring, lambda first, z: forward(inner(z))[0], x)


def states_in_memory(config: ScalingConfig, ring: Ring, cycle: Callable) -> float:
    """Memory of the compiled cycle with what it is given, in states of one member (4 d bytes); nothing is run.

    It is the compiler's own account: arguments, results that are not the same memory, and what it needs meanwhile, on
    all devices.
    """
    whole = jax.ShapeDtypeStruct((config.d,), jnp.float32)
    members = jax.ShapeDtypeStruct((config.members, config.d), jnp.float32)
    numbers = jax.ShapeDtypeStruct((config.members,), jnp.int32)
    memory = cycle.lower(0, numbers, whole, members).compile().memory_analysis()
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return (held + memory.temp_size_in_bytes) * ring.mesh.size / (4.0 * config.d)


def _places(ring: Ring) -> Array:
    """Numbers of this device's points on the ring, uint32 `(part,)`."""
    return rings.first_place(ring) + jnp.arange(ring.part, dtype=jnp.uint32)


def _jitted(ring: Ring, function: Callable, specs: tuple, out_specs, donated: tuple[int, ...] = ()) -> Callable:
    spread = jax.shard_map(function, mesh=ring.mesh, in_specs=specs, out_specs=out_specs, check_vma=False)
    return jax.jit(spread, donate_argnums=donated, compiler_options=kernels.options(ring.platform))
