"""How several processes end together: when one fails, none of the others may wait for it.

A collective whose peer is gone waits forever on GPUs, and an orderly end of `jax.distributed` waits minutes for the
others. So a process that fails says so in the store that connects them, where a thread of each waits for that word.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import sys
import threading
import time
import traceback

from jax._src import distributed  # its key-value store has no public name; Orbax goes there too

#: longest wait of the first process for the others to end before it [s]
FAREWELL = 3.0


def prepare(rank: int, size: int) -> None:
    """From here on an exception that nobody catches, or `end`, in any process ends all of them."""
    sys.excepthook = lambda kind, error, trace: _fail(rank, size, kind, error, trace)
    thread = threading.Thread(target=_listen, args=(rank, size), daemon=True)
    thread.start()
    # before JAX closes the connection (what is registered last runs first); a thread that still waits would abort
    atexit.register(lambda: (_tell(rank, ""), thread.join(FAREWELL)))


def end(size: int, status: int, text: str) -> None:
    """End all processes with this status; the first of them prints the text. Does not return.

    Where several call it, the first call decides what is said and the status.
    """
    store, words = distributed.global_state.client, json.dumps([status, text])
    with contextlib.suppress(RuntimeError):  # another was first
        store.key_value_set("jaxda/failed", words)
    for rank in range(size):
        _tell(rank, "failed")
    time.sleep(2 * FAREWELL)  # the listening thread ends this process
    os._exit(status)


def _tell(rank: int, word: str) -> None:
    with contextlib.suppress(RuntimeError):  # it was told already, or the store is gone
        distributed.global_state.client.key_value_set(f"jaxda/word/{rank}", word)


def _fail(rank: int, size: int, kind, error, trace) -> None:
    try:  # what fails here because another has failed is not worth a word
        distributed.global_state.client.key_value_try_get("jaxda/failed")
    except RuntimeError:
        traceback.print_exception(kind, error, trace)
    about = (str(error).splitlines() or [""])[0]
    status = 130 if issubclass(kind, KeyboardInterrupt) else 1
    end(size, status, f"rank {rank} of {size} ended with {kind.__name__}: {about}; all processes end")


def _listen(rank: int, size: int) -> None:
    store, word = distributed.global_state.client, None
    while word is None:
        try:
            word = store.blocking_key_value_get(f"jaxda/word/{rank}", 10**7)
        except RuntimeError as error:
            if "DEADLINE" not in str(error):
                return  # the connection is gone, and JAX ends the process
    if not word:
        return  # an orderly end
    status, text = json.loads(store.blocking_key_value_get("jaxda/failed", 1000))
    with contextlib.suppress(RuntimeError):
        if rank:
            store.key_value_set(f"jaxda/ended/{rank}", "")
        else:
            print(text, file=sys.stderr, flush=True)
            until = time.monotonic() + FAREWELL
            for other in range(1, size):  # the store ends with this process, and those who still read it would abort
                store.blocking_key_value_get(f"jaxda/ended/{other}", max(1, int(1000 * (until - time.monotonic()))))
            time.sleep(0.2)
    sys.stdout.flush()
    # not sys.exit: other threads may be in a collective, and an orderly end would wait for the other processes
    os._exit(status)


class Prefixed:
    """A text stream whose lines begin with a prefix."""

    def __init__(self, stream, prefix: str):
        self._stream, self._prefix, self._at_start = stream, prefix, True

    def write(self, text: str) -> int:
        """Write text, of whole lines or parts of them."""
        for line in text.splitlines(keepends=True):
            self._stream.write(self._prefix + line if self._at_start else line)
            self._at_start = line.endswith("\n")
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)
