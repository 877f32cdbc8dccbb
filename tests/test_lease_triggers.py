"""``trigger()`` of a task of the cluster while its holder changes; in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncmgr import RunContext
from asyncmgr.errors import NotOwner
from tests.workers import Ran, Worker, holder_of, others_of, seconds_until, workers

pytestmark = pytest.mark.usefixtures("virtual_time")


def delayed(store: str, seconds: float) -> Any:
    """A fault: each write of this store takes so long."""
    return lambda verb, where, key: seconds if where == store and verb in ("create", "update") else None


@pytest.mark.parametrize("store", ["asyncmgr-claims", "asyncmgr-slots"])
async def test_a_process_that_is_taking_the_task_over(store: str) -> None:
    """While the claim is written, and from then to the writing of the slots, a trigger waits, and then runs it here."""
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(7)
        first, (second,) = holder_of(team), others_of(team)
        second.wire.fault = delayed(store, 0.8)
        await first.service.stop()
        name = second.cluster.claims.find(next(iter(second.cluster.board.revisions())))
        await seconds_until(lambda: name.operation is not None)
        await asyncio.sleep(0.4)
        assert not second.holds
        assert (second.owner == second.cluster.session.inc) is (store == "asyncmgr-slots")
        record = await second.service.task("M.job").trigger()
        assert record.trigger == "manual"
        assert (log[-1].host, log[-1].token) == (
            second.host,
            second.service.task("M.job").status.fencing_token,
        )


async def test_the_first_process_of_all() -> None:
    """Right after its start, before it has claimed anything."""
    log: list[Ran] = []
    async with Worker("a", log).add(spacing=3600) as a:
        await asyncio.sleep(0)
        a.wire.fault = delayed("asyncmgr-slots", 0.5)
        await seconds_until(lambda: a.cluster.trusted)
        await a.service.task("M.job").trigger()
        assert [ran.trigger for ran in log] == ["manual"]


async def test_a_takeover_that_does_not_end() -> None:
    """The trigger gives up after as long as a session is trusted, and never sends its caller to this very process."""
    async with workers("a", "b") as (_log, team):
        await asyncio.sleep(7)
        first, (second,) = holder_of(team), others_of(team)
        second.wire.fault = lambda verb, where, key: (
            "lose_request" if where == "asyncmgr-slots" and verb != "get" else None
        )
        await first.service.stop()
        await seconds_until(lambda: second.owner == second.cluster.session.inc or second.owner is None)
        await asyncio.sleep(0.2)
        began = asyncio.get_running_loop().time()
        with pytest.raises(NotOwner) as raised:
            await second.service.task("M.job").trigger()
        assert asyncio.get_running_loop().time() - began <= 7.6
        assert second.cluster.session.inc not in str(raised.value)
        assert "this process is about to take it over, or to give it up; try again" in str(raised.value)


async def test_a_task_that_goes_away_meanwhile() -> None:
    """A trigger during the release waits, and then names the next holder."""
    async with workers("a", "b") as (_log, team):
        await asyncio.sleep(7)
        first, (second,) = holder_of(team), others_of(team)
        first.wire.fault = delayed("asyncmgr-claims", 0.5)
        name = first.cluster.claims.held()[0]
        first.service.task("M.job")
        first.cluster.claims.leave(name.key, name.holder)
        await asyncio.sleep(0.2)
        assert not first.holds
        with pytest.raises(NotOwner, match=r"no process is known to hold it|b~"):
            await first.service.task("M.job").trigger()
        await seconds_until(lambda: second.holds)


async def test_a_session_of_this_process_that_is_lost() -> None:
    """Its claim stands in the store until the session is seen dead; nobody is sent there meanwhile."""
    async with workers("a") as (_log, (a,)):
        await asyncio.sleep(6)
        inc = a.cluster.session.inc
        a.cluster.keeper.drop("tried")
        await asyncio.sleep(0.1)
        assert a.cluster.board.of(inc)
        assert a.owner is None
        with pytest.raises(NotOwner) as raised:
            await a.service.task("M.job").trigger()
        assert inc not in str(raised.value)
        await seconds_until(lambda: a.holds)
        await a.service.task("M.job").trigger()


async def test_a_key_whose_shard_is_claimed_anew() -> None:
    """After trust had ended and came back, a key waits until its shard has a new token."""
    ran: list[tuple[int, int | None]] = []
    log: list[Ran] = []
    a = Worker("a", log)

    async def poll(context: RunContext, key: int) -> None:
        ran.append((key, context.fencing_token))

    a.manager.devices = lambda: [1, 2, 3]  # type: ignore[attr-defined]
    a.manager.add_periodic_task(poll, name="poll", spacing=3600, each="devices", scope="cluster")
    async with a:
        await asyncio.sleep(3)
        key = a.service.task("M.poll").key(2)
        await key.trigger()
        a.vanish()
        await asyncio.sleep(9)
        with pytest.raises(NotOwner):
            await key.trigger()
        a.wire.fault = delayed("asyncmgr-claims", 0.5)
        a.return_()
        await seconds_until(lambda: a.cluster.trusted)
        await asyncio.sleep(0.1)
        await key.trigger()
        assert [key for key, _ in ran] == [2, 2]
        assert ran[1][1] > ran[0][1]  # type: ignore[operator]
