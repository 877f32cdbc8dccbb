"""The reader's side of capabilities: a live view of the hosts of a service, aged on the reader's own clock."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary, WeakSet

from asyncmgr.capabilities._ageing import Ageing
from asyncmgr.capabilities._announcement import STORE, STORE_TTL, Announcement
from asyncmgr.capabilities._announcer import ANSWER_WITHIN
from asyncmgr.capabilities._changes import ChangeStream
from asyncmgr.capabilities._malformed import MalformedKeys
from asyncmgr.capabilities._registry import HostAge, Registry
from asyncmgr.capabilities._selection import choose
from asyncmgr.capabilities._states import Filter, HostChange, HostState, Weigher
from asyncmgr.errors import ServiceStateError, TransportClosed
from asyncmgr.transports import SNAPSHOT_DONE, Deleted, Entry, StoreEngine, Watch, open_store
from asyncmgr.transports._retries import RETRY_MOST, Retries
from asyncmgr.transports._tokens import encode_token

AT_ONCE = 64
"""Changes taken in before others get their turn: those of 10,000 hosts take a good part of a second."""

RETURN_WITHIN = 10.0
"""Seconds that a host has to announce itself again, where the store has lost it during an outage."""

HELD_FOR = RETRY_MOST + ANSWER_WITHIN
"""Seconds after an outage in which no known host is judged by its age.

If the hosts could not reach the store either, their next try to announce themselves may come as late as this.
"""

_opened: WeakKeyDictionary[Registry, asyncio.AbstractEventLoop] = WeakKeyDictionary()
"""What the views know that are open in this process, with their loops; for metrics."""

PROOF_WITHIN = 0.25
"""Seconds between two looks for a sign that the feed lives, while hosts are due to be judged by their age."""


class Hosts:
    """A live view of the hosts of a service: the snapshot is complete when the context manager has been entered.

    It outlives an outage. While it hears nothing (`live` is false) it shows what it knew before: no host becomes
    stale or leaves by its age, as their silence proves nothing. The store is read again as soon as it can be.

    Parameters
    ----------
    engine
        Where the hosts are announced: an open store engine such as ``service.store``, an open transport, or the URL
        of either, which is opened and closed with this. Only keys are read; messages are not needed.
    service
        The service to watch; `None` means all of them.

    Raises
    ------
    TransportError
        On entering: the store cannot be read.
    """

    # These are set while the view is open.
    _complete: asyncio.Future[None]
    _retries: Retries
    _ageing: Ageing
    _ended: bool

    def __init__(self, engine: StoreEngine | str, service: str | None = None) -> None:
        self._given = engine
        self._service = service
        self._prefix = "" if service is None else encode_token(service, "service name")
        self._registry = Registry()
        self._malformed = MalformedKeys()
        self._feed: Watch | None = None
        """The watch whose snapshot was read and which has not failed."""
        self._taken = 0
        # Weak: an iterator that nobody reads any more takes its buffer along.
        self._readers: WeakSet[ChangeStream] = WeakSet()
        self._open: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise ServiceStateError("this Hosts is open already; make another one")
        self._ended = False
        self._ageing = Ageing(self._age)
        async with AsyncExitStack() as stack:
            stack.callback(self._forget)
            engine = self._given
            if isinstance(engine, str):
                engine = await stack.enter_async_context(open_store(engine))
            await self._begin_following(engine, stack)
            self._open = stack.pop_all()
        _opened[self._registry] = asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _opened.pop(self._registry, None)
        stack, self._open = self._open, None
        if stack is not None:
            await stack.aclose()

    async def _begin_following(self, engine: StoreEngine, stack: AsyncExitStack) -> None:
        """Return when the first snapshot has been taken in."""
        self._complete = asyncio.get_running_loop().create_future()
        keys = {} if self._service is None else {"service": self._service}
        self._retries = Retries(engine, "hosts.interrupted", "hosts.resumed", spread=random.Random(), **keys)
        task = asyncio.create_task(self._follow(engine), name="asyncmgr hosts")
        stack.push_async_callback(_cancel, task)
        await asyncio.wait({task, self._complete}, return_when=asyncio.FIRST_COMPLETED)
        if not self._complete.done():
            task.result()
            raise TransportClosed("the connection was closed before the hosts were read; open a new one")

    # Reading

    @property
    def live(self) -> bool:
        """Whether changes reach this view now. If not, it shows what it knew last."""
        return self._feed is not None

    def snapshot(self) -> tuple[HostState, ...]:
        """All nodes that are fresh or stale now, by service, host and node."""
        self._check_open()
        return tuple(self._registry.states(_now()))

    def select(
        self, filters: Iterable[Filter] = (), weighers: Iterable[Weigher] = (), count: int = 1
    ) -> list[HostState]:
        """The best `count` nodes, best first; fewer where fewer pass. Of equals, those first in `snapshot` win.

        Only fresh nodes that every filter passes are weighed. Each weigher's values are normalised to 0..1 over
        those nodes, so that no weigher outweighs the others by its unit. They are then multiplied by the weigher's
        attribute `multiplier`, where it has one, and added up.

        Raises
        ------
        TypeError
            A filter or weigher is `async def`, or cannot be called.
        ValueError
            A weigher gave something else than a finite number, or `count` is negative.
        """
        return choose(self.snapshot(), filters, weighers, count)

    def changes(self) -> AsyncIterator[HostChange]:
        """What becomes different from this call on, so that ``snapshot()`` right after it misses nothing.

        The iteration ends when this view is left or its engine is closed. A slow reader gets the net difference
        of each node, and so at most one change of it at once.
        """
        self._check_open()
        reader = ChangeStream()
        if self._ended:
            reader.end()
        self._readers.add(reader)
        return reader

    def _check_open(self) -> None:
        if self._open is None:
            raise ServiceStateError("Hosts is not open; use it as 'async with Hosts(...) as hosts'")

    def _tell(self, changes: Iterable[HostChange]) -> None:
        for change in changes:
            for reader in self._readers:
                reader.deliver(change)

    # Following the store

    async def _follow(self, engine: StoreEngine) -> None:
        """Take in snapshot and changes; watch again after a loss of the connection."""
        with self._retries:
            while not await self._watched_to_the_end(engine):
                await self._retries.due()
        self._end()

    async def _watched_to_the_end(self, engine: StoreEngine) -> bool:
        try:
            store = await engine.store(STORE, ttl=STORE_TTL)
            async with store.watch(self._prefix) as watch:
                await self._take_snapshot(watch)
                await self._take_changes(watch)
        except TransportClosed:
            return True
        except Exception as exc:
            # Whatever an engine raises, the view is completed later.
            if not self._complete.done():
                raise
            self._feed = None
            self._registry.hold()
            self._retries.failed(exc)
            return False
        return True

    async def _take_snapshot(self, watch: Watch) -> None:
        seen: set[str] = set()
        async for change in watch:
            if change is SNAPSHOT_DONE:
                self._begin_hearing(watch, seen)
                return
            if isinstance(change, Entry):
                seen.add(change.key)
                self._take(change, self._registry.take_snapshot)
            await self._let_others_run()

    def _begin_hearing(self, watch: Watch, seen: set[str]) -> None:
        now = _now()
        self._registry.release(seen, seen_until=now + HELD_FOR, unseen_until=now + RETURN_WITHIN)
        self._feed = watch
        self._ageing.plan(self._registry.changes_at)
        self._retries.succeeded()
        if not self._complete.done():
            self._complete.set_result(None)

    async def _take_changes(self, watch: Watch) -> None:
        async for change in watch:
            if isinstance(change, Entry):
                self._ageing.note_read(change.age)
                self._take(change, self._registry.take)
                self._ageing.plan(self._registry.changes_of(change.key))
            elif isinstance(change, Deleted):
                self._malformed.forget(change.key)
                self._tell(self._registry.drop(change.key, _now()))
            await self._let_others_run()

    async def _let_others_run(self) -> None:
        self._taken += 1
        if self._taken % AT_ONCE == 0:
            await asyncio.sleep(0)

    def _take(
        self, entry: Entry, take: Callable[[str, Announcement, float, float], list[HostChange]]
    ) -> None:
        try:
            announcement = Announcement.decode(entry.key, entry.value)
        except ValueError as exc:
            self._malformed.note(entry.key, exc)
            return
        self._malformed.forget(entry.key)
        now = _now()
        self._tell(take(entry.key, announcement, now - entry.age, now))

    # Ageing

    def _age(self, now: float) -> float:
        """Judge hosts by their age, as far as the feed is known to have lived; return when to do so again."""
        if self._feed is None and not self._ended:
            return math.inf  # planned again when the feed is back
        heard_until = now if self._feed is None else min(now, self._feed.heard_at)
        self._tell(self._registry.age(heard_until, now))
        changes_at = self._registry.changes_at
        return changes_at if changes_at > now else now + PROOF_WITHIN

    def _end(self) -> None:
        """Nothing more will be heard. What is known goes by its age for as long as this view is open."""
        self._feed = None
        self._ended = True
        self._registry.free()
        self._ageing.plan(self._registry.changes_at)
        for reader in self._readers:
            reader.end()

    def _forget(self) -> None:
        self._end()
        self._registry.clear()
        self._ageing.stop()


def ages_seen() -> Iterator[HostAge]:
    """Yield each host that views of the running loop show now, once each; nothing where no loop runs."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    seen: set[tuple[str, str]] = set()
    for registry, opened_in in tuple(_opened.items()):
        if opened_in is loop:
            for one in registry.ages(loop.time()):
                if (one.service, one.host) not in seen:
                    seen.add((one.service, one.host))
                    yield one


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # read, or asyncio logs an error that __aenter__ has raised already


def _now() -> float:
    return asyncio.get_running_loop().time()
