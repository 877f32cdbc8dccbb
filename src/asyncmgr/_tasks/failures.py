"""Decides whether a failure of a task is of a new kind, or of one seen before.

The type of the error and the line of the user's code that it comes from make the kind.
"""

from __future__ import annotations

import os
import sysconfig
from datetime import datetime
from types import CodeType, FrameType

from asyncmgr._common.safe_text import type_name

REMEMBERED = 16
"""The number of kinds that an episode remembers, so that a task whose every error is new does not fill the log."""

_MEMBERS = 16
"""The number of members of an exception group that make its kind."""

_OURS = "asyncmgr"
_LIBRARIES = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<"}
)

Place = tuple[str, int]
"""A file and a line in it."""
Kind = tuple[str, Place | None, frozenset[object]]
"""Type and place of an error, and for a group the kinds of its members."""


class Episode:
    """A task's failures in a row, from the first one to the next success."""

    __slots__ = ("_kinds", "since")

    def __init__(self, since: datetime) -> None:
        self.since = since
        """The slot of the first run that failed."""
        self._kinds: set[Kind] = set()

    def is_news(self, error: BaseException | None) -> bool:
        """Whether this failure is of a new kind in this episode. Call it once a failure: it remembers the kind."""
        try:
            kind = kind_of(error)
        except Exception:  # the user's exception class may override `exceptions` or its traceback
            kind = (type_name(error), None, frozenset())
        if kind in self._kinds or len(self._kinds) == REMEMBERED:
            return False
        self._kinds.add(kind)
        return True


def kind_of(error: BaseException | None, depth: int = 3) -> Kind:
    """Return the kind of a failure; `depth` bounds how deep it looks into groups of groups."""
    members: tuple[BaseException, ...] = ()
    if isinstance(error, BaseExceptionGroup) and depth:
        members = error.exceptions[:_MEMBERS]
    inner = frozenset[object](kind_of(one, depth - 1) for one in members)
    return type_name(error), None if error is None else place_of(error), inner


def place_of(error: BaseException) -> Place | None:
    """Find the innermost line of the user's code in the traceback; of a library where there is none.

    Not the innermost line of all, since a library may raise the same error from many of its own lines.
    """
    frames = [(frame, line) for frame, line in _frames(error) if package_of(frame) != _OURS]
    if not frames:
        return None
    users = [one for one in frames if not is_library(one[0].f_code)]
    if not users:  # an installed application: the first frame that we called is its task
        package = package_of(frames[0][0])
        users = [one for one in frames if package_of(one[0]) == package]
    frame, line = users[-1]
    return frame.f_code.co_filename, line


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    found = []
    at = error.__traceback__
    while at is not None:
        found.append((at.tb_frame, at.tb_lineno))
        at = at.tb_next
    return found


def is_library(code: CodeType) -> bool:
    """Whether the code is installed, or Python's own, and so not the user's."""
    return code.co_filename.startswith(_LIBRARIES)


def package_of(frame: FrameType) -> str:
    """Return the name of the package that the frame's code belongs to."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
