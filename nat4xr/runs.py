"""Fit a model, score it by the published protocol, and save the results."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pandas as pd
import xarray as xr

from . import metrics, models, plot, preprocess, strf
from .benchmark import check_complete, evaluate, leaderboard
from .io.netcdf import write_locked
from .io.writing import made_folder, written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .models import Fitted

__all__ = ["run", "run_strf"]


def run_strf(ds: xr.Dataset, out: str | os.PathLike[str]) -> pd.DataFrame:
    """Fit the STRF baseline, score it by the published protocol, and save the results.

    The model is linear-nonlinear, with 25 lags for each cell (:func:`nat4xr.strf.fit`), and is
    fitted to the est sounds. The results are written to these files in the folder `out`. Their
    names begin with the area (or with ``SIMULATED`` if the data are simulated):

    * ``strf-model.nc``: the fitted model;
    * ``strf-predictions.nc``: its predictions for the val sounds;
    * ``strf-scores.nc`` and ``strf-scores.csv``: the scores of each cell;
    * ``strf-leaderboard.csv``: the table that is returned;
    * ``strf-scores.png``: a figure of the scores against noise ceilings;
    * ``strf-best.png``: the best cell's STRF and its response to the first sound.

    Parameters
    ----------
    ds : xarray.Dataset
        One area, as :func:`nat4xr.open_area` returns it.
    out : path-like
        Folder for the results. It is made if it does not exist, and older results are replaced.

    Returns
    -------
    pandas.DataFrame
        The leaderboard, as :func:`leaderboard` returns it.

    Raises
    ------
    ValueError
        If `ds` does not meet the requirements of :func:`nat4xr.strf.fit` or :func:`evaluate`.
    ImportError
        If matplotlib or SciPy is not installed.

    References
    ----------
    See :func:`evaluate` for the protocol, and :func:`nat4xr.strf.fit` for the model.

    Examples
    --------
    >>> import nat4xr
    >>> table = nat4xr.benchmark.run_strf(nat4xr.open_area("PEG"), "results")
    >>> table.loc[table["simulated"], "backbone"].tolist()
    ['STRF + isotonic']
    """
    check_complete(ds)
    sound = ds["spectrogram"]
    est, val = (ds["subset"].values == subset for subset in ("est", "val"))
    sound = preprocess.log_minmax(sound, reference=sound.isel(stim=est))
    model = strf.fit(sound.isel(stim=est), ds["psth"].isel(stim=est), nonlinearity="isotonic")
    pred = strf.predict(model, sound.isel(stim=val))
    scores = evaluate(pred, ds)
    table = leaderboard({"STRF + isotonic": scores})
    of_cells = scores.drop_dims("left_out")
    results = {
        "model.nc": model,
        "predictions.nc": pred,
        "scores.nc": scores,
        "scores.csv": of_cells.drop_indexes(list(of_cells.xindexes)).to_dataframe(),
        "leaderboard.csv": table,
        "scores.png": _scores_figure(scores, ds),
        "best.png": _best_cell_figure(scores, model, pred, ds),
    }
    save_results(results, out, _prefix(ds, "strf"))
    return table


def run(
    ds: xr.Dataset,
    model: str = "statenet",
    prefilter: str | None = None,
    *,
    seeds: int = 5,
    out: str | os.PathLike[str],
    **options: Any,
) -> pd.DataFrame:
    """Fit a model with several seeds, score it by the published protocol, and save the results.

    The results are written to these files in the folder `out`. Their names begin with the area and
    the model (and with ``SIMULATED`` if the data are simulated):

    * ``seed0.safetensors``, ...: the fitted models (:func:`nat4xr.models.load`);
    * ``seed0.nc``, ...: predictions (stim, time, neuron) for the val sounds;
    * ``scores.nc``: ``cc_raw`` and ``cc_norm`` (seed, neuron) of the cells that were scored;
    * ``learning.png``: a figure of the learning curves;
    * ``leaderboard.csv``: the table that is returned.

    If a run is interrupted, call the function again with the same arguments to continue it.

    Parameters
    ----------
    ds : xarray.Dataset
        One area, as :func:`nat4xr.open_area` returns it.
    model : str, default: "statenet"
        Which network to fit: a name in ``nat4xr.models.MODELS``.
    prefilter : {None, "adaptrans"}, optional
        The front end of the network, as for :func:`fit`.
    seeds : int, default: 5
        Number of fits. Their seeds are 0, 1, 2, ...
    out : path-like
        Folder for the results. It is made if it does not exist, and older results are replaced.
    **options
        Passed to :func:`fit`.

    Returns
    -------
    pandas.DataFrame
        The leaderboard, as :func:`nat4xr.benchmark.leaderboard` returns it. The scores of the
        model are means over seeds. There are three more columns: ``n_seeds``, and ``cc_raw_sd``
        and ``cc_norm_sd``, the standard deviations over seeds in percent.

    Raises
    ------
    ValueError
        If `seeds` is less than 1, or if the arguments do not meet the requirements of :func:`fit`
        or :func:`nat4xr.benchmark.evaluate`.

    References
    ----------
    See :func:`nat4xr.benchmark.evaluate` for the protocol, and :class:`Network` for the models.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> options = {"seeds": 2, "max_epochs": 1, "progressbar": False}
    >>> table = nat4xr.models.run(ds, "ln", out="results", **options)
    >>> table.loc[table["simulated"], ["backbone", "n_seeds"]]
      backbone  n_seeds
    3       ln      2.0
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, not {seeds}")
    check_complete(ds)
    name = "+".join(filter(None, [model, prefilter]))
    out, prefix = made_folder(out), _prefix(ds, name)
    val = ds.isel(stim=ds["subset"].values == "val")
    checkpoints = [out / f"{prefix}seed{seed}.checkpoint" for seed in range(seeds)]
    fits, scored = [], []
    for seed, checkpoint in enumerate(checkpoints):
        fitted = models.fit(ds, model, prefilter, seed=seed, checkpoint=checkpoint, **options)
        pred = models.predict(fitted, val)
        save_results({f"seed{seed}.safetensors": fitted, f"seed{seed}.nc": pred}, out, prefix)
        fits.append(fitted)
        scored.append(evaluate(pred, ds))

    scores = xr.concat(scored, pd.RangeIndex(seeds, name="seed"), combine_attrs="drop_conflicts")
    table = leaderboard({name: scores.mean("seed", keep_attrs=True)})
    row = table["backbone"] == name
    table.loc[row, "params_per_neuron"] = fits[0].network.n_parameters_per_neuron
    table.loc[row, "n_seeds"] = seeds
    for score in ("cc_raw", "cc_norm"):
        spread = 100 * scores[score].mean("neuron").std("seed", ddof=1)
        table.loc[row, f"{score}_sd"] = round(float(spread), 2)
    results = {
        "scores.nc": scores,
        "leaderboard.csv": table,
        "learning.png": _learning_figure(fits),
    }
    save_results(results, out, prefix)
    for checkpoint in checkpoints:
        checkpoint.unlink(missing_ok=True)
    return table


def _prefix(ds: xr.Dataset, model: str) -> str:
    """Return the prefix of the file names of a model's results."""
    mark = "SIMULATED-" if ds.attrs.get("simulated") else ""
    return f"{mark}{ds['area'].values.flat[0]}-{model}-"


def save_results(results: Mapping[str, Any], out: str | os.PathLike[str], prefix: str) -> None:
    """Write results to files. Older results are replaced after all new ones have been written."""
    folder = made_folder(out)
    with ExitStack() as stack:
        for name, result in results.items():
            part = stack.enter_context(written(folder / f"{prefix}{name}"))
            if isinstance(result, xr.Dataset | xr.DataArray):
                write_locked(result, part)
            elif isinstance(result, pd.DataFrame):
                result.to_csv(part, index=result.index.name is not None)
            elif isinstance(result, str):
                part.write_text(f"{result}\n", encoding="utf-8")
            elif name.endswith(".png"):
                result.savefig(part, dpi=150)
            else:
                result.save(part)


def _scores_figure(scores: xr.Dataset, ds: xr.Dataset) -> Figure:
    """Draw the scores of all cells against their noise ceilings."""
    trials = ds["response"].isel(stim=ds["subset"].values == "val")
    figure = plot.figure()
    ceiling = metrics.cc_max(trials.sel(neuron=scores["neuron"].values))
    plot.scores(scores, ceiling, ax=figure.subplots())
    return figure


def _best_cell_figure(
    scores: xr.Dataset, model: xr.Dataset, pred: xr.DataArray, ds: xr.Dataset
) -> Figure:
    """Draw the STRF of the cell with the best score, and its response to the first sound."""
    figure = plot.figure(figsize=(9, 3.5))
    left, right = figure.subplots(1, 2)
    best = {"neuron": scores["cc_raw"].idxmax("neuron").item()}
    first = {"stim": pred["stim"].values[0]}
    plot.strf(model.sel(best), ax=left)
    plot.prediction(pred.sel(best).sel(first), ds["psth"].sel(best).sel(first), ax=right)
    return figure


def _learning_figure(fits: list[Fitted]) -> Figure:
    """Draw the losses of all fits against the epoch."""
    figure = plot.figure(figsize=(5, 3.5))
    ax = figure.subplots()
    for fitted in fits:
        for part, style, label in (("fit", ":", "fitted"), ("stop", "-", "set aside")):
            losses = fitted.history[f"{part}_loss"]
            seed = fitted.config["seed"]
            label = f"{label}, seed {seed}"
            ax.plot(losses["epoch"], losses, style, color=f"C{seed % 10}", label=label)
    simulated = " (SIMULATED data)" if fits[0].config["simulated"] else ""
    ax.set(xlabel="epoch", ylabel=f"{fits[0].config['loss']} loss per bin")
    ax.set_title(f"{fits[0].name}{simulated}")
    ax.legend(fontsize="x-small", ncols=2)
    return figure
