"""The folder of a real-time run: whose it is, of which settings, and one process's at a time."""

from __future__ import annotations

import dataclasses
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxda import config as configuration
from jaxda.config import ExperimentConfig, OutputConfig
from jaxda.output import report
from jaxda.output.atomic import replacing
from jaxda.settings import difference

SETTINGS = "realtime.toml"


def prepare(out: Path, config: ExperimentConfig) -> bool:
    """Whether `out` holds a run to go on with; else it is new or empty.

    Raises:
        ValueError: it holds something else, or a run of other settings.
    """
    if not (out / SETTINGS).is_file():
        # hidden is the lock of a run that was killed before it began
        if not out.is_dir() or any(not path.name.startswith(".") for path in out.iterdir()):
            report.new_folder(out)
        return False
    before = configuration.read(out / SETTINGS)
    # how long a run is may change
    free = lambda one: dataclasses.replace(one, cycles=1, title="", output=OutputConfig())
    wrong = difference(free(before), free(config))
    if wrong:
        raise ValueError(f"{out}: was begun with {wrong[0]} = {wrong[1]}, now {wrong[2]}; give another --out")
    return True


def begin(out: Path, config: ExperimentConfig) -> None:
    """Write down the settings: from here on `out` is this run's."""
    with replacing(out / SETTINGS) as hidden:
        configuration.write(hidden, config)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; raises ValueError where another has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".realtime.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another real-time run has it; stop that, or give another folder") from None
        yield  # the lock ends with the process, however it ends
