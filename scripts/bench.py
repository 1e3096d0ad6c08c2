"""Measure the parts of a cycle: python scripts/bench.py NAME... [--N 64] [--members 20] [--dtype float32].

NAME is one or more of sqg-step, letkf, local-score, ensf, cycle. Each is compiled, run once, and then timed several
times; the median, the fastest and the slowest are printed. With --peer FOLDER, a folder of the public NumPy package
`sqgturb` (its `SQG` model with FFTW, and `enkf_update`), the peer is timed in turn with ours in the same process, and
the ratio of the medians is printed. --json FILE keeps the numbers.
"""

from __future__ import annotations

import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import ValidationError
from rich.table import Table

from jaxda import observations, twin
from jaxda.filters import ensf, letkf, local_score
from jaxda.filters.localization import Geometry
from jaxda.models import sqg
from jaxda.output import report
from jaxda.parallel import launch
from jaxda.parallel.mesh import member_mesh, over_members
from jaxda.settings import Parser, at_least, one_line


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
            ensf.EnSFConfig(integrator=integrator, steps=steps, tolerance=0), self.operator, 1000.0
        )


def sqg_step(case: Case) -> tuple[Callable, float]:
    """A 12 h forecast of all members; the unit is one step of one member."""
    return partial(jax.jit(case.forecast), case.ensemble), case.steps * case.members


def letkf_analysis(case: Case) -> tuple[Callable, float]:
    """One LETKF analysis, 2000 km, every point observed."""
    return partial(jax.jit(case.letkf), jax.random.key(3), case.ensemble, case.observation), 1


def local_score_analysis(case: Case) -> tuple[Callable, float]:
    """One analysis of the local score filter at its defaults, every point observed."""
    return partial(jax.jit(case.local_score), jax.random.key(3), case.ensemble, case.observation), 1


def ensf_analysis(case: Case) -> tuple[Callable, float]:
    """One EnSF analysis of the published kind."""
    return partial(jax.jit(case.ensf), jax.random.key(3), case.ensemble, case.observation), 1


def whole_cycle(case: Case) -> tuple[Callable, float]:
    """Ten cycles with the LETKF: observe, analyse, score, forecast; the unit is one cycle."""
    truth = jnp.broadcast_to(case.truth, (10, *case.truth.shape))
    parts = {"forecast": lambda key, x: case.forecast(x), "observe": case.observe, "analysis": case.letkf}
    return partial(jax.jit(partial(twin.cycle, **parts)), jax.random.key(4), case.ensemble, truth), 10


BENCHMARKS = {
    "sqg-step": sqg_step,
    "letkf": letkf_analysis,
    "local-score": local_score_analysis,
    "ensf": ensf_analysis,
    "cycle": whole_cycle,
}


def peer_of(name: str, case: Case, folder: Path) -> tuple[Callable, float] | None:
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
        return lambda: [model.advance(member) for member in ensemble[:4]], 4 * case.steps
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
        return lambda: package.enkf_update(columns.copy(), observed, values, np.ones(n * n), taper, vertical), 1
    return None


def timed(runs: dict[str, tuple[Callable, float]], repeats: int) -> dict[str, list[float]]:
    """Seconds a unit of each run, in turn, `repeats` times after one warm-up."""
    seconds = {name: [] for name in runs}
    for count in range(repeats + 1):
        for name, (call, units) in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            if count:
                seconds[name].append((time.perf_counter() - began) / units)
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("bench.py", __doc__)
    parser.add_argument("names", nargs="+", choices=list(BENCHMARKS), metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--N", type=int, default=64, help="grid points along each side [1]")
    parser.add_argument("--members", type=at_least(2), default=20, help="ensemble size [1]")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="floating-point type")
    parser.add_argument("--integrator", choices=list(ensf.INTEGRATORS), default="euler", help="of the EnSF")
    parser.add_argument("--repeats", type=at_least(1), default=7, help="timed runs [1]")
    parser.add_argument("--peer", type=Path, help="folder that holds the public package sqgturb")
    parser.add_argument("--json", type=Path, help="file to write")
    try:
        given = parser.parse_args(arguments)
        if given.json and not given.json.absolute().parent.is_dir():
            raise ValueError(f"--json {given.json}: its folder does not exist; make it first")
        launch.start(given.dtype)
        case = Case(given.N, given.members, given.dtype, given.integrator)
        results = {}
        for name in given.names:
            runs = {"jaxda": BENCHMARKS[name](case)}
            if given.peer and (peer := peer_of(name, case, given.peer)):
                runs["peer"] = peer
            results[name] = timed(runs, given.repeats)
    except ValueError as error:
        text = one_line(error) if isinstance(error, ValidationError) else error
        print(f"bench.py: {text}", file=sys.stderr)
        return 2
    table = Table(title=f"N = {given.N}, {given.members} members, {given.dtype}, {report.versions()['device']}")
    for column in ("benchmark", "code", "median [ms]", "min [ms]", "max [ms]", "peer / jaxda"):
        table.add_column(column, justify="left" if column in ("benchmark", "code") else "right")
    for name, seconds in results.items():
        for code, values in seconds.items():
            ratio = statistics.median(values) / statistics.median(seconds["jaxda"]) if code == "peer" else None
            numbers = (statistics.median(values), min(values), max(values))
            shown = f"{ratio:.2f}" if ratio else ""
            table.add_row(name, code, *(f"{1e3 * number:.3f}" for number in numbers), shown)
    report.print_lines([table])
    if given.json:
        content = {"seconds": results, "settings": vars(given) | {"json": None, "peer": None}} | report.versions()
        given.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
