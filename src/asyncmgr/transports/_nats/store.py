"""Keys in NATS' JetStream: a bucket as other NATS clients make them, by the requests that these make."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from asyncmgr.errors import RevisionConflict, TransportError
from asyncmgr.transports._base import VALUE_LIMIT, Data, Store, check_name, check_prefix, to_bytes
from asyncmgr.transports._nats.reconnect import Link, Reply, Route
from asyncmgr.transports._streams import SNAPSHOT_DONE, Deleted, Entry, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

T = TypeVar("T")

ANSWER_WITHIN = 5.0
"""Seconds that JetStream gets for one request."""

HEARTBEAT = 1.0
"""Seconds after which an idle watch is told that it lives."""

SILENT_FOR = 15.0
"""Seconds without a word after which a watch is given up."""

_NANO = 1_000_000_000
_DUPLICATES_KNOWN_FOR = 120.0
_CREATE_ATTEMPTS = 3

# Codes of https://github.com/nats-io/nats-server/blob/main/server/errors.json
_CONFLICT = (10071, 10164)
_NO_STREAM = 10059
_NO_JETSTREAM = (10039, 10076)
_STREAM_EXISTS = 10058

_OPERATION, _EXPECTED = "KV-Operation", "Nats-Expected-Last-Subject-Sequence"
_DELETED = {"DEL", "PURGE"}


class _Gone(Exception):
    """Nothing keeps the keys of this store: the server has lost it, or never had it."""


class _Refused(TransportError):
    """What JetStream answered instead of a result."""

    def __init__(self, name: str, error: dict[str, Any]) -> None:
        self.code: int = error.get("err_code", 0)
        super().__init__(f"store {name}: {error.get('description')} (NATS error {self.code})")


class NatsStore(Store):
    """One bucket. Where the server has lost it, it is made again at the next use, empty."""

    def __init__(self, link: Link, name: str, ttl: float) -> None:
        self._link = link
        self._name, self._ttl = name, ttl
        self._stream = f"KV_{name}"
        self._subjects = f"$KV.{name}."

    async def make(self) -> None:
        """Make the bucket where there is none; raises `TransportError` where there is one with another TTL."""
        try:
            await self._manage("STREAM.CREATE", self._config())
        except _Refused as exc:
            if exc.code in _NO_JETSTREAM:
                raise self._no_jetstream() from exc
            if exc.code != _STREAM_EXISTS:
                raise
            await self._check_ttl()
        except _Gone:
            raise self._no_jetstream() from None

    async def get(self, key: str) -> Entry | None:
        check_name(key, "key")
        found = await self._kept(lambda: self._latest(key))
        if found is None or found[1].get(_OPERATION) in _DELETED:
            return None
        data, headers = found
        now = await self._kept(self._server_time)
        age = max(0.0, now - _seconds(headers["Nats-Time-Stamp"]))
        return Entry(key, data, int(headers["Nats-Sequence"]), age)

    async def put(self, key: str, value: Data) -> int:
        return await self._write(key, value)

    async def create(self, key: str, value: Data) -> int:
        raw = to_bytes(value, check_name(key, "key"), VALUE_LIMIT)
        revision = 0
        for _ in range(_CREATE_ATTEMPTS):
            with suppress(RevisionConflict):
                return await self._write(key, raw, revision)
            found = await self._kept(lambda: self._latest(key))
            if found and found[1].get(_OPERATION) not in _DELETED:
                break
            # The last write was a deletion, which has a revision too; or it has just expired.
            revision = int(found[1]["Nats-Sequence"]) if found else 0
        raise RevisionConflict(f"{self._name}: {key} is there already; read it, and update it")

    async def update(self, key: str, value: Data, revision: int) -> int:
        raw = to_bytes(value, check_name(key, "key"), VALUE_LIMIT)
        self._link.check()
        self._refuse_no_revision(key, revision)
        return await self._write(key, raw, revision)

    async def delete(self, key: str, revision: int | None = None) -> None:
        check_name(key, "key")
        self._link.check()
        if revision is not None:
            self._refuse_no_revision(key, revision)
        await self._write(key, b"", revision, {_OPERATION: "DEL"})

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[Watch]:
        start = check_prefix(prefix)
        inbox = self._link.new_inbox()
        watch = Watch()
        feed = _Feed(watch, self._link, len(self._subjects), self._name)
        number = self._link.attach(Route(inbox, stream=watch, lasting=False), feed.receive)
        try:
            await self._link.confirm(inbox)
            feed.begin(await self._kept(lambda: self._follow(inbox, start)))
            yield watch
        finally:
            feed.stop()
            watch.end()
            self._forget(feed.consumer)
            await self._link.detach(number)

    def _refuse_no_revision(self, key: str, revision: int) -> None:
        """To JetStream 0 means that there is no such key, and a negative number nothing at all."""
        if revision < 1:
            raise self._conflict(key, revision)

    def _conflict(self, key: str, revision: int) -> RevisionConflict:
        return RevisionConflict(f"{self._name}: {key} is not at revision {revision}; read it again")

    async def _write(
        self, key: str, value: Data, expected: int | None = None, headers: dict[str, str] | None = None
    ) -> int:
        condition = {} if expected is None else {_EXPECTED: str(expected)}
        block = _header_block({**(headers or {}), **condition})
        # More than the server takes would cost the connection.
        limit = min(VALUE_LIMIT, self._link.message_limit - len(block))
        raw = to_bytes(value, check_name(key, "key"), limit)
        try:
            done = await self._kept(lambda: self._result(f"{self._subjects}{key}", raw, block))
        except _Refused as exc:
            if exc.code not in _CONFLICT or expected is None:
                raise
            raise self._conflict(key, expected) from None
        return int(done["seq"])

    async def _latest(self, key: str) -> tuple[bytes, dict[str, str]] | None:
        """What was written last under `key`, a deletion too, with its headers."""
        subject = f"$JS.API.DIRECT.GET.{self._stream}.{self._subjects}{key}"
        reply = await self._ask(subject)
        if reply.status == b"404":
            return None
        if reply.status:
            raise TransportError(
                f"store {self._name}: the server answers {reply.status.decode()}; see its log"
            )
        return reply.data, _parsed_headers(reply.headers)

    async def _server_time(self) -> float:
        return _seconds((await self._manage("STREAM.INFO"))["ts"])

    async def _follow(self, inbox: str, start: str) -> dict[str, Any]:
        """Have the server send to `inbox` the keys that begin with `start`, and what becomes of them."""
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject",
            "filter_subject": f"{self._subjects}{start}>",
            "ack_policy": "none",
            "max_deliver": 1,
            "mem_storage": True,
            "num_replicas": 1,
            "flow_control": True,
            "idle_heartbeat": int(HEARTBEAT * _NANO),
        }
        return await self._manage("CONSUMER.CREATE", {"stream_name": self._stream, "config": config})

    def _forget(self, consumer: str) -> None:
        with suppress(TransportError):
            if consumer:
                self._link.check().publish_now(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}", b"")

    def _config(self) -> dict[str, Any]:
        """As NATS' own clients make a bucket with one value for each key."""
        return {
            "name": self._stream,
            "subjects": [f"{self._subjects}>"],
            "max_msgs_per_subject": 1,
            "max_age": self._max_age,
            "duplicate_window": int(min(self._ttl, _DUPLICATES_KNOWN_FOR) * _NANO),
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "num_replicas": 1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
            "max_consumers": -1,
            "allow_direct": True,
            "allow_rollup_hdrs": True,
            "deny_delete": True,
        }

    @property
    def _max_age(self) -> int:
        return round(self._ttl * _NANO)

    async def _check_ttl(self) -> None:
        kept = (await self._manage("STREAM.INFO"))["config"].get("max_age", 0)
        if kept != self._max_age:
            ttl = f"{kept / _NANO:g} s" if kept else "none"
            raise TransportError(f"store {self._name} has a TTL of {ttl}, not {self._ttl:g} s; use one")

    def _no_jetstream(self) -> TransportError:
        return TransportError(
            f"store {self._name}: the NATS server at {self._link.server} has no JetStream, which keeps keys; "
            "start it with -js, or with jetstream {} in its configuration"
        )

    async def _kept(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, once more where there was nothing that keeps keys; it had no effect then."""
        try:
            return await ask()
        except _Gone:
            await self.make()
        try:
            return await ask()
        except _Gone:
            raise TransportError(f"store {self._name} is gone from the server; see its log") from None

    async def _manage(self, what: str, config: dict[str, Any] | None = None) -> dict[str, Any]:
        data = json.dumps(config).encode() if config else b""
        return await self._result(f"$JS.API.{what}.{self._stream}", data)

    async def _result(self, subject: str, data: bytes, headers: bytes = b"") -> dict[str, Any]:
        result = _parsed((await self._ask(subject, data, headers)).data)
        if error := result.get("error"):
            raise _Gone if error.get("err_code") == _NO_STREAM else _Refused(self._name, error)
        return result

    async def _ask(self, subject: str, data: bytes = b"", headers: bytes = b"") -> Reply:
        try:
            reply = await self._link.ask(subject, data, ANSWER_WITHIN, headers=headers, until_lost=True)
        except TimeoutError:
            raise TransportError(
                f"store {self._name}: no answer from JetStream within {ANSWER_WITHIN:g} s; see the server's log"
            ) from None
        if reply.status == b"503":
            raise _Gone
        return reply


class _Feed:
    """Hands a watch what its consumer sends, as long as nothing of it is missing."""

    def __init__(self, watch: Watch, link: Link, prefix: int, name: str) -> None:
        self.consumer: str = ""
        self._watch, self._link = watch, link
        self._prefix, self._name = prefix, name
        self._loop = asyncio.get_running_loop()
        self._early: list[tuple[bytes, bytes, bytes, bytes | None]] | None = []
        self._received = self._expected = 0
        self._in_snapshot = True
        self._latest = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, consumer: dict[str, Any]) -> None:
        """The consumer is there; what it sent before it was announced is handed on."""
        self.consumer = consumer["name"]
        self._ahead = _seconds(consumer["ts"]) - self._loop.time()
        self._expected = consumer["num_pending"] + consumer["delivered"]["consumer_seq"]
        early, self._early = self._early or [], None
        self._hear()
        self._watch_over()
        if not self._expected:
            self._end_snapshot()
        for message in early:
            self.receive(*message)

    def stop(self) -> None:
        if self._timer:
            self._timer.cancel()

    def receive(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        if self._early is not None:
            self._early.append((subject, reply, data, headers))
            return
        self._hear()
        if headers and headers.startswith(b"NATS/1.0 100"):
            self._control(reply.decode(), _parsed_headers(headers))
        elif reply:
            # Any NATS client may write a key that is not UTF-8; it is shown as text that no key of ours has.
            self._take(
                subject.decode(errors="backslashreplace")[self._prefix :], reply.split(b"."), data, headers
            )

    def _take(self, key: str, reply: list[bytes], data: bytes, headers: bytes | None) -> None:
        # $JS.ACK.stream.consumer.deliveries.revision.number.time.pending, in clusters with two more before the stream
        revision, number, nanoseconds, pending = map(int, (reply[5:9] if len(reply) == 9 else reply[7:11]))
        self._received += 1
        if number != self._received:
            self._fail(f"{number - self._received} changes did not come")
            return
        age = self._age(nanoseconds / _NANO)
        if headers and _parsed_headers(headers).get(_OPERATION) in _DELETED:
            if not self._in_snapshot:
                self._watch.deliver(Deleted(key, revision))
        else:
            self._watch.deliver(Entry(key, data, revision, age))
        if self._in_snapshot and (pending == 0 or self._received >= self._expected):
            self._end_snapshot()

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

    def _watch_over(self) -> None:
        silent = self._loop.time() - self._heard
        if silent >= SILENT_FOR:
            self._fail(f"nothing came for {silent:.0f} s")
        else:
            self._timer = self._loop.call_later(SILENT_FOR - silent, self._watch_over)

    def _fail(self, fact: str) -> None:
        self.stop()
        self._watch.end(TransportError(f"store {self._name}: {fact}, changes may be missed; watch again"))


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except ValueError as exc:
        raise TransportError(f"JetStream answers what is no JSON ({exc}); see the server's log") from exc
    return parsed if isinstance(parsed, dict) else {}


def _header_block(headers: dict[str, str]) -> bytes:
    if not headers:
        return b""
    return (
        "NATS/1.0\r\n" + "".join(f"{key}: {value}\r\n" for key, value in headers.items()) + "\r\n"
    ).encode()


def _parsed_headers(block: bytes | None) -> dict[str, str]:
    lines = (block or b"").decode(errors="replace").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines if line)
    return {key.strip(): value.strip() for key, _, value in pairs}
