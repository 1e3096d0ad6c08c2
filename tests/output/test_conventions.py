"""Every kind of NetCDF file that is written: CF-1.11 by the checker of IOOS, and as xarray opens it."""

import netCDF4
import numpy as np
import pytest
import xarray

from jaxda import twin
from jaxda.diagnostics import PARTS, SpreadSkill
from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.models.sqg import SQGConfig
from jaxda.output import analysis_file, diagnostics_file, forecast_file, netcdf, observation_file, product_file

CONFIG = SQGConfig(N=16)
HOURS = 12.0 * np.arange(3)


def states_of(*lead, config=CONFIG):
    return (4000 * np.random.default_rng(0).normal(size=(*lead, *config.shape))).astype(np.float32)


def nature_run(path):
    netcdf.create_nature_run(path, CONFIG, seed=3)
    netcdf.append_states(path, 3600 * HOURS, states_of(3))
    netcdf.add_history(path, netcdf.dated("nature_run.py --out run.nc"))


def analyses(path, config=CONFIG):
    with analysis_file.AnalysisFile(path, config, ["EnSF", "größer (%)"], HOURS, members=4) as file:
        file.write_truth(0, states_of(3, config=config))
        file.write("EnSF", 0, *(states_of(3, *members, config=config) for members in ((), (), (4,))))


def analyses_of_lorenz96(path):
    analyses(path, Lorenz96Config(dim=12))


def observations(path):
    positions = np.stack(np.meshgrid([0, 1], [0, 4], [0, 8], indexing="ij"), -1).reshape(-1, 3)
    values, errors = np.linspace(-1, 1, 8), np.ones(8)
    observation_file.write(path, CONFIG, "scaled", observation_file.Observations(43200.0, values, errors, positions))


def product(path):
    fields = {name: states_of() for name in product_file.FIELDS}
    product_file.write(path, CONFIG, 0.0, 43200.0, fields, {"innovation_rms": 1.0, "observations": "a.nc"})


def forecasts(path, **ensemble):
    file = forecast_file.ForecastFile(path, CONFIG, HOURS[:2], np.arange(3), 12.0, **ensemble)
    states = states_of(2, ensemble.get("members", 1))
    for lead in range(3):
        file.write(lead, states, states, {name: np.ones(9) for name in forecast_file.SPECTRA})


def forecasts_of_ensembles(path):
    forecasts(path, members=3, shared_truth=True)


def diagnostics(path):
    rows, bins = len(HOURS), len(twin.SPREADS) + 1
    skill = SpreadSkill(*(np.ones((rows, bins)) for _ in SpreadSkill._fields))
    spectra = np.ones((rows, len(PARTS), 2, CONFIG.N // 2 + 1))
    detail = twin.Detail(np.ones((rows, 5), int), skill, spectra)
    with diagnostics_file.DiagnosticsFile(path, CONFIG, {"EnSF": 4, "größer (%)": 3}, HOURS) as file:
        file.write("EnSF", 0, twin.Fields(states_of(rows), states_of(rows), None, detail), states_of())


KINDS = [
    nature_run,
    analyses,
    analyses_of_lorenz96,
    diagnostics,
    observations,
    product,
    forecasts,
    forecasts_of_ensembles,
]
of_each_kind = pytest.mark.parametrize("write", KINDS, ids=lambda write: write.__name__)


@pytest.fixture
def check(tmp_path, capsys):
    """A function: whether tmp_path/file.nc passes, whether a check ended in an exception, and what was said.

    `pip install compliance-checker`; it is not among the packages of the tests, since it brings 14 more.
    """
    runner = pytest.importorskip("compliance_checker.runner")
    runner.CheckSuite.load_all_available_checkers()
    arguments = {"verbose": 0, "criteria": "strict", "output_filename": "-", "output_format": "text"}

    def check():
        passed, broke = runner.ComplianceChecker.run_checker(str(tmp_path / "file.nc"), ["cf:1.11"], **arguments)
        return passed, broke, capsys.readouterr().out

    return check


@pytest.mark.long
@of_each_kind
def test_the_checker_finds_nothing_to_mend(write, tmp_path, check):
    write(tmp_path / "file.nc")
    passed, broke, said = check()
    assert passed, said
    assert not broke, said
    assert "All tests passed!" in said


@pytest.mark.long
@pytest.mark.parametrize(
    "spoil", [lambda nc: nc["pv"].setncattr("standard_name", "vim"), lambda nc: nc["t"].setncattr("units", "h")]
)
def test_the_checker_finds_what_is_wrong(tmp_path, check, spoil):
    nature_run(tmp_path / "file.nc")
    with netCDF4.Dataset(tmp_path / "file.nc", "r+") as nc:
        spoil(nc)
    passed, _, said = check()
    assert not passed or "All tests passed!" not in said


@of_each_kind
def test_xarray_finds_coordinates_with_units_and_decodes_the_times(write, tmp_path):
    write(tmp_path / "file.nc")
    with xarray.open_dataset(tmp_path / "file.nc", decode_timedelta=False) as data:
        assert data.attrs["Conventions"] == "CF-1.11"
        for name in set(data.dims) - {"obs"}:
            coordinate = data[name]
            assert name in data.indexes, name
            decoded = coordinate.dtype.kind == "M"
            assert decoded or coordinate.dtype.kind in "OU" or coordinate.attrs["units"], name
        names = ("time", "forecast_reference_time")
        times = [v for v in data.variables.values() if v.attrs.get("standard_name") in names]
        assert times
        for time in times:
            assert time.dtype.kind == "M"
            hours = (time.values - np.datetime64("2000-01-01")) / np.timedelta64(1, "h")
            assert set(np.ravel(hours)) <= {0.0, 12.0, 24.0, 36.0}
        fields = [v for name, v in data.data_vars.items() if name != "cycles"]
        assert all(v.attrs["units"] and v.attrs["long_name"] for v in fields)
        if "experiment" in data.dims:
            assert list(data.experiment) == ["EnSF", "größer (%)"]
            assert int(data.sel(experiment="größer (%)").cycles) == 0
        if "lead" in data.dims:
            assert data.pv_forecast.dims[-4:] == ("start", "z", "y", "x")
            assert "time" in data.pv_forecast.coords
            valid = data.time - data.start
            np.testing.assert_array_equal(valid / np.timedelta64(1, "h"), np.broadcast_to(HOURS[:, None], (3, 2)))
