"""The benchmark of a Lorenz-96 cycle: it goes on from cycle to cycle, and the peer's functions are called."""

import sys

import numpy as np
import pytest

from jaxda.benchmarks import lorenz96, timing
from jaxda.lorenz96_scaling import ScalingConfig

PUBLIC = """
import mpi4py, pandas
from mpi4py import MPI
import torch
calls = []
class IntegratorODE:
    def __init__(self, drift_fun):
        self.drift = drift_fun
    def integrate(self, x, t_start, t_end, num_steps, method, save_path):
        assert (num_steps, method, save_path) == (10, "rk4", False)
        return x + (t_end - t_start) * self.drift(x, 0.0)
def lorenz96_drift(x, t):
    return 8.0 - x
def reverse_SDE(x0, score_likelihood, time_steps):
    calls.append((time_steps, float(score_likelihood(x0, 0.5).abs().max())))
    return x0
def auto_score(xt, obs, forward_model):
    calls.append("forecast")
    return (obs - forward_model(xt)) / obs_sigma
def ana_score(xt, obs):
    return obs - xt
def likelihood_score_t(xt, t, score_fun):
    return g_tau(t) * score_fun(xt)
"""


def test_cycles_go_on():
    run = lorenz96.cycle(240, 2, steps=20, pre_predictions=0)
    assert run.units == 2
    first, second = (np.array(run.call()[1]) for _ in range(2))  # a copy: the next call takes what this one gave
    assert first.shape == second.shape == (2, 240)
    assert np.abs(second).max() < 30
    assert np.abs(first - second).max() > 0.1


def test_work_and_bytes_of_a_cycle():
    config = ScalingConfig(d=1000)
    none = ScalingConfig(d=1000, pre_predictions=0)
    assert lorenz96.work(config) > 3 * lorenz96.work(none) > 0
    assert lorenz96.work(ScalingConfig(d=2000)) == 2 * lorenz96.work(config)
    assert lorenz96.traffic(config) == 4000.0 * (3 * 100 * 4 + 3)


def test_the_peer_is_called_for_a_whole_cycle(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "run_ensf.py").write_text(PUBLIC)
    monkeypatch.delitem(sys.modules, "run_ensf", raising=False)
    before = sys.path.copy()
    run = lorenz96.peer(tmp_path, 40, pre_predictions=2, steps=7)
    assert sys.path == before
    assert "pandas" not in sys.modules or hasattr(sys.modules["pandas"], "DataFrame")
    seconds = timing.timed({"peer": run}, 1)["peer"]
    assert len(seconds) == 1
    calls = sys.modules.pop("run_ensf").calls
    whole = ["forecast", 7, "forecast", 7, 7]
    assert [call if call == "forecast" else call[0] for call in calls] == 2 * whole
    assert all(call[1] > 0 for call in calls if call != "forecast")


def test_a_folder_without_the_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "run_ensf", raising=False)
    with pytest.raises(ValueError, match="holds no program run_ensf that can be imported"):
        lorenz96.peer(tmp_path, 40)
