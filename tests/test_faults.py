"""The fault drill: it counts what it should, and a short one fails nowhere."""

import re
import shutil
import signal
from pathlib import Path

import numpy as np
import processes
import pytest

from jaxda import drill, drill_runs, surrogate
from jaxda.output.netcdf import FileError


@pytest.mark.slow
def test_a_short_drill_fails_nowhere(tmp_path):
    own = drill.Drill(tmp_path, 1, print)
    for name in own.runs:
        own.signalled("kill -9", name, signal.SIGKILL, 3)
        own.signalled("SIGTERM", name, signal.SIGTERM, 1)
    own.clock_jumps("osse")
    own.disk_full("osse", (2**14, 2**16))
    own.checkpoints_changed("osse", 4)
    own.files_changed()
    own.rank_killed(2)
    assert {row.fault for row in own.tallies.values()} >= {"kill -9", "SIGTERM", "disk full", "one rank of two killed"}
    assert not any(row.failures for row in own.tallies.values()), drill.table(own.tallies)
    assert all(row.tried == row.same + row.refused for row in own.tallies.values())


@pytest.fixture(scope="module")
def osse(tmp_path_factory):
    """A drill in which the experiment has been done undisturbed."""
    own = drill.Drill(tmp_path_factory.mktemp("drill"), 2, print)
    own.undisturbed("osse")
    return own


@pytest.mark.long
def test_a_killed_experiment_ends_as_if_it_had_not_been(osse):
    osse.signalled("kill -9", "osse", signal.SIGKILL, 2)
    tally = osse.tallies["kill -9", "osse"]
    assert (tally.tried, tally.same, tally.failures) == (2, 2, [])


@pytest.mark.long
def test_a_flipped_bit_in_a_finished_run_is_refused_or_mended(osse):
    for file, (same, refused) in {"analysis.nc": (0, 1), "scores.csv": (1, 0)}.items():
        own = osse.folder / "own"
        shutil.copytree(osse.folder / "whole-osse", own)
        osse.changed(file, "osse", own / "run" / file, own)
        tally = osse.tallies[file, "osse"]
        assert (tally.same, tally.refused, tally.failures) == (same, refused, [])


@pytest.mark.long
def test_the_drill_sees_other_numbers(osse):
    """A fault that is not survived is a failure: here the undisturbed run is said to have had other scores."""
    expected = osse.expected["osse"]
    osse.expected["osse"] = expected | {"rmse_a": ["0"]}
    own = osse.runs["osse"].new(osse.folder / "own")
    osse.judge("nothing", "osse", own)
    osse.expected["osse"] = expected
    tally = osse.tallies["nothing", "osse"]
    assert (tally.tried, tally.same, tally.refused, len(tally.failures)) == (1, 0, 0, 1)
    assert "other ['rmse_a']" in tally.failures[0]


def test_a_table_of_tallies():
    tallies = {0: drill.Tally("kill -9", "osse", 5, 4, 0, 12.0, ["status 1"])}
    assert drill.table(tallies)[-1] == "| kill -9 | osse | 5 | 4 | 0 | 1 | 2.4 |"
    assert np.all([line.count("|") == 8 for line in drill.table(tallies)])


# Weights of a surrogate

SHIPPED = Path(__file__).parents[1] / "configs" / "vit_surrogate"
WEIGHTS = sorted(p.relative_to(SHIPPED) for p in SHIPPED.glob("checkpoints/*/**/*") if p.is_file())


@pytest.mark.parametrize("file", WEIGHTS, ids=lambda path: "-".join(path.parts[1:]))
def test_a_flipped_bit_in_weights_is_refused(tmp_path, file):
    own = shutil.copytree(SHIPPED, tmp_path / "own")
    data, random = bytearray((own / file).read_bytes()), np.random.default_rng(len(str(file)))
    data[random.integers(len(data))] ^= 1 << random.integers(8)
    (own / file).write_bytes(data)
    about = "" if file.name == "SHA256SUMS" else re.escape(Path(*file.parts[2:]).as_posix())
    with pytest.raises(FileError, match=rf"none of its checkpoints is whole \(0: .*{about}"):
        surrogate.load(own)


# Two processes

LORENZ = """
members = 4
cycles = 12
interval_hours = 6.0
[model]
kind = "lorenz96"
[nature]
spinup_days = 5.0
climate_days = 5.0
[initial]
noise = 1.0
[output]
figures = false
[filters.letkf]
kind = "letkf"
cutoff = 8.0
"""
#: the script; the rank of the first word gets a signal after its first chunk
PROGRAM = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import calling
from jaxda import experiment, resuming
experiment.chunk_of = lambda shape: 3
rank, number = int(sys.argv.pop(1)), int(sys.argv.pop(1))
save, count = resuming.Progress.save, iter(range(100))
def kept(self, chunk):
    save(self, chunk)
    if next(count) == 1 and os.environ["RANK"] == str(rank):
        os.kill(os.getpid(), number)
resuming.Progress.save = kept
sys.exit(calling.script("osse").main(sys.argv[1:]))
"""


@pytest.mark.long
def test_one_rank_of_two_stopped_or_killed_and_both_go_on(tmp_path):
    config, program = tmp_path / "lorenz.toml", tmp_path / "program.py"
    config.write_text(LORENZ)
    program.write_text(PROGRAM.format(tests=str(Path(__file__).parent)))

    def two(out, rank=9, number=0, *words):
        return processes.run(2, "torchrun", program, rank, number, config, "--out", tmp_path / out, *words)

    assert [end.status for end in two("whole")] == [0, 0]
    stopped = two("stopped", 1, signal.SIGUSR1)
    assert [end.status for end in stopped] == [75, 75], [end.err for end in stopped]
    assert "osse.py: stopped by a signal, all that is done is kept; --resume goes on" in stopped[0].err
    killed = two("killed", 1, signal.SIGKILL)
    assert killed[1].status == -signal.SIGKILL
    assert killed[0].status != 0
    for out in ("stopped", "killed"):
        assert [end.status for end in two(out, 9, 0, "--resume")] == [0, 0]
        found, expected = (drill_runs.table_of(tmp_path / own / "scores.csv") for own in (out, "whole"))
        assert found == expected
        found, expected = (drill_runs.arrays_of(tmp_path / own / "analysis.nc") for own in (out, "whole"))
        assert found == expected
