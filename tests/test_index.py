"""Selecting, aligning and combining by the labels of sounds and cells."""

import copy
import functools
import pickle

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from nat4xr.index import LabelIndex, NameIndex, drop_label_index, set_labels

A1_CELLS = (
    *("ARM029a-04-1", "ARM029a-07-6", "ARM029a-07-7", "ARM030a-07-1", "ARM030a-33-12"),
    *("DRX006b-128-2", "DRX006b-04-1", "DRX008b-99-4", "TNC014a-34-10", "TNC014a-22-3"),
)
PEG_CELLS = ("ARM017a-05-1", "ARM017a-33-2", "ARM026b-05-1")
SOUNDS = (
    *("STIM_00cat172_rec1_geese_excerpt1.wav", "STIM_00cat337_rec1_siren_excerpt1.wav"),
    *("STIM_cat12_rec1_frog_excerpt2.wav", "STIM_cat7_rec3_rain_excerpt1.wav"),
    "STIM_cat668_rec2_ferret_kits_excerpt3.wav",
)

aligns_equal_names_of_any_index = pytest.mark.skipif(
    Version(xr.__version__) < Version("2026.9"),
    reason="older xarray refuses indexes of two types even where they are equal",
)


def unlabelled(cells=A1_CELLS, area="A1"):
    """An area as plain xarray opens it; the numbers tell which sound and cell they belong to."""
    names = pd.Series(cells).str.extract(r"(([A-Z]+)(\d+)([a-z]))-(\d+)-(\d+)")
    site, animal, recording, session, electrode, unit = (names[column] for column in names)
    sounds = pd.Series(SOUNDS).str.extract(r"(00)?cat(\d+)_rec\d+_(.*)_excerpt(\d+)")
    cell_number = [number_of(cell) for cell in cells]
    value = 10_000.0 * np.arange(len(SOUNDS))[:, None] + cell_number
    text, whole = {"dtype": str}, {"dtype": "int16"}
    return xr.Dataset(
        {
            "psth": (("stim", "time", "neuron"), np.stack([value, value + 0.5], axis=1)),
            "n_reps": (("stim", "neuron"), np.ones(value.shape, "int8")),
            "spectrogram": (("stim", "freq"), np.ones((len(SOUNDS), 2), "float32")),
        },
        coords={
            "stim": list(SOUNDS),
            "subset": ("stim", np.where(sounds[0].isna(), "est", "val")),
            "category": ("stim", np.array(sounds[1], **whole)),
            "sound": ("stim", np.array(sounds[2], **text)),
            "excerpt": ("stim", np.array(sounds[3], **whole)),
            "time": [0.0, 0.01],
            "freq": [200.0, 20_000.0],
            "neuron": ("neuron", list(cells), {"long_name": "cell"}),
            "cell_id": ("neuron", list(cells)),
            "area": ("neuron", [area] * len(cells)),
            "site": ("neuron", np.array(site, **text), {"long_name": "recording site"}),
            "animal": ("neuron", np.array(animal, **text)),
            "session": ("neuron", np.array(session, **text)),
            "recording": ("neuron", np.array(recording, **whole)),
            "electrode": ("neuron", np.array(electrode, **whole)),
            "unit_in_electrode": ("neuron", np.array(unit, **whole)),
            "auditory": ("neuron", np.arange(len(cells)) % 3 != 1),
            "trials_cell_id": ("neuron", ["", *cells[1:]]),
        },
        attrs={"title": "an area"},
    )


def number_of(cell):
    return (*A1_CELLS, *PEG_CELLS).index(cell)


@pytest.fixture(scope="module")
def ds():
    return set_labels(unlabelled())


@pytest.fixture(scope="module")
def peg():
    return set_labels(unlabelled(PEG_CELLS, "PEG"))


def names(obj, dim="neuron"):
    return obj[dim].values.tolist()


@functools.cache
def all_labels():
    both = xr.concat([unlabelled().n_reps, unlabelled(PEG_CELLS, "PEG").n_reps], "neuron")
    return dict(both.coords)


def assert_labels_belong_to_names(obj):
    """Every label, in the coordinate and in the index, is that of the sound or cell named."""
    for label, coord in all_labels().items():
        (dim,) = coord.dims
        if dim in obj.dims and label in obj.coords:
            expected = coord.sel({dim: names(obj, dim)}).values
            np.testing.assert_array_equal(obj[label].values, expected)
            index = obj.xindexes.get(label)
            if isinstance(index, LabelIndex):
                np.testing.assert_array_equal(index.labels[label], expected)
                assert index.names.index.tolist() == names(obj, dim)


def assert_labels_and_numbers_belong_to_names(obj):
    """Every number too is that of the sound and the cell named, or missing."""
    assert_labels_belong_to_names(obj)
    cell = [number_of(name) for name in names(obj)]
    sound = [SOUNDS.index(name) for name in names(obj, "stim")]
    first = obj.psth.transpose("stim", "neuron", "time").values[:, :, 0]
    expected = 10_000.0 * np.array(sound, dtype=float)[:, None] + np.array(cell, dtype=float)
    np.testing.assert_array_equal(first, np.where(np.isnan(first), np.nan, expected))


class TestSelectingByLabels:
    def test_labels_of_both_dims_are_selected_in_one_call(self, ds):
        selected = ds.sel(subset="val", animal="DRX", auditory=True)
        assert names(selected) == ["DRX006b-128-2", "DRX006b-04-1"]
        assert names(selected, "stim") == list(SOUNDS[:2])
        assert_labels_and_numbers_belong_to_names(selected)

    def test_a_data_array_is_selected_like_a_dataset(self, ds):
        selected = ds.psth.sel(subset="val", site="TNC014a")
        xr.testing.assert_identical(selected, ds.sel(subset="val", site="TNC014a").psth)

    @pytest.mark.parametrize(
        "animals",
        [
            ["TNC", "ARM"],
            ("TNC", "ARM"),
            {"TNC", "ARM"},
            np.array(["TNC", "ARM"]),
            pd.Index(["TNC", "ARM"]),
            xr.DataArray(["TNC", "ARM"], dims="anything"),
            {"TNC": 1, "ARM": 2}.keys(),
        ],
        ids=lambda animals: type(animals).__name__,
    )
    def test_several_labels_keep_the_order_of_the_data(self, ds, animals):
        assert names(ds.sel(animal=animals)) == [c for c in A1_CELLS if not c.startswith("DRX")]

    @pytest.mark.parametrize("label", [29, np.int16(29), xr.DataArray(29), 29.0])
    def test_one_label_may_be_a_scalar_of_any_library(self, ds, label):
        assert names(ds.sel(recording=label)) == list(A1_CELLS[:3])

    def test_one_label_keeps_the_dim_even_where_one_element_has_it(self, ds):
        assert names(ds.sel(electrode=99)) == ["DRX008b-99-4"]

    def test_the_dim_of_one_element_is_dropped_by_squeeze(self, ds):
        cell = ds.sel(electrode=99).squeeze("neuron")
        assert "neuron" not in cell.dims
        assert cell.neuron.item() == "DRX008b-99-4"
        xr.testing.assert_identical(cell.psth, ds.sel(neuron="DRX008b-99-4").psth)
        sound = ds.sel(sound="geese", electrode=99).squeeze(["stim", "neuron"])
        assert sound.psth.dims == ("time",)
        with pytest.raises(ValueError, match="length greater than one"):
            ds.sel(animal="TNC").squeeze("neuron")

    def test_a_slice_of_labels_includes_both_ends(self, ds):
        assert set(ds.sel(recording=slice(8, 29)).recording.values) == {8, 14, 29}
        assert set(ds.sel(recording=slice(None, 8)).recording.values) == {6, 8}
        assert set(ds.sel(recording=slice(15, None)).recording.values) == {29, 30}

    def test_labels_that_exist_but_not_together_select_nothing(self, ds):
        assert ds.sel(animal="ARM", site="TNC014a").sizes["neuron"] == 0

    def test_no_label_at_all_selects_nothing(self, ds):
        assert ds.sel(animal=[]).sizes["neuron"] == 0

    def test_a_flag_that_no_element_has_selects_nothing(self, ds):
        all_auditory = ds.sel(auditory=True)
        assert all_auditory.sel(auditory=False).sizes["neuron"] == 0

    def test_the_empty_label_selects_what_has_none(self, ds):
        assert names(ds.sel(trials_cell_id="")) == ["ARM029a-04-1"]

    def test_what_was_selected_can_be_selected_from(self, ds):
        assert names(ds.sel(animal="ARM").sel(site="ARM030a").sel(electrode=33)) == [A1_CELLS[4]]

    def test_time_is_selected_in_the_same_call(self, ds):
        assert ds.sel(time=0.01, animal="ARM").sizes == ds.sel(animal="ARM").isel(time=0).sizes

    def test_a_run_of_elements_is_a_view_of_the_data(self, ds):
        assert np.shares_memory(ds.psth.sel(subset="val").values, ds.psth.values)

    def test_dask_arrays_stay_lazy(self):
        lazy = set_labels(unlabelled().chunk({"neuron": 3})).sel(subset="val", animal="TNC")
        assert lazy.psth.chunks is not None
        assert_labels_and_numbers_belong_to_names(lazy.compute())

    def test_assignment_by_label_reaches_the_data(self, ds):
        psth = ds.psth.copy(deep=True)
        psth.loc[{"animal": "TNC", "subset": "val"}] = -1
        assert (psth == -1).sum() == 2 * 2 * 2


class TestSelectingByName:
    def test_one_name_drops_the_dim_and_keeps_its_labels(self, ds):
        cell = ds.sel(neuron="DRX008b-99-4")
        assert "neuron" not in cell.dims
        assert cell.site.item() == "DRX008b"

    def test_a_list_gives_its_own_order(self, ds):
        wanted = [A1_CELLS[7], A1_CELLS[0], A1_CELLS[7]]
        selected = ds.sel(neuron=wanted)
        assert names(selected) == wanted
        assert_labels_and_numbers_belong_to_names(selected)

    def test_a_slice_runs_from_name_to_name(self, ds):
        assert names(ds.sel(neuron=slice(A1_CELLS[6], A1_CELLS[8]))) == list(A1_CELLS[6:9])

    def test_the_names_of_another_object_select(self, ds):
        assert_labels_and_numbers_belong_to_names(ds.sel(neuron=ds.neuron[[5, 2]]))

    def test_arrays_along_a_new_dim_select_pointwise(self, ds):
        points = ds.sel(
            stim=xr.DataArray(list(SOUNDS[:2]), dims="pair"),
            neuron=xr.DataArray(list(A1_CELLS[3:5]), dims="pair"),
        )
        np.testing.assert_array_equal(points.psth.values[:, 0], [3, 10_004])

    @pytest.mark.parametrize(
        "wanted", [list(A1_CELLS[:3]), A1_CELLS[0], slice(None, A1_CELLS[2]), [True] * 10]
    )
    def test_names_and_labels_of_one_dim_are_selected_one_after_the_other(self, ds, wanted):
        write = r"ds\.sel\(neuron=names\)\.sel\(label=\.\.\.\)"
        with pytest.raises(ValueError, match=write):
            ds.sel(neuron=wanted, auditory=True)
        with pytest.raises(ValueError, match=write):
            ds.psth.sel(auditory=True, neuron=wanted)
        assert names(ds.sel(neuron=A1_CELLS[:3]).sel(auditory=True)) == [A1_CELLS[0], A1_CELLS[2]]

    @pytest.mark.parametrize("container", [list, tuple, np.array, pd.Index, pd.Series, iter])
    def test_names_come_in_any_container_and_keep_its_order(self, ds, container):
        wanted = [A1_CELLS[7], A1_CELLS[0]]
        selected = ds.sel(neuron=container(wanted))
        assert names(selected) == wanted
        assert_labels_and_numbers_belong_to_names(selected)

    @pytest.mark.parametrize("container", [set, frozenset, lambda w: dict.fromkeys(w).keys()])
    def test_a_set_of_names_has_the_order_of_the_data(self, ds, container):
        assert names(ds.sel(neuron=container([A1_CELLS[7], A1_CELLS[0]]))) == [
            A1_CELLS[0],
            A1_CELLS[7],
        ]

    def test_one_unknown_name_in_a_set_is_an_error(self, ds):
        with pytest.raises(KeyError, match="no neuron 'DRX008b-99-5'"):
            ds.sel(neuron={A1_CELLS[0], "DRX008b-99-5"})

    def test_the_dims_of_a_selection_are_plain_text(self, ds):
        one_cell_at_several_times = ds.sel(
            time=xr.DataArray([0.0, 0.01], dims="moment"), neuron=np.array(A1_CELLS[:2])
        )
        for selected in (ds.sel(neuron=list(A1_CELLS[:2])), one_cell_at_several_times):
            assert {type(dim) for v in selected.variables.values() for dim in v.dims} == {str}

    def test_the_cell_id_selects_names_together_with_labels(self, ds):
        assert names(ds.sel(cell_id=A1_CELLS[:3], auditory=True)) == [A1_CELLS[0], A1_CELLS[2]]


whatever_the_label = pytest.mark.parametrize(
    "key", ["neuron", "site", "electrode", "auditory", "cell_id"]
)


class TestMasks:
    """A boolean array is a mask along the dim; one with names selects by them."""

    @pytest.fixture
    def mask(self, ds):
        return ds.auditory & (ds.electrode > 7)

    @pytest.fixture
    def wanted(self, ds, mask):
        return ds.neuron.values[mask.values].tolist()

    @whatever_the_label
    @pytest.mark.parametrize(
        "form",
        [
            lambda mask: mask,
            lambda mask: mask.values,
            lambda mask: mask.values.tolist(),
            lambda mask: tuple(mask.values.tolist()),
            lambda mask: mask.variable,
            lambda mask: mask.chunk(),
            lambda mask: xr.DataArray(mask.values, dims="neuron"),
            lambda mask: pd.Series(mask.values),
            lambda mask: pd.Index(mask.values),
            lambda mask: mask.values.astype(object),
        ],
    )
    def test_a_mask_in_the_order_of_the_data(self, ds, mask, wanted, key, form):
        assert names(ds.sel({key: form(mask)})) == wanted

    @whatever_the_label
    @pytest.mark.parametrize(
        "form",
        [
            lambda mask: mask,
            lambda mask: drop_label_index(mask),
            lambda mask: mask.drop_vars(mask.xindexes.get_all_coords("site")),
            lambda mask: xr.DataArray(
                mask.values, dims="neuron", coords={"neuron": mask.neuron.values}
            ),
            lambda mask: pd.Series(mask.values, mask.neuron.values),
            lambda mask: pd.Series(mask.values, mask.neuron.values, dtype="boolean"),
            lambda mask: pd.Series(mask.values, mask.neuron.values, dtype=object),
            lambda mask: mask.to_series(),
        ],
    )
    def test_a_mask_with_names_in_another_order_selects_by_name(self, ds, mask, wanted, key, form):
        for order in ([9, 2, 5, 0, 1, 8, 3, 7, 4, 6], range(9, -1, -1)):
            selected = ds.sel({key: form(mask.isel(neuron=list(order)))})
            assert names(selected) == wanted
            assert_labels_and_numbers_belong_to_names(selected)

    @whatever_the_label
    def test_a_mask_of_more_cells_selects_from_fewer(self, ds, mask, key):
        tnc = ds.sel(animal="TNC")
        assert names(tnc.sel({key: mask})) == list(A1_CELLS[8:])
        assert names(tnc.sel({key: mask & (ds.electrode > 30)})) == [A1_CELLS[8]]

    @whatever_the_label
    @pytest.mark.parametrize("form", [lambda mask: mask, lambda mask: mask.to_series()])
    def test_a_mask_that_leaves_out_a_cell_is_refused(self, ds, mask, key, form):
        with pytest.raises(ValueError, match=f"no value for '{A1_CELLS[0]}' and 1 more"):
            ds.sel({key: form(mask.isel(neuron=slice(2, None)))})

    @whatever_the_label
    def test_a_mask_of_another_length_is_refused(self, ds, key):
        with pytest.raises(ValueError, match=r"\(10,\), not \(2,\)"):
            ds.sel({key: [True, False]})

    @whatever_the_label
    def test_a_mask_along_another_dim_is_refused(self, ds, key):
        for mask in (ds.psth > 0, ds.subset == "val"):
            with pytest.raises(ValueError, match="stim"):
                ds.sel({key: mask})

    @pytest.mark.parametrize("key", ["site", "auditory", "unit_in_electrode"])
    def test_a_table_is_no_mask(self, ds, mask, key):
        with pytest.raises(ValueError, match="shape"):
            ds.sel({key: pd.DataFrame({"fast": mask.values}, mask.neuron.values)})

    def test_a_mask_of_objects_that_are_all_true_is_no_label_1(self, ds):
        everything = np.full(ds.sizes["neuron"], True, dtype=object)
        selected = ds.sel(unit_in_electrode=everything)
        assert names(selected) == names(ds)

    def test_a_mask_that_names_a_cell_twice_is_refused(self, ds, mask):
        with pytest.raises(ValueError, match=f"{A1_CELLS[3]!r} twice"):
            ds.sel(site=mask.isel(neuron=[3, 3]))

    def test_a_mask_with_a_missing_value_is_refused(self, ds):
        mask = pd.Series([True] * 9 + [None], A1_CELLS, dtype="boolean")
        with pytest.raises(ValueError, match="missing"):
            ds.sel(neuron=mask)

    def test_flags_that_are_no_array_are_labels(self, ds):
        assert ds.sel(auditory={True, False}).sizes == ds.sizes
        assert names(ds.sel(auditory=np.bool_(False))) == [A1_CELLS[i] for i in (1, 4, 7)]

    def test_a_mask_of_a_renamed_dim(self, ds, mask, wanted):
        renamed = ds.rename(neuron="cell")
        assert names(renamed.sel(cell=mask.rename(neuron="cell")[::-1]), "cell") == wanted


class TestUnknownLabels:
    def test_the_error_names_the_coordinate_and_the_labels_there_are(self, ds):
        with pytest.raises(KeyError, match=r"no animal 'XYZ': .* 'ARM', 'DRX', 'TNC'"):
            ds.sel(animal="XYZ")

    def test_one_unknown_label_among_known_ones_is_an_error(self, ds):
        with pytest.raises(KeyError, match=r"no recording 28: .* 29, 30, 6, 8, 14"):
            ds.sel(recording=[29, 28])

    def test_a_label_of_another_type_is_unknown(self, ds):
        with pytest.raises(KeyError, match="no recording '29'"):
            ds.sel(recording="29")

    @pytest.mark.parametrize("wanted", ["yes", 1, [1], [1, 0] * 5, np.ones(10)])
    def test_a_flag_is_true_or_false(self, ds, wanted):
        with pytest.raises(KeyError, match=r"no auditory .*: .*False, True"):
            ds.sel(auditory=wanted)

    @pytest.mark.parametrize(
        "wanted", ["DRX008b-99-5", ["DRX008b-99-5"], slice("DRX008b-99-5", None)]
    )
    def test_an_unknown_name_is_reported_like_an_unknown_label(self, ds, wanted):
        with pytest.raises(KeyError, match=r"no neuron 'DRX008b-99-5': .* 'ARM029a-04-1'"):
            ds.sel(neuron=wanted)

    def test_of_names_that_hold_a_word_these_are_shown(self, ds):
        with pytest.raises(KeyError, match=r"no neuron 'ARM029a': .*closest.*'ARM029a-04-1'"):
            ds.sel(neuron="ARM029a")

    @pytest.mark.parametrize("label", ["neuron", "cell_id"])
    def test_of_many_labels_the_closest_are_shown(self, label):
        cells = [f"TNC01{site}a-{electrode}-1" for site in range(5) for electrode in range(10, 20)]
        many = set_labels(
            unlabelled(A1_CELLS)
            .isel(neuron=[0] * 50)
            .assign_coords(neuron=cells, cell_id=("neuron", cells))
        )
        with pytest.raises(KeyError, match=r"closest of 50 .*TNC012a-15-1"):
            many.sel({label: "TNC012a-15-2"})

    def test_in_an_empty_selection_there_is_nothing_to_select(self, ds):
        with pytest.raises(KeyError, match="no animal 'ARM'"):
            ds.sel(animal=[]).sel(animal="ARM")

    @pytest.mark.parametrize("label", [{"animal": "ARM"}, {"neuron": A1_CELLS[0]}])
    def test_labels_are_never_matched_by_a_method(self, ds, label):
        with pytest.raises(ValueError, match="method or tolerance"):
            ds.sel(label, method="nearest")


class TestPlainXarrayKeepsWorking:
    """Whatever the operation, labels and numbers still belong to the names."""

    @pytest.mark.parametrize(
        "operation",
        [
            lambda ds: ds.where(ds.site == "ARM029a", drop=True),
            lambda ds: ds.isel(neuron=slice(None, None, -2), stim=[3, 0]),
            lambda ds: ds.isel(neuron=ds.auditory.values),
            lambda ds: ds.isel(neuron=xr.DataArray([4, 1], dims="neuron")),
            lambda ds: ds.sortby(["animal", "electrode"]),
            lambda ds: ds.sortby("recording", ascending=False),
            lambda ds: ds.drop_sel(neuron=list(A1_CELLS[2:4])),
            lambda ds: ds.drop_isel(neuron=[0, 5]),
            lambda ds: ds.roll(neuron=3, roll_coords=True),
            lambda ds: ds.thin(neuron=3),
            lambda ds: ds.transpose(..., "stim"),
            lambda ds: ds.assign_coords(run=7, milliseconds=ds.time * 1000),
            lambda ds: ds.groupby("animal").map(lambda group: group.isel(neuron=[1, 0])),
            lambda ds: ds.copy(deep=True),
            copy.deepcopy,
            lambda ds: pickle.loads(pickle.dumps(ds)),
            lambda ds: ds.rename(neuron="cell", site="place").rename(cell="neuron", place="site"),
            lambda ds: xr.Dataset(dict(ds.data_vars)),
            lambda ds: xr.Dataset({"psth": (ds.psth.dims, ds.psth.values)}, coords=ds.coords),
            lambda ds: ds.chunk({"neuron": 3}).compute(),
            lambda ds: xr.map_blocks(
                lambda block: block.isel(stim=[0, 2]),
                ds.chunk({"neuron": 3}),
                template=ds.chunk({"neuron": 3}).isel(stim=[0, 2]),
            ).compute(),
        ],
    )
    def test_an_operation_keeps_the_index(self, ds, operation):
        result = operation(ds)
        assert_labels_and_numbers_belong_to_names(result)
        assert isinstance(result.xindexes["neuron"], NameIndex)
        assert isinstance(result.xindexes["site"], LabelIndex)
        assert isinstance(result.xindexes["subset"], LabelIndex)

    def test_a_single_element_has_labels_but_no_index(self, ds):
        cell = ds.isel(neuron=3)
        assert cell.animal.item() == "ARM"
        assert "animal" not in cell.xindexes

    def test_renamed_labels_select_by_their_new_names(self, ds):
        renamed = ds.rename(neuron="cell", site="place")
        assert names(renamed.sel(place="DRX008b"), "cell") == ["DRX008b-99-4"]

    def test_a_result_is_stored_beside_the_data(self, ds):
        ds = ds.assign(rate=ds.psth.mean("time"), best=ds.psth.max(("stim", "time")))
        ds["half"] = ds.psth.isel(neuron=[7, 2]) / 2
        assert ds.half.sel(neuron=A1_CELLS[7]).equals(ds.psth.sel(neuron=A1_CELLS[7]) / 2)
        assert ds.half.sel(neuron=A1_CELLS[0]).isnull().all()
        assert_labels_and_numbers_belong_to_names(ds)

    def test_groups_are_averaged_by_label(self, ds):
        means = ds.psth.groupby("animal").mean()
        xr.testing.assert_allclose(
            means.sel(animal="TNC", drop=True), ds.psth.sel(animal="TNC").mean("neuron")
        )

    @aligns_equal_names_of_any_index
    def test_the_mean_of_each_group_is_subtracted(self, ds):
        centred = ds.psth.groupby("animal") - ds.psth.groupby("animal").mean()
        assert abs(centred.sel(animal="ARM").mean("neuron")).max() < 1e-6

    def test_a_mean_keeps_the_labels_of_the_other_dim(self, ds):
        assert names(ds.psth.mean("stim").sel(animal="TNC")) == list(A1_CELLS[8:])

    def test_sounds_and_times_are_stacked_into_samples(self, ds):
        samples = ds.psth.stack(sample=("stim", "time"))
        assert samples.sel(animal="TNC").sizes == {"neuron": 2, "sample": 10}

    def test_the_names_are_the_pandas_index_of_the_dim(self, ds):
        assert ds.n_reps.to_pandas().columns.tolist() == list(A1_CELLS)

    def test_labels_cannot_be_overwritten_behind_the_index(self, ds):
        with pytest.raises(ValueError, match="read-only"):
            ds.site.values[0] = "elsewhere"

    def test_a_copied_index_pickles_without_the_data(self, ds):
        selected = ds.xindexes["site"].isel({"neuron": slice(0, 1)})
        assert len(pickle.dumps(selected)) < 5_000

    @pytest.mark.parametrize(
        "forbidden", [lambda ds: ds.drop_vars("site"), lambda ds: ds.assign_coords(site=ds.animal)]
    )
    def test_one_label_is_not_taken_out_from_under_the_index(self, ds, forbidden):
        with pytest.raises(ValueError, match=r"nat4xr\.drop_label_index"):
            forbidden(ds)

    def test_a_label_is_replaced_by_the_recipe_in_the_docs(self, ds):
        bare = ds.drop_indexes(ds.xindexes.get_all_coords("site"))
        new = set_labels(
            bare.drop_vars("session").assign_coords(site=("neuron", list("abcdefghij")))
        )
        assert names(new.sel(site="c", animal="ARM")) == [A1_CELLS[2]]


class TestAligning:
    def test_arithmetic_matches_names(self, ds):
        tnc = ds.isel(neuron=slice(None, None, -1)).sel(animal="TNC")
        difference = ds.psth - tnc.psth
        assert sorted(names(difference)) == sorted(A1_CELLS[8:])
        assert (difference == 0).all()
        assert difference.site.values.tolist() == ["TNC014a"] * 2

    @pytest.mark.parametrize("join", ["inner", "outer", "left", "right"])
    def test_aligned_objects_have_the_labels_of_both(self, ds, join):
        left, right = ds.isel(neuron=[4, 0, 2]), ds.isel(neuron=[2, 9, 4], stim=[3, 1])
        expected = {
            "inner": {A1_CELLS[i] for i in (4, 2)},
            "outer": {A1_CELLS[i] for i in (4, 0, 2, 9)},
            "left": set(names(left)),
            "right": set(names(right)),
        }[join]
        for aligned in xr.align(left, right, join=join):
            assert set(names(aligned)) == expected
            assert_labels_and_numbers_belong_to_names(aligned)

    def test_what_is_missing_is_filled_with_nan(self, ds):
        few, many = xr.align(ds.psth.isel(neuron=[1]), ds.psth, join="outer")
        assert few.isnull().sum("neuron").isin(len(A1_CELLS) - 1).all()
        assert many.notnull().all()

    def test_reindex_like_takes_the_order_and_the_labels_of_the_other(self, ds):
        other = ds.isel(neuron=[5, 1, 8])
        assert_labels_and_numbers_belong_to_names(ds.reindex_like(other))
        widened = other.reindex_like(ds)
        assert_labels_and_numbers_belong_to_names(widened)
        assert widened.psth.notnull().any(("stim", "time")).values.nonzero()[0].tolist() == [
            1,
            5,
            8,
        ]

    def test_exact_alignment_refuses_other_names(self, ds):
        with pytest.raises(ValueError, match="exact"):
            xr.align(ds, ds.isel(neuron=[0]), join="exact")

    def test_objects_that_label_a_cell_differently_are_refused(self, ds):
        other = unlabelled().assign_coords(auditory=("neuron", [True] * 10))
        with pytest.raises(ValueError, match="'ARM029a-07-6' has auditory False in one object and"):
            ds + set_labels(other)

    def test_a_label_that_is_nan_in_both_is_no_difference(self, ds):
        depth = np.where(np.arange(10) < 5, np.arange(10.0), np.nan)
        graded = set_labels(ds.assign_coords(depth=("neuron", depth)))
        assert names(graded + graded.isel(neuron=[7, 1])) == [A1_CELLS[1], A1_CELLS[7]]

    def test_names_that_occur_twice_are_refused(self, ds):
        with pytest.raises(ValueError, match="duplicate"):
            ds.isel(neuron=[0, 0]) + ds

    def test_merging_completes_each_with_the_other(self, ds):
        merged = xr.merge(
            [ds[["psth"]], ds[["n_reps"]].isel(neuron=[3, 1])], join="outer", compat="no_conflicts"
        )
        assert set(names(merged)) == set(A1_CELLS)
        assert merged.n_reps.sum() == 2 * len(SOUNDS)


class TestConcatenating:
    def test_two_areas_become_one(self, ds, peg):
        both = xr.concat(
            [ds, peg], "neuron", data_vars="minimal", coords="minimal", compat="override"
        )
        assert names(both) == [*A1_CELLS, *PEG_CELLS]
        assert_labels_and_numbers_belong_to_names(both)
        assert names(both.sel(area="PEG", electrode=5)) == [PEG_CELLS[0], PEG_CELLS[2]]
        assert both.site.attrs == {"long_name": "recording site"}

    def test_areas_that_heard_other_sounds_keep_all_sounds(self, ds, peg):
        both = xr.concat(
            [ds.sel(subset="val").psth, peg.isel(stim=[4, 0]).psth], "neuron", join="outer"
        )
        assert sorted(names(both, "stim")) == sorted([*SOUNDS[:2], SOUNDS[4]])
        est_sound = both.sel(stim=SOUNDS[4])
        assert est_sound.subset == "est"
        assert est_sound.sel(area="A1").isnull().all()
        assert est_sound.sel(area="PEG").notnull().all()

    def test_parts_are_put_back_at_their_positions(self, ds):
        parts = ds.psth.isel(neuron=[1, 3, 5, 7, 9]), ds.psth.isel(neuron=[8, 0, 6, 2, 4])
        whole = xr.concat(parts, "neuron", positions=[[1, 3, 5, 7, 9], [8, 0, 6, 2, 4]])
        assert names(whole) == list(A1_CELLS)
        assert_labels_and_numbers_belong_to_names(whole.to_dataset())

    def test_objects_without_the_same_labels_are_refused(self, ds, peg):
        richer = set_labels(peg.assign_coords(depth=("neuron", [1.0, 2.0, 3.0])))
        with pytest.raises(ValueError, match=r"same labels|not present in all"):
            xr.concat([ds.psth, richer.psth], "neuron")


class TestSetLabels:
    def test_it_gives_a_plain_object_its_labels_and_leaves_the_original(self):
        plain = unlabelled()
        before = plain.copy(deep=True)
        labelled = set_labels(plain)
        assert isinstance(labelled, xr.Dataset)
        assert isinstance(set_labels(plain.psth), xr.DataArray)
        xr.testing.assert_identical(plain, before)
        xr.testing.assert_equal(labelled, plain)
        assert labelled.neuron.attrs == {"long_name": "cell"}
        assert np.shares_memory(labelled.psth.values, plain.psth.values)

    def test_writing_into_the_original_afterwards_does_not_reach_the_labels(self):
        plain = unlabelled()
        labelled = set_labels(plain)
        plain.site.values[:] = "nowhere"
        assert_labels_and_numbers_belong_to_names(labelled)

    def test_doing_it_twice_changes_nothing(self, ds):
        xr.testing.assert_identical(set_labels(ds), ds)
        assert set_labels(ds).identical(ds)

    def test_some_labels_are_enough(self):
        few = unlabelled().psth.drop_vars(["site", "session", "cell_id", "category", "sound"])
        assert names(set_labels(few).sel(animal="DRX", auditory=True)) == list(A1_CELLS[5:7])

    def test_a_dim_with_names_alone_keeps_its_plain_index(self):
        bare = xr.DataArray([1.0, 2.0], dims="neuron", coords={"neuron": ["a", "b"]})
        xr.testing.assert_identical(set_labels(bare), bare)
        assert type(set_labels(bare).xindexes["neuron"]) is xr.indexes.PandasIndex

    def test_a_dim_without_coordinates_and_an_element_alone_are_left_as_they_are(self, ds):
        for obj in (xr.DataArray([1.0, 2.0], dims="neuron"), ds.isel(neuron=0, stim=0)):
            xr.testing.assert_identical(set_labels(obj), obj)

    def test_a_new_label_is_taken_in(self, ds):
        graded = ds.assign_coords(depth=("neuron", np.arange(10.0)))
        assert names(set_labels(graded).sel(depth=slice(2, 5), animal="ARM")) == list(A1_CELLS[2:5])

    def test_the_order_in_which_labels_are_stored_does_not_matter(self, ds):
        shuffled = set_labels(unlabelled()[sorted(unlabelled().variables, reverse=True)])
        assert_labels_and_numbers_belong_to_names(shuffled.isel(neuron=[3, 1]) + 0 * ds)

    def test_without_its_index_an_object_is_what_plain_xarray_opens(self, ds):
        plain = drop_label_index(ds)
        xr.testing.assert_identical(plain, unlabelled())
        xr.testing.assert_identical(set_labels(plain), ds)
        xr.testing.assert_identical(drop_label_index(ds.psth), unlabelled().psth)
        xr.testing.assert_identical(drop_label_index(plain), plain)
        plain.site.values[0] = "elsewhere"
        assert ds.site.values[0] == "ARM029a"

    def test_the_index_of_renamed_labels_and_of_a_part_is_taken_off_too(self, ds):
        renamed = drop_label_index(ds.rename(neuron="cell", site="place"))
        assert not any(isinstance(i, LabelIndex | NameIndex) for i in renamed.xindexes.values())
        one = ds.isel(neuron=0)
        xr.testing.assert_identical(drop_label_index(one).site, one.site.drop_indexes([]))

    @pytest.mark.parametrize(
        "operation",
        [
            lambda ds: ds.drop_vars("site").sizes,
            lambda ds: ds.assign_coords(site=ds.animal).site,
            lambda ds: ds.reset_coords("site").site,
            lambda ds: ds.swap_dims(neuron="cell_id").sizes,
            lambda ds: ds.reindex(neuron=list(A1_CELLS[::-2])).site,
            lambda ds: ds.query(neuron="electrode > 20 and auditory").site,
            lambda ds: ds.psth.groupby(["animal", "auditory"]).map(lambda group: group).site,
            lambda ds: ds.interp_like(ds.isel(time=slice(1), neuron=slice(5))).sizes,
            lambda ds: ds.to_dataframe().site,
            lambda ds: xr.corr(ds.psth, ds.psth.rename(neuron="other"), "time").sizes,
            lambda ds: (ds.psth - unlabelled().psth.isel(neuron=[3, 1])).site,
            lambda ds: (
                xr.map_blocks(
                    lambda block: block.isel(neuron=slice(2)),
                    ds.chunk({"neuron": 5}),
                    template=ds.isel(neuron=[0, 1, 5, 6]).chunk({"neuron": 2}),
                ).site
            ),
        ],
    )
    def test_what_plain_xarray_does_is_done_without_the_index(self, ds, operation):
        done, expected = operation(drop_label_index(ds)), operation(unlabelled())
        assert done.equals(expected) if hasattr(done, "equals") else done == expected

    @pytest.mark.parametrize("store", ["netcdf", "zarr"])
    def test_an_export_is_reopened_and_labelled_again(self, ds, tmp_path, store):
        exported = ds.sel(animal=["TNC", "ARM"], subset="val")
        if store == "netcdf":
            exported.to_netcdf(tmp_path / "export.nc")
            reopened = xr.open_dataset(tmp_path / "export.nc", chunks={})
        else:
            pytest.importorskip("zarr")
            exported.to_zarr(tmp_path / "export.zarr")
            reopened = xr.open_zarr(tmp_path / "export.zarr")
        with reopened:
            xr.testing.assert_equal(reopened, exported)
            labelled = set_labels(reopened)
            assert_labels_and_numbers_belong_to_names(labelled.sel(animal="ARM"))
            assert (labelled.psth - ds.psth == 0).all()

    def test_names_alone_take_their_labels_from_another_object(self, ds):
        predicted = xr.DataArray(
            np.ones((2, 2)),
            dims=("stim", "neuron"),
            coords={"stim": list(SOUNDS[3:1:-1]), "neuron": [A1_CELLS[6], A1_CELLS[1]]},
        )
        labelled = set_labels(predicted, like=ds)
        assert labelled.site.values.tolist() == ["DRX006b", "ARM029a"]
        error = ds.psth - labelled
        assert error.sizes == {"stim": 2, "time": 2, "neuron": 2}
        assert names(labelled, "stim") == list(SOUNDS[3:1:-1])

    def test_a_name_the_other_object_does_not_have_is_an_error(self, ds):
        stranger = xr.DataArray([1.0], dims="neuron", coords={"neuron": ["ARM029a-04-2"]})
        with pytest.raises(KeyError, match="no neuron 'ARM029a-04-2'"):
            set_labels(stranger, like=ds)

    @aligns_equal_names_of_any_index
    def test_plain_arrays_with_equal_names_need_no_labels(self, ds):
        plain = xr.DataArray(np.ones(10), dims="neuron", coords={"neuron": ds.neuron})
        assert_labels_and_numbers_belong_to_names(ds * plain)

    def test_plain_arrays_with_other_names_are_refused_not_guessed(self, ds):
        plain = unlabelled().psth.isel(neuron=[3, 1])
        with pytest.raises(
            ValueError, match=r"(?s)conflicting.*nat4xr\.set_labels\(array, like=ds"
        ):
            ds.psth - plain
        with pytest.raises(ValueError, match="conflicting indexes"):
            ds.reindex(neuron=list(A1_CELLS[::-1]))

    @pytest.mark.xfail(strict=True, reason="xarray does not notice: its issue 10714")
    def test_names_that_lost_their_labels_are_not_aligned_with_labelled_ones(self, ds):
        stripped = ds.drop_vars(ds.xindexes.get_all_coords("site")).isel(
            neuron=slice(None, None, -1)
        )
        try:
            result = stripped + 0 * ds
        except ValueError:
            return
        assert_labels_and_numbers_belong_to_names(result)


# Against pandas, with any query that hypothesis can think of

CELL_LABELS = ("area", "site", "animal", "session", "recording", "electrode", "auditory", "cell_id")


@st.composite
def queries(draw):
    """Labels to select by: each one label, several, or (numbers) a slice."""
    plain = unlabelled()
    query = {}
    for label in draw(st.sets(st.sampled_from(CELL_LABELS))):
        known = st.sampled_from(sorted(set(plain[label].values.tolist())))
        kinds = [known, st.sets(known)]
        if plain[label].dtype != bool:  # a list of booleans is a mask
            kinds.append(st.lists(known))
        if plain[label].dtype.kind == "i":
            bound = st.none() | st.integers(-1, 130)
            kinds.append(st.builds(slice, bound, bound))
        query[label] = draw(st.one_of(kinds))
    return query


def matches(column, label):
    if isinstance(label, slice):
        low = -np.inf if label.start is None else label.start
        return column.between(low, np.inf if label.stop is None else label.stop)
    return column.isin(label if isinstance(label, list | set) else [label])


@pytest.mark.reliability
@settings(deadline=None)
@given(query=queries(), order=st.permutations(range(len(A1_CELLS))))
def test_labels_select_what_pandas_selects(ds, query, order):
    shuffled = ds.isel(neuron=order)
    table = pd.DataFrame({label: shuffled[label].values for label in CELL_LABELS})
    for label, wanted in query.items():
        table = table[matches(table[label], wanted)]
    selected = shuffled.sel(query)
    assert names(selected) == table.cell_id.tolist()
    assert_labels_and_numbers_belong_to_names(selected)


subsets = st.lists(st.sampled_from(A1_CELLS), unique=True)


@settings(deadline=None)
@given(wanted=st.lists(st.sampled_from(A1_CELLS)), order=st.permutations(A1_CELLS))
def test_names_select_what_pandas_selects(ds, wanted, order):
    shuffled = ds.sel(neuron=order)
    positions = pd.Series(range(len(order)), index=order)
    assert names(shuffled.sel(neuron=wanted)) == [order[i] for i in positions.loc[wanted]]
    assert_labels_and_numbers_belong_to_names(shuffled.sel(neuron=wanted))


@pytest.mark.reliability
@settings(deadline=None)
@given(left=subsets, right=subsets, join=st.sampled_from(["inner", "outer", "left", "right"]))
def test_objects_are_aligned_as_pandas_aligns(ds, left, right, join):
    arrays = ds.psth.sel(neuron=left), ds.psth.sel(neuron=right)
    series = (array.isel(stim=0, time=0).to_series() for array in arrays)
    for array, expected in zip(
        xr.align(*arrays, join=join), next(series).align(next(series), join=join), strict=True
    ):
        first = array.isel(stim=0, time=0)
        assert sorted(names(first)) == sorted(expected.index)
        np.testing.assert_array_equal(first.values, expected.loc[names(first)].values)
        assert first.site.values.tolist() == [name.split("-")[0] for name in names(first)]


operations = st.one_of(
    st.tuples(st.just("isel"), st.lists(st.integers(0, 9), min_size=1, max_size=10, unique=True)),
    st.tuples(st.just("roll"), st.integers(-3, 3)),
    st.tuples(st.just("sortby"), st.sampled_from(CELL_LABELS)),
    st.tuples(st.just("groupby"), st.sampled_from(["animal", "site", "auditory"])),
    st.tuples(st.just("halves"), st.integers(0, 9)),
)


@settings(deadline=None)
@given(chain=st.lists(operations, max_size=5))
def test_labels_follow_their_names_through_any_chain_of_operations(ds, chain):
    array = ds[["psth"]]
    for operation, argument in chain:
        if operation == "isel":
            array = array.isel(neuron=[i for i in argument if i < array.sizes["neuron"]] or [0])
        elif operation == "roll":
            array = array.roll(neuron=argument, roll_coords=True)
        elif operation == "sortby":
            array = array.sortby(argument)
        elif operation == "groupby":
            array = array.groupby(argument).map(lambda group: group)
        else:
            cut = argument % array.sizes["neuron"]
            parts = [array.isel(neuron=slice(cut, None)), array.isel(neuron=slice(cut))]
            array = xr.concat([part for part in parts if part.sizes["neuron"]], "neuron")
    assert_labels_and_numbers_belong_to_names(array)
