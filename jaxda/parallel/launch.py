"""What a script does before its first array: which processes there are, their devices, the floating-point type.

    launch.start(config.precision, config)   one call at the top of a script, of one process or of many
    launch.refuse("osse.py", error)          bad input: one line, status 2 for all of them

A script is one process, or every process of one run: the same program everywhere, each with its own devices, all
of them in every jitted call on a mesh. The first process alone prints and writes files.

JAXDA_LAUNCH=single makes each process a run of its own, such as eight seeds that srun starts at once;
JAXDA_LAUNCH=srun, mpirun or torchrun insists on that launcher where the environment of several is there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jaxlib
from jax._src import distributed  # its key-value store has no public name; Orbax goes there too
from jax.experimental import multihost_utils

from jaxda import __version__
from jaxda.parallel import caching, ending
from jaxda.settings import difference

#: rank, size and local rank, of the innermost launcher first: srun may have started what started this process
VARIABLES = (
    ("torchrun", ("RANK", "WORLD_SIZE", "LOCAL_RANK")),
    ("mpirun", ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")),  # Open MPI
    ("mpirun", ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")),  # MPICH's hydra
    # of the step: SLURM_NTASKS is that of the job even in its one interactive shell
    ("srun", ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")),
)
#: where launchers say which GPUs a process sees
VISIBLE = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


class Launch(NamedTuple):
    """How this process was started.

    Attributes:
        how: "single", "srun", "mpirun" or "torchrun".
        rank, size: its number among the processes of the run, and how many these are.
        local_rank: its number among those of the run on this machine.
    """

    how: str = "single"
    rank: int = 0
    size: int = 1
    local_rank: int = 0


def detect(environ: Mapping[str, str] = os.environ) -> Launch:
    """How this process was started, as the environment says it; nothing is begun.

    Raises:
        ValueError: variables that are missing or do not fit together.
    """
    wanted = environ.get("JAXDA_LAUNCH", "")
    known = {how for how, _ in VARIABLES}
    if wanted == "single":
        return Launch()
    if wanted and wanted not in known:
        raise ValueError(f"JAXDA_LAUNCH = {wanted}: not one of single, {', '.join(sorted(known))}; leave it out")
    for how, names in VARIABLES:
        if wanted not in ("", how):
            continue
        needed = names[:2] if how == "torchrun" else names
        if any(name not in environ for name in needed):
            continue
        if environ[names[1]] == "1":
            return Launch()
        for name in (*names, *(("MASTER_ADDR", "MASTER_PORT") if how == "torchrun" else ())):
            if name not in environ:
                raise ValueError(f"{name}: not set, though {names[1]} is; set it, or JAXDA_LAUNCH=single")
        try:
            rank, size, local = (int(environ[name]) for name in names)
        except ValueError:
            rank, size, local = -1, 0, 0
        if not 0 <= rank < size:
            said = ", ".join(f"{name} = {environ[name]}" for name in names)
            raise ValueError(f"{said}: not a rank among as many; let {how} set them, or set JAXDA_LAUNCH=single")
        return Launch(how, rank, size, local)
    if wanted:
        names = " or ".join(", ".join(names) for how, names in VARIABLES if how == wanted)
        raise ValueError(f"JAXDA_LAUNCH = {wanted}: {names} are not set; start with {wanted}, or leave it out")
    return Launch()


def is_first() -> bool:
    """Whether this is the process that prints and writes."""
    return detect().rank == 0


def say(text: str, file=None) -> None:
    """Print a line, in the first process alone."""
    if is_first():
        print(text, file=file or sys.stdout, flush=True)


def start(precision: str = "float32", settings=None, alone: bool = True) -> Launch:
    """Connect the processes, choose the default floating-point type, and count the CPU devices.

    Call it before anything touches a device. A process by itself makes every CPU core a device, so that members spread
    over them; several processes have one each. Where XLA_FLAGS or JAX_NUM_CPU_DEVICES already say how many CPU devices
    a process has, that stands. Of GPUs each process takes one: the only one it sees, or that of its local rank;
    JAX_LOCAL_DEVICE_IDS=0,1 names others. Across processes CPUs communicate by gloo, GPUs by NCCL or RCCL.

    LAPACK's work on a CPU (`eigh`, Cholesky) is done by XLA's pool of threads, and so are the devices' programs. As
    many devices as threads all wait for the pool, forever (seen with jaxlib 0.10.2). So the pool, whose size XLA takes
    from NPROC, is made larger; whoever makes several CPU devices without this function has to set NPROC too.

    Compiled programs of a process by itself are kept for the next start (`caching`). Several keep theirs only where
    JAX_COMPILATION_CACHE_DIR says so: the first alone writes, and those who find nothing in a folder of their own would
    compile while others run on.

    Args:
        settings: a dataclass in which all processes must agree; None: they are not connected.
        alone: without settings, refuse several processes; False where they meet over MPI by themselves.

    Raises:
        ValueError: an environment that does not fit together, or several processes and no settings.
        ConnectionError: the processes cannot connect; after JAXDA_TIMEOUT seconds (300) of waiting, status 2 instead.
    """
    os.environ.setdefault("NPROC", str(4 * len(os.sched_getaffinity(0))))
    jax.config.update("jax_enable_x64", precision == "float64")
    found = detect()
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)) if found.size == 1 else 1)
    if found.size == 1:
        caching.keep()
    if settings is None and alone:
        require_one()
    if settings is not None and found.size > 1:
        _connect(found)
        _agree(found, settings)
    return found


def require_one() -> None:
    """Raise ValueError where several processes were started for a script that works as one."""
    found = detect()
    if found.size > 1:
        several = f"{found.size} processes were started by {found.how}, and this script is one"
        raise ValueError(f"{several}; start it once, or set JAXDA_LAUNCH=single for as many runs")


def describe(found: Launch, precision: str, mesh: jax.sharding.Mesh | None = None) -> str:
    """Versions, processes, devices and mesh in one line; starts the devices."""
    versions = f"jaxda {__version__}, jax {jax.__version__}, jaxlib {jaxlib.__version__}"
    processes = "1 process" if found.size == 1 else f"{found.size} processes ({found.how})"
    axes = "" if mesh is None else ", mesh " + " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    return f"{versions}; {processes}, {jax.device_count()} x {jax.devices()[0].device_kind}, {precision}{axes}"


def from_first(tree):
    """Arrays as the first process has them, in every process, so that unlike machines cannot disagree.

    Of the same shapes and types everywhere; every process has to call it. NumPy arrays where there are several.
    """
    return tree if detect().size == 1 else multihost_utils.broadcast_one_to_all(tree)


# Connecting


def own_devices(found: Launch, environ: Mapping[str, str] = os.environ) -> list[int] | None:
    """Numbers of the GPUs of this process among those that it sees; None: as JAX_LOCAL_DEVICE_IDS says.

    A launcher that binds one GPU to each process (srun --gpus-per-task=1) shows it that one, as number 0.
    """
    if "JAX_LOCAL_DEVICE_IDS" in environ:
        return None
    seen = next((environ[name] for name in VISIBLE if environ.get(name)), "")
    return [0] if seen and "," not in seen else [found.local_rank]


def patience(environ: Mapping[str, str] = os.environ) -> int:
    """How long processes wait for each other at the start [s]."""
    given = environ.get("JAXDA_TIMEOUT", "300")
    if not given.isdecimal() or given == "0":
        raise ValueError(f"JAXDA_TIMEOUT = {given}: not a number of seconds; leave it out for 300")
    return int(given)


def coordinator(environ: Mapping[str, str] = os.environ) -> str:
    """Address of the first process where MASTER_ADDR and MASTER_PORT say it.

    torchrun keeps a store of its own at that port, so then it is the next; what only sets the variables leaves it free.
    """
    port, taken = environ["MASTER_PORT"], environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not port.isdecimal():
        raise ValueError(f"MASTER_PORT = {port}: not a number; use one such as 29500")
    return f"{environ['MASTER_ADDR']}:{environ.get('JAX_COORDINATOR_PORT') or int(port) + taken}"


def _connect(found: Launch) -> None:
    if distributed.global_state.client is not None:
        return
    if found.rank:
        sys.stderr = ending.Prefixed(sys.stderr, f"[rank {found.rank}] ")
    timeout = patience()
    how = {"cluster_detection_method": {"srun": "slurm", "mpirun": "mpi4py"}.get(found.how, "deactivate")}
    if found.how == "torchrun":
        how["coordinator_address"] = coordinator()
    if found.how == "mpirun" and importlib.util.find_spec("mpi4py") is None:
        raise ValueError("mpirun: mpi4py is not installed; install jaxda's extra mpi, or start with srun")
    # it would take SIGTERM for a notice to save and go on; here a run that is told to stop stops
    jax.config.update("jax_enable_preemption_service", False)
    late = threading.Timer(timeout, _nobody, (found, timeout))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            num_processes=found.size,
            process_id=found.rank,
            local_device_ids=own_devices(found),
            initialization_timeout=timeout + 60,  # at which JAX aborts with a dump
            **how,
        )
    except RuntimeError as error:  # the port is taken, for instance
        raise ConnectionError(_lost(found, " ".join(str(error).split())[:160])) from None
    finally:
        late.cancel()
    ending.prepare(found.rank, found.size)


def _lost(found: Launch, reason: str) -> str:
    at = distributed.global_state.coordinator_address
    cure = "check that all are started, and that this address is free and can be reached from each"
    return f"rank {found.rank} of {found.size} found no others at {at}: {reason}; {cure}"


def _nobody(found: Launch, seconds: int) -> None:
    print(_lost(found, f"not in JAXDA_TIMEOUT = {seconds} s"), file=sys.stderr, flush=True)
    os._exit(2)


def _agree(found: Launch, settings) -> None:
    """End every process where one has other settings, devices or versions than the first."""
    store, wait = distributed.global_state.client, 1000 * patience()
    own = {
        "jaxda": __version__,
        "jax": jax.__version__,
        "JAX_NUM_CPU_DEVICES": jax.config.jax_num_cpu_devices,
        "JAX_PLATFORMS": jax.config.jax_platforms,
    }
    text = json.dumps(own | dataclasses.asdict(settings), sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()
    if found.rank == 0:
        store.key_value_set("jaxda/settings", text)
        store.key_value_set("jaxda/digest", digest)
        for rank in range(1, found.size):
            store.blocking_key_value_get(f"jaxda/agrees/{rank}", wait)
        store.key_value_set("jaxda/agreed", "")
        return
    if store.blocking_key_value_get("jaxda/digest", wait) != digest:
        first = json.loads(store.blocking_key_value_get("jaxda/settings", wait))
        field, theirs, ours = difference(first, json.loads(text))
        cure = "start all alike, or set JAXDA_LAUNCH=single for a run of its own in each"
        raise ValueError(f"{field} = {ours} here, {theirs} on rank 0; {cure}")
    store.key_value_set(f"jaxda/agrees/{found.rank}", "")
    store.blocking_key_value_get("jaxda/agreed", wait)  # nothing is begun while another may still refuse


# Ending


def refuse(script: str, error: Exception | str) -> int:
    """Say in one line what is wrong with the input, once, and end every process with status 2.

    Returns the status where there is one process; with several it does not return.
    """
    try:
        found = detect()
        if found.size > 1:
            _connect(found)  # those who found nothing wrong wait there
    except (ValueError, OSError) as other:
        print(f"{script}: {other if isinstance(other, ConnectionError) else error}", file=sys.stderr)
        return 2
    if found.size == 1:
        print(f"{script}: {error}", file=sys.stderr)
        return 2
    if "Gloo" in str(error):  # JAX raises ValueError where a collective on CPUs loses a process
        ending.end(found.size, 1, f"{script}: another process is gone, see its own output; start all again ({error})")
    if found.rank:
        time.sleep(1.0)  # mostly all find the same, and then the first says it, without a rank
    ending.end(found.size, 2, f"{script}: rank {found.rank}: {error}" if found.rank else f"{script}: {error}")
