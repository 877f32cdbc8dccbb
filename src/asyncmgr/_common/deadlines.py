"""Watches many deadlines with one timer: a deadline that is met costs two heap operations and no timer of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic

from asyncmgr._common.clock import SECOND, to_us
from asyncmgr._common.heap import LazyHeap, T
from asyncmgr._common.timer import Timer

_NEVER = 1e12
"""Loop time, in 30,000 years. Later deadlines are set to it, since infinity has no microseconds."""


class Deadlines(Generic[T]):
    """Deadlines of items, in loop time. The object belongs to the event loop that was running when it was made.

    Parameters
    ----------
    expire
        Called with each item that was not removed before its deadline passed.
    """

    def __init__(self, expire: Callable[[T], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._expire = expire
        self._heap: LazyHeap[T] = LazyHeap()
        self._timer = Timer(self._look, loop=self._loop)

    def add(self, item: T, when: float) -> None:
        """Let the item expire at `when` (loop time, seconds), unless it is removed before."""
        when = min(when, _NEVER)
        self._heap.push(to_us(when), item)
        self._timer.set_by(when)

    def remove(self, item: T) -> None:
        """Take out an item that has met its deadline. The deadline must not have passed yet."""
        self._heap.remove(item)
        if not self._heap:
            self._timer.drop()

    def _look(self) -> None:
        now = to_us(self._loop.time())
        while (head := self._heap.head()) is not None:
            due, _, item = head
            if due > now:
                self._timer.set(due / SECOND)
                return
            self._heap.pop()
            self._expire(item)
