"""Forecasts on disk: fields and spectra by lead in NetCDF (CF-1.11), scores by lead in a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from jaxda.models.sqg import SQGConfig
from jaxda.output import netcdf
from jaxda.output.conventions import AXES

#: uncompressed size of the fields that `spacing` keeps to [bytes]
LARGE = 2**28
SPECTRA = ("truth", "forecast", "error")


def spacing(config: SQGConfig, cases: int, steps: int) -> int:
    """Leads between those that are kept so that the fields of all cases stay under LARGE."""
    of_lead = 2 * 4 * cases * int(np.prod(config.shape))
    return max(1, -(-steps * of_lead // LARGE))


class ForecastFile:
    """Forecasts from S starts and their truth at chosen leads.

    `pv_forecast(lead, [member,] start, z, y, x)` and `pv_truth`, the same, or without `member` where the truth is one
    for all members; `spectrum_truth`, `_forecast` and `_error (lead, wavenumber)`, the temperature's variance in K^2,
    means over starts, members and boundaries. `start` is the time of a start, `lead` the hours since, and
    `time(lead, start)` their sum.

    Args:
        path: file to make.
        config: of the model, whose grid the states are on.
        hours: of the starts since the model's start (S,) [h].
        leads: numbers of the leads to keep, increasing.
        lead_hours: of one lead [h].
        members: of the ensemble; 0 for none.
        shared_truth: whether all members have one truth.
        attributes: further global attributes, text or numbers.

    Raises:
        FileError: the file exists, or cannot be made or written.
    """

    def __init__(
        self,
        path: str | Path,
        config: SQGConfig,
        hours: np.ndarray,
        leads: np.ndarray,
        lead_hours: float,
        *,
        members: int = 0,
        shared_truth: bool = False,
        **attributes,
    ):
        self.path, self.leads, self._members, self._shared = Path(path), np.asarray(leads), members, shared_truth
        about = {"title": "Forecasts by a surrogate of surface quasi-geostrophic turbulence"}
        about["comment"] = "pv is in m/s; times f * theta0 / g it is the temperature's perturbation in K"
        with netcdf.new_file(path, "NETCDF4", config, about | attributes) as nc:
            others = {"start": 3600.0 * np.asarray(hours, np.float64), "lead": lead_hours * self.leads}
            others |= {"member": np.arange(members)} if members else {}
            others["wavenumber"] = np.arange(config.N // 2 + 1)
            space = netcdf.add_coordinates(nc, config, **others)
            valid = nc.createVariable("time", np.float64, ("lead", "start"))
            valid.setncatts(AXES["t"] | {"long_name": "time that a forecast is for"})
            valid.delncattr("axis")  # of two dimensions
            valid[:] = 3600.0 * others["lead"][:, None] + others["start"]
            member = ("member",) if members else ()
            for name, own in (("forecast", member), ("truth", () if shared_truth else member)):
                about = {"long_name": f"potential vorticity, {name}", "coordinates": "time"}
                netcdf.add_state(nc, f"pv_{name}", ("lead", *own, "start"), space, config, **about)
            for name in SPECTRA:
                spectrum = nc.createVariable(f"spectrum_{name}", np.float32, ("lead", "wavenumber"), fill_value=np.nan)
                spectrum.setncatts({"units": "K2", "long_name": f"variance of temperature by wavenumber, {name}"})

    def write(self, lead: int, forecast, truth, spectra: Mapping[str, np.ndarray]) -> None:
        """Write a lead, if it is one of those to keep.

        Args:
            lead: its number.
            forecast: `(S, M, 2, N, N)` in m/s; truth: the same, or with one member.
            spectra: truth, forecast and error, `(N/2 + 1,)` in K^2.
        """
        if lead not in self.leads:
            return
        row, parts = int(np.searchsorted(self.leads, lead)), []
        for name, states, one in (("forecast", forecast, False), ("truth", truth, self._shared)):
            alone = one or not self._members
            parts.append((f"pv_{name}", row, np.asarray(states[:, 0] if alone else states.swapaxes(0, 1))))
        parts += [(f"spectrum_{name}", row, spectra[name]) for name in SPECTRA]
        netcdf.write_parts(self.path, *parts)


def write_scores(path: str | Path, lead_hours: float, columns: Iterable[str], scores: Mapping[str, np.ndarray]) -> None:
    """A CSV file with a row a lead: its number and hours, then those of `columns` that there are."""
    names = [name for name in columns if name in scores]
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("lead", "lead_hours", *names))
        for lead, row in enumerate(zip(*(scores[name] for name in names), strict=True)):
            writer.writerow((lead, f"{lead * lead_hours:g}", *(f"{value:.6g}" for value in row)))
