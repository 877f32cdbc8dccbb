"""Finds where a coroutine waits, by its await chain. Pure: it only looks at frames, and stops nothing."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

from asyncmgr._tasks.failures import is_library, package_of

_DEEPEST = 200
"""Frames after which it stops: a chain that is longer is a recursion."""


class Place(NamedTuple):
    """A line of code."""

    function: str
    """The function's qualified name, ``Search.push``."""
    file: str
    """The full path."""
    line: int

    def __str__(self) -> str:
        return f"{self.function} at {self.file.rpartition('/')[2]}:{self.line}"


def where_it_waits(awaitable: Any) -> Place | None:
    """Find the innermost line of the user's code in the chain of what `awaitable` awaits.

    Where none of the chain is the user's own code (an installed application), it is the innermost line of the package
    that is awaited first. `None` = the chain has no frame of others, or the code computes at this moment.
    """
    frames = [frame for frame in _chain(awaitable) if package_of(frame) != "asyncmgr"]
    users = [frame for frame in frames if not is_library(frame.f_code)]
    if frames and not users:
        package = package_of(frames[0])
        users = [frame for frame in frames if package_of(frame) == package]
    return _place(users[-1]) if users else None


def chain_of(awaitable: Any) -> list[Place]:
    """List the lines in which what `awaitable` awaits is waiting, the outermost first, without asyncmgr's own."""
    return [_place(frame) for frame in _chain(awaitable) if package_of(frame) != "asyncmgr"]


def where_it_waited(error: BaseException) -> Place | None:
    """Find the innermost line of the user's code in the traceback of an error; `None` = it has none."""
    found, trace = None, error.__traceback__
    while trace is not None:
        if package_of(trace.tb_frame) != "asyncmgr" and not is_library(trace.tb_frame.f_code):
            found = _place(trace.tb_frame, trace.tb_lineno)
        trace = trace.tb_next
    return found


def _place(frame: FrameType, line: int | None = None) -> Place:
    code: CodeType = frame.f_code
    name = code.co_qualname.replace("<locals>.", "")
    return Place(name, code.co_filename, line or frame.f_lineno or code.co_firstlineno)


def _chain(awaitable: Any) -> Iterator[FrameType]:
    """Yield the frames of coroutines, generators and asynchronous generators, from the outermost to the innermost.

    The chain ends at what shows no frame: a future, a Task of its own, the `asend` of an asynchronous generator.
    """
    for _ in range(_DEEPEST):
        for kind, following in (("cr", "cr_await"), ("gi", "gi_yieldfrom"), ("ag", "ag_await")):
            frame = getattr(awaitable, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                awaitable = getattr(awaitable, following)
                break
        else:
            return
