"""Spike times for pynapple."""

from __future__ import annotations

import numpy as np
import pynapple as nap
import xarray as xr

from ._session import read_session

_APART = 1e-6  # s: pynapple's intervals must not touch


def to_pynapple(spikes: xr.Dataset, site: str) -> tuple[nap.TsGroup, nap.IntervalSet]:
    """Give the spike times and trials of a site to pynapple.

    Parameters
    ----------
    spikes : Dataset
        From `nat4xr.open_spikes`, whole or selected.
    site : str
        Cells of a site were recorded together; times of different sites have nothing in common.

    Returns
    -------
    units : pynapple.TsGroup
        Spike times in s of the session, with all labels of the cells as metadata, ``neuron``
        among them. Its time support is the trials. Cells without trials are left out.
    trials : pynapple.IntervalSet
        In the order of the session, with ``stim``, ``subset`` and ``rep`` as metadata. Where
        one begins as another ends, this ends 1 µs earlier: pynapple's intervals cannot touch.

    Raises
    ------
    KeyError
        There is no such site.
    ValueError
        None of the selected cells of the site has trials, or none of the selected sounds was
        presented there; or `spikes` is not from `nat4xr.open_spikes`.

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
    stop = np.minimum(stop, np.append(start[1:] - _APART, np.inf))
    metadata = session.trials[["stim", "subset", "rep"]].reset_index(drop=True)
    trials = nap.IntervalSet(start, stop, metadata=metadata)
    units = nap.TsGroup(
        {i: nap.Ts(train) for i, train in enumerate(session.trains)},
        time_support=trials,
        metadata=session.cells.reset_index(),
    )
    return units, trials
