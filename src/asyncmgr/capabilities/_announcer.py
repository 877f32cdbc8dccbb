"""Keeps one host's announcement in the store: soon after a change, again before it expires, gone at a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import zlib
from functools import partial

from asyncmgr._common.cancellation import is_cancelled
from asyncmgr._common.clock import read_wall
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import printable, safe_str, type_name
from asyncmgr.capabilities._announcement import (
    LAST_INCARNATION,
    STORE,
    STORE_TTL,
    Announcement,
    announcement_key,
)
from asyncmgr.capabilities._board import Board
from asyncmgr.capabilities._values import Node, same
from asyncmgr.errors import RevisionConflict, TransportError
from asyncmgr.events import HostDuplicated, Listeners
from asyncmgr.transports import Entry, Store, StoreEngine
from asyncmgr.transports._retries import Retries

AT_MOST_EVERY = 0.5
"""Seconds between two announcements of changes, so that a manager that updates all the time causes no storm."""

ANSWER_WITHIN = 5.0
"""Seconds that the engine gets for one announcement, and for the withdrawal."""

_latest_incarnation = 0


class Announcer:
    """Announces one service instance.

    An outage of the engine costs only time: it is logged once, and so is its end, when the latest state of the
    host is announced again.

    Of several live instances with one name the latest start is announced. The others leave it the name, report it
    once an episode, and are back when it is gone.

    Parameters
    ----------
    engine
        Keeps the announcement: the service's transport, or the engine of its setting `store`.
    ttl
        Seconds without a refresh after which readers take the host for gone. The host is announced again every third
        of that.
    board
        Holds what is announced; wakes the announcer after each report.
    listeners
        Are told of another instance with this host's name.
    """

    def __init__(
        self,
        engine: StoreEngine,
        service: str,
        host: str,
        *,
        ttl: float,
        board: Board,
        listeners: Listeners,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._count = engine.operations.count
        self._engine = engine
        self._service, self._host = service, host
        self._key = announcement_key(service, host)
        self._ttl = ttl
        self._answer_within = min(ANSWER_WITHIN, ttl / 3)
        self._board = board
        self._listeners = listeners
        # Seeded by host, so that hosts that started together do not refresh together.
        self._spread = random.Random(zlib.crc32(self._key.encode()))
        self._retries = Retries(
            engine,
            "announcement.failed",
            "announcement.resumed",
            spread=self._spread,
            service=service,
            host=host,
        )
        self._store: Store | None = None
        # The revision of the key, 0 where there is no such key; None: it has to be looked up.
        self._revision: int | None = None
        self._incarnation = _next_incarnation()
        self._sequence = 0
        self._sent: tuple[Node, ...] | None = None
        """What was announced last; `None` where the host was withdrawn since."""
        self._suspended = False
        self._has_looked = False
        self._is_duplicated = False
        self._tried = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Announce the host, and keep it announced. While the engine is down, this is done as soon as it is back.

        A start takes the name, even from a live instance: nobody can tell that from one that has just died.
        """
        self._board.set_reader(self._note_report)
        self._task = asyncio.create_task(self._keep_announced(), name=f"asyncmgr announcer of {self._key}")
        await self._tried.wait()

    async def stop(self) -> None:
        """Withdraw the host. Where the engine fails, readers go by the TTL."""
        if self._task is None:
            return
        self._board.set_reader(None)
        try:
            async with asyncio.timeout(self._answer_within):
                async with self._writing:  # a write that is cut off might arrive after the withdrawal
                    self._task.cancel()
                await self._withdraw()
        except (TransportError, TimeoutError) as exc:
            log.warning(
                "withdrawal.failed",
                service=self._service,
                host=self._host,
                error=safe_str(exc) or type_name(exc),
            )
        finally:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=self._answer_within)

    def suspend(self, reason: str) -> None:
        """Withdraw the host until `resume`: it cannot serve calls. Logged once; may be called before the start."""
        if self._suspended:
            return
        self._suspended = True
        log.warning(
            "announcement.suspended", service=self._service, host=self._host, reason=printable(reason)
        )
        self._retries.hasten(0)

    def resume(self) -> None:
        """Announce the host again after `suspend`."""
        if not self._suspended:
            return
        self._suspended = False
        log.info("announcement.restored", service=self._service, host=self._host)
        self._retries.hasten(0)

    def _note_report(self) -> None:
        """Announce a change soon. Threads call this too, as measuring often runs in one."""
        if self._is_behind():
            with contextlib.suppress(RuntimeError):  # the loop was closed while a thread still measured
                self._loop.call_soon_threadsafe(self._retries.hasten, AT_MOST_EVERY)

    def _is_behind(self) -> bool:
        if self._suspended or self._sent is None:
            return self._suspended == (self._sent is not None)
        return not same(self._board.nodes, self._sent)

    async def _keep_announced(self) -> None:
        with self._retries:
            while True:
                await self._retries.due()
                await self._announce()
                self._tried.set()

    async def _announce(self) -> None:
        """Try to write the announcement as it is now. Whatever the engine raises, the next try is planned."""
        async with self._writing:
            try:
                async with asyncio.timeout(self._answer_within):
                    if self._suspended:
                        await self._withdraw()
                    else:
                        await self._send(self._board.nodes)
                self._retries.succeeded(math.inf if self._rests() else self._refresh_in())
                self._note_report()
            except (Exception, asyncio.CancelledError) as exc:
                if is_cancelled():
                    raise
                self._store = self._revision = None  # the engine may have lost the key
                self._retries.failed(exc)

    def _rests(self) -> bool:
        """Nobody can read it unseen: it is refreshed once somebody begins to."""
        store = self._store
        if store is None or self._is_duplicated or self._suspended:
            return False  # the key is not this instance's
        return store.rest(self._key, partial(self._retries.hasten, 0))

    def _refresh_in(self) -> float:
        return min(self._ttl, STORE_TTL) / 3 * self._spread.uniform(0.9, 1.1)

    async def _send(self, nodes: tuple[Node, ...]) -> None:
        store = await self._open_store()
        try:
            if self._revision is not None or await self._may_write(store):
                await self._write(store, nodes)
        except RevisionConflict:  # it expired, was lost with the engine, or another instance wrote
            if await self._may_write(store):
                await self._write(store, nodes)
        self._sent = nodes

    async def _open_store(self) -> Store:
        if self._store is None:
            self._store = await self._count("open", self._engine.store(STORE, ttl=STORE_TTL))
        return self._store

    async def _write(self, store: Store, nodes: tuple[Node, ...]) -> None:
        self._sequence += 1
        announcement = Announcement(
            self._service, self._host, self._incarnation, self._sequence, self._ttl, nodes
        )
        if self._revision:
            call = store.update(self._key, announcement.encode(), self._revision)
            self._revision = await self._count("update", call)
        else:
            self._revision = await self._count("create", store.create(self._key, announcement.encode()))
        self._note_single()

    # Other instances with this host's name: this one succeeds those of the past, and reports those that live

    async def _may_write(self, store: Store) -> bool:
        """Read the key; return whether this instance may write over it."""
        there = await self._count("get", store.get(self._key))
        self._revision = there.revision if there is not None else 0
        other = _read(there)
        # Another process may have the same incarnation, if it started at the same instant: its sequence tells.
        if there is not None and other is not None and other.order > (self._incarnation, self._sequence):
            # The first look finds an earlier instance, even if a clock that was set back makes it look later.
            if self._has_looked and there.age < other.lifetime:
                self._revision = None
                self._note_duplicate()
                return False
            await self._succeed(store, other.incarnation)
        self._has_looked = True
        return True

    async def _succeed(self, store: Store, incarnation: int) -> None:
        """Become later than the incarnation under the key."""
        if incarnation + 1 < LAST_INCARNATION:
            self._incarnation = incarnation + 1
        else:  # garbage: no start can follow it, and a deletion lets readers forget it
            await self._count("delete", store.delete(self._key, self._revision))
            self._revision = 0

    def _note_duplicate(self) -> None:
        # The older instance reports, and leaves the name to the newer one: one report, no fight.
        if self._is_duplicated:
            return
        self._is_duplicated = True
        log.error(
            "host.duplicated",
            service=self._service,
            host=self._host,
            cure="another live instance of the service was started later under this host name and is announced "
            "instead of this one; give each instance a name of its own: host=, --host or ASYNCMGR_HOST",
        )
        self._listeners.tell(HostDuplicated(self._service, self._host))

    def _note_single(self) -> None:
        if self._is_duplicated:
            self._is_duplicated = False
            log.info("host.reclaimed", service=self._service, host=self._host)

    async def _withdraw(self) -> None:
        store = await self._open_store()
        there = await self._count("get", store.get(self._key))
        mine = _read(there)
        if there is not None and mine is not None and mine.incarnation == self._incarnation:
            with contextlib.suppress(RevisionConflict):  # another instance has the name now
                await self._count("delete", store.delete(self._key, there.revision))
        self._sent = self._revision = None


def _next_incarnation() -> int:
    """Microseconds since 1970, but always more than the last: a restart within this process is a later one."""
    global _latest_incarnation
    _latest_incarnation = max(read_wall(), _latest_incarnation + 1)
    return _latest_incarnation


def _read(entry: Entry | None) -> Announcement | None:
    """The announcement of an entry; `None` where there is none, or it is malformed."""
    try:
        return Announcement.decode(entry.key, entry.value) if entry is not None else None
    except ValueError:
        return None
