"""Rates and spike counts, and responses at other bin widths.

The functions take xarray objects and read no files. Their results are lazy, with or without dask:
spikes are counted when values are read, and only for the part that is read.

The width of the bins is always the spacing of ``time``. The attribute ``bin_width`` is the width at
which the area was opened, because ``coarsen`` does not update it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing

from . import schema
from .chunks import AnyShape
from .schema import BIN_MS, FINE_CHUNKS, simulated_attr

__all__ = ["bin_spikes", "counts", "rate"]

GAP = 2**15
"""Fewer spikes than this between two trials are read too, because skipping them would be slower."""

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float32]
T = TypeVar("T", bound=xr.Dataset | xr.DataArray)


def rate(obj: T) -> T:
    """Turn spikes per bin into spikes per second.

    Parameters
    ----------
    obj : Dataset or DataArray
        Spikes per bin along ``time`` (in s): ``response`` or ``psth`` of an area, or a mean or
        sum of them over other dims. In a Dataset, both become rates, and other variables do not
        change.

    Returns
    -------
    Dataset or DataArray
        The spikes per bin divided by the bin width, which is the spacing of ``time``. NaN stays
        NaN, and dask arrays stay lazy. The attribute ``units`` is "spikes/s".

    Raises
    ------
    TypeError
        If `obj` is not a Dataset or DataArray.
    ValueError
        If `obj` has no spikes per bin, if there are fewer than two bins, or if they are not
        evenly spaced.

    Notes
    -----
    Wider bins must hold sums, as from ``.coarsen(time=5).sum()``. To average bins, or to take only
    some of them, call this function first: ``nat4xr.rate(ds.psth).coarsen(time=5).mean()``.

    Examples
    --------
    >>> import nat4xr, numpy as np
    >>> ds = nat4xr.open_area("A1")
    >>> rate = nat4xr.rate(ds.psth)
    >>> rate.attrs["units"], np.allclose(rate, 100 * ds.psth)
    ('spikes/s', True)

    Wider bins give the same rate, if they are sums:

    >>> wide = nat4xr.rate(ds.psth.coarsen(time=5).sum())
    >>> np.allclose(wide.mean("time"), rate.mean("time"), rtol=1e-4)
    True
    """

    def spikes_per_s(array: xr.DataArray) -> xr.DataArray:
        per_s = array / bin_width(array)
        return per_s.assign_attrs(array.attrs | {"long_name": "rate", "units": "spikes/s"})

    return _map_spikes_per_bin(obj, spikes_per_s)


def counts(obj: T, window: tuple[float, float]) -> T:
    """Count spikes in a window of the trial.

    xarray's ``.sum("time")`` skips NaN, so that it gives 0 spikes for a trial that was never
    presented. This function gives NaN.

    Parameters
    ----------
    obj : Dataset or DataArray
        Spikes per bin along ``time``, as for :func:`rate`. In a Dataset, ``response`` and
        ``psth`` are counted, and other variables along ``time`` are dropped.
    window : tuple of float
        Start and stop in s, each at the edge of a bin. The sound is in ``(0.25, 1.25)``.

    Returns
    -------
    Dataset or DataArray
        The number of spikes in the window, without the dim ``time``. NaN where any bin of the
        window is NaN, because there was no trial or it was cut short.

    Raises
    ------
    TypeError
        If `obj` is not a Dataset or DataArray.
    ValueError
        If `obj` has no spikes per bin, if there are fewer than two bins or they are not evenly
        spaced, or if the window does not start and stop at edges of bins.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("A1", subset="val")
    >>> spikes = nat4xr.counts(ds.response, (0.25, 1.25))
    >>> spikes.dims, bool((spikes.isnull() == ds.response.isnull().all("time")).all())
    (('stim', 'rep', 'neuron'), True)
    """
    start, stop = window

    def in_window(array: xr.DataArray) -> xr.DataArray:
        edges = bin_edges(array)
        ends = [int(abs(edges - end).argmin()) for end in (start, stop)]
        for end, nearest in zip((start, stop), edges[ends], strict=True):
            if not np.isclose(end, nearest, rtol=0, atol=1e-6):
                raise ValueError(
                    f"{end:g} s is not at the edge of a bin: the edges run from {edges[0]:g} to "
                    f"{edges[-1]:g} s in steps of {bin_width(array):g} s; nearest is {nearest:g} s"
                )
        if ends[0] >= ends[1]:
            raise ValueError(f"the window must start before it stops: ({start:g}, {stop:g})")
        spikes = array.isel(time=slice(*ends)).sum("time", skipna=False)
        text = {"long_name": f"spikes from {start:g} to {stop:g} s", "units": "1"}
        return spikes.assign_attrs(array.attrs | text)

    counted = _map_spikes_per_bin(obj, in_window)
    return (
        counted.drop_dims("time", errors="ignore") if isinstance(counted, xr.Dataset) else counted
    )


def _map_spikes_per_bin(obj: T, change: Callable[[xr.DataArray], xr.DataArray]) -> T:
    """Apply a function to the spikes per bin in a Dataset or DataArray."""
    if isinstance(obj, xr.Dataset):
        names = [name for name in ("response", "psth") if name in obj]
        if not names:
            raise ValueError(
                "the Dataset needs response or psth, which are spikes per bin; it has "
                f"{', '.join(map(str, obj.data_vars)) or 'no variables'}"
            )
        changed = {name: _map_spikes_per_bin(obj[name], change) for name in names}
        return cast(T, obj.assign(changed))
    if not isinstance(obj, xr.DataArray):
        raise TypeError(f"obj must be a Dataset or DataArray, not {type(obj).__name__}")
    if "time" not in obj.dims:
        raise ValueError(
            f"the dim 'time' is missing from {obj.dims}: call this function first, and average "
            "over time afterwards"
        )
    if "freq" in obj.dims:
        raise ValueError("a spectrogram has no spikes: pass response or psth")
    if obj.attrs.get("units") == "spikes/s":
        raise ValueError("the values are already rates (units 'spikes/s'), not spikes per bin")
    if "scaling" in obj.attrs:
        raise ValueError("the values are scaled: call nat4xr.preprocess.invert first")
    return cast(T, change(obj))


def bin_width(obj: xr.Dataset | xr.DataArray) -> float:
    """Return the width of the time bins in s: the spacing of the coordinate ``time``.

    It raises a ValueError if there is no such coordinate, if it has fewer than two bins, or if they
    are not evenly spaced.

    >>> bin_width(xr.Dataset(coords={"time": [0.25, 0.26, 0.27]}))
    0.01
    """
    if "time" not in obj.coords or obj.coords["time"].dims != ("time",):
        raise ValueError("the dim 'time' has no coordinate: assign the left edges of its bins in s")
    if obj.sizes["time"] < 2:
        raise ValueError(
            "the bin width is the spacing of 'time', which needs at least two bins, but there is "
            f"only {obj.sizes['time']} time bin"
        )
    steps = np.diff(obj.coords["time"].values)
    if not np.allclose(steps, steps[0], rtol=1e-3, atol=0) or steps[0] <= 0:
        raise ValueError("the time bins are not evenly spaced, so they have no single width")
    return float(steps.mean().round(9))


def bin_edges(obj: xr.Dataset | xr.DataArray) -> NDArray[np.float64]:
    """Return the edges of the time bins in s, one more than there are bins.

    ``time`` holds the left edges of the bins or, after ``coarsen``, the mean of the left edges of
    the narrower bins in each bin. It raises a ValueError as `bin_width` does, or if it is unclear
    after ``coarsen`` where the bins start.

    >>> time = xr.Variable("time", np.arange(6) / 100, {"bin_width": 0.01})
    >>> bin_edges(xr.Dataset(coords={"time": time}).coarsen(time=2).sum()).round(3)
    array([0.  , 0.02, 0.04, 0.06])
    """
    width, time = bin_width(obj), obj.coords["time"]
    narrower = float(time.attrs.get("bin_width", width))
    edges = np.append(time.values, time.values[-1] + width)
    if np.isclose(narrower, width):
        return edges
    for shift in ((width - narrower) / 2, 0):
        bins_before = (edges[0] - shift) / width
        if np.isclose(bins_before, round(bins_before), rtol=0, atol=1e-3):
            shifted: NDArray[np.float64] = edges - shift
            return shifted
    raise ValueError(
        f"it is unclear where the bins of {width:g} s start: open the area with "
        f"dt_ms={1000 * width:g}, or coarsen with coord_func={{'time': 'min'}}"
    )


def bin_spikes(spikes: xr.Dataset, dt_ms: float) -> xr.DataArray:
    """Count the spikes of every presentation in bins of any width.

    Spikes are assigned to bins by the rule of NEMS, the software that wrote the release.

    Parameters
    ----------
    spikes : xarray.Dataset
        What `open_spikes` returns, or a selection of it.
    dt_ms : float
        Bin width in ms: a whole number that divides the length of a trial.

    Returns
    -------
    xarray.DataArray
        ``response`` (stim, rep, time, neuron), float32: spikes per bin in each presentation,
        NaN where there was no presentation. Dask-backed: a chunk reads its spikes when it is
        computed.

    Raises
    ------
    ValueError
        If a trial does not divide into bins of this width, or `spikes` does not come from
        `open_spikes`.

    Notes
    -----
    At 10 ms, the val responses equal those of `open_area`. The est responses of `open_area` come
    from the population recording, so they also exist for cells without trials; elsewhere they are
    the same if both recordings agree. Pairs of a sound and a cell that the population recording
    leaves out are counted here.

    Examples
    --------
    >>> import nat4xr
    >>> spikes = nat4xr.open_spikes("A1")
    >>> response = nat4xr.bin_spikes(spikes, dt_ms=5)
    >>> response.sizes["time"], response.time.attrs["bin_width"]
    (300, 0.005)
    >>> int(response.sum()) == spikes.sizes["spike"]
    True
    """
    trials = TrialTable.of(spikes)
    widths = [width for width in range(1, trials.length_ms + 1) if trials.length_ms % width == 0]
    check_width(dt_ms, widths)
    width = int(dt_ms)
    n_reps = int(trials.rep.max(initial=0)) + 1
    response = _response(trials, width, n_reps).chunk(FINE_CHUNKS)
    # A sound or cell that was selected as a scalar has no dim.
    response = response.isel({dim: 0 for dim in ("stim", "neuron") if dim not in spikes.dims})
    coords = spikes.drop_dims(["trial", "spike"]).coords
    response.attrs |= simulated_attr(spikes)
    return xr.DataArray(response, coords, name="response").assign_coords(
        rep=("rep", np.arange(n_reps), spikes["trial_rep"].attrs),
        time=schema.time_axis(trials.length_ms // width, width, spikes["spike_time"].attrs),
    )


def finer(ds: xr.Dataset, spikes: xr.Dataset, width: int) -> xr.Dataset:
    """Return an area in bins narrower than 10 ms, counted from its spikes."""
    _check_divides(ds, width)
    trials = TrialTable.of(spikes)
    # Presentations that the population recording leaves out are also left out here.
    limit = ds["n_reps"].values
    n_stims, n_neurons = limit.shape
    reps = np.arange(ds.sizes["rep"])
    presented = trials.presented(np.arange(n_stims), reps, np.arange(n_neurons), limit)
    response = _response(trials, width, len(reps), limit)
    response.attrs["comment"] = (
        "counted from the spike times of the site recordings, of est sounds too; "
        "NaN for cells without trials there"
    )
    psth = _on_demand(
        ("stim", "time", "neuron"),
        (n_stims, trials.length_ms // width, n_neurons),
        partial(_mean_counts, trials, width, limit, reps),
    )
    psth.attrs = {
        "long_name": "spikes per bin, mean over presentations",
        "units": "1",
        "comment": "mean of response over its repeats; NaN for cells without trials",
    }
    for variable in (response, psth):
        variable.attrs |= simulated_attr(ds)
    spectrogram = _rebin(ds["spectrogram"].variable, "repeat", BIN_MS // width)
    spectrogram.attrs["comment"] = "the published value of 10 ms, held over the finer bins in it"
    n_reps = ds["n_reps"].variable.copy(data=presented.sum(axis=1, dtype=np.int8))
    return _with_variables(ds, width, response, psth, spectrogram, n_reps)


def coarser(ds: xr.Dataset, width: int) -> xr.Dataset:
    """Return an area in bins whose width is a multiple of 10 ms."""
    _check_divides(ds, width)
    variables = {}
    for name, method, comment in (
        ("response", "sum", "sum of the bins of 10 ms"),
        ("psth", "sum", "sum of the published bins of 10 ms"),
        ("spectrogram", "mean", "mean of the published values of 10 ms"),
    ):
        variables[name] = _rebin(ds[name].variable, method, width // BIN_MS)
        variables[name].attrs["comment"] = comment
    return _with_variables(ds, width, *variables.values(), ds["n_reps"].variable)


def _check_divides(ds: xr.Dataset, width: int) -> None:
    trial_ms = ds.sizes["time"] * BIN_MS
    check_width(width, [width_ms for width_ms in schema.BIN_WIDTHS_MS if trial_ms % width_ms == 0])


def _with_variables(ds: xr.Dataset, width: int, *variables: xr.Variable) -> xr.Dataset:
    """Replace the variables of an area, in the order of the schema, and its time bins."""
    n_bins = ds.sizes["time"] * BIN_MS // width
    time = schema.time_axis(n_bins, width, ds["time"].attrs)
    named = dict(zip(schema.VARIABLES, variables, strict=True))
    return ds.drop_dims("time").assign_coords(time=time).assign(named)[list(named)]


def check_spikes(spikes: xr.Dataset) -> None:
    """Raise an error for anything that does not come from `open_spikes`."""
    if not isinstance(spikes, xr.Dataset) or not {"trial_site", "first_spike"} <= set(
        spikes.variables
    ):
        raise ValueError(
            "spikes must be the Dataset that nat4xr.open_spikes returns, or a selection of it"
        )


def check_width(dt_ms: float, widths: Sequence[int]) -> None:
    """Raise an error for a bin width that is not among `widths`."""
    if dt_ms not in widths:
        raise ValueError(f"dt_ms must be one of {', '.join(map(str, widths))}, not {dt_ms!r}")


@dataclass(frozen=True)
class TrialTable:
    """The trials as integer arrays, and the lazy spikes, from which spikes are counted.

    Attributes
    ----------
    spike_sample, spike_neuron : xarray.Variable
        Variables along ``spike``, which are usually lazy.
    first, n_spikes : numpy.ndarray of int
        For each trial, the position of its first spike, and the number of its spikes.
    stim, rep, site : numpy.ndarray of int
        For each trial, the indices of its sound, repeat and site; -1 if its sound or site is not
        selected.
    number, site_of : numpy.ndarray of int
        For each cell, its number in ``spike_neuron``, and the index of its site (``n_sites`` if
        it has no trials).
    n_stims, n_sites : int
        Number of selected sounds and sites.
    length_ms : int
        Length of a whole trial.
    duration_ms : numpy.ndarray of int
        For each trial, its length, which is less than ``length_ms`` if it was cut short.
    """

    spike_sample: xr.Variable
    spike_neuron: xr.Variable
    first: Ints
    n_spikes: Ints
    stim: Ints
    rep: Ints
    site: Ints
    number: Ints
    site_of: Ints
    n_stims: int
    n_sites: int
    length_ms: int
    duration_ms: Ints

    @classmethod
    def of(cls, spikes: xr.Dataset) -> TrialTable:
        """Make the table for what `open_spikes` returns, or a selection of it."""
        check_spikes(spikes)
        first, n_spikes = spikes["first_spike"].values, spikes["n_spikes"].values
        if (first + n_spikes).max(initial=0) > spikes.sizes["spike"]:
            raise ValueError(
                "trials point beyond the spikes: select along trial, stim and neuron, "
                "never along spike"
            )
        stims, number, site, trials_cell_id = (
            np.atleast_1d(spikes[name].values)
            for name in ("stim", "neuron_number", "site", "trials_cell_id")
        )
        sites = pd.Index(site).unique()
        length_ms = round(spikes["spike_time"].attrs["trial_duration"] * 1000)
        duration_ms = np.full(len(first), length_ms)
        if "trial_duration" in spikes.variables:  # if any trial was cut short
            # Round down to whole ms, with a tolerance for float errors.
            duration_ms = (spikes["trial_duration"].values * 1000 + 1e-6).astype(np.int64)
        return cls(
            spikes["spike_sample"].variable,
            spikes["spike_neuron"].variable,
            first,
            n_spikes,
            pd.Index(stims).get_indexer(spikes["trial_stim"].values),
            spikes["trial_rep"].values,
            sites.get_indexer(spikes["trial_site"].values),
            number,
            np.where(trials_cell_id == "", len(sites), sites.get_indexer(site)),
            len(stims),
            len(sites),
            length_ms,
            duration_ms,
        )

    def presented(
        self, stims: Ints, reps: Ints, neurons: Ints, limit: NDArray[np.int8] | None = None
    ) -> NDArray[np.bool_]:
        """Return whether each repeat was presented to each cell, (stim, rep, neuron).

        For each sound and cell, only the first ``limit`` (stim, neuron) repeats count.
        """
        n_reps = max(self.rep.max(initial=0), reps.max(initial=0)) + 1
        at_site = np.zeros((self.n_stims, n_reps, self.n_sites + 1), bool)
        selected = (self.stim >= 0) & (self.site >= 0)
        at_site[self.stim[selected], self.rep[selected], self.site[selected]] = True
        presented: NDArray[np.bool_] = at_site[np.ix_(stims, reps, self.site_of[neurons])]
        if limit is not None:
            presented &= reps[:, np.newaxis] < limit[np.ix_(stims, neurons)][:, np.newaxis]
        return presented

    def locate(
        self, stims: Ints, reps: Ints, neurons: Ints, presented: NDArray[np.bool_], width: int
    ) -> tuple[Ints, Ints, Ints, Ints]:
        """Return the sound, repeat, bin and cell of each spike in the given presentations.

        Sounds, repeats and cells are positions in `stims`, `reps` and `neurons`.
        """
        stim, rep = _positions(stims, self.stim), _positions(reps, self.rep)
        wanted = (stim >= 0) & (rep >= 0) & np.isin(self.site, self.site_of[neurons])
        trial, sample, number = self.read(
            np.flatnonzero(wanted), self.spike_sample, self.spike_neuron
        )
        neuron = _positions(self.number[neurons], number)
        kept = neuron >= 0
        trial, sample, neuron = trial[kept], sample[kept], neuron[kept]
        stim, rep, time = stim[trial], rep[trial], sample // width
        kept = presented[stim, rep, neuron] & (time < self.duration_ms[trial] // width)
        return stim[kept], rep[kept], time[kept], neuron[kept]

    def cuts(
        self, stims: Ints, reps: Ints, neurons: Ints, width: int
    ) -> Iterator[tuple[int, int, int, Ints]]:
        """Yield the presentations that were cut short.

        Each is a tuple of sound, repeat, the first bin that the trial does not cover, and the
        cells that heard it. Sounds, repeats and cells are positions in `stims`, `reps` and
        `neurons`.
        """
        stim, rep = _positions(stims, self.stim), _positions(reps, self.rep)
        cut = (self.duration_ms < self.length_ms) & (stim >= 0) & (rep >= 0)
        for trial in np.flatnonzero(cut):
            cells = np.flatnonzero(self.site_of[neurons] == self.site[trial])
            yield stim[trial], rep[trial], self.duration_ms[trial] // width, cells

    def read(self, trials: Ints, *variables: xr.Variable) -> tuple[NDArray[Any], ...]:
        """Return, for each spike in the given trials, its trial and its values of `variables`."""
        trials = trials[np.argsort(self.first[trials], kind="stable")]
        first, n_spikes = self.first[trials].astype(np.int64), self.n_spikes[trials]
        end = first + n_spikes
        values = [[np.empty(0, variable.dtype)] for variable in variables]
        gaps = np.flatnonzero(first[1:] - end[:-1] > GAP) + 1
        for piece in np.split(np.arange(len(trials)), gaps) if len(trials) else ():
            start, stop = first[piece[0]], end[piece[-1]]
            n = n_spikes[piece]
            in_trials = np.arange(n.sum()) + np.repeat(first[piece] - start - np.cumsum(n) + n, n)
            for parts, variable in zip(values, variables, strict=True):
                parts.append(variable[start:stop].values[in_trials])
        return np.repeat(trials, n_spikes), *(np.concatenate(parts) for parts in values)


def _positions(wanted: Ints, numbers: Ints) -> Ints:
    """Return the position of each number in `wanted`, or -1 if it is not in it."""
    table = np.full(max(wanted.max(initial=-1), numbers.max(initial=-1)) + 2, -1, np.int32)
    table[wanted] = np.arange(len(wanted))
    return table[numbers]  # the number -1 reads the last element, which is -1


def _response(
    trials: TrialTable, width: int, n_reps: int, limit: NDArray[np.int8] | None = None
) -> xr.Variable:
    response = _on_demand(
        ("stim", "rep", "time", "neuron"),
        (trials.n_stims, n_reps, trials.length_ms // width, len(trials.number)),
        partial(_counts, trials, width, limit),
    )
    response.attrs = {"long_name": "spikes per bin", "units": "1"}
    return response


def _counts(
    trials: TrialTable,
    width: int,
    limit: NDArray[np.int8] | None,
    stims: Ints,
    reps: Ints,
    times: Ints,
    neurons: Ints,
) -> Floats:
    """Spikes per bin in each presentation, (stim, rep, time, neuron)."""
    presented = trials.presented(stims, reps, neurons, limit)
    located = trials.locate(stims, reps, neurons, presented, width)
    shape = (len(stims), len(reps), trials.length_ms // width, len(neurons))
    counts = _histogram(located, shape)
    np.moveaxis(counts, 2, 3)[~presented] = np.nan
    for stim, rep, first_bin, cells in trials.cuts(stims, reps, neurons, width):
        counts[stim, rep, first_bin:, cells] = np.nan
    return counts[:, :, times] if len(times) < shape[2] else counts


def _mean_counts(
    trials: TrialTable,
    width: int,
    limit: NDArray[np.int8],
    reps: Ints,
    stims: Ints,
    times: Ints,
    neurons: Ints,
) -> Floats:
    """Spikes per bin averaged over presentations, (stim, time, neuron)."""
    presented = trials.presented(stims, reps, neurons, limit)
    stim, _, time, neuron = trials.locate(stims, reps, neurons, presented, width)
    shape = (len(stims), trials.length_ms // width, len(neurons))
    counts = _histogram((stim, time, neuron), shape)
    n_reps = presented.sum(axis=1, dtype=np.float32)[:, np.newaxis]
    if (trials.duration_ms < trials.length_ms).any():
        n_reps = n_reps.repeat(shape[1], axis=1)
        for cut_stim, rep, first_bin, cells in trials.cuts(stims, reps, neurons, width):
            cells = cells[presented[cut_stim, rep, cells]]
            n_reps[cut_stim, first_bin:, cells] -= 1
    with np.errstate(invalid="ignore"):  # without a presentation, 0 / 0 gives NaN
        counts /= n_reps
    return counts[:, times] if len(times) < shape[1] else counts


def _histogram(indices: tuple[Ints, ...], shape: tuple[int, ...]) -> Floats:
    counts = np.zeros(shape, np.float32)
    np.add.at(counts.reshape(-1), np.ravel_multi_index(indices, shape), np.float32(1))
    return counts


def _rebin(source: xr.Variable, method: str, factor: int) -> xr.Variable:
    """Change the bins of a variable, lazily, by their "sum", "mean" or "repeat"."""
    n_time = source.sizes["time"]
    n_time = n_time * factor if method == "repeat" else n_time // factor
    shape = tuple((dict(source.sizes) | {"time": n_time}).values())
    variable = _on_demand(source.dims, shape, partial(_rebinned_values, source, method, factor))
    variable.attrs = dict(source.attrs)
    return variable


def _rebinned_values(source: xr.Variable, method: str, factor: int, *positions: Ints) -> Floats:
    indexers = dict(zip(source.dims, positions, strict=True))
    times = indexers.pop("time")
    axis = source.dims.index("time")
    values = source.isel(indexers).values
    if method == "repeat":
        values = values.repeat(factor, axis)
    else:
        n_time = values.shape[axis] // factor
        folded = values.reshape(*values.shape[:axis], n_time, factor, *values.shape[axis + 1 :])
        values = getattr(folded, method)(axis + 1)
    rebinned: Floats = values.take(times, axis)
    return rebinned


def _on_demand(
    dims: tuple[Any, ...], shape: tuple[int, ...], make: Callable[..., Floats]
) -> xr.Variable:
    # An export would compress a chunk on disk repeatedly if several dask chunks shared it.
    chunks = tuple(
        n if dim in ("time", "freq") else min(FINE_CHUNKS[dim], n)
        for dim, n in zip(dims, shape, strict=True)
    )
    return xr.Variable(
        dims,
        indexing.LazilyIndexedArray(_OnDemand(shape, make)),
        encoding={
            **{"zlib": True, "complevel": 1, "shuffle": True},
            **{"chunksizes": chunks, "original_shape": AnyShape(shape)},
        },
    )


class _OnDemand(BackendArray):
    """An array that computes its values when they are read, and only those that are read.

    ``make`` takes sorted positions along each axis and returns the block at these positions.
    """

    def __init__(self, shape: tuple[int, ...], make: Callable[..., Floats]):
        self.shape = shape
        self.dtype = np.dtype(np.float32)
        self.make = make

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._made
        )

    def _made(self, key: tuple[Any, ...]) -> Floats:
        by_axis = [np.arange(n)[k] for n, k in zip(self.shape, key, strict=True)]
        block = self.make(*(np.unique(positions) for positions in by_axis))
        for axis, positions in enumerate(by_axis):
            if positions.ndim and (np.diff(positions) < 1).any():  # out of order, or repeated
                block = block.take(np.unique(positions, return_inverse=True)[1], axis)
        return block.squeeze(tuple(axis for axis, k in enumerate(by_axis) if not k.ndim))
