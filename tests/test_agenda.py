"""The agenda, driven at random against a naive model: each slot is handed out once, or counted, or refused."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncmgr._common.clock import SECOND, Moment
from asyncmgr._common.heap import LazyHeap
from asyncmgr._tasks.agenda import MOST_AT_ONCE, Agenda, Batch, Due
from asyncmgr._tasks.declare import declare
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.plan import RETRY
from asyncmgr._tasks.schedules import Cron, Every, EveryPass, Schedule

WALL = 1_767_225_600 * SECOND
TOLERANCE = 200_000
MINUTE = 60 * SECOND


def task_of(name: str = "a", **options: Any) -> ManagedTask:
    return ManagedTask(None, name, f"M.{name}", declare(options), tolerance=TOLERANCE)


def agenda_of(*tasks: ManagedTask, at: int = 0) -> Agenda[Due]:
    """An agenda under a service that has just started."""
    agenda = Agenda(Due, random.Random(1))
    for task in tasks:
        task.plan.begin_at(moment(at), by_service=True)
        agenda.add(task)
    return agenda


def moment(now: int) -> Moment:
    return Moment(now, WALL + now)


def look(agenda: Agenda[Due], at: Moment) -> Batch[Due]:
    """Take what is due and write it into the standings, as the runner does."""
    batch = agenda.take(at)
    for due in batch.due:
        due.managed.standing.running += 1
        due.managed.standing.last_run = at.wall
    for due in batch.queued:
        due.managed.standing.queued = True
    for due in batch.refused:
        due.managed.standing.skipped += 1
    for due in (*batch.due, *batch.queued, *batch.refused):
        due.managed.standing.missed += due.missed
    return batch


def taken(dues: list[Due]) -> list[tuple[str, int, int]]:
    return [(due.managed.name, due.planned, due.missed) for due in dues]


def places(agenda: Agenda[Due]) -> int:
    return sum(lane.places for lane in agenda._lanes.values())


# Tables


def test_an_empty_agenda_has_nothing_to_wait_for() -> None:
    """Neither a slot nor a wake-up."""
    agenda = agenda_of()
    assert look(agenda, moment(0)) == Batch()
    assert (agenda.next_wake(moment(0)), len(agenda), list(agenda.tasks())) == (None, 0, [])


def test_due_and_nearly_due_slots_are_handed_out_together() -> None:
    """The window's edge is in, a microsecond more is out."""
    agenda = agenda_of(task_of("a", spacing=10), task_of("b", spacing=10.2), task_of("c", spacing=10.200001))
    assert agenda.next_wake(moment(0)) == 10 * SECOND
    assert taken(look(agenda, moment(10 * SECOND)).due) == [("a", 10_000_000, 0), ("b", 10_200_000, 0)]
    assert agenda.next_wake(moment(10 * SECOND)) == 10_200_001


def test_an_every_pass_task_is_due_at_the_start_and_then_each_minute() -> None:
    """Siblings' slots do not change its rate."""
    every, often = task_of("every"), task_of("often", spacing=7)
    agenda = agenda_of(every, often)
    starts = []
    for second in range(0, 200, 7):
        batch = look(agenda, moment(second * SECOND))
        starts += [due.planned // SECOND for due in batch.due if due.managed is every]
        every.standing.running = often.standing.running = 0
    assert starts == [0, 60, 120, 180]


def test_thirty_days_of_seconds_are_one_slot_and_a_count() -> None:
    """Without a walk over the slots."""
    agenda = agenda_of(task_of("a", spacing=1))
    days = 30 * 86_400
    assert taken(look(agenda, moment(days * SECOND)).due) == [("a", days * SECOND, days - 1)]


@pytest.mark.parametrize(
    ("overlap", "due", "queued", "refused"),
    [("skip", 1, 0, 12), ("queue", 1, 1, 11), ("allow", MOST_AT_ONCE, 0, 13 - MOST_AT_ONCE)],
)
def test_a_slot_that_meets_its_own_run(overlap: str, due: int, queued: int, refused: int) -> None:
    """Is refused, kept (one) or started (up to ten at once): none is dropped in silence."""
    entry = task_of("a", spacing=10, overlap=overlap)
    agenda = agenda_of(entry)
    batches = [look(agenda, moment(number * 10 * SECOND)) for number in range(1, 14)]
    counts = [sum(len(getattr(batch, kind)) for batch in batches) for kind in ("due", "queued", "refused")]
    assert counts == [due, queued, refused]
    assert entry.standing.skipped == refused


def test_an_entry_that_was_removed_is_not_handed_out() -> None:
    """Removing what is not there does nothing."""
    one, two = task_of("a", spacing=10), task_of("b", spacing=10)
    agenda = agenda_of(one, two)
    agenda.remove(one)
    agenda.remove(one)
    assert (len(agenda), list(agenda.tasks())) == (1, [two])
    assert taken(look(agenda, moment(10 * SECOND)).due) == [("b", 10_000_000, 0)]


@pytest.mark.parametrize("removed_every", [1, 2, 3])
def test_churn_keeps_memory_flat(removed_every: int) -> None:
    """Adding, rescheduling and removing for ever leaves no places behind."""
    entries = [task_of(str(number), spacing=1_000 + number) for number in range(20)]
    agenda = agenda_of(*entries)
    for number in range(5_000):
        entry = entries[number % 20]
        agenda.remove(entry)
        options = declare({"spacing": 1 + number % 7, "tolerance": number % 3})
        entry.plan.reschedule(options, moment(number), by_service=True)
        if number % removed_every:
            agenda.add(entry)
        assert places(agenda) <= 2 * len(agenda) + LazyHeap.FEW * len(agenda._lanes) + 1
        assert len(agenda._lanes) <= len(agenda)


@dataclass
class Broken:
    """A schedule that is due at once and cannot say what comes next."""

    on_wall: ClassVar[bool] = False
    spacing: float | None = 10.0

    def first(self, start: int) -> int:
        return start + 10 * SECOND

    def turn(self, slot: int, now: int, window: int) -> tuple[int, int, int]:
        raise ArithmeticError("on purpose")

    def gap(self, slot: int) -> int:
        return 10 * SECOND


@dataclass
class BrokenGap(Broken):
    """A schedule that fails where the jitter is drawn."""

    broken: bool = False

    def turn(self, slot: int, now: int, window: int) -> tuple[int, int, int]:
        self.broken = True
        return slot, 0, slot + 10 * SECOND

    def gap(self, slot: int) -> int:
        if self.broken:
            raise ArithmeticError("on purpose")
        return 10 * SECOND


@pytest.mark.parametrize("schedule", [Broken(), BrokenGap()], ids=lambda schedule: type(schedule).__name__)
def test_a_schedule_that_raises_leaves_the_batch_whole(schedule: Schedule) -> None:
    """It comes back with its error and is asked again a minute later; the others are handed out."""
    broken = ManagedTask(None, "b", "M.b", PeriodicTask(schedule, jitter=SECOND), tolerance=0)
    agenda = agenda_of(task_of("a", spacing=10), broken, task_of("c", spacing=10))
    now = moment(12 * SECOND)
    batch = look(agenda, now)
    assert sorted(taken(batch.due)) == [("a", 10_000_000, 0), ("c", 10_000_000, 0)]
    assert [(entry, str(error)) for entry, error in batch.failed] == [(broken, "on purpose")]
    assert len(agenda) == 3
    for entry in list(agenda.tasks()):
        if entry is not broken:
            agenda.remove(entry)
    assert agenda.next_wake(now) == now.now + RETRY


def test_a_set_back_of_the_wall_plans_cron_slots_anew() -> None:
    """And no others."""
    cron, every = task_of("cron", cron="* * * * *"), task_of("every", spacing=90)
    agenda = agenda_of(cron, every)
    look(agenda, moment(0))
    back = Moment(SECOND, WALL - 3_601 * SECOND)
    agenda.set_back(back)
    assert (cron.plan.slot, every.plan.slot) == (WALL - 3_600 * SECOND, 90 * SECOND)
    assert agenda.next_wake(back) == 2 * SECOND


# Bugs that are known


def test_a_refused_slot_is_no_run() -> None:
    """`last_run` is when the task was last started."""
    entry = task_of("a", spacing=10)
    agenda = agenda_of(entry)
    look(agenda, moment(10 * SECOND))
    look(agenda, moment(20 * SECOND))
    assert entry.standing.last_run == WALL + 10 * SECOND


def test_a_cron_task_can_be_rescheduled_twice() -> None:
    """To a spacing and to another: the next slot counts from the last one, not from half a century later."""
    entry = task_of("a", cron="* * * * *")
    agenda = agenda_of(entry)
    look(agenda, moment(MINUTE))
    agenda.remove(entry)
    entry.plan.reschedule(declare({"spacing": 30}), moment(70 * SECOND), by_service=True)
    assert entry.plan.slot == 90 * SECOND
    entry.plan.reschedule(declare({"spacing": 20}), moment(70 * SECOND), by_service=True)
    assert entry.plan.slot == 80 * SECOND


def test_a_task_rescheduled_to_cron_and_back_keeps_its_last_slot() -> None:
    """The spacing counts from the slot that it had before, also where the wall was set back meanwhile."""
    entry = task_of("a", spacing=30)
    agenda = agenda_of(entry)
    look(agenda, moment(30 * SECOND))
    agenda.remove(entry)
    entry.plan.reschedule(declare({"cron": "0 3 * * *"}), moment(35 * SECOND), by_service=True)
    entry.plan.reschedule(declare({"spacing": 50}), moment(40 * SECOND), by_service=True)
    assert (entry.plan.last_slot, entry.plan.slot) == (30 * SECOND, 80 * SECOND)
    entry.plan.reschedule(declare({"cron": "0 3 * * *"}), moment(45 * SECOND), by_service=True)
    back = Moment(50 * SECOND, moment(50 * SECOND).wall - 3600 * SECOND)
    entry.plan.reschedule(declare({"spacing": 50}), back, by_service=True)
    assert entry.plan.slot == 100 * SECOND


def test_a_batch_is_in_the_order_of_planned_starts() -> None:
    """Whatever the tasks' windows."""
    agenda = agenda_of(task_of("late", spacing=20), task_of("early", spacing=19, tolerance=0))
    assert [name for name, _, _ in taken(look(agenda, moment(25 * SECOND)).due)] == ["early", "late"]


def test_a_jitter_that_was_taken_away_is_forgotten() -> None:
    """New settings may set it to 0: a late start is then not taken for an early one, whose slot comes again at once."""
    entry = task_of("a", spacing=10, jitter=5)
    agenda = agenda_of(entry)
    look(agenda, moment(15 * SECOND))
    entry.plan.delay = 4 * SECOND
    entry.plan.adopt(declare({"spacing": 10}))
    for now, slot, missed in [(29, 20, 0), (42, 40, 1)]:
        entry.standing.running = 0
        batch = look(agenda, moment(now * SECOND))
        assert taken(batch.due) == [("a", slot * SECOND, missed)]
        assert batch.refused == []


def test_a_schedule_that_raises_during_a_set_back_hurts_no_other() -> None:
    """Each is planned anew on its own."""

    @dataclass
    class BrokenFirst(Broken):
        on_wall: ClassVar[bool] = True
        broken: bool = False

        def first(self, start: int) -> int:
            if self.broken:
                raise ArithmeticError("on purpose")
            return start + 10 * SECOND

    schedule = BrokenFirst()
    broken = ManagedTask(None, "b", "M.b", PeriodicTask(schedule), tolerance=0)
    cron = task_of("cron", cron="* * * * *")
    agenda = agenda_of(broken, cron)
    schedule.broken = True
    agenda.set_back(Moment(SECOND, WALL - 3_601 * SECOND))
    assert cron.plan.slot == WALL - 3_600 * SECOND


# Against a model


@dataclass(eq=False)
class Model:
    """What a task should do, slot by slot."""

    entry: ManagedTask
    start: int
    slot: int
    """The next one, on the wall for cron."""
    window: int
    step: int = 0
    cron: Cron | None = None
    last: int | None = None
    running: int = 0
    queued: bool = False
    held: bool = False
    skipped: int = 0
    missed: int = 0
    accounted: list[int] = field(default_factory=list)

    def planned_start(self) -> int:
        return self.slot + self.entry.plan.delay

    def reference(self, moment: Moment) -> int:
        return moment.wall if self.cron else moment.now

    def is_due(self, moment: Moment) -> bool:
        return self.planned_start() <= self.reference(moment) + (0 if self.held else self.window)

    def is_held(self, moment: Moment) -> bool:
        """Nearly due only, while its own run is in progress: it is judged at its slot."""
        early = self.planned_start() > self.reference(moment)
        return bool(early and self.running and self.entry.options.overlap != "allow")

    def following(self, slot: int) -> int:
        return self.cron.first(slot) if self.cron else slot + self.step

    def turn(self, moment: Moment, delay: int) -> tuple[int, int]:
        """Walk from slot to slot."""
        until = self.reference(moment) - delay + self.window
        slot, missed = self.slot, 0
        while (later := self.following(slot)) <= until:
            slot, missed = later, missed + 1
        self.last, self.slot = slot, self.following(slot)
        self.missed += missed
        return slot, missed

    def judge(self) -> str:
        overlap = self.entry.options.overlap
        if not self.running or (overlap == "allow" and self.running < 10):
            self.running += 1
            return "due"
        if overlap == "queue" and not self.queued:
            self.queued = True
            return "queued"
        self.skipped += 1
        return "refused"


spacings = st.sampled_from([0.001, 0.3, 1, 2, 7, 10, 10.1, 60, 90, 3_600])
tolerances = st.sampled_from([None, 0, 0.1, 0.2, 5])
overlaps = st.sampled_from(["skip", "queue", "allow"])
jitters = st.sampled_from([0, 0, 0.05, 1, 20])
expressions = st.sampled_from(["* * * * *", "*/7 * * * * *", "0 * * * *", "@daily", "30 2 * * *"])
pauses = st.one_of(
    st.integers(0, 2 * SECOND),
    st.sampled_from(
        [99_999, 100_000, 200_000, 200_001, 799_999, 800_000, 9_800_000, 9_799_999, SECOND, MINUTE]
    ),
    st.integers(0, 2 * MINUTE),
)


class AgendaMachine(RuleBasedStateMachine):
    """Any sequence of additions, looks, ends of runs, rescheduling, removal and steps of the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.moment = Moment(1_000, WALL)
        self.agenda = Agenda(Due, random.Random(7))
        self.tasks: dict[ManagedTask, Model] = {}
        self.number = 0

    # Tasks come, change and go

    def add(self, options: dict[str, Any]) -> None:
        self.number += 1
        entry = task_of(f"t{self.number}", **options)
        entry.plan.begin_at(self.moment, by_service=True)
        cron = entry.plan.grid if isinstance(entry.plan.grid, Cron) else None
        start = self.moment.wall if cron else self.moment.now
        step = entry.plan.grid.step if isinstance(entry.plan.grid, Every) else 0
        self.tasks[entry] = Model(
            entry, start, self.first_slot(entry, start, step, cron), self.window(entry, step), step, cron
        )
        self.agenda.add(entry)

    @staticmethod
    def first_slot(entry: ManagedTask, start: int, step: int, cron: Cron | None) -> int:
        if entry.options.initial_delay is not None:
            return start + entry.options.initial_delay
        if entry.options.run_immediately or isinstance(entry.options.schedule, EveryPass):
            return start
        return cron.first(start) if cron else start + step

    @staticmethod
    def window(entry: ManagedTask, step: int) -> int:
        tolerance = TOLERANCE if entry.options.tolerance is None else entry.options.tolerance
        return min(tolerance, step // 2)

    @rule(
        spacing=spacings | st.just(0),
        tolerance=tolerances,
        overlap=overlaps,
        jitter=jitters,
        first=st.sampled_from(
            [{}, {}, {"run_immediately": True}, {"initial_delay": 0}, {"initial_delay": 3.5}]
        ),
    )
    def add_spaced(self, first: dict[str, Any], **options: Any) -> None:
        self.add(options | first)

    @rule(expression=expressions, overlap=overlaps, jitter=jitters, run_immediately=st.booleans())
    def add_cron(self, expression: str, **options: Any) -> None:
        self.add({"cron": expression, **options})

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(list(self.tasks)))
        self.agenda.remove(entry)
        del self.tasks[entry]

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), spacing=spacings)
    def reschedule_to_a_spacing(self, data: st.DataObject, spacing: float) -> None:
        task = self.tasks[data.draw(st.sampled_from(list(self.tasks)))]
        anchor = self.anchor(task)
        task.last = anchor if task.last is not None else None
        self.replace(task, Every(round(spacing * SECOND)))
        task.start, task.cron, task.step = anchor, None, round(spacing * SECOND)
        task.slot = max(self.moment.now, anchor + task.step)
        task.window = self.window(task.entry, task.step)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), expression=expressions)
    def reschedule_to_cron(self, data: st.DataObject, expression: str) -> None:
        task = self.tasks[data.draw(st.sampled_from(list(self.tasks)))]
        anchor = self.anchor(task) + self.moment.wall - self.moment.now
        task.start, task.last = anchor, anchor if task.last is not None else None
        self.replace(task, Cron(expression))
        task.cron, task.step, task.window = Cron(expression), 0, 0
        task.slot = task.cron.first(self.moment.wall)

    def anchor(self, task: Model) -> int:
        """The last slot, or the start, in scheduling time; one after a set-back is no later than now."""
        anchor = task.start if task.last is None else task.last
        return min(self.moment.now, anchor + self.moment.now - self.moment.wall) if task.cron else anchor

    def replace(self, task: Model, schedule: Schedule) -> None:
        self.agenda.remove(task.entry)
        options = PeriodicTask(schedule, overlap=task.entry.options.overlap, jitter=task.entry.options.jitter)
        task.entry.plan.reschedule(options, self.moment, by_service=True)
        self.agenda.add(task.entry)
        task.held = False

    @precondition(lambda self: any(task.running for task in self.tasks.values()))
    @rule(data=st.data())
    def end_a_run(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from([task for task in self.tasks.values() if task.running]))
        task.running -= 1
        task.entry.standing.running -= 1
        if task.queued:
            task.queued = task.entry.standing.queued = False
            task.running += 1
            task.entry.standing.running += 1

    # The clock moves

    @rule(pause=pauses)
    def pass_time(self, pause: int) -> None:
        self.moment = Moment(self.moment.now + pause, self.moment.wall + pause)

    @precondition(lambda self: self.tasks)
    @rule(early=st.sampled_from([0, 1, 100_000, 150_000, 200_000, 200_001]), data=st.data())
    def go_to_a_slot(self, early: int, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(list(self.tasks.values())))
        pause = max(0, task.planned_start() - task.reference(self.moment) - early)
        self.moment = Moment(self.moment.now + pause, self.moment.wall + pause)

    @rule(hours=st.integers(1, 3))
    def step_forward(self, hours: int) -> None:
        if any(task.step == 1_000 for task in self.tasks.values()):
            return  # too many slots for the naive model
        self.pass_time(hours * 60 * MINUTE)

    @rule(seconds=st.sampled_from([1, 30, 60, 61, 3_600, 86_400]))
    def step_back(self, seconds: int) -> None:
        self.moment = Moment(self.moment.now, self.moment.wall - seconds * SECOND)
        if seconds <= 60:
            return
        self.agenda.set_back(self.moment)
        for task in self.tasks.values():
            # A slot that is due and was not taken stays: the wall jumped ahead and back between two looks.
            if task.cron and task.slot > self.moment.wall:
                task.slot, task.held = task.cron.first(self.moment.wall), False

    # A look

    @rule()
    def look(self) -> None:
        before = {entry: entry.plan.delay for entry in self.tasks}
        expected: dict[str, Counter[tuple[ManagedTask, int, int]]] = {
            kind: Counter() for kind in ("due", "queued", "refused")
        }
        for task in self.tasks.values():
            if task.is_due(self.moment) and task.is_held(self.moment):
                task.held = True
            elif task.is_due(self.moment):
                task.held = False
                delay = before[task.entry]
                slot, missed = task.turn(self.moment, delay)
                expected[task.judge()][task.entry, slot, missed] += 1
        batch = look(self.agenda, self.moment)
        assert batch.failed == []
        for kind, slots in expected.items():
            assert Counter((due.managed, due.planned, due.missed) for due in getattr(batch, kind)) == slots, (
                kind
            )
        self.nothing_is_due_any_more()

    def nothing_is_due_any_more(self) -> None:
        assert look(self.agenda, self.moment) == Batch()
        for task in self.tasks.values():
            limit = task.reference(self.moment) + (0 if task.held else task.window)
            assert task.planned_start() > limit
            most = min(task.entry.options.jitter, task.entry.plan.grid.gap(task.slot) // 2)
            assert 0 <= task.entry.plan.delay <= most or task.planned_start() == limit + 1

    # At every moment

    @invariant()
    def entries_agree_with_the_model(self) -> None:
        assert set(self.agenda.tasks()) == set(self.tasks)
        assert len(self.agenda) == len(self.tasks)
        for entry, task in self.tasks.items():
            assert (entry.plan.slot, entry.plan.window, entry.plan.last_slot) == (
                task.slot,
                task.window,
                task.last,
            )
            assert (entry.standing.running, entry.standing.queued) == (task.running, task.queued)
            assert (entry.standing.skipped, entry.standing.missed) == (task.skipped, task.missed)

    @invariant()
    def the_next_wake_is_the_nearest_planned_start(self) -> None:
        starts = [
            task.planned_start() - task.reference(self.moment) + self.moment.now
            for task in self.tasks.values()
        ]
        assert self.agenda.next_wake(self.moment) == min(starts, default=None)

    @invariant()
    def memory_is_flat(self) -> None:
        assert places(self.agenda) <= 2 * len(self.tasks) + (LazyHeap.FEW + 1) * (len(self.agenda._lanes) + 1)


TestAgainstANaiveModel = AgendaMachine.TestCase
TestAgainstANaiveModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
