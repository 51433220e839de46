"""Records of what was left out or repaired while a release was read."""

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
    LONG: "trials that last too long are cut to the length of a trial",
    OVERLAPPING: "",  # nothing is left out: spikes in the overlap count in both trials
    TWICE: "epochs that are listed twice are used once",
    OUTSIDE: "epochs outside the recording are left out",
    NO_TIME: "spike times that are negative or not numbers are left out",
    UNKNOWN_SOUNDS: "sounds that the population recording lacks are left out",
    UNKNOWN_CELLS: "cells that the population recording lacks are left out",
    COPIES: "a second copy of a site recording is left out",
    MISSING: "some sites have no trials, so their responses to val sounds are NaN; the zip may be "
    "incomplete, or that of the other area",
}
"""The warning for each kind. There is no warning if nothing is left out."""

_LISTED = 10  # largest number of names in a warning


class Note(NamedTuple):
    """The number of cases of one kind, and the files in which they are."""

    kind: str
    n_found: int
    where: str


class Notes:
    """Counts of what was left out or repaired, by kind and by file."""

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def add(self, kind: str, where: str, count: int = 1, names: Iterable[str] = ()) -> None:
        """Count cases of one kind in a file. `names` are the names of the cases."""
        if count:
            names = list(names)
            listed = ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)
            counts = self._counts.setdefault(kind, {})
            file = f"{where}: {listed}" if listed else where
            counts[file] = counts.get(file, 0) + int(count)

    def __iter__(self) -> Iterator[Note]:
        for kind in MESSAGES:
            if counts := self._counts.get(kind):
                where = "; ".join(f"{count} in {file}" for file, count in counts.items())
                yield Note(kind, sum(counts.values()), where)

    def warn(self, area: str) -> None:
        """Give one warning for each kind."""
        for kind, n_found, where in self:
            if message := MESSAGES[kind]:
                warnings.warn(f"{area}: {message} ({n_found}): {where}", stacklevel=3)
