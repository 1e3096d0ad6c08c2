"""Bad command lines, files and configurations of all scripts: one line, status 2, nothing written, nothing computed."""

import os
import shlex
import shutil
import sys
from pathlib import Path

import calling
import netCDF4
import numpy as np
import pytest
import torch_writer

from jaxda.models.sqg import SQGConfig
from jaxda.output import netcdf

HERE = Path(__file__).parent
CONFIGS = HERE.parent / "configs"
SQG = """
members = 6
cycles = 4
[model]
kind = "sqg"
N = 16
[nature]
spinup_days = 5.0
climate_days = 5.0
"""
LETKF = '[filters.LETKF]\nkind = "letkf"\ncutoff = 3000.0\n'
LORENZ = '{}[model]\nkind = "lorenz96"\n[nature]\nspinup_days = 20.0\nclimate_days = 20.0\n{}'
SEARCH = '[filters."a (1)"]\nkind = "letkf"\ncutoff = 5.0\nrtps = 0.0\n[filters.free]\nkind = "free-run"\n'
VIT = """
[model]
N = 16
[vit]
image_size = 16
embed_dim = 32
depth = 2
num_heads = 4
[data]
lead_hours = [12.0]
"""
TEXTS = {
    "small.toml": SQG + LETKF + '[filters."data (4)"]\nkind = "observations-only"\nmembers = 4\n',
    "clock.toml": f'{SQG}[initial]\nkind = "climatology"\n{LETKF}',
    "lorenz.toml": LORENZ.format("", '[filters.free-run]\nkind = "free-run"\n'),
    "search.toml": LORENZ.format("members = 8\ncycles = 60\ninterval_hours = 6.0\n", SEARCH),
    "vit.toml": VIT,
    "odd.toml": "cycles 3",
    "deep.toml": f"a = {'[' * 10**5}{']' * 10**5}",
    "digits.toml": f"cycles = {'9' * 5000}",
    "text.nc": "t,pv\n0,1\n",
    "text.json": "hello",
    "empty.json": '{"plans": {"a": []}}',
    "done_truth.nc": "of another",
    "deep/scores.json": "[" * 10**5,
    "full/file": "of somebody else",
    "full/old.nc": "observations",
    "out/.keep": "",
    "watch/.keep": "",
}
COPIES = {"tiny.toml": "vit_tiny.toml", "line.toml": "lorenz96_1e6.toml", "machine.toml": "machines/frontier.toml"}


def table():
    """Script, words as text and what must be said, of each row of bad_input.txt."""
    script = None
    for line in (HERE / "bad_input.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            script = line.strip("[]")
        elif line and not line.startswith("#"):
            words, _, said = line.partition("=> ")
            yield script, words.strip(), said.split(" | ")


TABLE = list(table())


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def files(tmp_path_factory, reference):
    """The folder that the table's command lines are started in."""
    folder = tmp_path_factory.mktemp("files")
    for name, text in TEXTS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for name, source in COPIES.items():
        shutil.copy(CONFIGS / source, folder / name)
    (folder / "bytes.toml").write_bytes(bytes(range(256)))
    os.mkfifo(folder / "pipe")
    weights = {name.removeprefix("weight/"): a for name, a in reference("vit_reference").items() if "weight/" in name}
    torch_writer.save(folder / "vit.pth", weights)
    np.savez(folder / "statistics.npz", mean=[1.0, -2.0], std=[2500.0, 2400.0])
    run = folder / "run.nc"
    netcdf.create_nature_run(run, SQGConfig(N=16, U=25.0))
    netcdf.append_states(run, 86400.0 * np.arange(5.0, 7.1, 0.5), np.ones((5, 2, 16, 16)))
    whole = run.read_bytes()
    (folder / "cut.nc").write_bytes(whole[:-100])
    (folder / "nan.nc").write_bytes(whole)
    with netCDF4.Dataset(folder / "nan.nc", "r+") as nc:
        nc["pv"][-1, 0, 0, 0] = np.nan
    return folder


@pytest.fixture(scope="module")
def before(files):
    return contents(files)


@pytest.mark.usefixtures("settings_of_jax")
@pytest.mark.parametrize(("script", "words", "said"), TABLE, ids=[f"{row[0]} {row[1]}"[:90] for row in TABLE])
def test_it_is_refused_in_one_line_and_nothing_is_written(files, before, monkeypatch, script, words, said):
    monkeypatch.chdir(files)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    module = calling.script(script)
    if script == "scale_plan":
        monkeypatch.setattr(module, "devices_of", lambda given: None)  # the tests have theirs already
    filled = [word.replace("{nul}", "\0").replace("{long}", 300 * "x") for word in shlex.split(words)]
    status, out, error = calling.call(module, *filled)
    assert (status, out) == (2, "")
    assert error.startswith((f"{script}.py: ", "nature_run: "))
    assert error.count("\n") == 1
    assert error.isprintable() or error[:-1].isprintable()
    missing = [text for text in said if text not in error]
    assert not missing, error
    assert contents(files) == before


def test_the_table_has_every_script():
    scripts = {path.stem for path in calling.SCRIPTS.glob("*.py")}
    assert {script for script, *_ in TABLE} == scripts
    assert len({row[:2] for row in TABLE}) == len(TABLE) >= 60
