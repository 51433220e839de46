"""Open one area or both, with bins of any width."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import xarray as xr

from . import bins, schema
from .index import set_labels
from .io import cache
from .io.netcdf import open_with_labels
from .io.registry import AREAS, part_named
from .io.release import check_folder, check_subset
from .schema import DASK_CHUNKS, FINE_CHUNKS
from .spikes import open_spikes

__all__ = ["open_area", "open_areas"]


def open_area(
    area: str,
    path: str | os.PathLike[str] | None = None,
    *,
    subset: Literal["all", "est", "val"] = "all",
    dt_ms: float = 10.0,
    chunks: Any = {},  # noqa: B006 (never changed; xarray's own spelling)
    download: bool = True,
    progressbar: bool = True,
) -> xr.Dataset:
    """Open the recordings of one area as a labelled Dataset.

    The first call downloads the area's files from Zenodo and converts them to one netCDF file in
    the data folder. Later calls open that file lazily, in milliseconds.

    Parameters
    ----------
    area : {"A1", "PEG"}
        Primary or secondary auditory cortex. ``"a1"`` and ``"peg"`` are the same.
    path : path-like, optional
        The data folder: files are downloaded to it, unless you have placed them there by hand.
        It must exist. Default: the folder in the environment variable ``NAT4XR_DATA_DIR`` or,
        if that is not set, the user's cache folder.
    subset : {"all", "est", "val"}, default: "all"
        Which sounds to open: ``"est"``, the sounds presented once, for fitting, or ``"val"``,
        the sounds presented 20 times at every site, for testing.
    dt_ms : float, default: 10
        Width of the time bins in ms: 1, 2, 5, or a multiple of 10 that divides 1500. Bins wider
        than 10 ms hold sums of the 10 ms bins (for the spectrogram, means). Bins narrower than
        10 ms are counted from the spike times of the site recordings, for est sounds too; cells
        without trials there are NaN in ``response`` and ``psth``, and the spectrogram repeats
        its 10 ms values.
    chunks : dict, int, "auto" or None, optional
        Dask chunks, as for `xarray.open_dataset`. Dims that a dict does not name get chunks that
        suit the file. With None, arrays are lazy but not dask arrays.
    download : bool, default: True
        Whether to download missing files.
    progressbar : bool, default: True
        Whether to show the progress of downloads and of the conversion.

    Returns
    -------
    xarray.Dataset
        ``response`` (stim, rep, time, neuron), float32: spikes per bin in each presentation,
        NaN where there was no presentation. ``psth`` (stim, time, neuron), float32: spikes per
        bin averaged over presentations, as published. ``spectrogram`` (stim, freq, time),
        float32: gammatone magnitudes, as published. ``n_reps`` (stim, neuron), int8: the number
        of presentations in ``response``. ``.sel`` takes every label of the sounds and cells.

    Raises
    ------
    ValueError
        If `area`, `subset` or `dt_ms` is not one of the values above, or `chunks` names a dim
        that the Dataset does not have.
    ReleaseError
        If a file of the release is damaged.
    DownloadError
        If a file cannot be downloaded.
    FileNotFoundError
        If a file is missing and `download` is False, or the folder `path` does not exist.
    OSError
        If the converted file cannot be written, or the name of the data folder is not UTF-8.

    Warns
    -----
    UserWarning
        If anything in the files was left out or repaired. The conversion warns once for each
        kind of repair.

    Notes
    -----
    Use ``nat4xr.rate(ds.psth)`` for spikes per second, and ``nat4xr.counts(ds.response,
    (0.25, 1.25))`` for the number of spikes in a window. xarray's ``.sum("time")`` gives 0
    spikes where there was no trial.

    See Also
    --------
    open_areas : Both areas, concatenated along ``neuron``.

    References
    ----------
    Data: David and Pennington (2023), https://doi.org/10.5281/zenodo.8044773. Described in
    Pennington and David (2023), https://doi.org/10.1371/journal.pcbi.1011110.

    Examples
    --------
    These examples use a small simulated release:

    >>> import nat4xr
    >>> ds = nat4xr.open_area("A1")
    >>> val = ds.sel(subset="val", animal="TNC", auditory=True)
    >>> dict(val.response.mean("rep").sizes)
    {'stim': 18, 'time': 150, 'neuron': 5}
    """
    area = part_named(area)
    check_subset(subset)
    bins.check_width(dt_ms, schema.BIN_WIDTHS_MS)
    check_folder(path, area)
    file = cache.area_file(area, path, download=download, progressbar=progressbar)
    ds, defaults = _open(file), DASK_CHUNKS
    ds.attrs.pop("simulation", None)  # too long to read here; it is in the release itself
    close = ds._close
    if dt_ms < schema.BIN_MS:
        spikes = open_spikes(area, path, download=download, progressbar=progressbar)
        ds, defaults = bins.finer(ds, spikes, int(dt_ms)), FINE_CHUNKS
    elif dt_ms > schema.BIN_MS:
        ds = bins.coarser(ds, int(dt_ms))
    if subset != "all":
        ds = _select_subset(ds, subset)
    if chunks is not None:
        ds = _chunk(ds, chunks, defaults, f"{file.path}-{file.crc32}-{subset}-{dt_ms:g}")
    ds.set_close(close)  # not ds.close, which is pickled with everything that was opened
    return ds


def open_areas(
    path: str | os.PathLike[str] | None = None,
    *,
    subset: Literal["all", "est", "val"] = "all",
    dt_ms: float = 10.0,
    chunks: Any = {},  # noqa: B006 (never changed; xarray's own spelling)
    download: bool = True,
    progressbar: bool = True,
) -> xr.Dataset:
    """Open A1 and PEG as one Dataset, concatenated along ``neuron`` in this order.

    Parameters
    ----------
    path, subset, dt_ms, download, progressbar
        As for `open_area`.
    chunks : dict, int or "auto", optional
        Dask chunks, as for `open_area`. None is not allowed, because xarray reads arrays without
        dask into memory when it concatenates them.

    Returns
    -------
    xarray.Dataset
        The same variables as from `open_area`. The coordinate ``area`` says which area a cell is
        in, and attributes that differ between the areas are dropped. A sound or repeat that one
        area does not have is NaN for its cells.

    Raises
    ------
    ValueError
        If `chunks` is None, if the areas label a sound differently, if their times or
        frequencies differ, or as for `open_area`.

    Examples
    --------
    >>> import nat4xr
    >>> both = nat4xr.open_areas(subset="val")
    >>> nat4xr.rate(both.psth).mean(["stim", "time"]).groupby("area").mean().sizes
    Frozen({'area': 2})
    """
    if chunks is None:
        raise ValueError(
            "chunks=None would read both areas into memory: give chunks, or open each by open_area"
        )
    areas = [
        open_area(
            area,
            path,
            subset=subset,
            dt_ms=dt_ms,
            chunks=chunks,
            download=download,
            progressbar=progressbar,
        )
        for area in AREAS
    ]
    for dim in ("time", "freq"):
        if not areas[0][dim].equals(areas[1][dim]):
            raise ValueError(f"the areas cannot be concatenated, because their {dim!r} differs")
    both = xr.concat(
        areas,
        "neuron",
        data_vars="minimal",
        coords="minimal",
        compat="override",
        join="outer",
        combine_attrs="drop_conflicts",
        fill_value={"n_reps": 0},
    )
    if not areas[0]["stim"].equals(areas[1]["stim"]):
        both["spectrogram"] = areas[0]["spectrogram"].combine_first(areas[1]["spectrogram"])
    both.attrs["title"] = areas[0].attrs["title"].replace("A1", " and ".join(AREAS))
    both = _chunk_data(both, {"neuron": areas[0].chunksizes["neuron"][0]})  # zarr needs even chunks
    both.set_close(partial(_close, [area._close for area in areas if area._close]))
    return both


def _close(files: Sequence[Callable[[], None]]) -> None:
    for close in files:
        close()


def _open(file: cache.Converted) -> xr.Dataset:
    """Open a converted file: labels in memory and indexed, data lazy and without dask."""
    ds = open_with_labels(*file)
    labelled = set_labels(ds[list(schema.VARIABLES)])
    labelled.set_close(ds._close)
    return labelled


def _select_subset(ds: xr.Dataset, subset: str) -> xr.Dataset:
    """Select the sounds of a subset, and the repeats that at least one of them has."""
    stims = np.flatnonzero(ds["subset"].values == subset)
    if len(stims) and len(stims) == stims[-1] - stims[0] + 1:  # a slice is faster to read
        selected = ds.isel(stim=slice(stims[0], stims[-1] + 1))
    else:
        selected = ds.isel(stim=stims)
    n_reps = int(selected["n_reps"].max()) if selected["n_reps"].size else 0
    return selected.isel(rep=slice(n_reps))


def _chunk(ds: xr.Dataset, chunks: Any, defaults: Mapping[str, int], token: str) -> xr.Dataset:
    """Chunk the variables; dims that a dict does not name get the default chunks."""
    if isinstance(chunks, Mapping):
        if unknown := set(chunks) - set(ds.dims):
            raise ValueError(
                f"chunks names {', '.join(map(repr, unknown))}; "
                f"the dims are {', '.join(map(str, ds.dims))}"
            )
        chunks = {dim: size for dim, size in defaults.items() if dim in ds.dims} | dict(chunks)
    return _chunk_data(ds, chunks, token=token)


def _chunk_data(ds: xr.Dataset, chunks: Any, **options: Any) -> xr.Dataset:
    """Chunk the data variables; coordinates stay in memory."""
    data = ds.drop_vars(ds.coords).chunk(chunks, **options)
    return ds.assign({name: data[name].variable for name in data.data_vars})
