"""Decides which slots are due, nearly due or refused, and when to look again.

Pure: it gets the moment as an argument, reads no clock and awaits nothing. It moves plans and reads standings; only the
code that starts and ends runs writes standings.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from asyncmgr._common.clock import Moment
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr._tasks.managed import Lane, ManagedTask

D = TypeVar("D", bound="Due")

MOST_AT_ONCE = 10
"""The number of runs of one task that may be in progress under ``overlap="allow"``."""

MOST_IN_A_BATCH = 256
"""The number of slots that one look hands out: half a millisecond of work, after which the event loop gets its turn."""


class Due:
    """One slot that the agenda hands out."""

    __slots__ = ("managed", "missed", "oldest", "planned")

    oldest: int
    """The first of the older slots, on the scale of the plan's grid; not set where there are none."""

    def __init__(self, managed: ManagedTask, planned: int, missed: int) -> None:
        self.managed = managed
        self.planned = planned
        """The slot, on the scale of the plan's grid."""
        self.missed = missed
        """The number of older slots that this one stands for too."""


@dataclass(slots=True)
class Batch(Generic[D]):
    """The slots that one look at the agenda has found."""

    due: list[D] = field(default_factory=list)
    """Slots to start now, in their order."""
    queued: list[D] = field(default_factory=list)
    """Slots to start when the task's run in progress ends."""
    refused: list[D] = field(default_factory=list)
    """Slots that get no run, because a run of their own task is in progress."""
    failed: list[tuple[ManagedTask, Exception]] = field(default_factory=list)
    """Tasks whose schedule raised; the agenda asks it again after `RETRY`."""
    refreshes: list[KeyedTask] = field(default_factory=list)
    """Tasks whose manager is to be asked for their keys."""
    gone: list[D] = field(default_factory=list)
    """Slots of keys that were due, and that have gone before they got a run."""
    keys: dict[ManagedTask, int] = field(default_factory=dict)
    """By task of a key: the number of slots of this batch that it gets a run for, at once or queued."""
    is_full: bool = False
    """More slots are due: look again when the event loop has had its turn."""

    def __len__(self) -> int:
        return len(self.due) + len(self.queued) + len(self.refused) + len(self.failed)


class Agenda(Generic[D]):
    """All tasks of a service by planned start.

    Tasks of one window share a heap, so that one comparison with its head shows whether any of them is due. The time of
    a look therefore does not depend on the number of tasks.
    """

    def __init__(self, due: Callable[[ManagedTask, int, int], D], random_source: random.Random) -> None:
        self._due = due
        self._lanes: dict[tuple[bool, int], Lane] = {}
        self._random = random_source

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def tasks(self) -> Iterator[ManagedTask]:
        """Yield every task that has a planned start."""
        for lane in self._lanes.values():
            yield from lane

    def add(self, task: ManagedTask) -> None:
        """Take in a planned task. A task without another slot gets no place."""
        plan = task.plan
        if plan.slot is None:
            return
        start = plan.slot
        if plan.options.jitter:
            with contextlib.suppress(
                Exception
            ):  # of the schedule: it is asked again at the slot, and reported then
                start += self._draw(task)
        self._put(task, start)

    def remove(self, task: ManagedTask) -> None:
        """Take a task out, before its plan changes. A run in progress goes on. The task may be absent."""
        lane = task.lane
        if lane is None:
            return
        lane.remove(task)
        task.lane = None
        if not lane:
            self._lanes.pop((lane.on_wall, lane.window), None)

    def take(self, moment: Moment, most: int = MOST_IN_A_BATCH) -> Batch[D]:
        """Hand out up to `most` slots that are due or nearly due, and plan the next slot of each task."""
        batch: Batch[D] = Batch()
        left = most
        for lane in tuple(self._lanes.values()):
            reference = moment.wall if lane.on_wall else moment.now
            limit = reference + lane.window
            while (head := lane.head()) is not None and head[0] <= limit:
                if left <= 0:
                    batch.is_full = True
                    break
                task: ManagedTask = head[2]
                if task.is_keyed:
                    left -= self._take_keys(lane, cast("KeyedTask", task), reference, left, batch)
                else:
                    left -= 1
                    self._take_head(lane, task, head[0], reference, batch)
        if len(self._lanes) > 1:
            batch.due.sort(key=lambda due: due.planned - due.managed.plan.reference(moment))
        return batch

    def _take_head(self, lane: Lane, task: ManagedTask, start: int, reference: int, batch: Batch[D]) -> None:
        plan = task.plan
        if task.standing.running and start > reference and plan.options.overlap != "allow":
            self._hold(lane, task, start)
            return
        oldest = plan.slot
        try:
            planned, missed = plan.take(reference)
            following = self._jittered(task, reference) if plan.options.jitter else plan.slot
        except Exception as exc:
            batch.failed.append((task, exc))
            plan.ask_later(reference)
            self._move_head(lane, task, plan.slot)
            return
        if following is not None and lane.window == plan.window:
            lane.replace_head(following)
        else:
            self._move_head(lane, task, following)
        due = self._due(task, planned, missed)
        if missed:
            assert oldest is not None
            due.oldest = oldest
        if task.standing.running:
            self._judge_overlap(due, batch, task.standing.running)
        else:
            batch.due.append(due)

    def _take_keys(self, lane: Lane, task: KeyedTask, reference: int, most: int, batch: Batch[D]) -> int:
        """Hand out slots of a task's keys; return how many of `most` this counts for."""
        plan = task.keys
        if plan.wants_refresh(reference):
            batch.refreshes.append(task)
        found = plan.take_keys(reference, most)
        for slot in found:
            key_task = task.task_of(slot.key)
            # A key may have two slots in one look, as after a long block of the event loop.
            before = batch.keys.get(key_task, 0)
            running = key_task.standing.running + before
            if slot.planned > reference and running and plan.options.overlap != "allow":
                plan.hold(slot)
                continue
            batch.keys[key_task] = before + 1
            due = self._due(key_task, slot.planned, slot.missed)
            if slot.missed:
                due.oldest = slot.planned - slot.missed * plan.ring.spacing
            if running:
                self._judge_overlap(due, batch, running)
            else:
                batch.due.append(due)
        if plan.ring.dropped:
            batch.gone += [self._due(task.task_of(slot.key), slot.planned, 0) for slot in plan.ring.dropped]
            plan.ring.dropped.clear()
        self._move_head(lane, task, plan.slot)
        return max(1, len(found))

    def _hold(self, lane: Lane, task: ManagedTask, start: int) -> None:
        """Keep a task that is only nearly due until its slot, since its run in progress may end by then."""
        lane.pop()
        self._put(task, start, window=0)

    def _judge_overlap(self, due: D, batch: Batch[D], running: int) -> None:
        overlap, standing = due.managed.plan.options.overlap, due.managed.standing
        is_queued = standing.queued or any(run.managed is due.managed for run in batch.queued)
        if overlap == "allow" and running < MOST_AT_ONCE:
            batch.due.append(due)
        elif overlap == "queue" and not is_queued:
            batch.queued.append(due)
        else:
            batch.refused.append(due)

    def next_wake(self, moment: Moment) -> int | None:
        """Return the scheduling time of the nearest planned start; `None` = no start is planned."""
        nearest = None
        for lane in self._lanes.values():
            head = lane.head()
            if head is None:
                continue
            start = head[0] - moment.wall + moment.now if lane.on_wall else head[0]
            nearest = start if nearest is None else min(nearest, start)
        return nearest

    def set_back(self, moment: Moment) -> None:
        """Plan all wall-clock slots anew, after the wall went back by more than a minute."""
        for task in tuple(self.tasks()):
            if task.plan.grid.on_wall:
                self.remove(task)
                task.plan.set_back(moment)
                self.add(task)

    def set_forward(self, moment: Moment) -> None:
        """Plan anew the tasks whose next slot was taken before the wall was set back, after it jumped forward again."""
        for task in tuple(self.tasks()):
            if task.plan.repeated_until is not None:
                self.remove(task)
                task.plan.set_forward(moment)
                self.add(task)

    # Places

    def _put(self, task: ManagedTask, start: int, window: int | None = None) -> None:
        plan = task.plan
        if task.is_keyed and cast("KeyedTask", task).keys.is_exact:
            window = 0
        key = (plan.grid.on_wall, plan.window if window is None else window)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(on_wall=key[0], window=key[1])
        lane.push(start, task)
        task.lane = lane

    def _move_head(self, lane: Lane, task: ManagedTask, start: int | None) -> None:
        """Move the task, which is the lane's head, to its next place, perhaps in another lane."""
        lane.pop()
        task.lane = None
        if start is not None:
            self._put(task, start)

    def _jittered(self, task: ManagedTask, reference: int) -> int | None:
        """Draw the delay of the task's next slot, and return its start.

        The delay may hold back a slot until the window of the next one begins; the next one then starts right after it.
        """
        plan = task.plan
        if plan.slot is None:
            return None
        start = max(plan.slot + self._draw(task), reference + plan.window + 1)
        plan.delay = start - plan.slot
        return start

    def _draw(self, task: ManagedTask) -> int:
        plan = task.plan
        assert plan.slot is not None
        plan.delay = self._random.randint(0, min(plan.options.jitter, plan.grid.gap(plan.slot) // 2))
        return plan.delay
