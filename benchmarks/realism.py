"""Compare distributions over the cells of a simulated release of full size with their targets."""

from pathlib import Path

import numpy as np
import xarray as xr

import nat4xr
from nat4xr import metrics

from .measure import DATA

QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]
# Over 337 cells of PEG, from the laboratory's public analysis repository.
REAL_SNR = [0.014, 0.038, 0.071, 0.135, 0.311]


def fano_factor(counts: xr.DataArray) -> xr.DataArray:
    """Return the variance of spike counts over repeats, divided by their mean, both over sounds."""
    return counts.var("rep", ddof=1).mean("stim") / counts.mean(["rep", "stim"])


def tuning_similarity(kernel: xr.DataArray, pairs: xr.Dataset) -> xr.DataArray:
    """Return the cosine of the angle between the spectral tunings of the cells of each pair."""
    tuning = np.sqrt((kernel**2).sum("lag"))  # kernels are separable
    tuning = tuning / np.sqrt((tuning**2).sum("freq"))
    first, second = (tuning.sel(neuron=pairs[n].values).values for n in ("neuron_1", "neuron_2"))
    return xr.DataArray((first * second).sum(1), dims="pair")


def distributions(folder: Path, area: str) -> dict[str, list[float]]:
    """Compute the values of the table by the names of their rows."""
    ds = nat4xr.open_area(area, folder, subset="val", progressbar=False)
    ds = nat4xr.drop_unrecorded(ds).load()
    auditory = ds.sel(auditory=True)
    counts = auditory.response.sum("time")
    pairs = nat4xr.pairs(auditory.response)
    correlations = pairs.noise_correlation
    with xr.open_dataset(folder / "truth.nc") as truth:
        similarity = tuning_similarity(truth.kernel.load(), pairs)

    bin_width = ds.time.attrs["bin_width"]
    rate = ds.psth.mean(["stim", "time"]) / bin_width
    course = auditory.psth.mean(["stim", "neuron"]) / bin_width
    since = course.assign_coords(time=course.time - course.time.attrs["sound_on"])
    peak = float(since.sel(time=slice(0, 0.2)).idxmax())
    after_off = course.sel(time=slice(1.26, 1.35))
    cells_course = auditory.psth.mean("stim")
    late = cells_course.sel(time=slice(0.75, 1.2)).mean("time")
    offset = cells_course.sel(time=after_off.time).mean("time") > 1.5 * late

    def quantiles(values: xr.DataArray) -> list[float]:
        return values.quantile(QUANTILES).values.tolist()

    return {
        "SNR of auditory cells": quantiles(metrics.trial_snr(auditory.response)),
        "SNR of other cells": quantiles(metrics.trial_snr(ds.sel(auditory=False).response)),
        "rate, median (spikes/s)": [float(rate.median())],
        "rate, standard deviation of its logarithm": [float(np.log(rate).std())],
        "Fano factor": quantiles(fano_factor(counts)),
        "noise correlation, mean": [float(correlations.mean())],
        "noise correlation, similar tuning": [float(correlations[similarity > 0.7].mean())],
        "noise correlation, different tuning": [float(correlations[similarity < 0.1].mean())],
        "peak of the population rate, after sound on (s)": [peak, peak + bin_width],
        "share of cells with a response to the end of sounds": [float(offset.mean())],
    }


TARGETS = {
    "SNR of auditory cells": " / ".join(f"{value:.3f}" for value in REAL_SNR),
    "rate, median (spikes/s)": "3.4",
    "rate, standard deviation of its logarithm": "1.05",
    "Fano factor": "above 1",
    "noise correlation, mean": "0.05 to 0.1",
    "peak of the population rate, after sound on (s)": "0.020 to 0.040",
}


def run(rounds: int) -> None:
    """Print the table. The release is simulated once, so `rounds` is not used."""
    folder = DATA / "realism"
    if not folder.exists():
        nat4xr.simulate(folder, scale=1)
    columns = {area: distributions(folder, area) for area in ("A1", "PEG")}
    print(f"\n| {'':55} | target | {' | '.join(columns)} |\n|---|---|---|---|")
    for name in columns["A1"]:
        values = [" / ".join(f"{x:.3f}" for x in column[name]) for column in columns.values()]
        print(f"| {name:55} | {TARGETS.get(name, '')} | {' | '.join(values)} |")
    print(f"\nRows with five values show the quantiles {QUANTILES} over cells.")
