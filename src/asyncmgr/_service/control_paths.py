"""Where control sockets are: which directories, under which names, and which of them are safe to use."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from asyncmgr.errors import ControlUnavailable
from asyncmgr.transports._tokens import encode_token

LONGEST_PATH = 107
"""Bytes of a socket's path that the kernel takes; it has 108 with the zero at the end."""

SUFFIX = ".sock"


def directories(environ: Mapping[str, str], uid: int) -> Iterator[Path]:
    """Yield the directories in which the sockets of a user may be, the best one first.

    A service may have been started without the session that the shell has, so readers look into all of them.
    """
    seen: set[Path] = set()
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    temporary = [Path(tempfile.gettempdir()), Path("/tmp")]
    for directory in [
        *([Path(runtime, "asyncmgr")] if runtime.startswith("/") else []),
        *(one / f"asyncmgr-{uid}" for one in temporary),
    ]:
        if directory not in seen:
            seen.add(directory)
            yield directory


def socket_path(directory: Path, service: str, pid: int, number: int = 1) -> Path:
    """Return the path of a service's socket: ``NAME.PID.sock``. A long name is cut, and marked by a digest.

    `number` tells services of one name in one process apart.

    Raises
    ------
    ControlUnavailable
        The directory's own path is so long that no name fits.
    """
    end = f".{pid}{'' if number == 1 else f'-{number}'}{SUFFIX}"
    name = encode_token(service)
    room = LONGEST_PATH - len(os.fsencode(directory)) - 1 - len(end)
    if len(name) > room:
        mark = "~" + hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        if room < len(mark):
            raise ControlUnavailable(
                f"{directory} is too long for a socket in it: {LONGEST_PATH} bytes are all that a path may have; "
                "set XDG_RUNTIME_DIR or TMPDIR to a shorter one"
            )
        name = name[: room - len(mark)] + mark
    return directory / f"{name}{end}"


def prepare(directory: Path, uid: int) -> None:
    """Make the directory, for this user alone.

    Raises
    ------
    ControlUnavailable
        It cannot be made, is no directory, or belongs to somebody else.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid:
            raise ControlUnavailable(
                f"{directory} is not a directory of the user {uid}; remove it, or set XDG_RUNTIME_DIR"
            )
        if stat.S_IMODE(found.st_mode) != 0o700:
            directory.chmod(0o700)
    except OSError as exc:
        raise ControlUnavailable(f"{directory} cannot be used: {exc.strerror or exc}") from exc


def sockets(environ: Mapping[str, str], uid: int) -> list[Path]:
    """List the control sockets of a user, by name. Directories of others are left out."""
    found: list[Path] = []
    for directory in directories(environ, uid):
        try:
            if directory.lstat().st_uid == uid:
                found += sorted(path for path in directory.iterdir() if path.suffix == SUFFIX)
        except OSError:
            continue
    return found
