"""SHA-256 of the files of a folder, in the format of sha256sum: `sha256sum -c SHA256SUMS` in the folder checks them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from jaxda.output.atomic import replacing

NAME = "SHA256SUMS"


def of_file(path: Path) -> str:
    """SHA-256 of a file in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _names(folder: Path) -> list[str]:
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name != NAME)


def lines(folder: Path, names: Iterable[str] | None = None) -> str:
    """Sums and names of these files of a folder; None: of all of them."""
    return "".join(f"{of_file(folder / name)}  {name}\n" for name in (_names(folder) if names is None else names))


def write(folder: Path, names: Iterable[str] | None = None) -> None:
    """Write the sums of these files of a folder, or of all of them; whole or not at all."""
    text = lines(folder, names)
    with replacing(folder / NAME) as hidden:
        hidden.write_text(text, encoding="utf-8", newline="\n")


def read(folder: Path) -> dict[str, str]:
    """File -> sum, as a folder has them; ValueError where that cannot be read."""
    try:
        text = (folder / NAME).read_text(encoding="utf-8")
        rows = [line.split("  ", 1) for line in text.splitlines()]
        return {name: value for value, name in rows}
    except FileNotFoundError:
        raise ValueError(f"has no {NAME}") from None
    except (OSError, ValueError):
        raise ValueError(f"{NAME} cannot be read") from None


def trouble(folder: Path, names: Iterable[str] | None = None) -> str | None:
    """What is wrong with these files of a folder, or with all of them; None: nothing is."""
    try:
        known = read(folder)
        here = _names(folder) if names is None else list(names)
        for name in sorted({*here, *(known if names is None else ())}):
            if name not in known or not (folder / name).is_file():
                return f"{name} is {'missing' if name in known else f'not in {NAME}'}"
            if of_file(folder / name) != known[name]:
                return f"{name} is not what was written, its checksum differs"
    except (ValueError, OSError) as error:
        return " ".join(str(error).split())
    return None
