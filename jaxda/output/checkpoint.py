"""Checkpoints by Orbax: a state of arrays and a dictionary of plain values, the best and the last kept.

A save goes on in the background and appears under its number only when it is whole: whoever is killed during one still
has the one before. Arrays are read back onto the shardings of the abstract state that is asked for, so a run may go on
with another number of devices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as managers

from jaxda.output.netcdf import FileError

# Orbax asks tensorstore for its counters at each save, to log a speed. tensorstore (0.1.86) never frees the text of its
# answer, 12 KiB: of a run with a checkpoint each cycle that is most of what it grows by (docs/long_haul.md).
with suppress(ImportError):
    from orbax.checkpoint._src.serialization import tensorstore_utils

    tensorstore_utils.get_tensorstore_raw_bytes = lambda *direction, **more: 0


class Checkpoints:
    """The checkpoints of one run, in a folder; close it, or use it in a `with`, so that the last save is finished.

    Args:
        folder: made if it is not there.
        create: whether it may be made; False to read only.

    Raises:
        FileError: no such folder, or none that holds a checkpoint, where it may not be made.
    """

    def __init__(self, folder: str | Path, create: bool = True):
        self.folder = Path(folder).resolve()
        if not create and not self.folder.is_dir():
            raise FileError(f"{folder}: no such folder; give one that scripts/train_vit.py wrote")
        error = lambda metrics: metrics["error"]
        kept = managers.AnyPreservationPolicy(
            [managers.LatestN(1), managers.BestN(get_metric_fn=error, reverse=True, n=1)]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=kept, best_fn=error, best_mode="min", create=create, enable_async_checkpointing=create
        )
        arrays = ocp.StandardCheckpointHandler
        handlers = {"state": arrays(), "data": arrays(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
        if not create and self.last is None:
            self.close()
            raise FileError(f"{folder}: holds no whole checkpoint; give a folder that scripts/train_vit.py wrote")

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def last(self) -> int | None:
        """Number of the last whole checkpoint; None where there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Number of the one with the smallest error."""
        return self._manager.best_step()

    def save(self, number: int, state: Any, meta: dict, error: float, data: Any = None) -> None:
        """Start saving; `error` decides which is the best. Waits only for a save before it that is not finished.

        `data` is where the training data stand, where that has arrays; whoever forecasts need not read it.
        """
        parts = {"state": ocp.args.StandardSave(state), "meta": ocp.args.JsonSave(meta)}
        parts |= {} if data is None else {"data": ocp.args.StandardSave(data)}
        self._manager.save(number, args=ocp.args.Composite(**parts), metrics={"error": float(error)})

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


def _name(path) -> str:
    """A path in a tree in words, the same for dictionaries, lists and named tuples."""
    return ".".join(str(getattr(step, "key", getattr(step, "name", getattr(step, "idx", step)))) for step in path)
