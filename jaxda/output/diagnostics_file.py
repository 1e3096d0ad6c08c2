"""What a twin experiment's ensembles say beside their scores, in NetCDF: figures are drawn from it without a rerun."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxda import twin
from jaxda.diagnostics import PARTS, SpreadSkill
from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.models.sqg import SQGConfig
from jaxda.output.netcdf import FileError, add_coordinates, add_state, new_file, opened, values_of, write_parts

#: of the folder of a run
NAME = "diagnostics.nc"
#: of the last axis of the spectra, with their units
QUANTITIES = {"temperature": "K2", "kinetic_energy": "m2 s-2"}


class Stored(NamedTuple):
    """Of one experiment, T analyses: detail as in `twin.Detail`, `(T, ...)`, and the states of the last one.

    `truth` is the one that it saw; all three have the shape and the unit of a state.
    """

    detail: twin.Detail
    truth: np.ndarray
    mean: np.ndarray
    spread: np.ndarray


class DiagnosticsFile:
    """Ranks, bins of the spread and spectra of every analysis of several experiments, and the states of the last.

    Args:
        members: experiment -> size of its ensemble.
        hours: times of the analyses (T,) [h].

    Raises:
        FileError: the file exists, or cannot be made.
    """

    def __init__(
        self, path: str | Path, config: SQGConfig | Lorenz96Config, members: Mapping[str, int], hours: np.ndarray
    ):
        self.path, self._members, seconds = Path(path), dict(members), 3600.0 * np.asarray(hours, np.float64)
        with new_file(path, "NETCDF4", config, {"title": "Diagnostics of twin experiments"}) as nc:
            of = {"experiment": np.array(list(members), object), "t": seconds}
            of |= {"rank": np.arange(max(members.values()) + 1), "bin": np.append(0.0, twin.SPREADS)}
            if isinstance(config, SQGConfig):
                of |= {"part": np.array(PARTS, object), "wavenumber": np.arange(config.N // 2 + 1)}
            space = add_coordinates(nc, config, **of)

            def make(name, kind, dimensions, **attributes):  # CF 1.11, 2.4: others are to the left of time
                options = {"compression": "zlib", "complevel": 1, "fill_value": -1 if kind == np.int32 else np.nan}
                nc.createVariable(name, kind, dimensions, **options).setncatts(attributes)

            unit = "K" if isinstance(config, SQGConfig) else "1"
            nc["bin"].units = unit
            about = "points whose truth is above so many members"
            make("ranks", np.int32, ("experiment", "rank", "t"), units="1", long_name=about)
            for name, about in (
                ("points", "points in each bin of the spread"),
                ("variance", "sum of their ensemble variances"),
                ("square", "sum of the squared errors of their mean"),
            ):
                units = "1" if name == "points" or unit == "1" else "K2"
                make(f"skill_{name}", np.float32, ("experiment", "bin", "t"), units=units, long_name=about)
            for name, units in QUANTITIES.items() if isinstance(config, SQGConfig) else ():
                about = f"{name.replace('_', ' ')} at each wavenumber, mean of the boundaries"
                own = ("experiment", "part", "wavenumber", "t")
                make(f"{name}_spectrum", np.float32, own, units=units, long_name=about)
            for name in ("truth", "mean", "spread"):
                add_state(nc, f"last_{name}", ("experiment",), space, config, long_name=f"{name} at the last analysis")
            make("cycles", np.int32, ("experiment",), units="1", long_name="analyses written")
            nc["cycles"][:] = 0

    def write(self, experiment: str, first_cycle: int, fields: twin.Fields, truth: np.ndarray) -> None:
        """Write the detail of T analyses from `first_cycle` on, and the last states with the truth seen `(*shape)`."""
        which, detail = list(self._members).index(experiment), fields.detail
        stop = first_cycle + len(detail.ranks)
        rows, turned = (which, ..., slice(first_cycle, stop)), lambda own: np.moveaxis(np.asarray(own), 0, -1)
        ranks = (which, slice(0, self._members[experiment] + 1), rows[-1])
        parts = [("ranks", ranks, turned(detail.ranks))]
        parts += [(f"skill_{name}", rows, turned(own)) for name, own in detail.skill._asdict().items()]
        if detail.spectra is not None:
            spectra = np.moveaxis(np.asarray(detail.spectra), -2, 0)
            parts += [(f"{name}_spectrum", rows, turned(own)) for name, own in zip(QUANTITIES, spectra, strict=True)]
        last = {"truth": truth, "mean": fields.mean[-1], "spread": fields.spread[-1]}
        parts += [(f"last_{name}", which, np.asarray(own)) for name, own in last.items()]
        write_parts(self.path, *parts, ("cycles", which, stop))

    def __enter__(self) -> DiagnosticsFile:
        return self

    def __exit__(self, *_) -> None:
        """Nothing to do: the file is open only while it is written."""


def read(path: str | Path, members: Mapping[str, int]) -> dict[str, Stored]:
    """What a file holds of each experiment that has analyses in it.

    Args:
        members: experiment -> size of its ensemble.

    Raises:
        FileError: it is not such a file.
    """
    found = {}
    with opened(path) as nc:
        get = lambda name, where: np.ma.filled(values_of(nc[name], path, where))
        try:
            if nc["ranks"].dimensions[-1] != "t":
                raise FileError(f"{path}: is of an earlier version; run scripts/osse.py again with this one")
            done = dict(zip(nc["experiment"][:], get("cycles", ...), strict=True))
            for which, (name, count) in enumerate(done.items()):
                if not count or name not in members:
                    continue
                series = lambda variable, own=(which, ..., slice(0, int(count))): np.moveaxis(get(variable, own), -1, 0)
                skill = SpreadSkill(*(series(f"skill_{part}") for part in SpreadSkill._fields))
                spectra = None
                if "part" in nc.dimensions:
                    spectra = np.stack([series(f"{part}_spectrum") for part in QUANTITIES], -2)
                ranks = np.maximum(series("ranks")[:, : members[name] + 1], 0)
                detail = twin.Detail(ranks, skill, spectra)
                found[name] = Stored(detail, *(get(f"last_{part}", which) for part in ("truth", "mean", "spread")))
        except (IndexError, KeyError) as error:
            raise FileError(
                f"{path}: lacks a variable ({error}); run scripts/osse.py again with this version"
            ) from None
    return found
