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
    wrong = difference(lasting(configuration.read(out / SETTINGS)), lasting(config))
    if wrong:
        raise ValueError(f"{out}: was begun with {wrong[0]} = {wrong[1]}, now {wrong[2]}; give another --out")
    return True


def lasting(config: ExperimentConfig) -> ExperimentConfig:
    """The settings that a run keeps: how long it is may change, and how many members may fail before it ends."""
    faults = dataclasses.replace(config.faults, replaced_limit=1.0)
    return dataclasses.replace(config, cycles=1, title="", output=OutputConfig(), faults=faults)


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
