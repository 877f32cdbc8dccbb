"""The files by which the processes of a machine agree: who has one locked, what may be done to it, where it is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncmgr._leases import host_lock as host_lock_module
from asyncmgr._leases.boot import RealBoot, start_of
from asyncmgr._leases.directory import default_directory, file_name, find_directory
from asyncmgr._leases.host_lock import HostLock
from asyncmgr._leases.host_record import HostRecord, decode
from asyncmgr.errors import LockUnavailable

posix = pytest.mark.skipif(os.name == "nt", reason="files have owners and modes on POSIX")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.lock"


# One holder


def test_one_object_has_it_at_a_time(path: Path) -> None:
    """The holder keeps it for life; whoever is refused reads what the holder wrote."""
    first, second = HostLock(path), HostLock(path)
    assert first.acquire()
    assert first.gained
    first.write(b"mine")
    assert not second.acquire()
    assert second.read() == b"mine"
    assert first.acquire()
    assert not first.gained
    first.close()
    assert second.acquire()
    assert second.gained
    assert not first.acquire()
    first.close()
    second.close()


def test_a_killed_process_has_it_no_more(path: Path) -> None:
    """The system unlocks the file."""
    code = (
        "import sys, time; from pathlib import Path; from asyncmgr._leases.host_lock import HostLock\n"
        "lock = HostLock(Path(sys.argv[1])); print(lock.acquire(), flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    lock = HostLock(path)
    assert holder.stdout.readline() == b"True\n"
    assert not lock.acquire()
    holder.kill()
    holder.wait()
    assert lock.acquire()
    lock.close()
    holder.stdout.close()


def test_a_thread_waits_for_it(path: Path) -> None:
    """It has the lock when the holder gives it up."""
    first, second = HostLock(path), HostLock(path)
    first.acquire()
    thread = threading.Thread(target=lambda: second.acquire(wait=True))
    thread.start()
    first.close()
    thread.join(30)
    assert second.held
    second.close()


FORKS = """
import os, sys
from pathlib import Path
from asyncmgr._leases.host_lock import HostLock

mine, other = HostLock(Path(sys.argv[1])), HostLock(Path(sys.argv[1]))
assert mine.acquire()
mine.write(b"mine")
ready, go = os.pipe(), os.pipe()
child = os.fork()
if not child:
    os.close(go[1])                # so that neither waits for one that has failed
    assert not mine.held           # it has closed what it got
    assert not mine.acquire()      # and competes like any process
    assert mine.read() == b"mine"
    os.write(ready[1], b"x")
    assert os.read(go[0], 1)
    os._exit(0 if mine.acquire() else 1)
os.close(ready[1])
assert os.read(ready[0], 1)
assert not other.acquire()         # the parent has it still: the child has not unlocked it
mine.close()
os.write(go[1], b"x")              # and nothing of it is left in the child
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks there")
def test_a_forked_child_has_not_got_it(path: Path) -> None:
    """Neither does it unlock its parent's, nor keep it when the parent has given it up."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


# Removed files


@posix
def test_a_removed_file_is_made_anew_by_its_holder(path: Path) -> None:
    """Whoever had it open waits for that, and makes none: there is one holder throughout."""
    first, second = HostLock(path), HostLock(path)
    first.acquire()
    first.write(b"mine")
    assert not second.acquire()
    path.unlink()
    assert not second.acquire()
    assert not path.exists()
    assert first.acquire()
    assert (first.restored, first.gained, path.read_bytes()) == (True, False, b"mine")
    assert not second.acquire()
    assert first.acquire()
    assert not first.restored
    first.close()
    assert second.acquire()
    second.close()


@posix
def test_a_removed_file_of_a_dead_holder_is_made_anew_by_the_next(path: Path) -> None:
    """It still says how far the dead one had come."""
    first, second = HostLock(path), HostLock(path)
    first.acquire()
    first.write(b"mine")
    assert not second.acquire()
    path.unlink()
    first.close()
    assert second.acquire()
    assert second.read() == path.read_bytes() == b"mine"
    assert (second.gained, second.restored) == (True, False)
    second.close()


@posix
def test_a_holder_whose_file_was_exchanged_notices(path: Path) -> None:
    """A newcomer has locked a file of the same name: from its next slot on the older one has nothing."""
    first, newcomer = HostLock(path), HostLock(path)
    first.acquire()
    path.unlink()
    assert newcomer.acquire()
    assert not first.acquire()
    assert not first.held
    newcomer.close()
    assert first.acquire()
    assert first.gained
    first.close()


@posix
def test_another_process_makes_the_removed_file_anew_first(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the holder, and this one has nothing."""
    first, newcomer = HostLock(path), HostLock(path)
    first.acquire()
    path.unlink()
    at_path = HostLock._at_path

    def late(self: HostLock) -> Any:
        found = at_path(self)
        if self is first and found is None:
            assert newcomer.acquire()
        return found

    monkeypatch.setattr(HostLock, "_at_path", late)
    assert not first.acquire()
    assert not first.held
    assert newcomer.acquire()
    newcomer.close()
    first.close()


COUNTS = """
import sys
from pathlib import Path
from asyncmgr._leases.host_lock import HostLock
lock, counter = HostLock(Path(sys.argv[1])), Path(sys.argv[2])
for _ in range(int(sys.argv[3])):
    lock.acquire(wait=True)
    counter.write_text(str(int(counter.read_text()) + 1))
    lock.close()
"""


def test_processes_take_turns(path: Path, tmp_path: Path) -> None:
    """None of their steps, which no system call makes whole, is lost."""
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNTS, str(path), str(counter), "50"]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait() for process in processes] == [0] * 3
    assert counter.read_text() == "150"


@posix
def test_a_removed_directory_is_made_anew(tmp_path: Path) -> None:
    """With its file."""
    lock, other = HostLock(tmp_path / "d" / "a.lock"), HostLock(tmp_path / "d" / "a.lock")
    assert lock.acquire()
    lock.path.unlink()
    lock.path.parent.rmdir()
    assert not other.acquire() or not lock.acquire()
    assert lock.held != other.held
    lock.close()
    other.close()


@posix
def test_a_file_that_cannot_be_made_anew_stays_locked(tmp_path: Path) -> None:
    """As where a user's run-time directory goes with the session: all that have it open see its holder."""
    directory = tmp_path / "run" / "asyncmgr"
    directory.mkdir(parents=True)
    lock, other = HostLock(directory / "a.lock"), HostLock(directory / "a.lock")
    assert lock.acquire()
    assert not other.acquire()
    lock.path.unlink()
    directory.rmdir()
    directory.parent.rmdir()
    assert lock.acquire()
    assert lock.restored
    assert not other.acquire()
    lock.close()
    other.close()


def test_a_file_that_is_exchanged_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given up with an error that says so, and no descriptor is left open."""
    lock = HostLock(path)
    monkeypatch.setattr(HostLock, "_at_path", lambda self: (0, 0))
    with pytest.raises(LockUnavailable, match="is removed again and again"):
        lock.acquire()
    assert lock._file is None


# What is refused


@posix
def test_links_and_other_users_files_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else could have put them there."""
    target = path.with_name("target")
    target.write_text("")
    path.symlink_to(target)
    with pytest.raises(LockUnavailable, match="cannot be used for locks"):
        HostLock(path).acquire()
    path.unlink()
    path.mkdir()
    with pytest.raises(LockUnavailable):
        HostLock(path).acquire()
    path.rmdir()
    path.write_text("")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    lock = HostLock(path)
    with pytest.raises(LockUnavailable, match="is no file of this user's own"):
        lock.acquire()
    assert lock._file is None


@pytest.mark.parametrize("call", ["open", "fstat"])
def test_what_the_system_refuses_is_told(path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the path, the reason and the cure; nothing stays open."""

    def refuse(*args: Any) -> Any:
        raise OSError(30, "Read-only file system")

    lock = HostLock(path)
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(LockUnavailable) as caught:
        lock.acquire()
    monkeypatch.undo()
    assert str(caught.value).startswith(
        f"{path} cannot be used for locks: Read-only file system; give [lease] directory"
    )
    assert lock._file is None
    assert not lock.held


def test_a_file_system_without_locks_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems are."""

    def refuse(file: int, *, wait: bool) -> bool:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(host_lock_module, "lock", refuse)
    with pytest.raises(LockUnavailable, match=r"No locks available; give .* a local directory"):
        HostLock(path).acquire()


def test_what_cannot_be_written_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the disk is gone."""

    def refuse(file: int, data: bytes) -> None:
        raise OSError(5, "Input/output error")

    lock = HostLock(path)
    lock.acquire()
    monkeypatch.setattr(host_lock_module, "write_at_start", refuse)
    with pytest.raises(LockUnavailable, match="cannot be used for locks: Input/output error"):
        lock.write(b"x")
    lock.close()


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    """Nobody is known to hold it."""
    lock = HostLock(tmp_path / "no" / "such" / "a.lock")
    assert lock.read() == b""


# Where they are


@posix
def test_the_default_is_the_run_time_directory_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a directory of the user's in that for temporary files, and never one below the working directory."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert find_directory(None) == tmp_path / "asyncmgr"
    assert stat.S_IMODE((tmp_path / "asyncmgr").stat().st_mode) == 0o700
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    for no in ("", "relative/path", str(tmp_path / "gone")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", no)
        assert default_directory() == tmp_path / "tmp" / f"asyncmgr-{os.getuid()}"
    monkeypatch.delenv("TMPDIR")
    assert default_directory() == Path(f"/tmp/asyncmgr-{os.getuid()}")
    with pytest.raises(LockUnavailable, match="cannot be used for locks: No such file or directory"):
        find_directory(tmp_path / "no" / "such")


@posix
def test_a_default_directory_that_others_could_use_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link, a file, one that others may enter, one of another user."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    found = tmp_path / "asyncmgr"
    found.symlink_to(tmp_path)
    with pytest.raises(LockUnavailable, match="is a link, which somebody else may have put there"):
        find_directory(None)
    found.unlink()
    found.write_text("")
    with pytest.raises(LockUnavailable, match="is no directory"):
        find_directory(None)
    found.unlink()
    found.mkdir(mode=0o755)
    with pytest.raises(LockUnavailable, match=r"open to other users \(mode 0755\); run chmod 700"):
        find_directory(None)
    found.chmod(0o700)
    assert find_directory(None) == found
    monkeypatch.setenv("XDG_RUNTIME_DIR", "")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    (tmp_path / "asyncmgr-12345").mkdir(mode=0o700)
    with pytest.raises(
        LockUnavailable, match=r"belongs to the user \d+, and this process is of the user 12345"
    ):
        find_directory(None)


@posix
def test_the_run_time_directory_of_another_user_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers inherit it from a parent that has changed its user since."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert default_directory() == tmp_path / "asyncmgr"
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert default_directory() == tmp_path / "asyncmgr-12345"


@posix
def test_a_given_directory_may_be_a_link_and_readable(tmp_path: Path) -> None:
    """Who gives it answers for it; only one in which everybody may write is refused."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir(mode=0o755)
    link.symlink_to(real)
    assert find_directory(link) == link
    real.chmod(0o1777)
    with pytest.raises(LockUnavailable, match="everybody may write in"):
        find_directory(link)


NAMES = st.text(max_size=300)


@given(NAMES, NAMES, st.sampled_from(["task", "lease"]))
def test_file_names_are_safe(application: str, name: str, kind: Any) -> None:
    """Of plain characters, no path, and short, whatever the names are."""
    found = file_name(application, kind, name)
    assert found.isascii()
    assert not set(found) & set('/\\:*?"<>| \0')
    assert len(found) <= 255
    assert found.count(".") == 1
    assert not found.startswith((".", "-"))


@given(st.lists(st.tuples(NAMES, st.sampled_from(["task", "lease"]), NAMES), unique=True, max_size=5))
def test_file_names_differ(names: list[tuple[str, Any, str]]) -> None:
    """Also where file systems see no difference of case."""
    assert len({file_name(*one).lower() for one in names}) == len(names)


# What stands in them

RECORDS = st.builds(
    HostRecord,
    boot=st.text(max_size=40, alphabet=st.characters(max_codepoint=127, exclude_characters="\0")),
    pid=st.integers(0, 2**31),
    start=st.integers(0, 2**60),
    number=st.integers(0, 2**60),
    slot=st.integers(-(2**60), 2**60),
    wall=st.integers(0, 2**60),
    state=st.sampled_from(["new", "claimed", "ended"]),
    left=st.booleans(),
)


@given(RECORDS, RECORDS)
def test_records_are_read_as_they_were_written(record: HostRecord, older: HostRecord) -> None:
    """Also over an older one: all have the same length."""
    assert decode(record.encode()) == record
    assert len(record.encode()) == len(older.encode())


@given(st.binary(max_size=100))
def test_whatever_stands_there_is_read_or_not(data: bytes) -> None:
    """Nothing raises."""
    decode(data)


# The machine


@pytest.mark.skipif(sys.platform != "linux", reason="of Linux")
def test_the_boot_and_processes_are_those_of_the_system() -> None:
    """The boot has an id, its clock goes on, and a process has one start."""
    boot = RealBoot()
    assert len(boot.id) == 36
    before = boot.now()
    assert before <= boot.now()
    mine = start_of(os.getpid())
    assert mine is not None
    assert mine * 10_000 <= boot.now()  # ticks of 10 ms
    assert start_of(2**22 + 1) is None


def test_a_system_without_an_id_of_its_boot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As all but Linux: the uptime has to do."""
    monkeypatch.setattr("asyncmgr._leases.boot._ID", tmp_path / "no")
    monkeypatch.setattr("asyncmgr._leases.boot._CLOCK", None)
    assert RealBoot().id == ""
    assert RealBoot().now() > 0


# Windows


class Msvcrt(types.ModuleType):
    """What the module does, by locks of POSIX files; the place at which it locks is what Windows would lock."""

    LK_LOCK, LK_NBLCK = 1, 2

    def __init__(self) -> None:
        super().__init__("msvcrt")
        self.locked: dict[tuple[int, int, int], int] = {}
        self.patience = 0

    def locking(self, file: int, mode: int, count: int) -> None:
        found = os.fstat(file)
        place = (found.st_dev, found.st_ino, os.lseek(file, 0, os.SEEK_CUR))
        if self.locked.setdefault(place, file) != file:
            if mode == self.LK_LOCK and self.patience:
                self.patience -= 1
                if not self.patience:
                    del self.locked[place]
                raise OSError(36, "Resource deadlock avoided")
            raise OSError(13, "Permission denied")


def test_locks_of_windows(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the calls that its C library has: one byte behind the text, so that all may read who holds it."""
    fake = Msvcrt()
    monkeypatch.setitem(sys.modules, "msvcrt", fake)
    monkeypatch.delitem(sys.modules, "asyncmgr._leases.windows_lock", raising=False)
    from asyncmgr._leases import windows_lock

    for name in ("lock", "read_at_start", "write_at_start"):
        monkeypatch.setattr(host_lock_module, name, getattr(windows_lock, name))
    first, second = HostLock(path), HostLock(path)
    assert first.acquire()
    first.write(b"mine")
    assert not second.acquire()
    assert second.read() == b"mine"
    assert {place for _, _, place in fake.locked} == {1 << 30}
    fake.patience = 2
    assert second.acquire(wait=True)
    first.close()
    second.close()
    fake.locked.clear()

    def fail(*args: int) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(fake, "locking", fail)
    with pytest.raises(LockUnavailable, match="Bad file descriptor"):
        first.acquire()
    monkeypatch.delitem(sys.modules, "asyncmgr._leases.windows_lock")
