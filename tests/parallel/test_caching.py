"""Compiled programs kept between processes: found again, by the right machine only, and never in a run's way."""

import json
import os
import subprocess
import sys

import jax
import pytest

from jaxda.parallel import caching

# a program over two devices, and how often JAX found it, compiled it, and wrote it
WORKER = """
import json, sys
import jax, jax.numpy as jnp
from collections import Counter
from jax.sharding import PartitionSpec as P
from jaxda.parallel import launch
seen = Counter()
jax.monitoring.register_event_listener(lambda name, **_: seen.update([name.rsplit("/", 1)[-1]]))
launch.start()
mesh = jax.make_mesh((2,), ("member",), axis_types=(jax.sharding.AxisType.Auto,))
f = jax.jit(jax.shard_map(lambda x: jax.lax.psum(jnp.sin(x), "member"), mesh=mesh, in_specs=P("member"), out_specs=P()))
value = f(jnp.arange(8.0))
print(json.dumps({"hits": seen["cache_hits"], "misses": seen["cache_misses"], "value": value.tolist(),
                  "folder": jax.config.jax_compilation_cache_dir}))
"""


def environment(home, **more):
    """Of a user whose home is `home`, without what tests set."""
    removed = ("JAXDA_CACHE", "JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "XLA_FLAGS")
    kept = {name: value for name, value in os.environ.items() if name not in removed}
    return kept | {"HOME": str(home), "JAX_NUM_CPU_DEVICES": "2", "JAX_PLATFORMS": "cpu"} | more


def started(home, **more):
    """What a fresh process says, and its standard error."""
    words = [sys.executable, "-c", WORKER]
    done = subprocess.run(words, env=environment(home, **more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_the_second_start_compiles_nothing_and_a_damaged_entry_is_compiled_anew(tmp_path):
    first, _ = started(tmp_path)
    second, _ = started(tmp_path)
    assert first["folder"] == second["folder"] == str(tmp_path / ".cache" / "jaxda" / "compiled" / caching.machine())
    assert first["misses"] > 0 == first["hits"]
    assert second["misses"] == 0 < second["hits"]
    assert second["value"] == first["value"]
    # what a process that was killed while it wrote leaves, or one finds that comes while another writes
    for path in (tmp_path / ".cache" / "jaxda" / "compiled" / caching.machine()).iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    third, said = started(tmp_path)
    assert third["value"] == first["value"]
    assert third["hits"] == 0
    assert "Error reading persistent compilation cache entry" in said


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / ".cache").write_text("a file where the folder would be")
    found, said = started(tmp_path)
    assert (found["folder"], found["hits"], found["misses"], said) == (None, 0, 0, "")


@pytest.fixture
def settings(monkeypatch):
    """JAX's own, without a folder; afterwards as they were."""
    names = ("compilation_cache_dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_off_leaves_jax_alone(settings, tmp_path):
    assert caching.keep({"JAXDA_CACHE": "off", "XDG_CACHE_HOME": str(tmp_path)}) is None
    assert jax.config.jax_compilation_cache_dir is None
    assert not list(tmp_path.iterdir())


def test_a_folder_that_jax_was_told_stands_and_so_do_its_thresholds(settings, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))  # as the variable does at JAX's import
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    assert caching.keep({"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "7"}) == tmp_path / "own"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7.0
    assert jax.config.jax_persistent_cache_min_entry_size_bytes == -1


def test_the_folder_is_the_user_s_alone(settings, tmp_path):
    folder = caching.keep({"XDG_CACHE_HOME": str(tmp_path)})
    assert folder.is_relative_to(tmp_path)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.0


def test_neither_on_nor_off_is_refused():
    with pytest.raises(ValueError, match="JAXDA_CACHE = no: neither on nor off"):
        caching.keep({"JAXDA_CACHE": "no"})


def test_a_relative_folder_is_ignored_as_the_standard_asks(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert caching.folder_of({"XDG_CACHE_HOME": "here"}).is_relative_to(tmp_path / ".cache")


def test_other_cores_are_another_machine(monkeypatch):
    before = caching.machine()
    assert before == caching.machine()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(999)))
    assert caching.machine() != before


def test_the_oldest_programs_go_first(tmp_path):
    for age in range(10):
        (tmp_path / str(age)).write_bytes(bytes(100))
        os.utime(tmp_path / str(age), (0, 1e9 - age))
    caching.prune(tmp_path, 1000)
    assert len(list(tmp_path.iterdir())) == 10
    caching.prune(tmp_path, 999)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "3"]
