"""The same work by public codes, found in folders that are given, imported from there, and never part of this one.

* sqgturb (NumPy, FFTW by pyfftw): its SQG model on two threads, and its LETKF `enkf_update`, which later versions
  have not, or with other arguments (eb57b7b of 2024-01-17 has the one that is called here).
* the PyTorch EnSF of the SQG experiments: `Enscore.py`, class `EnSF`, on the CPU. It asks for half precision by
  `torch.set_default_dtype`, which CPUs are slow at; here that request is ignored, and all of it is in single.
* the PyTorch program `run_ensf.py` of the Lorenz-96 scaling problem (`benchmarks.lorenz96`).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from unittest import mock

import numpy as np

from jaxda.benchmarks import lorenz96
from jaxda.benchmarks.catalogue import Sizes
from jaxda.benchmarks.cycle import Case
from jaxda.benchmarks.timing import Run

#: makes the run of a peer from the case and the package
Make = Callable[[Case, ModuleType], Run]
#: makes the run of a peer at the sizes that are asked for
Peer = Callable[[Sizes], Run]
#: places of the EnSF in a folder that is given
ENSCORE = ("Enscore.py", "sqg/Enscore.py", "src/sqg/Enscore.py")
#: places of the Lorenz-96 problem
RUN_ENSF = ("run_ensf.py", "ensf/run_ensf.py")
#: Euler steps that a run of the EnSF is reported for
EULER_STEPS = 500


def find(folders: Sequence[Path]) -> dict[str, Peer]:
    """Benchmark -> what makes the run of a peer, of all that the folders hold.

    Raises:
        ValueError: a folder that holds no peer, or one whose packages are not installed.
    """
    found: dict[str, Peer] = {}
    for folder in folders:
        makers: dict[str, Peer] = {}
        if (folder / "sqgturb" / "__init__.py").is_file():
            package = _imported(folder, "sqgturb")
            known = {"sqg-step": sqg_step} | ({"letkf": letkf} if hasattr(package, "enkf_update") else {})
            makers |= _bound(package, known)
        if place := next((folder / name for name in ENSCORE if (folder / name).is_file()), None):
            makers |= _bound(_imported(place.parent, "Enscore"), {"ensf": ensf})
        if place := next((folder / name for name in RUN_ENSF if (folder / name).is_file()), None):
            makers["lorenz96-cycle"] = lambda sizes, place=place: lorenz96.peer(place.parent, sizes.d)
        if not makers:
            holds = "holds no package sqgturb, no Enscore.py of the EnSF and no run_ensf.py"
            raise ValueError(f"--peer {folder}: {holds}; give the folder above it")
        found |= makers
    return found


def _bound(package: ModuleType, makers: Mapping[str, Make]) -> dict[str, Peer]:
    return {name: lambda sizes, make=make: make(sizes.case, package) for name, make in makers.items()}


def _imported(folder: Path, name: str) -> ModuleType:
    """The module or package of a folder; the folder stays on the path, for what is imported later."""
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    except ImportError as error:
        cure = f"pip install {error.name}" if error.name else "install what it needs"
        raise ValueError(f"--peer {folder}: {name} cannot be imported ({error}); {cure}") from None


def sqg_step(case: Case, package: ModuleType) -> Run:
    """The forecast of at most four members by FFTW on two threads; the unit is one step of one member."""
    settings = {"dt": case.model.dt, "diff_efold": case.model.diff_efold, "U": case.model.U, "threads": 2}
    ensemble = np.asarray(case.ensemble)
    some = ensemble[:4]
    model = package.SQG(ensemble[0], precision="single", **settings)
    model.timesteps = case.timed_steps
    return Run(lambda: [model.advance(member) for member in some], len(some) * case.timed_steps)


def letkf(case: Case, package: ModuleType) -> Run:
    """One LETKF analysis, 2000 km, every point observed."""
    ensemble, n, side = np.asarray(case.ensemble), case.model.N, case.model.L
    x = np.arange(n) * side / n
    xs, ys = np.meshgrid(x, x)
    distances = (package.cartdist(a, b, xs, ys, side, side) for a, b in zip(xs.ravel(), ys.ravel(), strict=True))
    taper = np.array([package.gaspcohn(d.ravel() / 2e6) for d in distances])
    vertical = float(package.gaspcohn(np.array(0.5)))
    values = np.asarray(case.observation.values, float).reshape(2, -1)
    columns = ensemble.astype(float).reshape(case.members, 2, -1)
    observed = case.model.kelvin * columns
    return Run(lambda: package.enkf_update(columns.copy(), observed, values, np.ones(n * n), taper, vertical))


def ensf(case: Case, module: ModuleType) -> Run:
    """One EnSF analysis on the CPU, normalised and relaxed as published, reported for 500 Euler steps.

    It ends when the ensemble mean settles, or after 502 of 1000 steps. How many steps it takes is counted once, and
    every run begins from the same seed and so takes as many.
    """
    torch = importlib.import_module("torch")
    columns = np.asarray(case.ensemble, np.float32).reshape(case.members, -1)
    values = np.asarray(case.observation.values, np.float32).ravel()
    truth = np.asarray(case.truth, np.float32).ravel()
    settings = {"eps_alpha": 0.05, "obs_sigma": 1.0, "euler_steps": 2 * EULER_STEPS, "init_std_x_state": 1000.0}
    settings |= {"n_dim": columns.shape[1], "ensemble_size": case.members, "scalefact": case.model.kelvin}
    filtered = module.EnSF(device="cpu", **settings)

    def call():
        torch.manual_seed(0)
        with mock.patch.object(torch, "set_default_dtype"), contextlib.redirect_stdout(io.StringIO()):
            return np.asarray(filtered.state_update_normalized(columns, truth, values))

    with mock.patch.object(filtered, "score_likelihood", wraps=filtered.score_likelihood) as steps:
        call()
    return Run(call, steps.call_count / EULER_STEPS)
