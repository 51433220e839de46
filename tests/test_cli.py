"""The command line, as a user calls it."""

import shutil
from pathlib import Path

import matplotlib.image
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner, Result

from nat4xr.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def release(nems0_release: Path, tmp_path: Path) -> Path:
    """A copy of the NEMS0 release, beside which converted files may be written."""
    return Path(shutil.copytree(nems0_release, tmp_path / "release"))


def test_fetch_downloads_an_area_and_names_its_files(release_server, tmp_path):
    result = run("fetch", "PEG", "--path", tmp_path)
    assert result.exit_code == 0
    for name in ("PEG_NAT4_ozgf.fs100.ch18.tgz", "PEG_single_sites.zip"):
        assert str(tmp_path / name) in result.output
        assert (tmp_path / name).read_bytes() == (release_server.folder / name).read_bytes()


def test_info_counts_cells_sounds_and_spikes(release):
    result = run("info", "A1", "--path", release)
    assert result.exit_code == 0
    assert "9 cells, 7 of them auditory; 12 est and 18 val sounds" in result.output
    by_site = next(line for line in result.output.splitlines() if line.startswith("TNC013a"))
    assert by_site.split()[:5] == ["TNC013a", "3", "2", "100.0", "100.0"]


def test_export_writes_what_plain_xarray_reads(release, tmp_path):
    result = run("export", "PEG", tmp_path / "val.nc", "--subset", "val", "--path", release)
    assert result.exit_code == 0
    with xr.open_dataset(tmp_path / "val.nc") as ds, np.load(release / "reference.npz") as known:
        trials = ds["response"].transpose("stim", "rep", "time", "neuron")
        np.testing.assert_array_equal(trials, known["PEG_trials"])


def test_export_writes_zarr(release, tmp_path):
    result = run("export", "PEG", tmp_path / "peg.zarr", "--format", "zarr", "--path", release)
    assert result.exit_code == 0
    assert xr.open_zarr(tmp_path / "peg.zarr").sizes["neuron"] == 6


def test_export_writes_spike_times(release, tmp_path):
    result = run("export", "PEG", tmp_path / "s.nc", "--spikes", "--subset=val", "--path", release)
    assert result.exit_code == 0
    with xr.open_dataset(tmp_path / "s.nc") as ds, np.load(release / "reference.npz") as known:
        assert ds.sizes["spike"] == known["PEG_trials"].sum()


def test_export_does_not_overwrite(release, tmp_path):
    (tmp_path / "mine.nc").write_text("precious")
    result = run("export", "PEG", tmp_path / "mine.nc", "--path", release)
    assert result.exit_code == 1
    assert "mine.nc is there already" in result.output
    assert (tmp_path / "mine.nc").read_text() == "precious"


def test_simulate_writes_a_release_that_info_reads(tmp_path):
    assert run("simulate", tmp_path / "sim").exit_code == 0
    result = run("info", "PEG", "--path", tmp_path / "sim")
    assert "SIMULATED" in result.output


def test_demo_shows_the_dataset_and_leaves_a_selection_and_a_figure(tmp_path):
    result = run("demo", tmp_path / "demo")
    assert result.exit_code == 0
    assert "<xarray.Dataset>" in result.output
    assert "SIMULATED" in result.output
    with xr.open_dataset(tmp_path / "demo" / "val.nc") as ds:
        assert set(ds["subset"].values) == {"val"}
        assert ds["auditory"].all()
    assert matplotlib.image.imread(tmp_path / "demo" / "cell.png").std() > 0
    assert run("demo", tmp_path / "demo").exit_code == 0  # once more, on what is there


def test_benchmark_prints_the_leaderboard_and_keeps_scores_and_figures(tmp_path, simulated_release):
    result = run("benchmark", "PEG", "--path", simulated_release, "--out", tmp_path)
    assert result.exit_code == 0
    assert "SIMULATED" in result.output
    assert {"isotonic", "StateNet"} <= set(result.output.split())
    with xr.open_dataset(tmp_path / "SIMULATED-PEG-strf-scores.nc") as scores:
        by_cell = pd.read_csv(tmp_path / "SIMULATED-PEG-strf-scores.csv", index_col="neuron")
        np.testing.assert_allclose(by_cell["cc_norm"], scores["cc_norm"])
        assert by_cell["site"].tolist() == scores["site"].values.tolist()
    for figure in ("scores", "best"):
        assert matplotlib.image.imread(tmp_path / f"SIMULATED-PEG-strf-{figure}.png").std() > 0


def test_an_error_is_one_clear_line(release):
    (release / "A1_single_sites.zip").write_bytes(b"no zip")
    result = run("info", "A1", "--path", release)
    assert result.exit_code == 1
    assert "A1_single_sites.zip" in result.output.splitlines()[-1]
    assert "Traceback" not in result.output


def test_an_area_that_does_not_exist_lists_those_that_do():
    result = run("info", "AAF")
    assert result.exit_code != 0
    assert "'A1', 'PEG'" in result.output
