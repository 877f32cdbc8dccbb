"""What the tests of capabilities share: announcements made by hand, and a record of what a service writes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import structlog

from asyncmgr import SchedulerDependentManager, Service, Settings
from asyncmgr.capabilities._announcement import STORE, STORE_TTL, Announcement, announcement_key
from asyncmgr.transports import Change, Deleted, Entry, Store, Transport, Watch
from asyncmgr.transports._memory import Fabric, MemoryTransport, _fabric_named


class Agent(SchedulerDependentManager):
    """Reports what a test gives it."""

    service_name = "compute"


class OtherAgent(SchedulerDependentManager):
    """A second one of the same service."""

    service_name = "compute"


def make_service(
    *managers: SchedulerDependentManager, transport: Any, host: str = "n1", **settings: Any
) -> Service:
    return Service(*managers, transport=transport, host=host, settings=Settings(seed=1, **settings))


class Link(MemoryTransport):
    """A connection of which a test decides how well it works; for its loss there is `outage`."""

    def __init__(self, fabric: Fabric) -> None:
        super().__init__(fabric)
        self.answers = asyncio.Event()
        """Cleared, no call comes to an end, and there is no sign of it."""
        self.answers.set()
        self.delay = 0.0
        """Seconds that each call takes."""
        self.fault: Exception | None = None
        """What each call raises."""

    async def _ready(self) -> None:
        await super()._ready()
        await self.answers.wait()
        if self.delay:
            await asyncio.sleep(self.delay)
        if self.fault is not None:
            raise self.fault


@asynccontextmanager
async def memory() -> AsyncIterator[Link]:
    """One more connection to the fabric of the test."""
    link = Link(_fabric_named("fabric"))
    try:
        yield link
    finally:
        await link.aclose()


async def open_store(transport: Transport) -> Store:
    return await transport.store(STORE, ttl=STORE_TTL)


def now() -> float:
    return asyncio.get_running_loop().time()


def stand_still(seconds: float) -> None:
    """Let virtual time pass while nothing runs: the process is stopped, or something blocks the loop."""
    loop: Any = asyncio.get_running_loop()
    loop._advance(round(seconds * 1e6))


class Said:
    """What stands under one host's key: every value, and when it came; a deletion is `None`."""

    def __init__(self) -> None:
        self.all: list[tuple[float, dict[str, Any] | None]] = []

    def __len__(self) -> int:
        return len(self.all)

    @property
    def at(self) -> list[float]:
        return [when for when, _ in self.all]

    @property
    def last(self) -> dict[str, Any]:
        fields = self.all[-1][1]
        assert fields is not None, "withdrawn"
        return fields

    @property
    def nodes(self) -> dict[str, Any]:
        """The nodes of the last announcement."""
        return {node["node"]: node["capabilities"] for node in self.last["nodes"]}

    @property
    def withdrawn(self) -> bool:
        return self.all[-1][1] is None


class _Wire(Watch):
    """Notes what is written at the instant of the writing, each of several quick changes too."""

    def __init__(self, key: str, said: Said) -> None:
        super().__init__()
        self._key = key
        self._said = said

    def deliver(self, change: Change) -> None:
        if isinstance(change, Entry) and change.key == self._key:
            self._said.all.append((now(), json.loads(change.value)))
        elif isinstance(change, Deleted) and change.key == self._key:
            self._said.all.append((now(), None))


@asynccontextmanager
async def listen(host: str = "n1", service: str = "compute") -> AsyncIterator[Said]:
    """Note all that is written for a host from now on; no outage of a test touches this."""
    said = Said()
    async with memory() as transport:
        await open_store(transport)
        shelf = transport._fabric.shelves[STORE]
        wire = _Wire(announcement_key(service, host), said)
        shelf.watches[wire] = ""
        yield said
        del shelf.watches[wire]


class Sender:
    """A host made by hand: writes announcements that look as they are told to."""

    def __init__(
        self, transport: Transport, host: str = "n1", service: str = "compute", **fields: Any
    ) -> None:
        self.transport = transport
        self.key = announcement_key(service, host)
        self.fields: dict[str, Any] = {
            "service": service,
            "host": host,
            "incarnation": 1,
            "sequence": 0,
            "ttl": 60.0,
            "nodes": (("", {}),),
        } | fields

    async def say(self, capabilities: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Write the next announcement: of one node ``""``, or of what `nodes` says."""
        self.fields["sequence"] += 1
        if capabilities is not None:
            self.fields["nodes"] = (("", capabilities),)
        self.fields |= fields
        await self.write(Announcement(**self.fields).encode())

    async def write(self, value: bytes) -> None:
        await (await open_store(self.transport)).put(self.key, value)

    async def withdraw(self) -> None:
        await (await open_store(self.transport)).delete(self.key)


@contextmanager
def captured() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


def count(logs: list[Any], event: str) -> int:
    return [entry["event"] for entry in logs].count(event)
