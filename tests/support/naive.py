"""A second reader of the release for tests, which is simple and slow.

It was written from the description of the format, and shares no code with nat4xr. If it cannot read
a file, it raises an error of any type.
"""

import csv
import io
import json
import math
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

NUMBER = re.compile(r"[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan)", re.I | re.A)
ARCHIVES = (".tgz", ".tar.gz", ".tar")
LABELS = ("site", "animal", "electrode", "category", "sound", "excerpt")
FLAGS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "": False}


class Signal(NamedTuple):
    chans: list[str]
    fs: float
    sounds: list[tuple[str, int, int]]  # name, first and last sample, in order of time
    data: Any  # list of rows, or event times by channel


def read(folder: Path, area: str = "A1") -> dict[str, Any]:
    """Read an area: labels as lists, and data as float32 arrays."""
    found = {}
    for name in (f"{area}_NAT4_ozgf.fs100.ch18.tgz", f"{area}_single_sites.zip"):
        stem = name[:-4]
        found[name] = next(f for n in (name, f"{stem}.tar.gz", f"{stem}.tar", stem)
                           if (f := folder / n).exists())  # fmt: skip
    population, sites = found.values()
    members, meta = signal_members(files_of(population))
    resp, stim = (read_signal(name, members[name]) for name in ("resp", "stim"))
    if not stim.sounds:
        stim = stim._replace(sounds=read_signal("resp", members["resp"]).sounds)
    resp, stim = (s._replace(sounds=on_raster(s)) for s in (resp, stim))
    sounds = [name for name, _, _ in resp.sounds]
    lengths = [last - first for _, first, last in resp.sounds]
    n_time = max(set(lengths), key=lambda length: (lengths.count(length), length))
    psth = cut(resp, sounds, n_time)
    is_val = np.array([sound.startswith("STIM_00cat") for sound in sounds])
    missed = np.isnan(psth).all(axis=1)

    # Cell -> sound -> repeat -> bin; -1 where the trial has ended.
    trials: dict[str, list[list[list[int]]]] = {}
    spikes: list[tuple[str, int, str, int, float]] = []  # sound, repeat, cell, ms and s from onset
    presented: list[tuple[str, int, float]] = []  # sound, repeat, onset in the session
    n_outside: dict[str, int] = dict.fromkeys(resp.chans, 0)
    names: dict[str, str] = dict.fromkeys(resp.chans, "")
    known: list[Signal] = []
    for site_files in sites_of(sites):
        site = read_signal("resp", signal_members(site_files)[0]["resp"])
        if any(repr(site) == repr(other) for other in known):  # a copy
            continue
        known.append(site)
        per_bin = round(site.fs / 100)
        whole = n_time * per_bin
        ours = {
            sound: [
                (first, min(last - first, whole) if last - first < whole - 1 else whole)
                for name, first, last in site.sounds
                if name == sound
            ]
            for sound in sounds
        }
        for sound, of_sound in ours.items() if matched(resp.chans, site.chans) else []:
            presented += [(sound, rep, first / site.fs) for rep, (first, _) in enumerate(of_sound)]
        for cell, name in matched(resp.chans, site.chans).items():
            assert not names[cell], f"{cell} at two sites"
            names[cell] = name
            times = [t for t in site.data[name] if 0 <= t < 1e9]
            counted = set()
            trials[cell] = []
            for sound, of_sound in ours.items():
                trials[cell].append([])
                for rep, (first, length) in enumerate(of_sound):
                    counts = [0] * (length // per_bin) + [-1] * (n_time - length // per_bin)
                    for number, time in enumerate(times):
                        place = math.floor(time * site.fs) - first
                        if 0 <= place < length:
                            counted.add(number)
                            ms = place // max(1, round(site.fs / 1000))
                            seconds = float(np.float32((time * site.fs - first) / site.fs))
                            spikes.append((sound, rep, cell, ms, seconds))
                            if counts[place // per_bin] >= 0:
                                counts[place // per_bin] += 1
                    trials[cell][-1].append(counts)
            n_outside[cell] = len(site.data[name]) - len(counted)
    n_reps = np.zeros((len(sounds), len(resp.chans)), int)
    n_reps[~is_val] = ~missed[~is_val]
    counts = [[len(of_cell[s]) for of_cell in trials.values()] for s in np.flatnonzero(is_val)]
    most = max([20, *(n for of_sound in counts for n in of_sound)])
    response = np.full((len(sounds), most, n_time, len(resp.chans)), np.nan, np.float32)
    response[~is_val, 0] = psth[~is_val]
    for c, cell in enumerate(resp.chans):
        for s in np.flatnonzero(is_val):
            if cell in trials and not missed[s, c]:
                n_reps[s, c] = len(trials[cell][s])
                for r, counts_of_trial in enumerate(trials[cell][s]):
                    response[s, r, :, c] = [np.nan if n < 0 else n for n in counts_of_trial]
    return {
        "stim": sounds,
        "neuron": resp.chans,
        "trials_cell_id": [names[cell] for cell in resp.chans],
        "auditory": flags(folder / f"{area}_pred_correlation.csv", resp.chans),
        "simulated": int(bool(isinstance(meta, dict) and meta.get("simulated"))),
        "response": response,
        "psth": psth,
        "spectrogram": cut(stim, sounds, n_time).transpose(0, 2, 1),
        "n_reps": n_reps,
        "time": np.arange(n_time) / 100,
        "freq": np.geomspace(200, 20_000, len(stim.chans)),
        "spikes": sorted(spikes),
        "trials": sorted(presented),
        "n_outside": list(n_outside.values()),
        **labels(resp.chans, sounds),
    }


def labels(cells: list[str], sounds: list[str]) -> dict[str, list[Any]]:
    """Parse the labels in the names of cells and sounds; "" or -1 if that is not possible."""
    found: dict[str, list[Any]] = {name: [] for name in LABELS}
    for cell in cells:
        site, _, rest = cell.partition("-")
        part = re.fullmatch("([a-z]{3})([0-9]+)([a-z]+)", site, re.I | re.A)
        found["site"].append(site if part else "")
        found["animal"].append(part[1] if part else "")
        found["electrode"].append(small(rest.partition("-")[0]))
    for sound in sounds:
        name = sound.removeprefix("STIM_").removeprefix("00")
        category, _, _ = name.partition("_")
        is_category = category.startswith("cat") and "_" in name
        found["category"].append(small(category[3:]) if is_category else -1)
        part = re.search("_rec[0-9]+_(.+)_excerpt[0-9]", sound, re.A)
        found["sound"].append(part[1] if part else "")
        number = sound.removesuffix(".wav").rpartition("_excerpt")
        found["excerpt"].append(small(number[2]) if number[1] else -1)
    return found


def small(digits: str) -> int:
    """Convert digits to a number if it fits into int16, or else return -1."""
    known = re.fullmatch("[0-9]{1,8}", digits, re.A) and int(digits) < 2**15
    return int(digits) if known else -1


def files_of(path: Path | bytes) -> dict[str, bytes]:
    """Read the files of a recording, by name."""
    if isinstance(path, Path) and path.is_dir():
        for folder in (path, *sorted(p for p in path.iterdir() if p.is_dir())):
            files = [p for p in folder.iterdir() if p.suffix in (".json", ".csv", ".h5")]
            if files := [p for p in files if not p.name.startswith(".")]:
                return {p.name: p.read_bytes() for p in files}
    content = io.BytesIO(path) if isinstance(path, bytes) else path.open("rb")
    with content, tarfile.open(fileobj=content, mode="r:*") as archive:
        members = [member for member in archive if not member.isdir()]
        assert all(member.isreg() for member in members)
        names = [m.name for m in members if not m.name.rpartition("/")[2].startswith(".")]
        assert len(set(names)) == len(names)
        return {m.name: archive.extractfile(m).read() for m in members if m.name in names}


def sites_of(sites: Path) -> list[dict[str, bytes]]:
    if not sites.is_dir():
        with zipfile.ZipFile(sites) as archive:
            names = [n for n in archive.namelist() if n.lower().endswith(ARCHIVES)]
            names = [n for n in names if not n.rpartition("/")[2].startswith(".")]
            assert len(set(names)) == len(names)
            return [files_of(archive.read(name)) for name in names]
    entries = [p for p in sites.iterdir() if not p.name.startswith(".")]
    if len(entries) == 1 and entries[0].is_dir() and not any(entries[0].glob("*.json")):
        entries = [p for p in entries[0].iterdir() if not p.name.startswith(".")]
    return [files_of(p) for p in sorted(entries) if p.is_dir() or p.name.lower().endswith(ARCHIVES)]


def signal_members(files: dict[str, bytes]) -> tuple[dict[str, dict[str, bytes]], dict[str, Any]]:
    """Sort the files of a recording by signal and kind, and parse its meta data."""
    signals: dict[str, dict[str, bytes]] = {}
    meta = b"{}"
    recordings = set()
    for path, content in files.items():
        name = path.rpartition("/")[2]
        if name.endswith(".meta.json"):
            recordings.add(name.removesuffix(".meta.json"))
            meta = content
        elif part := re.fullmatch(r"(.+)\.([^.]+)\.(json|epoch\.csv|csv|h5)", name, re.S):
            if part[2] == "epoch" and part[3] == "csv":
                part = re.fullmatch(r"(.+)\.([^.]+)\.(epoch\.csv)", name, re.S)
            recording, signal, kind = part.groups()
            recordings.add(recording)
            members = signals.setdefault(signal, {})
            members["twice" if kind in members else kind] = content
    return signals, json.loads(meta)


def read_signal(name: str, members: dict[str, bytes]) -> Signal:
    assert "twice" not in members
    about = json.loads(members["json"])
    chans, fs = about.get("chans"), about["fs"]
    text = members.get("epoch.csv", b"name,start,end")
    rows = [row for row in table(text) if row["name"].startswith("STIM_")]
    times = [(row["name"], epoch_time(row["start"]), epoch_time(row["end"])) for row in rows]
    if "PointProcess" in str(about.get("signal_type")):  # anything else is a raster
        with h5py.File(io.BytesIO(members["h5"]), "r") as file:
            # The events have names of their own, and those in the JSON give their order.
            datasets = [chan for chan in file if isinstance(file[chan], h5py.Dataset)]
            data: Any = {chan: np.array(file[chan][:], float).tolist() for chan in datasets}
        listed = [chan for chan in dict.fromkeys(chans or []) if chan in data]
        chans = listed + sorted(set(data) - set(listed))
    else:
        assert not ("csv" in members and "h5" in members)
        if "h5" in members:
            with h5py.File(io.BytesIO(members["h5"]), "r") as file:
                data = file["raster"][:].T.tolist()
        else:
            lines = members["csv"].decode("utf-8-sig").split("\n")
            lines = [line for line in lines if line.strip("\r")]
            data = [[number(value) for value in line.split(",")] for line in lines]
        n_channels = len(data[0])
        assert all(len(row) == n_channels for row in data)
        assert name != "resp" or chans is None or len(set(chans)) == len(chans) == n_channels
        if chans is None or len(chans) != n_channels:  # which NEMS allows
            chans = [f"{name}{i}" for i in range(n_channels)]
    n_samples = len(data) if isinstance(data, list) else last_sample(about.get("segments"))
    sounds = {}  # in order of time, each once
    for name, start, stop in sorted(times, key=lambda epoch: epoch[1]):
        if not (math.isfinite(start) and math.isfinite(stop) and max(abs(start), stop) < 1e9):
            continue
        first, last = round(start * fs), round(stop * fs)
        within = n_samples is None or stop <= (n_samples + 1) / fs
        if 0 <= first < last and within:
            sounds[name, first, last] = None
    return Signal(chans, fs, list(sounds), data)


def last_sample(segments: Any) -> int | None:
    """Return the end of the last segment, if the file contains it."""
    try:
        return int(max(last for _, last in segments))
    except (TypeError, ValueError, OverflowError):
        return None


def on_raster(signal: Signal) -> list[tuple[str, int, int]]:
    """Cut the sounds at the end of the raster."""
    n_samples = len(signal.data)
    return [(name, first, min(last, n_samples)) for name, first, last in signal.sounds]


def epoch_time(text: str) -> float:
    """Parse a time in s. An empty text is NaN, and infinity is allowed."""
    if re.fullmatch("[+-]?inf(inity)?", text.strip(), re.I | re.A):
        return float(text)
    return number(text or "nan")


def table(content: bytes) -> list[dict[str, str]]:
    """Read the rows of a CSV file with a header."""
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def number(text: str) -> float:
    assert NUMBER.fullmatch(text.strip(" \t\r")), f"{text!r} is no number"
    return float(text)


def cut(signal: Signal, sounds: list[str], n_time: int) -> np.ndarray:
    """Cut out the samples of each sound, (sound, time, channel), with NaN after its end."""
    bounds = {name: (first, last) for name, first, last in signal.sounds}
    assert len(bounds) == len(signal.sounds) == len(sounds)
    values = np.full((len(sounds), n_time, len(signal.chans)), np.nan, np.float32)
    for of_sound, sound in zip(values, sounds, strict=True):
        rows = signal.data[slice(*bounds[sound])][:n_time]
        of_sound[: len(rows)] = rows
    return values


def flags(path: Path, cells: list[str]) -> list[bool]:
    known = {row["cellid"]: FLAGS[row["sig_auditory"].strip().lower()] for row in
             table(path.read_bytes())}  # fmt: skip
    found = matched(cells, list(known))
    return [cell in found and known[found[cell]] for cell in cells]


def matched(wanted: list[str], found: list[str]) -> dict[str, str]:
    """Match cells that have the same name, or the same site and numbers."""
    matches = {cell: cell for cell in wanted if cell in found}
    for cell in wanted:
        if cell not in matches and key(cell) is not None:
            others = [f for f in found if key(f) == key(cell) and f not in wanted]
            assert len(others) < 2
            if others:
                matches[cell] = others[0]
    assert len(set(matches.values())) == len(matches)
    return matches


def key(cell: str) -> tuple[Any, ...] | None:
    part = re.fullmatch(r"([a-z]{3})([0-9]+)([a-z]+)-([0-9]+)-([0-9]+)", cell, re.I | re.A)
    return part and (part[1], int(part[2]), part[3], int(part[4]), int(part[5]))
