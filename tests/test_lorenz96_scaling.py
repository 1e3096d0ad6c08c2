"""The scaling problem and scripts/lorenz96_scaling.py on one process; its ranks are in parallel/test_mpi.py."""

import dataclasses
import json
import sys
from pathlib import Path

import calling
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda import config as configuration
from jaxda import lorenz96_scaling
from jaxda.lorenz96_scaling import ScalingConfig
from jaxda.parallel import ranks

scaling = calling.script("lorenz96_scaling")
CONFIGS = Path(__file__).parents[1] / "configs"
FILE = CONFIGS / "lorenz96_1e6.toml"
SMALL = ScalingConfig(d=480, between=2, pre_predictions=1)
pytestmark = pytest.mark.usefixtures("settings_of_jax")


def after(config, numbers, devices, largest=None, cycles=2):
    """Truth and members after some cycles."""
    ring = lorenz96_scaling.make_ring(config, devices, largest)
    numbers = jnp.asarray(numbers)
    cycle = lorenz96_scaling.make_cycle(config, ring)
    truth, members = lorenz96_scaling.make_start(config, ring)(numbers)
    for number in range(cycles):
        truth, members = cycle(number, numbers, truth, members)
    return np.asarray(truth), np.asarray(members)


def test_a_member_is_the_same_whichever_others_are_beside_it_and_on_any_devices_and_windows(cpus, assert_near):
    truth, members = after(SMALL, range(3), cpus[:1])
    assert 2.5 < truth.std() < 5.0
    distances = np.abs(members[:, None] - members).max(-1)
    assert (distances[~np.eye(3, dtype=bool)] > 0.1).all()
    for part, devices, largest in (([1], 1, None), ([0, 1, 2], 2, None), ([2], 2, 80), ([0], 1, 60)):
        other, found = after(SMALL, part, cpus[:devices], largest)
        assert_near(other, truth, 2e-4)  # rounding grows by the chaos of 102 steps
        assert_near(found, members[part], 2e-4)


def test_a_cycle_holds_few_states(cpus):
    """At most 12 arrays of the state, asked at d = 1e8; here with windows of as small a part."""
    config = ScalingConfig(d=100_000)
    ring = lorenz96_scaling.make_ring(config, cpus, 500)
    states = lorenz96_scaling.states_in_memory(config, ring, lorenz96_scaling.make_cycle(config, ring))
    assert 3.0 < states <= 8.0


def test_the_filter_follows_the_truth(tmp_path):
    file = tmp_path / "scores.json"
    words = (FILE, "--d", 240, "--members", 4, "--cycles", 15, "--json", file)
    status, out, err = calling.call(scaling, *words)
    assert (status, err) == (0, "")
    assert out.count("\n") > 15
    content = json.loads(file.read_text())
    for name in ("rmse", "spread", "seconds", "seconds_statistics"):
        assert len(content[name]) == 15
    assert content["ranks"] == 1
    assert content["settings"]["pre_predictions"] == 3
    climate = 3.6
    assert np.mean(content["rmse"][-5:]) < 0.3 * climate < content["rmse"][0]
    assert all(whole > part > 0 for whole, part in zip(content["seconds"], content["seconds_statistics"], strict=True))


def test_one_member_has_no_spread_and_the_seed_decides(tmp_path):
    found = []
    for number, seed in enumerate((0, 0, 1)):
        file = tmp_path / f"{number}.json"
        words = ("--d", 40, "--cycles", 2, "--pre_predictions", 0, "--seed", seed, "--json", file)
        status, out, _ = calling.call(scaling, FILE, *words)
        assert status == 0
        assert "nan" in out
        found.append(json.loads(file.read_text()))
    assert found[0]["spread"] == [None, None]
    assert found[0]["rmse"] == found[1]["rmse"] != found[2]["rmse"]


@pytest.mark.parametrize(("analysis", "least", "most"), [("none", 3.0, 6.5), ("observations", 0.5, 3.0)])
def test_what_there_is_without_a_filter(cpus, analysis, least, most):
    truth, members = after(dataclasses.replace(SMALL, analysis=analysis), [0], cpus[:1])
    assert least < np.sqrt(np.mean((members[0] - truth) ** 2)) < most


def test_without_cycles_it_says_what_memory_takes(tmp_path):
    status, out, _ = calling.call(scaling, FILE, "--cycles", 0, "--d", 24000, "--pre_predictions", 0)
    assert status == 0
    assert "memory of a cycle: " in out
    assert out.count("\n") == 1


@pytest.mark.parametrize(("name", "d"), [("1e6", 10**6), ("1e7", 10**7), ("1e8", 10**8)])
def test_the_configurations_are_the_published_problem(name, d):
    config = configuration.read(CONFIGS / f"lorenz96_{name}.toml", {}, ScalingConfig)
    assert config == ScalingConfig(d=d)


def test_a_way_of_communication_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    status, out, err = calling.call(scaling, FILE, "--mpi", "mpi4py")
    assert (status, out) == (2, "")
    missing = "it cannot be loaded (import of mpi4py halted; None in sys.modules)"
    assert err == f'lorenz96_scaling.py: mpi = "mpi4py": {missing}; run {ranks.CURE}\n'
