"""Handles of keys, what a task with keys says of itself, and the one process of a machine that runs them."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict

import pytest

from asyncmgr import (
    AlreadyRunning,
    InvalidKeys,
    KeyCounts,
    NotOwner,
    Outcome,
    Service,
    ServiceStateError,
    Settings,
    TaskFailed,
    UnknownKey,
)
from asyncmgr._cli.status_text import keys_in_words
from asyncmgr._service.manager import state_of
from asyncmgr._tasks.status import TaskState
from asyncmgr.events import Event
from tests.test_each import START, Poller, fates, service_of

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")


async def test_a_task_fails_where_a_tenth_of_its_keys_does() -> None:
    """Fewer are said in numbers, with what one of them failed with; when they are well, nothing of it is left."""
    poller = Poller([f"k{number}" for number in range(30)])
    poller.broken.update(["k3", "k4"])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(65)
        status = service.task("Poller.poll").status
        assert (status.state, status.failures) == ("ok", 0)
        assert status.error in ("key k3: OSError: k3 is broken", "key k4: OSError: k4 is broken")
        assert status.keys is not None
        assert list(keys_in_words(asdict(status.keys), status.error))[1:] == [
            f"2 of 30 keys fail: {status.error}"
        ]
        assert service.health().ok
        poller.broken.add("k5")
        await asyncio.sleep(65)
        assert service.task("Poller.poll").status.state == "failing"
        report = service.health()
        assert (report.ok, report.states[TaskState.FAILING]) == (False, 1)
        assert report.reason.startswith("Poller.poll fails for 3 of 30 keys: key k")
        poller.broken.clear()
        await asyncio.sleep(65)
        status = service.task("Poller.poll").status
        assert (status.state, status.error, service.health().ok) == ("ok", None, True)


async def test_the_status_of_a_key() -> None:
    """It tells of this key only, also when the key is idle."""
    poller = Poller(["a", "b", 7])
    poller.broken.add("a")
    poller.lasts["b"] = 3.0
    service, _ = service_of(poller)
    async with service:
        handle = service.task("Poller.poll")
        await asyncio.sleep(0.01)
        assert handle.key("a").status.state == "new"
        assert handle.key("7").key == 7
        await asyncio.sleep(poller.phase("b") + 20)
        a, b = handle.key("a").status, handle.key("b").status
        assert (a.state, a.outcome, a.failures, a.error) == (
            "failing",
            Outcome.FAILED,
            len(poller.slots["a"]),
            "OSError: a is broken",
        )
        assert (b.state, b.outcome, b.duration) == ("running", Outcome.SUCCEEDED, 3.0)
        assert b.running_since is not None
        await asyncio.sleep(3.5)
        b = handle.key("b").status
        assert (b.state, b.outcome, b.duration, b.failures, b.running_since) == (
            "ok",
            Outcome.SUCCEEDED,
            3.0,
            0,
            None,
        )
        for key in ("a", "b", 7):
            due = handle.key(key).status.next_due
            assert due is not None
            before = len(poller.slots[key])
            await asyncio.sleep(10)
            assert len(poller.slots[key]) == before + 1
            assert poller.slots[key][-1] == round((due - START).total_seconds(), 6)


async def test_the_status_of_the_whole() -> None:
    poller = Poller([f"k{number}" for number in range(20)], concurrency=3, run_immediately=True, spacing=100)
    poller.lasts = {f"k{number}": 2.0 for number in range(20)}
    poller.broken |= {"k0", "k1"}
    service, _ = service_of(poller)
    async with service:
        handle = service.task("Poller.poll")
        await asyncio.sleep(1)
        status = handle.status
        assert status.keys == KeyCounts(20, 3, 17, 0)
        assert status.running_since is not None
        poller.lasts.clear()
        await asyncio.sleep(60)
        status = handle.status
        assert status.keys == KeyCounts(20, 0, 0, 2)
        assert status.runs >= 20
        assert status.next_due is not None


async def test_a_key_is_triggered_alone() -> None:
    """Its slots stay; a key that is idle afterwards costs nothing again."""
    poller = Poller(["a", "b"])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(0.01)
        finished = await service.task("Poller.poll").key("a").trigger()
        assert (finished.key, finished.trigger, finished.outcome) == ("a", "manual", Outcome.SUCCEEDED)
        assert poller.task.active == {}
        assert await service.task("Poller.poll").key("a").trigger(wait=False)
        await asyncio.sleep(30)
    assert len(poller.slots["a"]) == 2 + len(poller.due("a", 0, 30))


async def test_what_a_trigger_refuses() -> None:
    poller = Poller(["a"])
    poller.lasts["a"] = 5.0
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(0.01)
        handle = service.task("Poller.poll")
        with pytest.raises(ServiceStateError, match=r"trigger one key"):
            await handle.trigger()
        with pytest.raises(UnknownKey, match=r"no key 'x' among its 1 here; refresh\(\)"):
            handle.key("x")
        await handle.key("a").trigger(wait=False)
        with pytest.raises(AlreadyRunning):
            await handle.key("a").trigger()
        key = handle.key("a")
        poller.devices = []
        assert await handle.refresh() == 0
        with pytest.raises(UnknownKey):
            await key.trigger()
        with pytest.raises(UnknownKey):
            _ = key.status


async def test_a_key_that_goes_refuses_its_waiting_trigger() -> None:
    poller = Poller(["a"], overlap="queue")
    poller.lasts["a"] = 5.0
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(0.01)
        key = service.task("Poller.poll").key("a")
        await key.trigger(wait=False)
        waiting = asyncio.ensure_future(key.trigger())
        await asyncio.sleep(0)
        poller.devices = []
        await service.task("Poller.poll").refresh()
        with pytest.raises(TaskFailed, match="removed"):
            await waiting


async def test_a_run_of_a_key_can_be_cancelled() -> None:
    """It is no failure."""
    poller = Poller(["a", "b"], run_immediately=True, spacing=100)
    poller.lasts.update(a=50.0, b=5.0)
    service, events = service_of(poller)
    async with service:
        await asyncio.sleep(1)
        key = service.task("Poller.poll").key("a")
        assert len(key.cancel()) == 1
        await asyncio.sleep(10)
        assert (fates(events, "a"), fates(events, "b")) == (["cancelled"], ["succeeded"])
        assert key.cancel() == ()
        assert key.status.failures == 0


async def test_a_refresh_asks_now_and_returns_when_it_is_done() -> None:
    """Keys that came while a question was in progress are there too."""
    poller = Poller(["a"], spacing=1000)
    service, _ = service_of(poller)

    async def slow() -> list[str]:
        await asyncio.sleep(1)
        return ["a", "b"]

    async with service:
        await asyncio.sleep(5)
        handle = service.task("Poller.poll")
        poller.devices = slow
        first = asyncio.ensure_future(handle.refresh())
        await asyncio.sleep(0.5)
        poller.devices = ["a", "b", "c"]
        assert await handle.refresh() == 3
        assert await first in (2, 3)
        assert handle.key("c").status.state == "new"
        poller.devices = 3
        with pytest.raises(InvalidKeys):
            await handle.refresh()
        assert handle.status.keys == KeyCounts(3, 0, 0, 0)


async def test_only_tasks_with_keys_have_keys() -> None:
    poller = Poller(["a"])
    handle = poller.add_periodic_task(_plain, spacing=5)
    with pytest.raises(ServiceStateError, match="has no keys"):
        handle.key("a")
    with pytest.raises(ServiceStateError, match="no service runs it"):
        await state_of(poller).handles()[0].refresh()


async def _plain(context: object) -> None: ...


async def test_a_task_that_is_added_anew_waits_for_the_runs_of_before() -> None:
    """A key runs once at a time, also over the removal of its task."""
    poller = Poller(["a", "b"], run_immediately=True)
    poller.lasts.update(a=15.0)
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(1)
        service.task("Poller.poll").remove()
        poller.add_periodic_task(
            poller.poll, name="poll", spacing=10, each=lambda: ["a", "b"], run_immediately=True
        )
        await asyncio.sleep(1)
        assert Counter(context.key for context in poller.contexts) == {"a": 1, "b": 2}
        await asyncio.sleep(55)
        assert poller.most == 2  # a and b
        assert len(poller.slots["a"]) >= 3


async def test_one_process_of_a_machine_runs_all_keys() -> None:
    """The next one goes on with the next slot of any key when the first has gone: none is lost, none comes twice."""
    keys = [f"k{number}" for number in range(30)]
    pollers = [Poller(keys, scope="host"), Poller(keys, scope="host")]
    events: list[list[Event]] = []
    services = []
    for number, poller in enumerate(pollers):
        service = Service(poller, host=f"h{number}", name="s", settings=Settings(seed=1))
        events.append([])
        service.add_listener(events[-1].append)
        services.append(service)
    await services[0].start()
    await services[1].start()
    await asyncio.sleep(25)
    assert len(pollers[1].contexts) == 0
    with pytest.raises(NotOwner):
        await services[1].task("Poller.poll").key("k0").trigger()
    assert "not_owner" in fates(events[1], "k0")
    await services[0].stop()
    await asyncio.sleep(24.5)
    await services[1].stop()
    for key in keys:
        slots = [*pollers[0].slots[key], *pollers[1].slots[key]]
        assert slots == pollers[0].due(key, 0, 49.5)
