"""The bias of scores, noise ceilings and powers, against simulated cells whose rates are known."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import xarray as xr

from nat4xr import metrics

RATES = (0.5, 2, 5, 20)
TRIALS = (2, 5, 10, 20)
NOISES = ("Poisson", "over-dispersed")
COLUMNS = {
    "SP / true": "signal_power over the variance of the rate",
    "CCmax": "cc_max less the correlation that the rate reaches",
    "hsu": "the same with the method hsu",
    "CCnorm": "cc_norm of the rate",
    "r_ceiling": "r_ceiling of the rate",
    "r²": "squared correlation of a model with the PSTH, whose r² with the rate is 0.5",
    "CCnorm²": "squared cc_norm of this model",
    "r²_ER": "r2_er of this model",
    "r²_ER, all": "r2_er of all cells, concatenated as one, over the true r²",
    "none": "cells without a ceiling, in percent",
}


def cells(
    rate: float, trials: int, noise: str, n_cells: int, n_sounds: int, seed: int = 0
) -> tuple[xr.DataArray, xr.DataArray]:
    """Rates (stim, time, neuron) with a mean in spikes/s, and responses to them.

    A rate is a product of the sound's level and a time course, silent before the sound. Noise is
    that of a Poisson process, or also of a gain that each trial draws, with a standard deviation
    of a half.
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
    """A prediction whose squared correlation with the rate is exactly one half."""
    dims = ("stim", "time")
    signal = (rate - rate.mean(dims)) / rate.std(dims)
    noise = rate.copy(data=np.random.default_rng(seed).normal(size=rate.shape))
    noise = noise - noise.mean(dims)
    noise = noise - signal * (noise * signal).mean(dims)
    return signal + noise / noise.std(dims)


def biases(
    rate: float, trials: int, noise: str, n_cells: int = 200, n_sounds: int = 18
) -> dict[str, float]:
    """A row of the table: means over cells; of ratios, the ratios of means."""
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
        "r²_ER, all": of_all_cells(rate, trials, noise, n_cells, n_sounds),
        "none": 100 * ceiling.isnull().mean(),
    }
    return {name: float(value) for name, value in row.items()}


def of_all_cells(rate: float, trials: int, noise: str, n_cells: int, n_sounds: int = 18) -> float:
    """r2_er over its true value, of one cell that has heard the sounds of all cells.

    The fewer trials there are, the more cells.
    """
    truth, response = cells(rate, trials, noise, n_cells * 20 // trials, n_sounds, seed=2)
    model, truth, response = (
        array.stack(sound=("stim", "neuron"), create_index=False).rename(sound="stim")
        for array in (half_right(truth), truth, response)
    )
    true = metrics.corrcoef(model, truth) ** 2
    return float(metrics.r2_er(model, response) / true)


def table(n_cells: int = 200) -> Iterator[str]:
    """Lines of the table in Markdown."""
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
    """The distribution of the ceiling of cells that ignore the sounds, over 20 trials."""
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
    """Print both tables. They are the same each time: there is nothing to repeat."""
    for line in chain(table(), [""], null()):
        print(line, flush=True)
