"""How a run is stopped before its end: it finishes the piece it is at, keeps it, and ends with a status that requeues.

    with stopping.watched() as stop:      SIGTERM, SIGINT and SIGUSR1 (Slurm's warning) are heard from here on
        ...
        stop.check()                      between two pieces that are kept: raises Stopped if one came

A second signal ends the process at once. Python's own handlers wait until compiled code returns, and of two equal
signals meanwhile they see one; a pipe that the C handler writes to, and a thread that reads it, see both in time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxda.parallel import launch

#: exit status of a run that was stopped and can go on: EX_TEMPFAIL of sysexits.h, "try again later" (slurm/job.sh too)
REQUEUE = 75
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
#: a signal this soon after the first is the same one by another way, from a launcher and to its group [s]
ECHO = 1.0


class Stopped(Exception):  # noqa: N818 (it is no error)
    """The run was stopped by a signal after a piece that it kept."""


class Stop:
    """Whether a signal has come; `number` is that of this process, None before there is one."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._since: float | None = None
        self._said = threading.Event()

    def __call__(self) -> bool:
        """Whether to stop, the same in all processes: whether a signal has come to any. All of them have to ask."""
        if jax.process_count() == 1:
            return self.number is not None
        return bool(np.any(multihost_utils.process_allgather(np.asarray(self.number is not None))))

    def check(self, cure: str = "--resume goes on") -> None:
        """Raise Stopped if a signal has come to any process; all of them have to call it."""
        if self():
            if self.number is not None:
                self._said.wait(ECHO)  # that it stops is said before that it has
            own = "a signal" if self.number is None else signal.Signals(self.number).name
            raise Stopped(f"stopped by {own}, all that is done is kept; {cure}")

    def heard(self, number: int) -> None:
        """A signal has come."""
        if self._since is None:
            self.number, self._since = self.number or number, time.monotonic()
            name = signal.Signals(number).name
            launch.say(f"{name}: stops after what it is at; a second signal ends it at once", sys.stderr)
            self._said.set()
        elif time.monotonic() - self._since > ECHO:
            os._exit(128 + number)


@contextmanager
def watched() -> Iterator[Stop]:
    """A `Stop` that hears the signals, as long as this lasts; in a thread that is not the main one it hears none."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def note(number, _):  # between two lines of Python it is known at once
        stop.number = stop.number or number

    before = {number: signal.signal(number, note) for number in SIGNALS}
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=_listen, args=(reader, stop), daemon=True)
    thread.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)


def _listen(reader: int, stop: Stop) -> None:
    while numbers := os.read(reader, 64):
        for number in numbers:
            if number in SIGNALS:
                stop.heard(number)


def requeued(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether Slurm has put this job back into the queue and started it again."""
    return environ.get("SLURM_RESTART_COUNT", "") not in ("", "0")
