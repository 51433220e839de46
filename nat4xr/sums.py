"""Sums over the time bins of each sound, from which metrics are computed.

The sums are additive. A metric over all sounds is computed from their total, and a metric over all
sounds but one from the total minus the sums of that sound. All functions take plain arrays. Their
first dim is the sound, and their last dims are repeat and time. The dims between them (cells,
models) are kept. All sums are float64.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# A difference that is smaller than this, relative to its terms, is a rounding error.
CANCELLED = 1e-12

SUMS = ("n", "y", "yy", "noise", "noise_of_mean", "drift", "drift_of_mean")
PRED_SUMS = ("p", "pp", "py", "p_drift_of_mean")
PER_REPEAT = ("drift", "drift_of_mean", "p_drift_of_mean")


def sums_by_sound(
    response: Array, pred: Array | None = None, *, least: int = 2
) -> tuple[Array, ...]:
    """Compute sums over the bins of each sound, in the order of `SUMS` and `PRED_SUMS`.

    A bin is used if the sound was presented at least `least` times, and if neither a presentation
    nor the prediction is NaN in the bin. Let r be the response in one of N presentations, y its
    mean over presentations, and p the prediction. The sums are

    * ``n``: sum of 1; ``y``: of y; ``yy``: of y²; ``p``: of p; ``pp``: of p²; ``py``: of p y;
    * ``noise``: of the variance over presentations; ``noise_of_mean``: of that variance over N;
    * for each repeat, ``drift``: of (r - y) / sqrt(N - 1); ``drift_of_mean``: of
      (r - y) / sqrt(N (N - 1)); ``p_drift_of_mean``: of p (r - y) / sqrt(N (N - 1)).

    Parameters
    ----------
    response : numpy.ndarray
        Shape (stim, ..., rep, time), NaN where there was no presentation.
    pred : numpy.ndarray, optional
        Shape (stim, ..., time).
    least : int, default: 2
        Smallest number of presentations of a sound that is used.
    """
    preds = [None] * len(response) if pred is None else pred
    by_sound = [_sums(x, p, least) for x, p in zip(response, preds, strict=True)]
    sums = dict(zip(SUMS + PRED_SUMS, map(_stacked, zip(*by_sound, strict=True)), strict=False))
    # If no prediction has NaN, the sums of the response are the same for all models.
    shape = np.broadcast_shapes(*(a.shape for name, a in sums.items() if name not in PER_REPEAT))
    return tuple(
        np.broadcast_to(a, (*shape, a.shape[-1]) if name in PER_REPEAT else shape)
        for name, a in sums.items()
    )


def _sums(x: Array, p: Array | None, least: int) -> list[Array]:
    """Compute the sums of one sound."""
    x, p, presented, n_bins = _used(x, p, least)
    reps = np.maximum(presented.sum(-1), 1)
    degrees = np.maximum(reps - 1, 1)
    over_reps = x.sum(-2)
    squares = _dot(over_reps, over_reps) / reps
    y = over_reps.sum(-1) / reps
    within = _without_rounding(_dot(x, x).sum(-1), squares)
    drift = np.where(presented, x.sum(-1) - y[..., None], 0)
    root, root_for_mean = np.sqrt(degrees)[..., None], np.sqrt(degrees * reps)[..., None]
    sums = [n_bins, y, squares / reps, within / degrees, within / degrees / reps]
    sums += [drift / root, drift / root_for_mean]
    if p is not None:
        py = _dot(p, over_reps) / reps
        p_drift = np.where(presented, _dot(x, p[..., None, :]) - py[..., None], 0)
        sums += [p.sum(-1), _dot(p, p), py, p_drift / root_for_mean]
    return sums


def _used(x: Array, p: Array | None, least: int) -> tuple[Array, Array | None, Array, Array]:
    """Set the unused bins of one sound to zero, in the response and the prediction.

    Returns the response and the prediction as float64, a mask of the presentations that are used,
    and the number of bins that are used.
    """
    x = x.astype(np.float64, copy=False)
    p = None if p is None else p.astype(np.float64, copy=False)
    if x.shape[-2] >= least and not np.isnan(x.sum() + (0 if p is None else p.sum())):
        return x, p, np.ones(x.shape[:-1], bool), np.full(x.shape[:-2], float(x.shape[-1]))
    if p is not None and np.isnan(p).any():
        x = np.where(np.isnan(p)[..., None, :], np.nan, x)
    missing = np.isnan(x)
    presented = ~missing.all(-1)
    n_reps = presented.sum(-1)
    presented &= (n_reps >= least)[..., None]
    valid = (missing.sum(-2) == x.shape[-2] - n_reps[..., None]) & presented.any(-1)[..., None]
    x = np.where(presented[..., None] & valid[..., None, :], x, 0)
    p = None if p is None else np.where(valid, p, 0)
    return x, p, presented, valid.sum(-1).astype(np.float64)


class Products(NamedTuple):
    """Sums of products of two rows, x and z. A row is a presentation or a prediction of a sound.

    The sums are over the bins in which neither row is NaN: ``n`` is the sum of 1, ``x`` of x,
    ``xx`` of x², and ``xz`` of x z. Their shape is (stim, ..., row, row). A dim of rows has the
    length 1 if all rows have the same value.
    """

    n: Array
    x: Array
    xx: Array
    xz: Array

    def total(self) -> Products:
        """Add up all sounds."""
        return Products(*(array.sum(0) for array in self))

    def without(self, by_sound: Products, i: int) -> Products:
        """Subtract the i-th sound from a total."""
        return Products(*(a - b[i] for a, b in zip(self, by_sound, strict=True)))


def products_by_sound(response: Array) -> tuple[Array, ...]:
    """Compute products of presentations, over the bins in which no presentation is NaN.

    Returns
    -------
    tuple of numpy.ndarray
        The number of bins and the number of presentations, (stim, ...), and ``x`` and ``xz`` as in
        `Products`, (stim, ..., rep) and (stim, ..., rep, rep). Repeats that were not presented
        come last.
    """
    by_sound = []
    for of_sound in response:
        x, _, presented, n = _used(of_sound, None, 2)
        x, n_reps = _presented_first(x, presented)
        by_sound.append((n, n_reps.astype(np.float64), x.sum(-1), _gram(x, x)))
    return tuple(np.stack(parts) for parts in zip(*by_sound, strict=True))


def trial_snr_by_sound(response: Array) -> Array:
    """Compute the signal-to-noise ratio of each sound, (stim, ...).

    It is the mean dot product of a presentation with the others, divided by its dot product with
    itself, and averaged over the presentations that have spikes.
    """
    ratios = []
    for of_sound in response:
        x, _, presented, _ = _used(of_sound, None, 2)
        power = _dot(x, x)
        others = _dot(x, x.sum(-2, keepdims=True)) - power
        spikes = power > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(spikes, others / power, 0).sum(-1) / spikes.sum(-1)
            ratios.append(ratio / (presented.sum(-1) - 1))
    return np.stack(ratios)


def products_with_prediction(response: Array, pred: Array) -> tuple[Products, Array]:
    """Compute products of the prediction, which is the first row, and the presentations.

    Returns
    -------
    products : Products
    n_reps : numpy.ndarray
        Number of presentations, (stim, ...).
    """
    by_sound = []
    for x, p in zip(response, pred, strict=True):
        shape = np.broadcast_shapes(p.shape[:-1], x.shape[:-2])
        rows = np.empty((*shape, 1 + x.shape[-2], x.shape[-1]))
        rows[..., 0, :], rows[..., 1:, :] = p, x
        by_sound.append(_products_of_rows(rows))
    *products, n_reps = map(_stacked, zip(*by_sound, strict=True))
    return Products(*products), n_reps


def sums_and_products(
    response: Array, pred: Array, cells: Array
) -> tuple[dict[str, Array], Products, Array]:
    """Compute the sums and the products with the prediction of each sound in one pass.

    Parameters
    ----------
    response : numpy.ndarray
        Shape (stim, rep, time, cell).
    pred : numpy.ndarray
        Shape (stim, cell, time).
    cells : numpy.ndarray of int
        The positions in `response` of the cells of `pred`.

    Returns
    -------
    sums : dict of str to numpy.ndarray
    products : Products
    least : numpy.ndarray
        The smallest number of presentations among the sounds that were presented at least twice.
    """
    sums, products = [], []
    for of_sound, p in zip(response, pred, strict=True):
        rows = np.empty((len(cells), 1 + of_sound.shape[0], of_sound.shape[1]))
        rows[:, 0] = p
        for row, of_rep in enumerate(of_sound, 1):  # a table at a time fits into the cache
            rows[:, row] = of_rep.take(cells, axis=1).T
        sums.append(_sums(rows[:, 1:], rows[:, 0], 2))
        products.append(_products_of_rows(rows))
    *of_pairs, n_reps = map(_stacked, zip(*products, strict=True))
    by_name = dict(zip(SUMS + PRED_SUMS, map(_stacked, zip(*sums, strict=True)), strict=True))
    return by_name, Products(*of_pairs), least_reps(n_reps)


def _products_of_rows(rows: Array) -> tuple[Array, ...]:
    """Compute the products of one sound, (..., row, time), in which the first row is predicted."""
    x_sum = rows.sum(-1)
    if rows.shape[-2] > 2 and not np.isnan(x_sum).any():
        shape = rows.shape[:-2]
        n, xz = np.full((*shape, 1, 1), float(rows.shape[-1])), _gram(rows, rows)
        return n, x_sum[..., None], _diagonal(xz)[..., None], xz, np.full(shape, rows.shape[-2] - 1)
    p, x = rows[..., :1, :], rows[..., 1:, :]
    x = np.where(np.isnan(p), np.nan, x)
    presented = ~np.isnan(x).all(-1)
    presented &= (presented.sum(-1) > 1)[..., None]
    x, n_reps = _presented_first(x, presented)
    has = ~np.isnan(x) & (np.arange(x.shape[-2]) < n_reps[..., None])[..., None]
    has = np.concatenate([has.any(-2, keepdims=True), has], -2)
    rows = np.where(has, np.concatenate([p, x], -2), 0)
    has = has.astype(np.float64)
    return _gram(has, has), _gram(rows, has), _gram(rows * rows, has), _gram(rows, rows), n_reps


def _presented_first(x: Array, presented: Array) -> tuple[Array, Array]:
    if not presented.all():
        order = np.argsort(~presented, axis=-1, kind="stable")
        x = np.take_along_axis(x, order[..., None], axis=-2)
    return x, presented.sum(-1)


def correlations(products: Products) -> tuple[Array, Array]:
    """Compute the correlations of all pairs of rows, and whether each row has any variance.

    The correlation is 0 if one of the two rows has no variance.
    """
    n, x, xx, xz = products
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = _without_rounding(xx, x * x / n)
        scale = np.sqrt(spread * spread.swapaxes(-1, -2))
        correlation = np.where(scale > 0, (xz - x * x.swapaxes(-1, -2) / n) / scale, 0)
    return correlation, np.any(spread > 0, axis=-1)


def mean_of_pairs(correlation: Array, n_reps: Array) -> Array:
    """Average over all pairs of the first `n_reps` presentations; NaN if there are no pairs."""
    rep = np.arange(correlation.shape[-1])
    paired = (rep < rep[:, None]) & (rep[:, None] < n_reps[..., None, None])
    n_pairs = np.where(n_reps > 1, n_reps * (n_reps - 1) / 2, np.nan)
    mean: Array = np.where(paired, correlation, 0).sum((-2, -1)) / n_pairs
    return mean


def least_reps(n_reps: Array) -> Array:
    """Return the smallest number of presentations of the sounds (axis 0) with at least two."""
    least: Array = np.where(n_reps > 1, n_reps, np.inf).min(0)
    return np.where(np.isfinite(least), least, np.nan)


def trial_correlation(n: Array, n_reps: Array, x: Array, xz: Array, *, pooled: bool) -> Array:
    """Compute the mean correlation between presentations; NaN if none has any variance.

    The arguments are what :func:`products_by_sound` returns, but with the sounds along the dim
    before the repeats: (..., stim), (..., stim, rep) and (..., stim, rep, rep).
    """
    products = Products(n[..., None, None], x[..., None], _diagonal(xz)[..., None], xz)
    if pooled:
        n_reps = least_reps(np.moveaxis(n_reps, -1, 0))
        correlation, vary = correlations(Products(*(array.sum(-3) for array in products)))
        vary &= np.arange(vary.shape[-1]) < n_reps[..., None]
        return np.where(vary.any(-1), mean_of_pairs(correlation, n_reps), np.nan)
    correlation, vary = correlations(products)
    n = np.where(n_reps > 1, n, 0)
    mean = np.where(n_reps > 1, mean_of_pairs(correlation, n_reps), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(vary.any((-2, -1)), (mean * n).sum(-1) / n.sum(-1), np.nan)


def r_ceiling(total: Products, n_reps: Array) -> Array:
    """Compute the correlation of the prediction, which is the first row, corrected for noise.

    This is the mean correlation of the prediction with the first `n_reps` presentations, divided
    by the root of the mean correlation between these, which is set to at least 0.01. NaN if the
    prediction has no variance, or if no presentation has any.
    """
    correlation, vary = correlations(total)
    between = np.maximum(mean_of_pairs(correlation[..., 1:, 1:], n_reps), 0.01)
    used = np.arange(correlation.shape[-1] - 1) < n_reps[..., None]
    with_prediction = np.where(used, correlation[..., 0, 1:], 0).sum(-1) / n_reps
    defined = vary[..., 0] & (vary[..., 1:] & used).any(-1)
    return np.where(defined, with_prediction / np.sqrt(between), np.nan)


def half_split_ceiling(
    n: Array, n_reps: Array, x: Array, xz: Array, *, splits: int, seed: int, pooled: bool
) -> Array:
    """Compute CC_max from the correlation between means over halves of the presentations.

    The arguments are as for :func:`trial_correlation`.
    """
    shape = n.shape[:-1]
    n, n_reps = n.reshape(-1, n.shape[-1]), n_reps.reshape(-1, n.shape[-1])
    x, xz = x.reshape(*n.shape, -1), xz.reshape(*n.shape, *xz.shape[-2:])
    ceiling = np.full(len(n), np.nan)
    # Cells of the same site have the same numbers of presentations: they are computed together.
    patterns, pattern_of = np.unique(n_reps.astype(int) // 2 * 2, axis=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        cells = pattern_of.ravel() == i
        if pattern.any():
            heard = pattern > 0
            counts = pattern[heard].tolist()
            halves = {even: _half_splits(even, splits, seed) for even in set(counts)}
            ceiling[cells] = _ceiling(
                n[cells][:, heard], x[cells][:, heard], xz[cells][:, heard],
                [halves[even] for even in counts], pooled,
            )  # fmt: skip
    return ceiling.reshape(shape)


def _half_splits(n: int, splits: int, seed: int) -> Array:
    """Return splits of `n` presentations into halves, as rows of +1 and -1."""
    if comb(n, n // 2) // 2 <= splits:
        # All distinct splits: the first presentation is always in the first half.
        signs = -np.ones((comb(n, n // 2) // 2, n))
        for row, others in zip(signs, combinations(range(1, n), n // 2 - 1), strict=True):
            row[[0, *others]] = 1
        return signs
    halves = np.repeat([1.0, -1.0], n // 2)
    return np.random.default_rng([seed, n]).permuted(np.tile(halves, (splits, 1)), axis=1)


def _ceiling(n: Array, x: Array, xz: Array, halves: list[Array], pooled: bool) -> Array:
    # Let s be the mean over all presentations, and d half the difference between the means over
    # the two halves. Then these means are s + d and s - d. Their correlation follows from the
    # variances and the covariance of s and d, which are computed from the products of
    # presentations, without going through the time bins again for each split.
    n_splits = max(map(len, halves))
    total = np.zeros((5, len(n), n_splits))
    size = np.zeros(total.shape[1:])
    for s, splits in enumerate(halves):
        even = splits.shape[1]
        signs = np.resize(splits, (n_splits, even)) / even
        between, bins = xz[:, s, :even, :even], np.maximum(n[:, s, None], 1)
        with_mean = between.mean(-1)
        pairs_of_signs = np.einsum("ki,kj->ijk", signs, signs).reshape(-1, n_splits)
        sum_s, sum_d = x[:, s, :even].mean(-1)[:, None], x[:, s, :even] @ signs.T
        ss, dd, sd = (
            with_mean.mean(-1)[:, None],
            between.reshape(len(between), -1) @ pairs_of_signs,
            with_mean @ signs.T,
        )
        size += ss + dd
        if not pooled:  # subtract the means within this sound
            weight = bins / np.maximum(bins - 1, 1)
            ss, dd, sd = (
                weight * (product - a * b / bins)
                for product, a, b in ((ss, sum_s, sum_s), (dd, sum_d, sum_d), (sd, sum_s, sum_d))
            )
            sum_s = sum_d = np.zeros((1, 1))
        for into, part in zip(total, (ss, dd, sd, sum_s, sum_d), strict=True):
            into += part
    ss, dd, sd, sum_s, sum_d = total
    bins = n.sum(-1)[:, None]
    bins = np.where(bins > 0, bins, np.nan)
    var_s, var_d, cov = ss - sum_s**2 / bins, dd - sum_d**2 / bins, sd - sum_s * sum_d / bins
    first, second = var_s + var_d + 2 * cov, var_s + var_d - 2 * cov
    vary = np.minimum(first, second) > CANCELLED * size
    cc_half = (var_s - var_d) / np.sqrt(np.where(vary, first * second, np.nan))
    # The correlation is undefined if one of the halves has no variance. Such splits are left out.
    n_defined = np.isfinite(cc_half).sum(-1)
    cc_half = np.nansum(cc_half, axis=-1) / np.where(n_defined, n_defined, np.nan)
    cc_half = np.where(cc_half > CANCELLED, cc_half, np.nan)
    ceiling: Array = np.sqrt(2 / (1 + np.sqrt(1 / cc_half**2)))
    return ceiling


def _without_rounding(a: Array, b: Array) -> Array:
    """Return the difference of `a` and `b`, or 0 where it is negative or a rounding error."""
    return np.where(a - b > CANCELLED * np.abs(a), a - b, 0)


def _dot(a: Array, b: Array) -> Array:
    product: Array = np.einsum("...t,...t->...", a, b)
    return product


def _gram(a: Array, b: Array) -> Array:
    """Sum the products of each row of `a` with each row of `b` over time."""
    left = np.ascontiguousarray(a)
    product: Array = left @ (left if a is b else np.ascontiguousarray(b)).swapaxes(-1, -2)
    return product


def _diagonal(a: Array) -> Array:
    return np.diagonal(a, axis1=-2, axis2=-1)


def _stacked(parts: tuple[Array, ...]) -> Array:
    """Stack the sounds along a new first dim; arrays of different shapes are broadcast."""
    return np.stack(np.broadcast_arrays(*parts))
