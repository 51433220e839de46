"""Scale and smooth arrays, and undo the scaling.

A scaling subtracts an offset and divides by a range, and stores both with its result, so that
:func:`invert` can undo it. If the whole array has one scale, they are numbers in the attrs. If each
neuron (or frequency band) has its own scale, they are two coordinates along ``neuron`` (or
``freq``), which follow every selection, and the attrs hold their names. netCDF and zarr keep both.

With dask-backed input, the result and these coordinates are lazy. Numbers in the attrs are computed
immediately, in one pass over the array, or over `reference` if it is given.

Results have the float dtype of their input; integers become float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from .bins import bin_width
from .chunks import single_chunk
from .schema import check_array, check_not_empty

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

    The default is that of deepSTRF: log(1 + x), scaled by one minimum and maximum over all sounds,
    frequencies and times. It keeps differences in level between sounds and between frequencies.
    ``gain=10, per_band=True`` is what the laboratory that recorded NAT4 uses: each frequency band
    is scaled by its own minimum and maximum.

    Parameters
    ----------
    spectrogram : xarray.DataArray
        Magnitudes, at least 0, with any dims.
    reference : xarray.DataArray, optional
        An unscaled spectrogram whose minimum and maximum are used, for example that of the sounds
        to which a model is fitted. Values outside its range are scaled to below 0 or above 1.
        Default: `spectrogram` itself.
    gain : float, default: 1
        Factor of the magnitudes before the logarithm. A larger gain spreads out low levels more.
    per_band : bool, default: False
        Whether to scale each band along the dim ``freq`` separately.

    Returns
    -------
    xarray.DataArray
        Same dims, labels and float dtype, dimensionless; :func:`invert` undoes it.

    Raises
    ------
    TypeError
        If `spectrogram` or `reference` is not a DataArray.
    ValueError
        If an array is already scaled or is empty, if `gain` is not above 0, or if `per_band` is
        True and there is no dim ``freq`` or `reference` has other bands.

    References
    ----------
    For log(1 + x) with one scale: deepSTRF, https://github.com/urancon/deepSTRF. For log(1 + 10 x)
    with one scale per band: Pennington JR, David SV (2023). PLOS Comput. Biol. 19(5): e1011110.
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
    source = _source(spectrogram, reference)
    if per_band and "freq" not in source.dims:
        raise ValueError(f"per_band=True needs the dim 'freq', which is missing from {source.dims}")
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
    """Scale a response to the range from 0 to 1, for each neuron or for the whole array.

    Parameters
    ----------
    response : xarray.DataArray
        Any dims. If there is a dim ``neuron``, each neuron is scaled separately.
    reference : xarray.DataArray, optional
        An unscaled response of the same neurons whose minima and maxima are used, for example
        that to the sounds to which a model is fitted. Default: `response` itself.

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
        If an array is already scaled or is empty, or `reference` has other neurons.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.preprocess import minmax
    >>> response = xr.DataArray([[0.0, 2, 4], [3, 3, 4]], dims=("neuron", "time"))
    >>> minmax(response).values
    array([[0. , 0.5, 1. ],
           [0. , 0. , 1. ]])
    """
    source = _source(response, reference)
    dims = _all_but_neuron(source)
    # Fill NaN with infinities: numpy warns about the minimum of a neuron that is all NaN.
    empty = source.isnull().all(dims)
    low = source.fillna(np.inf).min(dims).where(~empty)
    high = source.fillna(-np.inf).max(dims).where(~empty)
    return _scaled(_unscaled(response), "minmax", low, high - low)


def zscore(array: xr.DataArray, *, reference: xr.DataArray | None = None) -> xr.DataArray:
    """Scale to mean 0 and standard deviation 1, for each neuron or for the whole array.

    Parameters
    ----------
    array : xarray.DataArray
        Any dims. If there is a dim ``neuron``, each neuron is scaled separately.
    reference : xarray.DataArray, optional
        An unscaled array of the same neurons whose mean and standard deviation (with the number
        of values as divisor) are used, for example the part to which a model is fitted. Default:
        `array` itself.

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
        If an array is already scaled or is empty, or `reference` has other neurons.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.preprocess import zscore
    >>> response = xr.DataArray([[1.0, 3], [2, 6]], dims=("neuron", "time"))
    >>> zscore(response).values
    array([[-1.,  1.],
           [-1.,  1.]])
    """
    source = _source(array, reference)
    dims = _all_but_neuron(source)
    mean = source.mean(dims, dtype=np.float64)
    return _scaled(_unscaled(array), "zscore", mean, source.std(dims, dtype=np.float64))


def invert(scaled: xr.DataArray) -> xr.DataArray:
    """Undo :func:`log_minmax`, :func:`minmax` or :func:`zscore`.

    Parameters
    ----------
    scaled : xarray.DataArray
        What one of these functions returned, a selection of it, or a copy of it read from a file.
        To bring predictions of a scaled response back to its units, give them its attrs and
        coordinates: ``scaled.copy(data=predicted)``.

    Returns
    -------
    xarray.DataArray
        The array before scaling, except for rounding: same dims, labels, float dtype and units.
        The coordinates that held the scale are dropped.

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
            "nat4xr.preprocess, or a later operation dropped its attrs"
        )
    if lost := _lost(scaled):
        raise ValueError(f"cannot invert: {lost}, so the scale is unknown")
    offset, span = (_parameter(scaled, key) for key in ("scaling_offset", "scaling_range"))
    values = scaled * span + offset
    if scaled.attrs["scaling"] == "log_minmax":
        values = _apply(np.expm1, values)
        if (gain := scaled.attrs["scaling_gain"]) != 1:
            values = values / np.asarray(gain, values.dtype)

    notes = [scaled.attrs[key] for key in ("scaling_offset", "scaling_range")]
    # (A coordinate that nat4xr.set_labels has made a label cannot be dropped, and stays.)
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

    The window has an odd number of time bins, the one nearest to `window_ms` (by default, 3 bins
    of 10 ms or 21 bins of 1 ms), all with weights above zero. Weights are normalised by the sum of
    those on valid bins, so that a constant does not change, even at both ends.

    Parameters
    ----------
    response : xarray.DataArray
        Any dims, with evenly spaced ``time`` bins in s.
    window_ms : float, default: 21
        Length of the window, ms.

    Returns
    -------
    xarray.DataArray
        Same dims, labels, units and float dtype, with ``smoothing_window_ms`` in its attrs. It is
        NaN exactly where the input is NaN. Smoothing cannot be inverted.

    Raises
    ------
    TypeError
        If `response` is not a DataArray.
    ValueError
        If ``time`` is missing, has no coordinate or fewer than two bins, or is not evenly spaced,
        or if `window_ms` is not above 0.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from nat4xr.preprocess import smooth
    >>> response = xr.DataArray([0.0, 0, 4, 0, 0], dims="time", coords={"time": np.arange(5) / 100})
    >>> smooth(response).values
    array([0., 1., 2., 1., 0.])
    """
    check_array(response, "response", "time")
    if window_ms <= 0:
        raise ValueError(f"window_ms must be above 0, not {window_ms}")
    half_width = max(round((window_ms / (1000 * bin_width(response)) - 1) / 2), 0)
    # np.hanning is zero at both ends; these are cut off.
    window = np.hanning(2 * half_width + 3)[1:-1]

    response = floating(response)
    smoothed: xr.DataArray = xr.apply_ufunc(
        _smoothed,
        single_chunk(response, "time"),
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
    # Piece by piece along the first dim, to save memory.
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


def _apply(ufunc: np.ufunc, array: xr.DataArray) -> xr.DataArray:
    applied: xr.DataArray = xr.apply_ufunc(ufunc, array, dask="allowed", keep_attrs=True)
    return applied


def floating(array: xr.DataArray) -> xr.DataArray:
    """Return the array, with integers as float64."""
    return array if np.issubdtype(array.dtype, np.floating) else array.astype(np.float64)


def _source(array: xr.DataArray, reference: xr.DataArray | None) -> xr.DataArray:
    """Return the array whose values set the scale."""
    source = _unscaled(array if reference is None else reference)
    check_not_empty(source, "the array" if reference is None else "reference")
    return source


def _unscaled(array: xr.DataArray) -> xr.DataArray:
    """`array` as floats, or an error if it has been scaled before."""
    if not isinstance(array, xr.DataArray):
        raise TypeError(f"expected a DataArray, such as ds.psth, not a {type(array).__name__}")
    notes = [name for name in array.attrs if name.startswith("scaling")]
    if "scaling" in notes and not _lost(array):
        raise ValueError(
            f"the array is already scaled by {array.attrs['scaling']}: call "
            "nat4xr.preprocess.invert first"
        )
    if notes:  # an operation dropped part of the attrs, such as those that two arrays do not share
        array = array.drop_attrs(deep=False).assign_attrs(
            {name: value for name, value in array.attrs.items() if name not in notes}
        )
    return floating(array)


def _lost(array: xr.DataArray) -> str:
    """Say which part of the record of a scaling is missing; empty if none is."""
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
    """Compute (array - offset) / span, and record the scaling in the result."""
    # The range of a constant is 0 except for rounding; a constant is only shifted to 0.
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
