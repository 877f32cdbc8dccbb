"""`HostLock`: a file that one process of this machine has locked. The system unlocks it when the process ends, however.

By ``flock``: POSIX locks (``lockf``) are dropped when any descriptor of the file is closed. The lock belongs to the
open file, which a forked child shares: the child closes its descriptor, and never unlocks.

Nothing here ever removes a file. Where somebody else does (systemd-tmpfiles, a person), a second file of that name
could be locked beside the first one: so each `acquire` compares the locked file with the one that has its name now.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from weakref import WeakSet

from asyncmgr._leases.directory import CURE, unavailable
from asyncmgr.errors import LockUnavailable

if os.name == "nt":
    from asyncmgr._leases.windows_lock import lock, read_at_start, write_at_start
else:
    from asyncmgr._leases.posix_lock import lock, read_at_start, write_at_start

_MOST_TRIES = 5
"""Times in a row that the file may be exchanged while it is being locked."""

_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)

_opened: WeakSet[HostLock] = WeakSet()


class HostLock:
    """The lock of one file. No other object has it at the same time, in this process or another of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = False
        self.gained = False
        """Whether the last `acquire` made this object the holder."""
        self.restored = False
        """Whether the last `acquire` found the held file removed, and made it anew where that was possible."""
        self._file: int | None = None
        self._identity: tuple[int, int] | None = None
        _opened.add(self)

    def acquire(self, *, wait: bool = False) -> bool:
        """Lock the file, or look whether the lock still counts; return whether this object holds it now.

        With `wait`, block the thread until the file is locked.

        Raises
        ------
        LockUnavailable
            The file cannot be opened or locked; the text says why and what to do.
        """
        was_held, self.restored, self.gained = self.held, False, False
        try:
            for _ in range(_MOST_TRIES):
                file = self._open() if self._file is None else self._file
                if not self.held:
                    self.held = self.gained = lock(file, wait=wait)
                at_path = self._at_path()
                if at_path == self._identity:
                    return self.held
                if at_path is not None:
                    self.close()
                elif not self.held:
                    return False  # its holder lives, and makes the file anew
                else:
                    self.restored = was_held
                    if not self._make_anew(file):
                        return True
        except OSError as exc:
            self.close()
            raise unavailable(self.path, exc) from exc
        self.close()
        raise LockUnavailable(f"{self.path} is removed again and again while it is being locked; {CURE}")

    def read(self) -> bytes:
        """Return what stands in the file; empty where it cannot be read."""
        try:
            return read_at_start(self._open() if self._file is None else self._file)
        except (OSError, LockUnavailable):
            return b""

    def write(self, data: bytes) -> None:
        """Write to the file at its start, in one piece; the file must be held.

        Raises
        ------
        LockUnavailable
            The file cannot be written.
        """
        assert self._file is not None
        try:
            write_at_start(self._file, data)
        except OSError as exc:
            raise unavailable(self.path, exc) from exc

    def close(self) -> None:
        """Close the file, which unlocks it: another process may have it at once."""
        file, self._file, self.held = self._file, None, False
        if file is not None:
            os.close(file)

    def _open(self, flags: int = 0) -> int:
        flags |= _FLAGS | os.O_CREAT
        try:
            self._file = os.open(self.path, flags, 0o600)
        except FileNotFoundError:  # the directory was removed since it was made
            with contextlib.suppress(FileExistsError):
                self.path.parent.mkdir(mode=0o700)
            self._file = os.open(self.path, flags, 0o600)
        found = os.fstat(self._file)
        self._identity = _identity(found)
        if not stat.S_ISREG(found.st_mode) or (os.name != "nt" and found.st_uid != os.geteuid()):
            self.close()
            raise LockUnavailable(f"{self.path} is no file of this user's own; remove it, or {CURE}")
        return self._file

    def _at_path(self) -> tuple[int, int] | None:
        """Identify the file that has the name now; `None` = there is none."""
        try:
            return _identity(self.path.stat())
        except FileNotFoundError:
            return None

    def _make_anew(self, removed: int) -> bool:
        """Lock a new file of the name in place of the removed one, which is held until then, and keep what it says.

        Returns False where no file can be made: the removed one stays locked, for all who have it open.
        """
        text = read_at_start(removed)
        try:
            made = self._open(os.O_EXCL)
        except FileExistsError:  # another process was faster
            self._file = None
            os.close(removed)
            self.held = False
            return True
        except OSError:
            self._file = removed
            return False
        self.held = lock(made, wait=False)
        if self.held:
            write_at_start(made, text)
        os.close(removed)
        return True


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _close_in_child() -> None:
    """Close the descriptors that a forked child has got; to unlock would unlock the parent's."""
    for one in tuple(_opened):
        one.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
