"""A cycle of the Lorenz-96 scaling problem, and the same cycle by the public PyTorch program."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxda import lorenz96_scaling
from jaxda.benchmarks.timing import Run
from jaxda.lorenz96_scaling import ScalingConfig
from jaxda.models import lorenz96_windows

#: operations of a point in an Euler step beside the model's: Threefry, Box-Muller, arctan, the sum of four
POINTWISE = 110 + 35 + 35 + 7
#: arrays that an Euler step of a pre-prediction reads or writes: path twice, forecast, observations
STREAMS = 4


def work(config: ScalingConfig) -> float:
    """Operations of a member's cycle, whole-number ones of the noise included [FLOP]."""
    model = lorenz96_windows.operations(config.between)
    return config.d * config.steps * (config.pre_predictions * (model + POINTWISE) + POINTWISE)


def traffic(config: ScalingConfig) -> float:
    """Bytes through memory of a member's cycle, windows and the update's blocks being in the cache [B]."""
    return 4.0 * config.d * (config.pre_predictions * config.steps * STREAMS + 3)


def cycle(d: int, members: int = 1, **settings) -> Run:
    """A cycle on all devices of this process; the unit is one member's cycle.

    Args:
        settings: further fields of ScalingConfig.

    Raises:
        ValueError: settings that cannot be.
    """
    config = ScalingConfig(d=d, members=members, **settings)
    ring = lorenz96_scaling.make_ring(config)
    numbers = jnp.arange(members)
    kept = [jnp.zeros((), int), *lorenz96_scaling.make_start(config, ring)(numbers)]
    program = lorenz96_scaling.make_cycle(config, ring).lower(kept[0], numbers, *kept[1:]).compile()

    def call():
        number, truth, ensemble = kept
        kept[:] = number + 1, *program(number, numbers, truth, ensemble)
        return kept[1:]

    return Run(call, members, work(config), program)


def peer(folder: Path, d: int, pre_predictions: int = 3, steps: int = 100) -> Run:
    """A cycle by the public PyTorch program `run_ensf` in `folder`: its samplings and model, called as it calls them.

    What that program does under `__main__`, settings as globals and the loop over cycles, is set here; modules that it
    imports at the top and these functions do not need (MPI, tables, figures) may be absent. It runs on torch's default
    threads. Its pre-predictions compare the forecast itself with arctan of the observed quantity; here arctan of it is
    compared, which costs 1e-3 of a sampling.

    Raises:
        ValueError: no such program there, or no PyTorch.
    """
    try:
        torch = importlib.import_module("torch")
        public = _imported(folder)
    except ImportError as error:
        wrong = f"--peer {folder}: holds no program run_ensf that can be imported ({error})"
        raise ValueError(f"{wrong}; give the folder of run_ensf.py and install torch") from None
    fixed = {"eps_alpha": 0.01, "eps_sigma_sq": 0.05, "ensemble_size": 1, "n_dim": d, "device": "cpu", "obs_sigma": 0.1}
    whole = torch.ones(d, dtype=torch.bool)
    chosen = {"select_idx": whole, "select_dim": torch.arange(d), "g_tau": lambda t: 1.0 - t}
    vars(public).update(fixed | chosen)
    torch.manual_seed(0)
    model = public.IntegratorODE(drift_fun=public.lorenz96_drift)
    forward = partial(model.integrate, t_start=0.0, t_end=0.1, num_steps=10, method="rk4", save_path=False)
    kept = [forward(8.0 + torch.randn(1, d)), forward(8.0 + torch.randn(1, d))]

    def call():
        truth, x = kept
        truth = forward(truth)
        y = (torch.atan(truth) + 0.1 * torch.randn(1, d))[0]
        scores = [partial(public.auto_score, obs=y, forward_model=lambda z: torch.atan(forward(z)))] * pre_predictions
        for score in scores:
            x = public.reverse_SDE(x, partial(public.likelihood_score_t, score_fun=score), steps)
        score = partial(public.ana_score, obs=y)
        x = public.reverse_SDE(forward(x), partial(public.likelihood_score_t, score_fun=score), steps)
        kept[:] = truth, x
        return np.asarray(x)

    return Run(call)


def _imported(folder: Path) -> types.ModuleType:
    """The public program as a module; what it imports and is not here is an empty module for as long."""
    absent = [name for name in ("mpi4py", "pandas", "matplotlib", "matplotlib.pyplot") if not _is_there(name)]
    sys.path.insert(0, str(folder))
    try:
        for name in absent:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].MPI = None
        return importlib.import_module("run_ensf")
    finally:
        sys.path.remove(str(folder))
        for name in absent:
            del sys.modules[name]


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
