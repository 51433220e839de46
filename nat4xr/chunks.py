"""Chunks, of dask and in files."""

from typing import TypeVar, cast

import xarray as xr

T = TypeVar("T", bound=xr.Dataset | xr.DataArray)

STORAGE = ("zlib", "complevel", "shuffle", "chunksizes")
"""What is kept of an encoding: how a variable is stored. The rest depends on its values."""


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


def without_stale_encoding(obj: T) -> T:
    """Drop the encodings that fit only the values a file had: dtype, fill value, width of text.

    xarray keeps them through joins and reindexing, and casts what is written to them: longer
    names are cut, missing counts become 0.

    Parameters
    ----------
    obj : Dataset or DataArray

    Returns
    -------
    Dataset or DataArray
        A shallow copy. Data variables keep their compression and chunk sizes.

    Examples
    --------
    >>> import xarray as xr
    >>> sites = xr.Variable("neuron", ["ARM029a"], encoding={"dtype": "<U7"})
    >>> without_stale_encoding(xr.Dataset(coords={"site": sites})).site.encoding
    {}
    """
    new = cast(T, obj.copy(deep=False))
    for coord in new.coords.values():
        coord.variable.encoding = {}
    data = new.data_vars.values() if isinstance(new, xr.Dataset) else [new]
    for variable in (array.variable for array in data):
        storage = {key: variable.encoding[key] for key in STORAGE if key in variable.encoding}
        if storage and variable.dtype.kind in "biuf":  # text on disk has a dim more
            variable.encoding = storage | {"original_shape": AnyShape(variable.shape)}
        else:
            variable.encoding = {}
    return new


class AnyShape(tuple[int, ...]):
    """A shape that is equal to every shape of as many dims.

    xarray exports a selection without the chunk sizes of its source when the shape has changed,
    and the netCDF library then chooses chunks that take twenty times as long to write. They do
    not fit, though, where a dim was dropped.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and len(self) == len(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__
