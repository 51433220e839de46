"""
Noise ceilings by site
======================

How well could a perfect model predict each cell, and do some sites hold cleaner cells than others?
:func:`~nat4xr.metrics.cc_max` is the correlation with the PSTH that the true rate is expected
to have.
"""

import matplotlib.pyplot as plt
import numpy as np

import nat4xr
from nat4xr import metrics

ds = nat4xr.open_area("A1", subset="val").sel(auditory=True)
ceiling = metrics.cc_max(ds.response).compute().dropna("neuron")

# %%
# A point a cell, a line the median of the site.

fig, ax = plt.subplots(figsize=(6.4, 6), layout="constrained")
rng = np.random.default_rng(0)
sites = dict(ceiling.groupby("site"))
for row, cells in enumerate(sites.values()):
    jitter = rng.uniform(-0.2, 0.2, cells.size)
    ax.scatter(cells, row + jitter, s=16, color="tab:blue", alpha=0.6, linewidths=0)
    ax.plot([cells.median()] * 2, [row - 0.35, row + 0.35], color="black", linewidth=2)
ax.set_yticks(range(len(sites)), [f"{site} ({cells.size})" for site, cells in sites.items()])
ax.invert_yaxis()
ax.set_xlim(0, 1)
ax.set_xlabel(ceiling.attrs["long_name"])
ax.set_title("A1 (simulated)")
plt.show()

# %%
# Scores are taken over the bins of all sounds, and so is this ceiling. Within sounds, the ceiling
# of a cell that prefers some sounds to others is lower. A score over all sounds may exceed it, and
# is too high when it is divided by it.

within = metrics.cc_max(ds.response, sounds="separate").compute()

fig, ax = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
ax.scatter(within.sel(neuron=ceiling.neuron.values), ceiling, s=16, alpha=0.6, linewidths=0)
ax.axline((0, 0), slope=1, color="gray", linewidth=0.8)
ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
ax.set_xlabel("noise ceiling within sounds")
ax.set_ylabel("noise ceiling over all sounds")
ax.set_title("A1 (simulated)")
plt.show()
