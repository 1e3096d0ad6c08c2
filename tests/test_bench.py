"""scripts/bench.py: it measures what it is asked to, beside a peer too, and refuses bad input in one line."""

import json
import os
import statistics
import sys
from functools import partial
from pathlib import Path

import calling
import pytest

from jaxda.benchmarks import scaling
from jaxda.models import vit
from jaxda.output import bench_plots

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench.py"
SMALL = ("--N", "16", "--members", "4", "--repeats", "2")


bench = calling.script("bench")


pytestmark = pytest.mark.usefixtures("settings_of_jax")


run = partial(calling.call, bench)


PEER = """
import numpy as np
calls = []
class SQG:
    def __init__(self, pv, **settings):
        assert pv.shape == (2, 16, 16) and settings["dt"] > 0 and settings["threads"] == 2
    def advance(self, pv):
        calls.append(self.timesteps)
        return pv
def cartdist(x1, y1, x2, y2, width, height):
    return np.hypot((x1 - x2 + width / 2) % width - width / 2, (y1 - y2 + height / 2) % height - height / 2)
def gaspcohn(r):
    return np.maximum(0.0, 1.0 - r)
def enkf_update(members, observed, values, variances, taper, vertical):
    assert members.shape == observed.shape == (4, 2, 256) and values.shape == (2, 256)
    assert taper.shape == (256, 256) and (np.diag(taper) == 1).all() and vertical == 0.5
    calls.append("update")
"""


@pytest.mark.slow
def test_medians_of_all_parts_and_of_the_peers(tmp_path, monkeypatch):
    (tmp_path / "sqgturb").mkdir()
    (tmp_path / "sqgturb" / "__init__.py").write_text(PEER)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.delitem(sys.modules, "sqgturb", raising=False)
    names = ["sqg-step", "letkf", "local-score", "ensf", "cycle"]
    status, out, _ = run(
        *names, *SMALL, "--integrator", "exponential", "--peer", tmp_path, "--json", tmp_path / "a.json"
    )
    assert status == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert {name: list(codes) for name, codes in found["seconds"].items()} == {
        "sqg-step": ["jaxda", "peer"],
        "letkf": ["jaxda", "peer"],
        "local-score": ["jaxda"],
        "ensf": ["jaxda"],
        "cycle": ["jaxda"],
    }
    for codes in found["seconds"].values():
        for seconds in codes.values():
            assert len(seconds) == 2
            assert statistics.median(seconds) > 0
    calls = sys.modules.pop("sqgturb").calls  # three rounds: one to warm up
    assert calls == [9] * (3 * 4) + ["update"] * 3  # 12 h in steps of 4800 s
    assert found["settings"]["members"] == 4
    assert {"jax", "numpy", "device"} <= set(found)
    for name in names:
        row = next(line for line in out.splitlines() if f" {name} " in line and " jaxda " in line)
        shown = f"{1e3 * statistics.median(found['seconds'][name]['jaxda']):.3f}"
        assert shown in row
        assert found["measured"][name]["counts"]["bytes"] > 0
    assert "N = 16, 4 members, float32" in out
    status, out, _ = run("ensf", "local", *SMALL, "--integrator", "exponential", "--compare", tmp_path / "a.json")
    assert status == 0
    assert "before / now" in out
    assert " local-score " in out


def test_counts_ceilings_and_shares(tmp_path):
    status, out, error = run("sqg-step", *SMALL, "--json", tmp_path / "a.json")
    assert status == 0, error
    found = json.loads((tmp_path / "a.json").read_text())["measured"]["sqg-step"]
    counts, rates, share = found["counts"], found["rates"], found["share"]
    assert counts["fft"] > counts["elementwise"] > 0 == counts["open_loops"]
    assert set(rates) == {"copy", "product", "FFT"}
    work = {"copy": counts["bytes"], "FFT": counts["fft"]}
    work["product"] = counts["products"] + counts["factors"] + counts["elementwise"]
    least = {name: work[name] / rates[name] for name in rates}
    call = statistics.median(found["seconds"]["jaxda"]) * 9 * 4  # 12 h of four members
    assert found["units"] == 9 * 4
    assert share["nearest"] == max(least, key=least.get)
    assert share["share"] == pytest.approx(max(least.values()) / call)
    row = next(line for line in out.splitlines() if " sqg-step " in line and " jaxda " not in line)
    assert f" {share['share']:.2f} " in row
    assert f" {counts['fft'] / 36 / 1e9:.3g} " in row


def test_a_sweep_with_its_figure(tmp_path):
    words = ["--sweep", "members=2,4,8", "--figure", tmp_path / "a.png", "--json", tmp_path / "a.json"]
    status, out, error = run("sqg-step", "--N", "16", "--repeats", "2", *words)
    assert status == 0, error
    found = json.loads((tmp_path / "a.json").read_text())["sweep"]
    assert found["of"] == "members"
    assert {value: len(seconds) for value, seconds in found["seconds"]["sqg-step"].items()} == {"2": 2, "4": 2, "8": 2}
    assert f" {found['exponents']['sqg-step']:.2f} " in out
    assert (tmp_path / "a.png").stat().st_size > 5000


TINY = ("--N", "16", "--width", "16", "--layers", "1", "--heads", "2", "--batch", "2", "--repeats", "2")


def test_rates_of_a_transformer_beside_a_product(tmp_path):
    status, out, error = run("vit-train", "vit-forecast", *TINY, "--members", "3", "--json", tmp_path / "a.json")
    assert status == 0, error
    found = json.loads((tmp_path / "a.json").read_text())
    config = vit.ViTConfig(image_size=16, embed_dim=16, depth=1, num_heads=2)
    work = 6 * vit.count_parameters(config) * 16
    assert found["measured"]["vit-train"]["work"] == 2 * work
    assert found["measured"]["vit-forecast"]["work"] == pytest.approx(work)  # three members, a third of the work
    one = found["measured"]["vit-train"]
    rate = one["work"] / statistics.median(found["seconds"]["vit-train"]["jaxda"])
    row = next(line for line in out.splitlines() if " vit-train " in line and " jaxda " in line)
    assert f"{rate / 1e9:.4g}" in row
    assert f"{rate / one['rates']['product']:.2f}" in row


@pytest.mark.slow
def test_the_search_and_the_heatmap(tmp_path):
    words = ["--search", "1,2", "--heatmap", tmp_path / "a.png", "--widths", "16,32", "--heads-list", "2"]
    status, out, error = run("vit-train", *TINY, *words, "--ratios", "2")
    assert status == 0, error
    assert all(f"\u2502 {remat} " in out for remat in ("none", "dots", "block"))
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_weak_scaling_over_processes(tmp_path):
    processes = range(1, 1 + min(2, len(os.sched_getaffinity(0))))
    words = ["--processes", ",".join(map(str, processes)), "--integrator", "exponential", "--json", tmp_path / "a.json"]
    status, out, error = run("ensf-scaling", *SMALL, *words)
    assert status == 0, error
    found = json.loads((tmp_path / "a.json").read_text())["seconds"]["ensf-scaling"]
    assert list(found) == [str(count) for count in processes]
    medians = {int(count): statistics.median(seconds) for count, seconds in found.items()}
    for count in processes:
        row = next(line for line in out.splitlines() if line.startswith(f"\u2502{count:10d} "))
        assert f" {count * 4 / medians[count]:.4g} " in row  # members a second
        assert f" {count * medians[1] / medians[count]:.2f} " in row
    said = " ".join(out[out.index("collectives of an analysis") :].split())
    assert said.count("all-reduce of 2048 B") == (4 if len(processes) > 1 else 0)
    assert "in a loop" not in said


def test_a_process_that_ends_is_told_of():
    with pytest.raises(ChildProcessError, match=r"a process of 1 ended, status 1: \s*\w"):
        scaling.measured([1], ["--N", "17", "--members", "2", "--steps", "4", "--integrator", "euler"], 1)


def test_a_heatmap_is_drawn_with_what_does_not_fit(tmp_path):
    found = {(r, h, w): None if w == 64 else 1e12 * w for r in (2, 4) for h in (1, 2) for w in (32, 64)}
    bench_plots.rates(tmp_path / "a.png", found, "title")
    assert (tmp_path / "a.png").stat().st_size > 1000
