"""Scaling and smoothing, with a way back.

A scaling subtracts an offset and divides by a range, and notes both in the attrs of its result:
as numbers where the whole array has one scale; where each neuron (or frequency band) has its own,
as the names of two coordinates along ``neuron`` (or ``freq``), so that they follow every selection.
Both survive netCDF and zarr, and :func:`invert` reads them to undo the scaling.

With dask-backed input the result is lazy, and so are the coordinates. Only the numbers that go
into attrs have to be computed at once, in one pass over the array (or over `reference`: if that is
in memory, nothing is computed).

Results have the float dtype of their input; integers become float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

__all__ = ["invert", "log_minmax", "minmax", "smooth", "zscore"]


def __dir__() -> list[str]:
    return __all__


def log_minmax(
    spectrogram: xr.DataArray,
    *,
    reference: xr.DataArray | None = None,
    gain: float = 1,
    per_band: bool = False,
) -> xr.DataArray:
    """Compress a spectrogram with log(1 + gain x), then scale it to the range from 0 to 1.

    By default, log(1 + x) and one minimum and one maximum for all sounds, frequencies and times,
    as in deepSTRF: differences in level between sounds, and between frequencies, are kept. With
    ``gain=10, per_band=True``, as in the laboratory that recorded NAT4: each frequency band has a
    minimum and a maximum of its own.

    Parameters
    ----------
    spectrogram : xarray.DataArray
        Magnitudes, at least 0, of any dims.
    reference : xarray.DataArray, optional
        The spectrogram, not scaled, whose minimum and maximum to use; say, that of the sounds
        which a model is fitted to. What exceeds its range falls below 0 or above 1. Default:
        `spectrogram` itself.
    gain : float, default: 1
        What the magnitudes are multiplied by before the logarithm: the larger, the more of
        their low levels is spread out.
    per_band : bool, default: False
        Whether each band of the dim ``freq`` is scaled by itself.

    Returns
    -------
    xarray.DataArray
        Same dims, labels and float dtype, dimensionless; :func:`invert` undoes it.

    Raises
    ------
    TypeError
        If `spectrogram` or `reference` is not a DataArray.
    ValueError
        If an array is scaled already, `gain` is not above 0, there is no dim ``freq`` to scale
        along, or `reference` has other bands.

    References
    ----------
    log(1 + x), one scale: deepSTRF, https://github.com/urancon/deepSTRF. log(1 + 10 x), a scale a
    band: Pennington JR, David SV (2023). PLOS Comput. Biol. 19(5): e1011110.
    doi:10.1371/journal.pcbi.1011110

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from nat4xr.preprocess import log_minmax
    >>> spectrogram = xr.DataArray(np.expm1([[0.0, 1], [2, 4]]), dims=("freq", "time"))
    >>> log_minmax(spectrogram).values.round(6)
    array([[0.  , 0.25],
           [0.5 , 1.  ]])
    >>> log_minmax(spectrogram, per_band=True).values.round(6)
    array([[0., 1.],
           [0., 1.]])
    """
    if not gain > 0:
        raise ValueError(f"gain must be above 0, not {gain}")
    source = _unscaled(spectrogram if reference is None else reference)
    if per_band and "freq" not in source.dims:
        raise ValueError(f"the dim 'freq' is missing, so there are no bands: {source.dims}")
    compressed, source = (
        _apply(np.log1p, array if gain == 1 else array * np.asarray(gain, array.dtype))
        for array in (_unscaled(spectrogram), source)
    )
    others = [dim for dim in source.dims if not (per_band and dim == "freq")]
    low, high = source.min(others), source.max(others)
    scaled = _scaled(compressed, "log_minmax", low, high - low)
    scaled.attrs["scaling_gain"] = float(gain)
    return scaled


def minmax(response: xr.DataArray, *, reference: xr.DataArray | None = None) -> xr.DataArray:
    """Scale a response to the range from 0 to 1: for each neuron, or else the whole array.

    Parameters
    ----------
    response : xarray.DataArray
        Any dims. With a dim ``neuron``, each neuron has a scale of its own.
    reference : xarray.DataArray, optional
        The response, not scaled, of the same neurons, whose minima and maxima to use; say, that
        to the sounds which a model is fitted to. Default: `response` itself.

    Returns
    -------
    xarray.DataArray
        Same dims, labels and float dtype, dimensionless; :func:`invert` undoes it. NaN stays NaN;
        a constant becomes 0.

    Raises
    ------
    TypeError
        If `response` or `reference` is not a DataArray.
    ValueError
        If an array is scaled already, or `reference` has other neurons.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.preprocess import minmax
    >>> response = xr.DataArray([[0.0, 2, 4], [3, 3, 4]], dims=("neuron", "time"))
    >>> minmax(response).values
    array([[0. , 0.5, 1. ],
           [0. , 0. , 1. ]])
    """
    source = _unscaled(response if reference is None else reference)
    dims = _all_but_neuron(source)
    # Of a neuron without any value, infinities: the minimum of nothing would be a warning.
    empty = source.isnull().all(dims)
    low = source.fillna(np.inf).min(dims).where(~empty)
    high = source.fillna(-np.inf).max(dims).where(~empty)
    return _scaled(_unscaled(response), "minmax", low, high - low)


def zscore(array: xr.DataArray, *, reference: xr.DataArray | None = None) -> xr.DataArray:
    """Scale to mean 0 and standard deviation 1: for each neuron, or else the whole array.

    Parameters
    ----------
    array : xarray.DataArray
        Any dims. With a dim ``neuron``, each neuron has a scale of its own.
    reference : xarray.DataArray, optional
        The array, not scaled, of the same neurons, whose mean and standard deviation (divisor
        the number of values) to use; say, the part which a model is fitted to. Default: `array`
        itself.

    Returns
    -------
    xarray.DataArray
        Same dims, labels and float dtype, dimensionless; :func:`invert` undoes it. NaN stays NaN;
        a constant becomes 0.

    Raises
    ------
    TypeError
        If `array` or `reference` is not a DataArray.
    ValueError
        If an array is scaled already, or `reference` has other neurons.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.preprocess import zscore
    >>> response = xr.DataArray([[1.0, 3], [2, 6]], dims=("neuron", "time"))
    >>> zscore(response).values
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    source = _unscaled(array if reference is None else reference)
    dims = _all_but_neuron(source)
    mean = source.mean(dims, dtype=np.float64)
    return _scaled(_unscaled(array), "zscore", mean, source.std(dims, dtype=np.float64))


def invert(scaled: xr.DataArray) -> xr.DataArray:
    """Undo :func:`log_minmax`, :func:`minmax` or :func:`zscore`.

    Parameters
    ----------
    scaled : xarray.DataArray
        What one of them returned, a selection from it, or that read back from a file. To bring
        predictions of a scaled response back to its units, give them its attrs and coordinates:
        ``scaled.copy(data=predicted)``.

    Returns
    -------
    xarray.DataArray
        Same dims, labels (but for those of the scale) and float dtype, in the units from before;
        the values too, but for rounding.

    Raises
    ------
    ValueError
        If the attrs or coordinates with the scale have been dropped.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.preprocess import invert, minmax
    >>> response = xr.DataArray([[0.0, 2, 4], [3, 3, 4]], dims=("neuron", "time"))
    >>> invert(minmax(response)).equals(response)
    True
    """
    if "scaling" not in scaled.attrs:
        raise ValueError(
            "nothing to invert: attrs['scaling'] is missing. Either the array was not scaled by "
            "nat4xr.preprocess, or an operation since then dropped its attrs"
        )
    if lost := _lost(scaled):
        raise ValueError(f"cannot invert: {lost}, so that the scale is not known any more")
    offset, span = (_parameter(scaled, key) for key in ("scaling_offset", "scaling_range"))
    values = scaled * span + offset
    if scaled.attrs["scaling"] == "log_minmax":
        values = _apply(np.expm1, values)
        if (gain := scaled.attrs["scaling_gain"]) != 1:
            values = values / np.asarray(gain, values.dtype)

    notes = [scaled.attrs[key] for key in ("scaling_offset", "scaling_range")]
    # (Coordinates that nat4xr.set_labels has made labels cannot be dropped; they stay.)
    values = values.drop_vars(
        [name for name in notes if isinstance(name, str) and name not in values.xindexes]
    )
    values.attrs = {k: v for k, v in scaled.attrs.items() if not k.startswith("scaling")}
    values.attrs.pop("units", None)
    if "scaling_units" in scaled.attrs:
        values.attrs["units"] = scaled.attrs["scaling_units"]
    return values.rename(scaled.name)


def smooth(response: xr.DataArray, *, window_ms: float = 21) -> xr.DataArray:
    """Smooth along time with a Hanning window.

    The window has the odd number of time bins nearest to `window_ms` (3 at the 10 ms of NAT4, 21
    at 1 ms), all of them above zero. Its weights are divided by the sum of those that meet valid
    bins, so that a constant stays as it is, up to both ends.

    Parameters
    ----------
    response : xarray.DataArray
        Any dims with ``time``, which has a coordinate in s with evenly spaced bins.
    window_ms : float, default: 21
        Length of the window, ms.

    Returns
    -------
    xarray.DataArray
        Same dims, labels, units and float dtype; ``smoothing_window_ms`` in its attrs. NaN where
        the input is NaN, nowhere else. This cannot be inverted.

    Raises
    ------
    ValueError
        If ``time`` is missing, has no coordinate of two bins or more, or is not evenly spaced, or
        `window_ms` is not above 0.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from nat4xr.preprocess import smooth
    >>> response = xr.DataArray([0.0, 0, 4, 0, 0], dims="time", coords={"time": np.arange(5) / 100})
    >>> smooth(response).values
    array([0., 1., 2., 1., 0.])
    """
    if not isinstance(response, xr.DataArray):
        raise TypeError(
            f"this smooths a DataArray, such as ds.psth, not a {type(response).__name__}"
        )
    if window_ms <= 0:
        raise ValueError(f"window_ms must be above 0, not {window_ms}")
    half_width = max(round((window_ms / _bin_width_ms(response) - 1) / 2), 0)
    # np.hanning is zero at both ends, which are left off.
    window = np.hanning(2 * half_width + 3)[1:-1]

    response = _floating(response)
    whole = response
    if len(response.chunksizes.get("time", ())) > 1:
        whole = response.chunk({**dict.fromkeys(response.dims, "auto"), "time": -1})
    smoothed: xr.DataArray = xr.apply_ufunc(
        _smoothed,
        whole,
        kwargs={"window": window},
        input_core_dims=[["time"]],
        output_core_dims=[["time"]],
        dask="parallelized",
        output_dtypes=[response.dtype],
        keep_attrs=True,
    )
    smoothed.attrs["smoothing_window_ms"] = float(window_ms)
    return smoothed.transpose(*response.dims)


def _smoothed(x: NDArray[Any], window: NDArray[Any]) -> NDArray[Any]:
    smoothed = np.empty_like(x)
    # Piece by piece along the first dim, for the sake of memory.
    for piece in np.ndindex(x.shape[:-1][:1]):
        valid = ~np.isnan(x[piece])
        total = _convolved(np.where(valid, x[piece], 0), window)
        weight = _convolved(valid.astype(x.dtype), window)
        smoothed[piece] = np.where(valid, total / np.where(valid, weight, 1), np.nan)
    return smoothed


def _convolved(x: NDArray[Any], window: NDArray[Any]) -> NDArray[Any]:
    """Along the last axis, as if there were zeros beyond both ends."""
    half_width = window.size // 2
    x = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(half_width, half_width)])
    around = np.lib.stride_tricks.sliding_window_view(x, window.size, axis=-1)
    total: NDArray[Any] = np.einsum("...tw,w->...t", around, window.astype(x.dtype))
    return total


def _bin_width_ms(response: xr.DataArray) -> float:
    if "time" not in response.dims:
        raise ValueError(f"the dim 'time' is missing: there are {response.dims}")
    if "time" not in response.coords or response.sizes["time"] < 2:
        raise ValueError(
            "the bin width is unknown: 'time' needs a coordinate (s) of two bins or more"
        )
    steps = np.diff(response["time"].values)
    if not np.allclose(steps, steps[0], rtol=1e-3) or steps[0] <= 0:
        raise ValueError("the time bins are not evenly spaced, so that no window fits them")
    return float(steps.mean() * 1000)


def _apply(ufunc: np.ufunc, array: xr.DataArray) -> xr.DataArray:
    applied: xr.DataArray = xr.apply_ufunc(ufunc, array, dask="allowed", keep_attrs=True)
    return applied


def _floating(array: xr.DataArray) -> xr.DataArray:
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def _unscaled(array: xr.DataArray) -> xr.DataArray:
    """`array` as floats, or an error if it has been scaled before."""
    if not isinstance(array, xr.DataArray):
        raise TypeError(f"this scales a DataArray, such as ds.psth, not a {type(array).__name__}")
    notes = [name for name in array.attrs if name.startswith("scaling")]
    if "scaling" in notes and not _lost(array):
        raise ValueError(
            f"the array is scaled already, by {array.attrs['scaling']}: undo that first, with "
            "nat4xr.preprocess.invert"
        )
    if notes:  # what an operation has left of a note, such as the attrs that two arrays share
        array = array.drop_attrs(deep=False).assign_attrs(
            {name: value for name, value in array.attrs.items() if name not in notes}
        )
    return _floating(array)


def _lost(array: xr.DataArray) -> str:
    """What is missing of the note of a scaling; empty if nothing is."""
    keys = ["scaling_offset", "scaling_range"]
    keys += ["scaling_gain"] if array.attrs["scaling"] == "log_minmax" else []
    for key in keys:
        if key not in array.attrs:
            return f"attrs[{key!r}] has been dropped"
        if isinstance(array.attrs[key], str) and array.attrs[key] not in array.coords:
            return f"the coordinate {array.attrs[key]!r} has been dropped"
    return ""


def _all_but_neuron(array: xr.DataArray) -> list[Any]:
    return [dim for dim in array.dims if dim != "neuron"]


def _scaled(
    array: xr.DataArray, scaling: str, offset: xr.DataArray, span: xr.DataArray
) -> xr.DataArray:
    """(array - offset) / span, with a note of it."""
    # The range of a constant is 0, or what rounding leaves; a constant is only moved to 0.
    span = span.where(span > 1e-9 * abs(offset), 1)
    notes: dict[str, float | str] = {}
    if offset.dims:
        offset, span = offset.astype(array.dtype), span.astype(array.dtype)
        array, offset, span = xr.align(array, offset, span, join="exact", copy=False)
        values = (array - offset) / span
        prefix = f"{array.name}_" if array.name else ""
        for kind, parameter in (("offset", offset), ("range", span)):
            parameter.attrs = {"long_name": f"{kind} of {scaling}"}
            if "units" in array.attrs:
                parameter.attrs["units"] = array.attrs["units"]
            notes[f"scaling_{kind}"] = f"{prefix}{kind}"
            values = values.assign_coords({f"{prefix}{kind}": parameter.variable})
    else:
        both = xr.Dataset({"offset": offset.variable, "range": span.variable}).compute()
        notes = {"scaling_offset": float(both["offset"]), "scaling_range": float(both["range"])}
        values = (array - notes["scaling_offset"]) / notes["scaling_range"]

    values.attrs = {**array.attrs, "units": "1", "scaling": scaling, **notes}
    if "units" in array.attrs:
        values.attrs["scaling_units"] = array.attrs["units"]
    return values


def _parameter(scaled: xr.DataArray, key: str) -> float | xr.Variable:
    parameter = scaled.attrs[key]
    return scaled[parameter].variable if isinstance(parameter, str) else float(parameter)
