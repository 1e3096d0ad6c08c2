"""`jaxda.output.open_run`: a run as a Dataset, whole, unfinished, of another version, damaged."""

import json
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray

from jaxda.models.sqg import SQGConfig
from jaxda.output import analysis_file, open_run

STATUS = """cycle,time_h,status,file,used,innovation_rms,spread_a,waiting_s
0,0,analysed,a.nc,512,1.5,0.9,0.1
1,12,missing,,0,nan,1.2,2.5
3,36,analysed,d.nc,512,1.25,0.8,0.1
4,48,anal"""
SETTINGS = 'title = "Four"\ncycles = 5\ninterval_hours = 12.0\n[model]\nkind = "sqg"\n[filters.a]\nkind = "letkf"\n'


@pytest.fixture
def run(small_twin, tmp_path):
    shutil.copytree(small_twin, tmp_path / "run")
    return tmp_path / "run"


def opened(folder):
    """The Dataset and the warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        data = open_run(folder)
    return data, [str(one.message) for one in said if one.category is UserWarning]


def test_a_whole_run_has_its_fields_scores_and_settings(run):
    data, said = opened(run)
    assert said == data.attrs["missing"] == []
    assert dict(data.sizes) == {"experiment": 2, "t": 9, "x": 40}
    assert list(data.experiment) == ["free-run", "data (4)"]
    np.testing.assert_array_equal((data.t - data.t[0]) / np.timedelta64(1, "h"), 6.0 * np.arange(9))
    error = np.sqrt(((data.state_mean - data.state_truth) ** 2).mean("x"))
    np.testing.assert_allclose(error, data.rmse_a, rtol=1e-4)  # scores.csv has six digits
    assert data.rmse_a.attrs == {"long_name": "RMSE of the analysis mean", "units": "1"}
    assert 0.8 < float(data.sel(experiment="data (4)").rmse_a.mean()) < 1.2  # the observations' error is 1
    assert list(data.status.values) == ["ok", "ok"]
    assert data.attrs["filters.data (4).members"] == 4
    assert data.attrs["title"].startswith("Baselines")
    data.close()


def test_fields_stay_on_the_disk_until_they_are_used(tmp_path):
    """The file says that they take 8 GB."""
    (tmp_path / "config.toml").write_text(SETTINGS.replace("cycles = 5", "cycles = 1000"))
    analysis_file.AnalysisFile(tmp_path / "analysis.nc", SQGConfig(N=1024), ["a"], 12.0 * np.arange(1000))
    data, _ = opened(tmp_path)
    assert data.pv_mean.nbytes > 8e9
    assert np.isnan(data.pv_mean[0, 999, 1, 3, 3]).all()
    assert data.sizes["t"] == 1000
    data.close()


def test_an_unfinished_run_has_what_was_done(run):
    rows = (run / "scores.csv").read_text().splitlines()
    (run / "scores.csv").write_text("\n".join([*rows[:15], rows[15][:20]]))  # free-run, 5 of the other, one cut off
    (run / "scores.json").unlink()
    shutil.rmtree(run / "analysis.zarr")
    data, said = opened(run)
    missing = data.attrs["missing"]
    assert "scores.json: not there" in missing
    assert "scores.csv: 1 rows are cut off and left out" in missing
    assert "data (4): 5 of 9 cycles" in missing
    assert "analysis.nc: not there" in missing
    assert len(said) == 1
    assert str(run) in said[0]
    assert data.sizes["t"] == 9
    np.testing.assert_array_equal(data.rmse_a.notnull().sum("t"), [9, 5])
    assert list(data.status.values) == ["unfinished", "unfinished"]


def test_settings_come_from_the_record_where_their_file_is_gone(run):
    (run / "config.toml").unlink()
    data, _ = opened(run)
    assert data.attrs["filters.data (4).members"] == 4
    assert "config.toml: settings are those of record.json" in data.attrs["missing"]


def test_a_run_of_another_version_is_opened_and_said(run):
    entries = json.loads((run / "record.json").read_text())
    entries[-1]["versions"]["jaxda"] = "9.9"
    (run / "record.json").write_text(json.dumps(entries))
    (run / "config.toml").write_text((run / "config.toml").read_text() + "[novelty]\nstrength = 3\n")
    rows = [
        f"{row},{'brightness' if i == 0 else 0.5}"
        for i, row in enumerate((run / "scores.csv").read_text().splitlines())
    ]
    (run / "scores.csv").write_text("\n".join(rows))
    data, said = opened(run)
    assert any("made by jaxda 9.9" in line for line in data.attrs["missing"])
    assert said
    assert data.attrs["novelty.strength"] == 3
    assert (data.brightness == 0.5).all()


@pytest.mark.parametrize("name", ["config.toml", "scores.csv", "scores.json", "record.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\0", b"[1, 2", b'{"scores": 3}', b"a,b\n1,2\n", b"experiment\nX\n"])
def test_damaged_files_are_said_and_the_rest_is_opened(run, name, content):
    (run / name).write_bytes(content)
    data, said = opened(run)
    assert data.sizes["experiment"] >= 2
    assert said
    data.close()


def test_a_damaged_file_of_fields_leaves_the_scores(run):
    (run / "analysis.zarr" / "zarr.json").write_text("no")
    data, said = opened(run)
    assert "analysis.zarr: cannot be read" in said[0]
    assert data.rmse_a.notnull().all()
    assert "state_mean" not in data


def test_a_real_time_run_is_one_of_cycles(tmp_path):
    (tmp_path / "realtime.toml").write_text(SETTINGS)
    (tmp_path / "status.csv").write_text(STATUS)
    data, said = opened(tmp_path)
    assert data.attrs["kind"] == "real-time run"
    assert dict(data.sizes) == {"t": 5}
    np.testing.assert_array_equal(data.innovation_rms, [1.5, np.nan, np.nan, 1.25, np.nan])
    assert list(data.status.values) == ["analysed", "missing", "", "analysed", ""]
    assert data.innovation_rms.units == "K"
    assert data.waiting_s.units == "s"
    assert "not finished: 3 of 5 cycles" in said[0]


def test_a_training_is_one_of_steps(tmp_path):
    (tmp_path / "log.csv").write_text("step,loss,seconds,rmse_1\n10,0.5,3.1,2.0\n20,0.25,6.2,1.5\n")
    (tmp_path / "config.toml").write_text('title = "ViT"\n[train]\nsteps = 40\n')
    data, said = opened(tmp_path)
    assert data.attrs["kind"] == "training"
    np.testing.assert_array_equal(data.rmse_1.sel(step=[10, 20]), [2.0, 1.5])
    assert data.attrs["train.steps"] == 40
    assert "not finished: validated at step 20 of 40" in said[0]


@pytest.mark.parametrize("content", [[], ["notes.txt"]])
def test_a_folder_of_no_run_is_refused(tmp_path, content):
    for name in content:
        (tmp_path / name).write_text("hello")
    with pytest.raises(ValueError, match="holds nothing of a run"):
        open_run(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        open_run(tmp_path / "none")


def test_the_package_is_imported_without_xarray():
    program = (
        "import sys, jaxda.output; print(*[name for name in ('xarray', 'netCDF4', 'zarr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_it_can_be_saved(run, tmp_path):
    data, _ = opened(run)
    data.to_netcdf(tmp_path / "all.nc")
    with xarray.open_dataset(tmp_path / "all.nc") as saved:
        np.testing.assert_array_equal(saved.rmse_a, data.rmse_a)
    data.close()
