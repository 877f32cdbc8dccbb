"""Locks an open file by ``flock``, and reads and writes it without moving its position."""

from __future__ import annotations

import fcntl
import os

_MOST = 4096


def lock(file: int, *, wait: bool) -> bool:
    """Lock the file; return False where another has locked it. With `wait`, block the thread meanwhile."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def read_at_start(file: int) -> bytes:
    return os.pread(file, _MOST, 0)


def write_at_start(file: int, data: bytes) -> None:
    os.pwrite(file, data, 0)
