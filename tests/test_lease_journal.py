"""The journal of leases, from which it is explained who ran a slot, and why nobody did; in virtual time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.workers import Worker, holder_of, others_of, seconds_until, workers

pytestmark = pytest.mark.usefixtures("virtual_time")

MIDNIGHT = datetime(2024, 1, 1, tzinfo=UTC)


def explained(worker: Worker, seconds: float) -> str:
    """What a process says of the slot at so many seconds after midnight."""
    return str(worker.service.explain("M.job", MIDNIGHT + timedelta(seconds=seconds)))


def kinds(worker: Worker) -> list[tuple[str, Any]]:
    entries = [entry for entry in worker.service.journal if entry.kind.startswith("lease_")]
    assert all(entry.task == "M.job" for entry in entries)
    return [(entry.kind, entry.data["holder"].partition("~")[0]) for entry in entries]


async def test_a_slot_that_ran_elsewhere() -> None:
    """Where, since when that process holds the lease, and its token."""
    async with workers("a", "b", settle=3) as (log, team):
        await asyncio.sleep(9)
        first, (second,) = holder_of(team), others_of(team)
        owner = second.owner
        assert explained(second, 10) == (
            "M.job: the 2 slots from 00:00:05 to 00:00:10 did not run here, and did on "
            f"{owner}, which holds the lease since 00:00 (token {log[0].token})."
        )
        assert explained(first, 10) == "M.job: the slot of 00:00:10 ran, and succeeded in 0 us."
        assert kinds(first) == kinds(second) == [("lease_taken", first.host)]


async def test_slots_that_nobody_ran() -> None:
    """Who lost the lease, when and why; who took it; and which run stands for the slots."""
    async with workers("a", "b", spacing=2) as (_log, team):
        await asyncio.sleep(11)
        first, (second,) = holder_of(team), others_of(team)
        lost, taken = first.cluster.session.inc, second.cluster.session.inc
        first.vanish()
        await seconds_until(lambda: second.holds)
        await asyncio.sleep(4)
        told = explained(second, 14)
        assert told.startswith("M.job: the ")
        assert f"not run anywhere: {lost} lost the lease at 00:00:" in told
        assert f"(it was not heard of for 10 s), and {taken} took it at 00:00:" in told
        assert told.endswith("stands for all of them.")
        assert not [entry for entry in second.service.journal if entry.kind == "blocked"]
        await asyncio.sleep(2)
        told = explained(first, 20)
        assert "not started: this process lost the lease at 00:00:" in told
        assert told.endswith("(no answer from the store for 7.5 s).")
        here = [("lease_taken", first.host), ("lease_lost", first.host)]
        assert kinds(first) == here
        assert kinds(second) == [*here, ("lease_taken", second.host)]
        first.return_()
        await seconds_until(lambda: ("lease_taken", second.host) in kinds(first))
        assert kinds(first) == [*here, ("lease_taken", second.host)]
        await asyncio.sleep(3)
        assert f"did on {taken}, which holds the lease since 00:00:" in str(first.service.explain("M.job"))


async def test_a_planned_hand_over() -> None:
    """Both processes note that the lease was given up, and who took it."""
    async with workers("a", "b") as (_log, team):
        await asyncio.sleep(7)
        first, (second,) = holder_of(team), others_of(team)
        first.service.task("M.job").disable()
        await asyncio.sleep(7)
        expected = [("lease_taken", first.host), ("lease_released", first.host), ("lease_taken", second.host)]
        assert kinds(second) == expected
        assert kinds(first) == expected[:2]
        assert explained(second, 10) == "M.job: the slot of 00:00:10 ran, and succeeded in 0 us."


@pytest.mark.parametrize("order", ["sessions", "claims"])
async def test_a_former_session_is_no_other_process(order: str) -> None:
    """A process that returns notes who has the lease now, never its own lost session, whichever watch is first."""
    async with workers("a", "b", spacing=2) as (_log, team):
        await asyncio.sleep(5)
        first, (second,) = holder_of(team), others_of(team)
        first.vanish()
        await seconds_until(lambda: second.holds)
        await asyncio.sleep(3)
        first.wire.late_watch = f"asyncmgr-{order}"
        first.return_()
        await seconds_until(lambda: ("lease_taken", second.host) in kinds(first))
        assert kinds(first) == [
            ("lease_taken", first.host),
            ("lease_lost", first.host),
            ("lease_taken", second.host),
        ]
        await asyncio.sleep(10)
        assert len(kinds(first)) == 3
