"""NAT4: ferret auditory-cortex responses to natural sounds, as labelled xarray objects."""

import copyreg
import importlib
import sys

import lazy_loader

__version__ = "0.1.0"

# Names are listed once, in __init__.pyi; each is imported when first used, so that
# ``import nat4xr`` costs a few milliseconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# lazy_loader makes this module one of a type of its own, as simulate is in a module of its own
# name. Functions that use nat4xr go to other processes, of dask or joblib, by this rule only.
copyreg.pickle(
    type(sys.modules[__name__]), lambda module: (importlib.import_module, (module.__name__,))
)
