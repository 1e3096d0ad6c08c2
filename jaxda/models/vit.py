"""SQG-ViT: a vision transformer that carries a state over a lead time.

The reference architecture (Nguyen et al. 2023, "ClimaX", ICML, Sec. 3.2; Yin et al. 2024, SC24, Sec. III): every
variable (here: boundary) is cut into patches of p x p points, each of them embedded by the variable's own linear map
plus the variable's embedding; at each place a learned query attends to the variables (cross-attention) and leaves one
token; position and lead time are added; `depth` pre-norm blocks

    x <- x + attention(norm(x)),    x <- x + MLP(norm(x))

with dropout and stochastic depth rising linearly to `drop_path` at the last block (Huang et al. 2016); a norm; a head
of `decoder_depth` layers with GELU between; and the patches put back. With the defaults this is the public code's
model, weight for weight (`vit_torch.from_torch`). The options are meant to make
it a better surrogate of periodic turbulence; none of them is on by default. docs/surrogate.md has what some are worth.

* `overlap`: a patch is seen with that many points of its neighbours around it, over the periodic edges.
* `aggregation = "joint"`: one linear map of all variables of a patch in place of the cross-attention.
* `positions = "rotary"`: queries and keys are turned by angles 2 pi k x/n (Su et al. 2021, "RoFormer", eq. 34, in two
  dimensions), with whole k, so that attention knows distances on the torus and nothing else; `"relative"`: a learned
  bias for each distance on the torus and head (Liu et al. 2021, "Swin", eq. 4). The table of positions stays.
* `residual`: x + f(x) in place of f(x).
* `advection`: the model predicts three fields for each variable, a displacement along x and y (in half patches) and a
  change: the state is moved along the displacement before the change is added (semi-Lagrangian; `advection.moved`).
* `velocities`: the velocities that each variable induces (`advection.induced_velocities`) are further inputs, which
  attention would have to gather from the whole domain.
* `first_guess`: the input is first carried along for the lead time by velocities that it induces
  (`advection.first_guess`); what each variable does to each, by wavenumber, is learned. The network sees the
  input and this guess, and predicts the changes of the guess.
* `qk_norm`: norms of queries and keys (Henry et al. 2020).

flax.nnx defines the layers; outside, there are only nested dicts of arrays and the pure functions `init` and `apply`.
The blocks' arrays are stacked, one leading axis of `depth`, and run by one scan.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from pydantic import Field, model_validator

from jaxda.models import advection, layers
from jaxda.parallel.prefetch import scan_ahead
from jaxda.parallel.sharding import LAYERS, Whole
from jaxda.settings import Count, Fraction, described, settings

Params = dict[str, Any]
#: what is kept for the backward pass
REMAT = {"block": jax.checkpoint_policies.nothing_saveable, "dots": jax.checkpoint_policies.dots_saveable}


@settings
class ViTConfig:
    """Sizes and options; the defaults are the published model for 64 x 64."""

    kind: Literal["vit"] = described("vit", "model")
    image_size: Count = described(64, "grid points along an axis [1]")
    patch_size: Count = described(4, "grid points along a patch [1]")
    variables: Count = described(2, "variables, here boundaries [1]")
    embed_dim: Annotated[int, Field(ge=1, lt=2**20)] = described(1024, "width of a token [1]")
    depth: Annotated[int, Field(ge=1, lt=2**16)] = described(12, "blocks [1]")
    num_heads: Count = described(8, "heads of attention [1]")
    mlp_ratio: Annotated[float, Field(gt=0)] = described(4.0, "width of the blocks' MLP over embed_dim [1]")
    decoder_depth: Annotated[int, Field(ge=0)] = described(2, "layers of the head before its last [1]")
    dropout: Fraction = described(0.1, "part of the activations dropped in training [1]")
    drop_path: Fraction = described(0.1, "part of the samples that skip the last block in training [1]")
    overlap: Annotated[int, Field(ge=0)] = described(0, "points of the neighbours that a patch sees on each side [1]")
    aggregation: Literal["attention", "joint"] = described("attention", "how variables become one token")
    positions: Literal["absolute", "rotary", "relative"] = described("absolute", "what attention knows of distances")
    residual: bool = described(False, "whether the model adds to its input")
    advection: bool = described(False, "whether the input is moved along predicted displacements (with residual)")
    velocities: bool = described(False, "whether the model sees the velocities that each variable induces")
    first_guess: Annotated[int, Field(ge=0)] = described(
        0, "semi-Lagrangian steps, by velocities that are learned, of which the model corrects the result [1]"
    )
    qk_norm: bool = described(False, "whether queries and keys are normalised")
    compute: Literal["as-parameters", "float32", "bfloat16"] = described(
        "as-parameters", "type of activations and products; parameters keep their own"
    )
    remat: Literal["none", "block", "dots"] = described(
        "none", "what the backward pass computes anew: nothing, whole blocks, or all but matrix products"
    )
    unroll: Count = described(1, "blocks that the compiled program has one after another; the others are a loop [1]")

    @model_validator(mode="after")
    def _check(self):
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size = {self.image_size} is not a multiple of patch_size = {self.patch_size}; use one that is"
            )
        if self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim = {self.embed_dim} is not a multiple of num_heads = {self.num_heads}; use one that is"
            )
        if self.embed_dim % 4:
            raise ValueError(f"embed_dim = {self.embed_dim} is not a multiple of 4; the position embedding needs that")
        if self.positions == "rotary" and self.head_dim % 4:
            raise ValueError(
                f"embed_dim/num_heads = {self.head_dim} is not a multiple of 4; rotary positions need that"
            )
        if self.advection and not self.residual:
            raise ValueError("advection = True moves the input that residual = False leaves out; use residual = True")
        if self.first_guess and not self.residual:
            raise ValueError(f"first_guess = {self.first_guess} is what residual = True adds to; use residual = True")
        if self.overlap > self.image_size // 2:
            raise ValueError(f"overlap = {self.overlap} is over half of image_size = {self.image_size}; use less")
        return self

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.embed_dim // self.num_heads

    @property
    def side(self) -> int:
        """Patches along an axis."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Number of patches."""
        return self.side**2

    @property
    def inputs(self) -> int:
        """Fields that the network sees."""
        return self.variables * (3 if self.velocities else 1) * (2 if self.first_guess else 1)

    @property
    def outputs(self) -> int:
        """Fields that the network predicts."""
        return self.variables * (3 if self.advection else 1)

    @property
    def dtype(self):
        """Type of the computation; None: that of the parameters and the input."""
        return None if self.compute == "as-parameters" else jnp.dtype(self.compute)


_LINEAR = nnx.initializers.truncated_normal(0.02)


def _linear(rows: int, columns: int, config: ViTConfig, rngs) -> nnx.Linear:
    return nnx.Linear(
        rows, columns, kernel_init=_LINEAR, dtype=config.dtype, dot_general=layers.flat_product, rngs=rngs
    )


def _norm(width: int, config: ViTConfig, rngs) -> nnx.LayerNorm:
    return nnx.LayerNorm(width, epsilon=1e-5, dtype=config.dtype, rngs=rngs)


class Block(nnx.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        width, hidden = config.embed_dim, round(config.embed_dim * config.mlp_ratio)
        self.norm1, self.norm2 = _norm(width, config, rngs), _norm(width, config, rngs)
        self.qkv, self.proj = _linear(width, 3 * width, config, rngs), _linear(width, width, config, rngs)
        self.fc1, self.fc2 = _linear(width, hidden, config, rngs), _linear(hidden, width, config, rngs)
        if config.qk_norm:
            self.q_norm, self.k_norm = _norm(config.head_dim, config, rngs), _norm(config.head_dim, config, rngs)
        if config.positions == "relative":
            self.bias = nnx.Param(jnp.zeros((config.num_heads, config.side, config.side)))
        self.config = config

    def attention(self, x: Array) -> Array:
        """Attention of all tokens to all, `(B, L, D)`."""
        config = self.config
        heads = (*x.shape[:2], config.num_heads, config.head_dim)
        q, k, v = (part.reshape(heads) for part in jnp.split(self.qkv(x), 3, -1))
        if config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        bias = None
        if config.positions == "rotary":
            q, k = (layers.turned(part, config.side) for part in (q, k))
        if config.positions == "relative":
            bias = self.bias[...][:, *layers.torus_distances(config.side)][None].astype(q.dtype)
        out = layers.attention(q, k, v, bias)
        return self.proj(out.reshape(x.shape))

    def __call__(self, x: Array, drop_path: Array, keys: Array | None) -> Array:
        rate, one = self.config.dropout, (len(x), 1, 1)
        keys = layers.split_keys(keys, 5)
        attended = layers.dropped(keys[0], rate, self.attention(self.norm1(x)), x.shape)
        x = x + layers.dropped(keys[1], drop_path, attended, one)
        hidden = layers.gelu(self.fc1(self.norm2(x)))
        out = self.fc2(layers.dropped(keys[2], rate, hidden, hidden.shape))
        return x + layers.dropped(keys[4], drop_path, layers.dropped(keys[3], rate, out, out.shape), one)


class Trunk(nnx.Module):
    """All but the blocks."""

    def __init__(self, config: ViTConfig, rngs: nnx.Rngs):
        width = config.embed_dim
        window = (config.patch_size + 2 * config.overlap) ** 2
        if config.aggregation == "attention":
            self.tokens = nnx.List([_linear(window, width, config, rngs) for _ in range(config.inputs)])
            self.variables = nnx.Param(jnp.asarray(layers.sin_cos(np.arange(config.inputs), width)))
            self.query = nnx.Param(jnp.zeros((1, width)))
            self.agg_qkv = nnx.List([_linear(width, width, config, rngs) for _ in range(3)])
            self.agg_out = _linear(width, width, config, rngs)
        else:
            self.tokens = nnx.List([_linear(window * config.inputs, width, config, rngs)])
        if config.first_guess:
            shape = (config.variables, config.variables, advection.wavenumbers(config.image_size))
            self.inversion = nnx.Param(jnp.zeros(shape))
        self.positions = nnx.Param(jnp.asarray(layers.sin_cos_2d(config.side, width)))
        self.lead_time = _linear(1, width, config, rngs)
        self.norm = _norm(width, config, rngs)
        sizes = [width] * (config.decoder_depth + 1)
        outputs = [*sizes[1:], config.outputs * config.patch_size**2]
        self.head = nnx.List([_linear(*pair, config, rngs) for pair in zip(sizes, outputs, strict=True)])
        self.config = config

    def embed(self, x: Array, lead_time: Array) -> Array:
        """Inputs `(B, inputs, N, N)` and lead times `(B,)` to tokens `(B, L, D)`."""
        config = self.config
        patches = layers.windows(x, config.patch_size, config.overlap)  # (B, V, L, window)
        if config.aggregation == "joint":
            tokens = self.tokens[0](jnp.moveaxis(patches, 1, 2).reshape(len(x), config.tokens, -1))
        else:
            of_each = [self.tokens[v](patches[:, v]) for v in range(config.inputs)]
            of_all = jnp.stack(of_each, 2) + self.variables[...].astype(of_each[0].dtype)
            tokens = self.aggregate(of_all)
        tokens = tokens + self.positions[...].astype(tokens.dtype)
        return tokens + self.lead_time(lead_time[:, None].astype(tokens.dtype))[:, None]

    def aggregate(self, x: Array) -> Array:
        """One token of `(B, L, V, D)` at each place: the learned query's attention to the variables."""
        config = self.config
        heads = lambda a: a.reshape(-1, a.shape[-2], config.num_heads, config.head_dim)
        q = jnp.broadcast_to(self.query[...].astype(x.dtype), (math.prod(x.shape[:2]), 1, config.embed_dim))
        x_flat = x.reshape(-1, *x.shape[2:])
        q, k, v = (heads(layer(part)) for layer, part in zip(self.agg_qkv, (q, x_flat, x_flat), strict=True))
        return self.agg_out(layers.attention(q, k, v).reshape(*x.shape[:2], config.embed_dim))

    def decode(self, tokens: Array) -> Array:
        """Tokens `(B, L, D)` to fields `(B, outputs, N, N)`."""
        config, p = self.config, self.config.patch_size
        x = self.norm(tokens)
        for layer in self.head[:-1]:
            x = layers.gelu(layer(x))
        x = self.head[-1](x).reshape(-1, config.side, config.side, p, p, config.outputs)
        return jnp.einsum("bhwpqv->bvhpwq", x).reshape(-1, config.outputs, config.image_size, config.image_size)


@lru_cache
def _graphs(config: ViTConfig):
    """The definitions of trunk and block, without arrays."""
    make = lambda kind: nnx.graphdef(nnx.eval_shape(lambda: kind(config, nnx.Rngs(0))))
    return make(Trunk), make(Block)


def init(key: Array, config: ViTConfig) -> Params:
    """Parameters `{"trunk": ..., "blocks": ...}`, nested dicts of float32 arrays; the blocks' with a leading axis."""
    key_trunk, key_blocks = jax.random.split(key)
    arrays = lambda kind, key: nnx.to_pure_dict(nnx.state(kind(config, nnx.Rngs(key)), nnx.Param))
    blocks = jax.vmap(partial(arrays, Block))(jax.random.split(key_blocks, config.depth))
    return {"trunk": arrays(Trunk, key_trunk), "blocks": blocks}


def count_parameters(config: ViTConfig) -> int:
    """Number of trainable values, without making them."""
    shapes = jax.eval_shape(partial(init, config=config), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def apply(
    config: ViTConfig,
    params: Params,
    x: Array,
    lead_time: Array,
    *,
    keys: Array | None = None,
    whole: Whole | None = None,
    group: int = 1,
) -> Array:
    """States one lead time later.

    Args:
        params: of `init` or `vit_torch.from_torch`; in whatever form `whole` takes them.
        x: normalised states `(B, variables, image_size, image_size)`.
        lead_time: `(B,)`, in whatever unit the model was trained with (jaxda: days).
        keys: of dropout and stochastic depth, one a sample `(B,)`; None: neither, as in forecasts.
        whole: makes parameters whole where they are used; None: they are. Blocks are asked for by groups, again in the
            backward pass.
        group: blocks in a group; it divides their number.

    Returns:
        Normalised states, of the shape and type of x.

    Examples:
        >>> config = ViTConfig(image_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2)
        >>> params = init(jax.random.key(0), config)
        >>> jax.jit(lambda x: apply(config, params, x, jnp.full(3, 0.5)))(jnp.zeros((3, 2, 8, 8))).shape  # half a day
        (3, 2, 8, 8)
    """
    trunk_graph, block_graph = _graphs(config)
    trunk = nnx.merge(trunk_graph, nnx.State(whole("trunk", params["trunk"]) if whole else params["trunk"]))
    keys_tokens, keys_blocks = layers.split_keys(keys, 2)
    seen = x
    if config.first_guess:
        guess = advection.first_guess(x, trunk.inversion[...].astype(x.dtype), lead_time, config.first_guess)
        seen, x = jnp.concatenate([x, guess], 1), guess
    seen = jnp.concatenate([seen, *advection.induced_velocities(seen)], 1) if config.velocities else seen
    tokens = trunk.embed(seen if config.dtype is None else seen.astype(config.dtype), lead_time)
    tokens = layers.dropped(keys_tokens, config.dropout, tokens, tokens.shape)

    def block(tokens, layer):
        arrays, rate, keys = layer
        return nnx.merge(block_graph, nnx.State(arrays))(tokens, rate, keys), None

    rates = jnp.linspace(0.0, config.drop_path, config.depth)
    stacked = (params["blocks"], rates, None if keys is None else layers.split_keys(keys_blocks, config.depth))
    if whole is None:
        body = block if config.remat == "none" else _forgetful(block, REMAT[config.remat])
        tokens, _ = jax.lax.scan(body, tokens, stacked, unroll=config.unroll)
    else:
        tokens = _by_groups(block, whole, config, tokens, _grouped(stacked, group))
    out = trunk.decode(tokens).astype(x.dtype)
    if config.advection:
        along_x, along_y, out = jnp.split(out, 3, 1)
        half_patch = 0.5 * config.patch_size
        x = advection.moved(x, half_patch * along_x, half_patch * along_y)
    return x + out if config.residual else out


def _grouped(stacked: Any, group: int) -> Any:
    """Arrays `(depth, ...)` as `(depth/group, group, ...)`."""
    return jax.tree.map(lambda array: array.reshape(-1, group, *array.shape[1:]), stacked)


def _by_groups(block: Callable, whole: Whole, config: ViTConfig, tokens: Array, groups: Any) -> Array:
    """Tokens after groups of blocks, whose arrays are made whole for them, and again in the backward pass.

    Whatever a policy keeps, it may not be made of weights alone; so remat = "none" keeps no more than "dots" here, and
    none keeps anything where weights are fetched ahead.
    """
    kept, *rest = groups

    def some(tokens, arrays, rest):
        return jax.lax.scan(block, tokens, (arrays, *rest), unroll=config.unroll)[0]

    if whole.ahead:
        return scan_ahead(whole, some, tokens, kept, rest)

    def body(tokens, one):
        kept, *rest = one
        return some(tokens, whole(LAYERS, kept), rest), None

    return jax.lax.scan(_forgetful(body, REMAT["dots" if config.remat == "none" else config.remat]), tokens, groups)[0]


def _forgetful(body: Callable, policy: Callable) -> Callable:
    """The body of a scan, of which the backward pass computes again what the policy does not keep."""
    return jax.checkpoint(body, policy=policy, prevent_cse=False)
