"""Compiled programs, kept in a folder from one process to the next: the second start of a script compiles nothing.

JAX keys a program by its text, the compiler's version and flags, and the CPU's instructions (jaxlib 0.10.2: where they
were left out, a program for AVX-512 would end another CPU with an illegal instruction), but not by the cores, among
which XLA divides the work of each loop when it compiles: a program that one core compiled runs on one. The folder's
name has both, so that machines of a cluster that share a home do not depend on what a version's key has.

Several processes may use a folder at once. JAX does not write an entry at one stroke, but a reader that comes too early
finds compressed data that is cut short, warns, and compiles for itself.

A variable of JAX's own that is set stands: JAX_COMPILATION_CACHE_DIR is then the folder, as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path

import jax

#: bytes of a folder above which the oldest programs are deleted, down to half of it; the quick start's are 3 MB
LIMIT = 1_000_000_000
#: of /proc/cpuinfo, what a compiler looks at
CPU_LINES = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")


def keep(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Have JAX keep every program that is compiled from now on, and look there first; where, or None.

    None: JAXDA_CACHE=off, or the folder cannot be written, without which a run is only slower.

    Raises:
        ValueError: another JAXDA_CACHE.
    """
    given = environ.get("JAXDA_CACHE", "on")
    if given not in ("on", "off"):
        raise ValueError(f"JAXDA_CACHE = {given}: neither on nor off; for a folder set JAX_COMPILATION_CACHE_DIR")
    if given == "off":
        return None
    folder = jax.config.jax_compilation_cache_dir
    if folder is None:
        folder = folder_of(environ)
        if folder is None or not writable(folder):
            return None
        prune(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
    # JAX's defaults keep nothing that took less than a second, and most of ours do
    for name, value in (("min_compile_time_secs", 0.0), ("min_entry_size_bytes", -1)):
        if f"JAX_PERSISTENT_CACHE_{name.upper()}" not in environ:
            jax.config.update(f"jax_persistent_cache_{name}", value)
    return Path(folder)


def folder_of(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Where this machine's programs of this user are; None where there is no home."""
    root = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(root):  # others are to be ignored: XDG Base Directory Specification 0.8
        try:
            root = Path.home() / ".cache"
        except RuntimeError:
            return None
    return Path(root) / "jaxda" / "compiled" / machine()


def machine() -> str:
    """A short name of this kind of CPU, its instructions, and the number of cores that this process may use."""
    known = [platform.machine(), platform.processor(), str(len(os.sched_getaffinity(0)))]
    with contextlib.suppress(OSError):  # not Linux
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
        known += [line for line in first.splitlines() if line.split(":")[0].strip() in CPU_LINES]
    return f"{platform.machine()}-{hashlib.sha256(chr(10).join(known).encode()).hexdigest()[:12]}"


def writable(folder: Path) -> bool:
    """Whether programs can be kept there; makes the folder, for the user alone: what it holds is run."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def prune(folder: Path, limit: int = LIMIT) -> None:
    """Delete the oldest files of a folder that holds more than `limit` bytes, down to half of that."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another process deletes too
            about = path.stat()
            found.append((about.st_mtime, about.st_size, path))
    total = sum(size for _, size, _ in found)
    if total <= limit:
        return
    for _, size, path in sorted(found):
        if total <= limit / 2:
            break
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size
