"""The ledger: 40 bytes a run, spans for gaps, two logs that do not evict each other."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncmgr._common.clock import SECOND
from asyncmgr._history.journal import Journal
from asyncmgr._history.logs import RECORDS_A_CHUNK, Log
from asyncmgr._history.slots import RUN, SIZE, decode
from asyncmgr._tasks.schedules import Cron
from asyncmgr.testing import VirtualTime
from tests.helpers import Recorded, task


async def noop(context: Any) -> None: ...


def fates(recorded: Recorded, name: str = "M.noop") -> list[tuple[str, str | None, int]]:
    return [(one.fate, one.reason, one.count) for one in recorded.service.history(name)]


def test_a_record_has_forty_bytes() -> None:
    """A full log has 65,536 of them; it begins with room for 1,024."""
    log = Log(lambda: None)
    assert SIZE == 40
    assert log.memory == 40_960
    for number in range(70_000):
        log.pen.write(RUN.pack(number, 0.0, 0.0, number, 1 << 24))
    assert log.memory == 40 * 65_536
    assert 64_000 < len(log) <= 65_536
    assert log.end == 70_000 + 68  # with a mark at the beginning of each chunk but the first
    newest = next(log.pieces(newest_first=True))[1]
    assert [raw.number for _, raw in decode(newest)][-1] == 69_999


@given(st.integers(0, 3 * RECORDS_A_CHUNK))
def test_a_log_gives_back_what_was_written(count: int) -> None:
    """In the order in which it came, whatever the number."""
    log = Log(lambda: None)
    for number in range(count):
        log.pen.write(RUN.pack(number, 0.0, 1.0, number, 1 << 24))
    assert [raw.number for _, piece in log.pieces() for _, raw in decode(piece)] == list(range(count))


async def test_a_long_pause_is_one_record(virtual_time: VirtualTime) -> None:
    """Thirty days of a ten-second task: 259,200 slots, counted without a walk."""
    recorded = Recorded(task(noop, spacing=10))
    async with recorded.service:
        await virtual_time.advance(5)
        handle = recorded.service.task("M.noop")
        handle.pause()
        await virtual_time.advance(30 * 86_400)
        began = time.thread_time()
        assert fates(recorded) == [("skipped", "paused", 259_200)]
        handle.resume()
        assert time.thread_time() - began < 0.05
        assert fates(recorded) == [("skipped", "paused", 259_200)]


async def test_a_long_pause_of_a_cron_task_is_counted_too(virtual_time: VirtualTime) -> None:
    """Day by day and not slot by slot."""
    recorded = Recorded(task(noop, cron="* 8-17 * * mon-fri", tz="Europe/Berlin"))
    async with recorded.service:
        recorded.service.task("M.noop").pause()
        await virtual_time.advance(30 * 86_400)
        (record,) = recorded.service.history("M.noop")
    weekdays = [datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(30)]
    assert record.count == sum(600 for day in weekdays if day.weekday() < 5)


@pytest.mark.slow
async def test_a_fast_task_does_not_evict_a_nightly_one(virtual_time: VirtualTime) -> None:
    """The successes of fast tasks have a log of their own."""
    recorded = Recorded(task(noop, spacing=1), task(noop, name="nightly", spacing=3600))
    async with recorded.service:
        await virtual_time.advance(80_000)
        assert len(recorded.service.history("M.nightly", limit=1000)) == 22
        assert len(recorded.service.history("M.noop", limit=100_000)) < 65_536


async def test_slots_that_meet_a_run_are_one_span(virtual_time: VirtualTime) -> None:
    """Two spans merge only where they follow one another on the grid."""

    async def slow(context: Any) -> None:
        await asyncio.sleep(35)

    recorded = Recorded(task(slow, name="noop", spacing=10))
    async with recorded.service:
        await virtual_time.advance(99)
        told = fates(recorded)
    assert told == [("succeeded", None, 1), ("skipped", "overlap", 3)] * 2


async def test_overlap_is_judged_at_the_slot(virtual_time: VirtualTime) -> None:
    """A run of 9.95 s every 10 s loses no slot because a neighbour was due a little earlier."""

    async def long(context: Any) -> None:
        await asyncio.sleep(9.95)

    recorded = Recorded(task(long, name="long", spacing=10), task(noop, spacing=10, initial_delay=9.9))
    async with recorded.service:
        await virtual_time.advance(111)
        told = fates(recorded, "M.long")
    assert told == [("succeeded", None, 1)] * 10


async def test_records_have_slot_start_and_length(virtual_time: VirtualTime) -> None:
    """By the wall clock, also after it was set; with the run's number."""

    async def slow(context: Any) -> None:
        await asyncio.sleep(1.5)

    recorded = Recorded(task(slow, name="noop", spacing=10))
    async with recorded.service:
        await virtual_time.advance(12)
        (record,) = recorded.service.history()
    start = virtual_time.start.timestamp() * SECOND
    assert (record.slot, record.started, record.duration) == (start + 10 * SECOND, start + 10 * SECOND, 1.5)
    assert (record.run, record.lateness, record.ended) == (1, 0.0, start + 11.5 * SECOND)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/New_York"])
@given(
    expression=st.sampled_from(
        [
            "* * * * *",
            "*/7 * * * *",
            "30 2 * * *",
            "0-59 1-4 * * *",
            "0 12 L * *",
            "*/20 30 2 * * *",
            "5 5 5 * mon",
        ]
    ),
    start=st.sampled_from(
        [datetime(2025, 3, 29), datetime(2025, 10, 25), datetime(2025, 4, 5), datetime(2025, 11, 1)]
    ),
    hours=st.integers(0, 60),
)
def test_cron_slots_are_counted_as_a_walk_counts_them(
    zone: str, expression: str, start: datetime, hours: int
) -> None:
    """Also over the changes of clocks."""
    cron = Cron(expression, tz=zone)
    begin = round(start.replace(tzinfo=UTC).timestamp() * SECOND)
    walked, slot = 0, cron.first(begin)
    while slot <= begin + hours * 3600 * SECOND:
        walked, slot = walked + 1, cron.first(slot)
    assert cron._count(begin, begin + hours * 3600 * SECOND) == walked


@pytest.mark.parametrize("watch_first", [True, False])
def test_a_stall_is_one_entry_whoever_tells_it_first(watch_first: bool) -> None:
    """A late look knows the length of a block only, the watch of the loop its cause; the entry has both."""
    journal = Journal()
    tellers = [
        lambda: journal.stall("blocked", 1_000_000, 5_200_000, seconds=4.2),
        lambda: journal.stall(
            "blocked", 1_000_100, 5_100_000, seconds=4.1, blame="R.r", doing="computing", place="x"
        ),
    ]
    for tell in reversed(tellers) if watch_first else tellers:
        tell()  # type: ignore[no-untyped-call]
    journal.stall("blocked", 9_000_000, 9_500_000, seconds=0.5)
    first, second = journal
    assert (first.data["blame"], first.data["doing"]) == ("R.r", "computing")
    assert second.data == {"seconds": 0.5}
