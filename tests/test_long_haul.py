"""scripts/long_haul.py: what grows, and whether anything that was sent to a run was lost or doubled."""

import csv
import shutil
from pathlib import Path

import calling
import jax
import numpy as np
import pytest

from jaxda import config as configuration
from jaxda.benchmarks import memory
from jaxda.benchmarks.memory import Sample
from jaxda.realtime import audit, feed, system

SMALL = """
members = 4
[model]
kind = "sqg"
N = 16
[nature]
spinup_days = 5.0
climate_days = 10.0
[initial]
kind = "climatology"
[output]
figures = false
[filters.LETKF]
kind = "letkf"
cutoff = 3000.0
"""
CYCLES, FAULTY = 100, 0.2
script = calling.script("long_haul")


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(f"cycles = {CYCLES}\n{SMALL}")
    return path


def samples(*values):
    return [Sample(float(k), 10 * k, value, 5, 1.0, 9) for k, value in enumerate(values)]


def test_growth_is_of_what_comes_after_the_start():
    flat = samples(1.0, *[100.0] * 99)
    assert memory.growth(flat, 1000, "host_mib") == 0.0
    growing = samples(*(100.0 + 0.1 * k for k in range(100)))
    assert memory.growth(growing, 1000, "host_mib") == pytest.approx(108.95 / 102.0 - 1.0)
    assert memory.growth(growing, 1000, "array_mib") == memory.growth(growing, 1000, "arrays") == 0.0
    busy = [one._replace(arrays=5 + k // 50 + 40 * (k % 2)) for k, one in enumerate(growing)]
    assert memory.growth(busy, 1000, "arrays") == pytest.approx(1 / 5)  # the least, whatever comes and goes
    assert memory.growth(flat[:3], 1000, "host_mib") != memory.growth(flat[:3], 1000, "host_mib")  # not a number


def test_a_sample_counts_what_is_held():
    """A thousand arrays, beside which the tens that other tests leave or let go meanwhile do not count."""
    ones = np.ones(2**14, np.float32)
    before = memory.sample(0.0, 1)
    kept = [jax.device_put(ones) for _ in range(1000)]
    jax.block_until_ready(kept)
    after = memory.sample(0.0, 1)
    assert 900 < after.arrays - before.arrays < 1100
    assert after.array_mib - before.array_mib == pytest.approx(62.5, abs=5.0)
    assert after.host_mib > 50.0
    del kept
    assert abs(memory.sample(0.0, 1).arrays - before.arrays) < 100


def test_how_far_a_run_is_by_its_checkpoints(tmp_path):
    assert script.done_in(tmp_path) == 0
    for name in (
        "checkpoints/9",
        "checkpoints/10",
        "checkpoints/11.orbax-checkpoint-tmp/state",
        "checkpoints/LETKF/30",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "note").write_text("")
    assert script.done_in(tmp_path) == 30
    assert script.done_in(tmp_path / "checkpoints" / "LETKF") == 0


def test_samples_are_written_once_a_cycle_is_done(tmp_path):
    counts = iter([0, 0, 3, 3, 4, *[5] * 10_000])
    with memory.watching(tmp_path / "memory.csv", lambda: next(counts), 0.01) as found:
        while len(found) < 3:
            pass
    with (tmp_path / "memory.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["cycles"] for row in rows[:3]] == ["3", "3", "4"]
    assert len(rows) == len(found)


@pytest.mark.long
@pytest.mark.usefixtures("settings_of_jax")
def test_a_hundred_files_of_which_a_fifth_is_disturbed(small, tmp_path):
    """The feeder is a process of its own; then each way of losing or doubling something is seen."""
    out = tmp_path / "haul"
    status, said, error = calling.call(script, "realtime", small, "--out", out, "--faulty", FAULTY, "--sample", 0.2)
    assert status == 0, said + error
    assert "100 of 100 cycles are done" in said
    config = system.check(configuration.read(small), None)
    share = FAULTY / len(feed.DISTURBANCES)
    deliveries = feed.plan(CYCLES, feed.DISTURBANCES, config.seed, share)
    watch, run = out / "incoming", out / "run"
    look = lambda: audit.audit(config, deliveries, watch, run)
    found = look()
    assert found.complaints == []
    assert sum(found.places.values()) == len(deliveries) == CYCLES
    assert found.places["rejected"] == 12
    assert found.places["duplicate"] == 2
    assert found.places["waiting"] == 0

    used = next(path for path in sorted((watch / "used").iterdir()))
    rejected = next(path for path in sorted((watch / "rejected").glob("*.nc")))
    product = next(run.glob("analysis_*.nc"))
    table = (run / "status.csv").read_text()
    for path, complaint in (
        (used, f"{used.name} (good): is in no folder"),
        (rejected.with_name(f"{rejected.name}.txt"), "has no reason beside it in rejected"),
        (product, "1 products are missing, 0 too many"),
    ):
        hidden = path.rename(tmp_path / "hidden")
        assert any(complaint in line for line in look().complaints)
        hidden.rename(path)
    for place, complaint in (("late", f"{used.name} (good): is in used and late"), ("used", "nobody sent it")):
        name = used.name if place == "late" else "other.nc"
        (watch / place).mkdir(exist_ok=True)
        copy = Path(shutil.copy(used, watch / place / name))
        assert any(complaint in line for line in look().complaints)
        copy.unlink()
    lines = table.splitlines(keepends=True)
    for wrong, complaint in (
        ([*lines[:5], *lines[6:]], "has 99 rows, not one for each of 100 cycles"),
        ([*lines[:5], lines[4], *lines[5:]], "is in 2 rows of status.csv"),
    ):
        (run / "status.csv").write_text("".join(wrong))
        assert any(complaint in line for line in look().complaints)
    (run / "status.csv").write_text(table)
    assert look().complaints == []


@pytest.mark.long
@pytest.mark.usefixtures("settings_of_jax")
def test_a_twin_experiment_is_watched(small, tmp_path):
    out = tmp_path / "haul"
    status, said, error = calling.call(script, "osse", small, "--out", out, "--sample", 0.05, "--cycles", 400)
    assert status == 0, error
    assert "400 cycles in " in said
    assert "MiB resident at the end, growth" in said
    with (out / "memory.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert int(rows[-1]["cycles"]) >= 300
    assert float(rows[-1]["array_mib"]) < 100.0
    counts = [int(row["arrays"]) for row in rows]
    assert max(counts) - min(counts) < 200  # not one for each score of each chunk


def test_what_the_scores_were_looked_at_through_is_not_kept(small):
    """Chunks keep copies: on CPUs an array that numpy looks into lives as long as it is looked at."""
    import jax
    import numpy as np

    from jaxda import experiment

    config = configuration.read(small, {"cycles": 40, "filters.LETKF": {"kind": "free-run"}})
    world = experiment.make_world(config)
    analysis = experiment.make_filter(config, "LETKF", world.operator, world.climate)
    counts, kept = [], []

    def keep(chunk):
        kept.append(chunk.scores)
        counts.append(len(jax.live_arrays()))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "chunk_of", lambda shape: 4)
        experiment.run_filter(config, world, "LETKF", analysis, on_chunk=keep)
    assert len(counts) == 10
    assert all(isinstance(series, np.ndarray) and series.base is None for scores in kept for series in scores)
    assert counts[-1] - counts[3] <= 3
