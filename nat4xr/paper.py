"""Repeat the analyses of the data set's paper.

Pennington JR, David SV (2023). A convolutional neural network provides a generalizable model of
natural sound coding by neural populations in auditory cortex. PLOS Comput. Biol. 19(5): e1011110.
doi:10.1371/journal.pcbi.1011110
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from . import metrics, models, plot
from .benchmark import check_complete
from .extras import require
from .index import set_labels
from .io.writing import made_folder
from .runs import save_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .models import Fitted

__all__ = ["FIGURES", "reproduce"]

MAIN = "cnn1dx2"
"""The main model of the paper."""

SIZES: dict[str, list[dict[str, Any]]] = {
    "ln": [{"rank": rank} for rank in (1, 3, 5, 7, 11)],
    "ln-pop": [{"channels": n} for n in (4, 12, 40, 120, 300)],
    "cnn1d": [{"channels": n, "dense": n} for n in (5, 15, 50, 100, 150)],
    "cnn1dx2": [
        {"channels": [n, n + n // 7], "dense": round(1.4 * n)} for n in (4, 14, 35, 70, 120)
    ],
    "cnn": [{"filters": n, "dense": 9 * n} for n in (1, 3, 6, 10, 16)],
}
"""The sizes of each family of models in ``pareto``. Quick runs use the second and the fourth."""

FRACTIONS = (0.1, 0.15, 0.25, 0.5, 1.0)
"""The fractions of the est sounds that ``data-limited`` fits."""

N_SNR_BINS = 40
"""Number of bins of the signal-to-noise ratio in which the areas are matched."""

_QUICK_SITES = 3
_QUICK_FIT = {"max_epochs": 60, "patience": 6, "learning_rate": 5e-3}


class Outcome(NamedTuple):
    """The results of an analysis."""

    scores: xr.Dataset
    figure: Figure
    claim: str


@dataclass(frozen=True)
class _Fits:
    """Fits models, with checkpoints from which an interrupted analysis continues."""

    folder: Path
    quick: bool
    options: Mapping[str, Any]

    def __call__(
        self, key: str, ds: xr.Dataset, model: str | None = None, **options: Any
    ) -> Fitted:
        checkpoint = self.folder / f"{key}.checkpoint"
        recipe = _QUICK_FIT if self.quick else {"recipe": "lab"}
        chosen = {**recipe, **self.options, **options}
        return models.fit(ds, model, checkpoint=checkpoint, **chosen)

    def sites(self, ds: xr.Dataset) -> list[str]:
        """Return the sites to analyse: all, or the largest ones in a quick run."""
        names, n_cells = np.unique(ds["site"].values, return_counts=True)
        if names.size < 2:
            raise ValueError(
                f"this analysis needs cells of at least two sites, but ds has {names.size}"
            )
        largest_first: list[str] = names[np.argsort(-n_cells, kind="stable")].tolist()
        return largest_first[:_QUICK_SITES] if self.quick else largest_first


def reproduce(
    figure: str,
    ds: xr.Dataset,
    out: str | os.PathLike[str],
    *,
    other: xr.Dataset | None = None,
    quick: bool = False,
    **options: Any,
) -> xr.Dataset:
    """Repeat an analysis of the data set's paper.

    The function writes four files into the folder `out`: the scores (netCDF and CSV), a figure
    (PNG), and a claim with its statistic (text). Their names begin with the area and the figure
    (and with ``SIMULATED`` if the data are simulated). If the analysis is interrupted, call the
    function again with the same arguments to continue it.

    Parameters
    ----------
    figure : {"pareto", "equivalence", "heldout", "transfer", "data-limited", "areas"}
        - ``"pareto"``: accuracy against the number of parameters per cell, for each family of
          models.
        - ``"equivalence"``: how similar the predictions of different models are.
        - ``"heldout"``: a core that was fitted without a site, with a read-out that was fitted to
          that site, compared with the full fit and with a single-cell model.
        - ``"transfer"``: the core of one area with the read-out of the other.
        - ``"data-limited"``: fits to 10 to 100 % of the est sounds of a site, either from scratch
          or with a core that was fitted to the other sites.
        - ``"areas"``: comparison of the two areas, with all cells and with cells matched by
          signal-to-noise ratio.
    ds : xarray.Dataset
        One area, as :func:`nat4xr.open_area` returns it.
    out : path-like
        Folder for the results. It is made if it does not exist.
    other : xarray.Dataset, optional
        The other area, for ``"transfer"`` and ``"areas"``.
    quick : bool, default: False
        Whether to fit fewer models (only the three largest sites, and two sizes of each family) for
        fewer epochs. This takes minutes on two cores for a small release. Otherwise models are
        fitted by the recipe ``"lab"``, and a full area needs a GPU.
    **options
        Passed to :func:`nat4xr.models.fit`, such as ``device`` or ``progressbar``.

    Returns
    -------
    xarray.Dataset
        Scores of those cells that all models (in ``"data-limited"``, both fits to all sounds)
        predict significantly, which means that the correlation with the trial average is more than
        two standard errors:

        - ``r_ceiling`` (model, neuron), float64: :func:`nat4xr.metrics.r_ceiling` over the val
          sounds;
        - ``median`` and ``standard_error`` (model): the median of ``r_ceiling`` over cells, and its
          standard error by jackknife over sounds.

        The attribute ``claim`` is the sentence in the text file.

    Raises
    ------
    ValueError
        If `figure` is unknown, if `other` is missing, or if `ds` has no val trials or too few
        sites.

    References
    ----------
    Pennington JR, David SV (2023). A convolutional neural network provides a generalizable model
    of natural sound coding by neural populations in auditory cortex. PLOS Comput. Biol. 19(5):
    e1011110. doi:10.1371/journal.pcbi.1011110

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("PEG")
    >>> options = {"quick": True, "max_epochs": 2, "progressbar": False}
    >>> scores = nat4xr.paper.reproduce("heldout", ds, "results", **options)
    >>> scores.model.values.tolist()
    ['single-cell LN', 'held-out', 'full']
    """
    if figure not in FIGURES:
        raise ValueError(f"figure must be one of {list(FIGURES)}, not {figure!r}")
    areas = [ds] if other is None else [ds, other]
    if figure in BOTH_AREAS and other is None:
        raise ValueError(f"figure {figure!r} compares two areas: give the second one as other=")
    for area in areas:
        check_complete(area)
    if other is not None and np.isin(other["neuron"].values, ds["neuron"].values).any():
        raise ValueError("other has cells of ds: give two different areas")
    simulated = any(area.attrs["simulated"] for area in areas)
    names = "-".join(map(_area, areas))
    prefix = f"{'SIMULATED-' if simulated else ''}{names}-{figure}{'-quick' if quick else ''}"
    folder = made_folder(out)
    fits = _Fits(folder / f"{prefix}-fits", quick, options)
    fits.folder.mkdir(exist_ok=True)

    scores, drawing, claim = FIGURES[figure](fits, *areas)
    mark = "SIMULATED data. " if simulated else ""
    scores.attrs |= {"claim": f"{mark}{claim}", "simulated": int(simulated), "figure": figure}
    drawing.suptitle(f"{names}{' (simulated)' if simulated else ''}", fontsize="medium")
    table = scores["r_ceiling"].transpose("neuron", "model").to_pandas()
    results = {".nc": scores, ".csv": table, ".png": drawing, ".txt": scores.claim}
    save_results(results, folder, prefix)
    for file in fits.folder.glob("*.checkpoint"):
        file.unlink(missing_ok=True)
    with suppress(OSError):  # it contains other files
        fits.folder.rmdir()
    return scores


# --- the analyses ------------------------------------------------------------------------------


def _pareto(fits: _Fits, ds: xr.Dataset) -> Outcome:
    predictions, about = {}, {}
    for family, sizes in SIZES.items():
        for number, size in enumerate(sizes[1:4:2] if fits.quick else sizes, 1):
            name = f"{family} {number}"
            fitted = fits(name.replace(" ", "-"), ds, family, sizes=size)
            predictions[name] = _predict(fitted, ds)
            about[name] = (family, fitted.network.n_parameters / len(fitted.config["neurons"]))
    scores = _scores(predictions, ds)
    families, n_parameters = zip(*(about[name] for name in scores["model"].values), strict=True)
    scores = scores.assign_coords(
        family=("model", list(families)),
        parameters_per_cell=(
            "model",
            np.array(n_parameters),
            {"long_name": "parameters per cell (total / cells)"},
        ),
    )
    figure = plot.figure(figsize=(5, 3.8))
    ax = figure.subplots()
    for family, of_family in scores.groupby("family"):
        _draw_medians(ax, of_family.sortby("parameters_per_cell"), "parameters_per_cell", family)
    ax.set(xscale="log", xlabel="parameters per cell", ylabel="median r_ceiling")
    ticker = require("matplotlib.ticker", "plot")
    ax.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    ax.xaxis.set_minor_formatter(ticker.NullFormatter())
    ax.legend(frameon=False, fontsize="small")
    best = scores["median"].groupby("family").max().to_series().sort_values(ascending=False)
    ranked = ", ".join(f"{name} {value:.3f}" for name, value in best.items())
    return Outcome(scores, figure, f"Best median r_ceiling of each family: {ranked}.")


def _equivalence(fits: _Fits, ds: xr.Dataset) -> Outcome:
    families = ["ln", "cnn1d", MAIN, "cnn"]
    predictions = {name: _predict(fits(name, ds, name), ds) for name in families}
    scores = _scores(predictions, ds)
    kept = scores["neuron"].values
    centred = {
        name: pred.sel(neuron=kept) - pred.sel(neuron=kept).mean(["stim", "time"])
        for name, pred in predictions.items()
    }
    linear = centred["ln"]
    # The residuals of a regression on the linear model are what a model predicts beyond it.
    beyond = {
        name: x - linear * (x * linear).sum(["stim", "time"]) / (linear**2).sum(["stim", "time"])
        for name, x in centred.items()
        if name != "ln"
    }
    similarity = xr.concat(
        [
            xr.concat([metrics.corrcoef(a, b) for b in beyond.values()], "other_model")
            for a in beyond.values()
        ],
        "model",
    ).assign_coords(model=list(beyond), other_model=list(beyond))
    similarity.attrs = {"long_name": "correlation of predictions beyond LN", "units": "1"}
    scores = scores.assign(equivalence=similarity.reindex(model=scores["model"]))
    medians = similarity.median("neuron")
    figure = plot.figure(figsize=(4.2, 3.6))
    ax = figure.subplots()
    image = ax.imshow(medians, vmin=0, vmax=1, cmap="viridis")
    ax.set_xticks(range(len(beyond)), list(beyond))
    ax.set_yticks(range(len(beyond)), list(beyond))
    for (row, column), value in np.ndenumerate(medians.values):
        colour = "white" if value < 0.6 else "black"
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour)
    figure.colorbar(image, ax=ax, label="median correlation beyond LN")
    pairs = medians.values[np.triu_indices(len(beyond), 1)]
    claim = (
        "Beyond what a linear-nonlinear model predicts, the predictions of two nonlinear models "
        f"correlate by {pairs.min():.2f} to {pairs.max():.2f} (medians over {kept.size} cells)."
    )
    return Outcome(scores, figure, claim)


def _heldout(fits: _Fits, ds: xr.Dataset) -> Outcome:
    sites = fits.sites(ds)
    tested = ds.sel(site=sites)
    heldout = []
    for site in sites:
        core = fits(f"core-without-{site}", ds.isel(neuron=ds["site"].values != site), MAIN)
        transferred = fits(f"readout-{site}", ds.sel(site=site), init=core, freeze="core")
        heldout.append(_predict(transferred, ds.sel(site=site)))
    predictions = {
        "single-cell LN": _predict(fits("ln", tested, "ln"), tested),
        "held-out": xr.concat(heldout, "neuron"),
        "full": _predict(fits("full", ds, MAIN), tested),
    }
    scores = _scores(predictions, tested)
    claim = (
        _comparison(scores, "held-out", "full")
        + " "
        + _comparison(scores, "held-out", "single-cell LN")
    )
    return Outcome(scores, _scatter_and_bars(scores, "full", "held-out"), claim)


def _transfer(fits: _Fits, ds: xr.Dataset, other: xr.Dataset) -> Outcome:
    native, swapped = [], []
    cores = {_area(area): fits(f"core-{_area(area)}", area, MAIN) for area in (ds, other)}
    for area, source in ((ds, other), (other, ds)):
        native.append(_predict(cores[_area(area)], area))
        core = cores[_area(source)]
        transferred = fits(f"readout-{_area(area)}", area, init=core, freeze="core")
        swapped.append(_predict(transferred, area))
    predictions = {
        "other area's core": xr.concat(swapped, "neuron"),
        "own core": xr.concat(native, "neuron"),
    }
    scores = _scores(predictions, ds, other)
    figure = _scatter_and_bars(scores, "own core", "other area's core", colour="area")
    return Outcome(scores, figure, _comparison(scores, "other area's core", "own core"))


def _data_limited(fits: _Fits, ds: xr.Dataset) -> Outcome:
    sites = fits.sites(ds)
    est = ds["stim"].values[ds["subset"].values == "est"]
    order = np.random.default_rng(0).permutation(np.sort(est))
    predictions: dict[str, list[xr.DataArray]] = {}
    for site in sites:
        core = fits(f"core-without-{site}", ds.isel(neuron=ds["site"].values != site), MAIN)
        at_site = ds.sel(site=site)
        for fraction in FRACTIONS:
            chosen = order[: max(2, round(fraction * order.size))]
            part = at_site.isel(stim=np.isin(ds["stim"].values, chosen))
            key = f"{site}-{fraction:g}"
            fitted = {
                "standard": fits(f"standard-{key}", part, MAIN),
                "pre-trained": fits(f"pre-trained-{key}", part, init=core, freeze="core"),
            }
            for kind, model in fitted.items():
                name = f"{kind} {100 * fraction:g} %"
                predictions.setdefault(name, []).append(_predict(model, at_site))
    scores = _scores(
        {name: xr.concat(parts, "neuron") for name, parts in predictions.items()},
        ds.sel(site=sites),
        chosen_by=("standard 100 %", "pre-trained 100 %"),
    )
    kinds, percents = zip(*(name.split()[:2] for name in scores["model"].values), strict=True)
    percent = np.array(percents, float)
    scores = scores.assign_coords(
        kind=("model", list(kinds)),
        percent=("model", percent, {"long_name": "est sounds fitted", "units": "%"}),
    )
    figure = plot.figure(figsize=(4.5, 3.5))
    ax = figure.subplots()
    for kind, style in (("standard", "o--"), ("pre-trained", "o-")):
        _draw_medians(ax, scores.isel(model=scores["kind"].values == kind), "percent", kind, style)
    ax.set(xlabel="est sounds fitted (%)", ylabel="median r_ceiling")
    ax.legend(frameon=False)
    claim = _comparison(
        scores, f"pre-trained {100 * FRACTIONS[0]:g} %", f"standard {100 * FRACTIONS[0]:g} %"
    )
    return Outcome(scores, figure, claim)


def _areas(fits: _Fits, ds: xr.Dataset, other: xr.Dataset) -> Outcome:
    predictions = [_predict(fits(_area(area), area, MAIN), area) for area in (ds, other)]
    scores = _scores({MAIN: xr.concat(predictions, "neuron")}, ds, other)
    names = [_area(ds), _area(other)]
    snr = scores["trial_snr"].values
    area = scores["area"].values
    matched = _matched(snr, area == names[0], area == names[1])
    scores = scores.assign_coords(
        snr_matched=("neuron", matched, {"long_name": "whether the cell is in the matched groups"})
    )
    figure = plot.figure(figsize=(6, 3.4))
    claims = []
    tests = require("scipy.stats", "analysis")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, title, chosen in zip(
        axes, ("all", "matched by SNR"), (snr == snr, matched), strict=True
    ):
        groups = [scores["r_ceiling"].values[0, chosen & (area == name)] for name in names]
        ax.violinplot(groups, showmedians=True)
        labels = [f"{n}\n{len(g)} cells" for n, g in zip(names, groups, strict=True)]
        ax.set_xticks([1, 2], labels)
        ax.set_title(title, fontsize="medium")
        test = tests.mannwhitneyu(*groups)
        medians = " and ".join(
            f"{np.median(g):.3f} ({n})" for n, g in zip(names, groups, strict=True)
        )
        claims.append(f"{title}: median r_ceiling {medians}, Mann-Whitney p = {test.pvalue:.2g}")
    axes[0].set_ylabel("r_ceiling")
    return Outcome(scores, figure, "; ".join(claims) + ".")


FIGURES: dict[str, Callable[..., Outcome]] = {
    "pareto": _pareto,
    "equivalence": _equivalence,
    "heldout": _heldout,
    "transfer": _transfer,
    "data-limited": _data_limited,
    "areas": _areas,
}
"""The analyses of `reproduce`, by name."""

BOTH_AREAS = ("transfer", "areas")
"""The analyses that compare two areas."""


# --- helpers of the analyses -------------------------------------------------------------------


def _area(ds: xr.Dataset) -> str:
    return str(ds["area"].values.flat[0])


def _val(ds: xr.Dataset) -> xr.Dataset:
    return ds.isel(stim=ds["subset"].values == "val")


def _predict(fitted: Fitted, ds: xr.Dataset) -> xr.DataArray:
    """Predict the val sounds. The result has the names of sounds and cells, but no other labels."""
    known = np.isin(ds["neuron"].values, fitted.config["neurons"])
    pred = models.predict(fitted, _val(ds).isel(neuron=known))
    coords = {dim: pred[dim].values for dim in pred.dims}
    return xr.DataArray(pred.values, coords, pred.dims)


def _scores(
    predictions: Mapping[str, xr.DataArray],
    *areas: xr.Dataset,
    chosen_by: Iterable[str] | None = None,
) -> xr.Dataset:
    """Score the predictions for those cells that all models predict significantly.

    If `chosen_by` names some of the models, the cells only have to be predicted significantly by
    these. All models must have a score.
    """
    trials = [_val(area)["response"].load() for area in areas]
    labels = [
        {str(name): c.values for name, c in t.coords.items() if c.dims == ("neuron",)}
        for t in trials
    ]
    plain = [xr.DataArray(t.values, {dim: t[dim].values for dim in t.dims}, t.dims) for t in trials]
    response = xr.concat(plain, "neuron", join="inner")
    cells = {name: np.concatenate([of_area[name] for of_area in labels]) for name in labels[0]}
    known = {dim: response[dim].values for dim in ("stim", "neuron")}
    pred = xr.concat([p.sel(known) for p in predictions.values()], "model", join="override")
    pred = pred.assign_coords(model=list(predictions))
    correlation = metrics.jackknife(metrics.corrcoef, pred, response.mean("rep"))
    significant = correlation["value"] > 2 * correlation["standard_error"]
    significant = significant.sel(model=list(chosen_by or predictions)).all("model")
    kept = (significant & metrics.r_ceiling(pred, response).notnull().all("model")).values
    if not kept.any():
        raise ValueError(
            f"none of {kept.size} cells is predicted significantly by all models "
            f"({', '.join(chosen_by or predictions)}): fit them for more epochs or to more sounds"
        )
    pred, response = pred.isel(neuron=kept), response.isel(neuron=kept)
    median = metrics.jackknife(_median_r_ceiling, pred, response)
    scores = xr.Dataset(
        {
            "r_ceiling": metrics.r_ceiling(pred, response).transpose("model", "neuron"),
            "median": median["value"],
            "standard_error": median["standard_error"],
            "trial_snr": metrics.trial_snr(response),
        }
    )
    scores["median"].attrs = {"long_name": "median r_ceiling over cells", "units": "1"}
    kept_cells = {name: ("neuron", values[kept]) for name, values in cells.items()}
    return set_labels(scores.assign_coords(kept_cells))


def _median_r_ceiling(pred: xr.DataArray, response: xr.DataArray) -> xr.DataArray:
    return metrics.r_ceiling(pred, response).median("neuron")


def _comparison(scores: xr.Dataset, one: str, other: str) -> str:
    """Compare the medians of two models, with a paired test over cells."""
    pair = [scores.isel(model=scores["model"].values == name).squeeze() for name in (one, other)]
    test = require("scipy.stats", "analysis").wilcoxon(*(p["r_ceiling"].values for p in pair))
    medians = [f"{float(p['median']):.3f} ± {float(p['standard_error']):.3f}" for p in pair]
    return (
        f"Median r_ceiling {medians[0]} ({one}) against {medians[1]} ({other}) over "
        f"{scores.sizes['neuron']} cells, Wilcoxon signed-rank p = {test.pvalue:.2g}."
    )


def _draw_medians(ax: Any, scores: xr.Dataset, x: str, label: str, style: str = "o-") -> None:
    """Draw the medians of models, with standard errors, against a coordinate."""
    median, error = scores["median"], scores["standard_error"]
    ax.errorbar(scores[x], median, error, fmt=style, capsize=2, label=label)


def _scatter_and_bars(scores: xr.Dataset, x: str, y: str, *, colour: str | None = None) -> Figure:
    """Draw the scores of one model against another, and the medians of all models."""
    figure = plot.figure(figsize=(7.5, 3.6))
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    by_model = {
        name: scores["r_ceiling"].values[number]
        for number, name in enumerate(scores["model"].values.tolist())
    }
    groups: Iterable[Any] = [None] if colour is None else np.unique(scores[colour].values)
    for group in groups:
        chosen = slice(None) if group is None else scores[colour].values == group
        left.plot(by_model[x][chosen], by_model[y][chosen], ".", alpha=0.7, label=group)
    if colour is not None:
        left.legend(frameon=False)
    high = max(1, *(values.max() for values in by_model.values()))
    left.plot([0, high], [0, high], color="grey", linewidth=0.8)
    left.set(xlabel=f"r_ceiling, {x}", ylabel=f"r_ceiling, {y}", aspect="equal")
    positions = np.arange(scores.sizes["model"])
    right.bar(positions, scores["median"], yerr=scores["standard_error"], color="0.7", capsize=3)
    right.set_xticks(positions, [name.replace(" ", "\n", 1) for name in by_model])
    right.set_ylabel("median r_ceiling")
    return figure


def _matched(snr: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Choose cells of two groups, so that both have equal numbers in each bin of the SNR."""
    rng = np.random.default_rng(0)
    edges = np.linspace(snr.min(), snr.max(), N_SNR_BINS + 1)
    bins = np.clip(np.digitize(snr, edges) - 1, 0, N_SNR_BINS - 1)
    chosen = np.zeros(snr.size, bool)
    for number in range(N_SNR_BINS):
        members = [np.flatnonzero(group & (bins == number)) for group in (one, other)]
        n = min(map(len, members))
        for cells in members:
            chosen[rng.choice(cells, n, replace=False)] = True
    return chosen
