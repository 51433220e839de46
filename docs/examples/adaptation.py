"""
Drift over the session
======================

Do cells respond in the same way throughout a session? Each trial is divided by the average
response of the cell to the same sound, and the trials are put in the order in which they were
presented. The simulated cells drift slowly, and the dashed line is their true drift.
"""

# sphinx_gallery_alt = "Three cells over nine minutes: their running means follow the true drift."
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import xarray as xr

import nat4xr

release = Path(mkdtemp(), "simulated")
nat4xr.simulate(release, areas=["A1"], scale=0.1, sound_scale=0.02, progressbar=False)
spikes = nat4xr.open_spikes("A1", release, progressbar=False).sel(subset="val")
truth = xr.open_dataset(release / "truth.nc")
names = ["TNC008a-32-3", "CRD017c-38-3", "ARM032a-32-1"]

# %%
# Light dots are single trials. The line is their mean over 60 trials at a time.

fig, axes = plt.subplots(3, sharex=True, sharey=True, figsize=(6.4, 6))
for ax, name in zip(axes, names, strict=True):
    cell = spikes.sel(neuron=[name])
    counts = nat4xr.bin_spikes(cell, dt_ms=1500).squeeze(["time", "neuron"]).compute()
    trials = nat4xr.session_trials(cell, name.split("-")[0])
    order = dict(stim=trials.stim.to_xarray(), rep=trials.rep.to_xarray())
    relative = (counts / counts.mean("rep")).sel(order)
    gain = truth.drift.sel(neuron=name).sel(order)
    minutes = trials.onset / 60
    ax.plot(minutes, relative, ".", markersize=3, color="0.75")
    ax.plot(minutes, relative.rolling(position=60, center=True).mean(), label="mean of 60 trials")
    ax.plot(minutes, gain, "--", label="true drift")
    ax.set_title(f"{name} (simulated)")
axes[0].legend(loc="upper left", ncols=2)
axes[0].set_ylim(0, 3)
axes[1].set_ylabel("response, relative to the mean for the sound")
axes[2].set_xlabel("time in the session (min)")
plt.show()
