"""Figures of sounds, responses and models.

Each function draws one figure:

* It takes a selection of a Dataset of :func:`nat4xr.open_area`, or the variable to draw. Only what
  is drawn is computed, and the input is not changed.
* It draws into ``ax``. Default: the current axes, or those of a new figure if there are none. The
  sizes of fonts, figures and lines follow ``matplotlib.rcParams``.
* It returns the artists that it drew.
* The axes have units, and titles come from the labels. A grey band, or a bar above the axes, marks
  the time of the sound, from ``sound_on`` to ``sound_off``, which are attrs of ``time``. If the
  data have the attr ``simulated``, the title says so.

The functions need matplotlib: ``pip install "nat4xr[plot]"``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from . import metrics
from .bins import bin_edges, bin_width
from .extras import require
from .population import latency
from .schema import check_not_empty, noun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PathCollection, QuadMesh
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

__all__ = [
    "cell_response",
    "coverage",
    "population",
    "prediction",
    "psth",
    "raster",
    "scores",
    "spectrogram",
    "strf",
]

Floats = NDArray[np.floating[Any]]

SOUND_SHADE = "0.92"

# The colours of Okabe and Ito, which people with any kind of colour vision can distinguish.
VERMILION = "#d55e00"
ANIMALS = ("#0072b2", VERMILION, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

# With more cells than this, a row is thinner than a pixel. Rows are then blended, because
# matplotlib would otherwise draw some of them and skip others.
MANY_CELLS = 300

# Fraction of the width of the axes for the val sounds in `coverage`, where 18 of 593 sounds would
# be too narrow to see.
VAL_SHARE = 0.25


def spectrogram(ds: xr.Dataset | xr.DataArray, *, ax: Axes | None = None) -> QuadMesh:
    """Draw the spectrogram of one sound.

    The colour is log(1 + magnitude), which is also what models of these data take as input.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        A Dataset with ``spectrogram`` (freq, time), or the spectrogram itself. If it was scaled by
        :func:`nat4xr.preprocess.log_minmax`, its values are drawn as they are.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into. Default: the current axes, or those of a new figure.

    Returns
    -------
    matplotlib.collections.QuadMesh
        The spectrogram over time in s and frequency in kHz.

    Raises
    ------
    ValueError
        If not exactly one sound is selected, if all its values are NaN, or if ``spectrogram``, one
        of its dims, or the coordinate of one of its dims is missing.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from matplotlib.figure import Figure
    >>> from nat4xr.plot import spectrogram
    >>> sound = xr.DataArray(
    ...     np.ones((3, 4)),
    ...     dims=("freq", "time"),
    ...     coords={"freq": [200.0, 2000, 20000], "time": [0, 0.01, 0.02, 0.03], "sound": "geese"},
    ... )
    >>> mesh = spectrogram(sound, ax=Figure().subplots())
    >>> mesh.axes.get_title(), mesh.axes.get_ylabel()
    ('geese', 'frequency (kHz)')
    """
    sound = _selected(ds, "spectrogram", ("freq", "time")).compute()
    _check_recorded(sound)
    edges = bin_edges(sound)
    frequency_edges = _frequency_edges_khz(sound)
    scaled = "scaling" in sound.attrs
    values = sound.values if scaled else np.log1p(sound.values)

    ax = _axes(ax)
    mesh = ax.pcolormesh(edges, frequency_edges, values, cmap="viridis", rasterized=True)
    # Beside the axes, not from their width: those below have the same time axis.
    _colour_bar(
        ax,
        mesh,
        "magnitude (scaled)" if scaled else "log(1 + magnitude)",
        cax=ax.inset_axes((1.02, 0, 0.02, 1)),
    )
    _frequency_axis(ax)
    _time_axis(ax, sound, edges, over_image=True)
    _set_title(ax, _title(ds, _sound(sound)))
    return mesh


def raster(
    response: xr.Dataset | xr.DataArray | Sequence[NDArray[Any]], *, ax: Axes | None = None
) -> LineCollection:
    """Draw the spikes of one cell in each presentation of one sound.

    Parameters
    ----------
    response : xarray.Dataset, xarray.DataArray or sequence of numpy.ndarray
        A Dataset with ``response`` (rep, time), or the response itself, in spikes per bin. Or a
        list of spike times in s from trial onset, with one array per presentation, as
        :func:`nat4xr.spike_trains` returns it.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into. Default: the current axes, or those of a new figure.

    Returns
    -------
    matplotlib.collections.LineCollection
        One tick per spike. Spike counts do not show where in the bin the spikes are: a single
        tick is drawn in the middle of the bin, and several ticks are spaced evenly in it.

    Raises
    ------
    ValueError
        If not exactly one cell and one sound are selected, if there are no trials, if values are
        not spike counts, or if ``response``, one of its dims or the coordinate of ``time`` is
        missing.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import xarray as xr
    >>> from matplotlib.figure import Figure
    >>> from nat4xr.plot import raster
    >>> response = xr.DataArray(
    ...     [[0, 1, 0], [2, 0, 0]],
    ...     dims=("rep", "time"),
    ...     coords={"time": ("time", [0, 0.01, 0.02], {"units": "s", "bin_width": 0.01})},
    ... )
    >>> len(raster(response, ax=Figure().subplots()).get_segments())
    3

    With spike times, each tick is at the time of its spike:

    >>> import numpy as np
    >>> trains = [np.array([0.0152]), np.array([0.0037, 0.0061])]
    >>> len(raster(trains, ax=Figure().subplots()).get_segments())
    3
    """
    if isinstance(response, xr.Dataset | xr.DataArray):
        trials = _trials(_selected(response, "response", ("rep", "time")).compute())
        edges = bin_edges(trials)
        times, row = _spikes(trials, edges)
        repeats = trials["rep"].values if "rep" in trials.coords else np.arange(len(trials))
        title = _title(response, _cell(trials), _sound(trials))
    else:
        if len(response) == 0:
            raise ValueError("there are no trials to draw: the list of spike trains is empty")
        times = np.concatenate(list(response))
        row = np.repeat(np.arange(len(response)), [len(train) for train in response])
        repeats = np.arange(len(response))
        trials, edges, title = None, None, ""

    ax = _axes(ax)
    from matplotlib.ticker import MaxNLocator

    y = repeats[row]
    ticks: LineCollection = ax.vlines(times, y - 0.4, y + 0.4, color="black", linewidth=0.8)
    ax.set_ylim(repeats[-1] + 0.5, repeats[0] - 0.5)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    ax.set_ylabel("repeat")
    _time_axis(ax, trials, edges)
    _set_title(ax, title)
    return ticks


def psth(ds: xr.Dataset | xr.DataArray, *, ax: Axes | None = None) -> Line2D:
    """Draw the firing rate of one cell during one sound.

    The line is the mean over the repeats in ``response``, with a band of one standard error on
    either side. If the cell has no trials, the published ``psth`` is drawn. There is no band in
    this case, or if there is only one presentation.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        A Dataset with ``response`` (rep, time), ``psth`` (time) or both, or one of these variables
        itself, in spikes per bin. A response that was scaled by :mod:`nat4xr.preprocess` is drawn
        as it is.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into. Default: the current axes, or those of a new figure.

    Returns
    -------
    matplotlib.lines.Line2D
        The mean rate in spikes/s at the middle of each bin. Its label is the cell.

    Raises
    ------
    ValueError
        If not exactly one cell and one sound are selected, if the cell was not recorded, or if
        both variables, the dim ``time`` or its coordinate are missing.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import xarray as xr
    >>> from matplotlib.figure import Figure
    >>> from nat4xr.plot import psth
    >>> response = xr.DataArray(
    ...     [[0, 1, 0], [2, 0, 0]],
    ...     dims=("rep", "time"),
    ...     coords={"time": ("time", [0, 0.01, 0.02], {"units": "s", "bin_width": 0.01})},
    ... )
    >>> psth(response, ax=Figure().subplots()).get_ydata()
    array([100.,  50.,   0.])
    """
    mean, error = _mean_and_error(ds)
    edges = bin_edges(mean)
    mean_rate, label = _rate(mean)
    middle = (edges[:-1] + edges[1:]) / 2

    ax = _axes(ax)
    (line,) = ax.plot(middle, mean_rate, label=_cell(mean) or None)
    if error is not None:
        error_rate, _ = _rate(error)
        ax.fill_between(
            middle,
            mean_rate - error_rate,
            mean_rate + error_rate,
            color=line.get_color(),
            alpha=0.3,
            linewidth=0,
        )
    _rate_axis(ax, label, mean)
    _time_axis(ax, mean, edges)
    _set_title(ax, _title(ds, _cell(mean), _sound(mean)))
    return line


def cell_response(ds: xr.Dataset, *, axes: Sequence[Axes] | None = None) -> NDArray[Any]:
    """Draw the spectrogram of a sound above the raster and the PSTH of a cell's response.

    The band around the PSTH is its standard error over trials.

    Parameters
    ----------
    ds : xarray.Dataset
        One cell and one sound, with ``spectrogram`` (freq, time) and ``response`` (rep, time) in
        spikes per bin.
    axes : sequence of three matplotlib.axes.Axes, optional
        Axes to draw into, from top to bottom. Default: those of a new figure.

    Returns
    -------
    numpy.ndarray of matplotlib.axes.Axes
        The axes from top to bottom, shape (3,), as ``plt.subplots`` returns them.

    Raises
    ------
    ValueError
        If not exactly one cell and one sound are selected, if the cell has no trials of the sound,
        if the response is not spike counts, if a variable, a dim or the coordinate of ``freq`` or
        ``time`` is missing, or if there are not three `axes`.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import xarray as xr
    >>> from matplotlib.figure import Figure
    >>> from nat4xr.plot import cell_response
    >>> ds = xr.Dataset(
    ...     {
    ...         "spectrogram": (("freq", "time"), [[0, 1, 0, 0], [0, 1, 2, 0]]),
    ...         "response": (("rep", "time"), [[0, 0, 1, 0], [0, 1, 1, 0]]),
    ...     },
    ...     coords={
    ...         "freq": [200.0, 20000],
    ...         "time": [0, 0.01, 0.02, 0.03],
    ...         "cell_id": "ARM029a-04-1",
    ...         "sound": "geese",
    ...     },
    ...     attrs={"simulated": 1},
    ... )
    >>> axes = cell_response(ds, axes=Figure().subplots(3))
    >>> [ax.get_ylabel() for ax in axes]
    ['frequency (kHz)', 'repeat', 'rate (spikes/s)']
    >>> axes[0].get_title()
    'ARM029a-04-1, geese (simulated)'
    """
    if axes is not None and len(axes) != 3:
        raise ValueError(
            f"cell_response needs three axes, not {len(axes)}: pass axes=plt.subplots(3)[1]"
        )
    sound = _selected(ds, "spectrogram", ("freq", "time"))
    response = _selected(ds, "response", ("rep", "time"))
    one = xr.Dataset({"spectrogram": sound, "response": response}, attrs=ds.attrs).compute()
    _check_recorded(one["spectrogram"])
    _check_recorded(one["response"])

    if axes is None:
        axes = pyplot().subplots(3, sharex=True, layout="constrained")[1]
    stack = np.array(axes)
    spectrogram(one, ax=stack[0])
    raster(one, ax=stack[1])
    psth(one, ax=stack[2])
    _set_title(stack[0], _title(ds, _cell(response), _sound(response)))
    for ax in stack[1:]:
        ax.set_title("")
        for text in [text for text in ax.texts if text.get_text() == "sound"]:
            text.remove()  # the mark of the sound is named once
    for ax in stack[:2]:
        ax.set_xlabel("")
        ax.tick_params(labelbottom=False)
    stack[0].figure.align_ylabels(stack)
    return stack


def coverage(ds: xr.Dataset | xr.DataArray, *, ax: Axes | None = None) -> list[AxesImage]:
    """Draw how often each cell heard each sound.

    Cells are grouped by site, and sounds by subset. Val sounds are drawn wider than est sounds if
    they would otherwise be too narrow to see.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        A Dataset with ``n_reps`` (stim, neuron), or this variable itself.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into. Default: the current axes, or those of a new figure.

    Returns
    -------
    list of matplotlib.image.AxesImage
        One image per subset; val comes first.

    Raises
    ------
    ValueError
        If ``n_reps`` or one of its dims is missing or empty.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import xarray as xr
    >>> from matplotlib.figure import Figure
    >>> from nat4xr.plot import coverage
    >>> n_reps = xr.DataArray(
    ...     [[20, 0, 20], [1, 1, 1]],
    ...     dims=("stim", "neuron"),
    ...     coords={
    ...         "subset": ("stim", ["val", "est"]),
    ...         "site": ("neuron", ["ARM029a", "DRX006b", "DRX006b"]),
    ...     },
    ... )
    >>> val, est = coverage(n_reps, ax=Figure().subplots())
    >>> [name.get_text() for name in val.axes.get_yticklabels()]
    ['ARM029a', 'DRX006b']
    """
    n_reps = _by_site(_selected(ds, "n_reps", ("neuron", "stim")).compute())
    n_sounds = n_reps.sizes["stim"]
    subset = np.full(n_sounds, n_reps["subset"].values if "subset" in n_reps.coords else "")
    # In reverse order, val comes before est.
    blocks = {name: n_reps.values[:, subset == name] for name in sorted(set(subset), reverse=True)}
    counts = np.unique(n_reps.values)

    ax = _axes(ax)
    from matplotlib.colors import BoundaryNorm, ListedColormap

    norm = BoundaryNorm(np.arange(len(counts) + 1) - 0.5, len(counts))
    shades = ListedColormap(_shades(counts))
    images, middles = [], []
    left = 0.0
    for name, block in blocks.items():
        share = block.shape[1] / n_sounds
        if len(blocks) == 2:
            share = max(share, VAL_SHARE) if name == "val" else min(share, 1 - VAL_SHARE)
        images.append(
            ax.imshow(
                np.searchsorted(counts, block),
                extent=(left, left + share, len(n_reps), 0),
                cmap=shades,
                norm=norm,
                aspect="auto",
                interpolation_stage="rgba",
                **_blending(len(n_reps)),
            )
        )
        middles.append(left + share / 2)
        left += share + 0.02
    ax.set_xlim(0, left - 0.02)
    ax.set_ylim(len(n_reps), 0)
    ax.set_xticks(middles, [f"{block.shape[1]} {name}" for name, block in blocks.items()])
    ax.tick_params(axis="x", length=0)
    ax.set_xlabel("sounds")
    ax.spines[:].set_visible(False)
    _cell_axis(ax, len(n_reps), _sites(n_reps))
    bar = _colour_bar(
        ax, images[0], "presentations", ticks=range(len(counts)), shrink=0.5, anchor=(0, 1)
    )
    bar.ax.tick_params(length=0)
    bar.ax.set_yticklabels([str(count) for count in counts])
    _set_title(ax, _title(ds, _shared(n_reps, "area")))
    return images


def population(
    ds: xr.Dataset | xr.DataArray,
    *,
    sort: Literal["site", "latency"] = "site",
    ax: Axes | None = None,
) -> AxesImage:
    """Draw the responses of all cells to one sound, or their mean over sounds.

    Parameters
    ----------
    ds : xarray.Dataset or xarray.DataArray
        A Dataset with ``psth`` (neuron, time and optionally stim), or this variable itself, in
        spikes per bin or scaled by :mod:`nat4xr.preprocess`. It is averaged over ``stim``.
    sort : {"site", "latency"}, default: "site"
        The order of the cells. ``"site"`` groups them by site, in the order of the data.
        ``"latency"`` draws the cells with the shortest latency (`nat4xr.latency`) on top, and those
        without a response to the onset of the sound below a line, as ``no onset``.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into. Default: the current axes, or those of a new figure.

    Returns
    -------
    matplotlib.image.AxesImage
        The rates in spikes/s. The colour scale is the square root of the rate, so that cells of 2
        and of 50 spikes/s are both visible, and ends at the 99.5th percentile. If there are
        negative values, the colours diverge from 0.

    Raises
    ------
    ValueError
        If there is nothing to draw, if ``psth``, the dim ``neuron`` or ``time``, or the coordinate
        of ``time`` is missing, if `sort` is unknown, or if `sort` is ``"latency"`` and there are no
        time bins before the sound.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import xarray as xr
    >>> from matplotlib.figure import Figure
    >>> from nat4xr.plot import population
    >>> rate = xr.DataArray(
    ...     [[0, 0, 0, 1.0], [0, 0, 1.0, 0]],
    ...     dims=("neuron", "time"),
    ...     coords={
    ...         "time": ("time", [0, 0.01, 0.02, 0.03], {"bin_width": 0.01, "sound_on": 0.01}),
    ...     },
    ... )
    >>> population(rate, sort="latency", ax=Figure().subplots()).get_array().data
    array([[  0.,   0., 100.,   0.],
           [  0.,   0.,   0., 100.]])
    """
    if sort not in ("site", "latency"):
        raise ValueError(f"sort must be 'site' or 'latency', not {sort!r}")
    response = _variable(ds, "psth")
    n_sounds = response.sizes.get("stim", 1)
    if n_sounds > 1:
        response = response.mean("stim", keep_attrs=True)
    response = _selected(response, "psth", ("neuron", "time")).compute()
    _check_recorded(response)
    if sort == "site":
        response = _by_site(response)
        groups = _sites(response)
    else:
        onset = latency(response).values
        response = response.isel(neuron=np.argsort(onset, kind="stable"))  # NaN comes last
        groups = np.where(np.isfinite(np.sort(onset)), "onset", "no onset")
    edges = bin_edges(response)
    rate, label = _rate(response)
    top = float(np.nanpercentile(abs(rate), 99.5)) or 1.0
    signed = bool(np.nanmin(rate) < 0)

    ax = _axes(ax)
    from matplotlib.colors import Normalize, PowerNorm
    from matplotlib.ticker import MaxNLocator

    image = ax.imshow(
        rate,
        extent=(edges[0], edges[-1], len(rate), 0),
        cmap="RdBu_r" if signed else "viridis",
        norm=Normalize(-top, top) if signed else PowerNorm(0.5, 0, top),
        aspect="auto",
        **_blending(len(rate)),
    )
    bar = _colour_bar(ax, image, label, extend="both" if signed else "max")
    bar.locator = MaxNLocator(5, steps=[1, 2, 5, 10])
    _cell_axis(ax, len(rate), groups, "black" if signed else "white")
    if sort == "latency":
        ax.set_ylabel(f"{ax.get_ylabel()}, fastest on top")
    _time_axis(ax, response, edges, over_image=True)
    sounds = f"mean over {n_sounds} sounds" if n_sounds > 1 else _sound(response)
    _set_title(ax, _title(ds, _shared(response, "area"), sounds))
    return image


def strf(kernel: xr.Dataset | xr.DataArray, *, ax: Axes | None = None) -> QuadMesh:
    """Draw the spectrotemporal receptive field of one cell.

    Parameters
    ----------
    kernel : xarray.Dataset or xarray.DataArray
        A Dataset with ``kernel`` (freq, lag), as :func:`nat4xr.strf.fit` returns it, or the kernel
        itself. ``lag`` is in s, or in ms if its attr ``units`` is "ms".
    ax : matplotlib.axes.Axes, optional
        Axes to draw into. Default: the current axes, or those of a new figure.

    Returns
    -------
    matplotlib.collections.QuadMesh
        The kernel over lag in ms and frequency in kHz. Red is excitation, blue is suppression, and
        white is 0.

    Raises
    ------
    ValueError
        If not exactly one cell is selected, if all values are NaN, or if ``kernel``, one of its
        dims or the coordinate of ``freq`` is missing.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import xarray as xr
    >>> from matplotlib.figure import Figure
    >>> from nat4xr.plot import strf
    >>> kernel = xr.DataArray(
    ...     [[0, 0.5, -0.1], [0, 0.2, 0.0]],
    ...     dims=("freq", "lag"),
    ...     coords={"freq": [200.0, 2000], "lag": ("lag", [0, 0.01, 0.02], {"units": "s"})},
    ... )
    >>> strf(kernel, ax=Figure().subplots()).get_clim()
    (-0.5, 0.5)
    """
    one = _selected(kernel, "kernel", ("freq", "lag")).compute()
    _check_recorded(one)
    lag = one["lag"].values * (1.0 if one["lag"].attrs.get("units") == "ms" else 1000.0)
    top = float(abs(one).max()) or 1.0

    ax = _axes(ax)
    mesh = ax.pcolormesh(
        _around(lag),
        _frequency_edges_khz(one),
        one.values,
        cmap="RdBu_r",
        vmin=-top,
        vmax=top,
        rasterized=True,
    )
    _colour_bar(ax, mesh, "weight")
    _frequency_axis(ax)
    ax.set_xlabel("lag (ms)")
    _set_title(ax, _title(kernel, _cell(one)))
    return mesh


def prediction(
    pred: xr.DataArray, psth: xr.Dataset | xr.DataArray, *, ax: Axes | None = None
) -> list[Line2D]:
    """Draw a prediction over the recorded PSTH of one cell, for one sound.

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted response (time), in the unit of `psth`.
    psth : xarray.Dataset or xarray.DataArray
        A Dataset with ``psth`` (time), or this variable itself, in spikes per bin.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into. Default: the current axes, or those of a new figure.

    Returns
    -------
    list of matplotlib.lines.Line2D
        The lines of the PSTH and of the prediction. The legend shows their correlation over the
        drawn time.

    Raises
    ------
    ValueError
        If not exactly one cell and one sound are selected, if `pred` and `psth` differ in their
        cell, sound, times or scaling, if all values of one of them are NaN, or if ``psth``, the
        dim ``time`` or its coordinate is missing.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import xarray as xr
    >>> from matplotlib.figure import Figure
    >>> from nat4xr.plot import prediction
    >>> psth = xr.DataArray([0.1, 0.3, 0.2], {"time": [0, 0.01, 0.02]}, "time")
    >>> recorded, predicted = prediction(psth / 2, psth, ax=Figure().subplots())
    >>> predicted.get_label()
    'predicted (r = 1.00)'
    """
    recorded = _selected(psth, "psth", ("time",)).compute()
    predicted = _selected(pred, "psth", ("time",)).compute()
    _check_same(predicted, recorded)
    _check_recorded(recorded)
    _check_recorded(predicted)
    edges = bin_edges(recorded)
    middle = (edges[:-1] + edges[1:]) / 2
    r = float(metrics.corrcoef(predicted.expand_dims("stim"), recorded.expand_dims("stim")))
    rate, label = _rate(recorded)
    predicted_rate, _ = _rate(predicted)

    ax = _axes(ax)
    lines = [
        *ax.plot(middle, rate, color="0.4", label="PSTH"),
        *ax.plot(
            middle,
            predicted_rate,
            color=VERMILION,
            label="predicted" if np.isnan(r) else f"predicted (r = {r:.2f})",
        ),
    ]
    _rate_axis(ax, label, recorded, predicted)
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.3 * (high - low))  # room for the legend
    ax.legend(frameon=False, fontsize="small", loc="upper right")
    _time_axis(ax, recorded, edges)
    _set_title(ax, _title(psth, _cell(recorded), _sound(recorded)))
    return lines


def scores(
    score: xr.Dataset | xr.DataArray, ceiling: xr.DataArray, *, ax: Axes | None = None
) -> list[PathCollection]:
    """Draw the score of a model for each cell against the noise ceiling of the cell.

    Parameters
    ----------
    score : xarray.Dataset or xarray.DataArray
        A Dataset with ``cc_raw`` (neuron), as :func:`nat4xr.benchmark.evaluate` returns it, or any
        other score (neuron). If the Dataset has the standard errors ``cc_raw_se``, the circles of
        cells whose score is less than two standard errors are open.
    ceiling : xarray.DataArray
        The noise ceiling (neuron), such as :func:`nat4xr.metrics.cc_max`. Cells without a score or
        without a ceiling are left out.
    ax : matplotlib.axes.Axes, optional
        Axes to draw into. Default: the current axes, or those of a new figure.

    Returns
    -------
    list of matplotlib.collections.PathCollection
        One collection per animal, with one circle per cell. The animals with the most cells come
        first. On the dashed line, the score equals the ceiling.

    Raises
    ------
    ValueError
        If no cell has both a score and a ceiling, if one of them has other dims than ``neuron``,
        or if ``cc_raw`` is missing.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import xarray as xr
    >>> from matplotlib.figure import Figure
    >>> from nat4xr.plot import scores
    >>> coords = {"animal": ("neuron", ["ARM", "ARM", "TNC"])}
    >>> score = xr.DataArray([0.3, 0.2, 0.6], coords, "neuron")
    >>> ceiling = xr.DataArray([0.6, float("nan"), 0.7], coords, "neuron")
    >>> [points.get_label() for points in scores(score, ceiling, ax=Figure().subplots())]
    ['ARM (1)', 'TNC (1)']
    """
    values = _variable(score, "cc_raw")
    for name, array in (("score", values), ("ceiling", ceiling)):
        if array.dims != ("neuron",):
            raise ValueError(
                f"{name} must have one value per cell, with dims ('neuron',), not {array.dims}"
            )
    has_errors = isinstance(score, xr.Dataset) and "cc_raw_se" in score
    error = score["cc_raw_se"] if has_errors else xr.full_like(values, -np.inf)
    y, x, error = (array.compute() for array in xr.align(values, ceiling, error, join="inner"))
    valid = np.isfinite(y.values) & np.isfinite(x.values)
    if not valid.any():
        raise ValueError(
            f"no cell has both a score and a ceiling: {len(y)} cells are in both the "
            f"{values.sizes['neuron']} scores and the {ceiling.sizes['neuron']} ceilings, but one "
            "of the two is NaN in each of them"
        )
    y, x = y[valid], x[valid]
    clear = y.values >= 2 * error[valid].values
    animal = y["animal"].values if "animal" in y.coords else np.full(len(y), "")
    animals, n_cells = np.unique(animal, return_counts=True)

    ax = _axes(ax)
    from matplotlib.colors import to_rgba
    from matplotlib.ticker import MaxNLocator

    points = []
    # Animals with few cells are drawn last, on top of those with many.
    for i in np.argsort(-n_cells):
        of_animal = animal == animals[i]
        colour = to_rgba(ANIMALS[i % len(ANIMALS)], 0.7)
        points.append(
            ax.scatter(
                x.values[of_animal],
                y.values[of_animal],
                s=16,
                facecolors=[colour if filled else "none" for filled in clear[of_animal]],
                edgecolors=[colour],
                linewidths=0.8,
                label=f"{animals[i]} ({n_cells[i]})",
            )
        )
    ax.axline((0, 0), slope=1, color="0.5", linestyle="--", linewidth=0.8, zorder=0)
    # Limits from 0 to 1, which suit a correlation, or wider if a score is outside of these.
    both = np.concatenate([x, y])
    low = np.floor(10 * min(0.0, both.min())) / 10
    high = np.ceil(10 * max(1.0, both.max())) / 10
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.set_xlabel(x.attrs.get("long_name", "noise ceiling"))
    ax.set_ylabel(y.attrs.get("long_name", "score"))
    ax.spines[["top", "right"]].set_visible(False)
    named = points if len(animals) > 1 else []
    handles = [ax.scatter([], [], s=16, c=p.get_edgecolor(), label=p.get_label()) for p in named]
    if not clear.all():
        label = "below 2 standard errors"
        handles.append(ax.scatter([], [], s=16, fc="none", ec="0.5", label=label))
    if handles:
        ax.legend(
            handles=handles, frameon=False, fontsize="small", loc="upper left", handletextpad=0
        )
    source = score if score.attrs.get("simulated") else ceiling
    _set_title(ax, _title(source, _shared(y, "area"), _count(len(y), "cell")))
    return points


# Choosing and checking what to draw.


def _variable(obj: xr.Dataset | xr.DataArray, name: str) -> xr.DataArray:
    if isinstance(obj, xr.DataArray):
        return obj
    if name not in obj:
        available = ", ".join(map(str, obj.data_vars)) or "no variables"
        raise ValueError(f"this figure needs {name!r}, but the Dataset has {available}")
    return obj[name]


def _selected(obj: xr.Dataset | xr.DataArray, name: str, dims: tuple[str, ...]) -> xr.DataArray:
    """Return the variable with the given dims, without computing it."""
    array = _variable(obj, name)
    check_not_empty(array, "the selection")
    if many := [dim for dim in array.dims if dim not in dims and array.sizes[dim] > 1]:
        one = " and ".join(f"one {noun(dim)}" for dim in many)
        all_of_them = " and ".join(_count(array.sizes[dim], noun(dim)) for dim in many)
        names = [f"{dim}={array[dim].values[0].item()!r}" for dim in many if dim in array.coords]
        positions = [f"{dim}=0" for dim in many]
        raise ValueError(
            f"this figure shows {one}, not {all_of_them}: select, for example with "
            + (f".sel({', '.join(names)}) or " if names else "")
            + f".isel({', '.join(positions)})"
        )
    array = array.squeeze([dim for dim in array.dims if dim not in dims])
    # A dim may be missing because a single element of it was selected.
    array = array.expand_dims(
        [dim for dim in dims if dim in array.coords and dim not in array.dims]
    )
    if missing := [dim for dim in dims if dim not in array.dims]:
        raise ValueError(
            f"{name} needs the dims {', '.join(dims)}; {', '.join(missing)} is missing from "
            f"{tuple(array.dims)}"
        )
    return array.transpose(*dims)


def _check_recorded(array: xr.DataArray) -> None:
    if array.isnull().all():
        selection = ", ".join(filter(None, (_cell(array), _sound(array)))) or "this selection"
        raise ValueError(
            f"there is nothing to draw for {selection}: all values are NaN. "
            "nat4xr.drop_unrecorded drops cells and sounds without data"
        )


def _check_same(pred: xr.DataArray, psth: xr.DataArray) -> None:
    """Raise an error if a prediction and a PSTH do not belong together."""
    for dim in ("neuron", "stim"):
        if dim in pred.coords and dim in psth.coords and pred[dim].item() != psth[dim].item():
            raise ValueError(
                f"pred is for the {noun(dim)} {pred[dim].item()!r}, but psth is for "
                f"{psth[dim].item()!r}"
            )
    if not np.array_equal(pred["time"], psth["time"]):
        raise ValueError("pred and psth must have the same values of 'time'")
    if pred.attrs.get("scaling") != psth.attrs.get("scaling"):
        raise ValueError(
            "pred and psth are scaled differently: undo the scaling with nat4xr.preprocess.invert"
        )


def _trials(response: xr.DataArray) -> xr.DataArray:
    """Drop the repeats that were not presented."""
    _check_recorded(response)
    return response.dropna("rep", how="all")


def _spikes(trials: xr.DataArray, edges: Floats) -> tuple[Floats, NDArray[np.intp]]:
    """Return the time and the row of each spike, from spike counts (rep, time)."""
    counts = np.nan_to_num(trials.values)
    if (counts < 0).any() or (counts != np.rint(counts)).any():
        raise ValueError(
            "a raster needs whole numbers of spikes per bin, but this response was averaged, "
            "smoothed or scaled"
        )
    row, left = np.nonzero(counts)
    n = counts[row, left].astype(np.intp)
    nth = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
    row, left = np.repeat(row, n), np.repeat(left, n)
    return edges[left] + (nth + 0.5) / np.repeat(n, n) * np.diff(edges)[left], row


def _mean_and_error(
    ds: xr.Dataset | xr.DataArray,
) -> tuple[xr.DataArray, xr.DataArray | None]:
    """Return the mean and standard error over repeats; the latter needs at least two repeats."""
    if "response" in ds if isinstance(ds, xr.Dataset) else "rep" in ds.dims:
        response = _selected(ds, "response", ("rep", "time")).compute()
        # The published PSTH includes some cells whose trials were not published.
        if not (response.isnull().all() and isinstance(ds, xr.Dataset) and "psth" in ds):
            trials = _trials(response)
            n = trials.sizes["rep"]
            mean = trials.mean("rep", keep_attrs=True)
            error = trials.std("rep", ddof=1, keep_attrs=True) / np.sqrt(n) if n > 1 else None
            return mean, error
    mean = _selected(ds, "psth", ("time",)).compute()
    _check_recorded(mean)
    return mean, None


def _rate(response: xr.DataArray) -> tuple[Floats, str]:
    """Return the values to draw, in spikes/s unless they are scaled, and their label."""
    if scaling := response.attrs.get("scaling"):
        return response.values, "response (z-score)" if scaling == "zscore" else "response (scaled)"
    per_bin = response.attrs.get("units") != "spikes/s"
    return response.values / (bin_width(response) if per_bin else 1), "rate (spikes/s)"


# The order of cells.


def _by_site(array: xr.DataArray) -> xr.DataArray:
    """Group the cells by site, in the order of the data."""
    if (sites := _sites(array)) is None:
        return array
    return array.isel(neuron=np.argsort(pd.factorize(sites)[0], kind="stable"))


def _sites(array: xr.DataArray) -> NDArray[Any] | None:
    if "site" in array.coords and array["site"].dims == ("neuron",):
        return array["site"].values
    return None


# Axes.


def __dir__() -> list[str]:
    return __all__


def pyplot() -> Any:
    """Import matplotlib's pyplot, or raise an error that says how to install it."""
    return require("matplotlib.pyplot", "plot")


def figure(**options: Any) -> Figure:
    """Make a figure that pyplot does not manage, so that it need not be closed."""
    figure: Figure = require("matplotlib.figure", "plot").Figure(layout="constrained", **options)
    return figure


def _axes(ax: Axes | None) -> Any:
    if ax is not None:
        return ax
    plt = pyplot()
    return plt.gca() if plt.get_fignums() else plt.subplots(layout="constrained")[1]


def _around(centres: Floats) -> Floats:
    """Return edges halfway between the centres, and equally far beyond the outer centres."""
    if len(centres) < 2:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    between = (centres[:-1] + centres[1:]) / 2
    return np.concatenate([[2 * centres[0] - between[0]], between, [2 * centres[-1] - between[-1]]])


def _frequency_edges_khz(array: xr.DataArray) -> Floats:
    if "freq" not in array.coords:
        raise ValueError("the dim 'freq' has no coordinate: assign the centre frequencies in Hz")
    edges: Floats = np.exp(_around(np.log(array["freq"].values / 1000)))
    return edges


def _frequency_axis(ax: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(2, 6)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda khz, _: f"{khz:g}"))
    ax.set_ylabel("frequency (kHz)")


def _time_axis(
    ax: Any, array: xr.DataArray | None, edges: Floats | None, *, over_image: bool = False
) -> None:
    """Label the time axis, and mark the sound by shading, or by a bar above an image."""
    ax.set_xlabel("time (s)")
    if not over_image:
        ax.spines[["top", "right"]].set_visible(False)
    if array is None or edges is None:
        return
    ax.set_xlim(edges[0], edges[-1])
    if not {"sound_on", "sound_off"} <= array["time"].attrs.keys():
        return
    on, off = np.clip([array["time"].attrs[f"sound_{x}"] for x in ("on", "off")], *edges[[0, -1]])
    if not on < off:
        return
    if over_image:
        from matplotlib.transforms import ScaledTranslation

        above = ScaledTranslation(0, 4 / 72, ax.figure.dpi_scale_trans)
        ax.plot(
            [on, off],
            [1, 1],
            transform=ax.get_xaxis_transform() + above,
            color="0.3",
            linewidth=2,
            solid_capstyle="butt",
            clip_on=False,
        )
        beside = {"xytext": (-3, 4), "ha": "right", "va": "center"}
    else:
        ax.axvspan(on, off, color=SOUND_SHADE, linewidth=0, zorder=0)
        beside = {"xytext": (0, 1), "va": "bottom"}
    ax.annotate(
        "sound",
        (on, 1),
        xycoords=ax.get_xaxis_transform(),
        textcoords="offset points",
        fontsize="x-small",
        color="0.3",
        annotation_clip=False,
        **beside,
    )


def _rate_axis(ax: Any, label: str, *responses: xr.DataArray) -> None:
    ax.set_ylabel(label)
    if all((response.fillna(0) >= 0).all() for response in responses):
        ax.set_ylim(bottom=0)


def _cell_axis(ax: Any, n_cells: int, groups: NDArray[Any] | None, line: str = "white") -> None:
    """Label the groups of cells, such as sites, along their axis, with lines between them."""
    ax.set_ylabel(_count(n_cells, "cell"))
    if groups is None:
        return
    first = np.flatnonzero(np.append(True, groups[1:] != groups[:-1]))
    for edge in first[1:]:
        ax.axhline(edge, color=line, linewidth=0.5)
    centres = (first + np.append(first[1:], n_cells)) / 2
    # The names of small groups would overlap if they were at the centres of their groups.
    points = ax.get_window_extent().height / ax.figure.dpi * 72
    size = float(np.clip(points / len(first) / 1.2, 4, 9))
    heights = _spread_out(centres, 1.2 * size / points * n_cells, n_cells)
    ax.set_yticks(heights, groups[first], fontsize=size)
    ax.tick_params(axis="y", length=0, pad=10)
    width = ax.get_window_extent().width / ax.figure.dpi * 72
    ax.plot(
        np.broadcast_to([[0], [-9 / width]], (2, len(first))),
        [centres, heights],
        transform=ax.get_yaxis_transform(),
        color="0.5",
        linewidth=0.6,
        clip_on=False,
    )


def _spread_out(centres: Floats, gap: float, end: float) -> Floats:
    """Return positions from 0 to `end`, as near to the centres as possible, but a gap apart."""
    # Least squares under an order constraint, by pooling neighbours that are too close.
    steps = gap * np.arange(len(centres))
    pools: list[tuple[float, int]] = []
    for target in centres - steps:
        mean, n = float(target), 1
        while pools and pools[-1][0] > mean:
            last, m = pools.pop()
            mean, n = (mean * n + last * m) / (n + m), n + m
        pools.append((mean, n))
    positions: Floats = np.repeat([mean for mean, _ in pools], [n for _, n in pools])
    return np.clip(positions, gap / 2, max(gap / 2, end - steps[-1] - gap / 2)) + steps


def _blending(n_cells: int) -> dict[str, Any]:
    return {} if n_cells > MANY_CELLS else {"interpolation": "nearest"}


def _shades(counts: NDArray[Any]) -> list[Any]:
    """Return colours for numbers of presentations: 0 is vermilion, larger numbers are darker."""
    from matplotlib import colormaps

    n_positive = int((counts > 0).sum())
    levels = np.linspace(0.35, 1, n_positive) if n_positive > 1 else [1.0]
    shades = list(colormaps["Blues"](levels))
    return shades if n_positive == len(counts) else [VERMILION, *shades]


def _colour_bar(ax: Any, mappable: Any, label: str, **options: Any) -> Any:
    bar = ax.figure.colorbar(mappable, ax=ax, label=label, **options)
    bar.outline.set_visible(False)
    return bar


# Titles.


def _title(obj: xr.Dataset | xr.DataArray, *parts: str) -> str:
    """Join the parts of a title, and add "(simulated)" if the data are simulated."""
    words = ", ".join(filter(None, parts))
    return f"{words} (simulated)".strip() if obj.attrs.get("simulated") else words


def _set_title(ax: Any, title: str) -> None:
    # The padding leaves room for the bar of `_time_axis`.
    ax.set_title(title, fontsize="medium", pad=9, wrap=True)


def _cell(array: xr.DataArray) -> str:
    return _scalar(array, "cell_id") or _scalar(array, "neuron")


def _sound(array: xr.DataArray) -> str:
    name = (_scalar(array, "sound") or _scalar(array, "stim")).replace("_", " ")
    return name if len(name) <= 30 else name[:29] + "…"


def _scalar(array: xr.DataArray, name: str) -> str:
    return str(array[name].item()) if name in array.coords and array[name].size == 1 else ""


def _shared(array: xr.DataArray, name: str) -> str:
    values: Any = np.unique(array[name]) if name in array.coords else []
    return " and ".join(map(str, values)) if len(values) <= 2 else ""


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}" if n == 1 else f"{n} {thing}s"
