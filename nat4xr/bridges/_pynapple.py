"""Spike times for pynapple."""

from __future__ import annotations

import numpy as np
import pynapple as nap
import xarray as xr

from ._session import read_session

_MIN_GAP = 1e-6  # in s; the intervals of pynapple must not touch


def to_pynapple(spikes: xr.Dataset, site: str) -> tuple[nap.TsGroup, nap.IntervalSet]:
    """Convert the spike times and trials of a site to objects of pynapple.

    Parameters
    ----------
    spikes : Dataset
        What `nat4xr.open_spikes` returns, or a selection of it.
    site : str
        The recording site, such as ``"ARM029a"``. Each site was recorded in a session of its own,
        so times of different sites cannot be combined.

    Returns
    -------
    units : pynapple.TsGroup
        Spike times in s from the start of the session, with all labels of the cells (including
        ``neuron``) as metadata. The time support is the trials. Cells without trials are left out.
    trials : pynapple.IntervalSet
        The trials in the order of the session, with ``stim``, ``subset`` and ``rep`` as metadata.
        If a trial begins at the time when another one ends, the earlier trial is shortened by
        1 µs, because the intervals of pynapple cannot touch.

    Raises
    ------
    KeyError
        If there is no site of this name.
    ValueError
        If none of the selected cells of the site has trials, if none of the selected sounds was
        presented at the site, or if `spikes` does not come from `nat4xr.open_spikes`.

    References
    ----------
    Viejo G et al. (2023). Pynapple, a toolbox for data analysis in neuroscience. eLife
    12:RP85786. doi:10.7554/eLife.85786

    Examples
    --------
    >>> import nat4xr
    >>> spikes = nat4xr.open_spikes("A1")
    >>> units, trials = nat4xr.bridges.to_pynapple(spikes, "ARM029a")
    >>> units["neuron"].to_list()
    ['ARM029a-04-1', 'ARM029a-07-6', 'ARM029a-07-7']
    >>> geese = trials[trials["stim"] == "STIM_00cat172_rec1_geese_excerpt1.wav"]
    >>> len(geese), units.restrict(geese).rates.size
    (20, 3)
    """
    session = read_session(spikes, site)
    start, stop = session.trials["start"].to_numpy(), session.trials["stop"].to_numpy()
    stop = np.minimum(stop, np.append(start[1:] - _MIN_GAP, np.inf))
    metadata = session.trials[["stim", "subset", "rep"]].reset_index(drop=True)
    trials = nap.IntervalSet(start, stop, metadata=metadata)
    units = nap.TsGroup(
        {i: nap.Ts(train) for i, train in enumerate(session.trains)},
        time_support=trials,
        metadata=session.cells.reset_index(),
    )
    return units, trials
