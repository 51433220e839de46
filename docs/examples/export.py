"""
Exporting to CSV and NumPy files
================================

You can save data for tools that know neither nat4xr nor xarray: a table of cells, a table of
sounds, and one NumPy file. This example reads them back with NumPy and pandas alone.
"""

# sphinx_gallery_alt = "A map of rates by cell and time; cells of a site share their latency."
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
# The tables have a row for each cell, or for each sound, and a column for each label.

bridges.cells(ds).to_csv(folder / "cells.csv")
bridges.sounds(ds).to_csv(folder / "sounds.csv")

# %%
# Save the arrays with the order of dims that the other tool expects. Here it is sounds, cells,
# repeats, bins for the responses, and sounds, bands, bins for the spectrograms.

np.savez_compressed(
    folder / "val.npz",
    response=ds.response.transpose("stim", "neuron", "rep", "time").values,
    spectrogram=ds.spectrogram.transpose("stim", "freq", "time").values,
)

# %%
# Read the files elsewhere, and draw the mean response of each cell relative to its peak, with the
# cells sorted by the time of the peak.

cells = pd.read_csv(folder / "cells.csv")
sounds = pd.read_csv(folder / "sounds.csv")
arrays = np.load(folder / "val.npz")
mean = np.nanmean(arrays["response"], axis=(0, 2))  # over sounds and repeats: cells x bins
relative = mean / mean.max(axis=1, keepdims=True)
order = np.argsort(relative.argmax(axis=1), kind="stable")

fig, ax = plt.subplots(figsize=(6.4, 5))
image = ax.imshow(relative[order], aspect="auto", extent=(0, 0.01 * mean.shape[1], len(cells), 0))
ax.set_yticks(np.arange(len(cells)) + 0.5, cells.neuron[order], fontsize="xx-small")
ax.set_xlabel("time (s)")
ax.set_title(f"PEG, mean over {len(sounds)} sounds (simulated)")
fig.colorbar(image, label="response, relative to the peak")
plt.show()
