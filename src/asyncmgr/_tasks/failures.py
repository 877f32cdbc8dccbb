"""Tells whether a task fails as it did before.

By the type of its error, and by the line of the user's code that it comes from.
"""

from __future__ import annotations

import os
import sysconfig
from datetime import datetime
from types import CodeType, FrameType

from asyncmgr._common.safe_text import type_name

REMEMBERED = 16
"""Kinds of failure of one episode that are told apart; a task whose every error is new does not fill the log."""

_MEMBERS = 16
"""Members of an exception group that are looked at."""

_OURS = "asyncmgr"
_LIBRARIES = tuple(
    {sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")} | {"<"}
)

Place = tuple[str, int]
"""File and line."""
Kind = tuple[str, Place | None, frozenset[object]]
"""Type, place, and for a group the kinds of its members."""


class Episode:
    """A task's failures in a row, from the first one to the next success."""

    __slots__ = ("_kinds", "since")

    def __init__(self, since: datetime) -> None:
        self.since = since
        """The slot of the first run that failed."""
        self._kinds: set[Kind] = set()

    def is_news(self, error: BaseException | None) -> bool:
        """Whether no failure of this episode was of this kind yet; asked once for each failure."""
        try:
            kind = kind_of(error)
        except Exception:  # a class of the user's that has its own idea of `exceptions` or of its traceback
            kind = (type_name(error), None, frozenset())
        if kind in self._kinds or len(self._kinds) == REMEMBERED:
            return False
        self._kinds.add(kind)
        return True


def kind_of(error: BaseException | None, depth: int = 3) -> Kind:
    """What tells one failure from another."""
    members: tuple[BaseException, ...] = ()
    if isinstance(error, BaseExceptionGroup) and depth:
        members = error.exceptions[:_MEMBERS]
    inner = frozenset[object](kind_of(one, depth - 1) for one in members)
    return type_name(error), None if error is None else place_of(error), inner


def place_of(error: BaseException) -> Place | None:
    """The innermost line of the user's code in its traceback; of a library, where none is the user's.

    Not the innermost line of all: a library may raise the same refusal from many of its own.
    """
    frames = [(frame, line) for frame, line in _frames(error) if _package(frame) != _OURS]
    if not frames:
        return None
    users = [one for one in frames if not _is_library(one[0].f_code)]
    if not users:  # an application that is installed; its task is the first that we have called
        package = _package(frames[0][0])
        users = [one for one in frames if _package(one[0]) == package]
    frame, line = users[-1]
    return frame.f_code.co_filename, line


def _frames(error: BaseException) -> list[tuple[FrameType, int]]:
    found = []
    at = error.__traceback__
    while at is not None:
        found.append((at.tb_frame, at.tb_lineno))
        at = at.tb_next
    return found


def _is_library(code: CodeType) -> bool:
    return code.co_filename.startswith(_LIBRARIES)


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]
