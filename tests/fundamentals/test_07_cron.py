"""Chapter 7: some tasks belong to a time of day."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import time_machine

from asyncmgr import Manager, Settings, periodic_task

BERLIN = ZoneInfo("Europe/Berlin")


class Backups(Manager):
    """One task, every night."""

    def __init__(self) -> None:
        super().__init__()
        self.nights: list[str] = []

    @periodic_task(cron="30 2 * * *", tz="Europe/Berlin")
    async def save(self, context: object) -> None:
        self.nights.append(datetime.now(BERLIN).strftime("%d %H:%M"))


async def hour_by_hour(start: datetime, hours: int) -> list[str]:
    with time_machine.travel(start, tick=False) as clock:
        backups = Backups()
        for _ in range(hours * 2):
            await backups.periodic_tasks(context=None)
            clock.shift(timedelta(minutes=30))
    return backups.nights


async def test_a_night_without_half_past_two() -> None:
    """In March the clocks jump from two to three: the run comes at the end of the hour that is left out."""
    start = datetime(2026, 3, 27, 12, tzinfo=UTC)
    assert await hour_by_hour(start, 72) == ["28 02:30", "29 03:00", "30 02:30"]


async def test_a_night_with_two() -> None:
    """In October half past two comes twice: the run comes once."""
    start = datetime(2026, 10, 23, 12, tzinfo=UTC)
    assert await hour_by_hour(start, 72) == ["24 02:30", "25 02:30", "26 02:30"]


async def test_a_night_that_was_slept_through() -> None:
    """Any number of missed nights cost one run."""
    with time_machine.travel(datetime(2026, 1, 1, 12, tzinfo=UTC), tick=False) as clock:
        backups = Backups()
        clock.shift(timedelta(days=10))
        await backups.periodic_tasks(context=None)
        await backups.periodic_tasks(context=None)
    assert backups.nights == ["11 13:00"]


class Reports(Manager):
    """Two tasks of the long weekend: a range may wrap, and without a zone it is UTC (the setting `timezone`)."""

    @periodic_task(cron="0 8 * * FRI-MON", tz=BERLIN)
    async def in_berlin(self, context: object) -> None: ...

    @periodic_task(cron="0 8 * * FRI-MON")
    async def anywhere(self, context: object) -> None: ...


def test_a_weekend_that_goes_round_the_end_of_the_week() -> None:
    """On Tuesday the next slot is on Friday, at eight in each task's zone."""
    with time_machine.travel(datetime(2026, 6, 2, 12, tzinfo=UTC), tick=False):
        berlin, anywhere = Reports().task_status()
    assert berlin.next_due == datetime(2026, 6, 5, 8, tzinfo=BERLIN)
    assert anywhere.next_due == datetime(2026, 6, 5, 8, tzinfo=UTC)


def test_the_setting_timezone_is_for_tasks_that_say_none() -> None:
    """The other one keeps its own."""
    with time_machine.travel(datetime(2026, 6, 2, 12, tzinfo=UTC), tick=False):
        berlin, anywhere = Reports(settings=Settings(timezone="Asia/Tokyo")).task_status()
    assert berlin.next_due == datetime(2026, 6, 5, 8, tzinfo=BERLIN)
    assert anywhere.next_due == datetime(2026, 6, 5, 8, tzinfo=ZoneInfo("Asia/Tokyo"))


NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)


class Fireworks(Manager):
    """A task of single moments."""

    def __init__(self) -> None:
        super().__init__()
        self.lit: list[datetime] = []

    @periodic_task(at=[NEW_YEAR, NEW_YEAR + timedelta(minutes=10)])
    async def light(self, context: object) -> None:
        self.lit.append(datetime.now(UTC))


async def test_a_task_of_single_moments_is_over_after_the_last() -> None:
    """Each is run once; then nothing is due any more."""
    with time_machine.travel(NEW_YEAR - timedelta(minutes=5), tick=False) as clock:
        fireworks = Fireworks()
        for _ in range(6):
            await fireworks.periodic_tasks(context=None)
            clock.shift(timedelta(minutes=5))
        (status,) = fireworks.task_status()
    assert fireworks.lit == [NEW_YEAR, NEW_YEAR + timedelta(minutes=10)]
    assert status.next_due is None
