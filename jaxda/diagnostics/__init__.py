"""Measures of an ensemble against the truth: pure functions of arrays, all of which can be jitted.

`errors`: of the mean and its spread. `probabilities`: of all members (CRPS, ranks, coverage, energy distance).
`scales`: by wavenumber. `consistency`: of innovations, without a truth. The names of all are here.
"""

from jaxda.diagnostics.consistency import Consistency, desroziers
from jaxda.diagnostics.errors import SpreadSkill, anomaly_correlation, bias, mean_spread, rmse, spread_skill
from jaxda.diagnostics.flatness import Flatness, design_effect, flatness
from jaxda.diagnostics.probabilities import (
    coverage,
    crps,
    distances,
    energy_distance,
    energy_kernel,
    nominal_coverage,
    pair_distance,
    rank_counts,
    ranks,
)
from jaxda.diagnostics.scales import PARTS, effective_wavelength, make_spectra, parts_of, variance_spectrum

__all__ = [
    "PARTS",
    "Consistency",
    "Flatness",
    "SpreadSkill",
    "anomaly_correlation",
    "bias",
    "coverage",
    "crps",
    "design_effect",
    "desroziers",
    "distances",
    "effective_wavelength",
    "energy_distance",
    "energy_kernel",
    "flatness",
    "make_spectra",
    "mean_spread",
    "nominal_coverage",
    "pair_distance",
    "parts_of",
    "rank_counts",
    "ranks",
    "rmse",
    "spread_skill",
    "variance_spectrum",
]
