"""The accessor ``ds.nat4``."""

import copy
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

import nat4xr


@pytest.fixture(scope="module")
def ds(simulated_release) -> xr.Dataset:
    return nat4xr.open_area("A1", simulated_release, progressbar=False)


def test_its_functions_are_those_of_the_package(ds):
    val = ds.sel(subset="val")
    xr.testing.assert_identical(val.nat4.drop_unrecorded(), nat4xr.drop_unrecorded(val))
    xr.testing.assert_identical(val.nat4.metrics.snr(), nat4xr.metrics.snr(val.response))
    assert ds.nat4.summary("animal").equals(nat4xr.count_cells(ds, "animal"))


def test_figures_are_drawn_of_the_dataset(ds):
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    ds.isel(stim=0).nat4.plot.spectrogram(ax=ax)
    assert ax.get_ylabel() == "frequency (kHz)"


def test_tab_completes_functions_and_labels(ds):
    assert {"plot", "metrics", "summary", "site", "subset"} <= set(dir(ds.nat4))
    assert "cell_response" in dir(ds.nat4.plot)
    assert "snr" in dir(ds.nat4.metrics)
    assert ds.nat4.animal._ipython_key_completions_() == ["ARM", "CRD", "DRX", "TNC"]


def test_a_label_selects(ds):
    xr.testing.assert_identical(ds.nat4.animal["TNC"], ds.sel(animal="TNC"))


def test_a_name_that_is_no_label_lists_those_that_are(ds):
    with pytest.raises(AttributeError, match=r"'sight'.*site"):
        _ = ds.nat4.sight


def test_the_summary_in_a_notebook_has_a_row_for_each_site(ds):
    html = ds.nat4._repr_html_()
    assert "SIMULATED" in html
    for site in np.unique(ds.site):
        assert site in html


def test_the_summary_in_a_notebook_shows_names_as_text(ds):
    hostile = ds.drop_vars(["site", *ds.xindexes.get_all_coords("site")], errors="ignore")
    hostile = hostile.assign_coords(
        site=("neuron", ["<script>"] * ds.sizes["neuron"]),
        animal=("neuron", ["x"] * ds.sizes["neuron"]),
        auditory=("neuron", [True] * ds.sizes["neuron"]),
    )
    assert "<script>" not in hostile.nat4._repr_html_()


def test_it_survives_a_selection_and_a_reopened_export(ds, tmp_path):
    ds.sel(subset="val").to_netcdf(tmp_path / "val.nc")
    with xr.open_dataset(tmp_path / "val.nc") as reopened:
        assert reopened.nat4.summary().equals(ds.sel(subset="val").nat4.summary())


def test_one_cell_has_a_summary_too(ds):
    cell = ds.isel(neuron=0)
    assert cell.site.item() in repr(cell.nat4)
    assert cell.site.item() in cell.nat4._repr_html_()


@pytest.mark.parametrize(
    "select",
    [
        lambda ds: ds.isel(neuron=[]),
        lambda ds: ds.isel(stim=[]),
        lambda ds: ds.isel(neuron=[], stim=[]),
        lambda ds: ds.rename(neuron="cell"),
        lambda ds: ds[["n_reps"]].stack(pair=["stim", "neuron"]),
        lambda ds: ds.expand_dims(fold=2),
        lambda ds: ds[["n_reps"]].mean("stim"),
        lambda ds: ds[["n_reps"]].where(ds.auditory),
        lambda ds: xr.Dataset(),
    ],
)
def test_every_dataset_has_a_summary(ds, select):
    obj = select(ds)
    title = obj.attrs.get("title", "NAT4")
    assert title in repr(obj.nat4)
    assert title in obj.nat4._repr_html_()


def test_names_of_subsets_are_shown_as_text(ds):
    hostile = ds.drop_indexes(ds.xindexes.get_all_coords("subset"))
    hostile["subset"] = ("stim", ["<script>"] * ds.sizes["stim"])
    assert "<script>" not in hostile.nat4._repr_html_()


def test_it_is_copied_and_pickled(ds):
    for again in (copy.deepcopy(ds.nat4), pickle.loads(pickle.dumps(ds.nat4))):
        assert repr(again) == repr(ds.nat4)
    assert dir(copy.copy(ds.nat4.plot)) == dir(ds.nat4.plot)


IPYTHON = """
import sys
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
shell.run_cell(f"import nat4xr; ds = nat4xr.open_area('A1', {sys.argv[1]!r}, progressbar=False)")
shell.run_cell("nat4 = ds.nat4; animal = nat4.animal; plot = nat4.plot")
assert not shell.Completer.custom_matchers
for text in sys.argv[2:]:
    with provisionalcompleter():
        print(*(c.text for c in shell.Completer.completions(text, len(text))))
"""


def test_tab_completes_in_ipython_by_what_it_offers_itself(simulated_release, tmp_path):
    typed = ['animal["', "animal['T", "nat4.sit", "plot.p"]
    done = subprocess.run(
        [sys.executable, "-c", IPYTHON, simulated_release, *typed],
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    quoted, started, label, figures = (
        set(line.replace(".", "").split()) for line in done.stdout.splitlines()
    )
    assert {"ARM", "CRD", "DRX", "TNC"} <= quoted
    assert started == {"TNC"}
    assert label == {"site"}
    assert figures == {"population", "psth"}


@pytest.mark.parametrize("opening", ["nat4xr.open_area('A1', folder)", "xr.open_dataset(export)"])
def test_whatever_is_opened_has_it(ds, simulated_release, tmp_path, opening):
    ds.isel(stim=[0]).to_netcdf(tmp_path / "export.nc")
    program = f"import xarray as xr, nat4xr, sys; folder, export = sys.argv[1:]; {opening}.nat4"
    done = subprocess.run(
        [sys.executable, "-c", program, simulated_release, tmp_path / "export.nc"]
    )
    assert done.returncode == 0


def test_xarray_alone_registers_nothing(ds, tmp_path):
    """Opening a file without nat4xr imports no more of it than guessing its engine needs."""
    ds.isel(stim=[0]).to_netcdf(tmp_path / "export.nc")
    program = (
        "import sys, xarray as xr; ds = xr.open_dataset(sys.argv[1]); "
        "print(hasattr(ds, 'nat4'), sorted(m for m in sys.modules if m.startswith('nat4xr')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "export.nc"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False ['nat4xr_engine']"


def test_a_notebook_shows_the_map_of_presentations_where_matplotlib_is_installed(
    ds: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 'src="data:image/png;base64,' in ds.nat4._repr_html_()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    without = ds.nat4._repr_html_()
    assert "<img" not in without
    assert "<table" in without


@pytest.mark.parametrize("dim", ["stim", "neuron"])
def test_a_notebook_shows_an_empty_selection_without_a_map(ds: xr.Dataset, dim: str) -> None:
    assert "<img" not in ds.isel({dim: []}).nat4._repr_html_()


def test_a_notebook_without_widgets_gets_bars_of_text_and_no_warning():
    program = """
import sys, types
kernel = types.SimpleNamespace(config={"IPKernelApp": {}})
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: kernel)
sys.modules["ipywidgets"] = None
from nat4xr.extras import tqdm
print(tqdm.__module__)
"""
    command = [sys.executable, "-W", "error:IProgress", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "notebook" not in done.stdout
    assert done.stderr == ""


def test_the_attributes_of_a_dataset_are_short(ds):
    assert "simulation" not in ds.attrs
    assert max(len(str(value)) for value in ds.attrs.values()) < 150
