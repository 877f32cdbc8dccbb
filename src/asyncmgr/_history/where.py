"""Says where a run waits, or where an error comes from: the innermost line of the user's own code."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from asyncmgr._tasks.failures import is_users

_DEEPEST = 100
"""The number of nested coroutines that are looked at."""


def where_it_waits(future: asyncio.Future[None] | None) -> str:
    """Say where a run waits, as ``Search.push at search.py:77``; empty where nothing shows it."""
    coroutine: Any = future.get_coro() if isinstance(future, asyncio.Task) else None
    found = ""
    for _ in range(_DEEPEST):
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "ag_frame", None)
        if not isinstance(frame, FrameType):
            break
        if is_users(frame):
            found = place_in_words(frame.f_code, frame.f_lineno)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "ag_await", None)
    return found


def where_it_waited(error: BaseException | None) -> str:
    """Say where the code was that a timeout cancelled; empty where nothing shows it."""
    cause = None if error is None else error.__cause__ or error
    found, trace = "", None if cause is None else cause.__traceback__
    while trace is not None:
        if is_users(trace.tb_frame):
            found = place_in_words(trace.tb_frame.f_code, trace.tb_lineno)
        trace = trace.tb_next
    return found


def place_in_words(code: CodeType, line: int) -> str:
    """Name a line of code: ``Search.push at search.py:77``."""
    name = code.co_qualname.rpartition("<locals>.")[2]
    return f"{name} at {Path(code.co_filename).name}:{line}"
