"""Files that are there whole or not at all: written under another name, flushed to the disk, then renamed."""

from __future__ import annotations

import contextlib
import os
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
        hidden.unlink(missing_ok=True)  # of somebody who was killed
        yield hidden
        with hidden.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(hidden, path)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise FileError(f"{path}: cannot be written ({reason}); is the disk full, may the folder be written?") from None
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
