"""Weights of PyTorch to a checkpoint that forecasts and trainings read like one of their own."""

import math
from pathlib import Path

import calling
import jax
import jax.numpy as jnp
import netCDF4
import numpy as np
import pytest
import torch_writer

from jaxda import config as configuration
from jaxda import conversion, surrogate
from jaxda.models import sqg, vit, vit_torch
from jaxda.output import netcdf, torch_files
from jaxda.output.checkpoint import Checkpoints
from jaxda.output.netcdf import FileError
from jaxda.training import dataset, trainer

pytestmark = pytest.mark.usefixtures("settings_of_jax")
CONFIG = """
[model]
N = 16
[series]
spinup_days = 1.0
days = 60.0
interval_hours = 4.0
[vit]
image_size = 16
patch_size = 4
embed_dim = 32
depth = 2
num_heads = 4
[data]
lead_hours = [4.0]
gap_hours = 48.0
batch = 4
validation = 0.15
[train]
steps = 2
warmup = 1
validate_every = 2
validation_leads = 2
"""
REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture
def published(reference):
    arrays = reference("vit_reference")
    return arrays, {name.removeprefix("weight/"): a for name, a in arrays.items() if name.startswith("weight/")}


@pytest.fixture
def files(tmp_path, published):
    """Names of a state dict, a training file, statistics, and a folder to make."""
    (tmp_path / "vit.toml").write_text(CONFIG)
    np.savez(tmp_path / "statistics.npz", mean=[1.0, -2.0], std=np.float32([2500.0, 2400.0]))
    torch_writer.save(tmp_path / "vit.pth", published[1])
    return tmp_path


def convert(files, *words, weights="vit.pth", statistics="statistics.npz"):
    given = ["--config", files / "vit.toml", "--out", files / "run"]
    given += ["--statistics", files / statistics] if statistics else []
    return calling.call(calling.script("convert_checkpoint"), files / weights, *given, *words)


def restored(out):
    """State, settings and statistics as a forecast or a training reads them."""
    with Checkpoints(out / "checkpoints", create=False) as checkpoints:
        assert checkpoints.best == checkpoints.last == 0
        meta = checkpoints.meta(0)
        config, statistics = surrogate.settings_of(meta, out)
        make = lambda key: trainer.init_state(config.train, vit.init(key, config.vit))
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        wanted = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), jax.eval_shape(make, jax.random.key(0))
        )
        return checkpoints.restore(0, wanted), config, statistics, meta


def test_what_is_written_forecasts_like_the_public_code(files, published, assert_near):
    status, out, error = convert(files)
    assert status == 0, error
    assert "34,624 parameters, with vit.num_heads = 4 as given" in out
    assert "lead time: 0.166667 in the model's training is 4 h" in out
    assert "positions" not in out
    state, config, statistics, meta = restored(files / "run")
    arrays, weights = published
    x, lead_time = np.float32(arrays["x"]), np.float32(arrays["lead_time"])
    for params in (state.params, state.average):
        assert_near(vit.apply(config.vit, params, x, lead_time), arrays["y"], 1e-5)
        # on the same grid nothing but the precision changes
        np.testing.assert_array_equal(params["trunk"]["positions"], np.float32(weights["pos_embed"][0]))
        np.testing.assert_array_equal(
            params["blocks"]["fc1"]["kernel"][1], np.float32(weights["blocks.1.mlp.fc1.weight"].T)
        )
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} <= {"float32", "int32"}
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.optimizer))
    assert int(state.step) == 0
    assert config == configuration.read(files / "vit.toml", {}, surrogate.SurrogateConfig)
    assert config == configuration.read(files / "run" / "config.toml", {}, surrogate.SurrogateConfig)
    assert (statistics.mean.tolist(), statistics.std.tolist()) == ([1.0, -2.0], [2500.0, 2400.0])
    assert meta["best"] == [math.inf, 0]


def test_in_double_precision_it_is_the_public_code(files, published, x64, assert_near):
    arrays, _ = published
    own = configuration.read(files / "vit.toml", {}, surrogate.SurrogateConfig).vit
    params = vit_torch.from_torch(own, torch_files.read(files / "vit.pth"))
    assert_near(vit.apply(own, params, arrays["x"], arrays["lead_time"]), arrays["y"], 1e-10)


@pytest.mark.parametrize("name", ["torch_vit.ckpt", "torch_vit.safetensors"])
def test_files_of_pytorch_itself(files, name):
    sizes = {
        "model.N": 8,
        "model.dt": 3600.0,
        "model.diff_efold": 1e5,
        "vit.image_size": 8,
        "vit.embed_dim": 8,
        "vit.depth": 1,
        "vit.num_heads": 2,
    }
    sizes |= {"vit.mlp_ratio": 2, "vit.decoder_depth": 1}
    words = [word for field, value in sizes.items() for word in (f"--{field}", str(value))]
    status, _, error = convert(files, *words, weights=REFERENCE / name)
    assert status == 0, error
    state, config, *_ = restored(files / "run")
    # values written by PyTorch, see tests/output/test_torch_files.py
    kernel = ((np.arange(64) + len("blocks.0.attn.proj.weight")) % 101 - 50).reshape(8, 8) / 64
    np.testing.assert_array_equal(state.params["blocks"]["proj"]["kernel"][0], kernel.T)
    assert np.isfinite(vit.apply(config.vit, state.average, jnp.ones((1, 2, 8, 8)), jnp.ones(1))).all()


def test_a_training_goes_on_from_it_with_statistics_of_its_series(files):
    status, _, error = convert(files, statistics=None)
    assert status == 0, error
    config = configuration.read(files / "vit.toml", {}, surrogate.SurrogateConfig)
    series = surrogate.make_series(config)
    expected = dataset.statistics(series, dataset.split(series, config.data).train)
    _, _, found, _ = restored(files / "run")
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-6)
    np.testing.assert_allclose(found.mean, expected.mean, atol=1e-6 * expected.std.max())
    given = files / "run" / "config.toml"
    status, _, error = calling.call(calling.script("train_vit"), given, "--out", files / "run")
    assert status == 0, error
    with Checkpoints(files / "run" / "checkpoints", create=False) as checkpoints:
        # nobody had validated the converted weights, so whoever was is better
        assert checkpoints.last == checkpoints.best == 2


def test_a_training_on_the_simulator_goes_on_from_it(files):
    words = ("--series.source", "simulator", "--series.pool", "4", "--series.spinup_days", "2")
    status, _, error = convert(files, *words)
    assert status == 0, error
    given = files / "run" / "config.toml"
    status, _, error = calling.call(calling.script("train_vit"), given, "--out", files / "run")
    assert status == 0, error
    with Checkpoints(files / "run" / "checkpoints", create=False) as checkpoints:
        assert checkpoints.last == 2


@pytest.mark.long
def test_a_training_of_ours_starts_another(files, tiny_series):
    """Its average weights and statistics are those of the folder; longer roll-outs may follow, or forecasts alone."""
    own = configuration.read(files / "vit.toml", {}, surrogate.SurrogateConfig)
    surrogate.train(own, tiny_series, files / "first")
    before = surrogate.load(files / "first")
    given = {"weights": "first", "statistics": None}
    status, _, error = convert(files, "--data.roll_out", "2", **given)
    assert status == 0, error
    state, config, statistics, _ = restored(files / "run")
    assert config.data.roll_out == 2
    np.testing.assert_array_equal(statistics, before.statistics)
    for params in (state.params, state.average):
        for found, expected in zip(*map(jax.tree.leaves, (params, before.params)), strict=True):
            np.testing.assert_array_equal(found, expected)
    result = surrogate.train(config, tiny_series, files / "run")
    assert result["step"] == 2

    status, _, error = convert(files, "--weights-only", "--out", files / "alone", **given)
    assert status == 0, error
    found = surrogate.load(files / "alone")
    for one, expected in zip(*map(jax.tree.leaves, (found.params, before.params)), strict=True):
        np.testing.assert_array_equal(one, expected)
    size = lambda folder: sum(file.stat().st_size for file in (files / folder).rglob("*") if file.is_file())
    assert size("alone") < 0.4 * size("run")
    for file in (files / "alone").rglob("*"):
        assert file.is_dir() or str(files).encode() not in file.read_bytes()
    with pytest.raises(FileError, match="is missing"):
        surrogate.train(own, tiny_series, files / "alone")

    status, _, error = convert(files, "--vit.depth", "3", "--out", files / "deep", **given)
    assert (status, error.count("\n")) == (2, 1)
    assert "has another [vit], vit.depth = 2, now 3; use the same" in error
    assert not (files / "deep").exists()
    for words, kept in ((("--lead-time", "0.1"), None), ((), "statistics.npz")):
        status, _, error = convert(files, *words, "--out", files / "own", weights="first", statistics=kept)
        assert (status, error.count("\n")) == (2, 1)
        assert "is a training and has its own; leave it out" in error
    assert not (files / "own").exists()


def test_another_grid_interpolates_positions(files):
    status, out, error = convert(files, "--model.N", "32", "--vit.image_size", "32")
    assert status == 0, error
    assert "positions: from 4 x 4 patches to 8 x 8" in out
    state, *_ = restored(files / "run")
    assert state.average["trunk"]["positions"].shape == (64, 32)


def test_the_unit_of_lead_times_goes_into_the_weights(files, published, assert_near):
    """A model that was given 0.01 for 4 h gives the same when it is given 1/6 day."""
    status, out, error = convert(files, "--lead-time", "0.01")
    assert status == 0, error
    assert "lead time: 0.01 in the model's training is 4 h" in out
    found, config, *_ = restored(files / "run")
    arrays, weights = published
    x = np.float32(arrays["x"])
    plain = configuration.read(files / "vit.toml", {}, surrogate.SurrogateConfig)
    params = vit_torch.from_torch(plain.vit, {name: np.float32(array) for name, array in weights.items()})
    expected = vit.apply(plain.vit, params, x, jnp.full(len(x), 0.01))
    assert_near(vit.apply(config.vit, found.average, x, jnp.full(len(x), 4 / 24)), expected, 1e-5)


def test_statistics_of_the_public_code_and_of_netcdf(files):
    folder = files / "npy"
    folder.mkdir()
    # in an order that is not that of the names as text
    for name, (low, high) in {"mean": (3.0, 4.0), "std": (2425.0, 2462.0)}.items():
        np.savez(folder / f"normalize_{name}.npz", sqg_10000=np.array([high]), sqg_500=np.array([low]))
    found = conversion.read_statistics(folder, 2)
    assert (found.mean.tolist(), found.std.tolist()) == ([3.0, 4.0], [2425.0, 2462.0])
    with netCDF4.Dataset(files / "own.nc", "w") as nc:
        nc.createDimension("z", 2)
        for name, values in {"mean": [1.0, 2.0], "std": [3.0, 4.0]}.items():
            nc.createVariable(name, "f8", ("z",))[:] = values
    found = conversion.read_statistics(files / "own.nc", 2)
    assert (found.mean.tolist(), found.std.tolist()) == ([1.0, 2.0], [3.0, 4.0])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: np.savez(p, mean=[1.0, 2.0]), "std is missing; give arrays mean and std"),
        (lambda p: np.savez(p, mean=[1.0, 2.0], std=[1.0]), "std is float64 (1,), 2 numbers are expected"),
        (lambda p: np.savez(p, mean=["a", "b"], std=[1.0, 1.0]), "mean is <U1 (2,), 2 numbers are expected"),
        (lambda p: np.savez(p, mean=[np.nan, 2.0], std=[1.0, 1.0]), "mean = [nan, 2.0] cannot be used"),
        (lambda p: np.savez(p, mean=[1.0, 2.0], std=[1.0, 0.0]), "std = [1.0, 0.0] cannot be used"),
        (lambda p: np.savez(p, mean=np.array([{}, {}]), std=[1.0, 1.0]), "not a readable .npz file"),
        (lambda p: p.write_bytes(b"PK\x03\x04"), "not a readable .npz file"),
        (lambda p: p.write_bytes(b""), "not a readable .npz file"),
        (lambda p: np.save(p.open("wb"), np.ones(2)), "not a readable .npz file"),
        (lambda p: p.mkdir(), "normalize_mean.npz: no such file"),
        (lambda p: None, "no such file; give an .npz or NetCDF file, or a folder with normalize_mean.npz and"),
    ],
)
def test_bad_statistics_are_one_line(files, make, said):
    make(files / "bad.npz")
    refused(files, convert(files, statistics="bad.npz"), said)


def test_a_folder_of_statistics_that_do_not_belong_together(files):
    (files / "npy").mkdir()
    np.savez(files / "npy" / "normalize_mean.npz", a=[1.0], b=[1.0])
    np.savez(files / "npy" / "normalize_std.npz", a=[1.0], c=[1.0])
    refused(files, convert(files, statistics="npy"), "are not those in normalize_std.npz")
    np.savez(files / "npy" / "normalize_std.npz", a=[1.0], b=[1.0])
    refused(files, convert(files, statistics="npy"), "a does not end with a height")
    sqg_run = files / "run.nc"
    netcdf.create_nature_run(sqg_run, sqg.SQGConfig(N=16))
    refused(files, convert(files, statistics="run.nc"), "mean is missing")


def refused(files, result, said):
    status, out, error = result
    assert status == 2
    assert (out, len(error.splitlines())) == ("", 1), error
    assert error.startswith("convert_checkpoint.py: ")
    assert said in error
    assert not (files / "run").exists()


def test_bad_files_are_one_line(files, published):
    refused(files, convert(files, weights="none.pt"), "none.pt: no such file; give a .safetensors file")
    call = torch_writer.Call(torch_writer.Name("os", "system"), (f"touch {files / 'run'}",))
    torch_writer.save(files / "bad.ckpt", published[1], lambda tree: {"callbacks": call, "state_dict": tree})
    refused(files, convert(files, weights="bad.ckpt"), "names os.system, which no state dict needs; nothing of it was")
    whole = (files / "vit.pth").read_bytes()
    (files / "cut.pth").write_bytes(whole[: len(whole) // 2])
    refused(files, convert(files, weights="cut.pth"), "cut.pth: File is not a zip file; save the weights alone as")
    for value in (np.nan, 1e300):
        torch_writer.save(files / "bad.pth", published[1] | {"norm.bias": np.full(32, value)})
        refused(files, convert(files, weights="bad.pth"), "bad.pth: norm.bias: holds values that are not finite")
    (files / "vit.toml").unlink()
    refused(files, convert(files), "vit.toml: no such file")


def test_nothing_is_written_over(files):
    (files / "run").mkdir()
    assert convert(files)[0] == 0  # an empty folder is as good as none
    before = {path: path.read_bytes() for path in (files / "run").rglob("*") if path.is_file()}
    status, _, error = convert(files)
    assert status == 2
    assert "run: is there already, and is not overwritten; give another --out or move it" in error
    assert {path: path.read_bytes() for path in (files / "run").rglob("*") if path.is_file()} == before
    (files / "file").write_text("mine")
    assert convert(files, "--out", files / "file")[0] == 2
    assert convert(files, "--out", files / "file" / "run")[0] == 2
    assert (files / "file").read_text() == "mine"
