"""
Which cell heard which sound
============================

A map of presentations: sites along one side, sounds along the other. Cells whose trials are missing
stand out. (This release is simulated: one cell lacks its trials.)
"""

import matplotlib.pyplot as plt

import nat4xr
from nat4xr import plot

ds = nat4xr.open_area("A1")

fig, ax = plt.subplots(figsize=(6.4, 6), layout="constrained")
plot.coverage(ds, ax=ax)
plt.show()
