"""The accessor ``ds.nat4``: functions of the package as methods, with tab completion."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from io import BytesIO
from typing import Any

import pandas as pd
import xarray as xr

from .coverage import count_cells, drop_unrecorded

_FIGURES = ("cell_response", "coverage", "population", "psth", "raster", "spectrogram")
_METRICS = ("signal_power", "noise_power", "snr", "trial_snr", "ttrc", "cc_max", "response_p")
_NEEDED_FOR_COUNTS = {
    "n_reps": {"stim", "neuron"},
    "animal": {"neuron"},
    "site": {"neuron"},
    "auditory": {"neuron"},
    "subset": {"stim"},
}
"""The variables that are needed to count presentations, and the dims that they can have."""


@xr.register_dataset_accessor("nat4")
class Nat4:
    """Functions of the package as methods of a Dataset, for interactive use.

    Every label of the sounds and cells is an attribute, and tab completion offers its values:
    ``ds.nat4.site["ARM029a"]`` is the same as ``ds.sel(site="ARM029a")``.

    Parameters
    ----------
    ds : Dataset
        What `nat4xr.open_area` returns, a selection of it, or an export of it.

    Examples
    --------
    >>> import nat4xr
    >>> ds = nat4xr.open_area("A1")
    >>> ds.nat4.site["TNC013a"].sizes["neuron"]
    2
    >>> ds.nat4.site
    site: ARM029a (3), CRD016d (2), DRX006b (6), TNC013a (2), TNC018a (4)
    """

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def summary(self, by: str = "site") -> pd.DataFrame:
        """Count cells and the sounds that they heard: see `nat4xr.count_cells`.

        Parameters
        ----------
        by : str, default: "site"
            Label of the cells to group by, such as ``"site"`` or ``"animal"``.

        Returns
        -------
        pandas.DataFrame
            One row per group: the number of cells and of auditory cells, and for each subset
            the percentage of sounds to which a cell has a response, averaged over cells.

        Raises
        ------
        ValueError
            If `by` is not a label of the cells.

        Examples
        --------
        >>> import nat4xr
        >>> nat4xr.open_area("A1").nat4.summary("animal")["cells"].to_list()
        [3, 2, 6, 6]
        """
        return count_cells(self._ds, by)

    def drop_unrecorded(self) -> xr.Dataset:
        """Drop cells, sounds and repeats without a response: see `nat4xr.drop_unrecorded`.

        Returns
        -------
        Dataset
            The Dataset without them. Lazy arrays stay lazy.

        Examples
        --------
        >>> import nat4xr
        >>> val = nat4xr.open_area("A1", subset="val")
        >>> val.sizes["neuron"], val.nat4.drop_unrecorded().sizes["neuron"]
        (17, 16)
        """
        return drop_unrecorded(self._ds)

    @property
    def plot(self) -> _Functions:
        """The figures of `nat4xr.plot` that draw a Dataset.

        Examples
        --------
        >>> import nat4xr
        >>> ds = nat4xr.open_area("A1")
        >>> dir(ds.nat4.plot)
        ['cell_response', 'coverage', 'population', 'psth', 'raster', 'spectrogram']
        >>> from matplotlib.figure import Figure
        >>> image = ds.isel(stim=0).nat4.plot.spectrogram(ax=Figure().subplots())
        """
        from . import plot

        return _Functions(plot, _FIGURES, self._ds)

    @property
    def metrics(self) -> _Functions:
        """The functions of `nat4xr.metrics` that take only a response.

        Examples
        --------
        >>> import nat4xr
        >>> val = nat4xr.open_area("A1", subset="val")
        >>> val.nat4.metrics.snr().dims
        ('neuron',)
        """
        from . import metrics

        return _Functions(metrics, _METRICS, self._ds["response"])

    def __getattr__(self, name: str) -> _Label:
        if name.startswith("_"):  # copy and pickle ask for such names before _ds is set
            raise AttributeError(name)
        if name not in self._labels():
            raise AttributeError(
                f"no label is called {name!r}: the labels are {', '.join(self._labels())}"
            )
        return _Label(self._ds, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._labels()]

    def _labels(self) -> list[str]:
        dims = ("stim", "neuron")
        return [
            str(n) for n, c in self._ds.coords.items() if len(c.dims) == 1 and c.dims[0] in dims
        ]

    def _title(self) -> str:
        return str(self._ds.attrs.get("title", "NAT4"))

    def _can_be_counted(self) -> bool:
        variables = self._ds.variables
        return all(
            name in variables and set(variables[name].dims) <= dims
            for name, dims in _NEEDED_FOR_COUNTS.items()
        )

    def __repr__(self) -> str:
        if not self._can_be_counted():
            return self._title()
        return f"{self._title()}\n{self.summary('site')}"

    def _repr_html_(self) -> str:
        """Return a map of the presentations and tables of the cells, by animal and by site."""
        title = f"<h4>{escape(self._title())}</h4>"
        if not self._can_be_counted():
            return title
        tables = f"{_table(self.summary('animal'))}{_table(self.summary('site'))}"
        return f"{title}{_coverage(self._ds)}{tables}"


class _Functions:
    """Functions of a module, with their first argument filled in."""

    def __init__(self, module: Any, names: tuple[str, ...], first: Any) -> None:
        self._module, self._names, self._first = module, names, first

    def __dir__(self) -> Iterator[str]:
        return iter(self._names)

    def __repr__(self) -> str:
        return f"{self._module.__name__}: {', '.join(self._names)}"

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._names:
            raise AttributeError(
                f"no function is called {name!r}: the functions are {', '.join(self._names)}"
            )
        function = getattr(self._module, name)
        method = partial(function, self._first)
        method.__doc__ = function.__doc__
        return method


class _Label:
    """One label of the cells or sounds. ``[...]`` selects by its values."""

    def __init__(self, ds: xr.Dataset, name: str) -> None:
        self._ds, self._name = ds, name

    def __getitem__(self, label: Any) -> xr.Dataset:
        return self._ds.sel({self._name: label})

    def _ipython_key_completions_(self) -> list[Any]:
        values: list[Any] = pd.unique(self._ds[self._name].values).tolist()
        return values

    def __repr__(self) -> str:
        counts = pd.Series(self._ds[self._name].values).value_counts(sort=False)
        return f"{self._name}: " + ", ".join(f"{label} ({n})" for label, n in counts.items())


def _coverage(ds: xr.Dataset) -> str:
    """Draw the map of presentations, unless it is empty or matplotlib is missing."""
    from . import plot

    if not ds["n_reps"].size:
        return ""
    try:
        figure = plot.figure(figsize=(5, 3.5))
    except ImportError:
        return ""
    plot.coverage(ds, ax=figure.subplots())
    png = BytesIO()
    figure.savefig(png, dpi=80)
    data = b64encode(png.getvalue()).decode()
    text = "Map of the number of presentations of each sound to each cell"
    return f'<img src="data:image/png;base64,{data}" alt="{text}">'


def _table(counts: pd.DataFrame) -> str:
    html: str = counts.rename(index=_as_text, columns=_as_text).to_html(
        formatters={_as_text(name): _bar for name in counts.columns if name.endswith("%")},
        escape=False,
    )
    return html


def _as_text(label: object) -> str:
    return escape(str(label))


def _bar(percent: Any) -> str:
    if percent != percent:  # NaN, because there are no sounds
        return ""
    return (
        f'{percent:.1f} <div style="width:6em;background:#ddd"><div style="width:{percent:.1f}%;'
        'height:0.4em;background:#1f77b4"></div></div>'
    )
