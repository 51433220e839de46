"""Fuzzing: a changed release is either read correctly or refused.

Each example opens a changed release in a separate process, which may take 10 s and 500 MB, and may
only write to the folder of the release. The result is compared with that of a second reader,
naive.py. The usual run always uses the same 200 releases. With HYPOTHESIS_PROFILE=nightly, each run
uses 2,000 others.
"""

import copy
import hashlib
import io
import json
import math
import os
import pickle
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .support import naive
from .support.forks import Run, forks
from .support.releases import POPULATION, SITES, packed, tiny_release, tiny_sites, write

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
EXAMPLES = 2000 if NIGHTLY else 200

BASE = tiny_release(tiny_sites(3))
TAR = POPULATION.replace(".tgz", ".tar")

Release = dict[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]


# --- reading in a process of its own -----------------------------------------------------------

READ = """
import pickle, resource
file = open({result!r}, "wb")
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
signal.alarm(120)
if os.path.exists("/proc/self/statm"):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 500 * 2**20,) * 2)

def watch(event, arguments):
    changes = event in ("os.mkdir", "os.rename", "os.remove", "os.link", "os.symlink")
    if changes or event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        for path in arguments[: 1 if event in ("open", "os.mkdir", "os.remove") else 2]:
            if not (os.path.realpath(path) + os.sep).startswith({folder!r} + os.sep):
                os.write(2, f"{{event}} outside the folder: {{path}}\\n".encode())
                os._exit(2)

sys.addaudithook(watch)
try:
    ds = nat4xr.open_area("A1", {folder!r}, chunks=None, download=False, progressbar=False)
    result = {{name: ds[name].values for name in {names!r}}}
    result["simulated"] = ds.attrs["simulated"]
    spikes = nat4xr.open_spikes("A1", {folder!r}, download=False, progressbar=False)
    n_spikes = spikes["n_spikes"].values
    cells = spikes["neuron"].values[spikes["spike_neuron"].values].tolist()
    trials = [spikes[name].values.tolist() for name in ("trial_stim", "trial_rep", "trial_onset")]
    times = [spikes[name].values.tolist() for name in ("spike_sample", "spike_time")]
    of_spikes = [np.repeat(values, n_spikes).tolist() for values in trials[:2]]
    result["spikes"] = sorted(zip(*of_spikes, cells, *times))
    result["trials"] = sorted(zip(*trials))
    result["n_outside"] = spikes["n_outside"].values
except (nat4xr.ReleaseError, FileNotFoundError) as error:
    result = str(error)
pickle.dump(result, file)
file.close()
"""
NAMES = [
    "stim",
    "neuron",
    "trials_cell_id",
    "auditory",
    "response",
    "psth",
    "spectrogram",
    "n_reps",
    "time",
    "freq",
    *naive.LABELS,
]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with forks() as run:
        yield run


def check(release: Release, unpack: list[str], run: Run) -> str:
    """Open a release; say whether it was read, as a second reader reads it, or refused."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root).resolve() / "a" / "b" / "release"  # names may point upwards
        write(release, folder, unpack=unpack)
        result = Path(root) / "result"
        assert run(READ.format(folder=str(folder), result=str(result), names=NAMES)) == [0]
        above = [path for path in Path(root).rglob("*") if folder not in (path, *path.parents)]
        assert {path.name for path in above} == {"a", "b", "result"}  # and nothing beside them
        data = pickle.loads(result.read_bytes())
        if isinstance(data, str):
            assert data
            return "refused"
        expected = naive.read(folder)
    assert expected.keys() == data.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(data[name], values, err_msg=name)
    return "read"


# --- what is changed ---------------------------------------------------------------------------


def leaves(content: dict[str, Any], end: str = "") -> list[tuple[dict[str, Any], str]]:
    """Where files of a kind stand in a release: the folder or archive, and the name."""
    found = []
    for name, inside in content.items():
        if isinstance(inside, dict):
            found += leaves(inside, end)
        elif name.endswith(end):
            found.append((content, name))
    return found


def archives(release: Release) -> list[tuple[dict[str, Any], str]]:
    sites = release[SITES]
    population = POPULATION if POPULATION in release else TAR
    return [(release, population), (release, SITES), *((sites, name) for name in sites)]


def change_bytes(draw: Draw, places: list[tuple[dict[str, Any], str]]) -> None:
    """Change some bytes of a file: of an archive as a whole, or of what is in it."""
    parent, name = draw(st.sampled_from([p for p in places if p[1] in p[0]]))
    data = bytearray(packed(name, parent[name]))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        stop = at + draw(st.sampled_from([1, 2, 8, 24, 25, 100, 512, 4096]))
        match draw(st.sampled_from(["flip", "set", "insert", "drop", "repeat", "zero", "cut"])):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if data:
                data[at] = draw(st.sampled_from(b'\0\n\r,."-+ e19nN\xff') | st.integers(0, 255))
            case "insert":
                data[at:at] = draw(st.binary(min_size=1, max_size=30))
            case "drop":
                del data[at:stop]
            case "repeat":
                data[at:at] = data[at:stop]
            case "zero":
                data[at:stop] = bytes(len(data[at:stop]))
            case "cut":
                del data[at:]
    parent[name] = bytes(data)


def change_members(draw: Draw, release: Release) -> None:
    """Change which files there are in an archive, and what they are called."""
    parent, name = draw(st.sampled_from([p for p in archives(release) if p[0].get(p[1])]))
    members = parent[name]
    if isinstance(members, bytes):
        return
    names = list(members)
    one, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    match draw(
        st.sampled_from(["drop", "empty", "swap", "rename", "copy", "shuffle", "add", "nest"])
    ):
        case "drop":
            del members[one]
        case "empty":
            members[one] = b""
        case "swap":
            members[one], members[other] = members[other], members[one]
        case "rename":
            members[draw(member_names(one))] = members.pop(one)
        case "copy":
            members[draw(member_names(one))] = copy.deepcopy(members[other])
        case "shuffle":
            for member in draw(st.permutations(names)):
                members[member] = members.pop(member)
        case "add":
            members[draw(member_names(one))] = draw(st.binary(max_size=50))
        case "nest":
            members[one] = packed("x.tgz", {one: members[one]})


def member_names(name: str) -> st.SearchStrategy[str]:
    """Other names for a member."""
    folder, _, file = name.rpartition("/")
    recording, _, end = file.partition(".")
    return st.sampled_from(
        [
            f"{folder}/._{file}",
            f"{folder}/{file.upper()}",
            f"{folder}/{file}.bak",
            f"{folder}/more/{file}",
            f"{folder}2/{file}",
            f"{folder}/other.{end}",
            f"{folder}/{recording}.more.{end}",
            f"{folder}/{recording}.resp.json",
            f"{folder}/{recording}.meta.json",
            f"{folder}/{recording}.resp.epoch.csv",
            f"{folder}/note.txt",
            f"../{file}",
            f"données/音 {file}",
            f"{'x' * 150}/{file}",
            file,
        ]
    )


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 200)
    | st.floats()
    | st.sampled_from([10**18, 10**400, 100, 1000, 1000.0, 99.99, "", "RasterizedSignal", [], {}])
    | st.text(max_size=10)
    | st.lists(st.text(max_size=3), max_size=4)
)


def change_json(draw: Draw, release: Release) -> None:
    """Change one thing in a JSON file."""
    parent, name = draw(st.sampled_from(leaves(release, ".json")))
    document = json.loads(parent[name])
    whole = {"": document}
    containers = [whole]
    for container in containers:
        inside = container.values() if isinstance(container, dict) else container
        containers += [value for value in inside if isinstance(value, dict | list) and value]
    place = draw(st.sampled_from(containers))
    key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
    match draw(st.sampled_from(["replace", "drop", "repeat", "shuffle"])):
        case "replace":
            place[key] = draw(VALUES)
        case "drop" if place is not whole:
            del place[key]
        case "repeat" if isinstance(place, list):
            place.insert(key, place[key])
        case "repeat" if place is not whole:
            place[draw(st.text(max_size=3))] = place[key]
        case "shuffle" if isinstance(place, list):
            place[:] = draw(st.permutations(place))
    parent[name] = json.dumps(whole[""]).encode()


NUMBERS = "nan NaN inf -inf 1e400 1e-400 0 -0 1 5 20 -1 0.05 0.2 0.4 1_0 0x10 1e3 1e18 1,5 ٣ １"
WORDS = 'true False None NULL NA #N/A =1+1 @x " "" "5" \ufeff . e'
FIELDS = (
    st.sampled_from((NUMBERS + " " + WORDS).split(" "))
    | st.sampled_from(["", " ", " 1 ", "1\t", "a\rb", "\0", "a\nb", '"a\nb"', "STIM_x.wav", "name"])
    | st.floats().map(repr)
    | st.text(max_size=5)
)


def change_csv(draw: Draw, release: Release) -> None:
    """Change rows, columns or fields of a CSV file."""
    parent, name = draw(st.sampled_from(leaves(release, ".csv")))
    rows = [line.split(",") for line in parent[name].decode(errors="replace").split("\n")]
    r, s = draw(st.integers(0, len(rows) - 1)), draw(st.integers(0, len(rows) - 1))
    c = draw(st.integers(0, len(rows[0]) - 1))
    end = "\n"
    ways = ["field", "field", "field", "swap", "drop", "repeat", "exchange", "columns", "column",
            "no column", "ends", "mark", "quote", "blank"]  # fmt: skip
    match draw(st.sampled_from(ways)):
        case "field":
            rows[r][min(c, len(rows[r]) - 1)] = draw(FIELDS)
        case "swap":
            a, b = min(c, len(rows[r]) - 1), min(c, len(rows[s]) - 1)
            rows[r][a], rows[s][b] = rows[s][b], rows[r][a]
        case "drop":
            del rows[r : s + 1]
        case "repeat":
            rows[r:r] = rows[r : s + 1]
        case "exchange":
            rows[r], rows[s] = rows[s], rows[r]
        case "columns":
            order = draw(st.permutations(range(len(rows[0]))))
            rows = [[row[i] for i in order] if len(row) == len(order) else row for row in rows]
        case "column":
            rows = [[*row[:c], "0", *row[c:]] if row != [""] else row for row in rows]
        case "no column":
            rows = [row[:c] + row[c + 1 :] for row in rows]
        case "ends":
            end = draw(st.sampled_from(["\r\n", "\r", "\n\n", ",\n", " \n"]))
        case "mark":
            rows[0][0] = "\ufeff" + rows[0][0]
        case "quote":
            rows = [[f'"{field}"' for field in row] if row != [""] else row for row in rows]
        case "blank":
            rows.insert(r, draw(st.sampled_from([[""], [" "], [","], ["#"]])))
    text = end.join(",".join(row) for row in rows)
    parent[name] = text.encode(draw(st.sampled_from(["utf-8"] * 9 + ["utf-16"])), "replace")


TIMES = (
    st.sampled_from([np.nan, np.inf, -np.inf, -1.0, -0.0, 1e8, 1e300, 5e-324])
    | st.integers(0, 2000).map(lambda ms: ms / 1000)
    | st.floats(0, 2)
)
KINDS = ["f2", "f4", "f8", ">f8", "i1", "i4", "i8", ">i4", "u1", "u8", "c8", "S5", "?"]
STORAGE: list[dict[str, Any]] = [
    {},
    {"compression": "gzip", "shuffle": True, "fletcher32": True},
    {"compression": "lzf"},
    {"chunks": (7,), "maxshape": (None,)},
    {"chunks": (1,)},
]


def change_hdf5(draw: Draw, release: Release) -> None:
    """Write an HDF5 file with other values, or in another way."""
    parent, name = draw(st.sampled_from(leaves(release, ".h5")))
    with h5py.File(io.BytesIO(parent[name]), "r") as file:
        arrays = {key: file[key][()] for key in file}
    one, other = (draw(st.sampled_from(list(arrays))) for _ in range(2))
    options: dict[str, dict[str, Any]] = {}
    link: Any = None
    ways = ["times", "times", "order", "cut", "kind", "shape", "storage", "drop", "rename", "swap",
            "soft link", "hard link", "group", "number", "text", "nothing"]  # fmt: skip
    match way := draw(st.sampled_from(ways)):
        case "times":
            times = arrays[one].copy()
            at = draw(st.integers(0, len(times) - 1))
            times[at : at + draw(st.sampled_from([1, 3, 1000]))] = draw(TIMES)
            arrays[one] = times
        case "order":
            arrays[one] = arrays[one][::-1]
        case "cut":
            arrays[one] = arrays[one][: draw(st.integers(0, 5))]
        case "kind":
            with np.errstate(all="ignore"):
                arrays[one] = arrays[one].astype(draw(st.sampled_from(KINDS)))
        case "shape":
            shape = draw(st.sampled_from([(-1, 1), (1, -1), (1, -1, 1)]))
            arrays[one] = arrays[one].reshape(shape)
        case "storage":
            options[one] = draw(st.sampled_from(STORAGE))
        case "drop":
            del arrays[one]
        case "rename":
            arrays[draw(st.sampled_from(["x", "ARM029a-4-1", "TNC013a-22-3", "a b", "é"]))] = (
                arrays.pop(one)
            )
        case "swap":
            arrays[one], arrays[other] = arrays[other], arrays[one]
        case "number":
            arrays[one] = arrays[one][0]
        case "text":
            arrays[one] = "text"
        case "nothing":
            arrays[one] = h5py.Empty("f8")
    content = io.BytesIO()
    with h5py.File(content, "w", libver=draw(st.sampled_from(["earliest", "latest"]))) as file:
        for key, values in arrays.items():
            if way in ("soft link", "hard link", "group") and key == one:
                link = values
            else:
                file.create_dataset(key, data=values, **options.get(key, {}))
        if link is not None:
            file["elsewhere"] = link
            file[one] = {
                "soft link": lambda: h5py.SoftLink("/elsewhere"),
                "hard link": lambda: file["elsewhere"],
                "group": lambda: file.create_group("more"),
            }[way]()
    parent[name] = content.getvalue()


CHANGES: dict[str, Callable[[Draw, Release], None]] = {
    "bytes of archives": lambda draw, release: change_bytes(draw, archives(release)),
    "bytes of files": lambda draw, release: change_bytes(draw, leaves(release)),
    "bytes of HDF5": lambda draw, release: change_bytes(draw, leaves(release, ".h5")),
    "members": change_members,
    "JSON": change_json,
    "CSV": change_csv,
    "HDF5": change_hdf5,
}


class Changed:
    """A release that was changed, and what of it is unpacked."""

    def __init__(self, release: Release, unpack: list[str]) -> None:
        self.release, self.unpack = release, unpack

    def __repr__(self) -> str:
        now, before = dict(flat(self.release)), dict(flat(BASE))
        lines = [f"<{len(self.unpack)} archives unpacked"]
        lines += [f"{name} is gone" for name in before if name not in now]
        for name, content in now.items():
            was = before.get(name, b"")
            if content != was:
                at = next((i for i, (a, b) in enumerate(zip(content, was)) if a != b), 0)  # noqa: B905
                lines.append(f"{name}, byte {at}: {was[at:][:60]!r} -> {content[at:][:60]!r}")
        return "\n".join(lines) + ">"


def flat(content: Release, folder: str = "") -> Iterator[tuple[str, bytes]]:
    for name, inside in content.items():
        name = f"{folder}{name}".replace(".tar", ".tgz")
        if isinstance(inside, dict):
            yield from flat(inside, f"{name}/")
        else:
            yield name, inside


@st.composite
def changed_releases(draw: Draw, level: str) -> Changed:
    release = copy.deepcopy(BASE)
    layout = draw(st.sampled_from(["packed", "tar", "unpacked"]))
    if layout != "packed":
        release[TAR] = release.pop(POPULATION)
    once = level in ("bytes of archives", "HDF5")
    for _ in range(1 if once else draw(st.sampled_from([1, 1, 2]))):
        CHANGES[level](draw, release)
    sites = release[SITES] if isinstance(release.get(SITES), dict) else {}
    unpack = {
        "packed": {},
        "tar": {SITES: release.get(SITES)},
        "unpacked": {TAR: release.get(TAR), SITES: release.get(SITES), **sites},
    }[layout]
    return Changed(release, [name for name, inside in unpack.items() if isinstance(inside, dict)])


def digest_of(changed: Changed) -> bytes:
    """A digest of a release, however it is packed, in the order in which it is written."""
    return hashlib.sha256(repr(list(flat(changed.release))).encode()).digest()


def test_a_release_that_was_not_changed_is_read(run: Run) -> None:
    assert check(BASE, [], run) == "read"


@pytest.mark.reliability
@pytest.mark.parametrize("level", CHANGES)
def test_a_changed_release_is_read_as_it_stands_or_refused(level: str, run: Run) -> None:
    tally: Counter[str] = Counter()
    wanted = math.ceil(EXAMPLES / len(CHANGES))
    seen = {digest_of(Changed(BASE, []))}

    @settings(
        max_examples=10 * wanted,  # many are not new, or change nothing
        derandomize=not NIGHTLY,
        deadline=None,  # each example has its own
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changed_releases(level))
    def examine(changed: Changed) -> None:
        content = digest_of(changed)
        if content not in seen and len(seen) <= wanted:
            tally[check(changed.release, changed.unpack, run)] += 1
            seen.add(content)  # not before: a failure must be seen again

    examine()
    print(level, dict(tally))
    assert tally.total() == wanted
    assert (
        tally["read"] or level == "bytes of archives"
    )  # almost any byte there is under a checksum
    assert tally["refused"]
