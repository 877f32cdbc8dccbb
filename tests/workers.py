"""Several services of one application in one virtual loop, over a store that can be made to misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar

from asyncmgr import Manager, RunContext, Service, Settings
from asyncmgr._service.cluster_scope import cluster_scope_of
from asyncmgr.errors import TransportError
from asyncmgr.events import Event
from asyncmgr.transports import Entry, Store, Watch
from asyncmgr.transports._memory import MemoryTransport, _fabric_named

T = TypeVar("T")
E = TypeVar("E", bound=Event)

Fault = Callable[[str, str, str], str | float | None]
"""Called with verb, store and key. Answers `lose_request`, `lose_reply`, `hang`, seconds of delay, or `None`."""


class Wire(MemoryTransport):
    """One process' connection to the fabric of this name, with faults."""

    def __init__(self, name: str) -> None:
        super().__init__(_fabric_named(name))
        self.fault: Fault = lambda verb, store, key: None
        self.calls: list[tuple[str, str, str]] = []
        self.late_watch = ""
        """A store of which a watch begins a second late."""

    async def store(self, name: str, *, ttl: float | None, watched: bool = True) -> Any:
        return Faulty(await super().store(name, ttl=ttl, watched=watched), name, self)

    async def now(self) -> int:
        return await self.call("now", "", "", super().now)

    async def call(self, verb: str, store: str, key: str, act: Callable[[], Awaitable[T]]) -> T:
        if store != "asyncmgr-capabilities":
            self.calls.append((verb, store, key))
        if store == "asyncmgr-capabilities":
            return await act()
        fault = self.fault(verb, store, key)
        if fault == "hang":
            await stubborn()
        if fault == "lose_request":
            raise TransportError("the request got lost")
        if isinstance(fault, float):
            await asyncio.sleep(fault)
        answer = await act()
        if fault == "lose_reply":
            raise TransportError("the reply got lost")
        return answer


async def stubborn() -> None:
    """Wait for an hour, whatever cancels it."""
    end = asyncio.get_running_loop().time() + 3600
    for _ in range(10):
        try:
            await asyncio.sleep(end - asyncio.get_running_loop().time())
        except asyncio.CancelledError:
            if getattr(asyncio.get_running_loop(), "is_over", False):
                raise


class Faulty(Store):
    """A store as one process sees it."""

    def __init__(self, store: Store, name: str, wire: Wire) -> None:
        self._store, self._name, self._wire = store, name, wire

    async def get(self, key: str) -> Entry | None:
        return await self._wire.call("get", self._name, key, lambda: self._store.get(key))

    async def put(self, key: str, value: Any) -> int:
        return await self._wire.call("put", self._name, key, lambda: self._store.put(key, value))

    async def create(self, key: str, value: Any) -> int:
        return await self._wire.call("create", self._name, key, lambda: self._store.create(key, value))

    async def update(self, key: str, value: Any, revision: int) -> int:
        return await self._wire.call(
            "update", self._name, key, lambda: self._store.update(key, value, revision)
        )

    async def delete(self, key: str, revision: int | None = None) -> None:
        await self._store.delete(key, revision)

    @asynccontextmanager
    async def watch(self, prefix: str = "") -> AsyncIterator[Watch]:
        if self._name == self._wire.late_watch:
            await asyncio.sleep(0.9)
        async with self._store.watch(prefix) as watch:
            yield watch


class Ran(NamedTuple):
    """One run, as its body saw it."""

    at: float
    host: str
    number: int | None
    token: int | None
    trigger: str
    slot: str


class Worker:
    """One process: a service with tasks that note their runs in `log`."""

    def __init__(
        self, host: str, log: list[Ran], *, fabric: str = "x", ttl: float = 10.0, **options: Any
    ) -> None:
        self.host, self.log = host, log
        self.events: list[Event] = []
        self.lasts = 0.0
        self.unwinds = 0.0
        """Seconds that a body goes on after it was cancelled."""
        self.ended: list[str] = []
        self.wire = Wire(fabric)
        self.manager = Staff()
        self.settings = Settings(lease={"ttl": ttl}, seed=1, **options.pop("settings", {}))
        self.service = Service(self.manager, name="s", host=host, transport=self.wire, settings=self.settings)
        self.service.add_listener(self.events.append)
        self.cut_off = self.wire.outage()

    def add(self, name: str = "job", **options: Any) -> Worker:
        """Add a task of the cluster."""
        spacing = {} if "cron" in options else {"spacing": 5}
        options = {**spacing, "scope": "cluster", **options}
        self.manager.add_periodic_task(self.work, name=name, **options)
        return self

    async def work(self, context: RunContext) -> None:
        loop = asyncio.get_running_loop()
        self.log.append(
            Ran(
                round(loop.time(), 3),
                self.host,
                context.slot_number,
                context.fencing_token,
                context.trigger,
                context.slot.strftime("%H:%M:%S.%f")[:-4],
            )
        )
        try:
            await asyncio.sleep(self.lasts)
        except asyncio.CancelledError:
            self.ended.append(f"cancelled {loop.time():.2f}")
            await asyncio.sleep(self.unwinds)
            raise

    @property
    def cluster(self) -> Any:
        return cluster_scope_of(self.service).cluster()

    @property
    def owner(self) -> str | None:
        return self.service.task("M.job").status.owner

    @property
    def holds(self) -> bool:
        """Whether this process holds the task, and trusts that."""
        return bool(self.cluster.claims.held())

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def vanish(self) -> None:
        """Cut the process off from the store for good, as if its machine had died."""
        self.cut_off.__enter__()

    def return_(self) -> None:
        self.cut_off.__exit__(None, None, None)

    async def __aenter__(self) -> Worker:
        await self.service.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.service.stop(timeout=0.0)
        await self.wire.aclose()


class Staff(Manager):
    name = "M"


@asynccontextmanager
async def workers(
    *hosts: str, settle: float = 0.3, **options: Any
) -> AsyncIterator[tuple[list[Ran], list[Worker]]]:
    """Run a process for each of the hosts, each with one task of the cluster, once somebody holds it."""
    task = {name: options.pop(name) for name in tuple(options) if name not in ("ttl", "settings")}
    log: list[Ran] = []
    team = [Worker(host, log, **options).add(**task) for host in hosts]
    for worker in team:
        await worker.service.start()
    await asyncio.sleep(settle)
    try:
        yield log, team
    finally:
        for worker in team:
            await worker.__aexit__()


async def seconds_until(condition: Callable[[], object]) -> float:
    """Let time pass until a condition holds; return the seconds that it took."""
    began = asyncio.get_running_loop().time()
    for _ in range(10_000):
        if condition():
            break
        await asyncio.sleep(0.005)
    return asyncio.get_running_loop().time() - began


def holder_of(team: list[Worker]) -> Worker:
    """Find the one process that holds the task."""
    (found,) = [worker for worker in team if worker.holds]
    return found


def others_of(team: list[Worker]) -> list[Worker]:
    return [worker for worker in team if not worker.holds]


def numbers(log: list[Ran]) -> list[int]:
    """List the numbers of the slots that ran, counted from the first."""
    first = log[0].number
    assert first is not None
    return [ran.number - first for ran in log if ran.number is not None]
