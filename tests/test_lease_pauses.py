"""A pause of a task of the cluster is the task's: it outlives its holder (11)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asyncmgr._tasks.actions import Actor, acting_as
from asyncmgr.events import SlotSkipped
from tests.workers import Worker, holder_of, numbers, others_of, workers

pytestmark = pytest.mark.usefixtures("virtual_time")
OPS = Actor("ops (uid 1000)", "socket")


def paused_of(worker: Worker) -> Any:
    return worker.service.task("M.job").status.paused


@pytest.mark.parametrize("end", ["dies", "stops"])
async def test_a_pause_outlives_its_holder(end: str) -> None:
    """With who it was, when and why; a resume at the next holder ends it, and the slots meanwhile were paused."""
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(6)
        first, (second,) = holder_of(team), others_of(team)
        with acting_as(OPS):
            first.service.task("M.job").pause(note="provider moves")
        told = paused_of(first)
        await asyncio.sleep(1)
        if end == "dies":
            first.vanish()
        else:
            await first.service.stop()
        await asyncio.sleep(30)
        assert second.holds
        assert len(log) == 1
        assert (paused_of(second), paused_of(second).by) == (told, "ops (uid 1000)")
        assert "ops (uid 1000) paused it" in str(second.service.explain("M.job"))
        second.service.task("M.job").resume()
        await asyncio.sleep(6)
        assert len(log) == 2
        skipped = [one for one in second.service.history("M.job") if one.reason == "paused"]
        ran, again = (ran.number or 0 for ran in log)
        assert sum(one.count for one in skipped) == again - ran - 1


async def test_a_resume_is_the_tasks_too() -> None:
    """The holder after it does not pause; and who was the paused holder may have the task again."""
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(6)
        first, (second,) = holder_of(team), others_of(team)
        first.service.task("M.job").pause()
        await asyncio.sleep(1)
        first.vanish()
        await asyncio.sleep(20)
        second.service.task("M.job").resume()
        await asyncio.sleep(11)
        ran = len(log)
        assert ran > 1
        first.return_()
        await asyncio.sleep(5)
        assert paused_of(first) is None
        await second.service.stop()
        await asyncio.sleep(6)
        assert first.holds
        assert len(log) > ran
        assert numbers(log) == sorted(set(numbers(log)))


async def test_it_ends_by_itself_at_its_moment() -> None:
    """Also at the next holder; one whose end came while nobody held the task is no pause."""
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(6)
        first, (second,) = holder_of(team), others_of(team)
        first.service.task("M.job").pause(until=datetime.now(UTC) + timedelta(seconds=40))
        await asyncio.sleep(1)
        first.vanish()
        await asyncio.sleep(30)
        assert paused_of(second) is not None
        await asyncio.sleep(15)
        assert paused_of(second) is None
        assert len(log) == 2
        second.service.task("M.job").pause(for_=3)
        await asyncio.sleep(1)
        second.vanish()
        third = Worker("c", log).add()
        async with third:
            await asyncio.sleep(20)
            assert third.holds
            assert paused_of(third) is None
            assert len(log) > 2


async def test_a_pause_that_cannot_be_written_is_written_later() -> None:
    """As soon as the store answers again, before the trust of the holder ends; and a lost answer loses nothing."""
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(6)
        first, (second,) = holder_of(team), others_of(team)
        faults = ["lose_request", "lose_reply"]

        def fault(verb: str, store: str, key: str) -> str | None:
            return faults.pop(0) if verb == "update" and store == "asyncmgr-slots" and faults else None

        first.wire.fault = fault
        first.service.task("M.job").pause()
        await asyncio.sleep(5)
        assert faults == []
        await first.service.stop()
        await asyncio.sleep(10)
        assert second.holds
        assert paused_of(second) is not None
        assert len(log) == 1


async def test_where_nothing_is_paused_nothing_is_written() -> None:
    """A record of a task that was never paused is as it always was, for older programs too."""
    async with workers("a") as (_log, (a,)):
        await asyncio.sleep(12)
        slots = await a.wire.store("asyncmgr-slots", ttl=None, watched=False)
        gate = next(iter(a.cluster.claims.held())).holder
        assert b"paused" not in (await slots.get(gate.key)).value
        a.service.task("M.job").pause(note="x")
        await asyncio.sleep(1)
        assert b'"paused_note":"x"' in (await slots.get(gate.key)).value
        assert not a.of(SlotSkipped)
