"""Weights of the public ViT code, under its own names, as parameters of `vit.apply`.

The names are those of the state dict of the model of Yin et al. (2024, SC24), which is ClimaX's (Nguyen et al. 2023)
with the blocks of timm: `token_embeds.0.proj.weight`, `blocks.0.attn.qkv.weight`, `head.0.weight`, ...
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxda.models.vit import Params, ViTConfig

#: options that the public code does not have
OPTIONS = ("overlap", "aggregation", "positions", "residual", "advection", "velocities", "qk_norm")
#: groups of numbered layers: the field that says how many, and by how much the field is less
_COUNTED = {"blocks": ("depth", 0), "head": ("decoder_depth", 1), "token_embeds": ("variables", 0)}
#: fields that the shape of an array depends on, by a part of its name; the others have only embed_dim
_SIZED = {"mlp": "embed_dim and vit.mlp_ratio", "head": "embed_dim and vit.patch_size"}
_SIZED |= {"token_embeds": "embed_dim and vit.patch_size", "var_embed": "embed_dim and vit.variables"}


def shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the public code's state dict for these sizes.

    `config.num_heads` is in none of them: no weight tells how many heads a model has.
    """
    width, patch, variables = config.embed_dim, config.patch_size, config.variables
    hidden = round(width * config.mlp_ratio)
    layer = lambda name, rows, *columns: {f"{name}.weight": (rows, *columns), f"{name}.bias": (rows,)}
    found = {"var_embed": (1, variables, width), "var_query": (1, 1, width), "pos_embed": (1, config.tokens, width)}
    found |= {"var_agg.in_proj_weight": (3 * width, width), "var_agg.in_proj_bias": (3 * width,)}
    found |= layer("var_agg.out_proj", width, width) | layer("lead_time_embed", width, 1) | layer("norm", width)
    for v in range(variables):
        found |= layer(f"token_embeds.{v}.proj", width, 1, patch, patch)
    for i in range(config.depth):
        found |= layer(f"blocks.{i}.norm1", width) | layer(f"blocks.{i}.norm2", width)
        found |= layer(f"blocks.{i}.attn.qkv", 3 * width, width) | layer(f"blocks.{i}.attn.proj", width, width)
        found |= layer(f"blocks.{i}.mlp.fc1", hidden, width) | layer(f"blocks.{i}.mlp.fc2", width, hidden)
    for i in range(config.decoder_depth):
        found |= layer(f"head.{2 * i}", width, width)
    return found | layer(f"head.{2 * config.decoder_depth}", variables * patch**2, width)


def require_plain(config: ViTConfig) -> None:
    """Refuse options that the public code does not have.

    Raises:
        ValueError: one is set, with its name and value.
    """
    plain = ViTConfig()
    for field in OPTIONS:
        value, default = getattr(config, field), getattr(plain, field)
        if value != default:
            raise ValueError(f"vit.{field} = {value}: the public code has no such option; use {default}")


def check(config: ViTConfig, state: Mapping[str, np.ndarray]) -> None:
    """Whether a state dict is of this architecture, on any square grid of patches.

    Raises:
        ValueError: arrays that are missing, left over, of another shape or not of floating point: one line with the
            name, what it has, what it should have, and the cure.
    """
    wanted = shapes(config)
    for name in [*wanted, *sorted(set(state) - set(wanted))]:
        if name not in state:
            raise ValueError(f"{name}: is missing, shape {wanted[name]} is expected; {_counted(name, state, config)}")
        array = state[name]
        if name not in wanted:
            raise ValueError(f"{name}: has shape {array.shape}, none is expected; {_counted(name, state, config)}")
        fits = array.shape == wanted[name]
        if name == "pos_embed" and array.ndim == 3:
            square = math.isqrt(array.shape[1]) ** 2
            fits = array.shape == (1, square, config.embed_dim) and square > 0
        if not fits:
            fields = next((text for part, text in _SIZED.items() if part in name.split(".")), "embed_dim")
            raise ValueError(f"{name}: has shape {array.shape}, {wanted[name]} is expected; change vit.{fields}")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name}: is of type {array.dtype}, not floating point; give the file of the weights")


def _counted(name: str, state: Mapping, config: ViTConfig) -> str:
    """What to do about an array that is on one side only."""
    group = name.split(".")[0]
    if group in _COUNTED:
        field, less = _COUNTED[group]
        count = len({other.split(".")[1] for other in state if other.startswith(f"{group}.")})
        if count - less != getattr(config, field) and count:
            return f"use vit.{field} = {count - less}, as in the weights"
    return "give the whole state dict of the public code's model, and nothing else"


def from_torch(config: ViTConfig, state: Mapping[str, np.ndarray]) -> Params:
    """Parameters from the arrays of the public code's state dict, in their own floating-point type.

    On the same grid they are the same numbers. Position embeddings of another grid are interpolated (`resized`).

    Raises:
        ValueError: what `require_plain` and `check` say.
    """
    require_plain(config)
    check(config, state)
    take = lambda name: np.asarray(state[name])
    linear = lambda name: {"kernel": take(f"{name}.weight").T, "bias": take(f"{name}.bias")}
    norm = lambda name: {"scale": take(f"{name}.weight"), "bias": take(f"{name}.bias")}

    def token(v):
        kernel = take(f"token_embeds.{v}.proj.weight")
        return {"kernel": kernel.reshape(len(kernel), -1).T, "bias": take(f"token_embeds.{v}.proj.bias")}

    def block(i):
        names = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
        layers = {ours: linear(f"blocks.{i}.{theirs}") for ours, theirs in names.items()}
        return layers | {ours: norm(f"blocks.{i}.{ours}") for ours in ("norm1", "norm2")}

    qkv = zip(np.split(take("var_agg.in_proj_weight"), 3), np.split(take("var_agg.in_proj_bias"), 3), strict=True)
    trunk = {
        "tokens": {v: token(v) for v in range(config.variables)},
        "variables": take("var_embed")[0],
        "query": take("var_query")[0],
        "agg_qkv": {i: {"kernel": weight.T, "bias": bias} for i, (weight, bias) in enumerate(qkv)},
        "agg_out": linear("var_agg.out_proj"),
        "positions": resized(take("pos_embed")[0], config.side),
        "lead_time": linear("lead_time_embed"),
        "norm": norm("norm"),
        "head": {i: linear(f"head.{2 * i}") for i in range(config.decoder_depth + 1)},
    }
    blocks = jax.tree.map(lambda *layers: np.stack(layers), *[block(i) for i in range(config.depth)])
    return jax.tree.map(jnp.asarray, {"trunk": trunk, "blocks": blocks})


def resized(positions: np.ndarray, side: int) -> np.ndarray:
    """Position embeddings `(L, D)` of a square grid of patches on one of side x side, over the same domain.

    Cubic interpolation between the centres of patches, as is usual for vision transformers (Dosovitskiy et al. 2021,
    Sec. 3.2), smoothed on the way to a coarser grid. It does not reach over the periodic edges: tables start from
    sines and cosines of the number of a patch, which do not close there.
    """
    old = math.isqrt(len(positions))
    if old == side:
        return positions
    table = positions.astype(jnp.promote_types(positions.dtype, jnp.float32)).reshape(old, old, -1)
    new = jax.image.resize(jnp.asarray(table), (side, side, table.shape[-1]), "cubic")
    return np.asarray(new.reshape(side * side, -1)).astype(positions.dtype)
