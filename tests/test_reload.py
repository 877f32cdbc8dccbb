"""Settings of a service: what is wrong with them, and what changes while it runs. In virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from asyncmgr import (
    InvalidSettings,
    Manager,
    ManagerInUse,
    Outcome,
    RunContext,
    Service,
    ServiceStateError,
    periodic_task,
)
from asyncmgr._service.service import State
from asyncmgr.events import RunFinished
from tests.helpers import Bare
from tests.lives import (
    World,
    hang,
    logged,
    logs,
    naps,
    nothing,
    now,
    raises,
    world,
)

__all__ = ["logs", "world"]

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")


# Settings


async def test_an_unknown_task_override_stops_the_start(world: World) -> None:
    """It raises when the start hooks are done, since they may add tasks; it names the key and what there is."""
    world.manager().add_periodic_task(nothing, name="sync")
    service = world.service(tasks={"a.synk": {"spacing": 5}})
    with pytest.raises(InvalidSettings, match=r"no task 'a\.synk' \(did you mean 'a\.sync'\?\)"):
        await service.start()
    assert "a.cleanup_host" in world.notes
    assert "started" not in world.notes
    await world.assert_undone(service)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no_such_key = 1", "no_such_key"),
        ("drain_timeout = 'soon'", "drain_timeout"),
        ("drain_timeout = ", "TOML"),
    ],
)
def test_wrong_settings_are_said_when_the_service_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, said: str
) -> None:
    """An unknown key, a wrong value and an unreadable file raise at once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asyncmgr.toml").write_text(text)
    with pytest.raises(InvalidSettings, match=said):
        Service(Bare())


class Volumes(Manager):
    """Has tasks that settings change."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: dict[str, list[float]] = {}
        self.reloads: list[float] = []

    @periodic_task(spacing=10)
    async def sync(self, context: RunContext) -> None:
        self.ran.setdefault("sync", []).append(now())

    @periodic_task(spacing=10)
    async def sweep(self, context: RunContext) -> None:
        self.ran.setdefault("sweep", []).append(now())

    @periodic_task(spacing=1000, run_immediately=True)
    async def slow(self, context: RunContext) -> None:
        self.ran.setdefault("slow", []).append(now())
        await asyncio.sleep(50)

    async def reload(self) -> None:
        self.reloads.append(now())


class File:
    """The settings file of a test."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "asyncmgr.toml"

    def write(self, **tasks: str) -> None:
        tables = (f'[tasks."Volumes.{name}"]\n{text}\n' for name, text in tasks.items())
        self.write_text("".join(tables))

    def write_text(self, text: str) -> None:
        self._path.write_text(text)


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> File:
    monkeypatch.chdir(tmp_path)
    return File(tmp_path)


class Adds(Manager):
    """Its start hook adds a task."""

    hook = "init_host"

    def __init__(self) -> None:
        super().__init__()
        self.at: list[float] = []

    async def _add(self) -> None:
        async def sync(context: RunContext) -> None:
            self.at.append(now())

        self.add_periodic_task(sync, spacing=5)

    async def init_host(self) -> None:
        if self.hook == "init_host":
            await self._add()

    async def post_start_hook(self) -> None:
        if self.hook == "post_start_hook":
            await self._add()


@pytest.mark.parametrize("hook", ["init_host", "post_start_hook"])
async def test_settings_for_tasks_that_a_hook_adds(hook: str, file: File) -> None:
    """They wait until the start hooks are done (10)."""
    file.write_text('[tasks."Adds.sync"]\nspacing = 20\n')
    manager = Adds()
    manager.hook = hook

    async with Service(manager):
        await asyncio.sleep(45)
    assert manager.at == [20, 40]


async def test_a_typo_is_found_at_the_end_of_the_start(file: File) -> None:
    """Also where a hook adds the task that was meant (10)."""
    file.write_text('[tasks."Adds.snyc"]\nspacing = 20\n')
    with pytest.raises(InvalidSettings, match=r"did you mean 'Adds\.sync'"):
        await Service(Adds()).start()


async def test_a_reload_leaves_a_live_reschedule_alone(file: File) -> None:
    """Only what the files say otherwise than before is changed (9)."""
    file.write_text('[tasks."Volumes.sync"]\nspacing = 5\n')
    volumes = Volumes()
    async with Service(volumes) as service:
        service.task("Volumes.sync").reschedule(spacing=7)
        file.write_text('[tasks."Volumes.sync"]\nspacing = 5\ntimeout = 3\n')
        await service.reload()
        assert service.task("Volumes.sync").status.spacing == 7
        file.write_text('[tasks."Volumes.sync"]\nspacing = 11\ntimeout = 3\n')
        await service.reload()
        assert service.task("Volumes.sync").status.spacing == 11


async def test_reload_puts_new_settings_in_force(file: File) -> None:
    """A new spacing counts from the last slot; untouched tasks keep their grid; the hook is called; and back."""
    volumes = Volumes()
    async with Service(volumes) as service:
        await asyncio.sleep(12)
        file.write(sync="spacing = 4")
        await service.reload()
        await asyncio.sleep(10)
        file.write(sync="enabled = false")
        await service.reload()
        await asyncio.sleep(10)
        file.write()
        await service.reload()
        await asyncio.sleep(15)
    assert volumes.ran["sync"] == [10, 14, 18, 22, 32, 42]
    assert volumes.ran["sweep"] == [10, 20, 30, 40]
    assert volumes.reloads == [12, 22, 32]


async def test_reload_puts_timeout_and_log_level_in_force(file: File, logs: list[Any]) -> None:
    """Neither moves the grid of the task."""
    volumes = Volumes()
    events: list[Any] = []
    async with Service(volumes) as service:
        service.add_listener(events.append, RunFinished)
        await asyncio.sleep(55)
        file.write(slow="timeout = 3", sync="log_level = 'warning'")
        await service.reload()
        await asyncio.sleep(1000)
    assert volumes.ran["slow"] == [0, 1000]
    slow = [event for event in events if event.task == "Volumes.slow"]
    assert [(event.outcome, event.duration) for event in slow] == [
        (Outcome.SUCCEEDED, 50),
        (Outcome.TIMED_OUT, 3),
    ]
    assert volumes.ran["sync"] == [10.0 * n for n in range(1, 106)]
    lines = logged(logs, "task.succeeded")
    assert {(line["task"], line["log_level"]) for line in lines} == {("Volumes.sync", "warning")}
    assert len(lines) == 100


async def test_reload_puts_the_drain_timeout_in_force(file: File) -> None:
    """What concerns the service itself is read anew too."""
    async with Service(Volumes()) as service:
        file.write_text("drain_timeout = 7")
        await service.reload()
        assert (await service.stop()).cancelled == ("Volumes.slow",)
    assert now() == 7


@pytest.mark.parametrize(
    "text",
    [
        "no_such_key = 1",
        "drain_timeout = 'soon'",
        "not toml at all",
        '[tasks."Volumes.synk"]\nspacing = 3',
        '[tasks."Volumes.sync"]\nspacing = 3\n[tasks."Volumes.sweep"]\nspacing = "often"',
    ],
)
async def test_wrong_settings_are_logged_and_the_old_ones_stay(
    file: File, logs: list[Any], text: str
) -> None:
    """Nothing of a reload that cannot be meant takes effect, and no hook is called."""
    volumes = Volumes()
    async with Service(volumes) as service:
        before = service.settings
        file.write_text(text)
        await service.reload()
        assert service.settings is before
        await asyncio.sleep(25)
    assert volumes.ran["sync"] == volumes.ran["sweep"] == [10, 20]
    assert volumes.reloads == []
    assert len(logged(logs, "settings.rejected")) == 1


async def test_a_reload_hook_that_raises_stops_nothing(world: World, logs: list[Any]) -> None:
    """It is logged with the manager, and the others are called."""
    world.manager("a", reload=raises(OSError("no disk")))
    world.manager("b", reload=raises(asyncio.CancelledError()))
    world.manager("c")
    async with world.service() as service:
        await service.reload()
        assert world.notes[-3:] == ["a.reload", "b.reload", "c.reload"]
        assert service.health.ok
    assert [line["manager"] for line in logged(logs, "reload.failed")] == ["a", "b"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_a_reload_hook_that_wants_the_process_to_end(world: World, error: BaseException) -> None:
    """The service stops, and `wait` raises it."""
    world.manager("a", reload=raises(error))
    async with world.service() as service:
        service.request_reload()
        with pytest.raises(type(error)):
            await service.wait()
        await world.assert_undone(service)
        service._life.error = None  # type: ignore[union-attr]


async def test_reloads_come_one_after_another(file: File) -> None:
    """Requests during a reload are answered by one more, so that the last change is never missed."""
    hooks: list[float] = []

    class Slow(Volumes):
        name = "Volumes"

        async def reload(self) -> None:
            hooks.append(now())
            await asyncio.sleep(5)

    async with Service(volumes := Slow()) as service:
        service.request_reload()
        await asyncio.sleep(1)
        file.write(sync="spacing = 4")
        service.request_reload()
        await asyncio.gather(service.reload(), service.reload())
        assert hooks == [0, 5]
        await asyncio.sleep(20)
    assert volumes.ran["sync"] == [5, 9, 13, 17, 21, 25, 29]


async def test_a_cancelled_reload_goes_on_and_harms_nothing(world: World) -> None:
    """The caller stops waiting; the service is not hurried."""
    world.manager(reload=naps(5), cleanup_host=naps(10))
    async with world.service() as service:
        reloading = asyncio.create_task(service.reload())
        await asyncio.sleep(1)
        reloading.cancel()
        await asyncio.sleep(10)
        assert "reload" in world.managers[0].ended
        assert service.health.ok
    assert now() == 21


async def test_a_stop_ends_a_reload_first(world: World) -> None:
    """A hook of the reload is cancelled before any hook is undone, so that no two hooks run at once."""
    world.manager("a", reload=hang)
    world.manager("b")
    service = world.service()
    async with service:
        reloading = asyncio.create_task(service.reload())
        await asyncio.sleep(1)
    await reloading
    assert "b.reload" not in world.notes
    await world.assert_undone(service)


async def test_reload_needs_a_service_that_runs(world: World) -> None:
    """Before the start and after the end there is nothing to reload; a signal is ignored then."""
    world.manager()
    service = world.service()
    for _ in range(2):
        service.request_reload()
        with pytest.raises(ServiceStateError, match="has nothing to reload"):
            await service.reload()
        if service.state is State.NEW:
            async with service:
                pass
    assert "a.reload" not in world.notes


async def test_a_reload_during_the_start_calls_only_hooks_of_ready_managers(world: World) -> None:
    """The hook of a manager whose `init_host` is not over would find it half made."""
    world.manager("a")
    world.manager("b", init_host=naps(5))
    service = world.service()
    starting = asyncio.create_task(service.start())
    await asyncio.sleep(1)
    await service.reload()
    assert "a.reload" in world.notes
    assert "b.reload" not in world.notes
    await starting
    await service.stop()


async def test_a_reload_leaves_managers_of_another_service_alone(file: File) -> None:
    """A service that cannot start, because another one has its manager, hands that manager no settings."""
    volumes = Volumes()
    async with Service(volumes) as first:
        settings = volumes.settings
        second = Service(Bare(), volumes)
        starting = asyncio.create_task(second.start())
        await asyncio.sleep(0)
        file.write(sync="spacing = 4")
        second.request_reload()
        with pytest.raises(ManagerInUse):
            await starting
        assert volumes.settings is settings
        assert first.settings is settings
