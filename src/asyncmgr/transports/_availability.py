"""Keeps an engine's calls within their deadlines, and brings the engine back after it was lost.

Store engines that hold connections of their own share this: the deadline of a call, its end when the engine is closed,
the tries to open again, and one log line for each change of state.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

from asyncmgr._common.log import log
from asyncmgr._common.safe_text import error_text, printable
from asyncmgr.errors import TransportClosed, TransportError

CALL_WITHIN = 5.0
"""Seconds that one call of a store may take, waiting for a free connection included."""

RECONNECT_FIRST, RECONNECT_MOST = 0.5, 8.0
"""Seconds within which a lost engine is sought again, at random, so that many clients do not come back at once: doubled
from the first to the most."""


class Calls:
    """The calls in progress. Each has a deadline, and all end when the engine is closed."""

    def __init__(self) -> None:
        self.closed = False
        self._scopes: set[asyncio.Timeout] = set()
        self._none_left = asyncio.Event()

    def check(self) -> None:
        """Raise `TransportClosed` once the engine is closed."""
        if self.closed:
            raise TransportClosed("this store engine was closed; open a new one")

    @asynccontextmanager
    async def within(self, seconds: float, fact: str) -> AsyncIterator[None]:
        """Let the block take `seconds`; then raise `TransportError` with `fact`, or `TransportClosed` after closing."""
        self.check()
        scope = asyncio.timeout(seconds)
        self._scopes.add(scope)
        try:
            async with scope:
                yield
        except TimeoutError as exc:
            self.check()
            raise TransportError(f"{fact} within {seconds:g} s; see its log, and try again") from exc
        except Exception:
            self.check()
            raise
        finally:
            self._scopes.discard(scope)
            if not self._scopes:
                self._none_left.set()

    def close(self) -> None:
        """End all calls: they raise `TransportClosed`."""
        self.closed = True
        for scope in self._scopes:
            if scope.when() is not None and not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())

    async def ended(self) -> None:
        """Return once no call is in progress."""
        while self._scopes:
            self._none_left.clear()
            await self._none_left.wait()


class Availability:
    """Knows whether an engine can be reached. Seeks it again while it cannot.

    Parameters
    ----------
    server
        Its name in the log, without a password.
    reopen
        Opens it once; raises `TransportError` where that fails.
    changed
        Called with False when the engine was lost, with True when it is back.
    """

    def __init__(
        self, server: str, reopen: Callable[[], Awaitable[object]], changed: Callable[[bool], object]
    ) -> None:
        self.connected = True
        self._server = server
        self._reopen = reopen
        self._changed = changed
        self._lost_at = 0.0
        self._seeker: asyncio.Task[None] | None = None

    def check(self) -> None:
        """Raise `TransportError` while the engine is lost."""
        if not self.connected:
            raise TransportError("not connected; try again once `connected` is true")

    def doubt(self) -> None:
        """Find out whether the engine can still be reached."""
        if self._seeker is None or self._seeker.done():
            self._seeker = asyncio.create_task(self._seek(), name="asyncmgr store connection")

    def lose(self, error: Exception) -> None:
        """Note that the engine cannot be reached, and seek it."""
        if self.connected:
            self.connected = False
            self._lost_at = _now()
            log.warning("transport.disconnected", server=self._server, error=printable(str(error)))
            self._changed(False)
        self.doubt()

    async def close(self) -> None:
        """Seek no more."""
        if self._seeker is not None:
            self._seeker.cancel()
            await asyncio.gather(self._seeker, return_exceptions=True)

    async def _seek(self) -> None:
        refused = False
        for wait in _waits(at_once=self.connected):
            await asyncio.sleep(wait)
            try:
                await self._reopen()
                break
            except Exception as exc:  # whatever it is, the next try may succeed
                self.lose(exc)
                if not refused and not isinstance(exc.__cause__, OSError | TimeoutError):
                    refused = True
                    log.warning("transport.refused", server=self._server, error=error_text(exc))
        if not self.connected:
            self.connected = True
            away = round(_now() - self._lost_at, 3)
            log.info("transport.reconnected", server=self._server, after_seconds=away)
            self._changed(True)


def _waits(*, at_once: bool) -> Iterator[float]:
    """Seconds before each try, without end."""
    if at_once:
        yield 0.0
    for doublings in itertools.count():
        yield random.uniform(0, min(RECONNECT_MOST, RECONNECT_FIRST * 2.0 ** min(doublings, 16)))


def _now() -> float:
    return asyncio.get_running_loop().time()
