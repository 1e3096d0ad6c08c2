"""Checkpoints: what was saved comes back, the best and the last, whatever happens during a save."""

import os
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxda.output.checkpoint import Checkpoints
from jaxda.output.netcdf import FileError


class State(NamedTuple):
    step: Any
    params: Any


def state(number=0, width=4):
    layers = {0: jnp.arange(width) + 0.25, 1: jnp.ones((2, width), jnp.bfloat16)}
    return State(jnp.asarray(number, jnp.int32), {"layers": layers, "bias": jnp.full((), number / 3)})


def abstract(own):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=device), own)


@pytest.fixture
def saved(tmp_path):
    with Checkpoints(tmp_path / "run") as checkpoints:
        for number, error in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0)):
            checkpoints.save(number, state(number), {"error": error, "words": ["a", None]}, error)
    return tmp_path / "run"


def test_the_best_and_the_last_are_kept_bit_for_bit(saved):
    with Checkpoints(saved, create=False) as checkpoints:
        assert (checkpoints.best, checkpoints.last) == (2, 4)
        assert sorted(p.name for p in saved.iterdir() if p.name.isdigit()) == ["2", "4"]
        assert checkpoints.meta(2) == {"error": 1.0, "words": ["a", None]}
        for number in (2, 4):
            found = checkpoints.restore(number, abstract(state()))
            assert isinstance(found, State)
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state(number))):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


def test_a_part_of_a_state_is_read_alone(saved):
    with Checkpoints(saved, create=False) as checkpoints:
        found = checkpoints.restore_part(2, {"params": abstract(state().params)})
        assert list(found) == ["params"]
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state(2).params), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)
        with pytest.raises(FileError, match=r"params\.layers\.0 has shape \(4,\), \(6,\) is asked"):
            checkpoints.restore_part(2, {"params": abstract(state(width=6).params)})
        with pytest.raises(FileError, match="average is missing"):
            checkpoints.restore_part(2, {"average": abstract(state().step)})


def test_arrays_come_back_on_other_devices(saved, cpus):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,), devices=cpus[:2])
    spread = jax.sharding.NamedSharding(mesh, jax.P("x"))
    own = abstract(state())
    own.params["layers"][0] = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=spread)
    with Checkpoints(saved, create=False) as checkpoints:
        found = checkpoints.restore(4, own).params["layers"][0]
    assert found.sharding == spread
    np.testing.assert_array_equal(found, state().params["layers"][0])


def test_another_architecture_is_refused_by_name(saved):
    with Checkpoints(saved, create=False) as checkpoints:
        with pytest.raises(FileError, match=r"params\.layers\.0 has shape \(4,\), \(6,\) is asked; .*another archi"):
            checkpoints.restore(4, abstract(state(width=6)))
        own = abstract(state())
        own.params["more"] = own.params["bias"]
        with pytest.raises(FileError, match=r"params\.more is missing, \(\) is asked"):
            checkpoints.restore(4, own)
        del own.params["more"], own.params["bias"]
        with pytest.raises(FileError, match=r"params\.bias has shape \(\), is not asked for"):
            checkpoints.restore(4, own)


def test_a_truncated_checkpoint_is_one_line(saved):
    for path in (saved / "4" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Checkpoints(saved, create=False) as checkpoints:
        with pytest.raises(FileError, match=r"4: not a readable checkpoint .*use another or train again") as caught:
            checkpoints.restore(4, abstract(state()))
        assert "\n" not in str(caught.value)
        checkpoints.restore(2, abstract(state()))


def test_folders_without_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileError, match="no such folder"):
        Checkpoints(tmp_path / "none", create=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="holds no whole checkpoint"):
        Checkpoints(tmp_path / "empty", create=False)


SAVES = """
import resource, sys
import jax.numpy as jnp
from jaxda.output.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"a": jnp.ones(4)}, {}, 1.0)
checkpoints.wait()
print("first", flush=True)
"""


def test_a_kill_during_a_save_leaves_the_one_before(tmp_path):
    more = "import itertools\nfor n in itertools.count(2):\n checkpoints.save(n, {'a': n * jnp.ones(2**21)}, {}, 1.0)\n"
    process = subprocess.Popen([sys.executable, "-c", SAVES + more, tmp_path / "run"], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"first\n"
    deadline = time.time() + 60
    while not list((tmp_path / "run").glob("*tmp*")) and time.time() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Checkpoints(tmp_path / "run", create=False) as checkpoints:
        last, size = checkpoints.last, 4 if checkpoints.last == 1 else 2**21
        found = checkpoints.restore(last, abstract({"a": jnp.ones(size)}))
        np.testing.assert_array_equal(found["a"], last * np.ones(size))


def test_a_full_disk_is_an_error_and_leaves_the_one_before(tmp_path):
    # a limit on the size of files is the full disk that a test can make
    more = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
import numpy as np
try:
    checkpoints.save(2, {"a": jnp.asarray(np.random.default_rng(0).normal(size=2**20))}, {}, 1.0)
    checkpoints.wait()
except Exception as error:
    print("refused", type(error).__name__, flush=True)
import os
os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", SAVES + more, tmp_path / "run"], capture_output=True, timeout=120)
    assert b"refused" in done.stdout, done.stderr[-2000:]
    with Checkpoints(tmp_path / "run", create=False) as checkpoints:
        assert checkpoints.last == 1
        np.testing.assert_array_equal(checkpoints.restore(1, abstract({"a": jnp.ones(4)}))["a"], 1.0)


def test_orbax_asks_for_no_counters():
    """Each answer would be kept for ever; what it takes their place of has to be what Orbax calls."""
    from orbax.checkpoint._src.serialization import jax_array_handlers

    assert jax_array_handlers.ts_utils.get_tensorstore_raw_bytes() == 0
