"""``ds.nat4``: the package where an interactive user looks for it. No logic of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from html import escape
from typing import Any

import pandas as pd
import xarray as xr

from .coverage import count_cells, drop_unrecorded

_FIGURES = ("cell_response", "coverage", "population", "psth", "raster", "spectrogram")
_METRICS = ("signal_power", "noise_power", "snr", "cc_max", "corrcoef_max", "ttrc")


@xr.register_dataset_accessor("nat4")
class Nat4:
    """The package's functions as methods of a Dataset: ``ds.nat4.<tab>``.

    Each label of the sounds and cells is there too, so that its values complete:
    ``ds.nat4.site["ARM<tab>`` is ``ds.sel(site="ARM029a")``.

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
        """Count cells and what they heard: `nat4xr.count_cells`."""
        return count_cells(self._ds, by)

    def drop_unrecorded(self) -> xr.Dataset:
        """Drop cells and sounds without any response: `nat4xr.drop_unrecorded`."""
        return drop_unrecorded(self._ds)

    @property
    def plot(self) -> _Functions:
        """The figures of `nat4xr.plot` that draw a Dataset."""
        from . import plot

        return _Functions(plot, _FIGURES, self._ds)

    @property
    def metrics(self) -> _Functions:
        """The functions of `nat4xr.metrics` that take only a response."""
        from . import metrics

        return _Functions(metrics, _METRICS, self._ds["response"])

    def __getattr__(self, name: str) -> _Label:
        if name.startswith("_") or name not in self._labels():
            raise AttributeError(
                f"there is no label {name!r}; there are {', '.join(self._labels())}"
            )
        return _Label(self._ds, name)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._labels()]

    def _labels(self) -> list[str]:
        dims = ("stim", "neuron")
        return [
            str(n) for n, c in self._ds.coords.items() if len(c.dims) == 1 and c.dims[0] in dims
        ]

    def _repr_html_(self) -> str:
        """Cells by animal and site, with a bar for how much of it was recorded."""
        title = escape(str(self._ds.attrs.get("title", "NAT4")))
        if not {"n_reps", "animal", "site", "auditory", "subset"} <= set(self._ds.variables):
            return f"<h4>{title}</h4>"
        return f"<h4>{title}</h4>{_table(self.summary('animal'))}{_table(self.summary('site'))}"


class _Functions:
    """Functions of a module, given their first argument."""

    def __init__(self, module: Any, names: tuple[str, ...], first: Any) -> None:
        self._module, self._names, self._first = module, names, first

    def __dir__(self) -> Iterator[str]:
        return iter(self._names)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self._names:
            raise AttributeError(f"there is no {name!r}; there are {', '.join(self._names)}")
        function = getattr(self._module, name)
        method = partial(function, self._first)
        method.__doc__ = function.__doc__
        return method


class _Label:
    """A label whose values complete in ``[...]``, which selects them."""

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


def _table(counts: pd.DataFrame) -> str:
    html: str = counts.rename(index=lambda label: escape(str(label))).to_html(
        formatters={name: _bar for name in counts.columns if name.endswith("%")}, escape=False
    )
    return html


def _bar(percent: Any) -> str:
    return (
        f'<div style="width:6em;background:#ddd"><div style="width:{percent:.1f}%;'
        f'background:#1f77b4;color:#fff;text-align:left">&nbsp;{percent:.1f}</div></div>'
    )
