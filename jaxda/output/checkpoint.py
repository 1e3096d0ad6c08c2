"""Checkpoints by Orbax: a state of arrays and a dictionary of plain values, the best and the last few kept.

A save goes on in the background and appears under its number only when it is whole, with the checksums of all its
files: whoever is killed during one still has those before, and what a disk has spoilt since is found and passed over.
Arrays are read back onto the shardings of the abstract state that is asked for, so a run may go on with another number
of devices.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers
from orbax.checkpoint.path import atomicity

from jaxda import text_files
from jaxda.output import checksums
from jaxda.output.netcdf import FileError

#: checkpoints that are kept, of every kind of run: the last, and some to go back to where that is spoilt
KEPT = 3
#: in the folder of a run's checkpoints: those that are spoilt
ASIDE = "damaged"


class _Summed(atomicity.AtomicRenameTemporaryPath):
    """A checkpoint that gets its checksums when Orbax has written all of it, and only then its name.

    Orbax commits by renaming a temporary folder, the last thing that it does. Here that is to another hidden name.
    """

    async def finalize(self):
        final, whole = self._final_path, self._final_path.with_name(f".{self._final_path.name}.whole")
        self._final_path = whole
        try:
            await super().finalize()
            await asyncio.to_thread(checksums.write, Path(whole))
            os.replace(whole, final)
        finally:
            self._final_path = final


# Two of Orbax's private parts (0.12.8) are set right where they are still what they were. It asks tensorstore for its
# counters at each save, to log a speed, and tensorstore (0.1.86) never frees the text of its answer, 12 KiB: of a run
# with a checkpoint each cycle that is most of what it grows by (docs/long_haul.md). And it waits for a save by the
# clock on the wall, so that one that is set forward by a day ends the wait, and the run with it.
with suppress(ImportError):
    from orbax.checkpoint._src.serialization import tensorstore_utils

    tensorstore_utils.get_tensorstore_raw_bytes = lambda *direction, **more: 0
with suppress(ImportError):
    from orbax.checkpoint._src.futures import future, signaling_client

    future.time = signaling_client.time = SimpleNamespace(**vars(time) | {"time": time.monotonic})


#: of what Orbax logs: a line at each save of arrays that are not packed; tracebacks of a save that `wait` raises again
_NEEDLESS = (
    "Skipping merge of OCDBT",
    *("_SignalingThread.run()", "Failed to run", "Save Finalize thread", "Checkpointer failed"),
)
logging.get_absl_logger().addFilter(lambda line: not any(words in str(line.msg) for words in _NEEDLESS))


class _ButClosedLoops:
    """A `sys.excepthook` that says nothing of a loop that is closed, and asks another about all else.

    Orbax ends its loop when one array of a save cannot be written, and tensorstore's threads miss it for each of the
    others. The first error is raised by `wait`; of several processes each of these would end them all (`ending`).
    """

    def __init__(self, hook):
        self._hook = hook

    def __call__(self, kind, error, trace):
        if kind is not RuntimeError or str(error) != "Event loop is closed":
            self._hook(kind, error, trace)


class Checkpoints:
    """The checkpoints of one run, in a folder; close it, or use it in a `with`, so that the last save is finished.

    Those whose files are not what was written are passed over, which is said in a line on standard error; where it may
    write they are moved into the folder `damaged`.

    Args:
        folder: made if it is not there.
        create: whether it may be made; False to read only.
        upto: those with larger numbers are passed over too; None: none are.
        packed: whether the arrays share one store, so that there are few files however many arrays. Not for runs of
            thousands of checkpoints with few arrays: each leaves 1 to 3 KiB of memory that tensorstore (0.1.86) never
            frees, where two files an array leave nothing (docs/long_haul.md). Either is read.

    Raises:
        FileError: checkpoints of which none is whole; no such folder, or an empty one, where it may not be made.
    """

    def __init__(self, folder: str | Path, create: bool = True, upto: int | None = None, packed: bool = True):
        self.folder = Path(folder).resolve()
        if not create and not self.folder.is_dir():
            raise FileError(f"{folder}: no such folder; give one that scripts/train_vit.py wrote")
        if not isinstance(sys.excepthook, _ButClosedLoops):
            sys.excepthook = _ButClosedLoops(sys.excepthook)
        first = jax.process_index() == 0
        if create and first:
            for left in self.folder.glob(".*.whole"):  # of somebody who was killed before it had its name
                shutil.rmtree(left)
        if first or not create:
            numbers = self._pass_over(create, upto)
        if create and jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"jaxda/checkpoints {self.folder}")
            numbers = _numbers(self.folder)
        if not create and not numbers:
            raise FileError(f"{folder}: holds no whole checkpoint; give a folder that scripts/train_vit.py wrote")
        self._errors = {number: self._error_of(number) for number in numbers}
        error = lambda metrics: metrics["error"]
        kept = managers.AnyPreservationPolicy(
            [managers.LatestN(KEPT), managers.BestN(get_metric_fn=error, reverse=True, n=1)]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept,
            best_fn=error,
            best_mode="min",
            create=create,
            enable_async_checkpointing=create,
            lightweight_initialize=not create,
            temporary_path_class=_Summed,
        )
        arrays = partial(ocp.StandardCheckpointHandler, use_ocdbt=packed)
        handlers = {"state": arrays(), "data": arrays(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)

    def _pass_over(self, create: bool, upto: int | None) -> list[int]:
        """Numbers of the whole checkpoints; the others are said, and moved aside where `create`."""
        numbers = _numbers(self.folder)
        bad = {number: why for number in numbers if (why := checksums.trouble(self.folder / str(number)))}
        said = "; ".join(f"{number}: {bad[number]}" for number in reversed(numbers) if number in bad)
        if bad and len(bad) == len(numbers):
            cure = "copy a good one back, or remove that folder to begin again"
            raise FileError(f"{self.folder}: none of its checkpoints is whole ({said}); {cure}")
        late = [number for number in numbers if number not in bad and upto is not None and number > upto]
        if bad:
            print(f"{self.folder}: passed over damaged checkpoints ({said})", file=sys.stderr, flush=True)
        for number in (*bad, *late) if create else ():
            aside = self.folder / ASIDE / str(number)
            shutil.rmtree(aside, ignore_errors=True)
            aside.parent.mkdir(exist_ok=True)
            os.replace(self.folder / str(number), aside)
        return [number for number in numbers if number not in bad and number not in late]

    def _error_of(self, number: int) -> float:
        with self._errors_of(number):
            return float(json.loads((self.folder / str(number) / "metrics" / "metrics").read_text())["error"])

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def last(self) -> int | None:
        """Number of the last whole checkpoint; None where there is none."""
        return max(self._errors, default=None)

    @property
    def best(self) -> int | None:
        """Number of the one with the smallest error."""
        return min(self._errors, key=lambda number: (self._errors[number], -number), default=None)

    def save(self, number: int, state: Any, meta: dict, error: float, data: Any = None) -> None:
        """Start saving; `error` decides which is the best. Waits only for a save before it that is not finished.

        `data` is where the training data stand, where that has arrays; whoever forecasts need not read it. A checkpoint
        of that number which is there stays.
        """
        if number in self._errors:
            return
        parts = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(meta)}
        parts |= {} if data is None else {"data": ocp.args.StandardSave(data)}
        self._manager.save(number, args=ocp.args.Composite(**parts), metrics={"error": float(error)})
        self._errors[number] = float(error)
        kept = {self.best, *sorted(self._errors)[-KEPT:]}
        self._errors = {number: error for number, error in self._errors.items() if number in kept}

    def wait(self) -> None:
        """Until what was saved is whole; raises what went wrong (a full disk) as OSError."""
        self._manager.wait_until_finished()

    def meta(self, number: int) -> dict:
        """The plain values of a checkpoint."""
        parts = ocp.args.Composite(meta=ocp.args.JsonRestore())
        return self._read(number, parts)["meta"]

    def restore(self, number: int, abstract: Any, part: str = "state") -> Any:
        """The state of a checkpoint, or its data, on the shardings of an abstract one (`jax.ShapeDtypeStruct` leaves).

        Raises:
            FileError: arrays that are missing, left over or of another shape, or files that cannot be read.
        """
        self._require_shapes(number, abstract, part)
        return self._read(number, ocp.args.Composite(**{part: ocp.args.StandardRestore(abstract)}))[part]

    def restore_part(self, number: int, abstract: dict) -> dict:
        """Some fields of a state, `{name: abstract}`, as `restore`; the others are not read."""
        self._require_shapes(number, abstract, "state", abstract)
        wanted = ocp.checkpoint_utils.construct_restore_args(abstract)
        parts = ocp.args.PyTreeRestore(item=abstract, restore_args=wanted, partial_restore=True)
        with self._errors_of(number), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            return reader.restore(self.folder / str(number) / "state", args=parts)

    def close(self) -> None:
        """Finish what is being saved."""
        self._manager.close()

    @contextmanager
    def _errors_of(self, number: int) -> Iterator[None]:
        """Turn what Orbax raises into one line."""
        try:
            yield
        except (ValueError, KeyError, OSError, AttributeError, TypeError) as error:
            reason = " ".join(str(error).split())[:120]
            place = self.folder / str(number)
            raise FileError(f"{place}: not a readable checkpoint ({reason}); use another or train again") from None

    def _read(self, number: int, parts):
        with self._errors_of(number):
            return self._manager.restore(number, args=parts)

    def _require_shapes(self, number: int, abstract: Any, part: str, fields: Any = None) -> None:
        """Whether the arrays are those of `abstract`; `fields`: of these fields of the state alone."""
        place = self.folder / str(number)
        with self._errors_of(number):
            found = self._manager.item_metadata(number)[part]
            found = getattr(found, "tree", found)
            names = lambda tree: {_name(path): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(tree)}
            found, wanted = names(found), names(abstract)
        if fields is not None:
            found = {name: shape for name, shape in found.items() if name.split(".")[0] in fields}
        for name in sorted(found.keys() | wanted.keys()):
            if found.get(name) != wanted.get(name):
                has = f"has shape {found[name]}" if name in found else "is missing"
                asked = f"{wanted[name]} is asked" if name in wanted else "is not asked for"
                raise FileError(f"{place}: {name} {has}, {asked}; the checkpoint is of another architecture or grid")


def plain_values(folder: Path) -> Iterator[dict]:
    """Those of each checkpoint in a folder that can be read, without starting devices."""
    for number in _numbers(folder):
        with contextlib.suppress(OSError, ValueError):
            yield text_files.read_json(folder / str(number) / "meta" / "metadata")


def _numbers(folder: Path) -> list[int]:
    """Numbers of the checkpoints in a folder, in their order."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())


def _name(path) -> str:
    """A path in a tree in words, the same for dictionaries, lists and named tuples."""
    return ".".join(str(getattr(step, "key", getattr(step, "name", getattr(step, "idx", step)))) for step in path)
