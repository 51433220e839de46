"""Dask chunks."""

import xarray as xr


def single_chunk(array: xr.DataArray, *dims: str) -> xr.DataArray:
    """Put all of some dims into one chunk, and let dask choose the chunks of the others.

    Parameters
    ----------
    array : DataArray
        Returned as it is if it has no dask array, or one chunk along each of `dims` already.
    *dims : str

    Returns
    -------
    DataArray

    Examples
    --------
    >>> import xarray as xr
    >>> array = xr.DataArray([[1, 2], [3, 4]], dims=("stim", "time")).chunk(1)
    >>> single_chunk(array, "time").chunksizes["time"]
    (2,)
    """
    if all(len(array.variable.chunksizes.get(dim, ())) <= 1 for dim in dims):
        return array
    return array.chunk({**dict.fromkeys(array.dims, "auto"), **dict.fromkeys(dims, -1)})
