"""Strategies of a training over devices: who holds what, and what is communicated when.

A mesh has the axes `data` and `fsdp`. Every device has its own samples of the batch. Along `fsdp` devices may share
one copy of the training's arrays, each holding a part; along `data` there are copies. The names are those of Yin et
al. 2024 (SC24, Table I), of DeepSpeed (Rajbhandari et al. 2020, "ZeRO", SC20, Sec. 5) and of PyTorch's FSDP (Zhao et
al. 2023, VLDB 16, 3848):

    strategy                   stage   weights   gradients   optimizer, moving average
    ddp                          0      whole      whole        whole
    zero1                        1      whole      whole        parts
    zero2 = shard_grad_op        2      whole      parts        parts
    zero3 = full_shard           3      parts      parts        parts
    hybrid_shard                 3      parts      parts        parts: within a node, with copies across nodes

The compiler is not asked to find the communication (jaxlib 0.10.2, given the same layouts under plain jit, compiles
zero3 of a ViT to 89 all-gathers and 9 permutations). The step runs inside of `jax.shard_map` and says it itself. With
one more all-reduce of the loss and the gradients' norm, where they are not part of another, a step has

    ddp            all-reduce of the gradients, after the last of them
    zero1          the same; all-gather of the new weights at the end
    zero2          reduce-scatter of each group of layers' gradients within the backward loop; all-gather as zero1
    zero3          all-gather of each group's weights within the forward loop, once more within the backward loop,
                   reduce-scatter within the backward loop
    hybrid_shard   as zero3 among the devices of a node; all-reduce of the parts of the gradients over the nodes

and zero2 and zero3 the same once for what is no layer (embedding, head). What travels together is packed into buckets.
With `overlap` the all-reduces of gradients are in the backward loop too, a group of layers each; else all at the end,
in larger messages. Several batches to a step: what is in the loops happens for each of them.

Within a turn of a loop weights that are gathered are used at once, and gradients are sent when they are there: nothing
can be computed meanwhile, unless the compiler moves communication from turn to turn. With `prefetch` the program does
so itself (`prefetch.py`), for one more group of layers in memory.

**Which axis is cut** follows from an array's shape alone: the first that the devices divide, not counting the axis of
layers. Arrays without one (few, and small) stay whole; their gradients are summed at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxda.parallel.packing import all_reduced, gathered, scattered
from jaxda.settings import Count, Positive, described, settings

STAGES = {"ddp": 0, "zero1": 1, "zero2": 2, "shard_grad_op": 2, "zero3": 3, "full_shard": 3, "hybrid_shard": 3}
AXES = ("data", "fsdp")
#: the part of the weights whose arrays have a leading axis of layers
LAYERS = "blocks"


@settings
class ParallelConfig:
    """How a training is spread over devices."""

    strategy: Literal["ddp", "zero1", "zero2", "shard_grad_op", "zero3", "full_shard", "hybrid_shard"] = described(
        "ddp", "what is cut over devices: nothing, the optimizer, gradients too, weights too, or that within a node"
    )
    devices: Count | None = described(
        None, "devices of the training; where left out all, of a CPU one for each process [1]"
    )
    fsdp: Count | None = described(
        None, "devices that share one copy; where left out all, for hybrid_shard those of a process or 8 [1]"
    )
    group: Count = described(1, "layers whose weights and gradients travel together [1]")
    overlap: bool = described(False, "all-reduce gradients within the backward loop instead of at its end")
    prefetch: bool = described(
        False, "fetch the next group's weights and send the last one's gradients while a group is computed (zero2 on)"
    )
    bucket_mb: Positive = described(1024.0, "smaller arrays are packed until they have this size [MB]")


class Layout(NamedTuple):
    """A mesh with the axes `data` and `fsdp`, the stage of the table above, and how arrays travel.

    Attributes:
        group: layers that travel together.
        bucket: size up to which arrays are packed [byte].
    """

    mesh: Mesh
    stage: int = 0
    group: int = 1
    overlap: bool = False
    bucket: int = 2**30
    prefetch: bool = False

    @property
    def parts(self) -> int:
        """Devices that share a copy."""
        return self.mesh.shape["fsdp"]

    @property
    def samples(self) -> PartitionSpec:
        """How a leading axis of samples is cut."""
        return PartitionSpec(AXES)

    @property
    def everywhere(self) -> NamedSharding:
        """Of what all devices have whole."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batches(self) -> NamedSharding:
        """Of batches `(accumulate, B, ...)`."""
        return NamedSharding(self.mesh, PartitionSpec(None, *self.samples))

    def placed(self, sharding: NamedSharding, own: Any) -> Any:
        """Arrays over all devices from what this process has of them."""
        return jax.tree.map(partial(jax.make_array_from_process_local_data, sharding), own)


def alone() -> Layout:
    """The layout of a training on the default device."""
    return Layout(_mesh(np.array(jax.devices()[:1]).reshape(1, 1)))


def _mesh(devices: np.ndarray) -> Mesh:
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def make_layout(config: ParallelConfig, devices: Sequence[jax.Device] | None = None) -> Layout:
    """The layout that a configuration asks for, neighbours along `fsdp`.

    Args:
        devices: to choose from, in the order of processes; all there are where left out.

    Raises:
        ValueError: more devices than there are, processes without one, or an `fsdp` that does not divide them.
    """
    there = list(jax.devices() if devices is None else devices)
    processes = max(device.process_index for device in there) + 1
    count = config.devices or (processes if there[0].platform == "cpu" else len(there))
    if count > len(there):
        raise ValueError(f"parallel.devices = {count}: there are {len(there)}; use no more")
    if count % processes:
        raise ValueError(f"parallel.devices = {count} do not divide over {processes} processes; use a multiple")
    each = count // processes
    chosen = [d for p in range(processes) for d in [d for d in there if d.process_index == p][:each]]
    node = each if each > 1 else 8
    parts = config.fsdp or (1 if config.strategy == "ddp" else min(node, count) if _is_hybrid(config) else count)
    if config.strategy == "ddp" and parts > 1:
        raise ValueError(f'parallel.fsdp = {parts}: strategy = "ddp" cuts nothing; use zero1, or leave fsdp out')
    if count % parts:
        raise ValueError(f"parallel.fsdp = {parts} does not divide {count} devices; use one that does")
    if config.prefetch and STAGES[config.strategy] < 2 and not config.overlap:
        raise ValueError(
            f'parallel.prefetch = True: strategy = "{config.strategy}" communicates in no loop; '
            "use overlap = True too, or leave prefetch out"
        )
    mesh = _mesh(np.array(chosen).reshape(-1, parts))
    stage, bucket = STAGES[config.strategy] if parts > 1 else 0, round(config.bucket_mb * 1e6)
    return Layout(mesh, stage, config.group, config.overlap, bucket, config.prefetch)


def _is_hybrid(config: ParallelConfig) -> bool:
    return config.strategy == "hybrid_shard"


def require_samples(layout: Layout, batch: int, layers: int) -> None:
    """Whether a batch and the layers can be cut; raises ValueError."""
    if batch % layout.mesh.size:
        raise ValueError(f"data.batch = {batch} does not divide over {layout.mesh.size} devices; use a multiple")
    if layers % layout.group:
        raise ValueError(f"parallel.group = {layout.group} does not divide the {layers} layers; use one that does")


def cuts(layout: Layout, tree: Any) -> Any:
    """The axis along which each array is cut over `fsdp`, -1 for none; of weights, or whatever has their names."""

    def of(path, leaf) -> int:
        first = int(any(getattr(step, "key", None) == LAYERS for step in path))
        divided = (n for n in range(first, len(leaf.shape)) if leaf.shape[n] and leaf.shape[n] % layout.parts == 0)
        return next(divided, -1) if layout.parts > 1 else -1

    return jax.tree_util.tree_map_with_path(of, tree)


def specs(layout: Layout, tree: Any, stage: int) -> Any:
    """Partition specifications of arrays that are cut from this stage on."""

    def of(cut) -> PartitionSpec:
        return PartitionSpec(*[None] * cut, "fsdp") if cut >= 0 and layout.stage >= stage else PartitionSpec()

    return jax.tree.map(of, cuts(layout, tree))


def shardings(layout: Layout, tree: Any) -> Any:
    """Specifications as shardings on the mesh."""
    is_spec = lambda leaf: isinstance(leaf, PartitionSpec)
    return jax.tree.map(partial(NamedSharding, layout.mesh), tree, is_leaf=is_spec)


def _where_cut(cuts_: Any, function: Callable, otherwise: Callable, *trees: Any) -> Any:
    """A tree: `function(lists of leaves, axes)` of what is cut, `otherwise(leaves)` of what is not."""
    axes, form = jax.tree.flatten(cuts_)
    leaves = [form.flatten_up_to(tree) for tree in trees]
    yes = [n for n, axis in enumerate(axes) if axis >= 0]
    no = [n for n, axis in enumerate(axes) if axis < 0]
    out = [None] * len(axes)
    if yes:
        found = function(*([own[n] for n in yes] for own in leaves), [axes[n] for n in yes])
        for n, value in zip(yes, found, strict=True):
            out[n] = value
    for n in no:
        out[n] = otherwise(*(own[n] for own in leaves))
    return form.unflatten(out)


def own_parts(layout: Layout, cuts_: Any, tree: Any) -> Any:
    """This device's parts of whole arrays (inside `shard_map`)."""
    place = jax.lax.axis_index("fsdp")

    def part(array, axis):
        size = array.shape[axis] // layout.parts
        return jax.lax.dynamic_slice_in_dim(array, place * size, size, axis)

    return _where_cut(cuts_, lambda arrays, axes: map(part, arrays, axes), lambda a: a, tree)


def joined_parts(layout: Layout, cuts_: Any, tree: Any) -> Any:
    """Whole arrays from the parts of all devices (inside `shard_map`)."""
    whole = lambda parts, axes: gathered(parts, axes, layout.parts, layout.bucket)
    return _where_cut(cuts_, whole, lambda a: a, tree)


class Whole(NamedTuple):
    """How what a device keeps of the weights becomes whole inside of the loss: `whole(part of the weights, kept)`.

    The derivative of that sums gradients over devices, cuts them, or both.

    Attributes:
        gather: (part of the weights, arrays as they are kept) -> whole arrays.
        scatter: (part of the weights, gradient of whole arrays) -> gradient as it is kept.
        kept: that gradient -> cotangent of what is kept; in stage 2 that is a pair, see `with_parts`.
        ahead: whether layers go through `prefetch.scan_ahead`.
    """

    gather: Callable[[str, Any], Any]
    scatter: Callable[[str, Any], Any]
    kept: Callable[[Any], Any]
    ahead: bool = False

    def __call__(self, name: str, kept: Any) -> Any:
        """Whole arrays of a part of the weights."""
        use = jax.custom_vjp(lambda kept: self.gather(name, kept))
        forward = lambda kept: (self.gather(name, kept), None)
        use.defvjp(forward, lambda _, gradient: (self.kept(self.scatter(name, gradient)),))
        return use(kept)


def make_whole(layout: Layout, cuts_: Any) -> Whole | None:
    """How weights become whole, for inside of the loss; None where the strategy does nothing within the loops.

    Args:
        cuts_: `cuts` of the weights, a dictionary of its parts.
    """
    stage, limit = layout.stage, layout.bucket
    if stage < 2 and not layout.overlap:
        return None

    def gather(name: str, kept: Any) -> Any:
        return joined_parts(layout, cuts_[name], kept) if stage == 3 else kept[0] if stage == 2 else kept

    def scatter(name: str, gradient: Any) -> Any:
        early = layout.overlap and name == LAYERS
        if stage < 2:
            leaves, form = jax.tree.flatten(gradient)
            return form.unflatten(all_reduced(leaves, _wide(layout, AXES), limit)) if early else gradient

        def cut(arrays, along):
            own = scattered(arrays, along, layout.parts, limit)
            return all_reduced(own, _wide(layout, ("data",)), limit) if early else own

        return _where_cut(cuts_[name], cut, lambda a: a, gradient)

    return Whole(gather, scatter, (lambda own: (None, own)) if stage == 2 else lambda own: own, layout.prefetch)


def with_parts(weights: Any, gradient: Any) -> Any:
    """What stage 2 takes gradients of: by part of the weights, (whole arrays, of which none is taken; own parts)."""
    return {name: (weights[name], gradient[name]) for name in weights}


def _wide(layout: Layout, axes: Sequence[str]) -> tuple[str, ...]:
    """Those of the axes that have more than one device."""
    return tuple(name for name in axes if layout.mesh.shape[name] > 1)


def _late(layout: Layout, is_layer: bool, is_part: bool) -> tuple[str, ...]:
    """Axes over which a gradient is still to be summed after the backward loops."""
    early = layout.overlap and is_layer
    if is_part:
        return _wide(layout, () if early else ("data",))
    return _wide(layout, () if early and layout.stage < 2 else AXES)


def summed(layout: Layout, cuts_: Any, gradient: Any) -> Any:
    """The gradient summed over devices where `make_whole` has not done so yet (inside `shard_map`)."""
    form = jax.tree.structure(cuts_)
    leaves = form.flatten_up_to(gradient)
    waiting: dict[tuple[str, ...], list[int]] = {}
    for n, (path, axis) in enumerate(jax.tree_util.tree_leaves_with_path(cuts_)):
        over = _late(layout, getattr(path[0], "key", None) == LAYERS, layout.stage >= 2 and axis >= 0)
        waiting.setdefault(over, []).append(n)
    for over, numbers in waiting.items():
        for n, value in zip(numbers, all_reduced([leaves[n] for n in numbers], over, layout.bucket), strict=True):
            leaves[n] = value
    return form.unflatten(leaves)


def mean_and_norm(layout: Layout, cuts_: Any, value: Array, gradient: Any) -> tuple[Array, Array]:
    """Mean of a number over devices, and the norm of a gradient that is summed (and from stage 2 on cut)."""
    square = lambda arrays: sum((jnp.sum(a * a) for a in arrays), jnp.zeros((), value.dtype))
    axes, form = jax.tree.flatten(cuts_)
    leaves = form.flatten_up_to(gradient)
    is_part = [layout.stage >= 2 and axis >= 0 for axis in axes]
    parts = square([a for a, part in zip(leaves, is_part, strict=True) if part])
    whole = square([a for a, part in zip(leaves, is_part, strict=True) if not part])
    both = jnp.stack([value / layout.mesh.size, parts / layout.mesh.shape["data"]])
    value, parts = jax.lax.psum(both, _wide(layout, AXES))
    return value, jnp.sqrt(parts + whole)
