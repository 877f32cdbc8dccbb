"""Buffers from which applications read messages and changes. A transport fills them and never waits for a reader.

All transports use them, so that all treat a slow reader alike.
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
"""The default number of messages that a subscription keeps for a slow reader."""

PENDING_BYTES = 64 * 1024 * 1024
"""The number of bytes that a subscription keeps for a slow reader, whatever its `pending_limit` is."""


def _loop_time() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # the message was made outside of a loop, perhaps by a test
        return math.inf


@dataclass(frozen=True, slots=True)
class Message:
    """One published message, as a subscriber gets it."""

    subject: str
    data: bytes
    """The bytes that were sent. Empty for a message of another program that is larger than 1 MiB; this is logged."""
    reply_to: str | None = None
    """The subject for an answer by `Transport.reply`; None = the sender expects no answer."""
    arrived: float = field(default_factory=_loop_time, compare=False)
    """The loop time at which the message reached this process, which may be long before it is read."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A key of a store with its value."""

    key: str
    value: bytes
    """The bytes that were written. Empty for a value of another program that is larger than 1 MiB; this is logged."""
    revision: int
    """The revision of the last write. It grows with every write in the store, also after deletion and expiry."""
    age: float
    """Seconds from that write until this entry was read, by the store's clock and not by the reader's wall clock."""


@dataclass(frozen=True, slots=True)
class Deleted:
    """A key was deleted. The expiry of a key is *not* announced, neither by this nor in another way."""

    key: str
    revision: int


class Marker(enum.Enum):
    """Items of a watch that are no change of a key."""

    SNAPSHOT_DONE = enum.auto()
    """The snapshot is complete, and changes follow. A watch yields this once."""


SNAPSHOT_DONE: Final = Marker.SNAPSHOT_DONE
"""What a watch yields once, when the snapshot is complete and changes follow."""

Change: TypeAlias = Entry | Deleted | Literal[Marker.SNAPSHOT_DONE]
"""An item that a watch yields."""


class Stream(ABC, AsyncIterator[T]):
    """A buffer of items. The writer never waits; the reader awaits items by ``async for``.

    No item is lost where the reader is cancelled: an item leaves the buffer only when it is returned.
    """

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._ended = False
        self._failure: Exception | None = None

    def end(self, failure: Exception | None = None) -> None:
        """End the iteration after the buffered items; a `failure` is raised there once. Transports call this."""
        if not self._ended:
            self._ended, self._failure = True, failure
            with contextlib.suppress(RuntimeError):  # the loop is closed, and no reader waits any more
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
    """The messages of one subject, in order. Of unread messages it keeps the latest `pending_limit`, 64 MiB at most.

    When the subscription is left or its transport closed, the iteration ends after the messages that had arrived.
    """

    def __init__(self, subject: str, pending_limit: int = PENDING_LIMIT) -> None:
        if pending_limit < 1:
            raise ValueError(f"pending_limit is {pending_limit}; give room for at least 1 message")
        super().__init__()
        self.subject = subject
        self.pending_limit = pending_limit
        self.dropped: int = 0
        """The number of messages lost because the reader was slow; the oldest are lost first."""
        self.on_drop: Callable[[Message], object] | None = None
        """Called with each message that is lost in this way. It must neither wait nor raise."""
        self.take_at_once: Callable[[Message], bool] | None = None
        """Called with each message on its arrival. Where it returns True, the message is not buffered. It must neither
        wait nor raise."""
        self._pending: deque[Message] = deque()
        self._size = 0
        self._dropped_before = 0

    def deliver(self, message: Message) -> None:
        """Buffer `message`; never wait, and never run the reader. After the end, do nothing. Transports call this."""
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
    """A snapshot of keys, `SNAPSHOT_DONE`, then changes. At most one change of each key waits for the reader.

    So a slow reader sees only the latest change of a key, and the buffer holds no more items than there are keys. The
    iteration ends when the watch is left or the transport closed; it raises `TransportError` once where the connection
    was lost.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pending: OrderedDict[str | Marker, tuple[Change, float]] = OrderedDict()
        self._now = asyncio.get_running_loop().time
        self._heard_at: float | None = None

    @property
    def heard_at(self) -> float:
        """The loop time up to which this watch has every change: now, unless the transport calls `note_heard`."""
        return self._now() if self._heard_at is None else self._heard_at

    def note_heard(self) -> None:
        """Note that the feed is alive. Transports call this if their feed may die without a sign."""
        if not self._ended:
            self._heard_at = self._now()

    def end(self, failure: Exception | None = None) -> None:
        if not self._ended:
            self._heard_at = self.heard_at
        super().end(failure)

    def deliver(self, change: Change) -> None:
        """Buffer `change` in place of one that waits for the same key. After the end, do nothing. Transports call this.

        An entry takes the place of the change that it replaces, so that the snapshot still has this key. A deletion
        goes to the end, so that the snapshot holds entries only.
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
        # The entry aged while it waited in the buffer.
        return replace(change, age=change.age + self._now() - since) if isinstance(change, Entry) else change
