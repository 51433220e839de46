"""
A1 and PEG
==========

Open both areas as one Dataset, and compare how the rates of their cells follow the sounds, and how
reliable the cells are. (In the simulated release, both areas follow the same model, so they do not
differ.)
"""

# sphinx_gallery_alt = "Mean responses and signal-to-noise ratios of both areas are alike."
import matplotlib.pyplot as plt

import nat4xr
from nat4xr import metrics

ds = nat4xr.open_areas(subset="val").sel(auditory=True)
ds = nat4xr.drop_unrecorded(ds)

# %%
# Left: the mean response of each cell to all sounds, minus its rate in the silence before them,
# relative to its peak. Lines are means over cells, bands are standard errors, and the sound is on
# in the grey band. Right: the share of cells below each signal-to-noise ratio.

rate = ds.psth.mean("stim").compute()
before = rate.sel(time=slice(0, 0.24)).mean("time")
normalised = (rate - before) / abs(rate - before).max("time")
snr = metrics.snr(ds.response).compute()

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4))
for area, cells in normalised.groupby("area"):
    mean = cells.mean("neuron")
    error = cells.std("neuron") / cells.sizes["neuron"] ** 0.5
    (line,) = left.plot(mean.time, mean, label=f"{area} ({cells.sizes['neuron']} cells)")
    left.fill_between(
        mean.time, mean - error, mean + error, color=line.get_color(), alpha=0.3, linewidth=0
    )
    right.ecdf(snr.sel(area=area).dropna("neuron"), label=area)
left.axvspan(ds.time.attrs["sound_on"], ds.time.attrs["sound_off"], color="0.92", zorder=0)
left.set_xlabel("time (s)")
left.set_ylabel("rate above silence, share of peak")
left.legend()
right.set_xlabel("signal-to-noise ratio of one presentation")
right.set_ylabel("share of cells")
fig.suptitle("A1 and PEG (simulated)")
plt.show()
