"""
Adaptation over the session
===========================

Do cells respond less to a sound the more often they have heard it? Trials are taken in the order in
which they were presented; each response is divided by the cell's average over the 20 presentations
of that sound.

Simulated cells have no memory of the session: their curve stays at 1. Recorded cells need not.
"""

import matplotlib.pyplot as plt

import nat4xr

spikes = nat4xr.open_spikes("A1").sel(subset="val", site="TNC018a", auditory=True)
trials = nat4xr.session_trials(spikes, "TNC018a")

# %%
# Spikes of each cell in each trial, sounds and repeats put in the order of the session.

counts = nat4xr.bin_spikes(spikes, dt_ms=1500).squeeze("time").compute()
relative = counts / counts.mean("rep")
in_order = relative.sel(stim=trials.stim.to_xarray(), rep=trials.rep.to_xarray())
minutes = trials.onset.to_numpy() / 60

# %%
# A thin line a cell, each averaged over 60 trials at a time; the thick line is their mean.

running = in_order.rolling(position=60, center=True).mean()
fig, ax = plt.subplots(layout="constrained")
ax.plot(minutes, running, color="0.75", linewidth=0.8)
ax.plot(minutes, running.mean("neuron"), color="black", linewidth=2)
ax.axhline(1, color="0.5", linestyle="--", linewidth=0.8)
ax.set_ylim(0, 2)
ax.set_xlabel("time in the session (min)")
ax.set_ylabel("response relative to the cell's mean")
ax.set_title(f"TNC018a, {counts.sizes['neuron']} cells (simulated)")
first, last = (float(in_order.isel(position=part).mean()) for part in (slice(90), slice(-90, None)))
print(f"first 90 trials: {first:.2f}, last 90: {last:.2f}")
plt.show()
