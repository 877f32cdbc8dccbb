"""The steps of a service's start and stop: entered in order, left in reverse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

Hook = Callable[[], Awaitable[object]]


class Step(NamedTuple):
    """One step of a start, and what undoes it.

    `leave` is called only where `enter` has ended well. A part whose half-done `enter` has to be undone too puts its
    `leave` into a step of its own, right before.
    """

    name: str
    enter: Hook | None = None
    leave: Hook | None = None
    leaving: str = ""
    """What `leave` is called in the log, where that is not the name."""
