"""Rates and counts, and where the time bins are."""

import dask
import numpy as np
import pytest
import xarray as xr

import nat4xr
from nat4xr.bins import bin_edges, bin_width
from nat4xr.index import LabelIndex


@pytest.fixture(scope="module")
def ds(simulated_release):
    return nat4xr.open_area("A1", simulated_release, progressbar=False)


@pytest.fixture(scope="module")
def small():
    """Two trials of six bins of 10 ms, from 0.1 s on; there was no second trial of cell b."""
    response = np.arange(24, dtype="float32").reshape(2, 6, 2)
    response[1, :, 1] = np.nan
    return xr.DataArray(
        response,
        dims=("rep", "time", "neuron"),
        coords={
            "time": ("time", 0.1 + np.arange(6) / 100, {"bin_width": 0.01, "units": "s"}),
            "neuron": ["a", "b"],
        },
        attrs={"units": "1", "long_name": "spikes per bin", "simulated": 1},
        name="response",
    )


class TestRate:
    def test_it_is_spikes_per_bin_over_the_width_of_the_bin(self, small):
        rate = nat4xr.rate(small)
        np.testing.assert_allclose(rate, small / 0.01)
        assert rate.attrs == {"units": "spikes/s", "long_name": "rate", "simulated": 1}
        assert rate.dtype == "float32"
        assert rate.name == "response"
        assert small.attrs["units"] == "1"

    def test_a_missing_trial_stays_missing(self, small):
        assert nat4xr.rate(small).isnull().equals(small.isnull())

    @pytest.mark.parametrize("factor", [2, 3])
    def test_sums_over_bins_keep_the_rate(self, small, factor):
        sums = small.coarsen(time=factor).sum()
        np.testing.assert_allclose(
            nat4xr.rate(sums).mean("time"), nat4xr.rate(small.fillna(0)).mean("time")
        )

    @pytest.mark.parametrize("dt_ms", [5, 10, 50])
    def test_the_rate_is_the_same_at_any_bin_width(self, simulated_release, dt_ms):
        area = nat4xr.open_area("A1", simulated_release, dt_ms=dt_ms, progressbar=False)
        val = area.response.sel(subset="val", animal="ARM")
        spikes = val.sum(skipna=False) / (val.size / val.sizes["time"])
        np.testing.assert_allclose(nat4xr.rate(val).mean(), spikes / 1.5, rtol=1e-4)

    def test_of_a_dataset_the_spikes_become_rates_and_the_rest_stays(self, ds):
        rates = nat4xr.rate(ds)
        xr.testing.assert_identical(rates.psth, nat4xr.rate(ds.psth))
        xr.testing.assert_identical(rates.response, nat4xr.rate(ds.response))
        xr.testing.assert_identical(rates[["spectrogram", "n_reps"]], ds[["spectrogram", "n_reps"]])
        assert isinstance(rates.xindexes["site"], LabelIndex)

    def test_dask_arrays_stay_lazy(self, ds, no_compute):
        assert dask.is_dask_collection(nat4xr.rate(ds.response))
        assert dask.is_dask_collection(nat4xr.counts(ds, (0.25, 1.25)).response)

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (lambda ds: nat4xr.rate(ds.psth), "already"),
            (lambda ds: ds.psth.mean("time"), "dim 'time'"),
            (lambda ds: ds.spectrogram, "spectrogram"),
            (lambda ds: nat4xr.preprocess.minmax(ds.psth), "invert"),
            (lambda ds: ds[["n_reps"]], "n_reps"),
            (lambda ds: ds.psth.isel(time=[3]), "1 time bin"),
            (lambda ds: ds.psth.isel(time=[0, 1, 3]), "not evenly spaced"),
            (lambda ds: ds.psth.isel(time=[1, 0]), "not evenly spaced"),
            (lambda ds: ds.psth.drop_vars("time"), "'time' has no coordinate"),
        ],
    )
    def test_what_has_no_spikes_per_bin_is_refused(self, ds, wrong, message):
        for verb in (nat4xr.rate, lambda obj: nat4xr.counts(obj, (0, 0.1))):
            with pytest.raises(ValueError, match=message):
                verb(wrong(ds))

    def test_what_is_no_xarray_object_is_refused(self, ds):
        with pytest.raises(TypeError, match="ndarray"):
            nat4xr.rate(ds.psth.values)


class TestCounts:
    def test_spikes_in_the_window_are_counted(self, small):
        counts = nat4xr.counts(small, (0.12, 0.14))
        expected = small.isel(time=2) + small.isel(time=3)
        np.testing.assert_array_equal(counts, expected)
        assert counts.attrs["units"] == "1"
        assert "0.12 to 0.14 s" in counts.attrs["long_name"]

    def test_there_is_no_count_where_there_was_no_trial(self, small):
        assert nat4xr.counts(small, (0.1, 0.16)).isnull().values.tolist() == [
            [False, False],
            [False, True],
        ]

    def test_a_trial_cut_short_counts_in_a_window_that_it_covers(self, small):
        cut = small.where(small.time < 0.135)
        assert nat4xr.counts(cut, (0.1, 0.13)).sel(neuron="a").notnull().all()
        assert nat4xr.counts(cut, (0.1, 0.15)).isnull().all()

    def test_of_a_dataset_response_and_psth_are_counted(self, ds):
        counted = nat4xr.counts(ds, (0.25, 1.25))
        assert set(counted.data_vars) == {"response", "psth", "n_reps"}
        assert "time" not in counted.dims
        xr.testing.assert_identical(counted.psth, nat4xr.counts(ds.psth, (0.25, 1.25)))
        presented = ds.rep < ds.n_reps
        assert (counted.response.notnull() == presented).all()

    def test_the_window_holds_at_wider_bins_too(self, small):
        for wide in (
            small.coarsen(time=2).reduce(np.sum),
            small.coarsen(time=2, coord_func="min").reduce(np.sum),
        ):
            expected = nat4xr.counts(small, (0.12, 0.16))
            xr.testing.assert_equal(nat4xr.counts(wide, (0.12, 0.16)), expected)

    @pytest.mark.parametrize(
        "window", [(0.105, 0.14), (0.1, 0.2), (-0.1, 0.14), (0.1, float("nan"))]
    )
    def test_a_window_off_the_edges_of_the_bins_is_refused(self, small, window):
        with pytest.raises(ValueError, match=r"not at the edge.*0\.1 to 0\.16 s.*0\.01 s"):
            nat4xr.counts(small, window)

    def test_a_window_that_stops_before_it_starts_is_refused(self, small):
        with pytest.raises(ValueError, match="before"):
            nat4xr.counts(small, (0.14, 0.12))


class TestBins:
    def test_their_width_is_the_spacing_of_time_whatever_its_attribute_says(self, small):
        for stale in (0.01, 7.0, None):
            time = small.time.assign_attrs(bin_width=stale)
            assert bin_width(small.assign_coords(time=time).coarsen(time=3).sum()) == 0.03

    @pytest.mark.parametrize("factor", [2, 3])
    @pytest.mark.parametrize("coord_func", ["mean", "min"])
    def test_edges_are_those_of_the_bins_that_were_merged(self, ds, factor, coord_func):
        wide = ds.psth.coarsen(time=factor, coord_func=coord_func).sum()
        np.testing.assert_allclose(bin_edges(wide), bin_edges(ds)[::factor], atol=1e-9)
        later = wide.isel(time=slice(7, 20))
        np.testing.assert_allclose(bin_edges(later), bin_edges(wide)[7:21], atol=1e-9)

    def test_where_bins_start_is_not_guessed(self, ds):
        wide = ds.psth.coarsen(time=2, coord_func="max").sum()
        with pytest.raises(ValueError, match="dt_ms=20"):
            bin_edges(wide)

    def test_a_figure_of_merged_bins_has_them_where_they_are(self, ds):
        from matplotlib.figure import Figure

        wide = ds.coarsen(time=5, boundary="exact").sum().sel(subset="val").isel(stim=0)
        ax = Figure().subplots()
        nat4xr.plot.psth(wide.isel(neuron=0), ax=ax)
        centres = next(line.get_xdata() for line in ax.lines if len(line.get_xdata()) > 2)
        np.testing.assert_allclose(centres[:2], [0.025, 0.075])
