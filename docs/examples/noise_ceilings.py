"""
Noise ceilings and firing rates
===============================

How well could a perfect model predict each cell? :func:`~nat4xr.metrics.cc_max` estimates the
correlation between the true firing rate and the mean over trials. Cells that fire more have less
noise, relative to their signal, and so a higher ceiling.
"""

# sphinx_gallery_alt = "Noise ceilings rise with the firing rate, from 0.2 to 0.9."
import matplotlib.pyplot as plt

import nat4xr
from nat4xr import metrics

ds = nat4xr.open_area("A1", subset="val").sel(auditory=True)
ceiling = metrics.cc_max(ds.response).compute()
rate = nat4xr.rate(ds.psth).mean(["stim", "time"]).compute()

# %%
# Each point is a cell, and the colour is its signal-to-noise ratio in a single trial.

fig, ax = plt.subplots()
points = ax.scatter(rate, ceiling, c=metrics.snr(ds.response), norm="log", s=25)
fig.colorbar(points, label="signal-to-noise ratio")
ax.set_xscale("log")
ax.set_xticks([0.5, 1, 2, 5, 10, 20], labels=["0.5", "1", "2", "5", "10", "20"])
ax.minorticks_off()
ax.set_ylim(0, 1)
ax.set_xlabel("mean rate (spikes/s)")
ax.set_ylabel("noise ceiling")
ax.set_title("A1 (simulated)")
plt.show()

# %%
# Scores are computed over the bins of all sounds, and so is this ceiling. Within sounds, the
# ceiling of a cell that prefers some sounds to others is lower: do not divide a score over all
# sounds by it.

# sphinx_gallery_alt = "Ceilings over all sounds are higher than within sounds for most cells."
within = metrics.cc_max(ds.response, sounds="separate").compute()

fig, ax = plt.subplots(figsize=(4.5, 4.5))
ax.scatter(within, ceiling, s=16)
ax.axline((0, 0), slope=1, color="gray", linewidth=0.8)
ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
ax.set_xlabel("noise ceiling within sounds")
ax.set_ylabel("noise ceiling over all sounds")
ax.set_title("A1 (simulated)")
plt.show()
