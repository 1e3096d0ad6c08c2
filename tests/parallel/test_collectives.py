"""Statistics over ranks: one process and two devices give NumPy's figures. MPI's ranks are in test_mpi.py."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxda import diagnostics
from jaxda.parallel import collectives, launch, ranks
from jaxda.parallel.mesh import member_mesh

EDGES = np.array([-2.0, -0.5, 0.0, 0.25, 3.0])
WAYS = pytest.mark.parametrize("way", ["alone", "axis", "axis, checked"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


@pytest.fixture
def spread_out(cpus):
    """A function: statistic, way, arrays of members, what every rank holds -> the statistic over one or two ranks."""

    def run(statistic, way, *arrays, shared=()):
        if way == "alone":
            return jax.jit(partial(statistic, ranks.alone()))(*arrays, *shared)
        member, whole = PartitionSpec("member"), PartitionSpec()
        specs = (*(member for _ in arrays), *(whole for _ in shared))
        over = partial(statistic, ranks.over_axis("member"))
        mesh, check = member_mesh(2, cpus), way == "axis, checked"
        return jax.jit(jax.shard_map(over, mesh=mesh, in_specs=specs, out_specs=whole, check_vma=check))(
            *arrays, *shared
        )

    return run


def members_of(dtype, count=8, shape=(3, 5), mean=0.0, seed=0):
    return (mean + np.random.default_rng(seed).normal(size=(count, *shape))).astype(dtype)


def naive_variance(over, members):
    """What collectives do not do: mean of squares less square of mean."""
    count = over.total(len(members))
    mean, square = over.total(members.sum(0)) / count, over.total((members**2).sum(0)) / count
    return (square - mean**2) * (count / (count - 1))


def merged_variance(over, members):
    """Nor this: the ranks' means and squares merged (Chan et al. 1983)."""
    m, own = len(members), members.mean(0)
    count = over.total(m)
    between = m * (own - over.total(m * own) / count) ** 2
    return over.total(((members - own) ** 2).sum(0) + between) / (count - 1)


@WAYS
@DTYPES
@pytest.mark.parametrize("shape", [(), (6,), (2, 3, 4)])
def test_every_statistic_is_that_of_all_members(x64, spread_out, way, dtype, shape):
    members, truth = members_of(dtype, shape=shape), members_of(dtype, 1, shape, seed=1)[0]
    assert not np.isnan(members).any()
    observed = members.reshape(len(members), -1)[:, :2] ** 2
    tolerance = 2e-6 if dtype == "float32" else 1e-14
    exact = members.astype(float)
    anomalies = exact - exact.mean(0)
    seen = observed.astype(float) - observed.astype(float).mean(0)
    expected = {
        collectives.mean: exact.mean(0),
        collectives.variance: exact.var(0, ddof=1),
        collectives.minimum: members.min(0),
        collectives.maximum: members.max(0),
        partial(collectives.histogram, edges=EDGES): np.histogram(exact, EDGES.astype(dtype))[0],
    }
    for statistic, value in expected.items():
        found = spread_out(statistic, way, members)
        np.testing.assert_allclose(found, value, rtol=tolerance, atol=tolerance)
        assert np.issubdtype(found.dtype, np.integer) or found.dtype == dtype
    found = spread_out(collectives.covariance, way, members, observed)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, np.tensordot(anomalies, seen, ([0], [0])) / 7, rtol=tolerance, atol=tolerance)
    scores = spread_out(collectives.scores, way, members, shared=(truth,))
    np.testing.assert_allclose(scores.estimate, exact.mean(0), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(scores.rmse, diagnostics.rmse(exact.mean(0), truth), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(scores.spread, diagnostics.mean_spread(exact), rtol=tolerance)
    crps = spread_out(collectives.crps, way, members, shared=(truth,))
    np.testing.assert_allclose(crps, diagnostics.crps(jnp.asarray(exact), truth), rtol=tolerance, atol=tolerance)
    assert {scores.estimate.dtype, scores.rmse.dtype, scores.spread.dtype, crps.dtype} == {np.dtype(dtype)}


@WAYS
def test_a_large_mean_leaves_the_variance_what_it_is(spread_out, way):
    """Mean 1e4, spread 1 in float32: squares of 1e8 have eight digits, all but none for the variance."""
    members = members_of("float32", 64, (50,), mean=1e4)
    exact = members.astype(float).var(0, ddof=1)
    error = lambda statistic: np.abs(np.asarray(spread_out(statistic, way, members), float) / exact - 1).max()
    assert error(collectives.variance) < 3e-6
    assert error(naive_variance) > 1.0
    if way != "alone":
        assert error(merged_variance) > 1e-5
    observed = members[:, :1]
    found = spread_out(collectives.covariance, way, members, observed)[:, 0]
    expected = [np.cov(column.astype(float), observed[:, 0].astype(float))[0, 1] for column in members.T]
    np.testing.assert_allclose(found, expected, atol=3e-6)


def test_a_million_members_do_not_lose_the_mean():
    """NumPy, which sums go through on the host, adds members one after another."""
    members = members_of("float32", 2**20, (2,), mean=1e4)
    exact = members.astype(float).mean(0)
    assert np.abs(members.mean(0) - exact).min() > 0.1
    found = collectives.mean(ranks.alone()._replace(xp=np), members)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=1e-3)


@WAYS
def test_the_order_of_members_does_not_matter(x64, spread_out, way):
    members, truth = members_of("float64"), members_of("float64", 1, seed=1)[0]
    turned = members[np.random.default_rng(2).permutation(len(members))]
    for statistic, shared in ((collectives.scores, (truth,)), (collectives.crps, (truth,))):
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=1e-13, atol=1e-14),
            spread_out(statistic, way, members, shared=shared),
            spread_out(statistic, way, turned, shared=shared),
        )


@WAYS
def test_histograms_close_the_last_bin_and_leave_out_what_is_outside(spread_out, way):
    members = np.array([[0.0, 1.0], [2.0, 3.0], [-0.1, 3.1], [np.nan, np.inf]], np.float32)
    found = spread_out(partial(collectives.histogram, edges=[0.0, 1.0, 3.0]), way, members)
    assert found.tolist() == [1, 3]


@WAYS
def test_first_members_count_on_from_rank_to_rank(spread_out, way):
    numbers = lambda over, members: over.total(collectives.first_member(over, len(members)))
    assert spread_out(numbers, way, members_of("float32", 6)) == (0 if way == "alone" else 0 + 3)


@WAYS
def test_a_variance_over_devices_has_the_gradient_of_one_device(x64, spread_out, way):
    members = members_of("float64", 4, (3,))
    gradient = jax.grad(lambda x: spread_out(collectives.variance, way, x).sum())(jnp.asarray(members))
    np.testing.assert_allclose(gradient, 2.0 / 3.0 * (members - members.mean(0)), rtol=1e-12)


def test_a_single_member_has_no_spread():
    one, truth = members_of("float32", 1), members_of("float32", 1, seed=1)[0]
    scores = collectives.scores(ranks.alone(), one, truth)
    assert np.isnan(scores.spread)
    assert np.isnan(collectives.crps(ranks.alone(), one, truth))
    assert float(scores.rmse) == pytest.approx(float(diagnostics.rmse(one[0], truth)))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            lambda over, x: collectives.mean(over, x.astype("float16")),
            "members are float16; sums over ranks need float32",
        ),
        (lambda over, x: collectives.mean(over, x.astype(int)), "members are int64; sums over ranks need float32"),
        (lambda over, x: collectives.maximum(over, x[0, 0, 0]), "members has no axis; give"),
        (lambda over, x: collectives.covariance(over, x, x[1:]), "observed has 7 members, the ensemble 8; give"),
        (lambda over, x: collectives.histogram(over, x, [0.0, 0.0]), "do not increase in float32; give two or more"),
        (lambda over, x: collectives.histogram(over, x, [1.0]), r"edges = \[1.0\] do not increase"),
        (lambda over, x: collectives.histogram(over, x, [1e4, 1e4 + 1e-4]), "do not increase in float32"),
        (
            lambda over, x: collectives.histogram(over, np.broadcast_to(x[:1], (2**28, *x.shape[1:])), EDGES),
            "of 4026531840 values: counts have 32 bits; give every second point",
        ),
    ],
)
def test_bad_input_is_said_in_one_line(case, message):
    with pytest.raises(ValueError, match=message) as caught:
        case(ranks.alone(), members_of("float32"))
    assert "\n" not in str(caught.value)


# Which ranks


@pytest.fixture
def no_launcher(monkeypatch):
    for name in ["JAXDA_LAUNCH", *(name for _, names in launch.VARIABLES for name in names)]:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_one_process_needs_no_mpi(no_launcher):
    for name in ("mpi4py", "mpi4jax"):
        no_launcher.setitem(sys.modules, name, None)
    over = ranks.choose()
    assert (over.rank(), over.size()) == (0, 1)
    assert over.xp is jnp


@pytest.mark.parametrize(("missing", "kind"), [("mpi4py", "mpi4py"), ("mpi4py", "mpi4jax"), ("mpi4jax", "mpi4jax")])
def test_mpi_asked_for_but_absent_is_one_line_with_the_cure(monkeypatch, missing, kind):
    if missing == "mpi4jax":
        pytest.importorskip("mpi4py.MPI", exc_type=ImportError)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        ValueError, match=rf'^mpi = "{kind}": it cannot be loaded \(.*\); run pip install mpich'
    ) as caught:
        ranks.choose(kind)
    assert "\n" not in str(caught.value)
    assert missing in str(caught.value)
    assert ranks.available()[kind] == str(caught.value)
    assert ranks.available()["none"] == ""


def test_several_processes_without_mpi_do_not_run_each_for_itself(no_launcher):
    no_launcher.setitem(sys.modules, "mpi4py", None)
    no_launcher.setenv("PMI_RANK", "1")
    no_launcher.setenv("PMI_SIZE", "4")
    no_launcher.setenv("MPI_LOCALRANKID", "1")
    with pytest.raises(ValueError, match=r'^4 processes were launched, but mpi = "mpi4py": it cannot be loaded'):
        ranks.choose()
    assert ranks.choose("none").size() == 1


def test_an_unknown_way_is_refused():
    with pytest.raises(ValueError, match='mpi = "mpi4cupy": is none of auto, mpi4jax, mpi4py, none; use one of them'):
        ranks.choose("mpi4cupy")


def test_the_cure_is_what_the_docs_say():
    from pathlib import Path

    assert ranks.CURE in (Path(__file__).parents[2] / "docs" / "installing.md").read_text(encoding="utf-8")


class Standin:
    """What over_mpi4jax asks of mpi4py's MPI and of mpi4jax."""

    SUM = MAX = MIN = COMM_WORLD = None

    @staticmethod
    def has_cuda_support():
        return True


@pytest.mark.parametrize(
    ("backend", "platform", "devices", "message"),
    [
        ("gpu", "rocm 7.2", 1, r'built without support of this GPU \(rocm 7.2\); use mpi = "mpi4py", or collectives'),
        ("cpu", "cpu", 2, "2 devices in one process, it takes one; set JAX_NUM_CPU_DEVICES=1"),
    ],
)
def test_mpi4jax_is_refused_where_it_cannot_work(monkeypatch, backend, platform, devices, message):
    monkeypatch.setattr(ranks, "_imported", lambda kind: (Standin, Standin))
    monkeypatch.setattr(ranks, "_platform", lambda: platform)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    with pytest.raises(ValueError, match=message):
        ranks.over_mpi4jax()
