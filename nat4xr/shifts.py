"""A test whether trials agree in time, in which they are shifted against each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def shift_p_values(response: Array, *, shifts: int, seed: int) -> Array:
    """Test by circular shifts whether the trials of each sound agree in time.

    The statistic is the signal power within sounds. It is computed in the frequency domain, where
    a shift is a multiplication, for all shifts and cells at once.

    Parameters
    ----------
    response : numpy.ndarray
        Shape (..., stim, rep, time), NaN where there was no presentation.
    shifts : int
        Number of random shifts.
    seed : int
        Seed of the random shifts.

    Returns
    -------
    numpy.ndarray
        The p-values, shape (...); NaN where no sound was presented twice or no trial varies.
    """
    shape = response.shape[:-3]
    response = response.reshape(-1, *response.shape[-3:])
    power = np.zeros((shifts + 1, len(response)))  # the first is without shifts
    # Scaled to a largest value of 1, the powers fit into single precision in any unit.
    largest = np.abs(response).max(axis=(1, 2, 3), initial=0, where=~np.isnan(response))
    scale = np.where(largest > 0, largest, 1).astype(np.float64)[:, None, None]
    for stim in range(response.shape[1]):
        missing = np.isnan(response[:, stim])
        presented = np.logical_not(missing.all(-1))
        valid = ~(missing & presented[..., None]).any(-2)
        # Cells of the same site have the same pattern, so they are computed together.
        patterns, pattern_of = np.unique(
            np.concatenate([presented, valid], 1), axis=0, return_inverse=True
        )
        for i, pattern in enumerate(patterns):
            cells = np.flatnonzero(pattern_of.ravel() == i)
            reps, bins = map(np.flatnonzero, np.split(pattern, [presented.shape[1]]))
            if len(reps) > 1 and len(bins) > 1:
                trials = response[np.ix_(cells, np.array([stim]), reps, bins)][:, 0]
                trials = trials / scale[cells]
                rng = np.random.default_rng([seed, stim, len(reps), len(bins)])
                power[:, cells] += _power_of_shifted(trials, shifts, rng)
    with np.errstate(invalid="ignore"):
        # Single precision cannot resolve smaller differences.
        larger = (power[1:] >= power[0] * (1 - 1e-6)).sum(0)
        p = np.where(power.max(0) > 0, (1 + larger) / (1 + shifts), np.nan)
    return p.reshape(shape)


def _power_of_shifted(trials: Array, shifts: int, rng: np.random.Generator) -> Array:
    """Power of the sum of N trials (cell, rep, time), over N (N - 1): first without shifts."""
    n_cells, n_reps, n_bins = trials.shape
    trials -= trials.mean(-1, keepdims=True)
    spectrum = np.fft.rfft(trials)[..., 1:].astype(np.complex64)  # without the mean
    shift = rng.integers(n_bins, size=(shifts + 1, n_reps))
    shift[0] = 0
    power = np.zeros((shifts + 1, n_cells), np.float32)
    for f in range(1, spectrum.shape[-1] + 1):
        phases = np.exp(-2j * np.pi * f / n_bins * shift).astype(np.complex64)
        total = phases @ spectrum[..., f - 1].T
        multiplicity = 1 if 2 * f == n_bins else 2  # the negative frequency has the same power
        power += multiplicity * (total.real**2 + total.imag**2)
    result: Array = power / (n_bins * n_reps * (n_reps - 1))
    return result
