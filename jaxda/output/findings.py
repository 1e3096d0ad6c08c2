"""What a run should be doubted for: a line each, from its scores, its records and its tables."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from jaxda.output.run_folder import FORECAST, REALTIME, TRAINING, TWIN, RunFolder, number, series_of

#: kinds of filters that do no assimilation
BASELINES = ("free-run", "observations-only", "climatology")
#: of spread over RMSE: a reliable ensemble has 1 [1]
RELIABLE = (0.8, 1.2)


def last_third(values: np.ndarray) -> float:
    """Mean of the last third of a series, as in scores.json; NaN where it is empty."""
    part = values[len(values) - max(1, round(len(values) / 3)) :]
    return float(part.mean()) if len(part) else math.nan


def kind_of(run: RunFolder, name: str) -> str:
    """What kind of filter an experiment is; empty where the settings do not say."""
    filters = run.settings.get("filters")
    own = filters.get(name) if isinstance(filters, dict) else None
    return str(own.get("kind", "")) if isinstance(own, dict) else ""


def status_of(run: RunFolder, name: str) -> str:
    """How an experiment ended, as scores.json says, or as its scores look."""
    known = run.summary.get(name, {}).get("status")
    if isinstance(known, str):
        return known
    series = run.scores.get(name, {})
    if any(not np.isfinite(values).all() for column, values in series.items() if column in ("rmse_a", "spread_a")):
        return "non-finite"
    return "unfinished" if run.kind == TWIN else ""


def of_run(run: RunFolder) -> list[str]:
    """The lines of a run of any kind."""
    own = {TWIN: _twin, REALTIME: _realtime, TRAINING: _training, FORECAST: _forecast}
    return list(own[run.kind](run)) if run.kind in own else []


def _twin(run: RunFolder) -> Iterator[str]:
    unit = "" if run.unit == "1" else f" {run.unit}"
    scores = run.scores
    errors = {name: last_third(own.get("rmse_a", np.zeros(0))) for name, own in scores.items()}
    trivial = {name: error for name, error in errors.items() if kind_of(run, name) in BASELINES}
    best = min((error, name) for name, error in trivial.items()) if trivial else None
    for name, own in scores.items():
        status, error = status_of(run, name), errors[name]
        if status not in ("ok", "unfinished", ""):
            bad = np.flatnonzero(~np.isfinite(own.get("rmse_a", np.zeros(0))))
            yield f"{name}: {status}{f', from cycle {bad[0]} on' if len(bad) else ''}"
        if name not in trivial and kind_of(run, name):
            ratio = last_third(own.get("spread_a", np.zeros(0))) / error if error else math.nan
            if math.isfinite(ratio) and not RELIABLE[0] <= ratio <= RELIABLE[1]:
                said = "its ensemble is too sure of itself" if ratio < 1 else "its ensemble is wider than its errors"
                wanted = f"not {RELIABLE[0]} to {RELIABLE[1]}"
                yield f"{name}: spread/RMSE is {ratio:.2f} in the last third, {wanted}: {said}"
            if best and error >= best[0]:
                compared = f"RMSE {error:.3g}{unit} in the last third, {best[1]} has {best[0]:.3g}{unit}"
                yield f"{name}: no better than a baseline that assimilates nothing or copies: {compared}"
        replaced = np.nansum(own.get("replaced", np.zeros(0)))
        if replaced:
            yield f"{name}: {replaced:.0f} members were replaced, since their forecast had failed"
    for name, own in series_of(run.tables.get("online.csv", [])).items():
        back = np.nansum(own.get("rolled_back", np.zeros(0)))
        if back:
            yield f"{name}: steps of learning were taken back in {back:.0f} of {len(own['rolled_back'])} cycles"


def _realtime(run: RunFolder) -> Iterator[str]:
    rows = run.tables.get("status.csv", [])
    count = lambda status: sum(row.get("status") == status for row in rows)
    for status, what in (
        ("missing", "had no observations in time: a forecast stands for their analysis"),
        ("failed", "had an analysis that was not finite: the forecast stands for it"),
    ):
        if count(status):
            yield f"{count(status)} of {len(rows)} cycles {what}"
    late = [number(row.get("lateness_s")) for row in rows if number(row.get("lateness_s")) > 0]
    if late:
        yield f"{len(late)} cycles were late, by up to {max(late):.0f} s"
    replaced = np.nansum([number(row.get("replaced")) for row in rows])
    if replaced:
        yield f"{replaced:.0f} members were replaced, since their forecast had failed"
    back = np.nansum([number(row.get("learning_rolled_back")) for row in rows])
    if back:
        yield f"steps of learning were taken back in {back:.0f} cycles"
    kinds = [row.get("decision", "") for row in run.tables.get("events.csv", [])]
    for kind in dict.fromkeys(kinds):
        if kind and kind != "missing":
            count = kinds.count(kind)
            yield f"{count} file{'s' if count > 1 else ''} {kind}: see the table of events"


def _training(run: RunFolder) -> Iterator[str]:
    rows = run.tables.get("log.csv", [])
    errors = [number(row.get("rmse_1")) for row in rows]
    if any(math.isnan(error) for error in errors):
        yield "validations without a finite error"
    elif errors:
        best, stay = min(errors), number(rows[-1].get("persistence_1"))
        if best >= stay:
            yield f"no better than persistence: RMSE {best:.3g} {run.unit}, persistence {stay:.3g} {run.unit}"
        if errors.index(best) < len(errors) - 1 and errors[-1] > 1.05 * best:
            at = rows[errors.index(best)].get("step")
            yield f"the error rose after its best: {best:.3g} {run.unit} at step {at}, {errors[-1]:.3g} at the end"


def _forecast(run: RunFolder) -> Iterator[str]:
    rows = run.tables.get("scores.csv", [])
    if any(number(row.get("finite")) == 0 for row in rows):
        yield "the forecast went non-finite"
    worse = [row for row in rows[1:] if number(row.get("rmse")) >= number(row.get("persistence"))]
    if worse:
        yield f"no better than persistence at {len(worse)} of {len(rows) - 1} leads"
