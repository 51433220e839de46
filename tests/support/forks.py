"""Run Python programs in separate processes that start quickly and may crash."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# This program forks a process for each program that it receives, which saves the time of imports.
FORKS = """
import encodings.cp437, encodings.utf_8_sig, gc, json, os, signal, sys, tempfile, traceback
import dask.array, filelock, h5py, isal.igzip, netCDF4, numpy as np, platformdirs, xarray as xr
import nat4xr, nat4xr.area, nat4xr.io.assemble, nat4xr.io.cache, nat4xr.io.ragged, nat4xr.spikes

with tempfile.NamedTemporaryFile() as file:  # xarray looks for engines and dask when first used
    xr.Dataset({"x": ("x", ["text"])}).to_netcdf(file.name)
    xr.open_dataset(file.name, chunks={}).load().close()
filelock.FileLock, platformdirs.user_cache_dir()  # their modules are imported when first used
gc.freeze()  # so that no child looks for garbage among all that its parent imported

def start(program):
    if pid := os.fork():
        return pid
    try:
        exec(program, globals())
        code = 0
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code)

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

for line in sys.stdin:
    print(json.dumps([wait(pid) for pid in [start(program) for program in json.loads(line)]]))
    sys.stdout.flush()
"""

Run = Callable[..., list[int]]


@contextmanager
def forks() -> Iterator[Run]:
    """Provide a function that runs programs in parallel and returns their exit codes."""
    command = [sys.executable, "-c", FORKS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def run(*programs: str) -> list[int]:
            # Tests change the environment, so it is copied for each run.
            set_up = f"os.environ.update({dict(os.environ)!r})\n"
            process.stdin.write(json.dumps([set_up + program for program in programs]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()
