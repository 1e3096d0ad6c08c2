"""Signals: the first ends a run between two pieces, the second at once; a launcher's echo of one is not a second."""

import os
import signal
import subprocess
import sys
import time

import processes
import pytest

from jaxda.parallel import stopping

#: computes for long in one call that no Python handler can interrupt; stops after it
PROGRAM = """
import sys
import jax, jax.numpy as jnp
from jaxda.parallel import launch, stopping
launch.start()
slow = jax.jit(lambda x: jax.lax.fori_loop(0, int(sys.argv[1]), lambda i, x: jnp.cos(x), x))
with stopping.watched() as stop:
    print("begun", flush=True)
    x = jnp.ones(2)
    try:
        for piece in range(10**6):
            x = slow(x).block_until_ready()
            print("piece", flush=True)
            stop.check()
    except stopping.Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopping.REQUEUE)
"""
LONG, SHORT = 2 * 10**9, 10**5


def start(length):
    line = [sys.executable, "-c", PROGRAM, str(length)]
    files = {name: subprocess.PIPE for name in ("stdout", "stderr")}
    process = subprocess.Popen(line, env=processes.environment(), text=True, **files)
    assert process.stdout.readline() == "begun\n", process.communicate()
    return process


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_ends_a_run_after_the_piece_that_it_is_at(number):
    process = start(SHORT)
    process.stdout.readline()
    process.send_signal(number)
    process.send_signal(number)  # as from a launcher and to its group
    out, err = process.communicate(timeout=60)
    assert process.returncode == stopping.REQUEUE == 75, err
    name = signal.Signals(number).name
    assert err.splitlines() == [
        f"{name}: stops after what it is at; a second signal ends it at once",
        f"stopped by {name}, all that is done is kept; --resume goes on",
    ]
    assert out.count("piece") <= 10**6


def test_a_second_signal_ends_it_at_once_also_inside_of_a_long_piece():
    process = start(LONG)
    time.sleep(0.5)
    process.send_signal(signal.SIGUSR1)
    time.sleep(stopping.ECHO + 0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM


def test_handlers_are_those_from_before_when_it_is_over():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.watched() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGUSR1)
        until = time.monotonic() + 5
        while stop.number is None and time.monotonic() < until:
            time.sleep(0.01)
        assert stop()
        with pytest.raises(stopping.Stopped, match=r"stopped by SIGUSR1, .* kept; start it again"):
            stop.check("start it again")
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


def test_slurm_says_that_a_job_was_requeued():
    assert [stopping.requeued({"SLURM_RESTART_COUNT": text}) for text in ("1", "12", "0", "")] == [1, 1, 0, 0]
    assert not stopping.requeued({})
