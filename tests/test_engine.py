"""NEMS recordings as Datasets: their layout, laziness, and recognition by the engine."""

import ast
import gzip
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray

import nat4xr
from nat4xr.io import nems
from nat4xr.io.engine import NemsBackendEntrypoint, open_recording

from .support import old_xarray_cannot_select_nothing
from .support.recordings import EPOCHS, Members, pack, raster, signal

POPULATION = "A1_NAT4_ozgf.fs100.ch18.tgz"
RESP = signal("resp", raster(300, 3), channels=["c1", "c2", "c3"])
STIM = signal("stim", raster(300, 2, seed=1), channels=["low", "high"])
PUPIL = signal("pupil", raster(90, 1, seed=2), channels=["size"], fs=30)
LICKS = signal(
    "licks", {"left": [0.5, 2.25], "right": [], "up": [0.1]}, channels=["left", "right", "up"],
    fs=1000, kind="PointProcess",
)  # fmt: skip
TILES = {"STIM_a": np.arange(6.0).reshape(2, 3), "STIM_b": -np.arange(6.0).reshape(2, 3)}
TILED = signal("sound", TILES, channels=["l", "r"], kind="TiledSignal")
RAGGED = signal(
    "sound",
    {"STIM_a": TILES["STIM_a"], "STIM_b": np.ones((2, 1))},
    channels=["l", "r"],
    kind="TiledSignal",
)
META = {"demo/demo.meta.json": json.dumps({"animal": "ferret", "age": 2.5}).encode()}
ALL = META | RESP | STIM | PUPIL | LICKS | TILED


def unpack(folder: Path, members: Members) -> Path:
    for name, content in members.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


@pytest.fixture
def open_members(tmp_path: Path) -> Callable[..., xr.Dataset]:
    """Write a recording's files to an archive and open it."""

    def write_and_open(members: Members, **options: Any) -> xr.Dataset:
        return open_recording(pack(tmp_path / "demo.tgz", members), **options)

    return write_and_open


@pytest.fixture
def site(nems0_release: Path, tmp_path: Path) -> Path:
    """A site recording of PEG."""
    with zipfile.ZipFile(nems0_release / "PEG_single_sites.zip") as archive:
        name = archive.namelist()[0]
        (tmp_path / "site.tgz").write_bytes(archive.read(name))
    return tmp_path / "site.tgz"


# --- what NEMS0 wrote ---------------------------------------------------------------------------


@pytest.mark.parametrize(("variable", "reference"), [("resp", "psth"), ("stim", "spectrogram")])
def test_a_population_recording_holds_what_nems0_reads_from_it(
    nems0_release: Path, variable: str, reference: str
) -> None:
    rec = open_recording(nems0_release / POPULATION)
    known = np.load(nems0_release / "reference.npz")
    epochs = rec[["epoch_name", "epoch_start", "epoch_end"]].to_dataframe()
    epochs = epochs.set_index("epoch_name")
    for stim, expected in zip(known["all_stims"], known[f"A1_{reference}"], strict=True):
        start, end = epochs.loc[stim, ["epoch_start", "epoch_end"]]
        found = rec[variable].sel(time=slice(start - 0.005, end - 0.005)).values
        expected = expected if reference == "psth" else expected.T
        np.testing.assert_array_equal(found.astype(np.float32), expected.astype(np.float32))
    assert rec.resp_channel.values.tolist() == known["A1_cells"].tolist()


def test_a_site_recording_holds_the_spikes_that_nems0_counts(
    nems0_release: Path, site: Path
) -> None:
    rec = open_recording(site)
    known = np.load(nems0_release / "reference.npz")
    ends = np.cumsum(rec.resp_row_size.values)
    spikes = dict(zip(rec.resp_channel.values, np.split(rec.resp.values, ends[:-1]), strict=True))
    starts = rec.epoch_start.groupby(rec.epoch_name)
    for cell, times in spikes.items():
        samples = np.floor(times * 1000).astype(int)
        column = known["PEG_cells"].tolist().index(cell)
        for stim, expected in zip(known["all_stims"], known["PEG_trials"], strict=False):
            onsets = np.round(np.sort(starts[stim].values) * 1000).astype(int)
            found = [np.histogram(samples - onset, range(0, 1501, 10))[0] for onset in onsets]
            # The last bin of a histogram is closed: take out what lies on its edge.
            for counts, onset in zip(found, onsets, strict=True):
                counts[-1] -= np.count_nonzero(samples - onset == 1500)
            np.testing.assert_array_equal(found, expected[..., column])


# --- layout -------------------------------------------------------------------------------------


def test_a_raster_has_time_and_named_channels(open_members: Callable[..., xr.Dataset]) -> None:
    rec = open_members(RESP)
    assert rec.resp.dims == ("time", "resp_channel")
    assert rec.resp.dtype == np.float64
    assert rec.resp_channel.values.tolist() == ["c1", "c2", "c3"]
    np.testing.assert_array_equal(rec.time, np.arange(300) / 100)
    np.testing.assert_array_equal(rec.resp, raster(300, 3))
    assert rec.time.attrs["units"] == "s"
    assert rec.resp.attrs["sampling_rate"] == 100


def test_rasters_of_the_same_rate_and_length_share_their_time(
    open_members: Callable[..., xr.Dataset],
) -> None:
    shorter = signal("lfp", raster(200, 1), channels=["x"])
    rec = open_members(RESP | STIM | PUPIL | shorter)
    assert rec.resp.dims[0] == rec.stim.dims[0] == "time"
    assert rec.pupil.dims[0] == "pupil_time"
    assert rec.lfp.dims[0] == "lfp_time"
    assert rec.sizes["pupil_time"] == 90
    np.testing.assert_array_equal(rec.pupil_time, np.arange(90) / 30)
    assert rec.sizes["lfp_time"] == 200


def test_a_point_process_is_a_contiguous_ragged_array(
    open_members: Callable[..., xr.Dataset],
) -> None:
    rec = open_members(LICKS)
    assert rec.licks.dims == ("licks_event",)
    assert rec.licks.values.tolist() == [0.5, 2.25, 0.1]
    assert rec.licks.attrs["units"] == "s"
    assert rec.licks_channel.values.tolist() == ["left", "right", "up"]
    assert rec.licks_row_size.dims == ("licks_channel",)
    assert rec.licks_row_size.values.tolist() == [2, 0, 1]
    assert rec.licks_row_size.attrs["sample_dimension"] == "licks_event"


def test_tiles_of_one_length_are_stacked(open_members: Callable[..., xr.Dataset]) -> None:
    rec = open_members(TILED)
    assert rec.sound.dims == ("sound_tile", "sound_channel", "sound_time")
    assert rec.sound_time.values.tolist() == [0, 0.01, 0.02]
    for name, tile in TILES.items():
        np.testing.assert_array_equal(rec.sound.sel(sound_tile=name), tile)


def test_tiles_of_several_lengths_stand_one_after_another(
    open_members: Callable[..., xr.Dataset],
) -> None:
    rec = open_members(RAGGED)
    assert rec.sound.dims == ("sound_sample", "sound_channel")
    assert rec.sound_tile.values.tolist() == ["STIM_a", "STIM_b"]
    assert rec.sound_row_size.values.tolist() == [3, 1]
    np.testing.assert_array_equal(rec.sound[:3].T, TILES["STIM_a"])
    np.testing.assert_array_equal(rec.sound[3], [1, 1])


def test_epochs_are_a_table(open_members: Callable[..., xr.Dataset]) -> None:
    rec = open_members(RESP | STIM | LICKS)
    table = rec[["epoch_name", "epoch_start", "epoch_end"]].to_dataframe()
    assert list(table.itertuples(index=False, name=None)) == EPOCHS
    assert {name for name in rec.variables if "epoch" in str(name)} == set(table.columns)


def test_a_signal_with_other_epochs_has_a_table_of_its_own(
    open_members: Callable[..., xr.Dataset],
) -> None:
    rec = open_members(RESP | STIM | signal("a", raster(300, 1), channels=["x"], epochs=EPOCHS[:1]))
    assert rec.epoch_name.values.tolist() == ["TRIAL", "STIM_a", "TRIAL"]
    assert rec.a_epoch_name.values.tolist() == ["TRIAL"]
    assert rec.a_epoch_end.values.tolist() == [1.5]


def test_meta_data_are_attributes(open_members: Callable[..., xr.Dataset]) -> None:
    meta = {"animal": "ferret", "age": 2, "cells": ["a", "b"], "awake": True, "none": None}
    members = signal("resp", raster(3, 1), channels=["c"], meta={"rig": {"gain": 3}})
    rec = open_members(members | {"demo/demo.meta.json": json.dumps(meta).encode()})
    assert rec.attrs == {
        "recording": "demo", "animal": "ferret", "age": 2, "cells": '["a", "b"]', "awake": 1,
        "none": "null",
    }  # fmt: skip
    assert type(rec.attrs["awake"]) is int
    assert json.loads(rec.resp.attrs["meta"]) == {"rig": {"gain": 3}}


def test_meta_data_that_no_file_could_hold_are_kept_as_json(
    open_members: Callable[..., xr.Dataset], tmp_path: Path
) -> None:
    meta = {"coordinates": "x", "a/b": 1, "_FillValue": 2, "": 3, "recording": "z", "meta": [1]}
    text = {"nul": "a\0b", "half": "\ud800", "big": 2**70}
    rec = open_members(META | RESP | {"demo/demo.meta.json": json.dumps(meta | text).encode()})
    assert json.loads(rec.attrs["meta"]) == meta
    assert {name: json.loads(rec.attrs[name]) for name in text} == text
    rec.to_netcdf(tmp_path / "rec.nc")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "rec.nc"), rec)


@pytest.mark.parametrize(
    "name", ["time", "epoch", "epoch_name", "resp_channel", "resp.fs100", "my x"]
)
def test_a_signal_may_have_any_name(
    open_members: Callable[..., xr.Dataset], name: str, tmp_path: Path
) -> None:
    values = raster(300, 1, seed=3)
    rec = open_members(RESP | signal(name, values, channels=["x"]))
    variable = name if name in ("resp.fs100", "my x") else f"{name}_signal"
    np.testing.assert_array_equal(rec[variable], values)
    assert rec[variable].dims == ("time", f"{name}_channel")
    rec.to_netcdf(tmp_path / "rec.nc")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "rec.nc"), rec)


def test_a_signal_called_as_another_is_called_in_the_dataset_keeps_its_name(
    open_members: Callable[..., xr.Dataset],
) -> None:
    first, second = raster(300, 1, seed=3), raster(300, 1, seed=4)
    rec = open_members(
        signal("time", first, channels=["x"]) | signal("time_signal", second, channels=["x"])
    )
    np.testing.assert_array_equal(rec["time_signal_signal"], first)
    np.testing.assert_array_equal(rec["time_signal"], second)


def test_variables_can_be_left_out(tmp_path: Path) -> None:
    path = pack(tmp_path / "demo.tgz", ALL)
    whole = xr.open_dataset(path, engine="nems")
    without = xr.open_dataset(path, engine="nems", drop_variables=["resp", "epoch_end", "what"])
    assert set(whole.variables) - set(without.variables) == {"resp", "epoch_end"}
    assert "resp" not in xr.open_dataset(path, engine="nems", drop_variables="resp")


@pytest.mark.parametrize(
    "members",
    [ALL, RESP, LICKS, RAGGED,
     signal("resp", raster(3, 1), channels=["c"], epochs=[]),
     signal("resp", {"c": []}, channels=["c"], kind="PointProcess"),
     signal("resp", {}, channels=[], kind="PointProcess"),
     signal("resp", {}, channels=["c"], kind="TiledSignal"),
     signal("resp", np.array([[np.nan], [1.5]]), channels=["ohne Ä/Ω"])],
)  # fmt: skip
@pytest.mark.parametrize("chunks", [None, {}])
def test_a_recording_survives_netcdf(
    open_members: Callable[..., xr.Dataset], tmp_path: Path, members: Members, chunks: Any
) -> None:
    rec = open_members(members, chunks=chunks)
    rec.to_netcdf(tmp_path / "rec.nc")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "rec.nc"), rec)


def test_recordings_of_the_release_survive_netcdf(
    nems0_release: Path, site: Path, tmp_path: Path
) -> None:
    for path in (nems0_release / POPULATION, site):
        rec = open_recording(path)
        rec.to_netcdf(tmp_path / "rec.nc")
        xr.testing.assert_identical(xr.load_dataset(tmp_path / "rec.nc"), rec)


@pytest.mark.filterwarnings("ignore")  # zarr on its own future
def test_a_recording_survives_zarr(open_members: Callable[..., xr.Dataset], tmp_path: Path) -> None:
    rec = open_members(ALL, chunks={})
    rec.to_zarr(tmp_path / "rec.zarr")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "rec.zarr", engine="zarr"), rec)


# --- laziness -----------------------------------------------------------------------------------


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which rasters have been parsed."""
    names: list[str] = []
    read = nems.read

    def logged(path: Path, *, signals: Sequence[str] = (), **options: Any) -> nems.Recording:
        names.extend(signals)
        return read(path, signals=signals or None, **options)

    monkeypatch.setattr(nems, "read", logged)
    return names


def test_a_raster_is_parsed_when_first_asked_for_and_once(
    open_members: Callable[..., xr.Dataset], parsed: list[str]
) -> None:
    rec = open_members(ALL, chunks={})
    assert rec.resp.sizes == {"time": 300, "resp_channel": 3}
    assert parsed == []
    rec.resp[0].load()
    rec.resp[1].load()
    (rec.resp * 2).mean().load()
    assert parsed == ["resp"]


def test_threads_that_ask_together_wait_for_one_parsing(
    open_members: Callable[..., xr.Dataset], parsed: list[str]
) -> None:
    rec = open_members(RESP, chunks={"time": 10})
    together = threading.Barrier(4)

    def ask(i: int) -> None:
        together.wait()
        rec.resp[i].load()

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert parsed == ["resp"]


def test_opening_does_not_look_at_the_values_of_rasters(
    open_members: Callable[..., xr.Dataset],
) -> None:
    rec = open_members(RESP | {"demo/demo.resp.csv": b"1,2,spike\n" * 4})
    assert rec.sizes["time"] == 4
    with pytest.raises(nat4xr.ReleaseError, match=r"demo\.resp\.csv in demo\.tgz"):
        rec.resp.load()


@pytest.mark.parametrize(
    ("csv_bytes", "n_samples"), [(b"1,2,3", 1), (b"1,2,3\n", 1), (b"1,2,3\n4,5,6", 2)]
)
def test_lines_are_counted_as_they_are_parsed(
    open_members: Callable[..., xr.Dataset], csv_bytes: bytes, n_samples: int
) -> None:
    rec = open_members(RESP | {"demo/demo.resp.csv": csv_bytes})
    assert rec.resp.load().sizes["time"] == n_samples


def test_channels_that_do_not_fit_their_names_are_numbered_with_a_warning(
    open_members: Callable[..., xr.Dataset],
) -> None:
    with pytest.warns(UserWarning, match=r"demo\.tgz.* 2 channels of 'resp'.* 3 names"):
        rec = open_members(RESP | {"demo/demo.resp.csv": b"1,2\n"})
    assert rec.resp_channel.values.tolist() == ["resp0", "resp1"]


@pytest.mark.parametrize(
    "key",
    [
        {"time": 7},
        {"time": -1, "resp_channel": 2},
        {"resp_channel": 1},
        {"time": slice(10, 200, 7)},
        {"time": slice(None, None, -3), "resp_channel": slice(None, None, -1)},
        {"time": [5, 2, 299, 5], "resp_channel": [2, 0]},
        {"time": slice(0, 0)},
        pytest.param({"time": []}, marks=old_xarray_cannot_select_nothing),
        {"time": xr.DataArray([3, 1], dims="k"), "resp_channel": xr.DataArray([0, 2], dims="k")},
    ],
)
@pytest.mark.parametrize("block", [4, 2**22])
def test_any_part_of_a_raster_can_be_had(
    open_members: Callable[..., xr.Dataset],
    monkeypatch: pytest.MonkeyPatch,
    key: dict[str, Any],
    block: int,
) -> None:
    monkeypatch.setattr("nat4xr.io.engine.BLOCK", block)
    lazy = open_members(RESP).resp
    known = xr.DataArray(raster(300, 3), dims=lazy.dims, coords=lazy.coords)
    xr.testing.assert_equal(lazy.isel(key), known.isel(key))


def test_chunks_are_dask_arrays(open_members: Callable[..., xr.Dataset]) -> None:
    assert open_members(RESP).resp.chunks is None
    assert open_members(RESP, chunks={}).resp.chunks == ((300,), (3,))
    assert open_members(RESP, chunks={"time": 200}).resp.chunks == ((200, 100), (3,))


def test_a_pickled_recording_goes_by_its_path(
    nems0_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nems0_release)
    stim = open_recording(POPULATION, chunks={}).stim
    pickled = pickle.dumps(stim)
    monkeypatch.chdir("/")
    assert len(pickled) < stim.nbytes / 2
    xr.testing.assert_identical(pickle.loads(pickled), stim)


@pytest.mark.parametrize("other", [raster(200, 3), raster(300, 3, seed=1)])
@pytest.mark.parametrize("unpacked", [False, True])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_recording_that_was_replaced_after_it_was_opened_is_refused(
    tmp_path: Path, other: NDArray[np.float64], unpacked: bool, pickled: bool
) -> None:
    write = unpack if unpacked else pack
    path = write(tmp_path / "demo.tgz", RESP)
    rec = open_recording(path)
    sent = pickle.dumps(rec)
    if unpacked:
        shutil.rmtree(path)
    write(path, signal("resp", other, channels=["c3", "c2", "c1"]))
    os.utime(next(path.rglob("*.csv")) if unpacked else path, ns=(0, 0))
    with pytest.raises(nat4xr.ReleaseError, match=r"demo\.tgz was replaced"):
        (pickle.loads(sent) if pickled else rec).resp.load()
    np.testing.assert_array_equal(open_recording(path).resp, other)


def test_a_replaced_recording_of_the_same_size_and_time_is_known_by_its_channels(
    tmp_path: Path,
) -> None:
    path = unpack(tmp_path / "demo", RESP)
    rec = open_recording(path)
    before = {file: file.stat() for file in path.rglob("*.json")}
    unpack(path, signal("resp", raster(300, 3, seed=1), channels=["c3", "c2", "c1"]))
    for file, status in before.items():
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(nat4xr.ReleaseError, match=r"demo was replaced"):
        rec.resp.load()


@pytest.mark.parametrize("form", ["demo.tar", "folder"])
def test_a_replaced_recording_of_the_same_size_time_and_channels_is_known_by_its_values(
    tmp_path: Path, form: str
) -> None:
    def write(members: Members) -> Path:
        path = tmp_path / form
        unpack(path, members) if form == "folder" else pack(path, members, "w")
        for file in [path, *path.rglob("*")]:
            os.utime(file, ns=(0, 0))
        return path

    path = write(RESP)
    rec = open_recording(path)
    before = path.stat().st_size
    write(signal("resp", raster(300, 3)[::-1], channels=["c1", "c2", "c3"]))
    assert path.stat().st_size == before
    with pytest.raises(nat4xr.ReleaseError, match=f"{form} was replaced"):
        rec.resp.load()


def test_what_was_read_before_a_recording_was_replaced_is_kept(tmp_path: Path) -> None:
    rec = open_recording(pack(tmp_path / "demo.tgz", RESP))
    rec.resp[0].load()
    (tmp_path / "demo.tgz").unlink()
    np.testing.assert_array_equal(rec.resp, raster(300, 3))


def test_closing_lets_go_of_what_was_parsed(
    open_members: Callable[..., xr.Dataset], parsed: list[str]
) -> None:
    with open_members(RESP) as rec:
        rec.resp[0].load()
    rec.resp[1].load()
    assert parsed == ["resp", "resp"]


def modules_after(code: str) -> set[str]:
    """The modules that a fresh process has imported after some code."""
    code += "\nimport sys; print({*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout))


def test_the_engine_is_light_to_import() -> None:
    heavy = {"h5py", "dask", "scipy", "netCDF4", "pooch", "requests", "matplotlib", "fsspec"}
    imported = modules_after("import nat4xr.io.engine") - modules_after("import xarray")
    assert not imported & heavy


@pytest.mark.filterwarnings("ignore")  # zarr on its own future
def test_opening_other_formats_imports_nothing_of_nat4xr(tmp_path: Path) -> None:
    ds = xr.Dataset({"resp": ("time", [1.0, 2.0])})
    ds.to_netcdf(tmp_path / "a.nc")
    ds.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    ds.to_netcdf(tmp_path / "a.tgz", engine="netcdf4")
    for name in ("a.nc", "a.zarr", "a.tgz"):
        modules = modules_after(f"import xarray; xarray.open_dataset({str(tmp_path / name)!r})")
        assert not {module for module in modules if module.partition(".")[0] == "nat4xr"}
    assert "nat4xr_engine" in modules


# --- recognising recordings ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["demo.tgz", "demo.tar.gz", "DEMO.TGZ"])
def test_xarray_opens_an_archive_without_being_told_the_engine(tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / name, ALL)
    for given in (path, str(path)):
        xr.testing.assert_identical(xr.open_dataset(given), open_recording(path))


@pytest.mark.parametrize("wrapped", [False, True])
def test_xarray_opens_a_folder_without_being_told_the_engine(tmp_path: Path, wrapped: bool) -> None:
    unpack(tmp_path / "outer", ALL)
    path = tmp_path / "outer" if wrapped else tmp_path / "outer" / "demo"
    rec = xr.open_dataset(path)
    xr.testing.assert_identical(rec, open_recording(pack(tmp_path / "demo.tgz", ALL)))


def test_a_plain_tar_is_opened_as_well(tmp_path: Path) -> None:
    path = pack(tmp_path / "demo.tar", ALL, "w")
    xr.testing.assert_identical(
        xr.open_dataset(path), open_recording(pack(tmp_path / "demo.tgz", ALL))
    )


def test_the_recordings_of_the_release_are_recognised(nems0_release: Path, site: Path) -> None:
    guess = NemsBackendEntrypoint().guess_can_open
    assert guess(nems0_release / POPULATION)
    assert guess(site)


@pytest.mark.parametrize("last", ["json", "csv", "epoch.csv"])
def test_a_recording_is_recognised_in_whatever_order_its_members_come(
    tmp_path: Path, last: str
) -> None:
    members = dict(sorted(RESP.items(), key=lambda item: item[0] == f"demo/demo.resp.{last}"))
    assert NemsBackendEntrypoint().guess_can_open(pack(tmp_path / "demo.tgz", members))


def test_the_finders_droppings_do_not_hide_a_recording(tmp_path: Path) -> None:
    members = {"._demo": b"\0", "demo/._demo.resp.csv": b"\0", "demo/.DS_Store": b"\0"} | RESP
    assert NemsBackendEntrypoint().guess_can_open(pack(tmp_path / "demo.tgz", members))
    assert NemsBackendEntrypoint().guess_can_open(unpack(tmp_path / "outer", members))


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"README": b"a source archive"},
        {"src/main.c": b"", **RESP},
        {"app/package.lock.json": b'{"version": 3}'},
        {"app/package.lock.json": b"not JSON"},
        {"app/package.lock.json": b"[1]"},
        {"app/table.part.csv": b"a,b\n1,2\n"},
        {"demo/demo.meta.json": b"{}"},
        {"demo/demo.resp.json": b'{"chans": "c1", "fs": 100}'},
        {"demo/.hidden": bytes(2**21), **RESP},
    ],
)
def test_other_archives_and_folders_are_not_claimed(tmp_path: Path, members: Members) -> None:
    guess = NemsBackendEntrypoint().guess_can_open
    assert not guess(pack(tmp_path / "other.tgz", members))
    folder = unpack(tmp_path / "other", {k: v for k, v in members.items() if k not in RESP})
    folder.mkdir(exist_ok=True)
    assert not guess(folder)


@pytest.mark.filterwarnings("ignore")  # zarr on its own future
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_other_formats_of_xarray_are_not_claimed(tmp_path: Path, zarr_format: int) -> None:
    ds = xr.Dataset({"resp": ("time", [1.0, 2.0])})
    ds.to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    ds.to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format)
    shutil.copy(tmp_path / "a.nc", tmp_path / "a.tgz")
    (tmp_path / "b.tgz").write_bytes(gzip.compress((tmp_path / "a.nc").read_bytes()))
    guess = NemsBackendEntrypoint().guess_can_open
    assert [path.name for path in tmp_path.iterdir() if guess(path)] == []
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "a.nc"), ds)
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "a.zarr"), ds)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x1f\x8b", b"\x1f\x8b" + bytes(100), bytes(10_000), gzip.compress(b"no tar")],
    ids=["empty", "no gzip", "broken gzip", "zeros", "gzip of something else"],
)
def test_broken_archives_are_not_claimed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tgz").write_bytes(content)
    assert not NemsBackendEntrypoint().guess_can_open(tmp_path / "a.tgz")


def test_an_archive_cut_short_before_its_proof_is_not_claimed(tmp_path: Path) -> None:
    path = pack(tmp_path / "demo.tgz", ALL)
    path.write_bytes(path.read_bytes()[:60])
    assert not NemsBackendEntrypoint().guess_can_open(path)


@pytest.mark.parametrize(
    "thing",
    [
        "https://example.org/demo.tgz",
        "s3://bucket/demo.tgz",
        "/no/such/demo.tgz",
        "~nobody-of-this-name/demo.tgz",
        "a\0b.tgz",
        "",
        b"demo.tgz",
        pytest.param(io.BytesIO(b"\x1f\x8b"), id="BytesIO"),
        b"\x1f\x8b",
        None,
        3,
        ["demo.tgz"],
        xr.Dataset(),
    ],
    ids=repr,
)
def test_what_is_no_file_of_this_machine_is_not_claimed(thing: object) -> None:
    assert not NemsBackendEntrypoint().guess_can_open(thing)


def test_an_open_file_is_recognised_and_left_where_it_was(tmp_path: Path) -> None:
    guess = NemsBackendEntrypoint().guess_can_open
    with pack(tmp_path / "demo.tgz", ALL).open("rb") as file:
        file.seek(17)
        assert guess(file)
        assert file.tell() == 17
    assert not guess(io.BytesIO(b"\x89HDF" + bytes(10_000)))
    assert not guess(io.BytesIO(gzip.compress(bytes(10_000))))
    assert not guess(io.StringIO("text"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("name", ["demo.tgz", "demo/demo.resp.json", "demo/demo.resp.csv"])
def test_guessing_never_waits_for_a_pipe(tmp_path: Path, name: str) -> None:
    unpack(tmp_path, {name: content for name, content in RESP.items() if "json" not in name})
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    code = (
        "from nat4xr_engine import NemsBackendEntrypoint as E\n"
        f"print(E().guess_can_open({str(tmp_path / name)!r}), "
        f"E().guess_can_open({str((tmp_path / name).parent)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"]
    reader, writer = os.pipe()
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert not NemsBackendEntrypoint().guess_can_open(pipe)


class Counting(io.FileIO):
    """A file that counts the bytes that are read of it."""

    n_bytes = 0

    def read(self, size: int | None = -1) -> bytes:
        content = super().read(-1 if size is None else size)
        self.n_bytes += len(content)
        return content

    def readinto(self, buffer: Any) -> int:
        n = super().readinto(buffer)
        self.n_bytes += n
        return n


@pytest.mark.parametrize("kind", ["csv", "h5"])
@pytest.mark.parametrize("mode", ["w:gz", "w"])
def test_guessing_reads_little_of_a_large_recording(tmp_path: Path, kind: str, mode: str) -> None:
    """Even where much data come before the first JSON, as in the archives that NEMS writes."""
    noise = np.random.default_rng(0).bytes(2**23)
    head = b"\x89HDF\r\n\x1a\n" if kind == "h5" else b"1.5,-0.25,nan\n"
    members = {"demo/demo.meta.json": b"{}", f"demo/demo.resp.{kind}": head + noise, **RESP}
    path = pack(tmp_path / "demo.tgz", members, mode)
    with Counting(path) as file:
        assert NemsBackendEntrypoint().guess_can_open(file)
        assert file.n_bytes < 2**20
    members[f"demo/demo.resp.{kind}"] = b"name,start\n" + noise
    with Counting(pack(path, members, mode)) as file:
        assert not NemsBackendEntrypoint().guess_can_open(file)
        assert file.n_bytes < 2**20


def test_an_archive_with_other_files_is_known_by_the_first(
    tmp_path: Path,
) -> None:
    path = pack(
        tmp_path / "a.tgz", {"README": b"", "data.bin": np.random.default_rng(0).bytes(2**20)}
    )
    path.write_bytes(path.read_bytes()[: 2**17])  # reading on would fail
    assert not NemsBackendEntrypoint().guess_can_open(path)


def test_a_missing_recording_is_a_file_not_found_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"demo\.tgz"):
        open_recording(tmp_path / "demo.tgz")


def test_the_home_folder_may_be_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(tmp_path / "demo.tgz", RESP)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert "resp" in open_recording("~/demo.tgz")
