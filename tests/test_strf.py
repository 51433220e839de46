"""nat4xr.strf: lags, the regression and its penalty, causality, labels, NaN, laziness."""

import tracemalloc
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr

from nat4xr import preprocess, strf
from nat4xr.index import LabelIndex, set_labels

STIMS, FREQS, BINS, LAGS, CELLS = 24, 4, 60, 5, 6


@pytest.fixture(scope="module")
def spectrogram() -> xr.DataArray:
    """Sounds whose bands go together, as those of natural sounds do."""
    rng = np.random.default_rng(0)
    mixing = np.eye(FREQS) + 0.5
    values = np.einsum("fg,sgt->sft", mixing, rng.gamma(1, 1, (STIMS, FREQS, BINS)))
    return set_labels(
        xr.DataArray(
            values,
            dims=("stim", "freq", "time"),
            coords={
                "stim": [f"STIM_cat{i}_rec1_rain_excerpt1.wav" for i in range(STIMS)],
                "category": ("stim", np.arange(STIMS)),
                "freq": [200.0, 900, 4000, 20000],
                "time": ("time", np.arange(BINS) / 100, {"units": "s"}),
            },
        )
    )


@pytest.fixture(scope="module")
def kernels() -> np.ndarray:
    """True kernels (neuron, freq, lag), each with its best frequency and latency."""
    kernels = np.zeros((CELLS, FREQS, LAGS))
    for i in range(CELLS):
        kernels[i, i % FREQS, i % LAGS] = 1
        kernels[i, (i + 1) % FREQS, (i + 2) % LAGS] = -0.5
    return kernels


@pytest.fixture(scope="module")
def psth(spectrogram: xr.DataArray, kernels: np.ndarray) -> xr.DataArray:
    """Responses of linear cells, each noisier than the one before."""
    values = np.empty((STIMS, BINS, CELLS))
    padded = np.pad(spectrogram.values, ((0, 0), (0, 0), (LAGS - 1, 0)))
    for t in range(BINS):
        past = padded[..., t : t + LAGS][..., ::-1]  # (stim, freq, lag)
        values[:, t] = 2 + np.einsum("sfl,nfl->sn", past, kernels)
    noise = np.random.default_rng(1).normal(size=values.shape)
    values += noise * np.geomspace(0.1, 2, CELLS)
    return set_labels(
        xr.DataArray(
            values,
            dims=("stim", "time", "neuron"),
            coords={
                "stim": spectrogram.stim,
                "category": spectrogram.category,
                "time": spectrogram.time,
                "neuron": [f"ARM029a-{i:02}-1" for i in range(CELLS)],
                "animal": ("neuron", ["ARM"] * 3 + ["DRX"] * 3),
                "electrode": ("neuron", np.arange(CELLS)),
            },
            attrs={"units": "spikes"},
        )
    )


@pytest.fixture(scope="module")
def model(spectrogram: xr.DataArray, psth: xr.DataArray) -> xr.Dataset:
    return strf.fit(spectrogram, psth, n_lags=LAGS)


def correlation(one: Any, other: Any) -> float:
    return float(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1])


def matrix(spectrogram: xr.DataArray) -> np.ndarray:
    """The predictors as scikit-learn takes them: (bin of any sound, freq x lag)."""
    windows = strf.lagged(spectrogram, LAGS)
    return windows.values.reshape(-1, FREQS * LAGS)


# --- the predictors ------------------------------------------------------------------------------


def test_lag_0_is_the_present_and_each_further_lag_a_bin_earlier(spectrogram) -> None:
    windows = strf.lagged(spectrogram, LAGS)
    assert windows.dims == ("stim", "time", "freq", "lag")
    for lag in range(LAGS):
        xr.testing.assert_equal(
            windows.isel(lag=lag, time=slice(lag, None), drop=True).transpose(*spectrogram.dims),
            spectrogram.isel(time=slice(BINS - lag)).assign_coords(
                time=spectrogram.time[lag:].values
            ),
        )


def test_every_sound_begins_from_silence(spectrogram) -> None:
    windows = strf.lagged(spectrogram, LAGS)
    for t in range(LAGS):
        assert (windows.isel(time=t, lag=slice(t + 1, None)) == 0).all()


def test_lags_are_in_seconds(spectrogram) -> None:
    lag = strf.lagged(spectrogram, LAGS).lag
    assert lag.values.tolist() == [0, 0.01, 0.02, 0.03, 0.04]
    assert lag.attrs["units"] == "s"


def test_lags_of_a_time_without_coordinate_have_none(spectrogram) -> None:
    assert "lag" not in strf.lagged(spectrogram.drop_vars("time"), LAGS).coords


def test_predictors_are_a_view(spectrogram) -> None:
    _, time, _, lag = strf.lagged(spectrogram, LAGS).data.strides
    assert lag == -time


def test_predictors_keep_labels_and_dtype_and_need_no_stim(spectrogram) -> None:
    windows = strf.lagged(spectrogram.astype(np.float32), LAGS)
    assert windows.dtype == np.float32
    one = windows.sel(category=7).squeeze("stim")
    xr.testing.assert_equal(
        one, strf.lagged(spectrogram.astype(np.float32).sel(category=7).squeeze("stim"), LAGS)
    )


def test_lags_may_outnumber_bins(spectrogram) -> None:
    windows = strf.lagged(spectrogram.isel(time=slice(3)), 7)
    assert windows.sizes["lag"] == 7
    assert (windows.isel(lag=slice(3, None)) == 0).all()


def test_predictors_are_lazy(spectrogram, no_compute) -> None:
    assert dask.is_dask_collection(strf.lagged(spectrogram.chunk(stim=5, time=20), LAGS))


def test_chunks_do_not_change_the_predictors(spectrogram) -> None:
    lazy = strf.lagged(spectrogram.chunk(stim=5, freq=3, time=20), LAGS)
    xr.testing.assert_identical(lazy.compute(), strf.lagged(spectrogram, LAGS))


# --- the regression ------------------------------------------------------------------------------


def test_kernels_are_those_of_scikit_learns_ridge(spectrogram, psth) -> None:
    from sklearn.linear_model import Ridge

    ours = strf.fit(spectrogram, psth, n_lags=LAGS, penalties=[0.3])
    alpha = 0.3 * ours.penalty.attrs["alpha"]
    theirs = Ridge(alpha=alpha).fit(matrix(spectrogram), psth.values.reshape(-1, CELLS))
    np.testing.assert_allclose(ours.kernel.values.reshape(CELLS, -1), theirs.coef_, atol=1e-10)
    np.testing.assert_allclose(ours.intercept, theirs.intercept_, atol=1e-10)


def test_a_penalty_of_one_is_the_mean_sum_of_squares_of_the_predictors(spectrogram, model) -> None:
    x = matrix(spectrogram)
    expected = ((x - x.mean(0)) ** 2).sum(0).mean()
    assert model.penalty.attrs["alpha"] == pytest.approx(expected)


@pytest.mark.parametrize("folds", [2, 5])
def test_the_score_is_the_variance_explained_in_sounds_held_out(spectrogram, psth, folds) -> None:
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    ours = strf.fit(spectrogram, psth, n_lags=LAGS, penalties=[0.01, 10], folds=folds)
    split = PredefinedSplit(np.repeat(np.arange(STIMS) % folds, BINS))
    y = psth.values.reshape(-1, CELLS)
    for penalty in ours.penalty:
        ridge = Ridge(alpha=float(penalty) * ours.penalty.attrs["alpha"])
        held_out = cross_val_predict(ridge, matrix(spectrogram), y, cv=split)
        expected = r2_score(y, held_out, multioutput="raw_values")
        np.testing.assert_allclose(ours.score.sel(penalty=penalty), expected, atol=1e-10)


def test_every_cell_gets_the_penalty_with_its_best_score(spectrogram, psth, model) -> None:
    best = model.score.idxmax("penalty")
    np.testing.assert_array_equal(model.chosen_penalty, best)
    assert float(best[0]) < float(best[-1])  # the noisier cell needs the larger one
    for i in (0, CELLS - 1):
        alone = strf.fit(spectrogram, psth, n_lags=LAGS, penalties=[float(best[i])])
        xr.testing.assert_allclose(alone.kernel[i], model.kernel[i])


def test_kernels_of_linear_cells_are_recovered(model, kernels) -> None:
    assert correlation(model.kernel[0], kernels[0]) > 0.9999
    assert min(correlation(model.kernel[i], kernels[i]) for i in range(CELLS)) > 0.9
    np.testing.assert_allclose(model.kernel[0], kernels[0], atol=0.01)
    np.testing.assert_allclose(model.intercept[0], 2, atol=0.05)


def test_a_spectrogram_with_another_scaling_than_in_the_fit_is_noticed(spectrogram, psth) -> None:
    est, val = spectrogram.isel(stim=slice(4, None)), spectrogram.isel(stim=slice(4))
    model = strf.fit(preprocess.log_minmax(est), psth.isel(stim=slice(4, None)), n_lags=LAGS)
    strf.predict(model, preprocess.log_minmax(val, reference=est))
    for other in (val, preprocess.log_minmax(val), preprocess.minmax(val, reference=est)):
        with pytest.warns(UserWarning, match="not scaled as for the fit"):
            strf.predict(model, other)


def test_the_scale_of_the_spectrogram_scales_the_kernels_and_no_more(spectrogram, psth, model):
    scaled = strf.fit(1000 * spectrogram, psth, n_lags=LAGS)
    xr.testing.assert_allclose(1000 * scaled.kernel, model.kernel)
    xr.testing.assert_allclose(scaled.score, model.score)
    xr.testing.assert_equal(scaled.chosen_penalty, model.chosen_penalty)


def test_more_sounds_of_the_same_kind_leave_the_kernels_as_they_are(spectrogram, psth) -> None:
    def twice(array: xr.DataArray) -> xr.DataArray:
        bare = array.drop_vars(["stim", "category"])
        return xr.concat([bare, bare], "stim")

    once = strf.fit(spectrogram, psth, n_lags=LAGS, penalties=[0.3])
    more = strf.fit(twice(spectrogram), twice(psth), n_lags=LAGS, penalties=[0.3])
    xr.testing.assert_allclose(more.kernel, once.kernel)


def test_every_cell_is_fitted_for_itself(spectrogram, psth, model) -> None:
    one = strf.fit(spectrogram, psth.isel(neuron=[4]), n_lags=LAGS)
    xr.testing.assert_allclose(one, model.isel(neuron=[4]))


def test_dims_may_come_in_any_order(spectrogram, psth, model) -> None:
    turned = strf.fit(
        spectrogram.transpose("time", "freq", "stim"),
        psth.transpose("neuron", "time", "stim"),
        n_lags=LAGS,
    )
    xr.testing.assert_allclose(turned, model)


def test_a_single_cell_needs_no_neuron_dim(spectrogram, psth, model) -> None:
    one = strf.fit(spectrogram, psth.isel(neuron=2), n_lags=LAGS, nonlinearity="isotonic")
    assert one.kernel.dims == ("freq", "lag")
    xr.testing.assert_allclose(one.kernel.variable, model.kernel.isel(neuron=2).variable)
    assert strf.predict(one, spectrogram).dims == ("stim", "time")


def test_single_precision_is_enough(spectrogram, psth, model) -> None:
    single = strf.fit(spectrogram.astype(np.float32), psth.astype(np.float32), n_lags=LAGS)
    assert single.kernel.dtype == np.float64
    np.testing.assert_allclose(single.kernel, model.kernel, atol=1e-5)


def test_whole_numbers_are_as_good_as_any(spectrogram, psth) -> None:
    x, y = (array.round() for array in (spectrogram, psth))
    xr.testing.assert_allclose(
        strf.fit(x.astype(int), y.astype(int), n_lags=LAGS), strf.fit(x, y, n_lags=LAGS)
    )


def test_what_is_passed_in_stays_as_it_is(spectrogram, psth) -> None:
    before = spectrogram.copy(deep=True), psth.copy(deep=True)
    strf.predict(strf.fit(spectrogram, psth, n_lags=LAGS), spectrogram)
    xr.testing.assert_identical(spectrogram, before[0])
    xr.testing.assert_identical(psth, before[1])


def test_the_predictors_are_never_in_memory_as_a_whole(psth) -> None:
    x = np.random.default_rng(0).gamma(1, 1, (400, FREQS, BINS))
    spectrogram = xr.DataArray(x, dims=("stim", "freq", "time"))
    response = spectrogram.isel(freq=0)
    tracemalloc.start()
    strf.fit(spectrogram, response, n_lags=25)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 25 * spectrogram.nbytes / 2


# --- predictions ---------------------------------------------------------------------------------


def test_a_prediction_is_the_sum_over_bands_and_past_bins(spectrogram, model) -> None:
    predicted = strf.predict(model, spectrogram)
    assert predicted.dims == ("stim", "time", "neuron")
    past = spectrogram.values[3, :, 40 - LAGS + 1 : 41][:, ::-1]
    expected = model.intercept + (model.kernel * past).sum(("freq", "lag"))
    np.testing.assert_allclose(predicted[3, 40], expected)


@pytest.mark.parametrize("nonlinearity", [None, "isotonic"])
def test_the_future_does_not_change_the_past(spectrogram, psth, nonlinearity) -> None:
    model = strf.fit(spectrogram, psth, n_lags=LAGS, nonlinearity=nonlinearity)
    changed = spectrogram.copy(deep=True)
    changed[:, :, 30:] += 5
    before, after = strf.predict(model, spectrogram), strf.predict(model, changed)
    xr.testing.assert_equal(after[:, :30], before[:, :30])
    assert (after[:, 30] != before[:, 30]).any()


def test_a_sound_does_not_change_the_next(spectrogram, model) -> None:
    changed = spectrogram.copy(deep=True)
    changed[7] += 5
    before, after = strf.predict(model, spectrogram), strf.predict(model, changed)
    others = np.arange(STIMS) != 7
    xr.testing.assert_equal(after[others], before[others])
    assert (after[7] != before[7]).any()


def test_silence_predicts_the_intercept(spectrogram, model) -> None:
    silent = strf.predict(model, xr.zeros_like(spectrogram))
    np.testing.assert_allclose(silent[0, 0], model.intercept)
    assert (silent == silent[0, 0]).all()


def test_predictions_have_the_labels_of_sounds_and_cells(spectrogram, model) -> None:
    predicted = strf.predict(model, spectrogram)
    assert isinstance(predicted.xindexes["category"], LabelIndex)
    assert isinstance(predicted.xindexes["animal"], LabelIndex)
    assert predicted.sel(animal="DRX", electrode=[1, 4]).neuron.values == ["ARM029a-04-1"]
    assert predicted.attrs["units"] == "spikes"
    assert predicted.name == "prediction"


def test_predictions_can_be_compared_with_the_response(spectrogram, psth, model) -> None:
    error = strf.predict(model, spectrogram) - psth
    assert float(error.isel(neuron=0).std()) == pytest.approx(0.1, rel=0.1)


def test_a_part_of_a_model_predicts_a_part(spectrogram, model) -> None:
    xr.testing.assert_allclose(
        strf.predict(model.sel(animal="DRX"), spectrogram.sel(category=[3, 5])),
        strf.predict(model, spectrogram).sel(animal="DRX").sel(category=[3, 5]),
    )


def test_one_sound_needs_no_stim_dim(spectrogram, model) -> None:
    one = strf.predict(model, spectrogram.isel(stim=4))
    assert one.dims == ("time", "neuron")
    np.testing.assert_allclose(one, strf.predict(model, spectrogram)[4])


def test_predictions_have_the_dtype_of_the_spectrogram(spectrogram, model) -> None:
    single = strf.predict(model, spectrogram.astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, strf.predict(model, spectrogram), atol=1e-4)


@pytest.mark.parametrize("nonlinearity", [None, "isotonic"])
def test_a_model_read_back_from_a_file_predicts_the_same(
    spectrogram, psth, nonlinearity, tmp_path
) -> None:
    model = strf.fit(spectrogram, psth, n_lags=LAGS, nonlinearity=nonlinearity)
    model.to_netcdf(tmp_path / "model.nc")
    with xr.open_dataset(tmp_path / "model.nc") as plain:
        xr.testing.assert_equal(
            strf.predict(set_labels(plain), spectrogram), strf.predict(model, spectrogram)
        )


# --- the output nonlinearity ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def rectified(psth: xr.DataArray) -> xr.DataArray:
    """Cells that are silent most of the time."""
    return (psth - psth.median(("stim", "time"))).clip(0)


def test_a_nonlinearity_leaves_the_linear_stage_as_it_is(spectrogram, psth, model) -> None:
    both = strf.fit(spectrogram, psth, n_lags=LAGS, nonlinearity="isotonic")
    xr.testing.assert_identical(
        both[["kernel", "intercept", "score"]].drop_attrs(),
        model[["kernel", "intercept", "score"]].drop_attrs(),
    )


def test_a_rectified_response_is_better_predicted_with_a_nonlinearity(
    spectrogram, rectified
) -> None:
    fitted, held_out = slice(18), slice(18, None)
    scores = []
    for nonlinearity in (None, "isotonic"):
        model = strf.fit(
            spectrogram[fitted], rectified[fitted, :, :2], n_lags=LAGS, nonlinearity=nonlinearity
        )
        predicted = strf.predict(model, spectrogram[held_out])
        scores.append(correlation(predicted, rectified[held_out, :, :2]))
    assert scores[1] > scores[0] + 0.05
    assert scores[1] > 0.95


def test_nonlinearities_never_fall_and_never_leave_the_range_of_the_response(
    spectrogram, rectified
) -> None:
    model = strf.fit(spectrogram, rectified, n_lags=LAGS, nonlinearity="isotonic")
    assert (model.nonlinearity_input.diff("node") > 0).all()
    assert (model.nonlinearity_output.diff("node") >= 0).all()
    loud = strf.predict(model, 100 * spectrogram)
    assert (loud >= 0).all()
    assert (loud <= rectified.max(("stim", "time"))).all()


def test_the_nonlinearity_of_a_linear_cell_is_the_identity(spectrogram, psth, model) -> None:
    both = strf.fit(spectrogram, psth, n_lags=LAGS, nonlinearity="isotonic")
    linear, mapped = (strf.predict(m, spectrogram).isel(neuron=0) for m in (model, both))
    # But for the halves of the outermost bins, beyond which it is constant.
    spread = float(linear.std())
    assert float(abs(mapped - linear).quantile(0.99)) < 0.05 * spread


# --- what was not recorded -----------------------------------------------------------------------


@pytest.mark.parametrize("nonlinearity", [None, "isotonic"])
def test_sounds_that_a_cell_lacks_are_left_out_for_this_cell(
    spectrogram, psth, nonlinearity
) -> None:
    partly = psth.where((psth.electrode != 2) | (psth.category > 6))
    model = strf.fit(spectrogram, partly, n_lags=LAGS, nonlinearity=nonlinearity)
    whole = strf.fit(spectrogram, psth, n_lags=LAGS, nonlinearity=nonlinearity)
    rest = np.array([0, 1, 3, 4, 5])
    xr.testing.assert_allclose(model.isel(neuron=rest), whole.isel(neuron=rest))

    # The penalty is in units of all the sounds.
    chosen = float(model.chosen_penalty[2]) * model.penalty.attrs["alpha"]
    fewer = strf.fit(spectrogram[7:], psth[7:], n_lags=LAGS)
    alone = strf.fit(
        spectrogram[7:], psth[7:, :, 2], n_lags=LAGS, penalties=[chosen / fewer.penalty.alpha]
    )
    np.testing.assert_allclose(model.kernel[2], alone.kernel, atol=1e-10)
    np.testing.assert_allclose(
        model.score[2].sel(penalty=model.chosen_penalty[2]), alone.score[0], atol=1e-10
    )


def test_bins_that_a_cell_lacks_are_left_out(spectrogram, psth) -> None:
    from sklearn.linear_model import Ridge

    gaps = psth.isel(neuron=[0]).where(np.random.default_rng(0).random((STIMS, BINS, 1)) < 0.7)
    ours = strf.fit(spectrogram, gaps, n_lags=LAGS, penalties=[0.3])
    there = np.isfinite(gaps.values.ravel())
    ridge = Ridge(alpha=0.3 * ours.penalty.attrs["alpha"])
    ridge.fit(matrix(spectrogram)[there], gaps.values.ravel()[there])
    np.testing.assert_allclose(ours.kernel.values.ravel(), ridge.coef_, atol=1e-10)
    np.testing.assert_allclose(ours.intercept, ridge.intercept_, atol=1e-10)


@pytest.mark.parametrize("nonlinearity", [None, "isotonic"])
@pytest.mark.parametrize("n_sounds", [0, 1])
def test_a_cell_with_fewer_than_two_sounds_is_nan(
    spectrogram, psth, nonlinearity, n_sounds
) -> None:
    lost = psth.where((psth.electrode != 3) | (psth.category < n_sounds))
    model = strf.fit(spectrogram, lost, n_lags=LAGS, nonlinearity=nonlinearity)
    predicted = strf.predict(model, spectrogram)
    for variable in (*model.data_vars.values(), predicted):
        nan = variable.isnull().any([dim for dim in variable.dims if dim != "neuron"])
        assert nan.values.tolist() == [False, False, False, True, False, False]


def test_a_cell_with_fewer_sounds_than_folds_gets_fewer_folds(spectrogram, psth) -> None:
    few = psth.isel(neuron=[0]).where(psth.category < 3)
    model = strf.fit(spectrogram, few, n_lags=LAGS, folds=5)
    alone = strf.fit(spectrogram[:3], psth[:3, :, :1], n_lags=LAGS, folds=3)
    assert float(model.score.max()) == pytest.approx(float(alone.score.max()), abs=1e-3)


@pytest.mark.parametrize("nonlinearity", [None, "isotonic"])
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_constant_response_is_predicted_by_a_constant(
    spectrogram, psth, nonlinearity, value
) -> None:
    model = strf.fit(spectrogram, xr.full_like(psth, value), n_lags=LAGS, nonlinearity=nonlinearity)
    np.testing.assert_allclose(strf.predict(model, spectrogram), value, atol=1e-12)
    assert (model.kernel == 0).all()
    assert model.score.isnull().all()
    assert model.chosen_penalty.isnull().all()


# --- labels --------------------------------------------------------------------------------------


def test_models_have_the_labels_of_the_cells(model, psth) -> None:
    assert isinstance(model.xindexes["animal"], LabelIndex)
    xr.testing.assert_equal(model.neuron, psth.neuron)
    assert model.sel(animal="DRX").sizes["neuron"] == 3
    assert model.kernel.dims == ("neuron", "freq", "lag")
    assert model.score.dims == ("neuron", "penalty")
    assert model.freq.values.tolist() == [200, 900, 4000, 20000]
    assert model.lag.values.tolist() == [0, 0.01, 0.02, 0.03, 0.04]
    assert "stim" not in model.dims


def test_models_say_what_they_hold(spectrogram, psth) -> None:
    model = strf.fit(spectrogram, psth, n_lags=LAGS, nonlinearity="isotonic")
    assert all(variable.attrs["long_name"] for variable in model.data_vars.values())
    assert model.kernel.attrs["units"] == "spikes"
    assert model.score.attrs["units"] == "1"


# --- dask ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("nonlinearity", [None, "isotonic"])
@pytest.mark.parametrize("chunks", [{"neuron": 2}, {"stim": 7, "time": 25, "neuron": 4}])
def test_chunks_do_not_change_the_model(spectrogram, psth, nonlinearity, chunks) -> None:
    psth = psth.where((psth.electrode != 1) | (psth.category > 2))
    whole = strf.fit(spectrogram, psth, n_lags=LAGS, nonlinearity=nonlinearity)
    with dask.config.set(scheduler="synchronous"):
        blockwise = strf.fit(
            spectrogram.chunk(stim=5), psth.chunk(chunks), n_lags=LAGS, nonlinearity=nonlinearity
        )
    xr.testing.assert_allclose(blockwise, whole)
    assert not dask.is_dask_collection(blockwise)


def test_predictions_are_lazy(spectrogram, model, no_compute) -> None:
    assert dask.is_dask_collection(strf.predict(model, spectrogram.chunk(stim=5, time=20)))


def test_chunks_do_not_change_the_prediction(spectrogram, model) -> None:
    whole = strf.predict(model, spectrogram)
    by_sound = strf.predict(model, spectrogram.chunk(stim=5))
    assert by_sound.chunksizes["stim"] == (5, 5, 5, 5, 4)
    xr.testing.assert_allclose(by_sound.compute(), whole)
    by_band = strf.predict(model, spectrogram.chunk(freq=3, time=20))
    xr.testing.assert_allclose(by_band.compute(), whole)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_lags": 0}, "n_lags must be at least 1, not 0"),
        ({"penalties": [0.0, 1.0]}, "numbers above 0"),
        ({"penalties": []}, "numbers above 0"),
        ({"penalties": 1.0}, "a sequence"),
        ({"folds": 1}, "folds must be from 2 to the number of sounds, 24, not 1"),
        ({"folds": 25}, "not 25"),
        ({"nonlinearity": "relu"}, "None or 'isotonic', not 'relu'"),
    ],
)
def test_options_out_of_range_are_refused(spectrogram, psth, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        strf.fit(spectrogram, psth, **options)


def test_missing_dims_are_named(spectrogram, psth, model) -> None:
    with pytest.raises(ValueError, match=r"spectrogram needs the dims \('stim', 'freq', 'time'\)"):
        strf.fit(spectrogram[0], psth)
    with pytest.raises(ValueError, match=r"psth needs the dims \('stim', 'time'\)"):
        strf.fit(spectrogram, psth[:, 0])
    with pytest.raises(ValueError, match=r"needs the dims \('freq', 'time'\)"):
        strf.predict(model, spectrogram[:, 0])


def test_datasets_are_refused(spectrogram, psth) -> None:
    with pytest.raises(TypeError, match=r"psth must be an xarray\.DataArray, not Dataset"):
        strf.fit(spectrogram, psth.to_dataset(name="psth"))


def test_nothing_to_fit_is_refused(spectrogram, psth) -> None:
    with pytest.raises(ValueError, match="psth is empty"):
        strf.fit(spectrogram, psth.isel(neuron=[]))


def test_other_sounds_or_another_order_are_refused(spectrogram, psth) -> None:
    with pytest.raises(ValueError, match="spectrogram and psth differ"):
        strf.fit(spectrogram[::-1], psth)
    with pytest.raises(ValueError, match="spectrogram and psth differ"):
        strf.fit(spectrogram, psth[:, 1:])


def test_gaps_in_the_spectrogram_are_refused(spectrogram, psth) -> None:
    with pytest.raises(ValueError, match="NaN"):
        strf.fit(spectrogram.where(spectrogram.category != 4), psth)


def test_silence_is_refused(spectrogram, psth) -> None:
    with pytest.raises(ValueError, match=r"spectrogram .*\b0\b"):
        strf.fit(xr.zeros_like(spectrogram), psth, n_lags=LAGS)


def test_uneven_time_bins_are_refused(spectrogram, psth) -> None:
    time = spectrogram.time.values**2
    with pytest.raises(ValueError, match="not evenly spaced"):
        strf.fit(spectrogram.assign_coords(time=time), psth.assign_coords(time=time))


def test_other_frequencies_or_bins_than_the_models_are_refused(spectrogram, model) -> None:
    with pytest.raises(ValueError, match="spectrogram and model differ in frequencies"):
        strf.predict(model, spectrogram.assign_coords(freq=[1.0, 2, 3, 4]))
    with pytest.raises(ValueError, match="lags"):
        strf.predict(model, spectrogram.assign_coords(time=spectrogram.time / 2))
