"""The public code's weights under their own names: the same forecast, and a line for whatever does not fit."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.models import vit, vit_torch
from jaxda.models.vit import ViTConfig

TINY = ViTConfig(image_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4)


def config(**given):
    return dataclasses.replace(TINY, **given)


@pytest.fixture
def published(reference):
    arrays = reference("vit_reference")
    return arrays, {name.removeprefix("weight/"): a for name, a in arrays.items() if name.startswith("weight/")}


def test_agrees_with_the_public_code(x64, published, assert_near):
    arrays, weights = published
    found = vit.apply(TINY, vit_torch.from_torch(TINY, weights), arrays["x"], arrays["lead_time"])
    assert_near(found, arrays["y"], 1e-10)


def test_agrees_in_single_precision(published, assert_near):
    arrays, weights = published
    params = jax.tree.map(np.float32, vit_torch.from_torch(TINY, weights))
    x, lead_time = np.float32(arrays["x"]), np.float32(arrays["lead_time"])
    assert_near(vit.apply(TINY, params, x, lead_time), arrays["y"], 1e-5)
    halved = vit.apply(config(compute="bfloat16"), params, x, lead_time)
    assert halved.dtype == jnp.float32
    assert_near(halved, arrays["y"], 0.05)


def test_shapes_and_parameters_are_those_that_init_makes(published):
    weights = published[1]
    assert vit_torch.shapes(TINY) == {name: array.shape for name, array in weights.items()}
    read, made = vit_torch.from_torch(TINY, weights), vit.init(jax.random.key(0), TINY)
    assert jax.tree.map(jnp.shape, read) == jax.tree.map(jnp.shape, made)


@pytest.mark.parametrize(
    "sizes", [{}, {"depth": 1, "decoder_depth": 0}, {"variables": 3, "patch_size": 2, "mlp_ratio": 2.5}]
)
def test_other_sizes_have_as_many_values_as_init_makes(sizes):
    own = config(**sizes)
    state = {name: np.zeros(shape, np.float32) for name, shape in vit_torch.shapes(own).items()}
    assert sum(array.size for array in state.values()) == vit.count_parameters(own)
    made = jax.eval_shape(lambda key: vit.init(key, own), jax.random.key(0))
    assert jax.tree.map(jnp.shape, vit_torch.from_torch(own, state)) == jax.tree.map(lambda a: a.shape, made)


def test_the_same_grid_keeps_every_number(published):
    weights = {name: array.astype(np.float32) for name, array in published[1].items()}
    params = vit_torch.from_torch(TINY, weights)
    np.testing.assert_array_equal(params["trunk"]["positions"], weights["pos_embed"][0])
    both = [np.concatenate([np.ravel(a) for a in jax.tree.leaves(tree)]) for tree in (params, weights)]
    np.testing.assert_array_equal(*map(np.sort, both))


def test_positions_of_another_grid_are_interpolated(published):
    weights = published[1]
    larger = config(image_size=32)
    params = vit_torch.from_torch(larger, weights)
    table = params["trunk"]["positions"]
    assert table.shape == (64, 32)
    # what is in the middle of four old patches is near their mean
    old = weights["pos_embed"][0].reshape(4, 4, 32)
    new = np.asarray(table).reshape(8, 8, 32)
    np.testing.assert_allclose(new[3:5, 3:5].mean((0, 1)), old[1:3, 1:3].mean((0, 1)), atol=0.2 * np.abs(old).max())
    assert np.isfinite(vit.apply(larger, params, jnp.ones((1, 2, 32, 32)), jnp.ones(1))).all()


@pytest.mark.parametrize(("old", "new", "tolerance"), [(8, 16, 1e-3), (8, 12, 1e-3), (16, 8, 5e-3)])
def test_interpolation_is_exact_for_constants_and_near_for_smooth_tables(old, new, tolerance):
    places = lambda side: (np.arange(side) + 0.5) / side
    smooth = lambda side: np.stack([np.ones((side, side)), *np.meshgrid(*2 * [np.sin(2 * places(side))])], -1)
    rows = lambda side: smooth(side).reshape(side * side, 3).astype(np.float32)
    found = vit_torch.resized(rows(old), new)
    assert (found.shape, found.dtype) == ((new * new, 3), np.float32)
    np.testing.assert_allclose(found[:, 0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(found, rows(new), atol=0.1)
    # what lies beyond the edge is not known
    inner = lambda table: table.reshape(new, new, 3)[3:-3, 3:-3]
    np.testing.assert_allclose(inner(found), inner(rows(new)), atol=tolerance)
    half = vit_torch.resized(rows(old).astype(jnp.bfloat16), new)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), found, atol=0.01)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w.pop("norm.bias"), "norm.bias: is missing, shape (32,) is expected; give the whole state dict"),
        (lambda w: w.update(extra=np.zeros(1)), "extra: has shape (1,), none is expected; give the whole state dict"),
        (
            lambda w: w.update({"head.4.bias": np.zeros(7)}),
            "head.4.bias: has shape (7,), (32,) is expected; change vit.embed_dim and vit.patch_size",
        ),
        (
            lambda w: [w.pop(name) for name in list(w) if name.startswith("blocks.1.")],
            "blocks.1.norm1.weight: is missing, shape (32,) is expected; use vit.depth = 1, as in the weights",
        ),
        (
            lambda w: w.update(
                {name.replace("1.", "2.", 1): a for name, a in w.items() if name.startswith("blocks.1.")}
            ),
            "blocks.2.attn.proj.bias: has shape (32,), none is expected; use vit.depth = 3, as in the weights",
        ),
        (
            lambda w: w.pop("blocks.1.norm1.bias"),
            "blocks.1.norm1.bias: is missing, shape (32,) is expected; give the whole state dict",
        ),
        (
            lambda w: [w.pop(name) for name in ("head.4.weight", "head.4.bias")],
            "head.4.weight: is missing, shape (32, 32) is expected; use vit.decoder_depth = 1, as in the weights",
        ),
        (
            lambda w: w.update({"token_embeds.2.proj.bias": np.zeros(32)}),
            "token_embeds.2.proj.bias: has shape (32,), none is expected; use vit.variables = 3, as in the weights",
        ),
        (
            lambda w: w.update(pos_embed=np.zeros((1, 15, 32))),
            "pos_embed: has shape (1, 15, 32), (1, 16, 32) is expected",
        ),
        (lambda w: w.update(pos_embed=np.zeros((1, 0, 32))), "pos_embed: has shape (1, 0, 32), (1, 16, 32) is exp"),
        (lambda w: w.update(pos_embed=np.zeros(())), "pos_embed: has shape (), (1, 16, 32) is expected"),
        (
            lambda w: w.update({"blocks.0.mlp.fc1.weight": np.zeros((64, 32))}),
            "blocks.0.mlp.fc1.weight: has shape (64, 32), (128, 32) is expected; change vit.embed_dim and vit.mlp",
        ),
        (
            lambda w: w.update(var_query=np.zeros((1, 1, 32), np.int64)),
            "var_query: is of type int64, not floating point",
        ),
    ],
)
def test_other_architectures_are_refused(published, change, said):
    weights = dict(published[1])
    change(weights)
    with pytest.raises(ValueError, match=re.escape(said)):
        vit_torch.from_torch(TINY, weights)


@pytest.mark.parametrize(
    "given", [{"residual": True}, {"velocities": True}, {"overlap": 2}, {"aggregation": "joint"}, {"qk_norm": True}]
)
def test_options_that_the_public_code_lacks_are_refused(published, given):
    ((name, value),) = given.items()
    with pytest.raises(ValueError, match=rf"vit\.{name} = {value}: the public code has no such option; use "):
        vit_torch.from_torch(config(**given), published[1])
