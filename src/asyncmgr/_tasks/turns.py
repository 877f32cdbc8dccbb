"""Tells when a turn of an event loop begins and ends, to a thread that must not wake the loop up for it.

A turn is what the loop does between two waits for events.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol


class Turn:
    """What the loop's thread and the watching one tell each other; each attribute is written at once or not at all."""

    __slots__ = ("began", "is_asked", "is_parked")

    def __init__(self) -> None:
        self.began = 0.0
        """When the present turn began, by `time.monotonic`; 0 = the loop waits for events."""
        self.is_asked = False
        """Whether the watching thread wants to know the end of the present turn."""
        self.is_parked = False
        """Whether the watching thread sleeps until a turn wakes it up."""


class Follower(Protocol):
    """Who is told of turns; called in the loop's thread."""

    def turn_began(self, *, is_idle: bool, has_waited: bool) -> None:
        """A turn begins while the watcher is parked. `is_idle`: only a timer has ended the wait, if there was one."""
        ...  # pragma: no cover

    def turn_ended(self) -> None:
        """The turn ends whose end was asked for; `Turn.began` is still set."""
        ...  # pragma: no cover


class SelectorTurns:
    """The turns of a loop that waits in a selector of Python: each begins when its `select` has returned."""

    needs_beats = False

    def __init__(self, turn: Turn, selector: Any, follower: Follower) -> None:
        """Raises `AttributeError` where the selector cannot be followed."""
        self._turn = turn
        self._selector = selector
        self._really = selector.select
        self._really_close = selector.close
        self._select = _followed(self._really, turn, follower)
        self._on_close: Callable[[], None] = _nothing
        selector.select = self._select

    def begin(self, on_close: Callable[[], None]) -> None:
        """Call `on_close` when the loop is closed."""
        self._on_close = on_close
        self._selector.close = self._closing

    def _closing(self) -> None:
        really = self._really_close
        self._on_close()
        really()

    def end(self) -> None:
        """Follow no more. A wrapper that somebody else has put around ours stays, and ours below it."""
        for name, ours in (("select", self._select), ("close", self._closing)):
            if vars(self._selector).get(name) == ours:
                delattr(self._selector, name)


def _followed(
    really: Callable[[float | None], Any], turn: Turn, follower: Follower
) -> Callable[[float | None], Any]:
    def select(timeout: float | None = None) -> Any:
        if turn.is_asked:
            follower.turn_ended()
        turn.began = 0.0
        events = really(timeout)
        turn.began = monotonic()
        if turn.is_parked:
            has_waited = timeout is None or timeout > 0
            follower.turn_began(is_idle=not events and has_waited, has_waited=has_waited)
        return events

    return select


class BeatTurns:
    """The turns of a loop that shows none: a turn lasts from a call that is handed to the loop until it is made."""

    needs_beats = True

    def __init__(self, turn: Turn, loop: asyncio.AbstractEventLoop, follower: Follower) -> None:
        self._turn = turn
        self._loop = loop
        self._follower = follower
        self._context = contextvars.Context()

    def begin(self, on_close: Callable[[], None]) -> None:
        """Do nothing: the thread notices by itself that the loop is closed."""

    def end(self) -> None:
        """Do nothing: no beat follows."""

    def beat(self) -> None:
        """Begin a turn; any thread may. Raises `RuntimeError` where the loop is closed."""
        self._turn.began = monotonic()
        self._loop.call_soon_threadsafe(self._answer, context=self._context)

    def _answer(self) -> None:
        if self._turn.is_asked:
            self._follower.turn_ended()
        self._turn.began = 0.0


def turns_of(loop: asyncio.AbstractEventLoop, turn: Turn, follower: Follower) -> SelectorTurns | BeatTurns:
    """Choose how to follow the turns of a loop."""
    # asyncio has no public way to the selector of a loop, and no hook around the wait. This is the only place that
    # reaches for it. A loop without one (uvloop), or whose selector takes no attribute, beats.
    selector = getattr(loop, "_selector", None)
    try:
        return SelectorTurns(turn, selector, follower)
    except AttributeError:
        return BeatTurns(turn, loop, follower)


def _nothing() -> None:
    """Do nothing: nobody follows the end of the loop."""
