"""What is shown of tasks, as tables of cases: no clock and no process."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
import time_machine

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._cli.task_views import TaskView, paragraphs, relative, rows, view_tasks
from asyncmgr._cli.tasks import tasks_of_manager
from asyncmgr._common.clock import Moment, to_us
from asyncmgr.testing import VirtualTime

NOON = datetime(2026, 3, 27, 12, tzinfo=UTC)
MOMENT = Moment(now=to_us(5), wall=to_us(NOON.timestamp()))


def view(**options: Any) -> TaskView:
    """View a task with these options, at noon."""

    class Volumes(Manager):
        @periodic_task(**options)
        async def sync(self, context: Any) -> None: ...

    (task,) = tasks_of_manager(Volumes(settings=Settings()))
    return TaskView(task, MOMENT)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "every pass (1m)"),
        ({"spacing": 90}, "every 1m30s"),
        ({"spacing": 0.25, "jitter": 0.1}, "every 0.25s, jitter 0.1s"),
        ({"cron": "30 2 * * *"}, "30 2 * * * UTC"),
        ({"cron": "@daily", "tz": "Europe/Berlin"}, "@daily Europe/Berlin"),
    ],
)
def test_a_schedule_is_shown_in_words(options: dict[str, Any], words: str) -> None:
    """Spacings are written as durations, cron expressions as they are, with their zone."""
    assert view(**options).schedule == words


@pytest.mark.parametrize(
    ("options", "offsets"),
    [
        ({}, [0, 60, 120]),
        ({"spacing": 30}, [30, 60, 90]),
        ({"spacing": 30, "run_immediately": True}, [0, 30, 60]),
        ({"spacing": 30, "initial_delay": 7}, [7, 37, 67]),
        ({"cron": "0 * * * *"}, [3600, 7200, 10800]),
        ({"cron": "0 * * * *", "run_immediately": True}, [0, 3600, 7200]),
    ],
)
def test_slots_are_those_of_a_service_that_starts_now(options: dict[str, Any], offsets: list[int]) -> None:
    """The first slot and those after it are where a service would put them."""
    slots = list(islice(view(**options).slots(), 3))
    assert slots == [NOON + timedelta(seconds=offset) for offset in offsets]


def test_one_off_slots_end() -> None:
    """After the last there is nothing to show, and that is said."""
    week = [NOON + timedelta(days=day) for day in (-1, 1, 2)]
    assert [slot - NOON for slot in view(at=week).slots()] == [timedelta(days=1), timedelta(days=2)]
    over = view(at=NOON)
    assert (over.first_slot, over.as_json()["first_slot"], over.as_json()["in"]) == (None, None, None)
    assert list(rows([over])) == [
        ("Volumes.sync", "once at 2026-03-27 12:00:00 UTC", "over: no slot is left", "")
    ]
    assert "  over: no slot is left" in paragraphs([over])[0]


def test_a_cron_of_the_local_zone_is_shown_in_local_time() -> None:
    """`None` is local time, for tables; a named zone is that zone."""
    assert view(cron="@daily", tz="local").zone is None
    assert str(view(cron="@daily", tz="Europe/Berlin").zone) == "Europe/Berlin"
    assert view(cron="@daily", tz="local").first_slot is not None


def test_looking_moves_no_slot() -> None:
    """The task that is looked at keeps its own plan."""

    class Volumes(Manager):
        @periodic_task(spacing=30)
        async def sync(self, context: Any) -> None: ...

    with time_machine.travel(NOON, tick=False):
        volumes = Volumes(settings=Settings())
        before = volumes.task_status()
        (task,) = tasks_of_manager(volumes)
        list(islice(TaskView(task, MOMENT).slots(), 5))
        assert volumes.task_status() == before


async def test_the_first_slot_of_a_spread_task_is_the_real_one(virtual_time: VirtualTime) -> None:
    """`phase="auto"` puts the first slot at a share of the spacing: what is shown is where it runs (21)."""
    runs: list[datetime] = []

    class Volumes(Manager):
        @periodic_task(spacing=100, phase="auto", tolerance=0)
        async def sync(self, context: RunContext) -> None:
            runs.append(context.slot)

    service = Service(Volumes(), host="here")
    (shown,) = view_tasks(service, Moment(0, to_us(virtual_time.now().timestamp())))
    first, second = islice(shown.slots(), 2)
    await virtual_time.run_for(service, seconds=200)
    assert runs == [first, second]
    assert first < virtual_time.start + timedelta(seconds=100)


def test_slots_end_with_the_calendar() -> None:
    """A spacing of 100 years has slots until the year 9999, and then no more."""
    slots = list(view(spacing=timedelta(days=36525)).slots())
    assert slots[-1].year > 9900


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-0.5, "now"),
        (0, "now"),
        (0.25, "0.25s"),
        (7.123, "7.1s"),
        (30.0, "30s"),
        (59.6, "1m"),
        (61, "1m1s"),
        (3599, "59m59s"),
        (3661, "1h1m"),
        (90061, "1d1h"),
        (400 * 86400, "400d"),
    ],
)
def test_a_distance_has_at_most_two_units(seconds: float, words: str) -> None:
    """How far away a slot is can be read at a glance."""
    assert relative(seconds) == words


def test_a_task_for_another_process_says_so() -> None:
    """A task that is left to another process is off, with the reason."""

    class Volumes(Manager):
        @periodic_task(external_process_ok=True)
        async def sync(self, context: Any) -> None: ...

    (task,) = tasks_of_manager(Volumes(settings=Settings(run_external_periodic_tasks=False)))
    assert TaskView(task, MOMENT).off == "left to another process"
