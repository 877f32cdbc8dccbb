"""The transport of ``memory://``: messages and keys inside one event loop, for tests and services without an engine.

Each transport of ``memory://`` has a fabric of its own. All transports of ``memory://name`` in one event loop share one
fabric, which lasts while one of them is open. Stores follow the running loop's time, so that keys expire in virtual
time too. Nothing here is thread-safe.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncmgr.errors import NoResponders, TransportClosed, TransportError
from asyncmgr.transports._base import Transport
from asyncmgr.transports._given import (
    VALUE_LIMIT,
    Data,
    check_name,
    check_optional,
    check_prefix,
    check_store,
    lasting,
    to_bytes,
)
from asyncmgr.transports._shelf import EngineClock, Shelf
from asyncmgr.transports._stores import Store
from asyncmgr.transports._streams import PENDING_LIMIT, Entry, Message, Subscription, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator


@asynccontextmanager
async def open_memory(url: str, settings: Any = None) -> AsyncIterator[MemoryTransport]:
    """Open a transport for a URL of the scheme ``memory``."""
    transport = MemoryTransport(_fabric_named(url.partition("://")[2]))
    try:
        yield transport
    finally:
        await transport.aclose()


class MemoryTransport(Transport):
    """One connection to a fabric in this process.

    Every call waits for one turn of the event loop before it acts, as a call over a network waits. So no code can come
    to rely on calls that never wait.
    """

    def __init__(self, fabric: Fabric) -> None:
        super().__init__()
        self._fabric = fabric
        self._closed = False
        self._subscriptions: dict[Subscription, str | None] = {}
        self._taken_away: set[str] = set()
        self._watches: set[Watch] = set()
        self._resting: Resting = {}
        fabric.users += 1

    async def publish(self, subject: str, data: Data, *, reply_to: str | None = None) -> None:
        await self._send(
            Message(check_name(subject), to_bytes(data, subject), check_optional(reply_to, "reply_to"))
        )

    async def _send_reply(self, reply_to: str, data: Data) -> None:
        await self._send(Message(reply_to, to_bytes(data, reply_to)))

    async def _send(self, message: Message) -> None:
        await self._ready()
        self._fabric.deliver(message)

    @asynccontextmanager
    async def subscribe(
        self, subject: str, *, group: str | None = None, pending_limit: int = PENDING_LIMIT
    ) -> AsyncIterator[Subscription]:
        subscription = Subscription(check_name(subject), pending_limit)
        await self._ready()
        with self._subscribed(subscription, check_optional(group, "group")):
            yield subscription

    async def request(self, subject: str, data: Data, *, timeout: float) -> bytes:
        inbox = f"_INBOX.{next(self._fabric.inboxes)}"
        message = Message(check_name(subject), to_bytes(data, subject), inbox)
        await self._ready()
        with self._subscribed(Subscription(inbox, pending_limit=1), None) as replies:
            if not self._fabric.deliver(message):
                raise NoResponders(f"{subject}: nobody subscribes to it; is the service running?")
            return await self._first(replies, subject, timeout)

    async def store(self, name: str, *, ttl: float | None, watched: bool = True) -> MemoryStore:
        check_store(name, ttl)
        await self._ready()
        shelf = self._fabric.shelf(name, math.inf if ttl is None else ttl)
        if shelf.lasts != (lasts := lasting(ttl)):
            raise TransportError(f"store {name} keeps keys {shelf.lasts}, not {lasts}; open it with one ttl")
        return MemoryStore(shelf, self._ready, self._watches, self._resting)

    async def now(self) -> int:
        await self._ready()
        return self._fabric.now()

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._note_closed()
        self._detach_all()
        for subscription in self._subscriptions:
            subscription.end()
        for watch in self._watches:
            watch.end()
        self._fabric.leave()

    @contextmanager
    def outage(self) -> Iterator[None]:
        """For tests: cut this transport, and no other, off from the fabric while the block runs."""
        self._detach_all()
        for watch in self._watches:
            watch.end(TransportError("the connection was lost, changes may have been missed; watch again"))
        self._set_connected(False)
        try:
            yield
        finally:
            self._reconnect()

    @contextmanager
    def loss(self, subject: str) -> Iterator[None]:
        """For tests: take `subject` away from this transport while the block runs; see `problems`."""
        self._taken_away.add(subject)
        for subscription, group in self._subscriptions.items():
            if subscription.subject == subject:
                self._fabric.detach(subscription, group)
        self._note_trouble()
        try:
            yield
        finally:
            self._taken_away.discard(subject)
            if self._connected:
                self._attach_all(lambda subscription: subscription.subject == subject)
            self._note_trouble()

    def wipe(self) -> None:
        """For tests: lose all keys of the fabric, as an engine that starts again without its data."""
        for shelf in self._fabric.shelves.values():
            shelf.wipe()

    def problems(self) -> dict[str, str]:
        lost = {each.subject for each in self._subscriptions} & self._taken_away
        return {subject: f"{subject}: taken away by a test; leave its loss()" for subject in sorted(lost)}

    def _detach_all(self) -> None:
        for (shelf, key), wake in self._resting.items():
            shelf.end_rest(key, wake)
        self._resting.clear()
        for subscription, group in self._subscriptions.items():
            self._fabric.detach(subscription, group)

    def _reconnect(self) -> None:
        if self._closed:
            return
        self._attach_all(lambda _: True)
        self._set_connected(True)

    def _attach_all(self, which: Callable[[Subscription], bool]) -> None:
        for subscription, group in self._subscriptions.items():
            if which(subscription) and subscription.subject not in self._taken_away:
                self._fabric.attach(subscription, group)

    async def _ready(self) -> None:
        self._check()
        await asyncio.sleep(0)
        self._check()

    def _check(self) -> None:
        if self._closed:
            raise TransportClosed("this transport was closed; open a new one")
        if not self._connected:
            raise TransportError("not connected; try again once `connected` is true")

    @contextmanager
    def _subscribed(self, subscription: Subscription, group: str | None) -> Iterator[Subscription]:
        if subscription.subject in self._taken_away:
            raise TransportError(f"{subscription.subject}: taken away by a test; leave its loss()")
        self._subscriptions[subscription] = group
        self._fabric.attach(subscription, group)
        try:
            yield subscription
        finally:
            subscription.end()
            del self._subscriptions[subscription]
            self._fabric.detach(subscription, group)

    async def _first(self, replies: Subscription, subject: str, timeout: float) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return (await anext(replies)).data
        except TimeoutError:
            raise TimeoutError(f"{subject}: no answer within {timeout:g} s") from None
        except StopAsyncIteration:
            raise TransportClosed(f"{subject}: the transport was closed before the answer") from None


class MemoryStore(Store):
    """The store that one transport has opened; the shelf holds the keys."""

    def __init__(
        self,
        shelf: Shelf,
        ready: Callable[[], Awaitable[None]],
        watches: set[Watch],
        resting: Resting,
    ) -> None:
        self._shelf = shelf
        self._ready = ready
        self._watches = watches
        self._resting = resting

    async def get(self, key: str) -> Entry | None:
        check_name(key, "key")
        await self._ready()
        return self._shelf.get(key)

    async def put(self, key: str, value: Data) -> int:
        return await self._write(key, value)

    async def create(self, key: str, value: Data) -> int:
        return await self._write(key, value, self._shelf.require_none)

    async def update(self, key: str, value: Data, revision: int) -> int:
        return await self._write(key, value, lambda key: self._shelf.require(key, revision))

    async def delete(self, key: str, revision: int | None = None) -> None:
        check_name(key, "key")
        await self._ready()
        if revision is not None:
            self._shelf.require(key, revision)
        self._shelf.delete(key)

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[Watch]:
        start = check_prefix(prefix)
        await self._ready()
        watch = Watch()
        self._watches.add(watch)
        self._shelf.follow(watch, start)
        try:
            yield watch
        finally:
            watch.end()
            self._watches.discard(watch)
            del self._shelf.watches[watch]

    def rest(self, key: str, wake: Callable[[], object]) -> bool:
        rests = self._shelf.rest(check_name(key, "key"), wake)
        if rests:
            self._resting[self._shelf, key] = wake
        return rests

    async def _write(self, key: str, value: Data, require: Callable[[str], None] | None = None) -> int:
        raw = to_bytes(value, check_name(key, "key"), VALUE_LIMIT)
        await self._ready()
        if require:
            require(key)
        return self._shelf.write(key, raw)


class Fabric:
    """The routes of subjects and the shelves of keys that the transports of one name share."""

    def __init__(self, name: str = "", neighbours: dict[str, Fabric] | None = None) -> None:
        self.users = 0
        self.inboxes: itertools.count[int] = itertools.count(1)
        self.shelves: dict[str, Shelf] = {}
        self.now = EngineClock()
        self._name = name
        self._neighbours = {} if neighbours is None else neighbours
        # By subject, then by group. A subscription without a group is the only member of a group of its own.
        self._routes: dict[str, dict[object, deque[Subscription]]] = {}

    def shelf(self, name: str, ttl: float) -> Shelf:
        """Return the shelf of this name, whose TTL may be another; make it where it is missing."""
        if name not in self.shelves:
            self.shelves[name] = Shelf(name, ttl, self.now)
        return self.shelves[name]

    def attach(self, subscription: Subscription, group: str | None) -> None:
        groups = self._routes.setdefault(subscription.subject, {})
        groups.setdefault(group or subscription, deque()).append(subscription)

    def detach(self, subscription: Subscription, group: str | None) -> None:
        """Take the subscription out, and remove the groups that are then empty. It may be absent."""
        groups = self._routes.get(subscription.subject, {})
        members = groups.get(group or subscription)
        if members and subscription in members:
            members.remove(subscription)
        if not members:
            groups.pop(group or subscription, None)
        if not groups:
            self._routes.pop(subscription.subject, None)

    def deliver(self, message: Message) -> bool:
        """Deliver to all groups of the subject, whose members take turns; return whether there is any subscription."""
        groups = self._routes.get(message.subject, {})
        for members in groups.values():
            members[0].deliver(message)
            members.rotate(-1)
        return bool(groups)

    def leave(self) -> None:
        """Count one transport less. After the last one the name is free again, and the fabric is forgotten."""
        self.users -= 1
        if not self.users:
            self._neighbours.pop(self._name, None)


Resting: TypeAlias = dict[tuple[Shelf, str], "Callable[[], object]"]
"""The keys that one transport lets rest, each with the function to call when it ages again."""


_shared: dict[asyncio.AbstractEventLoop, dict[str, Fabric]] = {}


def _fabric_named(name: str) -> Fabric:
    """Return the fabric of this name in the running loop; make a new one for the empty name."""
    for loop in [loop for loop in list(_shared) if loop.is_closed()]:
        _shared.pop(loop, None)
    if not name:
        return Fabric()
    fabrics = _shared.setdefault(asyncio.get_running_loop(), {})
    return fabrics.setdefault(name, Fabric(name, fabrics))
