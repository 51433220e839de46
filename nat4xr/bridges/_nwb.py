"""Spike times as Neurodata Without Borders (NWB) files."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from pynwb import NWBHDF5IO, NWBFile
from pynwb.file import Subject
from pynwb.misc import Units

from ..io.writing import written
from ._session import Session, read_session

# NWB requires a date and its inspector requires an age, but the release has neither.
_NO_DATE = datetime(1970, 1, 1, tzinfo=UTC)
_ANY_AGE = "P0D/"
_RESOLUTION = 1e-7  # in s; spike times from trial onset are float32
_FERRET = "http://purl.obolibrary.org/obo/NCBITaxon_9669"  # Mustela putorius furo

_TRIAL_COLUMNS = {
    "stim": "sound presented: its name in the release",
    "subset": "est: presented once, for fitting; val: presented repeatedly, for testing",
    "rep": "how often the sound had been presented before in the session",
}


def to_nwb(spikes: xr.Dataset, site: str, path: str | os.PathLike[str]) -> None:
    """Write the spike times and trials of a site as an NWB file.

    The file contains:

    - the units, which are the cells that have trials. They have all labels, spike times in s from
      the start of the session, and the trials as observation intervals;
    - the trials, with sound and repeat;
    - the electrodes that have units.

    If the data are simulated, the session description begins with ``SIMULATED``.

    Parameters
    ----------
    spikes : Dataset
        What `nat4xr.open_spikes` returns, or a selection of it.
    site : str
        The recording site, such as ``"ARM029a"``. An NWB file contains one session.
    path : path-like
        The ``.nwb`` file to write. If it exists, it is replaced.

    Raises
    ------
    KeyError
        If there is no site of this name.
    ValueError
        If none of the selected cells of the site has trials, if none of the selected sounds was
        presented at the site, or if `spikes` does not come from `nat4xr.open_spikes`.

    Notes
    -----
    The release does not include all that NWB asks for. The start of the session is set to
    1970-01-01, the age of the animal to ``P0D/`` (any age), and its sex to ``U`` (unknown). The
    positions of the electrodes are left out. Fill in what you know before you share the file.

    References
    ----------
    Rübel O et al. (2022). The Neurodata Without Borders ecosystem for neurophysiological data
    science. eLife 11:e78362. doi:10.7554/eLife.78362

    Examples
    --------
    >>> import nat4xr, pynwb
    >>> nat4xr.bridges.to_nwb(nat4xr.open_spikes("A1"), "ARM029a", "ARM029a.nwb")
    >>> with pynwb.NWBHDF5IO("ARM029a.nwb", "r") as io:
    ...     file = io.read()
    ...     units, trials = file.units.to_dataframe(), file.trials.to_dataframe()
    >>> units["neuron"].to_list(), len(trials)
    (['ARM029a-04-1', 'ARM029a-07-6', 'ARM029a-07-7'], 372)
    """
    session = read_session(spikes, site)
    file = _file(spikes, session, site)
    for name, description in _TRIAL_COLUMNS.items():
        file.add_trial_column(name, description)
    for trial in session.trials.itertuples():
        file.add_trial(
            start_time=trial.start,
            stop_time=trial.stop,
            **{name: getattr(trial, name) for name in _TRIAL_COLUMNS},
        )
    _add_units(file, session, _electrodes(file, session.cells, site), spikes)
    with written(path) as part, NWBHDF5IO(part, "w") as io:
        io.write(file)


def _file(spikes: xr.Dataset, session: Session, site: str) -> NWBFile:
    attrs = spikes.attrs
    area = str(attrs["area"])
    simulated = bool(attrs["simulated"])
    within = spikes["spike_time"].attrs
    about: dict[str, Any] = {}
    if not simulated:
        about["experimenter"] = [
            ", ".join(reversed(name.rsplit(" ", 1))) for name in attrs["creator"].split(" and ")
        ]
        about["notes"] = f"License of the data: {attrs['license']}"
    if "sound_on" in within:
        about["stimulus_notes"] = (
            f"natural sounds; in each trial the sound lasts from {within['sound_on']:g} s to "
            f"{within['sound_off']:g} s after trial onset"
        )
    file = NWBFile(
        session_description=f"{attrs['title']}; recording site {site}. Spikes outside of trials "
        "are left out. The date is a placeholder, because the release does not include it.",
        identifier=f"{'simulated' if simulated else 'NAT4'}-{area}-{site}",
        session_id=site,
        session_start_time=_NO_DATE,
        experiment_description=f"Single units in auditory cortex ({area}) during natural sounds. "
        f"Source: {attrs['source']}",
        keywords=["auditory cortex", "natural sounds", "single units"],
        related_publications=re.findall(r"https://doi\.org/\S+", attrs["references"]),
        source_script=f"nat4xr {attrs['nat4xr_version']}, nat4xr.bridges.to_nwb",
        source_script_file_name="nat4xr",
        **about,
    )
    animal = session.cells["animal"].iloc[0]
    file.subject = Subject(
        subject_id=animal or site,
        species=_FERRET,
        sex="U",
        age=_ANY_AGE,
        description="simulated; there was no animal" if simulated else "ferret; age not published",
    )
    return file


def _electrodes(file: NWBFile, cells: pd.DataFrame, site: str) -> dict[int, int]:
    """Add the electrodes that have cells, and return the row of each electrode by its number."""
    location = f"auditory cortex, {cells['area'].iloc[0]}"
    device = file.create_device("probe", description="multi-electrode probe")
    group = file.create_electrode_group(
        site, description="electrodes with cells", location=location, device=device
    )
    file.add_electrode_column("electrode", "electrode number from the cell ids; -1 if not in them")
    numbers = np.unique(cells["electrode"]).tolist()
    for number in numbers:
        file.add_electrode(location=location, group=group, electrode=number)
    return {number: row for row, number in enumerate(numbers)}


def _add_units(
    file: NWBFile, session: Session, electrode_rows: dict[int, int], spikes: xr.Dataset
) -> None:
    cells = session.cells.reset_index()
    file.units = Units(name="units", description="sorted single units", resolution=_RESOLUTION)
    for name in cells:
        about = spikes[name].attrs
        file.add_unit_column(name, about.get("long_name", name))
    observed = session.trials[["start", "stop"]].to_numpy()
    (group,) = file.electrode_groups.values()
    for labels, train in zip(cells.to_dict("records"), session.trains, strict=True):
        file.add_unit(
            spike_times=train,
            obs_intervals=observed,
            electrodes=[electrode_rows[labels["electrode"]]],
            electrode_group=group,
            **{str(name): value for name, value in labels.items()},
        )
