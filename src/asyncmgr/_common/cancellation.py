"""Whether a task was asked to end, and how to take such requests back."""

from __future__ import annotations

import asyncio
from typing import Any


def current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def is_cancelled() -> bool:
    """Whether somebody has cancelled this task: a step's limit takes its requests back."""
    return current_task().cancelling() > 0


def relieve() -> None:
    while current_task().uncancel():
        pass
