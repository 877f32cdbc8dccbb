"""`HostGate`: lets one process of this machine run a task of ``scope="host"``.

Each process tries the task's lock at its own slots, and at no other time: there is no thread, no timer and no extra
wake-up. Whoever gets the lock keeps it for life. Before each run the holder writes the slot into the locked file, in
time since the machine's boot, which no process can set; so the next holder, whose own slots lie elsewhere, goes on with
the same grid:

    A runs 30, 60; B, which started half a second later, is refused at 30.5, 60.5. A dies at 75.
    B gets the lock at 90.5, reads that the last slot was 60, runs 90 half a second late, and goes on with 120.
    If A dies right after 60, B gets the lock at 60.5 and runs nothing until 90.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from asyncmgr._common.clock import SECOND, Moment
from asyncmgr._common.log import log
from asyncmgr._leases.boot import Boot, start_of
from asyncmgr._leases.host_locks import HostLocks, Lock
from asyncmgr._leases.host_record import HostRecord, decode
from asyncmgr._tasks.gate import Answer, Gate, SlotClaim
from asyncmgr._tasks.lookout import SET_BACK
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run
from asyncmgr._tasks.schedules import Every, Once
from asyncmgr.errors import LockUnavailable
from asyncmgr.events import Outcome

_SET_BACK = round(SET_BACK * SECOND)

_APART = 100
"""Microseconds that two readings of clocks may lie apart; at most so far does a change of the holder move a grid."""


class HostGate(Gate):
    """Asks the lock of one task.

    Parameters
    ----------
    task
        The task.
    runner
        Runs it, and knows the time by which it is planned.
    locks
        The locks of the application.
    """

    def __init__(self, task: ManagedTask, runner: Runner, locks: HostLocks) -> None:
        self._task = task
        self._runner = runner
        self._boot: Boot = locks.boot
        self._make_lock: Callable[[], Lock] = functools.partial(locks.lock, "task", task.full_name)
        self._lock: Lock | None = None
        self._record = HostRecord(self._boot.id)
        """What stands in the lock, while this process holds it."""
        self._before = self._record
        """What stood there before the last claim."""
        self._active = 0
        """Runs that were admitted and have not ended."""
        self._is_closing = False
        self._trouble: str | None = None
        self._seen = b""
        """What stood in the lock when it was last refused."""
        self._is_strange = False
        """Whether that was written on another machine."""
        self._strangers = 0
        """How often in a row another machine had the lock."""

    # The gate

    def ask(self, run: Run) -> Answer:
        try:
            answer = self._ask(run)
        except LockUnavailable as exc:
            self._fail(exc)
            return "not_owner"
        if self._trouble is not None:
            self._trouble = None
            log.info("lock.recovered", task=self._task.full_name)
        return answer

    def still_holds(self, run: Run) -> bool:
        return self._lock is not None and self._lock.held

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        self._active -= 1
        number = None if run.claim is None else run.claim.number
        if number is not None and number == self._record.number and self.still_holds(run):
            with self._reporting():
                self._note_end(outcome)
        if self._is_closing and not self._active:
            self._leave()

    def stopping(self) -> None:
        self.close()

    def close(self) -> None:
        """Leave the lock to another process as soon as no run is in progress."""
        self._is_closing = True
        if not self._active:
            self._leave()

    def holder(self) -> str | None:
        if self._lock is None:
            with contextlib.suppress(LockUnavailable):
                self._lock = self._make_lock()
        record = None if self._lock is None else decode(self._lock.read())
        if record is None or record.left or not record.pid:
            return None
        if record.boot == self._boot.id and record.start and start_of(record.pid) != record.start:
            return f"pid {record.pid}, which is gone or in another container"
        return f"pid {record.pid}"

    # Asking the lock

    def _ask(self, run: Run) -> Answer:
        lock = self._lock = self._lock or self._make_lock()
        was_held = lock.held
        if not lock.acquire():
            if was_held:
                self._lose()
            self._look_for_strangers(lock)
            return "not_owner"
        self._strangers = 0
        if lock.restored:
            log.warning("lock.removed", task=self._task.full_name, cure=_REMOVED)
        if lock.gained:
            return self._take_over(run, decode(lock.read()))
        return self._claim(run)

    def _lose(self) -> None:
        """Stop the task: its file was removed and locked anew by another process before this one could notice."""
        log.error("lock.lost", task=self._task.full_name, holder=self.holder(), cure=_REMOVED)
        self._runner.withdraw(self._task)

    def _look_for_strangers(self, lock: Lock) -> None:
        data = lock.read()
        if data != self._seen:  # read only then: it takes longer than all else
            self._seen, record = data, decode(data)
            self._is_strange = record is not None and record.boot not in ("", self._boot.id)
        # Once may be a holder that has not written yet, since a reboot.
        self._strangers = self._strangers + 1 if self._is_strange and self._boot.id else 0
        if self._strangers == 2:
            log.error(
                "lock.shared",
                task=self._task.full_name,
                holder=self.holder(),
                cure="another machine holds it: give [lease] directory a local directory, not one of a network",
            )

    # Taking over

    def _take_over(self, run: Run, found: HostRecord | None) -> Answer:
        """Become the holder, and go on with the grid of the one before."""
        record = found or HostRecord(self._boot.id)
        number = max(record.number, self._record.number)
        is_ours = replace(self._record, state="new") if record.boot != self._boot.id else record
        self._record = replace(is_ours, boot=self._boot.id, number=number, left=False)
        self._tell(found)
        last = self._last_slot(record)
        if last is None:
            self._write(self._record)
            return self._claim(run)
        return self._go_on(run, record, last)

    def _tell(self, found: HostRecord | None) -> None:
        before = None if found is None or found.pid in (0, os.getpid()) else f"pid {found.pid}"
        if before is None:
            log.debug("lock.taken", task=self._task.full_name, before=before)
        else:
            log.info("lock.taken", task=self._task.full_name, before=before)

    def _go_on(self, run: Run, record: HostRecord, last: int) -> Answer:
        is_cut_off = record.state == "claimed"
        reruns = is_cut_off and run.is_of_grid and self._task.options.interrupted == "rerun"
        try:
            is_due = self._runner.continue_grid(run, last)
        except Exception as exc:  # of the schedule
            log.error("schedule.failed", task=self._task.full_name, exc_info=exc)
            is_due, reruns = run.is_of_grid, False
        if reruns:
            run.asked = "catch_up"
        if reruns and not is_due:
            run.planned, run.missed = last, 0
            return self._claim(run, record.number)
        if is_cut_off:
            self._runner.lose(run, last)
        self._write(replace(self._record, state="ended"))
        return self._claim(run, takes_over=True) if is_due or not run.is_of_grid else "not_owner"

    def _last_slot(self, record: HostRecord) -> int | None:
        """Return the last slot on the scale of the plan; `None` = there was none since the boot."""
        if record.state == "new" or record.boot != self._boot.id:
            return None
        moment, boot = self._read_clocks()
        grid = self._task.plan.grid
        age = boot - record.slot
        if age < -(grid.step if isinstance(grid, Every) else _SET_BACK):
            return None  # from the future: another boot, which the system does not tell apart
        if not grid.on_wall:
            return moment.now - age
        by_age = moment.wall - age
        # As the plan of a holder does: where the wall was set back by more than a minute, times come a second time.
        is_set_back = record.wall - by_age > _SET_BACK and not isinstance(grid, Once)
        return by_age if is_set_back else record.wall

    # Slots

    def _claim(self, run: Run, number: int | None = None, *, takes_over: bool = False) -> Answer:
        """Write down that the slot is taken, and let it run."""
        if not run.is_of_grid:
            run.claim = SlotClaim()
        else:
            moment, boot = self._read_clocks()
            ago = (moment.wall if run.on_wall else moment.now) - run.planned
            number = self._record.number + 1 + run.missed if number is None else number
            before = self._record
            self._write(
                replace(before, number=number, slot=boot - ago, wall=moment.wall - ago, state="claimed")
            )
            self._before = before
            run.claim = SlotClaim(number=number, stands_for="down" if takes_over else None)
        self._active += 1
        return "run"

    def _note_end(self, outcome: Outcome | None) -> None:
        if outcome is None:  # it never started: the slot is the next one's again
            self._write(self._before)
        elif outcome is not Outcome.CANCELLED or self._task.options.interrupted == "skip":
            self._write(replace(self._record, state="ended"))

    def _write(self, record: HostRecord, *, left: bool = False) -> None:
        assert self._lock is not None
        pid = os.getpid()
        record = replace(record, pid=pid, start=_start_of(pid), left=left)
        self._lock.write(record.encode())
        self._record = record

    def _read_clocks(self) -> tuple[Moment, int]:
        """Read the time of the plan and that since the boot, as near to each other as three tries allow."""
        nearest: tuple[int, Moment, int] | None = None
        for _ in range(3):
            before = self._boot.now()
            moment = self._runner.lookout.clock.read()
            apart = self._boot.now() - before
            if nearest is None or apart < nearest[0]:
                nearest = apart, moment, before + apart // 2
            if apart <= _APART:
                break
        assert nearest is not None
        return nearest[1:]

    # The end, and trouble

    def _leave(self) -> None:
        if self._lock is None:
            return
        if self._lock.held:
            with self._reporting():
                self._write(self._record, left=True)
        self._lock.close()

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        try:
            yield
        except LockUnavailable as exc:
            self._fail(exc)

    def _fail(self, error: LockUnavailable) -> None:
        """Log the first failure and each with another text; leave the lock to others, who may be luckier."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            log.error("lock.failed", task=self._task.full_name, error=self._trouble)
        if self._lock is not None and not self._active:
            self._lock.close()


_REMOVED = (
    "something removes files from the directory of the locks; have it leave them, or set [lease] directory"
)


@functools.lru_cache(maxsize=1)
def _start_of(pid: int) -> int:
    return start_of(pid) or 0
