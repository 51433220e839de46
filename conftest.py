"""Fixtures of all tests, the examples in the docstrings among them."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Several processes with threads of BLAS each would compete for the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import dask
import pytest

# Examples of what needs a package that is only in an extra.
_NEEDS = {
    "nat4xr/models": "torch",
    "nat4xr/paper.py": "torch",
    "nat4xr/runs.py": "torch",
    "nat4xr/bridges/_nwb.py": "pynwb",
    "nat4xr/bridges/_pynapple.py": "pynapple",
    "nat4xr/bridges/_torch.py": "torch",
}
collect_ignore = [path for path, package in _NEEDS.items() if not find_spec(package)]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Give each process tests that stand together, which share what a module sets up."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session", autouse=True)
def _no_zenodo() -> Iterator[None]:
    """Keep every test on this machine: what is not served here is not to be had."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAT4XR_ZENODO_URL", "http://127.0.0.1:9")
        patch.setenv("no_proxy", "127.0.0.1")
        yield


@pytest.fixture(scope="session")
def simulated_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny simulated release of both areas. Shared: read it, do not change it."""
    import nat4xr

    return nat4xr.simulate(tmp_path_factory.mktemp("simulated") / "release")


@pytest.fixture(autouse=True)
def _examples_read_the_simulated_release(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        release = request.getfixturevalue("simulated_release")
        monkeypatch.setenv("NAT4XR_DATA_DIR", str(release))
        monkeypatch.chdir(request.getfixturevalue("tmp_path"))


@pytest.fixture
def no_compute() -> Iterator[None]:
    """Make dask fail on any compute."""

    def fail(*_args: object, **_kwargs: object) -> None:
        pytest.fail("computed something before it was asked to")

    with dask.config.set(scheduler=fail):
        yield
