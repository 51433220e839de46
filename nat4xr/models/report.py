"""From a Dataset to its place on the leaderboard: several seeds, scored, with all results kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from ..benchmark import evaluate, leaderboard
from .training import Fitted, fit, predict

__all__ = ["run"]


def run(
    ds: xr.Dataset,
    model: str = "statenet",
    prefilter: str | None = None,
    *,
    seeds: int = 5,
    out: str | os.PathLike[str],
    **options: Any,
) -> pd.DataFrame:
    """Fit a model with several seeds, score it by the published protocol, and keep the results.

    In the folder `out`, under names that begin with area and model (and with ``SIMULATED``, where
    the data are):

    * ``seed0.safetensors``, ...: the fitted models (:func:`nat4xr.models.load`);
    * ``seed0.nc``, ...: predictions (stim, time, neuron) for the val sounds;
    * ``scores.nc``: ``cc_raw`` and ``cc_norm`` (seed, neuron) of the cells that were scored;
    * ``learning.png``: the learning curves (with matplotlib);
    * ``leaderboard.csv``: the table that is returned.

    Interrupted, it goes on where it was when it is run again with the same arguments.

    Parameters
    ----------
    ds : xarray.Dataset
        One area, as :func:`nat4xr.open_area` returns it.
    model : {"ln", "cnn", "statenet", "transformer"}, default: "statenet"
        Which network, as for :func:`fit`.
    prefilter : {None, "adaptrans"}, optional
        Its front end, as for :func:`fit`.
    seeds : int, default: 5
        Number of fits, with the seeds from 0.
    out : path-like
        Folder for the results; made if it is not there. Results that are there are replaced.
    **options
        Passed to :func:`fit`.

    Returns
    -------
    pandas.DataFrame
        As :func:`nat4xr.benchmark.leaderboard`, the scores of the model being means over seeds,
        and with the columns ``n_seeds``, ``cc_raw_sd`` and ``cc_norm_sd``: the standard
        deviations over seeds, in percent.

    Raises
    ------
    ValueError
        If `seeds` is less than 1; and as :func:`fit` and :func:`nat4xr.benchmark.evaluate`.

    References
    ----------
    As :func:`nat4xr.benchmark.evaluate` for the protocol, :class:`Network` for the models.

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
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    mark = "SIMULATED-" if ds.attrs.get("simulated") else ""
    name = "+".join(filter(None, [model, prefilter]))
    prefix = f"{mark}{ds.attrs.get('area', 'area')}-{name}-"
    val = ds.isel(stim=ds["subset"].values == "val")

    fits, results = [], []
    for seed in range(seeds):
        checkpoint = out / f"{prefix}seed{seed}.checkpoint"
        fitted = fit(ds, model, prefilter, seed=seed, checkpoint=checkpoint, **options)
        pred = predict(fitted, val)
        results.append(evaluate(pred, ds))
        fitted.save(out / f"{prefix}seed{seed}.safetensors")
        pred.to_netcdf(out / f"{prefix}seed{seed}.nc")
        fits.append(fitted)

    scores = xr.concat(results, pd.RangeIndex(seeds, name="seed"), combine_attrs="drop_conflicts")
    scores.to_netcdf(out / f"{prefix}scores.nc")
    _learning_curves(fits, out / f"{prefix}learning.png")
    table = leaderboard({name: scores.mean("seed", keep_attrs=True)})
    own = table["backbone"] == name
    table.loc[own, "params_per_neuron"] = fits[0].network.n_parameters_per_neuron
    table.loc[own, "n_seeds"] = seeds
    for score in ("cc_raw", "cc_norm"):
        spread = 100 * scores[score].mean("neuron").std("seed", ddof=1)
        table.loc[own, f"{score}_sd"] = round(float(spread), 2)
    table.to_csv(out / f"{prefix}leaderboard.csv", index=False)
    for seed in range(seeds):
        (out / f"{prefix}seed{seed}.checkpoint").unlink()
    return table


def _learning_curves(fits: list[Fitted], file: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:  # the one result that needs it
        return
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    ax = figure.subplots()
    for fitted in fits:
        for part, style, label in (("fit", ":", "fitted"), ("stop", "-", "set aside")):
            losses = fitted.history[f"{part}_loss"]
            colour = f"C{fitted.config['seed'] % 10}"
            label = f"{label}, seed {fitted.config['seed']}"
            ax.plot(losses["epoch"], losses, style, color=colour, label=label)
    simulated = " (SIMULATED data)" if fits[0].config["simulated"] else ""
    ax.set(xlabel="epoch", ylabel=f"{fits[0].config['loss']} loss, per bin")
    ax.set_title(f"{fits[0].name}{simulated}")
    ax.legend(fontsize="x-small", ncols=2)
    figure.savefig(file, dpi=150)
