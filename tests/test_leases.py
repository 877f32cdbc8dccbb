"""One process of many runs a task, whatever happens to processes, clocks and the store."""

from __future__ import annotations

import asyncio
import gc
import json
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from asyncmgr import RunContext
from asyncmgr._leases.keys import session_key as key_of_session
from asyncmgr._leases.keys import task_key
from asyncmgr._leases.records import SESSIONS, SESSIONS_TTL, SessionRecord
from asyncmgr.events import (
    LeaseAcquired,
    LeaseLost,
    LeaseReleased,
    Outcome,
    RunFinished,
    SlotSkipped,
    SlotsMissed,
)
from tests.workers import Ran, Worker, holder_of, numbers, others_of, seconds_until, workers

pytestmark = pytest.mark.usefixtures("virtual_time")


def gaps(log: list[Ran]) -> list[float]:
    return [round(after.at - before.at, 2) for before, after in pairwise(log)]


# One of many


async def test_one_process_runs_each_slot() -> None:
    """Every slot runs once, at one host; the others say who holds the task."""
    async with workers("a", "b", "c") as (log, team):
        await asyncio.sleep(30)
        assert numbers(log) == [0, 1, 2, 3, 4, 5]
        assert {ran.host for ran in log} == {holder_of(team).host}
        owner = holder_of(team).owner
        assert owner is not None
        assert owner.startswith(holder_of(team).host + "~")
        for other in others_of(team):
            assert {(e.reason, e.holder) for e in other.of(SlotSkipped)} == {("not_owner", owner)}
            assert other.owner == owner
            assert not other.of(RunFinished)


async def test_the_status_tells_since_when_and_the_token() -> None:
    async with workers("a") as (log, (a,)):
        await asyncio.sleep(10)
        status = a.service.task("M.job").status
        assert status.owner_since is not None
        assert status.owner_since.isoformat().startswith("2024-01-01T00:00:00")
        assert status.fencing_token == log[-1].token == a.of(LeaseAcquired)[0].token


async def test_two_processes_of_one_host_name() -> None:
    """Identity is drawn: two processes of one name are two."""
    async with workers("a", "a") as (log, team):
        await asyncio.sleep(20)
        assert numbers(log) == [0, 1, 2, 3]
        holder_of(team).vanish()
        await asyncio.sleep(30)
        assert sorted(set(numbers(log))) == numbers(log)
        assert len({ran.token for ran in log}) == 2


async def test_a_process_that_does_not_know_the_task_never_owns_it() -> None:
    """An old version joins, sees the claim, and leaves it alone, also when its owner is gone."""
    log: list[Ran] = []
    async with Worker("old", log).add(name="other") as old, Worker("new", log).add() as new:
        await asyncio.sleep(6)
        key = task_key("s", "M.job")
        assert old.cluster.board.get(key).owner == new.cluster.session.inc
        new.vanish()
        await asyncio.sleep(60)
        assert old.cluster.board.get(key).owner == new.cluster.session.inc or not new.cluster.session.trusted
        assert old.cluster.claims.find(key) is None


# Fail-over


async def test_a_stop_hands_over_at_once() -> None:
    """After SIGTERM the next owner holds the task within 0.1 s; no slot is lost or doubled."""
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(7)
        first, (second,) = holder_of(team), others_of(team)
        await first.service.stop()
        assert await seconds_until(lambda: second.holds) <= 0.1
        assert first.of(LeaseReleased)
        await asyncio.sleep(20)
        assert numbers(log) == list(range(len(log)))
        assert gaps(log) == [5.0] * (len(log) - 1)
        assert not second.of(SlotsMissed)


async def test_a_long_drain_keeps_only_what_runs() -> None:
    """A host that stops waits for a run of one task; the other tasks are another host's at once, and lose no slot."""
    log: list[Ran] = []
    a, b = (Worker(host, log).add(spacing=1) for host in "ab")

    async def work(context: RunContext) -> None:
        await asyncio.sleep(20)

    a.manager.add_periodic_task(work, name="long", spacing=600, run_immediately=True, scope="cluster")
    async with a, b:
        await asyncio.sleep(3.4)
        assert a.service.task("M.long").status.running
        stopping = asyncio.create_task(a.service.stop(timeout=30))
        if a.holds:
            assert await seconds_until(lambda: b.holds) <= 0.1
        await asyncio.sleep(10)
        assert not stopping.done()
        assert log[-1].host == "b"
        assert numbers(log) == list(range(len(log)))
        assert not b.of(SlotsMissed)
        assert len((await stopping).drained) == 1


async def test_rolling_restart() -> None:
    """Three processes are stopped and replaced in turn: no slot is lost, none runs twice."""
    log: list[Ran] = []
    team = [Worker(host, log).add(spacing=1) for host in "abc"]
    for worker in team:
        await worker.service.start()
    await asyncio.sleep(3)
    for number in range(3):
        old = team[number]
        await old.__aexit__()
        team[number] = await Worker(old.host + "2", log).add(spacing=1).__aenter__()
        await asyncio.sleep(4)
    assert numbers(log) == list(range(len(log)))
    assert len(log) >= 14
    assert not any(worker.of(SlotsMissed) for worker in team)
    for worker in team:
        await worker.__aexit__()


async def test_a_holder_that_is_cut_off_stops_before_the_next_one_starts() -> None:
    """Its run is cancelled when trust ends, at 0.75 TTL; another process takes over by TTL + 0.5 s."""
    async with workers("a", "b", "c", spacing=2) as (log, team):
        first, rest = holder_of(team), others_of(team)
        first.lasts = 100.0
        await asyncio.sleep(2.2)
        first.vanish()
        cut = asyncio.get_running_loop().time()
        assert await seconds_until(lambda: any(worker.holds for worker in rest)) <= 10.5
        (ended,) = first.ended
        assert float(ended.split()[1]) - cut <= 7.5
        assert first.of(LeaseLost)[0].reason == "trust_ended"
        second = holder_of(rest)
        assert second.of(LeaseAcquired)[0].taken_from == first.cluster.session.inc
        await asyncio.sleep(5)
        own = [ran for ran in log if ran.host == second.host]
        assert own[0].trigger == "catch_up"
        assert own[0].token > log[0].token  # type: ignore[operator]
        (cut_off,) = [e for e in second.of(SlotsMissed) if e.run_id is None]
        assert (cut_off.reason, cut_off.count) == ("lease_lost", 1)
        stands_for = next(e for e in second.of(SlotsMissed) if e.run_id is not None)
        assert stands_for.reason == "lease_lost"
        assert numbers(log) == sorted(set(numbers(log)))


async def test_the_cancelled_run_has_its_outcome() -> None:
    async with workers("a", spacing=2) as (_log, (a,)):
        a.lasts = 100.0
        await asyncio.sleep(2.2)
        a.vanish()
        await asyncio.sleep(9)
        assert a.of(RunFinished)[0].outcome is Outcome.CANCELLED
        assert {e.reason for e in a.of(SlotSkipped)} == {"overlap", "lease_lost"}


async def test_a_short_outage_changes_nothing() -> None:
    """Renewals fail for a third of the TTL: nobody takes over, and no run is cancelled."""
    async with workers("a", "b") as (log, team):
        first = holder_of(team)
        await asyncio.sleep(6)
        with first.wire.outage():
            await asyncio.sleep(3)
        await asyncio.sleep(10)
        assert {ran.host for ran in log} == {first.host}
        assert not first.of(LeaseLost)


async def test_trust_that_comes_back_restores_the_claim() -> None:
    """A holder that is alone goes on after an outage longer than its trust, with a higher token."""
    async with workers("a", spacing=2) as (log, (a,)):
        await asyncio.sleep(5)
        a.vanish()
        await asyncio.sleep(20)
        a.return_()
        await asyncio.sleep(5)
        assert [type(e).__name__ for e in a.events if isinstance(e, LeaseAcquired | LeaseLost)] == [
            "LeaseAcquired",
            "LeaseLost",
            "LeaseAcquired",
        ]
        first, second = a.of(LeaseAcquired)
        assert second.token > first.token
        assert numbers(log) == sorted(set(numbers(log)))
        assert next(ran for ran in log if ran.token == second.token).trigger == "catch_up"


async def test_the_ttl_in_the_record_governs() -> None:
    """A process with a short TTL waits for the long one of the holder that it watches."""
    log: list[Ran] = []
    async with Worker("slow", log, ttl=40).add() as slow:
        await asyncio.sleep(1)
        async with Worker("fast", log, ttl=4).add() as fast:
            slow.vanish()
            await asyncio.sleep(25)
            assert not fast.holds
            await asyncio.sleep(20)
            assert fast.holds


async def test_the_same_process_takes_the_task_again() -> None:
    """A task that is switched off and on again is released and claimed, with a higher token, and its grid goes on."""
    async with workers("a") as (log, (a,)):
        await asyncio.sleep(6)
        handle = a.service.task("M.job")
        handle.remove()
        await asyncio.sleep(0.1)
        a.add()
        await asyncio.sleep(10)
        assert [e.token for e in a.of(LeaseAcquired)] == sorted({e.token for e in a.of(LeaseAcquired)})
        assert len(a.of(LeaseAcquired)) == 2
        assert numbers(log) == [0, 1, 2]
        assert gaps(log) == [5.0, 5.0]


async def test_a_body_that_unwinds_blocks_the_next_run_here() -> None:
    """A process does not take a name again while its own cancelled run still goes on."""
    async with workers("a", spacing=2) as (_log, (a,)):
        leave = asyncio.Event()

        async def hang(context: Any) -> None:
            while not leave.is_set():
                try:
                    await leave.wait()
                except asyncio.CancelledError:
                    continue

        a.manager.work = hang  # type: ignore[attr-defined]
        a.service.task("M.job").remove()
        a.manager.add_periodic_task(hang, name="hung", spacing=2, scope="cluster")
        await asyncio.sleep(4.5)
        name = next(name for name in a.cluster.claims.held() if name.key.endswith("hung"))
        a.vanish()
        await asyncio.sleep(12)
        a.return_()
        await asyncio.sleep(5)
        assert not name.is_active
        leave.set()
        await asyncio.sleep(3)
        assert a.cluster.claims.find(name.key).is_active


# The record of the holder


def session_key(worker: Worker) -> str:
    return str(worker.cluster.keeper.key)


async def shelf_of(worker: Worker, name: str) -> Any:
    return worker.wire._fabric.shelves[name]


async def test_a_leader_that_lost_its_row_stops() -> None:
    """A claim that is deleted behind the holder's back is not made anew by it: it stops, then claims like anybody."""
    async with workers("a", spacing=2) as (log, (a,)):
        await asyncio.sleep(5)
        first = log[-1].token
        (await shelf_of(a, "asyncmgr-claims")).delete("s.t.M.job")
        await asyncio.sleep(0.02)
        assert a.of(LeaseLost)[0].reason == "taken"
        await asyncio.sleep(10)
        assert log[-1].token > first  # type: ignore[operator]
        assert numbers(log) == sorted(set(numbers(log)))


async def test_a_holder_whose_session_is_deleted_begins_anew() -> None:
    """Its renewal depends on its own row: it gives up what it holds within a third of the TTL, and takes it again."""
    async with workers("a", "b", spacing=2) as (log, team):
        await asyncio.sleep(5)
        first, inc, token = holder_of(team), holder_of(team).cluster.session.inc, log[-1].token
        (await shelf_of(first, "asyncmgr-sessions")).delete(session_key(first))
        assert await seconds_until(lambda: first.of(LeaseLost)) <= 10 / 3
        assert first.of(LeaseLost)[0].reason == "session_lost"
        assert first.cluster.session.inc != inc
        await seconds_until(lambda: any(worker.holds for worker in team))
        await asyncio.sleep(10)
        assert log[-1].token > token  # type: ignore[operator]
        assert numbers(log) == sorted(set(numbers(log)))


async def test_a_holder_whose_slots_are_deleted_takes_the_task_anew() -> None:
    """The claim of the next slot depends on their row; numbers go on to grow, and nobody else need notice."""
    async with workers("a", "b", spacing=2) as (log, team):
        await asyncio.sleep(5)
        first = holder_of(team)
        (await shelf_of(first, "asyncmgr-slots")).delete("s.t.M.job")
        assert await seconds_until(lambda: first.of(LeaseLost)) <= 2.1
        await asyncio.sleep(10)
        assert log[-1].at > 13
        assert [ran.number for ran in log] == sorted({ran.number or 0 for ran in log})
        assert [ran.token for ran in log] == sorted(ran.token or 0 for ran in log)


async def test_a_claim_that_names_another_session_stops_the_holder() -> None:
    async with workers("a") as (_log, (a,)):
        record = json.dumps({"v": 1, "owner": "z~00000000", "token": 2**52, "ttl": 10}).encode()
        (await shelf_of(a, "asyncmgr-claims")).write("s.t.M.job", record)
        await asyncio.sleep(0.02)
        assert a.of(LeaseLost)[0].reason == "taken"
        assert not a.holds
        await asyncio.sleep(30)
        assert a.holds  # z~00000000 has no session, and was killed after its TTL
        assert a.of(LeaseAcquired)[1].token > 2**52


@pytest.mark.parametrize("store", ["asyncmgr-claims", "asyncmgr-slots"])
async def test_a_record_of_an_unknown_version_is_left_alone(store: str) -> None:
    """It is never acted on, changed or deleted."""
    log: list[Ran] = []
    strange = json.dumps({"v": 2, "holders": ["x"]}).encode()
    async with Worker("a", log).add() as a:
        pass
    worker = Worker("b", log).add()
    shelf = await (await Worker("c", log).wire.store(store, ttl=None))._store.put("s.t.M.job", strange) and (
        await shelf_of(worker, store)
    )
    async with worker:
        await asyncio.sleep(200)
        assert not worker.holds
        assert shelf.get("s.t.M.job").value == strange
    assert not log
    assert a.host == "a"


async def test_a_wiped_store() -> None:
    """Sessions begin anew, tokens and numbers go on to grow, and every task runs again soon."""
    async with workers("a", "b", spacing=2) as (log, team):
        await asyncio.sleep(9)
        for shelf in team[0].wire._fabric.shelves.values():
            shelf._records.clear()
            for watch in tuple(shelf.watches):
                watch.end(ConnectionResetError("wiped"))
        await asyncio.sleep(25)
        assert numbers(log) == sorted(set(numbers(log)))
        assert [ran.token for ran in log] == sorted(ran.token or 0 for ran in log)
        assert log[-1].at > 30
        assert len({ran.token for ran in log}) == 2


async def test_the_stores_own_ttl_does_not_decide() -> None:
    """A session that is absent counts as alive until its TTL has passed for the observer, and a death is written."""
    async with workers("a", "b") as (_log, team):
        first, (second,) = holder_of(team), others_of(team)
        first.vanish()
        (await shelf_of(second, "asyncmgr-sessions")).delete(session_key(first))
        await asyncio.sleep(5)
        assert not second.holds
        await asyncio.sleep(6)
        assert second.holds
        assert (
            json.loads((await shelf_of(second, "asyncmgr-sessions")).get(session_key(first)).value)["state"]
            == "dead"
        )


async def test_a_killed_session_begins_anew() -> None:
    """A process that was frozen finds its session dead, and takes part under a new identity."""
    async with workers("a", "b", spacing=2) as (log, team):
        first = holder_of(team)
        inc = first.cluster.session.inc
        first.vanish()
        await asyncio.sleep(15)
        first.return_()
        await asyncio.sleep(5)
        assert first.cluster.session.inc != inc
        assert first.cluster.session.trusted
        assert numbers(log) == sorted(set(numbers(log)))


# Answers that get lost


WRITES = [
    ("create", "asyncmgr-sessions", False),
    ("update", "asyncmgr-sessions", False),
    ("create", "asyncmgr-claims", False),
    ("update", "asyncmgr-claims", True),
    ("create", "asyncmgr-slots", False),
    ("update", "asyncmgr-slots", False),
    ("update", "asyncmgr-slots", True),
]


@pytest.mark.parametrize(("verb", "store", "has_holder_before"), WRITES)
@pytest.mark.parametrize("fault", ["lose_reply", "lose_request"])
async def test_lost_answers(verb: str, store: str, has_holder_before: bool, fault: str) -> None:
    """A write whose answer is lost is found to be written or not, and nothing is lost or doubled."""
    log: list[Ran] = []
    a = Worker("a", log).add()
    if has_holder_before:
        async with Worker("z", []).add():
            await asyncio.sleep(6)
    lost: list[str] = []

    def lose(called: str, where: str, key: str) -> str | None:
        if (called, where) == (verb, store) and len(lost) < 2:
            lost.append(key)
            return fault
        return None

    a.wire.fault = lose
    async with a:
        await asyncio.sleep(41)
        assert len(lost) == 2 or (verb, fault) == ("create", "lose_reply")
        assert numbers(log) == list(range(len(log)))
        assert len(log) in (7, 8, 9)
        assert len(a.of(LeaseAcquired)) == 1
        assert not a.of(LeaseLost)


@pytest.mark.parametrize("fault", ["lose_reply", "lose_request"])
async def test_a_release_of_unknown_outcome_is_repeated(fault: str) -> None:
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(6)
        first, (second,) = holder_of(team), others_of(team)
        lost: list[str] = []

        def lose(verb: str, store: str, key: str) -> str | None:
            if (verb, store) == ("update", "asyncmgr-claims") and len(lost) < 2:
                lost.append(key)
                return fault
            return None

        first.wire.fault = lose
        await first.service.stop()
        await asyncio.sleep(2)
        assert len(lost) >= 1
        assert second.holds
        await asyncio.sleep(10)
        assert numbers(log) == list(range(len(log)))


@pytest.mark.parametrize("verb", ["get", "create", "update", "now"])
async def test_a_call_that_never_returns(verb: str) -> None:
    """It holds nothing up, though it cannot even be cancelled."""
    log: list[Ran] = []
    a = Worker("a", log).add()
    hung: list[str] = []

    def hang(called: str, store: str, key: str) -> str | None:
        if called == verb and len(hung) < 2:
            hung.append(store)
            return "hang"
        return None

    a.wire.fault = hang
    async with a:
        await asyncio.sleep(30)
        assert len(log) >= 3
        assert numbers(log) == list(range(len(log)))
        asyncio.get_running_loop().is_over = True  # type: ignore[attr-defined]


async def test_a_call_that_is_cancelled_before_its_turn_leaves_no_warning() -> None:
    """Of many calls of a store that hangs, those that wait for a place were never begun."""
    async with workers("a") as (_log, (a,)):
        a.wire.fault = lambda verb, store, key: 0.9 if verb == "get" else None
        calls, store = a.cluster.calls, await a.cluster.stores.slots()
        asked = [asyncio.create_task(calls.get(store, "k")) for _ in range(40)]
        await asyncio.sleep(0.1)
        asked += [asyncio.create_task(calls.get(store, "k", urgent=True)) for _ in range(4)]
        await asyncio.sleep(0)
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        assert all(task.cancelled() for task in asked)
        gc.collect()


async def test_a_late_answer_gives_no_right() -> None:
    """A claim that is confirmed after trust ended is not acted on before trust is back."""
    log: list[Ran] = []
    a = Worker("a", log).add(spacing=1)
    started = asyncio.get_running_loop().time()
    a.wire.fault = lambda verb, store, key: (
        "lose_request"
        if store == "asyncmgr-sessions" and asyncio.get_running_loop().time() - started > 0.01
        else None
    )
    async with a:
        await asyncio.sleep(20)
        assert all(ran.at - started < 7.6 for ran in log)
        a.wire.fault = lambda verb, store, key: None
        await asyncio.sleep(5)
        assert a.holds


# Slots


async def test_a_slot_that_was_cut_off_is_not_repeated() -> None:
    async with workers("a", "b", spacing=60) as (log, team):
        first = holder_of(team)
        first.lasts = 100.0
        await asyncio.sleep(61)
        first.vanish()
        await asyncio.sleep(70)
        second = next(worker for worker in team if worker is not first)
        assert [ran.host for ran in log] == [first.host, second.host]
        assert numbers(log) == [0, 1]
        (missed,) = second.of(SlotsMissed)
        assert (missed.reason, missed.count, missed.slot.strftime("%M:%S")) == ("lease_lost", 1, "01:00")


async def test_a_slot_that_was_cut_off_is_told_of_once() -> None:
    """The holder that tells of it writes so first: one that follows before the next run does not tell it again."""
    async with workers("a", "b", "c", spacing=60) as (log, team):
        first = holder_of(team)
        first.lasts = 100.0
        await asyncio.sleep(61)
        first.vanish()
        rest = [worker for worker in team if worker is not first]
        await seconds_until(lambda: any(worker.holds for worker in rest))
        second = holder_of(rest)
        second.vanish()
        third = next(worker for worker in rest if worker is not second)
        await seconds_until(lambda: third.holds)
        await asyncio.sleep(1)
        assert [(e.count, e.reason) for e in second.of(SlotsMissed)] == [(1, "lease_lost")]
        assert not third.of(SlotsMissed)
        await asyncio.sleep(60)
        assert numbers(log) == [0, 1]


@pytest.mark.parametrize(
    "schedule", [{"spacing": 1}, {"spacing": 2}, {"spacing": 0.5}, {"cron": "* * * * * *"}]
)
async def test_a_holder_that_dies_at_its_first_claim_leaves_no_slot_without_a_fate(
    schedule: dict[str, Any],
) -> None:
    """The run of the slot that it has claimed was to stand for those before: the next holder tells of all of them."""
    async with workers("a", "b", "c", **schedule) as (log, team):
        await asyncio.sleep(4.2)
        first = holder_of(team)
        rest = [worker for worker in team if worker is not first]
        first.vanish()
        written: list[Worker] = []
        for worker in rest:
            worker.wire.fault = partial(_claim_without_answer, worker, written)
        await seconds_until(lambda: len(written) == 2)  # it takes the slots over, and claims one
        second = written[-1]
        second.vanish()
        third = next(worker for worker in rest if worker is not second)
        await asyncio.sleep(40)
        assert third.holds
        assert {ran.host for ran in log} == {first.host, third.host}
        last = max(ran.number for ran in log if ran.host == first.host if ran.number is not None)
        ran = sorted(ran.number for ran in log if ran.host == third.host and ran.number is not None)
        step = 1_000_000 if "cron" in schedule else 1
        together = 2 if schedule.get("spacing") == 0.5 else 0  # claimed at once, so perhaps run
        told = sum(event.count for event in third.of(SlotsMissed))
        assert (ran[0] - last) // step - 1 == told + together
        assert told > 6


def _claim_without_answer(
    worker: Worker, written: list[Worker], verb: str, store: str, key: str
) -> str | None:
    if (verb, store) != ("update", "asyncmgr-slots"):
        return None
    written.append(worker)
    return "lose_reply" if len(written) == 2 else None


async def test_a_process_knows_how_its_own_run_ended() -> None:
    """It could not write the outcome, and takes the task again in another session: the slot is not missed."""
    async with workers("a", spacing=60) as (log, (a,)):
        a.lasts = 1.0
        await asyncio.sleep(60.5)
        a.vanish()
        await asyncio.sleep(10)
        assert a.of(RunFinished)
        a.cluster.keeper.drop("tried")
        a.return_()
        await seconds_until(lambda: a.holds)
        assert not a.of(SlotsMissed)
        await asyncio.sleep(60)
        assert numbers(log) == [0, 1]


async def test_slots_without_a_run_are_not_missed_by_the_next_holder() -> None:
    """The last run was long, and slots met it: they have their fate, and the next holder goes on behind them."""
    async with workers("a", "b", spacing=1) as (log, team):
        first, (second,) = holder_of(team), others_of(team)
        await asyncio.sleep(2.2)
        first.lasts = 3.5
        await asyncio.sleep(2)
        await first.service.stop(timeout=5)
        await asyncio.sleep(5)
        skipped = [e for e in first.of(SlotSkipped) if e.reason == "overlap"]
        assert skipped
        missed = sum(e.count for e in second.of(SlotsMissed))  # while the first one drained
        last = max(ran.number or 0 for ran in log if ran.host == first.host)
        following = min(ran.number or 0 for ran in log if ran.host == second.host)
        assert following == last + len(skipped) + missed + 1


async def test_slots_between_a_loss_and_a_release_have_a_fate() -> None:
    """Trust ends and comes back, and the task is given up at that moment: nobody saw to the slots since its end."""
    async with workers("a", "b", spacing=1) as (log, team):
        await asyncio.sleep(4.2)
        first, (second,) = holder_of(team), others_of(team)
        first.vanish()
        await seconds_until(lambda: first.of(LeaseLost))
        await asyncio.sleep(1.2)  # and less than the TTL since the last renewal: the session lives
        first.service.task("M.job").remove()
        first.return_()
        await asyncio.sleep(20)
        assert second.holds
        assert second.of(LeaseAcquired)[0].taken_from is None  # it was released
        last = max(ran.number or 0 for ran in log if ran.host == first.host)
        following = min(ran.number or 0 for ran in log if ran.host == second.host)
        assert following - last > 5
        assert sum(e.count for e in second.of(SlotsMissed)) == following - last - 1


async def test_a_wish_that_is_not_taken_is_void() -> None:
    """A process that asks for a task and dies does not have it handed over again and again."""
    log: list[Ran] = []
    async with Worker("a", log).add(spacing=3).add(name="other", spacing=3) as a:
        await asyncio.sleep(3.5)
        key = task_key("s", "M.job")
        ghost = SessionRecord("ghost~00000000", "ghost", 10.0, 1, wants=key)
        sessions = await a.wire.store(SESSIONS, ttl=SESSIONS_TTL)
        await sessions.put(key_of_session("s", ghost.inc), ghost.encode())
        await asyncio.sleep(12)
        assert len(a.of(LeaseReleased)) == 1
        assert len([ran for ran in log if ran.at > 6.5]) >= 5


async def test_a_slot_that_was_cut_off_is_run_again_where_it_should() -> None:
    async with workers("a", "b", spacing=60, interrupted="rerun") as (log, team):
        first = holder_of(team)
        first.lasts = 100.0
        await asyncio.sleep(61)
        first.vanish()
        await asyncio.sleep(70)
        assert numbers(log) == [0, 0, 1]
        assert log[1].trigger == "catch_up"
        assert log[1].slot == log[0].slot


async def test_no_catch_up() -> None:
    """With ``catch_up="none"`` the slots that passed without a holder have a fate, and no run."""
    async with workers("a", "b", spacing=3, catch_up="none") as (log, team):
        first = holder_of(team)
        await asyncio.sleep(4)
        first.vanish()
        await asyncio.sleep(20)
        second = holder_of(others := [worker for worker in team if worker is not first])
        assert others == [second]
        own = [ran for ran in log if ran.host == second.host]
        assert {ran.trigger for ran in own} == {"schedule"}
        (missed,) = second.of(SlotsMissed)
        assert missed.reason == "lease_lost"
        assert missed.run_id is None
        ran = [ran for ran in log if not (ran.host == first.host and ran.at > 4.5)]
        assert own[0].number - ran[0].number - 1 - (len(ran) - len(own) - 1) == missed.count  # type: ignore[operator]


async def test_catch_up_window() -> None:
    """Slots that are older than the window get no run."""
    async with workers("a", "b", spacing=60, catch_up_window=3, settle=57.0) as (log, team):
        first = holder_of(team)
        first.vanish()  # the slot at 60 passes while nobody may run it
        await asyncio.sleep(80)
        ran = [one for one in log if one.host != first.host]
        assert [one.slot[:5] for one in ran] == ["00:02"]
        second = next(worker for worker in team if worker is not first)
        assert [(e.count, e.reason) for e in second.of(SlotsMissed)] == [(1, "lease_lost")]


async def test_spacings_under_a_second_claim_a_second_at_once() -> None:
    """A task every 0.1 s writes once a second, and its slots go on over holders."""
    async with workers("a", "b", spacing=0.1) as (log, team):
        await asyncio.sleep(3)
        first = holder_of(team)
        before = len([call for call in first.wire.calls if call[1] == "asyncmgr-slots"])
        await asyncio.sleep(10)
        assert len([call for call in first.wire.calls if call[1] == "asyncmgr-slots"]) - before <= 12
        await first.service.stop()
        await asyncio.sleep(5)
        assert numbers(log) == list(range(len(log)))  # also those that were claimed ahead
        assert len({ran.host for ran in log}) == 2


@pytest.mark.parametrize("spacing", [0.05, 0.1, 0.25, 0.4])
async def test_a_stop_gives_back_the_rest_of_a_second(spacing: float) -> None:
    """The next holder runs the slots that the one before had claimed together with its last one, and not reached."""
    async with workers("a", "b", "c", spacing=spacing) as (log, team):
        for worker in team[:2]:
            await asyncio.sleep(2.33)
            await worker.service.stop()
        await asyncio.sleep(3)
        told = sum(event.count for worker in team for event in worker.of(SlotsMissed))
        assert numbers(log) == sorted(set(numbers(log)))
        assert (
            numbers(log)[-1] + 1 - len(log) == told <= 0.1 / spacing
        )  # those that passed between two holders


async def test_a_slot_that_is_claimed_during_the_release() -> None:
    """Its run is refused where the task is given up; the next holder runs it, and nobody says that it was cut off."""
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(7)
        first, (second,) = holder_of(team), others_of(team)
        before = len(log)
        first.wire.fault = lambda verb, store, key: (
            0.3 if (verb, store) == ("update", "asyncmgr-slots") else None
        )
        first.wire.calls.clear()
        await seconds_until(lambda: ("update", "asyncmgr-slots") in [call[:2] for call in first.wire.calls])
        assert len(log) == before
        first.service.task("M.job").disable()
        await asyncio.sleep(7)
        assert numbers(log) == list(range(len(log)))
        assert {ran.host for ran in log[before:]} == {second.host}
        assert not second.of(SlotsMissed)


@pytest.mark.parametrize("spacing", [0.4, 2.0])
async def test_a_slot_that_is_claimed_as_the_service_stops(spacing: float) -> None:
    """Its run is refused, as the service drains; the next holder runs it, also where many are claimed together."""
    async with workers("a", "b", spacing=spacing) as (log, team):
        await asyncio.sleep(5)
        first, (second,) = holder_of(team), others_of(team)
        first.wire.fault = lambda verb, store, key: (
            0.3 if (verb, store) == ("update", "asyncmgr-slots") else None
        )
        await asyncio.sleep(0.5)
        first.wire.calls.clear()
        await seconds_until(lambda: ("update", "asyncmgr-slots") in [call[:2] for call in first.wire.calls])
        await first.service.stop()
        assert "draining" in {event.reason for event in first.of(SlotSkipped)}
        await asyncio.sleep(7)
        told = sum(event.count for event in second.of(SlotsMissed))
        assert numbers(log) == sorted(set(numbers(log)))
        assert (
            numbers(log)[-1] + 1 - len(log) == told <= 0.4 / spacing
        )  # that came up before the release was written


async def test_a_slot_that_waits_for_its_claim_as_the_service_stops() -> None:
    """It was not claimed yet, since the end of the run before was being written: the next holder has it still."""
    async with workers("a", "b", spacing=1.0) as (log, team):
        await asyncio.sleep(5.5)
        first, (second,) = holder_of(team), others_of(team)
        first.wire.fault = lambda verb, store, key: (
            0.9 if (verb, store) == ("update", "asyncmgr-slots") else None
        )
        before = len(log)
        await seconds_until(lambda: len(log) > before)
        await asyncio.sleep(0.3)
        await first.service.stop()
        assert [event.reason for event in first.of(SlotSkipped)][-1:] == ["draining"]
        await asyncio.sleep(7)
        told = sum(event.count for event in second.of(SlotsMissed))
        assert numbers(log) == sorted(set(numbers(log)))
        assert numbers(log)[-1] + 1 - len(log) == told <= 1


async def test_a_catch_up_before_a_release_is_told_of_once() -> None:
    """The slots that passed without a holder are told of by the next one, and not by the one after it again."""
    log: list[Ran] = []
    first, second, third = (Worker(host, log).add(spacing=0.5) for host in "abc")
    async with first:
        await asyncio.sleep(3.1)
    await asyncio.sleep(1.3)
    async with second:
        await seconds_until(lambda: second.of(SlotsMissed))
        async with third:
            before = len(log)
            await seconds_until(lambda: len(log) > before)  # so that all slots that it claimed have run
            await second.service.stop()
            await asyncio.sleep(3)
            told = sum(event.count for worker in (second, third) for event in worker.of(SlotsMissed))
    assert log[-1].host == "c"
    assert numbers(log) == sorted(set(numbers(log)))
    assert numbers(log)[-1] + 1 - len(log) == told > 1


async def test_cron_slots_have_the_number_of_their_moment() -> None:
    """So hosts whose clocks differ do not run one slot twice."""
    async with workers("a", "b", cron="* * * * *") as (log, team):
        await asyncio.sleep(130)
        assert [ran.number for ran in log] == [1704067260_000000, 1704067320_000000]
        await holder_of(team).service.stop()
        await asyncio.sleep(60)
        assert len({ran.number for ran in log}) == len(log) == 3


async def test_an_every_pass_task_has_a_grid_of_a_minute() -> None:
    async with workers("a", "b", spacing=0) as (log, _team):
        await asyncio.sleep(190)
        assert numbers(log) == [0, 1, 2, 3] or numbers(log) == [0, 1, 2]
        assert set(gaps(log)) == {60.0}


async def test_a_changed_spacing_counts_from_the_last_slot() -> None:
    """The next version of a program has another spacing: its first slot is the last one plus that."""
    log: list[Ran] = []
    b = Worker("b", log)  # whose connection keeps the store
    async with Worker("a", log).add(spacing=10):
        await asyncio.sleep(21)
    async with b.add(spacing=3):
        await asyncio.sleep(6)
    assert gaps(log)[:3] == [10.0, 3.0, 3.0]
    assert numbers(log) == [0, 1, 2, 3]


async def test_run_immediately_is_the_start_of_the_cluster() -> None:
    """The first process runs the task at once; a restart goes on with its grid."""
    log: list[Ran] = []
    b = Worker("b", log)  # whose connection keeps the store
    async with Worker("a", log).add(spacing=60, run_immediately=True):
        await asyncio.sleep(1)
    async with b.add(spacing=60, run_immediately=True):
        await asyncio.sleep(70)
    assert gaps(log) == [60.0]


@pytest.mark.parametrize(
    ("stops_after", "first"), [(1, 6.0), (4, 6.0), (600, 1206.0)], ids=["at once", "later", "long delay"]
)
async def test_the_first_slot_outlives_a_release(stops_after: float, first: float) -> None:
    """A task that moves before its first slot keeps `initial_delay`: the next holder does not wait for a spacing."""
    log: list[Ran] = []
    options: dict[str, Any] = {"spacing": 150, "initial_delay": first}
    b = Worker("b", log)  # whose connection keeps the store
    began = asyncio.get_running_loop().time()
    async with Worker("a", log).add(**options):
        await asyncio.sleep(stops_after)
    async with b.add(**options):
        await asyncio.sleep(first + 350 - stops_after)
    assert [round(ran.at - began, 1) for ran in log] == [first, first + 150, first + 300]
    assert numbers(log) == [0, 1, 2]
    assert not b.of(SlotsMissed)


async def test_a_first_slot_between_two_holders_is_caught_up() -> None:
    """It came up while nobody held the task: the next holder runs it at once."""
    log: list[Ran] = []
    b = Worker("b", log)
    async with Worker("a", log).add(spacing=150, initial_delay=6):
        await asyncio.sleep(1)
    await asyncio.sleep(9)
    async with b.add(spacing=150, initial_delay=6):
        await asyncio.sleep(150)
    assert [(ran.trigger, ran.host) for ran in log] == [("catch_up", "b"), ("schedule", "b")]
    assert gaps(log)[0] == pytest.approx(146, abs=0.3)


async def test_overlap_queue() -> None:
    """A slot that waits for the run before it is claimed when its turn comes."""
    async with workers("a", spacing=2, overlap="queue") as (log, (a,)):
        a.lasts = 3.0
        await asyncio.sleep(13)
        assert numbers(log) == [0, 1, 2, 3] or numbers(log)[:2] == [0, 1]
        assert numbers(log) == sorted(set(numbers(log)))


async def test_a_triggered_run_has_the_token_and_no_number() -> None:
    from asyncmgr.errors import NotOwner

    async with workers("a", "b") as (log, team):
        await holder_of(team).service.task("M.job").trigger()
        assert log[-1].number is None
        assert log[-1].token == holder_of(team).of(LeaseAcquired)[0].token
        other = others_of(team)[0]
        with pytest.raises(NotOwner, match=f"{holder_of(team).host}~"):
            await other.service.task("M.job").trigger()


# Tasks that come, go and pause


async def test_a_paused_holder_keeps_the_task() -> None:
    """So a pause at the holder is a pause in the cluster."""
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(6)
        first = holder_of(team)
        first.service.task("M.job").pause()
        await asyncio.sleep(20)
        assert len(log) == 1
        assert holder_of(team) is first
        first.service.task("M.job").resume()
        await asyncio.sleep(6)
        assert len(log) == 2


async def test_a_paused_process_does_not_take_the_task() -> None:
    async with workers("a", "b") as (_log, team):
        first, (second,) = holder_of(team), others_of(team)
        second.service.task("M.job").pause()
        await first.service.stop()
        await asyncio.sleep(5)
        assert not second.holds
        second.service.task("M.job").resume()
        await asyncio.sleep(1)
        assert second.holds


async def test_a_task_that_is_removed_goes_to_another_process() -> None:
    async with workers("a", "b") as (log, team):
        await asyncio.sleep(6)
        first, (second,) = holder_of(team), others_of(team)
        first.service.task("M.job").remove()
        await asyncio.sleep(1)
        assert second.holds
        await asyncio.sleep(15)
        assert numbers(log) == list(range(len(log)))


async def test_hosts_share_tasks_out() -> None:
    """A process that joins gets its share, each task between two runs."""
    log: list[Ran] = []
    a = Worker("a", log)
    b = Worker("b", log)
    for worker in (a, b):
        for number in range(10):
            worker.add(name=f"t{number}", spacing=1)
    async with a:
        await asyncio.sleep(3)
        assert len(a.cluster.claims.held()) == 10
        async with b:
            await asyncio.sleep(20)
            assert len(a.cluster.claims.held()) == len(b.cluster.claims.held()) == 5
            held = len(b.of(LeaseAcquired))
            await asyncio.sleep(20)
            assert len(b.of(LeaseAcquired)) == held  # nothing goes to and fro
            assert not b.of(SlotsMissed)


# Cost


async def test_an_idle_process_only_renews() -> None:
    """The steady cost of 200 tasks is that of one session: a write every 3.2 s."""
    log: list[Ran] = []
    a = Worker("a", log)
    for number in range(200):
        a.add(name=f"t{number}", spacing=3600)
    async with a:
        await asyncio.sleep(30)
        before = len(a.wire.calls)
        await asyncio.sleep(100)
        made = a.wire.calls[before:]
        assert {(verb, store) for verb, store, _ in made} == {("update", "asyncmgr-sessions")}
        assert 30 <= len(made) <= 34


async def test_renewals_wait_for_no_claim() -> None:
    """A start that claims 200 tasks over a slow store does not keep the session from being renewed in time."""
    log: list[Ran] = []
    a = Worker("a", log)
    for number in range(200):
        a.add(name=f"t{number}", spacing=3600)
    a.wire.fault = lambda verb, store, key: None if store == "asyncmgr-sessions" else 0.9
    async with a:
        await seconds_until(lambda: a.cluster.trusted)
        inc, least = a.cluster.session.inc, a.cluster.session.trust_left
        for _ in range(100):
            await asyncio.sleep(1)
            least = min(least, a.cluster.session.trust_left)
        assert least > 3.9  # of 7.5 s, renewed every 3.3 s
        assert a.cluster.session.inc == inc
        assert len(a.of(LeaseAcquired)) == 200
        assert not a.of(LeaseLost)


def _late_by(seconds: float, verb: str, store: str, key: str) -> float:
    return seconds


@pytest.mark.slow
async def test_hosts_that_start_together_do_not_all_claim_everything() -> None:
    """Eight hosts hear of one another too late: for 300 names they make few claims in vain, and need no second."""
    log: list[Ran] = []
    team = [Worker(f"h{number}", log) for number in range(8)]
    for number, worker in enumerate(team):  # each begins before it hears of the next one
        worker.wire.fault = partial(_late_by, 0.005 + 0.001 * number)
        for number in range(300):
            worker.add(name=f"t{number}", spacing=86400)
    await asyncio.gather(*(worker.service.start() for worker in team))

    def held() -> int:
        return sum(len(worker.cluster.claims.held()) for worker in team)

    assert await seconds_until(lambda: held() == 300) < 1.5
    written = [
        key
        for worker in team
        for verb, store, key in worker.wire.calls
        if store == "asyncmgr-claims" and verb == "create"
    ]
    assert len(set(written)) == 300
    assert len(written) < 450
    for worker in team:
        await worker.__aexit__()


@pytest.mark.slow
async def test_fifty_hosts_renew_sixteen_times_a_second() -> None:
    log: list[Ran] = []
    team = [Worker(f"h{number}", log) for number in range(50)]
    for worker in team:
        for number in range(20):
            worker.add(name=f"t{number}", spacing=86400)
        await worker.service.start()
    await asyncio.sleep(60)
    for worker in team:
        worker.wire.calls.clear()
    await asyncio.sleep(20)
    calls = sum(len(worker.wire.calls) for worker in team)
    assert 14 <= calls / 20 <= 17
    assert sum(len(worker.cluster.claims.held()) for worker in team) == 20
    for worker in team:
        await worker.__aexit__()
