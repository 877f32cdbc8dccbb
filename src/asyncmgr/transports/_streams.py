"""What is read from a transport: messages and changes, out of buffers that it fills and never waits for.

Shared by all transports, so that a slow reader means the same everywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import math
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias, TypeVar

from asyncmgr._common.log import log

T = TypeVar("T")

PENDING_LIMIT = 1024
"""Messages that a subscription holds for a slow reader, unless told otherwise."""

PENDING_BYTES = 64 * 1024 * 1024
"""Bytes of data that a subscription holds for a slow reader; large messages are lost before `pending_limit`."""


def _loop_time() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # made outside of any loop, by a test perhaps
        return math.inf


@dataclass(frozen=True, slots=True)
class Message:
    """One published message, as a subscriber gets it."""

    subject: str
    data: bytes
    """Empty for what another program sent and is larger than 1 MiB; that is logged."""
    reply_to: str | None = None
    """Where an answer is to be sent, by `Transport.reply`; None where none is awaited."""
    arrived: float = field(default_factory=_loop_time, compare=False)
    """When it reached this process, in loop time: a reader may be late. Transports may know an earlier moment."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a store with its value."""

    key: str
    value: bytes
    """Empty for what another program wrote and is larger than 1 MiB; that is logged."""
    revision: int
    """Of the last write; grows with every write in the store, also after deletion and expiry."""
    age: float
    """Seconds from that write to when this was handed out, by the store's clock, not the reader's wall."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """A key was deleted. Expiry is *not* announced so, nor in any other way."""

    key: str
    revision: int


class Marker(enum.Enum):
    """What a watch says about itself."""

    SNAPSHOT_DONE = enum.auto()
    """What was there when the watch was entered has been handed out; changes follow. Comes once."""


SNAPSHOT_DONE: Final = Marker.SNAPSHOT_DONE

Change: TypeAlias = Entry | Deleted | Literal[Marker.SNAPSHOT_DONE]
"""What a watch yields."""


class Stream(ABC, AsyncIterator[T]):
    """Items in a buffer: put there without waiting, awaited by its reader.

    Cancelling a reader loses no item: one is taken off the buffer only when it is returned.
    """

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._ended = False
        self._failure: Exception | None = None

    def end(self, failure: Exception | None = None) -> None:
        """For transports: let the iteration end after what is buffered; a `failure` is raised there once."""
        if not self._ended:
            self._ended, self._failure = True, failure
            with contextlib.suppress(
                RuntimeError
            ):  # of a loop that was closed, in which nobody waits any more
                self._wake.set()

    async def __anext__(self) -> T:
        while not self._has_items():
            if self._ended:
                failure, self._failure = self._failure, None
                raise failure or StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return self._take()

    @abstractmethod
    def _has_items(self) -> bool: ...

    @abstractmethod
    def _take(self) -> T: ...


class Subscription(Stream[Message]):
    """The messages of one subject, in order, the latest `pending_limit` of those not read yet, 64 MiB at most.

    When the subscription was left or its transport closed, the iteration ends after what had come by then.
    """

    def __init__(self, subject: str, pending_limit: int = PENDING_LIMIT) -> None:
        if pending_limit < 1:
            raise ValueError(f"pending_limit is {pending_limit}; give room for at least 1 message")
        super().__init__()
        self.subject = subject
        self.pending_limit = pending_limit
        self.dropped: int = 0
        """Messages lost, the oldest first, because the reader was slow."""
        self.on_drop: Callable[[Message], object] | None = None
        """Is called with each message that is lost so; never waits, never raises."""
        self.take_at_once: Callable[[Message], bool] | None = None
        """Is called with each message on its arrival; one for which it returns True is not buffered. Never waits,
        never raises."""
        self._pending: deque[Message] = deque()
        self._size = 0
        self._dropped_before = 0

    def deliver(self, message: Message) -> None:
        """For transports: buffer `message`; never waits and never runs the reader. Ignored after the end."""
        if self._ended or (self.take_at_once is not None and self.take_at_once(message)):
            return
        self._size += len(message.data)
        while self._pending and (len(self._pending) >= self.pending_limit or self._size > PENDING_BYTES):
            self._drop_oldest()
        self._pending.append(message)
        self._wake.set()

    def _drop_oldest(self) -> None:
        message = self._pop()
        if self.dropped == self._dropped_before:
            log.warning("subscription.overflowed", subject=self.subject, pending_limit=self.pending_limit)
        self.dropped += 1
        if self.on_drop is not None:
            self.on_drop(message)

    def _pop(self) -> Message:
        message = self._pending.popleft()
        self._size -= len(message.data)
        return message

    def _has_items(self) -> bool:
        return bool(self._pending)

    def _take(self) -> Message:
        message = self._pop()
        lost = self.dropped - self._dropped_before
        if lost and not self._pending:
            log.info("subscription.recovered", subject=self.subject, dropped=lost)
            self._dropped_before = self.dropped
        return message


class Watch(Stream[Change]):
    """A snapshot of keys, `SNAPSHOT_DONE`, then changes, of which at most one of a key waits for the reader.

    A slow reader so sees the latest change of a key and not those before it, and the buffer is bounded by the
    number of keys. The iteration ends when the watch is left or the transport closed, and raises
    `TransportError` once where the connection was lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: OrderedDict[str | Marker, tuple[Change, float]] = OrderedDict()
        self._now = asyncio.get_running_loop().time
        self._heard_at: float | None = None

    @property
    def heard_at(self) -> float:
        """The loop time until which no change is missing here: now, unless the transport notes what it hears."""
        return self._now() if self._heard_at is None else self._heard_at

    def note_heard(self) -> None:
        """For transports whose feed may die without a sign: something of it has come."""
        if not self._ended:
            self._heard_at = self._now()

    def end(self, failure: Exception | None = None) -> None:
        if not self._ended:
            self._heard_at = self.heard_at
        super().end(failure)

    def deliver(self, change: Change) -> None:
        """For transports: buffer `change`, instead of one that waits for the same key. Ignored after the end.

        An entry keeps the place of the one that it replaces, so that the snapshot still has its key; a
        deletion goes to the end, so that the snapshot holds entries only.
        """
        if self._ended:
            return
        place = change if isinstance(change, Marker) else change.key
        if isinstance(change, Deleted):
            self._pending.pop(place, None)
        self._pending[place] = (change, self._now())
        self._wake.set()

    def _has_items(self) -> bool:
        return bool(self._pending)

    def _take(self) -> Change:
        _, (change, since) = self._pending.popitem(last=False)
        # It aged while it waited for its reader.
        return replace(change, age=change.age + self._now() - since) if isinstance(change, Entry) else change
