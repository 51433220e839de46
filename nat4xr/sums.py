"""What the metrics of responses are computed from: sums over the time bins of each sound.

The sums add up. A metric over all sounds is computed from their total, and a metric over all
sounds but one from the total less the sums of that sound. Everything here is plain arrays with
sound as the first dim and repeat and time as the last ones; the dims between them (cells, models)
are kept. All sums are float64.
"""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# A difference this small beside what was subtracted is what rounding leaves of zero.
CANCELLED = 1e-12

SUMS = ("n", "y", "yy", "noise", "noise_of_mean", "drift", "drift_of_mean")
PRED_SUMS = ("p", "pp", "py", "p_drift_of_mean")
PER_REPEAT = ("drift", "drift_of_mean", "p_drift_of_mean")


def sums_by_sound(
    response: Array, pred: Array | None = None, *, least: int = 2
) -> tuple[Array, ...]:
    """Sums over the bins of each sound, in the order of `SUMS` and `PRED_SUMS`.

    A bin counts where the sound was presented at least `least` times, no presentation lacks it,
    and the prediction is not NaN. With r the response in one of N presentations, y its mean over
    presentations and p the prediction, these are the sums

    * ``n`` of 1, ``y`` of y, ``yy`` of y², ``p`` of p, ``pp`` of p², ``py`` of p y;
    * ``noise`` of the variance over presentations, ``noise_of_mean`` of that divided by N;
    * for each repeat, ``drift`` of (r - y) / sqrt(N - 1), ``drift_of_mean`` of
      (r - y) / sqrt(N (N - 1)), and ``p_drift_of_mean`` of p (r - y) / sqrt(N (N - 1)).

    Parameters
    ----------
    response : numpy.ndarray
        Shape (stim, ..., rep, time), NaN where there was no presentation.
    pred : numpy.ndarray, optional
        Shape (stim, ..., time).
    least : int, default: 2
        Number of presentations.
    """
    preds = [None] * len(response) if pred is None else pred
    by_sound = [_sums(x, p, least) for x, p in zip(response, preds, strict=True)]
    sums = dict(zip(SUMS + PRED_SUMS, map(_stacked, zip(*by_sound, strict=True)), strict=False))
    # Where the prediction has no gaps, the sums of the response are the same for every model.
    shape = np.broadcast_shapes(*(a.shape for name, a in sums.items() if name not in PER_REPEAT))
    return tuple(
        np.broadcast_to(a, (*shape, a.shape[-1]) if name in PER_REPEAT else shape)
        for name, a in sums.items()
    )


def _sums(x: Array, p: Array | None, least: int) -> list[Array]:
    """The sums of one sound."""
    x, p, presented, n_bins = _counted(x, p, least)
    reps = np.maximum(presented.sum(-1), 1)
    degrees = np.maximum(reps - 1, 1)
    over_reps = x.sum(-2)
    squares = _dot(over_reps, over_reps) / reps
    y = over_reps.sum(-1) / reps
    within = _without_rounding(_dot(x, x).sum(-1), squares)
    drift = np.where(presented, x.sum(-1) - y[..., None], 0)
    of_one, of_mean = np.sqrt(degrees)[..., None], np.sqrt(degrees * reps)[..., None]
    sums = [n_bins, y, squares / reps, within / degrees, within / degrees / reps]
    sums += [drift / of_one, drift / of_mean]
    if p is not None:
        py = _dot(p, over_reps) / reps
        p_drift = np.where(presented, _dot(x, p[..., None, :]) - py[..., None], 0)
        sums += [p.sum(-1), _dot(p, p), py, p_drift / of_mean]
    return sums


def _counted(x: Array, p: Array | None, least: int) -> tuple[Array, Array | None, Array, Array]:
    """Response and prediction as float64, with zeros where a bin does not count.

    And which presentations count, and the number of bins that do.
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
    """Sums over products of two rows, x and z: presentations of a sound, or a prediction of it.

    Over the bins that both have: ``n`` of 1, ``x`` of x, ``xx`` of x² and ``xz`` of x z. Each has
    shape (stim, ..., row, row), or length 1 along a dim of rows where all are the same.
    """

    n: Array
    x: Array
    xx: Array
    xz: Array

    def total(self) -> Products:
        """Over all sounds."""
        return Products(*(array.sum(0) for array in self))

    def without(self, by_sound: Products, i: int) -> Products:
        """A total less the i-th sound."""
        return Products(*(a - b[i] for a, b in zip(self, by_sound, strict=True)))


def products_by_sound(response: Array) -> tuple[Array, ...]:
    """Products of presentations, over the bins that no presentation lacks.

    Presentations that took place come first.

    Returns
    -------
    tuple of numpy.ndarray
        The number of bins and that of presentations, (stim, ...), and ``x`` and ``xz`` as in
        `Products`, (stim, ..., rep) and (stim, ..., rep, rep).
    """
    by_sound = []
    for one in response:
        x, _, presented, n = _counted(one, None, 2)
        x, n_reps = _presented_first(x, presented)
        by_sound.append((n, n_reps.astype(np.float64), x.sum(-1), _gram(x, x)))
    return tuple(np.stack(parts) for parts in zip(*by_sound, strict=True))


def trial_snr_by_sound(response: Array) -> Array:
    """Mean dot product of each presentation with the others, over that with itself, (stim, ...)."""
    ratios = []
    for one in response:
        x, _, presented, _ = _counted(one, None, 2)
        power = _dot(x, x)
        others = _dot(x, x.sum(-2, keepdims=True)) - power
        spikes = power > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(spikes, others / power, 0).sum(-1) / spikes.sum(-1)
            ratios.append(ratio / (presented.sum(-1) - 1))
    return np.stack(ratios)


def products_with_prediction(response: Array, pred: Array) -> tuple[Products, Array]:
    """Products of the prediction, the first row, and the presentations that took place.

    Returns
    -------
    products : Products
    n_reps : numpy.ndarray
        Number of presentations, (stim, ...).
    """
    by_sound = [_products_with_prediction(x, p) for x, p in zip(response, pred, strict=True)]
    *products, n_reps = map(_stacked, zip(*by_sound, strict=True))
    return Products(*products), n_reps


def sums_and_products(response: Array, pred: Array) -> tuple[dict[str, Array], Products, Array]:
    """The sums of each sound by name, and its products with the prediction, in one pass.

    And the least number of presentations of the sounds presented at least twice.
    """
    sums, products = [], []
    for x, p in zip(response, pred, strict=True):
        x, p = (np.ascontiguousarray(array, dtype=np.float64) for array in (x, p))
        sums.append(_sums(x, p, 2))
        products.append(_products_with_prediction(x, p))
    *of_pairs, n_reps = map(_stacked, zip(*products, strict=True))
    by_name = dict(zip(SUMS + PRED_SUMS, map(_stacked, zip(*sums, strict=True)), strict=True))
    return by_name, Products(*of_pairs), least_reps(n_reps)


def _products_with_prediction(x: Array, p: Array) -> tuple[Array, ...]:
    x, p = x.astype(np.float64, copy=False), p.astype(np.float64, copy=False)
    shape = np.broadcast_shapes(p.shape[:-1], x.shape[:-2])
    x = np.broadcast_to(x, (*shape, *x.shape[-2:]))
    p = np.broadcast_to(p, (*shape, p.shape[-1]))[..., None, :]
    rows = np.concatenate([p, x], -2)
    if x.shape[-2] > 1 and not np.isnan(rows.sum()):
        n, xz = np.full((*shape, 1, 1), float(p.shape[-1])), _gram(rows, rows)
        n_reps = np.full(shape, x.shape[-2])
        return n, rows.sum(-1)[..., None], _diagonal(xz)[..., None], xz, n_reps
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
    """Correlation of each two rows, 0 where one has no variance; and which rows have any."""
    n, x, xx, xz = products
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = _without_rounding(xx, x * x / n)
        both = np.sqrt(spread * spread.swapaxes(-1, -2))
        correlation = np.where(both > 0, (xz - x * x.swapaxes(-1, -2) / n) / both, 0)
    return correlation, np.any(spread > 0, axis=-1)


def mean_of_pairs(correlation: Array, n_reps: Array) -> Array:
    """Mean over the pairs of the first `n_reps` presentations; NaN if there is none."""
    rep = np.arange(correlation.shape[-1])
    paired = (rep < rep[:, None]) & (rep[:, None] < n_reps[..., None, None])
    n_pairs = np.where(n_reps > 1, n_reps * (n_reps - 1) / 2, np.nan)
    mean: Array = np.where(paired, correlation, 0).sum((-2, -1)) / n_pairs
    return mean


def least_reps(n_reps: Array) -> Array:
    """The least number of presentations of the sounds (axis 0) presented at least twice."""
    least: Array = np.where(n_reps > 1, n_reps, np.inf).min(0)
    return np.where(np.isfinite(least), least, np.nan)


def trial_correlation(n: Array, n_reps: Array, x: Array, xz: Array, *, pooled: bool) -> Array:
    """Mean correlation of two presentations; NaN where none has any variance.

    Takes what :func:`products_by_sound` returns, with the sounds along the dim before the
    repeats: (..., stim), (..., stim, rep) and (..., stim, rep, rep).
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
    """Mean correlation of the prediction, the first row, with single presentations, corrected.

    Over the root of the mean correlation between presentations, which is at least 0.01, among the
    first `n_reps` presentations. NaN where the prediction or all of them have no variance.
    """
    correlation, vary = correlations(total)
    between = np.maximum(mean_of_pairs(correlation[..., 1:, 1:], n_reps), 0.01)
    taken = np.arange(correlation.shape[-1] - 1) < n_reps[..., None]
    with_prediction = np.where(taken, correlation[..., 0, 1:], 0).sum(-1) / n_reps
    defined = vary[..., 0] & (vary[..., 1:] & taken).any(-1)
    return np.where(defined, with_prediction / np.sqrt(between), np.nan)


def half_split_ceiling(
    n: Array, n_reps: Array, x: Array, xz: Array, *, splits: int, seed: int, pooled: bool
) -> Array:
    """CC_max by the correlation between means over halves of the presentations.

    Takes what :func:`products_by_sound` returns, with the sounds along the dim before the
    repeats: (..., stim), (..., stim, rep) and (..., stim, rep, rep).
    """
    shape = n.shape[:-1]
    n, n_reps = n.reshape(-1, n.shape[-1]), n_reps.reshape(-1, n.shape[-1])
    x, xz = x.reshape(*n.shape, -1), xz.reshape(*n.shape, *xz.shape[-2:])
    ceiling = np.full(len(n), np.nan)
    # The cells of a site have heard each sound as often, and so are computed together.
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
    """Splits of `n` presentations into halves, as rows of +1 and -1."""
    if comb(n, n // 2) // 2 <= splits:
        # Every distinct split: the first presentation stays in the first half.
        signs = -np.ones((comb(n, n // 2) // 2, n))
        for row, others in zip(signs, combinations(range(1, n), n // 2 - 1), strict=True):
            row[[0, *others]] = 1
        return signs
    halves = np.repeat([1.0, -1.0], n // 2)
    return np.random.default_rng([seed, n]).permuted(np.tile(halves, (splits, 1)), axis=1)


def _ceiling(n: Array, x: Array, xz: Array, halves: list[Array], pooled: bool) -> Array:
    # With s the mean over all presentations and d half the difference between the means over two
    # halves, the halves are s + d and s - d. Their correlation needs only the variances of s and d
    # and their covariance, which follow from the products of presentations: no split has to go
    # through the time bins again.
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
        if not pooled:  # less the means within this sound
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
    # Splits with a half without variance have no correlation; they do not count.
    n_defined = np.isfinite(cc_half).sum(-1)
    cc_half = np.nansum(cc_half, axis=-1) / np.where(n_defined, n_defined, np.nan)
    cc_half = np.where(cc_half > CANCELLED, cc_half, np.nan)
    ceiling: Array = np.sqrt(2 / (1 + np.sqrt(1 / cc_half**2)))
    return ceiling


def _without_rounding(a: Array, b: Array) -> Array:
    """The difference of `a` and `b`, which is not negative; 0 where it is but rounding."""
    return np.where(a - b > CANCELLED * np.abs(a), a - b, 0)


def _dot(a: Array, b: Array) -> Array:
    product: Array = np.einsum("...t,...t->...", a, b)
    return product


def _gram(a: Array, b: Array) -> Array:
    """Sums over time of the products of every row of `a` with every row of `b`."""
    left = np.ascontiguousarray(a)
    product: Array = left @ (left if a is b else np.ascontiguousarray(b)).swapaxes(-1, -2)
    return product


def _diagonal(a: Array) -> Array:
    return np.diagonal(a, axis1=-2, axis2=-1)


def _stacked(parts: tuple[Array, ...]) -> Array:
    """The sounds along a new first dim, whether or not all have the same shape."""
    return np.stack(np.broadcast_arrays(*parts))
