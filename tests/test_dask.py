"""Dask: chunks fit into memory, nothing is computed too early, and pickles are small."""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import nat4xr
from nat4xr import bins, metrics, preprocess
from nat4xr.io import assemble, nems

from .support.releases import POPULATION, SITES, TABLE

# What is done with a Dataset, lazily.
OPERATIONS: dict[str, Callable[[xr.Dataset], Any]] = {
    "a subset": lambda ds: ds.sel(subset="est"),
    "labels of both dims": lambda ds: ds.sel(subset="val", animal="TNC", auditory=True),
    "where": lambda ds: ds.where(ds.site == "DRX006b", drop=True),
    "mean": lambda ds: ds.response.mean("rep"),
    "arithmetic": lambda ds: ds.response - ds.psth,
    "groupby": lambda ds: ds.groupby("animal").mean(),
    "concat": lambda ds: xr.concat([ds, ds.isel(stim=slice(1))], "stim", data_vars="minimal"),
    "corrcoef": lambda ds: metrics.corrcoef(ds.psth, ds.psth),
    "fve": lambda ds: metrics.fve(ds.psth, ds.psth),
    "coherence": lambda ds: metrics.coherence(ds.psth, ds.psth),
    "signal_power": lambda ds: metrics.signal_power(ds.response),
    "noise_power": lambda ds: metrics.noise_power(ds.response),
    "snr": lambda ds: metrics.snr(ds.response),
    "cc_norm": lambda ds: metrics.cc_norm(ds.psth, ds.response),
    "cc_norm, hsu": lambda ds: metrics.cc_norm(ds.psth, ds.response, method="hsu"),
    "cc_max": lambda ds: metrics.cc_max(ds.response),
    "cc_max, hsu": lambda ds: metrics.cc_max(ds.response, method="hsu"),
    "r_ceiling": lambda ds: metrics.r_ceiling(ds.psth, ds.response),
    "r2_er": lambda ds: metrics.r2_er(ds.psth, ds.response),
    "ttrc": lambda ds: metrics.ttrc(ds.response),
    "minmax": lambda ds: preprocess.minmax(ds.psth),
    "zscore": lambda ds: preprocess.zscore(ds.psth),
    "invert": lambda ds: preprocess.invert(preprocess.zscore(ds.psth)),
    "smooth": lambda ds: preprocess.smooth(ds.response),
    "lagged": lambda ds: nat4xr.strf.lagged(ds.spectrogram),
}
every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


def opened(folder: Path, **options: Any) -> xr.Dataset:
    return nat4xr.open_area("A1", folder, progressbar=False, **options)


@pytest.fixture(scope="module")
def ds(simulated_release: Path) -> xr.Dataset:
    return opened(simulated_release)


@pytest.fixture(scope="module", params=[849, 4 * 849], ids=["A1", "four times A1"])
def full_size(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """All sounds and as many cells as asked for, none of which has fired."""
    n_cells, n_stims = request.param, 593
    cells = [f"{'DRX' if i % 2 else 'TNC'}{i // 100:03d}b-{i % 100:03d}-1" for i in range(n_cells)]
    stims = [f"STIM_{'00' * (i < 18)}cat{i}_rec1_{'x' * 24}_excerpt1.wav" for i in range(n_stims)]
    coords = {
        **assemble.sound_coords(stims),
        **assemble.cell_coords("A1", cells, [True] * n_cells, cells),
        **{"rep": np.arange(20), "time": np.arange(150) / 100, "freq": np.arange(18.0)},
    }
    header = xr.Dataset(
        {
            "spectrogram": (("stim", "freq", "time"), np.zeros((n_stims, 18, 150), np.float32)),
            "n_reps": (("stim", "neuron"), np.zeros((n_stims, n_cells), np.int8)),
        },
        coords,
        assemble.dataset_attrs("A1", {}),
    )
    starts = np.zeros(150 * n_stims + 1, np.int64)
    silence = nems.Raster(n_cells, starts, np.empty(0, np.uint16), np.empty(0, np.float32))
    trials = np.zeros((20, 18, 150, n_cells), np.uint16)
    data = assemble.AreaData(header, silence, 150 * np.arange(n_stims), trials)
    folder = tmp_path_factory.mktemp("full_size")
    for file in (POPULATION, SITES, TABLE):
        (folder / file).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "assemble", lambda *_args, **_options: data)
        return opened(folder)


# --- chunks ------------------------------------------------------------------------------------


@pytest.fixture
def largest_chunk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Tells how many MB the largest chunk takes of all arrays that dask has made since."""
    sizes = [0]
    create = da.Array.__new__

    def recorded(cls: type, *args: Any, **options: Any) -> da.Array:
        array = create(cls, *args, **options)
        sizes.append(array.dtype.itemsize * math.prod(max(c, default=0) for c in array.chunks))
        return array

    monkeypatch.setattr(da.Array, "__new__", recorded)
    return lambda: max(sizes) / 2**20


def test_no_chunk_of_a_whole_area_takes_more_than_64_mb(full_size) -> None:
    for array in full_size.data_vars.values():
        assert math.prod(map(max, array.chunks)) * array.dtype.itemsize <= 64 * 2**20


@every_operation
def test_no_chunk_on_the_way_takes_more_than_128_mb(full_size, operation, largest_chunk) -> None:
    with xr.set_options(use_flox=False):  # flox, where it is installed, joins chunks of cells
        operation(full_size)
    assert 0.1 < largest_chunk() <= 128


@pytest.mark.parametrize("dt_ms", [1, 2, 5])
def test_at_finer_bins_chunks_are_as_small(dt_ms: int) -> None:
    size = {**bins.FINE_CHUNKS, "time": 1500 // dt_ms}
    assert math.prod(size[dim] for dim in ("stim", "rep", "time", "neuron")) * 4 <= 64 * 2**20


def test_a_whole_area_and_its_subsets_have_even_chunks(full_size) -> None:
    """Zarr writes no others."""
    for ds in (full_size, full_size.sel(subset="est"), full_size.sel(animal="TNC", subset="val")):
        for sizes in ds.chunksizes.values():
            assert len(set(sizes[:-1])) <= 1
            assert sizes[-1] <= sizes[0]


def test_chunks_may_be_asked_for(simulated_release: Path) -> None:
    ds = opened(simulated_release, chunks={"neuron": 5})
    assert set(ds.chunksizes["neuron"][:-1]) == {5}


# --- laziness ----------------------------------------------------------------------------------


@every_operation
def test_nothing_is_computed_before_it_is_asked_for(ds, operation, no_compute) -> None:
    assert dask.is_dask_collection(operation(ds))


def test_drop_unrecorded_reads_nothing_but_the_coverage_map(
    ds, request: pytest.FixtureRequest
) -> None:
    val = ds.sel(subset="val")
    val["n_reps"] = val.n_reps.compute()
    request.getfixturevalue("no_compute")
    assert nat4xr.drop_unrecorded(val).sizes["neuron"] < ds.sizes["neuron"]


def test_an_area_is_opened_at_any_bin_width_without_computing(
    simulated_release: Path, no_compute
) -> None:
    for dt_ms in (5, 10, 50):
        assert dask.is_dask_collection(opened(simulated_release, dt_ms=dt_ms).response)


@every_operation
def test_results_are_those_without_dask(ds, operation, simulated_release: Path) -> None:
    plain = operation(opened(simulated_release, chunks=None))
    assert not dask.is_dask_collection(plain)
    xr.testing.assert_allclose(operation(ds).compute(), plain, rtol=1e-5)


@pytest.mark.parametrize("dt_ms", [5, 10, 50])
def test_without_chunks_dask_has_no_part(simulated_release: Path, dt_ms: int, no_compute) -> None:
    ds = opened(simulated_release, chunks=None, dt_ms=dt_ms)
    assert not ds.chunks
    val = nat4xr.drop_unrecorded(ds.sel(subset="val"))
    assert val.load().response.mean("rep").notnull().all()


# --- graphs ------------------------------------------------------------------------------------


def test_what_is_opened_twice_is_one_to_dask(ds, simulated_release: Path) -> None:
    assert ds.response.data.name == opened(simulated_release).response.data.name


@pytest.mark.parametrize("full_size", [849], indirect=True, ids=["A1"])
def test_a_pickle_holds_the_labels_and_no_data(full_size) -> None:
    assert len(pickle.dumps(full_size)) < 0.5e6
    assert len(pickle.dumps(full_size.sel(subset="val"))) < 0.3e6
    assert len(pickle.dumps(full_size.isel(neuron=0, stim=0))) < 3e4


@pytest.mark.parametrize("chunks", [{}, None], ids=["with dask", "without"])
def test_a_pickle_reads_from_the_file_again(simulated_release: Path, chunks: Any) -> None:
    val = opened(simulated_release, chunks=chunks).sel(subset="val", site="DRX006b")
    again = pickle.loads(pickle.dumps(val))
    assert len(pickle.dumps(val)) < 0.2 * val.nbytes
    xr.testing.assert_identical(again, val)
    xr.testing.assert_identical(again.sel(auditory=True), val.sel(auditory=True))
