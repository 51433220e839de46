"""
A1 against PEG
==============

The two areas as one Dataset: how does the rate of their cells follow a sound, and how much of their
response do sounds drive?

In the simulated release both areas follow the same model, so that no difference is to be seen but
that between few cells and many.
"""

import matplotlib.pyplot as plt

import nat4xr
from nat4xr import metrics

ds = nat4xr.open_areas(subset="val").sel(auditory=True)
ds = nat4xr.drop_unrecorded(ds)

# %%
# The response of each cell to all sounds, less its rate in the silence before, in units of its
# peak.

rate = ds.psth.mean("stim").compute()
before = rate.sel(time=slice(0, 0.24)).mean("time")
normalised = (rate - before) / abs(rate - before).max("time")
snr = metrics.snr(ds.response).compute()

fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
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
left.legend(frameon=False)
right.set_xlabel("signal-to-noise ratio of one presentation")
right.set_ylabel("share of cells")
fig.suptitle("A1 and PEG (simulated)")
plt.show()
