"""open_area: the Dataset, and the converted file from which it is read."""

import errno
import json
import os
import pickle
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr

import nat4xr
from nat4xr import ReleaseError
from nat4xr.io import assemble as assembling
from nat4xr.io import cache as converted_files
from nat4xr.io.netcdf import open_with_labels

from .support import skip_but_in_ci
from .support.forks import Run, forks
from .support.releases import (
    POPULATION,
    SITES,
    SOUNDS,
    TABLE,
    tiny_psth,
    tiny_release,
    tiny_sites,
    trial_counts,
    write,
)

ROOT = Path(nat4xr.__file__).parents[1]
STORE, RECORD = "A1_nat4xr-v1.nc", "A1_nat4xr-v1.json"
LOCK = f".{STORE}.lock"


def opened(folder: Path, area: str = "A1", **options: object) -> xr.Dataset:
    return nat4xr.open_area(area, folder, download=False, progressbar=False, **options)


def content(folder: Path) -> np.ndarray:
    with opened(folder) as ds:
        return ds["response"].values


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tiny release."""
    return write(tiny_release(), tmp_path / "release")


@pytest.fixture(scope="module")
def _converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write(tiny_release(), tmp_path_factory.mktemp("converted") / "release")
    opened(folder).close()
    return folder


@pytest.fixture
def converted(_converted: Path, tmp_path: Path) -> Path:
    """A folder with a tiny release that has been opened before."""
    return shutil.copytree(_converted, tmp_path / "converted")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that stands in for a data folder that is read-only."""
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: tmp_path / "cache" / name)
    return tmp_path / "cache" / "nat4xr"


def listing(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


# --- the Dataset -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nems0_folder(nems0_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(nems0_release, tmp_path_factory.mktemp("nems0") / "release")


@pytest.fixture(scope="module", params=["A1", "PEG"])
def ds(request: pytest.FixtureRequest, nems0_folder: Path) -> xr.Dataset:
    return opened(nems0_folder, request.param)


@pytest.fixture(scope="module")
def reference(ds: xr.Dataset, nems0_release: Path) -> dict[str, np.ndarray]:
    """What NEMS0 itself reads from the release."""
    with np.load(nems0_release / "reference.npz") as file:
        area = f"{ds.attrs['area']}_"
        named = {name.removeprefix(area): file[name] for name in file if name.startswith(area)}
        return named | {"stims": file["all_stims"]}


def test_the_sounds_and_cells_are_those_that_nems0_finds(
    ds: xr.Dataset, reference: dict[str, np.ndarray]
) -> None:
    assert ds["stim"].values.tolist() == reference["stims"].tolist()
    assert ds["neuron"].values.tolist() == reference["cells"].tolist()
    assert ds["auditory"].values.tolist() == reference["auditory"].tolist()


@pytest.mark.reliability
def test_val_trials_are_those_that_nems0_reads(
    ds: xr.Dataset, reference: dict[str, np.ndarray]
) -> None:
    np.testing.assert_array_equal(ds["response"].sel(subset="val"), reference["trials"])


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["psth", "spectrogram"])
def test_the_population_recording_is_what_nems0_reads(
    name: str, ds: xr.Dataset, reference: dict[str, np.ndarray]
) -> None:
    np.testing.assert_array_equal(ds[name], reference[name].astype(np.float32))


def test_an_est_sound_has_one_repeat_which_is_its_psth(ds: xr.Dataset) -> None:
    est = ds.sel(subset="est")
    np.testing.assert_array_equal(est["response"].isel(rep=0), est["psth"])
    assert est["response"].isel(rep=slice(1, None)).isnull().all()


def test_a_val_sound_has_20_repeats_whose_mean_is_its_psth(ds: xr.Dataset) -> None:
    val = ds.sel(subset="val")
    assert (val["n_reps"] == 20).all()
    mean = val["response"].astype(np.float64).mean("rep").astype(np.float32)
    np.testing.assert_array_equal(mean, val["psth"])


VARIABLES = {
    "response": (("stim", "rep", "time", "neuron"), np.float32, "1"),
    "psth": (("stim", "time", "neuron"), np.float32, "1"),
    "spectrogram": (("stim", "freq", "time"), np.float32, None),
    "n_reps": (("stim", "neuron"), np.int8, "1"),
}
COORDINATES = {
    "stim": ("stim", np.str_, None),
    "subset": ("stim", np.str_, None),
    "category": ("stim", np.int16, None),
    "sound": ("stim", np.str_, None),
    "excerpt": ("stim", np.int16, None),
    "rep": ("rep", np.int64, None),
    "time": ("time", np.float64, "s"),
    "neuron": ("neuron", np.str_, None),
    "cell_id": ("neuron", np.str_, None),
    "area": ("neuron", np.str_, None),
    "site": ("neuron", np.str_, None),
    "animal": ("neuron", np.str_, None),
    "session": ("neuron", np.str_, None),
    "recording": ("neuron", np.int16, None),
    "electrode": ("neuron", np.int16, None),
    "unit_in_electrode": ("neuron", np.int16, None),
    "auditory": ("neuron", np.bool_, None),
    "trials_cell_id": ("neuron", np.str_, None),
    "freq": ("freq", np.float64, "Hz"),
}


def test_there_is_what_the_contract_lists_and_no_more(ds: xr.Dataset) -> None:
    assert list(ds.data_vars) == list(VARIABLES)
    assert set(ds.coords) == set(COORDINATES)
    assert set(ds.dims) == {"stim", "rep", "time", "neuron", "freq"}


@pytest.mark.parametrize("name", [*VARIABLES, *COORDINATES])
def test_each_variable_has_its_dims_kind_name_and_units(name: str, ds: xr.Dataset) -> None:
    dims, dtype, units = {**VARIABLES, **COORDINATES}[name]
    variable = ds[name]
    assert variable.dims == (dims if isinstance(dims, tuple) else (dims,))
    assert np.issubdtype(variable.dtype, dtype)
    assert len(variable.attrs["long_name"]) >= 5
    assert variable.attrs.get("units") == units


def test_the_axes_are_those_of_the_experiment(ds: xr.Dataset) -> None:
    np.testing.assert_array_equal(ds["time"], np.arange(150) / 100)
    np.testing.assert_allclose(ds["freq"], np.geomspace(200, 20_000, 18))
    assert ds["rep"].values.tolist() == list(range(20))
    time = {name: ds["time"].attrs[name] for name in ("bin_width", "sound_on", "sound_off")}
    assert time == {"bin_width": 0.01, "sound_on": 0.25, "sound_off": 1.25}


def test_the_labels_follow_from_the_names(ds: xr.Dataset) -> None:
    for cell in ds["neuron"]:
        site, electrode, unit = str(cell.values).split("-")
        assert cell["cell_id"] == cell
        assert cell["area"] == ds.attrs["area"]
        assert (cell["site"], cell["animal"], cell["session"]) == (site, site[:3], site[-1])
        assert cell["recording"] == int(site[3:-1])
        assert (cell["electrode"], cell["unit_in_electrode"]) == (int(electrode), int(unit))
        padded = "0" if site.startswith("TNC") else ""
        assert cell["trials_cell_id"] == f"{site}-{padded}{electrode}-{unit}"
    geese = ds["stim"].sel(sound="geese")[0]
    assert (geese["subset"], geese["category"], geese["excerpt"]) == ("val", 172, 1)


def test_the_source_licence_and_paper_are_named(ds: xr.Dataset) -> None:
    assert ds.attrs["area"] in ds.attrs["title"]
    assert "10.5281/zenodo.8044773" in ds.attrs["source"]
    assert ds.attrs["license"] == "CC-BY-4.0"
    assert "10.1371/journal.pcbi.1011110" in ds.attrs["references"]
    assert ds.attrs["nat4xr_version"] == nat4xr.__version__
    assert not ds.attrs["simulated"]


@pytest.mark.reliability
def test_simulated_data_say_so(simulated_release: Path) -> None:
    ds = opened(simulated_release)
    assert ds.attrs["simulated"]
    assert "SIMULATED" in ds.attrs["title"]
    assert "zenodo" not in ds.attrs["source"]
    assert "SIMULATED" in repr(ds)


def fitted(ds: xr.Dataset, _folder: Path) -> xr.Dataset:
    return nat4xr.strf.fit(real(ds.spectrogram), ds.psth, n_lags=3)


def real(data: Any) -> Any:
    """The same, as if it were recorded."""
    return data.assign_attrs(simulated=0)


MADE_OF_A_RELEASE: dict[str, Callable[[xr.Dataset, Path], xr.Dataset | xr.DataArray]] = {
    "selection": lambda ds, _: ds.sel(subset="val").response,
    "average": lambda ds, _: ds.response.mean("rep"),
    "fine bins": lambda _, folder: opened(folder, dt_ms=5).response,
    "fine PSTH": lambda _, folder: opened(folder, dt_ms=5).psth,
    "coarse bins": lambda _, folder: opened(folder, dt_ms=50).response,
    "spike times": lambda _, folder: nat4xr.open_spikes("A1", folder).spike_time,
    "binned spikes": lambda _, folder: nat4xr.bin_spikes(nat4xr.open_spikes("A1", folder), dt_ms=5),
    "ceiling": lambda ds, _: nat4xr.metrics.cc_max(ds.response),
    "score": lambda ds, _: nat4xr.metrics.corrcoef(ds.psth, ds.psth),
    "score of a prediction": lambda ds, _: nat4xr.metrics.corrcoef(ds.psth, real(ds.psth)),
    "evaluation of a prediction": lambda ds, _: nat4xr.benchmark.evaluate(ds.psth, real(ds)),
    "model": fitted,
    "prediction": lambda ds, folder: nat4xr.strf.predict(fitted(ds, folder), real(ds.spectrogram)),
}


@pytest.mark.reliability
@pytest.mark.parametrize("made", MADE_OF_A_RELEASE.values(), ids=MADE_OF_A_RELEASE)
def test_what_is_made_of_simulated_data_says_so(
    made: Callable[[xr.Dataset, Path], xr.Dataset | xr.DataArray], simulated_release: Path
) -> None:
    assert made(opened(simulated_release), simulated_release).attrs["simulated"]


@pytest.mark.parametrize("subset", ["est", "val"])
def test_a_subset_is_what_sel_gives(subset: str, nems0_folder: Path) -> None:
    ds = opened(nems0_folder, subset=subset)
    assert set(ds["subset"].values) == {subset}
    assert ds.sizes["rep"] == {"est": 1, "val": 20}[subset]
    whole = opened(nems0_folder).sel(subset=subset).isel(rep=slice(ds.sizes["rep"]))
    xr.testing.assert_identical(ds, whole)


def test_the_est_sounds_alone_take_no_memory_for_repeats_there_were_not(
    nems0_folder: Path,
) -> None:
    est = opened(nems0_folder, subset="est").load()
    assert est["response"].nbytes == est["psth"].nbytes
    dropped = nat4xr.drop_unrecorded(opened(nems0_folder).sel(subset="est"))
    xr.testing.assert_equal(dropped.response, est.response)


def test_data_are_lazy_with_dask_and_without(nems0_folder: Path) -> None:
    assert all(opened(nems0_folder)[name].chunks for name in VARIABLES)
    assert opened(nems0_folder, chunks={"neuron": 1})["psth"].chunks[-1] == (1,) * 9
    lazy = opened(nems0_folder, chunks=None)
    assert not any(lazy[name].chunks or lazy[name].variable._in_memory for name in VARIABLES)
    xr.testing.assert_identical(lazy.compute(), opened(nems0_folder).compute())


@pytest.mark.parametrize("dim", ["stim", "rep", "time", "neuron"])
def test_missing_trials_are_nan_in_any_order_of_the_selection(dim: str, nems0_folder: Path) -> None:
    order = {dim: [2, 0, 1, 1]}
    lazy = opened(nems0_folder, chunks=None)["response"].isel(order)
    xr.testing.assert_identical(lazy, opened(nems0_folder)["response"].compute().isel(order))


def test_a_converted_file_is_written_again_with_its_missing_trials(
    nems0_folder: Path, tmp_path: Path
) -> None:
    opened(nems0_folder)
    (file,) = nems0_folder.glob("A1_nat4xr-v*.nc")
    with open_with_labels(file) as ds:
        ds.to_netcdf(tmp_path / "again.nc")
        with xr.open_dataset(tmp_path / "again.nc") as again:
            xr.testing.assert_equal(again["response"], ds["response"])


def test_trials_are_stored_without_loss(tmp_path: Path) -> None:
    sites = tiny_sites(21)
    published = tiny_psth(sites)
    for value in (7.0, 0.5, -1.0, 255.0, 1e6):  # of an est sound; not all are counts, or fit a byte
        published[3, 4, 1] = value
        folder = write(tiny_release(sites, psth=published), tmp_path / str(value))
        expected = trial_counts(sites).astype(np.float32)
        expected[3, 0] = published[3]
        np.testing.assert_array_equal(content(folder), expected)


# --- both areas --------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"subset": "est"}, {"dt_ms": 50}, {"dt_ms": 5}])
def test_both_areas_are_one_after_the_other(
    options: dict[str, Any], nems0_folder: Path, no_compute: None
) -> None:
    both = nat4xr.open_areas(nems0_folder, download=False, progressbar=False, **options)
    assert all(variable.chunks for variable in both.data_vars.values())
    assert both["area"].values.tolist() == ["A1"] * 9 + ["PEG"] * 6
    assert dict(both.dtypes) == dict(opened(nems0_folder, **options).dtypes)


@pytest.mark.parametrize("area", ["A1", "PEG"])
def test_of_both_areas_each_has_its_own_numbers(area: str, nems0_folder: Path) -> None:
    both = nat4xr.open_areas(nems0_folder, download=False, progressbar=False)
    one = opened(nems0_folder, area)
    xr.testing.assert_equal(both.sel(area=area), one)


def test_of_both_areas_the_attributes_hold_for_both(nems0_folder: Path) -> None:
    both = nat4xr.open_areas(nems0_folder, download=False, progressbar=False)
    assert "area" not in both.attrs
    assert "A1 and PEG" in both.attrs["title"]
    assert both.attrs["license"] == "CC-BY-4.0"
    assert both["response"].attrs == opened(nems0_folder)["response"].attrs


def test_both_areas_are_exported_pickled_and_closed(nems0_folder: Path, tmp_path: Path) -> None:
    both = nat4xr.open_areas(nems0_folder, chunks={"neuron": 4}, progressbar=False)
    both.to_zarr(tmp_path / "both.zarr")
    both.to_netcdf(tmp_path / "both.nc")
    with xr.open_zarr(tmp_path / "both.zarr") as back, xr.open_dataset(tmp_path / "both.nc") as nc:
        for export in (back, nc):
            xr.testing.assert_equal(nat4xr.set_labels(export), both)
    xr.testing.assert_equal(pickle.loads(pickle.dumps(both)), both)
    both.close()


@pytest.fixture
def areas(nems0_folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, xr.Dataset]:
    """The areas that open_areas finds, to be changed."""
    areas = {area: opened(nems0_folder, area) for area in ("A1", "PEG")}
    monkeypatch.setattr("nat4xr.area.open_area", lambda area, *_, **__: areas[area])
    return areas


def test_a_sound_or_repeat_that_one_area_lacks_is_missing_there(
    areas: dict[str, xr.Dataset],
) -> None:
    whole = dict(areas)
    areas["A1"] = areas["A1"].isel(stim=slice(None, 20), rep=slice(15))
    areas["PEG"] = areas["PEG"].isel(stim=slice(None, 5, -1))
    both = nat4xr.open_areas()
    for area, cells in both.groupby("area"):
        part = areas[area].load()
        own = cells.sel(stim=part.stim.values, rep=part.rep.values)
        np.testing.assert_array_equal(own.response, part.response)
        other = cells.drop_sel(stim=part.stim.values)
        assert other.sizes["stim"] > 0
        assert other.response.isnull().all()
        assert (other.n_reps == 0).all()
    assert both["n_reps"].dtype == np.int8
    expected = whole["A1"].spectrogram.sel(stim=both.stim.values)
    np.testing.assert_array_equal(both["spectrogram"], expected)


def test_areas_of_different_times_are_not_concatenated(areas: dict[str, xr.Dataset]) -> None:
    areas["PEG"] = areas["PEG"].coarsen(time=2).sum()
    with pytest.raises(ValueError, match="'time'"):
        nat4xr.open_areas()


def test_areas_that_label_a_sound_differently_are_not_concatenated(
    areas: dict[str, xr.Dataset],
) -> None:
    plain = nat4xr.drop_label_index(areas["PEG"])
    areas["PEG"] = nat4xr.set_labels(plain.assign_coords(excerpt=plain.excerpt + 1))
    with pytest.raises(ValueError, match="excerpt"):
        nat4xr.open_areas()


def test_both_areas_without_dask_are_refused(nems0_folder: Path) -> None:
    with pytest.raises(ValueError, match="chunks=None"):
        nat4xr.open_areas(nems0_folder, chunks=None)


# --- wrong arguments ---------------------------------------------------------------------------


OPENERS: dict[str, Callable[..., Any]] = {
    "open_area": lambda path, **options: nat4xr.open_area("A1", path, **options),
    "open_areas": nat4xr.open_areas,
    "open_spikes": lambda path, **options: nat4xr.open_spikes("A1", path, **options),
    "open_table": lambda path, **options: nat4xr.open_table("A1", path, **options),
    "open_waveforms": lambda path, **options: nat4xr.open_waveforms(path=path, **options),
}


@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_a_mistyped_folder_is_named_and_not_made(
    opener: Callable[..., Any], download: bool, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)mistyped.*nat4xr fetch \w+ --path"):
        opener(tmp_path / "mistyped" / "folder", download=download)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "function",
    [
        lambda ds: nat4xr.benchmark.evaluate(ds.psth, ds.response),
        lambda ds: nat4xr.benchmark.run_strf(ds.response, "results"),
        lambda ds: nat4xr.count_cells(ds.response),
        lambda ds: nat4xr.preprocess.smooth(ds),
        lambda ds: nat4xr.metrics.snr(ds),
        lambda ds: nat4xr.rate(ds.psth.values),
    ],
)
def test_a_dataset_for_an_array_or_the_other_way_round_is_said_to_be_that(
    function: Callable[[xr.Dataset], Any], nems0_folder: Path
) -> None:
    with pytest.raises(TypeError, match=r"not (a )?(DataArray|Dataset|ndarray)"):
        function(opened(nems0_folder))


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS)
def test_a_file_in_the_place_of_the_folder_is_named(
    opener: Callable[..., Any], folder: Path
) -> None:
    with pytest.raises(NotADirectoryError, match=f"{TABLE} is a file"):
        opener(folder / TABLE)


@pytest.mark.parametrize("area", ["V1", "", "../A1", None])
def test_an_area_that_is_not_there_lists_those_that_are(area: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no area .*'A1', 'PEG'"):
        opened(folder, area)


@pytest.mark.parametrize(
    "opener",
    [nat4xr.open_area, nat4xr.open_spikes, nat4xr.open_table],
    ids=lambda opener: opener.__name__,
)
def test_an_area_can_be_given_in_any_case(
    opener: Callable[..., xr.Dataset], nems0_folder: Path
) -> None:
    assert set(opener("peg", nems0_folder)["area"].values) == {"PEG"}


def test_a_subset_that_is_not_there_lists_those_that_are(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"'all', 'est' or 'val', not 'test'"):
        opened(folder, subset="test")


def test_missing_files_are_listed_with_the_folder_and_the_command(tmp_path: Path) -> None:
    write({TABLE: tiny_release()[TABLE]}, tmp_path)
    with pytest.raises(FileNotFoundError) as error:
        opened(tmp_path)
    message = str(error.value)
    assert POPULATION in message
    assert SITES in message
    assert TABLE not in message
    assert f"nat4xr fetch A1 --path {tmp_path}" in message
    assert listing(tmp_path) == {TABLE}


@pytest.mark.parametrize("file", [POPULATION, SITES, TABLE])
def test_a_broken_file_is_named_and_leaves_nothing_behind(file: str, folder: Path) -> None:
    (folder / file).write_bytes(b"a page that says 404")
    for _ in range(2):
        with pytest.raises(ReleaseError, match=file):
            opened(folder)
        assert listing(folder) == {POPULATION, SITES, TABLE, LOCK}


# --- the converted file ------------------------------------------------------------------------


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The areas that were converted, in order."""
    areas = []
    assemble = assembling.assemble

    def counted(area: str, *args: object, **options: object) -> object:
        areas.append(area)
        return assemble(area, *args, **options)

    monkeypatch.setattr(assembling, "assemble", counted)
    return areas


def test_an_area_is_converted_once(folder: Path, conversions: list[str]) -> None:
    first, second = content(folder), content(folder)
    np.testing.assert_array_equal(first, second)
    assert conversions == ["A1"]
    assert listing(folder) == {POPULATION, SITES, TABLE, STORE, RECORD, LOCK}


@pytest.mark.reliability
@pytest.mark.parametrize("file", [POPULATION, SITES, TABLE])
def test_it_is_converted_again_when_a_source_changes(
    file: str, converted: Path, conversions: list[str]
) -> None:
    sites = tiny_sites()
    sites["ARM029a"].spikes["ARM029a-04-1"] = []
    write({file: tiny_release(sites, psth=tiny_psth(sites) + 1)[file]}, converted)
    os.utime(converted / file, (0, 0))  # the clock was set back: older is a change as well
    content(converted)
    assert len(conversions) == 1
    with opened(converted) as ds:
        assert len(conversions) == 1
        data = nat4xr.io.assemble.assemble("A1", nat4xr.io.release.find_area("A1", converted))
        np.testing.assert_array_equal(ds["psth"], data.psth(slice(0, 4)))
        np.testing.assert_array_equal(ds["response"].isel(rep=5), data.response(slice(0, 4), 5))


def test_it_is_converted_again_for_another_schema_and_the_old_file_is_left_be(
    converted: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (converted / STORE).read_bytes()
    monkeypatch.setattr(converted_files, "SCHEMA", 2)
    content(converted)
    assert len(conversions) == 1
    assert (converted / "A1_nat4xr-v2.nc").exists()
    assert (converted / STORE).read_bytes() == before


@pytest.mark.reliability
def test_another_version_of_the_same_schema_shares_the_file(
    converted: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converted_files, "__version__", "999.0")
    np.testing.assert_array_equal(content(converted), trial_counts(tiny_sites()))
    assert conversions == []


@pytest.mark.reliability
def test_what_is_open_can_be_read_while_a_new_file_takes_its_place(converted: Path) -> None:
    old = opened(converted)
    old["response"][0, 0, 0, 0].load()
    psth = np.zeros((len(SOUNDS), 20, 3))
    write({POPULATION: tiny_release(psth=psth)[POPULATION]}, converted)
    assert (opened(converted)["psth"] == 0).all()
    np.testing.assert_array_equal(old["response"], trial_counts(tiny_sites()))


def replace(folder: Path) -> None:
    """Have the converted file replaced by one of another release: its PSTH is 0 everywhere."""
    psth = np.zeros((len(SOUNDS), 20, 3))
    write({POPULATION: tiny_release(psth=psth)[POPULATION]}, folder)
    assert (opened(folder)["psth"] == 0).all()


REPLACED = rf"{STORE} has been replaced since it was opened: .*open_area"


@pytest.mark.parametrize("chunks", [{}, None], ids=["with dask", "without"])
def test_what_was_pickled_does_not_read_a_file_that_took_its_place(
    chunks: Any, converted: Path
) -> None:
    sent = pickle.dumps(opened(converted, chunks=chunks))
    replace(converted)
    received = pickle.loads(sent)
    with pytest.raises(OSError, match=REPLACED):
        received["psth"].load()


@pytest.mark.parametrize("chunks", [{}, None], ids=["with dask", "without"])
def test_what_xarray_closed_does_not_read_a_file_that_took_its_place(
    chunks: Any, converted: Path, tmp_path: Path
) -> None:
    old = opened(converted, chunks=chunks)
    replace(converted)
    with xr.set_options(file_cache_maxsize=1):
        content(converted)  # this closes the other
        with pytest.raises(OSError, match=REPLACED):
            old["spectrogram"].load()


def test_spikes_do_not_read_a_file_that_took_its_place(folder: Path) -> None:
    def opened_spikes() -> xr.Dataset:
        return nat4xr.open_spikes("A1", folder, download=False, progressbar=False)

    sent = pickle.dumps(opened_spikes())
    write({SITES: tiny_release(tiny_sites(19))[SITES]}, folder)
    opened_spikes()["spike_time"].load()
    with pytest.raises(OSError, match=r"A1_spikes_nat4xr-v1\.nc has been replaced.*open_spikes"):
        pickle.loads(sent)["spike_time"].load()


@pytest.mark.reliability
def test_a_chunk_that_is_damaged_while_the_file_is_open_is_an_error(converted: Path) -> None:
    old = opened(converted)
    with h5py.File(converted / STORE) as file:
        chunk = file["psth"].id.get_chunk_info(0)
    changed = (converted / STORE).stat().st_mtime_ns
    with open(converted / STORE, "r+b") as file:
        file.seek(chunk.byte_offset + chunk.size // 2)
        file.write(bytes(20))
    os.utime(converted / STORE, ns=(0, changed))  # as if the disk had done it
    assert not np.isnan(old["response"][0, 0, 0, 0])
    with pytest.raises(OSError, match=rf"{STORE} is damaged.*open_area"):
        old["psth"].load()


@pytest.mark.reliability
def test_what_is_open_never_reads_a_file_that_was_written_over_it(
    converted: Path, tmp_path: Path
) -> None:
    old = opened(converted)
    other = write(tiny_release(psth=np.ones((len(SOUNDS), 20, 3))), tmp_path / "other")
    opened(other)
    (converted / STORE).write_bytes((other / STORE).read_bytes())
    with pytest.raises(OSError, match=REPLACED):
        old["psth"].load()


def test_a_file_that_is_gone_is_named_with_what_to_do(converted: Path) -> None:
    sent = pickle.dumps(opened(converted))
    (converted / STORE).unlink()
    with pytest.raises(OSError, match=rf"{STORE} has been removed .*open_area"):
        pickle.loads(sent)["psth"].load()


def test_the_same_content_made_again_is_read_as_before(
    converted: Path, conversions: list[str]
) -> None:
    sent = pickle.dumps(opened(converted))
    os.utime(converted / TABLE, (0, 0))  # a copy without its times
    opened(converted)
    assert conversions == ["A1"]
    np.testing.assert_array_equal(pickle.loads(sent)["response"], trial_counts(tiny_sites()))


def test_a_record_without_the_places_of_chunks_is_as_good(converted: Path) -> None:
    record = json.loads((converted / RECORD).read_text())
    del record["chunks"]
    (converted / RECORD).write_text(json.dumps(record))
    np.testing.assert_array_equal(opened(converted)["response"], trial_counts(tiny_sites()))


LOCKED = """
import sys
{}
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("import h5py; file = h5py.File({!r}, 'r+')", "open for writing in another process"),
        ("import netCDF4; file = netCDF4.Dataset({!r}, 'a')", "another process"),
        (
            "import fcntl; file = open({!r}); fcntl.flock(file, fcntl.LOCK_EX)",
            "cannot be opened .*another process.*HDF5_USE_FILE_LOCKING",
        ),
    ],
    ids=["h5py", "netCDF4", "flock"],
)
@pytest.mark.parametrize("gone", [[], [POPULATION, SITES, TABLE]], ids=["", "alone"])
@pytest.mark.skipif(sys.platform == "win32", reason="there is no flock")
def test_a_file_that_another_process_has_locked_is_not_called_damaged(
    gone: list[str], how: str, message: str, converted: Path, conversions: list[str]
) -> None:
    remove(converted, *gone)
    program = LOCKED.format(how.format(str(converted / STORE)))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        try:
            with pytest.raises(OSError, match=rf"{STORE} .*{message}") as caught:
                opened(converted)
        finally:
            process.stdin.close()
    assert "damaged" not in str(caught.value)
    assert conversions == []
    if not gone:  # what the other process wrote is noticed
        np.testing.assert_array_equal(content(converted), trial_counts(tiny_sites()))


def flip(file: Path, at: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1 << random.Random(at).randrange(8)
    file.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut short": lambda folder: os.truncate(folder / STORE, 20_000),
    "by one byte": lambda folder: os.truncate(folder / STORE, (folder / STORE).stat().st_size - 1),
    "emptied": lambda folder: (folder / STORE).write_bytes(b""),
    "zeroed": lambda folder: (folder / STORE).write_bytes(bytes((folder / STORE).stat().st_size)),
    **{
        f"a bit flipped at {at}": lambda folder, at=at: flip(folder / STORE, at)
        for at in (0, 0.1, 0.33, 0.5, 0.8, 1)
    },
    "no record": lambda folder: (folder / RECORD).unlink(),
    "an empty record": lambda folder: (folder / RECORD).write_bytes(b""),
    "a zeroed record": lambda folder: (folder / RECORD).write_bytes(bytes(100)),
    "a record of another kind": lambda folder: (folder / RECORD).write_text("[1]"),
    "a record of the wrong sum": lambda folder: (folder / RECORD).write_text(
        json.dumps(json.loads((folder / RECORD).read_text()) | {"crc32": 0})
    ),
    "a record without sum": lambda folder: (folder / RECORD).write_text(
        json.dumps({"bytes": (folder / STORE).stat().st_size})
    ),
}


@pytest.mark.reliability
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_noticed_and_made_again(
    damage: Callable[[Path], object], converted: Path, conversions: list[str]
) -> None:
    damage(converted)
    np.testing.assert_array_equal(content(converted), trial_counts(tiny_sites()))
    np.testing.assert_array_equal(content(converted), trial_counts(tiny_sites()))
    assert conversions == ["A1"]


def test_the_file_of_another_release_is_not_taken_for_its_own(
    converted: Path, tmp_path: Path, conversions: list[str]
) -> None:
    sites = tiny_sites(19)
    other = write(tiny_release(sites), tmp_path / "other")
    content(other)
    shutil.copy(converted / STORE, other)  # its record stays
    np.testing.assert_array_equal(content(other)[:, :19], trial_counts(sites))
    for file in (STORE, RECORD):
        shutil.copy(converted / file, other)
    np.testing.assert_array_equal(content(other)[:, :19], trial_counts(sites))
    assert len(conversions) == 3


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


@pytest.mark.parametrize("changed", [POPULATION, SITES, TABLE])
@pytest.mark.parametrize("kind", ["area", "spikes"])
def test_a_source_that_changed_is_noticed_when_another_is_gone(
    kind: str, changed: str, folder: Path
) -> None:
    opener = {"area": nat4xr.open_area, "spikes": nat4xr.open_spikes}[kind]
    opener("A1", folder, download=False, progressbar=False).close()
    os.utime(folder / changed, (0, 0))
    for gone in {POPULATION, SITES, TABLE} - {changed}:
        (folder / gone).rename(folder / "elsewhere")
        with pytest.raises(FileNotFoundError, match=rf"_nat4xr-v1\.nc .*{gone} not found"):
            opener("A1", folder, download=False, progressbar=False)
        (folder / "elsewhere").rename(folder / gone)


@pytest.mark.parametrize("gone", [[SITES], [POPULATION, TABLE], [POPULATION, SITES, TABLE]])
def test_the_sources_are_not_needed_any_more(gone: list[str], converted: Path) -> None:
    remove(converted, *gone)
    np.testing.assert_array_equal(content(converted), trial_counts(tiny_sites()))


@pytest.mark.reliability
def test_a_damaged_file_without_sources_is_not_opened(converted: Path) -> None:
    remove(converted, POPULATION, SITES, TABLE)
    flip(converted / STORE, 0.5)
    with pytest.raises(FileNotFoundError, match=rf"(?s){STORE} is damaged.*{POPULATION}.*fetch A1"):
        opened(converted)


def test_a_converted_file_may_be_a_link_to_where_it_is_kept(
    converted: Path, tmp_path: Path, conversions: list[str]
) -> None:
    (converted / STORE).rename(tmp_path / "kept.nc")
    (converted / STORE).symlink_to(tmp_path / "kept.nc")
    np.testing.assert_array_equal(content(converted), trial_counts(tiny_sites()))
    assert conversions == []


@pytest.fixture
def read_only(folder: Path) -> Iterator[Path]:
    """The release in a folder that cannot be written to, not even by root."""
    folder.chmod(0o555)
    mounted = False
    if os.access(folder, os.W_OK):  # we are root
        command = ["mount", "--bind", "-o", "ro", str(folder), str(folder)]
        mounted = bool(shutil.which("mount")) and subprocess.run(command).returncode == 0
        if not mounted:
            skip_but_in_ci("root cannot make a folder read-only here")
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
    folder.chmod(0o755)


@pytest.mark.reliability
def test_beside_a_read_only_folder_the_file_is_put_into_the_cache(
    read_only: Path, cache: Path, conversions: list[str]
) -> None:
    np.testing.assert_array_equal(content(read_only), trial_counts(tiny_sites()))
    content(read_only)
    assert conversions == ["A1"]
    assert listing(read_only) == {POPULATION, SITES, TABLE}
    (place,) = cache.iterdir()
    assert listing(place) == {STORE, RECORD, LOCK}


def test_two_read_only_folders_do_not_share_a_file(
    tmp_path: Path, cache: Path, conversions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converted_files, "_is_writable", lambda folder: False)
    for name, psth in (("one", 1.0), ("two", 2.0)):
        write(tiny_release(psth=np.full((len(SOUNDS), 20, 3), psth)), tmp_path / name)
    for _ in range(2):
        assert (opened(tmp_path / "one")["psth"] == 1).all()
        assert (opened(tmp_path / "two")["psth"] == 2).all()
    assert len(conversions) == 2
    assert len(list(cache.iterdir())) == 2


def test_the_file_in_the_cache_serves_when_the_sources_are_gone(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converted_files, "_is_writable", lambda folder: False)
    whole = content(folder)
    remove(folder, POPULATION, SITES, TABLE)
    np.testing.assert_array_equal(content(folder), whole)


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["with spaces", "données 音 ø", "#1%20&=", "it's [a-z]"])
def test_a_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    folder = write(tiny_release(), tmp_path / name)
    np.testing.assert_array_equal(content(folder), trial_counts(tiny_sites()))
    assert STORE in listing(folder)


def test_a_folder_may_be_named_by_a_text_and_by_the_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    expected = opened(folder).compute()
    xr.testing.assert_identical(opened("~/release").compute(), expected)
    monkeypatch.setenv("NAT4XR_DATA_DIR", str(folder))
    xr.testing.assert_identical(opened(None).compute(), expected)


@pytest.mark.reliability
@pytest.mark.parametrize("where", ["the folder itself", "the folder above"])
def test_a_folder_whose_name_is_no_text_is_a_clear_error(
    where: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = folder.with_name(os.fsdecode(b"release\xff"))
    try:
        folder.rename(other)
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    monkeypatch.chdir(other)
    with pytest.raises(OSError, match=r"release\\udcff.*not UTF-8.*NAT4XR_DATA_DIR"):
        opened(other if where == "the folder itself" else Path("."))


def test_a_folder_that_is_a_link_to_itself_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "release").symlink_to(tmp_path / "release")
    with pytest.raises(FileNotFoundError, match=rf"{POPULATION}.*not found"):
        opened(tmp_path / "release")


# --- faults ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="there is no RLIMIT_FSIZE")
@pytest.mark.parametrize("kilobytes", [0, 1, 10, 20, 40])
def test_a_full_disk_is_a_clear_error_and_leaves_all_as_it_was(
    kilobytes: int, converted: Path
) -> None:
    import resource

    old = (converted / STORE).read_bytes(), (converted / RECORD).read_bytes()
    os.utime(converted / TABLE, (0, 0))
    before = listing(converted)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000 * kilobytes, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"{STORE} could not be written.*free"):
            opened(converted)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ((converted / STORE).read_bytes(), (converted / RECORD).read_bytes()) == old
    assert listing(converted) == before
    np.testing.assert_array_equal(content(converted), trial_counts(tiny_sites()))


@pytest.mark.reliability
@pytest.mark.parametrize("source", [POPULATION, SITES, TABLE])
def test_a_source_that_cannot_be_read_is_named_and_not_said_to_be_written(
    source: str, folder: Path
) -> None:
    def refuse(event: str, arguments: tuple[Any, ...]) -> None:  # root could read anything
        if event == "open" and closed and str(arguments[0]) == str(folder / source):
            raise PermissionError(13, "Permission denied", str(folder / source))

    closed = [True]
    sys.addaudithook(refuse)
    try:
        with pytest.raises(OSError, match=rf"^{folder / source} could not be read: Permission"):
            opened(folder)
    finally:
        closed.clear()


@pytest.mark.reliability
@pytest.mark.parametrize("seconds", [-(10**8), 10**8])
def test_a_clock_that_was_set_does_not_matter(
    seconds: int, converted: Path, conversions: list[str]
) -> None:
    for name in (STORE, RECORD):
        os.utime(converted / name, (time.time() + seconds,) * 2)
    np.testing.assert_array_equal(content(converted), trial_counts(tiny_sites()))
    assert conversions == []


@pytest.mark.reliability
@pytest.mark.parametrize("name", [STORE, RECORD])
def test_a_folder_that_is_in_the_way_is_a_clear_error(name: str, folder: Path) -> None:
    (folder / name).mkdir()
    with pytest.raises(OSError, match=rf"{name} is a folder: remove it"):
        opened(folder)
    assert (folder / name).is_dir()


@pytest.mark.reliability
def test_where_neither_the_folder_nor_the_cache_can_be_written_to_both_are_named(
    read_only: Path, cache: Path
) -> None:
    cache.parent.touch()  # a file, where a folder is to be
    with pytest.raises(OSError, match=rf"{read_only} .*{cache}.*NAT4XR_DATA_DIR.*permissions"):
        opened(read_only)


def test_threads_find_out_at_once_whether_a_folder_is_writable(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(converted_files._is_writable, [tmp_path] * 2000))
    assert listing(tmp_path) == set()


# --- machines as clusters have them ------------------------------------------------------------

NO_LOCKS = """
#include <errno.h>
#include <stdlib.h>
int flock(int file, int operation) { errno = atoi(getenv("FLOCK_ERRNO")); return -1; }
"""

OPENED = """
import sys, nat4xr
nat4xr.open_spikes("A1", sys.argv[1], download=False, progressbar=False).close()
print(float(nat4xr.open_area("A1", sys.argv[1], download=False, progressbar=False).psth.sum()))
"""


@pytest.fixture(scope="module")
def no_locks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that takes flock() from whoever loads it, HDF5 included."""
    folder = tmp_path_factory.mktemp("no_locks")
    (folder / "flock.c").write_text(NO_LOCKS)
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / "flock.so"), str(folder / "flock.c")]
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("there is no C compiler, or no LD_PRELOAD")
    subprocess.run(command, check=True)
    return folder / "flock.so"


def run_opened(folder: Path, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """Open a release cold in a process with another environment; None removes a variable."""
    changed = {key: value for key, value in environment.items() if value is not None}
    kept = {key: value for key, value in os.environ.items() if key not in environment}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", OPENED, str(folder)],
        env={**kept, **changed, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
    )


def assert_opened(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(float(opened(folder)["psth"].sum()))


@pytest.mark.reliability
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_works_once_hdf5_does_without(
    number: int, folder: Path, no_locks: Path
) -> None:
    options = {"LD_PRELOAD": str(no_locks), "FLOCK_ERRNO": str(number)}
    done = run_opened(folder, HDF5_USE_FILE_LOCKING="FALSE", **options)
    assert_opened(done, folder)


@pytest.mark.reliability
@pytest.mark.parametrize("state", ["cold", "warm"])
def test_where_hdf5_insists_on_locks_the_file_and_the_variable_are_named(
    state: str, folder: Path, no_locks: Path
) -> None:
    if state == "warm":
        nat4xr.open_spikes("A1", folder, download=False, progressbar=False).close()
    options = {"LD_PRELOAD": str(no_locks), "FLOCK_ERRNO": str(errno.ENOLCK)}
    done = run_opened(folder, HDF5_USE_FILE_LOCKING="TRUE", **options)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "_nat4xr-v1.nc" in last
    assert "HDF5_USE_FILE_LOCKING to FALSE" in last
    assert not list(folder.glob(".*.part"))


@pytest.mark.reliability
@pytest.mark.parametrize("home", [None, "/nonexistent", ""])
def test_no_home_folder_is_needed_where_the_data_folder_can_be_written_to(
    home: str | None, folder: Path
) -> None:
    assert_opened(run_opened(folder, HOME=home, XDG_CACHE_HOME=None), folder)
    assert not (folder / "~").exists()


# What will be needed is imported first: Python itself may be closed to other users.
NOBODY = """
for name in ("HOME", "USER"):
    os.environ.pop(name, None)
os.environ.update(LOGNAME="", XDG_CACHE_HOME="")
float(nat4xr.open_area("A1", {first!r}, progressbar=False).psth.sum())
nat4xr.open_spikes("A1", {first!r}, progressbar=False).close()
os.chdir("/")
for stream, file in ((sys.stdout, {stdout!r}), (sys.stderr, {stderr!r})):
    os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
signal.alarm(60)
os.setgroups([])
os.setgid(54321)
os.setuid(54321)  # whom /etc/passwd does not know
sys.argv = ["-c", {folder!r}]
{code}
sys.stdout.flush()
"""


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A release that another user may read, in a folder like /tmp."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can be anybody")
    with tempfile.TemporaryDirectory() as shared:  # pytest's own are closed to others
        folder = write(tiny_release(), Path(shared) / "release")
        os.chmod(shared, 0o755)
        os.chmod(folder, 0o1777)
        yield folder


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    if sys.platform == "win32":
        pytest.skip("there is no fork")
    with forks() as run:
        yield run


def run_as_nobody(
    code: str, folder: Path | str, tmp_path: Path, run: Run
) -> subprocess.CompletedProcess[str]:
    stdout, stderr = tmp_path / "stdout", tmp_path / "stderr"
    files = {"first": write(tiny_release(), tmp_path / "first"), "folder": folder}
    files |= {"stdout": stdout, "stderr": stderr}
    names = {name: str(file) for name, file in files.items()}
    (status,) = run(NOBODY.format(code=code, **names))
    return subprocess.CompletedProcess(code, status, stdout.read_text(), stderr.read_text())


@pytest.mark.reliability
def test_an_unknown_user_without_a_home_folder_can_open(
    open_to_all: Path, run: Run, tmp_path: Path
) -> None:
    assert_opened(run_as_nobody(OPENED, open_to_all, tmp_path, run), open_to_all)


@pytest.mark.reliability
def test_an_unknown_user_without_a_home_folder_is_told_to_name_one(
    open_to_all: Path, run: Run, tmp_path: Path
) -> None:
    done = run_as_nobody("nat4xr.open_area('A1', download=False)", "", tmp_path, run)
    assert re.search(r"no home folder.*NAT4XR_DATA_DIR", done.stderr.splitlines()[-1])


@pytest.mark.reliability
def test_an_unknown_user_reads_what_another_converted_and_is_told_whose_it_is_if_it_is_stale(
    open_to_all: Path, run: Run, tmp_path: Path
) -> None:
    content(open_to_all)
    nat4xr.open_spikes("A1", open_to_all, download=False, progressbar=False).close()
    assert_opened(run_as_nobody(OPENED, open_to_all, tmp_path, run), open_to_all)
    os.utime(open_to_all / TABLE, (0, 0))
    done = run_as_nobody(OPENED, open_to_all, tmp_path, run)
    assert re.search(r"_nat4xr-v1\.\w+ could not be replaced .*another user", done.stderr)
    content(open_to_all)  # its owner can
    nat4xr.open_spikes("A1", open_to_all, download=False, progressbar=False).close()
    assert_opened(run_as_nobody(OPENED, open_to_all, tmp_path, run), open_to_all)


@pytest.mark.reliability
def test_a_folder_that_only_another_user_can_write_to_without_a_home_names_both(
    open_to_all: Path, run: Run, tmp_path: Path
) -> None:
    open_to_all.chmod(0o755)
    done = run_as_nobody(OPENED, open_to_all, tmp_path, run)
    last = done.stderr.splitlines()[-1]
    assert re.search(rf"{open_to_all} cannot be written to.*home.*NAT4XR_DATA_DIR", last)
