"""The published benchmark of NAT4: its protocol, its results, and a leaderboard for new models.

A model is fitted to the est sounds, each presented once. It is scored on the 18 val sounds, each
presented 20 times, in the auditory cells; its score is the mean over cells. This is the whole
protocol for the linear baseline::

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
from numpy.typing import NDArray

from . import metrics
from .extras import require
from .index import set_labels
from .schema import check_not_empty, simulated_attr

__all__ = ["compare", "evaluate", "leaderboard", "published"]


def __dir__() -> list[str]:
    return [*__all__, "run_strf"]


def __getattr__(name: str) -> Any:
    if name == "run_strf":  # it writes files, so it is defined in nat4xr.runs
        return import_module("nat4xr.runs").run_strf
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_STATENET = ("Rancon et al. 2025", "10.1038/s42003-025-08858-3")
_ADAPTRANS = (
    "Pennington & David 2023 (backbone); Rancon et al. 2024 (AdapTrans)",
    "10.1371/journal.pcbi.1011110; 10.1371/journal.pcbi.1012288",
)

_COLUMNS = [
    *("area", "backbone", "remarks", "params_per_neuron", "cc_raw", "cc_norm", "paper", "doi")
]
_PUBLISHED = [
    ("A1", "StateNet", "LSTM, population", 40_271, 46.6, 65.1, *_STATENET),
    ("A1", "2D-CNN", "AdapTrans, population", np.nan, 46.4, 64.5, *_ADAPTRANS),
    ("A1", "Transformer", "population", 28_437, 46.6, 64.4, *_STATENET),
    ("PEG", "Transformer", "population", 28_437, 39.7, 55.5, *_STATENET),
    ("PEG", "2D-CNN", "AdapTrans, population", np.nan, 39.2, 55.2, *_ADAPTRANS),
    ("PEG", "StateNet", "LSTM, population", 40_271, 38.9, 54.7, *_STATENET),
]

SCORES = ("cc_raw", "cc_norm", "r_ceiling")
"""The scores that `evaluate` computes for each cell."""

CC_NORM = "schoppe, pooled sounds"
"""Which normalised correlation `evaluate` computes."""


def published() -> pd.DataFrame:
    """Published results on NAT4.

    Returns
    -------
    pandas.DataFrame
        One row per model and area, the best first: area, backbone, remarks, params_per_neuron
        (NaN if it was not published), cc_raw and cc_norm in percent (mean over auditory cells),
        and the paper of the model with its DOI. For the 2D-CNN, there are two papers: that of
        the backbone and that of the front end.

    Notes
    -----
    The names, numbers of parameters and scores are those of the published table. The table does
    not say which paper a row comes from, or how CCnorm was computed. The papers given here are
    those that first described the models, and CCnorm is assumed to be that of the repository's
    code of March 2025, which pools all sounds (:func:`nat4xr.metrics.cc_norm`).

    References
    ----------
    The table on the NAT4 page of deepSTRF, https://github.com/urancon/deepSTRF. StateNet and the
    Transformer: Rancon et al. (2025). Commun. Biol., doi:10.1038/s42003-025-08858-3. The 2D-CNN:
    Pennington JR, David SV (2023). PLOS Comput. Biol. 19(5): e1011110,
    doi:10.1371/journal.pcbi.1011110. AdapTrans: Rancon U, Masquelier T, Cottereau BR (2024). PLOS
    Comput. Biol. 20(8): e1012288, doi:10.1371/journal.pcbi.1012288.

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

    There are three scores, computed over the val sounds in cells that have trials. CCraw is
    :func:`nat4xr.metrics.corrcoef` with the mean over trials, CCnorm is
    :func:`nat4xr.metrics.cc_norm` (``"schoppe"``, pooled sounds), and r_ceiling is
    :func:`nat4xr.metrics.r_ceiling`, the score that Pennington and David (2023) report.

    Parameters
    ----------
    pred : xarray.DataArray
        Predicted responses, dims stim, time, neuron in any order, in any unit. Sounds and cells
        are matched by name; their order does not matter, and others are ignored.
    ds : xarray.Dataset
        The recordings of one area, as :func:`nat4xr.open_area` returns them, or a selection of
        the part to score.
    cells : {"auditory", "all"}, default: "auditory"
        Which cells to score.

    Returns
    -------
    xarray.Dataset
        The result is computed at once, in float64, with all labels of the cells in the order of
        `ds`:

        - ``cc_raw``, ``cc_norm`` and ``r_ceiling`` (neuron): the scores, as fractions;
        - ``cc_raw_se`` and so on (neuron): their standard errors over sounds, by the jackknife;
        - ``cc_raw_jackknife`` and so on (left_out, neuron): the scores without one sound each,
          from which the errors are computed; ``stim_left_out`` names the sound.

        The attributes summarise the result: ``area``, ``cells``, and the numbers ``n_stims`` and
        ``n_cells`` that were scored. For each score, such as ``cc_raw``, they hold ``n_cc_raw``,
        the number of cells that have it; ``cc_raw_mean`` and ``cc_raw_median`` over these cells;
        and the standard errors of both over sounds, ``cc_raw_mean_se`` and ``cc_raw_median_se``.
        ``simulated`` is 1 if the recordings or the predictions are simulated, and 0 if not.

    Raises
    ------
    TypeError
        If `pred` is not a DataArray.
    ValueError
        If `pred` has none of the val sounds or cells, has no names or a name twice, has other
        time bins, or has gaps; if `ds` has no val trials, has cells of two areas, or does not
        have everything that :func:`nat4xr.open_area` returns; or if `cells` is unknown.

    Notes
    -----
    Sounds and cells that are not in `pred` are left out, and so are cells for which it is all
    NaN. Compare means only between models with the same ``n_stims`` and ``n_cells``. A prediction
    without variance scores 0. A cell without spikes has no score (NaN) for any model, and a cell
    whose estimated signal power is not above 0 has no CCnorm; the means leave such cells out.

    The standard errors estimate how much the scores would vary with another choice of the same
    number of sounds. They are larger than most differences between models, because this variation
    is similar for all models. Use :func:`compare` to test whether two models differ.

    The flag ``auditory`` probably depends on scores: in the lab's code, a cell has it if the
    predictions of three models correlate with its val responses by more than chance. The auditory
    cells are then cells that models predict well, chosen on the same sounds on which they are
    scored.

    References
    ----------
    The table on the NAT4 page of deepSTRF, https://github.com/urancon/deepSTRF, with which these
    scores can be compared.

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
    val, recorded = _val_trials(ds, cells)
    pred = _by_name(pred)
    simulated = int(ds.attrs["simulated"] or "simulated" in pred.attrs)
    stims = _common("val sounds", val["stim"].values, pred, "stim")
    neurons = _common(
        f"{cells} cells with val trials", val["neuron"].values[recorded], pred, "neuron"
    )
    pred = pred.sel(stim=stims, neuron=neurons).compute()
    predicted = np.isfinite(pred.values).any(axis=(0, 1))
    if not predicted.any():
        raise ValueError("pred is NaN for every val sound and cell that is to be scored")
    pred = pred.isel(neuron=predicted)
    sounds = _positions(val["stim"].values, pred["stim"].values)
    positions = _positions(val["neuron"].values, pred["neuron"].values)
    # Slices select faster, and do not copy what is in memory.
    first, last = positions.min(), positions.max()
    response = val["response"].isel(neuron=slice(first, last + 1))
    if not np.array_equal(sounds, np.arange(val.sizes["stim"])):
        response = response.isel(stim=sounds)
    response = response.compute()
    positions = positions - first
    pred = _in_time_of(response, pred)
    _check_gaps(pred, response, positions)

    scores, replicates = metrics.scores_and_replicates(pred, response, positions)
    # NaN because of the prediction becomes 0; NaN because of the data stays.
    defined = {name: scores["variance"] > 0 for name in SCORES} | {"cc_norm": scores["signal"] > 0}
    labels = response.isel(stim=0, rep=0, time=0, neuron=positions, drop=True).coords
    result = xr.Dataset(coords=labels)
    for name, known in defined.items():
        value = scores[name].where(scores[name].notnull() | ~known, 0)
        without = replicates[name].where(replicates[name].notnull() | scores[name].notnull(), value)
        result[name] = value.assign_attrs(long_name=_LONG_NAMES[name], units="1")
        result[f"{name}_se"] = metrics.jackknife_error(without, replicates["counts"])
        result[f"{name}_se"].attrs = {"long_name": f"standard error of {name}", "units": "1"}
        result[f"{name}_jackknife"] = without.assign_attrs(
            long_name=f"{name} without one of the sounds", units="1"
        )
    if simulated:
        for variable in result.data_vars.values():
            variable.attrs["simulated"] = 1
    result = result.assign_coords(stim_left_out=("left_out", response["stim"].values))
    result.attrs = {
        "title": f"Scores of predictions of {'SIMULATED' if simulated else 'NAT4'} val responses",
        "area": str(result["area"].values[0]),
        "cells": cells,
        "cc_norm": CC_NORM,
        "n_stims": response.sizes["stim"],
        "n_cells": len(positions),
    }
    for name in SCORES:
        result.attrs |= _over_cells(result[name], result[f"{name}_jackknife"])
    result.attrs["simulated"] = simulated
    return result


_LONG_NAMES = {
    "cc_raw": "correlation with the mean over trials",
    "cc_norm": f"normalised correlation coefficient ({CC_NORM})",
    "r_ceiling": "normalised correlation coefficient (single trials)",
}


def _over_cells(value: xr.DataArray, replicates: xr.DataArray | None) -> dict[str, float]:
    """The number of cells with a score, their mean and median, and the errors of both."""
    name = value.name
    summary: dict[str, Any] = {f"n_{name}": int(value.notnull().sum())}
    for kind in ("mean", "median"):
        summary[f"{name}_{kind}"] = float(getattr(value, kind)("neuron"))
        error = np.nan
        if replicates is not None:
            of_all = getattr(replicates.where(value.notnull()), kind)("neuron")
            error = float(metrics.jackknife_error(of_all, xr.ones_like(of_all, dtype=bool)))
        summary[f"{name}_{kind}_se"] = error
    return summary


def compare(a: xr.Dataset, b: xr.Dataset) -> xr.Dataset:
    """Compare two models that were scored on the same cells and sounds.

    Parameters
    ----------
    a, b : xarray.Dataset
        What :func:`evaluate` returned for each model. Cells that only one of them has are left
        out.

    Returns
    -------
    xarray.Dataset
        For each score, such as ``cc_raw``: the difference ``cc_raw`` (neuron), `a` minus `b`; its
        standard error over sounds, ``cc_raw_se``; and ``cc_raw_p``, the p-value of the hypothesis
        that the models do not differ. The attributes hold the mean and median of the differences
        over cells and their standard errors, as from :func:`evaluate`, and the p-value of the
        mean, ``cc_raw_mean_p``.

    Raises
    ------
    TypeError
        If `a` or `b` is not what :func:`evaluate` returned.
    ValueError
        If they come from different areas or sounds, have no cell in common, or only one of them
        comes from simulated data.
    ImportError
        If SciPy is not installed.

    Notes
    -----
    The jackknife gives a pseudo-value for each sound, which tells how much the sound contributes
    to the difference. If neither model were better, each contribution would be positive or
    negative with equal probability. The p-value is therefore the share of random sign flips that
    give a mean at least as large as the observed one (two-sided). There are 9,999 flips for the
    mean over cells and 999 for each cell, or all possible flips if those are fewer. The p-values
    of single cells are not corrected for the number of cells.

    References
    ----------
    Efron B, Tibshirani RJ (1993). An introduction to the bootstrap, chapters 11 and 15. Chapman &
    Hall. The flips are those of `scipy.stats.permutation_test`.

    Examples
    --------
    >>> import nat4xr
    >>> from nat4xr import benchmark
    >>> ds = nat4xr.open_area("A1")
    >>> one = benchmark.evaluate(ds.psth, ds)
    >>> other = benchmark.evaluate(ds.psth.roll(time=1), ds)
    >>> difference = benchmark.compare(one, other)
    >>> difference.attrs["cc_norm_mean"] > 0, difference.attrs["cc_norm_mean_p"] < 0.001
    (True, True)
    """
    for name, result in (("a", a), ("b", b)):
        if not isinstance(result, xr.Dataset) or "cc_norm_jackknife" not in result:
            raise TypeError(f"{name} must be what nat4xr.benchmark.evaluate returned")
    for attr in ("area", "simulated"):
        if a.attrs[attr] != b.attrs[attr]:
            raise ValueError(f"the {attr} of a is {a.attrs[attr]}, that of b is {b.attrs[attr]}")
    if a["stim_left_out"].values.tolist() != b["stim_left_out"].values.tolist():
        raise ValueError("a and b were scored on different sounds: predict the same for both")
    cells = [cell for cell in a["neuron"].values.tolist() if cell in set(b["neuron"].values)]
    if not cells:
        raise ValueError("a and b have no cell in common")
    a, b = a.sel(neuron=cells), b.sel(neuron=cells)
    n = a.sizes["left_out"]
    result = xr.Dataset(coords=a["cc_raw"].coords)
    result.attrs = {key: a.attrs[key] for key in ("area", "cells", "n_stims", "simulated")}
    result.attrs |= {"title": "Differences of scores", "n_cells": len(cells)}
    for name in SCORES:
        value, without = (
            a[key].copy(data=a[key].values - b[key].values) for key in (name, f"{name}_jackknife")
        )
        every = xr.ones_like(without["left_out"], dtype=bool)
        value.attrs["long_name"] = f"difference of {name}"
        result[name] = value
        result[f"{name}_se"] = metrics.jackknife_error(without, every)
        result[f"{name}_p"] = ("neuron", _sign_flips(n * value - (n - 1) * without, 999))
        result.attrs |= _over_cells(value, without)
        mean = value.mean("neuron"), without.where(value.notnull()).mean("neuron")
        result.attrs[f"{name}_mean_p"] = float(_sign_flips(n * mean[0] - (n - 1) * mean[1], 9999))
    return result


def _sign_flips(contributions: xr.DataArray, flips: int) -> Any:
    """Test by sign flips whether the mean contribution of sounds (left_out, ...) is 0."""
    test = require("scipy.stats", "analysis").permutation_test
    values = np.moveaxis(contributions.values, contributions.dims.index("left_out"), -1)
    p = test(
        (values,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=flips,
        batch=100,
        axis=-1,
        random_state=0,
    ).pvalue
    return np.where(np.isnan(values).any(-1), np.nan, p)


def leaderboard(results: xr.Dataset | Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Make a table of results together with the published ones for the same areas.

    Parameters
    ----------
    results : xarray.Dataset or mapping of str to xarray.Dataset
        What :func:`evaluate` returned, or a mapping from names of models to such results.

    Returns
    -------
    pandas.DataFrame
        One row per model and area, with the best CCnorm of each area first. It has the columns of
        :func:`published` (scores in percent), and further columns, which are NaN for the
        published models: ``cc_raw_se`` and ``cc_norm_se``, the standard errors over sounds;
        ``r_ceiling``, the median over cells, and ``r_ceiling_se``; ``n_stims`` and ``n_cells``,
        the numbers that were scored; and ``n_cc_norm``, the number of cells that have a CCnorm.
        ``cc_norm_is`` tells which CCnorm was computed. If ``simulated`` is True, the model was
        scored on simulated data, and the row cannot be compared with the others.

    Raises
    ------
    TypeError
        If `results` is neither, or an empty mapping.

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
        raise TypeError("results must be what evaluate returned, or a dict of such Datasets")
    ours = pd.DataFrame([_row(name, result) for name, result in named.items()])
    theirs = published().assign(simulated=False, cc_norm_is=CC_NORM)
    table = pd.concat([theirs[theirs["area"].isin(ours["area"])], ours], ignore_index=True)
    first = ["area", "backbone", *(f"{name}{se}" for name in SCORES for se in ("", "_se"))]
    first += ["cc_norm_is", "simulated", "n_cells", "n_cc_norm", "n_stims"]
    table = table.reindex(columns=[*first, *(c for c in _COLUMNS if c not in first)])
    return table.sort_values(["area", "cc_norm"], ascending=[True, False], ignore_index=True)


def _row(name: str, result: xr.Dataset) -> dict[str, Any]:
    if not isinstance(result, xr.Dataset) or "cc_norm" not in result:
        raise TypeError(f"results must be what evaluate returned; {name!r} is not")
    row = {
        "area": result.attrs["area"],
        "backbone": name,
        "remarks": "",
        "params_per_neuron": np.nan,
        "cc_norm_is": CC_NORM,
        "paper": "",
        "doi": "",
        "n_stims": result.attrs["n_stims"],
        "n_cells": result.sizes["neuron"],
        "simulated": bool(result.attrs["simulated"]),
    }
    for score in SCORES:
        if score in result:
            summary = _over_cells(result[score], result.get(f"{score}_jackknife"))
            kind = "median" if score == "r_ceiling" else "mean"
            row[score] = round(100 * summary[f"{score}_{kind}"], 1)
            row[f"{score}_se"] = round(100 * summary[f"{score}_{kind}_se"], 1)
            row[f"n_{score}"] = summary[f"n_{score}"]
    return row


def check_complete(ds: xr.Dataset) -> None:
    """Raise an error if a Dataset lacks anything that scoring needs."""
    if not isinstance(ds, xr.Dataset):
        raise TypeError(f"ds must be a Dataset from nat4xr.open_area, not a {type(ds).__name__}")
    for name in ("response", "n_reps", "subset", "auditory", "area"):
        if name not in ds.variables:
            raise ValueError(f"ds must be a Dataset from nat4xr.open_area, but it lacks {name!r}")
    if "simulated" not in ds.attrs:
        raise ValueError(
            "ds.attrs['simulated'] is missing: set it to 0 for recordings, 1 for simulated data"
        )
    check_not_empty(ds["response"], "ds")
    repeated = (ds["n_reps"] > 1) & (ds["subset"] == "val")
    if not repeated.any() or ds["response"].sizes.get("rep", 1) < 2:
        raise ValueError("ds has no val sound with repeated trials, so nothing can be scored")


def _val_trials(ds: xr.Dataset, cells: str) -> tuple[xr.Dataset, NDArray[np.bool_]]:
    """The val sounds, and which cells are to be scored."""
    check_complete(ds)
    areas = np.unique(ds["area"].values)
    if areas.size > 1:
        raise ValueError(f"ds holds cells of {' and '.join(areas)}: evaluate one area at a time")
    val = set_labels(ds[["response", "n_reps"]])
    val = val.sel(subset="val")  # which makes a slice: it reads less than a mask does
    recorded = (val["n_reps"] > 1).any("stim").values
    if cells == "auditory":
        recorded = recorded & val["auditory"].values
    return val, recorded


def _by_name(pred: xr.DataArray) -> xr.DataArray:
    """The prediction with the names of its sounds and cells, and no other labels."""
    if not isinstance(pred, xr.DataArray):
        raise TypeError(f"pred must be an xarray.DataArray, not {type(pred).__name__}")
    if set(pred.dims) != {"stim", "time", "neuron"}:
        raise ValueError(f"pred needs the dims stim, time and neuron, but has {pred.dims}")
    for dim in ("stim", "neuron"):
        if dim not in pred.coords:
            raise ValueError(f"pred needs the coordinate {dim!r}, whose names say what it predicts")
        names = pd.Index(pred[dim].values)
        if names.has_duplicates:
            raise ValueError(f"pred has the {dim} {names[names.duplicated()][0]!r} twice")
    pred = pred.transpose("stim", "time", "neuron")
    coords = {dim: pred[dim].values for dim in pred.dims if dim in pred.coords}
    return xr.DataArray(pred.data, coords, pred.dims, attrs=simulated_attr(pred))


def _positions(names: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.intp]:
    """The positions of the wanted names."""
    return np.asarray(pd.Index(names).get_indexer(wanted))


def _common(what: str, wanted: NDArray[Any], pred: xr.DataArray, dim: str) -> list[str]:
    """The names along a dim that are in both, in the order of the data."""
    given = pred[dim].values
    common = wanted[np.isin(wanted, given)]
    if not common.size:
        raise ValueError(
            f"pred has none of the {wanted.size} {what} (such as {str(wanted[0])!r}): its "
            f"{given.size} {dim} names are different (such as {str(given[0])!r})"
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
            f"the {pred.sizes['time']} time bins of pred are not the "
            f"{response.sizes['time']} of ds: predict at the bin width of ds (dt_ms)"
        )
    pred = pred.drop_vars("time", errors="ignore")
    return pred.assign_coords(time=response["time"]) if "time" in response.coords else pred


def _check_gaps(pred: xr.DataArray, response: xr.DataArray, positions: NDArray[np.intp]) -> None:
    missing = ~np.isfinite(pred.values)
    if not missing.any():
        return
    recorded = response.notnull().any("rep").isel(neuron=positions).transpose(*pred.dims).values
    gaps = (missing & recorded).sum((0, 1))
    if gaps.any():
        i = int(gaps.argmax())
        raise ValueError(
            f"pred is not a number in {gaps[i]} bins of {str(pred['neuron'].values[i])!r}, and has "
            f"gaps in {np.count_nonzero(gaps)} cells: predict all bins of a cell, or leave it out"
        )
