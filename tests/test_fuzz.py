"""Configurations and NetCDF files at random: a value or one line, in little time and memory."""

import dataclasses
import math
import resource

import netCDF4
import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxda import config as configuration
from jaxda import lorenz96_scaling, surrogate
from jaxda.config import ExperimentConfig
from jaxda.models.sqg import SQGConfig
from jaxda.output import netcdf, observation_file, product_file, starts
from jaxda.output.forecast_file import ForecastFile
from jaxda.output.netcdf import FileError
from jaxda.output.observation_file import Observations
from jaxda.parallel.machine import Machine

MANY = settings(max_examples=100)
N16 = SQGConfig(N=16)
KINDS = (ExperimentConfig, surrogate.SurrogateConfig, lorenz96_scaling.ScalingConfig, Machine)
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(2**63), 2**31, 1e308, 5e-324, math.nan, math.inf, -math.inf, 0, -0.0, True]),
)
LEAVES = st.one_of(NUMBERS, st.text(max_size=20), st.dates(), st.times(), st.datetimes())
FIELDS = {kind: sorted({name.replace("NAME", "X") for name, _, _ in configuration.describe(kind)}) for kind in KINDS}
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def require_line(error, name, kind):
    """Whether a refusal is of a kind (pydantic's has lines and lines), names the file, and is one line."""
    assert type(error) is kind
    message = str(error)
    assert name in message
    assert len(message.splitlines()) == 1
    assert len(message) < 5000


def read(path, kind, overrides=None):
    """Settings, or None where they are refused as they should be."""
    try:
        return configuration.read(path, overrides, kind)
    except ValueError as error:
        require_line(error, str(path), ValueError)
        return None


@MANY
@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_a_configuration_of_any_bytes(folder, content, kind):
    (folder / "a.toml").write_bytes(content)
    read(folder / "a.toml", kind)


@MANY
@given(st.dictionaries(st.text(max_size=8) | st.sampled_from(["model", "filters", "vit", "nature"]), TREES), st.data())
def test_a_configuration_of_any_tree(folder, tree, data):
    (folder / "a.toml").write_text(tomli_w.dumps(tree).encode(errors="replace").decode())
    read(folder / "a.toml", data.draw(st.sampled_from(KINDS)))


@MANY
@given(st.data())
def test_known_fields_of_any_value(folder, data):
    (folder / "a.toml").write_text("")
    kind = data.draw(st.sampled_from(KINDS))
    names = data.draw(st.lists(st.sampled_from(FIELDS[kind]), max_size=4))
    read(folder / "a.toml", kind, {name: data.draw(TREES) for name in names})


@MANY
@given(
    st.lists(
        st.text(max_size=30) | st.sampled_from(["--model.N", "--a.b=[[[", "--x=" + "9" * 5000, "--y=" + "[" * 9999])
    )
)
def test_any_words_are_fields_or_refused(words):
    try:
        found = configuration.parse_overrides(words)
    except ValueError as error:
        require_line(error, "", ValueError)
    else:
        assert isinstance(found, dict)


# Files


def observations(path):
    found = Observations(0.0, np.ones(9), np.ones(9), np.ones((9, 3)))
    observation_file.write(path, N16, "scaled", found)


def nature_run(path):
    netcdf.create_nature_run(path, N16)
    netcdf.append_states(path, [0.0, 3600.0], np.random.default_rng(0).normal(size=(2, 2, 16, 16)))


def product(path):
    fields = {name: np.ones((2, 16, 16)) for name in product_file.FIELDS}
    product_file.write(path, N16, 0.0, 3600.0, fields, {})


def forecast(path):
    states = np.ones((1, 1, 2, 16, 16))
    file = ForecastFile(path, N16, [0.0], np.arange(2), 1.0)
    file.write(0, states, states, dict.fromkeys(("truth", "forecast", "error"), np.ones(9)))


def of_nature_run(path):
    run = netcdf.read_nature_run(path)
    return netcdf.read_states(run), netcdf.read_numbered(run, np.arange(len(run.times)))


READERS = {
    "observations": (observations, lambda path: observation_file.read(path, N16, "scaled", 100)),
    "nature run": (nature_run, of_nature_run),
    "product": (product, product_file.read),
    "starts": (nature_run, lambda path: starts.choose(starts.of_file(path, N16), count=2)),
    "forecast": (forecast, lambda path: starts.of_file(path, N16)),
}


def read_file(reader, path):
    """What a reader makes of a file, None where it refuses it in a line."""
    try:
        return reader(path)
    except FileError as error:
        require_line(error, str(path), FileError)
        return None


@pytest.fixture(scope="module", params=READERS)
def file(request, folder):
    """The bytes of a good file, where others may be put, and its reader."""
    write, reader = READERS[request.param]
    path = folder / f"{request.param}.nc"
    write(path)
    return path.read_bytes(), path.with_stem("damaged"), reader


@settings(max_examples=60)
@given(data=st.data())
def test_files_cut_off_and_with_changed_bytes(file, data):
    whole, path, reader = file
    content = bytearray(whole[: data.draw(st.integers(len(whole) // 2, len(whole)) | st.just(len(whole)))])
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    read_file(reader, path)


@given(content=st.binary(max_size=300), start=st.sampled_from([b"", b"CDF\x01", b"CDF\x05", b"\x89HDF\r\n\x1a\n"]))
def test_files_of_any_bytes_are_refused(file, content, start):
    _, path, reader = file
    path.write_bytes(start + content)
    assert read_file(reader, path) is None


TYPES = ["f4", "f8", "i1", "i8", "u2", "S1", str]


@settings(max_examples=40)
@given(data=st.data())
def test_variables_of_other_types_and_sizes(file, data):
    """Those of every reader, under their names, with any type, axes and size: up to terabytes that are not there."""
    _, path, reader = file
    path.unlink(missing_ok=True)
    axes = {"t": 2, "z": 2, "y": 16, "x": 16, "obs": 9, "member": 2, "experiment": 1}
    with netCDF4.Dataset(path, "w") as nc:
        nc.setncatts({name: data.draw(st.sampled_from([1.0, "text", 10**6])) for name in ("U", "operator", "dt")})
        for name, size in axes.items():
            nc.createDimension(name, data.draw(st.sampled_from([size, size, 0, 1, None, 10**6])))
        for name in ("pv", "t", "value", "time", "pv_analysis_mean", "experiment"):
            if data.draw(st.integers(0, 5)):
                own = data.draw(st.permutations(list(axes)))[: data.draw(st.integers(0, 4))]
                own = data.draw(st.sampled_from([own, {"pv": ["t", "z", "y", "x"], "t": ["t"]}.get(name, own)]))
                kind = data.draw(st.sampled_from(TYPES))
                nc.createVariable(name, kind, own, chunksizes=[1] * len(own) if own else None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read_file(reader, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # [KB]: a gigabyte


def test_a_size_that_only_the_header_claims_is_refused_before_it_is_made(tmp_path):
    path = tmp_path / "huge.nc"
    netcdf.create_nature_run(path, N16)
    content = bytearray(path.read_bytes())
    content[4:8] = (10**9).to_bytes(4, "big")  # the number of records
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"cut off: has \d+ bytes and claims 2\d{12}"):
        netcdf.read_nature_run(path)
    path.unlink()
    with netCDF4.Dataset(path, "w") as nc:  # HDF5 makes what is missing when it is read
        for name, size in {"t": None, "z": 2, "y": 16, "x": 16}.items():
            nc.createDimension(name, size)
        nc.createVariable("pv", "f4", ("t", "z", "y", "x"))
        nc.createVariable("t", "f8", ("t",))[10**9] = 1.0
        own = {name: value for name, value in dataclasses.asdict(N16).items() if name not in ("kind", "N")}
        nc.setncatts({name: int(value) if isinstance(value, bool) else value for name, value in own.items()})
    with pytest.raises(FileError, match="t claims 8000000008 bytes, the file has"):
        netcdf.read_nature_run(path)
