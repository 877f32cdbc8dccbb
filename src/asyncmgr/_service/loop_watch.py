"""`LoopWatch`: a service's part in the watch of its event loop: who is told of a block, and which slots it delayed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Any, NamedTuple

from asyncmgr._common.clock import SECOND, Moment, read_wall, to_datetime, to_us
from asyncmgr._service.health import Blockage
from asyncmgr._tasks.agenda import Batch
from asyncmgr._tasks.block_kinds import Finding, stall_of
from asyncmgr._tasks.block_log import Delayed
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run
from asyncmgr._tasks.watchdog import Watch, join_watch, leave_watch
from asyncmgr.events import DelayedSlot, LoopBlocked

KEPT = 64
"""The number of blocks that a service remembers."""

_SHOWN = 100
"""The number of delayed slots that an event lists."""

_RECENT = 3600.0
"""Seconds after its end for which a block is worth a word to who asks for the health of a service."""

_LATE = 20_000
"""Microseconds by which a slot that a block has delayed is late at least."""


class _Late(NamedTuple):
    """A slot that was handed out late."""

    seen: float
    """By `time.monotonic`."""
    slot: DelayedSlot
    stands_for: int
    """The slot, and the missed ones for which it stands too."""


class LoopWatch:
    """The part of one service."""

    def __init__(self, host: str, tell: Callable[[LoopBlocked], object]) -> None:
        """`tell` is called in the event loop with each block that is over."""
        self.host = host
        self.threshold = 0.0
        self.dumps = False
        """Whether Python itself writes all stacks to stderr where a call never gives the interpreter back."""
        self.blocks: deque[LoopBlocked] = deque(maxlen=KEPT)
        """The newest blocks, the oldest first."""
        self._tell = tell
        self._late: deque[_Late] = deque(maxlen=1000)
        self._runner: Runner | None = None
        self._watch: Watch | None = None

    def begin(self, runner: Runner, threshold: float) -> None:
        """Watch the loop of this runner for blocks of more than `threshold` seconds; 0 = do not."""
        self._runner = runner
        self.set_threshold(threshold)

    def set_threshold(self, threshold: float) -> None:
        """Change the threshold of a watch that has begun."""
        if self._runner is None:
            return
        self.threshold = threshold
        if threshold and self._watch is None:
            self._join(self._runner)
        elif not threshold:
            self._leave()

    def end(self) -> None:
        """Watch no more."""
        self._leave()
        self._runner = None

    def _join(self, runner: Runner) -> None:
        watch = self._watch = join_watch(self, Runner.run_of)
        if watch is None:
            return
        if self.dumps:
            watch.dump_where_stuck()
        runner.marks_contexts = True
        runner.on_start = watch.wake
        runner.lookout.on_late = self._note_late
        runner.lookout.kind_of_stall = watch.kind_of_stall

    def _leave(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            if self._runner is not None:
                self._runner.unwatch()
            leave_watch(watch, self)

    def blockage(self) -> Blockage | None:
        """Describe the block that lasts, else the longest one of the last hour; any thread may ask."""
        watch = self._watch
        lasting = None if watch is None else watch.lasting()
        if lasting is not None and lasting.seconds >= self.threshold:
            return _blockage(lasting, ago=None)
        wall, found = read_wall(), []
        for block in tuple(self.blocks):
            ago = (wall - to_us(block.began.timestamp())) / SECOND - block.seconds
            found.append(Blockage(block.task, block.where, block.kind, block.seconds, max(0.0, ago)))
        newest = None if watch is None else watch.found  # which the loop may not have told yet
        if newest is not None and newest.seconds >= self.threshold:
            found.append(_blockage(newest, ago=max(0.0, monotonic() - newest.began - newest.seconds)))
        recent = [one for one in found if one.ago is not None and one.ago <= _RECENT]
        return max(recent, key=lambda one: one.seconds, default=None)

    # As a seat

    def is_busy(self) -> bool:
        return self._runner is not None and self._runner.is_busy

    def overdue(self) -> float:
        return -1.0 if self._runner is None else self._runner.lookout.overdue

    def over(self, finding: Finding) -> Delayed:
        delayed = self._take_late(finding)
        culprit = finding.culprit
        ago = monotonic() - finding.began
        block = LoopBlocked(
            None if culprit is None else culprit.task,
            None if culprit is None else culprit.run_id,
            finding.kind,
            finding.place,
            to_datetime(read_wall() - to_us(ago)),
            round(finding.seconds, 6),
            finding.cpu,
            delayed.total,
            delayed.slots,
        )
        self.blocks.append(block)
        self._tell(block)
        return delayed

    def _note_late(self, late: float, batch: Batch[Run], moment: Moment) -> None:
        now = monotonic()
        for due in (*batch.due, *batch.queued):
            reference = due.managed.plan.reference(moment)
            behind = reference - due.planned
            if behind > _LATE or due.missed:
                slot = DelayedSlot(
                    due.managed.full_name, to_datetime(moment.wall - behind), max(0.0, behind / SECOND)
                )
                self._late.append(_Late(now, slot, due.missed + (behind > 0)))

    def _take_late(self, finding: Finding) -> Delayed:
        """Take the slots that were handed out late since the block began."""
        found = [one for one in self._late if one.seen >= finding.began]
        self._late.clear()
        return Delayed(tuple(one.slot for one in found[:_SHOWN]), sum(one.stands_for for one in found))


def _blockage(finding: Finding, *, ago: float | None) -> Blockage:
    task = None if finding.culprit is None else finding.culprit.task
    return Blockage(task, finding.place, finding.kind, finding.seconds, ago)


def entry_of(block: LoopBlocked) -> dict[str, Any]:
    """Make the entry of a journal for a block: its kind, its times in microseconds since 1970, and what is known."""
    at = to_us(block.began.timestamp())
    return {
        "kind": stall_of(block.kind),
        "at": at,
        "until": at + to_us(block.seconds),
        "seconds": round(block.seconds, 3),
        "blame": block.task or "",
        "doing": block.kind,
        "place": block.where,
    }
