"""The reader's side of capabilities: a live view of all hosts of a service, aged on the reader's own clock."""

from __future__ import annotations

import asyncio
import math
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias
from weakref import WeakSet

from asyncmgr._common.log import log
from asyncmgr._common.timer import Timer
from asyncmgr.capabilities._announcement import STORE, STORE_TTL, Announcement
from asyncmgr.capabilities._values import same
from asyncmgr.errors import ServiceStateError, TransportClosed
from asyncmgr.transports import SNAPSHOT_DONE, Deleted, Entry, Transport, Watch, open_transport
from asyncmgr.transports._retries import Retries
from asyncmgr.transports._streams import Stream
from asyncmgr.transports._tokens import encode_token

AT_ONCE = 64
"""Changes taken in before others get their turn: those of 10,000 hosts take a good part of a second."""

RETURN_WITHIN = 10.0
"""Seconds that a host has to announce itself again where the store has lost it while the connection was lost."""


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


Kind: TypeAlias = Literal["joined", "updated", "stale", "left"]


@dataclass(frozen=True, slots=True)
class HostChange:
    """Something became different about a node."""

    kind: Kind
    """`updated`: other capabilities, a restart of the host, or fresh after it was stale."""
    host: HostState
    """As it is now; with `left` as it was last."""


Filter: TypeAlias = Callable[[HostState], bool]
Weigher: TypeAlias = Callable[[HostState], float]
"""What a node is worth; more is better. Its attribute `multiplier`, where it has one, says how much that counts."""


class _Known:
    """An announcement, and its times on the reader's clock."""

    __slots__ = ("announcement", "born", "gone_at", "stale_at", "told_stale")

    def __init__(self, announcement: Announcement, born: float, now: float) -> None:
        self.announcement = announcement
        self.set_born(born)
        self.told_stale = now >= self.stale_at

    def set_born(self, born: float) -> None:
        self.born = born
        self.stale_at = born + self.announcement.ttl / 2
        self.gone_at = born + self.announcement.ttl

    @property
    def changes_at(self) -> float:
        """When its readers are to be told something again."""
        return self.gone_at if self.told_stale else min(self.stale_at, self.gone_at)

    def states(self, now: float) -> list[HostState]:
        said = self.announcement
        age = max(0.0, now - self.born)
        state: Literal["fresh", "stale"] = "stale" if now >= self.stale_at else "fresh"
        return [
            HostState(said.service, said.host, node, values, state, age, said.incarnation, said.sequence)
            for node, values in said.nodes
        ]


class Hosts:
    """A live view of the hosts of a service: the snapshot is complete when the context manager has been entered.

    It outlives an outage: what is known goes on ageing meanwhile, and the store is read again as soon as it can be.

    Parameters
    ----------
    transport
        An open `Transport`, or a URL that is opened and closed with this.
    service
        The service to watch; `None` = all of them.

    Raises
    ------
    TransportError
        On entering: the store cannot be read.
    """

    # Of the time from entering to leaving.
    _complete: asyncio.Future[None]
    _retries: Retries
    _ended: bool

    def __init__(self, transport: Transport | str, service: str | None = None) -> None:
        self._given = transport
        self._service = service
        self._prefix = "" if service is None else encode_token(service, "service name")
        self._known: dict[str, _Known] = {}
        self._malformed: set[str] = set()
        self._taken = 0
        # Weak: an iterator that nobody reads any more takes its buffer along.
        self._readers: WeakSet[_Reader] = WeakSet()
        self._ager = Timer(self._age)
        self._open: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise ServiceStateError("this Hosts is open already; make another one")
        self._ended = False
        async with AsyncExitStack() as stack:
            stack.callback(self._forget)
            transport = self._given
            if isinstance(transport, str):
                transport = await stack.enter_async_context(open_transport(transport))
            await self._begin_following(transport, stack)
            self._open = stack.pop_all()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        stack, self._open = self._open, None
        if stack is not None:
            await stack.aclose()

    async def _begin_following(self, transport: Transport, stack: AsyncExitStack) -> None:
        """Returns when the first snapshot has been taken in."""
        self._complete = asyncio.get_running_loop().create_future()
        keys = {} if self._service is None else {"service": self._service}
        self._retries = Retries(
            transport, "hosts.interrupted", "hosts.resumed", spread=random.Random(), **keys
        )
        task = asyncio.create_task(self._follow(transport), name="asyncmgr hosts")
        stack.push_async_callback(_cancel, task)
        await asyncio.wait({task, self._complete}, return_when=asyncio.FIRST_COMPLETED)
        if not self._complete.done():
            task.result()
            raise TransportClosed("the transport was closed before the hosts were read; open a new one")

    # Reading

    def snapshot(self) -> tuple[HostState, ...]:
        """All nodes that are fresh or stale now, by service, host and node."""
        self._check_open()
        now = _now()
        live = (known for known in self._known.values() if now < known.gone_at)
        states = [state for known in live for state in known.states(now)]
        return tuple(sorted(states, key=lambda state: (state.service, state.host, state.node)))

    def select(
        self, filters: Iterable[Filter] = (), weighers: Iterable[Weigher] = (), count: int = 1
    ) -> list[HostState]:
        """The best `count` nodes, best first; fewer where fewer pass. Of equals, those first in `snapshot` win.

        Only fresh nodes that every filter passes are weighed. Each weigher's values are normalised to 0..1 over
        those nodes, so that none of them outweighs the others by its unit, then multiplied by its `multiplier`, if
        it has that attribute, and added up.

        Raises
        ------
        ValueError
            A weigher gave something else than a finite number, or `count` is negative.
        """
        if count < 0:
            raise ValueError(f"count is {count}; give 0 or more")
        filters = tuple(filters)
        passing = [
            state
            for state in self.snapshot()
            if state.state == "fresh" and all(passes(state) for passes in filters)
        ]
        totals = _add_weights(passing, weighers)
        ranked = sorted(range(len(passing)), key=lambda index: -totals[index])
        return [passing[index] for index in ranked[:count]]

    def changes(self) -> AsyncIterator[HostChange]:
        """What becomes different from this call on, so that ``snapshot()`` right after it misses nothing.

        Ends when this view is left or its transport closed. A reader that is slow gets the net difference of each
        node, and so never more than one change of it at once.
        """
        self._check_open()
        reader = _Reader()
        if self._ended:
            reader.end()
        self._readers.add(reader)
        return reader

    def _check_open(self) -> None:
        if self._open is None:
            raise ServiceStateError("Hosts is not open; use it as 'async with Hosts(...) as hosts'")

    def _tell(self, kind: Kind, states: Iterable[HostState]) -> None:
        for state in states:
            for reader in self._readers:
                reader.deliver(HostChange(kind, state))

    # Following the store

    async def _follow(self, transport: Transport) -> None:
        """Take in snapshot and changes; watch again after a loss of the connection."""
        with self._retries:
            while not await self._watched_to_the_end(transport):
                await self._retries.due()
        self._end()

    async def _watched_to_the_end(self, transport: Transport) -> bool:
        try:
            store = await transport.store(STORE, ttl=STORE_TTL)
            async with store.watch(self._prefix) as watch:
                await self._take_snapshot(watch)
                await self._take_changes(watch)
        except TransportClosed:
            return True
        except Exception as exc:
            # Whatever a transport raises: the view goes on ageing, and is completed later.
            if not self._complete.done():
                raise
            self._retries.failed(exc)
            return False
        return True

    async def _take_snapshot(self, watch: Watch) -> None:
        seen: set[str] = set()
        async for change in watch:
            if change is SNAPSHOT_DONE:
                self._expect_back(self._known.keys() - seen)
                self._retries.succeeded()
                if not self._complete.done():
                    self._complete.set_result(None)
                return
            if isinstance(change, Entry):
                seen.add(change.key)
                # A deletion may have been missed, after which what came later need not look so.
                self._take(change, also_older=True)
            await self._let_others_run()

    async def _take_changes(self, watch: Watch) -> None:
        async for change in watch:
            if isinstance(change, Entry):
                self._take(change)
            elif isinstance(change, Deleted):
                self._malformed.discard(change.key)
                self._drop(change.key)
            await self._let_others_run()

    async def _let_others_run(self) -> None:
        self._taken += 1
        if self._taken % AT_ONCE == 0:
            await asyncio.sleep(0)

    def _expect_back(self, keys: Iterable[str]) -> None:
        """Not there after an outage: withdrawn, or lost with the engine, and then announced again in a moment."""
        for key in keys:
            known = self._known[key]
            known.gone_at = min(known.gone_at, _now() + RETURN_WITHIN)
            self._ager.set_by(known.gone_at)

    def _take(self, entry: Entry, *, also_older: bool = False) -> None:
        announcement = self._read(entry)
        if announcement is None:
            return
        now, before = _now(), self._known.get(entry.key)
        born = now - entry.age
        if before is None or announcement.order > before.announcement.order:
            self._put(entry.key, _Known(announcement, born, now))
        elif announcement.order == before.announcement.order:
            before.set_born(min(born, before.born))  # this clock may have stood still while the machine slept
            self._ager.set_by(before.changes_at)
        elif also_older:
            self._put(entry.key, _Known(announcement, born, now))

    def _read(self, entry: Entry) -> Announcement | None:
        try:
            announcement = Announcement.decode(entry.key, entry.value)
        except ValueError as exc:
            if entry.key not in self._malformed:
                self._malformed.add(entry.key)
                log.warning("announcement.malformed", key=entry.key, error=str(exc))
            return None
        self._malformed.discard(entry.key)
        return announcement

    # What is known

    def _put(self, key: str, known: _Known) -> None:
        now = _now()
        if now >= known.gone_at:
            return self._drop(key)
        before = self._known.get(key)
        self._known[key] = known
        self._ager.set_by(known.changes_at)
        self._tell_differences(before.states(now) if before is not None else [], known.states(now))
        return None

    def _drop(self, key: str) -> None:
        known = self._known.pop(key, None)
        if known is not None:
            self._tell("left", known.states(_now()))

    def _tell_differences(self, before: list[HostState], after: list[HostState]) -> None:
        old = {state.node: state for state in before}
        for state in after:
            kind = _difference(old.pop(state.node, None), state)
            if kind is not None:
                self._tell(kind, [state])
        self._tell("left", old.values())

    def _age(self) -> None:
        now = _now()
        for key, known in tuple(self._known.items()):
            if now >= known.gone_at:
                self._drop(key)
            elif now >= known.changes_at:
                known.told_stale = True
                self._tell("stale", known.states(now))
        if self._known:
            self._ager.set_by(min(known.changes_at for known in self._known.values()))

    def _end(self) -> None:
        """Nothing more will be learnt. What is known goes on ageing for as long as this view is open."""
        self._ended = True
        for reader in self._readers:
            reader.end()

    def _forget(self) -> None:
        self._end()
        self._known.clear()
        self._ager.drop()


class _Reader(Stream[HostChange]):
    """The changes that one reader has not read yet: at most one for each node, the net difference."""

    def __init__(self) -> None:
        super().__init__()
        self._pending: OrderedDict[tuple[str, str, str], HostChange] = OrderedDict()

    def deliver(self, change: HostChange) -> None:
        if self._ended:
            return
        node = (change.host.service, change.host.host, change.host.node)
        pending = self._pending.pop(node, None)
        kind = change.kind if pending is None else _net(pending.kind, change.kind)
        if kind is not None:
            self._pending[node] = HostChange(kind, change.host)
            self._wake.set()

    def _has_items(self) -> bool:
        return bool(self._pending)

    def _take(self) -> HostChange:
        return self._pending.popitem(last=False)[1]


def _net(first: Kind, then: Kind) -> Kind | None:
    """Two changes of one node as one; `None` = it came and went."""
    if first == "joined":
        return None if then == "left" else "joined"
    if then == "joined":
        return "updated"
    return "updated" if first == "updated" and then == "stale" else then


def _difference(before: HostState | None, after: HostState) -> Kind | None:
    """What became different about a node, other than its age."""
    if before is None:
        return "joined"
    if before.incarnation != after.incarnation or not same(before.capabilities, after.capabilities):
        return "updated"
    if before.state == after.state:
        return None
    return "updated" if after.state == "fresh" else "stale"


def _add_weights(states: list[HostState], weighers: Iterable[Weigher]) -> list[float]:
    totals = [0.0] * len(states)
    for weigher in weighers:
        multiplier = getattr(weigher, "multiplier", 1.0)
        for index, weight in enumerate(_normalise([_weigh(weigher, state) for state in states])):
            totals[index] += multiplier * weight
    return totals


def _weigh(weigher: Weigher, state: HostState) -> float:
    weight = weigher(state)
    try:
        if math.isfinite(number := float(weight)):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(
        f"the weigher {weigher!r} gave {weight!r} for {state.service}/{state.host}/{state.node}; "
        "give a finite number, or filter such nodes out"
    )


def _normalise(weights: list[float]) -> list[float]:
    lowest, highest = min(weights, default=0.0), max(weights, default=0.0)
    spread = highest - lowest
    return [(weight - lowest) / spread if spread else 0.0 for weight in weights]


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
    _ = task.cancelled() or task.exception()  # else asyncio logs an error that was told to whoever entered


def _now() -> float:
    return asyncio.get_running_loop().time()
