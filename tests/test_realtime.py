"""Real-time runs: the numbers of a twin experiment, whatever becomes of the files, and however often it is killed."""

import dataclasses
import shutil
import signal
import subprocess
import sys
import time
import types

import calling
import jax
import jax.numpy as jnp
import netCDF4
import numpy as np
import pytest
from watching import FakeTime, everywhere, names, numbers, rows

from jaxda import config as configuration
from jaxda import coupling, experiment, observations
from jaxda.filters.faults import FaultsConfig
from jaxda.models.sqg import SQGConfig
from jaxda.output import observation_file, product_file
from jaxda.output.observation_file import Observations
from jaxda.realtime import feed, loop, system
from jaxda.realtime.folder import alone_in
from jaxda.realtime.inbox import Inbox, Schedule, Verdict, folder_source, judge
from jaxda.realtime.network import on_network

SMALL = """
members = 6
cycles = 6
[model]
kind = "sqg"
N = 16
[nature]
spinup_days = 5.0
climate_days = 5.0
[initial]
kind = "climatology"
[filters.LETKF]
kind = "letkf"
cutoff = 3000.0
"""
TWELVE = 43200.0
realtime = calling.script("realtime")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The configuration's file, the experiment, its compiled parts, first ensemble, and world."""
    file = tmp_path_factory.mktemp("small") / "small.toml"
    file.write_text(SMALL)
    config = system.check(configuration.read(file), None)
    climate, ensemble = system.make_start(config)
    return file, config, system.make_system(config, climate), ensemble, experiment.make_world(config)


@pytest.fixture(scope="module")
def sent(small, tmp_path_factory):
    """A folder with the files of all cycles."""
    _, config, _, _, world = small
    folder = tmp_path_factory.mktemp("sent")
    observe = feed.make_observations(config, world)
    for cycle in range(config.cycles):
        feed.deliver(folder, config, feed.Delivery(cycle, cycle, ""), observe(cycle))
    return folder


def run(small, watch, out, schedule=None, clock=None, parts=None):
    _, config, own, ensemble, _ = small
    schedule = schedule or loop.schedule_of(config, every=0.0, grace=3.0)
    clock = clock or FakeTime()
    return loop.run(parts or own, ensemble, folder_source(watch), watch, out, schedule, clock.host)


@pytest.fixture(scope="module")
def unbroken(small, sent, tmp_path_factory):
    """The folders of an ordinary run."""
    above = tmp_path_factory.mktemp("unbroken")
    shutil.copytree(sent, above / "watch")
    assert run(small, above / "watch", above / "out") == 6
    return above


def test_a_run_has_the_numbers_of_the_twin_experiment(small, unbroken):
    _, config, parts, _, world = small
    kept = []
    analysis = experiment.make_filter(config, parts.name, world.operator, world.climate)
    record = experiment.run_filter(
        config, world, parts.name, analysis, on_chunk=lambda chunk: kept.append(chunk.fields)
    )
    mean, spread = (np.concatenate([np.asarray(getattr(f, name)) for f in kept]) for name in ("mean", "spread"))
    for cycle, row in enumerate(rows(unbroken / "out" / "status.csv")):
        times, fields = product_file.read(unbroken / "out" / product_file.name_of(TWELVE * cycle))
        assert times == {"t": TWELVE * cycle, "t_forecast": TWELVE * (cycle + 1)}
        np.testing.assert_allclose(fields["analysis_mean"], mean[cycle], atol=1e-3 * mean[cycle].std())
        np.testing.assert_allclose(fields["analysis_spread"], spread[cycle], atol=1e-3 * spread[cycle].mean())
        assert float(row["spread_a"]) == pytest.approx(record.scores.spread_a[cycle], rel=1e-3)
        assert float(row["spread_b"]) == pytest.approx(record.scores.spread_b[cycle], rel=1e-3)
        assert row["status"] == "analysed"
        assert row["used"] == "512"
    after = world.truth[1] - fields_of(unbroken, 0)["forecast_mean"]
    free = world.truth[1] - fields_of(unbroken, 0)["analysis_mean"]
    assert (after**2).mean() < (free**2).mean()  # the forecast is for the next analysis


def fields_of(above, cycle):
    return product_file.read(above / "out" / product_file.name_of(TWELVE * cycle))[1]


def test_what_a_run_leaves(unbroken):
    watch, out = unbroken / "watch", unbroken / "out"
    assert names(watch) == []
    assert names(watch / "used") == [feed.name_of(TWELVE * cycle) for cycle in range(6)]
    assert names(out) == [product_file.name_of(TWELVE * cycle) for cycle in range(6)] + ["status.csv"]
    assert [float(row["innovation_rms"]) > float(row["residual_rms"]) for row in rows(out / "status.csv")] == [True] * 6
    with netCDF4.Dataset(out / product_file.name_of(TWELVE)) as nc:
        assert (nc.cycle, nc.status, nc.observation_file) == (1, "analysed", feed.name_of(TWELVE))
        assert (nc.observations_used, nc.observations_rejected, nc.observations_outside_network) == (512, 0, 0)
        assert nc.lateness_seconds == 0
        assert all(getattr(nc, f"seconds_{stage}") >= 0 for stage in loop.STAGES)
        assert nc["pv_analysis_mean"].shape == (2, 16, 16)
        assert nc["pv_analysis_mean"].units == "m s-1"


class Killed(BaseException):
    """What nothing catches."""


@pytest.mark.parametrize("point", ["product", "row", "part of a row", "checkpoint", "move", "begun"])
def test_a_run_killed_anywhere_goes_on_bit_for_bit(small, sent, unbroken, tmp_path, monkeypatch, point):
    watch, out = tmp_path / "watch", tmp_path / "out"
    shutil.copytree(sent, watch)
    module, name = {
        "product": (product_file, "write"),
        "row": (product_file, "append_row"),
        "part of a row": (product_file, "append_row"),
        "checkpoint": (loop, "_save"),
        "move": (Inbox, "keep_used"),
        "begun": (loop, "_compute"),
    }[point]
    original, calls = getattr(module, name), []

    def killing(*arguments):
        calls.append(arguments)
        # the first save is of the first ensemble
        if len(calls) == (4 if point == "checkpoint" else 3):
            if point == "part of a row":
                with arguments[0].open("a") as file:
                    file.write("2,24,analy")
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killing)
        with pytest.raises(Killed):
            run(small, watch, out)
    # the third file waits for the restart, and the second where its cycle was not called done yet
    assert len(names(watch / "used")) == (1 if point == "begun" else 2)
    assert run(small, watch, out) == 6
    assert numbers(out) == numbers(unbroken / "out")
    assert names(watch / "used") == names(unbroken / "watch" / "used")
    assert not list(watch.glob("*.nc"))
    assert not (watch / "duplicate").exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_run_killed_while_a_file_is_put_aside_has_one_event_of_it(small, sent, unbroken, tmp_path, monkeypatch, when):
    watch, out = tmp_path / "watch", tmp_path / "out"
    shutil.copytree(sent, watch)
    (watch / "corrupt.nc").write_bytes(b"nothing")
    move = shutil.move

    def killed(*where):
        if when == "after":
            move(*where)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "move", killed)
        with pytest.raises(Killed):
            run(small, watch, out)
    assert run(small, watch, out) == 6
    assert [(row["decision"], row["file"]) for row in rows(out / "events.csv")] == [("rejected", "corrupt.nc")]
    assert names(watch / "rejected") == ["corrupt.nc", "corrupt.nc.txt"]
    assert numbers(out) == numbers(unbroken / "out")


def test_a_run_that_is_done_does_nothing_and_a_longer_one_goes_on(small, sent, unbroken, tmp_path):
    shutil.copytree(sent, tmp_path / "watch")
    _, config, parts, _, _ = small
    short = dataclasses.replace(parts, config=dataclasses.replace(config, cycles=2))
    for _ in range(2):
        assert run(small, tmp_path / "watch", tmp_path / "out", parts=short) == 2
    assert len(names(tmp_path / "watch")) == 4  # of later cycles
    assert run(small, tmp_path / "watch", tmp_path / "out") == 6
    assert numbers(tmp_path / "out") == numbers(unbroken / "out")


def test_disturbed_files_leave_a_record_and_nothing_is_lost(small, sent, tmp_path):
    """1: the file is cut off, 2: a position outside, 3: comes after its cycle, 4: comes twice, 5: between two."""
    _, config, _, _, world = small
    watch, out = tmp_path / "watch", tmp_path / "out"
    watch.mkdir()
    observe = feed.make_observations(config, world)
    kinds = {0: [""], 1: ["corrupt"], 2: ["outside"], 4: ["", "duplicate"], 5: ["window"]}
    for cycle, several in kinds.items():
        for kind in several:
            feed.deliver(watch, config, feed.Delivery(cycle, cycle, kind), observe(cycle))
    (watch / "text.txt").write_text("not an observation file")
    before = everywhere(watch)
    late = watch.parent / "late.nc"
    shutil.copy(sent / feed.name_of(3 * TWELVE), late)
    # cycles 1, 2 and 3 wait for 3 s each, and one look more
    clock = FakeTime({1014.0: lambda: shutil.move(late, watch / "late.nc")})
    assert run(small, watch, out, clock=clock) == 6
    assert everywhere(watch) == sorted([*before, "late.nc"])
    assert [row["status"] for row in rows(out / "status.csv")] == ["analysed", *["missing"] * 3, "analysed", "missing"]
    assert names(watch) == ["text.txt"]
    assert len(names(watch / "used")) == 2
    placed = {
        "rejected": {1: "not a readable NetCDF file", 2: "outside of the domain", 5: "s from any analysis"},
        "duplicate": {4: "cycle 4 has observations_0000172800.nc already"},
        "late": {3: "cycle 3 was done without observations when it came"},
    }
    events = rows(out / "events.csv")
    for place, reasons in placed.items():
        files = [path for path in sorted((watch / place).iterdir()) if path.suffix == ".nc"]
        assert len(files) == len(reasons)
        for path, reason in zip(files, reasons.values(), strict=True):
            assert reason in path.with_name(f"{path.name}.txt").read_text()
            told = [event for event in events if event["file"] == path.name]
            assert [event["decision"] for event in told] == [place]
            assert reason in told[0]["reason"]
    assert [event["cycle"] for event in events if event["decision"] == "missing"] == ["1", "2", "3", "5"]
    # without observations the analysis is the forecast of the cycle before
    _, at_0 = product_file.read(out / product_file.name_of(0))
    _, at_1 = product_file.read(out / product_file.name_of(TWELVE))
    np.testing.assert_array_equal(at_1["analysis_mean"], at_0["forecast_mean"])


def test_on_a_clock_files_are_in_time_late_or_too_late(small, sent, tmp_path):
    """A cycle every 100 s, 20 s of grace: the files come early, at once, 15 s late, 30 s late, and never."""
    _, config, _, _, _ = small
    watch, out = tmp_path / "watch", tmp_path / "out"
    watch.mkdir()
    times = {0: 1001.0, 1: 1050.0, 2: 1215.0, 3: 1330.0, 5: 1500.0}

    def arrive(cycle):
        return lambda: shutil.copy(sent / feed.name_of(TWELVE * cycle), watch)

    clock = FakeTime({time: arrive(cycle) for cycle, time in times.items()})
    assert run(small, watch, out, loop.schedule_of(config, every=100.0, grace=20.0), clock) == 6
    found = rows(out / "status.csv")
    assert [row["status"] for row in found] == ["analysed", "analysed", "analysed", "missing", "missing", "analysed"]
    # a file of a folder is taken at the second look
    assert [float(row["lateness_s"]) for row in found] == [2.0, 0.0, 16.0, 0.0, 0.0, 1.0]
    assert names(watch / "late") == [feed.name_of(3 * TWELVE), feed.name_of(3 * TWELVE) + ".txt"]
    assert clock.seconds == 1501.0


def test_a_run_that_was_down_takes_what_came_meanwhile(small, sent, unbroken, tmp_path):
    """All deadlines are over when it comes back, and only the cycle without a file is a forecast."""
    _, config, _, _, _ = small
    watch, out = tmp_path / "watch", tmp_path / "out"
    shutil.copytree(sent, watch)
    schedule, clock = loop.schedule_of(config, every=100.0, grace=20.0), FakeTime(last=1000.0 + 1)
    assert run(small, watch, out, schedule, clock) == 0
    (watch / feed.name_of(4 * TWELVE)).unlink()
    clock = FakeTime()
    clock.seconds = 9000.0
    assert run(small, watch, out, schedule, clock) == 6
    status = [row["status"] for row in rows(out / "status.csv")]
    assert status == ["analysed"] * 4 + ["missing", "analysed"]
    assert clock.seconds <= 9003.0  # nobody is waited for whose time is over


def test_files_may_come_from_a_callable(small, sent, unbroken, tmp_path):
    _, config, parts, ensemble, _ = small
    incoming = shutil.copytree(sent, tmp_path / "incoming")
    looks = iter([[], [incoming / feed.name_of(TWELVE)], [str(incoming / feed.name_of(0))]])
    rest = [incoming / feed.name_of(TWELVE * cycle) for cycle in range(6)]
    source = lambda: next(looks, rest)
    out = tmp_path / "out"
    schedule = loop.schedule_of(config, every=0.0, grace=9.0)
    assert loop.run(parts, ensemble, source, tmp_path / "archive", out, schedule, FakeTime().host) == 6
    assert numbers(out) == numbers(unbroken / "out")
    assert len(names(tmp_path / "archive" / "used")) == 6


def test_a_file_changed_while_it_waits_is_looked_at_again(small, sent, tmp_path):
    config = small[1]
    watch, out = tmp_path / "watch", tmp_path / "out"
    watch.mkdir()
    shutil.copy(sent / feed.name_of(TWELVE), watch / "latest.nc")
    shutil.copy(sent / feed.name_of(2 * TWELVE), watch / "other.nc")

    def change():
        shutil.copy(sent / feed.name_of(0), watch / "latest.nc")
        (watch / "other.nc").write_bytes(b"broken")

    clock = FakeTime({1003.0: change}, last=1030.0)
    run(small, watch, out, loop.schedule_of(config, every=0.0, grace=8.0), clock)
    status = rows(out / "status.csv")
    assert [row["file"] for row in status[:3]] == ["latest.nc", "", ""]
    assert names(watch / "rejected") == ["other.nc", "other.nc.txt"]
    assert names(watch / "used") == ["latest.nc"]
    assert everywhere(watch) == ["latest.nc", "other.nc"]


def test_an_analysis_that_is_not_finite_leaves_the_forecast(small, sent, tmp_path, monkeypatch):
    _, config, _, ensemble, world = small
    broken = lambda key, ensemble, observation: jnp.full_like(ensemble, jnp.nan)
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "make_filter", lambda *_: broken)
        parts = system.make_system(dataclasses.replace(config, cycles=2), world.climate)
    shutil.copytree(sent, tmp_path / "watch")
    assert run(small, tmp_path / "watch", tmp_path / "out", parts=parts) == 2
    assert [row["status"] for row in rows(tmp_path / "out" / "status.csv")] == ["failed", "failed"]
    _, fields = product_file.read(tmp_path / "out" / product_file.name_of(0))
    np.testing.assert_allclose(fields["analysis_mean"], np.asarray(ensemble).mean(0), rtol=1e-4, atol=1e-2)


def parts_that_fail(small, bad, monkeypatch, **faults):
    """The compiled parts, whose forecast from cycle 2 makes NaN of some members."""
    _, config, _, _, world = small
    own = coupling.make_forecaster

    def make(*given):
        forecaster = own(*given)

        def failing(key, number, model, ensemble):
            after, replaced = forecaster.forecast(key, number, model, ensemble)
            wrong = (number == 2) & (jnp.arange(len(after)) < bad)
            return jnp.where(wrong[:, None, None, None], jnp.nan, after), replaced

        return forecaster._replace(forecast=failing)

    with monkeypatch.context() as patch:
        patch.setattr(coupling, "make_forecaster", make)
        return system.make_system(dataclasses.replace(config, faults=FaultsConfig(**faults)), world.climate)


def test_members_of_a_forecast_that_fail_are_drawn_anew(small, sent, unbroken, tmp_path, monkeypatch):
    shutil.copytree(sent, tmp_path / "watch")
    assert run(small, tmp_path / "watch", tmp_path / "out", parts=parts_that_fail(small, 2, monkeypatch)) == 6
    found, usual = (rows(folder / "status.csv") for folder in (tmp_path / "out", unbroken / "out"))
    assert [row["replaced"] for row in found] == ["0", "0", "2", "0", "0", "0"]
    assert [row["status"] for row in found] == ["analysed"] * 6
    assert [row["spread_b"] for row in found][:3] == [row["spread_b"] for row in usual][:3]
    assert 0.5 < float(found[3]["spread_b"]) / float(usual[3]["spread_b"]) < 2.0
    with netCDF4.Dataset(tmp_path / "out" / product_file.name_of(2 * TWELVE)) as nc:
        assert nc.members_replaced == 2
        assert np.isfinite(nc["pv_forecast_mean"][:]).all()


def test_a_forecast_of_which_too_many_fail_ends_the_run_and_keeps_what_was(
    small, sent, unbroken, tmp_path, monkeypatch
):
    shutil.copytree(sent, tmp_path / "watch")
    said = "cycle 2: 2 members of the forecast are not finite, over faults.replaced_limit = 0.2, the cycles before it"
    parts = parts_that_fail(small, 2, monkeypatch, replaced_limit=0.2)
    with pytest.raises(FloatingPointError, match=said):
        run(small, tmp_path / "watch", tmp_path / "out", parts=parts)
    assert len(rows(tmp_path / "out" / "status.csv")) == 2
    assert len(names(tmp_path / "watch" / "used")) == 2
    assert run(small, tmp_path / "watch", tmp_path / "out") == 6
    assert numbers(tmp_path / "out") == numbers(unbroken / "out")


def test_a_filter_that_is_sure_and_wrong_is_flagged_and_recovers(small, sent, tmp_path):
    """An ensemble of a thousandth of the spread around the climate's mean."""
    _, config, _, ensemble, world = small
    sure = world.climate.mean + 1e-3 * (np.asarray(ensemble) - np.asarray(ensemble).mean(0))
    found = {}
    for kind in ("none", "recentre"):
        own = dataclasses.replace(config, faults=FaultsConfig(recovery=kind, patience=2))
        parts = system.make_system(own, world.climate)
        shutil.copytree(sent, tmp_path / kind / "watch")
        assert run((None, config, parts, sure, world), tmp_path / kind / "watch", tmp_path / kind / "out") == 6
        found[kind] = rows(tmp_path / kind / "out" / "status.csv")
    assert float(found["none"][0]["chi_square"]) > 5
    assert [row["flagged"] for row in found["none"]] == ["0", *["1"] * 5]
    assert [row["flagged"] for row in found["recentre"]] == ["0", "1", *["0"] * 4]
    last = {kind: float(own[-1]["innovation_rms"]) for kind, own in found.items()}
    assert last["recentre"] < 0.8 * last["none"]


# Decisions

SCHEDULE = Schedule(interval=TWELVE, window=600.0, every=0.0, grace=5.0)


@pytest.mark.parametrize(
    ("time", "place", "cycle"),
    [
        (4 * TWELVE, "queue", 4),
        (4 * TWELVE + 600.0, "queue", 4),
        (4 * TWELVE - 601.0, "rejected", None),
        (-TWELVE, "rejected", None),
        (1e300, "queue", round(1e300 / TWELVE)),
        (1 * TWELVE, "duplicate", 1),
        (2 * TWELVE, "late", 2),
        (6 * TWELVE, "duplicate", 6),
    ],
)
def test_judgements(time, place, cycle):
    verdict = judge(SCHEDULE, time, coming=3, used={0: "a.nc", 1: "b.nc"}, queued={6: "c.nc"})
    assert verdict[:2] == (place, cycle)
    assert bool(verdict.reason) == (place != "queue")


def test_a_folder_names_files_that_have_come_to_rest(tmp_path):
    look = folder_source(tmp_path)
    (tmp_path / "b.nc").write_text("half")
    (tmp_path / ".hidden.nc").write_text("")
    (tmp_path / "folder.nc").mkdir()
    (tmp_path / "a.nc").write_text("whole")
    assert look() == []
    (tmp_path / "b.nc").write_text("half and half")
    assert look() == [tmp_path / "a.nc"]
    assert look() == [tmp_path / "a.nc", tmp_path / "b.nc"]


def test_files_of_one_name_are_kept_beside_each_other(tmp_path):
    inbox = Inbox(list, tmp_path, SCHEDULE, lambda path: 0.0, lambda *_: None, lambda: 0.0)
    for number in range(3):
        (tmp_path / "same.nc").write_text(f"content {number}")
        inbox.put_aside(Verdict("late", 0, f"reason {number}"), tmp_path / "same.nc")
    kept = {path.name: path.read_text() for path in (tmp_path / "late").iterdir()}
    for number, name in enumerate(["same.nc", "same.nc.1", "same.nc.2"]):
        assert kept[name] == f"content {number}"
        assert kept[f"{name}.txt"] == f"reason {number}\n"


def test_a_used_file_is_moved_once_and_only_if_it_is_still_the_same(tmp_path):
    times = {"old": 0.0, "new": TWELVE}
    inbox = Inbox(list, tmp_path, SCHEDULE, lambda path: times[path.read_text()], lambda *_: None, lambda: 0.0)
    path, target = tmp_path / "latest.nc", tmp_path / "used" / "latest.nc"
    path.write_text("new")  # the sender has put another in its place
    inbox.keep_used(path, target, cycle=0)
    assert path.exists()
    assert not target.exists()
    path.write_text("old")
    inbox.keep_used(path, target, cycle=0)
    assert target.read_text() == "old"
    assert not path.exists()
    path.write_text("old")
    inbox.keep_used(path, target, cycle=0)
    assert path.exists()


def test_a_folder_is_one_runs(tmp_path):
    with (
        alone_in(tmp_path),
        pytest.raises(ValueError, match="another real-time run has it"),
        alone_in(tmp_path),
    ):
        pass
    with alone_in(tmp_path):
        pass


# Observations on the network

MODEL = SQGConfig(N=16)
F32 = np.dtype("float32")


def operator_of(**settings):
    return observations.make_operator(observations.ObservationConfig(**settings), MODEL.shape, MODEL.kelvin)


def found(positions, values=None, errors=None):
    positions = np.asarray(positions, float)
    count = len(positions)
    return Observations(0.0, np.arange(1.0, count + 1) if values is None else np.asarray(values),
                        np.full(count, 0.5) if errors is None else np.asarray(errors), positions)  # fmt: skip


def test_observations_go_to_their_grid_points():
    values, precision, outside = on_network(operator_of(), found([[0, 2, 3], [1, 15.9999, 0], [1, 2.5, 3]]), F32)
    assert (values[0, 2, 3], values[1, 0, 0], outside) == (1.0, 2.0, 1)
    assert (precision[0, 2, 3], precision[1, 0, 0]) == (4.0, 4.0)
    assert np.count_nonzero(precision) == np.isfinite(values).sum() == 2
    assert values.dtype == precision.dtype == F32


def test_observations_go_to_the_positions_of_a_network():
    operator = operator_of(positions=((0, 1.25, 2.5), (1, 15.5, 0.0), (1, 3.0, 3.0)))
    wanted = [[1, 15.5, 15.9999], [0, 1.25, 2.5], [0, 3.0, 3.0]]
    values, precision, outside = on_network(operator, found(wanted), F32)
    np.testing.assert_array_equal(values, [2.0, 1.0, np.nan])
    np.testing.assert_array_equal(precision, [4.0, 4.0, 0.0])
    assert outside == 1  # on the other boundary


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            found([[0, 0.5, 0.5]]),
            r"no observation is at a site of the network, obs\[0\] is at grid indices \(0, 0.5, 0.5\); correct",
        ),
        (found([[0, 1, 1], [0, 2, 2], [0, 2, 2]]), r"obs\[1\] and obs\[2\] are at one site of the network"),
        (found([[0, 1, 1], [0, 2, 2]], errors=[1.0, 1e-30]), r"value\[1\] = 2, error\[1\] = 1e-30: too large or small"),
        (found([[0, 1, 1]], errors=[1e30]), "too large or small for float32"),
        (found([[0, 1, 1]], values=[1e300]), "too large or small for float32"),
    ],
)
def test_observations_that_cannot_be_put_there(what, words):
    with pytest.raises(ValueError, match=words):
        on_network(operator_of(), what, F32)


def test_random_networks_come_through_a_file_as_they_are(small, tmp_path):
    _, config, _, _, world = small
    partial = dataclasses.replace(config, observations=observations.ObservationConfig(fraction=0.3, sigma=(0.3, 1.7)))
    operator, observe = experiment.check(partial)
    world = dataclasses.replace(world, operator=operator, observe=observe)
    path = feed.deliver(tmp_path, partial, feed.Delivery(2, 2, ""), feed.make_observations(partial, world)(2))
    number = observation_file.read(path, config.model, "scaled", 512)
    values, precision, outside = on_network(operator, number, F32)
    key = jax.random.split(jax.random.fold_in(world.key, 2), 3)[0]
    expected = observe(key, world.truth[2])
    np.testing.assert_array_equal(values, expected.values)
    np.testing.assert_allclose(precision, expected.precision, rtol=1e-6)
    assert outside == 0


# The command line


@pytest.mark.usefixtures("settings_of_jax")
def test_the_script_stops_when_told_and_goes_on(small, sent, unbroken, tmp_path, monkeypatch):
    file, watch, out = small[0], tmp_path / "watch", tmp_path / "out"
    watch.mkdir()
    for cycle in range(3):
        shutil.copy(sent / feed.name_of(TWELVE * cycle), watch)
    words = [file, "--watch", watch, "--out", out, "--every", 0, "--grace", 1000, "--poll", 0]
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 20:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(realtime, "time", types.SimpleNamespace(sleep=sleep))
        status, said, error = calling.call(realtime, *words)
    assert (status, len(looks)) == (75, 20), error
    assert error.splitlines()[-1].startswith("realtime.py: stopped by SIGTERM, all that is done is kept")
    lines = said.strip().splitlines()
    assert [line.split(" | ")[0] for line in lines[:-1]] == ["cycle 0", "cycle 1", "cycle 2"]
    assert lines[-1] == f"3 of 6 cycles are done, written to {out}"
    assert all(word in lines[1] for word in ("12 h | analysed | spread ", " K | innovation ", "queue 1", "x real time"))
    assert "jaxda" in error
    for cycle in range(3, 6):
        shutil.copy(sent / feed.name_of(TWELVE * cycle), watch)
    status, said, _ = calling.call(realtime, *words)
    assert status == 0
    assert said.splitlines()[0].startswith("cycle 3 | 36 h | analysed")
    fields, table = numbers(out)
    expected, whole = numbers(unbroken / "out")
    assert fields == expected
    assert table == whole
    # other settings are refused, and nothing is changed
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    status, _, error = calling.call(realtime, *words, "--filters.LETKF.cutoff", "2000.0")
    assert status == 2
    wrong = "was begun with filters.LETKF.cutoff = 3000.0, now 2000.0; give another --out"
    assert error == f"realtime.py: {out}: {wrong}\n"
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("settings_of_jax")
def test_another_model_is_refused(tmp_path):
    (tmp_path / "lorenz.toml").write_text('[model]\nkind = "lorenz96"\n')
    status, _, error = calling.call(realtime, tmp_path / "lorenz.toml", "--watch", tmp_path)
    assert status == 2
    assert error == 'realtime.py: model.kind = "lorenz96": files hold SQG observations; use "sqg"\n'


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_bit_for_bit(small, sent, tmp_path):
    """kill -9 at any moment, a process for each part."""
    file = small[0]
    folders = {}
    for name, kills in {"whole": 0, "killed": 3}.items():
        watch, out = folders[name] = tmp_path / name / "watch", tmp_path / name / "out"
        shutil.copytree(sent, watch)
        command = [sys.executable, realtime.__file__, file, "--watch", watch, "--out", out, "--every", 0, "--grace", 9]
        command = [str(word) for word in command]
        for kill in range(kills):
            process = subprocess.Popen(command)
            while not (out / "status.csv").exists() or len(rows(out / "status.csv")) < kill + 1:
                assert process.poll() is None
                time.sleep(0.01)
            time.sleep(0.02 * kill)
            process.kill()
            process.wait()
        subprocess.run(command, check=True)
    assert numbers(folders["killed"][1]) == numbers(folders["whole"][1])
    assert everywhere(folders["killed"][0]) == everywhere(sent)
