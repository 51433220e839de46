"""Shared fixtures: the releases that tests read."""

from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def nems0_release() -> Path:
    """A small release written by NEMS0 itself, with its own reading in ``reference.npz``."""
    return DATA / "release"
