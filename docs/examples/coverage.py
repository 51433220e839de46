"""
Which cell heard which sound
============================

This map shows how often each sound was presented to each cell. A cell whose trials are missing
stands out. (The data are simulated, and one cell lacks its val trials.)
"""

# sphinx_gallery_alt = "Val sounds have 20 presentations, est sounds 1; one cell has no val."
import matplotlib.pyplot as plt

import nat4xr
from nat4xr import plot

ds = nat4xr.open_area("A1")

fig, ax = plt.subplots(figsize=(6.4, 6))
plot.coverage(ds, ax=ax)
plt.show()
