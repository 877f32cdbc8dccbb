"""`PersistGate`: keeps the last slot of a task that every process runs in the store, so that it survives a restart.

Every slot runs: this gate refuses none. It writes behind the runs, and a store that is down stops no task.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

from asyncmgr._common.clock import SECOND, Moment, to_datetime
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import error_text
from asyncmgr._leases.keys import kept_key
from asyncmgr._leases.records import SLOTS, Foreign, SlotRecord, decode
from asyncmgr._leases.rules import Rules
from asyncmgr._leases.slots import CLAIMED, UNSTARTED
from asyncmgr._tasks.gate import Answer, Gate, SlotClaim
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run
from asyncmgr._tasks.schedules import Every, Gap
from asyncmgr.events import Outcome
from asyncmgr.transports import Store, StoreEngine

ANSWER_WITHIN = 5.0
"""Seconds that the store gets for one call."""

_SLACK = SECOND
"""Microseconds by which a slot that ran nearly due, or a clock that was slewed, may lie ahead."""


class Memory:
    """The slots of one host, in a store. An event loop must be running."""

    def __init__(self, engine: StoreEngine, application: str, host: str) -> None:
        self._engine, self._application, self.host = engine, application, host
        self._knows = Rules().knows
        self._store: Store | None = None
        self._in_trouble = False
        self._found: dict[str, SlotRecord | None] = {}

    async def load(self, full_names: list[str]) -> None:
        """Read what is known of these tasks. Where that fails, it is logged, and they begin anew."""
        await asyncio.gather(*(self.read(name) for name in full_names))

    def known(self, full_name: str) -> bool:
        """Whether a task was read."""
        return full_name in self._found

    def last(self, full_name: str) -> SlotRecord | None:
        """Return what was read of a task; `None` = nothing."""
        return self._found.get(full_name)

    async def read(self, full_name: str) -> None:
        """Read what is known of a task."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                entry = await (await self._open()).get(kept_key(self._application, self.host, full_name))
        except Exception as exc:
            self._note_failure(exc)
            return
        found = None if entry is None else decode(SlotRecord, entry.value, self._knows)
        self._found[full_name] = None if isinstance(found, Foreign) else found

    async def write(self, full_name: str, record: SlotRecord) -> None:
        """Write a record; a failure is logged once."""
        key = kept_key(self._application, self.host, full_name)
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await (await self._open()).put(key, record.encode())
        except Exception as exc:
            self._note_failure(exc)
        else:
            self._found[full_name] = record
            self._note_success()

    async def _open(self) -> Store:
        if self._store is None:
            self._store = await self._engine.store(SLOTS, ttl=None, watched=False)
        return self._store

    def _note_failure(self, error: Exception) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            log.warning(
                "slots.failed", application=self._application, host=self.host, error=error_text(error)
            )

    def _note_success(self) -> None:
        if self._in_trouble:
            self._in_trouble = False
            log.info("slots.resumed", application=self._application, host=self.host)


class PersistGate(Gate):
    """Lets every slot run, and writes down which one was the last, and how it ended."""

    def __init__(self, task: ManagedTask, runner: Runner, memory: Memory) -> None:
        self._task, self._runner, self._memory = task, runner, memory
        self._record: SlotRecord | None = None
        self._waiting: SlotRecord | None = None
        self._writer: asyncio.Task[None] | None = None
        self._began_at = 0
        self._is_first = False
        self._is_ending = asyncio.Event()

    def open(self) -> None:
        """Go on with the grid that was written down."""
        if self._memory.known(self._task.full_name):
            self._go_on()
        else:
            self._spawn(self._load())

    async def _load(self) -> None:
        await self._memory.read(self._task.full_name)
        if self._record is None:
            self._go_on()

    def _go_on(self) -> None:
        record = self._memory.last(self._task.full_name)
        if record is None:
            return
        moment = self._runner.lookout.read()
        if record.n > moment.wall + _SLACK:
            log.warning(
                "grid.restarted",
                task=self._task.full_name,
                host=self._memory.host,
                last_slot=to_datetime(record.n).isoformat(),
            )
            return
        self._record = record
        self._began_at, self._is_first = self._task.plan.reference(moment), True
        self._resume(record, moment)

    def _resume(self, record: SlotRecord, moment: Moment) -> None:
        on_wall = self._task.plan.grid.on_wall
        last = record.n if on_wall else moment.now - (moment.wall - record.n)
        again = record.state == UNSTARTED or (
            record.state == CLAIMED and self._task.options.interrupted == "rerun"
        )
        if record.state == CLAIMED and not again:
            self._runner.report_cut_off(self._task, Gap(last, last, 1), "down")
        try:
            self._runner.resume_grid(self._task, last, "down", again=again)
        except Exception as exc:  # of the schedule
            log.error("schedule.failed", task=self._task.full_name, exc_info=exc)

    # Gate

    def ask(self, run: Run) -> Answer:
        if not run.is_of_grid:
            return "run"
        is_late = self._is_first and run.planned < self._began_at
        if is_late and run.asked is None:
            run.asked = "catch_up"
        stands_for_others = is_late or (self._is_first and run.missed)
        self._is_first = False
        number = round(run.slot.timestamp() * SECOND)
        run.claim = SlotClaim(None, number, "down" if stands_for_others else None)
        grid = self._task.plan.grid
        self._write(
            SlotRecord(0, number, 0, grid.step if isinstance(grid, Every) else 0, CLAIMED, self._memory.host)
        )
        return "run"

    def still_holds(self, run: Run) -> bool:
        return True

    def ended(self, run: Run, outcome: Outcome | None) -> None:
        record, claim = self._record, run.claim
        if record is None or claim is None or claim.number != record.n:
            return
        if outcome is not Outcome.CANCELLED or self._task.options.interrupted == "skip":
            self._write(replace(record, state=UNSTARTED if outcome is None else str(outcome)))

    def close(self) -> None:
        """Write on behind the runs that still go on; `flush` waits for that."""

    def holder(self) -> str | None:
        return None

    # Writing

    def _write(self, record: SlotRecord) -> None:
        self._record = self._waiting = record
        if self._writer is None:
            self._spawn(self._write_on())

    async def _write_on(self) -> None:
        while self._waiting is not None:
            record, self._waiting = self._waiting, None
            await self._memory.write(self._task.full_name, record)
            if 0 < record.spacing < SECOND and not self._is_ending.is_set():
                # The last one of a second is enough.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await self._is_ending.wait()

    def _spawn(self, work: object) -> None:
        self._writer = asyncio.ensure_future(work)  # type: ignore[call-overload]
        assert self._writer is not None
        self._writer.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writer = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("lease.step_failed", name=self._task.full_name, kind="task", exc_info=error)
        elif self._waiting is not None and not task.cancelled():
            self._spawn(self._write_on())

    async def flush(self) -> None:
        """Wait until the last record is written, or has failed."""
        self._is_ending.set()
        while self._writer is not None:
            await asyncio.wait({self._writer}, timeout=ANSWER_WITHIN + 1)
