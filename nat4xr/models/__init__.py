"""The published networks: fit them, predict with them, and analyse what they have learnt.

::

    ds = nat4xr.open_area("PEG")
    fitted = nat4xr.models.fit(ds, "statenet", "adaptrans", seed=0)
    pred = nat4xr.models.predict(fitted, ds.sel(subset="val"))
    result = nat4xr.benchmark.evaluate(pred, ds)

This module needs PyTorch, which is imported when a model is first used:
``pip install "nat4xr[models]"``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..extras import require

if TYPE_CHECKING:
    from ..runs import run
    from .fitted import Fitted, load, predict
    from .kernels import adaptation, dynamic_strf, gradient_strf, kernel, strf_subspace
    from .losses import mse, nmse, poisson
    from .networks import MODELS, AdapTrans, Network
    from .training import RECIPES, fit

__all__ = [
    "MODELS",
    "RECIPES",
    "AdapTrans",
    "Fitted",
    "Network",
    "adaptation",
    "dynamic_strf",
    "fit",
    "gradient_strf",
    "kernel",
    "load",
    "mse",
    "nmse",
    "poisson",
    "predict",
    "run",
    "strf_subspace",
]

_MODULES = {
    **dict.fromkeys(["Fitted", "load", "predict"], "fitted"),
    **dict.fromkeys(
        ["adaptation", "dynamic_strf", "gradient_strf", "kernel", "strf_subspace"], "kernels"
    ),
    **dict.fromkeys(["mse", "nmse", "poisson"], "losses"),
    **dict.fromkeys(["MODELS", "AdapTrans", "Network"], "networks"),
    **dict.fromkeys(["RECIPES", "fit"], "training"),
}


def __getattr__(name: str) -> Any:
    if name == "run":  # it writes files, so it is defined in nat4xr.runs
        return import_module("nat4xr.runs").run
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for package in ("torch", "safetensors.torch"):
        require(package, "models")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
