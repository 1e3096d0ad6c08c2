"""NetCDF files: what is written is read, sqgturb's files too, and damaged files are refused with one line."""

import dataclasses
import resource
from concurrent.futures import ThreadPoolExecutor

import netCDF4
import numpy as np
import pytest
import xarray

from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.models.sqg import SQGConfig
from jaxda.output import analysis_file, netcdf

CONFIG = SQGConfig(N=16, U=21.5, symmetric=False, r=1e-3, jacobian="exact", diff_order=6)
#: what sqgturb's programs read from a nature run
SQGTURB_ATTRIBUTES = ["r", "f", "U", "L", "H", "g", "theta0", "nsq", "tdiab", "dt", "diff_efold", "diff_order"]
SQGTURB_ATTRIBUTES += ["symmetric", "dealias"]


def states_of(config, count=5, dtype=np.float32):
    return (4000 * np.random.default_rng(0).normal(size=(count, *config.shape))).astype(dtype)


def times_of(count=5, start=86400.0):
    return start + 43200.0 * np.arange(count)


@pytest.fixture
def path(tmp_path):
    """A nature run of 5 states."""
    path = tmp_path / "run.nc"
    netcdf.create_nature_run(path, CONFIG, seed=3)
    netcdf.append_states(path, times_of(), states_of(CONFIG))
    return path


def write_as_sqgturb(path, config, states, times, leave_out=()):
    """A file laid out as sqgturb's programs do it: single precision, no boolean attributes, pv in m/s labelled K."""
    with netCDF4.Dataset(path, "w", format="NETCDF4_CLASSIC") as nc:
        for name in SQGTURB_ATTRIBUTES:
            value = getattr(config, name)
            if name not in leave_out:
                nc.setncattr(name, int(value) if isinstance(value, bool | int) else np.array(value, np.float32))
        for name, size in (("x", config.N), ("y", config.N), ("z", 2), ("t", None)):
            nc.createDimension(name, size)
            if name not in leave_out:
                nc.createVariable(name, np.float32, (name,)).units = "seconds" if name == "t" else "meters"
        if "t" not in leave_out:
            nc["t"][:] = times
        if "pv" not in leave_out:
            nc.createVariable("pv", np.float32, ("t", "z", "y", "x"), zlib=True).units = "K"
            nc["pv"][:] = states


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_written_is_read_bit_for_bit(tmp_path, dtype):
    path, states = tmp_path / "run.nc", states_of(CONFIG, dtype=dtype)
    times = np.array([0.1, 1 / 3, 2**24 + 1.0, 1e9 + 0.25, 1e10])  # none of them exact in single precision
    netcdf.create_nature_run(path, CONFIG, dtype=dtype)
    netcdf.append_states(path, times[:2], states[:2])
    netcdf.append_states(path, times[2:], states[2:])
    run = netcdf.read_nature_run(path)
    assert run.config == CONFIG
    assert run.times.dtype == np.float64
    assert run.dtype == dtype
    np.testing.assert_array_equal(run.times, times)
    np.testing.assert_array_equal(netcdf.read_states(run), states)
    np.testing.assert_array_equal(netcdf.read_states(run, 1, 3), states[1:3])
    assert netcdf.read_states(run).dtype == dtype


def test_attributes_and_conventions(path):
    with netCDF4.Dataset(path) as nc:
        assert nc.Conventions == "CF-1.11"
        assert nc.seed == 3
        assert nc.history
        for name, value in dataclasses.asdict(CONFIG).items():
            if name not in ("kind", "N"):  # N is a dimension
                assert nc.getncattr(name) == value, name
        assert {nc[name].axis for name in "tzyx"} == set("TZYX")
        assert all(nc[name].long_name and nc[name].units for name in ("t", "z", "y", "x", "pv"))
        assert nc["t"].standard_name == "time"
        assert nc["t"].units.startswith("seconds since ")
        assert nc["pv"].units == "m s-1"
        assert nc["pv"].kelvin_per_unit == CONFIG.kelvin


def test_sqgturb_finds_what_it_reads(path):
    with netCDF4.Dataset(path) as nc:
        assert nc.data_model == "NETCDF3_64BIT_OFFSET"
        assert set(SQGTURB_ATTRIBUTES) <= set(nc.ncattrs())
        assert nc["pv"].dimensions == ("t", "z", "y", "x")
        np.testing.assert_array_equal(nc["t"][:], times_of())
        np.testing.assert_allclose(nc["x"][:], CONFIG.L / CONFIG.N * np.arange(CONFIG.N))
        np.testing.assert_allclose(nc["z"][:], [0, CONFIG.H])
        assert nc.f * nc.theta0 / nc.g == pytest.approx(CONFIG.kelvin)


@pytest.mark.parametrize("leave_out", [(), ("dealias",)])
def test_files_of_sqgturb_are_read(tmp_path, leave_out):
    config = SQGConfig(N=16, U=20, r=0.01, diff_efold=86400 / 8)
    path, states = tmp_path / "sqgturb.nc", states_of(config)
    write_as_sqgturb(path, config, states, times_of(), leave_out)
    run = netcdf.read_nature_run(path)
    assert run.config == config  # 1e-4 and not 9.9999997e-05; dealiased; its own Jacobian
    np.testing.assert_array_equal(run.times, times_of())
    np.testing.assert_array_equal(netcdf.read_states(run), states)


def test_xarray_decodes_the_times(path):
    with xarray.open_dataset(path) as data:
        assert data.pv.dims == ("t", "z", "y", "x")
        hours = (data.t - np.datetime64("2000-01-01")) / np.timedelta64(1, "h")
        np.testing.assert_array_equal(hours, times_of() / 3600)
        np.testing.assert_array_equal(data.pv, states_of(CONFIG))


@pytest.mark.parametrize("last", ["pv", "t"])
def test_a_state_cut_off_is_left_out_and_written_over(path, last):
    with netCDF4.Dataset(path, "r+") as nc:
        nc["pv"][5:7] = 1.0
        if last == "t":  # the checksum did not get written
            nc["t"][5] = times_of(6)[5]
    run = netcdf.read_nature_run(path)
    assert len(run.times) == len(netcdf.read_states(run)) == 5
    netcdf.append_states(path, times_of(6)[5:], states_of(CONFIG, 6)[5:])
    run = netcdf.read_nature_run(path)
    np.testing.assert_array_equal(run.times, times_of(6))
    np.testing.assert_array_equal(netcdf.read_states(run), states_of(CONFIG, 6))


def text_file(path):
    path.write_text("t,pv\n0,1\n")


def cut(fraction):
    def damage(path):
        whole = path.read_bytes()
        path.write_bytes(whole[: min(int(fraction * len(whole)), len(whole) - 1)])

    damage.__name__ = f"cut_to_{fraction}"
    return damage


def edited(edit, name):
    def damage(path):
        with netCDF4.Dataset(path, "r+") as nc:
            edit(nc)

    damage.__name__ = name
    return damage


def without(name):
    def damage(path):
        write_as_sqgturb(path, CONFIG, states_of(CONFIG), times_of(), leave_out=(name,))

    damage.__name__ = f"without_{name}"
    return damage


def of_shape(z, y, x):
    def damage(path):
        path.unlink()
        with netCDF4.Dataset(path, "w") as nc:
            for name, size in {"t": None, "z": z, "y": y, "x": x}.items():
                nc.createDimension(name, size)
            nc.createVariable("t", float, ("t",))[:] = times_of()
            nc.createVariable("pv", float, ("t", "z", "y", "x"))[:] = 0.0

    damage.__name__ = f"shape_{z}_{y}_{x}"
    return damage


def put(variable, where, value):
    return edited(lambda nc: nc[variable].__setitem__(where, value), f"{variable}_{value}")


def set_attribute(name, value):
    return edited(lambda nc: nc.setncattr(name, value), f"{name}_{value}")


BAD_FILES = [
    (lambda path: path.unlink(), "no such file"),
    (text_file, "not a readable NetCDF file"),
    *[(cut(fraction), "not a readable NetCDF file") for fraction in (0, 0.001, 0.1, 0.5, 0.9, 1)],
    *[(without(name), f"attribute {name} is missing") for name in SQGTURB_ATTRIBUTES if name != "dealias"],
    *[(without(name), f"variable {name} is missing") for name in ("pv", "t")],
    (of_shape(3, 16, 16), "(2, N, N)"),
    (of_shape(2, 16, 18), "(2, N, N)"),
    (edited(lambda nc: nc.renameVariable("pv", "q"), "renamed"), "variable pv is missing"),
    (edited(lambda nc: nc.renameDimension("z", "level"), "dimension"), "(t, z, y, x)"),
    (edited(lambda nc: setattr(nc["t"], "units", "hours"), "hours"), "'hours'"),
    (put("t", 3, 0.0), "t[3] = 0 s"),
    (put("t", 2, np.nan), "t[2] = nan s"),
    (put("t", slice(None), np.nan), "no complete state"),
    (put("pv", (1, 0, 3, 3), np.nan), "pv[1]"),
    (put("pv", (4, 1, 0, 0), np.inf), "pv[4]"),
    (set_attribute("f", -1.0), "f = -1.0"),
    (set_attribute("symmetric", "perhaps"), "symmetric = perhaps"),
    (set_attribute("dt", 1e6), "dt = 1e+06"),
    (set_attribute("theta0", np.array([1.0, 2.0])), "theta0"),
    (set_attribute("jacobian", "other"), "jacobian = other"),
]


@pytest.mark.parametrize(("damage", "names"), BAD_FILES, ids=lambda v: getattr(v, "__name__", None))
def test_bad_files_are_refused_with_one_line(path, damage, names):
    damage(path)
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.parent.iterdir()}
    with pytest.raises(netcdf.FileError) as caught:
        netcdf.read_states(netcdf.read_nature_run(path))
    message = str(caught.value)
    assert str(path) in message
    assert names in message
    assert "\n" not in message
    assert ";" in message  # the cure
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in path.parent.iterdir()} == before


def test_an_empty_run_is_refused(tmp_path):
    netcdf.create_nature_run(tmp_path / "run.nc", CONFIG)
    with pytest.raises(netcdf.FileError, match="no complete state"):
        netcdf.read_nature_run(tmp_path / "run.nc")


@pytest.mark.parametrize("change", [{"N": 32}, {"L": 1e7}, {"H": 9e3}])
def test_another_grid_is_refused(path, change):
    run = netcdf.read_nature_run(path)
    netcdf.require_grid(run, dataclasses.replace(CONFIG, U=5.0))
    (name, value), *_ = change.items()
    with pytest.raises(netcdf.FileError, match=f"{name} = .* but {name} = ") as caught:
        netcdf.require_grid(run, SQGConfig(**{"N": 16, "U": 5.0} | change))
    assert f"{value:g}" in str(caught.value)


@pytest.mark.parametrize(
    ("times", "states", "names"),
    [
        ([0.0], states_of(CONFIG, 1), "do not increase"),
        ([1e7, 1e6], states_of(CONFIG, 2), "do not increase"),
        ([np.nan], states_of(CONFIG, 1), "do not increase"),
        ([1e7], states_of(CONFIG, 2), "shape"),
        ([1e7], states_of(CONFIG, 1)[..., :8], "shape"),
        ([1e7], states_of(CONFIG, 1) * np.inf, "not finite"),
    ],
)
def test_states_that_do_not_follow_are_not_appended(path, times, states, names):
    before = path.read_bytes()
    with pytest.raises(netcdf.FileError, match=names):
        netcdf.append_states(path, times, states)
    assert netcdf.read_nature_run(path).times.size == 5
    assert path.read_bytes() == before


def test_a_full_disk_spares_what_was_written(path):
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 1000, hard))
    try:
        with pytest.raises(netcdf.FileError, match="is the disk full"):
            netcdf.append_states(path, times_of(6)[5:], states_of(CONFIG, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    np.testing.assert_array_equal(netcdf.read_states(netcdf.read_nature_run(path)), states_of(CONFIG))
    netcdf.append_states(path, times_of(6)[5:], states_of(CONFIG, 1))
    assert path.stat().st_size == len(before) + 4 * states_of(CONFIG, 1).size + 12


def test_a_byte_that_changed_is_found_in_any_record(path):
    whole, run = path.read_bytes(), netcdf.read_nature_run(path)
    record = 4 * states_of(CONFIG, 1).size + 12
    random = np.random.default_rng(0)
    for number in range(5):
        for _ in range(20):
            data = bytearray(whole)
            data[len(data) - (5 - number) * record + random.integers(record)] ^= 1 << random.integers(8)
            path.write_bytes(data)
            try:
                found = netcdf.read_nature_run(path)
            except netcdf.FileError as error:  # a time, out of order now or none
                assert "t[" in str(error) or "complete" in str(error)  # noqa: PT017
                continue
            with pytest.raises(netcdf.FileError, match=rf"pv\[{number}\], .* is not what was written"):
                netcdf.read_states(found)
            with pytest.raises(netcdf.FileError, match=r"is not what was written"):
                netcdf.read_numbered(run, np.array([number]))


def test_several_threads_read_and_write(path, tmp_path):
    """HDF5 alone would crash."""
    run = netcdf.read_nature_run(path)
    expected = netcdf.read_states(run)

    def work(number):
        for _ in range(20):
            np.testing.assert_array_equal(netcdf.read_states(run), expected)
        netcdf.create_nature_run(tmp_path / f"{number}.nc", CONFIG)
        netcdf.append_states(tmp_path / f"{number}.nc", run.times, expected)
        return len(netcdf.read_nature_run(tmp_path / f"{number}.nc").times)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [len(run.times)] * 4


def test_nothing_is_written_over(path, tmp_path):
    before = path.read_bytes()
    with pytest.raises(netcdf.FileError, match="exists already"):
        netcdf.create_nature_run(path, CONFIG)
    with pytest.raises(netcdf.FileError, match="exists already"):
        analysis_file.AnalysisFile(path, CONFIG, ["LETKF"], [0.0])
    with pytest.raises(netcdf.FileError, match="cannot be made"):
        netcdf.create_nature_run(tmp_path / "no" / "such.nc", CONFIG)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("config", [CONFIG, Lorenz96Config(dim=10)], ids=["sqg", "lorenz96"])
def test_analyses(tmp_path, config):
    path, hours = tmp_path / "analysis.nc", 12.0 * np.arange(4)
    stem, space = ("pv", ("z", "y", "x")) if config is CONFIG else ("state", ("x",))
    rng = np.random.default_rng(1)
    members = rng.normal(size=(4, 3, *config.shape)).astype(np.float32)
    mean, spread, truth = members.mean(1), members.std(1), members[:, 0]
    with analysis_file.AnalysisFile(path, config, ["EnSF", "LETKF"], hours, members=5, title="Test") as file:
        file.write_truth(0, truth)
        file.write("LETKF", 0, mean[:1], spread[:1], members[:1])
        file.write("LETKF", 1, mean[1:], spread[1:], members[1:])
    with xarray.open_dataset(path) as data:
        assert data[f"{stem}_truth"].dims == ("t", *space)
        assert data[f"{stem}_spread"].dims == ("experiment", "t", *space)
        assert data[f"{stem}_members"].dims == ("experiment", "member", "t", *space)
        letkf, ensf = data.sel(experiment="LETKF"), data.sel(experiment="EnSF")
        np.testing.assert_array_equal(data[f"{stem}_truth"], truth)
        np.testing.assert_array_equal(letkf[f"{stem}_mean"], mean)
        np.testing.assert_array_equal(letkf[f"{stem}_spread"], spread)
        np.testing.assert_array_equal(letkf[f"{stem}_members"][:3].transpose("t", "member", ...), members)
        assert np.isnan(letkf[f"{stem}_members"][3:]).all()  # a smaller ensemble than the largest
        assert np.isnan(ensf[f"{stem}_mean"]).all()
        assert list(data.cycles) == [0, 4]
        np.testing.assert_array_equal((data.t - data.t[0]) / np.timedelta64(1, "h"), hours)
        for name in ("mean", "spread", "truth", "members"):
            attributes = data[f"{stem}_{name}"].attrs
            assert attributes["units"] == ("m s-1" if config is CONFIG else "1")
            assert ("kelvin_per_unit" in attributes) == (config is CONFIG)
        assert data.attrs["title"] == "Test"


def test_analyses_that_are_there_are_left_alone(tmp_path):
    path = tmp_path / "analysis.nc"
    same = {"config": CONFIG, "experiments": ["LETKF"], "hours": [0.0, 12.0]}
    with analysis_file.AnalysisFile(path, **same) as file, pytest.raises(ValueError, match="must be"):
        file.write("LETKF", 0, np.zeros((1, 2, 16, 8)), np.zeros((1, 2, 16, 8)))
    before = path.read_bytes()
    with pytest.raises(netcdf.FileError, match="exists"):
        analysis_file.AnalysisFile(path, **same)
    assert path.read_bytes() == before
