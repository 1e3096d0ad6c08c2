"""Files, and folders, that are there whole or not at all: written under another name, flushed to the disk, renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxda.output.netcdf import FileError


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yields the hidden name to write to, beside `path`, which it becomes at the end, or never if something is raised.

    Raises:
        FileError: a file that cannot be written, a full disk for instance.
    """
    path = Path(path)
    hidden = path.with_name(f".{path.name}.part")
    try:
        _remove(hidden)  # of somebody who was killed
        yield hidden
        for file in hidden.rglob("*") if hidden.is_dir() else [hidden]:
            if file.is_file():
                _flush(file)
        os.replace(hidden, path)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise FileError(f"{path}: cannot be written ({reason}); is the disk full, may the folder be written?") from None
    finally:
        with contextlib.suppress(OSError):
            _remove(hidden)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
