"""
Spike raster at 1 ms
====================

This figure shows every spike of one cell in the 20 presentations of one sound, and the rate in
bins of 1 ms, smoothed. (The data are simulated.)
"""

# sphinx_gallery_alt = "Rows of ticks above a rate that peaks where ticks line up."
import matplotlib.pyplot as plt

import nat4xr
from nat4xr import plot, preprocess

spikes = nat4xr.open_spikes("A1")
sound = "STIM_00cat172_rec1_geese_excerpt1.wav"
cell = "ARM029a-07-6"

trains = nat4xr.spike_trains(spikes, cell, sound)
response = nat4xr.bin_spikes(spikes.sel(neuron=[cell], stim=[sound]), dt_ms=1)
response = response.squeeze(["neuron", "stim"]).compute()

fig, (top, bottom) = plt.subplots(2, sharex=True, height_ratios=[2, 1], figsize=(6.4, 5))
plot.raster(trains, ax=top)
plot.psth(preprocess.smooth(response, window_ms=21), ax=bottom)
on, off = response.time.attrs["sound_on"], response.time.attrs["sound_off"]
top.axvspan(on, off, color="0.92", linewidth=0, zorder=0)
top.set_xlabel("")
top.set_title(f"{cell}, geese (simulated)")
bottom.set_title("")
plt.show()
