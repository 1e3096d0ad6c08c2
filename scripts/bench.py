"""Measure the parts of a cycle: python scripts/bench.py NAME... [--N 64] [--members 20] [--dtype float32].

NAME is one or more of sqg-step, letkf, local-score (or local), ensf, cycle, coupled-cycle, online-cycle, ensf-scaling,
lorenz96-cycle, vit-train, vit-forecast. cycle has the LETKF and SQG, coupled-cycle the local score filter and the
shipped surrogate, which in online-cycle learns too; lorenz96-cycle is of one member of --d variables. Each is compiled,
run once, and then timed several times; the median, the fastest and the slowest are printed. What the compiled program
computes and moves is counted, copies, matrix products and FFTs are timed in turn with it, and the share of the nearest
of these ceilings that it reaches is printed.

--peer FOLDER times a public code in turn with ours, of what the folder holds: the NumPy package `sqgturb` (its `SQG`
with FFTW, and `enkf_update`), the PyTorch EnSF `Enscore.py`, or `run_ensf.py` of the Lorenz-96 problem; it may be given
several times. --json FILE keeps the numbers, and --compare FILE prints their ratios to those of such a file. --sweep
N=32,64,128 (or members, or d) times the benchmarks at these sizes instead, fits the power of the cost, and --figure
FILE.png draws it.

ensf-scaling is one EnSF analysis of --members members in each of 1, 2, ... processes (--processes), connected by
jax.distributed and each on a core of its own; the numbers of processes take turns. Members a second over those of the
first number are printed, and what the program communicates.

vit-train is a training step and vit-forecast a forecast of all members by a vision transformer, of a training file
(--config) or of the sizes given. Their GFLOP/s count 6 x parameters x tokens a training step, a third of that a
forecast; "of product" is to a plain matrix product of the same type. --search BATCHES tries training steps of these
batches with every way of rematerialisation, --heatmap FILE.png draws TFLOP/s over --widths, --heads-list and --ratios
(Yin et al. 2024, SC24, Fig. 5).

Exit status: 0; 2 for bad input, said in one line.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys

from pydantic import ValidationError

from jaxda import config as configuration
from jaxda import surrogate
from jaxda.benchmarks import measuring, peers, scaling, stored, sweep, tables, vit
from jaxda.benchmarks.catalogue import ALIASES, BENCHMARKS, VIT, Sizes
from jaxda.filters import ensf
from jaxda.models.sqg import SQGConfig
from jaxda.models.vit import ViTConfig
from jaxda.output import bench_plots, report, style
from jaxda.parallel import launch
from jaxda.settings import Parser, at_least, one_line, place

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
    base, batch = ViTConfig(image_size=given.N, embed_dim=256, depth=6), Sizes().batch
    if given.config:
        training = configuration.read(given.config, {}, surrogate.SurrogateConfig)
        base, batch = training.vit, training.data.batch
    names = {"width": "embed_dim", "layers": "depth", "heads": "num_heads", "patch": "patch_size"}
    names |= {"compute": "compute", "remat": "remat", "unroll": "unroll"}
    asked = {field: getattr(given, flag) for flag, field in names.items() if getattr(given, flag) is not None}
    return dataclasses.replace(base, **asked), given.batch or batch


def sizes_of(given: argparse.Namespace) -> Sizes:
    """What the flags ask to be run."""
    config, batch = vit_of(given) if set(given.names) & set(VIT) else (None, Sizes().batch)
    own = {name: getattr(given, name) for name in ("N", "members", "d", "dtype", "integrator")}
    return Sizes(**own, vit=config, batch=batch)


def numbers(text: str) -> list[int]:
    """A converter for argparse: whole numbers, with commas between."""
    return [at_least(1)(part) for part in text.split(",")]


def size_and_values(text: str) -> tuple[str, list[int]]:
    """A converter for argparse: SIZE=A,B,..., with two values or more, growing."""
    size, _, values = text.partition("=")
    if size not in sweep.AXES:
        raise argparse.ArgumentTypeError(f"{text}: {size} is none of {', '.join(sweep.AXES)}; use such as N=32,64,128")
    found = numbers(values)
    if len(found) < 2 or found != sorted(set(found)):
        raise argparse.ArgumentTypeError(f"{text}: not two values or more that grow; use such as {size}=32,64,128")
    return size, found


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    """The flags, checked.

    Raises:
        ValueError: flags that cannot be.
    """
    parser = Parser("bench.py", __doc__)
    names = [*BENCHMARKS, SCALING]
    parser.add_argument("names", nargs="+", choices=[*names, *ALIASES], metavar="NAME", help=", ".join(names))
    parser.add_argument("--N", type=int, default=64, help="grid points along each side [1]")
    parser.add_argument("--members", type=at_least(2), default=20, help="ensemble size, of each process [1]")
    parser.add_argument("--d", type=at_least(4), default=Sizes().d, help="variables of Lorenz-96 [1]")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="floating-point type")
    parser.add_argument("--integrator", choices=list(ensf.INTEGRATORS), default="euler", help="of the EnSF")
    parser.add_argument("--repeats", type=at_least(1), default=7, help="timed runs [1]")
    parser.add_argument("--peer", type=place, action="append", default=[], help="folder that holds a public code")
    parser.add_argument("--json", type=place, help="file to write")
    parser.add_argument("--compare", type=place, metavar="FILE", help="earlier --json, to print ratios to")
    parser.add_argument("--sweep", type=size_and_values, metavar="SIZE=A,B,...", help="time at these sizes instead")
    parser.add_argument("--figure", type=place, metavar="FILE.png", help="figure of the sweep")
    parser.add_argument("--processes", type=numbers, default=[1, 2], help=f"numbers of processes, of {SCALING} [1]")
    own = parser.add_argument_group("vit-train, vit-forecast")
    own.add_argument("--config", type=place, help="training file whose transformer and batch are taken")
    for name, what in SIZES.items():
        own.add_argument(f"--{name}", type=at_least(1), help=f"{what} [1]")
    own.add_argument("--compute", choices=("as-parameters", "float32", "bfloat16"), help="type of the products")
    own.add_argument("--remat", choices=vit.REMATS, help="what the backward pass computes anew")
    own.add_argument("--search", type=numbers, metavar="B,...", help="batches to try with every --remat [1]")
    own.add_argument("--heatmap", type=place, metavar="FILE.png", help="figure of TFLOP/s over the next three")
    own.add_argument("--widths", type=numbers, default=[512, 1024, 2048], help="widths [1]")
    own.add_argument("--heads-list", type=numbers, default=[4, 8, 16], help="numbers of heads [1]")
    own.add_argument("--ratios", type=numbers, default=[2, 4, 8], help="widths of the MLP over the token's [1]")
    given = parser.parse_args(arguments)
    given.names = list(dict.fromkeys(ALIASES.get(name, name) for name in given.names))
    require_files(given)
    require_sizes(given)
    return given


def require_files(given: argparse.Namespace) -> None:
    """Raise ValueError for files that cannot be written, or are of what is not asked."""
    for flag in ("json", "heatmap", "figure"):
        path = getattr(given, flag)
        report.new_file(f"--{flag}", path)
        if path and flag != "json" and path.suffix not in style.FORMATS:
            raise ValueError(f"--{flag} {path}: ends in none of {', '.join(style.FORMATS)}; use one")
    asked = [flag for flag in ("search", "heatmap") if getattr(given, flag)]
    if asked and "vit-train" not in given.names:
        raise ValueError(f"--{asked[0]}: is of vit-train, which is not among the names; add it")
    if given.figure and not given.sweep:
        raise ValueError(f"--figure {given.figure}: is of a sweep; add --sweep, such as --sweep N=32,64,128")
    given.before = stored.medians_of(given.compare, vars(given), given.names) if given.compare else None


def require_sizes(given: argparse.Namespace) -> None:
    """Raise ValueError for sizes that cannot be, before anything is run."""
    cores = len(os.sched_getaffinity(0))
    if SCALING in given.names:
        if max(given.processes) > cores:
            raise ValueError(f"--processes {max(given.processes)}: {cores} cores are ours, one for each; use fewer")
        if given.dtype != "float32":
            raise ValueError(f"--dtype {given.dtype}: {SCALING} is in float32; leave it out")
        SQGConfig(N=given.N)
    if given.config:
        given.N = vit_of(given)[0].image_size
    if given.sweep:
        size, values = given.sweep
        for name in given.names:
            if name == SCALING or size not in BENCHMARKS[name].sizes:
                raise ValueError(f"--sweep {size}: the cost of {name} does not depend on it; leave one of them out")
        for value in values:
            sizes = sizes_of(given).of(size, value)
            if any(BENCHMARKS[name].of_case for name in given.names):
                SQGConfig(N=sizes.N)
    if given.heatmap:
        (config, _), sizes = vit_of(given), itertools.product(given.widths, given.heads_list)
        for width, heads in sizes:
            dataclasses.replace(config, embed_dim=width, num_heads=heads)


def parts(given: argparse.Namespace) -> tuple[dict, list]:
    """What is kept of the benchmarks by themselves, and their tables."""
    found, rest, shown = {}, {}, []
    sizes, others = sizes_of(given), peers.find(given.peer)
    title = f"N = {given.N}, {given.members} members, {given.dtype}, {report.versions()['device']}"
    for name in given.names:
        if name == SCALING:
            words = {"--N": given.N, "--members": given.members, "--integrator": given.integrator}
            words |= {"--steps": 1000 if given.integrator == "euler" else 50}
            flat = [str(word) for pair in words.items() for word in pair]
            seconds, sent = scaling.measured(given.processes, flat, given.repeats)
            head = f"{SCALING}: N = {given.N}, {given.members} members a process, float32, cpu"
            shown.append(tables.weak_scaling(seconds, given.members, sent, head))
            rest[name] = {str(count): some for count, some in seconds.items()}
        else:
            found[name] = measuring.measure(name, sizes, given.repeats, others)
    found = measuring.with_best(found)
    if found:
        shown = [tables.times(found, given.before, title), tables.limits(found), *shown]
    content = {"seconds": {name: one.seconds for name, one in found.items()} | rest}
    return content | {"measured": {name: one.plain() for name, one in found.items()}}, shown


def swept(given: argparse.Namespace) -> tuple[dict, list]:
    """What is kept of a sweep, and its table."""
    size, values = given.sweep
    found = sweep.sweep(given.names, sizes_of(given), size, values, given.repeats)
    fits = {name: sweep.exponent(size, seconds) for name, seconds in found.items()}
    if given.figure:
        x = [sweep.cost_of(size, value) for value in values]
        curves = {name: (x, list(seconds.values()), fits[name]) for name, seconds in found.items()}
        bench_plots.costs(given.figure, curves, sweep.AXES[size], f"{given.dtype}, {report.versions()['device']}")
    content = {"sweep": {"of": size, "seconds": found, "exponents": {name: fit[0] for name, fit in fits.items()}}}
    return content, [tables.swept(found, size)]


def trainings(given: argparse.Namespace) -> tuple[dict, list]:
    """What is kept of --heatmap, and the tables that it and --search ask for."""
    (config, batch), content, shown = vit_of(given), {}, []
    if given.search:
        shown.append(tables.searched(vit.search(config, given.search, given.repeats)))
    if given.heatmap:
        sizes = (given.widths, given.heads_list, given.ratios)
        found = {tuple(size): rate for *size, rate in vit.grid(config, batch, *sizes, given.repeats)}
        bench_plots.rates(given.heatmap, found, f"{config.depth} layers, batch {batch}, {report.versions()['device']}")
        shown.append(tables.heatmap(found))
        content["heatmap"] = [[*size, rate] for size, rate in found.items()]
    return content, shown


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    try:
        given = arguments_of(arguments)
        launch.start(given.dtype)
        content, shown = swept(given) if given.sweep else parts(given)
        kept, more = trainings(given)
        content, shown = content | kept, shown + more
    except (ValueError, ChildProcessError) as error:
        return launch.refuse("bench.py", one_line(error) if isinstance(error, ValidationError) else error)
    report.print_lines([table for table in shown if table is not None])
    if given.json:
        content |= {"settings": vars(given)} | report.versions()
        given.json.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
