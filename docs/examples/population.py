"""
Population response to one sound
================================

This figure shows all auditory cells of an area and one sound. Cells are sorted by their latency
(:func:`nat4xr.latency`), with the fastest on top. (The data are simulated.)
"""

# sphinx_gallery_alt = "A spectrogram above a map of rates; most cells fire at the onset."
import matplotlib.pyplot as plt

import nat4xr
from nat4xr import plot

ds = nat4xr.open_area("A1", subset="val").sel(auditory=True, sound="geese")

fig, (top, bottom) = plt.subplots(2, sharex=True, height_ratios=[1, 3], figsize=(6.4, 6))
plot.spectrogram(ds, ax=top)
plot.population(ds, sort="latency", ax=bottom)
top.set_xlabel("")
bottom.set_title("")
plt.show()
