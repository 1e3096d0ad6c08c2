"""SQG-ViT: the published sizes, and what each option promises; test_vit_torch.py has the published weights."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jaxda.models import advection, layers, vit
from jaxda.models.vit import ViTConfig
from jaxda.settings import one_line

TINY = ViTConfig(image_size=16, patch_size=4, embed_dim=32, depth=2, num_heads=4)
KEY = jax.random.key(0)
BETTER = {"overlap": 2, "aggregation": "joint", "residual": True, "qk_norm": True}


def config(**given):
    return dataclasses.replace(TINY, **given)


def states(count=2, seed=1):
    return jax.random.normal(jax.random.key(seed), (count, 2, 16, 16)), jnp.full(count, 0.5)


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ({}, 157_789_216),
        ({"image_size": 128, "depth": 24, "embed_dim": 2048}, 1_236_023_328),
        ({"image_size": 256, "depth": 48, "embed_dim": 2048}, 2_450_913_312),
        ({"patch_size": 2, "depth": 8, "num_heads": 16}, 108_141_576),
    ],
)
def test_the_published_sizes_have_the_published_parameters(sizes, count):
    assert vit.count_parameters(ViTConfig(**sizes)) == count


def test_two_blocks_are_not_the_same_block():
    made = vit.init(KEY, TINY)
    assert (made["blocks"]["qkv"]["kernel"][0] != made["blocks"]["qkv"]["kernel"][1]).any()


@pytest.mark.parametrize(
    ("positions", "more"),
    [
        ("rotary", {}),
        ("relative", {}),
        ("relative", {"advection": True, "velocities": True}),
        ("relative", {"advection": True, "velocities": True, "first_guess": 1}),
    ],
)
def test_on_the_torus_a_moved_state_is_moved(x64, assert_near, positions, more):
    """With no table of positions, attention that knows distances alone does not know where x = 0 is."""
    own = config(positions=positions, **BETTER, **more)
    params = jax.tree.map(jnp.float64, vit.init(KEY, own))
    params["trunk"]["positions"] = jnp.zeros_like(params["trunk"]["positions"])
    if "first_guess" in more:
        params["trunk"]["inversion"] += 0.1
    if positions == "relative":
        params["blocks"]["bias"] = jax.random.normal(KEY, params["blocks"]["bias"].shape, jnp.float64)
    x, lead_time = states()
    x = x.astype(jnp.float64)
    roll = lambda a: jnp.roll(a, (4, 8), (-2, -1))
    moved = vit.apply(own, params, roll(x), lead_time)
    assert_near(moved, roll(vit.apply(own, params, x, lead_time)), 1e-12)
    # and it does know distances: patches that change places are not only that
    swapped = lambda a: a.at[..., :4].set(a[..., 4:8]).at[..., 4:8].set(a[..., :4])
    other = swapped(vit.apply(own, params, x, lead_time)) - vit.apply(own, params, swapped(x), lead_time)
    assert jnp.abs(other).max() > 1e-6


def test_absolute_positions_know_where_they_are():
    params, (x, lead_time) = vit.init(KEY, TINY), states()
    roll = lambda a: jnp.roll(a, 4, -1)
    difference = vit.apply(TINY, params, roll(x), lead_time) - roll(vit.apply(TINY, params, x, lead_time))
    assert jnp.abs(difference).max() > 1e-4


@given(overlap=st.integers(0, 3), row=st.integers(0, 3), column=st.integers(0, 3))
def test_windows_are_patches_with_their_periodic_surroundings(overlap, row, column):
    x = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
    found = np.asarray(layers.windows(jnp.asarray(x), 2, overlap))[:, :, 4 * row + column]
    moved = np.roll(x, (overlap - 2 * row, overlap - 2 * column), (-2, -1))
    size = 2 + 2 * overlap
    np.testing.assert_array_equal(found.reshape(2, 3, size, size), moved[..., :size, :size])


def test_residual_adds_the_input():
    params, (x, lead_time) = vit.init(KEY, TINY), states()
    found = vit.apply(config(residual=True), params, x, lead_time)
    np.testing.assert_allclose(found, x + vit.apply(TINY, params, x, lead_time), rtol=1e-5, atol=1e-6)


def test_what_is_predicted_moves_the_input_and_changes_it(x64):
    """Weights of zero but for the head's last biases: a displacement of 2 and -1 points and a change of 0.25."""
    own = config(residual=True, advection=True)
    params = jax.tree.map(lambda a: jnp.zeros(a.shape), vit.init(KEY, own))
    fields = jnp.repeat(jnp.array([1.0, -0.5, 0.25]), 2)  # half patches of two points, for both variables
    last = params["trunk"]["head"][own.decoder_depth]
    last["bias"] = jnp.broadcast_to(fields, (own.patch_size**2, own.outputs)).reshape(-1)
    x, lead_time = states()
    np.testing.assert_allclose(vit.apply(own, params, x, lead_time), jnp.roll(x, (-1, 2), (-2, -1)) + 0.25, rtol=1e-6)


def test_with_nothing_predicted_the_first_guess_is_the_forecast(x64, assert_near):
    own = config(residual=True, advection=True, velocities=True, first_guess=2)
    params = jax.tree.map(jnp.float64, vit.init(KEY, own))
    params = jax.tree.map(jnp.zeros_like, params)
    inversion = 0.02 * jax.random.normal(KEY, params["trunk"]["inversion"].shape)
    params["trunk"]["inversion"] = inversion
    x, lead_time = states()
    guess = advection.first_guess(x, inversion, lead_time, 2)
    assert_near(vit.apply(own, params, x, lead_time), guess, 1e-6)
    assert jnp.abs(guess - x).max() > 0.1


def test_attention_in_half_precision_weighs_in_single():
    """Logits of 100, rounded to eight bits, would be 0.3 off, and their weights by a third."""
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 64, 2, 8)) for i in range(3))
    q, k, v = ((scale * part).astype(jnp.bfloat16) for scale, part in ((20, q), (5, k), (1, v)))
    expected = layers.attention(*(part.astype(jnp.float32) for part in (q, k, v)))
    np.testing.assert_allclose(layers.attention(q, k, v).astype(np.float32), expected, atol=0.03)


def test_lead_time_and_every_array_matter():
    own = config(positions="relative", qk_norm=True, residual=True, advection=True, velocities=True, first_guess=1)
    params, (x, lead_time) = vit.init(KEY, own), states()
    params = jax.tree.map(lambda a: a + 0.1 * jax.random.normal(KEY, a.shape), params)  # the query starts at zero
    loss = lambda params, lead_time: jnp.sum(vit.apply(own, params, x, lead_time) ** 2)
    by_params, by_time = jax.jit(jax.grad(loss, (0, 1)))(params, lead_time)
    still = [
        jax.tree_util.keystr(path) for path, g in jax.tree.leaves_with_path(by_params) if not (jnp.abs(g) > 0).any()
    ]
    assert not still
    assert (by_time != 0).all()


def test_dropout_is_the_keys_and_its_mean_is_the_model_without():
    own = config(dropout=0.2, drop_path=0.3)
    params, (x, lead_time) = vit.init(KEY, own), states(64)
    x = jnp.broadcast_to(x[:1], x.shape)
    run = jax.jit(lambda key: vit.apply(own, params, x, lead_time, keys=jax.random.split(key, len(x))))
    first, again, other = run(jax.random.key(1)), run(jax.random.key(1)), run(jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert (first[0] != first[1]).any()
    still = vit.apply(own, params, x, lead_time)
    np.testing.assert_array_equal(still[0], still[1])
    nothing = config(dropout=0.0, drop_path=0.0)
    kept = vit.apply(nothing, params, x, lead_time, keys=jax.random.split(KEY, len(x)))
    np.testing.assert_allclose(kept, still, rtol=1e-5, atol=1e-6)


def test_all_blocks_are_run_and_the_last_is_skipped_most():
    """drop_path = 1: the last block is never run in training, the first always."""
    own = config(dropout=0.0, drop_path=1.0, depth=2)
    params, (x, lead_time) = vit.init(KEY, own), states()
    trained = lambda params: vit.apply(own, params, x, lead_time, keys=jax.random.split(KEY, len(x)))
    changed = lambda i: jax.tree.map(lambda a: a.at[i].multiply(2.0), params["blocks"])
    np.testing.assert_array_equal(trained(params | {"blocks": changed(1)}), trained(params))
    assert (trained(params | {"blocks": changed(0)}) != trained(params)).any()


@pytest.mark.long
@pytest.mark.parametrize("remat", ["block", "dots"])
def test_remat_changes_memory_not_numbers(x64, assert_near, remat):
    params, (x, lead_time) = jax.tree.map(jnp.float64, vit.init(KEY, TINY)), states()
    x = x.astype(jnp.float64)
    gradient = lambda own: jax.grad(
        lambda p: jnp.sum(vit.apply(own, p, x, lead_time, keys=jax.random.split(KEY, len(x))) ** 2)
    )(params)
    for found, expected in zip(*map(jax.tree.leaves, (gradient(config(remat=remat)), gradient(TINY)))):
        assert_near(found, expected, 1e-10)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"image_size": 64, "patch_size": 5}, "image_size = 64 is not a multiple of patch_size = 5"),
        ({"embed_dim": 32, "num_heads": 5}, "embed_dim = 32 is not a multiple of num_heads = 5"),
        ({"embed_dim": 30, "num_heads": 5}, "embed_dim = 30 is not a multiple of 4"),
        ({"embed_dim": 24, "num_heads": 4, "positions": "rotary"}, "embed_dim/num_heads = 6 is not a multiple of 4"),
        ({"overlap": 40}, "overlap = 40 is over half of image_size = 64"),
        ({"depth": 0}, "depth = 0: "),
        ({"first_guess": 2}, "first_guess = 2 is what residual = True adds to; use residual = True"),
        ({"advection": True}, "advection = True moves the input that residual = False leaves out; use residual = True"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(given, said):
    with pytest.raises(ValidationError) as caught:
        ViTConfig(**given)
    assert said in one_line(caught.value)
