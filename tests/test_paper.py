"""The claims of the data set's paper, on simulated releases."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import nat4xr

pytest.importorskip("torch")
pytest.importorskip("safetensors")
from nat4xr.paper import FIGURES, reproduce

FAST = {"quick": True, "max_epochs": 8, "progressbar": False}


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells that all hear through the same adaptive features."""
    folder = tmp_path_factory.mktemp("adaptive")
    return nat4xr.simulate(folder, scale=0.05, sound_scale=0.3, model="adaptive")


@pytest.fixture(scope="module")
def ds(release: Path) -> xr.Dataset:
    return nat4xr.open_area("A1", release, progressbar=False)


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_leaves_scores_a_picture_and_a_claim(
    figure: str, ds: xr.Dataset, release: Path, tmp_path: Path
) -> None:
    two = figure in ("transfer", "areas")
    other = nat4xr.open_area("PEG", release, progressbar=False) if two else None
    scores = reproduce(figure, ds, tmp_path, other=other, **FAST)
    files = {file.suffix: file for file in tmp_path.iterdir()}
    assert set(files) == {".nc", ".csv", ".png", ".txt"}
    assert all("SIMULATED" in file.name and figure in file.name for file in files.values())
    assert files[".txt"].read_text().strip() == scores.attrs["claim"]
    with xr.open_dataset(files[".nc"]) as saved:
        np.testing.assert_array_equal(saved["r_ceiling"], scores["r_ceiling"])
    table = pd.read_csv(files[".csv"], index_col="neuron")
    assert table.index.tolist() == scores["neuron"].values.tolist()
    assert table.columns.tolist() == scores["model"].values.tolist()


def test_an_interrupted_figure_goes_on_from_the_last_fit(
    ds: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, begun = nat4xr.models.fit, []

    def interrupted(*args: Any, **options: Any) -> Any:
        if len(begun) == 2:
            raise KeyboardInterrupt
        begun.append(options["checkpoint"])
        return fit(*args, **options)

    monkeypatch.setattr("nat4xr.models.fit", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        reproduce("heldout", ds, tmp_path, **FAST)
    monkeypatch.undo()
    assert all(checkpoint.exists() for checkpoint in begun)

    epochs: list[int] = []
    reproduce("heldout", ds, tmp_path, monitor=lambda n, *_: epochs.append(n), **FAST)
    n_fits = 2 * 3 + 2
    assert len(epochs) == FAST["max_epochs"] * (n_fits - len(begun))


def test_an_unknown_figure_and_a_missing_area_are_refused(ds: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="heldout"):
        reproduce("fig7", ds, tmp_path)
    with pytest.raises(ValueError, match="other="):
        reproduce("transfer", ds, tmp_path)
    with pytest.raises(ValueError, match="two sites"):
        reproduce("heldout", ds.sel(site="ARM029a"), tmp_path)


def test_a_core_fitted_without_a_site_serves_it_as_well_as_the_full_fit(
    ds: xr.Dataset, tmp_path: Path
) -> None:
    scores = reproduce("heldout", ds, tmp_path, quick=True, progressbar=False)
    median = dict(zip(scores["model"].values.tolist(), scores["median"].values, strict=True))
    error = float(scores["standard_error"].max())
    assert abs(median["held-out"] - median["full"]) < 2 * error
    assert median["held-out"] > median["single-cell LN"]


def test_a_pretrained_core_wins_where_data_are_few(ds: xr.Dataset, tmp_path: Path) -> None:
    scores = reproduce("data-limited", ds, tmp_path, quick=True, progressbar=False)
    median = dict(zip(scores["model"].values.tolist(), scores["median"].values, strict=True))
    assert median["pre-trained 10 %"] > median["standard 10 %"]
