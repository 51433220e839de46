"""dask.distributed: analyses give the same results on several processes as on one."""

import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xarray as xr
from threadpoolctl import threadpool_limits

import nat4xr
from nat4xr import metrics

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def client() -> Iterator["distributed.Client"]:
    """Two processes of one thread each."""
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def folder(simulated_release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release of its own, converted: workers read it by its path."""
    folder = shutil.copytree(simulated_release, tmp_path_factory.mktemp("cluster") / "release")
    nat4xr.open_area("A1", folder, progressbar=False)
    return folder


@pytest.fixture
def val(folder: Path) -> xr.Dataset:
    return nat4xr.drop_unrecorded(nat4xr.open_area("A1", folder, subset="val"))


ANALYSES: dict[str, Callable[[xr.Dataset], xr.Dataset | xr.DataArray]] = {
    "per cell": lambda ds: metrics.cc_norm(ds.psth, ds.response),
    "ceiling per cell": lambda ds: metrics.cc_max(ds.response),
    "per site": lambda ds: ds[["response", "psth"]].groupby("site").mean(),
    "selected": lambda ds: ds.sel(animal="TNC", auditory=True).response.std("rep"),
    "other bins": lambda ds: ds.response.coarsen(time=5).sum(),
}


@pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES.keys())
def test_an_analysis_gives_what_one_process_gives(val, analysis, client) -> None:
    with threadpool_limits(1):  # as in the workers: with more, BLAS adds in another order
        alone = analysis(val).compute(scheduler="synchronous")
    xr.testing.assert_identical(client.compute(analysis(val)).result(), alone)


def test_a_function_of_each_site_runs_where_there_is_room(folder, client) -> None:
    def score(name: str) -> tuple[int, xr.DataArray]:
        site = nat4xr.open_area("A1", folder, subset="val", chunks=None).sel(site=name)
        return os.getpid(), metrics.snr(nat4xr.drop_unrecorded(site).response)

    sites = sorted(set(nat4xr.open_area("A1", folder).site.values.tolist()))
    results = client.gather(client.map(score, sites))
    for (pid, there), (_, here) in zip(results, map(score, sites), strict=True):
        assert pid != os.getpid()
        xr.testing.assert_identical(there, here)


def test_a_dataset_without_dask_goes_to_a_worker_without_its_data(folder, client) -> None:
    site = nat4xr.open_area("A1", folder, subset="val", chunks=None).sel(site="DRX006b")
    # By default dask names a task after its arguments, and would read them all for that.
    there = client.submit(lambda site: site.load(), site, pure=False).result()
    assert len(pickle.dumps(site)) < 0.1 * site.nbytes
    xr.testing.assert_identical(there, site)


def test_an_export_is_computed_by_the_workers(val, client, tmp_path: Path) -> None:
    val.to_zarr(tmp_path / "val.zarr")
    exported = nat4xr.set_labels(xr.open_zarr(tmp_path / "val.zarr"))
    xr.testing.assert_identical(exported.compute(), val.compute(scheduler="synchronous"))


@pytest.mark.filterwarnings("ignore::UserWarning")  # zarr on its own future
def test_an_area_in_object_storage_serves_workers(val) -> None:
    """Workers that share fsspec's memory, which stands in for a bucket that all can reach."""
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.Client(processes=False, **options) as client:
        val.to_zarr("memory://nat4/val.zarr", mode="w")
        there = nat4xr.set_labels(xr.open_zarr("memory://nat4/val.zarr"))
        xr.testing.assert_identical(
            client.compute(metrics.snr(there.sel(animal="TNC").response)).result(),
            metrics.snr(val.sel(animal="TNC").response).compute(scheduler="synchronous"),
        )


def test_workers_that_open_cold_at_once_convert_once(
    simulated_release: Path, client, tmp_path: Path
) -> None:
    folder = shutil.copytree(
        simulated_release, tmp_path / "cold", ignore=shutil.ignore_patterns("*nat4xr*")
    )

    def opened_cold() -> tuple[int, float]:
        from nat4xr.io import cache

        conversions = []
        write = cache.write_area
        cache.write_area = lambda *args: (conversions.append(args), write(*args))
        try:
            ds = nat4xr.open_area("PEG", folder, progressbar=False)
        finally:
            cache.write_area = write
        return len(conversions), float(ds.psth.sum())

    one, other = client.run(opened_cold).values()
    assert {one[0], other[0]} == {0, 1}
    assert one[1] == other[1]


def test_a_netcdf_file_is_written_by_this_process(val, client, tmp_path: Path) -> None:
    nat4xr.to_netcdf(val, tmp_path / "val.nc")
    back = nat4xr.set_labels(xr.load_dataset(tmp_path / "val.nc"))
    xr.testing.assert_identical(back, val.compute(scheduler="synchronous"))


def test_what_the_workers_hold_is_written_as_well(val, client, tmp_path: Path) -> None:
    held = client.persist(val)
    nat4xr.to_netcdf(held, tmp_path / "val.nc")
    back = nat4xr.set_labels(xr.load_dataset(tmp_path / "val.nc"))
    xr.testing.assert_identical(back, val.compute(scheduler="synchronous"))
