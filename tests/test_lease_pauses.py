"""A pause of a task of the cluster is the task's: it outlives its holder (11)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asyncmgr._tasks.actions import Actor, acting_as
from asyncmgr.errors import InvalidPeriodicTaskArg
from asyncmgr.events import SlotSkipped, SlotsMissed
from tests.workers import Ran, Worker, holder_of, numbers, others_of, seconds_until, workers

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


async def test_a_pause_while_the_task_is_being_taken_over_stays() -> None:
    """It stood in no record yet, and was forgotten with the release that it brings about."""
    log: list[Ran] = []
    a, b = Worker("a", log).add(), Worker("b", log).add()
    a.wire.fault = lambda verb, store, key: 0.3 if store == "asyncmgr-slots" else None
    async with a:
        await seconds_until(lambda: any(name.operation for name in a.cluster.claims._names.values()))
        a.service.task("M.job").pause(note="not here")
        await asyncio.sleep(20)
        assert paused_of(a).note == "not here"
        assert log == []
        async with b:
            await asyncio.sleep(12)
            assert {ran.host for ran in log} == {"b"}


async def test_who_lost_the_task_without_a_word_does_not_claim_it_while_paused() -> None:
    """Trust ended first, and the session later: from then on the process is one of the others."""
    async with workers("a", "b", "c") as (log, team):
        await asyncio.sleep(6)
        first = holder_of(team)
        first.vanish()
        await asyncio.sleep(30)
        second = holder_of([worker for worker in team if worker is not first])
        (third,) = (worker for worker in team if worker not in (first, second))
        first.return_()
        await asyncio.sleep(10)
        for worker in (first, third):
            worker.service.task("M.job").pause()
        await second.service.stop()
        await asyncio.sleep(10)
        assert not first.holds
        third.service.task("M.job").resume()
        ran = len(log)
        await asyncio.sleep(12)
        assert third.holds
        assert len(log) > ran


@pytest.mark.parametrize("interrupted", ["skip", "rerun"])
async def test_the_record_of_a_pause_undoes_no_outcome(interrupted: str) -> None:
    """The outcome's answer was lost, so that this process knew of an older record, and wrote that with the pause."""
    async with workers("a", "b", interrupted=interrupted) as (log, team):
        await asyncio.sleep(1)
        first, (second,) = holder_of(team), others_of(team)
        first.lasts, faults = 2, ["", "", "lose_reply"]

        def fault(verb: str, store: str, key: str) -> str | None:
            return (
                (faults.pop(0) or None) if (verb, store) == ("update", "asyncmgr-slots") and faults else None
            )

        first.wire.fault = fault
        await asyncio.sleep(5)
        first.service.task("M.job").pause()
        await asyncio.sleep(2.5)
        assert faults == []
        first.service.task("M.job").resume()
        await asyncio.sleep(0.9)
        first.vanish()
        await asyncio.sleep(30)
        assert second.holds
        assert len(numbers(log)) == len(set(numbers(log))) > 2
        assert log[0].slot not in {f"{event.slot:%H:%M:%S}.00" for event in second.of(SlotsMissed)}


@pytest.mark.parametrize("silent", [5.0, 6.0, 7.0, 7.6, 8.0])
@pytest.mark.parametrize("delay", [None, 0.2])
@pytest.mark.parametrize("after", [0.5, 5.5])
async def test_a_resume_without_the_store_holds(silent: float, delay: float | None, after: float) -> None:
    """As the process has the task still when the store is back, also where trust had ended: its record is older."""
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(6)
        first = holder_of(team)
        first.service.task("M.job").pause()
        await asyncio.sleep(2)
        first.vanish()
        await asyncio.sleep(min(after, silent))
        first.service.task("M.job").resume()
        await asyncio.sleep(max(0, silent - after))
        first.return_()
        first.wire.fault = lambda verb, store, key: delay if store == "asyncmgr-slots" else None
        await asyncio.sleep(15)
        if first.holds:
            assert paused_of(first) is None
            assert len(log) > 1


async def test_the_note_of_a_pause_is_a_text_of_limited_length() -> None:
    """Another thing would make the record unreadable, or its writer fail for ever; each slot writes it again."""
    async with workers("a") as (_log, (a,)):
        await asyncio.sleep(6)
        wrong: Any = 5
        with pytest.raises(InvalidPeriodicTaskArg, match="note=5 is not accepted; note is a text"):
            a.service.task("M.job").pause(note=wrong)
        a.service.task("M.job").pause(note="x" * 100_000)
        await asyncio.sleep(1)
        slots = await a.wire.store("asyncmgr-slots", ttl=None, watched=False)
        gate = next(iter(a.cluster.claims.held())).holder
        assert len((await slots.get(gate.key)).value) < 1000
