"""The Lorenz-96 scaling problem over MPI: mpirun -n 4 python -m mpi4py scripts/lorenz96_scaling.py [--d 1000000] [...].

d variables, arctan of each observed with sigma 0.1 every 10 RK4 steps of dt = 0.01, members N(0, 1) at first and spread
over the ranks, the published EnSF with a kernel for each member: 100 Euler steps of each to t = 0 (Yin et al. 2024,
SC24, Sec. 5). Members never meet but in the statistics, the estimate (mean over all ranks), its RMSE against the truth
and the spread, which go through jaxda.parallel.collectives. Keys fold in the number of a member in the whole ensemble,
so four members give the same figures on 1, 2 or 4 ranks. Truth and observations are made by every rank alike.

Not here: the published program's "pre-prediction" samplings, three a cycle, whose likelihood is that of the forecast.

Without mpirun it runs on one process and needs no MPI; `-m mpi4py` ends all ranks if one fails. Rank 0 prints a line a
cycle, then a table. Its times are medians without the first cycle, which compiles; those of the statistics hold the
wait for the slowest rank.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import Array
from pydantic import ValidationError
from rich.table import Table

from jaxda.filters import ensf
from jaxda.models import lorenz96
from jaxda.observations import Observation, ObservationConfig, likelihood_score, make_operator, stiffness
from jaxda.output import report
from jaxda.parallel import collectives, launch, ranks
from jaxda.settings import Parser, at_least, one_line

DT, STEPS, SIGMA, SPINUP = 0.01, 10, 0.1, 500
#: as published for Lorenz-96; nothing in it is normalised, relaxed or ended by what other members do
FILTER = ensf.EnSFConfig(
    eps_alpha=0.01,
    eps_beta=0.05,
    steps=100,
    stop=0.0,
    tolerance=0.0,
    normalise=False,
    relaxation=0.0,
    spread_cap=math.inf,
)


def make_start(config: lorenz96.Lorenz96Config, seed: int) -> Callable[[Array], tuple[Array, Array]]:
    """A function: numbers of members `(m,)` -> a true state `(d,)` on the attractor and these members `(m, d)`."""
    key_truth, key_members = jax.random.split(jax.random.fold_in(jax.random.key(seed), 0))
    spin_up = lorenz96.make_advance(config, SPINUP)

    def start(numbers):
        draw = lambda number: jax.random.normal(jax.random.fold_in(key_members, number), config.shape)
        return spin_up(lorenz96.initial_state(key_truth, config)), jax.lax.map(draw, numbers)

    return start


def make_cycle(config: lorenz96.Lorenz96Config, seed: int) -> Callable[..., tuple[Array, Array]]:
    """A function: cycle, numbers `(m,)`, truth `(d,)`, members `(m, d)` -> truth and members, forecast and analysed.

    Members are taken one after another: memory is that of one, and a member's figures do not depend on how many
    others this rank has.
    """
    key = jax.random.fold_in(jax.random.key(seed), 1)
    advance = lorenz96.make_advance(config, STEPS)
    operator = make_operator(ObservationConfig(operator="arctan"), config.shape)

    def cycle(number, numbers, truth, members):
        key_observe, key_analysis = jax.random.split(jax.random.fold_in(key, number))
        truth = advance(truth)
        # not observations.make_network, whose precisions are constants of the program: d of them
        errors = SIGMA * jax.random.normal(key_observe, config.shape)
        observation = Observation(operator(truth) + errors, jnp.full_like(truth, SIGMA**-2))
        likelihood = partial(likelihood_score, operator, observation)
        stiff = partial(stiffness, operator, observation)

        def one(given):
            member, x = given
            own = jax.random.fold_in(key_analysis, member)
            return ensf.reverse_sde(own, FILTER, advance(x)[None], likelihood, stiff)[0]

        return truth, jax.lax.map(one, (numbers, members))

    return cycle


def run(config: lorenz96.Lorenz96Config, over: ranks.Ranks, members: int, cycles: int, seed: int) -> dict[str, list]:
    """Scores and seconds of each cycle; rank 0 prints them."""
    first = int(collectives.first_member(over, members))
    numbers = first + jnp.arange(members)
    cycle = jax.jit(make_cycle(config, seed))
    score = ranks.jitted(over, partial(collectives.scores, over))
    truth, ensemble = jax.block_until_ready(jax.jit(make_start(config, seed))(numbers))
    found = {"rmse": [], "spread": [], "seconds": [], "seconds_statistics": []}
    for number in range(cycles):
        began = time.perf_counter()
        truth, ensemble = jax.block_until_ready(cycle(number, numbers, truth, ensemble))
        analysed = time.perf_counter()
        scores = jax.block_until_ready(score(ensemble, truth))
        ended = time.perf_counter()
        row = float(scores.rmse), float(scores.spread), ended - began, ended - analysed
        for column, value in zip(found.values(), row, strict=True):
            column.append(None if math.isnan(value) else value)  # the spread of one member; JSON has no NaN
        if over.rank() == 0:
            print(
                "cycle {}: RMSE {:.4f}, spread {:.4f}, {:.3f} s, statistics {:.3f} s".format(number, *row), flush=True
            )
    return found


def parsed(arguments: list[str] | None):
    """The flags and the model, checked.

    Raises:
        ValueError: flags that cannot be.
    """
    parser = Parser("lorenz96_scaling.py", __doc__)
    parser.add_argument("--d", type=at_least(4), default=1000, help="number of variables (default: 1000) [1]")
    parser.add_argument("--cycles", type=at_least(1), default=10, help="analyses (default: 10) [1]")
    parser.add_argument("--members", type=at_least(1), default=1, help="members of each rank (default: 1) [1]")
    parser.add_argument("--mpi", choices=("auto", *ranks.KINDS), default="auto", help="what statistics go through")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of everything random (default: 0) [1]")
    parser.add_argument("--json", type=Path, help="file to write scores and times to")
    given = parser.parse_args(arguments)
    if given.json and (given.json.is_dir() or not given.json.absolute().parent.is_dir()):
        raise ValueError(f"--json {given.json}: is a folder, or in none; give a file in a folder that exists")
    return given, lorenz96.Lorenz96Config(dim=given.d, dt=DT)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    try:
        given, config = parsed(arguments)
        os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")  # a rank is one device
        place = launch.start(alone=False)  # they meet over MPI
    except ValueError as error:
        # all processes have the same flags
        launch.say(
            f"lorenz96_scaling.py: {one_line(error) if isinstance(error, ValidationError) else error}", sys.stderr
        )
        return 2
    try:
        over = ranks.choose(given.mpi)
    except ValueError as error:
        where = f"rank {place.rank} of {place.size}: " if place.size > 1 else ""
        print(f"lorenz96_scaling.py: {where}{error}", file=sys.stderr)
        return 2

    found = run(config, over, given.members, given.cycles, given.seed)
    if over.rank() != 0:
        return 0
    table = Table(title=f"Lorenz-96, d = {given.d}, {given.cycles} cycles, {report.versions()['device']}")
    for column in ("ranks", "members", "RMSE", "RMSE, last third", "spread", "s/cycle", "statistics [s/cycle]"):
        table.add_column(column, justify="right")
    third = lambda name: statistics.fmean(found[name][-math.ceil(given.cycles / 3) :])
    middle = lambda name: statistics.median(found[name][1:] or found[name])
    members = over.size() * given.members
    figures = (statistics.fmean(found["rmse"]), third("rmse"), third("spread") if members > 1 else math.nan)
    times = (middle("seconds"), middle("seconds_statistics"))
    table.add_row(str(over.size()), str(members), *(f"{x:.4f}" for x in (*figures, *times)))
    report.print_lines([table])
    if given.json:
        content = {"ranks": over.size(), "settings": vars(given), **found, **report.versions()}
        given.json.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
