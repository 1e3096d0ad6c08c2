"""Errors of filters against exact posteriors: python scripts/exactness.py [--filters A,B] [--problems P,Q] [...].

Each filter makes one analysis (25 in `rotation`) of each problem of `jaxda.posteriors`, from new ensembles in every
repetition. The table has, each with its Monte Carlo standard error,

  bias of mean        root of `mean` [posterior standard deviations]
  bias of covariance  root of `covariance` [relative Frobenius norm]
  energy distance     of the members' law from the posterior [posterior standard deviations]
  CRPS                fair score less the posterior's own, one variable alone [posterior standard deviations]
  RMSE of mean        bias and sampling together; 1/sqrt(members) for exact draws [posterior standard deviations]

"< x": nothing is seen at two standard errors, and the bias is less than x at two. --out keeps the measures themselves:
`mean`, `covariance`, `mean_mse` and `covariance_mse` are squares there, and may be negative where the error is none.

Exit status: 0; 2 for bad input, said in one line.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable

import jax
from pydantic import ValidationError
from rich.table import Table

from jaxda import exactness
from jaxda.exactness import FILTERS, WITHOUT_STEPS, Measure
from jaxda.output import report
from jaxda.output.progress import bar
from jaxda.parallel import launch
from jaxda.posteriors import PROBLEMS
from jaxda.settings import Parser, one_line, place

MEASURES = ("mean", "covariance", "energy", "crps", "mean_mse", "covariance_mse")


def names_of(known: dict) -> Callable[[str], list[str]]:
    """A converter for argparse: names of `known`, separated by commas."""

    def convert(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f'"{name}" is none of {", ".join(known)}; give one of them')
        return text.split(",")

    return convert


def numbers(least: int) -> Callable[[str], list[int]]:
    """A converter for argparse: whole numbers from `least` on, separated by commas."""

    def convert(text: str) -> list[int]:
        for number in text.split(","):
            if not (number.isdecimal() and len(number) < 20 and least <= int(number) < 2**31):
                raise argparse.ArgumentTypeError(f'"{number}" is not a whole number; give one from {least} on')
        return [int(number) for number in text.split(",")]

    return convert


def number(least: int, most: float = 2**31 - 1) -> Callable[[str], int]:
    """A converter for argparse: one whole number."""

    def convert(text: str) -> int:
        if not text.isdecimal() or len(text) > 19 or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f'"{text}" is not a whole number in range; give one from {least} on')
        return int(text)

    return convert


def shown(measure: Measure | None) -> str:
    """A measure and its standard error."""
    if measure is None:
        return ""
    return f"{measure.value:.3f} ± {measure.error:.3f}" if math.isfinite(measure.value) else "not finite"


def root(measure: Measure) -> str:
    """Root of a square and its standard error, or what it is less than where the square is not seen."""
    value, error = measure
    if not math.isfinite(value):
        return "not finite"
    if value <= 2.0 * error:
        return f"< {math.sqrt(max(value, 0.0) + 2.0 * error):.3f}"
    return shown(Measure(math.sqrt(value), 0.5 * error / math.sqrt(value)))


def combinations(given) -> list[tuple[str, str, int, int | None]]:
    """Problem, filter, members and steps of every row."""
    return [
        (problem, name, members, steps)
        for problem in given.problems
        for name in given.filters
        for members in given.members
        for steps in ([None] if name in WITHOUT_STEPS else given.steps)
    ]


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    known = f"filters: {', '.join(FILTERS)}\nproblems: {', '.join(PROBLEMS)}"
    parser = Parser("exactness.py", __doc__, epilog=known)
    parser.add_argument("--filters", type=names_of(FILTERS), default=list(FILTERS), help="which (default: all)")
    parser.add_argument("--problems", type=names_of(PROBLEMS), default=list(PROBLEMS), help="which (default: all)")
    parser.add_argument("--members", type=numbers(2), default=[20], help="ensemble sizes [1]")
    parser.add_argument("--steps", type=numbers(1), default=[100], help="pseudo-time steps [1]")
    parser.add_argument("--repetitions", type=number(3), default=64, help="new ensembles [1]")
    parser.add_argument("--seed", type=number(0), default=0, help="of everything random [1]")
    parser.add_argument("--out", type=place, help="CSV file to write")
    try:
        given = parser.parse_args(arguments)
        report.new_file("--out", given.out)
        launch.start("float64")
        problems = {name: PROBLEMS[name]() for name in given.problems}
        rows, refused = [], {}
        for problem, name, members, steps in combinations(given):
            try:
                rows.append((problem, name, members, steps, FILTERS[name](problems[problem], steps)))
            except ValidationError:
                raise
            except ValueError as error:  # the filter is not for this problem
                refused[problem, name] = f"{name} leaves {problem} out: {error}"
        if not rows:
            raise ValueError(next(iter(refused.values())))
    except ValueError as error:
        return launch.refuse("exactness.py", one_line(error) if isinstance(error, ValidationError) else error)

    title = f"{given.repetitions} repetitions, seed {given.seed}, float64, {report.versions()['device']}"
    table = Table(title=title, title_justify="left")
    for column in ("problem", "filter"):
        table.add_column(column)
    for column in ("M", "steps", "bias of mean", "bias of covariance", "energy distance", "CRPS", "RMSE of mean"):
        table.add_column(column, justify="right")
    lines = []
    with bar("exactness", len(rows), "rows") as advance:
        for problem, name, members, steps, analysis in rows:
            advance(0, f"{problem}, {name}")
            key = jax.random.key(given.seed)
            found = exactness.measured(problems[problem], analysis, key, members, given.repetitions)
            what = (problem, name, str(members), "" if steps is None else str(steps))
            table.add_row(
                *what,
                root(found["mean"]),
                root(found["covariance"]),
                shown(found["energy"]),
                shown(found.get("crps")),
                root(found["mean_mse"]),
            )
            cells = [f"{part:.6g}" for measure in MEASURES for part in found.get(measure, (math.nan, math.nan))]
            lines.append((*what, given.repetitions, given.seed, *cells))
            advance(1)
    report.print_lines([table, *(text.replace("\n", " ") for text in refused.values())])
    if given.out:
        with given.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            measures = [f"{measure}{suffix}" for measure in MEASURES for suffix in ("", "_error")]
            writer.writerow(("problem", "filter", "members", "steps", "repetitions", "seed", *measures))
            writer.writerows(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
