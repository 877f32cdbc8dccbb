"""`Step`: one part of a service's start, and the part of its stop that undoes it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

Hook = Callable[[], Awaitable[object]]


class Step(NamedTuple):
    """One step of a start. The steps are entered in order and left in reverse order.

    `leave` undoes `enter`, and is called only after `enter` has succeeded. Where a half-done `enter` has to be undone
    too, put `leave` into a step of its own, right before.
    """

    name: str
    enter: Hook | None = None
    leave: Hook | None = None
    leaving: str = ""
    """The name of `leave` in the log; empty = the step's name."""
