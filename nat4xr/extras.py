"""Import optional packages, and progress bars that do not need one."""

import sys
import warnings
from importlib import import_module
from types import ModuleType

from .errors import quoted

with warnings.catch_warnings():
    # In a notebook without ipywidgets, tqdm falls back on text. That needs no warning.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm as tqdm


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package, such as ``"scipy.linalg"``.

    If the package is not installed, this raises an ImportError, with the command that installs it
    as the given extra of nat4xr.

    >>> require("json.decoder", "json").__name__
    'json.decoder'
    >>> require("no_such_package", "plot")
    Traceback (most recent call last):
        ...
    ImportError: no_such_package is not installed: ...python... -m pip install "nat4xr[plot]"
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        python = quoted(sys.executable or "python")
        raise ImportError(
            f'{package} is not installed: {python} -m pip install "nat4xr[{extra}]"', name=package
        ) from error
