"""The published benchmark of NAT4: its protocol, its results, and where a new model stands.

The protocol: a model is fitted to the est sounds, each presented once, and scored on the 18 val
sounds, each presented 20 times, in the auditory cells; the score is the mean over cells. With the
linear baseline, from end to end::

    ds = nat4xr.open_area("A1")
    est = ds.spectrogram.sel(subset="est")
    spectrogram = nat4xr.preprocess.log_minmax(ds.spectrogram, reference=est)
    model = nat4xr.strf.fit(spectrogram.sel(subset="est"), ds.psth.sel(subset="est"))
    pred = nat4xr.strf.predict(model, spectrogram.sel(subset="val"))
    nat4xr.benchmark.leaderboard({"STRF": nat4xr.benchmark.evaluate(pred, ds)})
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from . import metrics
from .index import set_labels
from .schema import simulated_attr

__all__ = ["evaluate", "leaderboard", "published"]


def __dir__() -> list[str]:
    return [*__all__, "run_strf"]


def __getattr__(name: str) -> Any:
    if name == "run_strf":  # it writes files, so it is defined in nat4xr.runs
        return import_module("nat4xr.runs").run_strf
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_RANCON = ("Rancon et al.", "10.1101/2025.01.08.631909")
_PENNINGTON = ("Pennington & David 2023", "10.1371/journal.pcbi.1011110")

_COLUMNS = [
    *("area", "backbone", "remarks", "params_per_neuron", "cc_raw", "cc_norm", "paper", "doi")
]
_PUBLISHED = [
    ("A1", "StateNet", "LSTM, population", 40_271, 46.6, 65.1, *_RANCON),
    ("A1", "2D-CNN", "AdapTrans, population", np.nan, 46.4, 64.5, *_PENNINGTON),
    ("A1", "Transformer", "population", 28_437, 46.6, 64.4, *_RANCON),
    ("PEG", "Transformer", "population", 28_437, 39.7, 55.5, *_RANCON),
    ("PEG", "2D-CNN", "AdapTrans, population", np.nan, 39.2, 55.2, *_PENNINGTON),
    ("PEG", "StateNet", "LSTM, population", 40_271, 38.9, 54.7, *_RANCON),
]


def published() -> pd.DataFrame:
    """Published results on NAT4.

    Returns
    -------
    pandas.DataFrame
        A row a model and area, best first: area, backbone, remarks, params_per_neuron (NaN where
        it is not given), cc_raw and cc_norm in percent (mean over auditory cells), and the paper
        of the backbone with its DOI.

    References
    ----------
    The table on the NAT4 page of deepSTRF, https://github.com/urancon/deepSTRF. The backbones:
    Rancon et al., doi:10.1101/2025.01.08.631909; Pennington JR, David SV (2023). PLOS Comput.
    Biol. 19(5): e1011110, doi:10.1371/journal.pcbi.1011110.

    Examples
    --------
    >>> from nat4xr.benchmark import published
    >>> print(published()[["area", "backbone", "cc_raw", "cc_norm"]])
      area     backbone  cc_raw  cc_norm
    0   A1     StateNet    46.6     65.1
    1   A1       2D-CNN    46.4     64.5
    2   A1  Transformer    46.6     64.4
    3  PEG  Transformer    39.7     55.5
    4  PEG       2D-CNN    39.2     55.2
    5  PEG     StateNet    38.9     54.7
    """
    return pd.DataFrame(_PUBLISHED, columns=_COLUMNS)


def evaluate(
    pred: xr.DataArray, ds: xr.Dataset, *, cells: Literal["auditory", "all"] = "auditory"
) -> xr.Dataset:
    """Score predictions by the published protocol.

    Over the val sounds, in cells of which trials were recorded: CCraw is
    :func:`nat4xr.metrics.corrcoef` with the mean over trials, CCnorm is
    :func:`nat4xr.metrics.cc_norm` (``"schoppe"``); see there for what may take CCnorm beyond 1.

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted responses, dims stim, time, neuron in any order, in any unit. Sounds and cells
        are found by their names, whichever others there are and whatever their order.
    ds : xarray.Dataset
        The recordings of one area, as :func:`nat4xr.open_area` returns them, or the part of them
        that is to be scored.
    cells : {"auditory", "all"}, default: "auditory"
        Which cells to score.

    Returns
    -------
    xarray.Dataset
        ``cc_raw`` and ``cc_norm`` (neuron) as fractions, float64, with every label of the cells,
        in the order of `ds`; computed at once. The attrs sum up: ``area``, ``cells``, ``n_stims``
        and ``n_cells`` that were scored, the means over cells ``cc_raw_mean`` and
        ``cc_norm_mean``, and whether the recordings or what predicts them are ``simulated`` (0
        or 1).

    Raises
    ------
    TypeError
        If `pred` is not a DataArray.
    ValueError
        If `pred` has none of the val sounds or cells, has no names, names something twice, has
        other time bins, or has gaps; if `ds` has no val trials, cells of two areas, or lacks
        something that :func:`nat4xr.open_area` returns; if `cells` is unknown.

    Notes
    -----
    A sound or cell that `pred` lacks is left out, as is a cell for which it is NaN throughout:
    compare means only between models of the same ``n_stims`` and ``n_cells``. A prediction without
    variance scores 0. A cell without a spike, or whose estimated signal power is not above 0, has
    no score (NaN) whatever the model, and the means leave it out.

    References
    ----------
    The table on the NAT4 page of deepSTRF, https://github.com/urancon/deepSTRF, beside which these
    scores are to stand. It does not say by which equation its CCnorm was computed.

    Pennington JR, David SV (2023). A convolutional neural network provides a generalizable model
    of natural sound coding by neural populations in auditory cortex. PLOS Comput. Biol.
    19:e1011110. doi:10.1371/journal.pcbi.1011110. The sounds, the cells, and which are auditory.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from nat4xr.benchmark import evaluate
    >>> rng = np.random.default_rng(0)
    >>> labels = {
    ...     "stim": ["STIM_00cat1.wav", "STIM_00cat2.wav"],
    ...     "subset": ("stim", ["val", "val"]),
    ...     "neuron": ["ARM029a-04-1"],
    ...     "area": ("neuron", ["A1"]),
    ...     "auditory": ("neuron", [True]),
    ... }
    >>> rate = xr.DataArray(rng.gamma(1, 0.3, (2, 150, 1)), labels, ("stim", "time", "neuron"))
    >>> response = rate.expand_dims(rep=20, axis=1)
    >>> response = response.copy(data=rng.poisson(response))
    >>> ds = xr.Dataset(
    ...     {"response": response, "n_reps": response.any("time").sum("rep")},
    ...     attrs={"simulated": 1},
    ... )
    >>> result = evaluate(rate, ds)
    >>> result.cc_raw.values.round(2), result.cc_norm.values.round(2)
    (array([0.94]), array([1.02]))
    """
    if cells not in ("auditory", "all"):
        raise ValueError(f"cells must be 'auditory' or 'all', not {cells!r}")
    val = _val_trials(ds, cells)
    pred = _by_name(pred)
    simulated = int(ds.attrs["simulated"] or "simulated" in pred.attrs)
    stims = _common("val sounds", val, pred, "stim")
    neurons = _common(f"{cells} cells with val trials", val, pred, "neuron")
    pred = pred.sel(stim=stims, neuron=neurons).compute()
    predicted = np.isfinite(pred.values).any(axis=(0, 1))
    if not predicted.any():
        raise ValueError("pred is NaN for every val sound and cell that is to be scored")
    pred = pred.isel(neuron=predicted)
    response = val["response"].sel(stim=stims, neuron=pred["neuron"].values).compute()
    pred = _in_time_of(response, pred)
    psth = response.mean("rep", dtype=np.float64)
    _check_gaps(pred, psth)

    varies = psth.max(("stim", "time")) > psth.min(("stim", "time"))
    signal_power = metrics.signal_power(response)
    # NaN because of the prediction becomes 0; NaN because of the data stays.
    result = xr.Dataset(
        {
            "cc_raw": metrics.corrcoef(pred, psth).fillna(0).where(varies),
            "cc_norm": metrics.cc_norm(pred, response).fillna(0).where(signal_power > 0),
        }
    )
    result["cc_raw"].attrs["long_name"] = "correlation with the mean over trials"
    result.attrs = {
        "title": "Scores of predictions of NAT4 val responses",
        "area": str(result["area"].values[0]),
        "cells": cells,
        "n_stims": response.sizes["stim"],
        "n_cells": response.sizes["neuron"],
        "cc_raw_mean": float(result["cc_raw"].mean()),
        "cc_norm_mean": float(result["cc_norm"].mean()),
        "simulated": simulated,
    }
    return result


def leaderboard(results: xr.Dataset | Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Put results beside the published ones of their areas.

    Parameters
    ----------
    results : xarray.Dataset or mapping of str to xarray.Dataset
        What :func:`evaluate` returned; several by the names of the models, at least one.

    Returns
    -------
    pandas.DataFrame
        The columns of :func:`published` (scores in percent), ``n_stims`` and ``n_cells`` that
        were scored (NaN for the published), and ``simulated``; a row a model and area, the best
        CCnorm of each area first. Rows with ``simulated`` True say how a model does on simulated
        data: they cannot be compared with the others.

    Raises
    ------
    TypeError
        If `results` is anything else.

    Examples
    --------
    >>> import xarray as xr
    >>> from nat4xr.benchmark import leaderboard
    >>> result = xr.Dataset(
    ...     {"cc_raw": ("neuron", [0.3, 0.5]), "cc_norm": ("neuron", [0.6, 0.8])},
    ...     attrs={"area": "PEG", "n_stims": 18, "simulated": 1},
    ... )
    >>> table = leaderboard({"STRF": result})
    >>> print(table[["backbone", "cc_raw", "cc_norm", "n_cells", "simulated"]])
          backbone  cc_raw  cc_norm  n_cells  simulated
    0         STRF    40.0     70.0      2.0       True
    1  Transformer    39.7     55.5      NaN      False
    2       2D-CNN    39.2     55.2      NaN      False
    3     StateNet    38.9     54.7      NaN      False
    """
    named = {"this model": results} if isinstance(results, xr.Dataset) else results
    if not isinstance(named, Mapping) or not named:
        raise TypeError("results must be what evaluate returned, or a dict of several such")
    ours = pd.DataFrame([_row(name, result) for name, result in named.items()])
    theirs = published().assign(simulated=False)
    table = pd.concat([theirs[theirs["area"].isin(ours["area"])], ours], ignore_index=True)
    first = ["area", "backbone", "cc_raw", "cc_norm", "simulated", "n_cells", "n_stims"]
    table = table[[*first, *(column for column in _COLUMNS if column not in first)]]
    return table.sort_values(["area", "cc_norm"], ascending=[True, False], ignore_index=True)


def _row(name: str, result: xr.Dataset) -> dict[str, Any]:
    if not isinstance(result, xr.Dataset) or "cc_norm" not in result:
        raise TypeError(f"results must be what evaluate returned; {name!r} is not")
    return {
        "area": result.attrs["area"],
        "backbone": name,
        "remarks": "",
        "params_per_neuron": np.nan,
        "cc_raw": round(100 * float(result["cc_raw"].mean()), 1),
        "cc_norm": round(100 * float(result["cc_norm"].mean()), 1),
        "paper": "",
        "doi": "",
        "n_stims": result.attrs["n_stims"],
        "n_cells": result.sizes["neuron"],
        "simulated": bool(result.attrs["simulated"]),
    }


def check_complete(ds: xr.Dataset) -> None:
    """Refuse a Dataset that lacks something that scoring needs."""
    for name in ("response", "n_reps", "subset", "auditory", "area"):
        if name not in ds.variables:
            raise ValueError(f"ds must be as nat4xr.open_area returns it, but lacks {name!r}")
    if "simulated" not in ds.attrs:
        raise ValueError(
            "ds.attrs['simulated'] has been lost: set it to 0 for recordings, 1 for simulated data"
        )


def _val_trials(ds: xr.Dataset, cells: str) -> xr.Dataset:
    """The val sounds, and the cells to be scored."""
    check_complete(ds)
    areas = np.unique(ds["area"].values)
    if areas.size > 1:
        raise ValueError(f"ds holds cells of {' and '.join(areas)}: evaluate one area at a time")
    val = set_labels(ds[["response", "n_reps"]])
    # Where there is any, .sel finds it as a slice, of which less has to be read than of a mask.
    val = val.sel(subset="val") if (ds["subset"] == "val").any() else val.isel(stim=slice(0))
    recorded = (val["n_reps"] > 1).any("stim").values
    if not recorded.any():
        raise ValueError("ds has no val sound with repeated trials: nothing to score against")
    if cells == "auditory":
        recorded = recorded & val["auditory"].values
    return val.isel(neuron=recorded)


def _by_name(pred: xr.DataArray) -> xr.DataArray:
    """The prediction with names, of sounds and cells, and nothing else along these dims."""
    if not isinstance(pred, xr.DataArray):
        raise TypeError(f"pred must be an xarray.DataArray, not {type(pred).__name__}")
    if set(pred.dims) != {"stim", "time", "neuron"}:
        raise ValueError(f"pred needs the dims stim, time and neuron, but has {pred.dims}")
    for dim in ("stim", "neuron"):
        if dim not in pred.coords:
            raise ValueError(f"pred has no coordinate {dim!r}: its names tell what was predicted")
        names = pd.Index(pred[dim].values)
        if names.has_duplicates:
            raise ValueError(f"pred has the {dim} {names[names.duplicated()][0]!r} twice")
    pred = pred.transpose("stim", "time", "neuron")
    coords = {dim: pred[dim].values for dim in pred.dims if dim in pred.coords}
    return xr.DataArray(pred.data, coords, pred.dims, attrs=simulated_attr(pred))


def _common(what: str, val: xr.Dataset, pred: xr.DataArray, dim: str) -> list[str]:
    """The names along a dim that are in both, in the order of the data."""
    wanted, given = val[dim].values, pred[dim].values
    common = wanted[np.isin(wanted, given)]
    if not common.size:
        raise ValueError(
            f"pred has none of the {wanted.size} {what} (such as {str(wanted[0])!r}); its "
            f"{given.size} {dim} names are others (such as {str(given[0])!r})"
            if wanted.size and given.size
            else f"nothing to score: {wanted.size} {what} in ds, {given.size} {dim} names in pred"
        )
    return list(common)


def _in_time_of(response: xr.DataArray, pred: xr.DataArray) -> xr.DataArray:
    """The prediction with the time bins of the response."""
    same = pred.sizes["time"] == response.sizes["time"]
    if same and "time" in pred.coords and "time" in response.coords:
        same = np.allclose(pred["time"], response["time"], atol=1e-6)
    if not same:
        raise ValueError(
            f"pred has {pred.sizes['time']} time bins that are not the "
            f"{response.sizes['time']} of ds: predict at the bin width of ds (dt_ms)"
        )
    pred = pred.drop_vars("time", errors="ignore")
    return pred.assign_coords(time=response["time"]) if "time" in response.coords else pred


def _check_gaps(pred: xr.DataArray, psth: xr.DataArray) -> None:
    gaps = (~np.isfinite(pred.values) & np.isfinite(psth.transpose(*pred.dims).values)).sum((0, 1))
    if gaps.any():
        i = int(gaps.argmax())
        raise ValueError(
            f"pred is not a number in {gaps[i]} bins of {str(pred['neuron'].values[i])!r}, and has "
            f"gaps in {np.count_nonzero(gaps)} cells: a cell is predicted throughout or not at all"
        )
