"""What was left out or repaired while a release was read: counted, and said once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import NamedTuple

CUT = "trials cut short"
LONG = "trials that last too long"
OVERLAPPING = "trials that overlap"
TWICE = "epochs listed twice"
OUTSIDE = "epochs outside the recording"
NO_TIME = "spike times that are negative or not numbers"
UNKNOWN_SOUNDS = "sounds that the population recording lacks"
UNKNOWN_CELLS = "cells that the population recording lacks"
COPIES = "copies of a site recording"
MISSING = "sites without trials"

MESSAGES = {
    CUT: "trials that were cut short are NaN where they have no samples",
    LONG: "of trials that last too long only the length of a trial is used",
    OVERLAPPING: "",  # nothing is left out: both count the spikes that they share
    TWICE: "epochs that are listed twice count once",
    OUTSIDE: "epochs outside the recording are left out",
    NO_TIME: "spike times that are negative or not numbers belong to no trial",
    UNKNOWN_SOUNDS: "sounds that the population recording lacks are left out",
    UNKNOWN_CELLS: "cells that the population recording lacks are left out",
    COPIES: "site recordings that are there twice are read once",
    MISSING: "no trials were found for some sites, whose responses to val sounds are NaN; the zip "
    "may lack recordings, or be that of the other area",
}
"""What is said of each kind; one that leaves nothing out gives no warning."""

_LISTED = 10


class Note(NamedTuple):
    """What is said of one kind: how many there were, and where."""

    kind: str
    n_found: int
    where: str


class Notes:
    """What was left out or repaired, by kind and by file."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def add(self, kind: str, where: str, count: int = 1, names: Iterable[str] = ()) -> None:
        """Note that a file held some of a kind; `names` says which ones."""
        if count:
            names = list(names)
            listed = ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)
            of_kind = self._counts.setdefault(kind, {})
            place = f"{where}: {listed}" if listed else where
            of_kind[place] = of_kind.get(place, 0) + int(count)

    def __iter__(self) -> Iterator[Note]:
        for kind in MESSAGES:
            if places := self._counts.get(kind):
                where = "; ".join(f"{count} in {place}" for place, count in places.items())
                yield Note(kind, sum(places.values()), where)

    def warn(self, where: str) -> None:
        """Warn once of each kind."""
        for kind, n_found, places in self:
            if message := MESSAGES[kind]:
                warnings.warn(f"{where}: {message} ({n_found}): {places}", stacklevel=3)
