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

ANALYSES: dict[str, Callable[[xr.Dataset], Any]] = {
    "metrics.snr": lambda ds: metrics.snr(ds.response),
    "metrics.coherence": lambda ds: metrics.coherence(ds.psth, ds.psth),
    "pairs": lambda ds: nat4xr.pairs(ds.response),
    "latency": lambda ds: nat4xr.latency(ds.response),
    "preprocess.minmax": lambda ds: preprocess.minmax(ds.psth),
    "preprocess.smooth": lambda ds: preprocess.smooth(ds.psth),
    "strf.fit": lambda ds: strf.fit(ds.spectrogram, ds.psth),
    "benchmark.evaluate": lambda ds: benchmark.evaluate(ds.psth, ds),
    "plot.coverage": plot.coverage,
    "plot.population": plot.population,
}


@pytest.mark.parametrize(("dim", "lacks"), [("neuron", "no cells"), ("stim", "no sounds")])
@pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES)
def test_an_analysis_of_an_empty_selection_says_what_it_lacks(
    analysis: Callable[[xr.Dataset], Any], dim: str, lacks: str, simulated_release: Path
) -> None:
    val = nat4xr.open_area("PEG", simulated_release, subset="val", progressbar=False)
    with pytest.raises(ValueError, match=f"is empty: it has {lacks}"):
        analysis(val.isel({dim: []}))


@pytest.mark.parametrize(("dim", "lacks"), [("neuron", "no cells"), ("stim", "no sounds")])
def test_spikes_of_an_empty_selection_are_not_binned(
    dim: str, lacks: str, simulated_release: Path
) -> None:
    spikes = nat4xr.open_spikes("PEG", simulated_release, progressbar=False)
    with pytest.raises(ValueError, match=f"spikes is empty: it has {lacks}"):
        nat4xr.bin_spikes(spikes.isel({dim: []}), dt_ms=10)


def test_a_fit_to_no_cells_says_so(simulated_release: Path) -> None:
    pytest.importorskip("torch")
    ds = nat4xr.open_area("PEG", simulated_release, progressbar=False)
    with pytest.raises(ValueError, match="ds is empty: it has no cells"):
        nat4xr.models.fit(ds.isel(neuron=[]), "ln")


def test_a_reference_without_sounds_is_named(simulated_release: Path) -> None:
    spectrogram = nat4xr.open_area("PEG", simulated_release, progressbar=False).spectrogram
    with pytest.raises(ValueError, match="reference is empty: it has no sounds"):
        preprocess.log_minmax(spectrogram, reference=spectrogram.isel(stim=[]))
