"""The analyses of twin experiments in NetCDF (CF-1.11): several experiments on one truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.models.sqg import SQGConfig
from jaxda.output.netcdf import add_coordinates, add_state, new_file, write_parts


class AnalysisFile:
    """Analyses of several experiments on one truth; a context manager.

    `pv_truth(t, z, y, x)`; `pv_mean` and `pv_spread (experiment, t, z, y, x)`, the ensemble's mean and
    standard deviation; `pv_members(experiment, member, t, z, y, x)` where `members` > 0. For Lorenz-96 the
    stem is `state` and x takes the place of z, y, x. `cycles(experiment)`, written last, counts analyses.

    Args:
        config: the truth's model, whose grid the states are on.
        experiments: their names, each once.
        hours: times of the analyses since the model's start (T,) [h].
        members: size of the largest ensemble to keep, 0 for none.
        attributes: further global attributes, text or numbers.

    Raises:
        FileError: the file exists, or cannot be made.
    """

    def __init__(
        self,
        path: str | Path,
        config: SQGConfig | Lorenz96Config,
        experiments: Sequence[str],
        hours: np.ndarray,
        *,
        members: int = 0,
        **attributes,
    ):
        self._names, self._shape, seconds = list(experiments), config.shape, 3600.0 * np.asarray(hours, np.float64)
        self._stem = "pv" if isinstance(config, SQGConfig) else "state"
        self.path = Path(path)
        with new_file(path, "NETCDF4", config, {"title": "Analyses of twin experiments"} | attributes) as nc:
            others = {"experiment": np.array(self._names, object), "t": seconds}
            others |= {"member": np.arange(members)} if members else {}
            space = add_coordinates(nc, config, **others)
            cycles = nc.createVariable("cycles", np.int32, ("experiment",))
            cycles.setncatts({"long_name": "number of analyses written", "units": "1"})
            cycles[:] = 0
            own = lambda name, lead, about: add_state(nc, f"{self._stem}_{name}", lead, space, config, long_name=about)
            own("truth", ("t",), "truth, with the shocks that experiments without them do not see")
            own("mean", ("experiment", "t"), "mean of the analysis ensemble")
            own("spread", ("experiment", "t"), "standard deviation of the analysis ensemble")
            if members:
                own("members", ("experiment", "member", "t"), "members of the analysis ensemble")

    def write(self, experiment: str, first_cycle: int, mean, spread, members=None) -> None:
        """Write T analyses from cycle `first_cycle` (0: the first) on.

        Args:
            experiment: one of the names given at the start.
            first_cycle: index into the file's times.
            mean: `(T, *state)` in the state's unit (SQG: m/s).
            spread: the same.
            members: `(T, M, *state)`, for files made with `members` >= M.
        """
        which, stop = self._names.index(experiment), first_cycle + len(mean)
        rows = (which, slice(first_cycle, stop))
        parts = [self._part("mean", rows, mean), self._part("spread", rows, spread)]
        if members is not None:  # time next to space, as CF recommends
            where = (which, slice(0, np.shape(members)[1]), rows[1])
            parts.append(self._part("members", where, np.swapaxes(np.asarray(members), 0, 1)))
        write_parts(self.path, *parts, ("cycles", which, stop))

    def write_truth(self, first_cycle: int, truth) -> None:
        """Write the truth `(T, *state)` from cycle `first_cycle` on."""
        write_parts(self.path, self._part("truth", slice(first_cycle, first_cycle + len(truth)), truth))

    def _part(self, name: str, where, values) -> tuple:
        values = np.asarray(values)
        if values.shape[-len(self._shape) :] != self._shape:
            raise ValueError(f"{name} has shape {values.shape}; its states must be {self._shape}")
        return f"{self._stem}_{name}", where, values

    def __enter__(self) -> AnalysisFile:
        return self

    def __exit__(self, *_) -> None:
        """Nothing to do: the file is open only while it is written."""
