"""What every file of fields says about itself, under the CF-1.11 conventions: coordinates, units, attributes.

Times are plain seconds since the model's start; the epoch in their unit only lets CF readers decode them.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np

from jaxda import __version__
from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.models.sqg import SQGConfig

TIME_UNITS = "seconds since 2000-01-01 00:00:00"
DATES = {"units": TIME_UNITS, "calendar": "standard", "units_metadata": "leap_seconds: none"}
AXES = {
    "t": {"standard_name": "time", "long_name": "time since the start of the model", **DATES, "axis": "T"},
    "z": {"standard_name": "height", "long_name": "boundary", "units": "m", "positive": "up", "axis": "Z"},
    "y": {"standard_name": "projection_y_coordinate", "long_name": "across the jet", "units": "m", "axis": "Y"},
    "x": {"standard_name": "projection_x_coordinate", "long_name": "along the jet", "units": "m", "axis": "X"},
    "member": {"standard_name": "realization", "long_name": "ensemble member", "units": "1"},
    "experiment": {"long_name": "name of the experiment"},
    "start": {"standard_name": "forecast_reference_time", "long_name": "start of a forecast", **DATES},
    "lead": {"standard_name": "forecast_period", "long_name": "time since the start of a forecast", "units": "hours"},
    "wavenumber": {"long_name": "waves along a side", "units": "1"},
    "part": {"long_name": "what the spectrum is of"},
    "rank": {"long_name": "members below the truth", "units": "1"},
    "bin": {"long_name": "least spread of a bin"},
}
#: Settings that the sizes of the state tell, so that no attribute can contradict them.
SIZES = ("kind", "N", "dim")


def space_of(config: SQGConfig | Lorenz96Config) -> dict[str, np.ndarray]:
    """Coordinates of a state, in the order of its axes."""
    if isinstance(config, SQGConfig):
        along = np.arange(config.N) * (config.L / config.N)
        return {"z": np.array([0.0, config.H]), "y": along, "x": along}
    # Lorenz 1996: sites at equal distances around a latitude circle
    return {"x": 360.0 / config.dim * np.arange(config.dim)}


def axes_of(config: SQGConfig | Lorenz96Config) -> dict[str, dict[str, str]]:
    """Attributes of every coordinate that a file of a model may have."""
    if isinstance(config, SQGConfig):
        return AXES
    about = {"standard_name": "longitude", "long_name": "site", "units": "degrees_east", "axis": "X"}
    return AXES | {"x": about}


def units_of(config: SQGConfig | Lorenz96Config) -> dict[str, str | float]:
    """Attributes of a state."""
    return {"units": "m s-1", "kelvin_per_unit": config.kelvin} if isinstance(config, SQGConfig) else {"units": "1"}


def global_attributes(config, attributes: dict) -> dict[str, str | int | float]:
    """Attributes of a file: who made it, the settings of a model (None: of none), and others."""
    about = {"Conventions": "CF-1.11", "source": f"jaxda {__version__}"}
    about |= (asdict(config) if config else {}) | attributes
    plain = lambda value: int(value) if isinstance(value, bool) else value
    return {name: plain(value) for name, value in about.items() if name not in SIZES}
