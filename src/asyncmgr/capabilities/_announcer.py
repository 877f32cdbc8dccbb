"""Keeps one host's announcement in the store: soon after a change, again before it expires, gone at a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import zlib
from collections.abc import Callable
from functools import partial

from asyncmgr._common.cancellation import is_cancelled
from asyncmgr._common.clock import read_wall
from asyncmgr._common.log import log
from asyncmgr.capabilities._announcement import STORE, STORE_TTL, Announcement, announcement_key
from asyncmgr.capabilities._values import Node, same
from asyncmgr.errors import RevisionConflict, TransportError
from asyncmgr.events import HostDuplicated, Listeners
from asyncmgr.transports import Entry, Store, Transport
from asyncmgr.transports._retries import Retries

AT_MOST_EVERY = 0.5
"""Seconds between two announcements of changes, so that a manager that updates all the time causes no storm."""

ANSWER_WITHIN = 5.0
"""Seconds that the transport gets for one announcement, and for the withdrawal."""

_latest_incarnation = 0


class Announcer:
    """Announces one service instance.

    Without the transport nothing is lost but time: an outage is logged once, and so is its end, when the latest
    state of the host is announced again, whatever the store has kept.

    Parameters
    ----------
    ttl
        Seconds without a refresh after which readers take the host for gone; it is refreshed every third of that.
    nodes
        What is to be announced now.
    listeners
        Are told of another instance with this host's name.
    """

    def __init__(
        self,
        transport: Transport,
        service: str,
        host: str,
        *,
        ttl: float,
        nodes: Callable[[], tuple[Node, ...]],
        listeners: Listeners,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._service, self._host = service, host
        self._key = announcement_key(service, host)
        self._ttl = ttl
        self._answer_within = min(ANSWER_WITHIN, ttl / 3)
        self._nodes = nodes
        self._listeners = listeners
        # By host, so that hosts that were started together do not refresh together.
        self._spread = random.Random(zlib.crc32(self._key.encode()))
        self._retries = Retries(
            transport,
            "announcement.failed",
            "announcement.resumed",
            spread=self._spread,
            service=service,
            host=host,
        )
        self._store: Store | None = None
        # Of what stands under the key, 0 where nothing does; None = to be looked up.
        self._revision: int | None = None
        self._incarnation = _next_incarnation()
        self._sequence = 0
        self._sent: tuple[Node, ...] = ()
        self._has_looked = False
        self._duplicate_reported = False
        self._tried = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Announce the host, and keep it announced. While the transport is down, this is done as soon as it is back.

        Raises
        ------
        InvalidCapabilities
            The nodes that the managers report do not go together.
        """
        self._nodes()
        self._task = asyncio.create_task(self._keep_announced(), name=f"asyncmgr announcer of {self._key}")
        await self._tried.wait()

    async def stop(self) -> None:
        """Withdraw the host. Where the transport does not take that, readers go by the TTL."""
        if self._task is None:
            return
        try:
            async with asyncio.timeout(self._answer_within):
                async with self._writing:  # what is cut off might be written after the withdrawal
                    self._task.cancel()
                await self._withdraw()
        except (TransportError, TimeoutError) as exc:
            log.warning(
                "withdrawal.failed", service=self._service, host=self._host, error=str(exc) or repr(exc)
            )
        finally:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=self._answer_within)

    def announce_changes(self) -> None:
        """Send soon what is not sent yet. May be called in any thread, where measuring often is."""
        if not same(self._nodes(), self._sent):
            self._loop.call_soon_threadsafe(self._retries.hasten, AT_MOST_EVERY)

    async def _keep_announced(self) -> None:
        with self._retries:
            while True:
                await self._retries.due()
                await self._announce()
                self._tried.set()

    async def _announce(self) -> None:
        """Try to write the announcement as it is now. Whatever the transport raises, the next try is planned."""
        async with self._writing:
            try:
                async with asyncio.timeout(self._answer_within):
                    await self._send(self._nodes())
                self._retries.succeeded(math.inf if self._rests() else self._refresh_in())
                self.announce_changes()
            except (Exception, asyncio.CancelledError) as exc:
                if is_cancelled():
                    raise
                self._store = self._revision = None  # lost with the engine, for all that is known
                self._retries.failed(exc)

    def _rests(self) -> bool:
        """Nobody can read it unseen: it is refreshed once somebody begins to."""
        store = self._store
        return store is not None and store.rest(self._key, partial(self._retries.hasten, 0))

    def _refresh_in(self) -> float:
        return min(self._ttl, STORE_TTL) / 3 * self._spread.uniform(0.9, 1.1)

    async def _send(self, nodes: tuple[Node, ...]) -> None:
        store = self._store = self._store or await self._transport.store(STORE, ttl=STORE_TTL)
        try:
            if self._revision is not None or await self._may_write(store):
                await self._write(store, nodes)
        except RevisionConflict:  # it expired, was lost with the engine, or another instance wrote
            if await self._may_write(store):
                await self._write(store, nodes)
        self._sent = nodes

    async def _write(self, store: Store, nodes: tuple[Node, ...]) -> None:
        self._sequence += 1
        announcement = Announcement(
            self._service, self._host, self._incarnation, self._sequence, self._ttl, nodes
        )
        if self._revision:
            self._revision = await store.update(self._key, announcement.encode(), self._revision)
        else:
            self._revision = await store.create(self._key, announcement.encode())

    # Other instances with this host's name: those of the past are succeeded, those of the present reported

    async def _may_write(self, store: Store) -> bool:
        """Look at what stands under the key: whether it is to be written over."""
        there = await store.get(self._key)
        self._revision = there.revision if there is not None else 0
        other = _read(there)
        if there is not None and other is not None and other.incarnation > self._incarnation:
            # What is met first was left by an earlier instance, even if a clock that was set back makes it look newer.
            if self._has_looked and there.age < other.ttl:
                self._revision = None
                self._report_duplicate()
                return False
            self._incarnation = other.incarnation + 1
        self._has_looked = True
        return True

    def _report_duplicate(self) -> None:
        # Of two instances the older one reports, and leaves the name to the newer: one report, and no fight.
        if self._duplicate_reported:
            return
        self._duplicate_reported = True
        log.error(
            "host.duplicated",
            service=self._service,
            host=self._host,
            cure="a newer live instance of the service has this host name and is announced instead; "
            "give each instance its own host=",
        )
        self._listeners.tell(HostDuplicated(self._service, self._host))

    async def _withdraw(self) -> None:
        store = self._store or await self._transport.store(STORE, ttl=STORE_TTL)
        there = await store.get(self._key)
        mine = _read(there)
        if there is not None and mine is not None and mine.incarnation == self._incarnation:
            with contextlib.suppress(RevisionConflict):  # not its own any more
                await store.delete(self._key, there.revision)


def _next_incarnation() -> int:
    """Microseconds since 1970, but always more than the last: a restart within this process is a later one."""
    global _latest_incarnation
    _latest_incarnation = max(read_wall(), _latest_incarnation + 1)
    return _latest_incarnation


def _read(entry: Entry | None) -> Announcement | None:
    """The announcement of an entry; one that is malformed is none."""
    try:
        return Announcement.decode(entry.key, entry.value) if entry is not None else None
    except ValueError:
        return None
