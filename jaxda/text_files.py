"""Text from outside: whole files of a bounded size, and JSON, whatever is in them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

#: larger ones are no settings or scores of ours; a device such as /dev/zero has no end [bytes]
LARGEST = 2**26


def read(path: str | Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: no such file, or one that cannot be read.
        ValueError: no regular file (a pipe would be waited for), one over LARGEST, another encoding, a name with NUL.
    """
    path = Path(path)
    found = path.stat()
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError("it is a folder")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("it is a pipe or a device; save its text as a file")
    if found.st_size > LARGEST:
        raise ValueError(f"it has {found.st_size} bytes, over {LARGEST}")
    return path.read_text(encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """What a JSON file says.

    Raises:
        OSError, ValueError: as `read`, or no JSON, or lists within lists without end.
    """
    try:
        return json.loads(read(path))
    except RecursionError:
        raise ValueError("lists within lists, deeper than anything of ours") from None
