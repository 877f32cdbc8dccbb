"""`ClusterGate`: says for one task of ``scope="cluster"`` whether its slots run here; keeps its grid in the store."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from asyncmgr._common.clock import SECOND
from asyncmgr._common.log import log
from asyncmgr._leases.cluster import Cluster
from asyncmgr._leases.holder import Hold, Holder, LostWhy
from asyncmgr._leases.keys import task_key
from asyncmgr._leases.records import SlotRecord
from asyncmgr._leases.slots import CLAIMED, MISSED, NEW, SEVERAL, UNSTARTED, Slots
from asyncmgr._tasks.gate import Answer, Gate, Holding, SlotClaim, TaskPause
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run
from asyncmgr._tasks.schedules import Every, Gap
from asyncmgr.events import Outcome


class Verbs(Protocol):
    """What pauses a task here, where its pause began in another process."""

    def adopt_pause(self, task: ManagedTask, pause: TaskPause) -> None: ...  # pragma: no cover
    def leave_pause(self, task: ManagedTask) -> None: ...  # pragma: no cover


@dataclass(slots=True)
class _Waiting:
    """A run whose slot is being claimed."""

    run: Run
    number: int
    until: int
    """The number of the last slot that is claimed with it."""
    ahead: int
    """Microseconds from the run's slot to that one."""


def _at_once(spacing: int) -> int:
    """Return how many slots of a spacing in microseconds are claimed together: those of one second."""
    return SECOND // spacing if 0 < spacing < SECOND else 1


class ClusterGate(Gate, Holder):
    """The gate of one task, and the holder of its name.

    A holder that is paused keeps the name, so that the task runs nowhere; others that are paused do not claim it.
    """

    kind: ClassVar[Literal["task", "lease"]] = "task"
    is_shared_out: ClassVar[bool] = True

    def __init__(self, task: ManagedTask, runner: Runner, cluster: Cluster, verbs: Verbs) -> None:
        self.name = task.full_name
        self.key = task_key(cluster.application, task.full_name)
        self._task, self._runner, self._cluster = task, runner, cluster
        self._rules = cluster.rules
        self._slots = Slots(self.key, cluster.calls, cluster.stores, cluster.rules, cluster.clock)
        self._hold: Hold | None = None
        self._verbs = verbs
        self._pause: TaskPause | None = None
        self._pause_is_news = False
        """Whether the pause, or its end, is to be written down."""
        self._anchor = (0, 0)
        """The number of the last slot that was claimed or handed out, and its moment on the scale of the plan."""
        self._claimed_until = 0
        self._again: int | None = None
        """The number of the last slot, where it gets a run although it was claimed before."""
        self._gained_at = 0
        self._was_lost = False
        """Whether the right to run has ended since it was gained: slots have come up that nobody saw to."""
        self._is_first = False
        """Whether the next run is the first one since this process became the holder."""
        self._waiting: deque[_Waiting] = deque()
        self._outcome: tuple[int, str] | None = None
        """The number and the state of a slot that is to be written down."""
        self._last: tuple[int, str, str] | None = None
        """The slot that was claimed last: its number, under which identity, and in which state it is by now."""
        self._older: Run | None = None
        """The run whose slot was claimed last, until it has begun or was refused: it may stand for older slots."""
        self._told: tuple[int, str] | None = None
        """The last slot of which this process has told in the place of the holder before, and under which identity."""
        self._given_back: int | None = None
        """The number of the first slot whose run was refused since the task is given up: the next holder gets it.

        Not of one whose record says that no run of it started.
        """
        self._writer: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to claim the name."""
        self._cluster.claims.want(self.key, self)

    # Gate

    def not_here(self, run: Run) -> Literal["not_owner", "lease_lost"] | None:
        hold = self._hold
        if hold is None or not hold.is_active:
            # Held until trust ended, and not known to be anybody else's.
            return "lease_lost" if hold is not None and not self._cluster.trusted else "not_owner"
        if not self._rules.still_starts(trusted=self._cluster.trusted):
            self._cluster.keeper.hasten()
            return "lease_lost"
        return None

    def ask(self, run: Run) -> Answer:
        hold, refusal = self._hold, self.not_here(run)
        if hold is None or refusal is not None:
            return refusal or "not_owner"
        if not run.is_of_grid:
            run.claim = SlotClaim(hold.token)
            return "run"
        number = self._number(run.planned)
        if not self._rules.is_new_slot(number, self._anchor[0]):
            return "not_owner"  # it ran already, before the wall clock was set back or elsewhere
        self._anchor, self._again, self._given_back = (number, run.planned), None, None
        return self._claim(run, number, hold)

    def _claim(self, run: Run, number: int, hold: Hold) -> Answer:
        if run.missed and self._stands_for_others(run):
            run.look = run.look.because("lease_lost")  # also where it is refused before it has its claim
        run_now = number <= self._claimed_until
        if not run_now:
            more = self._more_at_once()
            waiting = _Waiting(run, number, number + more, more * self._spacing)
            self._waiting.append(waiting)
            self._write_soon()
            run_now = self._rules.may_start(slot_written=False, trusted=True)
        if run_now:
            self._let_run(run, number, hold)
            return "run"
        return "later"

    def _let_run(self, run: Run, number: int, hold: Hold) -> None:
        is_late = run.planned < self._gained_at
        if is_late and run.asked is None:
            run.asked = "catch_up"
        if self._last is not None and self._last[0] == number:
            self._last = *self._last[:2], CLAIMED
        stands_for_others, self._is_first = self._stands_for_others(run), False
        run.claim = SlotClaim(hold.token, number, "lease_lost" if stands_for_others else None)

    def _stands_for_others(self, run: Run) -> bool:
        """Whether the older slots of a run passed while nobody held the task, or somebody else did."""
        return run.planned < self._gained_at or (run.missed > 0 and self._is_first)

    def still_holds(self, run: Run) -> bool:
        hold, claim = self._hold, run.claim
        if hold is None or claim is None or claim.token != hold.token:
            return False
        return hold.is_active and self._rules.still_starts(trusted=self._cluster.trusted)

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        claim = run.claim
        if outcome is None and run is self._older:
            self._tell_older()
        if outcome is None and claim is not None and claim.number is not None and self._stops:
            self._give_back(claim.number)
        if claim is not None and claim.number is not None and self._is_noted(outcome):
            self._note_end(claim.number, UNSTARTED if outcome is None else str(outcome))
            self._write_soon()
        if self._cluster.claims.is_open(self.key):
            # The standing counts the run until this call is over.
            asyncio.get_running_loop().call_soon(self._cluster.claims.touch, self.key)

    @property
    def _stops(self) -> bool:
        """Whether the service stops, and hands out no more slots."""
        return not self._runner.lookout.is_open

    def _give_back(self, number: int, *, is_claimed: bool = True) -> None:
        """Leave a slot to the next holder, whose run never started here."""
        is_noted = is_claimed and self._is_noted(None)
        if not is_noted and (self._given_back is None or number < self._given_back):
            self._given_back = number

    def _tell_older(self) -> None:
        """Tell of slots for which a run stood that never began. Its slot is claimed, so no later holder counts them."""
        run, self._older = self._older, None
        if run is not None and run.missed and not run.has_begun:
            self._runner.report_missed(run)

    def _note_end(self, number: int, state: str) -> None:
        self._outcome = number, state
        if self._last is not None and self._last[0] == number:
            self._last = *self._last[:2], state

    def holder(self) -> str | None:
        held = self._cluster.holder_of(self.key)
        return None if held is None else held.owner

    def holding(self) -> Holding | None:
        held = self._cluster.holder_of(self.key)
        return None if held is None else Holding(held.owner, held.since, held.token)

    def is_settled(self, task: ManagedTask) -> bool:
        return self._cluster.claims.is_settled(self.key)

    async def until_settled(self, task: ManagedTask) -> None:
        await self._cluster.until_settled(self.key)

    def paused(self, pause: TaskPause | None) -> None:
        self._pause = pause
        if self._is_held and (pause or self._slots.pause) is not None:
            self._pause_is_news = True
            self._write_soon()
        self._cluster.claims.touch(self.key)

    def stopping(self) -> None:
        self.close()

    def close(self) -> None:
        """Give the task to another process as soon as no run of it is in progress."""
        self._cluster.claims.leave(self.key, self)

    # Numbers

    @property
    def _spacing(self) -> int:
        """Microseconds between two slots; 0 = they are moments of the wall clock."""
        grid = self._task.plan.grid
        return grid.step if isinstance(grid, Every) else 0

    def _is_noted(self, outcome: Outcome | None) -> bool:
        """Whether the end of a run is written: not for very many, and not where the next holder is to run it again."""
        if 0 < self._spacing < SECOND:
            return False
        return outcome is not Outcome.CANCELLED or self._task.options.interrupted == "skip"

    def _more_at_once(self) -> int:
        """Return how many later slots are claimed together with one: those of one second."""
        return _at_once(self._spacing) - 1

    def _number(self, planned: int) -> int:
        """Number a slot: by its moment on the wall clock, or by its distance from the last one."""
        last, at = self._anchor
        if self._task.plan.grid.on_wall:
            if planned == self._again:
                self._anchor = (planned - 1, at)
            return planned
        steps = round((planned - at) / max(1, self._spacing))
        if steps <= 0 and self._again is not None:
            self._anchor = (last - 1, at)
            return last
        return last + max(1, steps)

    # Writing slots

    def _write_soon(self) -> None:
        if self._writer is None:
            self._writer = asyncio.ensure_future(self._write())
            self._writer.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writer = None
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.error("lease.step_failed", name=self.name, kind="task", exc_info=error)
            self._pause_is_news = False
            while self._waiting:
                self._runner.refuse(self._waiting.popleft().run, "lease_lost", with_older=False)
        if self._hold is not None and self._has_news:
            self._write_soon()

    @property
    def _has_news(self) -> bool:
        return bool(self._waiting or self._outcome or self._pause_is_news)

    async def _write(self) -> None:
        """Note a pause or its end, claim the slots that wait, in their order, then note the outcome of the last one."""
        while (hold := self._hold) is not None and self._has_news:
            if self._pause_is_news:
                await self._write_pause(hold)
                continue
            if self._waiting:
                await self._write_claim(self._waiting[0], hold)
                continue
            assert self._outcome is not None
            (number, state), self._outcome = self._outcome, None
            noted = await self._slots.note(hold, number, state)
            if not (noted or self._waiting or self._outcome) and self._cluster.trusted:
                self._outcome = number, state
                await asyncio.sleep(self._rules.retry_in())

    async def _write_pause(self, hold: Hold) -> None:
        pause = self._pause
        if not await self._slots.write_pause(hold, pause):
            await asyncio.sleep(self._rules.retry_in())
        elif pause == self._pause and hold is self._hold:
            self._pause_is_news = False

    async def _write_claim(self, waiting: _Waiting, hold: Hold) -> None:
        run = waiting.run
        moment = self._runner.lookout.read()
        lag = self._task.plan.reference(moment) - run.planned - waiting.ahead
        state = CLAIMED if waiting.until == waiting.number else SEVERAL
        self._older, oldest = run, 0
        if run.missed:
            oldest = run.oldest if self._task.plan.grid.on_wall else waiting.number - run.missed
        self._last = waiting.until, hold.session.inc, SEVERAL if state == SEVERAL else UNSTARTED
        written = await self._slots.claim(hold, waiting.until, lag, self._spacing, state, oldest)
        if not self._waiting or self._waiting[0] is not waiting:
            if written:  # and withdrawn meanwhile
                self._tell_older()
            return
        self._waiting.popleft()
        trusted = hold is self._hold and hold.is_active and self._cluster.trusted
        if written:
            self._claimed_until = max(self._claimed_until, waiting.until)
        if not self._rules.may_start(slot_written=written, trusted=trusted):
            self._runner.refuse(run, "lease_lost", with_older=not written)
            self._give_back(waiting.number, is_claimed=written)
            if written:
                if self._is_noted(None):
                    self._outcome = (waiting.number, UNSTARTED)  # the next holder runs it, at a release
                self._tell_older()
            if trusted:  # somebody else wrote over the slots
                self._cluster.claims.recheck(self.key)
            return
        if run.claim is None:
            self._let_run(run, waiting.number, hold)
            if not self._runner.admit(run):
                self._give_back(waiting.number)
                if self._is_noted(None):
                    self._note_end(waiting.number, UNSTARTED)

    # Holder

    @property
    def is_wanted(self) -> bool:
        return self._pause is None or self._is_held

    @property
    def _is_held(self) -> bool:
        """Whether the name is this process' since it became the holder, perhaps without the right to act."""
        if self._hold is None:
            return False
        name = self._cluster.claims.find(self.key)
        return name is not None and name.hold is not None and name.hold.session is self._hold.session

    @property
    def is_busy(self) -> bool:
        return self._task.standing.running > 0

    async def prepare(self) -> int:
        return await self._slots.prepare()

    async def take(self, hold: Hold) -> bool:
        return await self._slots.take(hold, self._spacing, self._judge)

    def _judge(self, found: SlotRecord) -> tuple[str, bool]:
        """Say how the last slot was left: as this process remembers it, else its run was cut off."""
        last = self._last if self._last is not None and self._last[:2] == (found.n, found.inc) else None
        is_told = last is not None or self._told == (found.n, found.inc)
        if found.state != CLAIMED:
            return found.state, is_told
        if last is not None and last[2] != CLAIMED:
            return last[2], is_told
        return CLAIMED if self._task.options.interrupted == "rerun" else MISSED, is_told

    def gained(self, hold: Hold) -> None:
        self._continue_grid(hold)
        self._continue_pause()

    def _continue_pause(self) -> None:
        """Go on with the pause of the holder before, where it is not over; what was said here since is newer."""
        stored = self._slots.pause
        if self._pause is not None or stored is None or self._pause_is_news:
            self._pause_is_news = self._pause != stored
        elif stored.until is not None and stored.until <= self._runner.lookout.read().wall:
            self._pause_is_news = True
        else:
            self._pause = stored
            self._verbs.adopt_pause(self._task, stored)
        if self._pause_is_news:
            self._write_soon()

    def _leave_pause(self) -> None:
        """Leave the pause to the next holder: it is the task's, and does not keep this process from another turn.

        One that stands in no record stays: nobody else knows of it.
        """
        if self._pause is not None and self._hold is not None and not self._pause_is_news:
            self._pause = None
            self._verbs.leave_pause(self._task)

    def _continue_grid(self, hold: Hold) -> None:
        self._hold, self._again, self._is_first = hold, None, True
        self._was_lost = False
        record = self._slots.record
        assert record is not None
        moment = self._runner.lookout.read()
        plan = self._task.plan
        now = self._gained_at = plan.reference(moment)
        is_moment = plan.grid.on_wall and record.spacing == 0 and record.state != NEW
        last = record.n if is_moment else now - self._slots.since
        self._anchor, self._claimed_until = (record.n, last), record.n
        if record.state == NEW:
            if self._task.options.run_immediately:
                self._runner.begin_now(self._task)
            elif record.token != record.n:
                self._runner.begin_grid(self._task, last)
            return
        if self._last is not None and self._last[:2] == (record.n, record.inc):
            self._tell_older()
        if record.oldest:
            self._tell_untold(record, last)
        again = record.state in (UNSTARTED, CLAIMED)
        if again:
            self._again = last if plan.grid.on_wall else record.n
        if not self._runner.resume_grid(self._task, last, "lease_lost", again=again) and again:
            self._again = None
            self._note_end(record.n, MISSED)
            self._write_soon()

    def _tell_untold(self, record: SlotRecord, last: int) -> None:
        """Tell that slots are missed of which the holder before may not have told; `last` is the record's slot.

        It is written down afterwards, so that a slot may be told of twice where this process ends before, and never not
        at all.
        """
        grid, is_cut_off = self._task.plan.grid, record.state == MISSED
        if grid.on_wall and not record.spacing:
            gap = self._task.plan.gap_between(record.oldest, last if is_cut_off else last - 1)
        elif grid.on_wall or not record.spacing:
            gap = Gap(last, last, 1) if is_cut_off else None  # the task has another schedule by now
        else:
            until = record.n
            if not is_cut_off:
                until -= _at_once(record.spacing) if record.state == SEVERAL else 1
            first, end = (last - (record.n - number) * record.spacing for number in (record.oldest, until))
            gap = Gap(first, end, until - record.oldest + 1)
        if gap is not None:
            self._runner.report_cut_off(self._task, gap, "lease_lost")
        self._told, self._outcome = (record.n, record.inc), (record.n, record.state)
        self._write_soon()

    def lost(self, why: LostWhy) -> None:
        self._was_lost = True
        self._waiting.clear()
        self._outcome = None
        self._runner.withdraw(self._task)
        self._leave_pause()
        if why != "trust_ended":
            self._hold = None
        if self._hold is None and self._pause is None:
            self._pause_is_news = (
                False  # a resume that nobody has learnt of is void where another one goes on
            )

    async def settle(self, hold: Hold) -> None:
        while self._pause_is_news and self._writer is not None and hold.session.trusted:
            await asyncio.wait({self._writer})
        self._leave_pause()
        # Now: slots that come up from here on are not ours. After a loss none is known to be seen to, beyond what the
        # record says, and the next holder tells of the others.
        seen_to = None if self._was_lost else self._seen_to()
        while self._writer is not None and hold.session.trusted:
            await asyncio.wait({self._writer})
        # The next holder goes on after the last slot that came up here, and not after one that was claimed ahead.
        record = self._slots.record
        if seen_to is not None and record is not None and hold.session.trusted:
            number, at = self._without_given_back(*seen_to)
            if record.n != number or (record.oldest and self._has_told_older):
                now = self._task.plan.reference(self._runner.lookout.read())
                await self._slots.pass_on(hold, number, now - at)
        self._hold = None

    def _seen_to(self) -> tuple[int, int] | None:
        """Find the last slot that was handed out here, with a run or without: its number, and its moment.

        It is later than the last claimed one where slots got no run, and earlier where slots were claimed ahead.
        """
        record, slot, step = self._slots.record, self._task.plan.slot, self._spacing
        if record is None or record.state == NEW or slot is None or not step:
            return None
        last, at = self._anchor
        passed = max(0, round((slot - step - at) / step))
        return last + passed, at + passed * step

    def _without_given_back(self, number: int, at: int) -> tuple[int, int]:
        """Go back to the slot before those that the next holder gets."""
        back = 0 if self._given_back is None else max(0, number + 1 - self._given_back)
        return number - back, at - back * self._spacing

    @property
    def _has_told_older(self) -> bool:
        """Whether the older slots were told of for which the last run that was claimed stands."""
        return self._older is None or self._older.has_begun

    def left(self) -> None:
        self._hold = None
        if self._writer is not None:
            self._writer.cancel()
