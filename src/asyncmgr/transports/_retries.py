"""Schedules retries of work that needs an engine; logs once when it starts failing and once when it recovers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from types import TracebackType
from typing import Self

from asyncmgr._common.log import log
from asyncmgr._common.safe_text import error_text
from asyncmgr.errors import TransportError
from asyncmgr.transports._stores import StoreEngine

RETRY_FIRST, RETRY_MOST = 0.5, 30.0
"""Seconds between failing tries: they double from the first value to the second, and are jittered."""

RESUME_WITHIN = 2.0
"""Seconds. When the connection is back, each client tries again after a random time up to this."""


class Retries:
    """Schedules the tries of one piece of work. Inside the ``with`` block it notes when the connection is back.

    Parameters
    ----------
    engine
        The transport or store engine that the tries need.
    failed, resumed
        Names of the log events for the change from success to failure, and for the change back.
    spread
        Draws the jitter.
    keys
        Keys of these log events.
    """

    def __init__(
        self, engine: StoreEngine, failed: str, resumed: str, *, spread: random.Random, **keys: str | None
    ) -> None:
        self._engine = engine
        self._failed, self._resumed = failed, resumed
        self._spread = spread
        self._keys = keys
        self._failures = 0
        self._doublings = 0
        self._tried = self._due = _now()
        self._moved = asyncio.Event()

    def __enter__(self) -> Self:
        self._remove_listener = self._engine.add_state_listener(self._note_state)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove_listener()

    async def due(self) -> None:
        """Wait until the next try is due."""
        while (wait := self._due - _now()) > 0:
            self._moved.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if wait == math.inf else wait):
                    await self._moved.wait()

    def succeeded(self, next_in: float = 0.0) -> None:
        """Note a success. The next try is due in `next_in` seconds; `inf` = only when it is brought forward."""
        if self._failures:
            log.info(self._resumed, **self._keys, after_failures=self._failures)
        self._failures = self._doublings = 0
        self._plan(next_in)

    def failed(self, error: BaseException) -> None:
        """Note a failure. The next try is due after a growing time, or soon after the connection is back."""
        self._failures += 1
        if self._failures == 1:
            expected = isinstance(error, TransportError | TimeoutError)
            trace = {} if expected else {"exc_info": error}
            log.warning(self._failed, **self._keys, error=error_text(error), **trace)
        wait = min(RETRY_MOST, RETRY_FIRST * 2.0**self._doublings)
        self._doublings = min(self._doublings + 1, 16)
        self._plan(wait * self._spread.uniform(0.5, 1.0))

    def hasten(self, spacing: float) -> None:
        """Bring the next try forward to `spacing` seconds after the last one, unless the last one failed."""
        if not self._failures:
            self._bring_forward(self._tried + spacing)

    def _note_state(self, connected: bool) -> None:
        if connected:
            self._doublings = 0
            self._bring_forward(_now() + self._spread.uniform(0, RESUME_WITHIN))

    def _plan(self, wait: float) -> None:
        self._tried = _now()
        self._due = self._tried + wait

    def _bring_forward(self, due: float) -> None:
        if due < self._due:
            self._due = due
            self._moved.set()


def _now() -> float:
    return asyncio.get_running_loop().time()
