"""Recordings written by NEMS0 and NEMS hold what these libraries read back from them."""

import io
import pickle
import tarfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import nat4xr
from nat4xr import open_recording

from .support.recordings import ALL, SELECTED, Case, assert_holds, cases

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
