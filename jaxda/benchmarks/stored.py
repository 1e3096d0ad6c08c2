"""Measurements that scripts/bench.py kept in a file, and ratios of them to those of now."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxda import text_files

#: settings without which times do not compare
SETTINGS = ("N", "members", "d", "dtype", "integrator")


def medians_of(path: Path, settings: Mapping, names: Sequence[str]) -> dict[str, float]:
    """Seconds a unit, of ours, of an earlier run's file (--json), by benchmark.

    Args:
        settings: of this run, which those of the file have to equal.
        names: benchmarks of this run; the file has to hold one of them.

    Raises:
        ValueError: a file that is missing or no such file, other settings, or none of the benchmarks.
    """
    cure = "give a file that bench.py --json wrote"
    try:
        content = text_files.read_json(path)
        found = {name: statistics.median(map(float, codes["jaxda"])) for name, codes in content["seconds"].items()}
        before = content["settings"]
        different = next((name for name in SETTINGS if before[name] != settings[name]), None)
    except OSError as error:
        raise ValueError(f"--compare {path}: {error.strerror or error}; {cure}") from None
    except KeyError as error:
        raise ValueError(f"--compare {path}: has no {error}; {cure}") from None
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"--compare {path}: holds no times ({said}); {cure}") from None
    if different:
        values = f"{different} = {before[different]} there, {settings[different]} here"
        raise ValueError(f"--compare {path}: {values}; run with the same")
    if not set(found) & set(names):
        held = ", ".join(found) or "nothing"
        raise ValueError(f"--compare {path}: holds {held}, none of what is asked; name one of these")
    return found
