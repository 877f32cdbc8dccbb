"""The base of all checks: how to connect, and how to wait for events instead of time."""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import pytest

from asyncmgr.transports._given import NAME_LIMIT
from asyncmgr.transports._stores import StoreEngine
from asyncmgr.transports._streams import SNAPSHOT_DONE, Entry, Message, Subscription, Watch

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from asyncmgr.transports._base import Transport
    from asyncmgr.transports._given import Data
    from asyncmgr.transports._stores import Store

T = TypeVar("T")
E = TypeVar("E", bound=StoreEngine)
"""What the checks connect to: a store engine, or a transport."""

Operation: TypeAlias = "Callable[[Any, Store, str], Awaitable[object]]"
"""One call of the interface. Takes an engine or transport, a store of it, and a fresh name for a subject or key."""

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


async def connected(engine: StoreEngine) -> None:
    """Return once `engine` has its connection."""
    back = asyncio.Event()
    remove = engine.add_state_listener(lambda is_back: back.set() if is_back else None)
    if not engine.connected:
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


MESSAGE_OPERATIONS: dict[str, Operation] = {
    "publish": lambda transport, _, name: transport.publish(name, b"x"),
    "request": lambda transport, _, name: transport.request(name, b"x", timeout=PATIENCE),
    "subscribe": lambda transport, _, name: enter(transport.subscribe(name)),
}
"""Every call of a transport that waits. Some checks hold for each of them."""

STORE_OPERATIONS: dict[str, Operation] = {
    "store": lambda engine, _, name: engine.store(name, ttl=TTL),
    "now": lambda engine, _, __: engine.now(),
    "get": lambda _, store, name: store.get(name),
    "put": lambda _, store, name: store.put(name, b"x"),
    "create": lambda _, store, name: store.create(name, b"x"),
    "update": lambda _, store, name: store.update(name, b"x", 1),
    "delete": lambda _, store, name: store.delete(name),
    "watch": lambda _, store, name: enter(store.watch(name)),
    "keys": lambda _, store, name: store.keys(),
}
"""Every call of a store engine that waits."""

EACH_MESSAGE_OPERATION = pytest.mark.parametrize(
    "operation", MESSAGE_OPERATIONS.values(), ids=MESSAGE_OPERATIONS.keys()
)
EACH_STORE_OPERATION = pytest.mark.parametrize(
    "operation", STORE_OPERATIONS.values(), ids=STORE_OPERATIONS.keys()
)


class Checks(ABC, Generic[E]):
    """What an implementation provides for its checks."""

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[E]:
        """Open one more connection to the engine of this test; called several times in a test."""

    @abstractmethod
    def outage(self, engine: E) -> AbstractAsyncContextManager[None]:
        """Take the connection of `engine` away during the block; other connections and stores may suffer too.

        The block begins once `engine.connected` is false. It ends once `connected` is true again, or at once if the
        engine was closed meanwhile. May call `pytest.skip` if the connection cannot be lost.
        """

    @asynccontextmanager
    async def freeze(self) -> AsyncIterator[None]:
        """Stop the engine during the block, with connections open: it takes what is sent, and answers nothing.

        Override it if there is a way, such as SIGSTOP to a server; the checks that need it are skipped otherwise.
        """
        pytest.skip("freeze() is not given: the engine cannot be stopped with connections open")
        yield  # pragma: no cover

    async def wipe(self) -> None:
        """Have the engine lose all its data; return once it can be reached again. Connections may be lost by it.

        Override it if there is a way; the checks that need it are skipped otherwise.
        """
        pytest.skip("wipe() is not given: the engine cannot lose its data")

    async def pass_time(self, seconds: float) -> None:
        """Let this many seconds pass for the engine; override it if the engine has a clock of its own."""
        await asyncio.sleep(seconds)

    @asynccontextmanager
    async def peers(self) -> AsyncIterator[tuple[E, E]]:
        """Open two connections to one engine; check at the end that they left no task behind."""
        before = asyncio.all_tasks()
        async with self.connect() as one, self.connect() as other:
            yield one, other
        await until(lambda: asyncio.all_tasks() <= before)

    @asynccontextmanager
    async def stores(
        self, *, ttl: float | None = TTL, watched: bool = True
    ) -> AsyncIterator[tuple[Store, Store]]:
        """Open one new store over two connections."""
        async with self.peers() as (one, other):
            name = self.fresh()
            yield (
                await one.store(name, ttl=ttl, watched=watched),
                await other.store(name, ttl=ttl, watched=watched),
            )

    def fresh(self) -> str:
        """Make a name that nothing else uses, for a subject or a store."""
        return f"check-{uuid.uuid4().hex[:12]}"
