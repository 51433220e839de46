"""Chunks of dask arrays and of variables in files."""

from typing import TypeVar, cast

import xarray as xr

T = TypeVar("T", bound=xr.Dataset | xr.DataArray)

STORAGE = ("zlib", "complevel", "shuffle", "chunksizes")
"""The keys of an encoding that do not depend on the values of the variable."""


def single_chunk(array: xr.DataArray, *dims: str) -> xr.DataArray:
    """Rechunk a dask array to a single chunk along some dims, and let dask choose the other chunks.

    Other arrays, and those that have one chunk along each of the dims, are returned unchanged.

    >>> import xarray as xr
    >>> array = xr.DataArray([[1, 2], [3, 4]], dims=("stim", "time")).chunk(1)
    >>> single_chunk(array, "time").chunksizes["time"]
    (2,)
    """
    if all(len(array.variable.chunksizes.get(dim, ())) <= 1 for dim in dims):
        return array
    return array.chunk({**dict.fromkeys(array.dims, "auto"), **dict.fromkeys(dims, -1)})


def without_stale_encoding(obj: T) -> T:
    """Drop those encodings that only fit the values of the source file, such as dtype.

    xarray keeps the encodings through joins and reindexing, and applies them when it writes a
    file. With the dtype and fill value of its source, it would cut off longer names and turn
    missing counts into 0. Returns a shallow copy, whose data variables keep their compression and
    chunk sizes.

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
        if storage and variable.dtype.kind in "biuf":  # text has one more dim on disk
            variable.encoding = storage | {"original_shape": AnyShape(variable.shape)}
        else:
            variable.encoding = {}
    return new


class AnyShape(tuple[int, ...]):
    """A shape that is equal to every shape with the same number of dims.

    When a selection has changed the shape of a variable, xarray writes it without the chunk sizes
    of its source. The netCDF library then chooses chunks that take twenty times as long to write.
    With this shape, xarray keeps the chunk sizes unless a dim was dropped or is now shorter than a
    chunk.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and len(self) == len(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__
