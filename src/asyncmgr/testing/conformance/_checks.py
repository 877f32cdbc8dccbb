"""The base of all checks: how to connect, and how to wait for events instead of time."""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pytest

from asyncmgr.transports._given import NAME_LIMIT
from asyncmgr.transports._streams import SNAPSHOT_DONE, Entry, Message, Subscription, Watch

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from asyncmgr.transports._base import Transport
    from asyncmgr.transports._given import Data
    from asyncmgr.transports._stores import Store

T = TypeVar("T")

Operation: TypeAlias = "Callable[[Transport, Store, str], Awaitable[object]]"
"""One call of the interface. Takes a transport, a store of it, and a fresh name for a subject or key."""

PATIENCE = 20.0
"""Seconds of the loop's time after which an expected event counts as missing."""

TTL = 2.0
"""Seconds that keys live in the stores of these checks."""

SLACK = 1.5
"""Seconds by which an engine may forget an expired key late."""

BINARY = [b"", b"\x00", bytes(range(256)), b"\r\nPUB x 1\r\n", "ünïcödé".encode()]
BAD_NAMES = ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "a\r\nb", "ä", "a/b", "x" * (NAME_LIMIT + 1)]


async def soon(awaitable: Awaitable[T]) -> T:
    """Await the result, which has to come within `PATIENCE`."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def until(condition: Callable[[], bool], cycles: int = 200_000) -> None:
    """Let the event loop turn until `condition` holds; fail after this many turns."""
    for _ in range(cycles):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("what was waited for did not happen")


async def take(stream: AsyncIterator[T], count: int) -> list[T]:
    """Read the next `count` items."""
    return [await soon(anext(stream)) for _ in range(count)]


async def texts(stream: AsyncIterator[Message], count: int) -> list[str]:
    """Read the data of the next `count` messages."""
    return [message.data.decode() for message in await take(stream, count)]


async def snapshot(watch: Watch) -> list[Entry]:
    """Read what comes before `SNAPSHOT_DONE`, and check that it is entries only."""
    found: list[Entry] = []
    while (change := await soon(anext(watch))) is not SNAPSHOT_DONE:
        assert isinstance(change, Entry)
        found.append(change)
    return found


async def ends(stream: AsyncIterator[object]) -> None:
    """Check that the iteration has ended, and stays ended."""
    for _ in range(2):
        with pytest.raises(StopAsyncIteration):
            await soon(anext(stream))


async def connected(transport: Transport) -> None:
    """Return once `transport` has its connection."""
    back = asyncio.Event()
    remove = transport.add_state_listener(lambda is_back: back.set() if is_back else None)
    if not transport.connected:
        await soon(back.wait())
    remove()


@asynccontextmanager
async def running(awaitable: Awaitable[T]) -> AsyncIterator[asyncio.Task[T]]:
    """Run a task in the block, begun before it and cancelled at its end."""
    task = asyncio.ensure_future(as_coroutine(awaitable))
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def interrupted(stream: AsyncIterator[T], cause: Awaitable[object]) -> list[T]:
    """Cancel a reader about when `cause` brings it an item. Returns the item, or nothing."""
    async with running(anext(stream)) as reader:
        await cause
    return [] if reader.cancelled() else [reader.result()]


@asynccontextmanager
async def collected(subscription: Subscription) -> AsyncIterator[list[bytes]]:
    """Collect the data of all messages that a subscription gets inside the block."""
    data: list[bytes] = []

    async def collect() -> None:
        async for message in subscription:
            data.append(message.data)  # noqa: PERF401 - read while it grows

    async with running(collect()):
        yield data


@asynccontextmanager
async def answering(
    transport: Transport, subject: str, answer: Callable[[bytes], Data] = bytes, group: str | None = None
) -> AsyncIterator[list[bytes]]:
    """Answer each request inside the block; yields the requests that came."""
    got: list[bytes] = []

    async def serve(requests: Subscription) -> None:
        async for request in requests:
            got.append(request.data)
            assert request.reply_to is not None
            await transport.publish(request.reply_to, answer(request.data))

    async with transport.subscribe(subject, group=group) as requests, running(serve(requests)):
        yield got


async def as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def enter(manager: AbstractAsyncContextManager[Any]) -> None:
    async with manager:
        pass


OPERATIONS: dict[str, Operation] = {
    "publish": lambda transport, _, name: transport.publish(name, b"x"),
    "request": lambda transport, _, name: transport.request(name, b"x", timeout=PATIENCE),
    "subscribe": lambda transport, _, name: enter(transport.subscribe(name)),
    "store": lambda transport, _, name: transport.store(name, ttl=TTL),
    "get": lambda _, store, name: store.get(name),
    "put": lambda _, store, name: store.put(name, b"x"),
    "create": lambda _, store, name: store.create(name, b"x"),
    "update": lambda _, store, name: store.update(name, b"x", 1),
    "delete": lambda _, store, name: store.delete(name),
    "watch": lambda _, store, name: enter(store.watch(name)),
    "keys": lambda _, store, name: store.keys(),
}
"""Every call that waits. Some checks hold for each of them."""

EACH_OPERATION = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


class Checks(ABC):
    """What an implementation provides for its checks."""

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Transport]:
        """Open one more connection to the fabric of this test; called several times in a test."""

    @abstractmethod
    def outage(self, transport: Transport) -> AbstractAsyncContextManager[None]:
        """Take the connection of `transport` away during the block; other connections and stores may suffer too.

        The block begins once `transport.connected` is false. It ends once `connected` is true again, or at once if the
        transport was closed meanwhile. May call `pytest.skip` if the connection cannot be lost.
        """

    async def pass_time(self, seconds: float) -> None:
        """Let this many seconds pass for the engine; override it if the engine has a clock of its own."""
        await asyncio.sleep(seconds)

    @asynccontextmanager
    async def peers(self) -> AsyncIterator[tuple[Transport, Transport]]:
        """Open two connections to one fabric; check at the end that they left no task behind."""
        before = asyncio.all_tasks()
        async with self.connect() as one, self.connect() as other:
            yield one, other
        await until(lambda: asyncio.all_tasks() <= before)

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[tuple[Store, Store]]:
        """Open one new store over two connections."""
        async with self.peers() as (one, other):
            name = self.fresh()
            yield await one.store(name, ttl=TTL), await other.store(name, ttl=TTL)

    def fresh(self) -> str:
        """Make a name that nothing else uses, for a subject or a store."""
        return f"check-{uuid.uuid4().hex[:12]}"
