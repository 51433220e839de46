"""
Drift over the session
======================

Do cells respond less the longer the session lasts? Trials are taken in the order in which they were
presented, and each response is divided by the cell's average over the 20 presentations of that
sound. These simulated cells drift slowly, each by itself, and adapt to the trials before. The
dashed line is the truth.
"""

from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import xarray as xr

import nat4xr

release = Path(mkdtemp(), "simulated")
nat4xr.simulate(release, areas=["A1"], scale=0.1, sound_scale=0.02, progressbar=False)
spikes = nat4xr.open_spikes("A1", release, progressbar=False)
spikes = spikes.sel(subset="val", site="TNC018a", auditory=True)
trials = nat4xr.session_trials(spikes, "TNC018a")

# %%
# Spikes of each cell in each trial, sounds and repeats put in the order of the session.

counts = nat4xr.bin_spikes(spikes, dt_ms=1500).squeeze("time").compute()
order = dict(stim=trials.stim.to_xarray(), rep=trials.rep.to_xarray())
relative = (counts / counts.mean("rep")).sel(order)
minutes = trials.onset.to_numpy() / 60

truth = xr.open_dataset(release / "truth.nc")
gain = (truth.drift * truth.adaptation).sel(neuron=counts.neuron.values).sel(order)

# %%
# A thin line a cell, each averaged over 60 trials at a time; the thick line is their mean.


def running(trials):
    """Mean over 60 trials at a time."""
    return trials.rolling(position=60, center=True).mean()


fig, ax = plt.subplots(layout="constrained")
ax.plot(minutes, running(relative), color="0.75", linewidth=0.8)
ax.plot(
    minutes, running(relative).mean("neuron"), color="black", linewidth=2, label="mean of cells"
)
ax.plot(minutes, running(gain).mean("neuron"), color="tab:red", linestyle="--", label="true gain")
ax.axhline(1, color="0.5", linewidth=0.8)
ax.set_ylim(0, 2)
ax.set_xlabel("time in the session (min)")
ax.set_ylabel("response relative to the cell's mean")
ax.set_title(f"TNC018a, {counts.sizes['neuron']} cells (simulated)")
ax.legend(frameon=False)
plt.show()
