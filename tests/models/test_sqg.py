"""SQG: parity with an independent model, closed forms, conservation, symmetry, refusals."""

from functools import partial

import jax
import numpy as np
import pytest
from pydantic import ValidationError

from jaxda.models import sqg
from jaxda.models.sqg import DAY, SQGConfig
from jaxda.numerics import timestep

FILES = pytest.mark.parametrize("name", ["sqg_n64_symmetric", "sqg_n32_asymmetric_ekman", "sqg_n96_symmetric"])
FACTORS = pytest.mark.parametrize("jacobian", ["exact", "sqgturb"])
#: neither forcing nor damping: what is left is advection
ADVECTION_ONLY = {"U": 0.0, "tdiab": 1e30, "diff_efold": 1e30}


def config_of(file):
    names = ["nsq", "f", "L", "H", "U", "r", "tdiab", "diff_order", "diff_efold", "symmetric", "dt", "dealias"]
    return SQGConfig(N=file["pv_initial"].shape[-1], **{name: file[name].item() for name in names})


def small(**given):
    """A configuration on 16 points, where nothing else is said."""
    return SQGConfig(**({"N": 16, "dt": 1200.0, "diff_efold": DAY, "U": 20.0} | given))


def tendency_of(config):
    """dq/dt of PV on the grid."""
    params = sqg.make_params(config)
    return jax.jit(lambda pv: _on_grid(sqg.tendency, params, pv))


def streamfunction_of(config):
    """The streamfunction on the grid, of PV on the grid."""
    params = sqg.make_params(config)
    return jax.jit(lambda pv: _on_grid(sqg.invert, params, pv))


def _on_grid(function, params, pv):
    return jax.numpy.fft.irfft2(function(params, jax.numpy.fft.rfft2(pv)))


def advance_of(config, n_steps):
    return jax.jit(sqg.make_advance(config, n_steps))


# Parity with sqgturb


@FILES
def test_double_precision_agrees_with_sqgturb(x64, assert_near, reference, name):
    file = reference(name)
    config, pv = config_of(file), file["pv_initial"]
    assert_near(tendency_of(config)(pv), file["tendency"], 1e-10)
    assert_near(advance_of(config, 1)(pv), file["pv_after_1_step"], 1e-10)
    assert_near(advance_of(config, int(file["n_steps"]))(pv), file["pv_after_n_steps"], 1e-6)


@pytest.mark.parametrize("name", ["sqg_n64_symmetric", "sqg_n32_asymmetric_ekman"])
def test_single_precision_agrees_with_sqgturb(assert_near, reference, name):
    file = reference(name)
    config, pv = config_of(file), file["pv_initial"].astype(np.float32)
    after_n = advance_of(config, int(file["n_steps"]))(pv)
    assert after_n.dtype == np.float32
    assert_near(tendency_of(config)(pv), file["tendency"], 1e-4)
    assert_near(advance_of(config, 1)(pv), file["pv_after_1_step"], 1e-4)
    assert_near(after_n, file["pv_after_n_steps"], 1e-4)


@FILES
def test_streamfunction_agrees_with_sqgturb(x64, reference, name):
    file = reference(name)
    theirs = file["streamfunction"]
    # their mean is round-off over a clipped mu, 1e21 of eddies of 1e8: the eddies are known to its last digits only
    known = 8.0 * np.spacing(np.abs(theirs).max())
    eddies = theirs - theirs.mean((-2, -1), keepdims=True)
    ours = streamfunction_of(config_of(file))(file["pv_initial"])
    assert known < 0.05 * eddies.std()
    assert np.abs(ours - eddies).max() < known


def test_forecasts_the_published_nature_run(reference):
    pairs = reference("seed_nature_run_pairs")
    config = SQGConfig()
    n_steps = round(float(pairs["hours_between"]) / config.step_hours)
    start, end = (config.kelvin * pairs["pv"][:, time] for time in (0, 1))
    rms = lambda difference, axis=None: np.sqrt((difference**2).mean(axis))
    error = config.kelvin * advance_of(config, n_steps)(pairs["pv"][:, 0]) - end
    assert rms(error) < 0.04
    assert np.all(rms(error, (1, 2, 3)) < 0.01 * rms(end - start, (1, 2, 3)))  # 12 h change: about 7 K


# Closed forms


def wave(n, a, b, function=np.cos):
    """A wave with `a` crests along x and `b` along y."""
    x = 2 * np.pi * np.arange(n) / n
    return function(a * x[None, :] + b * x[:, None] + 0.3)


@pytest.mark.parametrize("H", [1e2, 1e4, 1e5, 1e7])
@pytest.mark.parametrize(("a", "b"), [(1, 0), (0, 2), (3, -4), (5, 5)])
def test_inversion_of_one_wave(x64, assert_near, H, a, b):
    config = small(H=H, f=2e-4, nsq=1e-4)
    # psi = A exp(-kappa z) + B exp(-kappa (H - z)) has no interior PV, and q is its slope at the boundaries
    kappa = 2 * np.pi / config.L * np.hypot(a, b) * np.sqrt(config.nsq) / config.f
    A, B, far = 3e7, -1e7, np.exp(-kappa * H)
    psi = np.array([A + B * far, A * far + B])
    slope = kappa * np.array([-A + B * far, -A * far + B])
    lines = lambda amplitude: amplitude[:, None, None] * wave(16, a, b)
    pv = lines(slope) + 1e-3 * np.abs(slope).max()  # a mean has no streamfunction
    assert_near(streamfunction_of(config)(pv), lines(psi), 1e-14 * max(1.0, (kappa * H) ** -2))


@FACTORS
@pytest.mark.parametrize("dealias", [True, False])
@pytest.mark.parametrize("n", [10, 22, 36])  # n/2 odd and even, 3n/2 odd and even
def test_advection_of_two_waves(x64, assert_near, n, dealias, jacobian):
    config = small(N=n, dealias=dealias, jacobian=jacobian, **ADVECTION_ONLY)
    psi_of, unit = streamfunction_of(config), 2 * np.pi / config.L
    p, q = np.array([800.0, -500.0])[:, None, None], np.array([-300.0, 700.0])[:, None, None]
    # inversion multiplies the amplitudes of a wave, one for each boundary
    psi_p, psi_q = (psi_of(c * wave(n, *ab))[:, :1, :1] / wave(n, *ab)[0, 0] for c, ab in ((p, (1, 0)), (q, (0, 2))))
    factor = 2.25 if dealias and jacobian == "sqgturb" else 1.0
    sines = 2 * unit**2 * wave(n, 1, 0, np.sin) * wave(n, 0, 2, np.sin)
    expected = -factor * (psi_p * q - psi_q * p) * sines  # J = psi_x q_y - psi_y q_x
    assert_near(tendency_of(config)(p * wave(n, 1, 0) + q * wave(n, 0, 2)), expected, 1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
def test_relaxation_and_ekman_layers_act_on_one_wave(x64, assert_near, symmetric):
    config = small(U=0.0, r=150.0, tdiab=3e5, symmetric=symmetric)
    pv = np.array([400.0, 900.0])[:, None, None] * wave(16, 2, 3)
    layers = np.array([150.0, -150.0 if symmetric else 0.0])[:, None, None]
    ekman = layers * (2 * np.pi / config.L) ** 2 * 13 * streamfunction_of(config)(pv)
    assert_near(tendency_of(config)(pv), ekman - pv / 3e5, 1e-12)


@pytest.mark.parametrize(("symmetric", "winds"), [(True, (-15.0, 15.0)), (False, (0.0, 30.0))])
def test_the_jet_is_steady_and_has_the_speed_asked(x64, symmetric, winds):
    config = small(U=30.0, symmetric=symmetric)
    pv = sqg.jet(config)
    assert np.abs(tendency_of(config)(pv)).max() < 1e-13 * np.abs(pv).max() / 1200.0
    psi = streamfunction_of(config)(pv)
    y = 2 * np.pi * np.arange(16) / 16
    expected = np.array(winds)[:, None, None] * config.L / (2 * np.pi) * np.cos(y)[:, None] * np.ones(16)
    np.testing.assert_allclose(psi, -expected, atol=1e-12 * np.abs(expected).max())  # u = -psi_y = -U sin(l y)


def test_hyperdiffusion_is_exact_for_each_wave(x64, assert_near):
    config = small(U=0.0, tdiab=1e30, dt=2400.0, diff_efold=9000.0, diff_order=4)
    pv = 100.0 * np.stack([wave(16, 3, -4), wave(16, 3, -4)])  # one wave: no advection
    decay = np.exp(-5 * 2400.0 / 9000.0 * (5 / 8) ** 4)
    assert_near(advance_of(config, 5)(pv), decay * pv, 1e-13)


# Forcing that changes


@pytest.mark.parametrize("symmetric", [True, False])
def test_params_of_a_forcing_are_those_of_its_configuration(x64, symmetric):
    """Traced, and whatever the values were that it was made with."""
    values = {"U": -17.0, "r": 35.0, "tdiab": 4e5}
    forced = jax.jit(sqg.make_forced(small(U=0.0, r=0.0, symmetric=symmetric)))(sqg.Forcing(**values))
    expected = sqg.make_params(small(symmetric=symmetric, **values))
    # in the maximum norm: the jet is one wave, the others are the round-off of its transform
    near = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
    jax.tree.map(near, forced, expected)


def test_forcing_by_the_middle_of_the_steps_is_of_second_order(x64, band_limited):
    """A jet that grows by 20 m/s a day: against its value at the middle of every single step.

    The state is weak because each piece ends on the grid, which keeps less of the row -N/2 than the spectrum does.
    """
    config, n_steps = small(r=30.0), 72
    pv = 100.0 * band_limited(7, 16, 4, (2,))

    @partial(jax.jit, static_argnums=0)
    def after(pieces):
        advance = sqg.make_forced_advance(config, n_steps // pieces)
        value = lambda piece: 20.0 + 20.0 * (piece + 0.5) / pieces
        one = lambda pv, piece: (advance(sqg.Forcing(value(piece), 30.0, config.tdiab), pv), None)
        return jax.lax.scan(one, pv, jax.numpy.arange(pieces))[0]

    best = after(n_steps)
    coarse, fine = (np.abs(after(pieces) - best).max() for pieces in (6, 12))
    assert 3.5 < coarse / fine < 4.5


# Conservation


def test_the_mean_obeys_relaxation_alone(x64):
    pv = 500.0 * np.random.default_rng(0).normal(size=(2, 16, 16)) + np.array([40.0, -7.0])[:, None, None]
    z = -1200.0 / 1e5
    rk4 = 1.0 + z + z**2 / 2 + z**3 / 6 + z**4 / 24
    for tdiab, factor in ((1e5, rk4**10), (1e30, 1.0)):
        after = advance_of(small(tdiab=tdiab, r=100.0), 10)(pv).mean((1, 2))
        np.testing.assert_allclose(after, factor * pv.mean((1, 2)), rtol=1e-12)


@FACTORS
@pytest.mark.parametrize("n", [16, 22])
def test_advection_makes_neither_energy_nor_variance(x64, band_limited, n, jacobian):
    config = small(N=n, jacobian=jacobian, **ADVECTION_ONLY)
    pv = 3000.0 * band_limited(1, n, shape=(2,))
    rate, psi = tendency_of(config)(pv), streamfunction_of(config)(pv)
    energy = psi * rate * np.array([1.0, -1.0])[:, None, None]
    assert abs(energy.mean()) < 1e-12 * np.abs(energy).mean()
    assert np.all(np.abs((pv * rate).mean((1, 2))) < 1e-12 * np.abs(pv * rate).mean((1, 2)))


@FACTORS
def test_drift_of_energy_and_variance_falls_with_the_time_step(x64, band_limited, jacobian):
    n = 16
    pv = 3000.0 * band_limited(0, n, shape=(2,))
    # The row of wavenumber -N/2, which sqgturb keeps, has no partner +N/2: it leaks. Without it, only dt is left.
    partnered = (np.abs(np.fft.fftfreq(n, 1 / n)) < n // 2)[:, None]

    def drift(n_steps):
        config = small(dt=DAY / n_steps, jacobian=jacobian, **ADVECTION_ONLY)
        params = sqg.make_params(config)
        step = timestep.rk4(lambda qh: partnered * sqg.tendency(params, qh), params.dt)
        after = np.fft.irfft2(jax.jit(timestep.repeated(step, n_steps))(np.fft.rfft2(pv)))
        energy = sqg.total_energy(params, after) / sqg.total_energy(params, pv)
        return np.abs(np.array([energy, *(after**2).mean((1, 2)) / (pv**2).mean((1, 2))]) - 1.0)

    coarse, fine = drift(48), drift(96)
    assert np.all(fine > 1e-12)  # above round-off, or the slope means nothing
    assert np.all(np.log2(coarse / fine) > 4.0)


def test_total_energy_is_kinetic_plus_available_potential(x64):
    config = small(f=2e-4)
    K = 2 * np.pi / config.L * 5
    kappa = K * np.sqrt(config.nsq) / config.f
    nodes, weights = np.polynomial.legendre.leggauss(20)
    z, dz = config.H * (nodes + 1) / 2, config.H * weights / 2
    psi = lambda z: 3e7 * np.exp(-kappa * z) - 1e7 * np.exp(kappa * z)
    slope = lambda z: -kappa * (3e7 * np.exp(-kappa * z) + 1e7 * np.exp(kappa * z))
    density = 0.5 * (K**2 * psi(z) ** 2 + config.f**2 / config.nsq * slope(z) ** 2)
    pv = slope(np.array([0.0, config.H]))[:, None, None] * wave(16, 3, 4)
    energy = sqg.total_energy(sqg.make_params(config), pv)
    np.testing.assert_allclose(energy, 0.5 * (density * dz).sum(), rtol=1e-12)  # the mean of cos^2 is 1/2


def test_kinetic_energy_spectrum_sums_to_the_energy_of_the_wind(x64, assert_near, band_limited):
    config = small()
    pv = 1000.0 * band_limited(2, 16, shape=(3, 2))
    psi = np.fft.rfft2(streamfunction_of(config)(pv))
    k = 2 * np.pi / config.L * np.fft.fftfreq(16, 1 / 16)
    u, v = (np.fft.irfft2(1j * wavenumber * psi) for wavenumber in (k[:, None], np.abs(k[:9])))
    spectrum = sqg.kinetic_energy_spectrum(sqg.make_params(config), pv)
    assert_near(spectrum.sum(-1), 0.5 * (u**2 + v**2).mean((-2, -1)), 1e-13)


# Symmetry


@pytest.mark.parametrize(("U", "shift"), [(20.0, (0, 5)), (0.0, (-4, 7))])
@pytest.mark.parametrize("symmetric", [True, False])
def test_shift_commutes_with_the_step(x64, assert_near, band_limited, U, shift, symmetric):
    advance = advance_of(small(U=U, r=50.0, symmetric=symmetric), 5)
    pv = 2000.0 * band_limited(3, 16, shape=(2,))
    assert_near(advance(np.roll(pv, shift, (1, 2))), np.roll(advance(pv), shift, (1, 2)), 1e-12)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_model_commutes_with_its_mirrors(x64, assert_near, band_limited, symmetric):
    """Exactly where products stay under wavenumber N/2, whose one row has no mirror image; forecasts nearly."""
    config = small(symmetric=symmetric, r=0.01)
    tendency, advance = tendency_of(config), jax.jit(sqg.make_advance(config, 20))
    q = 100.0 * band_limited(4, 16, 4, (2,))
    rate, after = tendency(q), advance(q)
    mirrors = sqg.mirrored(config)
    assert len(mirrors) == (3 if symmetric else 2)
    for mirror in mirrors:
        assert_near(mirror(sqg.jet(config)), sqg.jet(config), 1e-13)
        assert_near(tendency(mirror(q)), mirror(rate), 1e-11)
        assert_near(advance(mirror(q)), mirror(after), 1e-3)
        assert np.abs(mirror(after) - after).max() > 1.0


def test_boundaries_of_another_jet_cannot_change_places(x64, band_limited):
    swapped = sqg.mirrored(small())[2]
    advance = jax.jit(sqg.make_advance(small(symmetric=False), 20))
    q = 100.0 * band_limited(4, 16, 8, (2,))
    assert np.abs(advance(swapped(q)) - swapped(advance(q))).max() > 1e-3


def test_members_do_not_see_each_other(x64, assert_near, band_limited):
    advance = advance_of(small(), 5)
    ensemble = 2000.0 * band_limited(4, 16, shape=(4, 2))
    together = np.asarray(advance(ensemble))
    assert_near(together, np.stack([advance(member) for member in ensemble]), 1e-13)
    assert_near(advance(ensemble[[2, 0, 3, 1]]), together[[2, 0, 3, 1]], 1e-13)


def test_the_published_factor_is_exact_dynamics_of_nine_quarters(x64, assert_near, band_limited):
    pv = 1000.0 * band_limited(5, 16, shape=(2,))
    given = {"r": 80.0, "symmetric": False}
    published = advance_of(small(U=20.0, jacobian="sqgturb", **given), 20)(pv)
    exact = advance_of(small(U=45.0, jacobian="exact", **given), 20)(2.25 * pv)
    assert_near(2.25 * published, exact, 1e-11)
    assert np.abs(published - pv).max() > 0.1 * np.abs(pv).max()  # something has happened


def test_without_dealiasing_only_the_small_waves_differ(x64, assert_near, band_limited):
    with_padding, without = (tendency_of(small(U=0.0, dealias=dealias, jacobian="exact")) for dealias in (True, False))
    smooth, rough = (2000.0 * band_limited(6, 16, limit=limit, shape=(2,)) for limit in (4, 8))
    assert_near(without(smooth), with_padding(smooth), 1e-13)
    assert np.abs(without(rough) - with_padding(rough)).max() > 0.05 * np.abs(with_padding(rough)).max()


# Settings


def test_the_start_is_smooth_noise_without_a_mean():
    pv = sqg.initial_state(jax.random.key(0), small())
    assert pv.shape == (2, 16, 16)
    assert np.abs(pv.mean((1, 2))).max() < 1e-3
    assert pv[1].max() > 1500.0 > 500.0 > pv[0].max()


@pytest.mark.parametrize("n", [*sqg.TIME_STEPS, "96"])
def test_published_grids_bring_their_time_step(n):
    config = SQGConfig(N=n, U=20.0)
    assert (config.dt, config.diff_efold) == sqg.TIME_STEPS[int(n)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"N": 63}, ["N", "63", "even", "use 64"]),
        ({"N": 6}, ["N", "6", "greater than or equal to 8"]),
        ({"N": 10}, ["dt", "N = 10", "give it, or use N in"]),
        ({"N": 10, "dt": 5000.0}, ["diff_efold", "N = 10", "give it, or use N in"]),
        ({"dt": 5000.0}, ["dt = 5000 s", "U = 30 m/s at N = 64", "use dt <= 2084"]),
        ({"U": -60.0}, ["dt = 1200 s", "U = -60 m/s", "use dt <= 1042"]),
        ({"tdiab": -1.0}, ["tdiab", "-1.0", "greater than 0"]),
        ({"r": float("nan")}, ["r\n", "nan", "finite"]),
        ({"jacobian": "right"}, ["jacobian", "right", "'sqgturb' or 'exact'"]),
        ({"tdiabatic": 1e6}, ["tdiabatic", "Unexpected keyword"]),
    ],
)
def test_bad_settings_are_refused(given, words):
    with pytest.raises(ValidationError) as refusal:
        SQGConfig(**given)
    assert all(word in str(refusal.value) for word in words), refusal.value


@pytest.mark.parametrize("n", [32, 32.0, "32", np.int64(32)])
def test_a_grid_brings_its_step_however_its_size_is_written(n):
    assert SQGConfig(N=n).dt == sqg.TIME_STEPS[32][0]


@pytest.mark.parametrize("n", [[], {}, 32.5, float("nan")])
def test_sizes_that_are_none_are_refused(n):
    with pytest.raises(ValidationError, match="N"):
        SQGConfig(N=n)
