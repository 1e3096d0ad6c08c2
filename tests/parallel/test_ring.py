"""The ring in windows and over devices: a sweep is the function on the whole ring, in place, however it is cut."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.parallel import ring as rings

HALO = 3


def smoothed(ring, x):
    """A sweep of a sum over seven neighbours with unequal weights, and of the numbers of the points."""

    def function(first, z):
        n = z.shape[-1] - 2 * HALO
        places = (first + jnp.arange(n)).astype(jnp.float32) + rings.first_place(ring).astype(jnp.float32)
        return sum((k + 1.0) * z[k : k + n] for k in range(2 * HALO + 1)) + places

    spread = jax.shard_map(
        lambda x: rings.sweep(ring, function, x), mesh=ring.mesh, in_specs=ring.spec, out_specs=ring.spec,
        check_vma=False,
    )  # fmt: skip
    return jax.jit(spread)(x)


@pytest.mark.parametrize(("d", "devices", "largest"), [(2, 1, 9), (5, 1, 9), (24, 1, 24), (24, 1, 4), (24, 2, 6)])
def test_a_sweep_is_the_function_on_the_whole_ring(cpus, d, devices, largest):
    x = np.random.default_rng(0).normal(size=d).astype(np.float32)
    ring = rings.make_ring(d, HALO, cpus[:devices], largest)
    assert (ring.mesh.size, ring.window) == (devices, min(largest, d // devices))
    expected = sum((k + 1.0) * np.roll(x, HALO - k) for k in range(2 * HALO + 1)) + np.arange(d)
    np.testing.assert_allclose(smoothed(ring, x), expected, rtol=1e-5, atol=1e-5)


def test_a_sweep_of_windows_copies_no_part(cpus):
    ring = rings.make_ring(1 << 16, HALO, cpus[:1], 1 << 10)
    spread = jax.shard_map(
        lambda x: rings.sweep(ring, lambda _, z: jnp.sin(z[HALO:-HALO]), x), mesh=ring.mesh, in_specs=ring.spec,
        out_specs=ring.spec, check_vma=False,
    )  # fmt: skip
    memory = jax.jit(spread, donate_argnums=0).lower(jnp.zeros(ring.d)).compile().memory_analysis()
    assert memory.alias_size_in_bytes == 4 * ring.d
    assert memory.temp_size_in_bytes < 4 * ring.d


@pytest.mark.parametrize(
    ("d", "devices", "window"), [(1000, 2, 500), (1001, 1, 1001), (9000, 2, 1500), (6, 1, 6), (7 * 300, 2, 1050)]
)
def test_windows_divide_what_a_device_has(cpus, d, devices, window):
    ring = rings.make_ring(d, 120, cpus, 2000)
    assert (ring.mesh.size, ring.window, ring.part) == (devices, window, d // devices)


def test_a_ring_that_cannot_be_cut_says_so(cpus):
    with pytest.raises(ValueError, match="d = 10007: 10007 points on each of 1 devices have no divisor from 120"):
        rings.make_ring(10007, 120, cpus, 2000)
