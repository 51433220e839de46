"""nat4xr reads recordings of NEMS0 and NEMS as these libraries do."""

import io
import json
import pickle
import shutil
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

import nat4xr
from nat4xr import open_recording

from .support.recordings import ALL, SELECTED, Case, assert_holds, cases, pack, raster, signal

every_case = pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case)) for case in cases(SELECTED)]
)
# Several views of a signal are one warning, tested below.
pytestmark = pytest.mark.filterwarnings("ignore:views.tgz has several views")


@every_case
def test_a_recording_holds_what_nems_reads(case: Case) -> None:
    assert_holds(open_recording(case.path), case)
    assert_holds(xr.open_dataset(case.path, engine="nems", chunks={}), case)


@pytest.mark.skipif(not ALL.is_dir(), reason="the whole collection stands beside the repository")
def test_all_recordings_hold_what_nems_reads(tmp_path: Path) -> None:
    found = cases(ALL)
    assert len(found) == 93
    for case in found:
        rec = xr.open_dataset(case.path)  # by guessing the engine
        assert_holds(rec, case)
        rec.to_netcdf(tmp_path / f"{case}.nc")
        xr.testing.assert_identical(xr.load_dataset(tmp_path / f"{case}.nc"), rec)


@every_case
def test_a_recording_survives_netcdf(case: Case, tmp_path: Path) -> None:
    rec = open_recording(case.path)
    rec.to_netcdf(tmp_path / "rec.nc")
    again = xr.load_dataset(tmp_path / "rec.nc")
    assert_holds(again, case)
    xr.testing.assert_identical(again, rec)


@every_case
def test_an_unpacked_recording_is_the_same(case: Case, tmp_path: Path) -> None:
    with tarfile.open(case.path) as archive:
        archive.extractall(tmp_path / "views.tgz", filter="data")
    with xr.open_dataset(tmp_path / "views.tgz") as rec:
        xr.testing.assert_identical(rec, open_recording(case.path))


# --- addresses and open files -------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server of the recordings."""
    handler = partial(Quiet, directory=SELECTED)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


RASTER = SELECTED / "nems0" / "raster_f64_precision.tgz"


def test_a_recording_may_be_given_by_an_address_on_the_web(server: str) -> None:
    rec = open_recording(f"{server}/nems0/{RASTER.name}")
    xr.testing.assert_identical(rec, open_recording(RASTER))
    xr.testing.assert_identical(pickle.loads(pickle.dumps(rec)), open_recording(RASTER))


def test_an_address_where_nothing_stands_is_a_file_not_found_error(server: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.tgz"):
        open_recording(f"{server}/none.tgz")


@pytest.mark.parametrize("packed", [True, False])
def test_a_recording_may_be_given_by_an_address_of_a_file(packed: bool, tmp_path: Path) -> None:
    path = RASTER
    if not packed:
        path = tmp_path / "a folder"
        with tarfile.open(RASTER) as archive:
            archive.extractall(path, filter="data")
    for address in (path.as_uri(), f"file://{path}"):
        rec = xr.open_dataset(address, engine="nems")
        xr.testing.assert_identical(rec, open_recording(RASTER))


def test_other_addresses_go_through_fsspec() -> None:
    import fsspec

    with fsspec.open("memory://nat4xr/rec.tgz", "wb") as file:
        file.write(RASTER.read_bytes())
    rec = xr.open_dataset("memory://nat4xr/rec.tgz", engine="nems")
    xr.testing.assert_identical(rec, open_recording(RASTER))


def test_a_recording_may_be_an_open_binary_file() -> None:
    with RASTER.open("rb") as file:
        rec = xr.open_dataset(file)
    xr.testing.assert_identical(rec, open_recording(RASTER))  # read after the file was closed
    content = io.BytesIO(RASTER.read_bytes())
    xr.testing.assert_identical(open_recording(content), open_recording(RASTER))
    assert not content.closed


def test_a_text_file_is_refused() -> None:
    with RASTER.open(encoding="latin-1") as file, pytest.raises(TypeError, match="binary"):
        xr.open_dataset(file, engine="nems")


def test_a_broken_recording_in_an_open_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.tgz").write_bytes(RASTER.read_bytes()[:500])
    with (
        (tmp_path / "cut.tgz").open("rb") as file,
        pytest.raises(nat4xr.ReleaseError, match=r"cut\.tgz"),
    ):
        xr.open_dataset(file, engine="nems")


# --- what is said -------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("writer", ["nems", "nems0"])
def test_several_views_of_a_signal_are_one_warning(writer: str) -> None:
    path = SELECTED / writer / "views.tgz"
    with pytest.warns(UserWarning, match=r"views\.tgz.*mask \(2\)") as warned:
        rec = open_recording(path)
    rec.load()
    assert len(warned) == 1


def test_normalization_is_in_the_attributes() -> None:
    attrs = open_recording(SELECTED / "nems0" / "normalized.tgz").resp.attrs
    assert attrs["normalization"] == "minmax"
    np.testing.assert_array_equal(attrs["norm_gain"], [3, 3, 2])
    np.testing.assert_array_equal(attrs["norm_baseline"], [0, 0, 0])


def test_further_columns_of_epochs_are_variables() -> None:
    rec = open_recording(SELECTED / "nems0" / "epochs_extra_cols.tgz")
    assert rec.epoch_n.values.tolist() == [5, 6]
    assert rec.epoch_note.values.tolist() == ["x", "y"]


def test_unusual_event_times_are_told_in_a_comment() -> None:
    spikes = open_recording(SELECTED / "nems" / "point_negative.tgz").spk
    assert spikes.values.tolist() == [-0.1, 0.5]
    assert "1 of 2" in spikes.attrs["comment"]
    assert "negative" in spikes.attrs["comment"]


def test_a_mask_of_one_column_is_one_channel() -> None:
    mask = open_recording(SELECTED / "nems0" / "masked.tgz").mask
    assert mask.sizes == {"time": 300, "mask_channel": 1}


# --- epochs -------------------------------------------------------------------------------------

EXTRACTED = np.load(SELECTED / "nems0" / "epochs.npz")
"""What ``extract_epoch`` of NEMS0 returns, by ``case/signal/epoch``; of event times, once they are
rasterized."""

EVENTS = {"left": [0.05, 0.1, 0.1, 1.2, 3.0], "right": [], "up": [2.999, 1.5, -0.1, np.nan]}
TRIALS = [
    ("TRIAL", 0.0, 1.5),
    ("a", 0.1, 0.3),
    ("TRIAL", 1.5, 3.0),
    ("a", 1.2, 1.3),
    ("b", 2.0, 2.5),
]


def recording(*signals: dict[str, bytes], folder: Path) -> xr.Dataset:
    """A recording of some signals."""
    members = {name: content for files in signals for name, content in files.items()}
    return open_recording(pack(folder / "demo.tgz", members))


def resp(**options: Any) -> dict[str, bytes]:
    return signal("resp", raster(300, 3), channels=["x", "y", "z"], epochs=TRIALS, **options)


def events(fs: float = 1000, epochs: Any = TRIALS) -> dict[str, bytes]:
    return signal("licks", EVENTS, channels=[*EVENTS], fs=fs, kind="PointProcess", epochs=epochs)


@pytest.mark.parametrize("key", [*EXTRACTED], ids=lambda key: key.encode("ascii", "replace"))
@pytest.mark.parametrize("chunks", [None, {}])
@pytest.mark.filterwarnings("ignore:.*are left out")
def test_epochs_are_those_that_nems0_extracts(key: str, chunks: Any) -> None:
    case, name, epoch = key.split("/", 2)
    rec = open_recording(SELECTED / "nems0" / f"{case}.tgz", chunks=chunks)
    found = nat4xr.epochs(rec, epoch)[f"{name}_signal" if name == "time" else name]
    if case == "point_missing":  # NEMS0 forgets the channel without events
        assert not found[:, 2].any()
        found = found[:, :2]
    assert found.dims[:2] == ("occurrence", f"{name}_channel")
    np.testing.assert_allclose(found, EXTRACTED[key], rtol=4e-16, atol=0)


def test_epochs_have_names_times_and_channels(tmp_path: Path) -> None:
    cut = nat4xr.epochs(recording(resp(), folder=tmp_path), "a|b")
    assert cut.sizes == {"occurrence": 3, "resp_channel": 3, "time": 50}
    assert cut.epoch_name.values.tolist() == ["a", "a", "b"]
    assert cut.epoch_start.values.tolist() == [0.1, 1.2, 2.0]
    assert cut.epoch_end.values.tolist() == [0.3, 1.3, 2.5]
    np.testing.assert_array_equal(cut.time, np.arange(50) / 100)
    assert cut.resp_channel.values.tolist() == ["x", "y", "z"]
    table = raster(300, 3)
    np.testing.assert_array_equal(cut.resp[2], table[200:250].T)
    np.testing.assert_array_equal(cut.resp[0, :, :20], table[10:30].T)
    assert cut.resp[0, :, 20:].isnull().all()


def test_epochs_are_cut_when_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rec = recording(resp(), events(), folder=tmp_path)
    monkeypatch.setattr("nat4xr.io.engine._ParsedRaster", None)  # nothing is read
    cut = nat4xr.epochs(rec, "TRIAL")
    assert cut.resp.chunks is not None
    assert cut.licks.chunks is not None
    np.testing.assert_array_equal(cut.licks.sum(["occurrence", "licks_time"]), [4, 0, 2])


def test_events_are_counted_in_samples(tmp_path: Path) -> None:
    licks = nat4xr.epochs(recording(events(100), folder=tmp_path), "TRIAL").licks
    assert licks.dims == ("occurrence", "licks_channel", "time")
    for channel, times in EVENTS.items():
        for occurrence, onset in enumerate([0, 150]):
            counts = [0] * 150
            for time in times:
                if np.isfinite(time) and onset <= np.floor(time * 100) < onset + 150:
                    counts[int(np.floor(time * 100)) - onset] += 1
            assert licks.sel(licks_channel=channel)[occurrence].values.tolist() == counts


def test_tiles_are_put_where_their_epochs_are(tmp_path: Path) -> None:
    tiles = {"a": np.arange(40.0).reshape(2, 20), "b": np.full((2, 3), 7.0)}
    sound = signal("sound", tiles, channels=["l", "r"], kind="TiledSignal", epochs=TRIALS)
    rec = recording(sound, folder=tmp_path)
    cut = nat4xr.epochs(rec, "a|b").sound
    np.testing.assert_array_equal(cut[0, :, :20], tiles["a"])
    np.testing.assert_array_equal(cut[1, :, :10], tiles["a"][:, :10])  # this one is shorter
    np.testing.assert_array_equal(cut[2], np.pad(tiles["b"], ((0, 0), (0, 47))))
    trials = nat4xr.epochs(rec, "TRIAL").sound
    np.testing.assert_array_equal(trials[0, :, 10:30], tiles["a"])
    np.testing.assert_array_equal(trials[1, :, 50:53], tiles["b"])
    assert trials.sum() == tiles["a"].sum() + tiles["a"][:, :10].sum() + tiles["b"].sum()


def test_a_mask_stays_a_mask() -> None:
    mask = nat4xr.epochs(open_recording(SELECTED / "nems" / "raster_bool.tgz"), "TRIAL").mask
    assert mask.dtype == bool


def test_an_exact_name_comes_before_a_pattern(tmp_path: Path) -> None:
    epochs = [("a.b", 0, 1), ("aXb", 1, 2), ("aXb.wav", 2, 3)]
    rec = recording(signal("s", raster(300, 1), channels=["x"], epochs=epochs), folder=tmp_path)
    assert nat4xr.epochs(rec, "a.b").epoch_name.values.tolist() == ["a.b"]
    assert nat4xr.epochs(rec, "a.b$|aX").epoch_name.values.tolist() == ["a.b", "aXb", "aXb.wav"]
    with pytest.raises(KeyError, match=r"no epoch has the name 'b'.*a\.b, aXb, aXb\.wav"):
        nat4xr.epochs(rec, "b")


def test_occurrences_that_overlap_or_lie_outside_are_left_out_with_a_warning(
    tmp_path: Path,
) -> None:
    epochs = [("a", 1, 2), ("a", 1.5, 2.5), ("a", -1, 1), ("a", np.nan, 1), ("a", 3, 4),
              ("a", 2, 3.5), ("b", 1.5, 2)]  # fmt: skip
    rec = recording(signal("s", raster(300, 1), channels=["x"], epochs=epochs), folder=tmp_path)
    with pytest.warns(UserWarning, match="4 occurrences of 'a' .* 3 lie outside .* 1 overlap"):
        cut = nat4xr.epochs(rec, "a")
    assert cut.epoch_start.values.tolist() == [1, 2]
    np.testing.assert_array_equal(cut.s[1, 0, :100], raster(300, 1)[200:, 0])
    assert cut.s[1, 0, 100:].isnull().all()
    assert cut.sizes["time"] == 150


@pytest.mark.filterwarnings("ignore:.*are left out")
def test_no_occurrence_may_be_left(tmp_path: Path) -> None:
    options = {"epochs": [("a", -1, 1)]}
    tiles = signal("t", {"a": np.ones((2, 3))}, channels=["l", "r"], kind="TiledSignal", **options)
    points = signal("p", EVENTS, channels=[*EVENTS], kind="PointProcess", **options)
    rec = recording(signal("s", raster(9, 1), channels=["x"], **options), tiles, points,
                    folder=tmp_path)  # fmt: skip
    cut = nat4xr.epochs(rec, "a").compute()
    assert (cut.s.shape, cut.t.shape, cut.p.shape) == ((0, 1, 0), (0, 2, 0), (0, 3, 0))


def test_signals_with_other_epochs_or_rates_have_dims_of_their_own(tmp_path: Path) -> None:
    pupil = signal("size", raster(90, 1), channels=["x"], fs=30, epochs=[("TRIAL", 0.5, 2)])
    cut = nat4xr.epochs(recording(resp(), pupil, events(), folder=tmp_path), "TRIAL")
    assert cut.resp.dims == ("occurrence", "resp_channel", "time")
    assert cut.licks.dims == ("occurrence", "licks_channel", "licks_time")
    assert cut["size"].dims == ("size_occurrence", "size_channel", "size_time")
    assert cut.size_epoch_start.values.tolist() == [0.5]
    np.testing.assert_array_equal(cut["size"][0, 0], raster(90, 1)[15:60, 0])


def test_epochs_of_a_part_of_a_recording_are_right_or_refused(tmp_path: Path) -> None:
    rec = recording(resp(), folder=tmp_path)
    whole = nat4xr.epochs(rec, "b").resp
    xr.testing.assert_equal(
        nat4xr.epochs(rec.isel(resp_channel=[2, 0]), "b").resp, whole[:, [2, 0]]
    )
    xr.testing.assert_equal(nat4xr.epochs(rec.isel(resp_channel=1), "b").resp, whole[:, 1])
    xr.testing.assert_equal(nat4xr.epochs(rec.sel(time=slice(1.7, None)), "b").resp, whole)
    for other in (rec.isel(time=slice(None, None, 2)), rec.coarsen(time=2).sum()):
        with pytest.raises(ValueError, match=r"'resp'.* consecutive"):
            nat4xr.epochs(other, "b")
    points = recording(events(), folder=tmp_path)
    with pytest.raises(ValueError, match="'licks' no longer has"):
        nat4xr.epochs(points.isel(licks_channel=[0, 1]), "b")
    with pytest.raises(TypeError, match="DataArray"):
        nat4xr.epochs(rec.resp, "b")
    with pytest.raises(ValueError, match="no signals"):
        nat4xr.epochs(rec[["epoch_name"]], "b")
    with pytest.raises(ValueError, match="no epochs"):
        nat4xr.epochs(rec[["resp"]], "b")


def test_epochs_of_a_recording_of_which_parts_were_cut_out_are_refused(tmp_path: Path) -> None:
    members = resp()
    about = json.loads(members["demo/demo.resp.json"]) | {"segments": [[0, 100], [200, 400]]}
    members["demo/demo.resp.json"] = json.dumps(about).encode()
    rec = recording(members, folder=tmp_path)
    assert json.loads(rec.resp.attrs["segments"]) == [[0, 100], [200, 400]]
    with pytest.raises(ValueError, match="cut out of 'resp'"):
        nat4xr.epochs(rec, "b")


def test_epochs_of_a_recording_in_netcdf_are_the_same(tmp_path: Path) -> None:
    tiles = {"a": np.ones((2, 20)), "b": np.full((2, 3), 7.0)}
    sound = signal("sound", tiles, channels=["l", "r"], kind="TiledSignal", epochs=TRIALS)
    rec = recording(resp(), events(), sound, folder=tmp_path)
    rec.to_netcdf(tmp_path / "rec.nc")
    with xr.open_dataset(tmp_path / "rec.nc") as again:
        xr.testing.assert_identical(
            nat4xr.epochs(again, "TRIAL").load(), nat4xr.epochs(rec, "TRIAL").load()
        )


def nems_lines() -> list[tuple[str, str]]:
    """Tasks and our lines on the page for users of NEMS."""
    page = (Path(__file__).parents[1] / "docs" / "coming_from_nems.md").read_text()
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    return [(row[0].strip("| "), row[2].removesuffix(" |").strip("`")) for row in rows]


@pytest.mark.parametrize(("task", "line"), nems_lines(), ids=[task for task, _ in nems_lines()])
def test_lines_beside_those_of_nems_run(
    nems0_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = nems0_release / "A1_NAT4_ozgf.fs100.ch18.tgz"
    rec = open_recording(path)
    names = rec.epoch_name.values
    given = {
        "nat4xr": nat4xr,
        "path": path,
        "rec": rec,
        "cells": rec.resp_channel.values[:2].tolist(),
        "name": next(str(name) for name in names if name.startswith("STIM_")),
        "site": rec,
    }
    exec(f"{'' if line.startswith('rec = ') else 'result = '}{line}", given)
    result = given.get("result", given["rec"])
    if task.startswith(("all samples", "scale")):
        assert result.shape[0] in (rec.sizes["resp_channel"], rec.sizes["time"])
    if task.startswith(("all occurrences", "average over")):
        known = np.load(nems0_release / "reference.npz")
        psth = known["A1_psth"][known["all_stims"].tolist().index(given["name"])]
        found = result if result.ndim == 2 else result[0]
        np.testing.assert_array_equal(found.T.values.astype(np.float32), psth.astype(np.float32))


def test_ten_lines_of_nems_and_more_are_on_the_page() -> None:
    assert len(nems_lines()) >= 10


def test_an_area_is_the_same_from_rasters_in_hdf5_and_a_mask_of_one_column(
    nems0_release: Path, tmp_path: Path
) -> None:
    """As NEMS writes population recordings since 2026."""
    release, as_published = tmp_path / "release", tmp_path / "as_published"
    for folder in (release, as_published):
        shutil.copytree(nems0_release, folder)
    population = release / "PEG_NAT4_ozgf.fs100.ch18.tgz"
    members: dict[str, bytes] = {}
    with tarfile.open(population) as archive:
        for member in archive:
            content = archive.extractfile(member)
            members[member.name] = b"" if content is None else content.read()
    cells = json.loads(next(c for n, c in members.items() if n.endswith(".resp.json")))["chans"]
    for name in [name for name in members if name.endswith(".csv") and "epoch" not in name]:
        table = np.loadtxt(io.BytesIO(members.pop(name)), delimiter=",", ndmin=2)
        if ".mask_est." in name:
            table = table[:, :1] > 0
            about = json.loads(members[name.replace(".csv", ".json")]) | {"chans": cells}
            members[name.replace(".csv", ".json")] = json.dumps(about).encode()
        content = io.BytesIO()
        with h5py.File(content, "w") as file:
            file.create_dataset("raster", data=table.T, compression="gzip")
        members[name.replace(".csv", ".h5")] = content.getvalue()
    pack(population, members)
    found = nat4xr.open_area("PEG", release, download=False, progressbar=False).load()
    known = nat4xr.open_area("PEG", as_published, download=False, progressbar=False).load()
    xr.testing.assert_identical(found, known)
    assert open_recording(population).mask_est.dtype == bool
