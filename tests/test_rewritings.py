"""Releases with the same content in another form are read as the same data."""

import gzip
import io
import json
import re
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nat4xr

from .support import naive
from .support.releases import (
    POPULATION,
    SITES,
    TABLE,
    VAL,
    Site,
    archive_name,
    epochs,
    packed,
    raster,
    site_recording,
    tar,
    tiny_release,
    tiny_sites,
    write,
)

Release = dict[str, Any]
Rewriting = Callable[[Release], object]

SITE = archive_name("ARM029a")
RESP, STIM = "A1_NAT4/A1_NAT4.resp", "A1_NAT4/A1_NAT4.stim"
AT_SITE = "ARM029a/ARM029a.resp"


# --- how a file is rewritten -------------------------------------------------------------------


def of_population(end: str, change: Callable[[bytes], bytes]) -> Rewriting:
    """Change the files of the population recording whose names end so."""

    def rewrite(release: Release) -> None:
        members = release[POPULATION]
        for name in [name for name in members if name.endswith(end)]:
            members[name] = change(members[name])

    return rewrite


def of_sites(end: str, change: Callable[[bytes], bytes]) -> Rewriting:
    """Change the files of all sites whose names end so."""

    def rewrite(release: Release) -> None:
        for members in release[SITES].values():
            for name in [name for name in members if name.endswith(end)]:
                members[name] = change(members[name])

    return rewrite


def of_table(change: Callable[[bytes], bytes]) -> Rewriting:
    return lambda release: release.update({TABLE: change(release[TABLE])})


def both(*rewritings: Rewriting) -> Rewriting:
    return lambda release: [rewrite(release) for rewrite in rewritings]


def of_epochs(change: Callable[[bytes], bytes]) -> Rewriting:
    return both(of_population(".epoch.csv", change), of_sites(".epoch.csv", change))


def of_json(change: Callable[[dict[str, Any]], Any]) -> Rewriting:
    """Change what the JSON files of signals hold."""

    def rewritten(content: bytes) -> bytes:
        return json.dumps(change(json.loads(content))).encode()

    return both(
        of_population("resp.json", rewritten),
        of_population("stim.json", rewritten),
        of_sites("resp.json", rewritten),
    )


def with_mark(content: bytes) -> bytes:
    return b"\xef\xbb\xbf" + content


def with_crlf(content: bytes) -> bytes:
    return content.replace(b"\n", b"\r\n")


def with_blank_lines(content: bytes) -> bytes:
    return b"\n" + content.replace(b"\n", b"\n\n", 3) + b"\n \n".replace(b" ", b"")


def rows(change: Callable[[list[str], list[list[str]]], Iterable[list[str]]]) -> Any:
    """A change of the header and rows of a table, split into fields."""

    def rewritten(content: bytes) -> bytes:
        header, *body = (line.split(",") for line in content.decode().splitlines())
        return "".join(",".join(row) + "\n" for row in change(header, body)).encode()

    return rewritten


def numbers(form: Callable[[float], str]) -> Callable[[bytes], bytes]:
    """A change of how the numbers of a raster are written."""
    return lambda content: re.sub(
        rb"[^,\n]+", lambda match: form(float(match[0])).encode(), content
    )


def with_noise(header: list[str], body: list[list[str]]) -> list[list[str]]:
    return [header, *([n, repr(float(a) + 1e-10), repr(float(b) - 1e-10)] for n, a, b in body)]


def column(name: str, form: Callable[[str], str]) -> Any:
    """A change of one column of the table of cells."""

    def change(header: list[str], body: list[list[str]]) -> list[list[str]]:
        i = header.index(name)
        return [header, *([*row[:i], form(row[i]), *row[i + 1 :]] for row in body)]

    return of_table(rows(change))


def of_flags(yes: str, no: str) -> Rewriting:
    return column("sig_auditory", lambda flag: yes if flag == "True" else no)


def of_hdf5(*, file: dict[str, Any] | None = None, **options: Any) -> Rewriting:
    """Write the spike times in another way."""

    def rewritten(content: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "x.h5"
            with h5py.File(io.BytesIO(content)) as old, h5py.File(target, "w", **file or {}) as new:
                for name in old:
                    new.create_dataset(name, data=old[name][()], **options)
            return target.read_bytes()

    return of_sites(".h5", rewritten)


def in_hdf5(change: Callable[[h5py.File], object]) -> Rewriting:
    """Change HDF5 files in place."""

    def rewritten(content: bytes) -> bytes:
        file = io.BytesIO(content)
        with h5py.File(file, "r+") as opened:
            change(opened)
        return file.getvalue()

    return of_sites(".h5", rewritten)


def unordered(file: h5py.File) -> None:
    for name in file:
        file[name][...] = np.random.default_rng(0).permutation(file[name][()])


def of_tars(pack: Callable[[dict[str, bytes]], bytes]) -> Rewriting:
    """Write all archives in another way."""

    def rewrite(release: Release) -> None:
        release[POPULATION] = pack(release[POPULATION])
        release[SITES] = {name: pack(members) for name, members in release[SITES].items()}

    return rewrite


def archive(
    members: dict[str, bytes],
    form: int = tarfile.GNU_FORMAT,
    folders: Iterable[str] = (),
    label: bytes = b"",
    prefix: str = "",
) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as tarball:
        for folder in folders:
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            tarball.addfile(entry)
        for name, content in members.items():
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(content)
            entry.mtime = 1.5 if form == tarfile.PAX_FORMAT else 0
            tarball.addfile(entry, io.BytesIO(content))
    first = tarfile.TarInfo("backup")
    first.type = label
    return gzip.compress((first.tobuf(tarfile.GNU_FORMAT) if label else b"") + file.getvalue(), 1)


def of_zip(method: int = zipfile.ZIP_STORED, before: bytes = b"", **more: bytes) -> Rewriting:
    """Write the zip in another way."""

    def rewrite(release: Release) -> None:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as target:
            target.comment = b"from the laboratory"
            target.writestr("A1_single_sites/", b"")
            for name, members in release[SITES].items():
                target.writestr(name, packed(name, members))
            for name, content in more.items():
                target.writestr(name, content)
        release[SITES] = before + file.getvalue()

    return rewrite


def renamed(change: Callable[[str], str]) -> Rewriting:
    """Give the archives of the sites other names."""
    return lambda release: release.update(
        {SITES: {change(name): members for name, members in release[SITES].items()}}
    )


def unpacked_beside(release: Release) -> None:
    """Unpack the zip and leave the unpacked sites beside their archives."""
    for name, members in release.pop(SITES).items():
        release[name] = members
        release |= {f"A1_single_sites/{member}": c for member, c in members.items()}


def unpacked_population(release: Release) -> None:
    release |= release.pop(POPULATION)


def unpacked_sites(release: Release) -> None:
    for members in release.pop(SITES).values():
        release |= {f"A1_single_sites/{member}": c for member, c in members.items()}


def of_site(name: str, content: bytes) -> Rewriting:
    return lambda release: release[SITES][SITE].update({name: content})


def more_signals(release: Release) -> None:
    events = epochs([(VAL[0], 0.0)])
    release[SITES][SITE] |= raster("ARM029a", "pupil", ["pupil"], np.ones((9, 1)), events)
    release[POPULATION] |= raster("A1_NAT4", "pupil", ["pupil"], np.ones((9, 1)), events)


def one_more_site(release: Release) -> None:
    site = Site({"TNC022a-08-1": [0.1]}, [(VAL[0], 0.0)])
    release[SITES][archive_name("TNC022a")] = site_recording("TNC022a", site)


def mask_for_all_cells(release: Release) -> None:
    release[POPULATION]["A1_NAT4/A1_NAT4.mask_est.json"] = release[POPULATION][f"{RESP}.json"]


def last_first(release: Release) -> None:
    for name in (POPULATION, SITES, *()):
        release[name] = dict(reversed(release[name].items()))
    release[SITES] = {k: dict(reversed(v.items())) for k, v in release[SITES].items()}


REWRITINGS: dict[str, Rewriting] = {
    # numbers
    "rasters: a byte order mark": of_population("resp.csv", with_mark),
    "rasters: blank lines": of_population("resp.csv", with_blank_lines),
    "rasters: a blank line at the end": of_population("resp.csv", lambda c: c + b"\n"),
    "rasters: CRLF": of_population("resp.csv", with_crlf),
    "rasters: no line end at the end": of_population("resp.csv", lambda c: c.removesuffix(b"\n")),
    "rasters: numbers as short as can be": of_population("resp.csv", numbers(repr)),
    "rasters: capital E": of_population("m.csv", lambda c: c.replace(b"e", b"E")),
    "rasters: plus signs": of_population("stim.csv", numbers(lambda x: f"{x:+.17e}")),
    "rasters: spaces around numbers": of_population("resp.csv", numbers(lambda x: f" {x!r} ")),
    # epochs
    "epochs: a byte order mark": of_epochs(with_mark),
    "epochs: blank lines": of_epochs(with_blank_lines),
    "epochs: lines of spaces": of_epochs(lambda c: c.replace(b"\n", b"\n  \n", 2)),
    "epochs: CRLF": of_epochs(with_crlf),
    "epochs: no line end at the end": of_epochs(lambda c: c.removesuffix(b"\n")),
    "epochs: rows twice": of_epochs(rows(lambda header, body: [header, *body, *body])),
    "epochs: rows backwards": of_epochs(rows(lambda header, body: [header, *body[::-1]])),
    "epochs: columns backwards": of_epochs(
        rows(lambda header, body: [row[::-1] for row in (header, *body)])
    ),
    "epochs: a numbered column": of_epochs(
        rows(lambda header, body: [["", *header], *([str(i), *row] for i, row in enumerate(body))])
    ),
    "epochs: a further column": of_epochs(
        rows(lambda header, body: [[*header, "note"], *([*row, "x"] for row in body)])
    ),
    "epochs: quotes": of_epochs(
        rows(lambda header, body: [[f'"{text}"' for text in row] for row in (header, *body)])
    ),
    "epochs: spaces in the header": of_epochs(lambda c: c.replace(b"name,start", b"name , start")),
    "epochs: float noise": of_epochs(rows(with_noise)),
    "epochs: times with more digits": of_epochs(
        rows(lambda header, body: [header, *([n, f"{a}000", f"{b}0"] for n, a, b in body)])
    ),
    "epochs: others at infinity": of_epochs(lambda c: c + b"SESSION,-inf,inf\n"),
    "epochs: others at no time": of_epochs(lambda c: c + b"SESSION,,\n"),
    "epochs: sounds at infinity": of_epochs(lambda c: c + f"{VAL[0]},inf,inf\n".encode()),
    "epochs: sounds after the end": of_epochs(lambda c: c + f"{VAL[0]},900,900.2\n".encode()),
    "epochs: none of stim": lambda release: release[POPULATION].pop(f"{STIM}.epoch.csv"),
    # JSON
    "JSON: indented": both(
        of_population(".json", lambda c: json.dumps(json.loads(c), indent=2).encode()),
        of_sites(".json", lambda c: json.dumps(json.loads(c), indent=2).encode()),
    ),
    "JSON: a byte order mark": of_population("resp.json", with_mark),
    "JSON: keys backwards": of_json(lambda about: dict(reversed(about.items()))),
    "JSON: further keys": of_json(lambda about: about | {"norm_gain": [[1]], "x": None}),
    "JSON: a rate with a point": of_json(lambda about: about | {"fs": float(about["fs"])}),
    "JSON: no segments": of_json(lambda about: {k: v for k, v in about.items() if k != "segments"}),
    "JSON: no meta": of_json(lambda about: about | {"meta": None}),
    "JSON: rasters do not say so": of_population(
        ".json", lambda c: re.sub(rb', "signal_type": "[^"]*"', b"", c)
    ),
    "JSON: no meta data": lambda release: [
        members.pop(name)
        for members in (release[POPULATION], *release[SITES].values())
        for name in [n for n in members if n.endswith(".meta.json")]
    ],
    # HDF5
    "HDF5: no compression": of_hdf5(),
    "HDF5: lzf": of_hdf5(compression="lzf"),
    "HDF5: shuffled, with checksums": of_hdf5(compression="gzip", shuffle=True, fletcher32=True),
    "HDF5: small chunks": of_hdf5(chunks=(7,), maxshape=(None,)),
    "HDF5: large chunks": of_hdf5(chunks=(100_000,), maxshape=(None,), compression="gzip"),
    "HDF5: big-endian": of_hdf5(dtype=">f8"),
    "HDF5: paged file space": of_hdf5(file={"fs_strategy": "page", "fs_persist": True}),
    "HDF5: the latest format": of_hdf5(file={"libver": "latest"}),
    "HDF5: a user block": of_hdf5(file={"userblock_size": 512}),
    "HDF5: a group": in_hdf5(lambda file: file.create_group("info")),
    "HDF5: attributes": in_hdf5(lambda file: file.attrs.update({"by": "someone"})),
    "HDF5: a further dataset": in_hdf5(lambda file: file.create_dataset("z", data=[0.5])),
    "HDF5: spikes in any order": in_hdf5(unordered),
    # tar
    "tar: 3 MiB of zeros at the end": of_tars(lambda m: gzip.compress(tar(m) + bytes(3 * 2**20))),
    "tar: no zeros at the end": of_tars(lambda m: gzip.compress(tar(m).rstrip(b"\0") + bytes(512))),
    "tar: not compressed": of_tars(tar),
    "tar: compressed in pieces": of_tars(
        lambda m: gzip.compress(tar(m)[:1000]) + gzip.compress(tar(m)[1000:])
    ),
    "tar: PAX": of_tars(lambda m: archive(m, tarfile.PAX_FORMAT)),
    "tar: USTAR": of_tars(lambda m: archive(m, tarfile.USTAR_FORMAT)),
    "tar: folders": of_tars(lambda m: archive(m, folders=["A1_NAT4", "ARM029a/x"])),
    "tar: the label of a volume": of_tars(lambda m: archive(m, label=b"V")),
    "tar: names that begin with a dot": of_tars(lambda m: archive(m, prefix="./")),
    "tar: droppings of macOS": of_tars(
        lambda m: tar({f"x/._{name.rpartition('/')[2]}": b"\0" for name in m} | m)
    ),
    "tar: a further file": of_tars(lambda m: tar({"README.txt": b"hello"} | m)),
    "members in the other order": last_first,
    # zip
    "zip: deflated": of_zip(zipfile.ZIP_DEFLATED),
    "zip: bzip2": of_zip(zipfile.ZIP_BZIP2),
    "zip: LZMA": of_zip(zipfile.ZIP_LZMA),
    "zip: bytes before it": of_zip(before=b"#!/bin/sh\n" * 99),
    "zip: droppings of macOS": of_zip(
        **{f"__MACOSX/A1_single_sites/._{SITE.rpartition('/')[2]}": b"\0", ".DS_Store": b"\0"}
    ),
    "zip: further files": of_zip(**{"README.txt": b"hello", "A1_single_sites/list.csv": b"a"}),
    "zip: no folder": renamed(lambda name: name.rpartition("/")[2]),
    "zip: short names": renamed(lambda name: name[:-45] + ".tgz"),
    "zip: capital letters": renamed(lambda name: name.replace(".tgz", ".TGZ")),
    "zip: tar.gz": renamed(lambda name: name.replace(".tgz", ".tar.gz")),
    "zip: a recording twice": lambda release: release[SITES].update(
        {"A1_single_sites/again.tgz": release[SITES][SITE]}
    ),
    "zip: one more site": one_more_site,
    # folders
    "the zip is unpacked, and the archives in it, too": unpacked_beside,
    "the sites are unpacked": unpacked_sites,
    "the population recording is unpacked": unpacked_population,
    # the table
    "table: a byte order mark": of_table(with_mark),
    "table: blank lines": of_table(with_blank_lines),
    "table: CRLF": of_table(with_crlf),
    "table: spaces after ids": column("cellid", lambda cell: f"{cell} "),
    "table: spaces before ids": column("cellid", lambda cell: f" {cell}"),
    "table: quoted ids": column("cellid", lambda cell: f'"{cell}"'),
    "table: one more zero in ids": column("cellid", lambda cell: cell.replace("-22-", "-022-")),
    "table: spaces around flags": of_flags(" True ", " False"),
    "table: yes and no": of_flags("yes", "no"),
    "table: Y and N": of_flags("Y", "N"),
    "table: T and F": of_flags("T", "F"),
    "table: 1 and 0": of_flags("1", "0"),
    "table: 1.0 and nothing": of_flags("1.0", ""),
    "table: spaces in the header": of_table(lambda c: c.replace(b",cellid,", b", cellid ,")),
    "table: rows twice": of_table(rows(lambda header, body: [header, *body, *body])),
    "table: rows backwards": of_table(rows(lambda header, body: [header, *body[::-1]])),
    "table: columns backwards": of_table(
        rows(lambda header, body: [row[::-1] for row in (header, *body)])
    ),
    "table: other cells": of_table(lambda c: c + b"9,DRX006b-1-1,0.5,True\n"),
    # signals
    "further signals": more_signals,
    "a mask of one column for all cells": mask_for_all_cells,
}
LAYOUTS = [name for name in REWRITINGS if name.startswith("the ")]


def base() -> Release:
    release = tiny_release(tiny_sites(2))
    release[SITES] = {name: dict(members) for name, members in release[SITES].items()}
    return release


@pytest.fixture(scope="module")
def meant(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the release means, by the reader of the tests."""
    return naive.read(write(base(), tmp_path_factory.mktemp("base")))


def assert_means(meant: dict[str, Any], release: Release, folder: Path) -> None:
    write(release, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = nat4xr.open_area("A1", folder, chunks=None, progressbar=False)
        spikes = nat4xr.open_spikes("A1", folder, progressbar=False)
    for name in ("stim", "neuron", "response", "psth", "spectrogram", "n_reps", "auditory"):
        np.testing.assert_array_equal(ds[name], meant[name], err_msg=name)
    n_spikes = spikes.n_spikes.values
    found = zip(
        np.repeat(spikes.trial_stim.values, n_spikes).tolist(),
        np.repeat(spikes.trial_rep.values, n_spikes).tolist(),
        spikes.neuron.values[spikes.spike_neuron.values].tolist(),
        spikes.spike_sample.values.tolist(),
        strict=True,
    )
    assert sorted(found) == sorted(spike[:4] for spike in meant["spikes"])


@pytest.mark.parametrize("name", REWRITINGS)
def test_a_release_that_means_the_same_is_read_as_the_same(
    name: str, meant: dict[str, Any], tmp_path: Path
) -> None:
    release, before = base(), base()
    REWRITINGS[name](release)
    assert release != before or name == "members in the other order"
    assert_means(meant, release, tmp_path)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.permutations([name for name in REWRITINGS if re.match("rast|epo|JSON|HDF5|table", name)]))
def test_rewritings_may_come_together(
    meant: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    """One of each kind of file, and a layout."""
    release = base()
    for kind in ("rasters", "JSON", "HDF5"):
        REWRITINGS[next(name for name in names if name.startswith(kind))](release)
    REWRITINGS["epochs: rows backwards"](release)
    REWRITINGS[LAYOUTS[len(names[0]) % len(LAYOUTS)]](release)
    assert_means(meant, release, tmp_path_factory.mktemp("rewritten"))


def test_there_are_many_rewritings() -> None:
    assert len(REWRITINGS) >= 40
