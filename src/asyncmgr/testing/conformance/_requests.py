"""Checks of request and reply."""

from __future__ import annotations

import asyncio

import pytest

from asyncmgr.errors import MessageTooLarge, NoResponders
from asyncmgr.testing.conformance._checks import PATIENCE, Checks, answering, enter, running, soon, take
from asyncmgr.transports._base import Transport
from asyncmgr.transports._given import MESSAGE_LIMIT


class RequestChecks(Checks[Transport]):
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
        """A request without a responder fails at once, not at its timeout; also after the last responder left."""
        subject = self.fresh()
        async with self.peers() as (one, other):
            with pytest.raises(NoResponders, match=subject):
                await soon(one.request(subject, b"", timeout=100 * PATIENCE))
            await enter(other.subscribe(subject))
            with pytest.raises(NoResponders, match=subject):
                await soon(one.request(subject, b"", timeout=100 * PATIENCE))

    async def test_request_timeout(self) -> None:
        """A silent responder costs the timeout; its late answer reaches no other request."""
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
        """One member of a group gets the request."""
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
        """The first of several answers is returned, and the others disturb nothing."""
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
        """A cancelled caller leaves nothing behind: the answer is dropped, and the next request works."""
        subject = self.fresh()
        async with self.peers() as (one, other), other.subscribe(subject) as requests:
            async with running(one.request(subject, b"given up", timeout=PATIENCE)):
                (request,) = await take(requests, 1)
            assert request.reply_to is not None
            await other.publish(request.reply_to, b"nobody waits")
            async with answering(other, f"{subject}.next"):
                assert await soon(one.request(f"{subject}.next", b"next", timeout=PATIENCE)) == b"next"
