"""The analyses of a run that is not done: a file for each chunk, each there whole or not at all, joined at its end.

HDF5 writes over its own tables when a file grows, so that a process killed meanwhile can leave a file that cannot be
opened at all. So analysis.nc is made once, from these, and gets its name when it is whole. They are zip files, whose
arrays have checksums (CRC-32) that are compared whenever one is read.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxda.output.atomic import replacing
from jaxda.output.netcdf import FileError

#: of the folder of a run: its chunks
FOLDER = "fields"


class FieldParts:
    """The chunks of a run, in a folder."""

    def __init__(self, out: Path):
        self.folder = out / FOLDER

    def write(self, name: str, first: int, count: int, fields: dict[str, np.ndarray]) -> None:
        """Keep the fields `(count, ...)` of an experiment's cycles from `first` on; none where it went wrong.

        Raises:
            FileError: a disk that is full.
        """
        self.folder.mkdir(exist_ok=True)
        with replacing(self._path(name, first)) as hidden, hidden.open("wb") as file:
            np.savez(file, count=count, **fields)

    def read(self, name: str) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
        """First cycle, number of cycles and fields of an experiment's chunks, from cycle 0 on, until one is missing.

        Raises:
            FileError: one that is not what was written.
        """
        first = 0
        while (path := self._path(name, first)).is_file():
            try:
                with np.load(path, allow_pickle=False) as arrays:
                    found = {key: arrays[key] for key in arrays.files}
                count = int(found.pop("count"))
            except (OSError, ValueError, KeyError, EOFError, NotImplementedError, zipfile.BadZipFile) as error:
                reason = " ".join(str(error).split())[:120]
                raise FileError(f"{path}: not what was written ({reason}); --resume makes it again") from None
            yield first, count, found
            first += count

    def whole(self, name: str) -> tuple[int, str]:
        """How many cycles of an experiment have all that was written of them, and what is wrong after these."""
        done = 0
        try:
            for first, count, _ in self.read(name):
                done = first + count
        except FileError as error:
            return done, str(error)
        return done, ""

    def remove(self) -> None:
        """They are joined: nobody needs them."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str, first: int) -> Path:
        return self.folder / f"{name}-{first:06d}.npz"
