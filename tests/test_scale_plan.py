"""scripts/scale_plan.py on eight devices that are not there, in a process of its own: fake devices come before JAX."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxda.models import vit
from jaxda.models.vit import ViTConfig

ROOT = Path(__file__).parents[1]
TINY, LORENZ = (ROOT / "configs" / name for name in ("vit_tiny.toml", "benchmark_lorenz96_arctan.toml"))
#: without what makes the tiny one's program long
PLAIN = ["--vit.advection", "false", "--vit.velocities", "false", "--vit.first_guess", "0"]


#: on which a message costs what it waits for, so that layers should travel together; ddp does not fit it
SLOW = """
title = "made up"
memory = 7e5
all_reduce = [{ devices = 8, sizes = [1e3, 1e6], bus_bandwidths = [1e6, 1e9] }]
"""


def run(*words):
    environ = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    # this tree's jaxda, wherever another is installed
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), environ.get("PYTHONPATH", "")])
    command = [sys.executable, ROOT / "scripts" / "scale_plan.py", *map(str, words)]
    return subprocess.run(command, env=environ, text=True, capture_output=True, timeout=550)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """What is said, the JSON and the figures of two strategies."""
    out = tmp_path_factory.mktemp("plan")
    machine = out / "slow.toml"
    machine.write_text(SLOW)
    words = ("--devices", 8, "--base", 2, "--strategies", "ddp,zero3", "--overlap", "none", "--machine", machine)
    done = run(TINY, *words, "--json", out / "plan.json", "--figures", out / "figures", *PLAIN)
    assert done.returncode == 0, done.stderr
    return done.stdout, out / "plan.json", out / "figures"


@pytest.mark.long
def test_memory_and_products_are_those_of_the_model(planned):
    _, file, _ = planned
    plans = {one["name"]: one for one in json.loads(file.read_text())["plans"]["vit_tiny"]}
    config = ViTConfig(image_size=16, embed_dim=32, depth=2, num_heads=4, overlap=2, aggregation="joint",
                       positions="relative", residual=True)  # fmt: skip
    whole = 4 * vit.count_parameters(config)
    assert plans["ddp"]["parts"]["parameters"] == whole
    assert plans["ddp"]["parts"]["moving average"] == whole
    assert 2 * whole <= plans["ddp"]["parts"]["optimizer"] <= 2 * whole + 64
    # an eighth, and what does not divide by 8 as a whole
    assert whole / 8 <= plans["zero3"]["parts"]["parameters"] < whole / 6
    products = plans["ddp"]["cost"]["work"]["products"]
    length, width = config.tokens, config.embed_dim
    in_blocks = sum(one["flops"] * one["times"] for one in products if one["times"] == config.depth)
    assert in_blocks == 3 * config.depth * (24 * length * width**2 + 4 * length**2 * width)


@pytest.mark.long
def test_communication_is_that_of_the_strategy(planned):
    _, file, _ = planned
    plans = {one["name"]: one for one in json.loads(file.read_text())["plans"]["vit_tiny"]}
    sent = lambda name: {
        (one["kind"], bool(one["loop"]), one["times"]) for one in plans[name]["cost"]["work"]["collectives"]
    }
    assert {kind for kind, *_ in sent("ddp")} == {"all-reduce"}
    assert {("all-gather", True, 2), ("reduce-scatter", True, 2), ("all-gather", False, 1)} <= sent("zero3")
    of = lambda name, kind: sum(
        one["times"] * one["bytes"] for one in plans[name]["cost"]["work"]["collectives"] if one["kind"] == kind
    )
    whole = plans["ddp"]["parts"]["parameters"]
    # the loss travels with the gradients
    assert whole <= of("ddp", "all-reduce") <= whole + 64
    # gathered forward, and the layers once more backward; scattered once
    assert whole * 0.9 < of("zero3", "reduce-scatter") <= whole
    assert of("zero3", "reduce-scatter") < of("zero3", "all-gather") <= 2 * whole


@pytest.mark.long
def test_the_best_messages_are_compiled_too(planned):
    _, file, _ = planned
    tree = json.loads(file.read_text())
    assert [one["name"] for one in tree["plans"]["vit_tiny"]] == ["ddp", "zero3", "zero3, group 2"]
    of_loops = lambda one: [each for each in one["cost"]["work"]["collectives"] if each["loop"]]
    assert of_loops(tree["plans"]["vit_tiny"][1])
    assert not of_loops(tree["plans"]["vit_tiny"][2])  # both layers at once: no loop is left
    said, compiled = (tree["seconds"]["vit_tiny"][name]["none"] for name in ("zero3", "zero3, group 2"))
    assert said["layers_together"] == 2
    assert compiled["as_compiled"]["communication"] == pytest.approx(said["best"]["communication"], rel=0.15)


@pytest.mark.long
def test_what_is_said_and_drawn(planned):
    said, _, figures = planned
    assert "vit_tiny: 8 devices, 1 samples or members on each" in said
    assert "best of these (none): zero3, group 2" in said
    assert "GB a device: fits 0.0007 GB" in said
    assert {path.name for path in figures.iterdir()} == {"plan_memory.png", "plan_shares.png", "plan_scaling.png"}


@pytest.mark.long
def test_the_plans_are_read_again_for_another_machine(planned, tmp_path):
    said, file, _ = planned
    small = tmp_path / "small.toml"
    small.write_text(SLOW.replace("7e5", "1e5"))
    done = run("--again", file, "--machine", small, "--base", 2)
    assert done.returncode == 3, done.stderr
    assert "GB a device: does not fit 0.0001 GB" in done.stdout
    assert said != done.stdout


def test_an_analysis_is_planned_too(tmp_path):
    file = tmp_path / "plan.json"
    done = run(LORENZ, "--devices", 4, "--base", 2, "--filters", "LETKF", "--json", file)
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(file.read_text())["plans"]["benchmark_lorenz96_arctan"]
    assert one["parts"] == {"members": 400}  # one member of 100 values on each
    assert one["cost"]["work"]["traffic"] > 0
    assert any(each["kind"].startswith("all-") for each in one["cost"]["work"]["collectives"])
