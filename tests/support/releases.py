"""Tiny releases in the published layout, made in memory as dicts that a test may change.

An archive is a dict of its members, and a release a dict of its files, archives among them::

    release = tiny_release()
    release[POPULATION]["A1_NAT4/A1_NAT4.resp.json"] = b"not JSON"
    write(release, folder)
"""

import gzip
import io
import json
import math
import tarfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

POPULATION = "A1_NAT4_ozgf.fs100.ch18.tgz"
SITES = "A1_single_sites.zip"
TABLE = "A1_pred_correlation.csv"

VAL = ["STIM_00cat172_rec1_geese_excerpt1.wav", "STIM_00cat92_rec1_country_song_excerpt1.wav"]
EST = ["STIM_cat7_rec1_Door_slam_excerpt2.wav", "STIM_cat431_rec2_rain_excerpt1.wav"]
SOUNDS = VAL + EST
N_TIME = 20
TRIAL_S = 0.2
N_FREQ = 18

Content = bytes | dict[str, Any]


@dataclass
class Site:
    """What happened at a recording site."""

    spikes: dict[str, list[float]]  # times in s, by the cell id that the site's archive uses
    trials: list[tuple[str, float]]  # sound and onset in s


def tiny_sites(repeats: int = 20) -> dict[str, Site]:
    """Two sites with 2 cells and 1, at the second with a zero more in the electrode number."""
    sites = {}
    cells = {"ARM029a": ["ARM029a-04-1", "ARM029a-07-6"], "TNC013a": ["TNC013a-022-3"]}
    for number, (site, ids) in enumerate(cells.items()):
        rng = np.random.default_rng(number)
        order = rng.permutation(VAL * repeats + EST)
        gaps_ms = rng.integers(0, 40, len(order))
        onsets = (np.arange(len(order)) * round(1000 * TRIAL_S) + np.cumsum(gaps_ms)) / 1000
        end = onsets[-1] + TRIAL_S
        spikes = {cell: np.sort(rng.uniform(0, end, round(60 * end))).tolist() for cell in ids}
        sites[site] = Site(spikes, list(zip(order.tolist(), onsets.tolist(), strict=True)))
    return sites


def binned(times: Iterable[float], onset: float, fs: float = 1000.0) -> list[int]:
    """Spikes per 10 ms bin of one trial: the format's binning rule, one spike at a time."""
    counts = [0] * N_TIME
    for time in times:
        sample = math.floor(time * fs) - round(onset * fs)
        if 0 <= sample // (fs / 100) < N_TIME:
            counts[int(sample // (fs / 100))] += 1
    return counts


def trial_counts(sites: Mapping[str, Site]) -> np.ndarray:
    """All trials, (stim, rep, time, cell); NaN where there was none."""
    most = max(sum(name == s for name, _ in site.trials) for site in sites.values() for s in SOUNDS)
    n_cells = sum(len(site.spikes) for site in sites.values())
    counts = np.full((len(SOUNDS), most, N_TIME, n_cells), np.nan)
    column = 0
    for site in sites.values():
        for times in site.spikes.values():
            for stim, sound in enumerate(SOUNDS):
                onsets = [onset for name, onset in sorted(site.trials, key=lambda t: t[1])
                          if name == sound]  # fmt: skip
                for rep, onset in enumerate(onsets):
                    counts[stim, rep, :, column] = binned(times, onset)
            column += 1
    return counts


def tiny_psth(sites: Mapping[str, Site]) -> np.ndarray:
    """What the population recording holds of these sites: means over repeats."""
    counts = trial_counts(sites)
    presented = ~np.isnan(counts)
    return np.where(presented, counts, 0).sum(1) / np.maximum(1, presented.sum(1))


def tiny_release(
    sites: Mapping[str, Site] | None = None,
    *,
    cells: list[str] | None = None,
    psth: np.ndarray | None = None,
) -> dict[str, Any]:
    """Build a release of area A1.

    `cells` are the ids that the population recording uses, `psth` (stim, time, cell) what it
    holds; both follow from the sites unless they are given.
    """
    sites = tiny_sites() if sites is None else sites
    psth = tiny_psth(sites) if psth is None else psth
    if cells is None:
        cells = [cell.replace("-0", "-") if cell.startswith("TNC") else cell
                 for site in sites.values() for cell in site.spikes]  # fmt: skip
    stim = np.random.default_rng(0).uniform(0, 3, (len(SOUNDS) * N_TIME, N_FREQ))
    events = epochs((sound, TRIAL_S * i) for i, sound in enumerate(SOUNDS))
    population = {
        **raster("A1_NAT4", "stim", [f"ch{i}" for i in range(N_FREQ)], stim, events),
        **raster("A1_NAT4", "resp", cells, psth.reshape(-1, psth.shape[-1]), events),
        **raster("A1_NAT4", "mask_est", ["mask"], np.ones((len(stim), 1)), events),
        "A1_NAT4/A1_NAT4.meta.json": b'{"siteid": "A1_NAT4"}',
    }
    rows = [f"{i},{cell},0.5,{i % 3 < 2}" for i, cell in enumerate(cells)]
    return {
        POPULATION: population,
        SITES: {archive_name(name): site_recording(name, site) for name, site in sites.items()},
        TABLE: "\n".join([",cellid,LN_test,sig_auditory", *rows, ""]).encode(errors="replace"),
    }


def archive_name(site: str) -> str:
    """Where the zip of sites holds a site."""
    return f"A1_single_sites/A1_{site}_{'0123456789' * 4}.tgz"


# --- NEMS recordings ---------------------------------------------------------------------------


def site_recording(name: str, site: Site) -> dict[str, Content]:
    end = max((onset for _, onset in site.trials), default=0) + TRIAL_S
    about = about_signal("PointProcess", list(site.spikes), 1000, round(1000 * end))
    return {
        f"{name}/{name}.meta.json": json.dumps({"siteid": name}).encode(),
        f"{name}/{name}.resp.h5": h5(site.spikes),
        f"{name}/{name}.resp.json": about,
        f"{name}/{name}.resp.epoch.csv": epochs(site.trials),
    }


def raster(
    recording: str, signal: str, chans: list[str], table: np.ndarray, events: bytes
) -> dict[str, Content]:
    stem = f"{recording}/{recording}.{signal}"
    return {
        f"{stem}.csv": csv(table),
        f"{stem}.json": about_signal("RasterizedSignal", chans, 100, len(table)),
        f"{stem}.epoch.csv": events,
    }


def about_signal(kind: str, chans: list[str], fs: float, n_samples: int) -> bytes:
    about = {"chans": chans, "fs": fs, "meta": {}, "segments": [[0, n_samples]]}
    return json.dumps(about | {"signal_type": f"<class 'nems0.signal.{kind}'>"}).encode()


def epochs(trials: Iterable[tuple[str, float]]) -> bytes:
    rows = ["name,start,end"]
    for sound, onset in trials:
        rows += [f"PreStimSilence,{onset!r},{onset + 0.05!r}"]
        rows += [f"{sound},{onset!r},{onset + TRIAL_S!r}"]
        rows += [f"PostStimSilence,{onset + 0.15!r},{onset + TRIAL_S!r}"]
    return "\n".join([*rows, ""]).encode()


def csv(table: np.ndarray) -> bytes:
    text = io.BytesIO()
    np.savetxt(text, table, delimiter=",")  # its format is NEMS's: %.18e
    return text.getvalue()


def h5(arrays: Mapping[str, Any]) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=np.asarray(values, float), compression="gzip")
    return content.getvalue()


# --- archives ----------------------------------------------------------------------------------


def packed(name: str, content: Content) -> bytes:
    """The bytes of a file: those it was given, or an archive of the kind that its name says."""
    if isinstance(content, bytes):
        return content
    members = {member: packed(member, inside) for member, inside in content.items()}
    if name.endswith(".zip"):
        return zipped(members)
    return tar(members) if name.endswith(".tar") else gzip.compress(tar(members), 1, mtime=0)


def tar(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def write(release: Mapping[str, Content], folder: Path, *, unpack: Collection[str] = ()) -> Path:
    """Write a release to a folder; what `unpack` names as the folder it unpacks to."""
    for name, content in release.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name in unpack:
            assert isinstance(content, dict)
            write(content, folder / name.removesuffix(".tgz").removesuffix(".zip"), unpack=unpack)
        else:
            file.write_bytes(packed(name, content))
    return folder
