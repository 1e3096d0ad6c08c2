"""Nothing of a file is run, nothing is written but where it should be, and folders say what made them."""

import ast
import json
import os
import pickle
import shutil
import stat
import subprocess
from pathlib import Path

import calling
import jax
import numpy as np
import pytest

import jaxda
from jaxda import config as configuration
from jaxda.config import ExperimentConfig
from jaxda.output import record
from jaxda.output.atomic import replacing
from jaxda.output.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "jaxda").rglob("*.py"), *(ROOT / "scripts").glob("*.py")])
#: modules whose readers run what a file says, and functions that run text
MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml", "jsonpickle"}
CALLS = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {("os", "system"), ("os", "popen"), ("torch", "load"), ("np", "load"), ("numpy", "load")}
SMALL = """
members = 4
cycles = 3
interval_hours = 6.0
[model]
kind = "lorenz96"
dim = 8
[nature]
spinup_days = 5.0
climate_days = 5.0
[output]
figures = false
[filters.data]
kind = "observations-only"
"""


def unsafe(source):
    """What in the source could run what a file says, or text."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in names if name.split(".")[0] in MODULES)
        if not isinstance(node, ast.Call):
            continue
        function, words = node.func, {word.arg: ast.unparse(word.value) for word in node.keywords}
        if isinstance(function, ast.Name) and function.id in CALLS:
            yield function.id
        if isinstance(function, ast.Attribute):
            name = (ast.unparse(function.value), function.attr)
            if name in ATTRIBUTES and not (name[1] == "load" and words.get("allow_pickle") == "False"):
                yield ".".join(name)
        if words.get("shell", "False") != "False" or words.get("allow_pickle", "False") != "False":
            yield ast.unparse(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_a_file_says(path):
    assert not list(unsafe(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "from dill import loads", "def f():\n    import marshal as m", "eval(x)", "exec(x)",
        "np.load(f)", "np.load(f, allow_pickle=True)", "torch.load(f)", "os.system(x)", "run(x, shell=True)",
    ],
)  # fmt: skip
def test_what_would_run_it_is_seen(source):
    assert list(unsafe(source))


@pytest.fixture
def no_pickle(monkeypatch):
    """Unpickling ends the test, by whomever."""

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    with pytest.raises(AssertionError, match="unpickled"):
        pickle.loads(b"")


@pytest.fixture
def osse(tmp_path, settings_of_jax):
    """A function: words -> exit status and error of a small experiment in tmp_path/run."""
    (tmp_path / "small.toml").write_text(SMALL)

    def run(*words):
        status, _, error = calling.call(
            calling.script("osse"), tmp_path / "small.toml", "--out", tmp_path / "run", *words
        )
        return status, error

    return run


def test_checkpoints_and_runs_go_on_without_unpickling(tmp_path, osse, no_pickle):
    state = {"a": np.arange(3.0)}
    with Checkpoints(tmp_path / "kept") as checkpoints:
        checkpoints.save(1, state, {"text": "__import__('os').system('touch gone')"}, 0.0)
        checkpoints.wait()
        found = checkpoints.restore(1, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), state))
        np.testing.assert_array_equal(found["a"], state["a"])
        assert checkpoints.meta(1) == {"text": "__import__('os').system('touch gone')"}
    assert osse()[0] == 0
    before = (tmp_path / "run" / "scores.csv").read_bytes()
    (tmp_path / "run" / "scores.csv").unlink()
    assert osse("--resume")[0] == 0
    assert (tmp_path / "run" / "scores.csv").read_bytes() == before
    kept = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in kept if path.read_bytes()[:2] in (b"\x80\x02", b"\x80\x04", b"\x80\x05")]


HOSTILE = [
    "__import__('os').system('touch gone')",
    "${touch gone}",
    "$(touch gone)",
    "`touch gone`",
    "{0.__class__}",
    "%(x)s; touch gone",
    "!!python/object/apply:os.system ['touch gone']",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_values_are_text(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text("")
    assert configuration.read("a.toml", {"title": value}).title == value
    for field in ("model.kind", "cycles", "observations.operator", "filters.X.kind", "model.U"):
        with pytest.raises(ValueError, match=r"a\.toml"):
            configuration.read("a.toml", {field: value})
    assert configuration.parse_overrides(["--title", value]) == {"title": value}
    assert os.listdir() == ["a.toml"]


NAMES = ["../x", "/tmp/x", "a/b", "..", ".", "a\0b", "a\nb", "x" * 300, "é" * 200, "a\\b", "~", "$HOME", "a:b", "", "*"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_that_become_files_cannot_leave_their_folder(tmp_path, name):
    (tmp_path / "a.toml").write_text("")
    with pytest.raises(ValueError, match=r"a\.toml"):
        configuration.read(tmp_path / "a.toml", {"filters": {name: {"kind": "free-run"}}})


def test_a_title_is_no_part_of_a_path(tmp_path, osse):
    before = set(tmp_path.rglob("*"))
    assert osse("--title", "../../x", "--output.figures", "true")[0] == 0
    assert all((tmp_path / "run") in (path, *path.parents) for path in set(tmp_path.rglob("*")) - before)


# Permissions


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o027], ids=oct)
def test_files_and_folders_have_the_users_umask(tmp_path, osse, mask):
    before = os.umask(mask)
    try:
        with replacing(tmp_path / "one") as hidden:
            hidden.write_text("x")
        assert osse("--output.figures", "true")[0] == 0
    finally:
        os.umask(before)
    made = [tmp_path / "one", tmp_path / "run", *(tmp_path / "run").rglob("*")]
    wrong = {
        str(path): oct(stat.S_IMODE(path.stat().st_mode))
        for path in made
        if stat.S_IMODE(path.stat().st_mode) != (0o777 if path.is_dir() else 0o666) & ~mask
    }
    assert not wrong


# The record


def entries(folder):
    return json.loads((folder / record.NAME).read_text())


def test_a_run_says_what_made_it(tmp_path, osse):
    assert osse("--seed", "7")[0] == 0
    assert osse("--seed", "7", "--resume")[0] == 0
    first, again = entries(tmp_path / "run")
    words = f"osse.py {tmp_path / 'small.toml'} --out {tmp_path / 'run'} --seed 7"
    assert (first["command"], again["command"]) == (words, f"{words} --resume")
    assert first["seeds"]["seed"] == 7
    assert first["settings"]["model"]["dim"] == 8
    assert first["versions"]["jax"] == jax.__version__
    assert first["versions"]["device"]
    assert first["git"] == record.git_state()


def git(folder, *words):
    own = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    about = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    done = subprocess.run(
        ["git", "-C", folder, *about, *words], env=os.environ | own, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_and_whether_the_code_was_changed(tmp_path):
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("data")
    assert record.git_state(tmp_path) == {"commit": commit, "changed": False}
    (tmp_path / "code.py").write_text("a = 2\n")
    assert record.git_state(tmp_path) == {"commit": commit, "changed": True}
    (tmp_path / "env").mkdir()
    assert record.git_state(tmp_path / "env") == {"commit": None, "changed": None}  # another's repository


def test_without_git_or_a_checkout_there_is_a_record_too(tmp_path, monkeypatch):
    assert record.git_state(tmp_path) == {"commit": None, "changed": None}
    monkeypatch.setenv("PATH", "")
    record.write(tmp_path, "some.py", ["--x", "a b"], ExperimentConfig(seed=3))
    (only,) = entries(tmp_path)
    assert only["git"] == {"commit": None, "changed": None}
    assert (only["command"], only["seeds"]) == ("some.py --x 'a b'", {"seed": 3, "observations.seed": 0})
    assert Path(jaxda.__file__).is_file()


def test_a_damaged_record_ends_no_run(tmp_path):
    (tmp_path / record.NAME).write_text("[{")
    record.write(tmp_path, "some.py", [], {"train": {"seed": 4}, "length": float("inf")})
    (only,) = entries(tmp_path)
    assert only["seeds"] == {"train.seed": 4}
    assert only["settings"]["length"] == "inf"
