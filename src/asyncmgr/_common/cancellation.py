"""Answers whether the current task is cancelled, and takes cancellations back."""

from __future__ import annotations

import asyncio
from typing import Any


def current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task


def is_cancelled() -> bool:
    """Whether the current task has a cancellation that is still in force.

    A step's own time limit takes its cancellations back, so they do not count here.
    """
    return current_task().cancelling() > 0


def relieve() -> None:
    """Take back every cancellation of the current task, so that it can await again."""
    while current_task().uncancel():
        pass
