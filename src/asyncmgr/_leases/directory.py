"""Finds the directory in which the locks of this machine and user are, and names their files."""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from asyncmgr.errors import LockUnavailable

CURE = (
    "give [lease] directory (ASYNCMGR_LEASE__DIRECTORY) a local directory that is this user's own and that all "
    "processes of the application share, or the task scope='process'"
)

Kind = Literal["task", "lease"]
"""What a lock is for. Locks of one name and different kinds are apart."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_]+")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def find_directory(given: Path | None) -> Path:
    """Return the directory of the locks; make it where it is missing.

    That is the one of the settings, or ``asyncmgr`` in the user's run-time directory (``$XDG_RUNTIME_DIR``, where that
    is there and the user's own), or ``asyncmgr-UID`` in the directory for temporary files.

    Raises
    ------
    LockUnavailable
        It cannot be made, it is no directory of this user, or others may write in it; the text says what to do.
    """
    path = default_directory() if given is None else given
    try:
        # Never a directory above it: one that is missing is a mistake, or was removed with all that is in it.
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as exc:
        raise unavailable(path, exc) from exc
    _check(path, follow=given is not None)
    return path


def default_directory() -> Path:
    """Return where the locks are if no setting says it."""
    if sys.platform == "win32":
        return Path(tempfile.gettempdir()) / "asyncmgr"
    run_time = os.environ.get("XDG_RUNTIME_DIR", "")
    # That of another user is what workers inherit whose parent has changed its user; none is there without a session.
    if os.path.isabs(run_time) and _is_own(run_time):  # noqa: PTH117 - the variable is text, and may be empty
        return Path(run_time) / "asyncmgr"
    # Not `tempfile.gettempdir`, which takes the working directory where no other can be written: processes that were
    # started in different directories would not meet.
    return Path(os.environ.get("TMPDIR") or "/tmp") / f"asyncmgr-{os.geteuid()}"


def _is_own(path: str) -> bool:
    try:
        return os.stat(path).st_uid == os.geteuid()  # noqa: PTH116 - the same
    except OSError:
        return False


def _check(path: Path, *, follow: bool) -> None:
    """Refuse what another user could have put there, or could change: a link, a directory of theirs, an open one."""
    try:
        found = path.stat() if follow else path.lstat()
    except OSError as exc:
        raise unavailable(path, exc) from exc
    if stat.S_ISLNK(found.st_mode):
        raise LockUnavailable(
            f"{path} is a link, which somebody else may have put there; remove it, or {CURE}"
        )
    if not stat.S_ISDIR(found.st_mode):
        raise LockUnavailable(f"{path} is no directory; remove it, or {CURE}")
    if sys.platform == "win32":
        return
    if found.st_uid != os.geteuid():
        raise LockUnavailable(
            f"{path} belongs to the user {found.st_uid}, and this process is of the user {os.geteuid()}; {CURE}"
        )
    if found.st_mode & _OTHERS and not follow:
        raise LockUnavailable(
            f"{path} is open to other users (mode {stat.S_IMODE(found.st_mode):04o}); run chmod 700 on it, or {CURE}"
        )
    if found.st_mode & stat.S_IWOTH:
        raise LockUnavailable(f"everybody may write in {path}, and could exchange its files; {CURE}")


def unavailable(path: Path, error: OSError) -> LockUnavailable:
    """Make the error for a file or directory that the system refuses."""
    return LockUnavailable(f"{path} cannot be used for locks: {error.strerror or error}; {CURE}")


def file_name(application: str, kind: Kind, name: str) -> str:
    """Name the file of a lock: readable, of safe characters, shorter than any file system's limit, and never twice.

    The digest keeps apart what looks alike once it is safe.
    """
    digest = blake2b("\0".join((application, kind, name)).encode(errors="surrogatepass"), digest_size=8)
    return f"{_safe(application)}~{kind}~{_safe(name)}~{digest.hexdigest()}.lock"


def _safe(text: str) -> str:
    return _UNSAFE.sub("_", text)[:80]
