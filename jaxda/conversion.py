"""Weights as a new checkpoint: a file of PyTorch, or a training of ours -> parameters -> step 0 of a training."""

from __future__ import annotations

import math
import re
import shutil
import zipfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxda import config as configuration
from jaxda.models import vit_torch
from jaxda.models.vit import Params
from jaxda.output import checksums, netcdf, torch_files
from jaxda.output.checkpoint import Checkpoints
from jaxda.output.netcdf import FileError
from jaxda.settings import difference
from jaxda.surrogate import SurrogateConfig, Trained, load, meta_of
from jaxda.training import trainer
from jaxda.training.dataset import HOURS_PER_DAY, Statistics

#: the public code's pair of files, an array for each variable in both
PAIR = ("normalize_mean.npz", "normalize_std.npz")
#: what NumPy raises of damaged files, beside its zip reader's own
NOT_READABLE = (OSError, ValueError, RuntimeError, LookupError, EOFError, AttributeError, TypeError, MemoryError)


def require_new(out: Path) -> None:
    """Refuse a folder that holds anything, so that nothing is written over.

    Raises:
        FileError: it does, or it is a file.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise FileError(f"{out}: is there already, and is not overwritten; give another --out or move it")


def read_weights(path: str | Path, config: SurrogateConfig, lead_time: float | None = None) -> tuple[Params, int]:
    """Single-precision parameters from a file of PyTorch, and the patches along an axis that it was trained with.

    Args:
        lead_time: what the model was given in its training for a lead of `config.data.lead_hours[0]`; None: the days
            of it, as here.

    Raises:
        FileError: a file that cannot be read, or arrays that are not of this architecture or not finite.
        ValueError: a lead time that is not positive, or options that the public code does not have.
    """
    if lead_time is not None and not (math.isfinite(lead_time) and lead_time > 0):
        raise ValueError(f"lead_time = {lead_time:g} is not a positive number; give what the model was trained with")
    vit_torch.require_plain(config.vit)
    state = torch_files.read(path)
    try:
        vit_torch.check(config.vit, state)
        params = vit_torch.from_torch(config.vit, {name: _single(name, array) for name, array in state.items()})
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
    if lead_time is not None:
        # the model is linear in the lead time, so its unit can be put into the weights
        unit = lead_time / (config.data.lead_hours[0] / HOURS_PER_DAY)
        layer = params["trunk"]["lead_time"]
        params["trunk"]["lead_time"] = layer | {"kernel": layer["kernel"] * jnp.float32(unit)}
    return params, math.isqrt(state["pos_embed"].shape[1])


def _single(name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        single = np.asarray(array, np.float32)
    if not np.isfinite(single).all():
        raise ValueError(f"{name}: holds values that are not finite in single precision; give other weights")
    return single


def trained_weights(folder: str | Path, config: SurrogateConfig) -> Trained:
    """The best weights of a training, as `surrogate.load`, for a training with these settings.

    Raises:
        FileError: no such training, or one of another architecture.
    """
    found = load(folder)
    wrong = difference(found.config.vit, config.vit, "vit")
    if wrong:
        raise FileError(f"{folder}: has another [vit], {wrong[0]} = {wrong[1]}, now {wrong[2]}; use the same")
    return found


def write(
    out: Path, config: SurrogateConfig, params: Params, normalisation: Statistics, weights_only: bool = False
) -> None:
    """Write `out/checkpoints`, step 0 of a training from these weights, and `out/config.toml`.

    The optimizer is at its start, and the moving average is the weights. Nobody has validated them, so the error that
    decides which checkpoint is the best is infinite.

    Args:
        weights_only: whether the moving average is all: a quarter of the size, enough for forecasts.

    Raises:
        FileError: it cannot be written; nothing stays behind.
    """
    meta = meta_of(config, normalisation) | {"best": [math.inf, 0]}
    state = {"average": params} if weights_only else trainer.init_state(config.train, params)
    try:
        with Checkpoints(out / "checkpoints") as checkpoints:
            checkpoints.save(0, state, meta, math.inf)
            checkpoints.wait()
        for note in out.rglob("commit_success.txt") if weights_only else ():
            note.unlink()  # names the folder that it was written to, which is no one's business; nothing reads it
        checksums.write(out / "checkpoints" / "0")
        configuration.write(out / "config.toml", config)
    except (OSError, ValueError, RuntimeError) as error:
        shutil.rmtree(out, ignore_errors=True)
        reason = " ".join(str(error).split())[:120]
        raise FileError(f"{out}: cannot be written ({reason}); give another --out or make room") from None


def read_statistics(path: str | Path, variables: int) -> Statistics:
    """Mean and standard deviation of each variable [m/s], from a file or from the public code's folder.

    An .npz or NetCDF file has `mean` and `std`, `(V,)` each. A folder has the public code's two files (`PAIR`), with an
    array for each variable whose name ends with its height, such as sqg_0 and sqg_10000, from the bottom up.

    Raises:
        FileError: files or arrays that are missing or cannot be read, of another size, not finite, or not positive.
    """
    path = Path(path)
    if path.is_dir():
        first, second = (_arrays(path / name) for name in PAIR)
        if first.keys() != second.keys():
            raise FileError(f"{path}: the arrays in {PAIR[0]} are not those in {PAIR[1]}; give the folder of one run")
        if not all(re.search(r"\d+$", name) for name in first):
            raise FileError(f"{path}: {min(first)} does not end with a height; give an .npz file with mean and std")
        names = sorted(first, key=lambda name: int(re.search(r"\d+$", name).group()))
        mean, std = (np.concatenate([np.ravel(own[name]) for name in names]) for own in (first, second))
    else:
        arrays = _arrays(path)
        for name in ("mean", "std"):
            if name not in arrays:
                raise FileError(f"{path}: {name} is missing; give arrays mean and std, a value for each variable")
        mean, std = (np.ravel(arrays[name]) for name in ("mean", "std"))
    for name, values in (("mean", mean), ("std", std)):
        if values.shape != (variables,) or values.dtype.kind not in "fiu":
            raise FileError(f"{path}: {name} is {values.dtype} {values.shape}, {variables} numbers are expected")
        if not np.isfinite(values).all() or (name == "std" and not (values > 0).all()):
            raise FileError(f"{path}: {name} = {values.tolist()} cannot be used; give finite ones, and positive std")
    return Statistics(mean.astype(np.float64), std.astype(np.float64))


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz or NetCDF file."""
    if not path.is_file():
        raise FileError(f"{path}: no such file; give an .npz or NetCDF file, or a folder with {' and '.join(PAIR)}")
    if path.suffix == ".nc":
        with netcdf.opened(path) as nc:
            nc.set_auto_mask(False)
            # by name: a nature run given by mistake is not read as a whole
            return {name: np.asarray(nc[name][...]) for name in ("mean", "std") if name in nc.variables}
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (*NOT_READABLE, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:120]
        raise FileError(f"{path}: not a readable .npz file ({reason}); give another") from None
