"""Odd releases that NEMS0 reads are read, and each oddity gives one warning.

There is one release for each rule. The expected counts are computed here, one spike at a time.
"""

import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import nat4xr
from nat4xr.io import notes

from .support.releases import (
    N_TIME,
    POPULATION,
    SITES,
    SOUNDS,
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
)
from .support.releases import write as write_release

SITE, OTHER = tiny_sites(3).values()
ROWS = [(sound, onset, onset + TRIAL_S) for sound, onset in SITE.trials]
END = SITE.trials[-1][1] + TRIAL_S
CELL = "ARM029a-04-1"
FOLDER = "ARM029a/ARM029a"

Row = tuple[str, float, float]


class Odd(NamedTuple):
    """A release with an oddity, and what it means."""

    rows: list[Row]  # the epochs of site ARM029a, as its file lists them
    meant: list[Row]  # its presentations, in order of time
    spikes: dict[str, list[float]] = SITE.spikes
    noted: str | None = None
    count: int = 1
    change: Callable[[dict[str, Any]], object] = lambda release: None


def counted(meant: Iterable[Row], spikes: dict[str, list[float]]) -> np.ndarray:
    """All trials, (stim, rep, time, cell): NaN where there is no sample."""
    counts = np.full((len(SOUNDS), 20, N_TIME, len(spikes)), np.nan)
    reps = dict.fromkeys(SOUNDS, 0)
    for sound, start, end in meant:
        n_bins = min(N_TIME, math.floor((round(end * 1000) - round(start * 1000)) / 10))
        for cell, times in enumerate(spikes.values()):
            in_trial = binned([t for t in times if math.isfinite(t)], start)
            counts[SOUNDS.index(sound), reps[sound], :n_bins, cell] = in_trial[:n_bins]
        reps[sound] += 1
    return counts


def expected(odd: Odd) -> np.ndarray:
    """The trials of both sites, (stim, rep, time, neuron)."""
    rows = [(sound, onset, onset + TRIAL_S) for sound, onset in OTHER.trials]
    parts = [counted(odd.meant, odd.spikes), counted(rows, OTHER.spikes)]
    return np.concatenate(parts, axis=-1)


def release_of(odd: Odd) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of bins that no trial has
        psth = np.nanmean(expected(odd), axis=1)
    release = tiny_release(tiny_sites(3), psth=psth)
    members = release[SITES][archive_name("ARM029a")]
    rows = "".join(f"{name},{start!r},{end!r}\n" for name, start, end in odd.rows)
    members[f"{FOLDER}.resp.epoch.csv"] = f"name,start,end\n{rows}".encode()
    members[f"{FOLDER}.resp.h5"] = h5(odd.spikes)
    odd.change(release)
    return release


def shifted(gap: float) -> list[Row]:
    """The trials one after another, a fixed time from onset to onset."""
    onsets = [round(i * gap, 3) for i in range(len(ROWS))]
    return [
        (name, on, round(on + TRIAL_S, 3)) for (name, _, _), on in zip(ROWS, onsets, strict=True)
    ]


def lasting(seconds: float, of: str = VAL[0]) -> list[Row]:
    """The trials, the first of a sound with another duration."""
    first = next(i for i, (name, _, _) in enumerate(ROWS) if name == of)
    rows = list(ROWS)
    rows[first] = (of, ROWS[first][1], ROWS[first][1] + seconds)
    return rows


def more(*rows: Row, noted: str | None = None) -> Odd:
    """The trials, and epochs that are none."""
    return Odd([*rows[:1], *ROWS, *rows[1:]], ROWS, noted=noted, count=len(rows))


def unordered(times: list[float]) -> list[float]:
    return np.random.default_rng(0).permutation(times).tolist()


def with_times(*times: float) -> dict[str, list[float]]:
    """The spikes, and further times of one cell."""
    return SITE.spikes | {CELL: [*times, *SITE.spikes[CELL]]}


def with_cell(release: dict[str, Any]) -> None:
    """Add a cell to a site, which the population recording lacks."""
    spikes = SITE.spikes | {"ARM029a-99-1": [0.1]}
    members = release[SITES][archive_name("ARM029a")]
    members[f"{FOLDER}.resp.h5"] = h5(spikes)
    members[f"{FOLDER}.resp.json"] = about_signal(
        "PointProcess", list(spikes), 1000, round(1000 * END)
    )


def with_site(release: dict[str, Any]) -> None:
    """Add a site to the zip, which the population recording lacks."""
    site = Site({"TNC022a-08-1": [0.1]}, [(VAL[0], 0.0)])
    release[SITES][archive_name("TNC022a")] = site_recording("TNC022a", site)


def with_signals(release: dict[str, Any]) -> None:
    """Add signals that nobody asks for, one of them broken."""
    events = epochs([(VAL[0], 0.0)])
    pupil = raster("ARM029a", "pupil", ["pupil"], np.ones((50, 1)), events)
    pupil[f"{FOLDER}.lick.csv"] = b"not a number"
    release[SITES][archive_name("ARM029a")] |= pupil
    release[POPULATION] |= raster("A1_NAT4", "pupil", ["pupil"], np.ones((50, 1)), events)


def without_stim_epochs(release: dict[str, Any]) -> None:
    del release[POPULATION]["A1_NAT4/A1_NAT4.stim.epoch.csv"]


def with_empty_stim_epochs(release: dict[str, Any]) -> None:
    release[POPULATION]["A1_NAT4/A1_NAT4.stim.epoch.csv"] = b"name,start,end\n"


def with_mask_of_one_column(release: dict[str, Any]) -> None:
    about = json.loads(release[POPULATION]["A1_NAT4/A1_NAT4.resp.json"])
    release[POPULATION]["A1_NAT4/A1_NAT4.mask_est.json"] = json.dumps(about).encode()


def twice_in_population(release: dict[str, Any]) -> None:
    for signal in ("resp", "stim"):
        name = f"A1_NAT4/A1_NAT4.{signal}.epoch.csv"
        header, *rows = release[POPULATION][name].decode().splitlines(keepends=True)
        release[POPULATION][name] = "".join([header, *rows, *reversed(rows)]).encode()


def copied(release: dict[str, Any]) -> None:
    """Put a recording into the zip once more, under the name of its site."""
    release[SITES]["A1_single_sites/ARM029a.tar"] = release[SITES][archive_name("ARM029a")]


NOISE = [(name, start - 1e-10, end + 1e-10) for name, start, end in ROWS]
TWICE = [ROWS[0], *ROWS, ROWS[3]]
FEWER = [row for i, row in enumerate(ROWS) if row[0] != VAL[0] or i == len(ROWS) - 1]
MORE = [(VAL[0], round(END + 0.2 * i, 3), round(END + 0.2 * (i + 1), 3)) for i in range(20)]
OUTSIDE = [
    (VAL[0], 1000.0, 1000.2),
    (VAL[0], END - 0.1, END + 0.1),
    (VAL[0], -0.5, -0.3),
    (VAL[0], -0.1, 0.1),
    (VAL[0], math.inf, math.inf),
    (VAL[0], 0.0, math.inf),
    (VAL[0], math.nan, math.nan),
    (VAL[0], 1e300, 1e300),
    (VAL[0], 0.3, 0.1),
    (VAL[0], 0.3, 0.3),
]

RULES = {
    "trials that overlap by a sample": Odd(shifted(0.199), shifted(0.199)),
    "trials that overlap by half": Odd(shifted(0.1), shifted(0.1)),
    "a trial cut at the end of a bin": Odd(lasting(0.13), lasting(0.13), noted=notes.CUT),
    "a trial cut within a bin": Odd(lasting(0.125), lasting(0.125), noted=notes.CUT),
    "a trial cut before its first bin": Odd(lasting(0.003), lasting(0.003), noted=notes.CUT),
    "a trial that is a sample short": Odd(lasting(0.199), ROWS),
    "a trial that is a sample long": Odd(lasting(0.201), ROWS),
    "a trial that lasts too long": Odd(lasting(0.26), ROWS, noted=notes.LONG),
    "epochs twice": Odd(TWICE, ROWS, noted=notes.TWICE, count=2),
    "all epochs twice": Odd([*ROWS, *NOISE], ROWS, noted=notes.TWICE, count=len(ROWS)),
    "epochs in any order": Odd([*ROWS[3:], *ROWS[2::-1]], ROWS),
    "times with float noise": Odd(NOISE, ROWS),
    "a start just below zero": Odd(
        [(name, start - 1e-10 - ROWS[0][1], end - ROWS[0][1]) for name, start, end in ROWS],
        [(name, start - ROWS[0][1], end - ROWS[0][1]) for name, start, end in ROWS],
    ),
    "epochs outside the recording": more(*OUTSIDE, noted=notes.OUTSIDE),
    "other epochs at infinity": more(("SESSION", -math.inf, math.inf), ("LATE", 1e300, 1e301)),
    "spikes in any order": Odd(
        ROWS, ROWS, {cell: unordered(times) for cell, times in SITE.spikes.items()}
    ),
    "spikes before the start": Odd(ROWS, ROWS, with_times(-0.001, -3e9), notes.NO_TIME, 2),
    "spikes at no time": Odd(
        ROWS, ROWS, with_times(math.nan, math.inf, -math.inf, 1e300), notes.NO_TIME, 4
    ),
    "fewer presentations": Odd(FEWER, FEWER),
    "a sound that was never presented": Odd(
        [row for row in ROWS if row[0] != VAL[1]], [row for row in ROWS if row[0] != VAL[1]]
    ),
    "more presentations": Odd([*ROWS, *MORE[:17]], [*ROWS, *MORE[:17]]),
    "a sound that only the site has": Odd(
        [*ROWS, ("STIM_other.wav", 0.0, 1.0)], ROWS, noted=notes.UNKNOWN_SOUNDS
    ),
    "a cell that only the site has": Odd(ROWS, ROWS, noted=notes.UNKNOWN_CELLS, change=with_cell),
    "a site that only the zip has": Odd(ROWS, ROWS, noted=notes.UNKNOWN_CELLS, change=with_site),
    "a recording twice": Odd(ROWS, ROWS, noted=notes.COPIES, change=copied),
    "other signals": Odd(ROWS, ROWS, change=with_signals),
    "stim without epochs": Odd(ROWS, ROWS, change=without_stim_epochs),
    "stim with no sound among its epochs": Odd(ROWS, ROWS, change=with_empty_stim_epochs),
    "a mask of one column for all cells": Odd(ROWS, ROWS, change=with_mask_of_one_column),
    "epochs of the population twice": Odd(
        ROWS, ROWS, noted=notes.TWICE, count=4, change=twice_in_population
    ),
}


@pytest.fixture(params=RULES.values(), ids=RULES.keys())
def odd(request: pytest.FixtureRequest) -> Odd:
    return request.param


def said(record: list[warnings.WarningMessage]) -> list[str]:
    return [str(warning.message) for warning in record]


def write(odd: Odd, folder: Path) -> Path:
    release = release_of(odd)
    members = release[SITES][archive_name("ARM029a")]
    if odd.rows[-1] in MORE:  # the recording is longer
        end = max(end for _, _, end in odd.rows)
        about = about_signal("PointProcess", list(odd.spikes), 1000, round(1000 * end))
        members[f"{FOLDER}.resp.json"] = about
    return write_release(release, folder)


def test_trials_are_those_that_were_meant(odd: Odd, tmp_path: Path) -> None:
    folder = write(odd, tmp_path)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        ds = nat4xr.open_area("A1", folder, progressbar=False).load()
    np.testing.assert_array_equal(ds.response, expected(odd))
    assert len(record) == (odd.noted is not None), said(record)
    if record:
        where = POPULATION if odd.count == 4 and odd.noted == notes.TWICE else SITES
        assert f"({odd.count})" in said(record)[0]
        assert where in said(record)[0]
    presented = ~np.isnan(ds.response).all("time")
    assert (ds.n_reps >= presented.sum("rep")).all()


def test_spikes_and_bins_of_any_width_follow(odd: Odd, tmp_path: Path) -> None:
    folder = write(odd, tmp_path)
    with warnings.catch_warnings(record=True) as record:
        warnings.simplefilter("always")
        spikes = nat4xr.open_spikes("A1", folder, progressbar=False)
    assert len(record) == (odd.noted is not None), said(record)
    counts = expected(odd)
    found = nat4xr.bin_spikes(spikes, 10)
    n_reps = found.sizes["rep"]
    np.testing.assert_array_equal(found, counts[:, :n_reps])
    assert np.isnan(counts[:, n_reps:]).all()
    for dt_ms in (1, 5, 20, 50):
        ds = nat4xr.open_area("A1", folder, dt_ms=dt_ms)[["response", "psth"]].load()
        if dt_ms < 10:
            folded = ds.response.values.reshape(*counts.shape[:2], N_TIME, -1, counts.shape[-1])
            np.testing.assert_array_equal(folded.sum(axis=3), counts)
            mean = ds.response.mean("rep").transpose("stim", "time", "neuron")
            np.testing.assert_allclose(ds.psth, mean, rtol=1e-6)
        else:
            folded = counts.reshape(*counts.shape[:2], -1, dt_ms // 10, counts.shape[-1])
            np.testing.assert_array_equal(ds.response, folded.sum(axis=3))
            np.testing.assert_array_equal(
                nat4xr.bin_spikes(spikes, dt_ms), folded.sum(axis=3)[:, :n_reps]
            )


def test_verify_finds_no_fault_and_lists_what_was_left_out_or_repaired(
    odd: Odd, tmp_path: Path
) -> None:
    folder = write(odd, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nat4xr.open_spikes("A1", folder, progressbar=False)
        checks = nat4xr.verify("A1", folder).set_index("check")
    assert not (checks["ok"] == False).any(), checks[checks["ok"] == False]  # noqa: E712
    listed = set(notes.MESSAGES) - {notes.OVERLAPPING}
    if odd.noted:
        assert checks.loc[odd.noted, "found"] == odd.count
    assert set(checks.index) & listed == ({odd.noted} if odd.noted else set())


def test_trials_that_overlap_are_counted_by_verify(tmp_path: Path) -> None:
    folder = write(RULES["trials that overlap by half"], tmp_path)
    row = nat4xr.verify("A1", folder).set_index("check").loc[notes.OVERLAPPING]
    assert row["found"] == len(ROWS) - 1
    assert row.isna()["ok"]


def test_a_spike_in_two_trials_stands_in_both(tmp_path: Path) -> None:
    odd = RULES["trials that overlap by half"]
    spikes = nat4xr.open_spikes("A1", write(odd, tmp_path), progressbar=False)
    at_site = spikes.trial_site == "ARM029a"
    in_trials = int(spikes.n_spikes.where(at_site).sum())
    assert in_trials == np.nansum(expected(odd)[..., : len(SITE.spikes)])
    last = odd.meant[-1][2]
    assert in_trials > sum(time < last for times in odd.spikes.values() for time in times)
    assert int(spikes.n_outside.sel(neuron=CELL)) == sum(t >= last for t in odd.spikes[CELL])


def test_spikes_say_how_long_trials_are_if_one_was_cut_short(tmp_path: Path) -> None:
    cut = write(RULES["a trial cut within a bin"], tmp_path / "cut")
    with pytest.warns(UserWarning, match="cut short"):
        spikes = nat4xr.open_spikes("A1", cut, progressbar=False)
    durations = spikes.trial_duration.values
    assert sorted(durations)[:2] == [0.125, 0.2]
    whole = write(RULES["times with float noise"], tmp_path / "whole")
    whole_spikes = nat4xr.open_spikes("A1", whole, progressbar=False)
    assert "trial_duration" not in whole_spikes.variables


@pytest.mark.parametrize("signals", [("resp", "stim"), ("resp",)])
def test_a_sound_of_the_population_that_was_cut_short_is_nan_after_its_end(
    signals: tuple[str, ...], tmp_path: Path
) -> None:
    release = tiny_release(tiny_sites(3))
    rows = [(sound, TRIAL_S * i, TRIAL_S * (i + 1)) for i, sound in enumerate(SOUNDS)]
    rows[3] = (SOUNDS[3], rows[3][1], rows[3][1] + 0.15)
    rows[0] = (SOUNDS[0], rows[0][1], rows[0][1] + 0.3)
    events = "".join(f"{name},{start!r},{end!r}\n" for name, start, end in rows)
    for signal in signals:
        release[POPULATION][f"A1_NAT4/A1_NAT4.{signal}.epoch.csv"] = (
            f"name,start,end\n{events}".encode()
        )
    with pytest.warns(UserWarning, match=POPULATION) as record:
        ds = nat4xr.open_area("A1", write_release(release, tmp_path), progressbar=False)
    assert [POPULATION in text and "(1)" in text for text in said(list(record))] == [True, True]
    psth = tiny_psth(tiny_sites(3))
    psth[3, 15:] = np.nan
    np.testing.assert_array_equal(ds.psth, psth.astype(np.float32))
    np.testing.assert_array_equal(ds.response[3, 0], psth[3].astype(np.float32))
    assert (ds.n_reps[3] == 1).all()
    assert ds.spectrogram[3].isnull().sum() == ("stim" in signals) * 18 * 5


def test_sounds_of_the_population_may_overlap(tmp_path: Path) -> None:
    release = tiny_release(tiny_sites(3))
    events = epochs((sound, 0.15 * i) for i, sound in enumerate(SOUNDS))
    for signal in ("resp", "stim"):
        release[POPULATION][f"A1_NAT4/A1_NAT4.{signal}.epoch.csv"] = events
    ds = nat4xr.open_area("A1", write_release(release, tmp_path), progressbar=False)
    table = tiny_psth(tiny_sites(3)).reshape(-1, 3).astype(np.float32)
    np.testing.assert_array_equal(ds.psth[1], table[15:35])


# --- the release that NEMS0 wrote --------------------------------------------------------------

SHARED = Path(__file__).parents[1] / "../shared/release-odd"


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no odd release of NEMS0 beside it")
@pytest.mark.parametrize("area", ["A1", "PEG"])
def test_an_odd_release_of_nems0_is_read_as_nems0_reads_it(area: str, tmp_path: Path) -> None:
    for file in SHARED.glob(f"{area}_*"):
        shutil.copy(file, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = nat4xr.open_area(area, tmp_path, progressbar=False)
        spikes = nat4xr.open_spikes(area, tmp_path, progressbar=False)
        checks = nat4xr.verify(area, tmp_path)
    reference = np.load(SHARED / "reference.npz")
    stims, trials = reference["all_stims"], reference[f"{area}_trials"]
    ds = ds.sel(stim=stims, neuron=reference[f"{area}_cells"])
    np.testing.assert_array_equal(ds.psth, reference[f"{area}_psth"])
    np.testing.assert_array_equal(ds.spectrogram, reference[f"{area}_spectrogram"])
    np.testing.assert_array_equal(ds.auditory, reference[f"{area}_auditory"])
    val = ds.sel(stim=stims[: len(trials)])
    np.testing.assert_array_equal(val.response, trials)
    counts = nat4xr.bin_spikes(spikes, 10).sel(stim=val.stim, neuron=val.neuron)
    np.testing.assert_array_equal(counts, trials)
    assert not (checks["ok"] == False).any()  # noqa: E712
    assert {notes.CUT, notes.LONG, notes.TWICE, notes.OVERLAPPING} <= set(checks["check"])


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no odd release of NEMS0 beside it")
@pytest.mark.parametrize("area", ["A1", "PEG"])
def test_a_mask_of_an_odd_release_is_the_one_channel_that_it_is(area: str) -> None:
    population = nat4xr.open_recording(SHARED / f"{area}_NAT4_ozgf.fs100.ch18.tgz")
    assert population["mask_est"].shape == (1050, 1)
