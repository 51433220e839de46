"""Counting cells, and dropping cells, sounds and repeats without responses."""

import dask.array
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from nat4xr.coverage import count_cells, drop_unrecorded
from nat4xr.index import LabelIndex, set_labels


def area_of(n_reps, dtype="int8"):
    """A Dataset with as many presentations as n_reps (stim, neuron) says, the rest NaN."""
    n_reps = np.asarray(n_reps, dtype)
    n_stims, n_neurons = n_reps.shape
    heard = np.arange(2)[None, :, None] < n_reps[:, None]
    response = np.where(heard[:, :, None], np.float32(1), np.nan).repeat(3, axis=2)
    return xr.Dataset(
        {
            "response": (("stim", "rep", "time", "neuron"), response),
            "spectrogram": (("stim", "freq"), np.ones((n_stims, 2))),
            "n_reps": (("stim", "neuron"), n_reps),
        },
        coords={
            "stim": [f"s{i}" for i in range(n_stims)],
            "subset": ("stim", ["val", "est"][:n_stims] + ["est"] * (n_stims - 2)),
            "neuron": [f"n{i}" for i in range(n_neurons)],
            "site": ("neuron", [f"site{i // 2}" for i in range(n_neurons)]),
        },
    )


@pytest.fixture
def ds():
    #                 n0 n1 n2 n3
    return area_of([[2, 0, 2, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]])


def test_cells_and_sounds_without_any_response_are_dropped(ds):
    kept = drop_unrecorded(ds)
    assert kept.stim.values.tolist() == ["s0", "s1", "s3"]
    assert kept.neuron.values.tolist() == ["n0", "n1", "n2"]
    assert kept.spectrogram.sizes["stim"] == 3


def test_among_the_sounds_left_only_cells_that_heard_one_stay(ds):
    val = drop_unrecorded(ds.isel(stim=[0]))
    assert val.neuron.values.tolist() == ["n0", "n2"]


def test_among_the_cells_left_only_sounds_that_one_heard_stay(ds):
    one_cell = drop_unrecorded(ds.isel(neuron=[0]))
    assert one_cell.stim.values.tolist() == ["s0", "s1"]


def test_one_selected_cell_or_sound_decides_alone(ds):
    assert drop_unrecorded(ds.isel(neuron=1)).stim.values.tolist() == ["s1", "s3"]
    assert drop_unrecorded(ds.isel(stim=0)).neuron.values.tolist() == ["n0", "n2"]


def test_without_n_reps_the_response_decides(ds):
    expected = drop_unrecorded(ds).drop_vars("n_reps")
    xr.testing.assert_identical(drop_unrecorded(ds.drop_vars("n_reps")), expected)


def test_a_response_alone_is_enough(ds):
    xr.testing.assert_identical(drop_unrecorded(ds.response), drop_unrecorded(ds).response)


def test_n_reps_masked_by_where_still_decides(ds):
    masked = ds.where(ds.site == "site0")
    assert drop_unrecorded(masked).neuron.values.tolist() == ["n0", "n1"]


def test_what_is_recorded_throughout_is_returned_whole():
    whole = area_of([[1, 2], [2, 1]])
    xr.testing.assert_identical(drop_unrecorded(whole), whole)


def test_where_nothing_is_recorded_nothing_is_left(ds):
    assert drop_unrecorded(ds.isel(stim=[2])).n_reps.shape == (0, 0)


def test_dask_arrays_stay_lazy_and_only_n_reps_is_read(ds):
    def never_read(block):
        raise AssertionError("response was read")

    counted = ds.n_reps.chunk()
    unreadable = dask.array.map_blocks(never_read, ds.response.chunk().data, meta=np.empty(0, "f4"))
    kept = drop_unrecorded(ds.assign(response=(ds.response.dims, unreadable), n_reps=counted))
    assert kept.response.shape == (3, 2, 3, 3)
    assert kept.response.chunks is not None


def test_repeats_without_any_response_are_dropped(ds):
    ds = ds.assign_coords(rep=[0, 1])
    assert drop_unrecorded(ds).sizes["rep"] == 2
    for once in (ds.sel(subset="est"), ds.sel(subset="est").drop_vars("n_reps")):
        kept = drop_unrecorded(once)
        assert kept.rep.values.tolist() == [0]
        assert kept.response.notnull().any("time").sum() == 5
    assert drop_unrecorded(ds.response.sel(subset="est")).sizes["rep"] == 1


def test_of_the_repeats_that_are_left_it_is_those_that_count(ds):
    second = ds.assign_coords(rep=[0, 1]).isel(rep=[1])
    assert drop_unrecorded(second).n_reps.shape == (1, 2)
    assert drop_unrecorded(second.isel(rep=0)).n_reps.shape == (1, 2)


def test_labels_and_the_original_are_kept(ds):
    before = ds.copy(deep=True)
    kept = drop_unrecorded(set_labels(ds))
    assert isinstance(kept.xindexes["site"], LabelIndex)
    assert kept.sel(site="site1", subset="est").neuron.values.tolist() == ["n2"]
    xr.testing.assert_identical(ds, before)


def test_a_dataset_that_cannot_tell_is_refused(ds):
    with pytest.raises(ValueError, match=r"needs n_reps or response.*has spectrogram"):
        drop_unrecorded(ds[["spectrogram"]])


@pytest.mark.parametrize("one", [{"neuron": 0}, {"stim": 0}, {"neuron": 0, "stim": 0}])
def test_one_cell_or_sound_is_counted_like_a_list_of_one(ds, one):
    ds = ds.assign_coords(auditory=("neuron", [True, False, True, True]))
    listed = ds.isel({dim: [i] for dim, i in one.items()})
    assert count_cells(ds.isel(one)).equals(count_cells(listed))


def test_cells_are_counted_in_a_dataset_alone(ds):
    with pytest.raises(TypeError, match="DataArray"):
        count_cells(ds.response)


def test_a_label_of_all_cells_is_counted(ds):
    ds = ds.assign_coords(auditory=("neuron", [True, False, True, True]), area="A1")
    assert count_cells(ds, "area").loc["A1", ["cells", "auditory"]].tolist() == [4, 3]


shapes = array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=6)


@given(n_reps=arrays("int8", shapes, elements=st.integers(0, 2), fill=st.just(0)))
def test_every_cell_and_sound_left_has_a_response_and_none_is_lost(n_reps):
    kept = drop_unrecorded(area_of(n_reps))
    assert (kept.n_reps > 0).any("stim").all()
    assert (kept.n_reps > 0).any("neuron").all()
    assert kept.n_reps.sum() == n_reps.sum()
    xr.testing.assert_identical(drop_unrecorded(kept), kept)
