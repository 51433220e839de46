"""Convert what nat4xr opens into the objects of other tools.

===============  ==============================================  ===============================
tool             functions                                       needs
===============  ==============================================  ===============================
pandas           :func:`cells`, :func:`sounds`, :func:`trials`
scikit-learn     :func:`design_matrix`
model selection  :func:`split_est`
PyTorch          :func:`torch_dataset`                           ``pip install 'nat4xr[torch]'``
pynapple         :func:`to_pynapple`                             ``'nat4xr[pynapple]'``
NWB              :func:`to_nwb`                                  ``'nat4xr[nwb]'``
===============  ==============================================  ===============================

Each tool is imported when one of its functions is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..extras import require
from .learning import design_matrix, split_est
from .tables import cells, sounds, trials

if TYPE_CHECKING:
    from ._nwb import to_nwb as to_nwb
    from ._pynapple import to_pynapple as to_pynapple
    from ._torch import torch_dataset as torch_dataset

__all__ = [
    "cells",
    "design_matrix",
    "sounds",
    "split_est",
    "to_nwb",
    "to_pynapple",
    "torch_dataset",
    "trials",
]

# For each function its module, the package that this module needs, and the extra for that package.
_DEFERRED = {
    "to_nwb": ("_nwb", "pynwb", "nwb"),
    "to_pynapple": ("_pynapple", "pynapple", "pynapple"),
    "torch_dataset": ("_torch", "torch", "torch"),
}


def __getattr__(name: str) -> Any:
    if name not in _DEFERRED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, package, extra = _DEFERRED[name]
    require(package, extra)
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return __all__
