"""Meshes of devices, and functions of members or columns spread over them.

The forecast of an ensemble goes through `jax.shard_map`: under plain jit the compiler gathers the whole
ensemble before each Fourier transform (seen with jaxlib 0.10.2); here each device works on its members alone.
Meshes have Auto axes: with explicit ones, un-annotated ensemble algebra raises.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, PartitionSpec

#: values in a state from which on a CPU takes its members one after another
LARGE = 8192


def member_mesh(members: int, devices: list | None = None) -> Mesh:
    """A mesh with the axis `member` over as many devices as divide the members."""
    devices = jax.devices() if devices is None else devices
    count = max(n for n in range(1, len(devices) + 1) if members % n == 0)
    return jax.make_mesh((count,), ("member",), axis_types=(AxisType.Auto,), devices=devices[:count])


def over_members(function: Callable[[Array], Array], mesh: Mesh | None) -> Callable[[Array], Array]:
    """A function of ensembles `(M, ...)`, member by member, spread over the mesh without communication.

    On a CPU each device takes members of LARGE states one after another: what one member needs stays in the core's
    cache (36 steps of SQG, N = 64, 20 members: 0.80 s on one core, 1.10 s all at once; at N = 32 all at once is twice
    as fast). Other devices take all of theirs at once.

    Args:
        function: of states `(..., *shape)`, each by itself; it is given one, `(*shape)`, or several.
        mesh: of any axes, over all of which the members are spread; None for one device of the default kind.

    Raises:
        ValueError: at the call, where the devices do not divide the members.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform

    def one_device(ensemble):
        in_turn = platform == "cpu" and ensemble[0].size >= LARGE
        return jax.lax.map(function, ensemble) if in_turn else function(ensemble)

    if mesh is None or mesh.size == 1:
        return one_device
    spec = PartitionSpec(mesh.axis_names)
    spread = jax.shard_map(one_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)

    def checked(ensemble):
        if len(ensemble) % mesh.size:
            raise ValueError(f"members = {len(ensemble)} do not divide over {mesh.size} devices; use a multiple")
        return spread(ensemble)

    return checked


def over_columns(function, total: int, mesh: Mesh | None, batch: int) -> Callable:
    """Results of `function(columns, *shared)` for the columns 0..total-1, in batches, spread over the mesh.

    Args:
        function: column numbers `(C,)` and arrays that every device holds -> `(C, ...)`.
        batch: columns done at once on one device.

    Returns:
        A function (*shared) -> `(total, ...)`. The last batch of each device is filled up with columns
        that are done twice.
    """
    devices = 1 if mesh is None else mesh.size
    size = min(batch, -(-total // devices))
    count = -(-total // (size * devices))
    columns = np.arange(devices * count * size).reshape(-1, size) % total

    def part(columns, *shared):
        return jax.lax.map(lambda some: function(some, *shared), columns)

    def run(*shared):
        spread = part
        if devices > 1:
            along, whole = PartitionSpec("member"), PartitionSpec()
            in_specs = (along, *(whole for _ in shared))
            spread = jax.shard_map(part, mesh=mesh, in_specs=in_specs, out_specs=along, check_vma=False)
        result = spread(jnp.asarray(columns), *shared)
        return result.reshape(-1, *result.shape[2:])[:total]

    return run
