"""Several processes of one program on this machine, as srun, torchrun or mpirun would start them."""

import os
import socket
import subprocess
import sys
import time
from typing import NamedTuple

LAUNCHERS = ("SLURM_", "JAX_", "JAXDA_", "OMPI_", "PMI_", "MPI_", "ROCR_", "HIP_", "CUDA_")
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")


class Ended(NamedTuple):
    """Exit status, standard output without gloo's own lines, standard error, and when it ended [s]."""

    status: int
    out: str
    err: str
    at: float


def environment():
    """That of this process without what launchers and tests set."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS) and name not in TORCHRUN
    }


def variables(how, rank, size, port):
    """What a launcher sets for one of the processes."""
    if how == "torchrun":
        own = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    else:  # JAX makes the port of the job's number
        own = {"SLURM_JOB_ID": port % 4096, "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": size}
        own |= {"SLURM_STEP_NUM_TASKS": size, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "JAX_COORDINATOR_PORT": port}
    return {name: str(value) for name, value in own.items()}


def run(size, how, *words, each=lambda rank: [], cwd=None, timeout=300, **more):
    """Start `python *words *each(rank)` as processes of a run and wait for them all: a list of `Ended`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(size):
        line = [sys.executable, *map(str, words), *map(str, each(rank))]
        env = environment() | variables(how, rank, size, port) | more
        files = {name: subprocess.PIPE for name in ("stdout", "stderr")}
        started.append(subprocess.Popen(line, env=env, cwd=cwd, text=True, **files))
    ends, until = {}, time.monotonic() + timeout
    try:
        while len(ends) < size and time.monotonic() < until:
            ends |= {
                rank: time.monotonic() for rank, p in enumerate(started) if rank not in ends and p.poll() is not None
            }
            time.sleep(0.05)
    finally:
        late = [rank for rank, p in enumerate(started) if p.poll() is None]
        for rank in late:
            started[rank].kill()
    results = []
    for rank, process in enumerate(started):
        out, err = process.communicate()
        out = "".join(line for line in out.splitlines(keepends=True) if not line.startswith("[Gloo]"))
        results.append(Ended(process.returncode, out, err, ends.get(rank, until)))
    assert not late, f"ranks {late} of {size} did not end in {timeout} s: {[end.err[-500:] for end in results]}"
    return results
