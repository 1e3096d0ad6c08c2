"""The twin cycle: its keys, its scores, the truth's shocks, and one experiment with known scores."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from jaxda import observations, twin
from jaxda.filters import letkf
from jaxda.filters.baselines import Climate
from jaxda.filters.divergence import UNGUARDED, Guard, make_guard, make_watch
from jaxda.filters.faults import FaultsConfig, make_mend
from jaxda.filters.letkf import LETKFConfig
from jaxda.filters.localization import Geometry
from jaxda.models import lorenz96
from jaxda.models.lorenz96 import Lorenz96Config
from jaxda.observations import ObservationConfig
from jaxda.parallel.mesh import member_mesh, over_members
from jaxda.twin import InitialConfig, ShockConfig

KEY = jax.random.key(7)
D, CYCLES = 6, 7
TRUTH = np.random.default_rng(0).normal(size=(CYCLES, D)).astype(np.float32)
MEMBERS = np.random.default_rng(1).normal(size=(4, D)).astype(np.float32)


def network(**given):
    config = ObservationConfig(**{"operator": "identity", "sigma": 0.5} | given)
    return observations.make_network(config, observations.make_operator(config, (D,)))


def nudge(key, ensemble, observation):
    """An analysis that uses all it is given: key, members, values, where they are."""
    seen = jnp.isfinite(observation.values)
    moved = ensemble + 0.3 * jnp.where(seen, observation.values - ensemble, 0.0)
    return moved + 0.1 * jax.random.normal(key, ensemble.shape, ensemble.dtype)


def noisy(key, ensemble):
    return 0.9 * jnp.roll(ensemble, 1, axis=-1) + 0.2 * jax.random.normal(key, ensemble.shape, ensemble.dtype)


def copy(key, ensemble, observation):
    """An analysis whose members are the observations."""
    return jnp.broadcast_to(observation.values, ensemble.shape)


PARTS = {"forecast": noisy, "observe": network(fraction=0.5), "analysis": nudge}


# The cycle


def test_a_run_in_pieces_is_the_whole_run():
    run = jax.jit(partial(twin.cycle, keep_members=True, **PARTS))
    whole = run(KEY, MEMBERS, TRUTH)
    ensemble, series, first = MEMBERS, [], 0
    for size in (3, 2, 2):
        ensemble, part = run(KEY, ensemble, TRUTH[first : first + size], first=first)
        series.append(part)
        first += size
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *series)
    jax.tree.map(np.testing.assert_array_equal, (ensemble, joined), whole)


def test_all_filters_of_one_key_see_the_same_observations():
    observe = network(fraction=0.5)
    expected = [
        observe(jax.random.split(jax.random.fold_in(KEY, k), 3)[0], state).values for k, state in enumerate(TRUTH)
    ]
    for members, forecast in ((MEMBERS, noisy), (MEMBERS[:2] + 5.0, lambda key, x: 2.0 * x)):
        fields = twin.cycle(KEY, members, TRUTH, forecast=forecast, observe=observe, analysis=copy)[1][1]
        np.testing.assert_array_equal(fields.mean, expected)


def test_no_noise_comes_twice(x64):
    """Observing, analysis and forecast draw anew at every cycle, and none as another does."""
    noise = lambda key: jax.random.normal(key, (D,))
    members = twin.cycle(
        KEY,
        jnp.zeros((3, D)),
        np.zeros((CYCLES, D)),
        forecast=lambda key, ensemble: jnp.broadcast_to(noise(key), ensemble.shape),
        observe=lambda key, truth: observations.Observation(noise(key), jnp.ones(D)),
        analysis=lambda key, ensemble, seen: jnp.stack([ensemble[2], noise(key), seen.values]),
        keep_members=True,
    )[1][1].members
    drawn = np.asarray(members).reshape(-1, D)[1:]  # the first forecast is given
    assert len(np.unique(drawn[:, 0])) == len(drawn) == 3 * CYCLES - 1


def test_what_forecasts_is_carried_along_and_learns():
    """The number of the cycle and the observation that is used are told; the new model makes the forecast."""
    told = []

    def learn(key, number, model, ensemble, posterior, used):
        told.append((ensemble.shape, posterior.shape, used.values.shape))
        return model + 1.0, {"number": number, "before": model, "noise": jax.random.normal(key)}

    def forward(key, number, model, ensemble):
        return ensemble + model, jnp.where(number == 2, 3, 0)

    run = partial(
        twin.coupled_cycle, KEY, forecast=forward, observe=network(), analysis=lambda key, x, y: x, learn=learn
    )
    start = twin.Coupled(jnp.asarray(MEMBERS), jnp.float32(10.0))
    coupled, (scores, _, record) = run(start, TRUTH)
    np.testing.assert_array_equal(record["number"], np.arange(CYCLES))
    np.testing.assert_array_equal(record["before"], 10.0 + np.arange(CYCLES))
    assert coupled.model == 10.0 + CYCLES
    np.testing.assert_allclose(coupled.ensemble, MEMBERS + sum(11.0 + k for k in range(CYCLES)), rtol=1e-6)
    np.testing.assert_array_equal(scores.replaced, 3 * (np.arange(CYCLES) == 2))
    assert told[0] == ((4, D), (4, D), (D,))
    # in pieces, with keys that are of no other purpose
    middle, (_, _, first) = run(start, TRUTH[:3])
    last, (_, _, second) = run(middle, TRUTH[3:], first=3)
    np.testing.assert_array_equal(last.ensemble, coupled.ensemble)
    np.testing.assert_array_equal(np.concatenate([first["noise"], second["noise"]]), record["noise"])
    every = [jax.random.key_data(key).tolist() for k in range(CYCLES) for key in twin.keys(KEY, k)]
    assert len({tuple(key) for key in every}) == len(twin.Keys._fields) * CYCLES


def test_scores_are_those_of_forecast_and_analysis(x64):
    scale = 3.0
    truth, ensemble = TRUTH.astype(float), MEMBERS.astype(float)
    halve = lambda key, x, observation: 0.5 * x
    turn = lambda key, x: jnp.roll(x, 1, axis=-1) + 1.0
    last, (scores, fields) = twin.cycle(
        KEY, ensemble, truth, forecast=turn, observe=network(), analysis=halve, scale=scale, keep_members=True
    )
    for cycle, state in enumerate(truth):
        for suffix, x in (("b", ensemble), ("a", 0.5 * ensemble)):
            error, spread = (getattr(scores, f"{name}_{suffix}")[cycle] for name in ("rmse", "spread"))
            np.testing.assert_allclose(error, scale * np.sqrt(np.mean((x.mean(0) - state) ** 2)), rtol=1e-12)
            np.testing.assert_allclose(spread, scale * np.sqrt(np.mean(x.var(0, ddof=1))), rtol=1e-12)
        crps = np.abs(x - state).mean() - np.abs(x[:, None] - x[None]).mean((0, 1)).mean() * len(x) / (len(x) - 1) / 2
        np.testing.assert_allclose(scores.crps_a[cycle], scale * crps, rtol=1e-12)
        np.testing.assert_allclose(fields.mean[cycle], 0.5 * ensemble.mean(0), rtol=1e-12)
        np.testing.assert_allclose(fields.spread[cycle], 0.5 * ensemble.std(0, ddof=1), rtol=1e-12)
        np.testing.assert_allclose(fields.members[cycle], 0.5 * ensemble, rtol=1e-12)
        ensemble = np.roll(0.5 * ensemble, 1, axis=-1) + 1.0
    np.testing.assert_allclose(last, ensemble, rtol=1e-12)


def test_what_is_screened_is_counted_and_kept_from_the_analysis():
    observe = network(fraction=0.5)
    low = lambda ensemble, seen: seen._replace(values=jnp.where(seen.values > 0.5, jnp.nan, seen.values))
    run = partial(twin.cycle, KEY, MEMBERS, TRUTH, forecast=noisy, observe=observe, analysis=copy)
    (everything, fields), (scores, kept) = run()[1], run(screen=low)[1]
    np.testing.assert_array_equal(everything.rejected, np.zeros(CYCLES))
    high = np.asarray(fields.mean) > 0.5
    assert 0 < high.sum() < np.isfinite(fields.mean).sum()
    np.testing.assert_array_equal(scores.rejected, high.sum(1))
    np.testing.assert_array_equal(kept.mean, np.where(high, np.nan, fields.mean))


def test_members_are_kept_on_request_alone():
    assert twin.cycle(KEY, MEMBERS, TRUTH, **PARTS)[1][1].members is None


# Faults

WATCH = Guard(
    make_mend(FaultsConfig(), 4),
    make_watch(FaultsConfig(), observations.make_operator(ObservationConfig(operator="identity"), (D,))),
)


def failing(where, bad, at=3):
    """The parts of a cycle, of which the forecast or the analysis makes NaN of the first `bad` members at a cycle."""
    shape = lambda wrong, x: jnp.where(wrong & (jnp.arange(len(x)) < bad)[:, None], jnp.nan, x)
    now = lambda observation: observation.values[0] == observed[at]
    observed = [network()(twin.keys(KEY, k).observe, state).values[0] for k, state in enumerate(TRUTH)]
    analysis = lambda key, x, seen: shape((where == "analysis") & now(seen), nudge(key, x, seen))

    def forecast(key, number, model, x):
        return shape((where == "forecast") & (number == at), noisy(key, x)), 0

    return {"forecast": forecast, "observe": network(), "analysis": analysis}


def guarded(parts, truth=TRUTH, start=None, **given):
    start = start or twin.Coupled(jnp.asarray(MEMBERS), suspect=jnp.zeros((), jnp.int32))
    return jax.jit(partial(twin.coupled_cycle, **{"guard": WATCH, "keep_members": True} | parts | given))(
        KEY, start, truth
    )


@pytest.mark.parametrize("where", ["forecast", "analysis"])
def test_members_that_fail_are_drawn_anew_and_counted(where):
    coupled, (scores, _, _) = guarded(failing(where, 2))
    np.testing.assert_array_equal(scores.replaced, [0, 0, 0, 2, 0, 0, 0])
    assert scores.finite.all()
    assert np.isfinite(coupled.ensemble).all()
    # in pieces the same numbers
    middle, (first, _, _) = guarded(failing(where, 2), TRUTH[:3])
    last, (second, _, _) = guarded(failing(where, 2), TRUTH[3:], middle, first=3)
    jax.tree.map(np.testing.assert_array_equal, last, coupled)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), first, second)
    jax.tree.map(np.testing.assert_array_equal, joined, scores)


@pytest.mark.parametrize("where", ["forecast", "analysis"])
def test_a_filter_of_which_too_many_members_fail_ends(where):
    """The cycle in which they do is not finite, though with the forecast its analysis may be."""
    _, (scores, _, _) = guarded(failing(where, 3))
    np.testing.assert_array_equal(scores.finite, np.arange(CYCLES) < 3)
    assert scores.lost[3] == 3
    assert np.isfinite(scores.rmse_a[3]) == (where == "forecast")


def test_a_guard_leaves_a_sound_run_as_it_is():
    unguarded, (_, fields, _) = guarded(failing("nowhere", 0), guard=UNGUARDED)
    coupled, (scores, same, _) = guarded(failing("nowhere", 0))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)  # two programs, two roundings
    jax.tree.map(close, same, fields)
    close(coupled.ensemble, unguarded.ensemble)
    assert (scores.replaced + scores.lost + scores.flagged == 0).all()
    assert np.isfinite(scores.chi_square).all()


# Shocks

OFTEN = {"sizes": (2.0, 5.0), "probabilities": (0.3, 0.4)}


def test_shocks_come_as_often_and_as_large_as_asked():
    config = ShockConfig(kind="transient", sizes=(1000.0, 100.0, 10.0, 1.0), probabilities=(0.05, 0.10, 0.15, 0.20))
    cycles, points = 8000, 20
    draw = jax.jit(jax.vmap(lambda number: twin.shock(KEY, config, (points,), number, jnp.float32)))
    noise = np.asarray(draw(jnp.arange(1, cycles + 1)))
    rms = np.sqrt((noise.astype(float) ** 2).mean(1))
    sizes = np.array([*config.sizes, 0.0])
    which = np.where(rms == 0.0, 4, np.abs(np.log(np.maximum(rms, 1e-9)[:, None] / sizes[:4])).argmin(1))
    expected = cycles * np.array([*config.probabilities, 0.5])
    counts = np.bincount(which, minlength=5)
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(0.999, 4)
    for i, size in enumerate(config.sizes):
        shocks = noise[which == i] / size
        np.testing.assert_allclose(shocks.std(), 1.0, atol=4.0 / np.sqrt(2.0 * shocks.size))
        assert abs(shocks.mean()) < 4.0 / np.sqrt(shocks.size)
        neighbours = np.mean(shocks[:, 1:] * shocks[:, :-1])  # white in space ...
        assert abs(neighbours) < 4.0 / np.sqrt(shocks.size)
    assert len(np.unique(noise[which < 4, 0])) == (which < 4).sum()  # ... and new at each cycle


def test_the_first_cycle_has_no_shock():
    always = ShockConfig(kind="persistent", sizes=(3.0,), probabilities=(1.0,))
    for seed in range(5):
        first, second = (
            twin.shock(jax.random.key(seed), always, (D,), jnp.asarray(number), jnp.float32) for number in (0, 1)
        )
        np.testing.assert_array_equal(first, 0.0)
        assert (np.asarray(second) != 0.0).all()


def shocks_of(config, cycles):
    return np.stack([twin.shock(KEY, config, (D,), jnp.asarray(k), jnp.float32) for k in range(cycles)])


def test_transient_shocks_leave_the_other_cycles_as_they_are():
    config = ShockConfig(kind="transient", **OFTEN)
    truth = np.random.default_rng(0).normal(size=(30, D)).astype(np.float32)
    expected = shocks_of(config, 30)
    hit = (expected != 0.0).any(1)
    assert 10 < hit.sum() < 28
    result = np.asarray(twin.shocked(KEY, config, truth))
    np.testing.assert_array_equal(result[~hit], truth[~hit])
    np.testing.assert_allclose(result[hit], (truth + expected)[hit], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["none", "transient", "persistent"])
def test_only_persistent_shocks_are_carried_on_by_the_truth(kind):
    config = ShockConfig(kind=kind, **OFTEN)
    start = np.arange(D, dtype=np.float32)
    rates = (1.0, 1.1)
    still, growing = (twin.truth_run(KEY, config, lambda number, x, a=a: a * x, start, 30) for a in rates)
    shocks = shocks_of(config, 30) * (kind == "persistent")
    np.testing.assert_allclose(still, start + np.cumsum(shocks, axis=0), rtol=1e-5, atol=1e-4)
    expected = [start]
    for k in range(1, 30):
        expected.append(1.1 * expected[-1] + shocks[k])
    np.testing.assert_allclose(growing, expected, rtol=1e-4, atol=1e-4)


def test_the_truth_is_told_the_cycle_that_it_leaves():
    truth = twin.truth_run(KEY, ShockConfig(), lambda number, x: x + 10.0**number, np.zeros(D, np.float32), 5)
    np.testing.assert_array_equal(truth[:, 0], [0.0, 1.0, 11.0, 111.0, 1111.0])


# The first ensemble


def test_members_scatter_around_the_truth():
    truth = np.arange(D, dtype=np.float32)
    first = partial(twin.initial_ensemble, members=4000, truth=truth, climate_states=None)
    ensemble = first(KEY, InitialConfig(noise=2.0))
    assert ensemble.shape == (4000, D)
    np.testing.assert_allclose(ensemble.mean(0), truth, atol=5 * 2.0 / 4000**0.5)
    np.testing.assert_allclose(ensemble.std(0), 2.0, rtol=0.05)
    np.testing.assert_array_equal(first(KEY, InitialConfig(noise=0.0)), np.broadcast_to(truth, ensemble.shape))


def test_members_are_states_of_the_climate_each_once():
    states = np.arange(20.0 * D, dtype=np.float32).reshape(20, D)
    draw = partial(twin.initial_ensemble, config=InitialConfig(kind="climatology"), truth=states[0] - 1e6)
    for key in jax.random.split(KEY, 5):
        rows = np.asarray(draw(key, members=20, climate_states=states))[:, 0] / D
        np.testing.assert_array_equal(np.sort(rows), np.arange(20.0))
    few = [np.asarray(draw(key, members=3, climate_states=states)) for key in jax.random.split(KEY)]
    assert (few[0] != few[1]).any()


# Whole experiments


def lorenz96_experiment(cycles, members, mesh=None, faults=None, seed=7, **settings):
    """Lorenz-96, everything observed each 0.05 with unit error, as Sakov & Oke (2008); returns the scores."""
    model = Lorenz96Config()
    advance = lorenz96.make_advance(model, 1)
    observation = ObservationConfig(operator="identity", sigma=1.0)
    operator = observations.make_operator(observation, model.shape)
    forward = over_members(advance, mesh)
    config = FaultsConfig(**faults or {})
    analysis = letkf.make_analysis(LETKFConfig(**{"rtps": 0.0} | settings), Geometry(model.shape, 1.0), operator, mesh)
    climate = Climate(jnp.full(model.shape, 2.3), jnp.full(model.shape, 13.0))
    guard = make_guard(config, make_mend(config, members, mesh), operator, climate, analysis)
    run = partial(
        twin.cycle,
        forecast=lambda key, ensemble: forward(ensemble),
        observe=observations.make_network(observation, operator),
        analysis=analysis,
        guard=guard,
    )
    keys = jax.random.split(jax.random.key(seed), 3)
    start = jax.jit(lorenz96.make_advance(model, 1000))(lorenz96.initial_state(keys[0], model))
    onward = lambda number, state: advance(state)
    truth = jax.jit(partial(twin.truth_run, keys[1], ShockConfig(), onward, cycles=cycles))(start)
    first = twin.initial_ensemble(keys[2], InitialConfig(noise=1.0), members, truth[0], None)
    return jax.tree.map(np.asarray, jax.jit(run)(KEY, first, truth))


def test_the_transform_filter_reaches_the_published_score():
    scores = lorenz96_experiment(1000, 24, cutoff=np.inf, inflation=1.02, rotation=True)[1][0]
    assert 0.15 < scores.rmse_a[300:].mean() < 0.22  # DAPPER: 0.18; the observations have 1
    assert scores.rmse_a[300:].mean() < scores.rmse_b[300:].mean()
    assert 0.8 < scores.spread_a[300:].mean() / scores.rmse_a[300:].mean() < 1.3


@pytest.mark.parametrize("seed", [7, 8, 9])
def test_a_filter_that_lost_the_truth_is_flagged_and_brought_back(seed):
    """Members that are deflated grow sure of themselves; either recovery finds the truth again, time after time."""
    run = lambda **faults: lorenz96_experiment(250, 7, faults=faults, seed=seed, cutoff=14.0, inflation=0.9)[1][0]
    lost, inflated, recentred = (run(recovery=kind) for kind in ("none", "inflate", "recentre"))
    assert lost.flagged.sum() > 100
    assert lost.rmse_a[100:].mean() > 2.0
    np.testing.assert_array_equal(lost.flagged, in_a_row(lost.chi_square > 5.0, lost.rmse_b > 13.0**0.5) >= 5)
    first = np.argmax(lost.flagged)
    for scores in (inflated, recentred):
        assert np.argmax(scores.flagged) == first
        np.testing.assert_allclose(scores.rmse_a[:first], lost.rmse_a[:first], rtol=1e-3)
        assert scores.rmse_a[100:].mean() < 0.5 * lost.rmse_a[100:].mean()


def in_a_row(*series):
    counts, count = [], 0
    for wrong in np.logical_or(*series):
        count = count + 1 if wrong else 0
        counts.append(count)
    return np.array(counts)


def test_two_devices_give_the_scores_of_one(cpus, assert_near):
    one, two = (lorenz96_experiment(8, 6, mesh, cutoff=14.0, inflation=1.04) for mesh in (None, member_mesh(6, cpus)))
    jax.tree.map(partial(assert_near, tolerance=1e-5), two, one)
