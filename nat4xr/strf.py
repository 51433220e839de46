r"""Spectro-temporal receptive fields (STRFs), fitted by ridge regression.

A model predicts the response of a cell from the spectrogram in the last `n_lags` time bins. Bins
before the sound count as silence:

.. math:: \hat r_i(t) = b_i + \sum_{f, l} k_i(f, l) \, s_f(t - l)

:func:`fit` fits the kernels of all cells, :func:`predict` applies them, and :func:`lagged` makes
the predictors for other kinds of regression. Compress the spectrogram first, in the same way for
:func:`fit` and :func:`predict`: see :func:`nat4xr.preprocess.log_minmax`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .bins import bin_width
from .chunks import single_chunk
from .extras import require
from .preprocess import floating
from .schema import check_array, check_not_empty, simulated_attr

__all__ = ["fit", "lagged", "predict"]


def __dir__() -> list[str]:
    return __all__


Array = NDArray[Any]

PENALTIES = tuple(float(penalty) for penalty in np.logspace(-4, 2, 13))

# Number of sounds whose predictors are in memory at a time. For 150 bins, 18 bands and 25 lags,
# they take 4 MB.
_BLOCK = 16

# The nonlinearity is estimated in 32 bins of the linear prediction. Each bin is half a standard
# deviation wide, and the first bin starts 5 standard deviations below the mean.
_NODES, _NODES_PER_SD, _NODES_BELOW = 32, 2, 10


def lagged(spectrogram: xr.DataArray, n_lags: int = 25) -> xr.DataArray:
    """Make the predictors of a time-lagged regression: the spectrogram in the last `n_lags` bins.

    The predictors are causal and do not mix sounds: before the first bin of a sound, they are 0
    (silence).

    Parameters
    ----------
    spectrogram : xarray.DataArray
        Dims freq, time and optionally stim, in any unit.
    n_lags : int, default: 25
        Number of time bins, including the present one.

    Returns
    -------
    xarray.DataArray
        Dims (stim, time, freq, lag), with the dtype of the input. The lag is in s if time has a
        coordinate. The result is lazy for dask-backed input. Otherwise it is a view of the padded
        input, which takes little memory until you reshape it: do that for a few sounds at a time.

    Raises
    ------
    TypeError
        If `spectrogram` is not a DataArray.
    ValueError
        If a dim is missing or empty, if the time bins are not evenly spaced, or if `n_lags` is
        less than 1.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.strf import lagged
    >>> spectrogram = xr.DataArray([[[1.0, 2, 3]]], dims=("stim", "freq", "time"))
    >>> lagged(spectrogram, 2).squeeze()
    <xarray.DataArray (time: 3, lag: 2)> Size: 48B
    array([[1., 0.],
           [2., 1.],
           [3., 2.]])
    Dimensions without coordinates: time, lag
    """
    check_array(spectrogram, "spectrogram", "freq", "time")
    if n_lags < 1:
        raise ValueError(f"n_lags must be at least 1, not {n_lags}")
    windows = spectrogram.rolling(time=n_lags).construct("lag", fill_value=0, keep_attrs=True)
    # The last element of a window is the present bin, which is lag 0.
    windows = windows.isel(lag=slice(None, None, -1))
    return windows.assign_coords(_lag_coord(spectrogram, n_lags)).transpose(
        ..., "time", "freq", "lag"
    )


def fit(
    spectrogram: xr.DataArray,
    psth: xr.DataArray,
    *,
    n_lags: int = 25,
    penalties: Sequence[float] = PENALTIES,
    folds: int = 5,
    nonlinearity: Literal["isotonic"] | None = None,
) -> xr.Dataset:
    r"""Fit a linear (or linear-nonlinear) model to each cell by ridge regression.

    For each cell, the fit minimises the sum of squared errors over all time bins plus
    :math:`\alpha \sum_{f, l} k(f, l)^2`. The penalty :math:`\alpha` of the cell is chosen from
    `penalties` by cross-validation: it is the one with which models that are fitted to all folds
    but one best predict the remaining fold.

    Parameters
    ----------
    spectrogram : xarray.DataArray
        Dims stim, freq, time, without NaN. It should be compressed
        (:func:`nat4xr.preprocess.log_minmax`), and 0 in silence.
    psth : xarray.DataArray
        Response of one or more cells to these sounds, dims stim, time and optionally neuron, in
        any unit. Bins that are NaN are left out for the cells in question.
    n_lags : int, default: 25
        Length of the kernels in time bins; lag 0 is the present bin.
    penalties : sequence of float, optional
        Candidate penalties, which must be above 0. Their unit is the mean eigenvalue of the normal
        equations (the sum of squares about the mean, averaged over predictors), so that the effect
        of a penalty does not depend on the scale of the spectrogram or the number of sounds.
        Default: 13 values from 1e-4 to 100.
    folds : int, default: 5
        Number of folds of the cross-validation. The sounds for which a cell was recorded are
        assigned to the folds in turn.
    nonlinearity : {None, "isotonic"}, optional
        ``"isotonic"`` adds a static output nonlinearity. It is the non-decreasing function that
        best maps the linear prediction for the fitted sounds to the response. It is estimated in
        bins of half a standard deviation, interpolated linearly between the bins, and constant
        beyond the outer bins.

    Returns
    -------
    xarray.Dataset
        These variables, all float64, with all labels of the cells and the lag in s:

        - ``kernel`` (neuron, freq, lag) and ``intercept`` (neuron), in units of the response;
        - ``chosen_penalty`` (neuron);
        - ``score`` (neuron, penalty), the fraction of variance explained in held-out sounds;
        - with a nonlinearity, ``nonlinearity_input`` and ``nonlinearity_output`` (neuron, node).

        ``penalty.attrs["alpha"]`` is the :math:`\alpha` of a penalty of 1, for use with ``Ridge``
        of scikit-learn. Cells with fewer than two sounds are NaN. If a response has no variance,
        its kernel is 0, and its penalty and score are NaN.

    Raises
    ------
    TypeError
        If `spectrogram` or `psth` is not a DataArray.
    ValueError
        If a dim is missing or empty, if the sounds or time bins of the two arrays differ, if the
        time bins are not evenly spaced, if the spectrogram contains NaN or only 0, or if an option
        is out of range.
    ImportError
        If SciPy is not installed.

    Notes
    -----
    The result is small, so it is computed immediately, also for dask-backed input. The cells of a
    dask-backed response are fitted chunk by chunk, and the spectrogram is loaded.

    The fit uses the sums of squares and products in each fold. They are accumulated over a few
    sounds at a time, so that the predictors are never in memory as a whole. All penalties and cells
    share one eigendecomposition per fold, so the 849 cells of A1 take a few seconds on two cores.
    Each further pattern of missing bins needs decompositions of its own, which take one or two
    seconds at this size.

    References
    ----------
    Machens CK, Wehr MS, Zador AM (2004). Linearity of cortical receptive fields measured with
    natural sounds. J. Neurosci. 24:1089-1100. doi:10.1523/JNEUROSCI.4445-03.2004

    Chichilnisky EJ (2001). A simple white noise analysis of neuronal light responses. Network
    12:199-213. (The nonlinearity, estimated after the linear stage.)

    Examples
    --------
    A cell that follows the lower of two bands with a delay of one time bin:

    >>> import numpy as np, xarray as xr
    >>> from nat4xr.strf import fit, predict
    >>> sounds = np.random.default_rng(0).gamma(1, 1, (20, 2, 50))
    >>> spectrogram = xr.DataArray(sounds, dims=("stim", "freq", "time"))
    >>> psth = 0.1 + 0.5 * spectrogram.isel(freq=0).shift(time=1, fill_value=0)
    >>> model = fit(spectrogram, psth, n_lags=3)
    >>> print(abs(model.kernel).values.round(3))
    [[0.  0.5 0. ]
     [0.  0.  0. ]]
    >>> error = predict(model, spectrogram) - psth
    >>> bool(abs(error).max() < 0.01)
    True
    """
    check_array(spectrogram, "spectrogram", "stim", "freq", "time")
    check_array(psth, "psth", "stim", "time")
    check_not_empty(psth, "psth")
    if nonlinearity not in (None, "isotonic"):
        raise ValueError(f"nonlinearity must be None or 'isotonic', not {nonlinearity!r}")
    candidates = np.asarray(penalties, dtype=np.float64)
    if candidates.ndim != 1 or not candidates.size or not (candidates > 0).all():
        raise ValueError(f"penalties must be a sequence of numbers above 0, not {penalties!r}")
    if not 2 <= folds <= psth.sizes["stim"]:
        raise ValueError(
            f"folds must be from 2 to the number of sounds, {psth.sizes['stim']}, not {folds}"
        )
    spectrogram, psth = _aligned(
        spectrogram, psth, "spectrogram and psth differ in their sounds or time bins, or the order"
    )
    x = floating(spectrogram).transpose("stim", "freq", "time").compute()
    if x.isnull().any():
        raise ValueError("the spectrogram contains NaN: select sounds for which it has values")
    design = _design(x, np.ones((x.sizes["stim"], x.sizes["time"]), bool), n_lags, folds)
    alpha = float(design.whole.eigenvalues.mean())
    if not alpha > 0:
        raise ValueError("all values of the spectrogram are 0: nothing can be predicted from it")

    core_dims: dict[str, tuple[str, ...]] = {
        "kernel": ("freq", "lag"),
        "intercept": (),
        "chosen_penalty": (),
        "score": ("penalty",),
    }
    sizes = {"freq": x.sizes["freq"], "lag": n_lags, "penalty": candidates.size}
    if nonlinearity:
        core_dims |= dict.fromkeys(("nonlinearity_input", "nonlinearity_output"), ("node",))
        sizes["node"] = _NODES
    fitted = xr.apply_ufunc(
        _fit_cells,
        single_chunk(psth, "stim", "time"),
        kwargs={
            "design": design,
            "folds": folds,
            "penalties": candidates,
            "alpha": alpha,
            "with_nodes": nonlinearity is not None,
        },
        input_core_dims=[["stim", "time"]],
        output_core_dims=list(core_dims.values()),
        dask="parallelized",
        output_dtypes=[np.float64] * len(core_dims),
        dask_gufunc_kwargs={"output_sizes": sizes},
    )
    model = xr.Dataset(dict(zip(core_dims, fitted, strict=True))).compute()
    model = model.assign_coords(_lag_coord(x, n_lags))
    model = model.assign_coords(
        penalty=("penalty", candidates, {"long_name": "ridge penalty", "alpha": alpha})
    )
    if "freq" in x.coords:
        model = model.assign_coords(freq=x["freq"])
    model = _described(model, psth)
    model["kernel"].attrs["spectrogram_scaling"] = _scaling(spectrogram)
    return model


def predict(model: xr.Dataset, spectrogram: xr.DataArray) -> xr.DataArray:
    """Predict the responses to sounds with a model that :func:`fit` returned.

    Parameters
    ----------
    model : xarray.Dataset
        What :func:`fit` returned, or a selection of it, with ``kernel`` (neuron, freq, lag) and
        ``intercept`` (neuron).
    spectrogram : xarray.DataArray
        Dims freq, time and optionally stim, preprocessed like the spectrogram that was fitted.

    Returns
    -------
    xarray.DataArray
        Dims (stim, time, neuron), in the unit of the fitted response and with the float dtype of
        the spectrogram, with all labels of the sounds and cells. A linear model can predict
        negative values. The result is lazy for a dask-backed spectrogram.

    Raises
    ------
    TypeError
        If `spectrogram` is not a DataArray.
    ValueError
        If a dim is missing or empty, or if the frequencies or the bin width differ from those of
        the model.
    KeyError
        If `model` lacks ``kernel`` or ``intercept``.

    Warns
    -----
    UserWarning
        If the attributes of `spectrogram` say that it is not scaled as it was for the fit.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.strf import predict
    >>> model = xr.Dataset(
    ...     {"kernel": (("neuron", "freq", "lag"), [[[0.0, 2.0]]]), "intercept": ("neuron", [0.5])}
    ... )
    >>> click = xr.DataArray([[[0.0, 1, 0, 0]]], dims=("stim", "freq", "time"))
    >>> predict(model, click).values.squeeze()
    array([0.5, 0.5, 2.5, 0.5])
    """
    check_array(spectrogram, "spectrogram", "freq", "time")
    model = model.compute()
    if "lag" in model.coords:
        lags = _lag_coord(spectrogram, model.sizes["lag"]).get("lag")
        if lags is not None and not np.allclose(lags, model["lag"], rtol=1e-3):
            raise ValueError("the time bins of the spectrogram are not as wide as the model's lags")
    fitted_scaling = model["kernel"].attrs.get("spectrogram_scaling")
    if fitted_scaling is not None and fitted_scaling != _scaling(spectrogram):
        warnings.warn(
            "the spectrogram is not scaled as for the fit: pass the sounds of the fit as the "
            "reference, as in preprocess.log_minmax(val, reference=est)",
            stacklevel=2,
        )
    spectrogram, kernel = _aligned(
        floating(spectrogram), model["kernel"], "spectrogram and model differ in frequencies"
    )
    cells = [dim for dim in kernel.dims if dim not in ("freq", "lag")]
    arrays = [kernel, model["intercept"]]
    core_dims: list[list[Any]] = [[*cells, "freq", "lag"], cells]
    if "nonlinearity_output" in model:
        arrays += [model["nonlinearity_input"], model["nonlinearity_output"]]
        core_dims += [[*cells, "node"]] * 2
    prediction: xr.DataArray = xr.apply_ufunc(
        _predict_sounds,
        single_chunk(spectrogram, "freq", "time"),
        *arrays,
        input_core_dims=[["freq", "time"], *core_dims],
        output_core_dims=[["time", *cells]],
        dask="parallelized",
        output_dtypes=[spectrogram.dtype],
    )
    prediction.attrs = {"long_name": "predicted response", **simulated_attr(model["intercept"])}
    if "units" in model["intercept"].attrs:
        prediction.attrs["units"] = model["intercept"].attrs["units"]
    return prediction.rename("prediction")


# --- labelled arrays ---------------------------------------------------------------------------


def _scaling(spectrogram: xr.DataArray) -> str:
    """Return what the attributes of a spectrogram say about its scaling; empty if nothing."""
    keys = ("scaling", "scaling_gain", "scaling_offset", "scaling_range")
    return ", ".join(f"{k} {spectrogram.attrs[k]}" for k in keys if k in spectrogram.attrs)


def _aligned(
    one: xr.DataArray, other: xr.DataArray, difference: str
) -> tuple[xr.DataArray, xr.DataArray]:
    try:
        return xr.align(one, other, join="exact", copy=False)
    except ValueError as error:
        raise ValueError(f"{difference}: {error}") from error


def _lag_coord(spectrogram: xr.DataArray, n_lags: int) -> dict[str, xr.Variable]:
    """Make the coordinate of the lags, in the unit of time, if time has a coordinate."""
    if "time" not in spectrogram.coords or spectrogram.sizes["time"] < 2:
        return {}
    attrs = {"long_name": "time since the input"}
    if "units" in spectrogram["time"].attrs:
        attrs["units"] = spectrogram["time"].attrs["units"]
    return {"lag": xr.Variable("lag", (np.arange(n_lags) * bin_width(spectrogram)).round(9), attrs)}


def _described(model: xr.Dataset, response: xr.DataArray) -> xr.Dataset:
    long_names = {
        "kernel": "spectro-temporal receptive field",
        "intercept": "linear prediction in silence",
        "chosen_penalty": "ridge penalty with the best score",
        "score": "fraction of variance explained in held-out sounds",
        "nonlinearity_input": "linear prediction",
        "nonlinearity_output": "prediction",
    }
    for name, variable in model.data_vars.items():
        variable.attrs = {"long_name": long_names[str(name)], **simulated_attr(response)}
        if name in ("chosen_penalty", "score"):
            variable.attrs["units"] = "1"
        elif "units" in response.attrs:
            variable.attrs["units"] = response.attrs["units"]
    kind = "linear-nonlinear" if "nonlinearity_output" in model else "linear"
    model.attrs = {"title": f"{kind} encoding models, fitted by ridge regression"}
    model.attrs |= simulated_attr(response)
    return model


# --- plain arrays ------------------------------------------------------------------------------


class _Solver(NamedTuple):
    """The diagonalised normal equations of a set of sounds, for any penalty and any response."""

    n: int  # number of bins
    mean: Array  # mean of the predictors (feature)
    eigenvalues: Array  # of the sums of squares and products about the mean (component)
    vectors: Array  # eigenvectors (feature, component)


class _Fold(NamedTuple):
    """The held-out sounds of a fold, and the solver of the other sounds."""

    sounds: Array
    n: int  # number of bins
    x: Array  # sums of the predictors (feature)
    xx: Array  # sums of products about the mean of the other sounds (component, component)
    others: _Solver


class _Design(NamedTuple):
    """The predictors of the fit. Cells with the same valid bins share a design."""

    x: xr.DataArray  # the spectrogram
    valid: Array  # which bins are fitted (stim, time)
    n_lags: int
    folds: list[_Fold]
    whole: _Solver


def _predictors(
    x: xr.DataArray, n_lags: int, sounds: Array, valid: Array
) -> Iterator[tuple[Array, Array, Array]]:
    """Yield the numbers of a few sounds, their valid bins, and the predictors in these bins."""
    for start in range(0, len(sounds), _BLOCK):
        block = sounds[start : start + _BLOCK]
        bins = valid[block].ravel()
        rows = lagged(x[block], n_lags).values.reshape(bins.size, -1)
        yield block, bins, rows if bins.all() else rows[bins]


def _data(design: _Design, fold: _Fold, y: Array) -> Iterator[tuple[Array, Array]]:
    """Yield predictors (bin, feature) and responses (bin, cell) of a few sounds of a fold."""
    for block, bins, rows in _predictors(design.x, design.n_lags, fold.sounds, design.valid):
        yield rows, y[block].reshape(-1, y.shape[-1])[bins]


def _solver(n: int, x: Array, xx: Array) -> _Solver:
    eigh = require("scipy.linalg", "analysis").eigh
    mean = x / n
    return _Solver(n, mean, *eigh(xx - np.outer(x, mean)))


def _design(x: xr.DataArray, valid: Array, n_lags: int, n_folds: int) -> _Design:
    sounds = np.flatnonzero(valid.any(axis=1))
    split = [sounds[k::n_folds] for k in range(min(n_folds, sounds.size))]
    n_features = x.sizes["freq"] * n_lags
    n = np.array([valid[held_out].sum() for held_out in split])
    sum_x = np.zeros((len(split), n_features))
    sum_xx = np.zeros((len(split), n_features, n_features))
    for k, held_out in enumerate(split):
        for _, _, rows in _predictors(x, n_lags, held_out, valid):
            rows = rows.astype(np.float64)
            sum_x[k] += rows.sum(axis=0)
            sum_xx[k] += rows.T @ rows

    folds = []
    for k, held_out in enumerate(split):
        rest = np.arange(len(split)) != k
        others = _solver(n[rest].sum(), sum_x[rest].sum(0), sum_xx[rest].sum(0))
        cross = np.outer(sum_x[k], others.mean)
        centred = sum_xx[k] - cross - cross.T + n[k] * np.outer(others.mean, others.mean)
        xx = others.vectors.T @ centred @ others.vectors
        folds.append(_Fold(held_out, n[k], sum_x[k], xx, others))
    return _Design(x, valid, n_lags, folds, _solver(n.sum(), sum_x.sum(0), sum_xx.sum(0)))


def _fit_cells(
    psth: Array, design: _Design, folds: int, penalties: Array, alpha: float, with_nodes: bool
) -> tuple[Array, ...]:
    """Fit cells (..., stim, time). `design` is used for the cells without NaN."""
    y = np.moveaxis(psth.reshape(-1, *psth.shape[-2:]), 0, -1)
    shapes = [(design.x.sizes["freq"], design.n_lags), (), (), penalties.shape]
    shapes += [(_NODES,), (_NODES,)] if with_nodes else []
    fitted = [np.full((y.shape[-1], *shape), np.nan) for shape in shapes]
    for cells, valid in _groups_by_valid_bins(y):
        if np.count_nonzero(valid.any(axis=1)) < 2:
            continue  # cross-validation needs two sounds
        design_of_group = design
        if not valid.all():
            design_of_group = _design(design.x, valid, design.n_lags, folds)
        y_of_group = y if cells.size == y.shape[-1] else y[..., cells]
        parts = _fit_group(y_of_group, design_of_group, penalties, alpha, with_nodes)
        for values, part in zip(fitted, parts, strict=True):
            values[cells] = part.reshape(-1, *values.shape[1:])
    return tuple(values.reshape((*psth.shape[:-2], *values.shape[1:])) for values in fitted)


def _groups_by_valid_bins(y: Array) -> Iterator[tuple[Array, Array]]:
    """Yield groups of cells of `y` (stim, time, cell) with the same valid bins, and the bins."""
    missing = np.isnan(y)
    if not missing.any():
        yield np.arange(y.shape[-1]), ~missing[..., 0]
        return
    packed = np.packbits(missing.reshape(-1, y.shape[-1]), axis=0)
    _, first, group = np.unique(packed, axis=1, return_index=True, return_inverse=True)
    for i, cell in enumerate(first):
        yield np.flatnonzero(group.ravel() == i), ~missing[..., cell]


def _fit_group(
    y: Array, design: _Design, penalties: Array, alpha: float, with_nodes: bool
) -> tuple[Array, ...]:
    """Fit cells `y` (stim, time, cell) that have the valid bins of the design."""
    n_folds, n_cells = len(design.folds), y.shape[-1]
    sum_y, sum_yy = np.zeros((2, n_folds, n_cells))
    sum_xy = np.zeros((n_folds, design.whole.mean.size, n_cells))
    for k, fold in enumerate(design.folds):
        for rows, response in _data(design, fold, y):
            # If both are float32, so is the product of a block: it is exact enough and twice as
            # fast.
            sum_xy[k] += rows.T @ response
            response = response.astype(np.float64)
            sum_y[k] += response.sum(axis=0)
            sum_yy[k] += np.einsum("tn,tn->n", response, response)

    error = np.zeros((penalties.size, n_cells))
    for k, fold in enumerate(design.folds):
        # Sums are about the means of the other folds, because the prediction comes from these.
        others, rest = fold.others, np.arange(n_folds) != k
        mean_y = sum_y[rest].sum(0) / others.n
        xy = sum_xy[rest].sum(0) - np.outer(others.mean, sum_y[rest].sum(0))
        xy = others.vectors.T @ xy
        held_xy = sum_xy[k] - np.outer(others.mean, sum_y[k])
        held_xy -= np.outer(fold.x - fold.n * others.mean, mean_y)
        held_xy = others.vectors.T @ held_xy
        held_yy = sum_yy[k] - 2 * mean_y * sum_y[k] + fold.n * mean_y**2
        for i, penalty in enumerate(penalties):
            weights = xy / (others.eigenvalues[:, None] + alpha * penalty)
            error[i] += held_yy
            error[i] += np.einsum("fn,fn->n", weights, fold.xx @ weights - 2 * held_xy)

    whole = design.whole
    mean_y = sum_y.sum(0) / whole.n
    variation = sum_yy.sum(0) - whole.n * mean_y**2
    varies = variation > 1e-12 * sum_yy.sum(0)  # a constant response has a rounding error
    score = np.where(varies, 1 - error / np.where(varies, variation, 1), np.nan)
    chosen = penalties[np.where(varies, score, 0).argmax(axis=0)]
    xy = whole.vectors.T @ (sum_xy.sum(0) - np.outer(whole.mean, sum_y.sum(0)))
    components = varies * xy / (whole.eigenvalues[:, None] + alpha * chosen)
    weights = whole.vectors @ components
    intercept = mean_y - whole.mean @ weights
    fitted = weights.T, intercept, np.where(varies, chosen, np.nan), score.T
    if not with_nodes:
        return fitted
    spread = np.sqrt(np.maximum(whole.eigenvalues, 0) @ components**2 / whole.n)
    return *fitted, *_nodes(y, design, weights, intercept, mean_y, spread)


def _nodes(
    y: Array, design: _Design, weights: Array, intercept: Array, mean: Array, spread: Array
) -> tuple[Array, Array]:
    """Fit isotonic nonlinearities, given mean and standard deviation of the linear prediction."""
    from scipy.optimize import isotonic_regression

    n_cells = y.shape[-1]
    spread = np.where(spread > 0, spread, 1)
    count, total_in, total_out = np.zeros((3, n_cells * _NODES))
    first = np.arange(n_cells) * _NODES
    for fold in design.folds:
        for rows, response in _data(design, fold, y):
            linear = rows @ weights.astype(rows.dtype) + intercept
            node = (linear - mean) / spread * _NODES_PER_SD + _NODES_BELOW
            node = (np.clip(node, 0, _NODES - 1).astype(np.intp) + first).ravel()
            count += np.bincount(node, minlength=count.size)
            total_in += np.bincount(node, linear.ravel(), count.size)
            total_out += np.bincount(node, response.ravel(), count.size)

    centres = (np.arange(_NODES) + 0.5 - _NODES_BELOW) / _NODES_PER_SD
    node_in = mean[:, None] + spread[:, None] * centres
    node_out = np.empty_like(node_in)
    totals = (total.reshape(n_cells, _NODES) for total in (count, total_in, total_out))
    for i, (n, linear, response) in enumerate(zip(*totals, strict=True)):
        seen = n > 0
        node_in[i, seen] = linear[seen] / n[seen]
        rising = isotonic_regression(response[seen] / n[seen], weights=n[seen]).x
        node_out[i] = np.interp(node_in[i], node_in[i, seen], rising)
    return node_in, node_out


def _predict_sounds(x: Array, kernel: Array, intercept: Array, *nodes: Array) -> Array:
    """Predict (..., time, *cells) from `x` (..., freq, time) and `kernel` (*cells, freq, lag)."""
    *outer, n_freq, n_time = x.shape
    *cells, _, n_lags = kernel.shape
    sounds = xr.DataArray(x.reshape(-1, n_freq, n_time), dims=("stim", "freq", "time"))
    weights = kernel.reshape(-1, n_freq * n_lags).T.astype(x.dtype)
    predicted = np.empty((sounds.sizes["stim"], n_time, weights.shape[1]), dtype=x.dtype)
    all_bins = np.ones(predicted.shape[:2], dtype=bool)
    for block, _, rows in _predictors(sounds, n_lags, np.arange(len(predicted)), all_bins):
        linear = rows @ weights + intercept.ravel().astype(x.dtype)
        predicted[block] = linear.reshape(len(block), n_time, -1)
    if nodes:
        node_in, node_out = (node.reshape(-1, node.shape[-1]) for node in nodes)
        for i in range(predicted.shape[-1]):
            predicted[..., i] = np.interp(predicted[..., i], node_in[i], node_out[i])
    return predicted.reshape((*outer, n_time, *cells))
