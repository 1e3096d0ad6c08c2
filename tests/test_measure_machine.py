"""Processes that find each other, and a machine made of what they measured."""

from pathlib import Path

import pytest

from jaxda.benchmarks import machine
from jaxda.benchmarks.machine import Measured

SUM = """
import os, sys
from jaxda.benchmarks import machine
import jax, jax.numpy as jnp
from jax.experimental import multihost_utils
from jaxda.parallel import launch
size = launch.start("float32", machine.MeasuringConfig()).size
every = multihost_utils.process_allgather(jnp.array([jax.process_index() + 1])) if size > 1 else jnp.ones(1)
print(size, int(every.sum()))
"""


@pytest.mark.parametrize(("count", "said"), [(1, "1 1"), (2, "2 3")])
def test_processes_find_each_other(count, said, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    assert machine.together(["-c", SUM], count).split("\n")[-2] == said


def test_one_that_fails_is_told():
    with pytest.raises(RuntimeError, match=r"a process ended with 3: .*wrong"):
        machine.together(["-c", "import sys; print('wrong', file=sys.stderr); sys.exit(3)"], 2)


def test_one_that_does_not_end_is_stopped():
    with pytest.raises(RuntimeError, match="2 processes did not end within 1 s"):
        machine.together(["-c", "import time; time.sleep(60)"], 2, limit=1.0)


def test_a_machine_of_measurements():
    found = [
        Measured(1, 5e10, 1e10, {}),
        Measured(2, 3e10, 8e9, {1e3: 1e-3, 1e6: 2e-3}),
        Measured(4, 1e10, 4e9, {1e3: 4e-3, 1e6: 8e-3}),
    ]
    own = machine.as_machine(found, 6e9, 1e9, "mine")
    assert own.peak == 5e10
    assert [own.rate(n) for n in (1, 2, 4)] == [5e10, 3e10, 1e10]
    # its tables give the measured times back
    assert own.seconds("all-reduce", 1e6, (0, 1)) == pytest.approx(2e-3)
    assert own.seconds("all-reduce", 1e6, (0, 1, 2, 3)) == pytest.approx(8e-3)
    assert [machine.from_text(machine.as_text(one)) for one in found] == found
