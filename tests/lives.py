"""What the tests of a service's life share: managers and a transport that note every step, and what must be left."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import structlog

import asyncmgr._service.service
import asyncmgr.transports
from asyncmgr import Manager, RunContext, Service, Settings, open_transport
from asyncmgr._service.service import State
from asyncmgr.capabilities._announcement import STORE, STORE_TTL
from asyncmgr.capabilities._announcer import Announcer
from asyncmgr.events import Event
from asyncmgr.transports import Transport

Hook = Callable[[], Awaitable[object]]


class Noting(Manager):
    """Notes which hooks were called and which came to their end; they do what a test says."""

    def __init__(self, world: World, name: str, does: dict[str, Hook]) -> None:
        super().__init__()
        self.name = name
        self._world = world
        self._does = does
        self.ended: list[str] = []

    async def init_host(self) -> None:
        await self._note("init_host")

    async def pre_start_hook(self) -> None:
        await self._note("pre_start_hook")

    async def post_start_hook(self) -> None:
        await self._note("post_start_hook")

    async def cleanup_host(self) -> None:
        await self._note("cleanup_host")

    async def reload(self) -> None:
        await self._note("reload")

    async def _note(self, hook: str) -> None:
        self._world.note(f"{self.name}.{hook}")
        if hook in self._does:
            await self._does[hook]()
        self.ended.append(hook)


class World:
    """Everything around a service: its steps in `notes`, with their times in `at`, its events, its transport."""

    def __init__(self, keeper: Transport) -> None:
        self.notes: list[str] = []
        self.at: list[tuple[float, str]] = []
        self.events: list[Event] = []
        self.does: dict[str, Hook] = {}
        """What "connect", "close", "announce" and "withdraw" do besides."""
        self.managers: list[Noting] = []
        self.connections = 0
        self._keeper = keeper
        self.tasks_before = asyncio.all_tasks()

    def clear(self) -> None:
        """Forget the life before, for the next one."""
        for notes in (self.notes, self.at, self.events, self.managers, self.does):
            notes.clear()

    def note(self, step: str) -> None:
        self.notes.append(step)
        self.at.append((now(), step))

    async def do(self, step: str) -> None:
        self.note(step)
        if step in self.does:
            await self.does[step]()

    def manager(self, name: str = "a", /, **does: Hook) -> Noting:
        """A manager whose hooks are noted as ``NAME.HOOK``, and do this."""
        manager = Noting(self, name, does)
        self.managers.append(manager)
        return manager

    def service(self, *managers: Manager, **settings: Any) -> Service:
        """A service of these managers, or of all that were made here."""
        service = Service(
            *(managers or self.managers),
            name="s",
            host="h",
            transport="noted://",
            settings=Settings(seed=1, **settings),
        )
        service.add_listener(self.events.append)
        return service

    def when(self, step: str) -> float:
        (at,) = (at for at, noted in self.at if noted == step)
        return at

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def tasks_left(self) -> list[str]:
        """Names of the tasks in the loop that were not there before, but for the one that asks."""
        return [
            task.get_name() for task in asyncio.all_tasks() - self.tasks_before - {asyncio.current_task()}
        ]

    async def announced(self) -> list[str]:
        """The hosts that stand in the store."""
        return list(await (await self._keeper.store(STORE, ttl=STORE_TTL)).keys())

    async def assert_undone(self, service: Service, *, left: int = 0, withdrawn: bool = True) -> None:
        """Nothing of the service is left, but for so many tasks: exactly what was begun was undone, in reverse."""
        initialised = [manager.name for manager in self.managers if "init_host" in manager.ended]
        cleaned = [note.partition(".")[0] for note in self.notes if note.endswith(".cleanup_host")]
        assert cleaned == initialised[::-1], self.notes
        assert self.connections == 0
        assert not withdrawn or await self.announced() == []
        assert service.state is State.STOPPED or self.notes == []
        assert len(self.tasks_left()) == left, self.tasks_left()
        for manager in self.managers:
            assert manager.service is None
            manager._asyncmgr.claim("a test")
            manager._asyncmgr.release()


def now() -> float:
    return asyncio.get_running_loop().time()


async def turns(count: int = 3) -> None:
    """Let the loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def hang() -> None:
    await asyncio.Event().wait()


def naps(seconds: float) -> Hook:
    async def nap() -> None:
        await asyncio.sleep(seconds)

    return nap


def raises(error: BaseException) -> Hook:
    async def fail() -> None:
        raise error

    return fail


def naps_in_run(seconds: float) -> Callable[[RunContext], Any]:
    async def run(context: RunContext) -> None:
        await asyncio.sleep(seconds)

    return run


async def nothing(context: RunContext) -> None: ...


class Stubborn:
    """Goes on however often it is cancelled, until it is let go; or for some seconds."""

    def __init__(self, seconds: float | None = None) -> None:
        self.cancelled_at: list[float] = []
        self._go = asyncio.Event()
        self._seconds = seconds

    async def __call__(self, context: object = None) -> None:
        until = None if self._seconds is None else now() + self._seconds
        while not self._go.is_set():
            try:
                async with asyncio.timeout_at(until):
                    await self._go.wait()
            except asyncio.CancelledError:
                self.cancelled_at.append(now())
            except TimeoutError:
                return

    async def let_go(self) -> None:
        self._go.set()
        await turns()


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


def logged(logs: list[Any], event: str) -> list[Any]:
    return [entry for entry in logs if entry["event"] == event]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """A world that checks at its end that no task is left in the loop."""
    async with open_transport("memory://world") as keeper:
        made = World(keeper)

        @contextlib.asynccontextmanager
        async def noted(url: str, settings: Any) -> AsyncIterator[Transport]:
            await made.do("connect")
            async with open_transport("memory://world") as transport:
                made.connections += 1
                try:
                    yield transport
                finally:
                    made.connections -= 1
                    await made.do("close")

        class NotedAnnouncer(Announcer):
            async def start(self) -> None:
                await made.do("announce")
                await super().start()

            async def stop(self) -> None:
                await made.do("withdraw")
                await super().stop()

        monkeypatch.setitem(asyncmgr.transports._openers, "noted", noted)
        monkeypatch.setattr(asyncmgr._service.service, "Announcer", NotedAnnouncer)
        yield made
        assert made.tasks_left() == []


STEPS = [
    "a.init_host",
    "b.init_host",
    "connect",
    "a.pre_start_hook",
    "b.pre_start_hook",
    "a.post_start_hook",
    "b.post_start_hook",
    "announce",
]
UNDONE_AFTER = {
    "a.init_host": [],
    "b.init_host": ["a.cleanup_host"],
    "connect": ["b.cleanup_host", "a.cleanup_host"],
    "a.pre_start_hook": ["b.cleanup_host", "a.cleanup_host", "close"],
    "b.pre_start_hook": ["b.cleanup_host", "a.cleanup_host", "close"],
    "a.post_start_hook": ["b.cleanup_host", "a.cleanup_host", "close"],
    "b.post_start_hook": ["b.cleanup_host", "a.cleanup_host", "close"],
    "announce": ["withdraw", "b.cleanup_host", "a.cleanup_host", "close"],
}
EACH_STEP = pytest.mark.parametrize("step", STEPS)


def two_managers(world: World, step: str, hook: Callable[[], Any], **settings: Any) -> Service:
    """A service of the managers a and b, one step of whose start does this."""
    name, _, part = step.partition(".")
    for each in ("a", "b"):
        world.manager(each, **({part: hook} if name == each else {}))
    world.does[step] = hook
    return world.service(**settings)
