"""The verbs ``changes``, ``fates`` and ``waits``: what a program needs that shows a service all day. They only read.

Nothing is kept for those who ask: each says how far it has read. So an answer costs what has happened since, and a
service that nobody watches pays nothing.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any, NamedTuple, Protocol

from asyncmgr._common.clock import SECOND, read_wall
from asyncmgr._history.follow import Place, backlog, end_of, news
from asyncmgr._history.journal import Journal
from asyncmgr._history.slots import CODES, Record
from asyncmgr._service.control import Answer, Arguments, Control, Verb
from asyncmgr._service.control_answers import status_as_json
from asyncmgr._service.control_history import entry_as_json
from asyncmgr._service.handles import TaskHandle
from asyncmgr._service.insight import Insight
from asyncmgr.errors import InvalidRequest

MOST_NEWS = 2_000
"""Records in one answer; who has missed more begins anew."""

MOST_TASKS = 200
"""Statuses in one answer."""

MOST_RUNNING = 50
"""Runs in progress whose status is told each time, for their progress and where they wait."""

MOST_BINS = 240
"""Parts into which ``fates`` cuts the time."""

LONGEST_SPAN = 86_400

TASKS_AT_ONCE = 250
"""Tasks in one answer of ``fates``."""

MOST_OLD = 20_000
"""Records of earlier lives of the service that are read from its file."""

OVERLAP = CODES["skipped", "overlap"]
_NOBODYS = (CODES["skipped", "not_owner"],)
"""Fates that are shown nowhere: another host ran the slot."""


class Watched(Protocol):
    """The part of a `Service` that is needed here; a Protocol, since `service` imports this module."""

    journal: Journal

    @property
    def tasks(self) -> tuple[TaskHandle, ...]: ...  # pragma: no cover
    @property
    def task_count(self) -> int: ...  # pragma: no cover
    def task(self, task: str) -> TaskHandle: ...  # pragma: no cover


class Mark(NamedTuple):
    """What became of a slot or of many, on a time axis: begin and end are milliseconds since 1970."""

    begin: int
    end: int
    fate: int


class _Read(NamedTuple):
    """How far somebody has read: the places in the logs, the length of the journal, and when (microseconds)."""

    rest: int
    fast: int
    entries: int
    at: int


def add_watch(control: Control, service: Watched, insight: Insight) -> None:
    """Add the verbs to those of a service."""
    watch = _Watch(service, insight)
    control.add("changes", Verb(watch.changes, ("since", "look"), reads=True))
    control.add("fates", Verb(watch.fates, ("span", "bins", "after"), reads=True))
    control.add("waits", Verb(watch.waits, ("task",), reads=True))


class _Watch:
    """Answers the verbs of one service."""

    def __init__(self, service: Watched, insight: Insight) -> None:
        self._service = service
        self._insight = insight
        self._life = secrets.token_hex(4)

    # What has changed

    async def changes(self, control: Control, given: Arguments) -> Answer:
        """Tell what has changed since an earlier answer; with `look` also who needs somebody by the time alone."""
        text = given.text("since")
        since = None if text is None else self._read_place(text)
        now = self._now()
        answer: Answer = {
            "place": f"{self._life}-{'-'.join(map(str, now))}",
            "now": now.at // 1000,
            "state": str(control.service.state),
            "health": _trouble(control),
            "count": self._service.task_count,
            "in_the_way": self._in_the_way(),
        }
        if since is None:
            return {**answer, "anew": True}
        records = self._news(since, now)
        if records is None:
            return {**answer, "anew": True}
        entries = self._service.journal.newest(now.entries - since.entries)
        names = {one.task for one in records} | {one.task for one in entries if one.task is not None}
        names.update(self._running(since))
        if given.flag("look"):
            records += self._grown(since)
            names.update(await self._needing())
        if len(names) > MOST_TASKS:
            return {**answer, "anew": True}
        return {
            **answer,
            "anew": False,
            "tasks": list(self._told(names)),
            "marks": _rows(records),
            "entries": [entry_as_json(one) for one in entries],
        }

    def _now(self) -> _Read:
        place = end_of(self._insight.history.ledger)
        return _Read(place.rest, place.fast, self._service.journal.count, read_wall())

    def _read_place(self, text: str) -> _Read | None:
        """Read how far somebody has come; `None` = no place of this life of the service, or what it lacks is lost."""
        life, _, rest = text.partition("-")
        numbers = rest.split("-")
        if life != self._life or len(numbers) != 4 or not all(_is_number(one) for one in numbers):
            return None
        found, ledger = _Read(*map(int, numbers)), self._insight.history.ledger
        # One behind the end of a log would make up for any number of records of the other.
        is_kept = all(
            log.begin <= at <= log.end for log, at in ((ledger.rest, found.rest), (ledger.fast, found.fast))
        )
        return found if is_kept else None

    def _news(self, since: _Read, now: _Read) -> list[Record] | None:
        if now.rest - since.rest + now.fast - since.fast > MOST_NEWS:
            return None
        begin, end = Place(since.rest, since.fast), Place(now.rest, now.fast)
        return [one for some in news(self._insight.history.ledger, begin, end) for one in some]

    def _running(self, since: _Read) -> Iterator[str]:
        """Name the tasks with a run that has begun since, and those of the oldest runs in progress."""
        runner = self._insight.runner
        if runner is None:
            return
        ages = sorted(
            ((runner.age(run), run.managed.full_name) for run in runner.oldest_runs().values()), reverse=True
        )
        elapsed = (read_wall() - since.at) / SECOND + 1
        yield from (name for n, (age, name) in enumerate(ages) if n < MOST_RUNNING or age <= elapsed)

    def _in_the_way(self) -> dict[str, list[Any]]:
        """Tell of the tasks whose run is in the way how many slots it took: count, the last one, the record's text."""
        runner, ledger = self._insight.runner, self._insight.history.ledger
        names = set() if runner is None else {run.managed.full_name for run in runner.oldest_runs().values()}
        spans = ((name, ledger.open_span(name)) for name in names)
        return {
            name: [span.count, span.last, span.text]
            for name, span in spans
            if span is not None and CODES[span.fate, span.reason] == OVERLAP
        }

    def _grown(self, since: _Read) -> list[Record]:
        """List the slots without a run that have become more."""
        return [one for one in self._insight.history.ledger.open_spans() if one.last >= since.at - SECOND]

    async def _needing(self) -> list[str]:
        names: list[str] = []
        for some in self._insight.needing():
            names += some
            await asyncio.sleep(0)
        return names[:MOST_TASKS]

    def _told(self, names: Iterable[str]) -> Iterator[Answer]:
        for name in names:
            found = self._insight.find(name)
            if found is not None:
                yield status_as_json(found[0].status_of(found[1]))

    # The past

    async def fates(self, control: Control, given: Arguments) -> Answer:
        """Tell what became of the slots of the last `span` seconds, cut into `bins` parts, of 250 tasks.

        A part with several fates has the worst of them. ``rows`` has for each task triples of the first part, the
        number of parts and the number of the fate.
        """
        span = max(60, min(given.number("span", 3600), LONGEST_SPAN))
        bins = given.number("bins", MOST_BINS)
        if not 1 <= bins <= MOST_BINS:
            raise InvalidRequest(f"bins={bins} is not accepted; write 1 to {MOST_BINS}")
        after, end = given.number("after"), read_wall() // 1000
        handles = self._service.tasks[after : after + TASKS_AT_ONCE]
        axis = Axis(end - span * 1000, end, bins)
        rows = {handle.full_name: axis.row() for handle in handles}
        async for records in self._past(axis.begin * 1000 if rows else None):
            for record in records:
                row = rows.get(record.task)
                if row is not None:
                    axis.put(row, mark_of(record))
        following = after + TASKS_AT_ONCE
        return {
            "begin": axis.begin,
            "end": axis.end,
            "bins": bins,
            "rows": {name: packed for name, row in rows.items() if (packed := pack(row))},
            "next": following if self._service.task_count > following else None,
        }

    async def _past(self, since: int | None) -> AsyncIterator[list[Record]]:
        """Yield records, with turns of the event loop for others between them; `None` = nobody needs any."""
        if since is None:
            return
        history = self._insight.history
        yield history.ledger.open_spans()
        for records in backlog(history.ledger, since):
            yield records
            await asyncio.sleep(0)
        if history.started is not None and history.started > since:
            old, _ = await asyncio.to_thread(history.earlier, since, MOST_OLD)
            yield old

    # One task

    async def waits(self, control: Control, given: Arguments) -> Answer:
        """List the lines in which the oldest run of the task waits, the outermost first."""
        return {"waits": self._insight.waits_of(control.find(given.text("task")).full_name)}


class Axis:
    """A time axis from `begin` to `end`, milliseconds since 1970, in `bins` equal parts. Pure."""

    def __init__(self, begin: int, end: int, bins: int) -> None:
        self.begin, self.end, self.bins = begin, end, bins

    def row(self) -> bytearray:
        """Make a row without marks: a byte a part, 0 = nothing, else the fate's number and 1."""
        return bytearray(self.bins)

    def put(self, row: bytearray, mark: Mark) -> None:
        """Put a mark into its parts, except where there is a worse one."""
        if mark.end < self.begin or mark.begin > self.end or mark.fate in _NOBODYS:
            return
        code = mark.fate + 1
        for at in range(self.bin_of(mark.begin), self.bin_of(mark.end) + 1):
            row[at] = worse(row[at], code)

    def bin_of(self, moment: int) -> int:
        """Return the part that a moment lies in, or the nearest one."""
        at = (moment - self.begin) * self.bins // max(1, self.end - self.begin)
        return max(0, min(self.bins - 1, at))


_RANK = {
    code + 1: rank
    for rank, fate in enumerate(
        [
            ("nothing", None),
            ("succeeded", None),
            ("skipped", "removed"),
            ("skipped", "disabled"),
            ("skipped", "draining"),
            ("skipped", "paused"),
            ("cancelled", None),
            ("missed", "down"),
            ("missed", "suspended"),
            ("missed", "clock"),
            ("missed", "stopped"),
            ("missed", "late"),
            ("missed", "blocked"),
            ("skipped", "lease_lost"),
            ("missed", "lease_lost"),
            ("skipped", "overlap"),
            ("skipped", "backoff"),
            ("timed_out", None),
            ("failed", None),
        ],
        1,
    )
    for code in (CODES[fate],)
}


def worse(one: int, other: int) -> int:
    """Return the worse of two bytes of a row."""
    return one if _RANK.get(one, 0) >= _RANK.get(other, 0) else other


def pack(row: bytearray) -> list[int]:
    """Write a row as triples: first part, number of parts, number of the fate."""
    packed: list[int] = []
    at = 0
    while at < len(row):
        code, first = row[at], at
        while at < len(row) and row[at] == code:
            at += 1
        if code:
            packed += (first, at - first, code - 1)
    return packed


def mark_of(record: Record) -> Mark:
    """Place a record on the time axis: a run by its start and its end, others by their slots."""
    begin = record.slot if record.started is None else record.started
    return Mark(begin // 1000, -(-record.ended // 1000), CODES[record.fate, record.reason])


def _rows(records: Iterable[Record]) -> dict[str, list[Mark]]:
    rows: dict[str, list[Mark]] = {}
    for record in records:
        rows.setdefault(record.task, []).append(mark_of(record))
    return rows


def _trouble(control: Control) -> str:
    health = control.service.health
    return "" if health.ok else health.reason[:300]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20
