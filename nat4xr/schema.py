"""The schema of the Datasets of this package.

It defines the dims, dtypes, long names, units and comments of all variables and coordinates, their
chunks on disk and in memory, and the design of the experiment. `variable` builds an
`xarray.Variable` that follows the schema.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

BIN_MS = 10
"""Width of the published time bins in ms."""

BIN_S = BIN_MS / 1000
"""Width of the published time bins in s."""

BIN_WIDTHS_MS = (1, 2, 5, *(width for width in range(BIN_MS, 1501, BIN_MS) if 1500 % width == 0))
"""The bin widths that `open_area` offers."""

N_VAL, N_REPEATS = 18, 20
"""Number of val sounds, and of presentations of each sound at a site."""

SILENCE_S, SOUND_S = 0.25, 1.0
"""Silence before and after each sound, and the duration of the sound, in s."""

FREQ_RANGE_HZ = (200, 20000)
"""Lowest and highest nominal centre frequency of the spectrogram in Hz."""


class Field(NamedTuple):
    """The properties of a variable or coordinate that do not depend on its values."""

    dims: tuple[str, ...]
    dtype: str
    long_name: str
    units: str = ""
    comment: str = ""


_NO_LABEL = "empty if there is none"
_NO_NUMBER = "-1 if the name does not contain it"

VARIABLES = {
    "response": Field(
        ("stim", "rep", "time", "neuron"),
        "float32",
        "spikes per bin",
        "1",
        "one presentation; NaN where there was none",
    ),
    "psth": Field(
        ("stim", "time", "neuron"),
        "float32",
        "mean spikes per bin",
        "1",
        "mean over presentations, as published",
    ),
    "spectrogram": Field(
        ("stim", "freq", "time"),
        "float32",
        "gammatone magnitude",
        "",
        "ozgf spectrogram, linear magnitude as published",
    ),
    "n_reps": Field(("stim", "neuron"), "int8", "presentations held in response", "1"),
}
"""The variables of an area."""

SOUND_COORDS = {
    "stim": Field(("stim",), "str", "sound", "", "epoch name in NEMS"),
    "subset": Field(
        ("stim",),
        "str",
        "subset",
        "",
        "est: presented once, for fitting; val: presented 20 times, for testing",
    ),
    "category": Field(("stim",), "int16", "category number", "", _NO_NUMBER),
    "sound": Field(("stim",), "str", "description of the sound", "", _NO_LABEL),
    "excerpt": Field(("stim",), "int16", "excerpt number in its source", "", _NO_NUMBER),
}
"""The labels of the sounds."""

CELL_COORDS = {
    "neuron": Field(("neuron",), "str", "neuron", "", "cell id in NEMS"),
    "cell_id": Field(("neuron",), "str", "cell id in NEMS"),
    "area": Field(("neuron",), "str", "auditory cortical area"),
    "site": Field(
        ("neuron",),
        "str",
        "recording site",
        "",
        "animal, recording number, session letter; empty if the cell id does not contain them",
    ),
    "animal": Field(("neuron",), "str", "ferret", "", _NO_LABEL),
    "session": Field(("neuron",), "str", "session letter of the site", "", _NO_LABEL),
    "recording": Field(("neuron",), "int16", "recording number of the site", "", _NO_NUMBER),
    "electrode": Field(("neuron",), "int16", "electrode number", "", _NO_NUMBER),
    "unit_in_electrode": Field(("neuron",), "int16", "unit number", "", _NO_NUMBER),
    "auditory": Field(
        ("neuron",),
        "bool",
        "auditory cell",
        "",
        "sig_auditory of the release; False if the table has no row for the cell",
    ),
    "trials_cell_id": Field(
        ("neuron",),
        "str",
        "cell id in the site recording",
        "",
        "the name under which its trials were found; empty if it has none",
    ),
}
"""The labels of the cells."""

AXES = {
    "rep": Field(("rep",), "int", "presentation at the site", "", "counted from 0"),
    "time": Field(("time",), "float64", "time from trial onset", "s", "left edge of the bin"),
    "freq": Field(("freq",), "float64", "nominal centre frequency", "Hz"),
}
"""The coordinates along the other dims of an area."""

SPIKE_VARIABLES = {
    "spike_time": Field(("spike",), "float32", "spike time from trial onset", "s"),
    "spike_sample": Field(
        ("spike",),
        "int16",
        "spike time from trial onset in whole ms",
        "ms",
        "floor(t * fs) - round(onset * fs): spikes are binned by it",
    ),
    "spike_neuron": Field(("spike",), "int16", "neuron_number of the cell that fired"),
    "n_spikes": Field(("trial",), "int32", "spikes of all cells in the trial", "1"),
    "first_spike": Field(("trial",), "int32", "position along spike of the first of the trial"),
    "neuron_number": Field(("neuron",), "int16", "number of the cell in spike_neuron"),
    "n_outside": Field(
        ("neuron",), "int32", "spikes outside every trial", "1", "left out of spike_time"
    ),
}
"""The variables of spike times."""

TRIAL_COORDS = {
    "trial_stim": Field(("trial",), "str", "sound of the trial"),
    "trial_rep": Field(("trial",), "int16", "presentation at the site", "", "counted from 0"),
    "trial_site": Field(("trial",), "str", "recording site of the trial"),
    "trial_position": Field(
        ("trial",), "int32", "position of the trial in its session", "", "counted from 0"
    ),
    "trial_onset": Field(("trial",), "float64", "trial onset in the session", "s"),
}
"""The labels of the trials of spike times."""

TRIAL_DURATION = {
    "trial_duration": Field(
        ("trial",),
        "float64",
        "duration of the trial",
        "s",
        "only in files with a trial that was cut short",
    )
}
"""A label of the trials that only exists if one of them was cut short."""

FIELDS = {
    **VARIABLES,
    **SOUND_COORDS,
    **CELL_COORDS,
    **AXES,
    **SPIKE_VARIABLES,
    **TRIAL_COORDS,
    **TRIAL_DURATION,
}

MISSING_COUNT = 255
"""Missing counts in a converted file that stores counts as bytes."""

DISK_CHUNKS = {"stim": N_VAL, "rep": 1, "neuron": 128}
"""Chunks on disk. They have one repeat, so that missing repeats of est sounds are not written."""

EXPORT_CHUNKS = {"stim": 6, "rep": 1, "neuron": 16}
"""Chunks of ``response`` with bins of 10 ms in files that xarray writes.

xarray also writes missing repeats. zlib compresses NaN twice as fast in chunks below 64 KiB.
"""

DASK_CHUNKS = {"stim": 1620, "rep": 1, "freq": 2, "time": -1, "neuron": 128}
"""Dask chunks for bins of 10 ms and wider.

A chunk of ``response`` takes 46 MB in A1 and PEG. All sounds are in one chunk, so that the chunks
stay regular when sounds are selected; zarr requires this. The chunks of the spectrogram are small,
because ``.where`` with a condition on cells adds a dim of cells to it.
"""

FINE_CHUNKS = {"stim": N_VAL, "rep": 1, "time": -1, "neuron": 128}
"""Dask chunks for bins narrower than 10 ms. A chunk of ``response`` takes 14 MB at 1 ms."""

SPIKES_PER_CHUNK = 2**15
"""Spikes in a chunk on disk."""


def attrs_of(name: str) -> dict[str, Any]:
    """Return the attributes of a variable or coordinate: long_name, units and comment."""
    field = FIELDS[name]
    attrs = {"long_name": field.long_name, "units": field.units, "comment": field.comment}
    return {key: text for key, text in attrs.items() if text}


def variable(name: str, data: Any, **attrs: Any) -> xr.Variable:
    """Build a variable or coordinate with the dims, dtype and attributes of its entry in `FIELDS`.

    The data have the dims of the entry. Integers that do not fit its dtype become wider.

    >>> variable("freq", [200.0, 20000.0]).attrs
    {'long_name': 'nominal centre frequency', 'units': 'Hz'}
    """
    field = FIELDS[name]
    values = np.asarray(data)
    if field.dtype != "str":
        dtype = _fitting(values, np.dtype(field.dtype))
        values = values.astype(dtype, casting="same_kind", copy=False)
    return xr.Variable(field.dims, values, attrs_of(name) | attrs)


def _fitting(values: np.ndarray, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype, or a wider one if the values are integers that do not fit."""
    if dtype.kind == "i" and values.size:
        lowest, highest = values.min(), values.max()
        for wider in (dtype, np.dtype(np.int32), np.dtype(np.int64)):
            if np.iinfo(wider).min <= lowest and highest <= np.iinfo(wider).max:
                return wider
    return dtype


def time_axis(n_bins: int, width_ms: int, sound_times: Mapping[str, Any]) -> xr.Variable:
    """Build the coordinate of the time bins: their left edges in s, float64.

    ``sound_on`` and ``sound_off`` (in s from trial onset) become attributes if `sound_times` has
    them. Other keys are ignored.

    >>> time_axis(3, 10, {"sound_on": 0.25}).values
    array([0.  , 0.01, 0.02])
    """
    known = {key: sound_times[key] for key in ("sound_on", "sound_off") if key in sound_times}
    edges = np.arange(n_bins) * width_ms / 1000
    return variable("time", edges, bin_width=width_ms / 1000, **known)


def noun(dim: Hashable) -> str:
    """Return the word for an element of a dim, such as "sound" for ``stim``."""
    nouns = {"stim": "sound", "neuron": "cell", "rep": "repeat", "time": "time bin", "freq": "band"}
    return nouns.get(str(dim), str(dim))


def check_not_empty(
    obj: xr.Dataset | xr.DataArray, name: str, dims: Iterable[Hashable] | None = None
) -> None:
    """Raise a ValueError that calls the input `name` if one of its dims has length 0.

    If `dims` are given, only these are checked.

    >>> check_not_empty(xr.DataArray([], dims="neuron"), "psth")
    Traceback (most recent call last):
    ...
    ValueError: psth is empty: it has no cells
    """
    checked = obj.sizes if dims is None else dims
    if lacking := [f"no {noun(dim)}s" for dim in checked if obj.sizes[dim] == 0]:
        raise ValueError(f"{name} is empty: it has {', '.join(lacking)}")


def check_array(array: xr.DataArray, name: str, *dims: str) -> None:
    """Raise an error unless the input is a DataArray with these dims, none of which is empty."""
    if not isinstance(array, xr.DataArray):
        raise TypeError(f"{name} must be an xarray.DataArray, not {type(array).__name__}")
    if missing := [dim for dim in dims if dim not in array.dims]:
        raise ValueError(
            f"{name} needs the dims {dims}, but has {array.dims}: {missing[0]!r} is missing. "
            f"(Selecting with a list, as in .isel({missing[0]}=[0]), keeps a dim of length one.)"
        )
    check_not_empty(array, name, dims)


def simulated_attr(source: xr.Dataset | xr.DataArray) -> dict[str, int]:
    """Return the attribute that marks results of simulated data, if the source has it.

    >>> simulated_attr(xr.Dataset(attrs={"simulated": 1})), simulated_attr(xr.Dataset())
    ({'simulated': 1}, {})
    """
    return {"simulated": 1} if source.attrs.get("simulated") else {}
