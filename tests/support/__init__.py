"""Helpers of the tests: a local Zenodo, releases, an independent reader, and child processes."""

import os
from pathlib import Path

import pytest
import xarray as xr
from packaging.version import Version

from nat4xr.io.limits import LIMITS

DATA = Path(__file__).parents[1] / "data"


def set_limits(monkeypatch: pytest.MonkeyPatch, **limits: int) -> None:
    """Lower some of the limits on sizes, by their names."""
    for name, most in limits.items():
        monkeypatch.setitem(LIMITS, name, LIMITS[name]._replace(most=most))


def skip_but_in_ci(reason: str) -> None:
    """Skip a test that only root can run. In CI, where we are root, fail instead."""
    if os.environ.get("CI") == "true" and hasattr(os, "geteuid") and os.geteuid() == 0:
        pytest.fail(f"not tested: {reason}")
    pytest.skip(reason)


old_xarray_cannot_select_nothing = pytest.mark.skipif(
    Version(xr.__version__) < Version("2026.9"),
    reason="older xarray cannot select an empty list from a lazy array, of any backend",
)
