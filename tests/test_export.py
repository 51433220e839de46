"""Exports of whole areas and of selections, read by plain xarray; files of earlier versions."""

import functools
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import netCDF4
import pytest
import xarray as xr

import nat4xr
from nat4xr.io import cache
from nat4xr.io.cache import SCHEMA

from .support import DATA

SELECTIONS: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "all of it": lambda ds: ds,
    "the val sounds": lambda ds: ds.sel(subset="val"),
    "the est sounds": lambda ds: ds.sel(subset="est"),
    "labels of both dims": lambda ds: ds.sel(subset="val", animal="TNC", auditory=True),
    "cells in another order": lambda ds: ds.isel(neuron=[4, 0, 2]),
    "one cell": lambda ds: ds.isel(neuron=5),
    "one sound": lambda ds: ds.isel(stim=3),
    "the time of the sound": lambda ds: ds.sel(time=slice(0.25, 1.24)),
    "what was recorded": lambda ds: nat4xr.drop_unrecorded(ds.sel(subset="val")),
    "a site, by where": lambda ds: ds.where(ds.site == "DRX006b", drop=True),
    "nothing": lambda ds: ds.sel(animal="ARM", auditory=False),
    "with something computed": lambda ds: ds.assign(rate=ds.response.mean("rep") / 0.01),
}


@pytest.fixture(scope="module")
def ds(simulated_release: Path) -> xr.Dataset:
    return nat4xr.open_area("A1", simulated_release, progressbar=False)


def write(ds: xr.Dataset, form: str, file: Path) -> xr.Dataset:
    """Write a Dataset as netCDF or zarr, and open it again with plain xarray."""
    if form == "netcdf":
        ds.to_netcdf(file)
        return xr.open_dataset(file)
    ds.to_zarr(file)
    return xr.open_zarr(file)


@pytest.fixture(scope="module")
def loaded(ds: xr.Dataset) -> xr.Dataset:
    return ds.compute()


@pytest.mark.parametrize("form", ["netcdf", "zarr"])
@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_selection_reads_back_as_it_was(
    selection: str, form: str, ds: xr.Dataset, loaded: xr.Dataset, tmp_path: Path
) -> None:
    selected = SELECTIONS[selection](loaded)
    with write(SELECTIONS[selection](ds), form, tmp_path / "export") as back:
        # Everything but the label index, which plain xarray does not know.
        xr.testing.assert_identical(
            back.drop_indexes(list(back.xindexes)), selected.drop_indexes(list(selected.xindexes))
        )
        kinds = {name: variable.dtype.kind for name, variable in selected.variables.items()}
        assert {name: back[name].dtype.kind for name in kinds} == kinds


def test_a_reopened_export_gets_its_labels_back(ds: xr.Dataset, tmp_path: Path) -> None:
    ds.to_netcdf(tmp_path / "export.nc")
    with xr.open_dataset(tmp_path / "export.nc") as plain:
        labelled = nat4xr.set_labels(plain)
        xr.testing.assert_equal(labelled.sel(animal="TNC"), ds.sel(animal="TNC"))


def test_no_nat4xr_is_needed_to_read_an_export(ds: xr.Dataset, tmp_path: Path) -> None:
    ds.to_netcdf(tmp_path / "export.nc")
    program = (
        "import sys; sys.modules['nat4xr'] = None  # any import of it fails\n"
        "import xarray; print(dict(xarray.open_dataset('export.nc').load().sizes))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == str(dict(ds.sizes))


def test_an_export_holds_what_was_computed_not_bytes(ds: xr.Dataset, tmp_path: Path) -> None:
    """Counts are bytes in the converted file; halves would be lost if an export kept that."""
    halved = ds.copy()
    halved["response"] = ds["response"].copy(data=ds["response"].data / 2)
    halved.to_netcdf(tmp_path / "export.nc")
    with xr.open_dataset(tmp_path / "export.nc") as back:
        assert (back["response"] == 0.5).any()


def test_an_exported_selection_keeps_chunks_of_one_repeat(ds: xr.Dataset, tmp_path: Path) -> None:
    ds.sel(subset="val").to_netcdf(tmp_path / "val.nc")
    with netCDF4.Dataset(tmp_path / "val.nc") as file:
        assert file["response"].chunking()[1] == 1


def test_an_export_has_chunks_that_zlib_compresses_in_one_window(
    ds: xr.Dataset, tmp_path: Path
) -> None:
    ds.to_netcdf(tmp_path / "export.nc")
    with netCDF4.Dataset(tmp_path / "export.nc") as file:
        assert 4 * math.prod(file["response"].chunking()) < 2**16


@pytest.mark.parametrize("form", ["netcdf", "zarr"])
@pytest.mark.parametrize("dt_ms", [5, 10, 50])
@pytest.mark.parametrize("one", [{"neuron": 3}, {"stim": 2}, {"rep": 0}, {"neuron": 3, "time": 7}])
def test_one_element_at_any_bin_width_is_exported(
    one: dict[str, int], dt_ms: int, form: str, simulated_release: Path, tmp_path: Path
) -> None:
    ds = nat4xr.open_area("A1", simulated_release, dt_ms=dt_ms, progressbar=False)
    part = ds[["response", "n_reps"]].sel(animal="DRX").isel(one).persist()
    with write(part, form, tmp_path / "export") as back:
        xr.testing.assert_equal(*map(nat4xr.drop_label_index, (back, part)))


# --- exports that are joined and written again ---------------------------------------------------

JOINS: dict[str, Callable[[xr.Dataset, xr.Dataset], xr.Dataset]] = {
    "concat": lambda a, b: xr.concat(
        [a, b],
        "neuron" if a.stim.equals(b.stim) else "stim",
        data_vars="minimal",
        combine_attrs="drop_conflicts",
    ),
    "merge": lambda a, b: xr.merge([a, b], join="outer", compat="no_conflicts"),
    "align, outer": lambda a, b: xr.align(a, b, join="outer")[0],
    "align, right": lambda a, b: xr.align(a, b, join="right")[0],
    "combine_first": lambda a, b: a.combine_first(b),
    "reindex_like": lambda a, b: a.reindex_like(b),
    "arithmetic": lambda a, b: a.reindex_like(b) + b,
}
TWO_PARTS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "two sites": ({"site": "ARM029a"}, {"site": "DRX006b"}),
    "two subsets": ({"subset": "est"}, {"subset": "val"}),
    "long names first": ({"site": "DRX006b"}, {"animal": "ARM"}),
}


@pytest.fixture(scope="module")
def reopened(
    ds: xr.Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], list[xr.Dataset]]:
    """Two parts of the area, exported once in each form and opened again."""

    @functools.cache
    def reopen(parts: str, form: str) -> list[xr.Dataset]:
        folder = tmp_path_factory.mktemp("parts")
        return [
            nat4xr.set_labels(write(ds[["psth", "n_reps"]].sel(part), form, folder / str(i)).load())
            for i, part in enumerate(TWO_PARTS[parts])
        ]

    return reopen


@pytest.mark.parametrize("form", ["netcdf", "zarr"])
@pytest.mark.parametrize("parts", TWO_PARTS)
@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
def test_joined_exports_keep_names_whole_and_missing_counts_missing(
    join: Callable[[xr.Dataset, xr.Dataset], xr.Dataset],
    parts: str,
    form: str,
    reopened: Callable[[str, str], list[xr.Dataset]],
    tmp_path: Path,
) -> None:
    joined = join(*reopened(parts, form))
    with write(joined, form, tmp_path / "joined") as back:
        for name in joined.coords:
            assert back[name].values.tolist() == joined[name].values.tolist(), name
        xr.testing.assert_equal(back["n_reps"].variable, joined["n_reps"].variable)


@pytest.mark.parametrize("form", ["netcdf", "zarr"])
def test_what_is_computed_of_counts_is_not_cast_to_a_byte(
    form: str, ds: xr.Dataset, tmp_path: Path
) -> None:
    with write(ds[["n_reps"]], form, tmp_path / "export") as export:
        reopened = nat4xr.set_labels(export.load())
    n_reps = reopened["n_reps"]
    many = reopened.assign(n_reps=n_reps.copy(data=1000 * n_reps.values.astype(int)))
    with write(many, form, tmp_path / "many") as back:
        assert (back["n_reps"].values == 1000 * ds["n_reps"].values.astype(int)).all()


def test_missing_numbers_of_spikes_stay_missing(simulated_release: Path, tmp_path: Path) -> None:
    spikes = nat4xr.open_spikes("A1", simulated_release, progressbar=False)
    few = spikes[["n_outside"]].isel(neuron=slice(5)).reindex_like(spikes[["n_outside"]])
    few.to_netcdf(tmp_path / "few.nc")
    with xr.open_dataset(tmp_path / "few.nc") as back:
        assert back["n_outside"].isnull().sum() == spikes.sizes["neuron"] - 5


# --- files that earlier versions wrote -----------------------------------------------------------

# tests/data/schema-v<n> has what the first version with that SCHEMA made of area A1 of
# tests/data/release. It stays as it is. When SCHEMA is raised, a folder is added: the converted
# files are made anew from their sources then, but exports of every version must keep opening.
EXPORTS = sorted(DATA.glob("schema-v*/export-v*.nc"))


@pytest.fixture(scope="module")
def anew(nems0_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the release and no converted file."""
    return shutil.copytree(nems0_release, tmp_path_factory.mktemp("anew") / "release")


@pytest.mark.parametrize("opener", ["open_area", "open_spikes"])
def test_a_converted_file_of_this_schema_opens_without_its_sources(
    opener: str, anew: Path, tmp_path: Path
) -> None:
    shutil.copytree(DATA / f"schema-v{SCHEMA}", tmp_path, dirs_exist_ok=True)
    before, now = (
        getattr(nat4xr, opener)("A1", folder, download=False, progressbar=False)
        for folder in (tmp_path, anew)
    )
    with before, now:
        before.attrs["nat4xr_version"] = now.attrs["nat4xr_version"]
        assert before.attrs == now.attrs
        xr.testing.assert_equal(before, now)  # long names and comments may have been reworded
        assert {name: v.dtype for name, v in before.variables.items()} == {
            name: v.dtype for name, v in now.variables.items()
        }


@pytest.mark.reliability
@pytest.mark.parametrize("opener", ["open_area", "open_spikes"])
def test_the_next_schema_leaves_the_files_of_this_one_be_and_opens_its_exports(
    opener: str, anew: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened() -> xr.Dataset:
        return getattr(nat4xr, opener)("A1", folder, download=False, progressbar=False)

    folder = shutil.copytree(anew, tmp_path / "release")
    opened().to_netcdf(tmp_path / "export.nc")
    before = {file: file.read_bytes() for file in folder.glob(f"A1*_nat4xr-v{SCHEMA}.*")}
    monkeypatch.setattr(cache, "SCHEMA", SCHEMA + 1)
    with opened() as ds, xr.open_dataset(tmp_path / "export.nc") as export:
        xr.testing.assert_identical(
            nat4xr.set_labels(export).drop_indexes(["neuron"]), ds.drop_indexes(["neuron"])
        )
    assert before
    assert {file: file.read_bytes() for file in before} == before
    assert list(folder.glob(f"A1*_nat4xr-v{SCHEMA + 1}.nc"))


@pytest.mark.reliability
@pytest.mark.parametrize("file", EXPORTS, ids=lambda file: file.stem)
def test_an_export_of_any_version_still_opens(file: Path, anew: Path) -> None:
    with (
        nat4xr.open_area("A1", anew, download=False, progressbar=False) as ds,
        xr.open_dataset(file) as plain,
    ):
        xr.testing.assert_equal(plain.drop_indexes(plain.xindexes), ds.drop_indexes(ds.xindexes))
        labels = {"subset": "val", "animal": "DRX"}
        xr.testing.assert_equal(nat4xr.set_labels(plain).sel(labels), ds.sel(labels))
