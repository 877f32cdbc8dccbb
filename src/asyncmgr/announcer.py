"""Keeps one host's announcement in the store: at once on a change, again before it expires, gone at a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib
from collections.abc import Callable

from asyncmgr.capabilities import STORE, STORE_TTL, Announcement, Node
from asyncmgr.clock import read_wall
from asyncmgr.errors import RevisionConflict, TransportError
from asyncmgr.events import HostDuplicated, Listeners
from asyncmgr.log import log
from asyncmgr.transports import Store, Transport
from asyncmgr.transports.tokens import encode_token

AT_MOST_EVERY = 0.5
"""Seconds between two announcements of changes, so that a manager that updates all the time causes no storm."""

RETRY_FIRST, RETRY_MOST = 0.5, 30.0
"""Seconds: the backoff while the transport does not take the announcement; jittered."""


class Announcer:
    """Announces one service instance. It never raises into the schedule: an outage is logged once, and its end."""

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
        self._transport = transport
        self._service = service
        self._host = host
        self._key = announcement_key(service, host)
        self._ttl = ttl
        self._nodes = nodes
        self._listeners = listeners
        # Spread by host, so that hosts that were started together do not refresh together.
        self._random = random.Random(zlib.crc32(self._key.encode()))
        self._store: Store | None = None
        self._revision = 0
        self._incarnation = 0
        self._sequence = 0
        self._sent: tuple[Node, ...] | None = None
        self._changed = asyncio.Event()
        self._failures = 0
        self._duplicate_reported = False
        self._busy = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Announce the host, and keep it announced.

        Raises
        ------
        TransportError
            The store cannot be opened.
        """
        self._store = await self._transport.store(STORE, ttl=STORE_TTL)
        before = await self._store.get(self._key)
        self._revision = before.revision if before is not None else 0
        self._incarnation = max(read_wall(), _incarnation(before.value) + 1 if before is not None else 0)
        await self._announce()
        self._task = asyncio.create_task(self._keep_announced(), name=f"asyncmgr announcer of {self._key}")

    async def stop(self) -> None:
        """Withdraw the host."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
            self._task = None
        if self._store is not None:
            with contextlib.suppress(TransportError):
                await self._store.delete(self._key, self._revision)

    def announce_soon(self) -> None:
        """Something changed."""
        self._changed.set()

    def announce_changes(self) -> None:
        """Send what was not sent yet."""
        if self._nodes() != self._sent:
            self._changed.set()

    async def _keep_announced(self) -> None:
        while True:
            await self._sleep_until_changed(self._next_wait())
            self._changed.clear()
            await self._announce()
            await asyncio.sleep(AT_MOST_EVERY)

    def _next_wait(self) -> float:
        if self._failures:
            wait = min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(self._failures - 1, 10))
            return wait * self._random.uniform(0.5, 1.0)
        return self._ttl / 3 * self._random.uniform(0.9, 1.1)

    async def _sleep_until_changed(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _announce(self) -> None:
        """Write the announcement; a transport that does not take it is tried again later, with the latest only."""
        nodes = self._nodes()
        self._sequence += 1
        value = Announcement(
            self._service, self._host, self._incarnation, self._sequence, self._ttl, nodes
        ).encode()
        try:
            await self._write(value)
        except TransportError as exc:
            self._note_failure(exc)
        else:
            self._sent = nodes
            self._note_success()

    async def _write(self, value: bytes) -> None:
        assert self._store is not None
        try:
            if self._revision:
                self._revision = await self._store.update(self._key, value, self._revision)
            else:
                self._revision = await self._store.create(self._key, value)
        except RevisionConflict:
            await self._meet_another_writer(self._store, value)

    async def _meet_another_writer(self, store: Store, value: bytes) -> None:
        """The key is not as this instance left it: it expired or was lost, or another instance has this name."""
        there = await store.get(self._key)
        if there is not None and _incarnation(there.value) != self._incarnation:
            self._report_duplicate()
            if _incarnation(there.value) > self._incarnation:
                return  # readers ignore the older incarnation; writing would only hide the newer one's values
        self._revision = await store.put(self._key, value)

    def _report_duplicate(self) -> None:
        if self._duplicate_reported:
            return
        self._duplicate_reported = True
        log.error(
            "host.duplicated",
            service=self._service,
            host=self._host,
            cure="two live instances of the service use this host name; give one another host=",
        )
        self._listeners.tell(HostDuplicated(self._service, self._host))

    def _note_failure(self, error: TransportError) -> None:
        self._failures += 1
        if self._failures == 1:
            log.warning("announcement.failed", service=self._service, host=self._host, error=str(error))

    def _note_success(self) -> None:
        if self._failures:
            log.info(
                "announcement.resumed", service=self._service, host=self._host, after_failures=self._failures
            )
        self._failures = 0


def announcement_key(service: str, host: str) -> str:
    """Where the announcement of this host is stored."""
    return f"{encode_token(service, 'service name')}.{encode_token(host, 'host name')}"


def _incarnation(value: bytes) -> int:
    try:
        return Announcement.decode(value).incarnation
    except ValueError:
        return 0
