"""
Exporting for another tool
==========================

The data leave as arrays and tables that need neither nat4xr nor xarray: a table of cells, a table
of sounds, and one NumPy file. Here they are read back with NumPy and pandas alone.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import nat4xr
from nat4xr import bridges

folder = Path(tempfile.mkdtemp())
ds = nat4xr.open_area("PEG", subset="val").sel(auditory=True)
ds = nat4xr.drop_unrecorded(ds).load()

# %%
# Tables: a row a cell, a row a sound.

bridges.cells(ds).to_csv(folder / "cells.csv")
bridges.sounds(ds).to_csv(folder / "sounds.csv")

# %%
# Arrays, in the order of dims that the other tool expects: here sounds x cells x repeats x bins,
# and sounds x bands x bins.

np.savez_compressed(
    folder / "val.npz",
    response=ds.response.transpose("stim", "neuron", "rep", "time").values,
    spectrogram=ds.spectrogram.transpose("stim", "freq", "time").values,
)

# %%
# Elsewhere:

cells = pd.read_csv(folder / "cells.csv")
sounds = pd.read_csv(folder / "sounds.csv")
arrays = np.load(folder / "val.npz")
psth = np.nanmean(arrays["response"], axis=2) / 0.01  # spikes/s

mean = psth.mean(axis=0)  # over sounds: cells x bins
firsts = cells.site.drop_duplicates()  # cells of a site stand together

fig, ax = plt.subplots(figsize=(6.4, 5), layout="constrained")
image = ax.imshow(mean, aspect="auto", extent=(0, 0.01 * mean.shape[1], len(cells), 0), vmin=0)
ax.set_yticks(firsts.index, firsts)
ax.set_xlabel("time (s)")
ax.set_title(f"PEG, mean over {len(sounds)} sounds (simulated)")
fig.colorbar(image, label="rate (spikes/s)")
plt.show()
