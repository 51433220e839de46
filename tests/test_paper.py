"""The analyses of the data set's paper, on a simulated release.

All cells of this release respond to the same adaptive features, so its claims are known to be true.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import nat4xr

pytest.importorskip("torch")
pytest.importorskip("safetensors")
import torch

from nat4xr.paper import FIGURES, reproduce

SHORT = {"quick": True, "max_epochs": 5, "batch_size": 4, "progressbar": False}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The networks are so small that threads would spend their time waiting for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def areas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, xr.Dataset]:
    """Two areas, the cells of A1 pooled into two sites that are as large as published ones."""
    release = tmp_path_factory.mktemp("adaptive")
    size = {"scale": 0.08, "sound_scale": 0.08, "seed": 1}
    nat4xr.simulate(release, model="adaptive", progressbar=False, **size)
    a1, peg = (nat4xr.open_area(area, release, progressbar=False).load() for area in ("A1", "PEG"))
    pooled = nat4xr.drop_label_index(a1)
    sites = np.where(pooled["animal"] == "TNC", "TNC001a", "DRX001a")
    return {"A1": nat4xr.set_labels(pooled.assign_coords(site=("neuron", sites))), "PEG": peg}


@pytest.fixture(scope="module")
def few_cells(areas: dict[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    """Twenty cells of each area."""
    return {
        area: ds.isel(neuron=slice(None, None, ds.neuron.size // 20)).isel(neuron=slice(20))
        for area, ds in areas.items()
    }


def medians_and_errors(scores: xr.Dataset) -> dict[str, tuple[float, float]]:
    columns = (scores[name].values.tolist() for name in ("model", "median", "standard_error"))
    return {model: (median, error) for model, median, error in zip(*columns, strict=True)}


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_leaves_scores_a_picture_and_a_claim(
    figure: str, few_cells: dict[str, xr.Dataset], tmp_path: Path
) -> None:
    other = few_cells["PEG"] if figure in ("transfer", "areas") else None
    scores = reproduce(figure, few_cells["A1"], tmp_path, other=other, **SHORT)
    files = {file.suffix: file for file in tmp_path.iterdir()}
    assert set(files) == {".nc", ".csv", ".png", ".txt"}
    assert all("SIMULATED" in file.name and figure in file.name for file in files.values())
    assert files[".png"].read_bytes().startswith(b"\x89PNG")
    assert files[".txt"].read_text().splitlines() == [scores.attrs["claim"]]
    with xr.open_dataset(files[".nc"]) as saved:
        np.testing.assert_array_equal(saved["r_ceiling"], scores["r_ceiling"])
    table = pd.read_csv(files[".csv"], index_col="neuron")
    assert table.index.tolist() == scores["neuron"].values.tolist()
    assert table.columns.tolist() == scores["model"].values.tolist()
    np.testing.assert_allclose(table.T, scores["r_ceiling"])


def test_an_interrupted_figure_goes_on_from_the_last_fit(
    few_cells: dict[str, xr.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ds, options = few_cells["A1"], {**SHORT, "max_epochs": 2}
    fit, begun = nat4xr.models.fit, []

    def interrupted(*args: Any, **options: Any) -> Any:
        if len(begun) == 2:
            raise KeyboardInterrupt
        begun.append(options["checkpoint"])
        return fit(*args, **options)

    monkeypatch.setattr("nat4xr.models.fit", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        reproduce("heldout", ds, tmp_path / "resumed", **options)
    monkeypatch.undo()
    assert all(checkpoint.exists() for checkpoint in begun)

    (begun[0].parent / ".DS_Store").touch()  # such a file does not make the analysis fail
    epochs: list[int] = []
    options["monitor"] = lambda n, *_: epochs.append(n)
    resumed = reproduce("heldout", ds, tmp_path / "resumed", **options)
    n_fits = 2 * 2 + 2  # a core and a read-out for each site, the linear model, and the full fit
    assert len(epochs) == options["max_epochs"] * (n_fits - len(begun))
    xr.testing.assert_identical(resumed, reproduce("heldout", ds, tmp_path / "at once", **options))


def test_an_unknown_figure_and_a_missing_area_are_refused(
    areas: dict[str, xr.Dataset], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="heldout"):
        reproduce("fig7", areas["A1"], tmp_path)
    with pytest.raises(ValueError, match="other="):
        reproduce("transfer", areas["A1"], tmp_path)
    with pytest.raises(ValueError, match="two sites"):
        reproduce("heldout", areas["PEG"].sel(site="ARM017a"), tmp_path)
    with pytest.raises(ValueError, match="two different areas"):
        reproduce("areas", areas["A1"], tmp_path, other=areas["A1"])
    with pytest.raises(ValueError, match="no val sound"):
        reproduce("heldout", areas["A1"].sel(subset="est"), tmp_path)


def test_a_core_fitted_without_a_site_serves_it_as_well_as_the_full_fit(
    areas: dict[str, xr.Dataset], tmp_path: Path
) -> None:
    scores = reproduce("heldout", areas["A1"], tmp_path, quick=True, progressbar=False)
    by_model = medians_and_errors(scores)
    heldout, its_error = by_model["held-out"]
    full, other_error = by_model["full"]
    assert scores.sizes["neuron"] > 30
    assert abs(heldout - full) < 2 * np.hypot(its_error, other_error)
    assert heldout > by_model["single-cell LN"][0]


def test_a_pretrained_core_wins_where_data_are_few(
    areas: dict[str, xr.Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nat4xr.paper.FRACTIONS", (0.1, 1.0))
    scores = reproduce("data-limited", areas["A1"], tmp_path, quick=True, progressbar=False)
    by_model = medians_and_errors(scores)
    pretrained, its_error = by_model["pre-trained 10 %"]
    standard, other_error = by_model["standard 10 %"]
    assert scores.sizes["neuron"] > 30
    assert pretrained - standard > np.hypot(its_error, other_error)
