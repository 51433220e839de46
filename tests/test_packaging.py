"""Files beside the package agree with it."""

import re
import tomllib
from pathlib import Path

import nat4xr

ROOT = Path(__file__).parents[1]


def test_the_citation_names_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall("^version: (.+)$", citation, re.MULTILINE) == [nat4xr.__version__]


def test_the_conda_recipe_needs_what_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    called = {"dask[array]": "dask-core", "isal": "python-isal", "lazy-loader": "lazy_loader"}
    needed = {f"python{project['requires-python']}"}
    for requirement in project["dependencies"]:
        name, least = requirement.split(">=")
        needed.add(f"{called.get(name, name.lower())}>={least}")
    run = (ROOT / "conda" / "meta.yaml").read_text().split("  run:\n")[1].split("\n\n")[0]
    assert {line.removeprefix("    - ").replace(" ", "") for line in run.splitlines()} == needed
