"""The labels of sounds and cells: select and align by all of them."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import numpy as np
import pandas as pd
import xarray as xr
from xarray.core.indexing import IndexSelResult
from xarray.indexes import PandasIndex

from .chunks import without_stale_encoding

if TYPE_CHECKING:
    from xarray.core.types import JoinOptions

LABELLED_DIMS = ("stim", "neuron")

T = TypeVar("T", bound=xr.Dataset | xr.DataArray)


def set_labels(obj: T, *, like: xr.Dataset | xr.DataArray | None = None) -> T:
    """Let ``.sel`` and alignment use all labels of the sounds and of the cells.

    What :func:`nat4xr.open_area` returns has this already. It is for objects from elsewhere: an
    export opened with plain xarray, predictions of another program, a Dataset that was given a
    new label.

    Parameters
    ----------
    obj : Dataset or DataArray
        With 1-D coordinates along ``stim``, ``neuron`` or both. A dim without coordinates, or
        with its names alone, is left as it is.
    like : Dataset or DataArray, optional
        Where to look up the labels of an ``obj`` that knows only names: the names along its
        ``stim`` and ``neuron`` are found in ``like`` and get the labels they have there.

    Returns
    -------
    Dataset or DataArray
        ``obj`` with a :class:`LabelIndex` along ``stim`` and ``neuron``. The data are shared,
        not copied. Encodings that a file left behind (``dtype``, ``_FillValue``, ...) are dropped,
        because they fit the values of that file alone: they would cut longer names when objects
        are joined and written again.

    See Also
    --------
    drop_label_index : Take the index off again.

    Raises
    ------
    KeyError
        If ``like`` does not have a name of ``obj``.

    Examples
    --------
    >>> import nat4xr, xarray as xr
    >>> rate = xr.DataArray(
    ...     [3.0, 5.0, 8.0],
    ...     dims="neuron",
    ...     coords={
    ...         "neuron": ["ARM029a-04-1", "DRX006b-128-2", "DRX006b-128-3"],
    ...         "animal": ("neuron", ["ARM", "DRX", "DRX"]),
    ...         "auditory": ("neuron", [True, True, False]),
    ...     },
    ... )
    >>> rate = nat4xr.set_labels(rate)
    >>> rate.sel(animal="DRX", auditory=True).values
    array([5.])

    Predictions that know the names alone take their labels from the data:

    >>> predicted = xr.DataArray(
    ...     [7.0, 4.0], dims="neuron", coords={"neuron": ["DRX006b-128-3", "DRX006b-128-2"]}
    ... )
    >>> error = rate - nat4xr.set_labels(predicted, like=rate)
    >>> error.values, error.animal.values.tolist()
    (array([1., 1.]), ['DRX', 'DRX'])
    """
    source = None if like is None else set_labels(like)
    new: Any = without_stale_encoding(obj)  # of the type of obj
    for dim in LABELLED_DIMS:
        if not _has_names(obj, dim):
            continue
        # Sorted: xarray aligns two indexes only if they list their coordinates in one order.
        along = sorted(
            (name for name, coord in obj.coords.items() if coord.dims == (dim,)), key=str
        )
        unindexed = new.drop_indexes([name for name in along if name in obj.xindexes])
        if source is not None and _has_names(source, dim):
            found = source[dim].sel({dim: obj[dim].values})
            new = unindexed.assign_coords(found.reset_coords(drop=True).coords)
        elif len(along) > 1:
            along.remove(dim)
            new = unindexed.set_xindex(dim, NameIndex)
            new = new.set_xindex(along, LabelIndex, names=new.xindexes[dim])
    return cast(T, new)


def drop_label_index(obj: T) -> T:
    """Take the index off the labels: what is left is plain xarray.

    The labels stay, as ordinary coordinates, and the names keep the index that xarray gives to
    every dim. This is for what xarray does not do with an index of several coordinates: to
    ``reindex``, to replace a label, to group by two labels, ... :func:`set_labels` puts the index
    on again.

    Parameters
    ----------
    obj : Dataset or DataArray
        With labels or without.

    Returns
    -------
    Dataset or DataArray
        ``obj`` without :class:`LabelIndex`. The data are shared, the labels are copied.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("A1")
    >>> plain = nat4xr.drop_label_index(ds)
    >>> moved = nat4xr.set_labels(plain.assign_coords(electrode=plain.electrode + 100))
    >>> moved.sel(electrode=225).neuron.values
    array(['DRX006b-125-3'], dtype='<U13')
    """
    indexed = [k for k, index in obj.xindexes.items() if isinstance(index, LabelIndex | NameIndex)]
    coords = {name: obj.coords[name].variable.copy() for name in indexed}
    return cast(T, obj.drop_indexes(indexed).assign_coords(coords))


def _has_names(obj: xr.Dataset | xr.DataArray, dim: str) -> bool:
    return dim in obj.coords and obj.coords[dim].dims == (dim,)


class LabelIndex(xr.Index):
    """One index over all labels of the elements along a dim.

    The elements have names, in the coordinate named like the dim: ``stim``, ``neuron``. The names
    say which element is which, and have an index of their own, as in plain xarray. The other
    coordinates along the dim describe the elements; they are the labels, and share this index.
    :func:`set_labels` gives both indexes to an object.

    Notes
    -----
    ``.sel`` takes any of the labels, alone or together (an element must match all):

    - a label, or several (list, set, array, Series, ...): the elements that have one of them,
      in the order of the data;
    - a slice: the labels from start to stop, both included;
    - a boolean array is a mask along the dim, whatever the label. A mask that has names itself
      (a DataArray, a Series) selects by them, in any order; it must have a value for every
      element.

    A label that no element has is a KeyError. Labels that exist, but not together, give an empty
    selection. Names are selected as in plain xarray, in a ``.sel`` without labels of the same dim:
    ``ds.sel(neuron=names).sel(auditory=True)``, or ``ds.sel(cell_id=names, auditory=True)``.

    Objects are aligned by name (arithmetic, ``xr.align``, ``xr.merge``, ...), and refused if they
    label the same element differently. An array of names alone takes its labels from
    ``set_labels(array, like=ds)``.

    For what xarray does not do with an index of several coordinates, such as ``reindex``,
    ``drop_vars`` of one label, or ``groupby`` of two, :func:`drop_label_index` takes the index
    off. An object that keeps its names but has lost its labels must not be aligned with one that
    has both: xarray does not notice that they no longer correspond (xarray issue 10714).
    """

    def __init__(self, names: NameIndex, labels: Mapping[Hashable, np.ndarray]):
        self.names = names
        self.labels = dict(labels)
        for values in self.labels.values():
            # Coordinates share them: writing into one would change the index behind its back.
            values.flags.writeable = False

    @classmethod
    def from_variables(
        cls, variables: Mapping[Any, xr.Variable], *, options: Mapping[str, Any]
    ) -> Self:
        """Build the index from coordinates, which are read and copied, for ``set_xindex``."""
        return cls(options["names"], {name: np.array(var) for name, var in variables.items()})

    def create_variables(
        self, variables: Mapping[Any, xr.Variable] | None = None
    ) -> dict[Any, xr.Variable]:
        """Create the coordinates, with the attributes of the given ones."""
        created: dict[Any, xr.Variable] = {}
        for name, values in self.labels.items():
            created[name] = xr.Variable(self.names.dim, values)
            if variables is not None and name in variables:
                created[name].attrs = variables[name].attrs
                created[name].encoding = variables[name].encoding
        return created

    def to_pandas_index(self) -> pd.Index[Any]:
        """Return the names, for what xarray leaves to pandas."""
        return self.names.index

    def rename(self, name_dict: Mapping[Any, Hashable], dims_dict: Mapping[Any, Hashable]) -> Self:
        """Follow coordinates and dims to their new names."""
        labels = {name_dict.get(name, name): values for name, values in self.labels.items()}
        names: Any = self.names
        return type(self)(names.rename(name_dict, dims_dict), labels)

    def sel(
        self, labels: dict[Any, Any], method: Any = None, tolerance: Any = None
    ) -> IndexSelResult:
        """Find the elements with these labels; see the Notes of the class."""
        _refuse_inexact(labels, method, tolerance)
        keep = np.ones(self.names.index.size, dtype=bool)
        for name, label in labels.items():
            keep &= self._matches(name, _in_array(label))
        return IndexSelResult({_Dim(self.names.dim): _contiguous(np.flatnonzero(keep))})

    def _matches(self, name: Hashable, label: Any) -> np.ndarray:
        """Which elements have the label, one of the labels, or one within the slice."""
        values = pd.Index(self.labels[name])
        if isinstance(label, slice):
            if label.step is not None:
                raise ValueError(f"a slice of {name!r} takes no step")
            keep = np.ones(values.size, dtype=bool)
            if label.start is not None:
                keep &= values >= np.asarray(label.start)[()]
            if label.stop is not None:
                keep &= values <= np.asarray(label.stop)[()]
            return keep
        if _is_mask(label):
            return self.names.mask(label)
        wanted = np.asarray(list(label) if isinstance(label, Set) else label)
        if values.dtype == bool and wanted.dtype != bool:  # pandas would take 1 for True
            wanted = wanted.astype(str)
        _check_known(name, wanted, pd.Index([False, True]) if values.dtype == bool else values)
        matches: np.ndarray = values.isin(wanted.ravel())
        return matches

    def isel(self, indexers: Mapping[Any, Any]) -> Self | None:
        """Select by position; a single element needs no index."""
        names = self.names.isel(indexers)
        if names is None:
            return None
        indexer = indexers[self.names.dim]
        return self._take(names, indexer.values if isinstance(indexer, xr.Variable) else indexer)

    def __getitem__(self, indexer: Any) -> Self:
        """Take a slice, for ``xr.map_blocks``."""
        return self._take(self.names[indexer], indexer)

    def roll(self, shifts: Mapping[Any, int]) -> Self:
        """Roll the labels along the dim."""
        order = np.roll(np.arange(self.names.index.size), shifts[self.names.dim])
        return self._take(self.names.roll(shifts), order)

    def _take(self, names: Any, positions: Any) -> Self:
        labels = {name: values[positions] for name, values in self.labels.items()}
        return type(self)(names, labels)

    @classmethod
    def concat(
        cls,
        indexes: Sequence[Self],
        dim: Hashable,
        positions: Iterable[Iterable[int]] | None = None,
    ) -> Self:
        """Concatenate along the dim."""
        labels = indexes[0].labels.keys()
        if any(not isinstance(index, cls) or index.labels.keys() != labels for index in indexes):
            raise ValueError(
                f"cannot concatenate along {dim!r}: the objects do not have the same labels"
            )
        names = NameIndex.concat([index.names for index in indexes], dim)
        joined = cls(names, {k: np.concatenate([i.labels[k] for i in indexes]) for k in labels})
        if positions is None:
            return joined
        # What comes i-th in sequence belongs at the i-th of the positions.
        order = np.argsort(np.concatenate([list(p) for p in positions]))
        return joined._take(names[order], order)

    def equals(self, other: xr.Index, *, exclude: frozenset[Hashable] | None = None) -> bool:
        """Whether the names and the labels that both have are equal."""
        return (
            isinstance(other, LabelIndex)
            and self.names.equals(other.names)
            and _conflict(self, other) is None
        )

    def join(self, other: Self, how: JoinOptions = "inner") -> Self:
        """Find the elements of both (inner) or of either (outer) by name."""
        dim = self.names.dim
        names = self.names.join(other.names, how)
        ours, theirs = (index.names.reindex_like(names)[dim] for index in (self, other))
        both = (ours >= 0) & (theirs >= 0)
        shared = names[both]
        conflict = _conflict(self._take(shared, ours[both]), other._take(shared, theirs[both]))
        if conflict is not None:
            raise ValueError(f"cannot align: {conflict}; see nat4xr.set_labels(..., like=...)")
        stacked = self.concat([self, other], dim)
        return stacked._take(names, np.where(ours >= 0, ours, theirs + self.names.index.size))

    def reindex_like(self, other: Self, **options: Any) -> dict[Hashable, Any]:
        """Find the positions of the other's elements, -1 for those that are missing here."""
        return self.names.reindex_like(other.names, **options)

    def __repr__(self) -> str:
        return f"LabelIndex({', '.join(map(str, self.labels))}); {_ADVICE}"


class NameIndex(PandasIndex):
    """The index of the names that the labels of a :class:`LabelIndex` belong to.

    It is of a type of its own so that xarray does not align it, without the labels, with the
    plain index of an object that has only names.
    """

    def sel(
        self, labels: dict[Any, Any], method: Any = None, tolerance: Any = None
    ) -> IndexSelResult:
        """Find elements by name, as in plain xarray; say which name there is not."""
        _refuse_inexact(labels, method, tolerance)
        ((name, label),) = labels.items()
        label = _in_array(label)
        if _is_mask(label):
            return IndexSelResult({_Dim(self.dim): _contiguous(np.flatnonzero(self.mask(label)))})
        if isinstance(label, Set):
            _check_known(name, list(label), self.index)
            label = self.index[self.index.isin(list(label))]  # in the order of the data
        elif isinstance(label, pd.Series):
            label = label.to_numpy()
        try:
            result = super().sel({name: label})
        except KeyError:
            if isinstance(label, slice):
                label = [end for end in (label.start, label.stop) if end is not None]
            _check_known(name, label, self.index)
            raise
        return IndexSelResult({_Dim(dim): found for dim, found in result.dim_indexers.items()})

    def mask(self, mask: Any) -> np.ndarray:
        """Bring a boolean array into the order of the names, by its own names if it has any."""
        values, names, dim = np.asarray(mask, dtype=bool), None, self.dim
        if isinstance(mask, xr.Variable | xr.DataArray) and mask.dims != (dim,):
            raise ValueError(
                f"a mask of {dim!r} has that dim alone, not {mask.dims}: reduce it with .any(...) "
                "or .all(...)"
            )
        if isinstance(mask, xr.DataArray) and dim in mask.coords:
            names = pd.Index(mask.coords[dim].values)
        elif isinstance(mask, pd.Series) and not mask.index.equals(pd.RangeIndex(len(mask))):
            names = mask.index
        if names is None:
            if values.shape != self.index.shape:
                raise ValueError(
                    f"a mask of {dim!r} needs the shape {self.index.shape}, not {values.shape} "
                    "(a boolean array is a mask; to select by a flag write flag=True)"
                )
            return values
        if not names.is_unique:
            raise ValueError(f"the mask has {names[names.duplicated()][0]!r} twice")
        positions = names.get_indexer(self.index)
        if (positions < 0).any():
            missing = self.index[positions < 0]
            raise ValueError(
                f"the mask has no value for {missing[0]!r} and {missing.size - 1} more: select by "
                f"it from what it was computed from, or complete it, as with "
                f"mask.reindex_like(ds.{dim}, fill_value=False)"
            )
        in_order: np.ndarray = values[positions]
        return in_order

    def __repr__(self) -> str:
        return f"NameIndex({self.index.size} names); {_ADVICE}"


class _Dim(str):
    """A dim that says what to write where xarray refuses names and labels of it in one call."""

    def __repr__(self) -> str:
        return (
            f"{str(self)!r} (select names and labels one after the other: "
            f"ds.sel({self}=names).sel(label=...))"
        )


_ADVICE = (
    "for plain xarray: nat4xr.drop_label_index(obj); "
    "to label an array: nat4xr.set_labels(array, like=ds)"
)


def _in_array(label: Any) -> Any:
    """Make an array of labels in a container that numpy does not know; leave all else."""
    if hasattr(label, "__array__") or isinstance(label, str | bytes | slice | Set):
        return label
    return np.asarray(list(label) if isinstance(label, Iterable) else label)


def _is_mask(label: Any) -> bool:
    """Whether this is an array of booleans (and not a flag)."""
    if isinstance(label, str | bytes | slice | Set) or np.ndim(label) == 0:
        return False
    if pd.api.types.is_bool_dtype(getattr(label, "dtype", object)):
        return True
    values = np.asarray(label)  # a table has no dtype, and joins in pandas make one of objects
    return values.dtype == bool or (
        values.dtype == object
        and values.size > 0
        and all(isinstance(value, bool | np.bool_) for value in values.flat)
    )


def _refuse_inexact(labels: Mapping[Any, Any], method: Any, tolerance: Any) -> None:
    if method is not None or tolerance is not None:
        raise ValueError(
            f"no method or tolerance for {', '.join(map(repr, labels))}: labels match exactly "
            "(select times or frequencies in a .sel of their own)"
        )


def _contiguous(positions: np.ndarray) -> np.ndarray | slice:
    """Make a slice of one position or of the first so many: faster to read, and no copy.

    Of no others: dask would cut these into uneven chunks, which zarr does not write.
    """
    start = int(positions[0]) if positions.size == 1 else 0
    if np.array_equal(positions, np.arange(start, start + positions.size)):
        return slice(start, start + positions.size)
    return positions


def _conflict(one: LabelIndex, other: LabelIndex) -> str | None:
    """Say how two indexes of the same elements label one of them differently."""
    for name in one.labels.keys() & other.labels.keys():
        ours, theirs = one.labels[name], other.labels[name]
        differ = (ours != theirs) & ((ours == ours) | (theirs == theirs))  # NaN equals NaN
        if differ.any():
            i = int(differ.argmax())
            return (
                f"{one.names.index[i]!r} has {name} {ours.tolist()[i]!r} in one object and "
                f"{theirs.tolist()[i]!r} in the other"
            )
    return None


def _check_known(name: Hashable, wanted: Any, known: pd.Index[Any]) -> None:
    wanted = pd.Index(np.ravel(wanted))
    unknown = wanted[~wanted.isin(known)].unique()
    known = known.unique()
    if unknown.empty:
        return
    texts = known.map(str)
    part = unknown[0] if isinstance(unknown[0], str) else ""  # "geese" of STIM_..._geese_...
    closest = [text for text in texts if part and part in text]
    if known.empty:
        there = "none is left to select"
    elif known.size <= 40 and not closest:
        there = f"there are {_listed(known)}"
    else:
        closest = closest[:5] or difflib.get_close_matches(str(unknown[0]), texts)
        few = known[texts.isin(closest)] if closest else known[:3]
        which = "the closest" if closest else "the first"
        there = f"of the {known.size} there are, {which} are {_listed(few)}"
    raise KeyError(f"no {name} {_listed(unknown[:5])}: {there}")


def _listed(labels: pd.Index[Any]) -> str:
    return ", ".join(map(repr, labels.tolist()))
