"""`Boot`: the clock that all processes of this machine share, and the processes themselves."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Protocol

from asyncmgr._common.clock import MovesWall, to_us

_ID = Path("/proc/sys/kernel/random/boot_id")


class Boot(Protocol):
    """One boot of this machine."""

    @property
    def id(self) -> str:
        """Differs from that of every other boot, where the system has such a thing; else always the same."""
        ...  # pragma: no cover

    def now(self) -> int:
        """Return the microseconds since the boot, the machine's sleep included. No process sets this clock."""
        ...  # pragma: no cover


class RealBoot:
    """The present boot, as the system knows it."""

    def __init__(self) -> None:
        try:
            self.id = _ID.read_text().strip()
        except OSError:  # not Linux: an uptime that is shorter than what was written tells most boots apart
            self.id = ""

    def now(self) -> int:
        return time.clock_gettime_ns(_CLOCK) // 1000 if _CLOCK is not None else time.monotonic_ns() // 1000


class VirtualBoot:
    """The boot of a virtual machine whose processes are the services of one loop that moves the wall itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.id = f"loop {os.getpid()}-{id(loop)}"

    def now(self) -> int:
        return to_us(self._loop.time())


def boot_of(loop: asyncio.AbstractEventLoop) -> Boot:
    """Return the boot whose time passes as that of the loop does."""
    return VirtualBoot(loop) if isinstance(loop, MovesWall) else RealBoot()


# That of macOS counts sleep by its monotonic clock, and so does Windows.
_CLOCK: int | None = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def start_of(pid: int) -> int | None:
    """Return when a process started, in ticks since the boot; `None` = there is no such process, or no ``/proc``."""
    try:
        # The name of the program, in parentheses, may hold spaces and parentheses itself.
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
