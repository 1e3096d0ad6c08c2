"""What all tests share: two CPU devices, double precision on request, fields and reference arrays."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from jaxda.parallel import launch


def pytest_configure(config):
    """Most of the tests' time is compiling: the same program only once, and unoptimised, which takes half as long.

    Optimised are those of the slow tests, which compute more than that saves.
    """
    if config.option.markexpr != "slow":
        unoptimised = "--xla_backend_optimization_level=0"
        if jax.__version_info__ < (0, 12):  # later ones have no others, and end at an unknown flag
            unoptimised += " --xla_cpu_use_fusion_emitters=false"
        os.environ["XLA_FLAGS"] = f"{unoptimised} {os.environ.get('XLA_FLAGS', '')}"
    if not hasattr(config, "workerinput"):  # the workers of pytest-xdist take that of the process that starts them
        config.compiled = tempfile.TemporaryDirectory(prefix="jaxda-tests-", ignore_cleanup_errors=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = config.compiled.name
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


os.environ["JAXDA_CACHE"] = "off"  # that of `pytest_configure`
os.environ["JAXDA_LAUNCH"] = "single"  # a test is a process by itself, whatever started pytest
os.environ["JAX_NUM_CPU_DEVICES"] = "2"  # sharded tests run on every machine; scripts that tests call ask for no others
launch.start()  # before the backend starts
jax.config.update("jax_num_cpu_devices", 2)

# The first example compiles, so no deadline; `x64` holds for all examples of a test, so its scope is right.
settings.register_profile(
    "jaxda", deadline=None, max_examples=25, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("jaxda")

HERE = Path(__file__).parent
TINY = HERE.parent / "configs" / "vit_tiny.toml"


@pytest.fixture
def x64():
    """Double precision, for comparisons with theory; without it a test runs as users do, in single."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def reference():
    """A function: name -> arrays of tests/reference, or of the project's shared folder (else the test is skipped)."""

    def load(name):
        for folder in (HERE / "reference", HERE.parents[1] / "shared" / "reference"):
            if (folder / f"{name}.npz").exists():
                with np.load(folder / f"{name}.npz") as arrays:
                    return dict(arrays)
        pytest.skip(f"{name}.npz is in the shared folder only")

    return load


@pytest.fixture(scope="session")
def assert_near():
    """A function that compares in the relative maximum norm, so that values near zero do not decide."""

    def check(actual, expected, tolerance):
        actual, expected = np.asarray(actual), np.asarray(expected)
        assert actual.shape == expected.shape
        error, scale = np.abs(actual - expected).max(), np.abs(expected).max()
        assert error <= tolerance * scale, f"error {error:.3g} > {tolerance:.3g} of {scale:.3g}"

    return check


@pytest.fixture(scope="session")
def band_limited():
    """A function: random fields `(*shape, n, n)` of unit variance, wavenumbers under `limit` along each axis."""

    def make(seed, n, limit=None, shape=()):
        limit = limit or n // 2
        spectrum = np.fft.rfft2(np.random.default_rng(seed).normal(size=(*shape, n, n)))
        spectrum[..., limit:] = 0.0
        spectrum[..., np.abs(np.fft.fftfreq(n, 1.0 / n)) >= limit, :] = 0.0
        field = np.fft.irfft2(spectrum, s=(n, n))
        return field / field.std((-2, -1), keepdims=True)

    return make


@pytest.fixture(scope="session")
def cpus():
    """The two CPU devices, also where the default device is a GPU."""
    return jax.devices("cpu")[:2]


@pytest.fixture
def settings_of_jax():
    """A script sets JAX up for a process of its own; afterwards it is as it was."""
    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="session")
def tiny_series():
    """The series of configs/vit_tiny.toml."""
    from jaxda import config, surrogate

    return surrogate.make_series(config.read(TINY, {}, surrogate.SurrogateConfig))


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory, tiny_series):
    """A nature run of that series."""
    from jaxda.models import sqg
    from jaxda.output import netcdf

    file = tmp_path_factory.mktemp("series") / "series.nc"
    netcdf.create_nature_run(file, sqg.SQGConfig(N=16))
    states = tiny_series.read(np.arange(tiny_series.count))
    netcdf.append_states(file, 3600.0 * tiny_series.interval_hours * np.arange(len(states)), states)
    return file


@pytest.fixture(scope="session")
def untrained(tmp_path_factory, tiny_series):
    """A folder with a surrogate of that series that compiles in no time: a small network, at random."""
    from jaxda import config, surrogate
    from jaxda.models import vit
    from jaxda.output.checkpoint import Checkpoints
    from jaxda.training import dataset, trainer

    network = {"image_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2, "decoder_depth": 0, "residual": True}
    network |= {"aggregation": "joint", "dropout": 0.0, "drop_path": 0.0}
    own = config.read(TINY, {"vit": network}, surrogate.SurrogateConfig)
    statistics = dataset.statistics(tiny_series, range(tiny_series.count))
    params = jax.jit(lambda: jax.tree.map(lambda leaf: 0.3 * leaf, vit.init(jax.random.key(0), own.vit)))()
    folder = tmp_path_factory.mktemp("untrained")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(0, trainer.init_state(own.train, params), surrogate.meta_of(own, statistics), 1.0)
    return folder


@pytest.fixture(scope="session")
def tiny_training(tmp_path_factory, tiny_file):
    """What scripts/train_vit.py made of that series in 20 steps: its folder, the file it read, and what it said."""
    import calling

    file, folder = tiny_file, tmp_path_factory.mktemp("training") / "run"
    words = f"--series.file {file} --train.steps 20 --train.warmup 2 --train.validate_every 10"
    status, out, error = calling.call(calling.script("train_vit"), TINY, "--out", folder, *words.split())
    assert status == 0, error
    return folder, file, out


SMALL_TWIN = """
title = "Baselines & <script>alert(1)</script>"
members = 6
cycles = 9
interval_hours = 6.0
[model]
kind = "lorenz96"
[nature]
spinup_days = 20.0
climate_days = 20.0
[initial]
noise = 1.0
[filters.free-run]
kind = "free-run"
[filters."data (4)"]
kind = "observations-only"
members = 4
[output]
format = "zarr"
"""


@pytest.fixture(scope="session")
def small_twin(tmp_path_factory):
    """The folder of a twin experiment of Lorenz-96, as scripts/osse.py made it; copy it to change it."""
    import calling

    above = tmp_path_factory.mktemp("twin")
    (above / "small.toml").write_text(SMALL_TWIN)
    status, _, error = calling.call(calling.script("osse"), above / "small.toml", "--out", above / "run")
    assert status == 0, error
    return above / "run"
