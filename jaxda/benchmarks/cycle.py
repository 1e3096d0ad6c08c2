"""The parts of an analysis cycle, to be timed."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxda import coupling, observations, surrogate, twin
from jaxda.benchmarks.timing import Run, compiled
from jaxda.config import CouplingConfig, ExperimentConfig
from jaxda.filters import ensf, letkf, local_score
from jaxda.filters.baselines import Climate
from jaxda.filters.divergence import make_guard
from jaxda.filters.faults import FaultsConfig, make_mend
from jaxda.filters.localization import Geometry
from jaxda.models import sqg
from jaxda.numerics import spectral
from jaxda.parallel.mesh import jitted, member_mesh, over_members
from jaxda.training.online import OnlineConfig

#: weights for N = 64 that come with the repository
SHIPPED = Path(__file__).parents[2] / "configs" / "vit_surrogate"
#: steps of the forecasts that are timed by the step, at most: 12 h of N = 512 are 480
MOST_STEPS = 60


class Case:
    """What the benchmarks share: a developed state with members around it, a network, devices.

    Larger grids than N = 64 begin with its developed state, interpolated, for their own would take hours.
    """

    def __init__(self, n: int, members: int, dtype: str, integrator: str):
        self.model = sqg.SQGConfig(N=n)
        self.members, self.dtype, self.integrator = members, dtype, integrator
        steps = round(12 / self.model.step_hours)
        self.timed_steps = min(steps, MOST_STEPS)
        self.mesh = member_mesh(members)
        self.truth = _developed(sqg.SQGConfig(N=min(n, 64)), dtype)
        if n > 64:
            self.truth = jax.jit(partial(spectral.resample, n=n))(self.truth)
        noise = jax.random.normal(jax.random.key(1), (members, *self.model.shape), dtype)
        self.ensemble = self.truth + 1000.0 * noise
        self.forecast = over_members(sqg.make_advance(self.model, steps, dtype), self.mesh)
        self.operator = observations.make_operator(
            observations.ObservationConfig(), self.model.shape, self.model.kelvin
        )
        self.observe = observations.make_network(observations.ObservationConfig(), self.operator)
        self.observation = self.observe(jax.random.key(2), self.truth)
        self.geometry = Geometry.of(self.model)

    @cached_property
    def letkf(self) -> twin.Analysis:
        """The LETKF at 2000 km."""
        return letkf.make_analysis(letkf.LETKFConfig(), self.geometry, self.operator, self.mesh)

    @cached_property
    def local_score(self) -> twin.Analysis:
        """The local score filter at its defaults."""
        return local_score.make_analysis(local_score.LocalScoreConfig(), self.geometry, self.operator, self.mesh)

    @cached_property
    def ensf(self) -> twin.Analysis:
        """The EnSF of the published kind; Euler's 1000 steps end at t = 0.5, after 500."""
        steps = {"euler": 1000, "exponential": 50}[self.integrator]
        config = ensf.EnSFConfig(integrator=self.integrator, steps=steps, tolerance=0)
        return ensf.make_analysis(config, self.operator, 1000.0, self.mesh)

    def analysis(self, filtered: twin.Analysis) -> Run:
        """One analysis of the ensemble."""
        return compiled(jitted(filtered, self.mesh), jax.random.key(3), self.ensemble, self.observation)


def _developed(model: sqg.SQGConfig, dtype: str) -> jax.Array:
    """A state after 20 days from noise."""
    advance = sqg.make_advance(model, round(12 / model.step_hours), dtype)
    start = sqg.initial_state(jax.random.key(0), model).astype(dtype)
    return jax.jit(lambda x: jax.lax.scan(lambda x, _: (advance(x), None), x, length=40)[0])(start)


def sqg_step(case: Case) -> Run:
    """A forecast of all members, of 12 h or MOST_STEPS; the unit is one step of one member."""
    advance = over_members(sqg.make_advance(case.model, case.timed_steps, case.dtype), case.mesh)
    return compiled(jitted(advance, case.mesh), case.ensemble, units=case.timed_steps * case.members)


def letkf_analysis(case: Case) -> Run:
    """One LETKF analysis, 2000 km, every point observed."""
    return case.analysis(case.letkf)


def local_score_analysis(case: Case) -> Run:
    """One analysis of the local score filter at its defaults, every point observed."""
    return case.analysis(case.local_score)


def ensf_analysis(case: Case) -> Run:
    """One EnSF analysis of the published kind."""
    return case.analysis(case.ensf)


def whole_cycle(case: Case, guarded: bool = True) -> Run:
    """Ten cycles with the LETKF: observe, analyse, score, forecast; the unit is one cycle.

    Args:
        guarded: whether members and filter are looked after, as in every run.
    """
    truth = jnp.broadcast_to(case.truth, (10, *case.truth.shape))
    parts = {"forecast": lambda key, x: case.forecast(x), "observe": case.observe, "analysis": case.letkf}
    if guarded:
        faults, climate = FaultsConfig(), Climate(case.truth, jnp.full_like(case.truth, 3000.0**2))
        mend = make_mend(faults, case.members, case.mesh)
        parts["guard"] = make_guard(faults, mend, case.operator, climate, case.letkf, scale=case.model.kelvin)
    cycle = jitted(partial(twin.cycle, **parts), case.mesh)
    return compiled(cycle, jax.random.key(4), case.ensemble, truth, units=10)


def coupled_cycle(case: Case, online: bool = False) -> Run:
    """Ten cycles of the local score filter with the shipped surrogate; the unit is one cycle.

    Args:
        online: whether the surrogate learns, from the second cycle on.

    Raises:
        ValueError: another grid than the surrogate's.
    """
    mean, std = (jnp.asarray(part, case.dtype)[:, None, None] for part in surrogate.load(SHIPPED).statistics)
    whole = lambda part: jnp.broadcast_to(part, case.model.shape)
    states = case.ensemble if online else None
    climate = Climate(whole(mean), whole(std) ** 2, states)
    config = ExperimentConfig(
        members=case.members,
        model=case.model,
        filters={"coupled": local_score.LocalScoreConfig(forecast="surrogate", online=online)},
        surrogate=CouplingConfig(folder=str(SHIPPED)),
        online=OnlineConfig(first=1),
    )
    model, forecast, learn, _ = coupling.make_forecaster(config, "coupled", case.operator, climate, case.mesh)
    truth = jnp.broadcast_to(case.truth, (10, *case.truth.shape))
    parts = {"forecast": forecast, "learn": learn, "observe": case.observe, "analysis": case.local_score}
    coupled = twin.Coupled(case.ensemble, model)
    cycle = jitted(partial(twin.coupled_cycle, **parts), case.mesh)
    return compiled(cycle, jax.random.key(4), coupled, truth, units=10)


CYCLE = {
    "sqg-step": sqg_step,
    "letkf": letkf_analysis,
    "local-score": local_score_analysis,
    "ensf": ensf_analysis,
    "cycle": whole_cycle,
    "coupled-cycle": coupled_cycle,
    "online-cycle": partial(coupled_cycle, online=True),
}
