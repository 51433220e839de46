"""Read the val trials and PSTHs of A1 with a plain script of pandas, tarfile and h5py.

    python benchmarks/plain_script.py FOLDER

``python -m benchmarks peer`` compares it with `nat4xr.open_area`. For intact files, both give the
same numbers. The script does not check the files, and does not save a converted file.
"""

import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

N_TIME = 150  # bins of 10 ms in a trial
N_REPEATS = 20


def read_psth(archive: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Read sounds, cells, and spikes per bin averaged over presentations (stim, time, neuron)."""
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.name.endswith(".resp.csv"):
                table = pd.read_csv(tar.extractfile(member), header=None, dtype=np.float32)
            elif member.name.endswith(".resp.json"):
                cells = json.load(tar.extractfile(member))["chans"]
            elif member.name.endswith(".resp.epoch.csv"):
                epochs = pd.read_csv(tar.extractfile(member))
    sounds = epochs[epochs["name"].str.startswith("STIM_")].sort_values("start")
    values = table.to_numpy()
    onsets = (sounds["start"] * 100).round().astype(int)
    return list(sounds["name"]), cells, np.stack([values[on : on + N_TIME] for on in onsets])


def cell_number(cell: str) -> tuple[str, int, int]:
    """Parse a cell id as numbers, because some site recordings write electrode 22 as 022."""
    site, electrode, unit = cell.split("-")
    return site, int(electrode), int(unit)


def read_val_trials(archive: Path, val_sounds: list[str], cells: list[str]) -> np.ndarray:
    """Read spikes per bin of each presentation (stim, rep, time, neuron); NaN if there is none."""
    column = {cell_number(cell): i for i, cell in enumerate(cells)}
    trials = np.full((len(val_sounds), N_REPEATS, N_TIME, len(cells)), np.nan, np.float32)
    with zipfile.ZipFile(archive) as sites:
        for site in sites.namelist():
            if not site.endswith(".tgz"):
                continue
            with tarfile.open(fileobj=io.BytesIO(sites.read(site))) as tar:
                for member in tar:
                    if member.name.endswith(".resp.h5"):
                        with h5py.File(io.BytesIO(tar.extractfile(member).read())) as file:
                            spikes = {cell: file[cell][:] for cell in file}
                    elif member.name.endswith(".resp.epoch.csv"):
                        epochs = pd.read_csv(tar.extractfile(member))
            onsets = {
                sound: np.sort((epochs["start"][epochs["name"] == sound] * 1000).round())
                for sound in val_sounds
            }
            for cell, times in spikes.items():
                if cell_number(cell) not in column:
                    continue
                samples = np.floor(times * 1000)
                for i, sound in enumerate(val_sounds):
                    for rep, onset in enumerate(onsets[sound]):
                        first, last = np.searchsorted(samples, [onset, onset + 10 * N_TIME])
                        bins = ((samples[first:last] - onset) // 10).astype(int)
                        counts = np.bincount(bins, minlength=N_TIME)
                        trials[i, rep, :, column[cell_number(cell)]] = counts
    return trials


def read(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the val trials and PSTHs of A1."""
    sounds, cells, psth = read_psth(folder / "A1_NAT4_ozgf.fs100.ch18.tgz")
    val_sounds = [sound for sound in sounds if sound.startswith("STIM_00cat")]
    return read_val_trials(folder / "A1_single_sites.zip", val_sounds, cells), psth


if __name__ == "__main__":
    for array in read(Path(sys.argv[1])):
        print(array.shape, array.dtype)
