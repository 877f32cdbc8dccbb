"""The reader's side of capabilities: a live view of all hosts of a service, aged on the reader's own clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self
from weakref import WeakSet

from asyncmgr.capabilities import STORE, STORE_TTL, Announcement
from asyncmgr.errors import ServiceStateError, TransportClosed, TransportError
from asyncmgr.log import log
from asyncmgr.transports import SNAPSHOT_DONE, Change, Deleted, Entry, Store, Transport, open_transport
from asyncmgr.transports.tokens import encode_token

WATCH_AGAIN = 1.0
"""Seconds between two tries to watch again after a loss of the connection."""


@dataclass(frozen=True, slots=True)
class HostState:
    """One node of one host, as far as this reader knows. Nothing in it can be changed."""

    service: str
    host: str
    node: str
    """The capability key `node`; empty where there is none."""
    capabilities: Mapping[str, Any]
    state: Literal["fresh", "stale"]
    """`stale` once half its TTL has passed without a refresh."""
    age: float
    """Seconds since it was announced, on this reader's clock."""
    incarnation: int
    sequence: int


@dataclass(frozen=True, slots=True)
class HostChange:
    """Something became different about a node."""

    kind: Literal["joined", "updated", "stale", "left"]
    host: HostState
    """As it is now; with `left` as it was last."""


Filter = Callable[[HostState], bool]
Weigher = Callable[[HostState], float]


class _Announced:
    """An announcement and when it was made, on the reader's clock."""

    __slots__ = ("announcement", "born", "stale")

    def __init__(self, announcement: Announcement, born: float) -> None:
        self.announcement = announcement
        self.born = born
        self.stale = False

    @property
    def changes_at(self) -> float:
        """When it becomes stale, or is gone."""
        return self.born + self.announcement.ttl * (1.0 if self.stale else 0.5)

    def states(self, now: float) -> list[HostState]:
        said = self.announcement
        age = max(0.0, now - self.born)
        state: Literal["fresh", "stale"] = "stale" if age >= said.ttl / 2 else "fresh"
        return [
            HostState(said.service, said.host, node, values, state, age, said.incarnation, said.sequence)
            for node, values in said.nodes
        ]


class Hosts:
    """A live view of the hosts of a service: the snapshot is complete when the context manager has been entered.

    Parameters
    ----------
    transport
        An open `Transport`, or a URL that is opened and closed with this.
    service
        The service to watch; `None` = all of them.
    """

    def __init__(self, transport: Transport | str, service: str | None = None) -> None:
        self._given = transport
        self._prefix = "" if service is None else encode_token(service, "service name")
        self._known: dict[str, _Announced] = {}
        # Weak: an iterator that nobody reads any more takes its queue along.
        self._readers: WeakSet[asyncio.Queue[HostChange | None]] = WeakSet()
        self._ager: asyncio.TimerHandle | None = None
        self._stack = AsyncExitStack()
        self._task: asyncio.Task[None] | None = None
        self._complete = asyncio.Event()
        self._malformed: set[str] = set()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            transport = self._given
            if isinstance(transport, str):
                transport = await stack.enter_async_context(open_transport(transport))
            store = await transport.store(STORE, ttl=STORE_TTL)
            self._task = asyncio.create_task(self._follow(store), name="asyncmgr hosts")
            stack.push_async_callback(self._stop_following)
            await self._first_snapshot()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _first_snapshot(self) -> None:
        assert self._task is not None
        complete = asyncio.create_task(self._complete.wait())
        try:
            await asyncio.wait({self._task, complete}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            complete.cancel()
        if not self._complete.is_set():
            self._task.result()
            raise TransportClosed("the transport was closed before the hosts were read; open a new one")

    async def _stop_following(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._ager is not None:
            self._ager.cancel()
        for reader in self._readers:
            reader.put_nowait(None)

    # Reading

    def snapshot(self) -> tuple[HostState, ...]:
        """All nodes that are fresh or stale now, by service, host and node."""
        self._check_entered()
        now = _now()
        live = (known for known in self._known.values() if now - known.born < known.announcement.ttl)
        states = [state for known in live for state in known.states(now)]
        return tuple(sorted(states, key=lambda state: (state.service, state.host, state.node)))

    def select(
        self, filters: Iterable[Filter] = (), weighers: Iterable[Weigher] = (), count: int = 1
    ) -> list[HostState]:
        """The best `count` nodes, best first; fewer where fewer pass.

        Only fresh nodes that every filter passes are weighed. Each weigher's values are normalised to 0..1 over
        those nodes before they are added up, so that none of them outweighs the others by its unit.
        """
        filters = tuple(filters)
        passing = [
            state
            for state in self.snapshot()
            if state.state == "fresh" and all(passes(state) for passes in filters)
        ]
        totals = [0.0] * len(passing)
        for weigher in weighers:
            for index, weight in enumerate(_normalise([weigher(state) for state in passing])):
                totals[index] += weight
        ranked = sorted(range(len(passing)), key=lambda index: -totals[index])
        return [passing[index] for index in ranked[:count]]

    def changes(self) -> AsyncIterator[HostChange]:
        """What becomes different from this call on; ends when this view is left."""
        self._check_entered()
        queue: asyncio.Queue[HostChange | None] = asyncio.Queue()
        self._readers.add(queue)
        return _read(queue)

    def _check_entered(self) -> None:
        if not self._complete.is_set():
            raise ServiceStateError("Hosts is not open; use it as 'async with Hosts(...) as hosts'")

    # Following

    async def _follow(self, store: Store) -> None:
        """Take in snapshot and changes, and age what is there; watch again after a loss of the connection."""
        while True:
            try:
                async with store.watch(self._prefix) as watch:
                    await self._take_all(watch)
                return
            except TransportClosed:
                return
            except TransportError as exc:
                if not self._complete.is_set():
                    raise
                log.warning("hosts.interrupted", error=str(exc))
                await asyncio.sleep(WATCH_AGAIN)

    async def _take_all(self, changes: AsyncIterator[Change]) -> None:
        seen: set[str] = set()
        async for change in changes:
            if change is SNAPSHOT_DONE:
                for key in self._known.keys() - seen:
                    self._drop(key)
                self._complete.set()
            elif isinstance(change, Deleted):
                self._drop(change.key)
            elif isinstance(change, Entry):
                seen.add(change.key)
                self._take_entry(change)

    def _take_entry(self, entry: Entry) -> None:
        try:
            announcement = Announcement.decode(entry.value)
        except ValueError as exc:
            if entry.key not in self._malformed:
                self._malformed.add(entry.key)
                log.warning("announcement.malformed", key=entry.key, error=str(exc))
            return
        before = self._known.get(entry.key)
        if before is not None and _order(announcement) <= _order(before.announcement):
            return
        known = _Announced(announcement, _now() - entry.age)
        if entry.age >= announcement.ttl:
            return
        self._known[entry.key] = known
        self._age_at(known.changes_at)
        self._tell_differences(before, known)

    def _tell_differences(self, before: _Announced | None, known: _Announced) -> None:
        now = _now()
        old = {state.node: state for state in before.states(now)} if before is not None else {}
        for state in known.states(now):
            was = old.pop(state.node, None)
            if was is None:
                self._tell(HostChange("joined", state))
            elif was.capabilities != state.capabilities or (before is not None and before.stale):
                self._tell(HostChange("updated", state))
        for state in old.values():
            self._tell(HostChange("left", state))

    def _drop(self, key: str) -> None:
        known = self._known.pop(key, None)
        for state in known.states(_now()) if known is not None else ():
            self._tell(HostChange("left", state))

    def _age(self) -> None:
        self._ager = None
        now = _now()
        for key, known in tuple(self._known.items()):
            age, ttl = now - known.born, known.announcement.ttl
            if age >= ttl:
                self._drop(key)
            elif age >= ttl / 2 and not known.stale:
                known.stale = True
                for state in known.states(now):
                    self._tell(HostChange("stale", state))
        if self._known:
            self._age_at(min(known.changes_at for known in self._known.values()))

    def _age_at(self, when: float) -> None:
        if self._ager is not None:
            if self._ager.when() <= when:
                return
            self._ager.cancel()
        self._ager = asyncio.get_running_loop().call_at(when, self._age)

    def _tell(self, change: HostChange) -> None:
        for reader in self._readers:
            reader.put_nowait(change)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _order(announcement: Announcement) -> tuple[int, int]:
    return announcement.incarnation, announcement.sequence


def _normalise(weights: list[float]) -> list[float]:
    lowest, highest = min(weights, default=0.0), max(weights, default=0.0)
    spread = highest - lowest
    return [(weight - lowest) / spread if spread else 0.0 for weight in weights]


async def _read(queue: asyncio.Queue[HostChange | None]) -> AsyncIterator[HostChange]:
    while (change := await queue.get()) is not None:
        yield change
