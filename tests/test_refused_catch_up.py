"""A catch-up run that is refused after its slot was claimed: each slot that it stood for gets one fate, no more."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from asyncmgr.events import RunFinished, SlotSkipped, SlotsMissed
from tests.workers import Worker, numbers, others_of, seconds_until, workers

pytestmark = pytest.mark.usefixtures("virtual_time")

SPACING = 2.0


def fates_of(team: list[Worker], spacing: float = SPACING) -> dict[int, list[str]]:
    """What all processes together have told of each slot, by its number on the grid.

    That a slot was not run here, but perhaps elsewhere, is no fate in the cluster.
    """
    found: dict[int, list[str]] = defaultdict(list)
    for worker in team:
        for event in worker.events:
            match event:
                case RunFinished():
                    count, fate, first = 1, str(event.outcome), 0
                case SlotSkipped() if event.reason not in ("not_owner", "lease_lost"):
                    count, fate, first = 1, event.reason, 0
                case SlotsMissed():
                    # Those of a run that stands for them are before its slot.
                    first = 1 if event.run_id is not None else 0
                    count, fate = event.count, f"missed {event.reason}"
                case _:
                    continue
            slot = round(event.slot.timestamp() / spacing)
            for back in range(first, first + count):
                found[slot - back].append(fate)
    return found


def slow_claim(worker: Worker, seconds: float, then: Callable[[], object]) -> list[str]:
    """Let the claim of the next slot take so long, and do something while it is in flight. Returns what was claimed."""
    claimed: list[str] = []

    def fault(verb: str, store: str, key: str) -> float | None:
        if (verb, store) != ("update", "asyncmgr-slots") or claimed or not worker.holds:
            return None  # the take-over comes first
        claimed.append(key)
        asyncio.get_running_loop().call_later(seconds / 2, then)
        return seconds

    worker.wire.fault = fault
    return claimed


def cut(worker: Worker) -> None:
    """End trust before the answer comes: no renewal gets through for a while."""
    worker.cluster.session._renewed = None
    worker.cluster._session_changed()


def stop(worker: Worker) -> None:
    worker.ending = asyncio.ensure_future(worker.service.stop(timeout=5))  # type: ignore[attr-defined]


LEFT = {"draining", "disabled", "removed"}
"""Why a process runs no slot that it has claimed: it gives it back, and the next holder decides what becomes of it."""

REFUSALS: dict[str, tuple[Callable[[Worker], object], dict[str, Any]]] = {
    "nothing": (lambda worker: None, {}),
    "trust-ends": (cut, {}),
    "stopped": (stop, {}),
    "paused": (lambda worker: worker.service.task("M.job").pause(), {}),
    "disabled": (lambda worker: worker.service.task("M.job").disable(), {}),
    "removed": (lambda worker: worker.service.task("M.job").remove(), {}),
    "too-late": (lambda worker: None, {"misfire_grace": 0.5}),
}


@pytest.mark.parametrize("how", REFUSALS)
async def test_older_slots_have_one_fate(how: str) -> None:
    """Whatever refuses it: each older slot is told as missed, once, and so it is with the claimed one."""
    refuse, options = REFUSALS[how]
    async with workers("a", "b", "c", spacing=SPACING, **options) as (log, team):
        await asyncio.sleep(4.2)
        first, rest = next(worker for worker in team if worker.holds), others_of(team)
        claims = [slow_claim(worker, 0.8, lambda worker=worker: refuse(worker)) for worker in rest]  # type: ignore[misc]
        first.vanish()
        before = first.events[:]
        await seconds_until(lambda: any(claims))
        second = next(worker for worker in rest if worker.holds)
        run = next(iter(second.cluster.claims.held()[0].holder._waiting)).run
        claimed, missed = round(run.slot.timestamp() / SPACING), run.missed
        assert missed >= 3
        await asyncio.sleep(40)
        assert numbers(log) == sorted(set(numbers(log)))
        first.events[:] = before  # what it could not know to be another's by now
        found = fates_of(team)
        assert [found[claimed - back] for back in range(1, missed + 1)] == [
            [f"missed {'late' if how == 'too-late' else 'lease_lost'}"]
        ] * missed
        assert len([fate for fate in found[claimed] if fate not in LEFT]) == 1, found[claimed]


async def test_slots_that_were_refused_without_trust_are_the_next_holders() -> None:
    """A holder gives the task up while its own run still unwinds: the slots that it refused meanwhile have a fate."""
    async with workers("a", "b", spacing=1) as (log, team):
        first, (second,) = next(worker for worker in team if worker.holds), others_of(team)
        first.lasts, first.unwinds = 100.0, 3.0
        await asyncio.sleep(5.2)
        first.vanish()
        await seconds_until(lambda: any(event.reason == "lease_lost" for event in first.of(SlotSkipped)))
        first.return_()
        await seconds_until(lambda: first.cluster.trusted)
        first.service.task("M.job").remove()
        await seconds_until(lambda: second.holds)
        await asyncio.sleep(10)
        assert numbers(log) == sorted(set(numbers(log)))
        found = fates_of(team, spacing=1)
        # The run that was cut off, and the slots that met it, were told here too.
        assert not [slot for slot in range(min(found), max(found)) if not found[slot]]
