"""Every slot has exactly one fate: random histories of a service in virtual time, against a naive model."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asyncmgr._common.clock as clocks
from asyncmgr import Retry, Settings
from asyncmgr._common.clock import Moment
from asyncmgr._history.journal import Journal
from asyncmgr._history.ledger import Ledger, Span
from asyncmgr._history.slots import FATES, TASK_SHIFT
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.schedules import Gap
from asyncmgr.errors import AlreadyRunning, ServiceStateError
from asyncmgr.testing import VirtualTimeLoop, run_virtual
from tests.helpers import Recorded, task

EXAMPLES = int(os.environ.get("HISTORIES", "300"))
"""The number of random histories; `nox -s histories` asks for many more."""

STEPS = [
    "wait",
    "wait",
    "wait",
    "wait",
    "block",
    "sleep",
    "clock",
    "back",
    "pause",
    "resume",
    "disable",
    "enable",
    "spacing",
    "cron",
    "trigger",
    "remove",
    "add",
    "reload",
    "cancel",
]

Fate = tuple[str, str | None]


@dataclass
class Grid:
    """One grid of one task: from the moment at which it was planned to the moment at which another one was."""

    task: ManagedTask
    schedule: Any
    first: int | None
    fates: list[tuple[int, Fate]] = field(default_factory=list)
    """What was told of each slot, on the scale of the grid, in the order of telling."""
    ended: int | None = None
    """Where the grid ends, on its own scale: a slot after this moment is not due any more."""
    since: int = 0
    """When it was planned, in scheduling time, which never goes back."""
    until: int = 2**62
    repeats: int = 0
    """How often the wall was set back meanwhile: its slots may come as often again."""

    def has(self, slot: int) -> bool:
        if self.first is None or (slot < self.first and not self.repeats):
            return False
        step = getattr(self.schedule, "step", None)
        on_grid = self.schedule.first(slot - 1) == slot if step is None else (slot - self.first) % step == 0
        return bool(on_grid or slot == self.first)


class Witness(Ledger):
    """A ledger that also writes down each fate slot by slot, as naively as can be."""

    def __init__(self) -> None:
        super().__init__(Journal())
        self.grids: list[Grid] = []
        self.now: dict[str, Grid] = {}
        """By the name of a task: the grid that has no end yet."""
        self.noted: Grid | None = None
        """The grid of the slot that was told last."""
        self.spans: dict[int, tuple[Grid, int, Span]] = {}
        """By number: the grid of a span, its first slot on the scale of the grid, and the span. A slot that was handed
        out by the grid before is a part of it, where the new grid goes on right after that slot."""

    def add(self, task: ManagedTask) -> None:
        super().add(task)
        moment = self.read()
        former = self.now.get(task.full_name)
        if former is not None and former.ended is None:
            former.ended, former.until = self.at(former, moment), moment.now
        grid = Grid(task, task.plan.grid, task.plan.slot, since=moment.now)
        self.grids.append(grid)
        self.now[task.full_name] = grid
        inner = task.record
        assert inner is not None

        def record(run: Any, duration: float) -> None:
            self.tell(run, "succeeded")
            inner(run, duration)

        task.record = record

    def _extend(self, task: ManagedTask, gap: Gap, code: int, text: str, shift: int) -> None:
        super()._extend(task, gap, code, text, shift)
        span = self._open[task.key >> TASK_SHIFT]
        assert self.noted is not None  # right before, for the same slots
        _, first, _ = self.spans.get(span.number, (self.noted, gap.first, span))
        self.spans[span.number] = self.noted, first, span

    def at(self, grid: Grid, moment: Moment) -> int:
        return moment.wall if grid.schedule.on_wall else moment.now

    def read(self) -> Moment:
        return self.clock()

    def clock(self) -> Moment:
        raise NotImplementedError

    def note(self, task: ManagedTask, slot: int, fate: Fate, *, on_wall: bool, at: int | None = None) -> None:
        self.noted = self.grid_of(task, slot, on_wall=on_wall, at=at)
        self.noted.fates.append((slot, fate))

    def grid_of(self, task: ManagedTask, slot: int, *, on_wall: bool, at: int | None = None) -> Grid:
        """Find the grid of a slot: a run that ends after the task got another one belongs to the one before.

        `at` is the moment at which the slot was handed out: two grids may have it, where the wall was set back.
        """
        its = [
            grid
            for grid in self.grids
            if grid.task.full_name == task.full_name and grid.schedule.on_wall is on_wall and grid.has(slot)
        ]
        assert its, f"{task.full_name}: {slot} is on no grid"
        if at is not None:
            its = [grid for grid in its if grid.since <= at <= grid.until] or its
        # Only where the wall went back a grid has slots before its first one.
        return max(its, key=lambda grid: (slot >= (grid.first or 0), self.grids.index(grid)))

    def slots(self, grid: Grid, until: int) -> list[int]:
        """Walk from slot to slot."""
        found, slot = [], grid.first
        while slot is not None and slot <= until:
            found.append(slot)
            following = grid.schedule.first(slot)
            slot = following if following != slot else None
        return found

    def tell(self, run: Any, fate: str, reason: str | None = None) -> None:
        if run.asked not in ("manual", "pass", "retry"):
            self.note(run.managed, run.planned, (fate, reason), on_wall=run.on_wall, at=run.look.moment.now)

    def succeeded(self, run: Any, duration: float) -> None:
        if run.attempt > 1:  # which the task's `record` is not told of
            self.tell(run, "succeeded")
        super().succeeded(run, duration)

    def ended(self, run: Any, duration: float, outcome: Any, error: Any) -> None:
        self.tell(run, str(outcome))
        super().ended(run, duration, outcome, error)

    def skipped(self, run: Any, reason: Any, *, holder: str | None = None, with_older: bool = False) -> None:
        if with_older:
            self.older(run, ("skipped", reason))
        self.tell(run, "skipped", reason)
        super().skipped(run, reason, holder=holder, with_older=with_older)

    def older(self, run: Any, fate: Fate) -> None:
        slot, told = run.oldest, 0
        at = run.look.moment.now
        grid = self.grid_of(run.managed, slot, on_wall=run.on_wall, at=at)
        while slot < run.planned:
            self.note(run.managed, slot, fate, on_wall=run.on_wall, at=at)
            slot, told = grid.schedule.first(slot), told + 1
        assert told == run.missed, (told, run.missed)

    def missed(self, run: Any, reason: Any) -> None:
        self.older(run, ("missed", reason))
        super().missed(run, reason)

    def late(self, run: Any) -> None:
        if run.missed:
            self.older(run, ("missed", "late"))
        self.tell(run, "missed", "late")
        super().late(run)

    def gap(self, task: ManagedTask, gap: Gap, reason: Any, moment: Moment) -> None:
        slot, told = gap.first, 0
        while slot <= gap.last:
            self.note(task, slot, ("skipped", reason), on_wall=task.plan.grid.on_wall)
            slot, told = task.plan.grid.first(slot) or gap.last + 1, told + 1
        assert told == gap.slots
        super().gap(task, gap, reason, moment)


class History:
    """One random history."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.witness = Witness()
        self.wall_went_back = False
        self.asleep = 0

    def body(self) -> Any:
        lengths = self.random.choice([(0.0,), (0.0, 3.0), (12.0,), (0.0, 70.0), (9.95,)])
        fails = self.random.choice([0.0, 0.0, 0.0, 0.5, 0.9])
        choose = random.Random(self.random.random())

        async def run(context: Any) -> None:
            length = choose.choice(lengths)
            if length:
                await asyncio.sleep(length)
            if choose.random() < fails:
                raise ValueError("no")

        return run

    def options(self) -> dict[str, Any]:
        draw = self.random
        schedules: list[dict[str, Any]] = [
            {"spacing": draw.choice([0, 1, 7, 10, 60])},
            {"cron": draw.choice(["*/5 * * * * *", "* * * * *", "*/3 * * * *"])},
        ]
        chosen = draw.choice(schedules)
        chosen["overlap"] = draw.choice(["skip", "queue", "allow"])
        if draw.random() < 0.2 and chosen.get("spacing"):
            chosen["jitter"] = draw.choice([0.1, 3])
        if draw.random() < 0.2:
            chosen["misfire_grace"] = draw.choice([0.5, 2, 30])
        if draw.random() < 0.2:
            chosen["timeout"] = draw.choice([1, 11])
        if draw.random() < 0.2 and "spacing" in chosen:
            chosen["run_immediately"] = True
        if draw.random() < 0.1:
            chosen["enabled"] = False
        if draw.random() < 0.3:
            chosen["retry"] = Retry(draw.choice([2, 5]), delay=draw.choice([0, 1.5, 20]), on=ValueError)
        if draw.random() < 0.3:
            chosen["backoff"] = True
        if draw.random() < 0.1:
            chosen["pause_after"] = draw.choice([1, 3])
        if draw.random() < 0.2:
            chosen["freshness"] = draw.choice([15, 100])
        return chosen

    async def live(self) -> None:
        tasks = [
            task(self.body(), name=f"t{number}", **self.options())
            for number in range(self.random.randint(1, 3))
        ]
        recorded = self.recorded = Recorded(*tasks, drain_timeout=self.random.choice([0.0, 5.0, 30.0]))
        service = recorded.service
        service._reporter.recorder = service._history.ledger = self.witness
        service._history.journal = self.witness._journal = service.journal
        from asyncmgr._service.manager import state_of

        self.witness.clock = lambda: (  # type: ignore[method-assign]
            service._runner.lookout.clock.read()
            if service._runner
            else state_of(recorded.manager).clock.read()
        )
        close = service._close_history

        async def close_history() -> None:
            for name in tuple(self.witness.now):
                self.end(name)
            await close()

        service._close_history = close_history  # type: ignore[method-assign]
        await service.start()
        for _ in range(self.random.randint(1, 12)):
            await self.step()
        await asyncio.sleep(self.random.choice([0, 0.5, 20]))
        await service.stop()

    async def step(self) -> None:
        draw, loop = self.random, asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        names = [one.full_name for one in self.recorded.service.tasks]
        handle = self.recorded.service.task(draw.choice(names)) if names else None
        kind = draw.choice(STEPS)
        if kind == "wait" or handle is None:
            await loop.let_pass(draw.choice([0.05, 0.95, 1, 4, 9.9, 33, 61, 300]))
        elif kind == "block":
            loop._advance(round(draw.choice([0.4, 1.5, 15, 130]) * 1e6))
        elif kind in ("sleep", "clock"):
            self.shift(loop, draw.choice([2, 45, 400]), asleep=kind == "sleep")
        elif kind == "back":
            self.shift(loop, -draw.choice([2, 45, 400]))
        elif kind == "pause":
            handle.pause(for_=draw.choice([None, 3, 25]))
        elif kind == "resume":
            handle.resume()
        elif kind == "disable":
            handle.disable()
        elif kind == "enable":
            handle.enable()
        elif kind == "spacing":
            handle.reschedule(spacing=draw.choice([2, 10, 45]))
        elif kind == "cron":
            handle.reschedule(cron=draw.choice(["*/7 * * * * *", "*/2 * * * *"]))
        elif kind == "trigger":
            await self.trigger(handle)
        elif kind == "remove":
            handle.remove()
            self.end(handle.full_name)
        elif kind == "cancel":
            handle.cancel()
        elif kind == "add":
            name = f"t{draw.randint(0, 4)}"
            if f"M.{name}" not in names:
                self.recorded.manager.add_periodic_task(self.body(), name=name, **self.options())
        elif kind == "reload":
            self.reload(handle.full_name)

    def end(self, name: str) -> None:
        grid, moment = self.witness.now.pop(name), self.witness.read()
        grid.ended, grid.until = self.witness.at(grid, moment), moment.now

    def shift(self, loop: VirtualTimeLoop, seconds: int, *, asleep: bool = False) -> None:
        if seconds > 0 and self.wall_went_back:
            return  # what was taken before the wall went back is not taken again: not for a naive model
        if seconds < 0:
            self.wall_went_back = True
        if asleep:
            self.asleep += round(seconds * 1e6)
        if seconds < 0:  # two steps that are noticed together may make more than a minute
            for grid in self.witness.grids:
                if grid.schedule.on_wall:
                    grid.repeats += 1
        loop._wall.shift(round(seconds * 1e6))
        for listener in loop._wall_listeners:
            loop.call_soon(listener)

    async def trigger(self, handle: Any) -> None:
        with suppress(AlreadyRunning, ServiceStateError):
            await handle.trigger(wait=False)

    def reload(self, name: str) -> None:
        changes: list[dict[str, Any]] = [
            {"enabled": False},
            {"enabled": True},
            {"spacing": 20},
            {},
            {"retry": 3},
            {"retry": 1, "backoff": False},
            {"backoff": True, "freshness": 30},
        ]
        change = self.random.choice(changes)
        self.recorded.service._put_in_force(Settings(seed=1, tasks={name: change}))

    # The model

    def check(self) -> None:
        for name in {grid.task.full_name for grid in self.witness.grids}:
            self.check_spans(name)
        for grid in self.witness.grids:
            self.check_grid(grid)
        for grid, first, span in self.witness.spans.values():
            self.check_span(grid, first, span)

    def check_span(self, grid: Grid, first: int, span: Span) -> None:
        """A span has the slots that a walk over the grid finds, and each was told to have its fate."""
        name, on_wall = grid.task.full_name, grid.schedule.on_wall
        alike = [
            one for one in self.witness.grids if (one.task.full_name, one.schedule.on_wall) == (name, on_wall)
        ]
        if any(one.repeats for one in alike):
            return
        told = {each for one in alike for each in one.fates}
        slots = [first]
        while slots[-1] < span.grid_last:
            slots.append(grid.schedule.first(slots[-1]))
        assert len(slots) == span.view[1]
        assert {(slot, FATES[span.key & 0xFF]) for slot in slots} <= told

    def check_grid(self, grid: Grid) -> None:
        told = Counter(slot for slot, _ in grid.fates)
        assert grid.ended is not None
        most = 1 + grid.repeats
        assert not [slot for slot, times in told.items() if times > most], (grid, told)
        due = self.witness.slots(grid, grid.ended)
        lost = [slot for slot in due if slot not in told]
        assert not lost, f"{grid.task.full_name}: no fate for {lost[:5]} of {len(due)}; {grid.schedule}"
        early = [slot for slot in told if slot > grid.ended]
        assert len(early) <= 1 or self.wall_went_back, (
            "only a nearly due slot may have a fate before it is due"
        )

    def check_spans(self, name: str) -> None:
        records = list(self.witness.records(name))
        counts: Counter[Fate] = Counter()
        for record in records:
            if record.trigger not in ("manual", "retry"):
                counts[record.fate, record.reason] += record.count
        told = Counter(
            fate for grid in self.witness.grids if grid.task.full_name == name for _, fate in grid.fates
        )
        assert counts == told


def play(seed: int) -> History:
    history = History(seed)
    before = clocks.read_asleep
    clocks.read_asleep = lambda: history.asleep
    try:
        run_virtual(history.live())
    finally:
        clocks.read_asleep = before
    return history


@pytest.mark.slow
@pytest.mark.parametrize("share", range(4))  # of several workers
@settings(max_examples=EXAMPLES // 4)
@given(st.integers(0, 2**40))
def test_every_due_slot_has_exactly_one_fate(share: int, seed: int) -> None:
    """Over verbs, overlaps, clock steps, sleeps, blocks, reloads and a stop; and the spans count what was told."""
    play(seed * 4 + share).check()
