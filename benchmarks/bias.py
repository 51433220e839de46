"""The bias of scores, noise ceilings and powers, for simulated cells with known rates."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import xarray as xr

from nat4xr import metrics

RATES = (0.5, 2, 5, 20)
TRIALS = (2, 5, 10, 20)
NOISES = ("Poisson", "over-dispersed")
COLUMNS = {
    "SP / true": "signal_power divided by the variance of the rate",
    "CCmax": "cc_max minus the correlation of the rate with the PSTH",
    "hsu": "the same with the method hsu",
    "CCnorm": "cc_norm of the rate",
    "r_ceiling": "r_ceiling of the rate",
    "r²": "squared correlation with the PSTH of a model whose r² with the rate is 0.5",
    "CCnorm²": "squared cc_norm of this model",
    "r²_ER": "r2_er of this model",
    "r²_ER, all": "r2_er of all cells, concatenated to one cell, divided by the true r²",
    "none": "cells without a ceiling, in percent",
}


def cells(
    rate: float, trials: int, noise: str, n_cells: int, n_sounds: int, seed: int = 0
) -> tuple[xr.DataArray, xr.DataArray]:
    """Simulate rates (stim, time, neuron) with a given mean in spikes/s, and responses.

    The rate is the product of a level for each sound and a time course, which is low before the
    sound. The noise is that of a Poisson process. If it is over-dispersed, each trial also has a
    random gain with a standard deviation of 0.5.
    """
    rng = np.random.default_rng([seed, trials, round(10 * rate), NOISES.index(noise)])
    course = rng.gamma(0.7, 1, (n_sounds, 150, n_cells))
    course = (course + np.roll(course, 1, 1) + np.roll(course, 2, 1)) / 3
    course *= rng.gamma(3, 1, (n_sounds, 1, n_cells))
    course[:, :25] *= 0.3
    course *= rate / 100 / course.mean((0, 1))
    gain = np.ones((n_sounds, trials, 1, n_cells))
    if noise == "over-dispersed":
        gain = rng.gamma(4, 1 / 4, gain.shape)
    counts = rng.poisson(course[:, np.newaxis] * gain).astype(np.float32)
    return (
        xr.DataArray(course, dims=("stim", "time", "neuron")),
        xr.DataArray(counts, dims=("stim", "rep", "time", "neuron")),
    )


def half_right(rate: xr.DataArray, seed: int = 1) -> xr.DataArray:
    """Make a prediction whose squared correlation with the rate is exactly one half."""
    dims = ("stim", "time")
    signal = (rate - rate.mean(dims)) / rate.std(dims)
    noise = rate.copy(data=np.random.default_rng(seed).normal(size=rate.shape))
    noise = noise - noise.mean(dims)
    noise = noise - signal * (noise * signal).mean(dims)
    return signal + noise / noise.std(dims)


def biases(
    rate: float, trials: int, noise: str, n_cells: int = 200, n_sounds: int = 18
) -> dict[str, float]:
    """Compute a row of the table: means over cells, medians of scores, and ratios of means."""
    truth, response = cells(rate, trials, noise, n_cells, n_sounds)
    model, psth = half_right(truth), response.mean("rep")
    reached = metrics.corrcoef(truth, psth)
    ceiling = metrics.cc_max(response)
    power = truth.var(("stim", "time"), ddof=1)
    row = {
        "SP / true": metrics.signal_power(response).mean() / power.mean(),
        "CCmax": (ceiling - reached).mean(),
        "hsu": (metrics.cc_max(response, method="hsu") - reached).mean(),
        "CCnorm": metrics.cc_norm(truth, response).median(),
        "r_ceiling": metrics.r_ceiling(truth, response).median(),
        "r²": (metrics.corrcoef(model, psth) ** 2).mean(),
        "CCnorm²": (metrics.cc_norm(model, response) ** 2).median(),
        "r²_ER": metrics.r2_er(model, response).median(),
        "r²_ER, all": r2_er_of_all_cells(rate, trials, noise, n_cells, n_sounds),
        "none": 100 * ceiling.isnull().mean(),
    }
    return {name: float(value) for name, value in row.items()}


def r2_er_of_all_cells(
    rate: float, trials: int, noise: str, n_cells: int, n_sounds: int = 18
) -> float:
    """Compute r2_er, divided by its true value, for one cell that heard the sounds of all cells.

    With fewer trials, more cells are simulated.
    """
    truth, response = cells(rate, trials, noise, n_cells * 20 // trials, n_sounds, seed=2)
    model, truth, response = (
        array.stack(sound=("stim", "neuron"), create_index=False).rename(sound="stim")
        for array in (half_right(truth), truth, response)
    )
    true = metrics.corrcoef(model, truth) ** 2
    return float(metrics.r2_er(model, response) / true)


def table(n_cells: int = 200) -> Iterator[str]:
    """Yield the lines of the table in Markdown."""
    names = ["noise", "spikes/s", "trials", *COLUMNS]
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for noise in NOISES:
        for rate in RATES:
            for trials in TRIALS:
                row = biases(rate, trials, noise, n_cells)
                values = [
                    f"{value:.0f}" if name == "none" else f"{value:.2f}"
                    for name, value in row.items()
                ]
                yield f"| {noise} | {rate:g} | {trials} | {' | '.join(values)} |"


def null(n_cells: int = 1000) -> Iterator[str]:
    """Yield the lines of a table of the ceilings of cells that do not respond to the sounds."""
    yield "| spikes/s | without a ceiling | median | 95th percentile | 99th percentile |"
    yield "|---|---|---|---|---|"
    for rate in (1, 5, 20):
        counts = np.random.default_rng(rate).poisson(rate / 100, (18, 20, 150, n_cells))
        undriven = xr.DataArray(counts.astype(np.float32), dims=("stim", "rep", "time", "neuron"))
        ceiling = metrics.cc_max(undriven)
        percentiles = np.percentile(ceiling.dropna("neuron"), [50, 95, 99])
        shown = " | ".join(f"{value:.2f}" for value in percentiles)
        yield f"| {rate} | {100 * float(ceiling.isnull().mean()):.0f} % | {shown} |"


def run(rounds: int) -> None:
    """Print both tables. They are always the same, so `rounds` is not used."""
    for line in chain(table(), [""], null()):
        print(line, flush=True)
