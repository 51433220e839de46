"""Measure the time, CPU time and peak memory of a statement or of a whole process."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

DATA = Path(__file__).parent / "data"
POPULATION = "A1_NAT4_ozgf.fs100.ch18.tgz"

# Installed packages are compiled once, not in every process.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

_PROGRAM = """
import json, resource, sys, time
{setup}
start = time.perf_counter()
{statement}
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, peak / (1e6 if sys.platform == "darwin" else 1e3)]))
"""


class Cost(NamedTuple):
    seconds: float
    peak_mb: float
    cpu_s: float = 0.0  # only measured for whole processes


def cost(statement: str, setup: str = "") -> Cost:
    """Run a statement in a fresh Python.

    A process inherits the peak memory of its parent, so the calling process must stay small.
    """
    program = _PROGRAM.format(statement=statement, setup=setup)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{statement}\nfailed:\n{done.stderr}")
    return Cost(*json.loads(done.stdout.splitlines()[-1]))


def process(program: str) -> Cost:
    """Run a program in a fresh Python, and measure the process from start to end."""
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{program}\nfailed")
    peak_mb = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return Cost(seconds, peak_mb, usage.ru_utime + usage.ru_stime)


def gunzip(folder: Path) -> Cost:
    """Measure the unit of time: a process that reads the population tgz with ``gzip.open``."""
    file = str(folder / POPULATION)
    return process(f"import gzip\nwith gzip.open({file!r}) as f:\n    while f.read(2**20): pass")


def release(cells: float = 1, sounds: float = 1) -> Path:
    """Simulate A1 with multiples of its cells and sounds, on first use."""
    folder = DATA / f"A1-{cells:g}-cells-{sounds:g}-sounds"
    if not folder.exists():
        print(f"Simulating {folder.name} (once; a minute or more) ...", flush=True)
        part = folder.with_suffix(".part")
        options = f"areas=['A1'], scale={cells}, sound_scale={sounds}"
        cost(f"nat4xr.simulate({str(part)!r}, {options})", "import nat4xr")
        part.rename(folder)
    return folder


def opening(folder: Path, *, options: str = "") -> str:
    """Return the statement that opens a release."""
    return f"ds = nat4xr.open_area('A1', {str(folder)!r}, progressbar=False, {options})"


def forget(folder: Path) -> None:
    """Remove the converted files."""
    for file in folder.glob("*_nat4xr-*"):
        file.unlink()


def converted_mb(folder: Path) -> float:
    (file,) = folder.glob("A1_nat4xr-*.nc")
    return file.stat().st_size / 1e6


def machine() -> str:
    load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{os.cpu_count()} cores, Python {platform.python_version()}{load}"
