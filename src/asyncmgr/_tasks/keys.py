"""Tasks that run for keys (`each=`): the plan of all keys of a task, and the keys that are at work.

Most keys only have a place in the ring. A key gets a task of its own, `KeyTask`, when one of its slots is handed out,
and loses it when its run has ended well: so the runner judges, reports and cancels the runs of a key as those of any
other task, and 100,000 idle keys cost nothing but their places.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Hashable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, cast

from asyncmgr._common.clock import Moment
from asyncmgr._common.heap import NO_PLACE
from asyncmgr._tasks.key_ring import KeyRing, KeySlot
from asyncmgr._tasks.managed import Holding, ManagedTask, Planned, Standing
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.plan import Plan
from asyncmgr._tasks.schedules import Every, Gap
from asyncmgr.events import Outcome

Run: TypeAlias = Any
"""A run: its module imports that of the agenda, which imports this one."""

_OUTCOMES = tuple(Outcome)
# The last run of a key in a number of 60 bits, the largest that takes 32 bytes: when it ended, how long it took, how.
_OUTCOME_BITS, _LENGTH_BITS = 3, 19
_TICK, _FIRST_TICK = 10_000, 160_000_000_000
"""Microseconds of one unit of the moment, of which there are 37 bits, and the moment of the first one, in 2020."""


Keys: TypeAlias = dict[Hashable, object]
"""By key: what a run gets for it."""


class KeyShare(Protocol):
    """The part of a task's keys that this process runs, where hosts share them out."""

    all: Keys
    """All keys of the manager."""

    @property
    def hosts(self) -> int:
        """The number of hosts that share out the keys."""
        ...  # pragma: no cover

    async def put(self, keys: Keys) -> Keys:
        """Take in all keys of the manager; return those that run here. Others work in between."""
        ...  # pragma: no cover

    def begins(self, key: Hashable) -> int | None:
        """Return the moment after which the slots of a key that comes are run here; `None` = it is new."""
        ...  # pragma: no cover

    def holder_of(self, key: Hashable) -> Holding | None:
        """Say who runs a key."""
        ...  # pragma: no cover


class KeyPlan(Plan):
    """The grids of all keys of one task. Its `slot` is the next look: at a key's slot, or to ask for the keys."""

    __slots__ = ("_held", "_name", "refresh_at", "ring")

    def __init__(self, options: PeriodicTask, *, name: str, tolerance: int) -> None:
        super().__init__(options, tolerance=tolerance, initial_delay=None, share=None)
        self._name = name
        self._held: list[tuple[int, str, KeySlot]] = []
        """A heap of slots that are kept until their moment, because a run of the key was in progress before it."""
        self.ring = KeyRing(name, self._step, 0)
        self.refresh_at: int | None = None
        """When to ask for the keys again; `None` = not before the start."""

    @property
    def _step(self) -> int:
        grid = self.options.schedule
        return grid.step if isinstance(grid, Every) else 1

    def remaining(self, moment: Moment) -> int | None:
        """Return the microseconds to the next slot of any key; `None` = there are no keys.

        A slot that was set aside is at most a turn old, and is not looked up.
        """
        slots = [
            slot
            for slot in (self.ring.next_slot(), self._held[0][0] if self._held else None)
            if slot is not None
        ]
        return max(min(slots) - moment.now, -self._step) if slots else None

    def remaining_of(self, key: Hashable, moment: Moment) -> int:
        """Return the microseconds to the next slot of one key that was not handed out."""
        held = [slot.planned for _, _, slot in self._held if slot.key == key]
        return min([*held, self.ring.next_slot_of(key, self.ring.reached(moment.now))]) - moment.now

    def anew(self, moment: Moment, *, by_service: bool) -> Plan:
        plan = KeyPlan(self.options, name=self._name, tolerance=self.tolerance)
        plan.begin_at(moment, by_service=by_service)
        return plan

    def begin_at(self, moment: Moment, *, by_service: bool = False) -> None:
        """Begin a ring without keys; they come with the first answer to the question for them.

        The phases count from a multiple of the spacing on the wall clock, so that a restart, and another host, gives a
        key about the same moments.
        """
        super().begin_at(moment, by_service=by_service)
        self._begin_ring(moment)

    def reschedule(self, options: PeriodicTask, moment: Moment, *, by_service: bool) -> None:
        super().reschedule(options, moment, by_service=by_service)
        self._begin_ring(moment)

    def _begin_ring(self, moment: Moment) -> None:
        self.ring = KeyRing(self._name, self._step, moment.now - moment.wall % self._step)
        self._held.clear()
        self.refresh_at = moment.now
        self.settle()

    def settle(self) -> None:
        """Compute the next look, after a change of the ring."""
        looks = [self.ring.next_slot(), self._held[0][0] if self._held else None, self.refresh_at]
        self.slot = min((look for look in looks if look is not None), default=None)

    @property
    def is_exact(self) -> bool:
        """Whether the next look is for a slot that was held: it must not come early."""
        return bool(self._held) and self._held[0][0] == self.slot

    def take_keys(self, reference: int, most: int) -> list[KeySlot]:
        """Hand out up to `most` slots of keys that are due or nearly due."""
        found: list[KeySlot] = []
        while self._held and self._held[0][0] <= reference and len(found) < most:
            found.append(heapq.heappop(self._held)[2])
        found += self.ring.take(reference + self.window, most - len(found))
        if found:
            self.last_slot = found[-1].planned
        self.settle()
        return found

    def hold(self, slot: KeySlot) -> None:
        """Keep a slot that is only nearly due until its moment, since the run in progress may end by then."""
        heapq.heappush(self._held, (slot.planned, repr(slot.key), slot))
        self.settle()

    def drop_held(self, keys: Container[Hashable]) -> None:
        """Drop the slots of keys that are gone."""
        if any(slot.key in keys for _, _, slot in self._held):
            self._held = [held for held in self._held if held[2].key not in keys]
            heapq.heapify(self._held)
            self.settle()

    def wants_refresh(self, reference: int) -> bool:
        """Whether it is time to ask for the keys; if so, the next time is one spacing later."""
        if self.refresh_at is None or self.refresh_at > reference + self.window:
            return False
        self.refresh_at = reference + max(self._step, 1_000_000)
        self.settle()
        return True

    def gap(self, moment: Moment) -> Gap | None:
        """Return the slots of all keys up to a moment that no look has found, beside those of `left_over`."""
        return self.ring.gap(moment.now)

    def left_over(self, moment: Moment) -> list[KeySlot]:
        """Take the slots up to a moment that a look has found and not handed out: they were held, or set aside."""
        held = [slot for planned, _, slot in self._held if planned <= moment.now]
        self._held = [one for one in self._held if one[0] > moment.now]
        heapq.heapify(self._held)
        return held + self.ring.take_late()

    def skip_past(self, moment: Moment) -> None:
        self.left_over(moment)
        self.ring.skip_past(moment.now)
        self.refresh_at = moment.now
        self.settle()

    def continue_from(self, slot: int, moment: Moment, *, own: int | None = None) -> Gap | None:
        """Do nothing: the phases of the keys are the same for every holder."""
        return None


@dataclass(frozen=True, slots=True)
class KeyCounts:
    """The keys of a task with `each=` at one moment."""

    known: int
    """The number of keys that this process has."""
    running: int
    """The number of runs in progress."""
    waiting: int
    """The number of runs that wait for a place, see `concurrency`."""
    failing: int
    """The number of keys whose last run failed or timed out."""
    total: int | None = None
    """The number of keys of the manager, of which hosts share out the known ones; `None` = they do not."""
    hosts: int | None = None
    """The number of hosts that share them out, as far as is known; `None` = they do not."""


class KeyedTask(ManagedTask):
    """A task that runs for each of its keys."""

    is_keyed: ClassVar[bool] = True

    __slots__ = ("_before", "active", "key_record", "last", "running", "settle", "share", "waiting")

    def __init__(
        self,
        manager: object,
        body: Any,
        full_name: str,
        options: PeriodicTask,
        *,
        tolerance: int,
        before: ManagedTask | None = None,
    ) -> None:
        """`before` is a removed task of the same name, if runs of it go on."""
        super().__init__(manager, body, full_name, options, tolerance=tolerance)
        self._before = before if isinstance(before, KeyedTask) else None
        self.plan = KeyPlan(options, name=full_name, tolerance=tolerance)
        self.active: dict[Hashable, KeyTask] = {}
        """The keys that have a run, or are failing."""
        self.key_record: Callable[[Run, float], None] | None = None
        """Records a run of a key that succeeded, with its duration in seconds."""
        self.settle: Callable[[], object] = _nothing
        """Records and drops the slots up to now of a task that is paused or off: called before its keys change."""
        self.share: KeyShare | None = None
        """Which keys run here; `None` = all."""
        self.running = 0
        """The number of runs that have a place; `concurrency` limits it."""
        self.waiting: OrderedDict[Run, None] = OrderedDict()
        """Runs that wait for a place."""
        self.last: dict[Hashable, int] = {}
        """By key: when its last run ended and how, packed into a number since there may be very many."""

    @property
    def keys(self) -> KeyPlan:
        return cast("KeyPlan", self.plan)

    def task_of(self, key: Hashable) -> KeyTask:
        """Return the task of one key; make it where the key is idle."""
        return self.active.get(key) or KeyTask(self, key, self._standing_of(key))

    def _standing_of(self, key: Hashable) -> Standing:
        """Return the standing of a key whose run goes on since before the task was added anew; else make one."""
        if self._before is None:
            return Standing()
        task = self._before.active.get(key)
        if not self._before.active:
            self._before = None
        return Standing() if task is None else task.standing

    @property
    def is_at_work(self) -> bool:
        return any(task.is_at_work for task in self.active.values())

    def find(self, text: str | int) -> Hashable | None:
        """Find a key as given, or by its text; `None` = the task has no such key now."""
        known = self.keys.ring.known if self.share is None else self.share.all
        if text in known:
            return text
        return next((key for key in known if str(key) == text), None)

    def count_failing(self) -> int:
        """Count the keys whose last run failed."""
        return sum(1 for task in self.active.values() if _fails(task))

    def count(self) -> KeyCounts:
        share = self.share
        return KeyCounts(
            len(self.keys.ring),
            self.running,
            len(self.waiting),
            self.count_failing(),
            None if share is None else len(share.all),
            None if share is None else share.hosts,
        )

    # Places, called for each run by the code that starts and ends runs

    def enter(self, run: Run) -> bool:
        """Give a run a place; False = it waits for one."""
        limit = self.plan.options.concurrency
        if limit is not None and self.running >= limit:
            self.waiting[run] = None
            return False
        self.running += 1
        return True

    def leave(self, run: Run) -> Run:
        """Take back the place of a run that has ended or was given up; return the run that gets it now, or `None`."""
        if run in self.waiting:
            del self.waiting[run]
            return None
        self.running -= 1
        if not self.waiting:
            return None
        self.running += 1
        return self.waiting.popitem(last=False)[0]

    def note(self, task: KeyTask, wall: int) -> None:
        """Remember how the last run of a key went, and let go of the key's task where nothing more is to be known."""
        standing = task.standing
        total = self.standing
        total.runs += standing.runs
        total.skipped += standing.skipped
        total.missed += standing.missed
        standing.runs = standing.skipped = standing.missed = 0
        if standing.last_run is not None:
            total.last_run = max(total.last_run or 0, standing.last_run)
        if standing.outcome is not None:
            total.outcome, total.duration = standing.outcome, standing.duration
            total.look, total.planned = standing.look, standing.planned
            total.on_wall, total.started = standing.on_wall, standing.started
            if task.each_key in self.keys.ring.known:
                self.last[task.each_key] = _pack(wall, standing.duration, standing.outcome)
        self.let_go(task)

    def let_go(self, task: KeyTask) -> None:
        """Drop the task of a key that is idle, and well or gone."""
        standing = task.standing
        has_left = task.each_key not in self.keys.ring.known
        if not (standing.running or standing.queued or (standing.trouble and not has_left)):
            self.active.pop(task.each_key, None)

    def last_of(self, key: Hashable) -> tuple[int, float, Outcome] | None:
        """Return when the last run of an idle key ended (wall, microseconds), its duration in seconds, its outcome."""
        packed = self.last.get(key)
        return None if packed is None else _unpack(packed)

    def forget(self, keys: Collection[Hashable]) -> list[KeyTask]:
        """Forget keys that are gone; return the tasks of those that are at work."""
        found = []
        self.keys.drop_held(set(keys))
        for key in keys:
            self.last.pop(key, None)
            task = self.active.get(key)
            if task is None:
                continue
            if task.standing.running or task.standing.queued:
                found.append(task)
            else:
                del self.active[key]
        return found


class KeyTask(ManagedTask):
    """One key of a task, while it has a run or is failing."""

    __slots__ = ("each_key", "group")

    def __init__(self, group: KeyedTask, key: Hashable, standing: Standing) -> None:
        # Not by the constructor of the base: all but the standing is the group's.
        self.group = group
        self.each_key = key
        self.key, self.record, self.judged_from = 0, group.key_record, group.judged_from
        self.manager = group.manager
        self.body = group.body
        self.full_name = group.full_name
        self.declared = group.declared
        self.log_level = group.log_level
        self.plan = group.plan
        self.standing = standing
        self.place = NO_PLACE
        self.lane = None
        group.active[key] = self

    @property
    def whole(self) -> ManagedTask:
        return self.group

    def until_next(self, run: Planned, moment: Moment) -> int | None:
        """Return the microseconds to the slot of the key after that of a run; 0 or less = it has come."""
        return self.group.keys.ring.next_slot_of(self.each_key, run.planned) - moment.now

    def call(self, context: Any) -> Any:
        """Call the body with the context and the key, as the manager gave it."""
        given = self.group.keys.ring.known.get(self.each_key, self.each_key)
        body = self.body
        function: Any = getattr(self.manager, body) if isinstance(body, str) else body
        return function(context, given)


def _nothing() -> None:
    """Do nothing: no service runs the task."""


def _fails(task: KeyTask) -> bool:
    trouble = task.standing.trouble
    return trouble is not None and trouble.failures > 0


def _pack(wall: int, duration: float, outcome: Outcome) -> int:
    most = (1 << _LENGTH_BITS) - 1
    milliseconds = round(duration * 1000)
    in_seconds = milliseconds > most
    length = min(round(duration), most) if in_seconds else milliseconds
    ticks = max(0, wall // _TICK - _FIRST_TICK)
    return ((ticks << 1 | in_seconds) << _LENGTH_BITS | length) << _OUTCOME_BITS | _OUTCOMES.index(outcome)


def _unpack(packed: int) -> tuple[int, float, Outcome]:
    outcome = _OUTCOMES[packed & (1 << _OUTCOME_BITS) - 1]
    packed >>= _OUTCOME_BITS
    length = packed & (1 << _LENGTH_BITS) - 1
    packed >>= _LENGTH_BITS
    return ((packed >> 1) + _FIRST_TICK) * _TICK, float(length) if packed & 1 else length / 1000, outcome
