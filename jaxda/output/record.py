"""What would make the numbers of a folder again: settings, code, versions, device, seeds, command.

A folder has it in `record.json`, a checkpoint in its plain values.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import jaxda
from jaxda import text_files
from jaxda.output import report
from jaxda.output.atomic import replacing
from jaxda.output.netcdf import FileError
from jaxda.parallel import launch
from jaxda.settings import difference

NAME = "record.json"
#: for git, which may wait for a file system [s]
PATIENCE = 10


def git_state(folder: Path | None = None) -> dict[str, str | bool | None]:
    """Commit of the code, and whether its files were changed since; None where it is no checkout, or there is no git.

    Args:
        folder: of a checkout; None: that of this package, wherever one stands.
    """
    folder = folder or Path(jaxda.__file__).resolve().parents[1]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, timeout=PATIENCE)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    top = git("rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():  # an environment inside somebody's repository
        return {"commit": None, "changed": None}
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "changed": None if changes is None else bool(changes)}


def seeds_of(tree: dict, name: str = "") -> Iterator[tuple[str, int]]:
    """Dotted names and values of the seeds in settings."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from seeds_of(value, f"{name}{key}.")
        elif key == "seed":
            yield f"{name}{key}", value


def write(folder: str | Path, script: str, words: list[str] | None, config) -> None:
    """Add this start to the folder's `record.json`, a list with an entry for each; the file is there whole.

    Args:
        words: of the command line after the script's name; None: of this process.
        config: settings, a dataclass or a dictionary.

    Raises:
        FileError: it cannot be written.
    """
    path = Path(folder) / NAME
    settings = config if isinstance(config, dict) else dataclasses.asdict(config)
    before = []
    try:
        before = text_files.read_json(path) if path.exists() else []
    except (OSError, ValueError) as error:  # a record that is damaged ends no run
        launch.say(f"{path}: cannot be read ({error}), it is begun again", sys.stderr)
    entry = {
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "command": shlex.join([f"{script}", *map(str, sys.argv[1:] if words is None else words)]),
        "git": git_state(),
        "versions": report.versions(),
        "seeds": dict(seeds_of(settings)),
        "settings": settings,
    }
    with replacing(path) as hidden:
        entries = [*(before if isinstance(before, list) else []), entry]
        text = json.dumps(report.plain(entries), indent=2, allow_nan=False, default=str)
        hidden.write_text(text + "\n", encoding="utf-8")


# Of checkpoints


def of_checkpoint(config) -> dict[str, dict]:
    """Settings and versions, to be kept among the plain values of a checkpoint."""
    return {"settings": _as_read(dataclasses.asdict(config)), "versions": report.versions()}


def require_settings(meta: dict, config, place: str | Path) -> None:
    """Raise FileError where a checkpoint with these plain values was made with other settings."""
    wrong = difference(meta.get("settings", {}), _as_read(dataclasses.asdict(config)))
    if wrong:
        was = f"{wrong[0]} = {wrong[1]}, now {wrong[2]}"
        raise FileError(f"{place}: was made with other settings, {was}; give that again, or another --out")


def say_versions(meta: dict, place: str | Path) -> None:
    """Say in a line which versions, or devices, a checkpoint was made with, where they were others.

    A run may go on from it, but its numbers need not be those of an unbroken one to the last bit.
    """
    before, now = meta.get("versions", {}), report.versions()
    others = [f"{name} {value}, now {now.get(name)}" for name, value in before.items() if value != now.get(name)]
    if others:
        said = f"{place}: was made with {'; '.join(others)}: goes on, but not bit for bit"
        launch.say(said, sys.stderr)


def _as_read(settings: dict) -> dict:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(report.plain(settings), allow_nan=False, default=str))
