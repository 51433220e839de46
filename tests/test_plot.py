"""Figures: what they show, their labels, and a comparison with saved images.

The images in tests/baseline contain no text, because each version of matplotlib draws it a little
differently. After an intended change, make new images and look at them:
``NAT4XR_NEW_BASELINES=1 pytest tests/test_plot.py -k looks``.
"""

import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.array as da
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text

import nat4xr
from nat4xr import plot, preprocess

BASELINE = Path(__file__).parent / "baseline"
CELL, SOUND = "DRX007a-128-2", "geese"


@pytest.fixture(autouse=True)
def _style() -> Iterator[None]:
    """Every test draws in matplotlib's own style, on no screen, and begins without figures."""
    mpl.use("Agg")
    with mpl.rc_context():
        mpl.rcdefaults()
        plt.close("all")
        yield
        plt.close("all")


@pytest.fixture(scope="module")
def area(nems0_release: Path, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    """A1 of the NEMS0 release, dask-backed: 9 cells at 3 sites, 18 val and 12 est sounds."""
    folder = shutil.copytree(nems0_release, tmp_path_factory.mktemp("plot") / "release")
    return nat4xr.open_area("A1", folder, progressbar=False)


@pytest.fixture(scope="module")
def one(area: xr.Dataset) -> xr.Dataset:
    """One cell, one val sound of 20 repeats."""
    return area.sel(cell_id=CELL, sound=SOUND)


@pytest.fixture(scope="module")
def kernel() -> xr.DataArray:
    """An STRF: early excitation, later suppression, of bands around 1 kHz."""
    freq = xr.DataArray(np.geomspace(200, 20000, 18), dims="freq", attrs={"units": "Hz"})
    lag = xr.DataArray(np.arange(25) / 100, dims="lag", attrs={"units": "s"})
    in_time = np.exp(-(((lag - 0.03) / 0.02) ** 2)) - 0.5 * np.exp(-(((lag - 0.1) / 0.04) ** 2))
    values = np.exp(-((np.log2(freq / 1000)) ** 2)) * in_time
    return values.assign_coords(freq=freq, lag=lag, neuron=CELL)


@pytest.fixture(scope="module")
def score_and_ceiling(area: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    n = np.arange(area.sizes["neuron"])
    ceiling = area["neuron"].copy(data=0.5 + n / 20).drop_attrs()
    return (ceiling * (0.6 + 0.03 * (n % 3))).assign_attrs(long_name="CCraw"), ceiling


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


@pytest.fixture(scope="module")
def figures(
    area: xr.Dataset,
    one: xr.Dataset,
    kernel: xr.DataArray,
    score_and_ceiling: tuple[xr.DataArray, xr.DataArray],
) -> dict[str, Callable[..., Any]]:
    """Each figure, drawn of the data above into the axes it is given."""
    gaps = area["n_reps"].copy(data=area["n_reps"].values)
    gaps[:18, 6] = 0
    # 30 bins, which end where pixels do: see axes_on_pixels.
    coarse = area["psth"].coarsen(time=5, coord_func="min").sum()
    return {
        "spectrogram": lambda ax: plot.spectrogram(one, ax=ax),
        "raster": lambda ax: plot.raster(one, ax=ax),
        "psth": lambda ax: plot.psth(one, ax=ax),
        "coverage": lambda ax: plot.coverage(gaps, ax=ax),
        "population": lambda ax: plot.population(coarse, ax=ax),
        "population_by_latency": lambda ax: plot.population(
            preprocess.zscore(coarse), sort="latency", ax=ax
        ),
        "strf": lambda ax: plot.strf(kernel, ax=ax),
        "prediction": lambda ax: plot.prediction(
            preprocess.smooth(one["psth"], window_ms=90), one, ax=ax
        ),
        "scores": lambda ax: plot.scores(*score_and_ceiling, ax=ax),
    }


FIGURES = (
    "spectrogram",
    "raster",
    "psth",
    "coverage",
    "population",
    "population_by_latency",
    "strf",
    "prediction",
    "scores",
)


def labels(ax: Axes) -> tuple[str, str, str]:
    return ax.get_title(), ax.get_xlabel(), ax.get_ylabel()


# How they look.


SIDES = ("labelleft", "labelright", "labelbottom", "labeltop")

DPI = 60
TOLERANCE = 2.0
"""Root mean square over pixels of 0 to 255: antialiasing may differ, what is drawn may not."""


def assert_looks_the_same(figure: Figure, name: str, folder: Path) -> None:
    for ax in figure.axes:
        ax.tick_params(which="both", **dict.fromkeys(SIDES, False))
        if legend := ax.get_legend():
            legend.remove()
    for text in figure.findobj(Text):
        text.set_visible(False)
    drawn, expected = folder / f"{name}.png", BASELINE / f"{name}.png"
    figure.savefig(drawn, dpi=DPI)
    if "NAT4XR_NEW_BASELINES" in os.environ:
        shutil.copy(drawn, expected)
    assert expected.stat().st_size < 20_000
    difference = compare_images(str(expected), str(drawn), tol=TOLERANCE)
    assert difference is None, difference


def axes_on_pixels(*, width: int) -> Axes:
    """Axes whose edges are edges of pixels; elsewhere versions of matplotlib round differently."""
    figure = Figure(figsize=(400 / DPI, 240 / DPI))
    return figure.add_axes((50 / 400, 30 / 240, width / 400, 180 / 240))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_looks_as_it_did(
    name: str, figures: dict[str, Callable[..., Any]], tmp_path: Path
) -> None:
    # The 80 % that a colour bar leaves hold 30 bins; or val, gap and est of 120, 4 and 80 pixels.
    ax = axes_on_pixels(width=255 if name == "coverage" else 300)
    figures[name](ax)
    assert_looks_the_same(ax.figure, name, tmp_path)


def test_the_figure_of_a_cell_looks_as_it_did(one: xr.Dataset, tmp_path: Path) -> None:
    figure = Figure(figsize=(3.5, 3.8))
    plot.cell_response(one, axes=figure.subplots(3, sharex=True))
    assert_looks_the_same(figure, "cell_response", tmp_path)


def test_the_comparison_sees_the_difference_between_two_cells(
    area: xr.Dataset, tmp_path: Path
) -> None:
    ax = axes_on_pixels(width=300)
    plot.raster(area.isel(neuron=0).sel(sound=SOUND), ax=ax)
    with pytest.raises(AssertionError, match="did not match"):
        assert_looks_the_same(ax.figure, "raster", tmp_path)


# What all of them do.


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_drawn_into_the_given_axes_without_pyplot(
    name: str, figures: dict[str, Callable[..., Any]], ax: Axes
) -> None:
    artists = figures[name](ax)
    for artist in artists if isinstance(artists, list) else [artists]:
        assert artist.axes is ax
    assert plt.get_fignums() == []


def test_without_axes_a_figure_is_drawn_into_the_current_ones(one: xr.Dataset) -> None:
    _, (_, current) = plt.subplots(2)
    assert plot.psth(one).axes is current
    assert len(plt.get_fignums()) == 1


def test_without_any_axes_a_new_figure_is_made(one: xr.Dataset) -> None:
    assert plot.psth(one).axes is plt.gca()


def test_a_refused_selection_leaves_no_empty_figure_behind(area: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="one cell"):
        plot.psth(area)
    with pytest.raises(ValueError, match="one cell"):
        plot.cell_response(area.sel(sound=SOUND))
    assert plt.get_fignums() == []


def test_data_of_a_simulation_are_called_simulated(one: xr.Dataset, ax: Axes) -> None:
    plot.psth(one.assign_attrs(simulated=1), ax=ax)
    assert ax.get_title() == f"{CELL}, {SOUND} (simulated)"


@pytest.mark.parametrize("name", ["raster", "psth"])
def test_the_time_of_the_sound_is_shaded(
    name: str, figures: dict[str, Callable[..., Any]], ax: Axes
) -> None:
    figures[name](ax)
    (shade,) = ax.findobj(lambda a: isinstance(a, Patch) and a.get_facecolor()[:3] == (0.92,) * 3)
    assert shade.get_extents().transformed(ax.transData.inverted()).intervalx == pytest.approx(
        [0.25, 1.25]
    )


def test_a_part_of_the_sound_is_marked_within_the_part_of_time_drawn(
    one: xr.Dataset, ax: Axes
) -> None:
    plot.spectrogram(one.sel(time=slice(0.5, 2)), ax=ax)
    (bar,) = ax.lines
    np.testing.assert_allclose(bar.get_xdata(), [0.5, 1.25])


def test_what_does_not_know_when_the_sound_was_is_drawn_without_a_mark(
    one: xr.Dataset, ax: Axes
) -> None:
    plot.spectrogram(one.assign_coords(time=one["time"].drop_attrs()), ax=ax)
    assert not ax.lines


def test_nothing_that_is_passed_in_is_changed(area: xr.Dataset, one: xr.Dataset) -> None:
    area_before, one_before = area.copy(deep=True), one.copy(deep=True)
    plot.cell_response(one, axes=Figure().subplots(3))
    plot.coverage(area, ax=Figure().subplots())
    plot.population(area, sort="latency", ax=Figure().subplots())
    assert one.identical(one_before)
    assert area.identical(area_before)
    assert one["response"].chunks is not None


def test_only_what_is_drawn_is_computed(area: xr.Dataset) -> None:
    read = []

    def block(block_info: Any = None) -> Any:
        read.append(tuple(block_info[None]["chunk-location"]))
        return np.zeros(block_info[None]["chunk-shape"], np.float32)

    response = da.map_blocks(
        block,
        chunks=tuple(
            (1,) * n if d in ("stim", "neuron") else (n,) for d, n in area["response"].sizes.items()
        ),
        dtype=np.float32,
        meta=np.empty((0,) * 4, np.float32),
    )
    lazy = area.assign(response=(area["response"].dims, response))
    read.clear()
    plot.cell_response(lazy.isel(stim=3, neuron=5), axes=Figure().subplots(3))
    assert read == [(3, 0, 0, 5)]


def test_several_cells_or_sounds_are_refused_saying_how_to_choose_one(area: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"one cell, not 9 cells: .*sel\(neuron='ARM031a-04-1'\)"):
        plot.raster(area.sel(sound=SOUND))
    with pytest.raises(ValueError, match=r"one sound and one cell.*isel\(stim=0, neuron=0\)"):
        plot.raster(area)


def test_an_empty_selection_is_refused(area: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"\bcells\b"):
        plot.psth(area.sel(animal="TNC", site="DRX007a"))


def test_a_variable_that_is_missing_is_named(one: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"'response'.* psth"):
        plot.raster(one[["psth"]])


def test_a_dim_that_is_missing_is_named(one: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="rep is missing"):
        plot.raster(one["psth"])


@pytest.mark.parametrize("draw", [plot.raster, plot.psth])
def test_a_cell_that_was_not_recorded_is_named(draw: Callable[..., Any], one: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=rf"{CELL}, {SOUND}: all values are NaN.*drop_unrecorded"):
        draw(one["response"] * np.nan)


def test_without_matplotlib_the_extra_to_install_is_named(
    one: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r"nat4xr\[plot\]"):
        plot.psth(one)


# Spectrogram.


def test_a_spectrogram_is_log_compressed_over_seconds_and_kilohertz(
    one: xr.Dataset, ax: Axes
) -> None:
    mesh = plot.spectrogram(one, ax=ax)
    np.testing.assert_allclose(mesh.get_array(), np.log1p(one["spectrogram"].values.squeeze()))
    assert labels(ax) == (SOUND, "time (s)", "frequency (kHz)")
    assert ax.get_xlim() == (0, 1.5)
    assert ax.get_yscale() == "log"
    low, high = ax.get_ylim()
    assert 0.15 < low < 0.2
    assert 20 < high < 25


def test_a_spectrogram_compressed_before_is_not_compressed_again(one: xr.Dataset, ax: Axes) -> None:
    compressed = preprocess.log_minmax(one["spectrogram"])
    mesh = plot.spectrogram(compressed, ax=ax)
    np.testing.assert_array_equal(mesh.get_array(), compressed.values.squeeze())


# Raster.


def test_a_raster_has_a_tick_for_every_spike_within_its_bin_and_repeat(
    one: xr.Dataset, ax: Axes
) -> None:
    counts = one["response"].squeeze().values.copy()
    counts[3, 7] = 3
    response = one["response"].squeeze().copy(data=counts)
    ticks = np.array(plot.raster(response, ax=ax).get_segments())
    found, _, _ = np.histogram2d(
        ticks[:, :, 1].mean(axis=1), ticks[:, 0, 0], [np.arange(21) - 0.5, np.arange(151) / 100]
    )
    np.testing.assert_array_equal(found, counts)
    assert labels(ax) == (f"{CELL}, {SOUND}", "time (s)", "repeat")


def test_a_raster_shows_only_presentations_that_took_place(area: xr.Dataset, ax: Axes) -> None:
    plot.raster(area.isel(stim=20, neuron=0), ax=ax)
    assert ax.get_ylim() == (0.5, -0.5)
    ax.figure.draw_without_rendering()
    assert [tick for tick in ax.get_yticks() if -0.5 < tick < 0.5] == [0]


def test_a_raster_of_spike_times_has_ticks_at_these_times(ax: Axes) -> None:
    trains = [np.array([0.1234]), np.array([]), np.array([0.2, 0.70001])]
    ticks = np.array(plot.raster(trains, ax=ax).get_segments())
    np.testing.assert_array_equal(ticks[:, 0, 0], [0.1234, 0.2, 0.70001])
    np.testing.assert_allclose(ticks[:, :, 1].mean(axis=1), [0, 2, 2])


def test_a_raster_of_no_trials_is_refused() -> None:
    with pytest.raises(ValueError, match="list of spike trains is empty"):
        plot.raster([])


def test_a_raster_of_averages_is_refused(one: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="whole numbers of spikes"):
        plot.raster(preprocess.smooth(one["response"].compute()))


# PSTH.


def test_a_psth_is_the_mean_over_repeats_in_spikes_per_second(one: xr.Dataset, ax: Axes) -> None:
    line = plot.psth(one, ax=ax)
    np.testing.assert_allclose(line.get_xdata(), np.arange(150) / 100 + 0.005)
    np.testing.assert_allclose(
        line.get_ydata(), 100 * one["response"].squeeze().mean("rep"), rtol=1e-6
    )
    assert labels(ax) == (f"{CELL}, {SOUND}", "time (s)", "rate (spikes/s)")
    assert ax.get_ylim()[0] == 0
    assert line.get_label() == CELL


def test_a_psth_has_a_band_of_one_standard_error(one: xr.Dataset, ax: Axes) -> None:
    line = plot.psth(one, ax=ax)
    (band,) = ax.findobj(PolyCollection)
    error = 100 * one["response"].squeeze().std("rep", ddof=1).values / np.sqrt(20)
    top = (line.get_ydata() + error).max()
    assert band.get_paths()[0].vertices[:, 1].max() == pytest.approx(top, rel=1e-5)


def test_a_psth_of_one_presentation_has_no_band(area: xr.Dataset, ax: Axes) -> None:
    plot.psth(area.isel(stim=20, neuron=0), ax=ax)
    assert not ax.findobj(PolyCollection)


def test_a_psth_follows_the_width_of_the_bins(one: xr.Dataset, ax: Axes) -> None:
    coarse = one["psth"].coarsen(time=5).sum()
    line = plot.psth(coarse, ax=ax)
    np.testing.assert_allclose(line.get_ydata(), 20 * coarse.values.squeeze(), rtol=1e-6)


def test_of_a_cell_without_trials_the_published_psth_is_drawn(one: xr.Dataset, ax: Axes) -> None:
    untested = one.assign(response=one["response"] * np.nan)
    line = plot.psth(untested, ax=ax)
    np.testing.assert_allclose(line.get_ydata(), 100 * one["psth"].values.squeeze(), rtol=1e-6)
    assert not ax.findobj(PolyCollection)


# Spectrogram, raster and PSTH.


def test_the_figure_of_a_cell_has_three_panels_over_one_time(one: xr.Dataset) -> None:
    top, middle, bottom = plot.cell_response(one)
    assert labels(top) == (f"{CELL}, {SOUND}", "", "frequency (kHz)")
    assert labels(middle) == ("", "", "repeat")
    assert labels(bottom) == ("", "time (s)", "rate (spikes/s)")
    assert bottom.get_shared_x_axes().joined(top, middle)
    assert top.get_xlim() == middle.get_xlim() == bottom.get_xlim() == (0, 1.5)


def test_the_figure_of_a_cell_leaves_texts_that_were_in_its_axes(one: xr.Dataset) -> None:
    axes = Figure().subplots(3)
    note = axes[1].text(0, 0, "a note")
    plot.cell_response(one, axes=axes)
    assert list(axes[1].texts) == [note]


def test_the_figure_of_a_cell_needs_three_axes(one: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="three axes, not 2"):
        plot.cell_response(one, axes=Figure().subplots(2))


def test_the_figure_of_a_cell_without_trials_is_refused_before_it_is_made(
    one: xr.Dataset,
) -> None:
    with pytest.raises(ValueError, match=f"{CELL}, {SOUND}"):
        plot.cell_response(one.assign(response=one["response"] * np.nan))
    assert plt.get_fignums() == []


# Coverage.


def test_a_coverage_map_has_the_val_sounds_beside_the_est_sounds(
    area: xr.Dataset, ax: Axes
) -> None:
    val, est = plot.coverage(area, ax=ax)
    assert val.get_array().shape == (9, 18)
    assert est.get_array().shape == (9, 12)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["18 val", "12 est"]
    assert labels(ax) == ("A1", "sounds", "9 cells")


def test_few_val_sounds_beside_many_est_sounds_are_drawn_wider(area: xr.Dataset, ax: Axes) -> None:
    many = area["n_reps"].isel(stim=[0, *[20] * 99])
    val, est = plot.coverage(many.drop_indexes(list(many.xindexes)), ax=ax)
    left, right, _, _ = val.get_extent()
    assert right - left == pytest.approx(0.25)
    left, right, _, _ = est.get_extent()
    assert right - left == pytest.approx(0.75)


def test_a_coverage_map_puts_the_cells_of_a_site_together(area: xr.Dataset, ax: Axes) -> None:
    mixed = area["n_reps"].isel(neuron=[0, 3, 1, 6, 4]).copy()
    mixed = mixed.copy(data=np.tile([1, 2, 3, 4, 5], (30, 1)))
    val, _ = plot.coverage(mixed, ax=ax)
    assert val.get_array()[:, 0].tolist() == [0, 2, 1, 4, 3]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["ARM031a", "DRX007a", "TNC013a"]


def test_a_coverage_map_shows_in_a_colour_of_its_own_what_was_not_recorded(
    area: xr.Dataset, ax: Axes
) -> None:
    n_reps = area["n_reps"].copy(data=area["n_reps"].values)
    n_reps[:18, 2] = 0
    val, _ = plot.coverage(n_reps, ax=ax)
    colours = val.cmap(val.norm(val.get_array()))
    assert {to_hex(c) for c in colours[2]} == {"#d55e00"}
    assert {to_hex(c) for c in colours[[0, 1, 3]].reshape(-1, 4)} == {"#08306b"}


def test_the_names_of_many_small_sites_do_not_overlap(area: xr.Dataset, ax: Axes) -> None:
    sizes = [300, 2, 2, 2, 1, 1, 2, 2, 400]
    sites = np.repeat([f"ARM0{i}a" for i in range(10, 19)], sizes)
    n_reps = xr.DataArray(
        np.ones((3, len(sites))), {"site": ("neuron", sites)}, dims=("stim", "neuron")
    )
    plot.coverage(n_reps, ax=ax)
    ax.figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in ax.get_yticklabels()]
    assert len(boxes) == 9
    assert all(above.y0 >= below.y1 for above, below in itertools.pairwise(boxes))
    assert ax.get_ylim() == (sum(sizes), 0)


# Population.


def test_a_population_is_the_mean_over_sounds_in_spikes_per_second(
    area: xr.Dataset, ax: Axes
) -> None:
    image = plot.population(area, ax=ax)
    expected = 100 * area["psth"].mean("stim").transpose("neuron", "time")
    np.testing.assert_allclose(image.get_array(), expected, rtol=1e-5)
    assert labels(ax) == ("A1, mean over 30 sounds", "time (s)", "9 cells")
    assert image.colorbar.ax.get_ylabel() == "rate (spikes/s)"
    assert ax.get_xlim() == (0, 1.5)


def test_a_population_shows_the_responses_to_one_sound(area: xr.Dataset, ax: Axes) -> None:
    plot.population(area.sel(sound=SOUND), ax=ax)
    assert ax.get_title() == f"A1, {SOUND}"


def test_a_population_by_latency_has_the_fastest_cell_on_top_and_the_silent_below(
    ax: Axes,
) -> None:
    psth = xr.DataArray(
        np.zeros((4, 10)),
        dims=("neuron", "time"),
        coords={"time": ("time", np.arange(10) / 100, {"sound_on": 0.03, "sound_off": 0.08})},
    )
    psth[0, 1] = 5  # before the sound, silent after it
    psth[1, 7:9] = 2
    psth[2, 5] = 1
    psth[3] = np.nan
    image = plot.population(psth, sort="latency", ax=ax)
    np.testing.assert_allclose(image.get_array(), 100 * psth[[2, 1, 0, 3]])
    assert [name.get_text() for name in ax.get_yticklabels()] == ["onset", "no onset"]
    assert 2 in [line.get_ydata()[0] for line in ax.lines]  # the line between the two groups


def test_latency_needs_to_know_when_the_sound_began(area: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="sound_on"):
        plot.population(area.sel(time=slice(0.25, 1)), sort="latency")


def test_another_order_than_site_or_latency_is_refused(area: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="'site' or 'latency', not 'depth'"):
        plot.population(area, sort="depth")  # type: ignore[arg-type]


def test_z_scored_responses_have_colours_that_diverge_from_zero(area: xr.Dataset, ax: Axes) -> None:
    scaled = preprocess.zscore(area["psth"].compute())
    image = plot.population(scaled, ax=ax)
    low, high = image.get_clim()
    assert low == -high
    assert image.colorbar.ax.get_ylabel() == "response (z-score)"


# STRF.


@pytest.mark.parametrize(("units", "factor"), [("s", 1), ("ms", 1000)])
def test_an_strf_is_centred_on_zero_over_milliseconds_and_kilohertz(
    units: str, factor: int, kernel: xr.DataArray, ax: Axes
) -> None:
    lag = (kernel["lag"] * factor).assign_attrs(units=units)
    mesh = plot.strf(kernel.assign_coords(lag=lag), ax=ax)
    low, high = mesh.get_clim()
    assert high == -low == abs(kernel).max()
    assert ax.get_xlim() == pytest.approx((-5, 245))
    assert labels(ax) == (CELL, "lag (ms)", "frequency (kHz)")
    assert mesh.colorbar.ax.get_ylabel() == "weight"


def test_an_strf_of_a_cell_that_was_not_fitted_is_refused(kernel: xr.DataArray) -> None:
    with pytest.raises(ValueError, match=f"{CELL}: all values are NaN"):
        plot.strf(kernel * np.nan)


# Prediction.


def test_a_prediction_is_drawn_over_what_was_recorded(one: xr.Dataset, ax: Axes) -> None:
    recorded, predicted = plot.prediction(one["psth"] * 2, one, ax=ax)
    np.testing.assert_allclose(predicted.get_ydata(), 2 * recorded.get_ydata())
    np.testing.assert_allclose(recorded.get_ydata(), 100 * one["psth"].values.squeeze())
    assert predicted.get_label() == "predicted (r = 1.00)"
    assert labels(ax) == (f"{CELL}, {SOUND}", "time (s)", "rate (spikes/s)")


def test_a_constant_prediction_has_no_correlation(one: xr.Dataset, ax: Axes) -> None:
    _, predicted = plot.prediction(xr.ones_like(one["psth"]), one, ax=ax)
    assert predicted.get_label() == "predicted"


def test_a_rate_is_drawn_as_it_is(one: xr.Dataset, ax: Axes) -> None:
    rate = one["psth"] / one["time"].attrs["bin_width"]
    rate = rate.assign_attrs(units="spikes/s")
    lines = plot.psth(rate, ax=ax), plot.psth(one["psth"], ax=ax)
    np.testing.assert_allclose(*(line.get_ydata() for line in lines), rtol=1e-6)


def test_a_prediction_below_0_is_shown(one: xr.Dataset, ax: Axes) -> None:
    with xr.set_options(keep_attrs=True):
        _, predicted = plot.prediction(one["psth"] - 0.1, one, ax=ax)
    assert ax.get_ylim()[0] < predicted.get_ydata().min() < 0


def test_a_prediction_of_another_cell_is_refused(area: xr.Dataset, one: xr.Dataset) -> None:
    other = area["psth"].isel(neuron=0).sel(sound=SOUND)
    with pytest.raises(ValueError, match=rf"'ARM031a-04-1'.*'{CELL}'"):
        plot.prediction(other, one)


def test_a_prediction_at_other_times_is_refused(one: xr.Dataset) -> None:
    with pytest.raises(ValueError, match="'time'"):
        plot.prediction(one["psth"].isel(time=slice(1, None)), one)


def test_a_prediction_in_another_unit_is_refused(one: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"preprocess\.invert"):
        plot.prediction(preprocess.minmax(one["psth"]), one)


# Scores.


def test_scores_have_a_point_a_cell_by_animal(
    score_and_ceiling: tuple[xr.DataArray, xr.DataArray], ax: Axes
) -> None:
    score, ceiling = score_and_ceiling
    points = plot.scores(score, ceiling, ax=ax)
    assert [p.get_label() for p in points] == ["ARM (3)", "DRX (3)", "TNC (3)"]
    np.testing.assert_allclose(
        np.concatenate([p.get_offsets() for p in points]), np.transpose([ceiling, score])
    )
    assert labels(ax) == ("A1, 9 cells", "noise ceiling", "CCraw")
    assert ax.get_xlim() == ax.get_ylim() == (0, 1)


def test_scores_of_an_evaluation_are_its_raw_correlations(
    score_and_ceiling: tuple[xr.DataArray, xr.DataArray], ax: Axes
) -> None:
    score, ceiling = score_and_ceiling
    result = xr.Dataset({"cc_raw": score, "cc_norm": score * 0}, attrs={"simulated": 1})
    first, *_ = plot.scores(result, ceiling, ax=ax)
    np.testing.assert_allclose(first.get_offsets()[:, 1], score[:3])
    assert labels(ax) == ("A1, 9 cells (simulated)", "noise ceiling", "CCraw")


def test_scores_below_two_standard_errors_are_open_circles(
    score_and_ceiling: tuple[xr.DataArray, xr.DataArray], ax: Axes
) -> None:
    score, ceiling = score_and_ceiling
    error = score / 4  # clear of 0, but for the first cell
    error[0] = score[0]
    (points, *_) = plot.scores(
        xr.Dataset({"cc_raw": score, "cc_raw_se": error}).drop_vars("animal"), ceiling, ax=ax
    )
    open_circles = points.get_facecolor()[:, 3] == 0
    np.testing.assert_array_equal(open_circles, np.arange(len(score)) == 0)
    assert ax.get_legend() is not None


def test_scores_are_simulated_if_their_ceiling_is(
    score_and_ceiling: tuple[xr.DataArray, xr.DataArray], ax: Axes
) -> None:
    score, ceiling = score_and_ceiling
    plot.scores(score, ceiling.assign_attrs(simulated=1), ax=ax)
    assert ax.get_title() == "A1, 9 cells (simulated)"


def test_scores_leave_out_cells_that_lack_the_score_or_the_ceiling(
    score_and_ceiling: tuple[xr.DataArray, xr.DataArray], ax: Axes
) -> None:
    score, ceiling = score_and_ceiling
    some = score.where(np.arange(9) > 1).isel(neuron=slice(None, None, -1))
    points = plot.scores(some, ceiling.isel(neuron=slice(0, 8)), ax=ax)
    assert [p.get_label() for p in points] == ["DRX (3)", "TNC (2)", "ARM (1)"]


def test_scores_below_zero_are_within_the_axes(
    score_and_ceiling: tuple[xr.DataArray, xr.DataArray], ax: Axes
) -> None:
    score, ceiling = score_and_ceiling
    plot.scores(score - 0.5, ceiling, ax=ax)
    assert ax.get_ylim() == ax.get_xlim() == pytest.approx((-0.2, 1))


def test_scores_of_no_common_cell_are_refused(
    score_and_ceiling: tuple[xr.DataArray, xr.DataArray],
) -> None:
    score, ceiling = score_and_ceiling
    with pytest.raises(ValueError, match="no cell has both"):
        plot.scores(score[:4], ceiling[4:])


def test_scores_of_more_than_one_value_a_cell_are_refused(area: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"ceiling .*neuron"):
        plot.scores(area["psth"][0, 0], area["psth"][0])


def test_coverage_of_one_sound_is_drawn(area: xr.Dataset, ax: Axes) -> None:
    (image,) = plot.coverage(area.isel(stim=[0]), ax=ax)
    (same,) = plot.coverage(area.isel(stim=0).expand_dims("stim"), ax=ax)
    np.testing.assert_array_equal(image.get_array(), same.get_array())
