"""Finding the release in a folder: as published, or unpacked by hand in any of the usual ways."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from nat4xr import ReleaseError
from nat4xr.io import nems
from nat4xr.io.assemble import assemble
from nat4xr.io.release import AreaFiles, auditory_flags, find_area, site_recordings

from .support.releases import POPULATION, SITES, TABLE, packed, tiny_release, write, zipped

STEM = POPULATION.removesuffix(".tgz")
CELLS = ["ARM029a-04-1", "ARM029a-07-6", "TNC013a-22-3"]


def found(folder: Path) -> AreaFiles:
    files = find_area("A1", folder)
    assert isinstance(files, AreaFiles), f"missing: {files}"
    return files


def listing(folder: Path) -> list[tuple[Path, int]]:
    return [(file, file.stat().st_mtime_ns) for file in sorted(folder.rglob("*"))]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    folder = write(tiny_release(), tmp_path_factory.mktemp("published"))
    return assemble("A1", found(folder)).header


# --- layouts -----------------------------------------------------------------------------------

# What may stand for the population archive: a name, and what of the archive stands under it.
POPULATIONS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "as published": lambda members: {POPULATION: members},
    "renamed tar.gz": lambda members: {f"{STEM}.tar.gz": packed("x.tar.gz", members)},
    "gunzipped": lambda members: {f"{STEM}.tar": packed("x.tar", members)},
    "unpacked": dict,
    "unpacked into a folder": lambda members: {f"{STEM}/{m}": c for m, c in members.items()},
    "wrapped in one more": lambda members: {f"A1_NAT4/{m}": c for m, c in members.items()},
}
TOP = "A1_single_sites/"


def unpacked(sites: dict[str, Any]) -> dict[str, Any]:
    return {f"{TOP}{m}": c for members in sites.values() for m, c in members.items()}


SITE_LAYOUTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "as published": lambda sites: {SITES: sites},
    "unpacked": dict,
    "wrapped in one more": lambda sites: {TOP + name: site for name, site in sites.items()},
    "with their archives unpacked": unpacked,
    "each in a folder of its own": lambda sites: {
        f"{name.removesuffix('.tgz')}/{m}": c
        for name, members in sites.items()
        for m, c in members.items()
    },
    "ends in capitals": lambda sites: {
        SITES: {name.replace(".tgz", ".TGZ"): packed(name, site) for name, site in sites.items()}
    },
    "gunzipped in the zip": lambda sites: {
        SITES: {name.replace(".tgz", ".tar"): site for name, site in sites.items()}
    },
    "gunzipped in a folder": lambda sites: {
        name.replace(".tgz", ".tar"): site for name, site in sites.items()
    },
    "some unpacked": lambda sites: (
        unpacked(dict(list(sites.items())[:1])) | dict(list(sites.items())[1:])
    ),
    "zipped on a Mac": lambda sites: {
        SITES: {"__MACOSX/A1_single_sites/._A1_ARM029a.tgz": b"\0\5\x16\7"} | sites
    },
    "unpacked on a Mac": lambda sites: (
        sites | {f"{TOP}.DS_Store": b"", f"{TOP}__MACOSX/._A1_ARM029a.tgz": b"\0\5\x16\7"}
    ),
}


@pytest.mark.parametrize("sites", SITE_LAYOUTS)
@pytest.mark.parametrize("population", POPULATIONS)
def test_any_mixture_of_packed_and_unpacked_is_read_in_place(
    population: str, sites: str, published: xr.Dataset, tmp_path: Path
) -> None:
    release = tiny_release()
    folder = tmp_path / "données NAT4"
    write(POPULATIONS[population](release[POPULATION]), folder)
    write(SITE_LAYOUTS[sites](release[SITES]), folder)
    write({TABLE: release[TABLE]}, folder)
    before = listing(tmp_path)
    data = assemble("A1", found(folder))
    assert listing(tmp_path) == before
    xr.testing.assert_identical(data.header, published)


def test_the_archive_wins_over_a_folder_beside_it(tmp_path: Path) -> None:
    release = tiny_release()
    write({**release, **release[POPULATION], **release[SITES]}, tmp_path)
    assert found(tmp_path) == AreaFiles(tmp_path / POPULATION, tmp_path / SITES, tmp_path / TABLE)


@pytest.mark.parametrize("missing", [[POPULATION], [SITES, TABLE], [POPULATION, SITES, TABLE]])
def test_missing_files_are_listed(missing: list[str], tmp_path: Path) -> None:
    write({n: c for n, c in tiny_release().items() if n not in missing}, tmp_path)
    assert find_area("A1", tmp_path) == missing


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert find_area("A1", tmp_path / "none") == [POPULATION, SITES, TABLE]


def test_an_area_does_not_take_the_files_of_the_other(tmp_path: Path) -> None:
    write(tiny_release(), tmp_path)
    assert len(find_area("PEG", tmp_path)) == 3


def test_of_several_unpacked_folders_the_exact_name_is_taken(tmp_path: Path) -> None:
    release = tiny_release()
    write({**release[POPULATION], **release, "A1_NAT4 notes/note.txt": b""}, tmp_path)
    (tmp_path / POPULATION).unlink()
    assert found(tmp_path).population == tmp_path / "A1_NAT4"


@pytest.mark.reliability
def test_several_folders_that_may_be_the_unpacked_one_are_refused(tmp_path: Path) -> None:
    release = tiny_release()
    copies = {
        m.replace("A1_NAT4/", f"A1_NAT4 {copy}/"): c
        for copy in ("new", "old")
        for m, c in release[POPULATION].items()
    }
    write({**release, **copies}, tmp_path)
    (tmp_path / POPULATION).unlink()
    with pytest.raises(ReleaseError, match=r"A1_NAT4 new, A1_NAT4 old"):
        find_area("A1", tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
@pytest.mark.parametrize("name", [POPULATION, f"{STEM}.tar", SITES, TABLE])
def test_a_pipe_is_not_taken_for_a_file(name: str, tmp_path: Path) -> None:
    write(tiny_release(), tmp_path)
    published = f"{STEM}.tgz" if name.startswith(STEM) else name
    (tmp_path / published).unlink()
    os.mkfifo(tmp_path / name)
    assert find_area("A1", tmp_path) == [published]


# --- links -------------------------------------------------------------------------------------


@pytest.fixture
def unpacked_folder(tmp_path: Path) -> Path:
    """A release that is unpacked, sites and all."""
    release = tiny_release()
    parts = {**release[POPULATION], **unpacked(release[SITES]), TABLE: release[TABLE]}
    return write(parts, tmp_path / "release")


# Below the parts: a wrapping folder, a site, a file that is read, one that is not.
LINKED = ["A1_single_sites/more", "A1_single_sites/ARM029a", "A1_NAT4/more", "A1_NAT4/note.txt",
          "A1_single_sites/ARM029a/ARM029a.resp.h5", "A1_NAT4/A1_NAT4.resp.csv"]  # fmt: skip


@pytest.mark.reliability
@pytest.mark.parametrize("to", ["the same", "nothing", "itself"])
@pytest.mark.parametrize("name", LINKED)
def test_a_link_in_an_unpacked_part_is_refused(
    name: str, to: str, unpacked_folder: Path, tmp_path: Path
) -> None:
    link, elsewhere = unpacked_folder / name, tmp_path / "elsewhere"
    if link.exists():
        link.rename(elsewhere)
    else:
        elsewhere.mkdir()
    link.symlink_to({"the same": elsewhere, "nothing": tmp_path / "none", "itself": link}[to])
    part, _, inside = name.partition("/")
    with pytest.raises(ReleaseError, match=rf"{part}: {inside} is a link"):
        find_area("A1", unpacked_folder)


@pytest.mark.reliability
@pytest.mark.parametrize("part", ["A1_single_sites", "A1_NAT4"])
def test_an_unpacked_part_may_itself_be_a_link(
    part: str, unpacked_folder: Path, published: xr.Dataset, tmp_path: Path
) -> None:
    (unpacked_folder / part).rename(tmp_path / "elsewhere")
    (unpacked_folder / part).symlink_to(tmp_path / "elsewhere")
    seen = found(unpacked_folder).fingerprint()
    xr.testing.assert_identical(assemble("A1", found(unpacked_folder)).header, published)
    os.utime(max((tmp_path / "elsewhere").rglob("*.json")), (0, 0))
    assert found(unpacked_folder).fingerprint() != seen


@pytest.mark.reliability
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_in_an_unpacked_part_is_refused(unpacked_folder: Path) -> None:
    os.mkfifo(unpacked_folder / "A1_single_sites" / "A1_TNC.tgz")
    with pytest.raises(ReleaseError, match=r"A1_single_sites: A1_TNC.tgz is .*plain file"):
        find_area("A1", unpacked_folder)


@pytest.mark.parametrize("part", ["A1_single_sites", "A1_NAT4"])
def test_folders_may_lie_a_thousand_deep_below_an_unpacked_part(
    part: str, unpacked_folder: Path
) -> None:
    deepest = str(unpacked_folder / part)
    for _ in range(1100):
        deepest += "/d"
        os.mkdir(deepest)
    try:
        assert found(unpacked_folder).fingerprint()
    finally:
        for _ in range(1100):
            os.rmdir(deepest)
            deepest = deepest[:-2]


# --- fingerprint -------------------------------------------------------------------------------


@pytest.mark.parametrize("unpack", [False, True])
def test_the_fingerprint_is_of_names_sizes_and_times(
    unpack: tuple[str, ...], tmp_path: Path
) -> None:
    release = tiny_release()
    write(release[SITES] if unpack else {SITES: release[SITES]}, tmp_path)
    write(release[POPULATION] if unpack else {POPULATION: release[POPULATION]}, tmp_path)
    write({TABLE: release[TABLE]}, tmp_path)
    files = found(tmp_path)
    seen = {files.fingerprint()}
    assert files.fingerprint() in seen
    for part in (files.population, files.sites, files.table):
        file = max(part.rglob("*")) if part.is_dir() else part
        os.utime(file, ns=(0, file.stat().st_mtime_ns - 10**9))  # earlier is a change as well
        assert found(tmp_path).fingerprint() not in seen
        seen.add(found(tmp_path).fingerprint())


def test_files_may_have_names_in_any_encoding(unpacked_folder: Path) -> None:
    try:
        (unpacked_folder / "A1_NAT4" / os.fsdecode(b"note\xff.txt")).touch()
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    assert found(unpacked_folder).fingerprint()


# --- the table of cells ------------------------------------------------------------------------


def flags(text: str | bytes, tmp_path: Path, cells: list[str] = CELLS) -> list[bool]:
    (tmp_path / TABLE).write_bytes(text if isinstance(text, bytes) else text.encode())
    return auditory_flags(tmp_path / TABLE, cells)


def test_a_table_of_terabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / TABLE).open("wb") as file:
        file.truncate(2**40)  # which takes no room on the disk
    with pytest.raises(ReleaseError, match=rf"{TABLE}: 1,099,511,627,776 bytes"):
        auditory_flags(tmp_path / TABLE, CELLS)


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("True", "False"),
        ("1", "0"),
        ("1.0", "0.0"),
        ("TRUE", "FALSE"),
        (" true", ""),
        ("yes", "no"),
        ("Y", "N"),
        ("T", "F"),
        ("true", "nan"),
    ],
)
def test_flags_are_read_however_they_are_written(yes: str, no: str, tmp_path: Path) -> None:
    text = f"cellid,sig_auditory\n{CELLS[0]},{yes}\n{CELLS[2]},{yes}\n{CELLS[1]},{no}\n"
    assert flags(text, tmp_path) == [True, False, True]


def test_a_cell_without_a_row_is_not_auditory_and_a_warning_says_so(tmp_path: Path) -> None:
    text = f"cellid,sig_auditory\n{CELLS[1]},True\n"
    with pytest.warns(UserWarning, match=f"{TABLE} has no row for 2 of 3 cells"):
        assert flags(text, tmp_path) == [False, True, False]


def test_a_cell_is_found_under_its_padded_name(tmp_path: Path) -> None:
    text = "cellid,sig_auditory\nTNC013a-022-3,True\n"
    assert flags(text, tmp_path, CELLS[2:]) == [True]


def test_other_columns_and_cells_do_not_matter(tmp_path: Path) -> None:
    text = f',sig_auditory,"a,b",cellid\n0,True,nan,{CELLS[0]}\n1,True,,DRX006b-1-1\n'
    assert flags(text, tmp_path, CELLS[:1]) == [True]


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "."),
        (b"\xff\xfe\xff", "."),
        ("a page that says 404", "no column"),
        ("cellid,LN_test\nARM029a-04-1,0.5\n", "no column sig_auditory"),
        ("cell,sig_auditory\nARM029a-04-1,True\n", "no column cellid"),
        ("cellid,sig_auditory\nARM029a-04-1,maybe\n", "'maybe'.*ARM029a-04-1"),
        ("cellid,sig_auditory\nARM029a-04-1,2\n", "'2'.*ARM029a-04-1"),
        ("cellid,sig_auditory\nARM029a-04-1,1\nARM029a-04-1,0\n", "two .*ARM029a-04-1"),
        ("cellid,sig_auditory\nTNC013a-022-3,1\nTNC013a-0022-3,1\n", "TNC013a-22-3"),
        ("cellid,sig_auditory\na,1\nb,1,1,1\n", "."),
        ("cellid,sig_auditory\n0,a,1\n1,b,1\n", "3 fields.*line 2.* 2 "),
        (",,cellid,sig_auditory\n0,a,1\n1,b,1\n", "3 fields.*line 2.* 4 "),
        ("cellid,sig_auditory,sig_auditory\na,1,0\n", "more than one column sig_auditory"),
        ('cellid,sig_auditory\n"a,1\n', "."),
    ],
)
def test_a_broken_table_is_refused(text: str | bytes, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=f"(?s){TABLE}.*{problem}"):
        flags(text, tmp_path)


# --- broken zips -------------------------------------------------------------------------------


def read_all(content: bytes, tmp_path: Path) -> list[str]:
    (tmp_path / SITES).write_bytes(content)
    return [
        nems.read(source, label=label).name for label, source in site_recordings(tmp_path / SITES)
    ]


def sites_zip() -> bytes:
    return packed(SITES, tiny_release()[SITES])


def altered(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


def encrypted() -> bytes:
    content = bytearray(sites_zip())
    for mark, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        at = content.find(mark)
        content[at + flags] |= 1
    return bytes(content)


def compressed(method: int) -> bytes:
    """A zip that says that its members are compressed so, which they are not."""
    content = bytearray(sites_zip())
    for mark, place in ((b"PK\1\2", 10), (b"PK\3\4", 8)):
        at = -1
        while (at := content.find(mark, at + 1)) >= 0:
            content[at + place : at + place + 2] = method.to_bytes(2, "little")
    return bytes(content)


def displaced() -> bytes:
    """A zip that says that its members stand before its beginning."""
    content = bytearray(sites_zip())
    content[content.index(b"PK\5\6") + 16] ^= 255
    return bytes(content)


def flipped(at: float) -> bytes:
    content = bytearray(sites_zip())
    content[int(at * len(content))] ^= 16
    return bytes(content)


@pytest.mark.reliability
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda: b"", id="an empty file"),
        pytest.param(lambda: b"a page that says 404", id="no zip"),
        pytest.param(lambda: sites_zip()[:-100], id="cut short"),
        pytest.param(lambda: sites_zip()[: len(sites_zip()) // 2], id="half of it"),
        pytest.param(lambda: flipped(0.2), id="a flipped bit"),
        pytest.param(lambda: zipped({}), id="nothing in it"),
        pytest.param(lambda: zipped({"A1_single_sites/": b"", "note.txt": b"hi"}), id="no site"),
        pytest.param(lambda: zipped({"sites.zip": sites_zip()}), id="a zip in a zip"),
        pytest.param(lambda: zipped({"A1_ARM029a.tgz": sites_zip()}), id="a zip called tgz"),
        pytest.param(lambda: zipped({"A1_ARM029a.tgz": b""}), id="an empty site"),
        pytest.param(encrypted, id="encrypted"),
        pytest.param(displaced, id="members before its beginning"),
        *(pytest.param(lambda m=m: compressed(m), id=f"compression {m}") for m in (1, 8, 12, 14)),
        pytest.param(
            lambda: altered(zipped({"é.tgz": b""}), "é".encode(), b"\xff\xff"), id="no UTF-8"
        ),
    ],
)
def test_a_broken_zip_is_refused(content: Callable[[], bytes], tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=SITES):
        read_all(content(), tmp_path)


def test_a_broken_site_is_named(tmp_path: Path) -> None:
    content = zipped({"A1_single_sites/A1_ARM029a_0.tgz": b"a page that says 404"})
    with pytest.raises(ReleaseError, match=f"A1_ARM029a_0.tgz in {SITES}"):
        read_all(content, tmp_path)


def test_no_site_has_a_command_to_the_terminal_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=rf"'\\x1b\[2J.tgz' in {SITES}"):
        read_all(zipped({"\x1b[2J.tgz": b"no archive"}), tmp_path)


def test_a_site_that_claims_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAT4XR_LIMITS", "1e-4")
    content = zipped({"A1_ARM029a.tgz": bytes(30_000)})
    with pytest.raises(ReleaseError, match=rf"A1_ARM029a.tgz in {SITES}: 30,000 .*NAT4XR_LIMITS"):
        read_all(content, tmp_path)


@pytest.mark.reliability
def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAT4XR_LIMITS", "5e-5")
    with pytest.raises(ReleaseError, match=f"{SITES}: 2 files in a zip.*NAT4XR_LIMITS"):
        read_all(sites_zip(), tmp_path)


@pytest.mark.reliability
@pytest.mark.parametrize("name", ["../../A1_ARM029a.tgz", "/A1_ARM029a.tgz", "données/音.tgz"])
def test_a_zip_is_read_in_place_whatever_its_names(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    site = next(iter(tiny_release()[SITES].values()))
    assert read_all(zipped({name: packed("x.tgz", site)}), folder) == ["ARM029a"]
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == [SITES]


def test_a_folder_without_sites_is_refused(tmp_path: Path) -> None:
    (tmp_path / "A1_single_sites").mkdir()
    with pytest.raises(ReleaseError, match=r"A1_single_sites: .*no site"):
        list(site_recordings(tmp_path / "A1_single_sites"))
