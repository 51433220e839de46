"""The documentation matches the package. (A build of the pages also runs all their code.)"""

import importlib
import re
from pathlib import Path

import pytest
import xarray as xr

import nat4xr
from nat4xr import schema
from nat4xr.io.limits import LIMITS

DOCS = Path(__file__).parents[1] / "docs"


def section(page: str, title: str) -> str:
    """The text under one heading of a page."""
    text = (DOCS / page).read_text()
    return re.split(r"^## ", text.split(f"## {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table(page: str, title: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    rows = [line for line in section(page, title).splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split("|")] for row in rows[2:]]


def kind(variable: xr.Variable) -> str:
    return "str" if variable.dtype.kind == "U" else str(variable.dtype)


@pytest.fixture(scope="module")
def ds(simulated_release: Path) -> xr.Dataset:
    return nat4xr.open_area("A1", simulated_release, progressbar=False)


def test_the_schema_of_the_dataset_page_has_every_variable_and_coordinate(ds: xr.Dataset) -> None:
    """The tables of the page are written from the schema when it is built."""
    page = (DOCS / "dataset.md").read_text()
    tables = re.findall(r"^```{contract} (\w+)$", page, re.MULTILINE)
    listed = {name: field for table in tables for name, field in getattr(schema, table).items()}
    assert set(listed) == set(ds.variables)
    for name, field in listed.items():
        assert field.dims == ds[name].dims, name
        assert field.dtype in (kind(ds[name].variable), ds[name].dtype.name.rstrip("64")), name


def test_no_two_pages_have_one_title() -> None:
    titles = [
        re.search(r"^# (.+)$", page.read_text(), re.MULTILINE).group(1)
        for page in [*DOCS.glob("*.md"), *DOCS.glob("api/*.md")]
        if page.name not in ("changelog.md", "developing.md")  # which include another file
    ]
    titles += [file.read_text().splitlines()[1] for file in DOCS.glob("examples/*.py")]
    assert len(titles) > 30
    assert len(set(titles)) == len(titles)


def test_release_page_lists_every_limit() -> None:
    page = (DOCS / "release.md").read_text()
    listed = re.findall(r"^\| (.*) \| ([0-9,]+) \| ([0-9,]+) \| `(\w+)` \|$", page, re.MULTILINE)
    assert listed == [
        (limit.what, f"{limit.most:,}", f"{limit.largest:,}", name)
        for name, limit in LIMITS.items()
    ]


@pytest.mark.parametrize("name", LIMITS)
def test_no_limit_is_below_ten_times_the_largest_file(name: str) -> None:
    assert LIMITS[name].most >= 10 * LIMITS[name].largest


def test_no_page_reads_a_variable_that_its_reader_has_not_set() -> None:
    for page in [*DOCS.glob("*.md"), *DOCS.glob("examples/*.py"), *DOCS.glob("*.ipynb")]:
        assert "os.environ" not in page.read_text(), page.name


def test_dataset_page_lists_every_attribute(ds: xr.Dataset) -> None:
    listed = {
        name.strip(" `") for row in table("dataset.md", "Attributes") for name in row[0].split(",")
    }
    assert set(ds.attrs) <= listed


def test_selections_set_beside_those_of_other_tools_run(
    ds: xr.Dataset, simulated_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAT4XR_DATA_DIR", str(simulated_release))
    given = {
        "nat4xr": nat4xr,
        "xr": xr,
        "ds": ds,
        "a1": ds,
        "peg": nat4xr.open_area("PEG", simulated_release, progressbar=False),
        "bridges": nat4xr.bridges,
        "spikes": nat4xr.open_spikes("A1", simulated_release, progressbar=False),
        "sites": ["ARM029a", "DRX006b"],
        "snr": nat4xr.metrics.snr(ds["response"].sel(subset="val")).compute(),
    }
    for task, _, _, expression in table("selecting.md", "Coming from deepSTRF or NEMS"):
        if "(" in expression and not expression.startswith("["):
            name = ds["stim" if "sound" in task or "repeats" in task else "neuron"].values[0]
            eval(expression, given | {"name": name, "names": [name]})


def test_the_function_that_takes_the_label_index_off_is_named_by_every_error_of_it(
    ds: xr.Dataset,
) -> None:
    assert "nat4xr.drop_label_index" in (DOCS / "plain_xarray.md").read_text()
    for index in ("stim", "subset", "neuron", "site"):
        assert "nat4xr.drop_label_index" in repr(ds.xindexes[index])


def test_reference_has_every_public_name() -> None:
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    modules = [name for name in nat4xr.__all__ if _is_module(name)]
    for name in set(nat4xr.__all__) - set(modules):
        assert re.search(rf"^.. auto\w+:: {name}$", text, re.MULTILINE), name
    for module in modules:
        assert f".. automodule:: nat4xr.{module}\n" in text, module
        for name in importlib.import_module(f"nat4xr.{module}").__all__:
            entry = rf"^(   {module}\.{name}|\.\. py:data:: {name})$"
            assert re.search(entry, text, re.MULTILINE), f"{module}.{name}"


@pytest.mark.parametrize(("heading", "folder"), [("Layout", "."), ("The modules of io", "io")])
def test_layout_names_every_module(heading: str, folder: str) -> None:
    listed = {
        name.strip(" `")
        for row in table("../CONTRIBUTING.md", heading)
        for name in row[0].split(",")
    }
    package = Path(nat4xr.__file__).parent / folder
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert there - {"__init__", "__pycache__"} == listed


def _is_module(name: str) -> bool:
    return hasattr(getattr(nat4xr, name), "__path__") or hasattr(getattr(nat4xr, name), "__file__")
