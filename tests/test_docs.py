"""README and docs: what they name exists, their commands are such as the scripts take, their Python runs."""

import dataclasses
import re
import shlex
from pathlib import Path

import calling
import matplotlib as mpl
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from jaxda import compare, config, lorenz96_scaling, surrogate
from jaxda.settings import Parser

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
TEXTS |= {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in NOTEBOOKS}
#: scripts whose CONFIG is of another kind than an experiment
KINDS = {
    "train_vit": surrogate.SurrogateConfig,
    "check_plan": surrogate.SurrogateConfig,
    "lorenz96_scaling": lorenz96_scaling.ScalingConfig,
}
#: in text for people, what stands for a file, a number or a choice of theirs
PLACEHOLDER = re.compile(r"[A-Z]{2,}|[\[\]|<>]|\.\.\.")


class Parsed(BaseException):
    """What a script's parser makes of its words, caught before the script acts on it."""


class Refused(BaseException):
    """What it says of words that it does not take."""


def blocks(text, language):
    """The fenced blocks of a language, without the indent of a list around them."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.S | re.M)
    return ["\n".join(line.removeprefix(indent) for line in block.splitlines()) for indent, block in found]


def commands():
    """(page, command) of each call of a script that is meant to be typed as it stands."""
    for page, text in TEXTS.items():
        lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
        inline = re.sub(r"^ *```.*?^ *```", "", text, flags=re.S | re.M)
        lines += [code.replace("\n", " ") for code in re.findall(r"`([^`]*scripts/\w+\.py[^`]*)`", inline)]
        for line in lines:
            for call in re.split(r"&&|;", line.split(" #")[0]):
                if "scripts/" in call and ".py" in call and not PLACEHOLDER.search(call.split("scripts/", 1)[1]):
                    yield page, call.strip()


COMMANDS = sorted(set(commands()))


def parsed(script, words):
    """What a script's parser makes of words, and what it leaves to be fields of a configuration."""
    real = Parser.parse_known_args

    def known(self, args=None, namespace=None):
        try:
            raise Parsed(*real(self, args, namespace))
        except ValueError as error:
            raise Refused(str(error)) from None

    def exact(self, args=None, namespace=None):
        try:
            given, rest = real(self, args, namespace)
        except ValueError as error:
            raise Refused(str(error)) from None
        if rest:
            raise Refused(f"unknown words {rest}")
        raise Parsed(given, [])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_known_args", known)
        patch.setattr(Parser, "parse_args", exact)
        with pytest.raises(Parsed) as found:
            calling.script(script).main(words)
    return found.value.args


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[f"{page}-{command[:60]}" for page, command in COMMANDS])
def test_commands_are_such_as_the_scripts_take(page, command, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    at = next(i for i, word in enumerate(words) if re.fullmatch(r"(\S*/)?scripts/\w+\.py", word))
    script, words = Path(words[at]).stem, words[at + 1 :]
    if "--help" in words or (not words and script != "measure_machine"):
        assert (calling.SCRIPTS / f"{script}.py").exists()
        return
    try:
        given, rest = parsed(script, words)
    except Refused:
        flags = {word for word in words if word.startswith("--")}
        if command.startswith("python") or not flags <= set(calling.parser_of(script)._option_string_actions):
            raise
        return  # a flag that a text speaks of
    files = [given.config] if getattr(given, "config", None) else list(getattr(given, "configs", []))
    for file in files:
        kind = KINDS.get(script, config.ExperimentConfig)
        if script in ("scale_plan", "bench", "convert_checkpoint"):
            kind = surrogate.SurrogateConfig if "[vit]" in Path(file).read_text() else config.ExperimentConfig
        own = config.read(file, config.parse_overrides(rest), kind)
        if script == "tune":
            assert given.filter in own.filters
            fields = {field.name for field in dataclasses.fields(own.filters[given.filter])}
            assert {values.split("=")[0] for values in given.values} <= fields
    if not files:
        assert not rest


def test_there_are_commands_to_look_at():
    assert len(COMMANDS) > 60
    assert {"README.md", "docs/tutorial.md", "docs/howto/machine.md", "docs/realtime.md"} <= {
        page for page, _ in COMMANDS
    }


def test_a_command_that_is_none_is_seen():
    with pytest.raises(ValueError, match="no such field"):
        test_commands_are_such_as_the_scripts_take("x", "python scripts/osse.py configs/small.toml --cycels 3", _Here())
    with pytest.raises(Refused, match="--colour"):
        parsed("score_table", ["runs/a", "--colour", "red"])
    with pytest.raises(Refused, match="--filter"):
        parsed("tune", ["configs/small.toml", "--values", "rtps=1"])


class _Here:
    def chdir(self, path):
        """Stay."""


@pytest.mark.parametrize("page", TEXTS)
def test_what_it_names_exists(page):
    for name in re.findall(
        r"(?:scripts|configs|slurm|docs|tests|jaxda)/[\w./]+\.(?:py|toml|sh|md|png|txt)\b", TEXTS[page]
    ):
        if "NAME" not in name and Path(name).stem != "benchmark_":
            assert (ROOT / name).exists(), name
    prose = re.sub(r"^ *```.*?^ *```", "", TEXTS[page], flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_every_experiment_and_script_is_listed():
    listed = set(re.findall(r"`(?:configs/)?(\w+\.toml)`", TEXTS["docs/configurations.md"]))
    assert listed >= {path.name for path in (ROOT / "configs").glob("*.toml")}
    for path in calling.SCRIPTS.glob("*.py"):
        assert f"scripts/{path.name}" in TEXTS["docs/scripts.md"], path.name


def test_readmes_example_runs_and_its_analysis_beats_the_climate():
    mpl.use("agg")
    (example,) = (block for block in blocks(TEXTS["README.md"], "python") if "imshow" in block)
    assert len(example.strip().splitlines()) < 20
    # twenty days of spin-up in place of a hundred: enough to have something to assimilate
    names = {}
    exec(example.replace("100 * 72", "20 * 72"), names)
    error, truth = np.asarray(names["error"]), np.asarray(names["truth"])
    assert np.sqrt((error**2).mean()) < 0.5 * truth.std()


@pytest.mark.long
def test_readmes_filter_runs_and_beats_the_observations(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    (example,) = (block for block in blocks(TEXTS["README.md"], "python") if "compare.run" in block)
    assert len(example.strip().splitlines()) <= 22
    real = config.read
    short = {"cycles": 6, "filters": {"observations": {"kind": "observations-only", "members": 2}}}
    monkeypatch.setattr(config, "read", lambda path: real(path, short))
    names = {}
    exec(example, names)
    errors = {name: record.mean("rmse_a") for name, record in names["table"].records.items()}
    assert errors["mine"] < 0.9 * errors["observations"]
    assert "│ mine " in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("page", ["filter", "model", "operator"])
def test_the_python_of_how_tos_runs(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = blocks(TEXTS[f"docs/howto/{page}.md"], "python")
    assert found
    names = {}
    for block in found:
        exec(block, names)


#: what makes an experiment of the tutorial one of seconds
SHORT = "--cycles 2 --model.N 16 --nature.spinup_days 5 --nature.climate_days 10 --members 4 --output.figures false"


@pytest.mark.long
def test_the_commands_of_the_tutorial_run(tmp_path, monkeypatch, settings_of_jax):
    """In their order, on a small grid; what the page names is there then."""
    for name in ("configs", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks(TEXTS["docs/tutorial.md"], "sh") for line in block.splitlines()]
    calls = [shlex.split(line)[1:] for line in lines if line.startswith("python scripts/")]
    assert len(calls) >= 8
    for script, *words in calls:
        short = [] if "score_table" in script else shlex.split(SHORT)
        own = [word for word in short if word in words and word.startswith("--")]
        for flag in own:  # what the page gives itself
            at = short.index(flag)
            short[at : at + 2] = []
        status, out, error = calling.call(calling.script(Path(script).stem), *words, *short)
        assert status in (0, 3), f"{script} {words}: {error}"
        assert "local-score" in out or "LETKF" in out
    for name in ("scores.csv", "analysis.nc", "config.toml"):
        assert (tmp_path / "runs" / "small" / name).exists()


def test_notebooks_are_small_and_have_what_they_show():
    for path in NOTEBOOKS:
        assert path.stat().st_size < 200_000, f"{path.name}: make its figures smaller"
        cells = nbformat.read(path, 4).cells
        assert all(cell.execution_count for cell in cells if cell.cell_type == "code"), f"{path.name}: run it"


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path):
    notebook = nbformat.read(path, 4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    said = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Warning" not in said
    assert "\x1b" not in said  # the frames of a bar
    tables = [
        output.data["text/plain"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "data" in output and "experiment" in output.data.get("text/plain", "") and "┃" in output.data["text/plain"]
    ]
    for table in tables:
        assert "non-finite" not in table
        assert "diverged" not in table
    assert tables or path.stem.startswith("1")
    assert compare.Comparison.__repr__ is not object.__repr__
