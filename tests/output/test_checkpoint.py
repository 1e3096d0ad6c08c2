"""Checkpoints: what was saved comes back, the best and the last, whatever happens during a save."""

import os
import shutil
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


def numbers(folder):
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.fixture(params=[True, False], ids=["packed", "apart"])
def saved(tmp_path, request):
    with Checkpoints(tmp_path / "run", packed=request.param) as checkpoints:
        for number, error in ((1, 3.0), (2, 1.0), (3, 2.0), (4, 5.0), (5, 4.0), (6, 6.0)):
            checkpoints.save(number, state(number), {"error": error, "words": ["a", None]}, error)
    return tmp_path / "run"


def test_the_best_and_the_last_three_are_kept_bit_for_bit(saved):
    with Checkpoints(saved, create=False) as checkpoints:
        assert (checkpoints.best, checkpoints.last) == (2, 6)
        assert numbers(saved) == [2, 4, 5, 6]
        assert checkpoints.meta(2) == {"error": 1.0, "words": ["a", None]}
        for number in (2, 6):
            found = checkpoints.restore(number, abstract(state()))
            assert isinstance(found, State)
            for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state(number))):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)


def test_files_are_few_however_many_arrays_or_two_an_array(tmp_path, caplog):
    arrays = {str(number): jnp.full(3, number) for number in range(40)}
    for packed, fewest, most in ((True, 5, 20), (False, 80, 100)):
        with Checkpoints(tmp_path / str(packed), packed=packed) as checkpoints:
            checkpoints.save(1, arrays, {}, 0.0)
        assert fewest <= len([path for path in tmp_path.glob(f"{packed}/1/state/**/*") if path.is_file()]) <= most
    assert not caplog.records


def test_a_closed_loop_is_nothing_to_end_for_other_errors_are(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: told.append(str(error)))
    for name in ("one", "two"):
        with Checkpoints(tmp_path / name):
            pass
    for text in ("Event loop is closed", "another"):
        sys.excepthook(RuntimeError, RuntimeError(text), None)
    assert told == ["another"]


def test_one_sort_goes_on_with_the_other(saved):
    for packed in (False, True):
        with Checkpoints(saved, packed=packed) as checkpoints:
            number = checkpoints.last
            found = checkpoints.restore(number, abstract(state()))
            jax.tree.map(np.testing.assert_array_equal, found, state(number))
            checkpoints.save(number + 1, state(number + 1), {}, 0.0)


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


def assert_holds(checkpoints, number):
    for a, b in zip(
        jax.tree.leaves(checkpoints.restore(number, abstract(state()))), jax.tree.leaves(state(number)), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def kinds(folder):
    """The files of a checkpoint."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    assert len(found) > 8
    return found


def test_a_checkpoint_of_which_any_file_is_changed_is_passed_over(saved, tmp_path, capsys):
    """A byte flipped, a file cut off, missing or too many: the one before is what a run goes on from."""
    random = np.random.default_rng(0)
    for name in kinds(saved / "6"):
        for change in ("flip", "cut", "remove"):
            folder = tmp_path / "copy"
            shutil.copytree(saved, folder)
            path = folder / "6" / name
            data = bytearray(path.read_bytes())
            if change == "flip":
                data[random.integers(len(data))] ^= 1 << random.integers(8)
            path.write_bytes(data if change == "flip" else data[: len(data) // 2])
            if change == "remove":
                path.unlink()
            with Checkpoints(folder, create=False) as checkpoints:
                assert checkpoints.last == 5, (name, change)
            shutil.rmtree(folder)
            said = capsys.readouterr().err
            assert said.startswith(f"{folder}: passed over damaged checkpoints (6: "), said
            assert said.count("\n") == 1
            assert str(name) in said or "SHA256SUMS" in said or name.name == "SHA256SUMS"


def test_a_run_goes_on_from_before_what_is_damaged(saved, capsys):
    (saved / "6" / "more").write_text("")
    (saved / "5" / "meta" / "metadata").write_text("{}")
    with Checkpoints(saved) as checkpoints:
        assert (checkpoints.last, checkpoints.best) == (4, 2)
        assert_holds(checkpoints, 4)
        checkpoints.save(5, state(5), {}, 9.0)
    said = capsys.readouterr().err
    assert "(6: more is not in SHA256SUMS; 5: meta/metadata is not what was written" in said
    assert numbers(saved) == [2, 4, 5]
    assert numbers(saved / "damaged") == [5, 6]
    with Checkpoints(saved, upto=4) as checkpoints:
        assert checkpoints.last == 4
    assert capsys.readouterr().err == ""


def test_where_none_is_whole_nothing_is_read(saved):
    for number in numbers(saved):
        (saved / str(number) / "metrics" / "metrics").write_text("")
    for create in (True, False):
        with pytest.raises(
            FileError, match=r"none of its checkpoints is whole \(6: metrics/metrics is not.*begin again"
        ):
            Checkpoints(saved, create=create)
    assert numbers(saved) == [2, 4, 5, 6]


def test_sums_are_those_of_sha256sum(saved):
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=saved / "6", capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")


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
