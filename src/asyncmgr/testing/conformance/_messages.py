"""Checks of publish and subscribe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest

from asyncmgr.errors import InvalidName, MessageTooLarge
from asyncmgr.testing.conformance._checks import (
    BAD_NAMES,
    BINARY,
    PATIENCE,
    Checks,
    as_coroutine,
    collected,
    ends,
    enter,
    interrupted,
    soon,
    take,
    texts,
    until,
)
from asyncmgr.transports._base import Transport
from asyncmgr.transports._given import MESSAGE_LIMIT
from asyncmgr.transports._streams import Message


class MessageChecks(Checks[Transport]):
    """Publish, subscribe, groups and slow readers."""

    async def test_message_reaches_peer(self) -> None:
        """A subscriber on another connection gets subject, data and reply subject as sent."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            await one.publish(subject, b"hello", reply_to="answers.here")
            assert await take(messages, 1) == [Message(subject, b"hello", "answers.here")]

    async def test_message_reaches_own_subscription(self) -> None:
        """A publisher's own subscriptions get its messages too."""
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
        """Any bytes arrive as they are, also an empty message."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            await one.publish(subject, data)
            assert (await take(messages, 1))[0].data == data

    @pytest.mark.parametrize("kind", [bytearray, memoryview])
    async def test_data_is_copied(self, kind: Callable[[bytes], bytearray | memoryview]) -> None:
        """A subscriber gets immutable data, which later changes of the publisher's buffer do not touch."""
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
                await enter(one.subscribe(name))
            with pytest.raises(InvalidName):
                await one.publish("subject", b"", reply_to=name)
            with pytest.raises(InvalidName):
                await enter(one.subscribe("subject", group=name))

    async def test_reply(self) -> None:
        """An answer reaches the subject that the message named; above 1 MiB it is refused."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as requests:
            async with one.subscribe(f"{subject}.answers") as answers:
                await one.publish(subject, b"hello", reply_to=f"{subject}.answers")
                (request,) = await take(requests, 1)
                assert request.reply_to
                await other.reply(request.reply_to, b"hello yourself")
                assert await texts(answers, 1) == ["hello yourself"]
            with pytest.raises(MessageTooLarge):
                await other.reply(request.reply_to, bytes(MESSAGE_LIMIT + 1))

    @pytest.mark.parametrize("name", ["_INBOX.a+b", "user@corp", "a/b:c", "ä.ö"])
    async def test_reply_to_other_programs(self, name: str) -> None:
        """Other programs may name their reply subjects as they like."""
        async with self.connect() as one:
            await one.reply(name, b"")

    @pytest.mark.parametrize(
        "name", ["", ".", "a..b", "a b", "a.*", ">", "a\r\nb", "$JS.ACK.x", "$SYS", "\ufffd"]
    )
    async def test_reply_to_no_subject(self, name: str) -> None:
        """A reply subject that is empty, is several, or is a command to an engine is refused."""
        async with self.connect() as one:
            with pytest.raises(InvalidName):
                await one.reply(name, b"")

    async def test_nothing_is_lost(self) -> None:
        """A transport that carries all its subscriptions reports no problems."""
        async with self.connect() as one, one.subscribe(self.fresh()):
            assert one.problems() == {}

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
        """The remaining members of a group get the messages of the one that left."""
        subject = self.fresh()
        async with self.peers() as (one, other), one.subscribe(subject, group="g") as stays:
            async with other.subscribe(subject, group="g"):
                pass
            for number in range(20):
                await one.publish(subject, str(number).encode())
            assert await texts(stays, 20) == [str(number) for number in range(20)]

    async def test_slow_reader(self) -> None:
        """A slow reader has the latest messages and a count of the lost ones; no publisher waits for it."""
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
        """A subscription without room for a message is refused."""
        async with self.connect() as one:
            with pytest.raises(ValueError, match="pending_limit"):
                await enter(one.subscribe(self.fresh(), pending_limit=0))

    async def test_leaving_ends_the_iteration(self) -> None:
        """A reader that waits sees the end when the subscription is left, and no message published later."""
        subject = self.fresh()
        async with self.peers() as (one, other):
            async with other.subscribe(subject) as messages:
                reader = asyncio.ensure_future(as_coroutine(anext(messages)))
                await asyncio.sleep(0)
            with pytest.raises(StopAsyncIteration):
                await soon(reader)
            await one.publish(subject, b"too late")
            await ends(messages)

    async def test_leaving_keeps_what_had_come(self) -> None:
        """Messages published before the subscription was left can still be read; then the iteration ends."""
        subject = self.fresh()
        async with self.peers() as (_, other):
            async with other.subscribe(subject) as messages:
                for number in range(5):
                    await other.publish(subject, str(number).encode())
            assert await texts(messages, 5) == ["0", "1", "2", "3", "4"]
            await ends(messages)

    async def test_cancelled_reader_loses_nothing(self) -> None:
        """A message that comes while its reader is cancelled stays for the next reader."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as messages:
            sent = [str(number).encode() for number in range(9)]
            got: list[Message] = []
            for data in sent:
                got += await interrupted(messages, one.publish(subject, data))
            got += await take(messages, len(sent) - len(got))
            assert [message.data for message in got] == sent
