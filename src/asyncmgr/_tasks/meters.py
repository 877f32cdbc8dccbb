"""`Meters`: reads what the system and the interpreter tell of the loop's thread. For the thread that watches it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from asyncmgr._tasks.block_kinds import Reading

_NANO = 1e-9


class Meters:
    """The meters of one event loop's thread, which has to make this object. `close` frees what it holds."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self._clock = _cpu_clock(self.thread)
        self._loop_file = _Schedule(threading.get_native_id())
        self._own_file = _Schedule(None)
        self._collecting: tuple[int, float] | None = None
        """Who collects garbage at this moment, and since when."""
        self._collected = 0.0
        self._collected_elsewhere = 0.0

    @property
    def tells_cpu(self) -> bool:
        """Whether the system tells the CPU time of a thread."""
        return self._clock is not None

    def begin(self) -> None:
        """Begin to read; called by the thread that looks."""
        self._own_file = _Schedule(threading.get_native_id())

    def close(self) -> None:
        """Read no more."""
        self._clock = None
        self._loop_file.close()
        self._own_file.close()

    def read(self) -> Reading:
        """Read all meters. It takes some 10 us."""
        now = time.monotonic()
        queued, _ = self._loop_file.read()
        own_queued, own_turns = self._own_file.read()
        collected, elsewhere = self._garbage(now)
        return Reading(
            now, self._cpu(), time.process_time(), queued, collected, elsewhere, own_queued, own_turns
        )

    def note_collection(self, phase: str, info: Mapping[str, Any]) -> None:
        """Note that garbage collection begins or ends; for `gc.callbacks`."""
        if phase == "start":
            self._collecting = threading.get_ident(), time.monotonic()
        elif self._collecting is not None:
            self._collected, self._collected_elsewhere = self._garbage(time.monotonic())
            self._collecting = None

    def _garbage(self, now: float) -> tuple[float, float]:
        if self._collecting is None:
            return self._collected, self._collected_elsewhere
        thread, since = self._collecting
        if thread == self.thread:
            return self._collected + now - since, self._collected_elsewhere
        return self._collected, self._collected_elsewhere + now - since

    def _cpu(self) -> float | None:
        if self._clock is None:
            return None
        try:
            return time.clock_gettime(self._clock)
        except OSError:  # the thread has ended
            self._clock = None
            return None


def _cpu_clock(thread: int) -> int | None:
    """Find the CPU clock of a thread; `None` = the system has none, as macOS and Windows."""
    get = getattr(time, "pthread_getcpuclockid", None)
    if get is None:
        return None
    try:
        return int(get(thread))
    except OSError:
        return None


class _Schedule:
    """How long a thread has waited for a CPU, and how often it got one, by the scheduler of Linux."""

    def __init__(self, thread: int | None) -> None:
        self._file = -1
        if thread is not None:
            with contextlib.suppress(OSError):
                self._file = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)

    def read(self) -> tuple[float, int | None]:
        """Return seconds and a count; 0 and `None` where the system does not tell."""
        if self._file < 0:
            return 0.0, None
        try:
            _, queued, turns = os.pread(self._file, 100, 0).split()
        except (OSError, ValueError):
            return 0.0, None
        return int(queued) * _NANO, int(turns)

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)
