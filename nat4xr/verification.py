"""Check a copy of the release against what is known about it, and for consistency."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from . import metrics
from .area import open_area
from .errors import ReleaseError
from .io import registry
from .io.assemble import AreaData, assemble
from .io.cache import converted_if_whole, converted_paths, path_to_write
from .io.labels import match_cells
from .io.netcdf import open_with_labels
from .io.ragged import write_spikes
from .io.release import AreaFiles, find_area, fingerprints
from .io.tables import read_table
from .io.trials import find_trials, read_sites, spike_samples, spike_times
from .io.writing import unfinished
from .schema import BIN_S, DISK_CHUNKS
from .spikes import open_spikes

PUBLISHED: dict[str, dict[str, Any]] = {
    "A1": {
        "cells": 849,
        "auditory": 777,
        "sites": 22,
        "cells_by_animal": {"ARM": 165, "CRD": 36, "DRX": 244, "TNC": 404},
        "est": 575,
        "val": 18,
        "repeats": 20,
    },
    "PEG": {
        "cells": 398,
        "auditory": 339,
        "sites": 11,
        "cells_by_animal": {"ARM": 398},
        "est": 575,
        "val": 18,
        "repeats": 20,
    },
}
"""Counts of the published release."""

PUBLISHED_SNR: dict[str, dict[str, float]] = {
    "A1": {
        "ARM032a-18-3": 0.00587,
        "ARM031a-45-5": 0.02063,
        "TNC017a-31-2": 0.03167,
        "ARM031a-39-2": 0.03926,
        "ARM029a-09-5": 0.05112,
        "TNC018a-05-1": 0.06510,
        "TNC014a-29-1": 0.08074,
        "TNC020a-24-1": 0.10314,
        "TNC015a-34-2": 0.13231,
        "DRX006b-37-1": 0.16888,
        "TNC021a-25-1": 0.23927,
        "TNC010a-41-3": 0.57174,
    },
    "PEG": {
        "ARM027a-22-4": 0.00616,
        "ARM021b-43-7": 0.02026,
        "ARM026b-22-2": 0.03157,
        "ARM024a-53-1": 0.03930,
        "ARM022b-05-6": 0.04975,
        "ARM024a-35-2": 0.06227,
        "ARM023a-36-2": 0.08071,
        "ARM018a-40-2": 0.09835,
        "ARM019a-26-1": 0.13055,
        "ARM018a-36-2": 0.16633,
        "ARM021b-26-3": 0.23938,
        "ARM024a-42-1": 0.59026,
    },
}
"""Signal-to-noise ratios of 12 cells per area, from the laboratory's public analysis repository."""

PEG_SNR_PERCENTILES = {5: 0.014, 25: 0.038, 50: 0.071, 75: 0.135, 95: 0.311}
"""Percentiles of this ratio over 337 PEG cells, to three decimals, from the same source."""

SNR_TOLERANCE = 0.05
"""Accepted relative difference of the ratios. The authors' bins start with the session, while bins
here start with the trial."""

TOLERANCE = 1e-6
"""Accepted difference between two averages of the same trials, in spikes per bin."""


class _Check(NamedTuple):
    check: str
    expected: Any
    found: Any
    ok: bool | None  # None if there is nothing to compare with
    detail: str = ""


def verify(area: str, path: str | os.PathLike[str] | None = None) -> pd.DataFrame:
    """Check the files of an area, and what nat4xr reads from them.

    Nothing is downloaded. These are the checks:

    - The md5 of each file is the one in the Zenodo record, if the files were downloaded.
    - The numbers of cells, auditory cells, sites, cells by animal, sounds and repeats are right.
    - The labels of each cell together give its name.
    - Each cell has a row in the table.
    - Each cell has trials, under its name or under one with another number of zeros.
    - The average over the trials of each cell equals its average in the population recording. This
      shows that nat4xr cuts, bins and assigns trials as the authors did.
    - The converted file (which is made if it does not exist) and the converted spikes (if they
      exist) have the same content as the release.
    - The signal-to-noise ratios of 12 cells of the area, and their percentiles over all PEG cells,
      are within 5 % of those of the authors. Simulated data are not checked for this.

    Parameters
    ----------
    area : {"A1", "PEG"}
        Primary or secondary auditory cortex.
    path : path-like, optional
        The data folder, as for `open_area`.

    Returns
    -------
    pandas.DataFrame
        One row per check, with the columns ``check``, its name; ``expected`` and ``found``, the
        two values; ``ok``, whether the check passed, which is missing (``<NA>``) if there is
        nothing to compare with; and ``detail``.

    Raises
    ------
    ValueError
        If `area` is not one of the values above.
    FileNotFoundError
        If a file of the area is missing.
    ReleaseError
        If it is unclear which unpacked folder belongs to the area, or if such a folder contains a
        link. Other damage does not raise an error, but fails a check.
    OSError
        If the converted file cannot be written, or the name of the data folder is not UTF-8.

    Notes
    -----
    A simulated release is compared with the counts in its own meta data. A release that has fewer
    cells than the published one is assumed to be a part of it: the published counts are shown for
    comparison, but differences from them are not failures.

    Examples
    --------
    With a small simulated release:

    >>> import nat4xr
    >>> checks = nat4xr.verify("PEG")
    >>> checks.loc[checks.check == "cells", ["expected", "found", "ok"]]
       expected found    ok
    4         8     8  True
    >>> bool((checks.ok == False).any())
    False
    """
    area = registry.part_named(area)
    folder = registry.data_dir(path)
    files = find_area(area, folder)
    if isinstance(files, list):
        raise registry.missing_error(area, files, folder)
    checks = list(_checksums(area, files, folder))
    repairs = {kind: _repair(area, kind, folder) for kind in ("", "_spikes")}
    try:
        data = assemble(area, files)
        checks += _counts(data.header)
        checks += _labels(data.header)
        checks.append(_rows(data.header, files.table))
        checks += _trials(data.header)
        checks += [_Check(note.kind, "", note.n_found, None, note.where) for note in data.notes]
        checks += _averages(data, files)
        with open_area(area, path, chunks=None, download=False, progressbar=False) as stored:
            checks.append(_stored(data, stored, repairs[""]))
            if not data.header.attrs["simulated"]:
                checks += _snr(area, stored)
        if repairs["_spikes"] is not None:
            header = data.header
            del data  # to free its memory
            checks.append(_spikes(header, files, folder, repairs["_spikes"]))
    except ReleaseError as error:
        checks.append(
            _Check("files can be read", "whole files", "a broken file", False, str(error))
        )
    return pd.DataFrame(checks).astype({"ok": "boolean"})


def _checksums(area: str, files: AreaFiles, folder: Path) -> Iterator[_Check]:
    pin = registry.pinned(folder)
    unknown = f"the record was not asked yet: nat4xr fetch {area} checks the files against its md5"
    if (folder / registry.PIN).exists() and not pin.keys() >= set(registry.FILES[area]):
        unknown = f"{registry.PIN} does not list the file"
        remedy = f"it is damaged or cannot be read: nat4xr fetch {area} asks the record again"
        yield _Check(f"{registry.PIN} lists the files", "yes", "no", False, remedy)
    for file in (files.population, files.sites, files.table):
        check = f"md5 of {file.name}"
        entry = pin.get(file.name)
        if file.is_dir():
            yield _Check(check, "not known", "a folder", None, "unpacked files have no md5")
        elif entry is None:
            yield _Check(check, "not known", registry.md5_of(file), None, unknown)
        else:
            found = registry.md5_of(file)
            yield _Check(
                check, entry.md5, found, found == entry.md5, registry.flaw(file, entry) or ""
            )


def _counts(header: xr.Dataset) -> Iterator[_Check]:
    found = _count(header)
    expected = PUBLISHED[header.attrs["area"]]
    if header.attrs["simulated"]:
        kind, detail = "simulated", "counts are compared with those in its own meta data"
        expected = _stated(header)
    elif found["cells"] < expected["cells"]:
        kind = "partial"
        detail = (
            f"it has {found['cells']} of the {expected['cells']} published cells, so it is a part "
            "of the release or an incomplete copy; the published counts are only shown for "
            "comparison"
        )
    else:
        kind, detail = "whole", "counts are compared with the published ones"
    yield _Check("release", "", kind, None, detail)
    for name, number in found.items():
        judged = kind != "partial" and name in expected
        ok = number == expected[name] if judged else None
        yield _Check(name.replace("_", " "), expected.get(name, "not known"), number, ok)


def _stated(header: xr.Dataset) -> dict[str, Any]:
    """Return the properties that a simulated release states in its meta data."""
    # Infinity and NaN are neither valid JSON nor counts: they become text.
    stated = json.loads(header.attrs.get("simulation", "{}"), parse_constant=str)
    return stated if isinstance(stated, dict) else {}


def _count(header: xr.Dataset) -> dict[str, Any]:
    val = header["subset"].values == "val"
    n_reps = header["n_reps"].values[val]
    repeats = np.unique(n_reps[n_reps > 0]).tolist()
    return {
        "cells": header.sizes["neuron"],
        "auditory": int(header["auditory"].sum()),
        "sites": len(set(header["site"].values.tolist())),
        "cells_by_animal": dict(sorted(Counter(header["animal"].values.tolist()).items())),
        "est": int((~val).sum()),
        "val": int(val.sum()),
        "repeats": repeats[0] if len(repeats) == 1 else repeats,
    }


def _labels(header: xr.Dataset) -> Iterator[_Check]:
    cells = header["neuron"].values.tolist()
    parts = [header[name].values.tolist() for name in ("animal", "recording", "session")]
    numbers = [header[name].values.tolist() for name in ("electrode", "unit_in_electrode")]
    wrong = []
    for cell, site, animal, recording, session, electrode, unit in zip(
        cells, header["site"].values.tolist(), *parts, *numbers, strict=True
    ):
        spelled = f"{animal}{recording:03d}{session}-{electrode}-{unit}"
        written = [text.lstrip("0") or "0" for text in cell.split("-")]
        if spelled.split("-") != written or not cell.startswith(f"{site}-"):
            wrong.append(cell)
    yield _Check(
        "cells whose labels spell their name",
        len(cells),
        len(cells) - len(wrong),
        not wrong,
        _listed(wrong),
    )
    unparsed = (
        header["stim"]
        .values[(header["category"].values < 0) | (header["sound"].values == "")]
        .tolist()
    )
    n_stims = header.sizes["stim"]
    # The names of est sounds are only published in the release, so other forms are no failure.
    ok = None if unparsed else True
    found = n_stims - len(unparsed)
    yield _Check("sounds whose names are parsed", n_stims, found, ok, _listed(unparsed))


def _rows(header: xr.Dataset, table: Path) -> _Check:
    cells = header["neuron"].values.tolist()
    rows = match_cells(cells, set(read_table(table.read_bytes(), ["cellid"])["cellid"]))
    lacking = [cell for cell in cells if cell not in rows]
    return _Check(
        "cells without a row in the table", 0, len(lacking), not lacking, _listed(lacking)
    )


def _trials(header: xr.Dataset) -> Iterator[_Check]:
    cells, names = header["neuron"].values, header["trials_cell_id"].values
    without = cells[names == ""].tolist()
    other = (names != "") & (names != cells)
    pairs = [f"{cell} ({name})" for cell, name in zip(cells[other], names[other], strict=True)]
    yield _Check("cells with trials under their name", "", int((names == cells).sum()), None)
    yield _Check(
        "cells with trials under another number of zeros", "", len(pairs), None, _listed(pairs)
    )
    known = _stated(header).get("cells_without_trials")
    expected: Any = known
    ok: bool | None = False
    if known is None:
        expected, ok = "not known", None
    elif isinstance(known, list):
        expected, ok = len(known), sorted(map(str, known)) == sorted(without)
    yield _Check("cells without trials", expected, len(without), ok, _listed(without))
    sites = set(header["site"].values.tolist())
    empty = sorted(sites - set(header["site"].values[names != ""].tolist()))
    found = len(sites) - len(empty)
    yield _Check("sites whose trials are there", len(sites), found, not empty, _listed(empty))


def _averages(data: AreaData, files: AreaFiles) -> list[_Check]:
    """Compare the population recording with the trials of the site recordings."""
    presented, est = _est_responses(data, files)
    val = _val_average(data, presented)
    cells = data.header["neuron"].values
    return [
        _difference("mean over val trials against published average", val, cells),
        _difference("est responses against the spikes of the sites", est, cells),
    ]


def _val_average(data: AreaData, presented: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Compare the mean over val trials, as nat4xr reads them, with the published average."""
    is_val = data.header["subset"].values == "val"
    means, averages = [], []
    for stim in np.flatnonzero(is_val):
        block = slice(stim, stim + 1)
        averages.append(data.psth(block)[0])
        trials = (data.response(block, rep) for rep in range(data.header.sizes["rep"]))
        total, n_trials = np.zeros(averages[-1].shape), np.zeros(averages[-1].shape)
        for trial in trials:
            if trial is not None:
                total += np.nan_to_num(trial[0].astype(np.float64))
                n_trials += ~np.isnan(trial[0])
        means.append(total / np.where(n_trials > 0, n_trials, np.nan))
    shape = (-1, data.header.sizes["time"], data.header.sizes["neuron"])
    return _compare(np.reshape(means, shape), np.reshape(averages, shape), presented[is_val])


def _est_responses(
    data: AreaData, files: AreaFiles
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Compare est responses, counted from the spikes of the sites, with the published ones.

    The spikes are counted by other code than in the reader. Returns whether each sound was
    presented to each cell, (stim, neuron), and the result of `_compare`.
    """
    header = data.header
    est = header["subset"].values == "est"
    stims, n_time = header["stim"].values.tolist(), header.sizes["time"]
    cell_of = {
        name: i for i, name in enumerate(header["trials_cell_id"].values.tolist()) if name != ""
    }
    presented = np.zeros((header.sizes["stim"], header.sizes["neuron"]), bool)
    compared = np.zeros((3, header.sizes["neuron"]))
    compared[0] = np.nan
    for recording in read_sites(files):
        site = recording.signals["resp"]
        trials = find_trials(site, stims, n_time * BIN_S, recording.label)
        of_release = trials.stim >= 0
        n_trials = np.bincount(trials.stim[of_release], minlength=len(stims))
        columns = [cell_of[channel] for channel in site.channels if channel in cell_of]
        presented[:, columns] = n_trials[:, np.newaxis] > 0
        of_est = of_release & est[trials.stim]
        stim, onsets = trials.stim[of_est], trials.onset[of_est]
        edges = np.arange(n_time + 1) * round(site.fs * BIN_S)
        covered = edges[1:] <= trials.length[of_est][:, np.newaxis]
        n_covering = np.zeros((len(stims), n_time))
        np.add.at(n_covering, stim, covered)
        published = _columns(data, est, columns)
        for i, column in enumerate(columns):
            times = spike_times(site, header["trials_cell_id"].values[column])
            samples = spike_samples(times, site.fs)
            counts = np.diff(np.searchsorted(samples, onsets[:, np.newaxis] + edges))
            total = np.zeros((len(stims), n_time))
            np.add.at(total, stim, np.where(covered, counts, 0))
            mean = np.full(total.shape, np.nan)
            np.divide(total, n_covering, out=mean, where=n_covering > 0)
            compared[:, column] = _compare(mean[est], published[..., i], presented[est, column])
    return presented, compared


def _columns(data: AreaData, sounds: NDArray[np.bool_], columns: list[int]) -> NDArray[np.float32]:
    """Read some sounds and cells of the population recording, (stim, time, neuron)."""
    n_time = data.header.sizes["time"]
    position = np.full(data.rates.n_channels, -1)
    position[columns] = np.arange(len(columns))
    rates = data.rates
    sample = np.repeat(np.arange(rates.n_samples), np.diff(rates.starts))
    column = position[rates.channels]
    kept = column >= 0
    table = np.zeros((rates.n_samples, len(columns)), np.float32)
    table[sample[kept], column[kept]] = rates.values[kept]
    samples = data.onsets[sounds][:, np.newaxis] + np.arange(n_time)
    values = np.take(table, samples, axis=0, mode="clip")
    if data.lengths is not None:
        values[np.arange(n_time) >= data.lengths[sounds][:, np.newaxis]] = np.nan
    return values


def _snr(area: str, stored: xr.Dataset) -> Iterator[_Check]:
    """Compare signal-to-noise ratios of cells with those of the authors."""
    published = PUBLISHED_SNR[area]
    whole = area == "PEG" and stored.sizes["neuron"] >= PUBLISHED[area]["cells"]
    listed = np.isin(stored["neuron"].values, list(published))
    needed = listed | (stored["auditory"].values if whole else False)
    is_val = stored["subset"].values == "val"
    repeated = (stored["n_reps"].values[is_val] > 1).any(axis=0)
    check = "signal-to-noise ratios against those of the authors"
    if not (listed & repeated).any():
        return  # a part of the release may have none of these cells
    response = stored["response"].isel(stim=is_val, neuron=needed & repeated)
    of_cells = metrics.trial_snr(response)
    ratios = {
        cell: float(of_cells.sel(neuron=cell)) for cell in published if cell in of_cells["neuron"]
    }
    both = [f"{cell} {value:.5f} (authors {published[cell]:.5f})" for cell, value in ratios.items()]
    near = [abs(ratios[cell] / published[cell] - 1) <= SNR_TOLERANCE for cell in ratios]
    yield _Check(check, len(ratios), sum(near), all(near), "; ".join(both))
    if whole:
        percentiles = np.percentile(
            of_cells.values[of_cells["auditory"].values], list(PEG_SNR_PERCENTILES)
        ).round(3)
        expected = np.array(list(PEG_SNR_PERCENTILES.values()))
        near = abs(percentiles - expected) <= SNR_TOLERANCE * expected + 0.001
        check = (
            f"percentiles {', '.join(map(str, PEG_SNR_PERCENTILES))} of the signal-to-noise ratio"
        )
        detail = "over the auditory cells; those of the authors are over 337 cells"
        yield _Check(check, expected.tolist(), percentiles.tolist(), bool(near.all()), detail)


def _repair(area: str, kind: str, folder: Path) -> str | None:
    """Return why a converted file will be converted again; None if the file does not exist."""
    existing = [file for file in converted_paths(area, kind, folder) if file.exists()]
    if not existing:
        return None
    sources = fingerprints(area, folder)
    if any(converted_if_whole(file, sources) is not None for file in existing):
        return ""
    stale = any(converted_if_whole(file, {}) is not None for file in existing)
    reason = "did not match the size or time of its sources" if stale else "was damaged"
    return f"it {reason}, and was converted again"


def _stored(data: AreaData, stored: xr.Dataset, repair: str | None) -> _Check:
    """Compare the converted file with what was read from the release, a few sounds at a time."""
    header = data.header.copy()
    header.attrs.pop("simulation", None)  # `open_area` does not return it
    differ = _differing(header, stored)
    for first in range(0, data.header.sizes["stim"], DISK_CHUNKS["stim"]):
        stims = slice(first, first + DISK_CHUNKS["stim"])
        block = stored.isel(stim=stims)
        if not np.array_equal(block["psth"].values, data.psth(stims), equal_nan=True):
            differ.append(f"psth of sounds {first} to {stims.stop - 1}")
        for rep in range(data.header.sizes["rep"]):
            fresh = data.response(stims, rep)
            converted = block["response"].isel(rep=rep).values
            same = (
                np.isnan(converted).all()
                if fresh is None
                else np.array_equal(converted, fresh, equal_nan=True)
            )
            if not same:
                differ.append(f"response of sounds {first} to {stims.stop - 1}, repeat {rep}")
    return _sameness("converted file against its sources", differ, repair)


def _spikes(header: xr.Dataset, files: AreaFiles, folder: Path, repair: str) -> _Check:
    """Compare the converted spikes with a new conversion."""
    area = header.attrs["area"]
    stored = open_spikes(area, folder, download=False, progressbar=False)
    # Written beside the converted file, because the system's temporary folder may be too small.
    with unfinished(path_to_write(area, "_spikes", folder)) as part:
        write_spikes(header, files, part, False)
        with open_with_labels(part) as fresh:
            differ = _differing(fresh, stored)
    return _sameness("converted spikes against their sources", differ, repair)


def _sameness(check: str, differ: list[str], repair: str | None) -> _Check:
    found = "differs" if differ else "the same"
    detail = "; ".join(text for text in (repair, _listed(differ)) if text)
    return _Check(check, "the same", found, not differ, detail)


def _differing(fresh: xr.Dataset, stored: xr.Dataset) -> list[str]:
    """List the variables that differ in the converted file, and "attributes" if these differ."""
    differ = [
        str(name)
        for name, variable in fresh.variables.items()
        if name not in stored.variables or not _identical(variable, stored[name].variable)
    ]
    ours, theirs = (
        {name: value for name, value in ds.attrs.items() if name != "nat4xr_version"}
        for ds in (fresh, stored)
    )
    return differ if ours == theirs else [*differ, "attributes"]


def _identical(a: Any, b: xr.Variable) -> bool:
    return bool(a.identical(b) and a.dtype == b.dtype)


def _compare(
    mean: NDArray[Any], average: NDArray[Any], presented: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Compare means over trials with published averages (stim, time, ...).

    Only sounds that were presented (stim, ...) are compared. Returns three values for each cell,
    (3, ...): the largest difference (NaN if nothing could be compared), the number of single bins
    in which the average is missing, and the number of sounds whose whole average is missing.
    """
    lacking = np.isnan(average)
    left_out = presented & lacking.all(axis=1)
    gaps = np.where(presented & ~left_out, lacking.sum(axis=1), 0).sum(axis=0)
    difference = np.where(lacking | ~presented[:, np.newaxis], -1, abs(mean - average))
    difference[np.isnan(difference)] = np.inf  # the mean is NaN, although there is an average
    largest = difference.max(axis=(0, 1), initial=-1)
    return np.stack([np.where(largest < 0, np.nan, largest), gaps, left_out.sum(axis=0)])


def _difference(check: str, compared: NDArray[np.float64], cells: NDArray[np.str_]) -> _Check:
    worst, gaps, left_out = compared
    expected = f"at most {TOLERANCE:g}"
    without_average = np.isnan(worst) & (left_out > 0)
    over = [f"{cells[i]} ({worst[i]:.3g})" for i in np.flatnonzero(worst > TOLERANCE)]
    n_compared = int((~np.isnan(worst)).sum())
    if not n_compared and not without_average.any():
        return _Check(check, expected, "no trials", None)
    detail = f"{n_compared} cells compared, {len(over)} differ by more"
    if over:
        detail += f": {_listed(over)}"
    if without_average.any():
        detail += f"; cells with trials but without an average: {_listed(cells[without_average])}"
    if gaps.any():
        lacking = [f"{cells[i]} ({gaps[i]:.0f})" for i in np.flatnonzero(gaps)]
        detail += f"; bins without an average: {_listed(lacking)}"
    if left_out.any():  # this is only a failure if a cell has no average at all
        detail += f"; pairs of a sound and a cell without an average: {left_out.sum():.0f}"
    found = f"{np.nanmax(worst):.3g}" if n_compared else "nothing to compare"
    ok = not (over or without_average.any() or gaps.any())
    return _Check(check, expected, found, ok, detail)


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))
