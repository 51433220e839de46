"""
Tuning of one cell
==================

Which frequencies make a cell fire? In natural sounds, many frequencies are present at once, but
each is loud at different times. This example averages the response 20 ms after the bins in which a
band was among its loudest. (The data are simulated.)
"""

# sphinx_gallery_alt = "The mean rate of one cell by frequency, with one peak."
import matplotlib.pyplot as plt
import numpy as np

import nat4xr

ds = nat4xr.open_area("A1", subset="est").sel(neuron="ARM029a-07-6").load()
rate = nat4xr.rate(ds.psth)

during = (ds.time >= ds.time.attrs["sound_on"]) & (ds.time < ds.time.attrs["sound_off"])
level = ds.spectrogram.where(during)
loud = level > level.quantile(0.9, dim=["stim", "time"])  # in each band, its loudest tenth

delay = 2  # bins of 10 ms
later = rate.shift(time=-delay)
tuning = later.where(loud).mean(["stim", "time"])
average = later.where(during).mean()

# %%
# The peak is the preferred frequency of the cell. Nearly all points are above the average, because
# a band is loud when the whole sound is loud. Neighbouring bands are loud at the same times, which
# smooths the curve. Error bars are standard errors that treat bins as independent, although
# neighbouring bins are not.

error = later.where(loud).std(["stim", "time"]) / np.sqrt(loud.sum(["stim", "time"]))
fig, ax = plt.subplots()
ax.errorbar(ds.freq / 1000, tuning, error, marker="o", capsize=2)
ax.axhline(average, color="0.5", linestyle="--", label="average during sound")
ax.set_xscale("log")
ax.set_xticks([0.2, 0.5, 1, 2, 5, 10, 20], labels=["0.2", "0.5", "1", "2", "5", "10", "20"])
ax.minorticks_off()
ax.set_xlabel("frequency (kHz)")
ax.set_ylabel("rate 20 ms after the band was loud (spikes/s)")
ax.set_title(f"{ds.neuron.item()} (simulated)")
ax.legend(frameon=False)
plt.show()
