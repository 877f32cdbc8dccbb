"""Finds the run that the code of a stack belongs to, and the innermost line of the user's code.

Pure: it only looks at frames and contexts. It says nothing where it does not know: who is not blamed for sure is not
blamed.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from asyncmgr._tasks.failures import is_library, package_of
from asyncmgr.events import Listeners

if TYPE_CHECKING:
    from asyncmgr._tasks.managed import ManagedTask
    from asyncmgr._tasks.runs import Look, Run

Mark: TypeAlias = "tuple[ManagedTask, int, Look]"
"""What names a run in its context: its task, its number, and the look that handed it out."""

current_run: ContextVar[Mark | None] = ContextVar("asyncmgr run", default=None)
"""The run whose context this is, or a copy of it: that of a Task or callback that the run has started."""

_OURS = "asyncmgr"
_LOG = "asyncmgr._common.log"
_LOOPS = frozenset(
    {
        ("asyncio.events", "_run"),
        ("asyncio.base_events", "_run_once"),
        ("asyncio.base_events", "run_forever"),
        ("asyncio.runners", "run"),
        ("uvloop", "run"),
    }
)
"""The frames outside of every callback: module and name. Coroutines of these modules are inside."""
_CONNECTIONS = frozenset({"asyncio.proactor_events", "asyncio.selector_events", "asyncio.sslproto"})
"""Modules that call the protocols of connections: whoever has opened a connection need not be the one who uses it."""
_DEEPEST = 2000


class Culprit(NamedTuple):
    """A run."""

    task: str
    run_id: str


class Sight(NamedTuple):
    """What one look at a stack shows."""

    culprit: Culprit | None
    """The run whose code it is; `None` = nobody is to blame, or it is not known who."""
    place: str
    """The innermost line of the user's code, as ``render at reports.py:212``; empty = there is none."""


def look_at(
    frame: FrameType | None,
    run_of: Callable[[FrameType], Run | None],
    task: asyncio.Task[object] | None = None,
) -> Sight:
    """Look at the stack of an event loop's thread, `frame` being its innermost one.

    `run_of` returns the run whose outermost frame a frame is. `task` is the loop's current Task, which tells the
    context where the loop has no frames of its own.
    """
    inside, base = _split(frame)
    return Sight(_culprit(inside, base, run_of, task), _place(inside))


def _split(frame: FrameType | None) -> tuple[list[FrameType], FrameType | None]:
    """Separate the frames of the callback in progress, the innermost first, from the loop's frame that called it."""
    inside: list[FrameType] = []
    while frame is not None and len(inside) < _DEEPEST:
        if (_module(frame), frame.f_code.co_name) in _LOOPS:
            return inside, frame
        inside.append(frame)
        frame = frame.f_back
    return inside, None


def _culprit(
    inside: Sequence[FrameType],
    base: FrameType | None,
    run_of: Callable[[FrameType], Run | None],
    task: asyncio.Task[object] | None,
) -> Culprit | None:
    for frame in inside:
        if frame.f_code is _TELL or _module(frame) == _LOG:
            return None  # a listener or a log handler: it is called during a run, and is no part of it
        run = run_of(frame)
        if run is not None:
            return Culprit(run.full_name, run.run_id)
    if inside and _module(inside[-1]) in _CONNECTIONS:
        return None
    context = _context_of(base, task)
    mark = None if context is None else context.get(current_run)
    if mark is None:
        return None
    managed, number, look = mark
    return Culprit(managed.full_name, f"{look.site.incarnation}-{number}")


_TELL: CodeType = Listeners.tell.__code__


def _context_of(base: FrameType | None, task: asyncio.Task[object] | None) -> contextvars.Context | None:
    """Find the context of the callback in progress: of the handle that the loop calls, or of the current Task."""
    handle = None if base is None else base.f_locals.get("self")
    holder: object = handle if isinstance(handle, asyncio.Handle) else task
    if holder is None:
        return None
    get = getattr(holder, "get_context", None)
    # Python 3.11 has no public way to the context of a handle; where this one is missing too, nobody is blamed.
    found = getattr(holder, "_context", None) if get is None else get()
    return found if isinstance(found, contextvars.Context) else None


def _place(inside: Sequence[FrameType]) -> str:
    others = [frame for frame in inside if package_of(frame) != _OURS]
    users = [frame for frame in others if not is_library(frame.f_code)]
    if others and not users:  # an installed application: the package that is called first is its own
        package = package_of(others[-1])
        users = [frame for frame in others if package_of(frame) == package]
    return _shown(users[0]) if users else ""


def _shown(frame: FrameType) -> str:
    code = frame.f_code
    name = code.co_qualname.replace("<locals>.", "")
    file = code.co_filename.replace("\\", "/").rpartition("/")[2]
    return f"{name} at {file}:{frame.f_lineno or code.co_firstlineno}"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
