"""`Neighbours`: the other hosts of a service, asked over RPC while a page is open, and steered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.safe_text import error_text
from asyncmgr._history.slots import Record
from asyncmgr._monitoring.page_data import (
    About,
    Json,
    in_the_way,
    marks_of,
    ms,
    record_told,
    task_facts,
    told_entry,
)
from asyncmgr._rpc.client import RpcClient
from asyncmgr._service.builtin_rpc import NAMESPACE
from asyncmgr.capabilities import Hosts
from asyncmgr.errors import AsyncmgrError

if TYPE_CHECKING:
    from asyncmgr._service.service import Service

BETWEEN = 5.0
"""Seconds between two rounds of questions."""

WITHIN = 4.0
"""Seconds that a host has for an answer."""

MOST_HOSTS = 30
"""Hosts that are asked; more are not shown."""

PAGE = 500
MOST_PAGES = 10
"""Answers of 500 records each that are asked for at once."""

_OVERLAPPING = 2_000_000
"""Microseconds of the past that are asked for again: what ended there may have been told late."""

Tell = Callable[[Json], None]


class Neighbour:
    """What is known of one host. Everything here was told by it."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.tasks: dict[str, Json] = {}
        self.records: dict[tuple[str, int, str], Record] = {}
        self.entries: list[Json] = []
        self.read_to = 0
        """Microseconds: until when its history is known."""
        self.facts: Json = {"host": host, "ok": True}

    def forget_before(self, since: int) -> None:
        """Drop what no page shows."""
        self.records = {key: one for key, one in self.records.items() if one.ended >= since}
        self.entries = [one for one in self.entries if (one.get("until") or one["at"]) * 1000 >= since]


class Neighbours:
    """The other hosts of one service. They are asked only between `begin` and `end`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: dict[str, Neighbour] = {}
        self._task: asyncio.Task[None] | None = None
        self._tell: Tell = lambda value: None
        self._span = 3600

    @property
    def count(self) -> int:
        """The number of other hosts that are known."""
        return len(self._known)

    def begin(self, tell: Tell) -> None:
        """Ask, and tell what has changed."""
        self._tell = tell
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="asyncmgr page hosts")

    def end(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._known.clear()

    def everything(self, base: int, span: int) -> Iterator[Json]:
        """Yield what is known of all hosts, for a page that has just been opened and shows `span` seconds."""
        since = (base - span * 1000) * 1000
        if span > self._span:
            self._span = span
            for one in self._known.values():
                one.read_to = 0
        for one in self._known.values():
            yield {"k": "host", **one.facts}
            yield {"k": "tasks", "host": one.host, "tasks": list(one.tasks.values()), "first": True}
            yield {"k": "journal", "host": one.host, "entries": one.entries}
            rows = marks_of(one.records.values(), base, span * 1000, since)
            yield {"k": "marks", "host": one.host, "base": base, "rows": rows}

    async def perform(self, host: str, verb: str, arguments: Mapping[str, Any], by: str) -> Json:
        """Ask a host for a verb; return its answer.

        Raises
        ------
        AsyncmgrError
            The host refuses it, or cannot be reached.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        if "for" in given:
            given["seconds"] = given.pop("for")
        return await self._call(host, verb, **given, by=by)

    async def ask(self, host: str, method: str, **arguments: Any) -> Json:
        """Ask a host for what it only reads."""
        return await self._call(host, method, **arguments)

    async def _call(self, host: str, method: str, **arguments: Any) -> Json:
        client = RpcClient(
            self._service.transport,
            self._service.name,
            version="1.1",
            namespace=NAMESPACE,
            timeout=WITHIN,
        )
        answer: Json = await client.at(host=host).call(method, **arguments)
        return answer

    # Asking

    async def _work(self) -> None:
        with contextlib.suppress(AsyncmgrError):
            async with Hosts(self._service.store, self._service.name) as hosts:
                while True:
                    names = {one.host for one in hosts.snapshot()} - {self._service.host}
                    self._keep(sorted(names)[:MOST_HOSTS])
                    await asyncio.gather(*(self._look(one) for one in tuple(self._known.values())))
                    await asyncio.sleep(BETWEEN)

    def _keep(self, names: list[str]) -> None:
        for name in names:
            if name not in self._known:
                self._known[name] = Neighbour(name)
        for name in self._known.keys() - set(names):
            del self._known[name]
            self._tell({"k": "host", "host": name, "gone": True})

    async def _look(self, one: Neighbour) -> None:
        before, began = dict(one.facts), asyncio.get_running_loop().time()
        try:
            hello = await self._call(one.host, "hello")
            took = asyncio.get_running_loop().time() - began
            await self._read(one)
        except (AsyncmgrError, KeyError, TypeError, ValueError) as exc:
            silent = one.facts.get("silent") or read_wall() // 1000
            one.facts = {
                **one.facts,
                "ok": False,
                "silent": silent,
                "error": error_text(exc, 200).rstrip(".?"),
            }
        else:
            one.facts = {
                "host": one.host,
                "ok": True,
                "version": str(hello["version"])[:40],
                "state": str(hello["state"])[:40],
                "since": ms(hello["since"]),
                "took": round(took * 1000, 1),
            }
        if one.facts != before:
            self._tell({"k": "host", **one.facts})

    async def _read(self, one: Neighbour) -> None:
        now = read_wall()
        first = one.read_to == 0
        since = now - self._span * 1_000_000 if first else one.read_to - _OVERLAPPING
        base = now // 1000
        new = await self._read_history(one, since)
        await self._read_tasks(one)
        if new:
            rows = marks_of(new, base, self._span * 1000 if first else 1000)
            self._tell({"k": "marks", "host": one.host, "base": base, "rows": rows})
        answer = await self._call(one.host, "journal", since=_iso(since), limit=PAGE)
        known = {(entry["at"], entry["kind"]) for entry in one.entries}
        told = [told_entry(entry, one.host) for entry in answer["entries"]]
        entries = [entry for entry in told if (entry["at"], entry["kind"]) not in known]
        if entries:
            one.entries += entries
            self._tell({"k": "journal", "host": one.host, "entries": entries})
        one.read_to = now
        one.forget_before(now - self._span * 1_000_000)

    async def _read_history(self, one: Neighbour, since: int) -> list[Record]:
        """Read the records since a moment; return those that are new or have grown."""
        new: list[Record] = []
        until: str | None = None
        for _ in range(MOST_PAGES):
            answer = await self._call(one.host, "history", since=_iso(since), until=until, limit=PAGE)
            records = [record_told(told) for told in answer["records"]]
            fresh = [record for record in records if one.records.get(_key(record)) != record]
            one.records.update((_key(record), record) for record in fresh)
            new += fresh
            if len(records) < PAGE or not fresh:
                break
            until = _iso(min(record.slot for record in records))
        return new

    async def _read_tasks(self, one: Neighbour) -> None:
        after: int | None = 0
        found: dict[str, Json] = {}
        newest = _newest_without_run(one.records.values())
        while after is not None:
            answer = await self._call(one.host, "status", after=after)
            for told in answer["tasks"]:
                overlap = in_the_way(newest.get(told["task"]))
                about = About(one.host, is_one_of_many=True, overlap=overlap)
                found[told["task"]] = task_facts(told, about)
            after = answer["next"]
        changed = [facts for name, facts in found.items() if one.tasks.get(name) != facts]
        gone = one.tasks.keys() - found.keys()
        one.tasks = found
        if changed:
            self._tell({"k": "tasks", "host": one.host, "tasks": changed})
        if gone:
            self._tell({"k": "gone", "host": one.host, "tasks": sorted(gone)})


def _newest_without_run(records: Iterable[Record]) -> dict[str, Record]:
    """Find the newest slots without a run of each task."""
    newest: dict[str, Record] = {}
    for record in records:
        if not record.is_run and (record.task not in newest or newest[record.task].last < record.last):
            newest[record.task] = record
    return newest


def _key(record: Record) -> tuple[str, int, str]:
    return record.task, record.slot if record.started is None else record.started, record.fate


def _iso(moment: int) -> str:
    return to_datetime(moment).isoformat()
