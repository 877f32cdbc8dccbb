"""What the checks share: how to connect, and how to wait without waiting for time."""

from __future__ import annotations

import asyncio
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import pytest

from asyncmgr.errors import (
    InvalidName,
    MessageTooLarge,
    NoResponders,
    RevisionConflict,
    TransportClosed,
    TransportError,
)
from asyncmgr.transports._base import MESSAGE_LIMIT, NAME_LIMIT, VALUE_LIMIT
from asyncmgr.transports._streams import SNAPSHOT_DONE, Change, Deleted, Entry, Message, Subscription, Watch

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from asyncmgr.transports._base import Data, Store, Transport

T = TypeVar("T")

Operation: TypeAlias = "Callable[[Transport, Store, str], Awaitable[object]]"
"""One call of the interface, with a transport, a store of it, and a name that is a fresh subject and key."""

PATIENCE = 20.0
"""Seconds of the loop's time after which something that should happen did not."""

TTL = 2.0
"""Seconds that keys live in the stores of these checks."""

SLACK = 1.5
"""Seconds by which an engine may forget an expired key late."""

BINARY = [b"", b"\x00", bytes(range(256)), b"\r\nPUB x 1\r\n", "ünïcödé".encode()]
BAD_NAMES = ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "a\r\nb", "ä", "a/b", "x" * (NAME_LIMIT + 1)]


async def soon(awaitable: Awaitable[T]) -> T:
    """The result, which has to come within `PATIENCE`."""
    async with asyncio.timeout(PATIENCE):
        return await awaitable


async def until(condition: Callable[[], bool], cycles: int = 200_000) -> None:
    """Let the event loop turn until `condition` holds; fails after so many turns."""
    for _ in range(cycles):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("what was waited for did not happen")


async def take(stream: AsyncIterator[T], count: int) -> list[T]:
    """The next `count` items."""
    return [await soon(anext(stream)) for _ in range(count)]


async def texts(stream: AsyncIterator[Message], count: int) -> list[str]:
    """The data of the next `count` messages."""
    return [message.data.decode() for message in await take(stream, count)]


async def snapshot(watch: Watch) -> list[Entry]:
    """What comes before `SNAPSHOT_DONE`, which is entries only."""
    found: list[Entry] = []
    while (change := await soon(anext(watch))) is not SNAPSHOT_DONE:
        assert isinstance(change, Entry)
        found.append(change)
    return found


async def ends(stream: AsyncIterator[object]) -> None:
    """The iteration ends, and stays ended."""
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
    """A task that has begun, and is cancelled at the end where it still runs."""
    task = asyncio.ensure_future(_as_coroutine(awaitable))
    await asyncio.sleep(0)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def interrupted(stream: AsyncIterator[T], cause: Awaitable[object]) -> list[T]:
    """What a reader got that was cancelled about when `cause` brought it something: that, or nothing."""
    async with running(anext(stream)) as reader:
        await cause
    return [] if reader.cancelled() else [reader.result()]


@asynccontextmanager
async def collected(subscription: Subscription) -> AsyncIterator[list[bytes]]:
    """The data of all that a subscription gets inside the block."""
    data: list[bytes] = []

    async def collect() -> None:
        async for message in subscription:
            data.append(message.data)  # noqa: PERF401 - seen while it grows

    async with running(collect()):
        yield data


@asynccontextmanager
async def answering(
    transport: Transport, subject: str, answer: Callable[[bytes], Data] = bytes, group: str | None = None
) -> AsyncIterator[list[bytes]]:
    """A responder, which answers each request inside the block; yields the requests that it got."""
    got: list[bytes] = []

    async def serve(requests: Subscription) -> None:
        async for request in requests:
            got.append(request.data)
            assert request.reply_to is not None
            await transport.publish(request.reply_to, answer(request.data))

    async with transport.subscribe(subject, group=group) as requests, running(serve(requests)):
        yield got


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _enter(manager: AbstractAsyncContextManager[Any]) -> None:
    async with manager:
        pass


OPERATIONS: dict[str, Operation] = {
    "publish": lambda transport, _, name: transport.publish(name, b"x"),
    "request": lambda transport, _, name: transport.request(name, b"x", timeout=PATIENCE),
    "subscribe": lambda transport, _, name: _enter(transport.subscribe(name)),
    "store": lambda transport, _, name: transport.store(name, ttl=TTL),
    "get": lambda _, store, name: store.get(name),
    "put": lambda _, store, name: store.put(name, b"x"),
    "create": lambda _, store, name: store.create(name, b"x"),
    "update": lambda _, store, name: store.update(name, b"x", 1),
    "delete": lambda _, store, name: store.delete(name),
    "watch": lambda _, store, name: _enter(store.watch(name)),
    "keys": lambda _, store, name: store.keys(),
}
"""Every call that waits, for the checks that each of them has to pass."""

EACH_OPERATION = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())


class Checks(ABC):
    """What an implementation tells its checks."""

    @abstractmethod
    def connect(self) -> AbstractAsyncContextManager[Transport]:
        """One more connection to the fabric of this test; called several times in a test."""

    @abstractmethod
    def outage(self, transport: Transport) -> AbstractAsyncContextManager[None]:
        """A time without a connection for `transport`; the others and what is stored may suffer too.

        On entering returns once `transport.connected` is false; on leaving once it is true again, or at once
        where it was closed meanwhile. May call `pytest.skip` where the connection cannot be lost.
        """

    async def pass_time(self, seconds: float) -> None:
        """Let that much time pass for the engine; override it where it has a clock of its own."""
        await asyncio.sleep(seconds)

    @asynccontextmanager
    async def peers(self) -> AsyncIterator[tuple[Transport, Transport]]:
        """Two connections to one fabric; checks at the end that they left no task behind."""
        before = asyncio.all_tasks()
        async with self.connect() as one, self.connect() as other:
            yield one, other
        await until(lambda: asyncio.all_tasks() <= before)

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[tuple[Store, Store]]:
        """One new store as seen by two connections."""
        async with self.peers() as (one, other):
            name = self.fresh()
            yield await one.store(name, ttl=TTL), await other.store(name, ttl=TTL)

    def fresh(self) -> str:
        """A name that nobody else uses, for a subject or a store."""
        return f"check-{uuid.uuid4().hex[:12]}"


class MessageChecks(Checks):
    """Publish, subscribe, groups and slow readers."""

    async def test_message_reaches_peer(self) -> None:
        """A subscriber on another connection gets subject, data and reply subject as sent."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            await one.publish(subject, b"hello", reply_to="answers.here")
            assert await take(messages, 1) == [Message(subject, b"hello", "answers.here")]

    async def test_message_reaches_own_subscription(self) -> None:
        """A publisher's own subscriptions are no exception."""
        subject = self.fresh()
        async with self.connect() as one, one.subscribe(subject) as messages:
            await one.publish(subject, b"hello")
            assert await take(messages, 1) == [Message(subject, b"hello")]

    async def test_subscription_is_effective_once_entered(self) -> None:
        """Nothing published after entering is missed, however soon."""
        async with self.peers() as (one, other):
            for _ in range(20):
                subject = self.fresh()
                async with other.subscribe(subject) as messages:
                    await one.publish(subject, b"at once")
                    assert await texts(messages, 1) == ["at once"]

    async def test_only_the_subject_itself(self) -> None:
        """Messages of longer, shorter and other subjects do not arrive."""
        base = self.fresh()
        async with self.peers() as (one, other), other.subscribe(f"{base}.a") as messages:
            for subject in (base, f"{base}.a.b", f"{base}.ab", f"{base}.b", f"{base}.A", f"{base}.a"):
                await one.publish(subject, subject.encode())
            assert await texts(messages, 1) == [f"{base}.a"]

    async def test_nobody_listens(self) -> None:
        """Publishing where nobody subscribes is no error."""
        async with self.connect() as one:
            await one.publish(self.fresh(), b"into the void")

    async def test_order(self) -> None:
        """Messages of one publisher on one subject arrive in the order of the calls."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            for number in range(300):
                await one.publish(subject, str(number).encode())
            assert await texts(messages, 300) == [str(number) for number in range(300)]

    @pytest.mark.parametrize("data", BINARY)
    async def test_binary(self, data: bytes) -> None:
        """Any bytes arrive as they are, none included."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            await one.publish(subject, data)
            assert (await take(messages, 1))[0].data == data

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    async def test_data_is_copied(self, kind: Callable[[bytes], bytearray | memoryview]) -> None:
        """What a subscriber gets is immutable, and what the publisher does to its buffer later changes nothing."""
        subject, buffer = self.fresh(), bytearray(b"before")
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            await one.publish(subject, buffer if kind is bytearray else memoryview(buffer))
            buffer[:] = b"later!"
            (message,) = await take(messages, 1)
            assert type(message.data) is bytes
            assert message.data == b"before"

    async def test_data_must_be_bytes(self) -> None:
        """Text is refused, with the remedy."""
        async with self.connect() as one:
            with pytest.raises(TypeError, match="encode"):
                await one.publish(self.fresh(), "text")  # type: ignore[arg-type]

    async def test_largest_message(self) -> None:
        """1 MiB passes; a byte more is refused, and hurts nobody."""
        subject, data = self.fresh(), bytes(MESSAGE_LIMIT)
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            await one.publish(subject, data)
            with pytest.raises(MessageTooLarge, match=subject):
                await one.publish(subject, data + b"x")
            await one.publish(subject, b"goes on")
            assert [len(message.data) for message in await take(messages, 2)] == [MESSAGE_LIMIT, 7]

    @pytest.mark.parametrize("name", BAD_NAMES)
    async def test_bad_subject(self, name: str) -> None:
        """Subjects that are not tokens joined by dots are refused everywhere, wildcards and line ends included."""
        async with self.connect() as one:
            with pytest.raises(InvalidName):
                await one.publish(name, b"")
            with pytest.raises(InvalidName):
                await one.request(name, b"", timeout=PATIENCE)
            with pytest.raises(InvalidName):
                await _enter(one.subscribe(name))
            with pytest.raises(InvalidName):
                await one.publish("subject", b"", reply_to=name)
            with pytest.raises(InvalidName):
                await _enter(one.subscribe("subject", group=name))

    async def test_group_shares_messages(self) -> None:
        """Each message reaches one member of each group, on whichever connection, and every other subscription."""
        subject = self.fresh()
        sent = {str(number).encode() for number in range(60)}
        async with self.peers() as (one, other), AsyncExitStack() as stack:

            async def member(transport: Transport, group: str | None) -> list[bytes]:
                subscription = await stack.enter_async_context(transport.subscribe(subject, group=group))
                return await stack.enter_async_context(collected(subscription))

            red = [await member(transport, "red") for transport in (one, other, other)]
            blue = [await member(other, "blue")]
            alone = [[await member(transport, None)] for transport in (one, other)]
            for data in sent:
                await one.publish(subject, data)
            for group in (red, blue, *alone):
                await self._have_shared(group, sent)

    async def _have_shared(self, members: list[list[bytes]], sent: set[bytes]) -> None:
        await until(lambda: sum(map(len, members)) >= len(sent))
        assert sorted(data for member in members for data in member) == sorted(sent)

    async def test_group_member_leaves(self) -> None:
        """Those who stay in the group get what the one who left would have got."""
        subject = self.fresh()
        async with self.peers() as (one, other), one.subscribe(subject, group="g") as stays:
            async with other.subscribe(subject, group="g"):
                pass
            for number in range(20):
                await one.publish(subject, str(number).encode())
            assert await texts(stays, 20) == [str(number) for number in range(20)]

    async def test_slow_reader(self) -> None:
        """A reader that does not keep up has the latest messages and a count of the lost; nobody waits for it."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject, pending_limit=10) as slow:
            async with other.subscribe(subject) as quick, collected(quick) as got:
                for number in range(200):
                    await soon(one.publish(subject, str(number).encode()))
                await until(lambda: len(got) == 200)
            await until(lambda: slow.dropped == 190)
            assert await texts(slow, 10) == [str(number) for number in range(190, 200)]
            await one.publish(subject, b"recovered")
            assert await texts(slow, 1) == ["recovered"]
            assert slow.dropped == 190

    async def test_pending_limit_below_one(self) -> None:
        """A subscription without room is refused."""
        async with self.connect() as one:
            with pytest.raises(ValueError, match="pending_limit"):
                await _enter(one.subscribe(self.fresh(), pending_limit=0))

    async def test_leaving_ends_the_iteration(self) -> None:
        """A reader that waits sees the end when the subscription is left, and no message published later."""
        subject = self.fresh()
        async with self.peers() as (one, other):
            async with other.subscribe(subject) as messages:
                reader = asyncio.ensure_future(_as_coroutine(anext(messages)))
                await asyncio.sleep(0)
            with pytest.raises(StopAsyncIteration):
                await soon(reader)
            await one.publish(subject, b"too late")
            await ends(messages)

    async def test_leaving_keeps_what_had_come(self) -> None:
        """What was published before the subscription was left can be read after it, then comes the end."""
        subject = self.fresh()
        async with self.peers() as (_, other):
            async with other.subscribe(subject) as messages:
                for number in range(5):
                    await other.publish(subject, str(number).encode())
            assert await texts(messages, 5) == ["0", "1", "2", "3", "4"]
            await ends(messages)

    async def test_cancelled_reader_loses_nothing(self) -> None:
        """A message that comes as its reader is cancelled is there for the next."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            sent = [str(number).encode() for number in range(9)]
            got: list[Message] = []
            for data in sent:
                got += await interrupted(messages, one.publish(subject, data))
            got += await take(messages, len(sent) - len(got))
            assert [message.data for message in got] == sent


class RequestChecks(Checks):
    """Requests and their answers."""

    async def test_request_answer(self) -> None:
        """A request returns what the responder published to its reply subject."""
        subject = self.fresh()
        async with self.peers() as (one, other), answering(other, subject, bytes.upper):
            assert await soon(one.request(subject, b"hello", timeout=PATIENCE)) == b"HELLO"

    async def test_request_own_answer(self) -> None:
        """One connection can be both sides."""
        subject = self.fresh()
        async with self.connect() as one, answering(one, subject):
            assert await soon(one.request(subject, b"hello", timeout=PATIENCE)) == b"hello"

    async def test_request_nobody_responds(self) -> None:
        """A request that nobody can get fails at once, not at its timeout; also after the last one left."""
        subject = self.fresh()
        async with self.peers() as (one, other):
            with pytest.raises(NoResponders, match=subject):
                await soon(one.request(subject, b"", timeout=100 * PATIENCE))
            await _enter(other.subscribe(subject))
            with pytest.raises(NoResponders, match=subject):
                await soon(one.request(subject, b"", timeout=100 * PATIENCE))

    async def test_request_timeout(self) -> None:
        """A responder that is silent costs the timeout; its late answer reaches no other request."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as requests:
            with pytest.raises(TimeoutError, match=subject):
                await soon(one.request(subject, b"slow", timeout=0.05))
            (late,) = await take(requests, 1)
            assert late.reply_to is not None
            await other.publish(late.reply_to, b"late")
            async with answering(other, f"{subject}.quick"):
                assert await soon(one.request(f"{subject}.quick", b"mine", timeout=PATIENCE)) == b"mine"

    async def test_answers_find_their_request(self) -> None:
        """Many requests at once get their own answers, in whatever order these come."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as requests:
            asked = [str(number).encode() for number in range(50)]
            calls = [one.request(subject, data, timeout=PATIENCE) for data in asked]
            async with running(asyncio.gather(*calls)) as answers:
                for request in reversed(await take(requests, 50)):
                    assert request.reply_to is not None
                    await other.publish(request.reply_to, b"re " + request.data)
                assert await soon(answers) == [b"re " + data for data in asked]

    async def test_request_group_answers_once(self) -> None:
        """Of a group one member gets the request."""
        subject = self.fresh()
        async with (
            self.peers() as (one, other),
            answering(one, subject, group="g") as here,
            answering(other, subject, group="g") as there,
        ):
            for number in range(20):
                data = str(number).encode()
                assert await soon(one.request(subject, data, timeout=PATIENCE)) == data
            assert len(here) + len(there) == 20

    async def test_request_first_answer_counts(self) -> None:
        """Of several answers one is returned, and the others disturb nothing."""
        subject = self.fresh()
        async with (
            self.peers() as (one, other),
            answering(one, subject, lambda data: data + b" one"),
            answering(other, subject, lambda data: data + b" other"),
        ):
            for number in range(20):
                data = str(number).encode()
                answer = await soon(one.request(subject, data, timeout=PATIENCE))
                assert answer in {data + b" one", data + b" other"}

    async def test_largest_request(self) -> None:
        """1 MiB passes in both directions; a byte more is refused."""
        subject, data = self.fresh(), bytes(MESSAGE_LIMIT)
        async with self.peers() as (one, other), answering(other, subject):
            with pytest.raises(MessageTooLarge, match=subject):
                await one.request(subject, data + b"x", timeout=PATIENCE)
            assert await soon(one.request(subject, data, timeout=PATIENCE)) == data

    async def test_cancelled_request(self) -> None:
        """A caller that is cancelled leaves nothing behind: the answer is dropped, the next request works."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as requests:
            async with running(one.request(subject, b"given up", timeout=PATIENCE)):
                (request,) = await take(requests, 1)
            assert request.reply_to is not None
            await other.publish(request.reply_to, b"nobody waits")
            async with answering(other, f"{subject}.next"):
                assert await soon(one.request(f"{subject}.next", b"next", timeout=PATIENCE)) == b"next"


class StoreChecks(Checks):
    """Keys, revisions and their expiry."""

    @pytest.mark.parametrize("value", BINARY)
    async def test_store_put_and_get(self, value: bytes) -> None:
        """What one connection wrote the other reads, byte for byte, with its revision."""
        async with self.stores() as (one, other):
            revision = await one.put("a.key=2E", value)
            entry = await other.get("a.key=2E")
            assert entry is not None
            assert (entry.key, entry.value, entry.revision) == ("a.key=2E", value, revision)

    async def test_store_no_such_key(self) -> None:
        """A key that never was, or was deleted, is None."""
        async with self.stores() as (one, other):
            assert await one.get("key") is None
            await one.put("key", b"x")
            await other.delete("key")
            assert await one.get("key") is None

    async def test_store_value_is_copied(self) -> None:
        """What the writer does to its buffer later changes nothing."""
        async with self.stores() as (one, other):
            buffer = bytearray(b"before")
            await one.put("key", buffer)
            buffer[:] = b"later!"
            entry = await other.get("key")
            assert entry is not None
            assert entry.value == b"before"

    async def test_store_revisions_grow(self) -> None:
        """Each write in a store has a greater revision than any before, whoever writes which key, deleted or not."""
        async with self.stores() as (one, other):
            revisions = [await one.put("a", b""), await other.put("b", b""), await other.put("a", b"")]
            await one.delete("a")
            revisions.append(await other.create("a", b""))
            revisions.append(await one.update("a", b"", revisions[-1]))
            assert revisions == sorted(set(revisions))

    async def test_store_create(self) -> None:
        """A key is created where there is none, a deleted one included; else RevisionConflict and no change."""
        async with self.stores() as (one, other):
            await one.create("key", b"first")
            with pytest.raises(RevisionConflict, match="key"):
                await other.create("key", b"second")
            assert await self._value(other, "key") == b"first"
            await one.delete("key")
            await other.create("key", b"second")
            assert await self._value(one, "key") == b"second"

    async def test_store_update(self) -> None:
        """Only who knows the present revision writes; a stale one, 0 or a missing key is RevisionConflict."""
        async with self.stores() as (one, other):
            for revision in (0, 1):
                with pytest.raises(RevisionConflict, match="key"):
                    await one.update("key", b"x", revision)
            first = await one.put("key", b"first")
            second = await other.update("key", b"second", first)
            for revision in (0, first, second + 1):
                with pytest.raises(RevisionConflict, match="key"):
                    await one.update("key", b"third", revision)
            assert await self._value(one, "key") == b"second"
            await one.delete("key")
            with pytest.raises(RevisionConflict, match="key"):
                await other.update("key", b"fourth", second)

    async def test_store_delete(self) -> None:
        """With a revision only that one is deleted; without one, any or none."""
        async with self.stores() as (one, other):
            first = await one.put("key", b"first")
            second = await one.put("key", b"second")
            for revision in (0, first):
                with pytest.raises(RevisionConflict, match="key"):
                    await other.delete("key", revision)
            await other.delete("key", second)
            assert await one.get("key") is None
            with pytest.raises(RevisionConflict, match="key"):
                await other.delete("key", second)
            await other.delete("key")

    async def test_store_one_creator_wins(self) -> None:
        """Of many who create one key at once, exactly one does."""
        async with self.stores() as (one, other):
            attempts = [store.create("key", b"") for store in (one, other) * 10]
            results = await soon(asyncio.gather(*attempts, return_exceptions=True))
            assert sum(isinstance(result, int) for result in results) == 1
            assert sum(isinstance(result, RevisionConflict) for result in results) == 19

    async def test_store_no_update_is_lost(self) -> None:
        """Counters that are raised by compare-and-set from two sides come out right."""
        async with self.stores() as (one, other):
            await one.put("counter", b"0")
            await soon(asyncio.gather(*(self._count_up(store, 10) for store in (one, other, one))))
            assert await self._value(other, "counter") == b"30"

    async def _count_up(self, store: Store, times: int) -> None:
        while times:
            entry = await store.get("counter")
            assert entry is not None
            try:
                await store.update("counter", str(int(entry.value) + 1).encode(), entry.revision)
            except RevisionConflict:
                continue
            times -= 1

    async def test_store_expiry(self) -> None:
        """A key is gone its TTL after the last write, and can be created again, at a greater revision."""
        async with self.stores() as (one, other):
            revision = await one.put("key", b"x")
            await self.pass_time(0.6 * TTL)
            revision = await one.update("key", b"y", revision)
            await self.pass_time(0.6 * TTL)
            assert await self._value(other, "key") == b"y"
            await self.pass_time(0.4 * TTL + SLACK)
            assert await other.get("key") is None
            with pytest.raises(RevisionConflict):
                await one.update("key", b"y", revision)
            with pytest.raises(RevisionConflict):
                await one.delete("key", revision)
            assert await other.create("key", b"z") > revision

    async def test_store_age(self) -> None:
        """An entry's age is counted from its last write, for every reader alike."""
        async with self.stores() as (one, other):
            await one.put("key", b"x")
            await self.pass_time(0.5 * TTL)
            for store in (one, other):
                entry = await store.get("key")
                assert entry is not None
                assert 0.4 * TTL <= entry.age < TTL + SLACK
            await one.put("key", b"x")
            entry = await other.get("key")
            assert entry is not None
            assert 0 <= entry.age < 0.4 * TTL

    async def test_store_keys(self) -> None:
        """Keys are listed, below a prefix of whole tokens or all, without those deleted."""
        async with self.stores() as (one, other):
            for key in ("a", "a.b", "a.b.c", "a.bc", "b.a", "gone"):
                await one.put(key, b"")
            await one.delete("gone")
            assert sorted(await other.keys()) == ["a", "a.b", "a.b.c", "a.bc", "b.a"]
            assert sorted(await other.keys("a")) == ["a.b", "a.b.c", "a.bc"]
            assert await other.keys("a.b") == ["a.b.c"]
            assert await other.keys("c") == []

    async def test_store_largest_value(self) -> None:
        """`VALUE_LIMIT` passes in every way of writing; a byte more is refused."""
        async with self.stores() as (one, other):
            value = bytes(VALUE_LIMIT)
            for write in (one.put, one.create):
                with pytest.raises(MessageTooLarge, match="key"):
                    await write("key", value + b"x")
            revision = await one.create("key", value)
            with pytest.raises(MessageTooLarge, match="key"):
                await one.update("key", value + b"x", revision)
            await one.update("key", value, revision)
            await one.put("key", value)
            assert await self._value(other, "key") == value

    @pytest.mark.parametrize("name", BAD_NAMES)
    async def test_store_bad_key(self, name: str) -> None:
        """Keys that are not tokens joined by dots are refused everywhere."""
        async with self.stores() as (one, _):
            calls: Iterable[Awaitable[object]] = (
                one.get(name),
                one.put(name, b""),
                one.create(name, b""),
                one.update(name, b"", 1),
                one.delete(name),
            )
            for call in calls:
                with pytest.raises(InvalidName):
                    await call

    async def test_stores_are_separate(self) -> None:
        """Stores of different names share nothing, and a store can be opened many times."""
        async with self.peers() as (one, other):
            names = self.fresh(), self.fresh()
            left, right = [await one.store(name, ttl=TTL) for name in names]
            await left.put("key", b"left")
            assert await right.get("key") is None
            again = await other.store(names[0], ttl=TTL)
            assert await self._value(again, "key") == b"left"

    async def test_bad_store(self) -> None:
        """A name that does not fit, a TTL that makes no sense, and one that differs from the store's are refused."""
        async with self.peers() as (one, other):
            name = self.fresh()
            await one.store(name, ttl=TTL)
            with pytest.raises(TransportError, match=name):
                await other.store(name, ttl=TTL + 1)
            for ttl in (0.0, -1.0, float("nan"), float("inf")):
                with pytest.raises(ValueError, match="ttl"):
                    await one.store(name, ttl=ttl)
            for bad in ("", "a.b", "a=2E", "ä", "x" * 65):
                with pytest.raises(InvalidName):
                    await one.store(bad, ttl=TTL)

    async def _value(self, store: Store, key: str) -> bytes | None:
        entry = await soon(store.get(key))
        return entry.value if entry else None


class WatchChecks(Checks):
    """Snapshot, then changes."""

    async def test_watch_empty(self) -> None:
        """The watch of an empty store says at once that its snapshot is complete."""
        async with self.stores() as (one, _), one.watch() as watch:
            assert await snapshot(watch) == []

    async def test_watch_snapshot_then_changes(self) -> None:
        """First what is there, then that this was all, then each change, in order for one key."""
        async with self.stores() as (one, other):
            before = {key: await one.put(key, key.encode()) for key in ("a", "b.c", "d")}
            async with other.watch() as watch:
                found = await snapshot(watch)
                assert {entry.key: entry.revision for entry in found} == before
                assert {entry.key: entry.value for entry in found} == {"a": b"a", "b.c": b"b.c", "d": b"d"}
                revision = await one.update("a", b"new", before["a"])
                assert self._plain(await take(watch, 1)) == [("a", b"new", revision)]
                await one.delete("a")
                (deleted,) = await take(watch, 1)
                assert isinstance(deleted, Deleted)
                assert (deleted.key, deleted.revision > revision) == ("a", True)
                revision = await one.create("e", b"")
                assert self._plain(await take(watch, 1)) == [("e", b"", revision)]

    async def test_watch_snapshot_without_the_dead(self) -> None:
        """Deleted and expired keys are in no snapshot."""
        async with self.stores() as (one, other):
            await one.put("expired", b"")
            await self.pass_time(TTL + SLACK)
            for key in ("deleted", "living", "deleted too"):
                await one.put(key.replace(" ", "-"), b"")
            await one.delete("deleted")
            await one.delete("deleted-too")
            async with other.watch() as watch:
                assert [entry.key for entry in await snapshot(watch)] == ["living"]

    async def test_watch_all_is_deleted(self) -> None:
        """A snapshot of deleted keys only is complete and empty."""
        async with self.stores() as (one, other):
            await one.put("key", b"")
            await one.delete("key")
            async with other.watch() as watch:
                assert await snapshot(watch) == []

    async def test_watch_prefix(self) -> None:
        """Only keys below the prefix are seen, in the snapshot and in changes."""
        async with self.stores() as (one, other):
            for key in ("a", "a.b", "a.b.c", "ab.c"):
                await one.put(key, b"")
            async with other.watch("a") as watch:
                assert sorted(entry.key for entry in await snapshot(watch)) == ["a.b", "a.b.c"]
                for key in ("a", "ab.c", "a.d"):
                    await one.put(key, b"")
                await one.delete("a")
                await one.delete("a.b")
                assert [getattr(change, "key", "") for change in await take(watch, 2)] == ["a.d", "a.b"]

    @pytest.mark.parametrize("name", [name for name in BAD_NAMES if name])
    async def test_watch_bad_prefix(self, name: str) -> None:
        """A prefix is whole tokens; anything else is refused."""
        async with self.stores() as (one, _):
            with pytest.raises(InvalidName):
                await _enter(one.watch(name))

    async def test_watch_age(self) -> None:
        """Entries of a snapshot carry their age, which grows while they wait for the reader."""
        async with self.stores() as (one, other):
            await one.put("key", b"")
            await self.pass_time(0.4 * TTL)
            async with other.watch() as watch:
                await self.pass_time(0.4 * TTL)
                (entry,) = await snapshot(watch)
                assert 0.7 * TTL <= entry.age < TTL + SLACK
                await one.put("key", b"")
                (change,) = await take(watch, 1)
                assert isinstance(change, Entry)
                assert change.age < 0.4 * TTL

    async def test_watch_slow_reader(self) -> None:
        """A reader that does not keep up may miss states of a key, but never the last one, nor sees it go back."""
        async with self.stores() as (one, other), other.watch() as watch:
            for number in range(300):
                await one.put(f"key-{number % 3}", str(number).encode())
            last = await one.put("end", b"")
            seen: list[Entry] = []
            while not seen or seen[-1].revision < last:
                (change,) = await take(watch, 1)
                if isinstance(change, Entry):
                    seen.append(change)
            for key in ("key-0", "key-1", "key-2"):
                states = [int(entry.value) for entry in seen if entry.key == key]
                assert states == sorted(set(states))
                assert states[-1] == 297 + int(key[-1])

    async def test_watch_many_keys(self) -> None:
        """A snapshot of many keys is complete."""
        async with self.stores() as (one, other):
            expected = {f"host.{number}" for number in range(300)}
            await soon(asyncio.gather(*(one.put(key, b"") for key in expected)))
            async with other.watch("host") as watch:
                assert {entry.key for entry in await snapshot(watch)} == expected

    async def test_two_watches(self) -> None:
        """Watches do not take changes from each other."""
        async with self.stores() as (one, other), one.watch() as here, other.watch() as there:
            revision = await one.put("key", b"x")
            for watch in (here, there):
                assert await snapshot(watch) == []
                assert self._plain(await take(watch, 1)) == [("key", b"x", revision)]

    async def test_watch_leaving_ends_the_iteration(self) -> None:
        """A reader that waits sees the end when the watch is left, and no change after it."""
        async with self.stores() as (one, other):
            async with other.watch() as watch:
                assert await snapshot(watch) == []
                reader = asyncio.ensure_future(_as_coroutine(anext(watch)))
                await asyncio.sleep(0)
            with pytest.raises(StopAsyncIteration):
                await soon(reader)
            await one.put("key", b"too late")
            await ends(watch)

    async def test_watch_cancelled_reader_loses_nothing(self) -> None:
        """A change that comes as its reader is cancelled is there for the next."""
        async with self.stores() as (one, other), other.watch() as watch:
            assert await snapshot(watch) == []
            keys = [f"key-{number}" for number in range(9)]
            got: list[Change] = []
            for key in keys:
                got += await interrupted(watch, one.put(key, b""))
            got += await take(watch, len(keys) - len(got))
            assert [getattr(change, "key", "") for change in got] == keys

    def _plain(self, changes: list[Change]) -> list[tuple[str, bytes, int]]:
        entries = [change for change in changes if isinstance(change, Entry)]
        return [(entry.key, entry.value, entry.revision) for entry in entries]


class ClosingChecks(Checks):
    """Closing and cancelling, at any moment."""

    @EACH_OPERATION
    async def test_after_close(self, operation: Operation) -> None:
        """Every call on a closed transport, or a store of it, raises TransportClosed."""
        async with self.peers() as (one, _):
            store = await one.store(self.fresh(), ttl=TTL)
            await one.aclose()
            with pytest.raises(TransportClosed):
                await soon(operation(one, store, self.fresh()))

    @EACH_OPERATION
    @pytest.mark.parametrize("cycles", [0, 1, 2, 5])
    async def test_close_during(self, operation: Operation, cycles: int) -> None:
        """A call under way when the transport is closed ends as it would anyway, or with TransportClosed."""
        async with self.peers() as (one, _):
            store = await one.store(self.fresh(), ttl=TTL)
            async with running(operation(one, store, self.fresh())) as call:
                for _ in range(cycles):
                    await asyncio.sleep(0)
                await soon(one.aclose())
                await soon(asyncio.wait([call]))
                assert isinstance(call.exception(), TransportClosed | NoResponders | RevisionConflict | None)

    @EACH_OPERATION
    @pytest.mark.parametrize("cycles", [0, 1, 2, 5])
    async def test_cancel_during(self, operation: Operation, cycles: int) -> None:
        """A call can be cancelled at any moment; the transport goes on working."""
        async with self.peers() as (one, other):
            store = await one.store(self.fresh(), ttl=TTL)
            async with running(operation(one, store, self.fresh())):
                for _ in range(cycles):
                    await asyncio.sleep(0)
            subject = self.fresh()
            async with answering(other, subject):
                assert await soon(one.request(subject, b"still", timeout=PATIENCE)) == b"still"
            revision = await soon(store.put("key", b"there"))
            await soon(store.update("key", b"there", revision))

    async def test_close_during_request(self) -> None:
        """A request that waits for its answer raises TransportClosed at once."""
        subject = self.fresh()
        async with (
            self.peers() as (one, other),
            other.subscribe(subject) as requests,
            running(one.request(subject, b"", timeout=100 * PATIENCE)) as call,
        ):
            await take(requests, 1)
            await one.aclose()
            with pytest.raises(TransportClosed):
                await soon(call)

    async def test_close_ends_iterations(self) -> None:
        """Readers of messages and changes that wait see the end, and nothing that is sent later."""
        subject = self.fresh()
        async with self.peers() as (one, other):
            store = await other.store(self.fresh(), ttl=TTL)
            async with other.subscribe(subject) as messages, store.watch() as watch:
                assert await snapshot(watch) == []
                async with running(anext(messages)) as reader, running(anext(watch)) as watcher:
                    await other.aclose()
                    for task in (reader, watcher):
                        with pytest.raises(StopAsyncIteration):
                            await soon(task)
                await one.publish(subject, b"too late")
                await ends(messages)
                await ends(watch)

    async def test_close_is_idempotent(self) -> None:
        """Closing twice, also at once, is closing."""
        async with self.connect() as one:
            await soon(asyncio.gather(one.aclose(), one.aclose()))
            await soon(one.aclose())
            assert not one.connected

    async def test_close_hurts_nobody_else(self) -> None:
        """The other connections, and what was stored, stay."""
        subject, name = self.fresh(), self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            store = await one.store(name, ttl=TTL)
            revision = await store.put("key", b"stays")
            await one.aclose()
            await other.publish(subject, b"goes on")
            assert await texts(messages, 1) == ["goes on"]
            entry = await (await other.store(name, ttl=TTL)).get("key")
            assert entry is not None
            assert (entry.value, entry.revision) == (b"stays", revision)

    async def test_closed_subscriber_is_none(self) -> None:
        """Who closed without leaving gets nothing of the group's share, and no request waits for it."""
        subject = self.fresh()
        async with self.peers() as (one, other):
            async with one.subscribe(subject, group="g"), other.subscribe(subject, group="g") as stays:
                await one.aclose()
                for number in range(20):
                    await other.publish(subject, str(number).encode())
                assert await texts(stays, 20) == [str(number) for number in range(20)]
            with pytest.raises(NoResponders):
                await soon(other.request(subject, b"", timeout=PATIENCE))

    async def test_enter_and_leave_in_different_tasks(self) -> None:
        """Subscriptions and watches may be left by another task than the one that entered them."""
        async with self.peers() as (one, _):
            store = await one.store(self.fresh(), ttl=TTL)
            managers: list[AbstractAsyncContextManager[object]] = [one.subscribe(self.fresh()), store.watch()]
            for manager in managers:
                await asyncio.create_task(_as_coroutine(manager.__aenter__()))
                await asyncio.create_task(_as_coroutine(manager.__aexit__(None, None, None)))


class OutageChecks(Checks):
    """The connection is lost and comes back."""

    async def test_state_is_told(self) -> None:
        """Listeners hear of the loss and of the return, once each; not of closing, and not after their removal."""
        told: list[bool] = []
        other: list[bool] = []
        async with self.connect() as one:
            assert one.connected
            one.add_state_listener(told.append)
            remove = one.add_state_listener(other.append)
            async with self.outage(one):
                assert not one.connected
                assert told == [False]
                remove()
                remove()
            assert one.connected
        assert (told, other) == ([False, True], [False])
        assert not one.connected

    async def test_listener_raises(self) -> None:
        """A listener that raises harms neither the transport nor the next listener."""
        told: list[bool] = []

        def broken(connected: bool) -> None:
            raise ValueError(connected)

        async with self.connect() as one:
            one.add_state_listener(broken)
            one.add_state_listener(told.append)
            async with self.outage(one):
                pass
            assert told == [False, True]

    @EACH_OPERATION
    async def test_call_without_connection(self, operation: Operation) -> None:
        """Calls fail at once with TransportError, which is not TransportClosed, and work again afterwards."""
        async with self.connect() as one:
            store = await one.store(self.fresh(), ttl=TTL)
            async with self.outage(one):
                with pytest.raises(TransportError) as caught:
                    await soon(operation(one, store, self.fresh()))
                assert type(caught.value) is TransportError
            with suppress(NoResponders, RevisionConflict):  # what requests and updates say of a fresh name
                await soon(operation(one, store, self.fresh()))

    async def test_subscription_goes_on(self) -> None:
        """A subscription needs no help to get what is published after the outage."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            async with self.outage(other):
                reader = asyncio.ensure_future(_as_coroutine(anext(messages)))
            await connected(one)
            await one.publish(subject, b"after")
            assert (await soon(reader)).data == b"after"

    async def test_watch_is_interrupted(self) -> None:
        """A watch says that it may have missed changes, once, and ends; a new one works."""
        async with self.connect() as one:
            store = await one.store(self.fresh(), ttl=TTL)
            async with store.watch() as watch:
                assert await snapshot(watch) == []
                async with self.outage(one):
                    with pytest.raises(TransportError):
                        await soon(anext(watch))
                    await ends(watch)
            async with store.watch() as watch:
                await snapshot(watch)

    async def test_request_under_way(self) -> None:
        """A request whose answer is lost with the connection ends within its timeout."""
        subject = self.fresh()
        async with (
            self.peers() as (one, other),
            other.subscribe(subject) as requests,
            running(one.request(subject, b"", timeout=PATIENCE / 10)) as call,
        ):
            await take(requests, 1)
            async with self.outage(one):
                with pytest.raises((TransportError, TimeoutError)):
                    await soon(call)

    async def test_close_without_connection(self) -> None:
        """A transport can be closed while the connection is lost, and stays closed."""
        async with self.connect() as one, one.subscribe(self.fresh()) as messages:
            async with self.outage(one):
                await soon(one.aclose())
                await ends(messages)
            assert not one.connected
            with pytest.raises(TransportClosed):
                await one.publish(self.fresh(), b"")


@pytest.mark.asyncio
class TransportConformance(
    MessageChecks, RequestChecks, StoreChecks, WatchChecks, ClosingChecks, OutageChecks
):
    """All checks. Subclass it under a name that pytest collects, and implement `connect` and `outage`."""
