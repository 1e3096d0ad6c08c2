"""Measure the parts of a cycle: python scripts/bench.py NAME... [--N 64] [--members 20] [--dtype float32].

NAME is one or more of sqg-step, letkf, local-score, ensf, cycle, coupled-cycle, online-cycle, ensf-scaling, vit-train,
vit-forecast. cycle has the LETKF and SQG, coupled-cycle the local score filter and the shipped surrogate, which in
online-cycle learns too. Each is compiled, run once, and then timed several times; the median, the fastest and the
slowest are printed. With --peer FOLDER, a folder of the public NumPy package `sqgturb` (its `SQG` model with FFTW, and
`enkf_update`), the peer is timed in turn with ours in the same process, and the ratio of the medians is printed. --json
FILE keeps the numbers.

ensf-scaling is one EnSF analysis of --members members in each of 1, 2, ... processes (--processes), connected by
jax.distributed and each on a core of its own; the numbers of processes take turns. Members a second over those of the
first number are printed, and what the program communicates.

vit-train is a training step and vit-forecast a forecast of all members by a vision transformer, of a training file
(--config) or of the sizes given. Their GFLOP/s count 6 x parameters x tokens a training step, a third of that a
forecast; "product" is a plain matrix product of the same type, timed in turn. --search BATCHES tries training steps of
these batches with every way of rematerialisation, --heatmap FILE.png draws TFLOP/s over --widths, --heads-list and
--ratios (Yin et al. 2024, SC24, Fig. 5), and --compiled also says what the compiler counts in a training step.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import statistics
import sys
from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from jaxda import config as configuration
from jaxda import surrogate
from jaxda.benchmarks import scaling, vit
from jaxda.benchmarks.cycle import CYCLE, Case, peer_of
from jaxda.benchmarks.timing import Run, timed
from jaxda.filters import ensf
from jaxda.models.sqg import SQGConfig
from jaxda.models.vit import ViTConfig
from jaxda.output import plots, report
from jaxda.parallel import launch
from jaxda.settings import Parser, at_least, one_line
from jaxda.training import flops

VIT = ("vit-train", "vit-forecast")
SCALING = "ensf-scaling"
SIZES = {
    "width": "width of a token",
    "layers": "blocks",
    "heads": "heads of attention",
    "patch": "points along a patch",
    "batch": "samples of a step",
    "unroll": "blocks to an iteration of the loop over them",
}


def vit_of(given: argparse.Namespace) -> tuple[ViTConfig, int]:
    """The transformer and the batch that the flags ask for."""
    base, batch = ViTConfig(image_size=given.N, embed_dim=256, depth=6), 8
    if given.config:
        training = configuration.read(given.config, {}, surrogate.SurrogateConfig)
        base, batch = training.vit, training.data.batch
    names = {"width": "embed_dim", "layers": "depth", "heads": "num_heads", "patch": "patch_size"}
    names |= {"compute": "compute", "remat": "remat", "unroll": "unroll"}
    asked = {field: getattr(given, flag) for flag, field in names.items() if getattr(given, flag) is not None}
    return dataclasses.replace(base, **asked), given.batch or batch


def vit_runs(name: str, given: argparse.Namespace) -> dict[str, Run]:
    """A training step, or a forecast of all members, and the product that it is measured against."""
    config, batch = vit_of(given)
    run = vit.train_step(config, batch) if name == "vit-train" else vit.forecast(config, given.members)
    return {"jaxda": run, "product": vit.product(str(config.dtype or given.dtype))}


def tables_of_sizes(given: argparse.Namespace) -> list[Table]:
    """What --search and --heatmap ask for."""
    (config, batch), tables = vit_of(given), []
    shown = lambda rate: "does not fit" if rate is None else f"{rate / 1e12:.4g}"
    if given.search:
        tables.append(Table("remat", "batch", "TFLOP/s", title="training steps"))
        for remat, some, rate in vit.search(config, given.search, given.repeats):
            tables[-1].add_row(remat, str(some), shown(rate))
    if given.heatmap:
        sizes = (given.widths, given.heads_list, given.ratios)
        found = {tuple(size): rate for *size, rate in vit.grid(config, batch, *sizes, given.repeats)}
        plots.rates(given.heatmap, found, f"{config.depth} layers, batch {batch}, {report.versions()['device']}")
        tables.append(Table("MLP ratio", "heads", "width", "TFLOP/s", title="training steps"))
        for (ratio, heads, width), rate in found.items():
            tables[-1].add_row(f"{ratio:g}", str(heads), str(width), shown(rate))
    return tables


def scaled(given: argparse.Namespace) -> tuple[dict[str, list[float]], Table]:
    """Seconds an analysis by number of processes, and the table of members a second."""
    sizes = {"--N": given.N, "--members": given.members, "--steps": 1000 if given.integrator == "euler" else 50}
    arguments = [str(word) for pair in sizes.items() for word in pair] + ["--integrator", given.integrator]
    seconds, found = scaling.measured(given.processes, arguments, given.repeats)
    table = Table(title=f"{SCALING}: N = {given.N}, {given.members} members a process, float32, cpu")
    for column in ("processes", "median [ms]", "min [ms]", "max [ms]", "members/s", "to the first"):
        table.add_column(column, justify="right")
    rates = {count: count * given.members / statistics.median(some) for count, some in seconds.items()}
    for count, some in seconds.items():
        times = (f"{1e3 * number:.3f}" for number in (statistics.median(some), min(some), max(some)))
        ratio = rates[count] / rates[given.processes[0]]
        table.add_row(str(count), *times, f"{rates[count]:.4g}", f"{ratio:.2f}")
    said = ", ".join(f"{one.kind} of {one.bytes} B{' in a loop' if one.looped else ''}" for one in found)
    table.caption = f"collectives of an analysis by {given.processes[-1]} processes: {said or 'none'}"
    return {str(count): some for count, some in seconds.items()}, table


def numbers(text: str) -> list[int]:
    """A converter for argparse: whole numbers, with commas between."""
    return [at_least(1)(part) for part in text.split(",")]


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    """The flags, checked.

    Raises:
        ValueError: flags that cannot be.
    """
    parser = Parser("bench.py", __doc__)
    names = [*CYCLE, SCALING, *VIT]
    parser.add_argument("names", nargs="+", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--N", type=int, default=64, help="grid points along each side [1]")
    parser.add_argument("--members", type=at_least(2), default=20, help="ensemble size, of each process [1]")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="floating-point type")
    parser.add_argument("--integrator", choices=list(ensf.INTEGRATORS), default="euler", help="of the EnSF")
    parser.add_argument("--repeats", type=at_least(1), default=7, help="timed runs [1]")
    parser.add_argument("--peer", type=Path, help="folder that holds the public package sqgturb")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--processes", type=numbers, default=[1, 2], help=f"numbers of processes, of {SCALING} [1]")
    own = parser.add_argument_group("vit-train, vit-forecast")
    own.add_argument("--config", type=Path, help="training file whose transformer and batch are taken")
    for name, what in SIZES.items():
        own.add_argument(f"--{name}", type=at_least(1), help=f"{what} [1]")
    own.add_argument("--compute", choices=("as-parameters", "float32", "bfloat16"), help="type of the products")
    own.add_argument("--remat", choices=vit.REMATS, help="what the backward pass computes anew")
    own.add_argument("--compiled", action="store_true", help="also count the operations in the compiled step")
    own.add_argument("--search", type=numbers, metavar="B,...", help="batches to try with every --remat [1]")
    own.add_argument("--heatmap", type=Path, metavar="FILE.png", help="figure of TFLOP/s over the next three")
    own.add_argument("--widths", type=numbers, default=[512, 1024, 2048], help="widths [1]")
    own.add_argument("--heads-list", type=numbers, default=[4, 8, 16], help="numbers of heads [1]")
    own.add_argument("--ratios", type=numbers, default=[2, 4, 8], help="widths of the MLP over the token's [1]")
    given = parser.parse_args(arguments)
    for flag in ("json", "heatmap"):
        path = getattr(given, flag)
        if path and not path.absolute().parent.is_dir():
            raise ValueError(f"--{flag} {path}: its folder does not exist; make it first")
    if given.heatmap and given.heatmap.suffix not in plots.FORMATS:
        raise ValueError(f"--heatmap {given.heatmap}: ends in none of {', '.join(plots.FORMATS)}; use one")
    asked = [flag for flag in ("search", "heatmap", "compiled") if getattr(given, flag)]
    if asked and "vit-train" not in given.names:
        raise ValueError(f"--{asked[0]}: is of vit-train, which is not among the names; add it")
    cores = len(os.sched_getaffinity(0))
    if SCALING in given.names:
        if max(given.processes) > cores:
            raise ValueError(f"--processes {max(given.processes)}: {cores} cores are ours, one for each; use fewer")
        if given.dtype != "float32":
            raise ValueError(f"--dtype {given.dtype}: {SCALING} is in float32; leave it out")
        SQGConfig(N=given.N)
    if given.config:
        given.N = vit_of(given)[0].image_size
    if given.heatmap:
        (config, _), sizes = vit_of(given), itertools.product(given.widths, given.heads_list)
        for width, heads in sizes:
            dataclasses.replace(config, embed_dim=width, num_heads=heads)
    return given


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    try:
        given = arguments_of(arguments)
        launch.start(given.dtype)
        case = Case(given.N, given.members, given.dtype, given.integrator) if set(given.names) & set(CYCLE) else None
        results, works, tables = {}, {}, []
        for name in given.names:
            if name == SCALING:
                results[name], table = scaled(given)
                tables.append(table)
                continue
            runs = vit_runs(name, given) if name in VIT else {"jaxda": CYCLE[name](case)}
            if given.peer and name not in VIT and (peer := peer_of(name, case, given.peer)):
                runs["peer"] = peer
            works[name] = {code: run.work for code, run in runs.items()}
            results[name] = timed(runs, given.repeats)
        tables += tables_of_sizes(given)
    except (ValueError, ChildProcessError) as error:
        return launch.refuse("bench.py", one_line(error) if isinstance(error, ValidationError) else error)
    table = Table(title=f"N = {given.N}, {given.members} members, {given.dtype}, {report.versions()['device']}")
    for column in ("benchmark", "code", "median [ms]", "min [ms]", "max [ms]", "peer / jaxda", "GFLOP/s", "of product"):
        table.add_column(column, justify="left" if column in ("benchmark", "code") else "right")
    for name in works:
        seconds = results[name]
        medians = {code: statistics.median(values) for code, values in seconds.items()}
        rates = {code: work / medians[code] for code, work in works[name].items() if work}
        for code, values in seconds.items():
            times = (f"{1e3 * number:.3f}" for number in (medians[code], min(values), max(values)))
            ratio = f"{medians[code] / medians['jaxda']:.2f}" if code == "peer" else ""
            rate = f"{rates[code] / 1e9:.4g}" if code in rates else ""
            share = f"{rates[code] / rates['product']:.2f}" if code == "jaxda" and rates else ""
            table.add_row(name, code, *times, ratio, rate, share)
    report.print_lines([table, *tables] if works else tables)
    content = {"seconds": results, "work": works, "settings": vars(given)} | report.versions()
    if given.compiled:
        counted, (config, batch) = vit.compiled_work(*vit_of(given)), vit_of(given)
        content["compiled"] = counted
        print(f"a training step: {flops.of_step(config, batch) / 1e9:.4g} GFLOP as 6 x parameters x tokens, ", end="")
        print(f"{counted / 1e9:.4g} in the compiled program" if counted else "the compiler does not say")
    if given.json:
        given.json.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
