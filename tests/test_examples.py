"""The examples of docstrings run and show what they say; what a newcomer calls has one."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC = {
    "numerics.timestep": ("rk4", "repeated", "trajectory"),
    "numerics.spectral": ("wavenumbers", "resample", "isotropic_spectrum"),
    "models.sqg": ("SQGConfig", "make_advance", "kinetic_energy_spectrum"),
    "models.lorenz96": ("make_advance",),
    "models.vit": ("apply",),
    "observations": ("PointFunction", "make_operator", "make_network", "screened", "cleaned", "likelihood_score"),
    "filters.letkf": ("make_analysis",),
    "filters.ensf": ("make_analysis",),
    "filters.local_score": ("make_analysis",),
    "filters.baselines": ("make_climatology", "make_observations_only"),
    "filters.localization": ("Geometry", "gaspari_cohn"),
    "twin": ("cycle", "keys"),
    "diagnostics.errors": ("rmse", "bias", "mean_spread", "spread_skill", "anomaly_correlation"),
    "diagnostics.probabilities": (
        *("pair_distance", "crps", "ranks", "rank_counts", "nominal_coverage", "coverage"),
        *("distances", "energy_kernel", "energy_distance"),
    ),
    "diagnostics.flatness": ("flatness", "design_effect"),
    "diagnostics.scales": ("variance_spectrum", "make_spectra", "parts_of", "effective_wavelength"),
    "diagnostics.consistency": ("desroziers",),
    "config": ("read", "parse_overrides"),
    "experiment": ("make_world",),
    "compare": ("run", "cycled"),
    "output.opening": ("open_run",),
}
#: those whose examples compile for a few seconds
SLOW = ("compare", "experiment", "filters.local_score", "models.vit")


def modules():
    """Dotted names of the modules whose docstrings have examples."""
    for path in sorted((ROOT / "jaxda").rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            marks = [pytest.mark.long] if name.removeprefix("jaxda.") in SLOW else []
            yield pytest.param(name, marks=marks, id=name)


def examples_of(module):
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", list(modules()))
def test_examples_show_what_they_say(name, monkeypatch):
    monkeypatch.chdir(ROOT)  # where README says to be
    said = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    for test in examples_of(importlib.import_module(name)):
        runner.run(test, out=said.append)
    assert runner.tries > 0
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("name", PUBLIC)
def test_what_a_newcomer_calls_has_an_example(name):
    found = {test.name.rsplit(".", 1)[1] for test in examples_of(importlib.import_module(f"jaxda.{name}"))}
    assert found >= set(PUBLIC[name])
