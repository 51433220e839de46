"""Labels parsed from names, and cells that have different names in two recordings."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nat4xr.io.labels import cell_labels, is_val, match_cells, sound_labels

NAMES = st.one_of(
    st.text(),
    st.from_regex(r"[A-Za-z]{3}[0-9]{1,12}[a-z]-[0-9]{0,12}-[0-9]{0,12}"),
    st.from_regex(r"STIM_(00)?cat[0-9]*_rec[0-9]+_.*_excerpt[0-9]*(\.wav)?"),
)


def cell(cell_id: str) -> dict[str, object]:
    return {name: values[0].item() for name, values in cell_labels([cell_id], "A1").items()}


def sound(stim: str) -> dict[str, object]:
    return {name: values[0].item() for name, values in sound_labels([stim]).items()}


# --- cells -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell_id", "animal", "recording", "session", "electrode", "unit"),
    [
        ("ARM029a-04-1", "ARM", 29, "a", 4, 1),
        ("ARM031a-33-12", "ARM", 31, "a", 33, 12),
        ("CRD016d-60-2", "CRD", 16, "d", 60, 2),
        ("DRX006b-128-2", "DRX", 6, "b", 128, 2),
        ("TNC013a-022-3", "TNC", 13, "a", 22, 3),
    ],
)
def test_a_cell_id_names_site_electrode_and_unit(
    cell_id: str, animal: str, recording: int, session: str, electrode: int, unit: int
) -> None:
    assert cell(cell_id) == {
        "cell_id": cell_id,
        "area": "A1",
        "site": cell_id[:7],
        "animal": animal,
        "recording": recording,
        "session": session,
        "electrode": electrode,
        "unit_in_electrode": unit,
    }


@pytest.mark.parametrize(
    ("cell_id", "site", "electrode", "unit"),
    [
        ("ARM029a", "ARM029a", -1, -1),
        ("ARM029a-4", "ARM029a", 4, -1),
        ("ARM029a-x-1", "ARM029a", -1, 1),
        ("ARM029a-4-1-2", "ARM029a", 4, -1),
        ("ARM-4-1", "", 4, 1),
        ("ARM029a-99999-1", "ARM029a", -1, 1),
        ("ARM029a-" + "9" * 5000 + "-1", "ARM029a", -1, 1),
        ("ARM029a-٤-1", "ARM029a", -1, 1),
        ("", "", -1, -1),
    ],
)
def test_what_a_cell_id_does_not_say_is_empty_or_minus_1(
    cell_id: str, site: str, electrode: int, unit: int
) -> None:
    labels = cell(cell_id)
    assert (labels["site"], labels["electrode"], labels["unit_in_electrode"]) == (
        site,
        electrode,
        unit,
    )
    assert (labels["animal"] == "") == (labels["session"] == "") == (site == "")
    assert (labels["recording"] == -1) == (site == "")


# --- sounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stim", "subset", "category", "what", "excerpt"),
    [
        ("STIM_00cat172_rec1_geese_excerpt1.wav", "val", 172, "geese", 1),
        ("STIM_cat172_rec1_geese_excerpt2.wav", "est", 172, "geese", 2),
        ("STIM_00cat668_rec11_ferret_fights_Athena-Violet001_excerpt1.wav", "val", 668,
         "ferret_fights_Athena-Violet001", 1),
        ("STIM_00cat28_rec1_bigband_bbc-big-band_american-patrol_0sec_excerpt1.wav", "val", 28,
         "bigband_bbc-big-band_american-patrol_0sec", 1),
        ("STIM_cat5_rec2_Rain_excerpt12.wav", "est", 5, "Rain", 12),
        ("STIM_cat5.wav", "est", -1, "", -1),
        ("STIM_torc.wav", "est", -1, "", -1),
        ("", "est", -1, "", -1),
    ],
)  # fmt: skip
def test_the_name_of_a_sound_says_what_is_heard(
    stim: str, subset: str, category: int, what: str, excerpt: int
) -> None:
    assert sound(stim) == {
        "subset": subset,
        "category": category,
        "sound": what,
        "excerpt": excerpt,
    }
    assert is_val(stim) == (subset == "val")


# --- any string at all -------------------------------------------------------------------------


@pytest.mark.reliability
@given(st.lists(NAMES, max_size=5))
@example(["\0", "a\0", "\ud800", "STIM_00cat" + "9" * 5000, "A" * 10_000])
def test_any_names_have_labels_of_the_same_kind(names: list[str]) -> None:
    for labels in (cell_labels(names, "PEG"), sound_labels(names)):
        for name, values in labels.items():
            assert values.shape == (len(names),)
            number = name in ("recording", "electrode", "unit_in_electrode", "category", "excerpt")
            assert values.dtype == np.int16 if number else values.dtype.kind == "U"
            if number:
                assert (values >= -1).all()
            else:
                assert all(isinstance(value, str) for value in values.tolist())


@given(st.from_regex("[A-Z]{3}", fullmatch=True), st.sampled_from("abcd"),
       st.integers(0, 999), st.integers(0, 32767), st.integers(0, 32767))  # fmt: skip
def test_numbers_are_read_with_zeros_before_them_or_not(
    animal: str, session: str, recording: int, electrode: int, unit: int
) -> None:
    for zeros in ("", "0", "00"):
        labels = cell(f"{animal}{zeros}{recording}{session}-{zeros}{electrode}-{zeros}{unit}")
        assert (labels["animal"], labels["session"]) == (animal, session)
        assert labels["recording"] == recording
        assert labels["electrode"] == electrode
        assert labels["unit_in_electrode"] == unit


@pytest.mark.reliability
@given(st.lists(NAMES, unique=True, max_size=6), st.lists(NAMES, unique=True, max_size=6))
def test_any_names_can_be_matched(wanted: list[str], found: list[str]) -> None:
    try:
        matches = match_cells(wanted, found)
    except ValueError:
        return
    assert set(matches) <= set(wanted)
    assert set(matches.values()) <= set(found)
    assert len(set(matches.values())) == len(matches)
    assert all(matches[name] == name for name in set(wanted) & set(found))


# --- the same cell under another name ----------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("TNC013a-22-3", "TNC013a-022-3"),
        ("TNC013a-022-3", "TNC013a-22-3"),
        ("TNC013a-22-3", "TNC13a-22-03"),
        ("TNC013a-0-3", "TNC013a-00-3"),
    ],
)
def test_a_cell_is_found_under_the_same_numbers(wanted: str, found: str) -> None:
    assert match_cells([wanted], ["TNC013a-2-3", found]) == {wanted: found}


@pytest.mark.parametrize(
    "other",
    [
        "TNC013a-22-4", "TNC013a-220-3", "TNC013b-22-3", "TNC014a-22-3", "TNB013a-22-3",
        "tnc013a-22-3", "TNC013a-22", "TNC013a-22-3-1", "TNC013a-22-3 ", "",
    ],
)  # fmt: skip
def test_another_cell_is_not_taken_for_it(other: str) -> None:
    assert match_cells(["TNC013a-22-3"], [other]) == {}


def test_the_exact_name_wins() -> None:
    assert match_cells(["T013a-22-3"], ["T013a-022-3", "T013a-22-3"]) == {
        "T013a-22-3": "T013a-22-3"
    }
    both = ["TNC013a-022-3", "TNC013a-22-3"]
    assert match_cells(both, both[::-1]) == dict(zip(both, both, strict=True))


def test_no_trials_are_given_to_two_cells() -> None:
    both = ["TNC013a-22-3", "TNC013a-022-3"]
    assert match_cells(both, ["TNC013a-022-3"]) == {"TNC013a-022-3": "TNC013a-022-3"}
    with pytest.raises(ValueError, match="TNC013a-22-3"):
        match_cells(both, ["TNC013a-0022-3"])


def test_two_names_of_one_cell_are_refused() -> None:
    with pytest.raises(ValueError, match=r"TNC013a-22-3 .* TNC013a-022-3 or TNC013a-0022-3"):
        match_cells(["TNC013a-22-3"], ["TNC013a-022-3", "TNC013a-0022-3"])


def test_a_name_that_is_no_cell_id_matches_itself_alone() -> None:
    assert match_cells(["cell 1", "cell 2"], ["cell 01", "cell 2"]) == {"cell 2": "cell 2"}
