"""Tables and figures of plans that are made up: what is chosen, what is said, and that figures are drawn."""

import json

import pytest

from jaxda.output import report
from jaxda.parallel.cost import Cost, Memory
from jaxda.parallel.hlo import Product, Transfer
from jaxda.parallel.machine import Machine, Table
from jaxda.parallel.scaling import Work, predict
from jaxda.planning import stored, tables
from jaxda.planning.programs import Plan

EVERY, LAYERS = tuple(range(64)), 12


@pytest.fixture(scope="module")
def machine():
    node = Table(devices=8, sizes=[1e6, 1e9], bus_bandwidths=[50e9, 50e9])
    wires = Table(devices=64, sizes=[1e7, 1e8, 1e9], bus_bandwidths=[2e9, 8e9, 10e9])
    return Machine(title="made up", rates=[[1, 1e13]], memory=32e9, node=8, all_reduce=[node, wires])


def plan(name, kept, sent, group=EVERY, side=64, samples=1):
    """A training that keeps so many GB, and sends so many MB a layer in its loop."""
    parts = {"parameters": int(kept * 2.5e8), "optimizer": int(kept * 5e8), "moving average": int(kept * 2.5e8)}
    memory = Memory(int(kept * 1e9), 0, int(4e9))
    some = (Transfer("all-gather", LAYERS, int(sent * 1e6), group, "/loop"),)
    work = Work(64, (Product(1e12, LAYERS, "/loop"),), some)
    return Plan(name, samples, Cost(memory, work, 1.0, 2.0), parts, int(1e9) if side else 0, side)


@pytest.fixture
def plans():
    return [plan("ddp", 40, 30), plan("zero3", 5, 90), plan("hybrid", 10, 90, tuple(range(8)))]


def test_memory_adds_up(plans):
    for one in plans:
        assert sum(one.memory.values()) == one.cost.memory.total


def test_the_best_fits_and_takes_the_least_time(plans, machine):
    assert tables.best_of(plans, machine, "none")[0].name == "hybrid"
    assert tables.best_of(plans[:2], machine, "none")[0].name == "zero3"  # ddp sends less, and does not fit
    assert tables.best_of(plans[:1], machine, "none")[0].name == "ddp"  # nothing fits


def test_layers_travel_together_as_the_best_message_holds(plans, machine):
    one, choice = tables.best_of(plans[1:2], machine, "none")
    together = tables.group_of(one, choice)
    assert together == max(n for n in (1, 2, 3, 4, 6, 12) if n == 1 or n * 90e6 <= choice.message)
    assert tables.group_of(one, choice._replace(message=None)) == 1


def test_samples_that_match_the_published_share(plans, machine):
    one, choice = tables.best_of(plans[1:2], machine, "none")
    samples = tables.matching(one, machine, choice)
    found = predict(tables.with_samples(one, samples).cost.work, machine, "none", choice.message)
    computing, communication, _ = tables.PUBLISHED[64]
    assert found.compute / found.exposed == pytest.approx(computing / communication)


def test_what_is_said(plans, machine, capsys):
    report.print_lines(tables.of_plans("some training", plans, machine, 8, "pipelined"))
    said = capsys.readouterr().out
    assert "some training: 64 devices, 1 samples or members on each" in said
    assert "best of these (pipelined): hybrid" in said
    assert "14 GB a device: fits 32 GB" in said
    assert said.count("no ") >= 1  # ddp does not fit


def test_json_gives_the_plans_back(plans, machine, tmp_path):
    file = tmp_path / "plans.json"
    file.write_text(json.dumps(tables.content({"some": plans}, machine, 8)))
    assert stored.read(file) == {"some": plans}
    one = json.loads(file.read_text())["seconds"]["some"]["zero3"]
    assert 0 < one["none"]["efficiency"] <= 1
    assert one["pipelined"]["best"]["compute"] == pytest.approx(LAYERS * 0.1)


@pytest.mark.parametrize("text", ["{", "[]", '{"plans": {"a": [{}]}}', "{}"])
def test_a_file_without_plans_is_refused(tmp_path, text):
    file = tmp_path / "plans.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"--again .*plans.json: .*; give a file that --json wrote"):
        stored.read(file)


def test_figures(plans, machine, tmp_path):
    analyses = [plan("EnSF", 1, 1, side=0), plan("LETKF", 1, 2, side=0)]
    machine = Machine(**{name: getattr(machine, name) for name in machine.__dataclass_fields__} | {"peak": 191e12})
    tables.figures(tmp_path, {"vit_64": plans, "vit_128": plans, "lorenz96": analyses}, machine, 8, "pipelined")
    names = {"plan_memory.png", "plan_shares.png", "plan_scaling.png", "plan_analyses.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert all(path.stat().st_size > 5000 for path in tmp_path.iterdir())
