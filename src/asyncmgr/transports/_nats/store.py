"""Keys in NATS' JetStream: a bucket as other NATS clients make them, by the requests that these make."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from asyncmgr._common.clock import read_wall
from asyncmgr.errors import RevisionConflict, TransportError
from asyncmgr.transports._given import MESSAGE_LIMIT, VALUE_LIMIT, Data, check_name, check_prefix, to_bytes
from asyncmgr.transports._nats.bucket import Bucket
from asyncmgr.transports._nats.feed import DELETED, HEARTBEAT, NANO, OPERATION, Feed, microseconds, seconds
from asyncmgr.transports._nats.protocol import Msg, decode_headers, encode_headers
from asyncmgr.transports._nats.reconnect import Link
from asyncmgr.transports._nats.routes import Route
from asyncmgr.transports._stores import Store
from asyncmgr.transports._streams import Entry, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

T = TypeVar("T")

ANSWER_WITHIN = 5.0
"""Seconds that JetStream gets for one request."""

CALL_WITHIN = 12.0
"""Seconds that one call of a store takes at most, of however many requests it consists."""

_CREATE_ATTEMPTS = 3
_READY_ATTEMPTS, _READY_POLL = 20, 0.1
_INFO_WITHIN = (0.5, 1.5)
_CLOCK_WITHIN = 2.0

# Codes of https://github.com/nats-io/nats-server/blob/main/server/errors.json
_CONFLICT = (10071, 10164)
_NO_STREAM = 10059
_NO_JETSTREAM = (10039, 10076)
_NO_REPLICAS = (10005, 10074)
_STREAM_EXISTS = 10058
_NOT_READY = 10008  # of a stream that has no leader yet
_NO_MESSAGE = 10037

_TIME = "$SYS.REQ.USER.INFO"

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"


class _Gone(Exception):
    """Nothing keeps the keys of this store: the server has lost it, or never had it."""


class _NoAnswer(TransportError):
    """JetStream did not answer in time."""


class _Refused(TransportError):
    """What JetStream answered instead of a result."""

    def __init__(self, name: str, error: dict[str, Any]) -> None:
        self.code: int = error.get("err_code", 0)
        super().__init__(f"store {name}: {error.get('description')} (NATS error {self.code})")


class _Found(NamedTuple):
    """What was written last under a key."""

    value: bytes
    revision: int
    time: str
    headers: dict[str, str]

    @property
    def is_deleted(self) -> bool:
        return self.headers.get(OPERATION) in DELETED


class NatsStore(Store):
    """One bucket. Where the server has lost it, it is made again at the next use, empty."""

    def __init__(self, link: Link, name: str, ttl: float | None) -> None:
        self._link = link
        self._name = name
        self._bucket = bucket = Bucket(name, ttl)
        self._stream, self._subjects = bucket.stream, bucket.subjects
        self._api = f"$JS.{link.options.domain}.API" if link.options.domain else "$JS.API"
        # Where JetStream is another domain's, its own subjects are reached through its API's.
        self._writes = f"{self._api}.{self._subjects}" if link.options.domain else self._subjects
        self._is_direct = True

    async def make(self) -> None:
        """Make the bucket where there is none; raises `TransportError` where there is one that does not serve."""
        try:
            async with self._deadline():
                await self._find_or_make()
        except _Gone:
            raise self._no_jetstream() from None
        except _Refused as exc:
            if exc.code in _NO_JETSTREAM:
                raise self._no_jetstream() from exc
            if exc.code in _NO_REPLICAS:
                raise TransportError(f"{exc}; see replicas of [nats]") from exc
            raise

    async def _find_or_make(self) -> None:
        with suppress(_Gone):
            return await self._check_bucket()
        first = await self._first_revision()
        try:
            await self._manage("STREAM.CREATE", self._bucket.config(first, self._link.options.replicas))
        except _Refused as exc:
            if exc.code != _STREAM_EXISTS:
                raise
            await self._check_made_meanwhile()
        return None

    async def _first_revision(self) -> int:
        """The server's microseconds, so that revisions grow over a loss of the bucket too."""
        try:
            return await server_clock(self._link, _CLOCK_WITHIN)
        except TransportError:
            self._link.check()
            return read_wall()  # a user who may not ask for the time; the clocks are alike

    async def get(self, key: str) -> Entry | None:
        check_name(key, "key")
        found = await self._kept(lambda: self._latest(key))
        if found is None or found.is_deleted:
            return None
        now = await self._kept(self._server_time)
        return Entry(key, found.value, found.revision, max(0.0, now - seconds(found.time)))

    async def put(self, key: str, value: Data) -> int:
        return await self._write(key, value)

    async def create(self, key: str, value: Data) -> int:
        raw = to_bytes(value, check_name(key, "key"), VALUE_LIMIT)
        async with self._deadline():
            return await self._create(key, raw)

    async def _create(self, key: str, raw: bytes) -> int:
        revision = 0
        for _ in range(_CREATE_ATTEMPTS):
            with suppress(RevisionConflict):
                return await self._write(key, raw, revision)
            found = await self._kept(lambda: self._latest(key))
            if found and not found.is_deleted:
                break
            # The last write was a deletion, which has a revision too; or it has just expired.
            revision = found.revision if found else 0
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
        await self._write(key, b"", revision, {OPERATION: "DEL"})

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[Watch]:
        start = check_prefix(prefix)
        inbox = self._link.new_inbox()
        watch = Watch()
        feed = Feed(watch, self._link, len(self._subjects), self._name)
        number = self._link.attach(Route(inbox, stream=watch, lasting=False), feed.receive)
        try:
            await self._link.confirm(number, inbox)
            feed.begin(await self._kept(lambda: self._follow(inbox, start)))
            yield watch
        finally:
            feed.stop()
            watch.end()
            self._forget(feed.consumer)
            self._link.drop(number)

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
        block = encode_headers({**(headers or {}), **condition})
        # More than the server takes would cost the connection.
        limit = min(VALUE_LIMIT, self._link.message_limit - len(block))
        raw = to_bytes(value, check_name(key, "key"), limit)
        try:
            done = await self._kept(lambda: self._result(f"{self._writes}{key}", raw, block))
        except _Refused as exc:
            if exc.code not in _CONFLICT or expected is None:
                raise
            raise self._conflict(key, expected) from None
        return int(done["seq"])

    async def _latest(self, key: str) -> _Found | None:
        """What was written last under `key`, a deletion too."""
        if not self._is_direct:
            return await self._latest_by_request(key)
        reply = await self._ask(f"{self._api}.DIRECT.GET.{self._stream}.{self._subjects}{key}")
        if reply.status == b"404":
            return None
        if reply.status:
            raise TransportError(
                f"store {self._name}: the server answers {reply.status.decode()}; see its log"
            )
        headers = decode_headers(reply.headers)
        self._note_size(key, reply.left_out)
        return _Found(reply.data, int(headers["Nats-Sequence"]), headers["Nats-Time-Stamp"], headers)

    async def _latest_by_request(self, key: str) -> _Found | None:
        """The same from a bucket without ``allow_direct``, as some clients make them."""
        try:
            found = await self._manage("STREAM.MSG.GET", {"last_by_subj": f"{self._subjects}{key}"})
        except _Refused as exc:
            if exc.code == _NO_MESSAGE:
                return None
            raise
        message = found["message"]
        value = base64.b64decode(message.get("data", ""))
        headers = decode_headers(base64.b64decode(message.get("hdrs", "")))
        if len(value) > MESSAGE_LIMIT:
            self._note_size(key, len(value))
            value = b""
        return _Found(value, message["seq"], message["time"], headers)

    def _note_size(self, key: str, left_out: int) -> None:
        if left_out:
            self._link.note_too_large(f"{self._name}: {key}", left_out)

    async def now(self) -> int:
        """Microseconds since 1970 by the clock of the server that leads this bucket."""
        return microseconds((await self._kept(lambda: self._manage("STREAM.INFO")))["ts"])

    async def _server_time(self) -> float:
        return seconds((await self._manage("STREAM.INFO"))["ts"])

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
            "idle_heartbeat": int(HEARTBEAT * NANO),
        }
        return await self._manage("CONSUMER.CREATE", {"stream_name": self._stream, "config": config})

    def _forget(self, consumer: str) -> None:
        with suppress(TransportError):
            if consumer:
                self._link.check().publish_now(f"{self._api}.CONSUMER.DELETE.{self._stream}.{consumer}", b"")

    async def _check_made_meanwhile(self) -> None:
        """Check the bucket that somebody else has just made: in a cluster it takes a moment to be there."""
        for _ in range(_READY_ATTEMPTS):
            try:
                return await self._check_bucket()
            except _Gone:
                pass
            except _Refused as exc:
                if exc.code != _NOT_READY:
                    raise
            await asyncio.sleep(_READY_POLL)
        return await self._check_bucket()

    async def _check_bucket(self) -> None:
        """Somebody else made it, perhaps with another program: use it as it is, or say what is in the way."""
        config = (await self._info())["config"]
        self._is_direct = bool(config.get("allow_direct"))
        if wrong := [
            f"{key} is {found}, not {wanted}" for key, found, wanted in self._bucket.differences(config)
        ]:
            raise TransportError(
                f"store {self._name} cannot be used: of its stream {self._stream} {', '.join(wrong)}; "
                "change that there, or let this service make it by removing it"
            )

    def _no_jetstream(self) -> TransportError:
        options = self._link.options
        where = f"store {self._name}: the NATS server at {self._link.server} has no JetStream"
        if options.domain:
            return TransportError(
                f"{where} of the domain {options.domain}, which keeps keys; see jetstream_domain of [nats]"
            )
        return TransportError(
            f"{where}, which keeps keys; start it with -js, or with jetstream {{}} in its configuration"
        )

    async def _kept(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, once more where there was nothing that keeps keys; it had no effect then."""
        try:
            return await ask()
        except _Gone:
            pass
        try:
            async with self._deadline():
                await self.make()
                return await ask()
        except _Gone:
            raise TransportError(f"store {self._name} is gone from the server; see its log") from None

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        """Let the block take `CALL_WITHIN`: a server that is slow with each of many requests is not waited for."""
        try:
            async with asyncio.timeout(CALL_WITHIN):
                yield
        except TimeoutError:
            raise TransportError(
                f"store {self._name}: not done within {CALL_WITHIN:g} s; see the server's log"
            ) from None

    async def _info(self) -> dict[str, Any]:
        """Ask for the bucket, and once more where nobody answers: a cluster's that has just been made has no leader."""
        for within in _INFO_WITHIN:
            with suppress(_NoAnswer):
                return await self._manage("STREAM.INFO", within=within)
        return await self._manage("STREAM.INFO", within=ANSWER_WITHIN - sum(_INFO_WITHIN))

    async def _manage(
        self, what: str, config: dict[str, Any] | None = None, within: float = ANSWER_WITHIN
    ) -> dict[str, Any]:
        data = json.dumps(config).encode() if config else b""
        return await self._result(f"{self._api}.{what}.{self._stream}", data, within=within)

    async def _result(
        self, subject: str, data: bytes, headers: bytes = b"", within: float = ANSWER_WITHIN
    ) -> dict[str, Any]:
        result = _parsed((await self._ask(subject, data, headers, within)).data)
        if error := result.get("error"):
            raise _Gone if error.get("err_code") == _NO_STREAM else _Refused(self._name, error)
        return result

    async def _ask(
        self, subject: str, data: bytes = b"", headers: bytes = b"", within: float = ANSWER_WITHIN
    ) -> Msg:
        try:
            reply = await self._link.ask(subject, data, within, headers=headers, until_lost=True)
        except TimeoutError:
            raise _NoAnswer(
                f"store {self._name}: no answer from JetStream within {ANSWER_WITHIN:g} s; see the server's log"
            ) from None
        if reply.status == b"503":
            raise _Gone
        return reply


async def server_clock(link: Link, within: float = ANSWER_WITHIN) -> int:
    """Microseconds since 1970 by the clock of the connected server."""
    try:
        reply = await link.ask(_TIME, b"", within, until_lost=True)
    except TimeoutError:
        raise TransportError(f"no answer from the server within {within:g} s; see its log") from None
    time = _parsed(reply.data).get("server", {}).get("time") if reply.data else None
    if not time:
        raise TransportError(f"the server does not tell its time by {_TIME}; open a store first")
    return microseconds(time)


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except ValueError as exc:
        raise TransportError(f"JetStream answers what is no JSON ({exc}); see the server's log") from exc
    return parsed if isinstance(parsed, dict) else {}
