"""
A sound and the response of a cell
==================================

This figure shows the waveform, the spectrogram and the response to one sound on one time axis.
(The data are simulated.)
"""

# sphinx_gallery_alt = "Waveform, spectrogram, raster and PSTH of one sound and one cell."
import matplotlib.pyplot as plt

import nat4xr
from nat4xr import plot

ds = nat4xr.open_area("A1", subset="val").sel(neuron="ARM029a-07-6", sound="laughing")
sound = nat4xr.open_waveforms(stims=ds).squeeze()

fig, axes = plt.subplots(4, sharex=True, figsize=(6.4, 7))
axes[0].plot(sound.sample_time, sound, color="black", linewidth=0.2)
axes[0].set_ylabel("waveform\n(full scale is 1)")
axes[0].spines[["top", "right"]].set_visible(False)
plot.cell_response(ds, axes=axes[1:])
axes[0].set_title(axes[1].get_title(), fontsize="medium")
axes[1].set_title("")
plt.show()
