"""Parse labels from the names of sounds and cells.

The functions accept any string. A label that cannot be parsed is ``""`` or ``-1``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_SITE = re.compile(r"(?P<animal>[A-Za-z]{3})(?P<recording>[0-9]+)(?P<session>[A-Za-z]+)")
_CELL = re.compile(rf"(?P<site>{_SITE.pattern})-(?P<electrode>[0-9]+)-(?P<unit>[0-9]+)")
_CATEGORY = re.compile(r"(?:STIM_)?(?:00)?cat([0-9]+)_")
_SOUND = re.compile(r"_rec[0-9]+_(.+)_excerpt[0-9]")
_EXCERPT = re.compile(r"_excerpt([0-9]+)(?:\.wav)?\Z")

Labels = dict[str, NDArray[np.generic]]


def _int16(digits: str | None) -> int:
    number = int(digits) if digits and len(digits) < 9 else -1
    return number if number < 2**15 else -1


def check_names(names: Iterable[str]) -> None:
    """Raise a ValueError for names that a spreadsheet or terminal could interpret as commands.

    >>> check_names(["DRX006b-128-2", "=1+1"])
    Traceback (most recent call last):
        ...
    ValueError: holds the unsafe name '=1+1'
    """
    for name in names:
        if not 0 < len(name) < 256 or name[0] in "=+-@" or not name.isprintable():
            raise ValueError(f"holds the unsafe name {name[:256]!r}")


def check_sounds(names: Sequence[str]) -> None:
    """Raise a ValueError for unsafe names of sounds, and for unsafe descriptions in them."""
    check_names(names)  # first, because long names would take long to parse
    check_names(filter(None, (_first(_SOUND.search(name)) for name in names)))


def cell_labels(cell_ids: Sequence[str], area: str) -> Labels:
    """Parse the labels in NEMS cell ids, ``<site>-<electrode>-<unit>``.

    The site consists of animal, recording number and session letter. Returns ``cell_id``,
    ``area``, ``site``, ``animal`` and ``session`` (str), and ``recording``, ``electrode`` and
    ``unit_in_electrode`` (int16), with one value per cell.

    >>> labels = cell_labels(["DRX006b-128-2", "what?"], "A1")
    >>> labels["site"].tolist(), labels["electrode"].tolist()
    (['DRX006b', ''], [128, -1])
    """
    rows = []
    for cell_id in cell_ids:
        site_name, _, rest = cell_id.partition("-")
        site = _SITE.fullmatch(site_name)
        electrode, _, unit = rest.partition("-")
        rows.append(
            (
                site_name if site else "",
                site["animal"] if site else "",
                site["session"] if site else "",
                _int16(site["recording"]) if site else -1,
                _int16(electrode if re.fullmatch("[0-9]+", electrode) else None),
                _int16(unit if re.fullmatch("[0-9]+", unit) else None),
            )
        )
    columns = zip(*rows, strict=True) if rows else ((),) * 6
    sites, animals, sessions, recordings, electrodes, units = columns
    return {
        "cell_id": _strings(cell_ids),
        "area": _strings([area] * len(rows)),
        "site": _strings(sites),
        "animal": _strings(animals),
        "session": _strings(sessions),
        "recording": np.array(recordings, np.int16),
        "electrode": np.array(electrodes, np.int16),
        "unit_in_electrode": np.array(units, np.int16),
    }


def sound_labels(stims: Sequence[str]) -> Labels:
    """Parse the labels in the epoch names of sounds, where ``00`` marks a val sound.

    Returns ``subset`` (``"val"`` or ``"est"``) and ``sound`` (str), and ``category`` and
    ``excerpt`` (int16), with one value per sound.

    >>> labels = sound_labels(["STIM_00cat172_rec1_geese_excerpt1.wav"])
    >>> {name: values[0].item() for name, values in labels.items()}
    {'subset': 'val', 'category': 172, 'sound': 'geese', 'excerpt': 1}
    """
    return {
        "subset": _strings(["val" if is_val(stim) else "est" for stim in stims]),
        "category": np.array([_int16(_first(_CATEGORY.match(s))) for s in stims], np.int16),
        "sound": _strings([_first(_SOUND.search(s)) or "" for s in stims]),
        "excerpt": np.array([_int16(_first(_EXCERPT.search(s))) for s in stims], np.int16),
    }


def is_val(stim: str) -> bool:
    """Whether an epoch name is that of a val sound (20 presentations at every site)."""
    return stim.startswith("STIM_00cat")


def match_cells(population_ids: Iterable[str], site_ids: Iterable[str]) -> dict[str, str]:
    """Match cells between recordings by (site, electrode, unit) as numbers.

    Returns the id in the site recording, by the id in the population recording. Some TNC site
    archives pad the electrode with one zero more than the population recording
    (``TNC013a-022-3`` instead of ``TNC013a-22-3``). An exact match takes precedence. Cells without
    a match are left out. If several ids without an exact match belong to the same cell, this
    raises a ValueError.

    >>> match_cells(["TNC013a-22-3", "TNC013a-60-1"], ["TNC013a-022-3"])
    {'TNC013a-22-3': 'TNC013a-022-3'}
    """
    population_ids, site_ids = list(population_ids), list(site_ids)
    exact = set(population_ids) & set(site_ids)
    by_number: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for i, names in enumerate((population_ids, site_ids)):
        for name in names:
            if name not in exact and (key := _cell_number(name)):
                by_number.setdefault(key, ([], []))[i].append(name)
    matches = {name: name for name in population_ids if name in exact}
    for in_population, at_site in by_number.values():
        if in_population and at_site:
            if len(in_population) + len(at_site) > 2:
                raise ValueError(f"{' and '.join(in_population)} might be {' or '.join(at_site)}")
            matches[in_population[0]] = at_site[0]
    return matches


@lru_cache(4096)  # the same cells are matched for each site of an area
def _cell_number(cell_id: str) -> tuple[str, ...] | None:
    """Split a cell id into animal, recording, session, electrode and unit, without zeros."""
    cell = _CELL.fullmatch(cell_id)
    if cell is None:
        return None
    # The digits are not converted to integers, because Python limits the number of digits.
    recording, electrode, unit = (cell[k].lstrip("0") for k in ("recording", "electrode", "unit"))
    return cell["animal"], recording, cell["session"], electrode, unit


def _first(match: re.Match[str] | None) -> str | None:
    return match[1] if match else None


def _strings(values: Sequence[str]) -> NDArray[np.str_]:
    return np.array(values, dtype=np.str_)
