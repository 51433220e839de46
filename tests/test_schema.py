"""Variables that follow the schema, and inputs that do not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import nat4xr
from nat4xr import benchmark, metrics, plot, preprocess, strf
from nat4xr.schema import variable


def test_values_get_the_dtype_of_the_schema_or_a_wider_one() -> None:
    assert variable("n_reps", np.array([[20]])).dtype == np.int8
    assert variable("n_reps", np.array([[200]])).dtype == np.int32
    assert variable("psth", np.zeros((1, 1, 1))).dtype == np.float32


def test_numbers_are_not_cut_to_integers() -> None:
    with pytest.raises(TypeError):
        variable("n_reps", [[1.5]])


# --- inputs that are empty -----------------------------------------------------------------------


@pytest.fixture
def val(simulated_release: Path) -> xr.Dataset:
    return nat4xr.open_area("PEG", simulated_release, subset="val", progressbar=False)


NEEDS_SOUNDS: dict[str, Callable[[xr.Dataset], Any]] = {
    "latency": lambda ds: nat4xr.latency(ds.response),
    "metrics.snr": lambda ds: metrics.snr(ds.response),
    "metrics.coherence": lambda ds: metrics.coherence(ds.psth, ds.psth),
    "preprocess.minmax": lambda ds: preprocess.minmax(ds.psth),
    "strf.fit": lambda ds: strf.fit(ds.spectrogram, ds.psth),
    "benchmark.evaluate": lambda ds: benchmark.evaluate(ds.psth, ds),
    "plot.coverage": plot.coverage,
    "plot.population": plot.population,
}
NEEDS_CELLS: dict[str, Callable[[xr.Dataset], Any]] = {
    "strf.fit": lambda ds: strf.fit(ds.spectrogram, ds.psth),
    "latency": lambda ds: nat4xr.latency(ds.response),
    "preprocess.minmax": lambda ds: preprocess.minmax(ds.psth),
    "pairs": lambda ds: nat4xr.pairs(ds.response),
    "benchmark.evaluate": lambda ds: benchmark.evaluate(ds.psth, ds),
    "plot.coverage": plot.coverage,
    "plot.population": plot.population,
}
OF_EACH_CELL: dict[str, Callable[[xr.Dataset], Any]] = {
    "metrics.snr": lambda ds: metrics.snr(ds.response),
    "metrics.cc_norm": lambda ds: metrics.cc_norm(ds.psth, ds.response),
    "rate": lambda ds: nat4xr.rate(ds.response),
    "preprocess.smooth": lambda ds: preprocess.smooth(ds.psth),
}


@pytest.mark.parametrize(
    ("dim", "lacks", "analysis"),
    [
        pytest.param(dim, lacks, analysis, id=f"{lacks}-{name}")
        for dim, lacks, analyses in (
            ("stim", "no sounds", NEEDS_SOUNDS),
            ("neuron", "no cells", NEEDS_CELLS),
        )
        for name, analysis in analyses.items()
    ],
)
def test_an_analysis_that_needs_sounds_or_cells_says_so(
    dim: str, lacks: str, analysis: Callable[[xr.Dataset], Any], val: xr.Dataset
) -> None:
    with pytest.raises(ValueError, match=f"is empty: it has {lacks}"):
        analysis(val.isel({dim: []}))


@pytest.mark.parametrize("analysis", OF_EACH_CELL.values(), ids=OF_EACH_CELL)
def test_what_is_computed_for_each_cell_is_empty_without_cells(
    analysis: Callable[[xr.Dataset], Any], val: xr.Dataset
) -> None:
    result, empty = analysis(val), analysis(val.isel(neuron=[])).compute()
    assert empty.sizes == {**result.sizes, "neuron": 0}
    assert empty.dtype == result.dtype


def test_a_fit_to_no_cells_says_so(simulated_release: Path) -> None:
    pytest.importorskip("torch")
    ds = nat4xr.open_area("PEG", simulated_release, progressbar=False)
    with pytest.raises(ValueError, match="ds is empty: it has no cells"):
        nat4xr.models.fit(ds.isel(neuron=[]), "ln")


def test_a_reference_without_sounds_is_named(simulated_release: Path) -> None:
    spectrogram = nat4xr.open_area("PEG", simulated_release, progressbar=False).spectrogram
    with pytest.raises(ValueError, match="reference is empty: it has no sounds"):
        preprocess.log_minmax(spectrogram, reference=spectrogram.isel(stim=[]))
