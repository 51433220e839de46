"""Octave and R read an export as Python does, where they are installed."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import nat4xr
from nat4xr.cli import main

PROGRAMS = Path(__file__).parents[1] / "docs" / "languages"


@pytest.mark.parametrize(("command", "program"), [("octave-cli", "read.m"), ("Rscript", "read.R")])
def test_the_mean_rate_of_a_site_is_that_in_python(
    command: str, program: str, simulated_release: Path, tmp_path: Path
) -> None:
    if shutil.which(command) is None:
        pytest.skip(f"{command} is not installed")
    arguments = ["export", "A1", str(tmp_path / "a1.nc"), "--subset", "val", "--char"]
    exported = CliRunner().invoke(main, [*arguments, "--path", str(simulated_release)])
    assert exported.exit_code == 0, exported.output
    done = subprocess.run(
        [command, str(PROGRAMS / program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    val = nat4xr.open_area("A1", simulated_release, subset="val", progressbar=False)
    response = val["response"].sel(site="DRX006b", sound="geese")
    known = float(nat4xr.rate(response).mean())
    rate = float(done.stdout.split()[-1])
    np.testing.assert_allclose(rate, known, atol=1e-4, err_msg=done.stderr)
