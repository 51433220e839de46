"""How the recordings of an area are combined: bins, repeats, cells, and invalid releases."""

import dataclasses
import math
import tarfile
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nat4xr
from nat4xr import ReleaseError
from nat4xr.io import nems
from nat4xr.io.assemble import AreaData, assemble, read_sites
from nat4xr.io.release import AreaFiles, find_area

from .support import set_limits
from .support.releases import (
    EST,
    N_TIME,
    POPULATION,
    SITES,
    SOUNDS,
    TABLE,
    TRIAL_S,
    VAL,
    Site,
    about_signal,
    archive_name,
    binned,
    epochs,
    h5,
    raster,
    site_recording,
    tiny_psth,
    tiny_release,
    tiny_sites,
    trial_counts,
    write,
)

CELLS = ["ARM029a-04-1", "ARM029a-07-6", "TNC013a-22-3"]


@pytest.fixture
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], AreaData]:
    """Writes a release to a folder and reads it."""

    def assembled(release: dict[str, Any]) -> AreaData:
        return read(release, tmp_path_factory.mktemp("release"))

    return assembled


def read(release: dict[str, Any], folder: Path) -> AreaData:
    files = find_area("A1", write(release, folder))
    assert isinstance(files, AreaFiles)
    return assemble("A1", files)


def response(data: AreaData) -> np.ndarray:
    """All repeats, (stim, rep, time, neuron)."""
    sizes = data.header.sizes
    whole = np.full((sizes["stim"], sizes["rep"], sizes["time"], sizes["neuron"]), np.nan)
    for rep in range(sizes["rep"]):
        block = data.response(slice(0, sizes["stim"]), rep)
        if block is not None:
            assert block.dtype == np.float32
            whole[:, rep] = block
    return whole


def psth(data: AreaData) -> np.ndarray:
    return data.psth(slice(0, data.header.sizes["stim"]))


# --- bins --------------------------------------------------------------------------------------


def test_trials_are_binned_by_the_rule_of_the_format(assembled: Any) -> None:
    sites = tiny_sites()
    np.testing.assert_array_equal(response(assembled(tiny_release(sites))), trial_counts(sites))


def test_sounds_are_read_in_parts_as_in_whole(assembled: Any) -> None:
    data = assembled(tiny_release())
    parts = [slice(0, 1), slice(1, 3), slice(3, 100)]
    np.testing.assert_array_equal(np.concatenate([data.psth(part) for part in parts]), psth(data))
    reps = [[data.response(part, rep) for part in parts] for rep in (0, 7)]
    np.testing.assert_array_equal(np.concatenate(reps[0]), response(data)[:, 0])
    assert reps[1][2] is None
    np.testing.assert_array_equal(np.concatenate(reps[1][:2])[:2], response(data)[:2, 7])


MS = st.integers(0, 2500).map(lambda ms: ms / 1000)
TIMES = st.one_of(
    MS,
    MS.map(lambda t: math.nextafter(t, math.inf)),
    MS.map(lambda t: max(0.0, math.nextafter(t, -math.inf))),
    st.floats(0, 2.5),
)


@pytest.mark.reliability
@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(SOUNDS), st.integers(10, 400)), min_size=1, max_size=8),
    st.lists(TIMES, max_size=60),
    st.booleans(),
)
def test_any_spike_falls_into_the_bin_that_a_naive_loop_finds(
    tmp_path_factory: pytest.TempPathFactory,
    trials: list[tuple[str, int]],
    times: list[float],
    sort: bool,
) -> None:
    steps = [round(10_000 * TRIAL_S) + gap for _, gap in trials]  # in 0.1 ms
    onsets = (np.cumsum(steps) / 10_000).tolist()
    sounds = [sound for sound, _ in trials]
    site = Site(
        {CELLS[0]: sorted(times) if sort else times}, list(zip(sounds, onsets, strict=True))
    )
    release = tiny_release({"ARM029a": site}, psth=np.zeros((len(SOUNDS), N_TIME, 1)))
    found = response(read(release, tmp_path_factory.mktemp("release")))
    for stim, sound in enumerate(VAL):
        own = [onset for name, onset in site.trials if name == sound]
        expected = [binned(times, onset) for onset in own]
        np.testing.assert_array_equal(
            found[stim, : len(own), :, 0], np.reshape(expected, (-1, N_TIME))
        )
        assert np.isnan(found[stim, len(own) :]).all()


@pytest.mark.parametrize("time", [0.017, 0.29, 1.001, 4.35, 8.2, 564.719])
def test_the_sample_of_a_spike_is_decided_by_the_product_in_float64(
    time: float, assembled: Any
) -> None:
    onset = (math.floor(time * 1000) - 9) / 1000  # so that one sample more is another bin
    site = Site({CELLS[0]: [time]}, [(VAL[0], onset)])
    found = response(assembled(tiny_release({"ARM029a": site})))[0, 0, :, 0]
    assert found.tolist() == [1.0] + [0.0] * (N_TIME - 1)


def test_spikes_outside_trials_are_left_out(assembled: Any) -> None:
    site = Site({CELLS[0]: [0.0, 0.4999, 0.5, 0.6999, 0.7, 9.0]}, [(VAL[0], 0.5), (VAL[0], 1.0)])
    found = response(assembled(tiny_release({"ARM029a": site})))[0, :2, :, 0]
    assert found.sum() == 2
    assert found[0, 0] == found[0, -1] == 1


@pytest.mark.parametrize("fs", [100, 500, 2000, 30_000])
def test_a_site_may_have_another_sampling_rate(fs: int, assembled: Any) -> None:
    sites = {"ARM029a": Site({CELLS[0]: [0.013, 0.0999, 0.1, 0.3]}, [(VAL[0], 0.02)])}
    release = tiny_release(sites)
    site = release[SITES][archive_name("ARM029a")]
    site["ARM029a/ARM029a.resp.json"] = about_signal("PointProcess", CELLS[:1], fs, 10 * fs)
    found = response(assembled(release))[0, 0, :, 0]
    assert found.tolist() == binned([0.013, 0.0999, 0.1, 0.3], 0.02, fs)


# --- repeats and coverage ----------------------------------------------------------------------


def n_reps(data: AreaData) -> list[list[int]]:
    return data.header["n_reps"].values.tolist()


def test_val_sounds_have_every_repeat_and_est_sounds_one(assembled: Any) -> None:
    data = assembled(tiny_release())
    assert n_reps(data) == [[20, 20, 20]] * 2 + [[1, 1, 1]] * 2
    found = response(data)
    assert not np.isnan(found[:2]).any()
    assert np.isnan(found[2:, 1:]).all()


def test_the_repeat_of_an_est_sound_is_its_psth(assembled: Any) -> None:
    data = assembled(tiny_release())
    np.testing.assert_array_equal(response(data)[2:, 0], psth(data)[2:])


def test_the_mean_over_val_repeats_is_the_psth(assembled: Any) -> None:
    data = assembled(tiny_release())
    np.testing.assert_array_equal(response(data)[:2].mean(1).astype(np.float32), psth(data)[:2])


def test_repeats_are_in_the_order_of_the_session(assembled: Any) -> None:
    trials = [(VAL[0], 3.0), (VAL[1], 2.0), (VAL[0], 1.0)]  # as listed, not as presented
    site = Site({CELLS[0]: [1.0, 3.0, 3.0005, 2.0]}, trials)
    found = response(assembled(tiny_release({"ARM029a": site})))
    assert found[0, :2, 0, 0].tolist() == [1, 2]
    assert found[1, 0, 0, 0] == 1


def one_site_with(repeats: int) -> dict[str, Site]:
    return tiny_sites() | {"TNC013a": tiny_sites(repeats)["TNC013a"]}


@pytest.mark.parametrize(("repeats", "n_rep"), [(1, 20), (19, 20), (21, 21), (40, 40)])
def test_a_site_may_repeat_sounds_more_or_less_often(
    repeats: int, n_rep: int, assembled: Any
) -> None:
    sites = one_site_with(repeats)
    data = assembled(tiny_release(sites))
    assert data.header["rep"].values.tolist() == list(range(n_rep))
    assert n_reps(data)[:2] == [[20, 20, repeats]] * 2
    found = response(data)
    expected = trial_counts(sites)
    np.testing.assert_array_equal(found[:, : expected.shape[1]], expected)
    assert np.isnan(found[:, expected.shape[1] :]).all()


def test_a_sound_that_a_site_did_not_present_is_nan_there(assembled: Any) -> None:
    sites = tiny_sites()
    site = sites["TNC013a"]
    site.trials = [trial for trial in site.trials if trial[0] != VAL[1]]
    data = assembled(tiny_release(sites))
    assert n_reps(data)[:2] == [[20, 20, 20], [20, 20, 0]]
    assert np.isnan(response(data)[1, :, :, 2]).all()
    assert not np.isnan(response(data)[1, :, :, :2]).any()


@pytest.mark.parametrize("stim", range(4))
def test_a_pair_that_the_population_recording_leaves_out_is_left_out(
    stim: int, assembled: Any
) -> None:
    sites = tiny_sites()
    published = tiny_psth(sites)
    published[stim, :, 1] = np.nan
    data = assembled(tiny_release(sites, psth=published))
    np.testing.assert_array_equal(psth(data), published.astype(np.float32))
    expected = trial_counts(sites)
    expected[stim, :, :, 1] = np.nan
    np.testing.assert_array_equal(response(data), expected)
    assert n_reps(data)[stim][1] == 0
    assert np.sum(n_reps(data)) == 3 * 2 * 21 - (20 if stim < 2 else 1)


def test_more_spikes_than_can_be_counted_are_refused(assembled: Any) -> None:
    sites = tiny_sites()
    onset = next(onset for sound, onset in sites["ARM029a"].trials if sound in VAL)
    sites["ARM029a"].spikes["ARM029a-04-1"] = [onset + 0.05] * 70_000
    published = np.zeros((len(SOUNDS), N_TIME, 3))
    with pytest.raises(ReleaseError, match=rf"{SITES}: more than 65,535 spikes"):
        assembled(tiny_release(sites, psth=published))


def test_sites_of_more_spikes_than_can_be_held_are_refused(
    assembled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_spikes = sum(len(t) for site in tiny_sites().values() for t in site.spikes.values())
    set_limits(monkeypatch, spikes=n_spikes)
    assembled(tiny_release())
    set_limits(monkeypatch, spikes=n_spikes - 1)
    with pytest.raises(ReleaseError, match=rf"{n_spikes:,} spikes.*\(spikes\)"):
        assembled(tiny_release())


def test_the_meta_data_of_all_sites_are_not_held_at_once(tmp_path: Path) -> None:
    release = tiny_release()
    meta = b'{"x": [' + b"{}," * 10**5 + b"{}]}"
    for i in range(10):
        members = site_recording(f"ZZZ{i:03}a", Site({f"x{i}": []}, [(VAL[0], 0.0)]))
        members[f"ZZZ{i:03}a/ZZZ{i:03}a.meta.json"] = meta
        release[SITES][archive_name(f"ZZZ{i:03}a")] = members
    files = find_area("A1", write(release, tmp_path))
    assert isinstance(files, AreaFiles)
    tracemalloc.start()
    try:
        assert len(list(read_sites(files))) == 12
        assert tracemalloc.get_traced_memory()[1] < 2 * 10**7  # each takes 8 MB
    finally:
        tracemalloc.stop()


@pytest.mark.reliability
@pytest.mark.filterwarnings("ignore:.*has no row for")
def test_a_release_of_zeros_is_refused_before_it_takes_memory(assembled: Any) -> None:
    release = tiny_release()
    cells = [f"ARM029a-{i:02}-1" for i in range(10_000)]
    onsets = [1.5 * i for i in range(len(SOUNDS))]
    rows = [f"{sound},{on},{on + 1.5}" for sound, on in zip(SOUNDS, onsets, strict=True)]
    events = "\n".join(["name,start,end", *rows, ""]).encode()
    lines = (b",".join([b"0"] * len(cells)) + b"\n") * 150 * len(SOUNDS)
    stim = np.zeros((150 * len(SOUNDS), 3))
    release[POPULATION] |= raster("A1_NAT4", "stim", ["ch0", "ch1", "ch2"], stim, events)
    release[POPULATION] |= raster("A1_NAT4", "resp", cells, stim, events)
    release[POPULATION]["A1_NAT4/A1_NAT4.resp.csv"] = lines
    with pytest.raises(ReleaseError, match=r"10,000 channels.*: 540,000,000 bins"):
        assembled(release)


@pytest.mark.parametrize("repeats", [3, 20, 21])
def test_the_population_recording_may_leave_out_all_of_the_repeats(
    repeats: int, assembled: Any
) -> None:
    sites = one_site_with(repeats)
    published = tiny_psth(sites)
    published[:2, :, 2] = np.nan
    found = response(assembled(tiny_release(sites, psth=published)))
    np.testing.assert_array_equal(found[..., :2], trial_counts(tiny_sites())[..., :2])
    assert np.isnan(found[:2, :, :, 2]).all()
    published[:2] = np.nan
    assert np.isnan(response(assembled(tiny_release(sites, psth=published)))[:2]).all()


def test_a_response_that_is_missing_in_part_is_kept(assembled: Any) -> None:
    published = tiny_psth(tiny_sites())
    published[3, :5, 0] = np.nan
    data = assembled(tiny_release(psth=published))
    np.testing.assert_array_equal(response(data)[3, 0], published[3])
    assert n_reps(data)[3][0] == 1


def test_a_release_may_have_no_est_sounds_or_no_val_sounds(assembled: Any) -> None:
    for kept in (VAL, EST):
        release = tiny_release()
        events = epochs((sound, TRIAL_S * SOUNDS.index(sound)) for sound in kept)
        for signal in ("stim", "resp"):
            release[POPULATION][f"A1_NAT4/A1_NAT4.{signal}.epoch.csv"] = events
        data = assembled(release)
        assert data.header["stim"].values.tolist() == kept
        whole = trial_counts(tiny_sites())[[SOUNDS.index(sound) for sound in kept]]
        np.testing.assert_array_equal(response(data), whole)


# --- cells -------------------------------------------------------------------------------------


def trials_cell_ids(data: AreaData) -> list[str]:
    return data.header["trials_cell_id"].values.tolist()


def test_cells_are_those_of_the_population_recording_in_its_order(assembled: Any) -> None:
    sites = tiny_sites()
    cells = ["ARM029a-07-6", "TNC013a-22-3", "ARM029a-04-1"]
    data = assembled(tiny_release(sites, cells=cells, psth=tiny_psth(sites)[..., [1, 2, 0]]))
    assert data.header["neuron"].values.tolist() == cells
    np.testing.assert_array_equal(response(data), trial_counts(sites)[..., [1, 2, 0]])


def test_the_name_under_which_trials_were_found_is_told(assembled: Any) -> None:
    assert trials_cell_ids(assembled(tiny_release())) == [*CELLS[:2], "TNC013a-022-3"]


def test_a_cell_without_trials_is_nan_in_val_and_keeps_est(assembled: Any) -> None:
    sites = tiny_sites()
    published = tiny_psth(sites)
    del sites["ARM029a"].spikes[CELLS[0]]
    data = assembled(tiny_release(sites, cells=CELLS, psth=published))
    assert trials_cell_ids(data) == ["", CELLS[1], "TNC013a-022-3"]
    assert n_reps(data) == [[0, 20, 20]] * 2 + [[1, 1, 1]] * 2
    found = response(data)
    assert np.isnan(found[:2, :, :, 0]).all()
    np.testing.assert_array_equal(found[2:, 0], published[2:])
    np.testing.assert_array_equal(psth(data), published.astype(np.float32))


def test_a_cell_that_only_a_site_knows_is_left_out(assembled: Any) -> None:
    sites = tiny_sites()
    data = assembled(tiny_release(sites, cells=CELLS[:1], psth=tiny_psth(sites)[..., :1]))
    np.testing.assert_array_equal(response(data), trial_counts(sites)[..., :1])


def test_trials_are_not_given_to_two_cells(assembled: Any) -> None:
    sites = {"TNC013a": tiny_sites()["TNC013a"]}
    cells = ["TNC013a-22-3", "TNC013a-022-3"]
    published = np.repeat(tiny_psth(sites), 2, axis=-1)
    data = assembled(tiny_release(sites, cells=cells, psth=published))
    assert trials_cell_ids(data) == ["", "TNC013a-022-3"]
    assert n_reps(data)[0] == [0, 20]


def test_a_silent_cell_has_trials_without_spikes(assembled: Any) -> None:
    sites = tiny_sites()
    sites["ARM029a"].spikes[CELLS[1]] = []
    found = response(assembled(tiny_release(sites)))
    assert (found[:2, :, :, 1] == 0).all()


def test_a_sound_that_only_a_site_knows_is_left_out(assembled: Any) -> None:
    sites = tiny_sites()
    end = sites["ARM029a"].trials[-1][1]
    sites["ARM029a"].trials.append(("STIM_00cat5_rec1_ferret_excerpt1.wav", end + 1))
    data = assembled(tiny_release(sites))
    assert data.header["stim"].values.tolist() == SOUNDS
    np.testing.assert_array_equal(response(data), trial_counts(tiny_sites()))


def test_the_signals_of_the_population_may_order_sounds_differently(assembled: Any) -> None:
    release = tiny_release()
    expected = assembled(release).header["spectrogram"]
    turned = epochs((sound, TRIAL_S * i) for i, sound in enumerate(SOUNDS[::-1]))
    release[POPULATION]["A1_NAT4/A1_NAT4.stim.epoch.csv"] = turned
    np.testing.assert_array_equal(assembled(release).header["spectrogram"], expected[::-1])


def test_the_sound_is_on_between_the_silences(assembled: Any) -> None:
    attrs = assembled(tiny_release()).header["time"].attrs
    assert (attrs["sound_on"], attrs["sound_off"], attrs["bin_width"]) == (0.05, 0.15, 0.01)


@pytest.mark.parametrize(
    "row",
    [
        "PreStimSilence,-5.0,-4.0",
        f"{SOUNDS[0]},{-TRIAL_S},0.0",
        "PostStimSilence,0.0,0.01",
        "PreStimSilence,nan,nan",
    ],
)
def test_silences_and_sounds_apart_do_not_say_when_the_sound_is_on(
    row: str, assembled: Any
) -> None:
    release = tiny_release()
    release[POPULATION]["A1_NAT4/A1_NAT4.resp.epoch.csv"] += f"{row}\n".encode()
    attrs = assembled(release).header["time"].attrs
    assert (attrs["sound_on"], attrs["sound_off"]) == (0.05, 0.15)


# --- what must not be --------------------------------------------------------------------------


def population(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    release = tiny_release()
    change(release[POPULATION])
    return release


def site(**changes: Any) -> dict[str, Any]:
    """A release whose first site has other members: bytes by the end of their names."""
    release = tiny_release()
    members = release[SITES][archive_name("ARM029a")]
    for part, content in changes.items():
        members[f"ARM029a/ARM029a.{part.replace('_', '.')}"] = content
    return release


def trials(*onsets: float, length: float = TRIAL_S, sound: str = VAL[0]) -> dict[str, Any]:
    rows = "".join(f"{sound},{t},{t + length}\n" for t in onsets)
    return site(resp_epoch_csv=f"name,start,end\n{rows}".encode())


def about_site(fs: float, n_samples: int = 10**6) -> dict[str, Any]:
    return site(resp_json=about_signal("PointProcess", CELLS[:2], fs, n_samples))


def population_epochs(rows: list[tuple[str, float]], signal: str = "resp") -> dict[str, Any]:
    events = epochs(rows)
    return population(lambda p: p.update({f"A1_NAT4/A1_NAT4.{signal}.epoch.csv": events}))


def population_about(fs: float, kind: str = "RasterizedSignal") -> dict[str, Any]:
    about = about_signal(kind, CELLS, fs, 80)
    return population(lambda p: p.update({"A1_NAT4/A1_NAT4.resp.json": about}))


def without(member: str) -> dict[str, Any]:
    return population(lambda p: p.pop(f"A1_NAT4/A1_NAT4.{member}"))


def named(cell: str = CELLS[0], sound: str = SOUNDS[3]) -> dict[str, Any]:
    """A release in which a cell or a sound has another name."""
    release = tiny_release(cells=[cell, *CELLS[1:]])
    events = epochs(
        (f'"{name}"', TRIAL_S * i) for i, name in enumerate([*SOUNDS[:3], sound.replace('"', '""')])
    )
    for signal in ("stim", "resp"):
        release[POPULATION][f"A1_NAT4/A1_NAT4.{signal}.epoch.csv"] = events
    return release


def same_cells_at_two_sites() -> dict[str, Any]:
    sites = tiny_sites()
    other = Site({cell: [0.1] for cell in sites["ARM029a"].spikes}, sites["ARM029a"].trials)
    return tiny_release(sites | {"ARM030a": other}, cells=[*CELLS, "a", "b"])


def points_population() -> dict[str, Any]:
    release = population_about(100, "PointProcess")
    release[POPULATION]["A1_NAT4/A1_NAT4.resp.h5"] = h5({cell: [0.5] for cell in CELLS})
    return release


def raster_site() -> dict[str, Any]:
    release = tiny_release()
    site = raster("ARM029a", "resp", CELLS[:2], np.ones((99, 2)), epochs([(VAL[0], 0.0)]))
    release[SITES][archive_name("ARM029a")] = site
    return release


def huge_site() -> dict[str, Any]:
    """A release in which a site says that it holds a file of more than 2 GiB."""
    release = tiny_release()
    huge = tarfile.TarInfo("ARM029a/other")
    huge.size = 2**31 + 1
    release[SITES][archive_name("ARM029a")] = huge.tobuf()
    return release


SITE = archive_name("ARM029a").rpartition("/")[2]
BAD = {
    "no stim": (lambda: without("stim.json"), POPULATION, "no JSON"),
    "no resp": (lambda: without("resp.csv"), POPULATION, "csv.* missing"),
    "resp of another rate": (lambda: population_about(1000), POPULATION, "'resp'.*100 Hz"),
    "resp of event times": (lambda: points_population(), POPULATION, "'resp'.*raster"),
    "no sounds": (lambda: population_epochs([]), POPULATION, "no sound"),
    "a sound twice": (
        lambda: population_epochs([(SOUNDS[0], TRIAL_S * i) for i in range(4)]),
        POPULATION,
        "twice",
    ),
    "more sounds than can be": (
        lambda: population_epochs([(f"STIM_{i}.wav", 0.0) for i in range(2**15 + 1)]),
        POPULATION,
        "32,769 sounds",
    ),
    "a sound outside": (lambda: population_epochs([(SOUNDS[0], 0.7)]), POPULATION, "no sound"),
    "a sound before the start": (
        lambda: population_epochs([(SOUNDS[0], -0.1)]),
        POPULATION,
        "no sound",
    ),
    "sounds that stim lacks": (
        lambda: population_epochs([(SOUNDS[0], 0.0)], "stim"),
        POPULATION,
        "same sounds",
    ),
    "too many repeats": (
        lambda: tiny_release({"ARM029a": tiny_sites(128)["ARM029a"]}),
        SITE,
        "128 times",
    ),
    "bins of no whole samples": (lambda: about_site(1024), SITE, "1024 Hz"),
    "a rate below the bins'": (lambda: about_site(1e-9), SITE, "1e-09 Hz"),
    "a rate without end": (lambda: about_site(1e300), SITE, "fs"),
    "a length without end": (lambda: about_site(1000, 10**400), SITE, "."),
    "a site of gigabytes": (lambda: huge_site(), SITE, "2,147,483,649 bytes"),
    "a site of rasters": (lambda: raster_site(), SITE, "no spike times"),
    "a cell at two sites": (lambda: same_cells_at_two_sites(), "A1_ARM030a", CELLS[0]),
    "a cell under two names": (
        lambda: site(
            resp_json=about_signal("PointProcess", ["TNC013a-0022-3"], 1000, 10**6),
            resp_h5=h5({"TNC013a-0022-3": []}),
        ),
        "A1_TNC013a",
        "TNC013a-22-3",
    ),
    "a formula for a cell": (lambda: named(cell="=cmd|' /C calc'!A0"), POPULATION, "unsafe"),
    "a formula for a sound": (
        lambda: named(sound="STIM_cat1_rec1_=cmd|'/C calc'!A0_excerpt1.wav"),
        POPULATION,
        "unsafe",
    ),
    "a command for a cell that only a site knows": (
        lambda: site(
            resp_json=about_signal("PointProcess", [CELLS[0], "\x1b[2J"], 1000, 10**6),
            resp_h5=h5({CELLS[0]: [], "\x1b[2J": []}),
        ),
        SITE,
        r"unsafe name '\\x1b\[2J'",
    ),
    "a formula for a sound that only a site knows": (
        lambda: with_epoch("STIM_cat1_rec1_=1+1_excerpt1.wav,900,901"),
        SITE,
        "unsafe name '=1",
    ),
    "a command to the terminal": (lambda: named(cell="\x1b[2J"), POPULATION, "unsafe"),
    "a line break": (lambda: named(sound="STIM_a\nb.wav"), POPULATION, "unsafe"),
    "a name of zeros": (lambda: named(cell="ARM029a\0"), POPULATION, "unsafe"),
    "half a character": (lambda: named(cell="\ud800"), POPULATION, "unsafe"),
    "no name": (lambda: named(cell=""), POPULATION, "unsafe"),
    "a name without end": (lambda: named(sound="STIM_" + "_rec1_" * 10**4), POPULATION, "60,005"),
}


@pytest.mark.reliability
@pytest.mark.parametrize(("release", "file", "problem"), BAD.values(), ids=BAD.keys())
def test_a_release_that_contradicts_itself_is_refused(
    release: Callable[[], dict[str, Any]], file: str, problem: str, assembled: Any
) -> None:
    with pytest.raises(ReleaseError, match=rf"(?s){file}.*{problem}"):
        assembled(release())


ARM_EPOCHS = "ARM029a/ARM029a.resp.epoch.csv"


def with_epoch(row: str) -> dict[str, Any]:
    """A release with one more epoch at site ARM029a, long after the others."""
    release = tiny_release()
    members = release[SITES][archive_name("ARM029a")]
    members[ARM_EPOCHS] += f"{row}\n".encode()
    members["ARM029a/ARM029a.resp.json"] = about_signal("PointProcess", CELLS[:2], 1000, 10**6)
    return release


def test_the_table_of_cells_is_named_when_it_is_broken(assembled: Any) -> None:
    with pytest.raises(ReleaseError, match=TABLE):
        assembled(tiny_release() | {TABLE: b"a page that says 404"})


def test_data_cannot_be_changed_by_accident(assembled: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        assembled(tiny_release()).onsets = None


@pytest.mark.parametrize(
    ("value", "fits"),
    [(0, True), (254, True), (255, False), (0.5, False), (-1, False), (np.nan, True), (1e9, False)],
)
def test_counts_are_stored_as_bytes_only_if_nothing_is_lost(
    value: float, fits: bool, assembled: Any
) -> None:
    published = np.zeros((len(SOUNDS), N_TIME, 3))
    published[3, 5, 1] = value
    assert assembled(tiny_release(psth=published)).counts_fit_a_byte() == fits


@pytest.mark.parametrize(("count", "fits"), [(254, True), (255, False)])
def test_many_spikes_in_a_bin_are_all_counted(count: int, fits: bool, assembled: Any) -> None:
    data = assembled(tiny_release({"ARM029a": Site({CELLS[0]: [0.5] * count}, [(VAL[0], 0.5)])}))
    assert response(data)[0, 0, 0, 0] == count
    assert data.counts_fit_a_byte() == fits


def test_an_est_sound_may_have_been_repeated_at_a_site(assembled: Any) -> None:
    trials = [(EST[0], i * TRIAL_S) for i in range(200)]
    data = assembled(tiny_release({"ARM029a": Site({CELLS[0]: [0.5]}, trials)}))
    assert n_reps(data) == [[0], [0], [1], [1]]


def test_a_broken_population_recording_does_not_wait_for_all_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tiny_release()
    site = next(iter(release[SITES].values()))
    release[SITES] = {archive_name(f"ARM{i:03d}a"): site for i in range(50)}
    release[POPULATION] = {"A1_NAT4/A1_NAT4.resp.json": b"not JSON"}
    sites_read = []
    failed = threading.Event()

    def read(source: Path | bytes, **options: Any) -> nems.Recording:
        if isinstance(source, bytes):
            failed.wait(10)
            sites_read.append(options["label"])
            return nems_read(source, **options)
        try:
            return nems_read(source, **options)
        finally:
            failed.set()

    nems_read = nems.read
    monkeypatch.setattr(nems, "read", read)
    with pytest.raises(ReleaseError, match="is not JSON"):
        nat4xr.open_area("A1", write(release, tmp_path), progressbar=False)
    assert len(sites_read) < 50
