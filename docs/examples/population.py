"""
Population response to one sound
================================

All auditory cells of an area and one sound: on top those that respond to its onset, the fastest
first, as :func:`nat4xr.latency` has them. (Cells and sound are simulated.)
"""

import matplotlib.pyplot as plt

import nat4xr
from nat4xr import plot

ds = nat4xr.open_area("A1", subset="val").sel(auditory=True, sound="geese")

fig, (top, bottom) = plt.subplots(
    2, sharex=True, height_ratios=[1, 3], figsize=(6.4, 6), layout="constrained"
)
plot.spectrogram(ds, ax=top)
plot.population(ds, sort="latency", ax=bottom)
top.set_xlabel("")
bottom.set_title("")
plt.show()
