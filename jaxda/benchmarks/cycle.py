"""The parts of an analysis cycle, and the same work by the public NumPy package."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxda import coupling, observations, surrogate, twin
from jaxda.benchmarks.timing import Run
from jaxda.config import CouplingConfig, ExperimentConfig
from jaxda.filters import ensf, letkf, local_score
from jaxda.filters.baselines import Climate
from jaxda.filters.localization import Geometry
from jaxda.models import sqg
from jaxda.parallel.mesh import jitted, member_mesh, over_members
from jaxda.training.online import OnlineConfig

#: weights for N = 64 that come with the repository
SHIPPED = Path(__file__).parents[2] / "configs" / "vit_surrogate"


class Case:
    """What the benchmarks share: a developed state with members around it, a network, devices."""

    def __init__(self, n: int, members: int, dtype: str, integrator: str):
        self.model = sqg.SQGConfig(N=n)
        self.members, self.dtype = members, dtype
        self.steps = round(12 / self.model.step_hours)
        self.mesh = member_mesh(members)
        advance = sqg.make_advance(self.model, self.steps, dtype)
        start = sqg.initial_state(jax.random.key(0), self.model).astype(dtype)
        spin_up = jax.jit(lambda x: jax.lax.scan(lambda x, _: (advance(x), None), x, length=40)[0])
        self.truth = spin_up(start)
        noise = jax.random.normal(jax.random.key(1), (members, *self.model.shape), dtype)
        self.ensemble = self.truth + 1000.0 * noise
        self.forecast = over_members(advance, self.mesh)
        self.operator = observations.make_operator(
            observations.ObservationConfig(), self.model.shape, self.model.kelvin
        )
        self.observe = observations.make_network(observations.ObservationConfig(), self.operator)
        self.observation = self.observe(jax.random.key(2), self.truth)
        self.geometry = Geometry.of(self.model)
        self.letkf = letkf.make_analysis(letkf.LETKFConfig(), self.geometry, self.operator, self.mesh)
        ours = local_score.LocalScoreConfig()
        self.local_score = local_score.make_analysis(ours, self.geometry, self.operator, self.mesh)
        steps = {"euler": 1000, "exponential": 50}[integrator]
        self.ensf = ensf.make_analysis(
            ensf.EnSFConfig(integrator=integrator, steps=steps, tolerance=0), self.operator, 1000.0, self.mesh
        )


def sqg_step(case: Case) -> Run:
    """A 12 h forecast of all members; the unit is one step of one member."""
    return Run(partial(jitted(case.forecast, case.mesh), case.ensemble), case.steps * case.members)


def letkf_analysis(case: Case) -> Run:
    """One LETKF analysis, 2000 km, every point observed."""
    return Run(partial(jitted(case.letkf, case.mesh), jax.random.key(3), case.ensemble, case.observation))


def local_score_analysis(case: Case) -> Run:
    """One analysis of the local score filter at its defaults, every point observed."""
    return Run(partial(jitted(case.local_score, case.mesh), jax.random.key(3), case.ensemble, case.observation))


def ensf_analysis(case: Case) -> Run:
    """One EnSF analysis of the published kind."""
    return Run(partial(jitted(case.ensf, case.mesh), jax.random.key(3), case.ensemble, case.observation))


def whole_cycle(case: Case) -> Run:
    """Ten cycles with the LETKF: observe, analyse, score, forecast; the unit is one cycle."""
    truth = jnp.broadcast_to(case.truth, (10, *case.truth.shape))
    parts = {"forecast": lambda key, x: case.forecast(x), "observe": case.observe, "analysis": case.letkf}
    return Run(partial(jitted(partial(twin.cycle, **parts), case.mesh), jax.random.key(4), case.ensemble, truth), 10)


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
    run = jitted(partial(twin.coupled_cycle, **parts), case.mesh)
    return Run(partial(run, jax.random.key(4), twin.Coupled(case.ensemble, model), truth), 10)


CYCLE = {
    "sqg-step": sqg_step,
    "letkf": letkf_analysis,
    "local-score": local_score_analysis,
    "ensf": ensf_analysis,
    "cycle": whole_cycle,
    "coupled-cycle": coupled_cycle,
    "online-cycle": partial(coupled_cycle, online=True),
}


def peer_of(name: str, case: Case, folder: Path) -> Run | None:
    """The same work by the NumPy package `sqgturb` in `folder`, on two threads; None where it has no such part."""
    sys.path.insert(0, str(folder))
    try:
        package = importlib.import_module("sqgturb")
    except ImportError as error:
        raise ValueError(f"--peer {folder}: holds no package sqgturb ({error}); give the folder above it") from None
    ensemble, n = np.asarray(case.ensemble), case.model.N
    if name == "sqg-step":
        settings = {"dt": case.model.dt, "diff_efold": case.model.diff_efold, "U": case.model.U, "threads": 2}
        model = package.SQG(ensemble[0], precision="single", **settings)
        model.timesteps = case.steps
        return Run(lambda: [model.advance(member) for member in ensemble[:4]], 4 * case.steps)
    if name == "letkf":
        x = np.arange(n) * case.model.L / n
        xs, ys = np.meshgrid(x, x)
        side = case.model.L
        distances = (package.cartdist(a, b, xs, ys, side, side) for a, b in zip(xs.ravel(), ys.ravel(), strict=True))
        taper = np.array([package.gaspcohn(d.ravel() / 2e6) for d in distances])
        vertical = float(package.gaspcohn(np.array(0.5)))
        values = np.asarray(case.observation.values, float).reshape(2, -1)
        columns = ensemble.astype(float).reshape(case.members, 2, -1)
        observed = case.model.kelvin * columns
        return Run(lambda: package.enkf_update(columns.copy(), observed, values, np.ones(n * n), taper, vertical))
    return None
