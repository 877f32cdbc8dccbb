"""The control verbs as data: requests, answers, and what of a request is refused (11)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._service.control import PAGE, Control, Verb
from asyncmgr._tasks.actions import Actor
from tests.helpers import Recorded, log_processors, task

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
OPS = Actor("ops (uid 1000)", "socket")


class Volumes(Manager):
    lasts = 1.0
    error: Exception | None = None

    @periodic_task(spacing=10)
    async def sync(self, context: RunContext) -> None:
        context.progress(1, 4, "reading")
        await asyncio.sleep(self.lasts)
        if self.error:
            raise self.error

    @periodic_task(cron="0 3 * * *", tz="Europe/Berlin")
    async def nightly(self, context: RunContext) -> None: ...

    @periodic_task(spacing=10, enabled=False)
    async def legacy(self, context: RunContext) -> None: ...


class Snapshots(Manager):
    @periodic_task(spacing=60)
    async def sync(self, context: RunContext) -> None: ...


def service_of(*managers: Manager) -> Service:
    return Service(*managers, host="nyx", name="compute", settings=Settings(seed=1))


async def say(service: Service, verb: str, **arguments: Any) -> dict[str, Any]:
    return await service.control.answer({"verb": verb, **arguments}, OPS)


async def test_hello_says_who_answers() -> None:
    """Service, host, process, version, state and the number of tasks."""
    async with service_of(Volumes()) as service:
        answer = await say(service, "hello")
    assert (answer["ok"], answer["service"], answer["host"], answer["state"]) == (
        True,
        "compute",
        "nyx",
        "running",
    )
    assert answer["tasks"] == 3


async def test_the_status_of_all_tasks_also_of_those_that_are_off() -> None:
    """With moments in ISO 8601, and the run in progress."""
    volumes = Volumes()
    volumes.lasts = 5
    async with service_of(volumes) as service:
        await asyncio.sleep(12)
        answer = await say(service, "status")
    sync, nightly, legacy = answer["tasks"]
    assert (sync["task"], sync["state"], sync["next_due"]) == (
        "Volumes.sync",
        "running",
        "2026-01-01T00:00:20+00:00",
    )
    assert sync["running"]["since"] == "2026-01-01T00:00:10+00:00"
    assert sync["running"]["progress"] == {"done": 1, "total": 4, "message": "reading"}
    assert sync["running"]["where"].startswith("Volumes.sync at test_control.py:")
    assert (nightly["state"], nightly["schedule"], nightly["tz"]) == ("new", "0 3 * * *", "Europe/Berlin")
    assert (legacy["state"], legacy["off"], legacy["next_due"]) == ("disabled", "it is not enabled", None)


async def test_many_tasks_come_in_pages() -> None:
    """So that no answer keeps the loop for long."""

    async def noop(context: RunContext) -> None: ...

    recorded = Recorded(*(task(noop, spacing=1e6, name=f"t{number}") for number in range(PAGE + 5)))
    async with recorded.service as service:
        first = await say(service, "status")
        second = await say(service, "status", after=first["next"])
    assert (len(first["tasks"]), first["next"]) == (PAGE, PAGE)
    assert second["tasks"][0]["task"] == f"M.t{PAGE}"
    assert (len(second["tasks"]), second["next"]) == (5, None)


async def test_a_task_by_its_short_name() -> None:
    """Where it is of one task only, and without regard to case; else the answer lists what was meant."""
    async with service_of(Volumes(), Snapshots()) as service:
        assert (await say(service, "status", task="NIGHTLY"))["tasks"][0]["task"] == "Volumes.nightly"
        several = await say(service, "status", task="sync")
        none = await say(service, "status", task="Volumes.snyc")
    assert several["text"] == "'sync' is the name of several tasks: Volumes.sync, Snapshots.sync"
    assert "has no task 'Volumes.snyc' (did you mean 'Volumes.sync'?)" in none["text"]
    assert none["error"] == "InvalidRequest"


async def test_a_trigger_with_and_without_waiting() -> None:
    """The answer has the record of the run, or its id."""
    volumes = Volumes()
    async with service_of(volumes) as service:
        waited = await say(service, "trigger", task="Volumes.sync", wait=True)
        assert (waited["run"]["outcome"], waited["run"]["duration"], waited["run"]["trigger"]) == (
            "succeeded",
            1.0,
            "manual",
        )
        volumes.error = ValueError("no disk")
        failed = await say(service, "trigger", task="Volumes.sync", wait=True)
        assert failed["run"]["error"] == "ValueError: no disk"
        begun = await say(service, "trigger", task="Volumes.sync")
        assert begun["run_id"].endswith("-3")
        refused = await say(service, "trigger", task="Volumes.sync")
        assert (refused["ok"], refused["error"]) == (False, "AlreadyRunning")
        assert {(action.verb, action.by) for action in service.journal.actions()} == {("trigger", OPS.name)}


async def test_a_pause_without_a_length_lasts_an_hour() -> None:
    """With one as long; until a moment; or for ever, where that is said."""
    async with service_of(Volumes()) as service:
        lengths: list[dict[str, Any]] = [
            {},
            {"for": "2h"},
            {"until": "2026-01-01T05:00:00+01:00"},
            {"ever": True},
        ]
        untils = [
            (await say(service, "pause", task="Volumes.sync", note="moves", **length))["task"]["paused"][
                "until"
            ]
            for length in lengths
        ]
        assert untils == [
            "2026-01-01T01:00:00+00:00",
            "2026-01-01T02:00:00+00:00",
            "2026-01-01T04:00:00+00:00",
            None,
        ]
        resumed = await say(service, "resume", task="Volumes.sync")
        again = await say(service, "resume", task="Volumes.sync")
    assert (resumed["changed"], resumed["task"]["next_due"]) == (True, "2026-01-01T00:00:10+00:00")
    assert again["changed"] is False


async def test_the_other_verbs() -> None:
    """reschedule, enable, disable, cancel: each answers how the task stands afterwards."""
    volumes = Volumes()
    volumes.lasts = 100
    async with service_of(volumes) as service:
        other = await say(service, "reschedule", task="Volumes.sync", spacing="20s")
        assert (other["task"]["schedule"], other["task"]["next_due"]) == (
            "every 20s",
            "2026-01-01T00:00:20+00:00",
        )
        await asyncio.sleep(21)
        off = await say(service, "disable", task="Volumes.sync", note="too dear")
        assert "ops (uid 1000) switched it off" in off["task"]["off"]
        on = await say(service, "enable", task="Volumes.sync")
        assert (on["changed"], on["task"]["off"]) == (True, None)
        cancelled = await say(service, "cancel", task="Volumes.sync")
        assert cancelled["run_ids"] == [cancelled["task"]["running"]["run_id"]]
        await asyncio.sleep(1)
        assert (await say(service, "cancel", task="Volumes.sync"))["run_ids"] == []


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ([], "a request is a JSON object with the key 'verb'"),
        ({}, "a request is a JSON object with the key 'verb'"),
        ({"verb": 3}, "a request is a JSON object with the key 'verb'"),
        ({"verb": "puase"}, "no verb 'puase' (did you mean 'pause'?); there are hello, health, status"),
        ({"verb": "pause"}, "no task; write task='Manager.task'"),
        ({"verb": "pause", "task": ""}, "task='' is not accepted; write a text of 1 to 500"),
        ({"verb": "pause", "task": "x" * 501}, "is not accepted; write a text of 1 to 500"),
        ({"verb": "pause", "task": "Volumes.sync", "fro": 3}, "unknown argument 'fro' (did you mean 'for'?)"),
        ({"verb": "pause", "task": "Volumes.sync", "for": "x"}, "for: 'x' is not a duration"),
        ({"verb": "pause", "task": "Volumes.sync", "for": -3}, "for_=-3.0 is not accepted"),
        ({"verb": "pause", "task": "Volumes.sync", "for": 3, "ever": True}, "exclude each other"),
        ({"verb": "pause", "task": "Volumes.sync", "until": "04:17"}, "write a moment with its offset"),
        ({"verb": "pause", "task": "Volumes.sync", "until": 4}, "write a moment with its offset"),
        ({"verb": "pause", "task": "Volumes.sync", "ever": 1}, "ever=1 is not accepted; write true or false"),
        ({"verb": "status", "after": -1}, "after=-1 is not accepted; write a whole number"),
        ({"verb": "reschedule", "task": "Volumes.sync"}, "takes either spacing= or cron="),
        ({"verb": "reschedule", "task": "Volumes.sync", "cron": "nonsense"}, "cron"),
    ],
)
async def test_a_request_that_cannot_be_meant(request_: Any, text: str) -> None:
    """It is refused with what is accepted, and changes nothing."""
    async with service_of(Volumes()) as service:
        answer = await service.control.answer(request_, OPS)
        assert answer["ok"] is False
        assert text in answer["text"]
        assert service.task("Volumes.sync").status.paused is None


async def test_a_verb_of_another_room() -> None:
    """Other parts add verbs; a fault of one is logged, and told."""

    async def broken(control: Control, given: Any) -> dict[str, Any]:
        raise RuntimeError("oh")

    lines: list[str] = []

    def note(logger: Any, name: str, event: Any) -> Any:
        lines.append(event["event"])
        raise structlog.DropEvent

    async with service_of(Volumes()) as service:
        service.control.add("broken", Verb(broken, ()))
        with log_processors(note):
            answer = await say(service, "broken")
    assert answer["text"] == "a fault of asyncmgr's own: RuntimeError: oh"
    assert lines == ["control.failed"]


async def test_there_is_no_socket_in_virtual_time() -> None:
    """It would hold time up, since a real program could say something at any moment."""
    async with Service(Volumes(), host="nyx", settings=Settings(control=True)) as service:
        await asyncio.sleep(86400)
        assert service._control_socket is not None
        assert service._control_socket.path is None


async def test_verbs_while_the_service_drains() -> None:
    """It still answers how its tasks stand, and starts nothing."""
    volumes = Volumes()
    volumes.lasts = 100
    async with service_of(volumes) as service:
        await asyncio.sleep(11)
        stopping = asyncio.create_task(service.stop(timeout=5))
        await asyncio.sleep(1)
        answer = await say(service, "status", task="Volumes.sync")
        assert (answer["state"], answer["tasks"][0]["state"]) == ("stopping", "running")
        refused = await say(service, "trigger", task="Volumes.nightly")
        assert "the service is stopping" in refused["text"]
        await stopping
    assert datetime.now(UTC).second > 10
