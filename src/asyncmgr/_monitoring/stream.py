"""`Feed`: tells open pages what a service does, in batches of 250 ms. Nothing of it runs while no page is open.

A page first gets everything: the service, its tasks, and the marks of the time that it shows. Then it gets what has
changed. What changed is found by looking at what is cheap to look at (the places in the logs, the runs in progress, the
length of the journal); every 5 s all tasks are looked at, since states such as `hung` begin by themselves.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING

from asyncmgr._common.clock import read_wall, to_us
from asyncmgr._history.follow import Place, backlog, end_of, news
from asyncmgr._history.slots import Record
from asyncmgr._monitoring.page_data import (
    BINS,
    About,
    Json,
    entry_facts,
    in_the_way,
    marks_of,
    task_facts,
)
from asyncmgr._monitoring.page_words import FATE_WORDS
from asyncmgr._monitoring.readers import Reader, encode
from asyncmgr._service.control_answers import status_as_json
from asyncmgr._service.insight import Insight
from asyncmgr._service.version import own_version
from asyncmgr.events import Event, RunProgressed, ScheduleFailed, SlotSkipped, SlotsMissed

if TYPE_CHECKING:
    from asyncmgr._monitoring.neighbours import Neighbours
    from asyncmgr._service.service import Service
    from asyncmgr._tasks.managed import Standing
    from asyncmgr._tasks.runs import Run

BATCH = 0.25
"""Seconds between two batches."""

TICKS = 8
"""Batches between two signs of life, 2 s."""

LOOKS = 20
"""Batches between two looks at all tasks, 5 s."""

AT_ONCE = 50
"""Tasks that are described before other code gets its turn."""

MOST_OLD = 20_000
"""Records of earlier lives of the service that are read from its file."""

LONGEST_SPAN = 86_400

_KINDS = (SlotSkipped, SlotsMissed, ScheduleFailed, RunProgressed)


class Feed:
    """Tells the pages of one service."""

    def __init__(self, service: Service, insight: Insight, neighbours: Neighbours) -> None:
        self._service = service
        self._insight = insight
        self._neighbours = neighbours
        self._readers: set[Reader] = set()
        self._task: asyncio.Task[None] | None = None
        self._life = secrets.token_hex(4)
        self._sent: dict[str, Json] = {}
        self._running: dict[Standing, Run] = {}
        self._dirty: set[str] = set()
        self._place = Place(0, 0)
        self._entries = 0
        self._lag = 0.0

    # Readers

    async def follow(self, span: int, last: str, *, verbs: bool) -> AsyncIterator[bytes]:
        """Yield the events of one page.

        Parameters
        ----------
        span
            Seconds that the page shows.
        last
            The id of the newest event that it has got; empty = none.
        verbs
            Whether it may use verbs.
        """
        span = max(60, min(span, LONGEST_SPAN))
        reader = Reader()
        self._begin()
        self._readers.add(reader)
        try:
            async for event in self._everything(span, last, verbs):
                yield event
            async for batch in reader.batches():
                yield batch
        finally:
            self._readers.discard(reader)
            if not self._readers:
                self._end()

    def _begin(self) -> None:
        if self._task is None:
            self._place, self._entries = end_of(self._insight.history.ledger), self._service.journal.count
            self._task = asyncio.create_task(self._work(), name="asyncmgr page")

    def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
            self._sent.clear()

    # Everything

    async def _everything(self, span: int, last: str, verbs: bool) -> AsyncIterator[bytes]:
        base = read_wall() // 1000
        place, came = end_of(self._insight.history.ledger), self._read_id(last)
        yield encode(self._hello(base, span, verbs, came is not None))
        after = 0
        while page := list(self._describe_page(after)):
            yield encode({"k": "tasks", "host": self._service.host, "tasks": page, "first": after == 0})
            after += AT_ONCE
            await asyncio.sleep(0)
        since = (base - span * 1000) * 1000
        yield encode({"k": "journal", "host": self._service.host, "entries": self._journal(since)})
        lists = self._backlog(since) if came is None else news(self._insight.history.ledger, came, place)
        for records in lists:
            if records:
                yield self._marks(records, base, span * 1000, since)
            await asyncio.sleep(0)
        if came is None:
            async for event in self._earlier(since, base, span * 1000):
                yield event
        yield encode({"k": "complete"}, self._id(place))
        for known in self._neighbours.everything(base, span):
            yield encode(known)

    def _hello(self, base: int, span: int, verbs: bool, goes_on: bool) -> Json:
        service = self._service
        return {
            "k": "hello",
            "life": self._life,
            "goes_on": goes_on,
            "service": service.name,
            "host": service.host,
            "version": own_version(),
            "state": str(service.state),
            "since": to_us(service.control.since.timestamp()) // 1000,
            "zone": service.settings.timezone,
            "verbs": verbs,
            "now": read_wall() // 1000,
            "base": base,
            "span": span,
            "fates": FATE_WORDS,
            "count": service.task_count,
        }

    def _backlog(self, since: int) -> Iterator[list[Record]]:
        ledger = self._insight.history.ledger
        yield ledger.open_spans()
        yield from backlog(ledger, since)

    async def _earlier(self, since: int, base: int, span: int) -> AsyncIterator[bytes]:
        """Tell what the file of the service has of its lives before this one."""
        started = self._insight.history.started
        if started is None or started <= since:
            return
        records, entries = await asyncio.to_thread(self._insight.history.earlier, since, MOST_OLD)
        if entries:
            told = [entry_facts(one, self._service.host) for one in entries]
            yield encode({"k": "journal", "host": self._service.host, "entries": told})
        for begin in range(0, len(records), 1000):
            yield self._marks(records[begin : begin + 1000], base, span, since)
            await asyncio.sleep(0)

    def _marks(self, records: Iterable[Record], base: int, span: int, since: int = 0) -> bytes:
        rows = marks_of(records, base, span, since)
        return encode({"k": "marks", "host": self._service.host, "base": base, "rows": rows})

    def _journal(self, since: int) -> list[Json]:
        return [
            entry_facts(one, self._service.host)
            for one in self._service.journal
            if (one.until or one.at) >= since
        ]

    def _id(self, place: Place) -> str:
        return f"{self._life}-{place.rest}-{place.fast}"

    def _read_id(self, text: str) -> Place | None:
        """Read how far a page has come; `None` = it knows another life of this process, or what it lacks is lost."""
        life, _, places = text.partition("-")
        rest, _, fast = places.partition("-")
        if life != self._life or not (rest.isdecimal() and fast.isdecimal()):
            return None
        place, ledger = Place(int(rest[:15]), int(fast[:15])), self._insight.history.ledger
        is_kept = place.rest >= ledger.rest.begin and place.fast >= ledger.fast.begin
        return place if is_kept else None

    # Tasks

    def _describe_page(self, after: int) -> Iterator[Json]:
        for status in self._service.status_page(after, AT_ONCE):
            facts = self._describe(status.full_name, status_as_json(status))
            self._sent[status.full_name] = facts
            yield facts

    def _describe(self, name: str, told: Json) -> Json:
        overlap = (
            None if told["running"] is None else in_the_way(self._insight.history.ledger.open_span(name))
        )
        many = self._neighbours.count > 0
        return task_facts(told, About(self._service.host, many, overlap))

    # What changes

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        unlisten = self._service.add_listener(self._note, *_KINDS)
        self._neighbours.begin(self._tell)
        number = 0
        try:
            while True:
                due = loop.time() + BATCH
                await asyncio.sleep(BATCH)
                self._lag = max(self._lag, loop.time() - due)
                number += 1
                self._tell_changes()
                if number % TICKS == 0:
                    self._tell({"k": "tick", **self._tick()})
                if number % LOOKS == 0:
                    await self._look_at_all()
        finally:
            unlisten()
            self._neighbours.end()

    def _note(self, event: Event) -> None:
        if isinstance(event, _KINDS):
            self._dirty.add(event.task)

    def _tick(self) -> Json:
        lag, self._lag = self._lag, 0.0
        health = self._service.health
        said = {} if health.ok else {"trouble": health.reason[:300]}
        return {"now": read_wall() // 1000, "lag": round(lag * 1000, 1), **said}

    def _tell(self, value: Json) -> None:
        batch = encode(value)
        for reader in self._readers:
            reader.put(batch)

    def _tell_changes(self) -> None:
        ledger, journal = self._insight.history.ledger, self._service.journal
        place = end_of(ledger)
        records: list[Record] = []
        if place != self._place:
            records = [one for some in news(ledger, self._place, place) for one in some]
        records += [span for name in self._dirty if (span := ledger.open_span(name)) is not None]
        self._dirty.update(record.task for record in records)
        self._note_runs()
        new = journal.newest(journal.count - self._entries)
        self._dirty.update(entry.task for entry in new if entry.task is not None)
        self._place, self._entries = place, journal.count
        self._tell_tasks(self._dirty)
        self._dirty.clear()
        if new:
            told = [entry_facts(one, self._service.host) for one in new]
            self._tell({"k": "journal", "host": self._service.host, "entries": told})
        if records:
            base = read_wall() // 1000
            rows = marks_of(records, base, BINS)
            self._tell_with_place(
                {"k": "marks", "host": self._service.host, "base": base, "rows": rows}, place
            )

    def _tell_with_place(self, value: Json, place: Place) -> None:
        batch = encode(value, self._id(place))
        for reader in self._readers:
            reader.put(batch)

    def _note_runs(self) -> None:
        """Find the tasks whose runs have begun or ended since the last look."""
        runner = self._insight.runner
        running = {} if runner is None else runner.oldest_runs()
        for some, others in ((running, self._running), (self._running, running)):
            self._dirty.update(
                run.managed.full_name for one, run in some.items() if others.get(one) is not run
            )
        self._running = dict(running)

    def _tell_tasks(self, names: Iterable[str]) -> None:
        changed = []
        for name in names:
            found = self._insight.find(name)
            if found is not None:
                facts = self._describe(name, status_as_json(found[0].status_of(found[1])))
                if facts != self._sent.get(name):
                    self._sent[name] = facts
                    changed.append(facts)
        if changed:
            self._tell({"k": "tasks", "host": self._service.host, "tasks": changed})

    async def _look_at_all(self) -> None:
        """Look at all tasks, also for those that have gone."""
        names = [task.full_name for task in self._insight.tasks()]
        for begin in range(0, len(names), AT_ONCE):
            self._tell_tasks(names[begin : begin + AT_ONCE])
            await asyncio.sleep(0)
        gone = self._sent.keys() - set(names)
        if gone:
            for name in gone:
                del self._sent[name]
            self._tell({"k": "gone", "host": self._service.host, "tasks": sorted(gone)})
