"""scripts/lorenz96_scaling.py on one process; its ranks are in parallel/test_mpi.py."""

import json
import sys

import calling
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.parallel import ranks

scaling = calling.script("lorenz96_scaling")
ABSENT = "import of mpi4py halted; None in sys.modules"
pytestmark = pytest.mark.usefixtures("settings_of_jax")


def test_the_filter_follows_the_truth(tmp_path):
    file = tmp_path / "scores.json"
    words = ("--d", 100, "--members", 8, "--cycles", 30, "--json", file)
    status, out, _ = calling.call(scaling, *words)
    assert status == 0
    assert out.count("\n") > 30
    content = json.loads(file.read_text())
    assert {name: len(content[name]) for name in ("rmse", "spread", "seconds", "seconds_statistics")} == dict.fromkeys(
        ("rmse", "spread", "seconds", "seconds_statistics"), 30
    )
    assert content["ranks"] == 1
    climate = 3.6
    assert np.mean(content["rmse"][-10:]) < 0.3 * climate < content["rmse"][0]
    assert 0.5 < np.mean(content["spread"][-10:]) / np.mean(content["rmse"][-10:]) < 2.0
    assert all(whole > part > 0 for whole, part in zip(content["seconds"], content["seconds_statistics"], strict=True))
    assert calling.call(scaling, *words)[0] == 0
    assert json.loads(file.read_text())["rmse"] == content["rmse"]
    calling.call(scaling, *words, "--seed", 1)
    assert json.loads(file.read_text())["rmse"] != content["rmse"]


def test_a_member_is_the_same_whichever_others_are_beside_it():
    config = Lorenz96Config(dim=40, dt=0.01)
    start, cycle = jax.jit(scaling.make_start(config, 0)), jax.jit(scaling.make_cycle(config, 0))

    def after(numbers):
        truth, members = start(numbers)
        for number in range(3):
            truth, members = cycle(number, numbers, truth, members)
        return truth, members

    truth, members = after(jnp.arange(4))
    for parts in (([0, 1], [2, 3]), ([0], [1], [2], [3]), ([0, 1, 2], [3])):
        found = [after(jnp.array(part)) for part in parts]
        np.testing.assert_allclose(jnp.concatenate([x for _, x in found]), members, atol=1e-5)
        for other, _ in found:
            np.testing.assert_array_equal(other, truth)
    distances = np.abs(np.asarray(members)[:, None] - members).max(-1)
    assert (distances[~np.eye(4, dtype=bool)] > 0.1).all()


def test_one_member_has_no_spread(tmp_path):
    file = tmp_path / "scores.json"
    status, out, _ = calling.call(scaling, "--d", 40, "--cycles", 2, "--json", file)
    assert status == 0
    assert "nan" in out
    assert json.loads(file.read_text())["spread"] == [None, None]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--d", 3), "argument --d: 3 is not a whole number from 4 on; see --help"),
        (("--cycles", 0), "argument --cycles: 0 is not a whole number from 1 on; see --help"),
        (("--mpi", "gossip"), "argument --mpi: invalid choice: 'gossip'"),
        (("--json", "nowhere/scores.json"), "--json nowhere/scores.json: is a folder, or in none; give a file"),
        (
            ("--mpi", "mpi4py"),
            f'mpi = "mpi4py": it cannot be loaded (import of mpi4py halted; None in sys.modules); run {ranks.CURE}',
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(monkeypatch, words, message):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    status, out, err = calling.call(scaling, *words)
    assert (status, out) == (2, "")
    assert err.startswith(f"lorenz96_scaling.py: {message}")
    assert err.count("\n") == 1
