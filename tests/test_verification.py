"""Verification finds faults in a release, and finds none in an intact release."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from isal import isal_zlib

import nat4xr
from nat4xr import fetch, metrics, open_spikes
from nat4xr.cli import main
from nat4xr.index import set_labels
from nat4xr.io import trials
from nat4xr.verification import PEG_SNR_PERCENTILES, PUBLISHED, PUBLISHED_SNR
from nat4xr.verification import _snr as snr_checks
from nat4xr.verification import verify as verify_area

from .support import releases
from .support.releases import (
    EST,
    POPULATION,
    SITES,
    SOUNDS,
    TABLE,
    VAL,
    archive_name,
    tiny_psth,
    tiny_release,
    tiny_sites,
    write,
)
from .support.server import ReleaseServer

COUNTS = ["cells", "auditory", "sites", "cells by animal", "est", "val", "repeats"]
VAL_CHECK = "mean over val trials against published average"
EST_CHECK = "est responses against the spikes of the sites"
STORED_CHECK = "converted file against its sources"
SPIKES_CHECK = "converted spikes against their sources"


def verify(release: dict[str, Any] | Path, folder: Path | None = None) -> pd.DataFrame:
    """The checks by name; what is not a path is written to a folder first."""
    path = release if isinstance(release, Path) else write(release, folder)
    return verify_area("A1", path).set_index("check")


def failed(checks: pd.DataFrame) -> list[str]:
    return checks.index[checks["ok"].eq(False).fillna(False)].tolist()


def simulated(**changes: Any) -> dict[str, Any]:
    """A release that says that it was simulated, and how much there is of it."""
    about = {
        "cells": 3,
        "auditory": 2,
        "sites": 2,
        "cells_by_animal": {"ARM": 2, "TNC": 1},
        "est": 2,
        "val": 2,
        "repeats": 20,
        "cells_without_trials": [],
    }
    release = tiny_release()
    meta = json.dumps({"simulated": about | changes}).encode()
    release[POPULATION]["A1_NAT4/A1_NAT4.meta.json"] = meta
    return release


def changed(sound: str, by: float) -> dict[str, Any]:
    """A release whose population recording differs from the sites in one bin of one cell."""
    psth = tiny_psth(tiny_sites())
    psth[SOUNDS.index(sound), 7, 1] += by
    return tiny_release(psth=psth)


# --- what is counted ---------------------------------------------------------------------------


@pytest.mark.parametrize("area", ["A1", "PEG"])
def test_nothing_is_wrong_with_the_release_that_nems0_wrote(
    area: str, nems0_release: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(nems0_release, tmp_path / "release")
    checks = verify_area(area, folder).set_index("check")
    assert failed(checks) == []
    assert checks.loc[[VAL_CHECK, EST_CHECK, STORED_CHECK], "ok"].all()


def test_the_published_counts_are_those_of_the_papers() -> None:
    a1, peg = PUBLISHED["A1"], PUBLISHED["PEG"]
    assert (a1["cells"], peg["cells"]) == (849, 398)
    assert (a1["auditory"], peg["auditory"]) == (777, 339)
    assert (a1["sites"], peg["sites"]) == (22, 11)
    assert a1["cells_by_animal"] == {"ARM": 165, "CRD": 36, "DRX": 244, "TNC": 404}
    assert peg["cells_by_animal"] == {"ARM": 398}
    for counts in (a1, peg):
        assert (counts["est"], counts["val"], counts["repeats"]) == (575, 18, 20)


def test_a_part_of_the_release_need_not_have_the_published_counts(tmp_path: Path) -> None:
    checks = verify(tiny_release(), tmp_path)
    assert checks.loc["release", "found"] == "partial"
    assert "3 of the 849 " in checks.loc["release", "detail"]
    assert checks.loc[COUNTS, "expected"].tolist() == list(PUBLISHED["A1"].values())
    assert checks.loc[COUNTS, "found"].tolist() == [3, 2, 2, {"ARM": 2, "TNC": 1}, 2, 2, 20]
    assert checks.loc[COUNTS, "ok"].isna().all()


def test_a_whole_release_must_have_the_published_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = dict(PUBLISHED["A1"], cells=3, auditory=2, sites=2, est=2, val=2)
    monkeypatch.setitem(PUBLISHED, "A1", published)
    checks = verify(tiny_release(), tmp_path)
    assert checks.loc["release", "found"] == "whole"
    assert failed(checks) == ["cells by animal"]


def test_a_simulated_release_must_have_the_counts_that_it_states(tmp_path: Path) -> None:
    checks = verify(simulated(), tmp_path)
    assert checks.loc["release", "found"] == "simulated"
    assert checks.loc[COUNTS, "ok"].all()


@pytest.mark.parametrize(
    ("stated", "check"),
    [
        ({"cells": 4}, "cells"),
        ({"repeats": 19}, "repeats"),
        ({"cells_by_animal": {"ARM": 3}}, "cells by animal"),
        ({"cells_without_trials": ["ARM029a-07-6"]}, "cells without trials"),
    ],
)
def test_a_simulated_release_that_lacks_what_it_states_fails(
    stated: dict[str, Any], check: str, tmp_path: Path
) -> None:
    assert failed(verify(simulated(**stated), tmp_path)) == [check]


@pytest.mark.parametrize(("about", "judged"), [({"cells": 3}, ["cells"]), ("yes", [])])
def test_counts_that_a_simulation_does_not_state_are_not_judged(
    about: Any, judged: list[str], tmp_path: Path
) -> None:
    release = tiny_release()
    release[POPULATION]["A1_NAT4/A1_NAT4.meta.json"] = json.dumps({"simulated": about}).encode()
    checks = verify(release, tmp_path).loc[COUNTS]
    assert checks.index[checks["ok"].notna()].tolist() == judged
    assert checks.loc[~checks.index.isin(judged), "expected"].eq("not known").all()


@pytest.mark.parametrize(
    "names", [5, "ARM029a-07-6", [1, "a"], [[1], {}], {"a": 1}], ids=lambda names: str(names)
)
def test_what_a_simulation_states_may_be_of_any_type(names: Any, tmp_path: Path) -> None:
    checks = verify(simulated(cells_without_trials=names), tmp_path)
    assert failed(checks) == ["cells without trials"]


# --- md5 ---------------------------------------------------------------------------------------


def test_files_that_were_fetched_are_held_to_the_md5_of_the_record(
    release_server: ReleaseServer, tmp_path: Path
) -> None:
    fetch("A1", tmp_path, progressbar=False)
    checks = verify(tmp_path)
    md5 = checks[checks.index.str.startswith("md5")]
    assert md5["ok"].tolist() == [True, True, True]
    assert md5["expected"].tolist() == md5["found"].tolist()


def test_a_file_that_is_not_that_of_the_record_fails(
    release_server: ReleaseServer, tmp_path: Path
) -> None:
    fetch("A1", tmp_path, progressbar=False)
    with (tmp_path / TABLE).open("a") as table:
        table.write("9,ARM999a-01-1,0.5,0.5,True\n")
    assert failed(verify(tmp_path)) == [f"md5 of {TABLE}"]


def test_without_the_record_no_md5_is_expected(tmp_path: Path) -> None:
    checks = verify(tiny_release(), tmp_path)
    md5 = checks[checks.index.str.startswith("md5")]
    assert md5["expected"].tolist() == ["not known"] * 3
    assert md5["ok"].isna().all()


@pytest.mark.parametrize("content", [b"", b"{", b'{"files": []}'])
def test_a_damaged_record_is_not_taken_for_none(
    content: bytes, release_server: ReleaseServer, tmp_path: Path
) -> None:
    fetch("A1", tmp_path, progressbar=False)
    (tmp_path / "registry.json").write_bytes(content)
    checks = verify(tmp_path)
    check = "registry.json lists the files"
    assert failed(checks) == [check]
    assert "nat4xr fetch A1" in checks.loc[check, "detail"]
    md5 = checks[checks.index.str.startswith("md5")]
    assert md5["ok"].isna().all()
    assert md5["detail"].str.contains("registry.json").all()


def test_unpacked_files_are_checked_but_for_their_md5(tmp_path: Path) -> None:
    checks = verify(write(tiny_release(), tmp_path, unpack=[POPULATION, SITES]))
    assert checks.loc[f"md5 of {POPULATION.removesuffix('.tgz')}", "ok"] is pd.NA
    assert checks.loc[[VAL_CHECK, EST_CHECK, STORED_CHECK], "ok"].all()


# --- cells and trials --------------------------------------------------------------------------


def test_cells_found_under_another_number_of_zeros_are_listed(tmp_path: Path) -> None:
    row = verify(tiny_release(), tmp_path).loc["cells with trials under another number of zeros"]
    assert (row["found"], row["detail"]) == (1, "TNC013a-22-3 (TNC013a-022-3)")


@pytest.mark.filterwarnings("ignore:A1. some sites have no trials")
def test_cells_without_trials_are_listed_and_their_site_is_missed(tmp_path: Path) -> None:
    release = tiny_release()
    del release[SITES][archive_name("TNC013a")]
    checks = verify(release, tmp_path)
    assert checks.loc["cells without trials", "detail"] == "TNC013a-22-3"
    assert failed(checks) == ["sites whose trials are there"]
    assert checks.loc["sites whose trials are there", "detail"] == "TNC013a"


def test_cells_that_the_table_lacks_are_listed(tmp_path: Path) -> None:
    release = tiny_release()
    release[TABLE] = b"\n".join(release[TABLE].splitlines()[:-1])
    with pytest.warns(UserWarning, match="no row for 1 of 3 cells"):
        checks = verify(release, tmp_path)
    check = "cells without a row in the table"
    assert failed(checks) == [check]
    assert checks.loc[check, ["found", "detail"]].tolist() == [1, "TNC013a-22-3"]


@pytest.mark.parametrize("name", ["what?", "TNC013a-22", "TNC013-22-3", "TNC013a-99999-3"])
@pytest.mark.filterwarnings("ignore:A1. .*recording lacks", "ignore:A1. some sites have no trials")
def test_a_cell_whose_name_is_not_understood_fails(name: str, tmp_path: Path) -> None:
    checks = verify(tiny_release(cells=["ARM029a-04-1", "ARM029a-07-6", name]), tmp_path)
    check = "cells whose labels spell their name"
    assert check in failed(checks)
    assert checks.loc[check, ["found", "detail"]].tolist() == [2, name]


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("sound", "check"), [(VAL[0], VAL_CHECK), (EST[1], EST_CHECK)])
@pytest.mark.parametrize("by", [1.0, 1e-5])
def test_a_bin_in_which_trials_and_average_differ_is_found_and_its_cell_named(
    sound: str, check: str, by: float, tmp_path: Path
) -> None:
    checks = verify(changed(sound, by), tmp_path)
    assert failed(checks) == [check]
    assert listed(checks.loc[check, "detail"]) == ["3", "1", f"ARM029a-07-6 ({by:.3g})"]
    assert float(checks.loc[check, "found"]) == pytest.approx(by, rel=1e-2)


@pytest.mark.parametrize("sound", [VAL[0], EST[1]])
def test_a_difference_of_rounding_is_none(sound: str, tmp_path: Path) -> None:
    assert failed(verify(changed(sound, 1e-7), tmp_path)) == []


def listed(detail: str) -> list[str]:
    """The names and numbers in a detail, without the words between them."""
    return re.findall(r"[A-Z]{3}\S+?-\d+-\d+(?: \([^)]*\))?|\d+", detail)


def left_out(*places: tuple[Any, ...]) -> dict[str, Any]:
    """A release whose population recording has no number at these (stim, time, cell)."""
    psth = tiny_psth(tiny_sites())
    for place in places:
        psth[place] = np.nan
    return tiny_release(psth=psth)


def test_averages_that_are_no_numbers_do_not_pass_for_equal(tmp_path: Path) -> None:
    checks = verify(left_out((...,)), tmp_path)
    assert failed(checks) == [VAL_CHECK, EST_CHECK]
    for check in (VAL_CHECK, EST_CHECK):
        assert checks.loc[check, "found"] == "nothing to compare"
        cells = ["ARM029a-04-1", "ARM029a-07-6", "TNC013a-22-3"]
        assert listed(checks.loc[check, "detail"]) == ["0", "0", *cells, "6"]


def test_a_cell_with_trials_but_no_average_fails(tmp_path: Path) -> None:
    checks = verify(left_out((..., 1)), tmp_path)
    assert failed(checks) == [VAL_CHECK, EST_CHECK]
    for check in (VAL_CHECK, EST_CHECK):
        assert listed(checks.loc[check, "detail"])[2] == "ARM029a-07-6"


@pytest.mark.parametrize(("sound", "check"), [(VAL[0], VAL_CHECK), (EST[1], EST_CHECK)])
def test_an_average_that_lacks_a_bin_fails(sound: str, check: str, tmp_path: Path) -> None:
    checks = verify(left_out((SOUNDS.index(sound), 7, 1)), tmp_path)
    assert failed(checks) == [check]
    assert listed(checks.loc[check, "detail"]) == ["3", "0", "ARM029a-07-6 (1)"]


@pytest.mark.parametrize(("sound", "check"), [(VAL[0], VAL_CHECK), (EST[1], EST_CHECK)])
def test_a_sound_that_the_release_leaves_out_for_a_cell_is_no_fault_but_counted(
    sound: str, check: str, tmp_path: Path
) -> None:
    checks = verify(left_out((SOUNDS.index(sound), slice(None), 1)), tmp_path)
    assert failed(checks) == []
    assert listed(checks.loc[check, "detail"]) == ["3", "0", "1"]


@pytest.mark.parametrize(("sounds", "compared"), [(VAL, VAL_CHECK), (EST, EST_CHECK)])
def test_a_release_of_one_subset_alone_is_checked(
    sounds: list[str], compared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "SOUNDS", sounds)
    for name, subset in (("VAL", VAL), ("EST", EST)):
        monkeypatch.setattr(releases, name, subset if subset is sounds else [])
    checks = verify(tiny_release(), tmp_path)
    assert failed(checks) == []
    assert checks.loc[[VAL_CHECK, EST_CHECK], "ok"].notna().to_dict() == {
        check: check == compared for check in (VAL_CHECK, EST_CHECK)
    }


def test_spikes_in_wrong_bins_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they would be if times were rounded to samples, which is not the format's rule."""
    monkeypatch.setattr(
        trials, "spike_samples", lambda times, fs: np.round(times * fs).astype(np.int64)
    )
    assert failed(verify(tiny_release(), tmp_path)) == [VAL_CHECK]


def stored_file(folder: Path, kind: str = "") -> Path:
    return next(folder.glob(f"A1{kind}_nat4xr-*.nc"))


def change(file: Path, variable: str, place: tuple[int, ...]) -> None:
    """Change a value of a converted file as if it had been written so: its record fits it."""
    with h5py.File(file, "r+") as content:
        content[variable][place] += 1
    record = json.loads(file.with_suffix(".json").read_text())
    record |= {"bytes": file.stat().st_size, "crc32": isal_zlib.crc32(file.read_bytes())}
    file.with_suffix(".json").write_text(json.dumps(record))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("response", (0, 3, 5, 1)),
        ("psth", (3, 5, 1)),
        ("n_reps", (0, 1)),
        ("spectrogram", (0, 1, 2)),
    ],
)
def test_a_converted_file_that_differs_from_its_sources_is_found(
    variable: str, place: tuple[int, ...], tmp_path: Path
) -> None:
    write(tiny_release(), tmp_path)
    nat4xr.open_area("A1", tmp_path, progressbar=False)
    change(stored_file(tmp_path), variable, place)
    checks = verify(tmp_path)
    assert failed(checks) == [STORED_CHECK]
    assert variable in checks.loc[STORED_CHECK, "detail"]


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("spike_time", (5,)),
        ("spike_sample", (5,)),
        ("spike_neuron", (5,)),
        ("trial_onset", (3,)),
        ("n_outside", (1,)),
    ],
)
def test_a_converted_file_of_spikes_that_differs_from_its_sources_is_found(
    variable: str, place: tuple[int, ...], tmp_path: Path
) -> None:
    write(tiny_release(), tmp_path)
    open_spikes("A1", tmp_path, progressbar=False)
    change(stored_file(tmp_path, "_spikes"), variable, place)
    checks = verify(tmp_path)
    assert failed(checks) == [SPIKES_CHECK]
    assert checks.loc[SPIKES_CHECK, "detail"] == variable


def test_spikes_are_checked_where_they_were_converted_and_nowhere_else(tmp_path: Path) -> None:
    write(tiny_release(), tmp_path)
    assert SPIKES_CHECK not in verify(tmp_path).index
    assert not list(tmp_path.glob("*_spikes_*"))
    open_spikes("A1", tmp_path, progressbar=False)
    row = verify(tmp_path).loc[SPIKES_CHECK]
    assert (row["found"], row["ok"], row["detail"]) == ("the same", True, "")


@pytest.mark.parametrize(("kind", "check"), [("", STORED_CHECK), ("_spikes", SPIKES_CHECK)])
def test_a_converted_file_that_was_damaged_is_made_anew_and_that_is_said(
    kind: str, check: str, tmp_path: Path
) -> None:
    write(tiny_release(), tmp_path)
    open_spikes("A1", tmp_path, progressbar=False)
    flip(stored_file(tmp_path, kind))
    row = verify(tmp_path).loc[check]
    assert (row["found"], row["ok"]) == ("the same", True)
    assert "damaged" in row["detail"]
    assert verify(tmp_path).loc[check, "detail"] == ""


def test_a_converted_file_of_other_sources_is_made_anew_and_that_is_said(tmp_path: Path) -> None:
    write(tiny_release(), tmp_path)
    nat4xr.open_area("A1", tmp_path, progressbar=False)
    checks = verify(changed(VAL[0], 1.0), tmp_path)
    assert "sources" in checks.loc[STORED_CHECK, "detail"]


# --- what cannot be read -----------------------------------------------------------------------


def test_a_broken_file_fails_and_is_named(tmp_path: Path) -> None:
    release = tiny_release()
    release[POPULATION]["A1_NAT4/A1_NAT4.resp.json"] = b"not JSON"
    checks = verify(release, tmp_path)
    assert failed(checks) == ["files can be read"]
    assert "A1_NAT4.resp.json" in checks.loc["files can be read", "detail"]


def test_a_missing_file_is_an_error_that_says_how_to_fetch_it(tmp_path: Path) -> None:
    release = tiny_release()
    del release[TABLE]
    with pytest.raises(FileNotFoundError, match=f"(?s){TABLE} not found.*nat4xr fetch A1"):
        verify(release, tmp_path)


def test_the_area_can_be_given_in_any_case(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nat4xr fetch PEG"):
        verify_area("peg", tmp_path)


def test_another_area_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no area 'V1'"):
        verify_area("V1", tmp_path)


# --- the command -------------------------------------------------------------------------------


def run(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["verify", "A1", *map(str, arguments)])


def test_the_command_succeeds_when_all_checks_hold(tmp_path: Path) -> None:
    result = run("--path", write(tiny_release(), tmp_path))
    assert result.exit_code == 0
    assert re.search(r"\d+ checks: \d+ ok, \d+ not judged\n", result.stdout)


def test_the_command_fails_when_a_check_fails(tmp_path: Path) -> None:
    result = run("--path", write(changed(VAL[0], 1.0), tmp_path))
    assert result.exit_code == 1
    assert f"FAILED  {VAL_CHECK}: 1 (expected: at most 1e-06)" in result.stdout
    assert "ARM029a-07-6 (1)" in result.stdout


def test_the_command_says_at_the_end_that_the_release_is_not_whole(tmp_path: Path) -> None:
    last = run("--path", write(tiny_release(), tmp_path / "part")).stdout.splitlines()[-1]
    assert "3 of the 849 published cells" in last
    last = run("--path", write(simulated(), tmp_path / "simulated")).stdout.splitlines()[-1]
    assert re.fullmatch(r"\d+ checks: \d+ ok, \d+ not judged", last)


def test_machines_read_as_json_that_the_disk_is_full(tmp_path: Path) -> None:
    open_spikes("A1", write(tiny_release(), tmp_path), progressbar=False)
    size = stored_file(tmp_path, "_spikes").stat().st_size
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        result = run("--json", "--path", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    report, _ = json.JSONDecoder().raw_decode(result.stdout)  # click 8.1 adds what went to stderr
    assert (result.exit_code, report["ok"]) == (1, False)
    assert "A1_spikes_nat4xr-v1.nc could not be written" in report["error"]


def test_spikes_are_checked_beside_their_file_whatever_room_for_temporary_files_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_spikes("A1", write(tiny_release(), tmp_path), progressbar=False)
    before = {file.name for file in tmp_path.iterdir()}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    checks = verify(tmp_path)
    assert checks.loc[SPIKES_CHECK, "ok"]
    assert {file.name for file in tmp_path.iterdir()} == before


def test_machines_read_the_same_as_json(tmp_path: Path) -> None:
    result = run("--json", "--path", write(changed(VAL[0], 1.0), tmp_path))
    report = json.loads(result.stdout)
    assert (result.exit_code, report["area"], report["ok"]) == (1, "A1", False)
    checks = {check["check"]: check for check in report["checks"]}
    assert checks["cells"]["found"] == 3
    assert checks["cells"]["ok"] is None
    assert checks[VAL_CHECK]["ok"] is False


def test_the_command_fails_when_files_are_missing(tmp_path: Path) -> None:
    result = run("--path", tmp_path)
    assert result.exit_code == 1
    assert "nat4xr fetch" in result.output


@pytest.mark.parametrize("folder", [".", "missing"])
def test_machines_read_as_json_that_files_are_missing(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["verify", "A1", "--json", "--path", str(tmp_path / folder)])
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    error = report.pop("error")
    assert POPULATION in error
    assert (stopped.value.code, report) == (1, {"area": "A1", "ok": False, "checks": []})
    assert printed.err == f"Error: {error}\n"


@pytest.mark.parametrize("number", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_the_json_is_strict_whatever_a_simulation_states(number: str, tmp_path: Path) -> None:
    release = simulated()
    meta = f'{{"simulated": {{"cells": {number}, "cells_by_animal": [{number}]}}}}'
    release[POPULATION]["A1_NAT4/A1_NAT4.meta.json"] = meta.encode()
    result = run("--json", "--path", write(release, tmp_path))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    report = json.loads(result.stdout, parse_constant=refuse)
    checks = {check["check"]: check for check in report["checks"]}
    stated = "Infinity" if number == "1e999" else number
    assert (checks["cells"]["expected"], checks["cells"]["ok"]) == (stated, False)
    assert checks["cells by animal"]["expected"] == [stated]


# --- the authors' signal-to-noise ratios ---------------------------------------------------------

SNR_CHECK = "signal-to-noise ratios against those of the authors"


def stored(cells: list[str], n_cells: int) -> xr.Dataset:
    """Responses to val sounds of the cells given, and of others that fill up the area."""
    cells = cells + [f"ARM017a-{i:03d}-1" for i in range(n_cells - len(cells))]
    counts = np.random.default_rng(0).poisson(0.3, (4, 5, 40, len(cells)))
    return set_labels(
        xr.Dataset(
            {
                "response": (("stim", "rep", "time", "neuron"), counts),
                "n_reps": (("stim", "neuron"), np.full((4, len(cells)), 5)),
            },
            {
                "subset": ("stim", ["val"] * 3 + ["est"]),
                "neuron": cells,
                "auditory": ("neuron", [True] * len(cells)),
            },
        )
    )


@pytest.mark.parametrize(
    ("factor", "same"), [(1.04, True), (0.97, True), (1.06, False), (0.94, False)]
)
def test_ratios_within_five_percent_of_the_authors_agree(
    monkeypatch: pytest.MonkeyPatch, factor: float, same: bool
) -> None:
    ds = stored(["TNC010a-41-3", "DRX006b-37-1"], 5)
    truth = metrics.trial_snr(ds.response[:3])
    published = {cell: float(truth.sel(neuron=cell)) * factor for cell in ds.neuron.values[:2]}
    monkeypatch.setitem(PUBLISHED_SNR, "A1", {**published, "ARM032a-18-3": 0.00587})
    (check,) = snr_checks("A1", ds)
    assert (check.check, check.expected, check.found) == (SNR_CHECK, 2, 2 * same)
    assert check.ok is same
    assert "TNC010a-41-3" in check.detail


def test_the_percentiles_of_a_whole_peg_are_those_of_the_authors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ds = stored(["ARM027a-22-4"], 398)
    snr = metrics.trial_snr(ds.response[:3]).values
    for factor, same in ((1.0, True), (1.2, False)):
        percentiles = {p: factor * float(np.percentile(snr, p)) for p in PEG_SNR_PERCENTILES}
        monkeypatch.setattr("nat4xr.verification.PEG_SNR_PERCENTILES", percentiles)
        _, check = snr_checks("PEG", ds)
        assert check.ok is same


def test_a_copy_without_these_cells_is_not_judged_by_their_ratios(tmp_path: Path) -> None:
    assert SNR_CHECK not in verify(tiny_release(), tmp_path).index


def test_simulated_data_are_not_held_to_the_ratios_of_recordings(tmp_path: Path) -> None:
    assert SNR_CHECK not in verify(simulated(), tmp_path).index


def test_the_ratios_are_of_twelve_cells_an_area() -> None:
    assert {area: len(cells) for area, cells in PUBLISHED_SNR.items()} == {"A1": 12, "PEG": 12}
