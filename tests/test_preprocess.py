"""nat4xr.preprocess: scalings that can be undone, smoothing, laziness."""

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

from nat4xr import preprocess
from nat4xr.index import set_labels

SCALINGS = {name: getattr(preprocess, name) for name in ("log_minmax", "minmax", "zscore")}
every_scaling = pytest.mark.parametrize("scale", SCALINGS.values(), ids=SCALINGS)
every_scaling_by_neuron = pytest.mark.parametrize(
    "scale", [preprocess.minmax, preprocess.zscore], ids=["minmax", "zscore"]
)
SMOOTHING = {"smooth": preprocess.smooth}
every_function = pytest.mark.parametrize(
    "function", (SCALINGS | SMOOTHING).values(), ids=SCALINGS | SMOOTHING
)


@pytest.fixture
def spectrogram() -> xr.DataArray:
    rng = np.random.default_rng(0)
    return xr.DataArray(
        rng.gamma(1, 20, (4, 18, 30)).astype(np.float32),
        dims=("stim", "freq", "time"),
        coords={"subset": ("stim", ["val", "val", "est", "est"]), "time": np.arange(30) / 100},
        name="spectrogram",
        attrs={"long_name": "gammatone magnitude", "units": "1"},
    )


@pytest.fixture
def response() -> xr.DataArray:
    """Four cells: three that fire at different rates, and one that is silent."""
    rng = np.random.default_rng(0)
    counts = rng.poisson([0.2, 0.0, 1.0, 5.0], (4, 3, 30, 4)).astype(np.float32)
    counts[2:, 1:] = np.nan  # est sounds: one presentation
    response = xr.DataArray(
        counts,
        dims=("stim", "rep", "time", "neuron"),
        coords={
            "stim": [f"STIM_{i}.wav" for i in range(4)],
            "subset": ("stim", ["val", "val", "est", "est"]),
            "time": ("time", np.arange(30) / 100, {"units": "s"}),
            "neuron": list("abcd"),
            "site": ("neuron", list("ppqq")),
        },
        name="response",
        attrs={"long_name": "response", "units": "spikes per bin"},
    )
    return set_labels(response)


# --- scaling -------------------------------------------------------------------------------------


def test_log_minmax_is_one_scale_over_log_magnitudes(spectrogram) -> None:
    logs = np.log1p(spectrogram)
    expected = (logs - logs.min()) / (logs.max() - logs.min())
    xr.testing.assert_allclose(preprocess.log_minmax(spectrogram), expected, rtol=1e-5)


def test_minmax_takes_every_neuron_from_zero_to_one(response) -> None:
    scaled = preprocess.minmax(response).sel(neuron=["a", "c", "d"])
    np.testing.assert_array_equal(scaled.min(("stim", "rep", "time")), 0)
    np.testing.assert_array_equal(scaled.max(("stim", "rep", "time")), 1)


def test_zscore_gives_every_neuron_mean_zero_and_deviation_one(response) -> None:
    scaled = preprocess.zscore(response).sel(neuron=["a", "c", "d"])
    np.testing.assert_allclose(scaled.mean(("stim", "rep", "time")), 0, atol=1e-6)
    np.testing.assert_allclose(scaled.std(("stim", "rep", "time")), 1, rtol=1e-6)


def test_arrays_without_neurons_have_one_scale(spectrogram) -> None:
    assert float(preprocess.minmax(spectrogram).max()) == 1
    scaled = preprocess.zscore(spectrogram)
    assert float(scaled.mean()) == pytest.approx(0, abs=1e-6)
    assert float(scaled.std()) == pytest.approx(1)


@every_scaling_by_neuron
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_constant_becomes_zero(response, scale, value: float) -> None:
    constant = xr.full_like(response, value)
    np.testing.assert_allclose(scale(constant), 0, atol=1e-6)
    xr.testing.assert_allclose(preprocess.invert(scale(constant)), constant)


@every_function
def test_what_was_not_recorded_stays_nan_and_nothing_else_becomes_so(response, function) -> None:
    response = response.where(response.neuron != "c")
    with np.errstate(all="raise"):
        result = function(response)
    np.testing.assert_array_equal(result.isnull(), response.isnull())


@every_scaling
def test_a_reference_sets_the_scale(response, scale) -> None:
    est = response.sel(subset="est")
    scaled = scale(response, reference=est)
    xr.testing.assert_allclose(scaled.sel(subset="est"), scale(est), rtol=1e-6)
    assert float(scaled.max()) > float(scaled.sel(subset="est").max())


@every_scaling_by_neuron
def test_a_reference_of_other_neurons_is_refused(response, scale) -> None:
    with pytest.raises(ValueError, match="neuron"):
        scale(response, reference=response.isel(neuron=[1, 0]))


@every_scaling
def test_scaling_twice_is_refused(response, scale) -> None:
    with pytest.raises(ValueError, match=r"already scaled by \w+"):
        scale(scale(response))


# --- and back ------------------------------------------------------------------------------------


def assert_restored(restored: xr.DataArray, original: xr.DataArray) -> None:
    xr.testing.assert_allclose(restored, original, rtol=1e-5, atol=1e-6)
    assert restored.dtype == original.dtype
    assert restored.attrs == original.attrs
    assert restored.name == original.name
    assert set(restored.coords) == set(original.coords)


@every_scaling
def test_inversion_gives_back_values_units_and_labels(response, spectrogram, scale) -> None:
    assert_restored(preprocess.invert(scale(response)), response)
    assert_restored(preprocess.invert(scale(spectrogram)), spectrogram)


@every_scaling
def test_integers_become_floats(scale) -> None:
    counts = xr.DataArray(np.arange(6).reshape(2, 3), dims=("neuron", "time"))
    assert scale(counts).dtype == np.float64
    np.testing.assert_allclose(preprocess.invert(scale(counts)), counts, atol=1e-12)


@every_scaling
def test_selections_can_be_inverted(response, scale) -> None:
    selection = {"neuron": ["d", "a"], "time": slice(0.05, 0.1)}
    assert_restored(preprocess.invert(scale(response).sel(selection)), response.sel(selection))
    cell = preprocess.invert(scale(response).sel(neuron="d"))
    assert_restored(cell, response.sel(neuron="d"))


@every_scaling
@pytest.mark.parametrize("labelled", [False, True])
def test_inversion_survives_a_file(response, scale, tmp_path: Path, labelled: bool) -> None:
    scale(response).to_netcdf(tmp_path / "scaled.nc")
    with xr.open_dataarray(tmp_path / "scaled.nc") as stored:
        if labelled:
            stored = set_labels(stored)
        restored = preprocess.invert(stored)
        np.testing.assert_allclose(restored, response, rtol=1e-5, atol=1e-6)
        assert restored.dtype == np.float32
        assert restored.attrs == response.attrs


def test_predictions_return_to_spikes_per_bin(response) -> None:
    scaled = preprocess.zscore(response)
    predicted = scaled.copy(data=np.zeros(scaled.shape, dtype=np.float32))
    means = response.mean(("stim", "rep", "time"))
    restored = preprocess.invert(predicted)
    np.testing.assert_allclose(restored, means.broadcast_like(restored), rtol=1e-6)


@every_scaling
def test_scaled_values_have_no_units_but_remember_them(response, scale) -> None:
    attrs = scale(response).attrs
    assert attrs["units"] == "1"
    assert attrs["scaling_units"] == "spikes per bin"
    assert attrs["long_name"] == "response"


def test_one_scale_is_kept_as_plain_numbers(spectrogram) -> None:
    attrs = preprocess.log_minmax(spectrogram).attrs
    assert type(attrs["scaling_offset"]) is float
    assert attrs["scaling_range"] == pytest.approx(float(np.ptp(np.log1p(spectrogram.values))))


def test_what_was_not_scaled_cannot_be_inverted(response) -> None:
    with pytest.raises(ValueError, match=r"attrs\['scaling'\] is missing"):
        preprocess.invert(response)


def test_what_has_lost_its_scale_cannot_be_inverted(response) -> None:
    with pytest.raises(ValueError, match="'response_offset' has been dropped"):
        preprocess.invert(preprocess.zscore(response).drop_vars("response_offset"))


# --- smoothing -----------------------------------------------------------------------------------


def impulse(bin_ms: float, n: int = 51) -> xr.DataArray:
    values = np.zeros(n)
    values[n // 2] = 1
    return xr.DataArray(values, dims="time", coords={"time": np.arange(n) * bin_ms / 1000})


@pytest.mark.parametrize(
    ("bin_ms", "window_ms", "n_bins"),
    [(1, 21, 21), (5, 21, 5), (10, 21, 3), (10, 50, 5), (20, 21, 1), (10, 1, 1)],
)
def test_the_window_has_the_nearest_odd_number_of_bins(bin_ms, window_ms, n_bins: int) -> None:
    smoothed = preprocess.smooth(impulse(bin_ms), window_ms=window_ms)
    assert int((smoothed > 1e-9).sum()) == n_bins


def test_the_window_is_a_hanning_window_of_sum_one() -> None:
    smoothed = preprocess.smooth(impulse(1), window_ms=21).values
    phase = 2 * np.pi * np.arange(1, 22) / 22
    np.testing.assert_allclose(smoothed[15:36], (1 - np.cos(phase)) / 22, atol=1e-12)
    assert smoothed.sum() == pytest.approx(1)


def test_a_constant_stays_as_it_is_up_to_both_ends(response) -> None:
    constant = xr.full_like(response, 2.0)
    np.testing.assert_allclose(preprocess.smooth(constant, window_ms=100), 2, rtol=1e-6)


def test_missing_bins_do_not_pull_their_neighbours_down() -> None:
    response = xr.full_like(impulse(10), 2.0)
    response[20:] = np.nan
    smoothed = preprocess.smooth(response, window_ms=100)
    np.testing.assert_allclose(smoothed[:20], 2)
    assert smoothed[20:].isnull().all()


def test_smoothing_runs_along_time_alone(response) -> None:
    one = {"stim": 1, "rep": 2, "neuron": 3}
    others_gone = response.where((response.stim == response.stim[1]) & (response.rep == 2), 0)
    xr.testing.assert_allclose(
        preprocess.smooth(others_gone).isel(one), preprocess.smooth(response).isel(one)
    )


def test_smoothing_keeps_dims_labels_dtype_and_units(response) -> None:
    turned = response.transpose("time", "neuron", "rep", "stim")
    smoothed = preprocess.smooth(turned, window_ms=50)
    assert smoothed.dims == turned.dims
    assert smoothed.dtype == np.float32
    xr.testing.assert_identical(smoothed.coords.to_dataset(), turned.coords.to_dataset())
    assert smoothed.attrs == {**response.attrs, "smoothing_window_ms": 50.0}


def test_a_smoothed_scaled_response_can_be_unscaled(response) -> None:
    smoothed = preprocess.smooth(preprocess.minmax(response))
    xr.testing.assert_allclose(
        preprocess.invert(smoothed), preprocess.smooth(response), rtol=1e-5, atol=1e-6
    )


def test_smoothing_needs_time_and_its_bin_width(response) -> None:
    with pytest.raises(ValueError, match="'time' is missing"):
        preprocess.smooth(response.isel(time=0))
    with pytest.raises(ValueError, match="no coordinate"):
        preprocess.smooth(response.drop_vars("time"))
    with pytest.raises(ValueError, match="not evenly spaced"):
        preprocess.smooth(response.isel(time=[0, 1, 3]))
    with pytest.raises(ValueError, match="above 0"):
        preprocess.smooth(response, window_ms=0)


# --- laziness and manners ------------------------------------------------------------------------


@pytest.mark.parametrize("function", [preprocess.minmax, preprocess.zscore, preprocess.smooth])
def test_dask_in_dask_out(response, function, no_compute) -> None:
    assert dask.is_dask_collection(function(response.chunk(rep=1, time=10, neuron=2)))


@every_scaling
def test_inversion_is_lazy(response, scale, request: pytest.FixtureRequest) -> None:
    scaled = scale(response.chunk(rep=1, neuron=2))
    request.getfixturevalue("no_compute")
    assert dask.is_dask_collection(preprocess.invert(scaled))


@every_scaling
def test_one_scale_from_a_reference_in_memory_computes_nothing(
    spectrogram, scale, no_compute
) -> None:
    assert dask.is_dask_collection(scale(spectrogram.chunk(stim=1), reference=spectrogram))


@every_function
def test_chunks_do_not_change_the_result(response, function) -> None:
    lazy = function(response.chunk(stim=3, rep=1, time=7, neuron=2))
    with dask.config.set(scheduler="synchronous"):
        computed = lazy.compute()
    assert dask.is_dask_collection(lazy)
    xr.testing.assert_allclose(computed, function(response), rtol=1e-6, atol=1e-6)
    assert computed.attrs.keys() == function(response).attrs.keys()


@every_function
def test_what_is_passed_in_stays_as_it_is(response, function) -> None:
    before = response.copy(deep=True)
    function(response)
    xr.testing.assert_identical(response, before)
    assert response.attrs == before.attrs


# Dask says so of the mean of nothing; to spare it that, the array would have to be read twice.
@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
@pytest.mark.parametrize("function", [preprocess.minmax, preprocess.zscore])
@pytest.mark.parametrize("chunks", [None, {"neuron": 1}])
def test_a_neuron_without_values_stays_so(response, function, chunks) -> None:
    gone = response.where(response.neuron != response.neuron[0])
    scaled = function(gone if chunks is None else gone.chunk(chunks)).compute()
    assert scaled.isel(neuron=0).isnull().all()
    xr.testing.assert_allclose(scaled.isel(neuron=slice(1, None)),
                               function(response).isel(neuron=slice(1, None)))  # fmt: skip


def test_a_dataset_is_refused(response) -> None:
    with pytest.raises(TypeError, match="DataArray"):
        preprocess.zscore(response.to_dataset(name="response"))


def test_an_infinite_value_is_not_passed_over(response) -> None:
    infinite = response.where(response != response.max(), np.inf)
    assert preprocess.minmax(infinite).where(np.isinf(infinite)).isnull().all()


# --- as the laboratory and as deepSTRF do it -----------------------------------------------------


def test_the_recipe_of_deepstrf_is_the_default(spectrogram) -> None:
    x = np.log1p(spectrogram.values)
    expected = (x - x.min()) / (x.max() - x.min())
    np.testing.assert_allclose(preprocess.log_minmax(spectrogram), expected, rtol=1e-5, atol=1e-7)


def test_the_recipe_of_the_laboratory_scales_each_band(spectrogram) -> None:
    loud = spectrogram * xr.DataArray(np.arange(1.0, 19), dims="freq")
    scaled = preprocess.log_minmax(loud.astype(np.float32), gain=10, per_band=True)
    x = np.log(1 + 10 * loud.values)
    low, high = (getattr(x, kind)((0, 2), keepdims=True) for kind in ("min", "max"))
    np.testing.assert_allclose(scaled, (x - low) / (high - low), rtol=1e-4, atol=1e-6)
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled.min(["stim", "time"]), 0)


@pytest.mark.parametrize(
    "options", [{"gain": 10}, {"per_band": True}, {"gain": 10, "per_band": True}]
)
def test_every_recipe_can_be_undone_in_part_and_from_a_file(spectrogram, options, tmp_path) -> None:
    preprocess.log_minmax(spectrogram, **options).to_netcdf(tmp_path / "scaled.nc")
    with xr.open_dataarray(tmp_path / "scaled.nc") as scaled:
        part = {"freq": slice(3, 9), "stim": [0, 2]}
        restored = preprocess.invert(scaled.isel(part))
        expected = spectrogram.isel(part).drop_vars(set(spectrogram.coords) - set(restored.coords))
        xr.testing.assert_allclose(restored, expected, rtol=1e-4)


def test_a_band_needs_a_frequency_and_a_gain_is_positive(spectrogram) -> None:
    with pytest.raises(ValueError, match=r"'freq'.* is missing"):
        preprocess.log_minmax(spectrogram.isel(freq=0), per_band=True)
    with pytest.raises(ValueError, match="gain must be above 0, not 0"):
        preprocess.log_minmax(spectrogram, gain=0)


@every_scaling
@pytest.mark.parametrize("key", ["scaling_offset", "scaling_range"])
def test_an_array_with_a_part_of_a_note_counts_as_not_scaled(spectrogram, scale, key: str) -> None:
    scaled = scale(spectrogram)
    partly = scaled.assign_attrs()
    del partly.attrs[key]
    again = scale(partly)
    expected = scale(partly.drop_attrs())
    np.testing.assert_array_equal(again, expected)
    assert again.attrs[key] == expected.attrs[key]
    with pytest.raises(ValueError, match=f"cannot invert.*{key}"):
        preprocess.invert(partly)
