"""What test_mpi.py runs on ranks: mpirun -n N python -m mpi4py ranks_program.py statistics | fail KIND."""

import json
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxda.parallel import collectives, launch, ranks

POINTS = 6
EDGES = (9997.0, 9998.5, 10000.0, 10001.5, 10003.0)
SIZES = {"even": 4, "uneven": 7, "empty": 1 + 1}  # members in all; the last leaves ranks without one where N = 4


def ensemble(count, dtype):
    """Members `(count, POINTS)` of mean 1e4 and spread 1, their observed values `(count, 2)`, and a truth."""
    rng = np.random.default_rng(count)
    members = (1e4 + rng.normal(size=(count, POINTS))).astype(dtype)
    return members, members[:, :2] ** 2 / np.asarray(1e4, dtype), (1e4 + rng.normal(size=POINTS)).astype(dtype)


def statistics(over, members, observed, truth):
    """Every statistic by name."""
    scores = collectives.scores(over, members, truth)
    return {
        "first": collectives.first_member(over, len(members)),
        "mean": collectives.mean(over, members),
        "variance": collectives.variance(over, members),
        "covariance": collectives.covariance(over, members, observed),
        "minimum": collectives.minimum(over, members),
        "maximum": collectives.maximum(over, members),
        "histogram": collectives.histogram(over, members, EDGES),
        "estimate": scores.estimate,
        "rmse": scores.rmse,
        "spread": scores.spread,
        "crps": collectives.crps(over, members, truth),
    }


def part(over, array):
    """The members of this rank: as even as they go."""
    return np.array_split(array, over.size())[over.rank()]


def all_statistics():
    """Statistics of every ensemble, type and way over the ranks, and their types."""
    found = {}
    for kind in ("mpi4jax", "mpi4py"):
        over = ranks.choose(kind)
        host = ranks.over_mpi4py()
        for name, count in SIZES.items():
            for dtype in ("float32", "float64"):
                members, observed, truth = ensemble(count, dtype)
                mine = part(over, members), part(over, observed)
                function = ranks.jitted(over, partial(statistics, over))
                with jax.enable_x64(dtype == "float64"):
                    own = jax.device_get(function(*mine, truth))
                firsts = host.total(np.eye(over.size(), dtype=int)[over.rank()] * int(own.pop("first")))
                for what, value in own.items():  # every rank has the same numbers
                    assert np.array_equal(host.largest(value), host.smallest(value), equal_nan=True), what
                values = {what: np.asarray(value).tolist() for what, value in own.items()}
                types = {what: str(value.dtype) for what, value in own.items()}
                found[f"{kind} {name} {dtype}"] = {"values": values, "types": types, "firsts": firsts.tolist()}
    return found


def refusals():
    """What is said to those who differentiate over mpi4jax, or jit over mpi4py."""
    x = jnp.arange(3.0)
    over = ranks.choose("mpi4jax")
    cases = {
        "grad": lambda: jax.grad(lambda x: collectives.variance(over, x))(x),
        "jitted grad": lambda: jax.jit(jax.grad(lambda x: collectives.mean(over, x)))(x),
        "jvp": lambda: jax.jvp(lambda x: collectives.maximum(over, x), (x,), (x,)),
        "jit": lambda: jax.jit(lambda x: collectives.mean(ranks.over_mpi4py(), x))(x),
        "float16": lambda: collectives.mean(over, x.astype("float16")),
    }
    said = {}
    for name, case in cases.items():
        try:
            case()
            said[name] = "nothing"
        except (NotImplementedError, TypeError, ValueError) as error:
            said[name] = str(error)
    return said


def fail(kind):
    """The last rank raises while the others wait for its sum."""
    over = ranks.choose(kind)
    x = jnp.ones((1, 4), jnp.float32)
    average = ranks.jitted(over, lambda x: collectives.mean(over, x))
    jax.block_until_ready(average(x))
    if over.rank() == over.size() - 1:
        print(f"raised at {time.time()}", flush=True)
        raise RuntimeError("the member of this rank blew up")
    jax.block_until_ready(average(x))


if __name__ == "__main__":
    if sys.argv[1] == "fail":
        fail(sys.argv[2])
    else:
        auto = ranks.choose()
        who = [launch.detect()[1:3] == (auto.rank(), auto.size()), auto.size(), auto.total(2 ** auto.rank()).dtype.name]
        content = {"statistics": all_statistics(), "refusals": refusals(), "auto": who}
        if auto.rank() == 0:
            print(json.dumps(content))
