"""The index that selects and aligns sounds and cells by all of their labels."""

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

    Objects from :func:`nat4xr.open_area` do not need this. Use it for an export that you opened
    with plain xarray, for predictions of another program, or after you added a label.

    Parameters
    ----------
    obj : Dataset or DataArray
        An object with 1-D coordinates along ``stim``, ``neuron`` or both. A dim that has no
        coordinates, or only its names, does not change.
    like : Dataset or DataArray, optional
        An object with labels. If ``obj`` has only names along ``stim`` or ``neuron``, it gets the
        labels that these names have in ``like``.

    Returns
    -------
    Dataset or DataArray
        ``obj`` with a :class:`LabelIndex` along ``stim`` and ``neuron``. The data are shared,
        not copied. Encodings from a file (``dtype``, ``_FillValue``, ...) are dropped, because
        they fit only the values of that file: if you joined objects and wrote them again, xarray
        would cut longer names.

    See Also
    --------
    drop_label_index : Remove the index again.

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

    Predictions that have only names take their labels from the data:

    >>> predicted = xr.DataArray(
    ...     [7.0, 4.0], dims="neuron", coords={"neuron": ["DRX006b-128-3", "DRX006b-128-2"]}
    ... )
    >>> error = rate - nat4xr.set_labels(predicted, like=rate)
    >>> error.values, error.animal.values.tolist()
    (array([1., 1.]), ['DRX', 'DRX'])
    """
    source = None if like is None else set_labels(like)
    new: Any = without_stale_encoding(obj)  # it has the type of obj
    for dim in LABELLED_DIMS:
        if not _has_names(obj, dim):
            continue
        # Sorted: xarray aligns two indexes only if they list their coordinates in one order.
        along = sorted(
            (name for name, coord in obj.coords.items() if coord.dims == (dim,)), key=str
        )
        unindexed = new.drop_indexes([name for name in along if name in obj.xindexes])
        if source is not None and _has_names(source, dim):
            labelled = source[dim].sel({dim: obj[dim].values})
            new = unindexed.assign_coords(labelled.reset_coords(drop=True).coords)
        elif len(along) > 1:
            along.remove(dim)
            new = unindexed.set_xindex(dim, NameIndex)
            new = new.set_xindex(along, LabelIndex, names=new.xindexes[dim])
    return cast(T, new)


def drop_label_index(obj: T) -> T:
    """Remove the index of the labels, so that the object is plain xarray.

    The labels stay as ordinary coordinates, and the names keep the index that xarray gives to
    every dim. Use this for operations that xarray refuses for an index of several coordinates,
    such as ``reindex``, replacing a label, or grouping by two labels. :func:`set_labels` sets the
    index again.

    Parameters
    ----------
    obj : Dataset or DataArray
        An object with or without labels.

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
    """An index over all labels along a dim.

    The coordinate with the name of the dim (``stim`` or ``neuron``) holds the names of the
    elements, and has its own index, as in plain xarray. The other coordinates along the dim are
    the labels; they describe the elements and share this index. :func:`set_labels` sets both
    indexes.

    Notes
    -----
    ``.sel`` takes one or several labels; an element must match all of them. The value can be

    - a label, or several in a list, set, array or Series: selects the elements that have one of
      them, in the order of the data;
    - a slice: selects the labels from start to stop, both included;
    - a boolean array: a mask along the dim, whichever label it is given for. If the mask has
      names (a DataArray or Series), it is matched by name, in any order, and must have a value
      for every element.

    A label that no element has raises a KeyError. Labels that exist but never occur together give
    an empty selection. Names cannot share a ``.sel`` with labels of the same dim: write
    ``ds.sel(neuron=names).sel(auditory=True)``, or ``ds.sel(cell_id=names, auditory=True)``.

    Objects are aligned by name (in arithmetic, ``xr.align``, ``xr.merge``, ...). If they label the
    same element differently, that raises an error. An array with only names gets its labels from
    ``set_labels(array, like=ds)``.

    xarray cannot do everything with an index of several coordinates: it cannot ``reindex``, drop
    one label with ``drop_vars``, or ``groupby`` two labels. Call :func:`drop_label_index` first.
    Do not align an object from which the labels were dropped with one that has labels: xarray
    does not notice that the two indexes differ (xarray issue 10714).
    """

    def __init__(self, names: NameIndex, labels: Mapping[Hashable, np.ndarray]):
        self.names = names
        self.labels = dict(labels)
        for values in self.labels.values():
            # Coordinates share these arrays: writing into one would change the index.
            values.flags.writeable = False

    @classmethod
    def from_variables(
        cls, variables: Mapping[Any, xr.Variable], *, options: Mapping[str, Any]
    ) -> Self:
        """Build the index from coordinates, for ``set_xindex``; their values are copied."""
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
        """Return the names, for the operations that xarray leaves to pandas."""
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
        """Return a mask of the elements with the label, one of the labels, or one in the slice."""
        values = pd.Index(self.labels[name])
        if isinstance(label, slice):
            if label.step is not None:
                raise ValueError(f"a slice of {name!r} cannot have a step")
            keep = np.ones(values.size, dtype=bool)
            if label.start is not None:
                keep &= values >= np.asarray(label.start)[()]
            if label.stop is not None:
                keep &= values <= np.asarray(label.stop)[()]
            return keep
        if _is_mask(label):
            return self.names.mask(label)
        wanted = np.asarray(list(label) if isinstance(label, Set) else label)
        if values.dtype == bool and wanted.dtype != bool:  # in pandas, 1 equals True
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
        # Element i of the concatenation must be moved to positions[i].
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
        """Find the positions of the other index's elements; -1 for those not in this one."""
        return self.names.reindex_like(other.names, **options)

    def __repr__(self) -> str:
        return f"LabelIndex({', '.join(map(str, self.labels))}); {_ADVICE}"


class NameIndex(PandasIndex):
    """The index of the names to which the labels of a :class:`LabelIndex` belong.

    It has its own type, so that xarray does not align it (without the labels) with the plain
    index of an object that has only names.
    """

    def sel(
        self, labels: dict[Any, Any], method: Any = None, tolerance: Any = None
    ) -> IndexSelResult:
        """Find elements by name, as in plain xarray; an error says which name is unknown."""
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
        return IndexSelResult({_Dim(dim): where for dim, where in result.dim_indexers.items()})

    def mask(self, mask: Any) -> np.ndarray:
        """Put a mask into the order of the names, matching the mask's names if it has any."""
        values, names, dim = np.asarray(mask, dtype=bool), None, self.dim
        if isinstance(mask, xr.Variable | xr.DataArray) and mask.dims != (dim,):
            raise ValueError(
                f"a mask of {dim!r} must have only that dim, not {mask.dims}: reduce it with "
                ".any(...) or .all(...)"
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
                f"the mask has no value for {missing[0]!r} and {missing.size - 1} more: use it on "
                f"the object from which it was computed, or fill the gaps with "
                f"mask.reindex_like(ds.{dim}, fill_value=False)"
            )
        in_order: np.ndarray = values[positions]
        return in_order

    def __repr__(self) -> str:
        return f"NameIndex({self.index.size} names); {_ADVICE}"


class _Dim(str):
    """A dim whose repr tells what to write when xarray refuses names and labels in one call."""

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
    """Make an array of labels in a container that numpy does not know; return others as is."""
    if hasattr(label, "__array__") or isinstance(label, str | bytes | slice | Set):
        return label
    return np.asarray(list(label) if isinstance(label, Iterable) else label)


def _is_mask(label: Any) -> bool:
    """Whether this is an array of booleans (and not a flag)."""
    if isinstance(label, str | bytes | slice | Set) or np.ndim(label) == 0:
        return False
    if pd.api.types.is_bool_dtype(getattr(label, "dtype", object)):
        return True
    values = np.asarray(label)  # a Series joined by pandas can have the dtype object
    return values.dtype == bool or (
        values.dtype == object
        and values.size > 0
        and all(isinstance(value, bool | np.bool_) for value in values.flat)
    )


def _refuse_inexact(labels: Mapping[Any, Any], method: Any, tolerance: Any) -> None:
    if method is not None or tolerance is not None:
        raise ValueError(
            f"{', '.join(map(repr, labels))} cannot be selected with a method or tolerance: labels "
            "must match exactly (select times or frequencies in a separate .sel)"
        )


def _contiguous(positions: np.ndarray) -> np.ndarray | slice:
    """Make a slice of one position, or of positions 0, 1, 2, ...: it is faster and copies nothing.

    Other positions stay an array: dask would cut a slice into uneven chunks, which zarr refuses.
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
        valid = "the object has no labels left"
    elif known.size <= 40 and not closest:
        valid = f"the labels are {_listed(known)}"
    else:
        closest = closest[:5] or difflib.get_close_matches(str(unknown[0]), texts)
        few = known[texts.isin(closest)] if closest else known[:3]
        which = "the closest" if closest else "the first"
        valid = f"{which} of {known.size} labels are {_listed(few)}"
    raise KeyError(f"no {name} {_listed(unknown[:5])}: {valid}")


def _listed(labels: pd.Index[Any]) -> str:
    return ", ".join(map(repr, labels.tolist()))
