"""Requests in flight: each is answered once, fails, or has its deadline."""

from __future__ import annotations

import asyncio

from asyncmgr._common.deadlines import Deadlines
from asyncmgr._common.heap import NO_PLACE, Place
from asyncmgr.errors import MessageTooLarge, TransportError
from asyncmgr.transports._given import MESSAGE_LIMIT
from asyncmgr.transports._nats.protocol import Msg


class Question:
    """A request in flight."""

    __slots__ = ("answer", "place", "subject", "until_lost")

    def __init__(self, subject: str, answer: asyncio.Future[Msg], *, until_lost: bool) -> None:
        self.subject: str = subject
        self.answer: asyncio.Future[Msg] = answer
        self.until_lost: bool = until_lost
        """Whether it fails with the connection, instead of waiting for an answer by the next."""
        self.place: Place | None = NO_PLACE
        """Of its deadline."""

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Questions:
    """The requests of a link, by the last token of the subject that the answer goes to."""

    def __init__(self, inbox: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._prefix = len(inbox)
        self._waiting: dict[bytes, Question] = {}
        self._deadlines: Deadlines[Question] = Deadlines(lambda question: question.fail(TimeoutError()))

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, token: bytes, subject: str, timeout: float, *, until_lost: bool) -> Question:
        """A new one, whose answer goes to the inbox and this token; `remove` it whatever becomes of it."""
        question = Question(subject, self._loop.create_future(), until_lost=until_lost)
        self._deadlines.add(question, self._loop.time() + timeout)
        self._waiting[token] = question
        return question

    def remove(self, token: bytes) -> None:
        question = self._waiting.pop(token)
        if question.place is not None:
            self._deadlines.remove(question)

    def receive(self, message: Msg) -> None:
        """The handler of the inbox."""
        question = self._waiting.get(message.subject[self._prefix :])
        if question is None or question.answer.done():
            return
        if message.left_out and not question.until_lost:
            limit = f"at most {MESSAGE_LIMIT} fit"
            question.fail(
                MessageTooLarge(f"{question.subject}: the answer has {message.left_out} bytes, {limit}")
            )
        else:
            question.answer.set_result(message)

    def fail(self, error: Exception, *, subject: str | None = None, until_lost: bool = False) -> None:
        """Let who asked know: all, those who asked at `subject`, or those whom a loss of the connection concerns."""
        for question in self._waiting.values():
            if (subject is None or question.subject == subject) and (question.until_lost or not until_lost):
                question.fail(error)

    def answers(self) -> list[asyncio.Future[Msg]]:
        """Of what is in flight now."""
        return [question.answer for question in self._waiting.values()]


def not_permitted(subject: str) -> TransportError:
    """For who publishes what the server refuses."""
    return TransportError(f"{subject}: the server lets this user not publish to it; permit it there")
