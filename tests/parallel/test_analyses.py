"""Analyses of ensembles over devices: what is communicated, exactly, and the same numbers on any number of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import over_devices
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from over_devices import ITERATIONS, MEMBERS, STATE

from jaxda import observations, twin
from jaxda.filters import inflation, innovations
from jaxda.parallel import hlo
from jaxda.parallel.hlo import Collective
from jaxda.parallel.mesh import by_members, member_mesh, over_members

#: nothing is summed over devices, batches have one size on any number of them: the same bits
EXACT = {"letkf, regional", "letkf, no cut-off", "local-score, arctan"}
TESTS = Path(__file__).parents[1]
ENSEMBLE = MEMBERS * STATE


def reduced(devices, looped=False):
    return Collective("all-reduce", 1, STATE, devices, looped)


def gathered(devices, size, times=1):
    return Collective("all-gather", times, size, devices, times > 1)


def columns(devices, total, each, batch=256):
    """Bytes of results by column, `each` values a column, with those done twice to fill up the batches."""
    size = min(batch, -(-total // devices))
    return 4 * each * size * devices * -(-total // (size * devices))


def measured(devices, few, more, batch=256, times=1):
    """What local-score gathers of its scores at two samples of columns: for q, then for lambda and the tapers."""
    pairs = ((few, 1 + 2 * innovations.HALVINGS), (more, len(innovations.SHARPNESSES)))
    each = len(innovations.INFLATIONS)
    return [gathered(devices, columns(devices, size, count * each, batch), times) for size, count in pairs]


def expected(name, devices):
    """The table of docs/benchmarks.md, for the analyses of `over_devices`."""
    if devices == 1:
        return []
    two, whole = [reduced(devices)] * 2, gathered(devices, ENSEMBLE)
    return {
        "ensf": [*two, *two],
        "ensf, no relaxation": two,
        "ensf, softmax": [*two, whole, *two],
        "ensf, tolerance": [*two, reduced(devices, looped=True), *two],
        "letkf": [whole, whole],
        "letkf, regional": [whole, gathered(devices, columns(devices, 64, 2 * (MEMBERS + 1), 5))],
        "letkf, no cut-off": [whole],
        "local-score": [whole, *measured(devices, 9, 36), whole],
        "local-score, arctan": [
            whole,
            *measured(devices, 9, 36, 1, ITERATIONS),
            gathered(devices, ENSEMBLE, ITERATIONS),
            *measured(devices, 9, 36, 1),
            whole,
        ],
        "local-score, between": [whole, *measured(devices, 9, 9, 2), whole],
    }[name]


@pytest.fixture(scope="module")
def alone():
    """A function: name -> the analysis on one device without a mesh."""
    return {name: over_devices.run(name, None)[0] for name in over_devices.ANALYSES}.__getitem__


@pytest.mark.parametrize("name", over_devices.ANALYSES)
def test_two_devices(cpus, assert_near, alone, name):
    result, said = over_devices.run(name, member_mesh(MEMBERS, cpus))
    assert said == expected(name, 2)
    assert_near(result, alone(name), 0.0 if name in EXACT else 1e-6)


QUICK = {"ensf", "letkf, regional", "local-score"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in over_devices.ANALYSES]
)
def test_four_and_eight_devices(tmp_path, assert_near, name):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "NPROC": "32", "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_NUM_CPU_DEVICES", None)
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, TESTS / "over_devices.py", tmp_path / "found.npz", name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as arrays:
        found = dict(arrays)
    for count in (1, 4, 8):
        said = [Collective(*one) for one in json.loads(str(found[f"said {count}"]))]
        assert said == expected(name, count)
        assert_near(found[str(count)], found["1"], 0.0 if name in EXACT else 1e-6)
    if name.startswith("ensf"):
        assert_near(found["4 x 2"], found["1"], 1e-6)


def test_the_spread_survives_a_mean_thirty_thousand_times_larger(cpus):
    """Squares of the values would leave nothing of it in single precision."""
    members = (2.0**15 + np.random.default_rng(0).normal(size=(MEMBERS, 500))).astype(np.float32)

    def sizes(key, ensemble, observation, axis):
        return inflation.size_of(inflation.deviations(ensemble, axis)[1], axis)[None]

    found = jax.jit(by_members(sizes, member_mesh(MEMBERS, cpus)))(jax.random.key(0), members, 0.0)
    np.testing.assert_allclose(found, [members.astype(float).std(0, ddof=1)] * 2, rtol=1e-3)


def test_a_cycles_scores_gather_no_ensemble(cpus):
    """The compiler's own choice: the CRPS sorts at each point, so members change places with points and back."""
    mesh = member_mesh(MEMBERS, cpus)
    operator = over_devices.OPERATORS["identity"]
    make, _, given = over_devices.ANALYSES["ensf"]
    forecast = over_members(jnp.tanh, mesh)
    cycle = lambda ensemble, truth: twin.cycle(
        jax.random.key(0),
        ensemble,
        truth,
        forecast=lambda key, x: forecast(x),
        observe=observations.make_network(observations.ObservationConfig(operator="identity", sigma=1.0), operator),
        analysis=make("identity", mesh, **given),
        screen=lambda ensemble, observation: observations.screened(operator, ensemble, observation, 5.0),
    )
    _, ensemble, _ = over_devices.inputs("identity")
    ensemble = jax.device_put(ensemble, NamedSharding(mesh, PartitionSpec("member")))
    truth = jnp.zeros((3, *over_devices.SHAPE))
    found = hlo.collectives(jax.jit(cycle).lower(ensemble, truth).compile().as_text())
    assert found
    assert {one.times for one in found} == {3}
    assert "all-gather" not in hlo.count(found)
    assert max(one.bytes for one in found) <= ENSEMBLE / 2
