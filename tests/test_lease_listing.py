"""Who holds what, as `asyncmgr leases` reads it."""

from __future__ import annotations

import asyncio

import pytest

from asyncmgr._leases.listing import Listed, list_claims
from tests.workers import Wire, Worker, holder_of, workers

pytestmark = pytest.mark.usefixtures("virtual_time")


async def listed(*application: str) -> list[Listed]:
    wire = Wire("x")
    try:
        return await list_claims(wire, *application)
    finally:
        await wire.aclose()


async def test_a_task_and_a_lease() -> None:
    """Each has its holder, since when, and its token; a task has its last slot too."""
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(11)
        first = holder_of(team)
        async with first.service.lease("report") as lease:
            report, task = await listed("s")
            assert (report.kind, report.name, report.state) == ("lease", "report", "held")
            assert report.token == lease.fencing_token
        assert (task.kind, task.name, task.state) == ("task", "M.job", "held")
        assert task.holder == first.cluster.session.inc
        assert task.host == first.host
        assert task.token == log[-1].token
        assert (task.slot_number, task.slot_state) == (log[-1].number, "succeeded")
        assert task.slot_age == pytest.approx(1.3, abs=0.1)
        assert task.age == pytest.approx(11.3, abs=0.1)


async def test_what_becomes_of_a_holder() -> None:
    """Held, silent, dead, free."""
    log: list[object] = []
    async with Worker("a", []).add() as a:
        await asyncio.sleep(1)
        a.vanish()
        await asyncio.sleep(9)
        states = [(await listed())[0].state]
        await asyncio.sleep(5)
        states.append((await listed())[0].state)
        async with Worker("b", []).add(name="other"):  # does not know the task of a
            await asyncio.sleep(13)
            states.append(next(one.state for one in await listed() if one.name == "M.job"))
        a.return_()
        await asyncio.sleep(5)
        states.append(next(one.state for one in await listed() if one.name == "M.job"))
    keeper = Wire("x")
    assert states == ["held", "silent", "dead", "held"]
    assert not log
    await keeper.aclose()


async def test_one_application_or_all() -> None:
    async with (
        Worker("a", [], settings={"application": "one"}).add(),
        Worker("b", [], settings={"application": "two"}).add(),
    ):
        await asyncio.sleep(1)
        assert [one.application for one in await listed()] == ["one", "two"]
        assert [one.application for one in await listed("two")] == ["two"]
        assert await listed("three") == []
