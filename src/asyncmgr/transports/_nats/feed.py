"""What a consumer of JetStream sends, made into the changes of a watch, as long as nothing of it is missing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncmgr.errors import TransportError
from asyncmgr.transports._nats.protocol import Msg, decode_headers
from asyncmgr.transports._nats.reconnect import Link
from asyncmgr.transports._streams import SNAPSHOT_DONE, Deleted, Entry, Watch

HEARTBEAT = 1.0
"""Seconds after which an idle watch is told that it lives."""

SILENT_FOR = 15.0
"""Seconds without a word after which a watch is given up."""

NANO = 1_000_000_000

OPERATION = "KV-Operation"
DELETED = {"DEL", "PURGE"}

_LAST_CHANCE = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Feed:
    """Hands a watch what its consumer sends.

    Parameters
    ----------
    prefix
        Characters of a subject before the key.
    name
        Of the store.
    """

    def __init__(self, watch: Watch, link: Link, prefix: int, name: str) -> None:
        self.consumer: str = ""
        self._watch, self._link = watch, link
        self._prefix, self._name = prefix, name
        self._loop = asyncio.get_running_loop()
        self._early: list[Msg] | None = []
        self._received = self._expected = 0
        self._in_snapshot = True
        self._latest = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, consumer: dict[str, Any]) -> None:
        """The consumer is there; what it sent before it was announced is handed on."""
        self.consumer = consumer["name"]
        self._ahead = seconds(consumer["ts"]) - self._loop.time()
        self._expected = consumer["num_pending"] + consumer["delivered"]["consumer_seq"]
        early, self._early = self._early or [], None
        self._hear()
        self._watch_over()
        if not self._expected:
            self._end_snapshot()
        for message in early:
            self.receive(message)

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()

    def receive(self, message: Msg) -> None:
        if self._early is not None:
            self._early.append(message)
            return
        if message.status == b"100":
            self._control(message.reply.decode(), decode_headers(message.headers))
        elif message.reply:
            self._take(message)
        self._hear()  # last: what was missing before has ended the watch by now

    def _take(self, message: Msg) -> None:
        # $JS.ACK.stream.consumer.deliveries.revision.number.time.pending, in clusters with two more before the stream
        reply = message.reply.split(b".")
        revision, number, nanoseconds, pending = map(int, (reply[5:9] if len(reply) == 9 else reply[7:11]))
        if number <= self._received:
            return  # by two connections, while one takes over from the other
        self._received += 1
        if number != self._received:
            self._fail(f"{number - self._received} changes did not come")
            return
        age = self._age(nanoseconds / NANO)
        if (key := self._key_of(message)) is not None:
            self._hand_on(key, message, revision, age)
        if self._in_snapshot and (pending == 0 or self._received >= self._expected):
            self._end_snapshot()

    def _key_of(self, message: Msg) -> str | None:
        """None for what is no text, so no key of anybody who uses this interface."""
        try:
            return message.subject.decode()[self._prefix :]
        except UnicodeDecodeError:
            self._link.note_unreadable(message.subject)
            return None

    def _hand_on(self, key: str, message: Msg, revision: int, age: float) -> None:
        if message.left_out:
            self._link.note_too_large(f"{self._name}: {key}", message.left_out)
        if message.headers and decode_headers(message.headers).get(OPERATION) in DELETED:
            if not self._in_snapshot:
                self._watch.deliver(Deleted(key, revision))
        else:
            self._watch.deliver(Entry(key, message.data, revision, age))

    def _end_snapshot(self) -> None:
        self._in_snapshot = False
        self._watch.deliver(SNAPSHOT_DONE)

    def _age(self, written: float) -> float:
        """By the server's clock, whose lead over the loop's is corrected where a change shows that it was set."""
        now = self._loop.time()
        was_set_back = not self._in_snapshot and written < self._latest
        if was_set_back or written > now + self._ahead:
            self._ahead = written - now
        self._latest = written
        return max(0.0, now + self._ahead - written)

    def _control(self, reply: str, headers: dict[str, str]) -> None:
        # An answer to either tells the server that it may send more.
        if answer_to := reply or headers.get("Nats-Consumer-Stalled"):
            with suppress(TransportError):
                self._link.check().publish_now(answer_to, b"")
        last = headers.get("Nats-Last-Consumer")
        if last is None:
            return
        if int(last) > self._received:
            self._fail(f"{int(last) - self._received} changes did not come")
        elif self._in_snapshot:  # the last keys of it expired before they were sent
            self._end_snapshot()

    def _hear(self) -> None:
        self._heard = self._loop.time()
        self._watch.note_heard()

    def _watch_over(self, since: float | None = None) -> None:
        """Give up after `SILENT_FOR`, but not before what may have come while this process stood still was read.

        `since` is when the last message had come that the look before this one knew of.
        """
        silent = self._loop.time() - self._heard
        limit = SILENT_FOR - _LAST_CHANCE
        if silent < limit:
            self._timer = self._loop.call_later(limit - silent, self._watch_over)
        elif since != self._heard:
            self._timer = self._loop.call_later(_LAST_CHANCE, self._watch_over, self._heard)
        else:
            self._fail(f"nothing came for {silent:.0f} s")

    def _fail(self, fact: str) -> None:
        self.stop()
        self._watch.end(TransportError(f"store {self._name}: {fact}, changes may be missed; watch again"))


def seconds(text: str) -> float:
    """A time stamp of the server's."""
    return datetime.fromisoformat(text).timestamp()


def microseconds(text: str) -> int:
    """A time stamp of the server's, in microseconds since 1970."""
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)
