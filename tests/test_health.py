"""The report on a service's health, and the verdicts of probes (15)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._service.health import (
    MISSED_TIMER,
    Blockage,
    Connection,
    Facts,
    Health,
    Leases,
    Need,
    Promise,
    State,
    Survey,
    as_json,
    judge,
    live,
    missed_timer,
    ready,
)
from asyncmgr._tasks.status import TaskState

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
UP = Connection(True)
DOWN = Connection(False, "it cannot be reached")
WELL = Health(True, State.RUNNING, "the scheduler keeps its time")


def facts(**changes: Any) -> Facts:
    made: dict[str, Any] = {
        "basic": WELL,
        "keeps_time": True,
        "promises": (),
        "transport": UP,
        "store": UP,
        "leases": Leases(),
        "tick_age": 1.0,
        "needed": frozenset(),
    }
    return Facts(**{**made, **changes})


def promise(**changes: Any) -> Promise:
    made: dict[str, Any] = {"task": "C.load", "freshness": 60.0, "run_age": None, "success_age": 30.0}
    return Promise(**{**made, **changes})


NEW = Health(False, State.NEW, "the service is new")
STOPPING = Health(False, State.STOPPING, "the service is stopping")


@pytest.mark.parametrize(
    ("given", "is_live", "is_ready"),
    [
        (facts(), True, True),
        (facts(basic=NEW), True, False),
        (facts(basic=STOPPING), True, False),
        (facts(basic=Health(False, State.RUNNING, MISSED_TIMER), keeps_time=False), False, True),
        (facts(transport=DOWN, store=DOWN), True, True),
        (facts(transport=DOWN, needed=frozenset({"transport"})), True, False),
        (facts(store=DOWN, needed=frozenset({"transport"})), True, True),
        (facts(promises=[promise()]), True, True),
        (facts(promises=[promise(success_age=61.0)]), True, False),
        (facts(promises=[promise(success_age=61.0, is_off=True)]), True, True),
        (facts(promises=[promise(success_age=1e6, freshness=None)]), True, True),
        (facts(promises=[promise(run_age=119.0)]), True, True),
        (facts(promises=[promise(run_age=121.0)]), False, True),
        (facts(promises=[promise(run_age=121.0, freshness=None)]), True, True),
    ],
)
def test_probes(given: Facts, is_live: bool, is_ready: bool) -> None:
    """A table of facts; no dead upstream ends a process, and none takes it out of service unless a setting says so."""
    assert (live(given).ok, ready(given).ok) == (is_live, is_ready)
    assert (bool(live(given)), bool(ready(given))) == (is_live, is_ready)


@pytest.mark.parametrize(
    ("given", "needs", "reason"),
    [
        (facts(), [], "all is well"),
        (facts(basic=NEW), [], "the service is new"),
        (facts(transport=DOWN), [], "the transport: it cannot be reached"),
        (
            facts(leases=Leases(("a",), trusted=False)),
            [],
            "no lease is trusted: the store has not answered for too long",
        ),
        (
            facts(),
            [
                Need("A.a", TaskState.FAILING, "A.a failed: ValueError"),
                Need("B.b", TaskState.HUNG, "B.b hangs, 47 min"),
            ],
            "B.b hangs, 47 min, and 1 more task needs somebody",
        ),
    ],
)
def test_reasons(given: Facts, needs: list[Need], reason: str) -> None:
    """One sentence: the worst of it."""
    survey = Survey(needs=needs)
    survey.states.update(need.state for need in needs)
    report = judge(given, survey)
    assert report.reason == reason
    assert report.ok == (reason == "all is well")


@pytest.mark.parametrize(
    ("block", "text"),
    [
        (
            Blockage("V.sync", "sync at volumes.py:12", "waiting", 12.0, None),
            "the event loop was blocked for 12 s by V.sync (waiting, in sync at volumes.py:12)",
        ),
        (
            Blockage(None, "", "garbage collection", 1.5, 3.0),
            "the event loop was blocked for 1.5 s (garbage collection)",
        ),
        (Blockage(None, "", "stopped", 90.0, 3.0), "the process got no CPU for 90 s"),
        (None, "the event loop was blocked"),
    ],
)
def test_who_blocks_the_loop(block: Blockage | None, text: str) -> None:
    """A probe that fails names who it was, what for and where; the report and its JSON do too."""
    assert live(facts(keeps_time=False, blocked=block)).reason == missed_timer(block) == MISSED_TIMER + text
    told = as_json(judge(facts(blocked=block), Survey()))["blocked"]
    assert (None if told is None else told["text"]) == (None if block is None else text)


class Work(Manager):
    lasts = 0.0
    error: Exception | None = None

    @periodic_task(spacing=10)
    async def sync(self, context: RunContext) -> None:
        await asyncio.sleep(self.lasts)
        if self.error is not None:
            raise self.error


def service_of(*managers: Manager, **settings: Any) -> Service:
    return Service(*managers, host="nyx", name="compute", settings=Settings(seed=1, **settings))


async def test_a_service_that_is_well() -> None:
    """Both the property and the report say so, each in its own words."""
    async with service_of(Work()) as service:
        await asyncio.sleep(15)
        report = service.health()
    assert (report.ok, report.state, report.reason) == (True, State.RUNNING, "all is well")
    assert (report.live.ok, report.ready.ok, report.transport.ok, report.store.ok) == (True, True, True, True)
    assert report.tick_age == pytest.approx(5)
    assert report.states[TaskState.OK] == 1


async def test_a_failing_task_makes_the_report_bad_and_neither_the_probes_nor_the_property() -> None:
    """A restart does not help, and other replicas would fail likewise."""
    work = Work()
    work.error = ValueError("no disk")
    async with service_of(work) as service:
        await asyncio.sleep(25)
        report, basic = service.health(), service.health
    assert (report.ok, report.live.ok, report.ready.ok, basic.ok) == (False, True, True, True)
    assert report.reason == "Work.sync has failed 2 times in a row: ValueError: no disk"


async def test_a_hanging_task_is_named_with_its_place() -> None:
    """And for how long it hangs."""
    work = Work()
    work.lasts = 1e6
    async with service_of(work) as service:
        await asyncio.sleep(10 + 47 * 60)
        report = service.health()
        assert report.reason.startswith("Work.sync hangs, 47 min, in Work.sync at test_health.py:")
        assert report.live.ok
        await service.stop(timeout=0)


async def test_the_state_before_and_after() -> None:
    """A service that has not started is neither ready nor well; it lives."""
    service = service_of(Work())
    reports = [service.health()]
    async with service:
        reports.append(service.health())
    reports.append(service.health())
    assert [(report.ok, report.live.ok, report.ready.ok) for report in reports] == [
        (False, True, False),
        (True, True, True),
        (False, True, False),
    ]
    assert reports[2].reason == "the service is stopped"


async def test_a_critical_task_decides_readiness() -> None:
    """It is ready while a success is as young as the task promises; before the first one since the start."""

    class Critical(Manager):
        error: Exception | None = None

        @periodic_task(spacing=10, freshness=30, critical=True)
        async def sync(self, context: RunContext) -> None:
            if self.error is not None:
                raise self.error

    work = Critical()
    service = service_of(work)
    async with service:
        await asyncio.sleep(25)
        assert service.health().ready.ok
        work.error = ValueError("no disk")
        await asyncio.sleep(30)
        report = service.health()
        assert report.ready.reason == (
            "the critical task Critical.sync has had no success for 35 s; it promises one every 30 s"
        )
        assert report.live.ok


async def test_leases_are_told() -> None:
    """By their names."""
    async with service_of(Work()) as service, service.lease("report"):
        assert service.health().leases == Leases(("report",))


async def test_the_report_as_json() -> None:
    """As `/health` and `asyncmgr health --json` show it."""
    work = Work()
    work.error = ValueError("no disk")
    async with service_of(work) as service:
        await asyncio.sleep(15)
        told = as_json(service.health())
        answer = await service.control.answer({"verb": "health"}, _ops())
    assert told["ok"] is False
    assert told["tasks"] == [
        {"task": "Work.sync", "state": "failing", "text": "Work.sync failed: ValueError: no disk"}
    ]
    assert (told["live"]["ok"], told["ready"]["ok"]) == (True, True)
    assert answer["health"] == told


async def test_very_many_failing_tasks_are_counted_and_some_described() -> None:
    """So that a report stays small."""
    manager = Manager()

    async def fail(context: RunContext) -> None:
        raise ValueError

    for number in range(100):
        manager.add_periodic_task(fail, spacing=10, name=f"t{number}")
    async with service_of(manager) as service:
        await asyncio.sleep(11)
        report = service.health()
    assert len(report.tasks) == 20
    assert report.reason == "Manager.t0 failed: ValueError, and 99 more tasks need somebody"


def _ops() -> Any:
    from asyncmgr._tasks.actions import Actor

    return Actor("ops", "socket")
