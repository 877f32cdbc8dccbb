"""`History`: the ledger, the journal and the file of one service, and the answers that they give."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable, Iterator
from datetime import datetime, tzinfo
from itertools import islice
from typing import TYPE_CHECKING

from asyncmgr._common.clock import SECOND, Moment, MovesWall, to_us
from asyncmgr._common.log import log
from asyncmgr._history.explain import Explanation, Facts, Running, explain, explain_keys
from asyncmgr._history.journal import Entry, Journal
from asyncmgr._history.ledger import Ledger
from asyncmgr._history.slots import Record
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr._tasks.whereabouts import where_it_waits

if TYPE_CHECKING:
    from asyncmgr._history.past import Past
    from asyncmgr._history.writer import Writer
    from asyncmgr._tasks.managed import ManagedTask, Trouble
    from asyncmgr._tasks.runs import Run
    from asyncmgr._tasks.schedules import Gap

_AROUND = 60 * SECOND
"""Microseconds: how far a slot may be from the moment that somebody asks about."""

_LOOK_BACK = 120 * SECOND
"""Microseconds before a crash in which the last slot of a fast task lies."""

_USUAL = 20
"""The number of runs whose median is what a run usually takes."""


class Asked:
    """A task, or one key of a task, and what the service knows of it at the moment at which somebody asks."""

    def __init__(
        self,
        task: ManagedTask,
        moment: Moment,
        *,
        absence: str | None,
        why_off: str,
        run: Run | None,
        key: Hashable | None = None,
        elsewhere: str = "",
        holder: str = "",
    ) -> None:
        """`absence` is ``paused``, ``disabled`` or `None`; `run` is the oldest run in progress.

        `holder` is the process that holds the task at present; empty = none is known.

        `elsewhere` says why this process does not run the key; empty = it does.
        """
        self.task = task
        self.moment = moment
        self.absence = absence
        self.why_off = why_off
        self.run = run
        self.key = key
        self.elsewhere = elsewhere
        self.holder = holder

    @property
    def name(self) -> str:
        """The full name of the task, with the key."""
        return self.task.full_name if self.key is None else f"{self.task.full_name}[{self.key}]"

    @property
    def shift(self) -> int:
        """What to add to the scale of the grid to get wall time."""
        return 0 if self.task.plan.grid.on_wall else self.moment.wall - self.moment.now

    @property
    def trouble(self) -> Trouble | None:
        """Its failures in a row."""
        task: ManagedTask | None = self.task
        if isinstance(self.task, KeyedTask) and self.key is not None:
            task = self.task.active.get(self.key)
        return None if task is None else task.standing.trouble

    def next_slot(self) -> int | None:
        """Return the next slot that gets a run, wall time; `None` = there is none."""
        if self.absence is not None or self.elsewhere:
            return None
        if isinstance(self.task, KeyedTask) and self.key is not None:
            return self.moment.wall + self.task.keys.remaining_of(self.key, self.moment)
        slot = self.task.next_slot()
        return None if slot is None else slot + self.shift

    def gap(self) -> Gap | None:
        """Return the slots that it has not got so far, while it is absent."""
        gap = None if self.absence is None else self.task.plan.gap(self.moment)
        if gap is None or self.key is None or not isinstance(self.task, KeyedTask):
            return gap
        return self.task.keys.ring.gap_of(self.key, gap.first - 1, self.moment.now)

    def slots_around(self, moment: int) -> tuple[int | None, int | None]:
        """Find the slot of the present grid at or before a moment in wall time, and the first one after it."""
        if isinstance(self.task, KeyedTask):
            ring = self.task.keys.ring
            after = ring.next_slot_of(self.key, moment - self.shift) + self.shift
            return after - ring.spacing, after
        return _slots_around(self, moment)


class History:
    """What became of the slots of one service."""

    def __init__(self, service: str, host: str, journal: Journal, zone: Callable[[], tzinfo]) -> None:
        """`zone` returns the time zone of explanations."""
        self._service = service
        self._host = host
        self._zone = zone
        self.journal = journal
        self.ledger = Ledger(journal)
        self.incarnation = ""
        """What the ids of runs begin with."""
        self._started: int | None = None
        self._past: Past | None = None
        self._writer: Writer | None = None
        self._last_slots: dict[str, int] = {}
        self._down: tuple[int, bool] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # The life of the service

    def open(self, url: str | None, incarnation: str, wall: int) -> None:
        """Open the file of this URL, if there is one. `incarnation` is what ids of runs begin with.

        Raises
        ------
        InvalidSettings
            The URL is not accepted, or the file cannot be used.
        """
        self.incarnation = incarnation
        if url is None:
            return
        # Not before: most services have no file, and `sqlite3` is slow to import.
        from asyncmgr._history.past import Past
        from asyncmgr._history.sqlite import HistoryFile, path_of
        from asyncmgr._history.writer import Writer

        file = HistoryFile(
            path_of(url), service=self._service, host=self._host, incarnation=incarnation, now=wall
        )
        former = file.former
        if former is not None:
            end = former.alive if former.stopped is None else former.stopped
            self._down = (min(end, wall), former.stopped is None)
            self._last_slots = file.last_slots(end - _LOOK_BACK)
        self._past = Past(file.path)
        self._writer = Writer(file, self.ledger, self.journal)
        if isinstance(asyncio.get_running_loop(), MovesWall):
            self._write_by_timer()  # virtual time does not wait for threads
        else:
            self._writer.start()

    def _write_by_timer(self) -> None:
        from asyncmgr._history.writer import COMMIT

        if self._writer is not None:
            self._writer.write()
            self._timer = asyncio.get_running_loop().call_later(COMMIT, self._write_by_timer)

    def begin(self, tasks: Iterable[ManagedTask], moment: Moment) -> None:
        """Note that the tasks run from this moment on, and the slots that passed while the service was down."""
        self._started = moment.wall
        if self._down is not None:
            since, crashed = self._down
            self.journal.add("down", at=since, until=moment.wall, crashed=crashed)
            log.info(
                "history.continued", service=self._service, down=round((moment.wall - since) / SECOND, 3)
            )
            for task in tasks:
                self._note_down(task, moment)
        self.journal.add("started", at=moment.wall)
        self._last_slots = {}

    def _note_down(self, task: ManagedTask, moment: Moment) -> None:
        last, grid = self._last_slots.get(task.full_name), task.plan.grid
        if last is None or last >= moment.wall or task.plan.options.switched_off is not None:
            return
        try:
            first = grid.first(last)
            gap = None if first is None else task.plan.gap_between(first, moment.wall)
        except Exception:  # of a schedule, which is asked again at its slot, and reported then
            return
        if gap is not None:
            self.ledger.past(task, gap.first, gap.last, gap.slots)

    async def close(self) -> None:
        """Write the rest, and close the file."""
        self.journal.add("ended")
        if self._timer is not None:
            self._timer.cancel()
        writer, self._writer = self._writer, None
        if writer is not None:
            await asyncio.get_running_loop().run_in_executor(None, writer.stop)

    # Questions

    def records(
        self, asked: Iterable[Asked], task: str | None, *, since: int | None, until: int | None, limit: int
    ) -> list[Record]:
        """List up to `limit` records of a task, or of all, newest first. `asked` are tasks that may be absent now.

        Those of single keys are listed where one task is asked about.
        """
        asked = list(asked)
        found = [record for one in asked if (record := self._live(one)) is not None]
        found += self.ledger.records(task, since, until=until, limit=limit + _UNORDERED)
        if task is not None:
            found += self._of_keys(asked, since, until, limit + _UNORDERED)
        oldest = min((record.ended for record in found), default=self._started or 0)
        if self._past is not None and len(found) < limit and all(one.key is None for one in asked):
            last = min(oldest if self._started is None else self._started, until or 2**62)
            found += self._ask_past(task, since or 0, last, limit)
        if until is not None:
            found = [record for record in found if record.slot <= until]
        # A file may have records that memory has too.
        unique = {
            (one.task, one.key, one.slot, one.fate, one.reason, one.started): one for one in reversed(found)
        }
        return sorted(unique.values(), key=lambda record: record.ended, reverse=True)[:limit]

    def _of_keys(
        self, asked: Iterable[Asked], since: int | None, until: int | None, limit: int
    ) -> Iterator[Record]:
        for one in asked:
            for record in self.ledger.key_records(one.task.full_name, one.key, until=until, limit=limit):
                if since is None or record.ended >= since:
                    yield record

    def earlier(self, since: int, limit: int) -> tuple[list[Record], list[Entry]]:
        """Read the fates and what befell the service, from `since` to its start, from the file. For another thread."""
        if self._past is None or self._started is None or since >= self._started:
            return [], []
        try:
            entries = self._past.entries(since, self._started - 1, None)
        except Exception:  # `_ask_past` says so
            entries = []
        return self._ask_past(None, since, self._started, limit), entries

    @property
    def started(self) -> int | None:
        """When the tasks began; wall time, microseconds."""
        return self._started

    def _ask_past(self, task: str | None, since: int, until: int, limit: int) -> list[Record]:
        assert self._past is not None
        try:
            return self._past.newest(task, since, until, limit)
        except Exception as exc:  # the file is busy or gone: memory answers
            log.warning("history.unreadable", path=str(self._past.path), error=str(exc))
            return []

    def explain(self, asked: Asked, at: datetime | None) -> Explanation:
        """Explain what became of the slot at this moment; `None` = the present state of the task."""
        if isinstance(asked.task, KeyedTask) and asked.key is None and asked.absence is None:
            counts = asked.task.count()
            return explain_keys(
                asked.task.full_name, counts.known, counts.running, counts.waiting, counts.failing
            )
        return explain(self.facts(asked, None if at is None else to_us(at.timestamp())))

    def facts(self, asked: Asked, at: int | None) -> Facts:
        """Gather what is known of a task around a moment."""
        plan, moment = asked.task.plan, asked.moment
        tolerance = self._tolerance(asked)
        around = moment.wall if at is None else at
        before, after = asked.slots_around(around)
        live = self._live(asked)
        record = self._newest(asked, live) if at is None else self._near(asked, live, at, tolerance)
        running = None if asked.run is None else self._running(asked.run, asked)
        if running is not None and at is None and asked.run is not None:
            record = None  # the run in progress is the news
        entries = [] if record is None and at is None else self._entries(asked, record, around)
        trouble = asked.trouble
        return Facts(
            asked.name,
            moment.wall,
            self._zone(),
            at,
            str(plan.grid).removeprefix("cron "),
            before,
            after,
            asked.next_slot(),
            tolerance,
            record,
            None if record is None or record.fate != "missed" else self._stand_in(asked, record),
            running,
            entries or (self._entries(asked, None, around) if asked.absence == "paused" else []),
            asked.absence == "paused",
            asked.why_off,
            0 if trouble is None else trouble.failures,
            "" if trouble is None else trouble.text,
            None if plan.options.misfire_grace is None else plan.options.misfire_grace / SECOND,
            None if plan.options.timeout is None else plan.options.timeout / SECOND,
            self._started,
            self._kept_since(asked),
            self._past_of(asked) is not None,
            asked.elsewhere,
            asked.holder,
        )

    def _tolerance(self, asked: Asked) -> int:
        spacing = asked.task.plan.grid.spacing
        return _AROUND if not spacing else min(_AROUND, round(spacing * SECOND / 2))

    def _live(self, asked: Asked) -> Record | None:
        """Make the record of the slots that an absent task has not got so far."""
        gap = asked.gap()
        if gap is None:
            return None
        first, last = gap.first + asked.shift, gap.last + asked.shift
        return Record(asked.task.full_name, first, last, gap.slots, "skipped", asked.absence, key=asked.key)

    def _records_of(self, asked: Asked, since: int | None = None) -> Iterator[Record]:
        """Yield what memory has of a task or a key: those of each log the newest first."""
        if asked.key is None:
            return self.ledger.records(asked.task.full_name, since)
        records = self.ledger.key_records(asked.task.full_name, asked.key)
        return (record for record in records if since is None or record.ended >= since)

    def _past_of(self, asked: Asked) -> Past | None:
        """Return the file; it has nothing of single keys."""
        return None if asked.key is not None else self._past

    def _newest(self, asked: Asked, live: Record | None) -> Record | None:
        newest = live
        since = None if live is None else live.last
        name, is_key = asked.task.full_name, asked.key is not None
        for found in self._records_of(asked, since) if is_key else self.ledger.newest(name, since):
            if newest is None or found.ended > newest.ended:
                newest = found
        if newest is None and self._past_of(asked) is not None:
            newest = next(iter(self._ask_past(asked.task.full_name, 0, 2**62, 1)), None)
        return newest

    def _near(self, asked: Asked, live: Record | None, at: int, tolerance: int) -> Record | None:
        name = asked.task.full_name
        found = [] if live is None else [live]
        found += self._records_of(asked, at - tolerance)
        near = [record for record in found if record.covers(at, tolerance)]
        past = self._past_of(asked)
        if not near and past is not None:
            try:
                near = past.around(name, at - tolerance, at + tolerance)
            except Exception as exc:
                log.warning("history.unreadable", path=str(past.path), error=str(exc))
        # A slot of which this process thought that another one runs it, before it found that nobody had, is missed; or
        # it was run here after all, when the lease was back.
        return min(near, key=lambda record: (_distance(record, at), _is_elsewhere(record)), default=None)

    def _stand_in(self, asked: Asked, record: Record) -> Record | None:
        """Find the run that followed missed slots: the first one after them that a slot gave."""
        runs = [
            one
            for one in self._records_of(asked, record.last)
            if one.is_run and one.slot > record.last and one.trigger == "catch_up"
        ]
        return min(runs, key=lambda one: one.slot, default=None)

    def _entries(self, asked: Asked, record: Record | None, around: int) -> list[Entry]:
        name = asked.task.full_name
        first = around if record is None else record.slot
        last = around if record is None else max(record.last, record.started or 0)
        found = [
            entry
            for entry in self.journal
            if entry.task in (None, name)
            and (entry.task == name or entry.overlaps(first, last) or entry.kind in _LASTING)
        ]
        if self._past is not None and (self._started is None or first < self._started):
            try:
                found = self._past.entries(first - 86_400 * SECOND, last, name) + [
                    entry for entry in found if entry.at >= (self._started or 0) or entry.kind == "down"
                ]
            except Exception as exc:
                log.warning("history.unreadable", path=str(self._past.path), error=str(exc))
        return found

    def _running(self, run: Run, asked: Asked) -> Running:
        get = getattr(run.future, "get_coro", None)
        place = None if get is None else where_it_waits(get())
        durations = [
            one.duration or 0.0
            for one in islice((one for one in self._records_of(asked) if one.is_run), _USUAL)
        ]
        usual = sorted(durations)[len(durations) // 2] if durations else None
        slot = to_us(run.slot.timestamp())
        since = round((run.started + run.look.began) * SECOND)
        return Running(slot, since, "" if place is None else str(place), usual)

    def _kept_since(self, asked: Asked) -> int | None:
        if asked.key is not None:
            return self.ledger.keys_kept_since(asked.task.full_name) or self._started
        if self._past is not None:
            try:
                return self._past.begins()
            except Exception:
                return self._started
        return self.ledger.kept_since() or self._started


_LASTING = ("stopping", "lease_taken", "lease_lost")
"""Kinds of entries that hold on until another one of them."""


_UNORDERED = 100
"""Records that are read beyond a limit, since a log is in order to within 2 s only."""


def _is_elsewhere(record: Record) -> bool:
    return record.fate == "skipped" and record.reason in ("not_owner", "lease_lost")


def _distance(record: Record, at: int) -> int:
    if record.slot <= at <= record.last:
        return 0
    return min(abs(record.slot - at), abs(record.last - at))


def _slots_around(asked: Asked, moment: int) -> tuple[int | None, int | None]:
    """Find the slot of the present grid at or before a moment in wall time, and the first one after it."""
    plan, at = asked.task.plan, moment - asked.shift
    try:
        if (step := _step_of(plan.grid)) is not None:
            anchor = plan.slot if plan.slot is not None else plan.last_slot or 0
            before = anchor + (at - anchor) // step * step
            return before + asked.shift, before + step + asked.shift
        after = plan.grid.first(at)
        return _before(asked, at), after
    except Exception:
        return None, None


def _step_of(grid: object) -> int | None:
    step = getattr(grid, "step", None)
    return step if isinstance(step, int) and step > 0 else None


def _before(asked: Asked, at: int) -> int | None:
    """Find the last slot of a wall-clock grid up to a moment: from further and further back."""
    grid = asked.task.plan.grid
    for back in _widening():
        first = grid.first(at - back - 1)
        if first is None or first <= at:
            return None if first is None else grid.turn(first, at, 0)[0]
    return None


def _widening() -> Iterator[int]:
    yield from (hours * 3600 * SECOND for hours in (1, 24, 800, 9000, 75_000, 500_000))
