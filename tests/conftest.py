"""Shared fixtures: the releases that tests read, and a local Zenodo that serves them."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from .support import DATA
from .support.server import ReleaseServer

# The same examples in each run, however slow the machine; but others each night.
settings.register_profile("nat4xr", deadline=None, derandomize=True)
settings.register_profile("nightly", deadline=None, derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "nat4xr"))


@pytest.fixture(scope="session")
def nems0_release() -> Path:
    """A small release written by NEMS0 itself, with its own reading in ``reference.npz``."""
    return DATA / "release"


@pytest.fixture
def release_server(nems0_release: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    """A Zenodo on loopback that nat4xr fetches from; it serves the NEMS0 release."""
    with ReleaseServer(nems0_release) as server:
        monkeypatch.setenv("NAT4XR_ZENODO_URL", server.url)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()
