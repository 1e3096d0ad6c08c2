"""Meshes of devices, and functions of members or columns spread over them.

The forecast of an ensemble goes through `jax.shard_map`: under plain jit the compiler gathers the whole
ensemble before each Fourier transform (seen with jaxlib 0.10.2); here each device works on its members alone.
Meshes have Auto axes: with explicit ones, un-annotated ensemble algebra raises.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, PartitionSpec

from jaxda.parallel import kernels

#: values in a state from which on a CPU takes its members one after another
LARGE = 2048


def member_mesh(members: int, devices: list | None = None) -> Mesh:
    """A mesh with the axis `member` over as many devices as divide the members, the same number of each process.

    Args:
        devices: None for those of all processes.

    Raises:
        ValueError: the processes do not divide the members; with one process any number will do.
    """
    devices = jax.devices() if devices is None else devices
    processes: dict[int, list] = {}
    for device in devices:
        processes.setdefault(device.process_index, []).append(device)
    n = len(processes)
    if members % n:
        raise ValueError(
            f"members = {members} do not divide over {n} processes; use a multiple of {n}, or fewer processes"
        )
    most = min(map(len, processes.values()))
    count = max(k for k in range(1, most + 1) if members // n % k == 0)
    chosen = [device for own in processes.values() for device in own[:count]]
    return jax.make_mesh((len(chosen),), ("member",), axis_types=(AxisType.Auto,), devices=chosen)


def jitted(function: Callable, mesh: Mesh | None, **options) -> Callable:
    """`jax.jit` of a program that is spread over a mesh, with its options.

    On several CPU devices each device's part is done by one thread: the cores are busy with the other devices. With
    XLA's default, threads of its pool for every transform and loop, two devices on two cores took 1.8 times as long for
    the SQG forecast (docs/benchmarks.md). On them loops are compiled for the longest vectors, too.
    """
    if mesh is not None and mesh.size > 1 and mesh.devices.flat[0].platform == "cpu":
        options |= {"compiler_options": {"xla_cpu_multi_thread_eigen": False} | kernels.options("cpu")}
    return jax.jit(function, **options)


def in_turn(state: Array, platform: str) -> bool:
    """Whether members of this kind are better taken one after another: what one needs then stays in a core's cache."""
    return platform == "cpu" and state.size >= LARGE


def over_members(function: Callable[..., Array], mesh: Mesh | None) -> Callable[..., Array]:
    """A function of ensembles `(M, ...)`, member by member, spread over the mesh without communication.

    On a CPU each device takes members of LARGE states one after another: what one member needs stays in the core's
    cache (36 steps of SQG, 20 members, two cores: at N = 64 0.85 of the time of all at once, at N = 32 0.66, at N = 16
    1.3). Other devices take all of theirs at once.

    Args:
        function: of states `(..., *shape)`, each by itself; it is given one, `(*shape)`, or several. Further arguments,
            weights for instance, all devices have whole.
        mesh: of any axes, over all of which the members are spread; None for one device of the default kind.

    Raises:
        ValueError: at the call, where the devices do not divide the members.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform

    def one_device(ensemble, *shared):
        own = lambda states: function(states, *shared)
        return jax.lax.map(own, ensemble) if in_turn(ensemble[0], platform) else own(ensemble)

    if mesh is None or mesh.size == 1:
        return one_device
    spec = PartitionSpec(mesh.axis_names)

    def checked(ensemble, *shared):
        _check_divides(ensemble, mesh.size)
        specs = (spec, *(PartitionSpec() for _ in shared))
        return jax.shard_map(one_device, mesh=mesh, in_specs=specs, out_specs=spec, check_vma=False)(ensemble, *shared)

    return checked


def by_members(analysis: Callable, mesh: Mesh | None) -> Callable:
    """An analysis (key, ensemble, observation) -> ensemble that every device of the mesh runs on its own members.

    Key and observation are whole on each. Axes of the mesh other than `member` are the compiler's: where the ensemble
    is cut along them too, it cuts what the analysis does. `analysis` is given `axis = "member"` to communicate by, or
    None where one device has all members.

    Raises:
        ValueError: at the call, where the devices do not divide the members.
    """
    count = 1 if mesh is None else mesh.shape["member"]
    if count == 1:
        return partial(analysis, axis=None)
    whole, along = PartitionSpec(), PartitionSpec("member")
    spread = jax.shard_map(
        partial(analysis, axis="member"),
        mesh=mesh,
        in_specs=(whole, along, whole),
        out_specs=along,
        axis_names={"member"},
        check_vma=False,
    )

    def checked(key, ensemble, observation):
        _check_divides(ensemble, count)
        return spread(key, ensemble, observation)

    return checked


def with_all_members(analysis: Callable, mesh: Mesh | None) -> Callable:
    """An analysis that needs all members at each point, on members spread over the mesh.

    One all-gather gives every device the whole ensemble, of which it analyses what `over_columns` leaves to it; of the
    result it keeps its own members. What is not done by columns each device does for itself, the same on all of them,
    so that the numbers do not depend on how many there are.

    Args:
        analysis: (key, ensemble, observation, axis) -> ensemble; `axis` is for `over_columns`.
    """

    def gathered(key, ensemble, observation, axis):
        if axis is None:
            return analysis(key, ensemble, observation, axis)
        whole = jax.lax.all_gather(ensemble, axis, tiled=True)
        result = analysis(key, whole, observation, axis)
        return jax.lax.dynamic_slice_in_dim(result, jax.lax.axis_index(axis) * len(ensemble), len(ensemble))

    return by_members(gathered, mesh)


def over_columns(function: Callable, total: int, axis: str | None, batch: int) -> Callable:
    """Results of `function(columns, *shared)` for the columns 0..total-1, in batches, each device doing its part.

    Args:
        function: column numbers `(C,)` and arrays that every device holds -> `(C, ...)`.
        axis: of the mesh whose devices take part, inside of `by_members`; None for one device.
        batch: columns done at once on one device.

    Returns:
        A function (*shared) -> `(total, ...)`, whole on every device: one all-gather. The last batch of each device is
        filled up with columns that are done twice.
    """

    def run(*shared):
        devices = 1 if axis is None else jax.lax.axis_size(axis)
        size = min(batch, -(-total // devices))
        count = -(-total // (size * devices))
        columns = jnp.asarray(np.arange(devices * count * size).reshape(-1, size) % total)
        if axis is not None:
            columns = jax.lax.dynamic_slice_in_dim(columns, jax.lax.axis_index(axis) * count, count)
        result = jax.lax.map(lambda some: function(some, *shared), columns)
        if axis is not None:
            result = jax.lax.all_gather(result, axis, tiled=True)
        return result.reshape(-1, *result.shape[2:])[:total]

    return run


def _check_divides(ensemble: Array, count: int) -> None:
    if len(ensemble) % count:
        raise ValueError(f"members = {len(ensemble)} do not divide over {count} devices; use a multiple")
