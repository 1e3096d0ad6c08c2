"""A run as one xarray Dataset: scores by experiment and time, settings, and fields that are read when they are used."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxda.output import run_folder
from jaxda.output.conventions import AXES
from jaxda.output.netcdf import FileError
from jaxda.output.run_folder import REALTIME, TWIN, RunFolder

if TYPE_CHECKING:
    import xarray

#: words of the names of columns -> what they are called in full
LONG_NAMES = {
    "rmse_b": "RMSE of the forecast mean",
    "rmse_a": "RMSE of the analysis mean",
    "spread_b": "spread of the forecast ensemble",
    "spread_a": "spread of the analysis ensemble",
    "spread_f": "spread of the forecast from the analysis",
    "crps_a": "fair CRPS of the analysis ensemble",
    "rejected": "observations rejected",
    "replaced": "members replaced",
}
#: columns with the unit of the scores
SCORES = ("rmse", "spread", "crps", "bias", "innovation", "expected", "residual", "persistence")


def open_run(folder: str | Path) -> xarray.Dataset:
    """The folder of a run as a Dataset; what it lacks is in `attrs["missing"]`, and in a warning.

    Of a twin experiment: `rmse_a(experiment, t)` and the other columns of scores.csv, those of online.csv as
    `learning_...`, `status(experiment)`, and the fields of its analysis.nc or analysis.zarr, which stay on the disk
    until they are used. Of a real-time run: the columns of status.csv by `t`. Of a training: those of log.csv by
    `step`. Cycles that are not done are NaN. Attributes: `kind`, `missing`, and every setting under its dotted name.

    Raises:
        ValueError: no folder of a run.
        ImportError: xarray is not installed.

    Examples:
        Of a run that is no more than its scores:

        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> lines = ["experiment,cycle,time_h,rmse_a", "LETKF,0,0,0.5", "LETKF,1,12,0.4"]
        >>> size = (folder / "scores.csv").write_text("\\n".join(lines))
        >>> with warnings.catch_warnings(action="ignore"):
        ...     run = open_run(folder)
        >>> run.rmse_a.sel(experiment="LETKF").values
        array([0.5, 0.4])
        >>> run.missing[:2]
        ['record.json: not there', 'config.toml: not there']
    """
    try:
        import xarray
    except ImportError:
        raise ImportError('open_run needs xarray: pip install "jaxda[files]"') from None
    run = run_folder.read(folder)
    missing = list(run.missing)
    if run.kind == TWIN:
        data = _twin(run, missing)
    elif run.kind == REALTIME:
        data = _cycles(run)
        data = data.assign(_columns(run, "status.csv", "t", number_of="cycle", size=data.sizes["t"]))
    else:
        table = next(iter(run.tables), "")
        rows = run.tables.get(table, [])
        along = next((name for name in ("step", "lead") if rows and name in rows[0]), "row")
        places = [run_folder.number(row.get(along, i)) for i, row in enumerate(rows)]
        data = xarray.Dataset(_columns(run, table, along), coords={along: places})
    data.attrs = {"kind": run.kind, "title": run.title, "missing": missing} | _attributes(run.settings)
    if missing:
        warnings.warn(f"{folder}: {'; '.join(missing)}", stacklevel=2)
    return data


def _twin(run: RunFolder, missing: list[str]) -> xarray.Dataset:
    """Fields and scores."""
    import xarray

    scores, fields = _by_experiment(run), _fields(run, missing)
    try:
        data = xarray.merge([fields, scores], join="outer", compat="override", combine_attrs="override")
    except (ValueError, TypeError) as error:  # of another run
        missing.append(f"fields: do not go with the scores ({' '.join(str(error).split())[:120]})")
        return scores
    data.set_close(fields.close)
    return data


def _cycles(run: RunFolder) -> xarray.Dataset:
    """The times of a run's cycles."""
    import xarray

    return xarray.decode_cf(xarray.Dataset(coords={"t": ("t", 3600.0 * run.times, AXES["t"])}))


def _fields(run: RunFolder, missing: list[str]) -> xarray.Dataset:
    import xarray

    def open_zarr(path: Path) -> xarray.Dataset:
        data = xarray.open_zarr(path, chunks=None, consolidated=False)
        return data.assign_coords(experiment=data.experiment.astype(object))  # names as those of NetCDF

    for name, open_it in (("analysis.nc", xarray.open_dataset), ("analysis.zarr", open_zarr)):
        path = run.path / name
        if path.exists():
            try:
                return open_it(path)
            except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, FileError) as error:
                missing.append(f"{name}: cannot be read ({' '.join(str(error).split())[:120]})")
    return xarray.Dataset()


def _about(column: str, unit: str) -> dict[str, str]:
    of_score = column.split("_")[0] in SCORES
    units = unit if of_score else "s" if column.endswith("_s") else "h" if column.endswith("_h") else "1"
    return {"long_name": LONG_NAMES.get(column, column.replace("_", " ")), "units": units}


def _by_experiment(run: RunFolder) -> xarray.Dataset:
    """Scores and records of learning, on the cycles that are planned."""
    filters = run.settings.get("filters")
    scores = run.scores
    names = list(dict.fromkeys([*(filters if isinstance(filters, dict) else ()), *scores, *run.summary]))
    data = _cycles(run).assign_coords(experiment=np.array(names, dtype=object))
    size = data.sizes["t"]
    learned = run_folder.series_of(run.tables.get("online.csv", []))
    for before, series in (("", scores), ("learning_", learned)):
        for column in dict.fromkeys(column for own in series.values() for column in own):
            values = np.full((len(names), size), np.nan)
            for name, own in series.items():
                values[names.index(name), : len(own[column])] = own[column][:size]
            data[before + column] = (("experiment", "t"), values, _about(column, "1" if before else run.unit))
    status = [str(run.summary.get(name, {}).get("status", "unfinished")) for name in names]
    return data.assign(status=("experiment", np.array(status, dtype=object), {"long_name": "how it ended"}))


def _columns(run: RunFolder, table: str, along: str, number_of: str = "", size: int = 0) -> dict[str, tuple]:
    """Columns of a table as variables: numbers, or text where a value is none."""
    rows = run.tables.get(table, [])
    places = [run_folder.number(row.get(number_of, i)) for i, row in enumerate(rows)]
    found = {}
    for column in rows[0] if rows else ():
        if column in (along, number_of):
            continue
        texts = [row[column] for row in rows]
        numbers = [run_folder.number(text) for text in texts]
        is_text = any(np.isnan(value) and text not in ("", "nan") for value, text in zip(numbers, texts, strict=True))
        values = np.full(size or len(rows), "" if is_text else np.nan, dtype=object if is_text else float)
        for place, value in zip(places, texts if is_text else numbers, strict=True):
            if 0 <= place < len(values):  # no number is in no place
                values[int(place)] = value
        found[column] = (along, values, {} if is_text else _about(column, run.unit))
    return found


def _attributes(settings: dict) -> dict[str, object]:
    """Settings under dotted names, as files hold them: whole numbers for true and false, text for lists."""
    found = {}
    for name, value in run_folder.flat(settings).items():
        if isinstance(value, bool):
            found[name] = int(value)
        elif isinstance(value, list):
            found[name] = json.dumps(value, default=str)
        else:
            found[name] = value
    return found
