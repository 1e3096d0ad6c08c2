"""What a machine can hold: sizes are checked before anything of them is made."""

from __future__ import annotations

import os


def memory() -> int:
    """The memory of this machine [bytes]."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_memory(what: str, n_bytes: float, cure: str) -> None:
    """Raise ValueError for what this machine cannot hold.

    Args:
        what: it is, with the setting that makes it so large.
        n_bytes: it takes at least.
    """
    if n_bytes > memory():
        raise ValueError(f"{what}: takes {n_bytes / 1e9:.3g} GB, this machine has {memory() / 1e9:.3g} GB; {cure}")
