"""Faults of real machines: killed processes, full disks, and many processes at once."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import nat4xr
from nat4xr.io import cache
from nat4xr.io.registry import FILES

from .support import skip_but_in_ci
from .support.forks import Run, forks
from .support.releases import tiny_release, tiny_sites, trial_counts, write
from .support.server import ReleaseServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork and no SIGKILL")

KILLS = 25
"""Processes killed of each kind between two calls of functions."""

TIMED_KILLS = 10
"""And of each kind at any time."""

INTERRUPTS = 12
"""Interrupts of each kind."""

OPEN = "nat4xr.open_area({area!r}, {folder!r}, download=False, progressbar=False)"
SPIKES = "nat4xr.open_spikes('A1', {folder!r}, download=False, progressbar=False)"
FETCH = "nat4xr.fetch({part!r}, {folder!r}, progressbar=False)"


# --- processes ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with forks() as run:
        yield run


# Counts the calls of functions in all threads, those of C libraries among them, from the first
# call of one of them on, and dies at one of them.
DYING = """
import threading
left, counts = {at}, {since!r} is None
def count(frame, event, function):
    global left, counts
    counts = counts or frame.f_code.co_name == {since!r}
    left -= counts  # in one step: threads change places elsewhere
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
threading.setprofile(count)
sys.setprofile(count)
{program}
sys.setprofile(None)
threading.setprofile(None)
open({log!r}, "w").write(str({at} - left))
"""


def n_calls(run: Run, program: str, log: Path, since: str | None = None) -> int:
    """How many calls a program makes: the points at which it can be killed."""
    assert run(DYING.format(at=10**9, program=program, since=since, log=str(log))) == [0]
    return int(log.read_text())


def kill(run: Run, program: str, at: int, since: str | None = None) -> None:
    assert run(DYING.format(at=at, program=program, since=since, log=os.devnull)) == [-9]


def content(folder: Path, area: str = "A1") -> np.ndarray:
    ds = nat4xr.open_area(area, folder, download=False, progressbar=False)
    return ds["response"].values


def spikes_of(folder: Path) -> int:
    """How many spikes there are, in trials and outside."""
    spikes = nat4xr.open_spikes("A1", folder, download=False, progressbar=False)
    return spikes.sizes["spike"] + int(spikes["n_outside"].sum())


def listing(folder: Path) -> dict[str, bytes]:
    """The files of a folder but for locks, which stay where they were used."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a tiny release."""
    return write(tiny_release(), tmp_path / "release")


@pytest.fixture(scope="module")
def reference() -> np.ndarray:
    """All trials of the tiny release, by a naive loop."""
    return trial_counts(tiny_sites())


# --- killed at any point -----------------------------------------------------------------------


class Calls(dict[tuple[str, str | None], int]):
    """How many calls there are in a program, counted when it is first asked."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder

    def __missing__(self, key: tuple[str, str | None]) -> int:
        program, since = key
        folder = write(tiny_release(), self.folder / str(len(self)))
        program = program.format(area="A1", part="PEG", folder=str(folder))
        # Not the last few, as it is not always the same number to one.
        self[key] = 98 * n_calls(self.run, program, self.folder / "log", since) // 100
        return self[key]


@pytest.fixture(scope="module")
def calls(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Calls:
    return Calls(run, tmp_path_factory.mktemp("calls"))


@pytest.mark.reliability
@pytest.mark.parametrize("since", [None, "_compress"], ids=["at any point", "while writing"])
@pytest.mark.parametrize("seed", range(KILLS // 2 - 2))
def test_a_killed_conversion_is_made_good_by_the_next(
    seed: int, since: str | None, run: Run, calls: Calls, folder: Path, reference: np.ndarray
) -> None:
    if seed % 2:  # a converted file that must give way is there already
        write(tiny_release(psth=np.zeros((4, 20, 3))), folder)
        content(folder)
        write(tiny_release(), folder)
    sources = {name: content for name, content in listing(folder).items() if "-v" not in name}
    at = random.Random(seed).randint(1, calls[OPEN, since])
    kill(run, OPEN.format(area="A1", folder=str(folder)), at, since)
    np.testing.assert_array_equal(content(folder), reference)
    assert listing(folder).items() >= sources.items()
    assert len(listing(folder)) == 5


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(5))
def test_a_killed_conversion_of_spikes_is_made_good_by_the_next(
    seed: int, run: Run, calls: Calls, folder: Path
) -> None:
    program = SPIKES.format(folder=str(folder))
    content(folder)
    since = "write_spikes"
    kill(run, program, random.Random(seed).randint(1, calls[SPIKES, since]), since)
    assert spikes_of(folder) == sum(
        len(times) for site in tiny_sites().values() for times in site.spikes.values()
    )
    assert len(listing(folder)) == 7


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(KILLS))
def test_a_killed_fetch_is_made_good_by_the_next(
    seed: int,
    run: Run,
    calls: Calls,
    release_server: ReleaseServer,
    nems0_release: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "data"
    at = random.Random(seed).randint(1, calls[FETCH, None])
    kill(run, FETCH.format(part="PEG", folder=str(folder)), at)
    whole = {name: (nems0_release / name).read_bytes() for name in FILES["PEG"]}
    there = listing(folder) if folder.exists() else {}
    assert all(there.get(name, content) == content for name, content in whole.items())
    nat4xr.fetch("PEG", folder, progressbar=False)
    there = listing(folder)
    assert there.pop("registry.json") == release_server.record_json()
    assert there == whole


# Killed by another process after a while, so in the middle of what C libraries do, too.
TIMED = """
import time
parent = os.getpid()
if not os.fork():
    time.sleep({after})
    if os.getppid() == parent:
        os.kill(parent, signal.SIGKILL)
    os._exit(0)
begun = time.monotonic()
{program}
open({log!r}, "w").write(str(time.monotonic() - begun))
"""


def kill_after(run: Run, program: str, share: float, whole: float) -> bool:
    """Kill a program when a share of its time has passed; say whether it was still at work."""
    (code,) = run(TIMED.format(after=share * whole, program=program, log=os.devnull))
    assert code in (0, -9)
    return code == -9


def duration(run: Run, program: str, log: Path) -> float:
    assert run(TIMED.format(after=60, program=program, log=str(log))) == [0]
    return float(log.read_text())


@pytest.mark.reliability
def test_a_conversion_that_another_process_kills_is_made_good_by_the_next(
    run: Run, tmp_path: Path, reference: np.ndarray
) -> None:
    program = "\n".join([OPEN, SPIKES])
    folder = write(tiny_release(), tmp_path / "whole")
    whole = duration(run, program.format(area="A1", folder=str(folder)), tmp_path / "log")
    killed = 0
    for seed in range(TIMED_KILLS):
        folder = write(tiny_release(), tmp_path / str(seed))
        share = random.Random(seed).random()
        killed += kill_after(run, program.format(area="A1", folder=str(folder)), share, whole)
        np.testing.assert_array_equal(content(folder), reference)
        assert spikes_of(folder) == spikes_of(tmp_path / "whole")
        assert len(listing(folder)) == 7
    assert killed


@pytest.mark.reliability
def test_a_fetch_that_another_process_kills_is_made_good_by_the_next(
    run: Run, release_server: ReleaseServer, nems0_release: Path, tmp_path: Path
) -> None:
    program = FETCH.format(part="PEG", folder=str(tmp_path / "{}"))
    whole = duration(run, program.format("whole"), tmp_path / "log")
    expected = listing(tmp_path / "whole")
    killed = 0
    for seed in range(TIMED_KILLS):
        folder = tmp_path / str(seed)
        killed += kill_after(run, program.format(seed), random.Random(seed).random(), whole)
        there = listing(folder) if folder.exists() else {}
        assert all(there.get(name, content) == content for name, content in expected.items())
        nat4xr.fetch("PEG", folder, progressbar=False)
        assert listing(folder) == expected
    assert killed


# --- Ctrl-C ------------------------------------------------------------------------------------

# Raises KeyboardInterrupt at one of the calls of the main thread, and keeps it as IPython does,
# with all the frames that it went through. Afterwards everything is used as if nothing had been.
INTERRUPTED = """
left, counts = {at}, {since!r} is None
def count(frame, event, function):
    global left, counts
    counts = counts or frame.f_code.co_name == {since!r}
    left -= counts and event != "return"  # where Python heeds no signal
    if left == 0:
        raise KeyboardInterrupt
sys.setprofile(count)
try:
    {program}
except KeyboardInterrupt as error:
    kept = error
sys.setprofile(None)
open({log!r}, "w").write(str({at} - left))
signal.alarm(60)
assert float({area}["psth"].sum()) == {psth_sum}
assert {spikes}["spike_time"].load().size == {n_spikes}
nat4xr.to_netcdf({area}, {copy!r})
assert float(xr.open_dataset({copy!r}, chunks={{}})["psth"].sum()) == {psth_sum}
"""

EXPORT = "nat4xr.to_netcdf(nat4xr.open_area('A1', {folder!r}, download=False), {folder!r} + '.nc')"


@pytest.mark.reliability
@pytest.mark.parametrize(
    ("program", "since"),
    [(OPEN, None), (OPEN, "alone"), (SPIKES, "write_spikes"), (EXPORT, "to_netcdf")],
    ids=["open_area", "within netCDF", "open_spikes", "to_netcdf"],
)
def test_after_ctrl_c_at_any_moment_everything_works(
    program: str, since: str | None, run: Run, reference: np.ndarray, tmp_path: Path
) -> None:
    def interrupted(at: int) -> str:
        folder = str(write(tiny_release(), tmp_path / str(at)))
        return INTERRUPTED.format(
            at=at,
            since=since,
            program=program.format(area="A1", folder=folder),
            log=f"{folder}.log",
            area=OPEN.format(area="A1", folder=folder),
            spikes=SPIKES.format(folder=folder),
            copy=f"{folder}-copy.nc",
            psth_sum=psth_sum,
            n_spikes=n_spikes,
        )

    whole = write(tiny_release(), tmp_path / "whole")
    psth_sum = float(nat4xr.open_area("A1", whole, download=False, progressbar=False)["psth"].sum())
    n_spikes = nat4xr.open_spikes("A1", whole, download=False, progressbar=False).sizes["spike"]
    assert run(interrupted(10**9)) == [0]
    n_moments = int((tmp_path / "1000000000.log").read_text())
    random_at = random.Random(0)
    for _ in range(INTERRUPTS):
        assert run(interrupted(random_at.randint(1, n_moments))) == [0]


WAITING = """
import threading, time
from nat4xr.io.netcdf import NETCDF_LOCK
from nat4xr.io.writing import locked
signal.signal(signal.SIGALRM, signal.default_int_handler)
release = threading.Event()
def hold():
    with NETCDF_LOCK if {lock!r} == "netCDF" else locked(Path({file!r})):
        held.set()
        release.wait(60)
from pathlib import Path
held, thread = threading.Event(), threading.Thread(target=hold)
thread.start()
held.wait()
signal.setitimer(signal.ITIMER_REAL, 0.3)
try:
    {area}
    raise SystemExit("it did not wait")
except KeyboardInterrupt as error:
    kept = error
release.set()
thread.join()
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.alarm(60)
assert float({area}["psth"].sum()) == {psth_sum}
"""


@pytest.mark.reliability
@pytest.mark.parametrize("lock", ["netCDF", "file"])
def test_ctrl_c_while_waiting_for_a_lock_ends_the_waiting(
    lock: str, run: Run, folder: Path, reference: np.ndarray, tmp_path: Path
) -> None:
    whole = write(tiny_release(), tmp_path / "whole")
    psth_sum = float(nat4xr.open_area("A1", whole, download=False, progressbar=False)["psth"].sum())
    area = OPEN.format(area="A1", folder=str(folder))
    file = str(folder / f"A1_nat4xr-v{cache.SCHEMA}.nc")
    assert run(WAITING.format(lock=lock, area=area, file=file, psth_sum=psth_sum)) == [0]


# --- forked children ---------------------------------------------------------------------------

FORKING = """
import threading
def read():
    while not done.is_set():
        {area}["psth"].isel(stim=0).values
{area}  # a child cannot import what another thread is importing at the time of the fork
done, threads = threading.Event(), [threading.Thread(target=read) for _ in range(2)]
for thread in threads:
    thread.start()
codes = []
for _ in range(40):
    if not (pid := os.fork()):
        signal.alarm(30)
        total = float({area}["psth"].sum(dtype="f8"))
        os._exit(total != {psth_sum})
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
done.set()
assert codes == [0] * 40, codes
"""


@pytest.mark.reliability
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of forks beside threads
def test_a_child_forked_while_other_threads_read_can_open_and_read(run: Run, folder: Path) -> None:
    area = nat4xr.open_area("A1", folder, download=False, progressbar=False, chunks=None)
    psth_sum = float(area["psth"].sum(dtype="f8"))
    opened = OPEN.format(area="A1", folder=str(folder)).replace(")", ", chunks=None)")
    assert run(FORKING.format(area=opened, psth_sum=psth_sum)) == [0]


def test_a_child_does_not_hold_the_lock_of_a_file_that_its_parent_held(
    run: Run, folder: Path
) -> None:
    program = f"""
from pathlib import Path
from nat4xr.io.writing import locked
with locked(Path({str(folder / "file")!r})):
    if not (child := os.fork()):
        signal.pause()
signal.alarm(10)
with locked(Path({str(folder / "file")!r})):
    os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""
    assert run(program) == [0]


# --- threads -----------------------------------------------------------------------------------

BESIDE = """
import threading
plain = xr.open_dataset({plain!r})
def read():
    while not done.is_set():
        {area}["psth"].load()
        plain["psth"].isel(stim=0).values
done, threads = threading.Event(), [threading.Thread(target=read) for _ in range(3)]
for thread in threads:
    thread.start()
for i, chunks in enumerate([{{}}, None] * 2):
    ds = nat4xr.open_area("A1", {folder!r}, download=False, progressbar=False, chunks=chunks)
    nat4xr.to_netcdf(ds, f"{{{copy!r}}}{{i}}.nc")
done.set()
for thread in threads:
    thread.join()  # plain xarray may open files again
for i in range(4):
    back = xr.load_dataset(f"{{{copy!r}}}{{i}}.nc")
    assert back.drop_indexes(back.xindexes).equals(ds.load().drop_indexes(ds.xindexes))
"""


@pytest.mark.reliability
def test_a_file_may_be_written_while_threads_read_others(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    area = nat4xr.open_area("A1", folder, download=False, progressbar=False)
    nat4xr.to_netcdf(area["psth"].load().to_dataset(), tmp_path / "plain.nc")
    program = BESIDE.format(
        area=OPEN.format(area="A1", folder=str(folder)).replace(")", ", chunks=None)"),
        folder=str(folder),
        plain=str(tmp_path / "plain.nc"),
        copy=str(tmp_path / "copy"),
    )
    for _ in range(3):
        assert run(program) == [0]


# --- a disk that is full -----------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        skip_but_in_ci("a file system can be mounted by root alone")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, free: int) -> Path:
    """Leave so many bytes free."""
    filler = disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(disk).free - free))
    return filler


@pytest.mark.reliability
@pytest.mark.parametrize("free", [0, 4096, 40_960, 102_400, 147_456])
def test_a_full_disk_stops_a_download_with_a_clear_error(
    free: int, small_disk: Path, release_server: ReleaseServer
) -> None:
    filler = fill(small_disk, free)
    with pytest.raises(nat4xr.DownloadError, match=r"(No space left|cannot be written)"):
        nat4xr.fetch("PEG", small_disk / "data", progressbar=False)
    there = listing(small_disk)
    assert all(there.get(name, file.read_bytes()) == file.read_bytes()
               for name in FILES["PEG"] for file in [release_server.folder / name])  # fmt: skip
    filler.unlink()
    nat4xr.fetch("PEG", small_disk / "data", progressbar=False)


@pytest.mark.reliability
@pytest.mark.parametrize("old", [False, True], ids=["cold", "with an old file"])
def test_a_full_disk_stops_a_conversion_with_a_clear_error(
    old: bool, small_disk: Path, reference: np.ndarray
) -> None:
    folder = small_disk / "data"
    write(tiny_release(psth=np.zeros((4, 20, 3))), folder)
    if old:
        content(folder)
    before = listing(folder)
    write(tiny_release(), folder)
    sources = {name: content for name, content in listing(folder).items() if "-v" not in name}
    problems = []
    for free in range(0, 200_000, 4096):
        filler = fill(small_disk, free)
        try:
            np.testing.assert_array_equal(content(folder), reference)
            break
        except OSError as error:
            problems.append(str(error))
        finally:
            filler.unlink()
        assert listing(folder) == before | sources
    else:
        pytest.fail("there is room enough, and still it is not converted")
    assert len(problems) > 5
    assert all("could not be written" in problem for problem in problems)


@pytest.mark.reliability
def test_a_full_disk_stops_a_conversion_of_spikes_with_a_clear_error(small_disk: Path) -> None:
    folder = write(tiny_release(), small_disk / "data")
    content(folder)
    expected = spikes_of(write(tiny_release(), small_disk.parent / "beside"))
    before = listing(folder)
    problems = []
    for free in range(0, 200_000, 4096):
        filler = fill(small_disk, free)
        try:
            assert spikes_of(folder) == expected
            break
        except OSError as error:
            problems.append(str(error))
        finally:
            filler.unlink()
        assert listing(folder) == before
    else:
        pytest.fail("there is room enough, and still they are not converted")
    assert len(problems) > 5
    assert all("could not be written" in problem for problem in problems)


# --- other file systems ------------------------------------------------------------------------


@pytest.mark.reliability
def test_the_data_folder_may_be_on_another_file_system(
    release_server: ReleaseServer, tmp_path: Path
) -> None:
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other file system here")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        ds = nat4xr.open_area("PEG", folder, progressbar=False)
        with np.load(release_server.folder / "reference.npz") as file:
            np.testing.assert_array_equal(ds["psth"], file["PEG_psth"].astype(np.float32))
        assert {file.name for file in Path(folder).iterdir()} >= set(FILES["PEG"])


# --- many at once ------------------------------------------------------------------------------

# Opens areas, holds what it reads to the reference, and logs each conversion that it makes.
READER = """
import time
assemble = nat4xr.io.assemble.assemble
def logged(area, *args, **options):
    with open({log!r}, "a") as file:
        file.write(f"{{area}} v{{nat4xr.io.cache.SCHEMA}}\\n")
    return assemble(area, *args, **options)
nat4xr.io.assemble.assemble = logged
nat4xr.io.cache.SCHEMA = {schema}
reference = np.load({reference!r})
for area in {areas!r}:
    ds = nat4xr.open_area(area, {folder!r}, progressbar=False)
    val = ds["response"].sel(subset="val").transpose("stim", "rep", "time", "neuron")
    np.testing.assert_array_equal(val, reference[area + "_trials"])
    np.testing.assert_array_equal(ds["psth"], reference[area + "_psth"].astype(np.float32))
"""


def reader(release: Path, folder: Path, areas: list[str], schema: int = cache.SCHEMA) -> str:
    return READER.format(
        log=str(folder.parent / "log"),
        reference=str(release / "reference.npz"),
        folder=str(folder),
        areas=areas,
        schema=schema,
    )


@pytest.mark.reliability
def test_eight_processes_that_open_both_areas_at_once_fetch_and_convert_each_once(
    run: Run, release_server: ReleaseServer, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    orders = [["A1", "PEG"], ["PEG", "A1"]] * 4
    programs = [reader(release_server.folder, folder, areas) for areas in orders]
    assert run(*programs) == [0] * 8
    conversions = [f"A1 v{cache.SCHEMA}", f"PEG v{cache.SCHEMA}"]
    assert sorted((tmp_path / "log").read_text().split("\n")) == ["", *conversions]
    fetched = [request.name for request in release_server.log if request.name != "record"]
    assert sorted(fetched) == sorted(FILES["A1"] + FILES["PEG"])


@pytest.mark.reliability
def test_two_versions_share_a_folder_each_with_its_own_file(
    run: Run, nems0_release: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(nems0_release, tmp_path / "data")
    schemas = [cache.SCHEMA, cache.SCHEMA + 1]
    programs = [reader(nems0_release, folder, ["A1"], schema) for schema in schemas * 2]
    for _ in range(2):
        assert run(*programs) == [0] * 4
    assert sorted((tmp_path / "log").read_text().split("\n")) == [
        "",
        *(f"A1 v{s}" for s in schemas),
    ]


THREADS = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
import nat4xr

folder, areas = sys.argv[1], ["A1", "PEG"]
with np.load(f"{folder}/reference.npz") as file:
    psth = {area: file[f"{area}_psth"].astype(np.float32) for area in areas}

def is_right(i):
    ds = nat4xr.open_area(areas[i % 2], folder, progressbar=False, chunks=None)
    return np.array_equal(ds["psth"], psth[areas[i % 2]])  # and its file is closed

with ThreadPoolExecutor(8) as threads:
    print(*set(threads.map(is_right, range(100))))
"""


@pytest.mark.reliability
@pytest.mark.parametrize("state", ["cold", "warm"])
def test_threads_open_and_read_both_areas_at_once(
    state: str, nems0_release: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(nems0_release, tmp_path / "data")
    if state == "warm":
        for area in ("A1", "PEG"):
            nat4xr.open_area(area, folder, progressbar=False)
    done = subprocess.run(
        [sys.executable, "-c", THREADS, folder], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
