"""The command line."""

import json
import shutil
import sys
from pathlib import Path

import matplotlib.image
import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner, Result

import nat4xr
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


def test_fetch_takes_several_parts_in_any_case(release_server, tmp_path):
    result = run("fetch", "a1", "peg", "WAV", "--path", tmp_path)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 7
    for name in ("A1_single_sites.zip", "PEG_single_sites.zip", "wav.zip"):
        assert str(tmp_path / name) in result.stdout
        assert (tmp_path / name).exists()


def test_where_names_the_folder_and_what_is_missing(release, tmp_path, monkeypatch):
    monkeypatch.setenv("NAT4XR_DATA_DIR", str(release))
    (release / "PEG_single_sites.zip").unlink()
    run("info", "A1")
    lines = run("where").output.splitlines()
    assert lines[0] == f"{release} ($NAT4XR_DATA_DIR)"
    assert "A1: complete" in lines
    assert "PEG: no PEG_single_sites.zip" in lines
    assert "wav: complete" in lines
    assert f"     converted: {next(release.glob('A1_nat4xr-*.nc'))}" in lines
    assert lines[-1].split() == ["nat4xr", "fetch", "PEG"]
    lines = run("where", "--path", tmp_path / "none").output.splitlines()
    assert lines[0].endswith("(--path)")
    assert lines[-1].split() == f"nat4xr fetch A1 PEG wav --path {tmp_path / 'none'}".split()


def test_info_counts_cells_sounds_and_spikes(release):
    result = run("info", "A1", "--path", release)
    assert result.exit_code == 0
    assert "9 cells, 7 of them auditory; 12 est and 18 val sounds" in result.output
    by_site = next(line for line in result.output.splitlines() if line.startswith("TNC013a"))
    assert by_site.split()[:5] == ["TNC013a", "3", "2", "100.0", "100.0"]


def test_info_as_json_has_the_same_counts(release):
    about = json.loads(run("info", "a1", "--path", release, "--json").stdout)
    assert (about["cells"], about["auditory"], about["est"], about["val"]) == (9, 7, 12, 18)
    assert about["by_site"]["TNC013a"]["cells"] == 3
    assert sum(animal["cells"] for animal in about["by_animal"].values()) == 9


def test_export_writes_what_plain_xarray_reads(release, tmp_path):
    result = run("export", "PEG", tmp_path / "val.nc", "--subset", "val", "--path", release)
    assert result.exit_code == 0
    with xr.open_dataset(tmp_path / "val.nc") as ds, np.load(release / "reference.npz") as known:
        trials = ds["response"].transpose("stim", "rep", "time", "neuron")
        np.testing.assert_array_equal(trials, known["PEG_trials"])


@pytest.mark.filterwarnings("default")
def test_export_writes_zarr_without_a_warning(release, tmp_path):
    result = run("export", "PEG", tmp_path / "peg.zarr", "--path", release)
    assert result.exit_code == 0
    assert "FixedLengthUTF32" not in result.stderr
    assert "Consolidated" not in result.stderr
    known = nat4xr.open_area("PEG", release)
    again = nat4xr.set_labels(xr.open_zarr(tmp_path / "peg.zarr"))
    xr.testing.assert_identical(again, known)


@pytest.mark.parametrize("spikes", [(), ("--spikes",)], ids=["area", "spikes"])
def test_a_whole_area_is_the_converted_file_as_it_is(spikes, release, tmp_path):
    result = run("export", "PEG", tmp_path / "peg.nc", "--path", release, *spikes)
    assert result.exit_code == 0
    (converted,) = release.glob("PEG_spikes_*.nc" if spikes else "PEG_nat4xr-*.nc")
    assert (tmp_path / "peg.nc").read_bytes() == converted.read_bytes()
    known = (nat4xr.open_spikes if spikes else nat4xr.open_area)("PEG", release)
    with xr.open_dataset(tmp_path / "peg.nc") as ds:
        assert set(ds.variables) == set(known.variables)
        for name in known.variables:
            np.testing.assert_array_equal(ds[name], known[name], err_msg=name)
            assert ds[name].attrs == known[name].attrs


def test_export_refuses_a_name_that_says_no_format(tmp_path):
    result = run("export", "PEG", tmp_path / "peg.mat")
    assert result.exit_code == 2
    assert "peg.mat" in result.output
    assert ".zarr" in result.output


def test_export_to_zarr_says_which_extra_it_needs(release, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    result = run("export", "PEG", tmp_path / "peg.zarr", "--path", release)
    assert result.exit_code == 1
    assert "nat4xr[zarr]" in result.output


def test_export_writes_spike_times(release, tmp_path):
    result = run("export", "PEG", tmp_path / "s.nc", "--spikes", "--subset=val", "--path", release)
    assert result.exit_code == 0
    with xr.open_dataset(tmp_path / "s.nc") as ds, np.load(release / "reference.npz") as known:
        assert ds.sizes["spike"] == known["PEG_trials"].sum()


def test_export_of_text_as_characters_opens_with_the_same_labels(release, tmp_path):
    file = tmp_path / "char.nc"
    assert run("export", "PEG", file, "--char", "--path", release).exit_code == 0
    known = nat4xr.open_area("PEG", release)
    with netCDF4.Dataset(file) as dataset:
        assert dataset["site"].dtype == "S1"
        assert all(v.dtype != str for v in dataset.variables.values())
    with xr.open_dataset(file) as ds:
        xr.testing.assert_equal(nat4xr.set_labels(ds), known)


def test_export_of_text_as_characters_is_refused_for_zarr(release, tmp_path):
    result = run("export", "PEG", tmp_path / "peg.zarr", "--char", "--path", release)
    assert result.exit_code == 2
    assert "--char" in result.output


def test_export_does_not_overwrite(release, tmp_path):
    (tmp_path / "mine.nc").write_text("precious")
    result = run("export", "PEG", tmp_path / "mine.nc", "--path", release)
    assert result.exit_code == 1
    assert "mine.nc already exists" in result.output
    assert (tmp_path / "mine.nc").read_text() == "precious"


def test_simulate_writes_a_release_that_info_reads(tmp_path):
    assert run("simulate", tmp_path / "sim").exit_code == 0
    result = run("info", "PEG", "--path", tmp_path / "sim")
    assert "SIMULATED" in result.output


def test_simulate_takes_the_encoding_model(tmp_path):
    assert run("simulate", tmp_path / "sim", "--model", "adaptive").exit_code == 0
    with xr.open_dataset(tmp_path / "sim" / "truth.nc") as truth:
        assert json.loads(truth.attrs["simulated"])["model"] == "adaptive"


def test_demo_prints_three_lines_and_leaves_a_selection_and_a_figure(tmp_path):
    result = run("demo", tmp_path / "demo")
    assert result.exit_code == 0
    simulated, figure, following = result.stdout.splitlines()
    assert "SIMULATED" in simulated
    assert str(tmp_path / "demo" / "cell.png") in figure
    assert f'open_area("A1", "{(tmp_path / "demo" / "release").as_posix()}")' in following
    with xr.open_dataset(tmp_path / "demo" / "val.nc") as ds:
        assert set(ds["subset"].values) == {"val"}
        assert ds["auditory"].all()
    assert matplotlib.image.imread(tmp_path / "demo" / "cell.png").std() > 0
    assert run("demo", tmp_path / "demo").stdout == result.stdout  # once more, on what is there


def test_benchmark_prints_the_leaderboard_and_keeps_scores_and_figures(tmp_path, simulated_release):
    result = run("benchmark", "PEG", "--path", simulated_release, "--out", tmp_path)
    assert result.exit_code == 0
    assert "SIMULATED" in result.output
    assert {"isotonic", "StateNet"} <= set(result.output.split())
    assert max(map(len, result.stdout.replace(str(tmp_path), "").splitlines())) <= 100
    with xr.open_dataset(tmp_path / "SIMULATED-PEG-strf-scores.nc") as scores:
        by_cell = pd.read_csv(tmp_path / "SIMULATED-PEG-strf-scores.csv", index_col="neuron")
        np.testing.assert_allclose(by_cell["cc_norm"], scores["cc_norm"])
        assert by_cell["site"].tolist() == scores["site"].values.tolist()
    for figure in ("scores", "best"):
        assert matplotlib.image.imread(tmp_path / f"SIMULATED-PEG-strf-{figure}.png").std() > 0


def test_benchmark_as_json_is_the_leaderboard(tmp_path, simulated_release):
    arguments = ("benchmark", "peg", "--path", simulated_release, "--out", tmp_path, "--json")
    rows = json.loads(run(*arguments).stdout)
    saved = pd.read_csv(tmp_path / "SIMULATED-PEG-strf-leaderboard.csv")
    assert [row["backbone"] for row in rows] == saved["backbone"].tolist()
    assert [row["cc_norm"] for row in rows] == pytest.approx(saved["cc_norm"].tolist())
    assert [row["simulated"] for row in rows].count(True) == 1


@pytest.mark.parametrize("option", [("--seeds", 3), ("--prefilter", "adaptrans")])
def test_options_of_networks_are_refused_for_the_strf(option, tmp_path):
    result = run("benchmark", "PEG", "--path", tmp_path, *option)
    assert result.exit_code == 2
    assert option[0] in result.output


@pytest.mark.parametrize("command", [None, *main.commands])
def test_h_is_help(command):
    result = run(*filter(None, (command, "-h")))
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")
    assert max(map(len, result.output.splitlines())) <= 100


def test_verify_says_how_many_checks_are_ok_and_colours_them_on_a_terminal(release):
    table = nat4xr.verify("A1", release)
    arguments = ["verify", "A1", "--path", str(release)]
    plain, coloured = (CliRunner().invoke(main, arguments, color=c).output for c in (False, True))
    ok, unjudged = int((table["ok"] == True).sum()), int(table["ok"].isna().sum())  # noqa: E712
    assert f"{len(table)} checks: {ok} ok" in plain
    assert f"{unjudged} not judged" in plain
    assert "\x1b[" not in plain
    assert "\x1b[32mok" in coloured


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line_without_a_source_line(release_server, tmp_path):
    run("fetch", "PEG", "--path", tmp_path)
    (tmp_path / "PEG_pred_correlation.csv").write_text("not what the record says")
    result = run("fetch", "PEG", "--path", tmp_path)
    (warning,) = (line for line in result.stderr.splitlines() if "Warning" in line)
    assert warning.startswith("Warning: ")
    assert "cli.py" not in result.stderr
    assert "PEG_pred_correlation.csv" in warning


def test_an_error_is_one_clear_line(release):
    (release / "A1_single_sites.zip").write_bytes(b"no zip")
    result = run("info", "A1", "--path", release)
    assert result.exit_code == 1
    assert "A1_single_sites.zip" in result.output.splitlines()[-1]
    assert "Traceback" not in result.output


def test_an_area_that_does_not_exist_lists_those_that_do():
    result = run("info", "AAF")
    assert result.exit_code != 0
    assert "'a1', 'peg'" in result.output
