"""The source sounds of the release, read lazily from ``wav.zip`` without unpacking it."""

from __future__ import annotations

import difflib
import io
import os
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .errors import ReleaseError, explained
from .extras import require
from .index import set_labels
from .io import labels, limits, registry
from .io.assemble import sound_coords
from .io.release import check_folder, files_below, opened_zip, read_member
from .io.writing import crc32_of
from .schema import SILENCE_S, SOUND_S

_STEM = re.compile(r"(?:STIM_)?(.*?)(?:\.wav)?", re.IGNORECASE | re.DOTALL)


def open_waveforms(
    path: str | os.PathLike[str] | None = None,
    *,
    stims: str | Iterable[str] | xr.Dataset | xr.DataArray | None = None,
    trial: bool = True,
    fs: int = 44100,
    download: bool = True,
    progressbar: bool = True,
) -> xr.DataArray:
    """Open the source sounds as a labelled, lazy DataArray.

    The sounds stay in ``wav.zip``, or in a folder ``wav`` that was unpacked from it. Each is
    read, decoded and resampled when its values are needed.

    Parameters
    ----------
    path : path-like, optional
        The data folder, as for `open_area`.
    stims : xarray.Dataset, xarray.DataArray, str or iterable of str, optional
        Which sounds to open, and in which order. If this is an object with a ``stim``
        coordinate, such as what `open_area` returns, the sounds get its labels, so that the
        waveforms align with it. Otherwise give epoch names, with or without ``STIM_`` and
        ``.wav``. The letter case of names does not matter. Default: all sounds in ``wav.zip``,
        sorted by name, which puts the val sounds first.
    trial : bool, default: True
        Whether to return the whole 1.5 s trial, with 0.25 s of silence before the sound and
        0.25 s after it: at 44.1 kHz, one 10 ms bin of the responses is 441 samples. If False,
        the waveforms hold only the sound.
    fs : int, default: 44100
        Sampling rate in Hz. Files with another rate are resampled by soxr (all files of the
        release have 44.1 kHz). If ``fs`` is a multiple of 100, a 10 ms bin is a whole number of
        samples; otherwise the silence is rounded to a sample.
    download : bool, default: True
        Whether to download ``wav.zip`` if it is missing.
    progressbar : bool, default: True
        Whether to show the progress of the download.

    Returns
    -------
    xarray.DataArray
        ``waveform`` (stim, sample), float32, with one dask chunk per sound. Full scale is 1:
        integer files give values from -1 to 1. Files with several channels are averaged over
        them. Coordinates: ``stim`` with the labels of the sounds, and ``sample_time``, float64,
        in s from trial onset (not called ``time``, so that you can merge the waveforms with
        the responses).

    Raises
    ------
    ValueError
        If ``fs`` is not a positive whole number, or ``stims`` is an object without ``stim``.
    TypeError
        If ``stims`` holds something that is not a name.
    KeyError
        If a sound is not in ``wav.zip``. The message lists the closest names.
    FileNotFoundError
        If there is no ``wav.zip`` and `download` is False.
    DownloadError
        If ``wav.zip`` cannot be downloaded.
    ReleaseError
        If ``wav.zip`` is damaged or, when values are read, if a sound is damaged or does not
        last 1 s.
    ImportError
        If the packages that decode and resample are missing: install ``nat4xr[audio]``.

    Examples
    --------
    >>> import nat4xr, xarray as xr
    >>> ds = nat4xr.open_area("A1", subset="val")
    >>> sounds = nat4xr.open_waveforms(stims=ds)
    >>> dict(sounds.sizes)
    {'stim': 18, 'sample': 66150}
    >>> geese = sounds.sel(sound="geese", sample_time=slice(0.25, 0.5))
    >>> power = (sounds**2).coarsen(sample=441).mean()  # in the bins of the responses
    >>> power.sizes["sample"] == ds.sizes["time"]
    True
    >>> both = xr.merge([ds, sounds])
    """
    if not (fs > 0 and fs % 1 == 0):
        raise ValueError(f"fs must be a whole number of Hz, such as 44100, not {fs!r}")
    fs = int(fs)
    require("scipy.io.wavfile", "audio")
    check_folder(path, "wav")
    folder = registry.data_dir(path)
    source = _find(folder)
    if source is None and not download:
        raise registry.missing_error("wav", list(registry.FILES["wav"]), folder)
    if source is None:
        from .io.download import fetch

        (source,) = fetch("wav", path, progressbar=progressbar)
    files = _list(source)
    coords = _stim_coords(stims, files)
    members = _locate(coords["stim"].values.tolist(), files, source.name)
    onset = round(SILENCE_S * fs)
    n_samples = round((SOUND_S + 2 * SILENCE_S) * fs) if trial else round(SOUND_S * fs)
    table = np.array(members, dtype=object).reshape(-1, 2)
    rows = da.from_array(table, chunks=(1, 2))
    data = da.map_blocks(
        _read_sounds,
        rows,
        source=source.absolute(),
        fs=fs,
        onset=onset if trial else 0,
        n_samples=n_samples,
        chunks=(rows.chunks[0], (n_samples,)),
        meta=np.empty((0, 0), np.float32),
    )
    time_attrs = {
        "long_name": "time from trial onset",
        "units": "s",
        "sound_on": SILENCE_S,
        "sound_off": SILENCE_S + SOUND_S,
    }
    sample_time = (np.arange(n_samples) + (0 if trial else onset)) / fs
    waveform = xr.DataArray(
        data,
        dims=("stim", "sample"),
        coords={**coords, "sample_time": ("sample", sample_time, time_attrs)},
        name="waveform",
        attrs={"long_name": "sound waveform (full scale is 1)", "units": "1", "sampling_rate": fs},
    )
    return set_labels(waveform.set_xindex("sample_time"))


def _find(folder: Path) -> Path | None:
    """Find ``wav.zip``, or the folder that was unpacked from it."""
    return next(
        (p for p in (folder / "wav.zip", folder / "wav") if p.is_file() or p.is_dir()), None
    )


def _stem(name: str) -> str:
    """Return the part that the epoch name and the file name of a sound share."""
    match = _STEM.fullmatch(name)
    assert match  # it matches any string
    return match[1]


class _File(NamedTuple):
    """A sound file in a zip or folder, and a version by which a replacement is noticed."""

    path: str
    version: str


def _version(file: Path | zipfile.ZipInfo) -> str:
    if isinstance(file, zipfile.ZipInfo):
        return f"{file.file_size} bytes, CRC-32 {file.CRC:08x}"
    return f"{file.stat().st_size} bytes, CRC-32 {crc32_of(file):08x}"


def _list(source: Path) -> dict[str, _File]:
    """The sound files of a zip or folder, by their stems."""
    files: dict[str, _File] = {}
    with explained(source.name):
        if source.is_dir():
            below = files_below(source)
            limits.check("zip_files", len(below))
            versions = {file.relative_to(source).as_posix(): _version(file) for file in below}
        else:
            with opened_zip(source) as archive:
                versions = {file.filename: _version(file) for file in archive.infolist()}
        for path, version in versions.items():
            name = path.rpartition("/")[2]
            if name.startswith(".") or not name.lower().endswith(".wav"):
                continue
            labels.check_sounds([name])
            if files.setdefault(_stem(name), _File(path, version)).path != path:
                raise ReleaseError(f"{source.name} holds {name} twice")
    if not files:
        raise ReleaseError(f"{source.name} holds no sound files (.wav)")
    return files


def _stim_coords(
    stims: str | Iterable[str] | xr.Dataset | xr.DataArray | None, files: dict[str, _File]
) -> dict[Any, xr.Variable]:
    """The coordinates along ``stim``: epoch names, and labels from them or from ``stims``."""
    if isinstance(stims, xr.Dataset | xr.DataArray):
        if "stim" not in stims.coords:
            raise ValueError("stims has no coordinate 'stim' that names sounds")
        names = np.ravel(stims["stim"].values).tolist()
        labelled = {name: c.variable for name, c in stims.coords.items() if c.dims == ("stim",)}
    else:
        given = sorted(files) if stims is None else [stims] if isinstance(stims, str) else stims
        names = [f"STIM_{_stem(name)}.wav" for name in map(_checked, given)]
        labelled = {}
    return {**sound_coords([_checked(name) for name in names]), **labelled}


def _checked(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"stims must be names of sounds, not {type(name).__name__} ({name!r})")
    return name


def _locate(stims: list[str], files: dict[str, _File], label: str) -> list[_File]:
    """Find the file of each sound. An exact match takes precedence over another letter case."""
    folded: dict[str, list[str]] = {}
    for stem in files:
        folded.setdefault(stem.casefold(), []).append(stem)
    located = []
    for stim in stims:
        stem = _stem(stim)
        matches = [stem] if stem in files else folded.get(stem.casefold(), [])
        if not matches:
            nearest = difflib.get_close_matches(stem.casefold(), folded, n=3)
            hint = [f"STIM_{folded[name][0]}.wav" for name in nearest]
            raise KeyError(
                f"no sound {stim!r} among the {len(files)} in {label}"
                + (f"; the closest are {', '.join(hint)}" if hint else "")
            )
        if len(matches) > 1:
            raise ReleaseError(f"both {' and '.join(matches)} in {label} could be {stim}")
        located.append(files[matches[0]])
    return located


def _read_sounds(
    files: NDArray[np.object_], source: Path, fs: int, onset: int, n_samples: int
) -> NDArray[np.float32]:
    """Read sounds into an array (sound, sample), each from sample ``onset`` on."""
    block = np.zeros((len(files), n_samples), np.float32)
    for row, file in zip(block, files, strict=True):
        sound = _read_sound(source, _File(*file), fs)
        row[onset : onset + len(sound)] = sound
    return block


def _read_sound(source: Path, file: _File, fs: int) -> NDArray[np.float32]:
    """Read one sound as mono, at the sampling rate ``fs``."""
    label = f"{file.path.rpartition('/')[2]} in {source.name}"
    rate, values = _decode(_content(source, file, label), label)
    if not rate or abs(len(values) / rate - SOUND_S) > 0.01:
        raise ReleaseError(
            f"{label} has {len(values)} samples at {rate} Hz, but a sound should last {SOUND_S:g} s"
        )
    sound = values.astype(np.float32)
    if values.dtype.kind == "u":  # 8 bits: silence is 128
        sound -= 128
    if values.dtype.kind in "iu":
        sound /= 2.0 ** (8 * values.dtype.itemsize - 1)
    if not np.isfinite(sound).all():
        raise ReleaseError(f"{label} holds a value that is not a finite number")
    if sound.ndim > 1:
        sound = sound.mean(axis=1, dtype=np.float32)
    if rate != fs:
        sound = require("soxr", "audio").resample(sound, rate, fs)
    return sound[: round(SOUND_S * fs)]


def _content(source: Path, file: _File, label: str) -> bytes:
    """The bytes of a file that `_list` found; an OSError if it has been replaced since."""
    if source.is_dir():
        path = source / file.path
        with explained(label):
            limits.check("sound_file", path.stat().st_size)
        if _version(path) == file.version:
            return path.read_bytes()
    else:
        with explained(label), opened_zip(source) as archive:
            member = archive.NameToInfo.get(file.path)
            if member is not None and _version(member) == file.version:
                limits.check("sound_file", member.file_size)
                return read_member(archive, member)
    raise OSError(
        f"{label} has been replaced since it was opened: open the sounds again "
        "(nat4xr.open_waveforms)"
    )


def _decode(content: bytes, label: str) -> tuple[int, NDArray[Any]]:
    """Return the sampling rate in Hz and the samples as stored: (sample,) or (sample, channel)."""
    from scipy.io import wavfile

    try:
        rate, values = wavfile.read(io.BytesIO(content))
    except Exception as error:  # a damaged file can make the parser fail in any way
        raise ReleaseError(f"{label} is not a readable WAV file: {error}") from error
    return rate, values
