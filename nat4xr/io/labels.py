"""What the names of sounds and cells say: names in, label tables out.

Every function is pure and takes any string: what cannot be parsed is ``""`` or ``-1``, and names
that harm where they are shown can be refused.
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
    """Refuse names that a spreadsheet would take for a formula, or a terminal for a command.

    Parameters
    ----------
    names : iterable of str

    Raises
    ------
    ValueError
        A name is unsafe.

    Examples
    --------
    >>> check_names(["DRX006b-128-2", "=1+1"])
    Traceback (most recent call last):
        ...
    ValueError: holds the unsafe name '=1+1'
    """
    for name in names:
        if not 0 < len(name) < 256 or name[0] in "=+-@" or not name.isprintable():
            raise ValueError(f"holds the unsafe name {name[:256]!r}")


def check_sounds(names: Sequence[str]) -> None:
    """Refuse names of sounds that are unsafe, or say so of what is heard.

    Parameters
    ----------
    names : sequence of str

    Raises
    ------
    ValueError
        A name is unsafe.
    """
    check_names(names)  # before they are parsed: no name is long
    check_names(filter(None, (_first(_SOUND.search(name)) for name in names)))


def cell_labels(cell_ids: Sequence[str], area: str) -> Labels:
    """Labels that follow from NEMS cell ids, ``<site>-<electrode>-<unit>``.

    Parameters
    ----------
    cell_ids : sequence of str
        Such as ``"DRX006b-128-2"``: animal, recording number and session letter make the
        site; then electrode, and unit in electrode.
    area : str
        ``"A1"`` or ``"PEG"``.

    Returns
    -------
    dict of str to numpy.ndarray
        ``cell_id``, ``area``, ``site``, ``animal``, ``session`` (str) and ``recording``,
        ``electrode``, ``unit_in_electrode`` (int16), a value a cell.

    Examples
    --------
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
    """Labels that follow from the epoch names of sounds.

    Parameters
    ----------
    stims : sequence of str
        Such as ``"STIM_00cat172_rec1_geese_excerpt1.wav"``; ``00`` marks a val sound.

    Returns
    -------
    dict of str to numpy.ndarray
        ``subset`` (``"val"`` or ``"est"``) and ``sound`` (str), ``category`` and ``excerpt``
        (int16), a value a sound.

    Examples
    --------
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


def match_cells(wanted: Iterable[str], found: Iterable[str]) -> dict[str, str]:
    """Match cells between recordings by (site, electrode, unit) as numbers.

    Some TNC site archives pad the electrode with one zero more than the population
    recording (``TNC013a-022-3`` beside ``TNC013a-22-3``). An exact match wins; cells found
    nowhere are left out.

    Parameters
    ----------
    wanted, found : iterable of str
        Cell ids as the population recording and the site recording write them.

    Returns
    -------
    dict of str to str
        Wanted id -> found id.

    Raises
    ------
    ValueError
        Several ids that are not exact mean the same cell.

    Examples
    --------
    >>> match_cells(["TNC013a-22-3", "TNC013a-60-1"], ["TNC013a-022-3"])
    {'TNC013a-22-3': 'TNC013a-022-3'}
    """
    wanted, found = list(wanted), list(found)
    exact = set(wanted) & set(found)
    by_number: dict[tuple[str, ...], tuple[list[str], list[str]]] = {}
    for side, names in enumerate((wanted, found)):
        for name in names:
            if name not in exact and (key := _cell_number(name)):
                by_number.setdefault(key, ([], []))[side].append(name)
    matches = {name: name for name in wanted if name in exact}
    for ours, theirs in by_number.values():
        if ours and theirs:
            if len(ours) + len(theirs) > 2:
                raise ValueError(f"{' and '.join(ours)} might be {' or '.join(theirs)}")
            matches[ours[0]] = theirs[0]
    return matches


@lru_cache(4096)  # for each site of an area the same cells are matched
def _cell_number(cell_id: str) -> tuple[str, ...] | None:
    """The cell as (animal, recording, session, electrode, unit), numbers as numbers."""
    cell = _CELL.fullmatch(cell_id)
    if cell is None:
        return None
    # Digits without their leading zeros: no conversion, so no limit on their count.
    recording, electrode, unit = (cell[k].lstrip("0") for k in ("recording", "electrode", "unit"))
    return cell["animal"], recording, cell["session"], electrode, unit


def _first(match: re.Match[str] | None) -> str | None:
    return match[1] if match else None


def _strings(values: Sequence[str]) -> NDArray[np.str_]:
    return np.array(values, dtype=np.str_)
