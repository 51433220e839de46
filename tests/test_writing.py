"""Files are written completely or not at all; locks of files."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nat4xr.io import writing
from nat4xr.io.writing import locked, made_folder, written


def listing(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def program(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that has imported what it needs once a line can be read from it."""
    code = "import os, sys, time\nfrom nat4xr.io.writing import locked, written\n" + code
    if hasattr(signal, "SIGHUP"):  # which these tests may have been started to ignore
        code = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n" + code
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# --- written -----------------------------------------------------------------------------------


def test_a_file_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    with written(tmp_path / "a.txt") as part:
        part.write_text("new")
        assert part.name == "a.txt"
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "new"
    assert listing(tmp_path) == {"a.txt"}


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    with written(tmp_path / "a.zarr") as part:
        part.mkdir()
        (part / "chunk").write_text("new")
        assert not (tmp_path / "a.zarr").exists()
    assert (tmp_path / "a.zarr" / "chunk").read_text() == "new"
    assert listing(tmp_path) == {"a.zarr"}


@pytest.mark.reliability
@pytest.mark.parametrize(
    "error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit, OSError, MemoryError]
)
@pytest.mark.parametrize("before", [None, "old"])
def test_whatever_happens_the_old_file_stays_and_nothing_is_left(
    before: str | None, error: type[BaseException], tmp_path: Path
) -> None:
    if before:
        (tmp_path / "a.txt").write_text(before)

    def write() -> None:
        with written(tmp_path / "a.txt") as part:
            part.write_text("new")
            raise error

    with pytest.raises(error):
        write()
    assert listing(tmp_path) == ({"a.txt"} if before else set())
    assert not before or (tmp_path / "a.txt").read_text() == before


def test_a_file_that_is_open_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with (tmp_path / "a.txt").open() as reader:
        with written(tmp_path / "a.txt") as part:
            part.write_text("new")
        assert reader.read() == "old"
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_is_written_has_the_permissions_of_any_new_file(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with written(tmp_path / "a.txt") as part:
            part.touch()
        (tmp_path / "b.txt").touch()
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "b.txt").stat().st_mode


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    with written("~/a.txt") as part:
        part.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
    with pytest.raises(OSError, match=r"~nosuchuser/a\.txt"), written("~nosuchuser/a.txt"):
        pass


def test_a_name_alone_is_a_file_of_the_folder_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with written("a.txt") as part:
        monkeypatch.chdir(tmp_path / "other")
        part.write_text("new")
    assert listing(tmp_path) == {"a.txt", "other"}


def test_a_parent_that_is_missing_is_named_and_not_made(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=rf"a\.txt .* no folder {tmp_path / 'no'}"),
        written(tmp_path / "no" / "a.txt"),
    ):
        pass
    assert listing(tmp_path) == set()


@pytest.mark.parametrize("name", ["full", "empty", "."])
def test_a_folder_is_never_replaced(name: str, tmp_path: Path) -> None:
    for folder in ("full", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "full" / "precious").touch()
    with pytest.raises(OSError, match="is a folder: remove it"), written(tmp_path / name):
        pytest.fail("it should not come to writing")
    assert listing(tmp_path) == {"full", "empty"}
    assert listing(tmp_path / "full") == {"precious"}


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="there are no devices")
def test_a_device_is_never_replaced() -> None:
    with pytest.raises(OSError, match="/dev/null is not a file"), written("/dev/null"):
        pytest.fail("it should not come to writing")


@pytest.mark.parametrize("name", ["a" * 250 + ".nc", "ö" * 126, "a\nb [*?]", ".hidden"])
def test_a_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    with written(tmp_path / name) as part:
        part.write_text("new")
    assert (tmp_path / name).read_text() == "new"
    assert listing(tmp_path) == {name}


def test_a_source_that_cannot_be_read_is_named_and_not_the_target(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with (
        pytest.raises(OSError, match=r"source could not be read: Is a directory"),
        written(tmp_path / "a.txt"),
    ):
        (tmp_path / "source").read_bytes()


def test_a_copy_that_fills_the_disk_is_not_put_down_to_its_source(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"/a\.nc could not be written .*free") as caught,
        written(tmp_path / "a.nc") as part,
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "source.nc", None, str(part))
    assert "source" not in str(caught.value)


def test_a_file_where_a_folder_belongs_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "inside"):
        with pytest.raises(NotADirectoryError, match=f"{folder} is not a folder"):
            made_folder(folder)
    assert made_folder(tmp_path / "new" / "folder").is_dir()


def test_an_error_of_one_file_is_not_put_down_to_another_that_is_written_around_it(
    tmp_path: Path,
) -> None:
    with (
        pytest.raises(OSError, match=r"/b could not be written .*No space") as caught,
        written(tmp_path / "a"),
        written(tmp_path / "b"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert f"{tmp_path}/a " not in str(caught.value)


# --- two at once, and what is left by those that were killed ------------------------------------

SLOWLY = """
with written(sys.argv[1]) as part:
    part.write_text(sys.argv[2])
    print(flush=True)
    sys.stdin.readline()
"""


def test_two_processes_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    with (
        program(SLOWLY, tmp_path / "a.txt", "one") as one,
        program(SLOWLY, tmp_path / "a.txt", "other") as other,
    ):
        for process in (one, other):
            process.stdout.readline()
        for process, text in ((one, "one"), (other, "other")):
            process.communicate("\n")
            assert (tmp_path / "a.txt").read_text() == text
    assert (one.returncode, other.returncode) == (0, 0)
    assert listing(tmp_path) == {"a.txt"}


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    errors = []

    def write(text: str) -> None:
        try:
            for _ in range(20):
                with written(tmp_path / "a.txt") as part:
                    part.write_text(text)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(f"{i}" * 100,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert re.fullmatch(r"(\d)\1{99}", (tmp_path / "a.txt").read_text())
    assert listing(tmp_path) == {"a.txt"}


@pytest.mark.reliability
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGHUP"])
def test_what_a_killed_process_left_is_removed_by_the_next_that_writes_there(
    name: str, tmp_path: Path
) -> None:
    with program(SLOWLY, tmp_path / "a.txt", "half") as process:
        process.stdout.readline()
        process.send_signal(getattr(signal, name))
    assert len(listing(tmp_path)) == 1  # there is something to remove
    with written(tmp_path / "b.txt") as part:
        part.touch()
    assert listing(tmp_path) == {"b.txt"}


def leftover(folder: Path, host: str, pid: int, age: float = 0) -> Path:
    """What a process of some machine was writing when it ended."""
    left = folder / f".a.txt.00c0ffee.{host}-{pid}.part"
    left.mkdir()
    (left / "a.txt").write_text("half")
    for path in (left / "a.txt", left):
        os.utime(path, (time.time() - age,) * 2)
    return left


def test_what_another_machine_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    old = leftover(tmp_path, "node-17", 1, writing.ABANDONED + 60)
    new = leftover(tmp_path, "node-18", 1, writing.ABANDONED - 60)
    with written(tmp_path / "b.txt") as part:
        part.touch()
    assert not old.exists()
    assert new.exists()


def test_what_an_earlier_process_of_the_same_number_left_is_removed(tmp_path: Path) -> None:
    """As in containers, where it is 1 each time."""
    left = leftover(tmp_path, writing.socket.gethostname(), os.getpid())
    with written(tmp_path / "b.txt") as part:
        part.touch()
    assert not left.exists()


def test_files_of_others_that_are_called_alike_are_left_alone(tmp_path: Path) -> None:
    names = {".movie.mp4.part", ".a.part", "a.12345678.host-1.part"}
    for name in names:
        (tmp_path / name).mkdir()
    with written(tmp_path / "b.txt") as part:
        part.touch()
    assert listing(tmp_path) == {"b.txt", *names}


# --- locks -------------------------------------------------------------------------------------

HOLD = """
with locked(__import__("pathlib").Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.readline()
    time.sleep(0.3)
    open(sys.argv[1], "w").write("done")
"""


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    with program(HOLD, tmp_path / "a.txt") as process:
        process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
        with locked(tmp_path / "a.txt"):
            assert (tmp_path / "a.txt").read_text() == "done"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with program(HOLD, tmp_path / "a.txt") as process:
        process.stdout.readline()
        process.kill()
        process.wait()
        locked(tmp_path / "a.txt").close()


def test_threads_wait_for_each_other(tmp_path: Path) -> None:
    lock = locked(tmp_path / "a.txt")
    thread = threading.Thread(target=lambda: locked(tmp_path / "a.txt").close())
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    lock.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.reliability
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO])
def test_where_the_file_system_has_no_locks_the_work_goes_on_without(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(_file: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "a.txt"), locked(tmp_path / "a.txt"):
        pass


def make_folder(lock: Path) -> None:
    lock.mkdir()


def make_unreadable(lock: Path) -> None:
    lock.touch(0o000)


def remove_folder(lock: Path) -> None:
    lock.parent.rmdir()


@pytest.mark.parametrize("spoil", [make_folder, make_unreadable, remove_folder])
def test_where_the_lock_cannot_be_opened_the_work_goes_on_without(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    spoil(folder / ".a.txt.lock")
    locked(folder / "a.txt").close()


# --- folders that several users share ----------------------------------------------------------

AS_NOBODY = """
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from pathlib import Path
"""


@pytest.fixture
def shared() -> Path:
    """A folder like /tmp: all may write there, but nobody may replace the files of others."""
    import tempfile

    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("only root can be anybody")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to others
        os.chmod(folder, 0o1777)
        yield Path(folder)


def as_nobody(code: str, *arguments: object) -> str:
    with program(AS_NOBODY + code, *arguments) as process:
        output, _ = process.communicate()
    assert process.returncode == 0
    return output


@pytest.mark.reliability
def test_another_user_takes_the_same_lock(shared: Path) -> None:
    lock = locked(shared / "a.txt")
    code = AS_NOBODY + "print(flush=True)\nlocked(Path(sys.argv[1])).close()"
    with program(code, shared / "a.txt") as waiting:
        waiting.stdout.readline()
        time.sleep(0.3)
        assert waiting.poll() is None
        lock.close()
        assert waiting.wait(10) == 0


@pytest.mark.reliability
def test_a_file_of_another_user_that_cannot_be_replaced_is_named(shared: Path) -> None:
    (shared / "a.txt").write_text("theirs")
    write = """
try:
    with written(sys.argv[1]) as part:
        part.write_text("mine")
except OSError as error:
    print(error)
"""
    message = as_nobody(write, shared / "a.txt")
    assert re.search(r"a\.txt could not be replaced .*another user", message)
    assert (shared / "a.txt").read_text() == "theirs"
    assert listing(shared) == {"a.txt"}
    as_nobody(write, shared / "b.txt")
    assert (shared / "b.txt").read_text() == "mine"
