"""jaxda.output.observation_file: what is written is read, and what is wrong with a file is said in one line."""

import netCDF4
import numpy as np
import pytest
import xarray

from jaxda.models.sqg import SQGConfig
from jaxda.output import observation_file
from jaxda.output.netcdf import FileError
from jaxda.output.observation_file import Observations

MODEL = SQGConfig(N=16)
FOUND = Observations(
    43200.0, np.array([1.0, -2.0, 3.5]), np.array([0.5, 1.0, 2.0]), np.array([[0, 0, 0], [1, 15, 3], [1, 2.25, 7.5]])
)


@pytest.fixture
def path(tmp_path):
    observation_file.write(tmp_path / "obs.nc", MODEL, "scaled", FOUND)
    return tmp_path / "obs.nc"


def read(path, most=512):
    return observation_file.read(path, MODEL, "scaled", most)


def test_what_is_written_is_read(path):
    found = read(path)
    assert found.time == FOUND.time
    np.testing.assert_array_equal(found.values, FOUND.values)
    np.testing.assert_array_equal(found.errors, FOUND.errors)
    np.testing.assert_allclose(found.positions, FOUND.positions, atol=1e-9)
    assert [p.name for p in path.parent.iterdir()] == ["obs.nc"]  # no part of it under another name


def test_others_can_read_it(path):
    with xarray.open_dataset(path) as data:
        assert data.time.values == np.datetime64("2000-01-01T12:00:00")
        assert data.value.units == data.error.units == "K"
        np.testing.assert_allclose(data.x, MODEL.L / 16 * FOUND.positions[:, 2])
        np.testing.assert_array_equal(data.z, [0.0, MODEL.H, MODEL.H])


def test_a_file_is_not_written_over(path):
    before = path.read_bytes()
    with pytest.raises(FileError, match=r"obs\.nc: exists already"):
        observation_file.write(path, MODEL, "scaled", FOUND._replace(time=0.0))
    assert path.read_bytes() == before


def test_a_write_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(FileError, match="cannot be"):
        observation_file.write(tmp_path / "missing" / "obs.nc", MODEL, "scaled", FOUND)
    with pytest.raises(KeyError):
        observation_file.write(tmp_path / "obs.nc", MODEL, "no operator", FOUND)
    assert not list(tmp_path.iterdir())


def put(name, at, value):
    def change(nc):
        nc[name][at] = value

    return change


def unit(name, text):
    return lambda nc: nc[name].setncattr("units", text)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put("value", 1, np.nan), r"value\[1\] = nan K is missing or not finite"),
        (put("value", 1, np.ma.masked), r"value\[1\] = nan K is missing or not finite"),
        (put("error", 2, np.inf), r"error\[2\] = inf K is missing or not finite"),
        (put("error", 0, 0.0), r"error\[0\] = 0 K is not positive; give the standard deviation"),
        (put("error", slice(None), -1.0), r"error\[0\] = -1 K, and 2 more, is not positive"),
        (put("x", 0, MODEL.L), r"x\[0\] = 2e\+07 m is outside of the domain, 0 <= x < 2e\+07 m"),
        (put("y", 2, -1.0), r"y\[2\] = -1 m is outside of the domain"),
        (put("z", 1, 0.5 * MODEL.H), r"z\[1\] = 5000 m is outside of the domain, whose boundaries are at 0 and 10000"),
        (put("z", 1, 2 * MODEL.H), r"z\[1\] = 20000 m is outside of the domain"),
        (put("time", ..., np.nan), "time = nan seconds since .* is missing or not finite"),
        (unit("value", "degC"), 'units of value are "degC"; give it in "K"'),
        (unit("x", "km"), 'units of x are "km"; give it in "m"'),
        (unit("time", "hours since 2000-01-01 00:00:00"), "units of time are"),
        (lambda nc: nc.renameVariable("error", "sigma"), "variable error is missing; a file has value, error"),
        (lambda nc: nc.delncattr("operator"), 'operator is "missing", not "scaled"'),
        (lambda nc: nc.setncattr("operator", "arctan"), 'operator is "arctan", not "scaled"; send it to a run'),
        (lambda nc: nc.renameDimension("obs", "n"), "obs = 0, the network has 512 sites"),
    ],
)
def test_what_is_wrong_is_said(path, change, words):
    with netCDF4.Dataset(path, "r+") as nc:
        change(nc)
    with pytest.raises(FileError, match=words) as raised:
        read(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_a_file_of_more_than_the_network_is_refused(path):
    with pytest.raises(FileError, match="obs = 3, the network has 2 sites; give 1 to 2"):
        read(path, most=2)


def test_variables_of_other_types_and_dimensions_are_refused(tmp_path, path):
    with netCDF4.Dataset(tmp_path / "text.nc", "w") as nc, netCDF4.Dataset(path) as good:
        nc.setncatts({"operator": "scaled"})
        nc.createDimension("obs", 3)
        for name, variable in good.variables.items():
            text = name == "value"
            new = nc.createVariable(name, str if text else variable.dtype, variable.dimensions)
            new.setncatts({"units": variable.units})
            new[...] = np.array(["a", "b", "c"], object) if text else variable[...]
    with pytest.raises(FileError, match=r"value is of type .*; give numbers"):
        read(tmp_path / "text.nc")
    with netCDF4.Dataset(path, "r+") as nc:
        nc.renameVariable("x", "old")
        nc.createVariable("x", float, ())
    with pytest.raises(FileError, match=r"x has dimensions \(\); use \('obs',\)"):
        read(path)


@pytest.mark.parametrize("content", [b"", b"CDF\x01", b"no NetCDF at all", b"\x89HDF\r\n\x1a\n"])
def test_what_is_not_netcdf_is_refused(tmp_path, content):
    (tmp_path / "bad.nc").write_bytes(content)
    with pytest.raises(FileError, match=r"bad\.nc: not a readable NetCDF file"):
        read(tmp_path / "bad.nc")


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99])
def test_a_file_cut_off_anywhere_is_refused(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(FileError, match=r"obs\.nc"):
        read(path)


def test_a_changed_byte_among_the_values_is_found(tmp_path):
    values = np.random.default_rng(0).normal(size=500)
    many = Observations(0.0, values, np.ones(500), np.zeros((500, 3)))
    observation_file.write(tmp_path / "obs.nc", MODEL, "scaled", many)
    content = bytearray((tmp_path / "obs.nc").read_bytes())
    start = content.find(b"\x78\x01")  # of a compressed chunk; the values are the first and hardest to compress
    assert start > 0
    content[start + 1000] ^= 1
    (tmp_path / "obs.nc").write_bytes(content)
    with pytest.raises(FileError, match=r"obs\.nc: not a readable NetCDF file"):
        read(tmp_path / "obs.nc")
