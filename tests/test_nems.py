"""The NEMS reader: all forms of recordings, and all ways in which a recording can be broken."""

import gzip
import io
import json
import random
import shutil
import subprocess
import tarfile
import tempfile
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nat4xr import ReleaseError
from nat4xr.io import nems
from nat4xr.io.raster import Raster, RasterShape, measure_raster, read_raster

from .support import set_limits
from .support.releases import (
    Site,
    about_signal,
    csv,
    epochs,
    h5,
    packed,
    raster,
    site_recording,
    tar,
    write,
)

CHANNELS = ["cell 1", "cell 2", "cell 3"]
TABLE = np.array([[0, 1, 0.05], [np.nan, 0, 0], [2.35, 0, 0], [0, 0, 12]])
TRIALS = [("STIM_b.wav", 0.0), ("STIM_a.wav", 1.5)]
TIMES = {"x": [0.0015, 0.25, 3.5], "y": []}
TILES = {"STIM_a.wav": np.arange(6.0).reshape(2, 3), "STIM_b.wav": np.ones((2, 4))}


def recording() -> dict[str, Any]:
    """A recording of two signals, a raster ``resp`` and event times ``spikes``."""
    members = raster("R", "resp", CHANNELS, TABLE, epochs(TRIALS))
    for name, content in site_recording("R", Site(TIMES, TRIALS)).items():
        members[name.replace("R.resp", "R.spikes")] = content
    return members


def tiled() -> dict[str, Any]:
    return {
        "R/R.stim.json": about_signal("TiledSignal", ["f1", "f2"], 100, 7),
        "R/R.stim.epoch.csv": epochs(TRIALS),
        "R/R.stim.h5": h5(TILES),
    }


def changed(members: dict[str, Any], part: str, **about: Any) -> dict[str, Any]:
    """The recording with other entries in one of its JSON files; None takes an entry out."""
    content = json.loads(members[f"R/R.{part}"]) | about
    kept = {key: value for key, value in content.items() if value is not None}
    return members | {f"R/R.{part}": json.dumps(kept).encode()}


def read(members: Mapping[str, Any], **options: Any) -> nems.Recording:
    return nems.read(packed("R.tgz", dict(members)), label="R.tgz", **options)


def dense(raster: Raster) -> np.ndarray:
    return raster.dense(0, raster.n_samples)


def assert_whole(found: nems.Recording) -> None:
    assert found.name == "R"
    assert list(found.signals) == ["resp", "spikes"]
    np.testing.assert_array_equal(dense(found.signals["resp"].data), TABLE)
    assert {name: list(times) for name, times in found.signals["spikes"].data.items()} == TIMES


# --- forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["R.tgz", "R.tar.gz", "R.tar"])
def test_an_archive_is_read_from_disk_and_from_memory(name: str, tmp_path: Path) -> None:
    content = packed(name, recording())
    (tmp_path / name).write_bytes(content)
    assert_whole(nems.read(tmp_path / name))
    assert_whole(nems.read(content))


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_unpacked_folder_is_read(wrapped: bool, tmp_path: Path) -> None:
    write(recording(), tmp_path)
    assert_whole(nems.read(tmp_path if wrapped else tmp_path / "R"))


def test_nothing_is_written_beside_an_archive(tmp_path: Path) -> None:
    (tmp_path / "R.tgz").write_bytes(packed("R.tgz", recording()))
    nems.read(tmp_path / "R.tgz")
    assert [file.name for file in tmp_path.iterdir()] == ["R.tgz"]


@pytest.mark.parametrize("seed", range(5))
def test_members_come_in_any_order(seed: int) -> None:
    members = list(recording().items())
    random.Random(seed).shuffle(members)
    assert_whole(read(dict(members)))


def test_a_signal_says_what_its_json_and_epochs_say() -> None:
    signal = read(changed(recording(), "resp.json", meta={"a": 1})).signals["resp"]
    assert (signal.name, signal.kind, signal.fs, signal.n_samples) == ("resp", "raster", 100, 4)
    assert signal.channels == CHANNELS
    assert signal.meta == {"a": 1}
    sounds = signal.epochs[signal.epochs["name"].str.startswith("STIM_")]
    assert [tuple(row) for row in sounds.values] == [(n, t, t + 0.2) for n, t in TRIALS]


def test_a_signal_without_type_is_a_raster() -> None:
    found = read(changed(recording(), "resp.json", signal_type=None))
    assert found.signals["resp"].kind == "raster"
    assert_whole(found)


def test_event_times_are_read_as_they_stand() -> None:
    signal = read(recording()).signals["spikes"]
    assert (signal.kind, signal.fs, signal.n_samples) == ("points", 1000, 1700)
    assert signal.data["x"].dtype == np.float64


def test_a_tiled_signal_is_read_by_epoch() -> None:
    signal = read(tiled()).signals["stim"]
    assert signal.kind == "tiles"
    assert signal.data.keys() == TILES.keys()
    for epoch, tile in TILES.items():
        np.testing.assert_array_equal(signal.data[epoch], tile)


@pytest.mark.parametrize("channels", [["mask"], CHANNELS])
def test_a_mask_has_one_channel_or_one_a_cell(channels: list[str]) -> None:
    mask = np.ones((4, len(channels)))
    members = raster("R", "mask_est", channels, mask, epochs(TRIALS))
    np.testing.assert_array_equal(dense(read(members).signals["mask_est"].data), mask)


@pytest.mark.parametrize(
    "text",
    [
        "name,start,end\nSTIM_a.wav,0.5,2\n",
        "end,name,start\n2,STIM_a.wav,0.5\n",
        ",name,start,end\n0,STIM_a.wav,0.5,2.0\n",
        "start,index,end,name\r\n0.5,7,2e0,STIM_a.wav\r\n",
        '\ufeff"name","start","end"\n"STIM_a.wav","0.5","2"',
    ],
)
def test_columns_of_epochs_come_in_any_order_with_an_index_or_not(text: str) -> None:
    found = read(recording() | {"R/R.resp.epoch.csv": text.encode()})
    epochs = found.signals["resp"].epochs
    assert epochs.to_dict("list") == {"name": ["STIM_a.wav"], "start": [0.5], "end": [2.0]}
    assert "" not in found.signals["resp"].epoch_columns


@pytest.mark.parametrize("name", ["NA", "nan", "", "None", "1"])
def test_no_epoch_name_is_taken_for_a_missing_value(name: str) -> None:
    text = f'name,start,end\n"{name}",0,1\n'.encode()
    found = read(recording() | {"R/R.resp.epoch.csv": text})
    assert found.signals["resp"].epochs["name"].tolist() == [name]


def test_epoch_times_are_read_to_the_last_bit() -> None:
    times = [3.0140000000000002, 0.1 + 0.2, 564.7190000000001]
    rows = "".join(f"e,{t!r},{t!r}\n" for t in times)
    found = read(recording() | {"R/R.resp.epoch.csv": f"name,start,end\n{rows}".encode()})
    assert found.signals["resp"].epochs["start"].tolist() == times


def test_only_the_signals_asked_for_are_read() -> None:
    broken = recording() | {"R/R.resp.csv": b"a word"}
    assert list(read(broken, signals=["spikes"]).signals) == ["spikes"]


def test_the_meta_data_are_read_and_may_be_absent() -> None:
    members = recording()
    assert read(members).meta == {"siteid": "R"}
    del members["R/R.meta.json"]
    assert read(members).meta == {}


def test_what_macos_leaves_behind_is_ignored(tmp_path: Path) -> None:
    droppings = {
        "R/.DS_Store": b"\0\1",
        "R/._R.resp.json": b"\0\5\x16\7",
        "R/._R.resp.csv": b"\0\5\x16\7",
        "__MACOSX/R/._R.resp.h5": b"\0\5\x16\7",
    }
    assert_whole(read(droppings | recording()))
    write(droppings | recording(), tmp_path)
    assert_whole(nems.read(tmp_path))


@pytest.mark.reliability
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "shift-jis", "utf-16-le"])
def test_the_folder_in_an_archive_may_be_named_in_any_encoding(encoding: str) -> None:
    name = "音" if encoding in ("shift-jis", "utf-16-le") else "données"
    odd = {
        member.replace("R/", name.encode(encoding).decode(errors="surrogateescape") + "/", 1): c
        for member, c in recording().items()
    }
    assert_whole(read(odd))


def test_a_long_member_name_is_read() -> None:
    assert_whole(read({"x" * 300 + f"/{member}": c for member, c in recording().items()}))


# --- numbers -----------------------------------------------------------------------------------

NUMBERS = st.one_of(
    st.just(0.0),
    st.just(0.0),
    st.integers(0, 40).map(float),
    st.integers(0, 400).map(lambda n: n / 20),
    st.just(np.nan),
    st.floats(-3.4e38, 3.4e38),
    st.sampled_from([5e-324, 1e-310, 1e-46, 1e-45, 1e-38, 3.4e38, -0.0, -1e-300, 1e22, 1 / 3]),
)


@st.composite
def tables(draw: st.DrawFn, numbers: st.SearchStrategy[float] = NUMBERS) -> np.ndarray:
    n_channels = draw(st.integers(1, 6))
    rows = st.lists(numbers, min_size=n_channels, max_size=n_channels)
    return np.array(draw(st.lists(rows, min_size=1, max_size=40)), float)


class Dribble(io.BytesIO):
    """A stream that gives a few bytes at a time, so that blocks end anywhere."""

    def __init__(self, content: bytes, step: int) -> None:
        super().__init__(content)
        self.step = step

    def read(self, size: int | None = -1) -> bytes:
        return super().read(self.step if size is None or size < 0 else min(size, self.step))


def parsed(text: bytes, step: int = 2**20, dtype: Any = np.float64) -> np.ndarray:
    return dense(read_raster(Dribble(text, step), len(text), dtype))


@given(tables())
def test_fixed_width_text_holds_the_numbers_that_were_written(table: np.ndarray) -> None:
    np.testing.assert_array_equal(parsed(csv(table)), table)


@given(tables())
def test_numbers_may_be_rounded_to_float32(table: np.ndarray) -> None:
    found = parsed(csv(table), dtype=np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, table.astype(np.float32))


def test_numbers_between_two_of_float32_are_rounded_like_float64() -> None:
    single = np.random.default_rng(0).gamma(1, 1, 500).astype(np.float32) * np.float32(1e-20)
    halfway = (single.astype(float) + np.nextafter(single, np.float32(1))) / 2
    for table in (halfway, np.nextafter(halfway, 0), np.nextafter(halfway, 1)):
        found = parsed(csv(table.reshape(-1, 5)), dtype=np.float32)
        np.testing.assert_array_equal(found.reshape(-1), table.astype(np.float32))


@given(tables())
def test_text_of_any_width_holds_the_same_numbers(table: np.ndarray) -> None:
    shortest = "".join(",".join(map(repr, row)) + "\n" for row in table.tolist())
    np.testing.assert_array_equal(parsed(shortest.encode()), table)
    padded = csv(table).replace(b",", b", ")
    np.testing.assert_array_equal(parsed(padded), table)


@given(tables(), st.lists(st.tuples(st.integers(0, 40), st.sampled_from([b"\n", b"\r\n"]))))
def test_blank_lines_and_a_byte_order_mark_are_passed_over(
    table: np.ndarray, blank: list[tuple[int, bytes]]
) -> None:
    lines = csv(table).splitlines(keepends=True)
    for at, line in blank:
        lines.insert(at, line)
    text = b"\xef\xbb\xbf" + b"".join(lines)
    for block in (1, 2**20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nat4xr.io.raster._BLOCK", block)
            np.testing.assert_array_equal(parsed(text), table)
            size = measure_raster(io.BytesIO(text), len(text))
            assert (size.n_samples, size.n_channels) == table.shape


@pytest.mark.parametrize("value", ["inf", "-inf", "1e300", "-1e999"])
def test_infinite_and_huge_values_are_read_as_they_stand(value: str) -> None:
    text = f"1,2\n3,{value}\n".encode()
    assert parsed(text)[1, 1] == float(value)
    with pytest.raises(ValueError, match="float32"):
        parsed(text, dtype=np.float32)


def test_the_largest_value_of_float32_is_finite() -> None:
    largest = 3.4028235677973362e38  # this is rounded down
    found = parsed(csv(np.array([[largest, 1.0]])), dtype=np.float32)
    np.testing.assert_array_equal(found, [[np.finfo(np.float32).max, 1]])


def test_text_is_read_as_pandas_reads_it() -> None:
    text = b'1,,2.5\n  \n"3",NA, 4\nnull,-nan,1e2 \n'
    found = parsed(text)
    np.testing.assert_array_equal(found, pd.read_csv(io.BytesIO(text), header=None).to_numpy(float))
    np.testing.assert_array_equal(found, [[1, np.nan, 2.5], [3, np.nan, 4], [np.nan, np.nan, 100]])


@given(tables(), st.integers(1, 3000), st.sampled_from([1, 500, 2000]))
def test_blocks_may_end_anywhere(table: np.ndarray, step: int, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nat4xr.io.raster._BLOCK", block)
        np.testing.assert_array_equal(parsed(csv(table), step), table)


def test_a_raster_of_many_blocks_is_read_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nat4xr.io.raster._BLOCK", 1000)
    table = np.random.default_rng(0).poisson(0.2, (3000, 11)) / 20
    table[700:710, 3] = np.nan
    text = csv(table)
    raster = read_raster(io.BytesIO(text), len(text))
    assert (raster.n_samples, raster.n_channels) == table.shape
    np.testing.assert_array_equal(dense(raster), table)
    np.testing.assert_array_equal(raster.dense(695, 705), table[695:705])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@given(tables(st.sampled_from([0.0, 1.0, 0.05, np.nan])), st.data())
def test_a_changed_byte_gives_the_number_that_it_says_or_an_error(
    dtype: Any, table: np.ndarray, data: st.DataObject
) -> None:
    text = bytearray(csv(table))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] = data.draw(st.sampled_from(b"0123456789.,-+e \nnax\0\xff"))
    try:
        found = parsed(bytes(text), dtype=dtype)
    except ValueError:
        return
    rows = [row for row in bytes(text).split(b"\n") if row.strip(b"\r")]
    written = np.array([[float(v) for v in r.split(b",")] for r in rows])
    np.testing.assert_array_equal(found, written.astype(dtype))


@pytest.mark.parametrize("end", ["\n", "", "\r\n"])
def test_the_last_line_may_end_as_it_likes(end: str) -> None:
    np.testing.assert_array_equal(parsed(f"1,2\n0,3{end}".encode()), [[1, 2], [0, 3]])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"1,2\n3\n", "column"),
        (b"1,2\n3,4,5\n", "column"),
        (b"1,2\n3,4,5\n6\n7,8\n", "column"),
        (b"1,2\n3,word\n", "number"),
        (b"1,2\n3,True\n", "number"),
        (b"1,2\n3,0x10\n", "number"),
        (b"1,2\n3,1_000\n", "number"),
        (b"1,2\n3,1;5\n", "number"),
        (b"1,2\n3,\0\n", "number"),
        (b"1,2\n3,4\xff\n", "number"),
        (csv(TABLE)[:-1] + b"word\n", "number"),
        (csv(TABLE)[:-30] + b"\n", "column"),
        (csv(TABLE).replace(b"2.35", b"2.3x"), "number"),
        (csv(TABLE).replace(b"e+00", b"e+0o", 1), "number"),
        (csv(np.ones((3, 2))) + csv(np.ones((2, 3))), "column"),
    ],
)
def test_a_table_that_is_not_one_of_numbers_is_refused(text: bytes, problem: str) -> None:
    with pytest.raises(ReleaseError, match=f"^R/R.resp.csv in R.tgz.*{problem}"):
        read(recording() | {"R/R.resp.csv": text})


# --- broken recordings -------------------------------------------------------------------------


def test_the_meta_data_may_bear_another_name_than_the_signals() -> None:
    members = recording()
    members["A1_R/A1_R.meta.json"] = members.pop("R/R.meta.json", b'{"siteid": "R"}')
    read_back = nems.read(tar(members), label="R.tgz")
    assert read_back.name == "R"
    assert read_back.meta


def test_channels_without_names_are_numbered() -> None:
    signals = nems.read(tar(changed(recording(), "resp.json", chans=None)), label="R").signals
    assert signals["resp"].channels == ["resp0", "resp1", "resp2"]


def test_an_epoch_may_be_at_no_time() -> None:
    epochs = nems.read(tar(epoch_rows("a,0,", "b,5.0,4.9")), label="R").signals["resp"].epochs
    assert epochs["end"].isna().tolist() == [True, False]


def test_a_signal_may_have_no_epochs() -> None:
    epochs = read(without("resp.epoch.csv")).signals["resp"].epochs
    assert epochs.columns.to_list() == ["name", "start", "end"]
    assert not len(epochs)


@pytest.mark.parametrize("time", [np.inf, -np.inf, 1e300, -0.001, np.nan])
def test_a_time_may_be_any_number(time: float) -> None:
    epochs = read(epoch_rows(f"a,0,{time}")).signals["resp"].epochs
    np.testing.assert_array_equal(epochs["end"], [time])
    content = {"R/R.spikes.h5": h5(TIMES | {"x": [0.5, time]})}
    np.testing.assert_array_equal(
        read(recording() | content).signals["spikes"].data["x"], [0.5, time]
    )


def without(part: str) -> dict[str, Any]:
    members = recording()
    del members[f"R/R.{part}"]
    return members


def with_(part: str, content: bytes) -> dict[str, Any]:
    return recording() | {f"R/R.{part}": content}


def about(part: str = "resp.json", **entries: Any) -> dict[str, Any]:
    return changed(recording(), part, **entries)


def with_channels(n_characters: int) -> dict[str, Any]:
    return about(chans=[*CHANNELS[:2], "c" * n_characters])


def epoch_rows(*rows: str, header: str = "name,start,end") -> dict[str, Any]:
    return with_("resp.epoch.csv", "\n".join([header, *rows]).encode())


@pytest.mark.parametrize(
    ("members", "where", "problem"),
    [
        ({}, "R.tgz", "no NEMS recording"),
        ({"R/readme.txt": b"hello"}, "R.tgz", "no NEMS recording"),
        (recording() | {"R/S.resp.json": b"{}"}, "R.tgz", "more than one recording: R, S"),
        (without("resp.json"), "'resp' of R.tgz", "no JSON"),
        (without("resp.csv"), "'resp' of R.tgz", r"\.csv.* missing"),
        (without("spikes.h5"), "'spikes' of R.tgz", r"\.h5.* missing"),
        (with_("resp.json", b""), "R/R.resp.json in R.tgz", "not JSON"),
        (with_("resp.json", b"{"), "R/R.resp.json in R.tgz", "not JSON"),
        (with_("resp.json", b"\xff\xfe\xff"), "R/R.resp.json in R.tgz", "not JSON"),
        (with_("resp.json", b"[1]"), "R/R.resp.json in R.tgz", "not a JSON object"),
        (with_("resp.json", b"[" * 10**6), "R/R.resp.json in R.tgz", "nested too deeply"),
        (with_("resp.json", b'{"fs": ' + b"9" * 5000 + b"}"), "R/R.resp.json in R.tgz", "JSON"),
        (with_("meta.json", b"word"), "R/R.meta.json in R.tgz", "not JSON"),
        (about(chans="abc"), "'resp' of R.tgz", "chans"),
        (about(fs=None), "'resp' of R.tgz", "fs"),
        (about(fs="100"), "'resp' of R.tgz", "fs"),
        (about(fs=True), "'resp' of R.tgz", "fs"),
        (about(fs=0), "'resp' of R.tgz", "fs"),
        (about(fs=-100), "'resp' of R.tgz", "fs"),
        (about(fs=float("nan")), "'resp' of R.tgz", "fs"),
        (about(fs=float("inf")), "'resp' of R.tgz", "fs"),
        (about(fs=10**400), "'resp' of R.tgz", "fs"),
        (with_("resp.epoch.csv", b""), "R/R.resp.epoch.csv in R.tgz", "."),
        (with_("resp.epoch.csv", b"\xff\xff"), "R/R.resp.epoch.csv in R.tgz", "."),
        (epoch_rows(header="name,start"), "R/R.resp.epoch.csv in R.tgz", "no column end"),
        (epoch_rows("a,0,1", header="name,start,start"), "R/R.resp.epoch.csv in R.tgz", "start"),
        (epoch_rows("a,0,soon"), "R/R.resp.epoch.csv in R.tgz", "soon"),
        (epoch_rows("a,0"), "R/R.resp.epoch.csv in R.tgz", "2 fields.*line 2.* 3 "),
        (epoch_rows("0,a,0,1"), "R/R.resp.epoch.csv in R.tgz", "4 fields.*line 2.* 3 "),
        (epoch_rows("a,0,1_0"), "R/R.resp.epoch.csv in R.tgz", "1_0"),
        (epoch_rows("a,0,\u0661"), "R/R.resp.epoch.csv in R.tgz", "not a number"),
        (epoch_rows('"a"b,0,1'), "R/R.resp.epoch.csv in R.tgz", "not CSV"),
        (
            epoch_rows("a" * 1001 + ",0,1"),
            "R/R.resp.epoch.csv in R.tgz",
            "name of 1,001 characters",
        ),
        (with_channels(1001), "'resp' of R.tgz", "name of 1,001 characters"),
        (tiled() | {"R/R.stim.h5": h5({"a" * 1001: [[1.0]]})}, "R.stim.h5", "name of 1,001 char"),
        (epoch_rows("a,0,1", "b,1,2,3"), "R/R.resp.epoch.csv in R.tgz", "."),
    ],
)
def test_a_broken_recording_is_refused(members: dict[str, Any], where: str, problem: str) -> None:
    with pytest.raises(ReleaseError, match=f"{where}.*{problem}"):
        read(members)


def test_a_missing_signal_is_named_with_those_that_are_there() -> None:
    with pytest.raises(ReleaseError, match=r"R.tgz: has no signal 'stim'.*resp, spikes"):
        read(recording(), signals=["resp", "spikes", "stim"])


def test_a_file_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.tgz"):
        nems.read(tmp_path / "none.tgz")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"a page that says 404" * 100,
        b"\x1f\x8b",
        gzip.compress(b"", mtime=0),  # so that the test always has the same name
        gzip.compress(b"no tar" * 1000, mtime=0),
        packed("R.zip", {"R.tgz": recording()}),
        zlib.compress(tar(recording())),
    ],
)
def test_a_file_that_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(ReleaseError, match=r"^R.tgz"):
        nems.read(content, label="R.tgz")


@pytest.mark.parametrize("name", ["R.tgz", "R.tar"])
@pytest.mark.parametrize("part", [0.01, 0.3, 0.5, 0.8, 0.9])
def test_an_archive_that_was_cut_short_is_refused(name: str, part: float) -> None:
    content = packed(name, recording())
    content = content[: content.rindex(b"csv")] if name == "R.tar" else content
    with pytest.raises(ReleaseError, match=f"{name}"):
        nems.read(content[: int(part * len(content))], label=name)


def test_an_archive_that_lacks_its_last_bytes_is_refused() -> None:
    for missing in range(1, 12):
        with pytest.raises(ReleaseError, match=r"R.tgz"):
            nems.read(packed("R.tgz", recording())[:-missing], label="R.tgz")


@pytest.mark.reliability
@pytest.mark.parametrize("size", [0, 2**20, 2**20 - 10240])
def test_a_bit_that_flipped_in_an_archive_is_noticed(size: int) -> None:
    content = packed("R.tgz", recording() | {"R/filler": random.Random(0).randbytes(size)})
    whole = gzip.decompress(content)
    n_noticed = 0
    for at in [*range(10, len(content) - 8, len(content) // 50), -8, -5, -4, -1]:
        flipped = bytearray(content)
        flipped[at] ^= 16
        try:
            assert_whole(nems.read(bytes(flipped), label="R.tgz"))
        except ReleaseError:
            n_noticed += 1
        else:
            assert gzip.decompress(flipped) == whole  # in some places a bit does not matter
    assert n_noticed > 30


def test_a_damaged_header_is_not_taken_for_the_end_of_the_archive() -> None:
    content = bytearray(tar(recording()))
    content[content.index(b"R/R.spikes.json")] ^= 1
    with pytest.raises(ReleaseError, match=r"R.tar"):
        nems.read(bytes(content), label="R.tar", signals=["resp"])


def test_no_file_is_left_open_after_a_refusal(tmp_path: Path) -> None:
    if not (open_files := Path("/proc/self/fd")).exists():
        pytest.skip("this system does not list the open files")
    (tmp_path / "R.tgz").write_bytes(packed("R.tgz", with_("resp.json", b"{")))
    n_before = len(list(open_files.iterdir()))
    with pytest.raises(ReleaseError) as refusal:
        nems.read(tmp_path / "R.tgz")
    assert refusal.value  # and with it the frames in which the file was open
    assert len(list(open_files.iterdir())) == n_before


# --- hostile archives --------------------------------------------------------------------------


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    """The header of a member, and nothing after it."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.reliability
@pytest.mark.parametrize(
    "name", ["../R.resp.json", "/etc/R.resp.json", "R/../../R.resp.json", "//R/R.resp.json", ".."]
)
def test_a_name_that_points_out_of_the_archive_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError, match=r"R.tgz.*unsafe name"):
        read({name: b"{}", **recording()})


@pytest.mark.parametrize(
    "members",
    [
        {"R/\x1b[2J.resp.json": b"{}"},
        {"\x1b[2J/R.resp.json": b"{"},
        {"\x1b[2J/R.other.json": b"{}"},
    ],
)
def test_no_name_is_a_command_to_the_terminal(members: dict[str, Any]) -> None:
    with pytest.raises(ReleaseError) as refusal:
        read(recording() | members)
    assert str(refusal.value).isprintable()


SPECIAL = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]


@pytest.mark.reliability
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_part_of_a_recording_that_is_no_plain_file_is_refused(kind: bytes) -> None:
    content = member("R/R.resp.csv", kind, link="/etc/passwd") + tar(without("resp.csv"))
    with pytest.raises(ReleaseError, match=r"R.tar.*R/R.resp.csv.*not a plain file"):
        nems.read(content, label="R.tar")


@pytest.mark.parametrize("kind", [*SPECIAL, b"V", b"M"])
def test_other_members_that_are_no_plain_files_are_passed_over(kind: bytes) -> None:
    """Such as a link beside the recording, or the label of a volume by GNU tar."""
    content = member("anything", kind, link="/etc/passwd") + tar(recording())
    assert_whole(nems.read(content, label="R.tar"))


@pytest.mark.parametrize("size", [512, 3 * 2**20 + 17])
def test_an_archive_may_be_padded_to_any_length(size: int) -> None:
    assert_whole(nems.read(tar(recording()) + bytes(size)))
    assert_whole(nems.read(gzip.compress(tar(recording()) + bytes(size), 1)))


def test_a_file_with_holes_is_read_whole(tmp_path: Path) -> None:
    if not (command := shutil.which("tar")):
        pytest.skip("there is no tar on this system")
    members = recording()
    table = np.zeros((4000, 3))
    times = np.zeros(300_000)
    times[::50_000] = 1.5
    members["R/R.spikes.h5"] = hdf5(lambda f: f.update(x=times))
    members["R/R.resp.csv"] = csv(table)
    write(members, tmp_path)
    with (tmp_path / "R" / "R.spikes.h5").open("r+b") as file:  # a hole where the zeros are
        content = file.read()
        start = content.index(bytes(2**17))
        file.truncate(start)
        file.seek(start + 2**17)
        file.write(content[start + 2**17 :])
    arguments = [command, "--sparse", "-cf", "R.tar", "R"]
    if subprocess.run(arguments, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this tar knows no files with holes")
    found = nems.read(tmp_path / "R.tar").signals
    np.testing.assert_array_equal(found["spikes"].data["x"], times)
    np.testing.assert_array_equal(dense(found["resp"].data), table)


@pytest.mark.reliability
@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_in_an_unpacked_folder_is_refused(link: str, tmp_path: Path) -> None:
    write(recording(), tmp_path / "elsewhere")
    file = tmp_path / "here" / "R" / "R.resp.csv"
    if link == "file":
        write(without("resp.csv"), tmp_path / "here")
        file.symlink_to(tmp_path / "elsewhere" / "R" / "R.resp.csv")
    else:
        file.mkdir(parents=True)
    with pytest.raises(ReleaseError, match=r"here: R.resp.csv is not a plain file"):
        nems.read(tmp_path / "here")


def test_a_link_to_a_folder_in_an_unpacked_folder_is_refused(tmp_path: Path) -> None:
    write(recording(), tmp_path / "elsewhere")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "R").symlink_to(tmp_path / "elsewhere" / "R")
    with pytest.raises(ReleaseError, match=r"here: R is a link"):
        nems.read(tmp_path / "here")


@pytest.mark.reliability
@pytest.mark.parametrize(("one", "other"), [("R", "R2"), (".", "R"), (".", "old")])
def test_an_unpacked_folder_with_two_recordings_is_refused(
    one: str, other: str, tmp_path: Path
) -> None:
    for place in (one, other):
        write({name.replace("R/", f"{place}/"): c for name, c in recording().items()}, tmp_path)
    places = f"{tmp_path.name if one == '.' else one}, {other}"
    with pytest.raises(ReleaseError, match=rf"more than one folder.*: {places}"):
        nems.read(tmp_path)


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["R/R.resp.csv", "R/R.resp.json", "R/R.resp.h5", "R/other"])
def test_a_member_that_claims_terabytes_is_refused(name: str) -> None:
    with pytest.raises(ReleaseError, match=r"R.tar"):
        nems.read(member(name, size=2**42) + tar(recording()), label="R.tar")


@pytest.mark.parametrize("name", ["R/.hidden", "R/note"])
def test_a_member_that_leads_back_to_itself_is_refused(name: str) -> None:
    content = member("R/.first") + member(name, size=-512) + tar(recording())
    with pytest.raises(ReleaseError, match=rf"R.tar: '{name}' claims -"):
        nems.read(content, label="R.tar")


def test_headers_may_hold_what_real_ones_do() -> None:
    content = io.BytesIO()
    headers = {"comment": "c" * 900, "mtime": "1.5", "uname": "ü"}
    with tarfile.open(
        fileobj=content, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers
    ) as archive:
        for name, inside in recording().items():
            info = tarfile.TarInfo("é" * 2000 + f"/{name}")
            info.size, info.pax_headers = len(inside), {"note": "n" * 900}
            archive.addfile(info, io.BytesIO(inside))
    assert_whole(nems.read(content.getvalue()))


@pytest.mark.reliability
def test_a_member_that_is_there_twice_is_refused() -> None:
    content = tar({"R/R.resp.json": b"{}"}).rstrip(b"\0").ljust(1024, b"\0") + tar(recording())
    with pytest.raises(ReleaseError, match=r"R.tar: .*R/R.resp.json twice"):
        nems.read(content, label="R.tar")


@pytest.mark.reliability
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE])
def test_an_archive_of_too_many_members_is_refused(kind: bytes) -> None:
    assert_whole(nems.read(member("R/.x", kind) * 100 + tar(recording())))
    with pytest.raises(ReleaseError, match=r"R.tar: 10,001 files"):
        nems.read(member("R/.x", kind) * 10_000 + tar(recording()), label="R.tar")


def test_a_folder_of_too_many_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_limits(monkeypatch, recording_files=100)
    write({f"R/R.s{i}.json": b"{}" for i in range(101)}, tmp_path)
    with pytest.raises(ReleaseError, match=r"R: 101 files"):
        nems.read(tmp_path / "R")


def bombs() -> Iterable[tuple[str, Callable[[], bytes]]]:
    """Archives that are small until they are unpacked."""
    zeros = bytes(2**26)
    for part in ("resp.json", "resp.epoch.csv", "meta.json", "spikes.h5"):
        yield part, lambda part=part: tar(recording() | {f"R/R.{part}": zeros})
    yield "a member that is skipped", lambda: tar({"R/other": zeros} | recording())


@pytest.mark.reliability
@pytest.mark.parametrize("bomb", [pytest.param(make, id=name) for name, make in bombs()])
def test_a_decompression_bomb_is_refused_before_it_takes_memory(
    bomb: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 64 MB of zeros each, which are 64 kB when packed."""
    content = gzip.compress(bomb(), 1)
    assert len(content) < 2**20
    set_limits(monkeypatch, recording_bytes=2**23)
    tracemalloc.start()
    try:
        with pytest.raises(ReleaseError, match=r"R.tgz"):
            nems.read(content, label="R.tgz")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_an_epoch_may_have_a_long_name() -> None:
    epochs = read(epoch_rows("a" * 1000 + ",0,1")).signals["resp"].epochs
    assert epochs["name"].tolist() == ["a" * 1000]


@pytest.mark.parametrize(
    ("members", "limit"),
    [
        (with_("resp.json", b"{}" + b" " * 1000), "json_bytes"),
        (epoch_rows(*["a,0,1"] * 1000), "epochs"),
    ],
)
def test_text_that_would_take_too_much_memory_is_refused(
    members: dict[str, Any], limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_limits(monkeypatch, **{limit: 999})
    with pytest.raises(ReleaseError, match=rf"R.tgz: 1,... .*\({limit}\)"):
        read(members)


@pytest.mark.parametrize("rasters", [True, False])
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"1," * 1000 + b"1\n", "channels of a raster"),
        (b"1," * 2**20 + b"1\n", "bytes of a line"),
        (csv(np.zeros((1001, 1))), "samples of a raster"),
    ],
)
def test_a_table_that_would_take_too_much_memory_is_refused(
    text: bytes, problem: str, rasters: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_limits(monkeypatch, channels=1000, samples=1000, line_bytes=64_000)
    with pytest.raises(ReleaseError, match=rf"R/R.resp.csv in R.tgz: [0-9,]+ {problem}"):
        read(recording() | {"R/R.resp.csv": text}, rasters=rasters)


@pytest.mark.parametrize(
    ("text", "limit"), [(b"1" * 2**20 + b"\n", "line_bytes"), (b"1,1\n" * 10_000, "values")]
)
def test_values_that_would_take_too_much_memory_are_refused(
    text: bytes, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_limits(monkeypatch, **{limit: 1000})
    with pytest.raises(ReleaseError, match=rf"R/R.resp.csv in R.tgz: .*\({limit}\)"):
        read(recording() | {"R/R.resp.csv": text})


# --- HDF5 --------------------------------------------------------------------------------------


def hdf5(fill: Callable[[h5py.File], object]) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["y"] = [1.0]
        fill(file)
    return content.getvalue()


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((3,), float)
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (3,))
    file.create_virtual_dataset("x", layout)


HDF5 = {
    "not HDF5": b"a page that says 404",
    "empty": b"",
    "cut short": h5(TIMES)[:-200],
    "its head alone": h5(TIMES)[:512],
    "an external link": hdf5(lambda f: f.update(x=h5py.ExternalLink("elsewhere.h5", "x"))),
    "a soft link": hdf5(lambda f: f.update(x=h5py.SoftLink("/y"))),
    "a dangling soft link": hdf5(lambda f: f.update(x=h5py.SoftLink("/z"))),
    "a virtual dataset": hdf5(virtual),
    "external storage": hdf5(
        lambda f: f.create_dataset("x", (3,), float, external=[("elsewhere.h5", 0, 24)])
    ),
    "a text": hdf5(lambda f: f.update(x="word")),
    "texts": hdf5(lambda f: f.update(x=["word"])),
    "complex numbers": hdf5(lambda f: f.update(x=[1j])),
    "references": hdf5(lambda f: f.create_dataset("x", (1,), h5py.ref_dtype)),
    "nothing": hdf5(lambda f: f.update(x=h5py.Empty("f8"))),
    "a number": hdf5(lambda f: f.update(x=1.0)),
    "a table": hdf5(lambda f: f.update(x=[[1.0]])),
    "terabytes": hdf5(lambda f: f.create_dataset("x", (2**40,), float, chunks=(2**10,))),
    "terabytes in all": hdf5(
        lambda f: [f.create_dataset(f"x{i}", (2**27,), float, chunks=(2**10,)) for i in range(99)]
    ),
}


@pytest.mark.reliability
@pytest.mark.parametrize("content", HDF5.values(), ids=HDF5.keys())
def test_event_times_must_be_plain_lists_of_times(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere.h5").write_bytes(h5({"x": [1.0, 2.0, 3.0]}))
    with pytest.raises(ReleaseError, match=r"R.tgz"):
        read(recording() | {"R/R.spikes.h5": content})


def test_a_chunk_that_is_larger_than_may_be_held_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_limits(monkeypatch, hdf5_bytes=2**16)
    content = hdf5(lambda f: f.create_dataset("x", (1,), float, chunks=(2**14,), maxshape=(None,)))
    with pytest.raises(ReleaseError, match=r"R.spikes.h5 in R.tgz: .*\(hdf5_bytes\)"):
        read(recording() | {"R/R.spikes.h5": content})


def test_an_hdf5_file_of_too_many_datasets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_limits(monkeypatch, hdf5_datasets=10)
    content = hdf5(lambda f: [f.update({f"x{i}": f["y"]}) for i in range(10)])
    with pytest.raises(ReleaseError, match=r"R.spikes.h5 in R.tgz: 11 datasets"):
        read(recording() | {"R/R.spikes.h5": content})


def test_groups_beside_the_datasets_are_passed_over() -> None:
    content = hdf5(lambda f: [f.update(x=[0.5]), f.create_group("info").update(x=["word"])])
    assert read(recording() | {"R/R.spikes.h5": content}).signals["spikes"].channels == ["x", "y"]


def test_a_channel_with_a_slash_in_its_name_has_its_events() -> None:
    """HDF5 keeps what is called ``a/b`` in a group ``a``."""
    content = hdf5(lambda f: f.update({"x": [0.5], "a/b": [1.5, 2.5], "a/c": ["a word"]}))
    members = changed(recording(), "spikes.json", chans=["a/b", "x", "a/d", "x/y"])
    signal = read(members | {"R/R.spikes.h5": content}).signals["spikes"]
    assert {name: list(times) for name, times in signal.data.items()} == {
        "a/b": [1.5, 2.5], "x": [0.5], "y": [1.0],
    }  # fmt: skip


def test_a_tile_of_an_epoch_with_a_slash_in_its_name_is_read() -> None:
    members = tiled() | {
        "R/R.stim.h5": h5({"STIM_a/b.wav": np.ones((2, 3))}),
        "R/R.stim.epoch.csv": epochs([("STIM_a/b.wav", 0.0)]),
    }
    assert list(read(members).signals["stim"].data) == ["STIM_a/b.wav"]


def test_a_link_below_a_slash_is_refused() -> None:
    content = hdf5(lambda f: f.create_group("a").update(b=h5py.ExternalLink("other.h5", "x")))
    members = changed(recording(), "spikes.json", chans=["a/b"])
    with pytest.raises(ReleaseError, match="'b' is a link"):
        read(members | {"R/R.spikes.h5": content})


ODD_TIMES = [[0.5, np.nan], [0.5, np.inf], [-0.1, 0.5], [2.0, 1.0, 0.5], [1e300], []]


@pytest.mark.parametrize("times", ODD_TIMES, ids=repr)
def test_event_times_are_kept_whatever_they_are(times: list[float]) -> None:
    found = read(recording() | {"R/R.spikes.h5": h5(TIMES | {"x": times})})
    np.testing.assert_array_equal(found.signals["spikes"].data["x"], times)


@pytest.mark.parametrize("listed", [None, ["z", "y"], ["x", "y", "x"], [1, 2]])
def test_the_channels_of_events_are_those_that_have_events(listed: Any) -> None:
    signal = read(changed(recording(), "spikes.json", chans=listed)).signals["spikes"]
    assert sorted(signal.channels) == ["x", "y"]
    assert {name: list(times) for name, times in signal.data.items()} == TIMES
    assert listed != ["x", "y", "x"] or signal.listed == listed


def of_twelve_bits(file: h5py.File) -> None:
    """Integers whose bytes in the file are not those in memory."""
    stored = h5py.h5t.STD_I16LE.copy()
    stored.set_precision(12)
    stored.set_offset(4)
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((3,))
    settings.set_deflate(1)
    space = h5py.h5s.create_simple((7,))
    dataset = h5py.Dataset(h5py.h5d.create(file.id, b"x", stored, space, settings))
    dataset[...] = np.arange(7)


def never_written(file: h5py.File) -> None:
    file.create_dataset("x", (10,), float, chunks=(3,), compression="gzip", fillvalue=2.0)


def partly_written(file: h5py.File) -> None:
    options = {"chunks": (3,), "compression": "gzip", "fillvalue": 2.0}
    file.create_dataset("x", (10,), float, **options)[8:9] = 0.5


def paged(times: np.ndarray) -> bytes:
    """An HDF5 file whose space is divided into pages."""
    with tempfile.TemporaryDirectory() as folder:  # in memory h5py does not fill the last page
        path = Path(folder) / "paged.h5"
        with h5py.File(path, "w", fs_strategy="page", fs_page_size=4096) as file:
            file.update(x=times, y=[1.0])
        return path.read_bytes()


TIMES_X = np.arange(1000) / 7
STORAGE = {
    "one piece": hdf5(lambda f: f.update(x=TIMES_X)),
    "deflated chunks": hdf5(
        lambda f: f.create_dataset("x", data=TIMES_X, chunks=(64,), compression="gzip")
    ),
    "shuffled": hdf5(
        lambda f: f.create_dataset("x", data=TIMES_X, compression="gzip", shuffle=True)
    ),
    "with checksums": hdf5(
        lambda f: f.create_dataset("x", data=TIMES_X, compression="gzip", fletcher32=True)
    ),
    "big-endian": hdf5(
        lambda f: f.create_dataset("x", data=TIMES_X.astype(">f8"), compression="gzip")
    ),
    "small floats": hdf5(
        lambda f: f.create_dataset("x", data=TIMES_X.astype("f2"), compression="gzip")
    ),
    "integers of 12 bits": hdf5(of_twelve_bits),
    "partly written chunks": hdf5(partly_written),
    "chunks that were never written": hdf5(never_written),
    "compressed by LZF": hdf5(lambda f: f.create_dataset("x", data=TIMES_X, compression="lzf")),
    "in pages": paged(TIMES_X),
}


@pytest.mark.parametrize("content", STORAGE.values(), ids=STORAGE.keys())
def test_event_times_are_those_of_hdf5_however_they_are_stored(content: bytes) -> None:
    with h5py.File(io.BytesIO(content)) as file:
        expected = file["x"][()]
    found = read(recording() | {"R/R.spikes.h5": content}).signals["spikes"].data["x"]
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == (np.float64 if expected.dtype.kind == "f" else expected.dtype)
    assert found.flags.writeable


@pytest.mark.parametrize("place", [0.1, 0.5, 0.999])
def test_damage_to_gzipped_event_times_is_noticed(place: float) -> None:
    content = bytearray(STORAGE["deflated chunks"])
    with h5py.File(io.BytesIO(content)) as file:
        chunk = file["x"].id.get_chunk_info(0)
    content[chunk.byte_offset + int(place * chunk.size)] ^= 0xFF
    with pytest.raises(ReleaseError, match="HDF5"):
        read(recording() | {"R/R.spikes.h5": bytes(content)})


@pytest.mark.parametrize("other", [np.ones((3, 3)), np.ones(3), np.ones((2, 2, 3))])
def test_tiles_must_have_the_same_channels(other: np.ndarray) -> None:
    with pytest.raises(ReleaseError, match=r"'stim' of R.tgz.*same channels"):
        read(tiled() | {"R/R.stim.h5": h5(TILES | {"STIM_a.wav": other})})


# --- rasters in HDF5, types, views -------------------------------------------------------------


def raster_h5(values: Any, **options: Any) -> dict[str, Any]:
    members = without("resp.csv")
    fill = lambda f: f.create_dataset("raster", data=values, **options)  # noqa: E731
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        fill(file)
    return members | {"R/R.resp.h5": content.getvalue()}


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i2", "u1", "bool", ">f8", ">i4"])
@pytest.mark.parametrize("chunks", [None, (2, 3), (3, 4), True])
def test_a_raster_may_be_kept_in_hdf5(dtype: str, chunks: Any) -> None:
    values = np.nan_to_num(TABLE.T).astype(dtype)
    signal = read(raster_h5(values, chunks=chunks, compression=chunks and "gzip")).signals["resp"]
    assert (signal.kind, signal.n_samples, signal.channels) == ("raster", 4, CHANNELS)
    np.testing.assert_array_equal(dense(signal.data), values.T)
    assert dense(signal.data).dtype == values.dtype.newbyteorder("=")
    size = read(raster_h5(values, chunks=chunks), rasters=False).signals["resp"].data
    assert size == RasterShape(4, 3, values.dtype.newbyteorder("="))


@pytest.mark.parametrize("block", [1, 5, 100])
def test_a_raster_in_hdf5_is_read_in_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nat4xr.io.raster._BLOCK", block)
    values = np.random.default_rng(0).poisson(0.3, (3, 500)) / 20
    found = read(raster_h5(values, chunks=(2, 7))).signals["resp"].data
    np.testing.assert_array_equal(dense(found), values.T)


@pytest.mark.parametrize("shape", [(0, 300), (2, 0), (0, 0), (3, 2, 5), (3, 2, 2, 4), (6,)])
def test_a_raster_in_hdf5_may_have_any_shape(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape) + 0.5
    signal = read(changed(raster_h5(values), "resp.json", chans=None)).signals["resp"]
    assert signal.n_samples == shape[-1]
    assert (len(signal.channels), *signal.inner) == (shape[:-1] or (1,))
    np.testing.assert_array_equal(
        dense(signal.data), np.moveaxis(values, -1, 0).reshape(dense(signal.data).shape)
    )


def test_rasters_may_be_read_as_float32() -> None:
    for members in (raster_h5(TABLE.T), recording()):
        found = read(members, dtype=np.float32).signals["resp"].data
        assert found.dtype == np.float32
        np.testing.assert_array_equal(dense(found), TABLE.astype(np.float32))
    with pytest.raises(ReleaseError, match=r"R.resp.h5 in R.tgz.*float32"):
        read(raster_h5(np.full((3, 4), 1e300)), dtype=np.float32)


@pytest.mark.parametrize(
    ("declared", "dtype"),
    [("bool", "bool"), ("int64", "int64"), ("float32", "float32"), ("float", "float64"),
     ("float16", "float32"), ("longdouble", "float64"), ("object", "float64"), (3, "float64")],
)  # fmt: skip
def test_values_in_text_have_the_type_that_the_json_declares(declared: Any, dtype: str) -> None:
    mask = np.array([[1, 0, 1]] * 4)
    members = recording() | {"R/R.resp.csv": csv(mask)}
    found = read(changed(members, "resp.json", dtype=declared)).signals["resp"].data
    assert dense(found).dtype == dtype
    np.testing.assert_array_equal(dense(found), mask)


@pytest.mark.parametrize(("declared", "value"), [("bool", 2), ("int64", 0.5), ("int8", np.nan)])
def test_values_that_their_declared_type_cannot_hold_are_refused(
    declared: str, value: float
) -> None:
    members = recording() | {"R/R.resp.csv": csv(np.full((4, 3), value))}
    with pytest.raises(ReleaseError, match=rf"R.resp.csv in R.tgz.*{declared}"):
        read(changed(members, "resp.json", dtype=declared))


@pytest.mark.parametrize("part", ["csv", "h5"])
@pytest.mark.parametrize("listed", [CHANNELS, ["a", "b"], ["a", "a"], None])
def test_one_column_is_one_channel_whatever_the_json_lists(
    part: str, listed: list[str] | None
) -> None:
    column = np.array([[1.0], [0], [1], [1]])
    members = raster_h5(column.T) if part == "h5" else with_("resp.csv", csv(column))
    signal = read(changed(members, "resp.json", chans=listed)).signals["resp"]
    assert signal.channels == ["resp" if listed else "resp0"]
    assert signal.listed == listed
    np.testing.assert_array_equal(dense(signal.data), column)


def test_channels_of_which_the_json_lists_too_few_are_numbered() -> None:
    signal = read(about(chans=["a", "b"])).signals["resp"]
    assert signal.channels == ["resp0", "resp1", "resp2"]
    assert signal.listed == ["a", "b"]


def test_channels_may_have_the_same_name() -> None:
    assert read(about(chans=["a", "b", "a"])).signals["resp"].channels == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("text", "listed", "shape"),
    [(b"", ["a", "b"], (0, 2)), (b"\n", ["a"], (0, 1)), (b"", [], (0, 0)),
     (b"\n" * 300, [], (300, 0)), (b"\r\n" * 3, [], (3, 0)), (b"", None, (0, 0))],
)  # fmt: skip
@pytest.mark.parametrize("rasters", [True, False])
def test_a_table_may_have_no_samples_or_no_channels(
    text: bytes, listed: list[str] | None, shape: tuple[int, int], rasters: bool
) -> None:
    members = changed(with_("resp.csv", text), "resp.json", chans=listed)
    signal = read(members, rasters=rasters).signals["resp"]
    assert (signal.data.n_samples, signal.data.n_channels) == shape
    assert len(signal.channels) == shape[1]


def test_a_raster_in_text_and_in_hdf5_is_refused() -> None:
    with pytest.raises(ReleaseError, match=r"'resp' of R.tgz.*\.csv.*\.h5"):
        read(raster_h5(TABLE.T) | recording())


def renamed(members: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return {name.replace(old, new): content for name, content in members.items()}


@pytest.mark.parametrize("json_of_view", [True, False])
def test_of_several_views_the_first_is_read(json_of_view: bool) -> None:
    view = renamed(raster("R", "resp", CHANNELS, -TABLE, epochs(TRIALS)), "R/R", "R/01.R")
    if not json_of_view:  # as in folders
        view = {"R/01.R.resp.csv": view["R/01.R.resp.csv"]}
    found = read(view | recording())
    assert_whole(found)
    assert found.n_views == {"resp": 2}


@pytest.mark.parametrize("name", ["resp.fs100", "my resp", "epoch", "time", "a.json", "01.x"])
@pytest.mark.parametrize("recording_name", ["R", "R.v2", "01"])
def test_recordings_and_signals_may_have_any_name(name: str, recording_name: str) -> None:
    members = raster("R", "resp", CHANNELS, TABLE, epochs(TRIALS))
    members = changed(members, "resp.json", name=name)
    members = renamed(members, "R.resp", f"{recording_name}.{name}")
    if (name, recording_name) in (("epoch", "R.v2"), ("01.x", "01")):
        return  # of these names the files could be two things
    found = read(members)
    assert found.name == recording_name
    assert list(found.signals) == [name]
    np.testing.assert_array_equal(dense(found.signals[name].data), TABLE)
    assert found.signals[name].epochs["name"].str.startswith("STIM").sum() == 2
    assert list(read(members, signals=[name]).signals) == [name]


def test_signals_may_come_from_several_recordings() -> None:
    members = recording()
    members |= renamed(raster("R", "pupil", ["size"], TABLE[:, :1], epochs(TRIALS)), "R.p", "Q.p")
    assert list(read(members).signals) == ["pupil", "resp", "spikes"]


def test_further_columns_of_epochs_are_kept_with_their_types() -> None:
    rows = ["a,0,1,5,x,True,0.5", "b,1,2,6,,False,"]
    found = read(epoch_rows(*rows, header="name,start,end,n,note,ok,x")).signals["resp"]
    assert {name: values.tolist() for name, values in found.epoch_columns.items()} == {
        "n": [5, 6], "note": ["x", ""], "ok": [True, False],
        "x": [0.5, pytest.approx(np.nan, nan_ok=True)],
    }  # fmt: skip


@pytest.mark.parametrize("codes", [["1_1", "12"], ["\u0663", "4"], ["1_0.5", "2"]])
def test_a_column_of_codes_that_only_python_takes_for_numbers_is_text(codes: list[str]) -> None:
    rows = [f"a,0,1,{codes[0]}", f"b,1,2,{codes[1]}"]
    found = read(epoch_rows(*rows, header="name,start,end,code")).signals["resp"]
    assert found.epoch_columns["code"].tolist() == codes


@pytest.mark.parametrize(
    ("content", "meta"), [(b"null", {}), (b"[1]", {"meta": [1]}), (b'{"a": NaN}', {"a": None})]
)
def test_the_meta_data_may_be_any_json(content: bytes, meta: dict[str, Any]) -> None:
    found = read(with_("meta.json", content)).meta
    assert {key: None if value != value else value for key, value in found.items()} == meta
