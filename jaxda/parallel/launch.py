"""What a script does before its first array: floating-point type and devices."""

from __future__ import annotations

import os

import jax


def start(precision: str = "float32") -> None:
    """Choose the default floating-point type, and make every CPU core a device so that members spread over them.

    Call it before anything touches a device. Where XLA_FLAGS or JAX_NUM_CPU_DEVICES already say how many
    CPU devices there are, that stands.

    LAPACK's work on a CPU (`eigh`, Cholesky) is done by XLA's pool of threads, and so are the devices' programs. As
    many devices as threads all wait for the pool, forever (seen with jaxlib 0.10.2). So the pool, whose size XLA takes
    from NPROC, is made larger; whoever makes several CPU devices without this function has to set NPROC too.
    """
    os.environ.setdefault("NPROC", str(4 * len(os.sched_getaffinity(0))))
    jax.config.update("jax_enable_x64", precision == "float64")
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
