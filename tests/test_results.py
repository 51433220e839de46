"""The authors' table of results for each cell."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import nat4xr

TABLE = "A1_pred_correlation.csv"


def table(folder: Path, text: str) -> xr.Dataset:
    (folder / TABLE).write_text(text, encoding="utf-8")
    return nat4xr.open_table("A1", folder, download=False)


def test_every_column_of_the_release_is_there(nems0_release: Path) -> None:
    opened = nat4xr.open_table("A1", nems0_release, download=False)
    assert list(opened.data_vars) == ["LN_test", "conv1dx2_test"]
    first = opened.sel(neuron="ARM031a-04-1")
    assert (float(first.LN_test), float(first.conv1dx2_test)) == (0.9568, 0.5212)
    assert opened.attrs["simulated"] == 0


def test_the_cells_have_the_labels_of_the_area(nems0_release: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(nems0_release, tmp_path / "release")
    area = nat4xr.open_area("PEG", folder, download=False, progressbar=False)
    opened = nat4xr.open_table("PEG", folder, download=False).sel(neuron=area.neuron.values)
    for label in ("site", "animal", "electrode", "auditory", "area"):
        xr.testing.assert_equal(opened[label].variable, area[label].variable)
    assert (area.psth.mean(["stim", "time"]) * opened.LN_test).sizes["neuron"] > 0


def test_fields_may_be_empty_text_or_numbers(tmp_path: Path) -> None:
    opened = table(
        tmp_path,
        "\ufeff,cellid,r,depth,layer,sig_auditory\n"
        "0, ARM029a-04-1 ,0.5,,2/3,True\n1,ARM029a-07-6,1e-3,7,,False\n",
    )
    assert opened.neuron.values.tolist() == ["ARM029a-04-1", "ARM029a-07-6"]
    np.testing.assert_array_equal(opened.r, [0.5, 0.001])
    np.testing.assert_array_equal(opened.depth, [np.nan, 7])
    assert opened.layer.values.tolist() == ["2/3", ""]
    assert opened.sel(auditory=True).neuron.values.tolist() == ["ARM029a-04-1"]


def test_a_row_that_stands_there_twice_is_one_cell(tmp_path: Path) -> None:
    row = "ARM029a-04-1,0.5,True\n"
    assert table(tmp_path, "cellid,r,sig_auditory\n" + row + row).sizes["neuron"] == 1
    with pytest.raises(nat4xr.ReleaseError, match="two rows for ARM029a-04-1"):
        table(tmp_path, "cellid,r,sig_auditory\n" + row + row.replace("0.5", "0.6"))


@pytest.mark.parametrize("text", ["", "cellid,sig_auditory\n", "r,sig_auditory\n1,True\n"])
def test_a_table_without_cells_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(nat4xr.ReleaseError, match=TABLE):
        table(tmp_path, text)


def test_it_can_be_saved(tmp_path: Path) -> None:
    opened = table(tmp_path, "cellid,r,sig_auditory\nARM029a-04-1,0.5,True\n")
    opened.to_netcdf(tmp_path / "table.nc")
    assert xr.load_dataset(tmp_path / "table.nc").r.item() == 0.5


def test_a_simulated_table_says_so(simulated_release: Path) -> None:
    attrs = nat4xr.open_table("PEG", simulated_release).attrs
    assert (attrs["simulated"], attrs["source"]) == (1, "nat4xr.simulate")
    assert not {"creator", "license"} & set(attrs)


def test_a_missing_table_is_an_error_that_says_how_to_fetch_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nat4xr fetch A1"):
        nat4xr.open_table("A1", tmp_path, download=False)
