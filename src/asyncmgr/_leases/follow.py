"""`follow`: watches a store for ever, through every loss of the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from asyncmgr._common.log import log
from asyncmgr._common.safe_text import error_text
from asyncmgr._leases.calls import Doubt
from asyncmgr._leases.rules import Rules
from asyncmgr.errors import TransportError
from asyncmgr.transports import SNAPSHOT_DONE, Deleted, Entry, Store, Watch


class View:
    """What follows a store: the methods are called in the order of the watch."""

    def revisions(self) -> dict[str, int]:
        """Return the revisions that were seen before a watch begins, which its snapshot must not fall below."""
        raise NotImplementedError

    def entry(self, entry: Entry) -> None:
        raise NotImplementedError

    def deleted(self, key: str, revision: int) -> None:
        raise NotImplementedError

    def snapshot(self, before: dict[str, int], seen: dict[str, Entry]) -> None:
        """Take in a snapshot; `before` are the revisions that were seen before it."""
        raise NotImplementedError


class Follower:
    """Follows the keys below a prefix and hands what comes to a view. A loss is logged once, and watched over again.

    Parameters
    ----------
    within
        Seconds that the engine gets to begin a watch.
    """

    def __init__(
        self,
        open_store: Callable[[], Awaitable[Store]],
        prefix: str,
        view: View,
        *,
        rules: Rules,
        within: float | None,
    ) -> None:
        self._open_store, self._prefix, self._view = open_store, prefix, view
        self._rules, self._within = rules, within
        self._failures = 0

    async def follow(self) -> None:
        """Watch for ever."""
        while True:
            try:
                await self._watch()
            except Exception as exc:
                self._note_failure(exc)
            await asyncio.sleep(self._rules.retry_in())

    async def _watch(self) -> None:
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._within):
                store = await self._open_store()
                before = self._view.revisions()
                changes = await stack.enter_async_context(store.watch(self._prefix))
            await self._read_snapshot(changes, before)
            self._note_success()
            async for change in changes:
                if isinstance(change, Entry):
                    self._view.entry(change)
                elif isinstance(change, Deleted):
                    self._view.deleted(change.key, change.revision)
        raise TransportError("the watch ended")

    async def _read_snapshot(self, changes: Watch, before: dict[str, int]) -> None:
        seen: dict[str, Entry] = {}
        async for change in changes:
            if change is SNAPSHOT_DONE:
                break
            if isinstance(change, Entry):
                seen[change.key] = change
        else:
            raise TransportError("the watch ended in its snapshot")
        self._view.snapshot(before, seen)

    def _note_failure(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == 1:
            expected = isinstance(error, TransportError | TimeoutError | Doubt)
            trace = {} if expected else {"exc_info": error}
            log.warning("watch.failed", prefix=self._prefix, error=error_text(error), **trace)

    def _note_success(self) -> None:
        if self._failures:
            log.info("watch.resumed", prefix=self._prefix, after_failures=self._failures)
        self._failures = 0
