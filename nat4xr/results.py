"""The authors' results for each cell, as published with the release."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from .errors import explained
from .index import set_labels
from .io import limits, registry
from .io.assemble import cell_coords, dataset_attrs
from .io.release import auditory_flags, check_folder
from .io.tables import read_header, read_table

__all__ = ["open_table"]


def open_table(
    area: str,
    path: str | os.PathLike[str] | None = None,
    *,
    download: bool = True,
    progressbar: bool = True,
) -> xr.Dataset:
    """Open the authors' table of results for each cell, ``<area>_pred_correlation.csv``.

    Parameters
    ----------
    area : {"A1", "PEG"}
        Primary or secondary auditory cortex.
    path : path-like, optional
        The data folder, as for `open_area`.
    download : bool, default: True
        Whether to download the files of the area if the table is missing.
    progressbar : bool, default: True
        Whether to show the progress of the download.

    Returns
    -------
    xarray.Dataset
        One variable (neuron) for each column of the table, in the order of its rows. Columns of
        numbers are float64, with NaN for empty fields; other columns are text. The cell ids are
        the coordinate ``neuron``, and ``sig_auditory`` is the label ``auditory``. The other labels
        of the cells are those of `open_area`.

    Raises
    ------
    ValueError
        If `area` is not one of the values above.
    ReleaseError
        If the table is damaged, or has two different rows for the same cell.
    DownloadError
        If the files cannot be downloaded.
    FileNotFoundError
        If the table is missing and `download` is False.

    Notes
    -----
    The release does not describe the columns. Each column has the name of a model, and contains
    the correlations of its predictions with the val responses.

    References
    ----------
    David and Pennington (2023), https://doi.org/10.5281/zenodo.8044773.

    Examples
    --------
    >>> import nat4xr
    >>> table = nat4xr.open_table("A1")
    >>> list(table.data_vars)
    ['truth_test']
    >>> table.sel(animal="TNC", auditory=True).sizes["neuron"]
    5
    """
    area = registry.part_named(area)
    check_folder(path, area)
    folder = registry.data_dir(path)
    name = f"{area}_pred_correlation.csv"
    file = folder / name
    if not file.is_file():
        if not download:
            raise registry.missing_error(area, [name], folder)
        from .io.download import fetch

        fetch(area, path, progressbar=progressbar)
    with explained(name):
        limits.check("table_bytes", file.stat().st_size)
        content = file.read_bytes()
        columns = read_table(content, [column for column in read_header(content) if column])
        table = pd.DataFrame(columns)
        if "cellid" not in table or table.empty:
            raise ValueError("has no column cellid, or no rows")
        table = table.assign(cellid=table["cellid"].str.strip()).drop_duplicates()
        if (twice := table["cellid"].duplicated()).any():
            raise ValueError(f"has two rows for {table['cellid'][twice].iloc[0]}, which differ")
    cells = table.pop("cellid").to_list()
    simulated = "truth_test" in table  # a column that nat4xr.simulate writes
    variables = {
        column: ("neuron", _values(fields.to_list()))
        for column, fields in table.items()
        if column != "sig_auditory"
    }
    coords = cell_coords(area, cells, auditory_flags(file, cells), [""] * len(cells))
    del coords["trials_cell_id"]
    attrs = dataset_attrs(area, {})
    attrs["title"] = f"Results of the authors for each cell ({area})"
    if simulated:
        attrs |= {
            "title": f"SIMULATED results for each cell ({area})",
            "source": "nat4xr.simulate",
            "simulated": 1,
        }
        del attrs["creator"], attrs["license"]
    return set_labels(xr.Dataset(variables, coords, attrs))


def _values(fields: Sequence[str]) -> NDArray[Any]:
    """Parse a column as numbers, with NaN for empty fields, or return text if that fails."""
    try:
        return np.array([float(field) if field.strip() else np.nan for field in fields])
    except ValueError:
        return np.array(fields, np.str_)
