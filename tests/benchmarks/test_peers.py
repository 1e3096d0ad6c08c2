"""Public codes that stand beside ours: found by what a folder holds, driven as ours are; what is missing is said."""

import sys
import types

import numpy as np
import pytest

from jaxda.benchmarks import peers
from jaxda.benchmarks.catalogue import Sizes

# stands in for PyTorch: the peer's file asks for half precision, and hands its arrays through
TORCH = """
asked = []
def manual_seed(seed):
    asked.append(seed)
def set_default_dtype(dtype):
    asked.append(dtype)
"""
ENSCORE = """
import torch
class EnSF:
    def __init__(self, **settings):
        self.settings = settings
    def score_likelihood(self):
        return 0.0
    def state_update_normalized(self, members, truth, values):
        torch.set_default_dtype("half")
        assert members.shape == (4, 512) and truth.shape == values.shape == (512,)
        assert members.dtype == values.dtype == "float32"
        assert self.settings["n_dim"] == 512 and self.settings["ensemble_size"] == 4
        assert self.settings["euler_steps"] == 1000 and self.settings["device"] == "cpu"
        for _ in range(250):
            self.score_likelihood()
        return members
"""


@pytest.fixture(autouse=True)
def path(monkeypatch):
    """What is imported here is forgotten."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in ("sqgturb", "Enscore", "torch"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in ("sqgturb", "Enscore", "torch"):
        sys.modules.pop(name, None)


SIZES = Sizes(N=16, members=4)


@pytest.mark.parametrize("place", ["", "sqg", "src/sqg"])
def test_the_ensf_is_found_counted_and_kept_in_single_precision(tmp_path, monkeypatch, place):
    (tmp_path / place).mkdir(parents=True, exist_ok=True)
    (tmp_path / place / "Enscore.py").write_text(ENSCORE)
    torch = types.ModuleType("torch")
    exec(TORCH, torch.__dict__)
    monkeypatch.setitem(sys.modules, "torch", torch)
    found = peers.find([tmp_path])
    assert list(found) == ["ensf"]
    run = found["ensf"](SIZES)
    assert run.units == 0.5  # 250 of 500 steps
    np.testing.assert_array_equal(run.call(), np.asarray(SIZES.case.ensemble).reshape(4, -1))
    assert torch.asked == [0, 0]  # seeds; half precision was not asked of PyTorch


def test_without_pytorch_one_line_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "Enscore.py").write_text("import torch\n")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"--peer .*: Enscore cannot be imported \(.*torch.*\); pip install torch"):
        peers.find([tmp_path])


def test_a_package_without_its_old_letkf_has_the_model_alone(tmp_path):
    (tmp_path / "sqgturb").mkdir()
    (tmp_path / "sqgturb" / "__init__.py").write_text("class SQG: pass\n")
    assert list(peers.find([tmp_path])) == ["sqg-step"]


def test_several_folders_and_one_that_holds_nothing(tmp_path):
    (tmp_path / "sqgturb").mkdir()
    (tmp_path / "sqgturb" / "__init__.py").write_text("enkf_update = None\n")
    assert set(peers.find([tmp_path])) == {"sqg-step", "letkf"}
    with pytest.raises(
        ValueError, match=r"nowhere: holds no package sqgturb, no Enscore.py of the EnSF and no run_ensf.py"
    ):
        peers.find([tmp_path, tmp_path / "nowhere"])


def test_the_lorenz96_program_is_found_where_it_lies(tmp_path):
    (tmp_path / "ensf").mkdir()
    (tmp_path / "ensf" / "run_ensf.py").write_text("")
    assert list(peers.find([tmp_path])) == ["lorenz96-cycle"]
    assert list(peers.find([tmp_path / "ensf"])) == ["lorenz96-cycle"]
