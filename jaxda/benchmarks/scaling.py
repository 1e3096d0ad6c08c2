"""Weak scaling of the EnSF: one, two, ... processes with as many members each, every process on a core of its own.

The processes of a job are connected by `jax.distributed` (gloo on a local port), one CPU device each. All jobs are
started and compile first; then they are timed in turn, and while one works the others wait for a line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from jaxda.benchmarks.timing import free_port
from jaxda.parallel.hlo import Collective

#: seconds for all processes of a job to start and find each other
PATIENCE = 120


class Job:
    """The processes of one job, pinned to the first cores that this process may use, waiting to be told to run.

    Args:
        arguments: of the worker: `--N`, `--members` (of each process), `--steps`, `--integrator`, and values.
        log: what the processes say besides.

    Attributes:
        collectives: of the compiled analysis.

    """

    def __init__(self, processes: int, arguments: list[str], log: IO):
        cores, port = sorted(os.sched_getaffinity(0)), free_port()
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1", "NPROC": "2"}
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        worker = [sys.executable, "-m", "jaxda.benchmarks.scaling", *arguments]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
        self.log = log
        self.workers = [
            subprocess.Popen([*worker, *map(str, (processes, number, core, port))], env=environment, **pipes)
            for number, core in enumerate(cores[:processes])
        ]
        self.collectives = []

    def ready(self) -> None:
        """Wait until all have compiled and run once; raises ChildProcessError if one ends, as `run` does."""
        found = [json.loads(self._said(worker)) for worker in self.workers]
        self.collectives = [Collective(*one) for one in found[0]]

    def run(self) -> float:
        """Seconds of one analysis: of the slowest process."""
        for worker in self.workers:
            worker.stdin.write("\n")
            worker.stdin.flush()
        return max(float(self._said(worker)) for worker in self.workers)

    def stop(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.kill()
            worker.communicate()

    def _said(self, worker: subprocess.Popen) -> str:
        line = worker.stdout.readline()
        if not line:
            self.log.seek(0)
            last = (self.log.read().strip().splitlines() or ["nothing"])[-1]
            raise ChildProcessError(f"a process of {len(self.workers)} ended, status {worker.wait()}: {last}")
        return line


@contextlib.contextmanager
def jobs(processes: list[int], arguments: list[str]) -> Iterator[dict[int, Job]]:
    """A job of each number of processes, ready to run; they are ended afterwards."""
    found: dict[int, Job] = {}
    with tempfile.TemporaryFile("w+") as log:
        try:
            for count in processes:  # one after the other: compiling disturbs nobody
                found[count] = Job(count, arguments, log)
                found[count].ready()
            yield found
        finally:
            for job in found.values():
                job.stop()


def measured(
    processes: list[int], arguments: list[str], repeats: int
) -> tuple[dict[int, list[float]], list[Collective]]:
    """Seconds an analysis for each number of processes, in turn; the collectives of the program of the last."""
    with jobs(processes, arguments) as found:
        seconds = {count: [] for count in found}
        for _ in range(repeats):
            for count, job in found.items():
                seconds[count].append(job.run())
        return seconds, job.collectives


def work(given: argparse.Namespace) -> None:
    """One process of a job: compile, say what is communicated, then one analysis and its seconds for each line read."""
    os.sched_setaffinity(0, {given.core})  # before there are threads, which inherit it
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # gloo writes where the answers belong
    import time

    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    if given.processes > 1:
        address = f"127.0.0.1:{given.port}"
        jax.distributed.initialize(address, given.processes, given.process, initialization_timeout=PATIENCE)

    from jaxda import observations
    from jaxda.filters import ensf
    from jaxda.models.sqg import SQGConfig
    from jaxda.parallel import hlo
    from jaxda.parallel.mesh import member_mesh

    model, total = SQGConfig(N=given.N), given.processes * given.members
    operator = observations.make_operator(observations.ObservationConfig(), model.shape, model.kelvin)
    mesh = member_mesh(total)
    config = ensf.EnSFConfig(steps=given.steps, integrator=given.integrator, tolerance=0)
    filtered = ensf.make_analysis(config, operator, 1000.0, mesh)
    values = np.random.default_rng(0).normal(0.0, 10.0, model.shape).astype(np.float32)
    observation = observations.Observation(values, np.ones_like(values))
    own = np.random.default_rng(1 + given.process).normal(0.0, 1000.0, (given.members, *model.shape))
    spread = NamedSharding(mesh, PartitionSpec("member"))
    ensemble = jax.make_array_from_process_local_data(spread, own.astype(np.float32))
    analysis = jax.jit(lambda x: filtered(jax.random.key(3), x, observation)).lower(ensemble).compile()
    jax.block_until_ready(analysis(ensemble))
    print(json.dumps(hlo.collectives(analysis.as_text())), file=answers, flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        jax.block_until_ready(analysis(ensemble))
        print(time.perf_counter() - began, file=answers, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=work.__doc__)
    for name in ("--N", "--members", "--steps", "processes", "process", "core", "port"):
        parser.add_argument(name, type=int)
    parser.add_argument("--integrator")
    work(parser.parse_args())
