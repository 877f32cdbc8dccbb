"""`Watched`: what is known of one running service; `Watch`: all of them. They ask each second for what has changed.

An answer costs what has happened since the last one. All is read at the begin, and where too much was missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from asyncmgr._cli.doors import Refused
from asyncmgr._cli.top.wires import Finder, Wire
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.safe_text import error_text
from asyncmgr._monitoring.page_data import About, InTheWay, Json, task_facts, told_entry
from asyncmgr._service.control_watch import MOST_BINS, Mark
from asyncmgr.errors import AsyncmgrError

LOOKS = 5
"""Rounds from one look at all tasks to the next, and from one search for services to the next."""

SILENT = 5_000
"""Milliseconds without an answer after which a service counts as lost."""

MOST_ENTRIES = 500
MOST_MARKS = 600
"""Entries of the journal, and marks of one task, that are kept."""

SKEW = 400
"""Milliseconds from which on another host's clock counts as another one."""


def now_ms() -> int:
    """Read the wall clock, milliseconds since 1970."""
    return read_wall() // 1000


class Watched:
    """One running service."""

    def __init__(self, wire: Wire, span: int, read: Callable[[], int] = now_ms) -> None:
        """`span` is the time that is shown, seconds; `read` returns the wall time, milliseconds."""
        self.wire = wire
        self.facts: dict[str, Json] = {}
        """What the page shows of each task, by its name; see `task_facts`."""
        self.marks: dict[str, list[Mark]] = {}
        self.entries: list[Json] = []
        self.trouble = ""
        """What is wrong with the service itself; empty = nothing."""
        self.error = ""
        """Why the last question got no answer; empty = it got one."""
        self.revision = 0
        """Moves on with every change."""
        self.is_one_of_many = False
        self.asking: asyncio.Task[None] | None = None
        self._read = read
        self._span = span
        self._told: dict[str, Json] = {}
        self._in_the_way: dict[str, list[Any]] = {}
        self._place: str | None = None
        self._skew = 0
        self.heard = read()

    def now(self) -> int:
        """Return the time on its clock, milliseconds since 1970."""
        return self._read() + self._skew

    @property
    def silent(self) -> int:
        """Milliseconds since the last answer."""
        return max(0, self._read() - self.heard)

    @property
    def is_read(self) -> bool:
        """Whether all of it was read once."""
        return self._place is not None

    @property
    def is_lost(self) -> bool:
        return bool(self.error) or self.silent > SILENT

    def show(self, span: int) -> None:
        """Show another time, seconds: all is read again."""
        self._span, self._place = span, None

    def name_host(self, is_one_of_many: bool) -> None:
        """Say whether sentences name the host."""
        if is_one_of_many != self.is_one_of_many:
            self.is_one_of_many = is_one_of_many
            self._describe(self._told)

    async def look(self, *, everywhere: bool) -> None:
        """Ask what has changed. `everywhere`: also who needs somebody by the time alone."""
        try:
            answer = await self.wire.ask("changes", since=self._place, look=everywhere)
            if answer["anew"]:
                await self._read_all()
            self._take(answer)
        except Refused as exc:
            self._fail(f"this service is older than 'asyncmgr top' needs: {exc}")
        except (AsyncmgrError, OSError, KeyError, TypeError, ValueError) as exc:
            self._fail(str(exc) if isinstance(exc, AsyncmgrError) else error_text(exc, 200))
        else:
            self.heard = self._read()
            if self.error:
                self.error = ""
                self.revision += 1

    def _fail(self, error: str) -> None:
        self._place = self._place if self.facts else None
        if error != self.error:
            self.error = error
            self.revision += 1

    # What came

    def _take(self, answer: Json) -> None:
        skew = int(answer["now"]) - self._read()
        self._skew = skew if abs(skew) > SKEW else 0
        self._place = str(answer["place"])
        trouble, way = str(answer["health"]), answer["in_the_way"]
        touched = {
            name
            for name in self._in_the_way.keys() | way.keys()
            if self._in_the_way.get(name) != way.get(name)
        }
        self._in_the_way = way
        for told in answer.get("tasks", ()):
            self._told[told["task"]] = told
            touched.add(told["task"])
        for name, marks in answer.get("marks", {}).items():
            self._add_marks(name, (Mark(*map(int, mark)) for mark in marks))
            touched.add(name)
        self._add_entries(answer.get("entries", ()))
        self._describe(touched)
        if trouble != self.trouble:
            self.trouble = trouble
            self.revision += 1
        if answer["count"] != len(self._told):  # some were added or removed
            self._place = None

    def _add_marks(self, name: str, marks: Iterable[Mark]) -> None:
        """Add marks, and join what lies so close that nobody could tell it apart."""
        row = self.marks.setdefault(name, [])
        close = self._span * 1000 // MOST_BINS
        for mark in marks:
            if row and row[-1].fate == mark.fate and 0 <= mark.begin - row[-1].end < close:
                row[-1] = Mark(row[-1].begin, mark.end, mark.fate)
            else:
                row.append(mark)
        del row[:-MOST_MARKS]

    def _add_entries(self, entries: Iterable[Json]) -> None:
        known = {(one["at"], one["kind"], one.get("task")) for one in self.entries}
        told = [told_entry(one, self.wire.host) for one in entries]
        new = [one for one in told if (one["at"], one["kind"], one.get("task")) not in known]
        if new:
            self.entries = [*self.entries, *new][-MOST_ENTRIES:]
            self.revision += 1

    def _describe(self, names: Iterable[str]) -> None:
        for name in tuple(names):
            told = self._told.get(name)
            if told is not None:
                way = self._in_the_way.get(name)
                about = About(self.wire.host, self.is_one_of_many, None if way is None else InTheWay(*way))
                self.facts[name] = task_facts(told, about)
                self.revision += 1

    # Everything

    async def _read_all(self) -> None:
        told = await self._statuses()
        marks = await self._past()
        since = to_datetime((self._read() - self._span * 1000) * 1000).isoformat()
        entries = (await self.wire.ask("journal", since=since, limit=MOST_ENTRIES))["entries"]
        self._told, self.facts, self.marks, self.entries = told, {}, {}, []
        for name, row in marks.items():
            self._add_marks(name, row)
        self._add_entries(entries)
        self._describe(told)

    async def _statuses(self) -> dict[str, Json]:
        found: dict[str, Json] = {}
        after: int | None = 0
        while after is not None:
            answer = await self.wire.ask("status", after=after)
            found.update((told["task"], told) for told in answer["tasks"])
            after = answer["next"]
        return found

    async def _past(self) -> dict[str, list[Mark]]:
        rows: dict[str, list[Mark]] = {}
        after: int | None = 0
        while after is not None:
            answer = await self.wire.ask("fates", span=self._span, bins=MOST_BINS, after=after)
            begin, part = answer["begin"], (answer["end"] - answer["begin"]) / answer["bins"]
            for name, packed in answer["rows"].items():
                triples = zip(packed[::3], packed[1::3], packed[2::3], strict=True)
                # One millisecond less: the end of a part is the begin of the next one.
                rows[name] = [
                    Mark(begin + round(first * part), begin + round((first + count) * part) - 1, fate)
                    for first, count, fate in triples
                ]
            after = answer["next"]
        return rows


class Watch:
    """All services that are watched."""

    def __init__(self, finder: Finder, span: int = 3600, read: Callable[[], int] = now_ms) -> None:
        self.watched: dict[str, Watched] = {}
        self.span = span
        self._finder = finder
        self._read = read
        self._rounds = 0

    @property
    def revision(self) -> tuple[tuple[str, int], ...]:
        """What changes with every change of what is known."""
        return tuple((key, one.revision) for key, one in self.watched.items())

    def now(self) -> int:
        """Return the time here, milliseconds since 1970."""
        return self._read()

    def show(self, span: int) -> None:
        """Show another time, seconds."""
        self.span = span
        for one in self.watched.values():
            one.show(span)

    async def step(self, within: float = 0.9) -> None:
        """Ask all services once; wait for their answers for so many seconds. Those that are slower answer later."""
        everywhere = self._rounds % LOOKS == 0
        if everywhere or any(one.is_lost for one in self.watched.values()):
            self._meet(await self._finder.find())
        self._rounds += 1
        for one in self.watched.values():
            if one.asking is None or one.asking.done():
                one.asking = asyncio.create_task(one.look(everywhere=everywhere))
        asking = {one.asking for one in self.watched.values() if one.asking is not None}
        if asking:
            await asyncio.wait(asking, timeout=within)

    def _meet(self, wires: Iterable[Wire]) -> None:
        """Add services that are new. One that was lost is forgotten where the same service is there again."""
        for wire in wires:
            if wire.key not in self.watched:
                self.watched[wire.key] = Watched(wire, self.span, self._read)
        there = {(wire.service, wire.host): wire.key for wire in wires}
        for key, one in tuple(self.watched.items()):
            if one.is_lost and there.get((one.wire.service, one.wire.host), key) != key:
                del self.watched[key]
        services = [one.wire.service for one in self.watched.values()]
        for one in self.watched.values():
            one.name_host(services.count(one.wire.service) > 1)

    async def close(self) -> None:
        """Ask no more."""
        asking = [one.asking for one in self.watched.values() if one.asking is not None]
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)
        for one in self.watched.values():
            await one.wire.close()
