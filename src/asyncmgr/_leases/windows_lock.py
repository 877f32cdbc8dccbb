"""Locks an open file of Windows, and reads and writes it.

Windows lets nobody else read bytes that are locked: one byte far behind what is written is locked instead. A locked
file cannot be removed there, and nothing forks.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# By name: for type checkers on other systems the module is empty.
_msvcrt: Any = importlib.import_module("msvcrt")

_PLACE = 1 << 30
_MOST = 4096


def lock(file: int, *, wait: bool) -> bool:
    """Lock the file; return False where another has locked it. With `wait`, look once a second meanwhile."""
    while True:
        os.lseek(file, _PLACE, os.SEEK_SET)
        try:
            _msvcrt.locking(file, _msvcrt.LK_LOCK if wait else _msvcrt.LK_NBLCK, 1)
        except OSError as exc:  # LK_LOCK gives up after ten tries
            if not _is_locked_by_another(exc):
                raise
            if not wait:
                return False
        else:
            return True


def _is_locked_by_another(error: OSError) -> bool:
    return error.errno in (13, 36)  # EACCES, EDEADLOCK of Windows


def read_at_start(file: int) -> bytes:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, _MOST)


def write_at_start(file: int, data: bytes) -> None:
    os.lseek(file, 0, os.SEEK_SET)
    os.write(file, data)
