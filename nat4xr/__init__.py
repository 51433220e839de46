"""NAT4: ferret auditory-cortex responses to natural sounds, as labelled xarray objects."""

import lazy_loader

from . import accessor as accessor  # registers ds.nat4 for every Dataset

__version__ = "0.1.0"

# Names are listed once, in __init__.pyi; each is imported when first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
