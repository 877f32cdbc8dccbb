"""`Ledger`: records the fate of every slot of one service in memory."""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, cast

from asyncmgr._common.clock import SECOND, Moment, Step
from asyncmgr._common.safe_text import error_text, printable, safe_str
from asyncmgr._history.key_fates import KeyFates
from asyncmgr._history.logs import Log, key_of
from asyncmgr._history.slots import (
    CODES,
    ON_WALL,
    RUN,
    SPAN,
    SPAN_KIND,
    TASK_SHIFT,
    TEXT_SHIFT,
    Raw,
    Record,
    code_of,
    decode,
    newest_end,
    to_record,
)
from asyncmgr._tasks.keys import KeyedTask, KeyPlan, KeyTask
from asyncmgr._tasks.recorder import Recorder, Stall
from asyncmgr._tasks.runs import CancelledBy, Look, Site
from asyncmgr._tasks.schedules import Gap
from asyncmgr._tasks.whereabouts import Place, where_it_waited, where_it_waits
from asyncmgr.events import MissReason, Outcome, SkipReason

if TYPE_CHECKING:
    from asyncmgr._history.journal import Journal
    from asyncmgr._tasks.managed import ManagedTask, Standing
    from asyncmgr._tasks.runs import Run

FAST = 60 * SECOND
"""Microseconds: the successes of tasks with a shorter spacing have a log of their own, and never evict another's."""

TEXTS_KEPT = 20_000
LONGEST_TEXT = 300
_BACKWARDS = 2 * SECOND
"""Microseconds by which the order of a log may be wrong: the wall clock was set back, or a run began nearly due."""


_numbers = itertools.count(1)
_NOWHERE = Site("", "", "")


class Span:
    """Slots of one task without a run that follow one another, with one reason; the last one may grow."""

    __slots__ = ("first", "grid_last", "is_dirty", "key", "number", "text", "view")

    def __init__(self, key: int, first: int, last: int, count: int, grid_last: int, text: int) -> None:
        self.key = key
        """Task and fate, as in a record."""
        self.text = text
        self.first = first
        self.grid_last = grid_last
        """The last slot, on the scale of the grid."""
        self.view = (last, count)
        """The last slot in wall time, and the count: one object, so that another thread reads both at once."""
        self.is_dirty = False
        self.number = next(_numbers)


class Ledger(Recorder):
    """The fates of one service.

    Two logs: the successes of fast tasks, and all the rest. So a fast task never evicts the nightly one.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.on_turn: Callable[[], object] = lambda: None
        """Called when a log has another 1,024 records."""
        self.rest = Log(lambda: self.on_turn())
        self.fast = Log(lambda: self.on_turn())
        self._names: list[str] = [""]
        self._numbers: dict[str, int] = {}
        self._texts: OrderedDict[int, str] = OrderedDict({0: ""})
        self._text_numbers: dict[str, int] = {"": 0}
        self._next_text = 1
        self._open: dict[int, Span] = {}
        """By the number of a task: its newest span, which may still grow."""
        self._keys: dict[str, KeyFates] = {}
        """By the name of a task with `each=`: the fates of its keys."""
        self.dirty: deque[Span] = deque()
        """Spans that have begun or grown since they were written to a file last."""
        self._oldest: Callable[[Standing], Run | None] = lambda standing: None

    # Tasks

    def follow(self, oldest: Callable[[Standing], Run | None]) -> None:
        self._oldest = oldest

    def add(self, task: ManagedTask) -> None:
        number = self._numbers.get(task.full_name)
        if number is None:
            number = self._numbers[task.full_name] = len(self._names)
            self._names.append(task.full_name)
        self.close(number)  # what follows is on another grid
        if isinstance(task, KeyedTask):
            self._add_keyed(task)
        spacing = task.plan.grid.spacing
        log = self.fast if spacing is not None and 0 < spacing * SECOND < FAST else self.rest
        task.key, task.record = number << TASK_SHIFT, log.pen.write_run

    def _add_keyed(self, task: KeyedTask) -> None:
        task.key_record = self._fates_of(task.full_name).succeeded
        for key_task in task.active.values():
            key_task.record = task.key_record

    def _fates_of(self, full_name: str) -> KeyFates:
        fates = self._keys.get(full_name)
        if fates is None:
            fates = self._keys[full_name] = KeyFates(full_name, self.text_of)
        return fates

    def name_of(self, number: int) -> str:
        """Find the name of a task by its number."""
        return self._names[number]

    def number_of(self, full_name: str) -> int | None:
        """Find the number of a task by its name; `None` = the service never had it."""
        return self._numbers.get(full_name)

    # Runs

    def succeeded(self, run: Run, duration: float) -> None:
        record = run.managed.record
        if record is None:
            return
        if run.attempt == 1:
            record(run, duration)
        else:
            self._write(run, duration, Outcome.SUCCEEDED, "")

    def ended(self, run: Run, duration: float, outcome: Outcome, error: BaseException | None) -> None:
        text = "" if error is None else error_text(error, LONGEST_TEXT)
        if outcome is Outcome.NOTHING:
            text = printable(safe_str(error), LONGEST_TEXT)
        elif outcome is Outcome.CANCELLED:
            text = run.cause.name if isinstance(run.cause, CancelledBy) else run.cause or text
        elif outcome is Outcome.TIMED_OUT and error is not None:
            text = _shown(where_it_waited(error.__cause__ or error))
        self._write(run, duration, outcome, text)

    def _write(self, run: Run, duration: float, outcome: Outcome, text: str) -> None:
        if run.managed.each_key is not None:
            fates = self._fates_of(run.full_name)
            fates.ended(run, duration, code_of(str(outcome)), self._text(text))
            return
        pen = self.rest.pen
        pen.take_look(run.look)
        number = run.number | self._text(text) << TEXT_SHIFT
        key = key_of(run) | code_of(str(outcome))
        pen.write(RUN.pack(run.planned, run.started, duration, number, key))

    # Slots without a run

    def skipped(
        self, run: Run, reason: SkipReason, *, holder: str | None = None, with_older: bool = False
    ) -> None:
        if run.asked in ("manual", "pass", "retry"):
            return  # outside of the grid: its caller is told
        first = run.oldest if with_older else run.planned
        gap = Gap(first, run.planned, run.missed + 1 if with_older else 1)
        text = self._in_the_way(run) if reason == "overlap" else (holder or "")
        if reason == "backoff":
            text = _why_held(run.managed)
        self._extend(run.managed, gap, code_of("skipped", reason), text, self._shift_of(run))

    def _in_the_way(self, run: Run) -> str:
        """Say which run is in the way; asked once a span."""
        number, key = run.managed.key >> TASK_SHIFT, run.managed.each_key
        span = self._open.get(number)
        code = code_of("skipped", "overlap")
        if key is not None:
            step = cast("KeyPlan", run.managed.plan).ring.spacing
            text = self._fates_of(run.full_name).growing(key, code, run.planned, step)
            if text is not None:
                return self.text_of(text)
        elif span is not None and span.key & 0xFF == code and span.grid_last < run.planned:
            return self._texts.get(span.text, "")
        other = self._oldest(run.managed.standing)
        if other is None:
            return ""
        began = round((other.started + other.look.began) * SECOND)
        get = getattr(other.future, "get_coro", None)
        place = None if get is None else where_it_waits(get())
        return f"{other.number} {began} {_shown(place)}".rstrip()

    def missed(self, run: Run, reason: MissReason) -> None:
        gap = run.managed.plan.gap_between(run.oldest, run.planned - 1)
        if run.managed.each_key is not None and reason != "lease_lost":  # which a part of the keys may have
            ring = cast("KeyPlan", run.managed.plan).ring
            older = Gap(run.oldest, run.planned - ring.spacing, run.missed)
            self._fates_of(run.full_name).stood_for(
                ring, older, code_of("missed", reason), self._shift_of(run)
            )
            return
        if gap is None or gap.slots != run.missed:  # the task has got another grid meanwhile
            gap = Gap(run.oldest, run.planned - (run.planned - run.oldest) // run.missed, run.missed)
        self._extend(run.managed, gap, code_of("missed", reason), "", self._shift_of(run))

    def late(self, run: Run) -> None:
        first = run.oldest if run.missed else run.planned
        gap = Gap(first, run.planned, run.missed + 1)
        self._extend(run.managed, gap, code_of("missed", "late"), f"{run.lateness:g}", self._shift_of(run))

    def gap(self, task: ManagedTask, gap: Gap, reason: SkipReason | MissReason, moment: Moment) -> None:
        kind = (
            "missed" if ("missed", reason) in CODES else "skipped"
        )  # `lease_lost` without a run: nobody ran it
        shift = 0 if task.plan.grid.on_wall else moment.wall - moment.now
        self._extend(task, gap, code_of(kind, reason), "", shift)

    def past(self, task: ManagedTask, first: int, last: int, count: int) -> None:
        """Record slots, in wall time, that passed while the service was down."""
        if task.key:
            span = Span(task.key | code_of("missed", "down"), first, last, count, last, 0)
            self._mark(span)
            self._put(span)

    def schedule_failed(self, task: ManagedTask, error: Exception, moment: Moment) -> None:
        text = self._text(f"the schedule raised {error_text(error, LONGEST_TEXT)}")
        pen = self.rest.pen
        pen.take_look(Look(_NOWHERE, moment, moment.now / SECOND))
        key = task.key | code_of("failed") | ON_WALL
        pen.write(RUN.pack(moment.wall, moment.now / SECOND, 0.0, text << TEXT_SHIFT, key))

    def _extend(self, task: ManagedTask, gap: Gap, code: int, text: str, shift: int) -> None:
        """Let the task's newest span grow, where the gap follows it on the grid and has the same cause."""
        if task.each_key is not None or task.is_keyed:
            self._extend_keys(task, gap, code, self._text(text), shift)
            return
        number = task.key >> TASK_SHIFT
        span = self._open.get(number)
        key, text_number = task.key | code, self._text(text)
        if (
            span is not None
            and span.key == key
            and span.text == text_number
            and self._follows(task, span.grid_last, gap.first)
        ):
            span.grid_last = gap.last
            span.view = (gap.last + shift, span.view[1] + gap.slots)
        else:
            self.close(number)
            span = Span(key, gap.first + shift, gap.last + shift, gap.slots, gap.last, text_number)
            self._open[number] = span
        self._mark(span)

    def _extend_keys(self, task: ManagedTask, gap: Gap, code: int, text: int, shift: int) -> None:
        fates, ring = self._fates_of(task.full_name), cast("KeyPlan", task.plan).ring
        if task.each_key is None:
            fates.absent(ring, gap, code, text, shift)
        elif code == CODES["skipped", "not_owner"] and cast("KeyTask", task).group.share is None:
            fates.grow(
                ring, gap, code, text, shift
            )  # of every key: a record for each would push out all others
        else:
            fates.without_run(task.each_key, gap, code, text, shift, ring.spacing)

    def _follows(self, task: ManagedTask, last: int, first: int) -> bool:
        try:
            return task.plan.grid.first(last) == first
        except Exception:  # of a schedule, which is asked again at its slot, and reported then
            return False

    def _mark(self, span: Span) -> None:
        if not span.is_dirty:
            span.is_dirty = True
            self.dirty.append(span)

    def take_dirty(self) -> Iterator[tuple[int, Raw, str]]:
        """Yield the spans that have begun or grown, each with a number of its own; for the writing thread."""
        while self.dirty:
            span = self.dirty.popleft()
            span.is_dirty = False  # before it is read: what grows from here on makes it dirty again
            yield span.number, _raw_of(span), self.text_of(span.text)

    def close(self, number: int) -> None:
        """Put the newest span of a task into the log: it grows no more."""
        span = self._open.pop(number, None)
        if span is not None:
            self._put(span)

    def _put(self, span: Span) -> None:
        last, count = span.view
        key = span.key | SPAN_KIND
        self.rest.pen.write(SPAN.pack(span.first, last, count, span.text << TEXT_SHIFT, key))

    @staticmethod
    def _shift_of(run: Run) -> int:
        return 0 if run.on_wall else run.look.shift

    # Texts

    def _text(self, text: str) -> int:
        if not text:
            return 0
        number = self._text_numbers.get(text)
        if number is None:
            number = self._text_numbers[text] = self._next_text
            self._texts[number] = text
            self._next_text += 1
            if len(self._texts) > TEXTS_KEPT:
                _, dropped = self._texts.popitem(last=False)
                self._text_numbers.pop(dropped, None)
        return number

    def text_of(self, number: int) -> str:
        """Find a text by its number; empty where it is kept no longer."""
        return self._texts.get(number, "") if number else ""

    # What befell the service

    def stepped(self, step: Step, moment: Moment) -> None:
        size = round(step.seconds * SECOND)
        if step.is_sleep:
            self._journal.add("suspended", at=moment.wall - size, until=moment.wall, who="")
        elif step.kind == "forward":
            self._journal.add(
                "clock",
                at=moment.wall - size,
                until=moment.wall,
                who="",
                step=step.kind,
                seconds=step.seconds,
            )
        else:
            self._journal.add("clock", at=moment.wall, who="", step=step.kind, seconds=step.seconds)

    def stalled(self, kind: Stall, seconds: float, moment: Moment) -> None:
        self._journal.stall(
            kind, moment.wall - round(seconds * SECOND), moment.wall, seconds=round(seconds, 3)
        )

    # Reading

    def records(
        self,
        task: str | None = None,
        since: int | None = None,
        *,
        until: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Record]:
        """Yield the records of a task, or of all: those that may grow, then of each log the newest, up to `limit`.

        Those that ended before `since` are left out, and slots after `until` (wall time, microseconds).
        """
        number = None if task is None else self._numbers.get(task, -1)
        spans = (raw for raw in self._spans(number) if since is None or raw.last >= since)
        yield from (self.record_of(raw) for raw in spans if until is None or raw.slot <= until)
        for log in (self.rest, self.fast):
            raws = (raw for raw in _read(log, number, since) if until is None or raw.slot <= until)
            yield from (self.record_of(raw) for raw in islice(raws, limit))

    def newest(self, task: str, since: int | None) -> Iterator[Record]:
        """Yield the newest record of a task in each log, and its open span."""
        number = self._numbers.get(task, -1)
        spans = [span for span in (self._open.get(number),) if span is not None]
        for raw in (_raw_of(span) for span in spans):
            yield self.record_of(raw)
        for log in (self.rest, self.fast):
            yield from (self.record_of(raw) for raw in islice(_read(log, number, since), 1))

    def key_records(
        self, task: str, key: Hashable | None = None, *, until: int | None = None, limit: int | None = None
    ) -> Iterator[Record]:
        """Yield the records of one key of a task with `each=`, or of all its keys; each kind the newest first.

        Slots after `until` are left out; of each kind there are `limit` at most.
        """
        fates = self._keys.get(task)
        return iter(()) if fates is None else fates.records(key, until=until, limit=limit)

    def find_key(self, task: str, text: str) -> Hashable | None:
        """Find a key, perhaps one that is gone, by its text; `None` = nothing is kept of it."""
        fates = self._keys.get(task)
        return None if fates is None else fates.find(text)

    def keys_kept_since(self, task: str) -> int | None:
        """Find the start of the oldest run of a key that is kept; `None` = none was dropped so far."""
        fates = self._keys.get(task)
        return None if fates is None else fates.kept_since()

    def open_span(self, task: str) -> Record | None:
        """Find the newest slots of a task without a run, while they may become more; `None` = there are none."""
        span = self._open.get(self._numbers.get(task, -1))
        return None if span is None else self.record_of(_raw_of(span))

    def open_spans(self) -> list[Record]:
        """List such slots of all tasks."""
        return [self.record_of(raw) for raw in self._spans(None)]

    def kept_since(self) -> int | None:
        """Find the end of the oldest run that is kept; `None` = none was dropped so far."""
        dropped = [log for log in (self.rest, self.fast) if log.begin]
        ends = []
        for log in dropped:
            _, piece = next(log.pieces())
            ends += [raw.ended for _, raw in decode(piece)][:1]
        return max(ends, default=None)

    def _spans(self, number: int | None) -> list[Raw]:
        return [_raw_of(span) for span in self._open.values() if number in (None, span.key >> TASK_SHIFT)]

    def record_of(self, raw: Raw) -> Record:
        """Make a record with the names that its numbers stand for."""
        return to_record(raw, self._names[raw.task], self.text_of(raw.text))

    @property
    def memory(self) -> int:
        """Bytes of both logs."""
        return self.fast.memory + self.rest.memory


def _why_held(task: ManagedTask) -> str:
    """Write failures in a row, the seconds of the longer spacing, and the last error."""
    hold, trouble = task.hold, task.standing.trouble
    if hold is None or trouble is None:
        return ""
    return f"{hold.failures} {hold.spacing / SECOND:g} {printable(trouble.text, LONGEST_TEXT)}".rstrip()


def _shown(place: Place | None) -> str:
    return "" if place is None else str(place)


def _raw_of(span: Span) -> Raw:
    last, count = span.view
    return Raw(span.key, span.first, last, count, 0.0, 0.0, 0, span.text)


def _read(log: Log, number: int | None, since: int | None) -> Iterator[Raw]:
    for _, piece in log.pieces(newest_first=True):
        found = reversed([raw for _, raw in decode(piece, number)])
        yield from found if since is None else (raw for raw in found if raw.ended >= since)
        if since is not None and newest_end(piece) < since - _BACKWARDS:
            return
