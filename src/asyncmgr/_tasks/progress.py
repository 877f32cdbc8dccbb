"""`context.progress`: how far a run says it is, and how often that is told to listeners."""

from __future__ import annotations

import asyncio
import math
import threading
from typing import NamedTuple, Protocol

from asyncmgr._common.safe_text import printable, safe_repr
from asyncmgr.errors import InvalidProgress
from asyncmgr.events import Listeners, RunProgressed

BETWEEN = 0.1
"""Seconds between two events of one run."""

LONGEST_MESSAGE = 200
"""Characters of a message that are kept."""


class Progress(NamedTuple):
    """How far a run says it is."""

    done: float
    total: float | None = None
    message: str | None = None


class Run(Protocol):
    """The part of a run that is read here; a Protocol, since `runs` imports this module."""

    @property
    def full_name(self) -> str: ...  # pragma: no cover
    @property
    def run_id(self) -> str: ...  # pragma: no cover
    @property
    def reported(self) -> Progress | None: ...  # pragma: no cover
    @property
    def has_ended(self) -> bool: ...  # pragma: no cover


def read_progress(done: object, total: object, message: object) -> Progress:
    """Check what a run tells.

    Raises
    ------
    InvalidProgress
        `done` or `total` is no finite number that is at least 0, or `message` is no text.
    """
    if message is not None and not isinstance(message, str):
        raise InvalidProgress(f"progress(message={safe_repr(message, 60)}) is no text; give a str")
    return Progress(
        _number("done", done),
        None if total is None else _number("total", total),
        None if message is None else printable(message, LONGEST_MESSAGE),
    )


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InvalidProgress(f"progress({name}={safe_repr(value, 60)}) is no number of 0 or more")
    return value


class Progresses:
    """Tells listeners how far runs are: the first word at once, the last word always, at most ten a second for a run.

    A run may tell it from another thread, where it works in one.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, listeners: Listeners) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._listeners = listeners
        self._untold: set[Run] = set()
        """Runs with something to tell, and a call of `_tell` on its way."""
        self._told: dict[Run, float] = {}
        """When a run in progress was last told of, loop time."""

    def note(self, run: Run) -> None:
        """Note that the run has something new to tell."""
        if not self._listeners or run in self._untold:
            return
        self._untold.add(run)
        if threading.get_ident() == self._thread:
            self._plan(run)
        else:
            self._loop.call_soon_threadsafe(self._plan, run)

    def _plan(self, run: Run) -> None:
        last = self._told.get(run)
        now = self._loop.time()
        if last is None or now - last >= BETWEEN:
            self._tell(run)
        else:
            self._loop.call_at(last + BETWEEN, self._tell, run)

    def _tell(self, run: Run) -> None:
        self._untold.discard(run)
        said = run.reported
        if said is None or run.has_ended:
            return
        self._told[run] = self._loop.time()
        self._listeners.tell(RunProgressed(run.full_name, run.run_id, *said))

    def forget(self, run: Run) -> None:
        """Forget a run that has ended."""
        self._told.pop(run, None)
        self._untold.discard(run)
