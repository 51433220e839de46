"""The waveforms of the sounds: their position in the trial, their names, and their files."""

import io
import os
import pickle
import shutil
import struct
import sys
import tracemalloc
import wave
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.io import wavfile

import nat4xr
from nat4xr.index import set_labels
from nat4xr.waveforms import open_waveforms

from .support.server import ReleaseServer

FS = 44100
GEESE = "STIM_00cat172_rec1_geese_excerpt1.wav"
RAIN = "STIM_cat88_rec1_rain_excerpt2.wav"
STORY = "STIM_cat86_rec3_True_story_excerpt2.wav"  # its file has a small t


@pytest.fixture(scope="module")
def folder(nems0_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(nems0_release, tmp_path_factory.mktemp("data") / "NAT4"))


@pytest.fixture(scope="module")
def published(nems0_release: Path) -> dict[str, NDArray[np.int16]]:
    """What the wave module reads, by file name without its suffix."""
    sounds = {}
    with zipfile.ZipFile(nems0_release / "wav.zip") as archive:
        for path in archive.namelist():
            with archive.open(path) as file, wave.open(file) as sound:
                assert sound.getparams()[:3] == (1, 2, FS)
                content = sound.readframes(FS)
            sounds[Path(path).stem] = np.frombuffer(content, "<i2")
    return sounds


def tone(hz: float, fs: int = FS, amplitude: float = 0.5) -> NDArray[np.float64]:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(fs) / fs)


def as_wav(values: NDArray[np.generic], fs: int = FS) -> bytes:
    file = io.BytesIO()
    wavfile.write(file, fs, values)
    return file.getvalue()


def as_wav24(values: NDArray[np.float64]) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 3, FS, len(values), "NONE", ""))
        integers = np.round(values * 2**23).astype("<i4")
        sound.writeframes(integers.view(np.uint8).reshape(-1, 4)[:, :3].tobytes())
    return file.getvalue()


SILENCE = as_wav(np.zeros(FS, np.int16))


@pytest.fixture
def with_sounds(tmp_path: Path) -> Callable[[Mapping[str, bytes]], Path]:
    """A data folder whose wav.zip has these members."""

    def write(members: Mapping[str, bytes]) -> Path:
        with zipfile.ZipFile(tmp_path / "wav.zip", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return tmp_path

    return write


# --- what is returned ---------------------------------------------------------------------------


def test_every_sound_is_what_its_file_holds(
    folder: Path, published: dict[str, NDArray[np.int16]]
) -> None:
    sounds = open_waveforms(folder, trial=False)
    assert sounds.name == "waveform"
    assert sounds.sizes == {"stim": 30, "sample": FS}
    assert sounds.dtype == np.float32
    for stim in sounds.stim.values:
        file = published[stim.removeprefix("STIM_").removesuffix(".wav")]
        np.testing.assert_array_equal(sounds.sel(stim=stim), file / np.float32(2**15))


def test_a_sound_stands_between_two_quarter_seconds_of_silence(folder: Path) -> None:
    trial = open_waveforms(folder, stims=GEESE)[0]
    sound = open_waveforms(folder, stims=GEESE, trial=False)[0]
    assert trial.sizes == {"sample": 1.5 * FS}
    np.testing.assert_array_equal(trial[11025 : 11025 + FS], sound)
    assert not trial[:11025].any()
    assert not trial[11025 + FS :].any()


def test_441_samples_are_one_bin_of_the_responses(folder: Path) -> None:
    trial = open_waveforms(folder, stims=GEESE)[0]
    power = (trial**2).coarsen(sample=441, boundary="exact").sum()
    assert power.sizes == {"sample": 150}
    assert np.flatnonzero(power)[[0, -1]].tolist() == [25, 124]


@pytest.mark.parametrize("trial", [True, False])
def test_samples_know_their_time_from_trial_onset(folder: Path, trial: bool) -> None:
    sounds = open_waveforms(folder, stims=[GEESE], trial=trial)
    heard = sounds.sel(sample_time=slice(0.25, 1.25 - 1e-9))
    assert heard.sizes["sample"] == FS
    assert sounds.sample_time[0] == (0 if trial else 0.25)
    assert sounds.sample_time.attrs["units"] == "s"
    np.testing.assert_array_equal(np.diff(sounds.sample_time), pytest.approx(1 / FS))


def test_sounds_come_sorted_by_name_val_first(folder: Path) -> None:
    sounds = open_waveforms(folder)
    assert sounds.subset.values.tolist() == ["val"] * 18 + ["est"] * 12
    assert sounds.stim.values.tolist() == sorted(sounds.stim.values)


def test_sounds_are_selected_by_their_labels(folder: Path) -> None:
    sounds = open_waveforms(folder)
    assert sounds.sel(category=172, subset="val").stim.values.tolist() == [GEESE]
    assert sounds.sel(stim=GEESE).sound == "geese"


def test_a_sound_is_a_dask_chunk(folder: Path) -> None:
    assert open_waveforms(folder).chunks == ((1,) * 30, (66150,))


def test_only_the_sounds_asked_for_are_read(with_sounds: Callable[..., Path]) -> None:
    sounds = open_waveforms(with_sounds({"good.wav": SILENCE, "bad.wav": b"not a sound"}))
    assert not sounds.sel(stim="STIM_good.wav").any()
    with pytest.raises(nat4xr.ReleaseError, match=r"bad\.wav in wav\.zip is not a readable WAV"):
        sounds.compute()


def test_nothing_is_extracted(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    open_waveforms(folder).load()
    assert sorted(folder.rglob("*")) == before


def test_pickled_waveforms_are_read_from_the_same_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    pickled = pickle.dumps(open_waveforms("."))
    monkeypatch.chdir("/")
    assert len(pickled) < 1_000_000
    xr.testing.assert_identical(pickle.loads(pickled), open_waveforms(folder))


def test_waveforms_survive_netcdf(folder: Path, tmp_path: Path) -> None:
    sounds = open_waveforms(folder, stims=[GEESE, RAIN])
    sounds.to_netcdf(tmp_path / "sounds.nc")
    plain = xr.load_dataarray(tmp_path / "sounds.nc")
    xr.testing.assert_equal(plain, sounds)
    # A file has no room for indexes.
    xr.testing.assert_identical(set_labels(plain.set_xindex("sample_time")), sounds)


# --- which sounds -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [RAIN, RAIN[5:], RAIN[:-4], RAIN[5:-4]])
def test_a_sound_has_its_epoch_name_however_it_was_asked_for(folder: Path, name: str) -> None:
    assert open_waveforms(folder, stims=[name]).stim.values.tolist() == [RAIN]


def test_names_that_differ_from_the_file_in_letter_case_alone_are_bridged(
    folder: Path, published: dict[str, NDArray[np.int16]]
) -> None:
    sounds = open_waveforms(folder, stims=[STORY], trial=False)
    assert sounds.stim.values.tolist() == [STORY]
    file = published["cat86_rec3_true_story_excerpt2"]
    np.testing.assert_array_equal(sounds[0], file / np.float32(2**15))


def test_a_file_of_exactly_the_name_wins_over_another_letter_case(
    with_sounds: Callable[..., Path],
) -> None:
    loud = as_wav(np.full(FS, 2**14, np.int16))
    path = with_sounds({"rain.wav": SILENCE, "Rain.wav": loud})
    assert open_waveforms(path, stims="Rain").max() == 0.5
    with pytest.raises(
        nat4xr.ReleaseError, match=r"both rain and Rain in wav\.zip could be STIM_RAIN"
    ):
        open_waveforms(path, stims="RAIN")


def test_the_order_asked_for_is_kept(folder: Path) -> None:
    sounds = open_waveforms(folder, stims=(name for name in (RAIN, GEESE, RAIN)))
    assert sounds.stim.values.tolist() == [RAIN, GEESE, RAIN]


def test_no_sounds_are_an_empty_array(folder: Path) -> None:
    assert open_waveforms(folder, stims=[]).compute().sizes == {"stim": 0, "sample": 66150}


def test_waveforms_join_the_dataset_whose_sounds_were_asked_for(folder: Path) -> None:
    ds = nat4xr.open_area("PEG", folder, progressbar=False).sel(stim=[RAIN, STORY, GEESE])
    joined = xr.merge([ds, open_waveforms(folder, stims=ds)])
    assert joined.waveform.sel(stim=STORY).any()
    assert joined.sizes == {**ds.sizes, "sample": 66150}
    assert (joined.waveform * joined.n_reps).dims == ("stim", "sample", "neuron")


def test_labels_of_the_users_own_are_kept(folder: Path) -> None:
    predicted = xr.DataArray(
        [1.0, 2.0], dims="stim", coords={"stim": [RAIN, GEESE], "loud": ("stim", [True, False])}
    )
    sounds = open_waveforms(folder, stims=predicted)
    assert sounds.sel(loud=True).stim.values.tolist() == [RAIN]
    assert sounds.sel(sound="geese").stim.values.tolist() == [GEESE]


def test_arithmetic_with_an_object_that_knows_only_names_works(folder: Path) -> None:
    gain = xr.DataArray([1.0, 2.0], dims="stim", coords={"stim": [RAIN, GEESE]})
    louder = gain * open_waveforms(folder, stims=gain)
    assert louder.stim.values.tolist() == [RAIN, GEESE]


def test_a_single_sound_of_a_dataset_may_be_asked_for(folder: Path) -> None:
    ds = xr.Dataset(coords={"stim": [RAIN, GEESE]})
    assert open_waveforms(folder, stims=ds.isel(stim=1)).stim.values.tolist() == [GEESE]


def test_a_missing_sound_is_named_with_its_nearest(folder: Path) -> None:
    with pytest.raises(KeyError, match=r"no sound 'STIM_goose.wav' among the 30 in wav.zip"):
        open_waveforms(folder, stims=["goose"])
    with pytest.raises(KeyError, match=f"no sound .*geese_excerpt2.*{GEESE}"):
        open_waveforms(folder, stims=[GEESE.replace("excerpt1", "excerpt2")])


@pytest.mark.parametrize("stims", [[3], [None], [b"geese"], 5])
def test_what_is_no_name_is_a_type_error(folder: Path, stims: object) -> None:
    with pytest.raises(TypeError):
        open_waveforms(folder, stims=stims)  # type: ignore[arg-type]


def test_an_object_without_sounds_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="stims has no coordinate 'stim'"):
        open_waveforms(folder, stims=xr.Dataset({"stim": 3}))


# --- from any file to float32 at fs -------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "tolerance"),
    [
        (as_wav(np.round(128 + 128 * tone(440)).astype(np.uint8)), 2**-8),
        (as_wav(np.round(2**15 * tone(440)).astype(np.int16)), 2**-16),
        (as_wav24(tone(440)), 2**-23),
        (as_wav(np.round(2**31 * tone(440)).astype(np.int32)), 2**-23),
        (as_wav(tone(440).astype(np.float32)), 0),
        (as_wav(tone(440)), 2**-25),
    ],
    ids=["8 bits", "16 bits", "24 bits", "32 bits", "float32", "float64"],
)
def test_full_scale_is_1_in_every_encoding(
    with_sounds: Callable[..., Path], content: bytes, tolerance: float
) -> None:
    sound = open_waveforms(with_sounds({"tone.wav": content}), trial=False)[0]
    np.testing.assert_allclose(sound, tone(440).astype(np.float32), rtol=0, atol=tolerance)


def test_stereo_is_mixed_down_to_its_mean(with_sounds: Callable[..., Path]) -> None:
    stereo = np.stack([np.full(FS, 2**14), np.full(FS, -(2**13))], axis=1).astype(np.int16)
    sound = open_waveforms(with_sounds({"a.wav": as_wav(stereo)}), trial=False)
    assert (sound == 0.125).all()


@pytest.mark.parametrize("fs", [8000, 16000, 22050, 48000, 96000])
def test_resampling_keeps_what_the_new_rate_can_hold(
    with_sounds: Callable[..., Path], fs: int
) -> None:
    path = with_sounds({"tone.wav": as_wav(tone(1000))})
    sound = open_waveforms(path, fs=fs, trial=False)[0]
    assert sound.sizes == {"sample": fs}
    middle = slice(fs // 10, -fs // 10)  # a tone that begins at once rings at its ends
    np.testing.assert_allclose(sound[middle], tone(1000, fs)[middle], rtol=0, atol=1e-4)


def test_resampling_leaves_no_alias(with_sounds: Callable[..., Path]) -> None:
    sound = open_waveforms(with_sounds({"tone.wav": as_wav(tone(12_000))}), fs=16_000)[0]
    middle = sound.sel(sample_time=slice(0.35, 1.15))
    assert abs(middle).max() < 1e-4 * 0.5


@pytest.mark.parametrize("fs", [16_000, 22_050, 11_025])
def test_a_resampled_trial_lasts_as_long(folder: Path, fs: int) -> None:
    trial = open_waveforms(folder, stims=GEESE, fs=fs)[0]
    sound = open_waveforms(folder, stims=GEESE, fs=fs, trial=False)[0]
    assert trial.sizes["sample"] == round(1.5 * fs)
    onset = int(np.flatnonzero(trial.sample_time == sound.sample_time[0])[0])
    assert onset == pytest.approx(0.25 * fs, abs=0.5)
    np.testing.assert_array_equal(trial[onset : onset + fs], sound)
    assert not trial[:onset].any()
    assert not trial[onset + fs :].any()


def test_files_of_another_rate_are_resampled_too(with_sounds: Callable[..., Path]) -> None:
    path = with_sounds({"a.wav": as_wav(tone(1000, 48_000), 48_000)})
    sound = open_waveforms(path, trial=False)[0]
    np.testing.assert_allclose(sound[4410:-4410], tone(1000)[4410:-4410], rtol=0, atol=1e-4)


@pytest.mark.parametrize("fs", [0, -44100, 44100.5, float("nan"), float("inf")])
def test_an_impossible_sampling_rate_is_refused(folder: Path, fs: int) -> None:
    with pytest.raises(ValueError, match="fs must be a whole number"):
        open_waveforms(folder, fs=fs)


@pytest.mark.parametrize(("package", "fs"), [("scipy", FS), ("soxr", 16_000)])
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, package: str, fs: int
) -> None:
    for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{package} .*nat4xr\[audio\]"):
        open_waveforms(folder, stims=GEESE, fs=fs).load()


# --- where the files are ------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["wav", "wav/wav"], ids=["folder", "wrapped folder"])
def test_an_unpacked_folder_serves_as_well(folder: Path, tmp_path: Path, inside: str) -> None:
    with zipfile.ZipFile(folder / "wav.zip") as archive:
        archive.extractall((tmp_path / inside).parent)
    xr.testing.assert_identical(open_waveforms(tmp_path), open_waveforms(folder))


def test_files_that_are_no_sounds_are_passed_over(with_sounds: Callable[..., Path]) -> None:
    members = {"wav/README.txt": b"", "__MACOSX/wav/._a.wav": b"\0\5\x16\7", "wav/A.WAV": SILENCE}
    assert open_waveforms(with_sounds(members)).stim.values.tolist() == ["STIM_A.wav"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_taken_for_the_sounds(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "wav.zip")
    with pytest.raises(FileNotFoundError, match=r"wav.zip not found"):
        nat4xr.open_waveforms(path=tmp_path, download=False)


def test_missing_sounds_are_asked_for_with_the_command_that_fetches_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)wav\.zip not found.*nat4xr fetch wav"):
        open_waveforms(tmp_path, download=False)


def test_missing_sounds_are_fetched(release_server: ReleaseServer, tmp_path: Path) -> None:
    sounds = open_waveforms(tmp_path, progressbar=False)
    assert sounds.sizes["stim"] == 30
    assert [request.name for request in release_server.log] == ["record", "wav.zip"]


# --- broken and hostile files -------------------------------------------------------------------


def test_a_zip_cut_short_is_named(folder: Path, tmp_path: Path) -> None:
    content = (folder / "wav.zip").read_bytes()
    (tmp_path / "wav.zip").write_bytes(content[:-100])
    with pytest.raises(nat4xr.ReleaseError, match=r"wav\.zip is damaged or cut short"):
        open_waveforms(tmp_path)


def test_a_flipped_byte_is_found(folder: Path, tmp_path: Path) -> None:
    content = bytearray((folder / "wav.zip").read_bytes())
    content[700] ^= 0xFF  # geese comes first
    (tmp_path / "wav.zip").write_bytes(content)
    with pytest.raises(nat4xr.ReleaseError, match=r"geese.* in wav\.zip is damaged"):
        open_waveforms(tmp_path, stims=GEESE).load()


@pytest.mark.parametrize("seconds", [0, 0.5, 0.98, 1.02, 4])
def test_a_sound_that_does_not_last_a_second_is_named(
    with_sounds: Callable[..., Path], seconds: float
) -> None:
    path = with_sounds({"a.wav": as_wav(np.zeros(round(seconds * FS), np.int16))})
    with pytest.raises(nat4xr.ReleaseError, match=r"a\.wav in wav\.zip has .* samples at 44100 Hz"):
        open_waveforms(path).load()


@pytest.mark.parametrize("n_samples", [FS - 7, FS + 7])
def test_a_few_samples_more_or_less_are_no_matter(
    with_sounds: Callable[..., Path], n_samples: int
) -> None:
    path = with_sounds({"a.wav": as_wav(np.full(n_samples, 2**14, np.int16))})
    sound = open_waveforms(path, trial=False)[0]
    assert sound.sizes == {"sample": FS}
    assert int((sound == 0.5).sum()) == min(n_samples, FS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_no_number_is_refused(
    with_sounds: Callable[..., Path], value: float
) -> None:
    path = with_sounds({"a.wav": as_wav(np.full(FS, value, np.float32))})
    with pytest.raises(nat4xr.ReleaseError, match=r"a\.wav in wav\.zip holds a value that"):
        open_waveforms(path).load()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"RIFF",
        SILENCE[:40],
        SILENCE.replace(b"WAVE", b"AVI "),
        SILENCE.replace(b"data", b"dada"),
        SILENCE[:22] + struct.pack("<H", 0) + SILENCE[24:],  # no channels
        SILENCE[:24] + struct.pack("<I", 0) + SILENCE[28:],  # no sampling rate
        SILENCE[:20] + struct.pack("<H", 0x55) + SILENCE[22:],  # MP3 inside
    ],
)
@pytest.mark.filterwarnings("ignore::scipy.io.wavfile.WavFileWarning")
def test_what_is_no_wav_is_a_release_error(
    with_sounds: Callable[..., Path], content: bytes
) -> None:
    path = with_sounds({"a.wav": content})
    with pytest.raises(nat4xr.ReleaseError, match=r"a\.wav in wav\.zip"):
        open_waveforms(path).load()


def test_names_are_never_paths(with_sounds: Callable[..., Path]) -> None:
    path = with_sounds({"../../evil.wav": SILENCE})
    assert not open_waveforms(path, stims=["evil"]).any()
    with pytest.raises(KeyError, match="no sound"):
        open_waveforms(path, stims=["../../evil.wav"])
    assert [file.name for file in path.iterdir()] == ["wav.zip"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, "holds no sound"),
        ({"readme.txt": b""}, "holds no sound"),
        ({"a/x.wav": SILENCE, "b/x.wav": SILENCE}, r"holds x\.wav twice"),
        ({"\x1b[2Jx.wav": SILENCE}, ": holds the unsafe name"),
        ({"=1+1.wav": SILENCE}, ": holds the unsafe name"),
        ({"cat1_rec1_=1+1_excerpt1.wav": SILENCE}, ": holds the unsafe name"),
        ({"_rec1_" * 10**4 + ".wav": SILENCE}, ": holds the unsafe name"),
        (dict.fromkeys(map(str, range(20_001)), b""), ": 20,001 files in a zip"),
    ],
)
def test_a_zip_that_cannot_be_wav_zip_is_refused(
    with_sounds: Callable[..., Path], members: dict[str, bytes], message: str
) -> None:
    with pytest.raises(nat4xr.ReleaseError, match=rf"wav\.zip ?{message}"):
        open_waveforms(with_sounds(members))


def test_a_file_that_claims_to_be_huge_is_not_read(
    with_sounds: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAT4XR_LIMITS", "1e-3")
    path = with_sounds({"a.wav": SILENCE})
    with pytest.raises(nat4xr.ReleaseError, match=r"88,244 bytes.*NAT4XR_LIMITS=1"):
        open_waveforms(path).load()


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_sound_may_be_compressed_by_any_method(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "wav.zip", "w", method) as archive:
        archive.writestr("a.wav", SILENCE)
    assert (open_waveforms(tmp_path) == 0).all()


def test_a_sound_that_is_larger_than_it_claims_is_not_inflated(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "wav.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", SILENCE + bytes(2**26))
    content = bytearray((tmp_path / "wav.zip").read_bytes())
    struct.pack_into("<I", content, content.rindex(b"PK\1\2") + 24, len(SILENCE))
    (tmp_path / "wav.zip").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(nat4xr.ReleaseError, match=r"a\.wav in wav\.zip is damaged"):
            open_waveforms(tmp_path).load()
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.reliability
def test_a_link_in_an_unpacked_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "private.wav").write_bytes(SILENCE)
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav" / "a.wav").symlink_to(tmp_path / "private.wav")
    with pytest.raises(nat4xr.ReleaseError, match=r"wav: a\.wav is a link"):
        open_waveforms(tmp_path)


def test_an_encrypted_sound_is_named(with_sounds: Callable[..., Path]) -> None:
    path = with_sounds({"a.wav": SILENCE})
    content = (path / "wav.zip").read_bytes()
    entry = content.rindex(b"PK\1\2")  # the flags of the member are 8 bytes further on
    (path / "wav.zip").write_bytes(content[: entry + 8] + b"\1" + content[entry + 9 :])
    with pytest.raises(nat4xr.ReleaseError, match=r"a\.wav in wav\.zip: .* encrypted"):
        open_waveforms(path).load()


def test_a_sound_that_begins_before_its_archive_is_damaged(
    with_sounds: Callable[..., Path],
) -> None:
    path = with_sounds({"a.wav": SILENCE})
    content = (path / "wav.zip").read_bytes()
    place = content.rindex(b"PK\5\6") + 16  # where the list of members is said to begin
    claimed = struct.pack("<I", struct.unpack_from("<I", content, place)[0] + 1000)
    (path / "wav.zip").write_bytes(content[:place] + claimed + content[place + 4 :])
    with pytest.raises(nat4xr.ReleaseError, match=r"a\.wav in wav\.zip is damaged or cut short"):
        open_waveforms(path).load()


# --- a file that takes the place of what was opened ---------------------------------------------


def unzipped(folder: Path) -> Path:
    """The same sounds in a folder."""
    with zipfile.ZipFile(folder / "wav.zip") as archive:
        archive.extractall(folder / "wav")
    (folder / "wav.zip").unlink()
    return folder


@pytest.mark.parametrize("unpack", [False, True], ids=["zip", "folder"])
@pytest.mark.parametrize("sent", [False, True], ids=["open", "pickled"])
def test_sounds_that_were_replaced_are_not_read_under_the_old_names(
    sent: bool, unpack: bool, with_sounds: Callable[[Mapping[str, bytes]], Path]
) -> None:
    names = ["cat1_rec1_rain_excerpt1.wav", "cat2_rec1_wind_excerpt1.wav"]
    sounds = {name: as_wav(tone(hz)) for name, hz in zip(names, (200, 300), strict=True)}
    folder = with_sounds(sounds)
    if unpack:
        unzipped(folder)
    opened = open_waveforms(folder)
    opened = pickle.loads(pickle.dumps(opened)) if sent else opened
    folder = with_sounds({names[0]: sounds[names[1]], names[1]: sounds[names[1]]})
    if unpack:
        unzipped(folder)
    with pytest.raises(OSError, match=rf"{names[0]} in wav.* has been replaced .*open_waveforms"):
        opened.isel(stim=0).load()
    if not unpack:  # the other is the same, in a zip: by its checksum
        assert opened.isel(stim=1).any()


def test_a_replaced_sound_of_the_same_size_and_time_is_known_by_its_content(
    with_sounds: Callable[[Mapping[str, bytes]], Path],
) -> None:
    def write(hz: int) -> Path:
        folder = with_sounds({"cat1_rec1_rain_excerpt1.wav": as_wav(tone(hz))})
        unzipped(folder)
        for file in (folder / "wav").rglob("*.wav"):
            os.utime(file, ns=(0, 0))
        return folder

    opened = open_waveforms(write(200))
    write(300)
    with pytest.raises(OSError, match=r"rain_excerpt1\.wav in wav has been replaced"):
        opened.load()


def test_a_sound_that_is_gone_from_the_zip_is_named(
    with_sounds: Callable[[Mapping[str, bytes]], Path],
) -> None:
    opened = open_waveforms(with_sounds({"cat1_rec1_rain_excerpt1.wav": SILENCE}))
    with_sounds({"cat2_rec1_wind_excerpt1.wav": SILENCE})
    with pytest.raises(OSError, match=r"rain_excerpt1\.wav in wav\.zip has been replaced"):
        opened.load()
