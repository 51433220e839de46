"""
STRF of one cell
================

Fit a spectro-temporal receptive field to est sounds, and predict a val sound with it. The data are
simulated, so the fitted field can be compared with the true one.
"""

# sphinx_gallery_alt = "Fitted and true STRF, red before blue; below, PSTH and prediction."
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import xarray as xr

import nat4xr
from nat4xr import plot, preprocess, strf

release = Path(mkdtemp(), "simulated")
nat4xr.simulate(release, areas=["A1"], sound_scale=0.3, progressbar=False)
ds = nat4xr.open_area("A1", release, progressbar=False).sel(neuron=["ARM029a-07-6"])
est, val = ds.sel(subset="est"), ds.sel(subset="val")
x_est = preprocess.log_minmax(est.spectrogram)
x_val = preprocess.log_minmax(val.spectrogram, reference=est.spectrogram)

model = strf.fit(x_est, est.psth)
predicted = strf.predict(model, x_val)

# %%
# Red means excitation, and blue suppression. The two fields have different units: the true one is
# followed by a nonlinearity, and the fitted one predicts the rate itself.

truth = xr.open_dataset(release / "truth.nc").sel(neuron="ARM029a-07-6")

fig, axes = plt.subplot_mosaic([["fitted", "true"], ["prediction", "prediction"]], figsize=(8, 6))
plot.strf(model, ax=axes["fitted"])
axes["fitted"].set_title("fitted")
plot.strf(truth, ax=axes["true"])
axes["true"].set_title("true")
geese = dict(sound="geese")
plot.prediction(
    predicted.sel(geese).squeeze(), val.psth.sel(geese).squeeze(), ax=axes["prediction"]
)
fig.suptitle("ARM029a-07-6 (simulated)")
plt.show()
