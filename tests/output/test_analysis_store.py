"""Analyses in Zarr: the same as in NetCDF, chunk by chunk, and gone on with."""

import numpy as np
import pytest
import xarray

from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.models.sqg import SQGConfig
from jaxda.output import analysis_file, analysis_store
from jaxda.output.netcdf import FileError

zarr = pytest.importorskip("zarr")
SQG, LORENZ = SQGConfig(N=16), Lorenz96Config(dim=10)
NAMES, HOURS = ["EnSF", "größer (%)"], 12.0 * np.arange(4)


def members_of(config):
    return np.random.default_rng(1).normal(size=(4, 3, *config.shape)).astype(np.float32)


def fill(file, config, cycles=range(4)):
    members = members_of(config)
    file.write_truth(0, members[:, 0])
    for k in cycles:
        part = members[k : k + 1]
        file.write("EnSF", k, part.mean(1), part.std(1), part)


def files(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def opened(path):
    return xarray.open_zarr(path, chunks=None, consolidated=False)


@pytest.mark.parametrize("config", [SQG, LORENZ], ids=["sqg", "lorenz96"])
def test_it_holds_what_the_netcdf_file_holds(tmp_path, config):
    for kind, name in ((analysis_store.AnalysisStore, "a.zarr"), (analysis_file.AnalysisFile, "a.nc")):
        with kind(tmp_path / name, config, NAMES, HOURS, members=5, title="Test") as file:
            fill(file, config)
    with opened(tmp_path / "a.zarr") as one, xarray.open_dataset(tmp_path / "a.nc") as other:
        assert set(one.variables) == set(other.variables)
        for name in one.variables:
            assert one[name].dims == other[name].dims
            np.testing.assert_array_equal(one[name].astype(other[name].dtype), other[name], err_msg=name)
            np.testing.assert_equal(one[name].attrs, other[name].attrs)
        assert {k: v for k, v in one.attrs.items() if k != "history"} == {
            k: v for k, v in other.attrs.items() if k != "history"
        }


def test_small_states_share_a_chunk(tmp_path):
    analysis_store.AnalysisStore(tmp_path / "a.zarr", LORENZ, NAMES, 6.0 * np.arange(10**4), members=1000)
    chunks = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")["state_members"].chunks
    assert chunks == (1, 64, 409, 10)  # 409 times are 16 kB
    assert np.prod(chunks) * 4 < 2**20


def test_a_chunk_has_one_time_and_few_members(tmp_path, monkeypatch):
    large = SQGConfig(N=64)
    monkeypatch.setattr(analysis_store, "CHUNK", 2 * 4 * 2 * 64 * 64)  # two members
    with analysis_store.AnalysisStore(tmp_path / "a.zarr", large, NAMES, HOURS, members=5) as file:
        before = files(tmp_path / "a.zarr")
        fill(file, large, cycles=[0])
        first = files(tmp_path / "a.zarr")
        fill(file, large, cycles=[1])
    after = files(tmp_path / "a.zarr")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")
    assert group["pv_members"].chunks == (1, 2, 1, 2, 64, 64)
    assert group["pv_truth"].chunks == (1, 2, 64, 64)
    assert not {path for path in before if "pv_" in str(path) and path.name != "zarr.json"}  # nothing for nothing
    changed = {path for path in first if after[path] != first[path]}
    assert changed == {path for path in first if "cycles/c" in str(path)}  # no chunk of the first cycle


def test_pieces_make_the_whole(tmp_path):
    new = lambda name: analysis_store.AnalysisStore(tmp_path / name, SQG, NAMES, HOURS, members=3)
    fill(new("whole.zarr"), SQG)
    pieces = new("a.zarr")
    for cycles in ([0, 1], [2, 3]):
        fill(pieces, SQG, cycles=cycles)
    without = lambda name: {path: own for path, own in files(tmp_path / name).items() if path.name != "zarr.json"}
    assert without("a.zarr") == without("whole.zarr")
    np.testing.assert_array_equal(opened(tmp_path / "a.zarr").pv_members[0].transpose("t", ...), members_of(SQG))


def test_analyses_that_are_there_are_left_alone(tmp_path):
    same = {"config": SQG, "experiments": NAMES, "hours": HOURS, "members": 3}
    store = analysis_store.AnalysisStore(tmp_path / "a.zarr", **same)
    before = files(tmp_path)
    with pytest.raises(FileError, match="exists already"):
        analysis_store.AnalysisStore(tmp_path / "a.zarr", **same)
    with pytest.raises(FileError, match="cannot be made"):
        analysis_store.AnalysisStore(tmp_path / "no" / "such.zarr", **same)
    with pytest.raises(ValueError, match="must be"):
        store.write_truth(0, np.zeros((1, 2, 16, 8)))
    assert files(tmp_path) == before
