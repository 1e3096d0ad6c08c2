"""The header of a NetCDF file of the classic formats, checked before the library reads it, which a wrong one can crash.

Grammar: NetCDF Classic Format Specification (Unidata, "File Format Specifications"): magic, number of records, and
lists of dimensions, attributes and variables; all numbers are big-endian, lists and values padded to four bytes.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import BinaryIO

DIMENSION, VARIABLE, ATTRIBUTE = 10, 11, 12
#: bytes of a value of each type
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}


class _Header:
    """The numbers and names of a header, in their order; ValueError where one cannot be."""

    def __init__(self, file: BinaryIO, version: int):
        self.file, self.wide, self.offset = file, 8 if version == 5 else 4, 4 if version == 1 else 8
        self.types = 11 if version == 5 else 6
        self.size = os.fstat(file.fileno()).st_size

    def integer(self, width: int) -> int:
        raw = self.file.read(width)
        value = int.from_bytes(raw, "big")
        if len(raw) < width or value >= 2 ** (8 * width - 1):
            raise ValueError("its header is cut off or has a negative size")
        return value

    def skip(self, count: int, width: int = 1) -> None:
        length = -(-count * width // 4) * 4
        if length > self.size - self.file.tell():
            raise ValueError("its header claims more than the file has")
        self.file.seek(length, os.SEEK_CUR)

    def name(self) -> None:
        length, at = self.integer(self.wide), self.file.tell()
        self.skip(length)
        end = self.file.tell()
        self.file.seek(at)
        text = self.file.read(length).decode()  # UnicodeDecodeError is a ValueError
        self.file.seek(end)
        if not text.isprintable() or not text or "/" in text or length > 256:
            raise ValueError("its header has a name that is none")

    def kind(self) -> int:
        found = self.integer(4)
        if not 1 <= found <= self.types:
            raise ValueError(f"its header has the type {found}")
        return found

    def count(self, tag: int) -> int:
        found, count = self.integer(4), self.integer(self.wide)
        if (found, count) != (0, 0) and found != tag:
            raise ValueError(f"its header has the tag {found} for {tag}")
        if 4 * count > self.size:
            raise ValueError("its header claims more than the file has")
        return count

    def attributes(self) -> None:
        for _ in range(self.count(ATTRIBUTE)):
            self.name()
            kind = self.kind()
            self.skip(self.integer(self.wide), SIZES[kind])

    def dimensions(self) -> list[int]:
        lengths = []
        for _ in range(self.count(DIMENSION)):
            self.name()
            lengths.append(self.integer(self.wide))
        if lengths.count(0) > 1:
            raise ValueError("its header has two dimensions of records")
        return lengths

    def variables(self, lengths: list[int]) -> list[tuple[int, int, bool]]:
        """Bytes of each (of one record), where it begins, and whether it has records."""
        found = []
        for _ in range(self.count(VARIABLE)):
            self.name()
            rank = self.integer(self.wide)
            if rank > 1024:
                raise ValueError(f"its header has a variable of {rank} dimensions")
            axes = [self.integer(self.wide) for _ in range(rank)]
            if any(axis >= len(lengths) for axis in axes) or any(lengths[axis] == 0 for axis in axes[1:]):
                raise ValueError("its header has a variable of unknown dimensions")
            self.attributes()
            kind = self.kind()
            self.integer(self.wide)  # the size again, which readers compute
            own = [lengths[axis] for axis in axes]
            records = bool(own) and own[0] == 0
            found.append((SIZES[kind] * math.prod(own[records:]), self.integer(self.offset), records))
        return found


def check(path: str | Path) -> None:
    """Raise ValueError where a file of a classic format has a header that cannot be, or claims more than there is."""
    with open(path, "rb") as file:
        magic = file.read(4)
        if magic[:3] != b"CDF":
            return
        if magic[3:] not in (b"\x01", b"\x02", b"\x05"):
            raise ValueError(f"its format is {magic[3:]!r}")
        header = _Header(file, magic[3])
        records = header.integer(header.wide)
        lengths = header.dimensions()
        header.attributes()
        variables = header.variables(lengths)
        end = file.tell()
        each = [size for size, _, own in variables if own]
        per_record = each[0] if len(each) == 1 else sum(-(-size // 4) * 4 for size in each)  # one alone has no padding
        for size, begin, own in variables:
            last = begin + size + (records - 1) * per_record if own else begin + size
            if begin < end or ((records or not own) and last > header.size):
                raise ValueError(f"cut off: has {header.size} bytes and claims {last}")
