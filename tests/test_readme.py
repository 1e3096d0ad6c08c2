"""README's example runs as it stands, and its commands name things that exist."""

import re
from pathlib import Path

import matplotlib as mpl
import numpy as np

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs_and_its_analysis_beats_the_climate():
    mpl.use("agg")
    example = re.search(r"```python\n(.*?)```", README, re.S).group(1)
    assert len(example.strip().splitlines()) < 20
    # twenty days of spin-up in place of a hundred: enough to have something to assimilate
    names = {}
    exec(example.replace("100 * 72", "20 * 72"), names)
    error, truth = np.asarray(names["error"]), np.asarray(names["truth"])
    assert np.sqrt((error**2).mean()) < 0.5 * truth.std()


def test_what_it_names_exists():
    for name in re.findall(r"(?:scripts|configs|slurm|docs)/[\w.]+\.(?:py|toml|sh|md|png)", README):
        assert (ROOT / name).exists(), name
    listed = set(re.findall(r"`(\w+\.toml)`", README))
    assert listed >= {path.name for path in (ROOT / "configs").glob("*.toml")}
