"""The ring's filter against the same Euler steps written plainly, with JAX's own gradient of the model."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.filters import ensf, ensf_ring
from jaxda.lorenz96_scaling import ScalingConfig, make_ring
from jaxda.models import lorenz96, lorenz96_windows
from jaxda.numerics import counter
from jaxda.parallel import ring as rings

WORDS = counter.words_of(jax.random.key(5))
CONFIG = ScalingConfig(d=96, between=2, sigma=0.5)
normals = jax.jit(counter.normals)
PLACES = jnp.arange(CONFIG.d, dtype=jnp.uint32)
X = 3.0 * jax.random.normal(jax.random.key(0), (CONFIG.d,))
Y = jnp.arctan(X) + 0.1 * jax.random.normal(jax.random.key(1), (CONFIG.d,))


def plainly(config, x, likelihood):
    """The published scheme, step by step, from its own definitions (jaxda.filters.ensf's docstring)."""
    dt, z = 1.0 / config.steps, normals(WORDS, config.steps, PLACES)
    for step in range(config.steps):
        t = 1.0 - step * dt
        alpha, beta2, b, sigma2 = ensf.schedule(config.filter, t)
        score = -(z - alpha * x) / beta2 + (1.0 - t) * likelihood(z)
        z = z - dt * (b * z - sigma2 * score) + np.sqrt(dt * sigma2) * normals(WORDS, step, PLACES)
    return z


def on_ring(config, cpus, devices, largest, make, y_with_halo):
    ring = make_ring(config, cpus[:devices], largest)
    function = make(ring)

    def run(x, y):
        return function(WORDS, x, rings.extended(ring, y) if y_with_halo else y)

    specs = (ring.spec, ring.spec)
    return jax.jit(jax.shard_map(run, mesh=ring.mesh, in_specs=specs, out_specs=ring.spec, check_vma=False))(X, Y)


@pytest.mark.parametrize(("devices", "largest"), [(1, 96), (2, 24)])
def test_update_is_the_published_scheme(assert_near, cpus, devices, largest):
    make = lambda ring: ensf_ring.make_update(CONFIG.filter, ring, CONFIG.sigma)
    found = on_ring(CONFIG, cpus, devices, largest, make, y_with_halo=False)
    sigma2 = CONFIG.sigma**2
    likelihood = jax.grad(lambda z: -0.5 * jnp.sum((Y - jnp.arctan(z)) ** 2) / sigma2)
    assert_near(found, plainly(CONFIG, X, likelihood), 1e-5)


@pytest.mark.parametrize("compared", ["observed", "state"])
@pytest.mark.parametrize(("devices", "largest"), [(1, 96), (2, 24)])
def test_pre_prediction_has_the_gradient_through_the_model(assert_near, cpus, devices, largest, compared):
    config = dataclasses.replace(CONFIG, compared=compared)
    make = lambda ring: ensf_ring.make_pre_prediction(
        config.filter, ring, config.model, config.between, config.sigma, compared, "float32"
    )
    found = on_ring(config, cpus, devices, largest, make, y_with_halo=True)
    advance = lorenz96.make_advance(config.model, config.between)
    seen = jnp.arctan if compared == "observed" else lambda x: x
    likelihood = jax.jit(jax.grad(lambda z: -0.5 * jnp.sum((Y - seen(advance(z))) ** 2) / config.sigma**2))
    assert_near(found, plainly(config, X, likelihood), 2e-5)


def test_a_path_in_half_precision_is_near(cpus):
    make = lambda state: (
        lambda ring: ensf_ring.make_pre_prediction(
            CONFIG.filter, ring, CONFIG.model, CONFIG.between, CONFIG.sigma, "observed", state
        )
    )
    single, half = (on_ring(CONFIG, cpus, 1, 96, make(state), True) for state in ("float32", "bfloat16"))
    assert 1e-4 < np.sqrt(np.mean((single - half) ** 2)) / np.std(single) < 0.2


def test_a_path_is_rounded_to_the_nearest():
    _, to, back = ensf_ring.PACKING["bfloat16"]
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    np.testing.assert_array_equal(back(to(x)), x.astype(jnp.bfloat16).astype(np.float32))


def test_what_the_ring_does_not_have_is_refused(cpus):
    ring = make_ring(CONFIG, cpus)
    softmax = dataclasses.replace(CONFIG.filter, weights="softmax")
    with pytest.raises(ValueError, match="weights = 'softmax': the ring's filter is that of weights = 'per-member'"):
        ensf_ring.make_update(softmax, ring, 0.1)
    with pytest.raises(ValueError, match="halo = 24: 3 steps need 36"):
        ensf_ring.make_pre_prediction(CONFIG.filter, ring, CONFIG.model, 3, 0.1, "observed", "float32")
    assert ring.halo == lorenz96_windows.halo(CONFIG.between)
