"""`Connection`: a host's faulty way to the store. Calls are delayed, lost or doubled, reads are old, watches break."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from asyncmgr.errors import TransportClosed, TransportError
from asyncmgr.testing.simulation._hosts import State
from asyncmgr.testing.simulation._server import Record, Server, Table, change
from asyncmgr.testing.simulation._timeline import SECOND, Timeline
from asyncmgr.transports._base import Transport
from asyncmgr.transports._given import VALUE_LIMIT, Data, check_name, check_prefix, check_store, to_bytes
from asyncmgr.transports._memory import Fabric, MemoryTransport
from asyncmgr.transports._stores import Store
from asyncmgr.transports._streams import SNAPSHOT_DONE, Entry, Subscription, Watch

if TYPE_CHECKING:
    import asyncio
    from contextlib import AbstractAsyncContextManager

    from asyncmgr.testing.simulation._loop import HostLoop

T = TypeVar("T")

NO_ANSWER = 5.0
"""Seconds after which some connections give a call up that got no answer. Others wait for ever, as some clients do."""

SILENCE = 15.0
"""Seconds after which a dead watch is noticed at the latest."""


@dataclass(slots=True)
class Weather:
    """What calls meet on their way. One object for all hosts; the story changes it."""

    least_delay: float = 0.0005
    most_delay: float = 0.003
    """Seconds for one way."""
    lose_request: float = 0.0
    lose_reply: float = 0.0
    double: float = 0.0
    """The share of calls that this happens to."""
    staleness: float = 0.0
    """Seconds: reads, and snapshots of watches, show a moment up to so long ago."""
    watch_lag: float = 0.0
    """Seconds by which a change reaches a watch late, at most."""
    lost_table: str = ""
    """Calls for this table get no answer."""


class Connection(Transport):
    """One process's connection. Messages never leave the host; the stores are those of the server."""

    def __init__(
        self, server: Server, timeline: Timeline, loop: HostLoop, weather: Weather, chance: random.Random
    ) -> None:
        super().__init__()
        self.server = server
        self.timeline = timeline
        self.loop = loop
        self.weather = weather
        self.chance = chance
        self.is_cut = False
        """Whether the host is cut off from the store, and does not know it."""
        self.writer: object = loop
        """Whom the server notes as the writer."""
        self.calls = 0
        """Calls made so far."""
        self.is_closed = False
        """Whether the process has closed it, or has died."""
        self.answers_late = 0.0
        """Seconds by which every answer comes late, while requests arrive in time."""
        self.gives_up = True
        """Whether a call that gets no answer fails after `NO_ANSWER`; else it waits for ever."""
        self._messages = MemoryTransport(Fabric())
        self.feeds: list[_Feed] = []
        """The watches that go on."""
        server.on_loss.append(self.break_watches)

    # Messages

    async def publish(self, subject: str, data: Data, *, reply_to: str | None = None) -> None:
        await self._messages.publish(subject, data, reply_to=reply_to)

    def subscribe(
        self, subject: str, *, group: str | None = None, pending_limit: int = 1024
    ) -> AbstractAsyncContextManager[Subscription]:
        return self._messages.subscribe(subject, group=group, pending_limit=pending_limit)

    async def request(self, subject: str, data: Data, *, timeout: float) -> bytes:
        return await self._messages.request(subject, data, timeout=timeout)

    # The engine

    async def store(self, name: str, *, ttl: float | None, watched: bool = True) -> Store:
        check_store(name, ttl)
        if name == "capabilities":
            return await self._messages.store(name, ttl=ttl, watched=watched)
        return SimulatedStore(self, self.server.table(name, ttl))

    async def now(self) -> int:
        return await self.call("now", self.server.now)

    async def aclose(self) -> None:
        if self.is_closed:
            return
        self.is_closed = True
        self._note_closed()
        self.server.on_loss.remove(self.break_watches)
        for feed in tuple(self.feeds):
            feed.watch.end()
        await self._messages.aclose()

    # Faults

    def cut(self) -> None:
        """Cut the host off from the store. It does not notice before its calls get no answers."""
        self.is_cut = True
        self.break_watches(SILENCE)

    def heal(self) -> None:
        self.is_cut = False

    def leave(self) -> None:
        """Forget the connection of a host that has died."""
        self.is_closed = True
        if self.break_watches in self.server.on_loss:
            self.server.on_loss.remove(self.break_watches)
        for feed in tuple(self.feeds):
            feed.stop()

    def break_watches(self, most: float = 1.0) -> None:
        """End all watches: they get no more changes, and notice that within `most` seconds."""
        for feed in tuple(self.feeds):
            feed.break_off(self.chance.uniform(0, most))

    # Calls

    async def call(self, kind: str, act: Callable[[], T], table: str = "") -> T:
        """Have the server do `act`; raise what it raises, or `TransportError` where no answer comes."""
        if self.is_closed:
            raise TransportClosed("this transport was closed; open a new one")
        self.calls += 1
        answer: asyncio.Future[T] = self.loop.create_future()
        is_lost = self.is_cut or (table and table == self.weather.lost_table)
        if self._happens(self.weather.lose_request) or is_lost:
            self._give_no_answer(answer)
        else:
            self.timeline.after(self._delay(), self._arrive, kind, act, answer)
        return await answer

    def _arrive(self, kind: str, act: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        if self.is_cut:
            return self._give_no_answer(answer)
        self.server.calls[kind] += 1
        result = _result(act)
        if kind != "watch" and self._happens(self.weather.double):
            self.timeline.after(self._delay() + self.chance.expovariate(2), _result, act)
        if self._happens(self.weather.lose_reply):
            self._give_no_answer(answer)
        else:
            self.loop.bring(self._delay() + self.answers_late, self._reply, answer, *result)
        return None

    def _reply(self, answer: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        if self.is_cut:
            self._give_no_answer(answer)
        else:
            _settle(answer, value, error)

    def _give_no_answer(self, answer: asyncio.Future[Any]) -> None:
        if self.loop.state is not State.DEAD and self.gives_up:
            error = TransportError(f"the store gave no answer within {NO_ANSWER:g} s")
            self.loop.call_at(self.loop.time() + NO_ANSWER, _settle, answer, None, error)

    def _happens(self, share: float) -> bool:
        return share > 0 and self.chance.random() < share

    def _delay(self) -> float:
        return self.chance.uniform(self.weather.least_delay, self.weather.most_delay)

    def moment_seen(self, at_least: int = 0) -> int:
        """Choose the real moment that a read shows."""
        if not self.weather.staleness:
            return self.timeline.now
        age = round(self.chance.uniform(0, self.weather.staleness) * SECOND)
        return max(at_least, self.timeline.now - age)


def _result(act: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return act(), None
    except TransportError as exc:
        return None, exc


def _settle(answer: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(value)
    else:
        answer.set_exception(error)


class SimulatedStore(Store):
    """A table of the server, as one host sees it."""

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._server = connection.server
        self._table = table
        self._written: dict[str, int] = {}
        """The real moment of the last write of each key by this host that was answered."""

    async def get(self, key: str) -> Entry | None:
        check_name(key, "key")
        return await self._connection.call("get", lambda: self._read(key), self._table.name)

    def _read(self, key: str) -> Entry | None:
        moment = self._connection.moment_seen(self._written.get(key, 0))
        record = self._server.read(self._table, key, moment)
        return None if record is None else self._server.entry(key, record)

    async def put(self, key: str, value: Data) -> int:
        raw, who = self._checked(key, value), self._connection.writer
        return await self._write("put", key, lambda: self._server.put(self._table, key, raw, who))

    async def create(self, key: str, value: Data) -> int:
        raw, who = self._checked(key, value), self._connection.writer
        return await self._write("create", key, lambda: self._server.create(self._table, key, raw, who))

    async def update(self, key: str, value: Data, revision: int) -> int:
        raw, who = self._checked(key, value), self._connection.writer
        return await self._write(
            "update", key, lambda: self._server.update(self._table, key, raw, revision, who)
        )

    async def delete(self, key: str, revision: int | None = None) -> None:
        check_name(key, "key")
        who = self._connection.writer
        await self._write("delete", key, lambda: self._server.delete(self._table, key, revision, who))

    def _checked(self, key: str, value: Data) -> bytes:
        return to_bytes(value, check_name(key, "key"), VALUE_LIMIT)

    async def _write(self, kind: str, key: str, act: Callable[[], T]) -> T:
        timeline = self._connection.timeline

        def acted() -> tuple[T, int]:
            return act(), timeline.now

        result, moment = await self._connection.call(kind, acted, self._table.name)
        self._written[key] = max(moment, self._written.get(key, 0))
        return result

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[Watch]:
        watch = Watch()
        feed = _Feed(self._connection, self._table, watch, check_prefix(prefix))
        await self._connection.call("watch", feed.start)
        try:
            yield watch
        finally:
            feed.stop()
            watch.end()


class _Feed:
    """Brings the changes of a table to one watch, in their order, some of them late."""

    def __init__(self, connection: Connection, table: Table, watch: Watch, prefix: str) -> None:
        self.watch = watch
        self._connection = connection
        self._table = table
        self._prefix = prefix
        self._free_at = 0
        """The real moment at which the last item arrives; the next one cannot overtake it."""
        self._is_on = False

    def start(self) -> None:
        """Called at the server: send the snapshot, then what has changed since the moment that it shows."""
        connection, table = self._connection, self._table
        if connection.loop.state is State.DEAD or connection.is_closed:
            return
        moment = connection.moment_seen()
        for key, record in connection.server.read_all(table, self._prefix, moment):
            self._send(change(connection.server, key, record))
        self._send(SNAPSHOT_DONE)
        for key, past in table.history.items():
            if past[-1].written > moment:
                self._bring(key, past[-1])
        self._is_on = True
        table.feeds.append(self._bring)
        connection.feeds.append(self)

    def _bring(self, key: str, record: Record) -> None:
        if key.startswith(self._prefix):
            self._send(change(self._connection.server, key, record))

    def _send(self, item: Any) -> None:
        weather, chance = self._connection.weather, self._connection.chance
        delay = chance.uniform(weather.least_delay, weather.most_delay)
        if weather.watch_lag:
            delay += chance.uniform(0, weather.watch_lag)
        now = self._connection.timeline.now
        self._free_at = max(self._free_at, now + round(delay * SECOND))
        self._connection.loop.bring((self._free_at - now) / SECOND, self.watch.deliver, item)

    def break_off(self, seconds: float) -> None:
        """Bring nothing more; the host notices that after so many seconds."""
        self.stop()
        error = TransportError("the connection was lost, changes may have been missed; watch again")
        self._connection.loop.bring(seconds, self.watch.end, error)

    def stop(self) -> None:
        """Bring nothing more; whatever is on its way still arrives."""
        if self._is_on:
            self._is_on = False
            self._table.feeds.remove(self._bring)
            self._connection.feeds.remove(self)
