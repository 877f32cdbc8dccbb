"""The verbs ``explain``, ``history`` and ``journal``: what became of slots, and who did what. They only read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from asyncmgr._common.clock import to_datetime, to_us
from asyncmgr._history.explain import Explanation
from asyncmgr._history.journal import Entry, Journal
from asyncmgr._history.slots import Record
from asyncmgr._service.control import Answer, Arguments, Control, Verb

MOST = 500
"""Records in one answer."""


class Remembering(Protocol):
    """The part of a `Service` that is needed here; a Protocol, since `service` imports this module."""

    journal: Journal

    def explain(
        self, task: str, at: datetime | None = None, *, key: str | int | None = None
    ) -> Explanation: ...  # pragma: no cover
    def history(
        self,
        task: str | None = None,
        *,
        key: str | int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> Sequence[Record]: ...  # pragma: no cover


def add_history(control: Control, service: Remembering) -> None:
    """Add the verbs to those of a service."""

    async def explain(control: Control, given: Arguments) -> Answer:
        task = control.find(given.text("task")).full_name
        return explanation_as_json(service.explain(task, given.moment("at"), key=given.text("key")))

    async def history(control: Control, given: Arguments) -> Answer:
        name = given.text("task")
        task = None if name is None else control.find(name).full_name
        found = service.history(
            task,
            key=given.text("key"),
            since=given.moment("since"),
            until=given.moment("until"),
            limit=min(given.number("limit", 100), MOST),
        )
        return {"records": [fate_as_json(record) for record in found]}

    async def journal(control: Control, given: Arguments) -> Answer:
        name, since = given.text("task"), given.moment("since")
        task = None if name is None else control.find(name).full_name
        first = 0 if since is None else to_us(since.timestamp())
        entries = service.journal.during(first, 2**62, task) if task else service.journal
        kept = [entry for entry in entries if (entry.until or entry.at) >= first]
        return {"entries": [entry_as_json(entry) for entry in kept[-min(given.number("limit", 100), MOST) :]]}

    control.add("journal", Verb(journal, ("task", "since", "limit"), reads=True))
    control.add("explain", Verb(explain, ("task", "key", "at"), reads=True))
    control.add("history", Verb(history, ("task", "key", "since", "until", "limit"), reads=True))


def explanation_as_json(explanation: Explanation) -> dict[str, Any]:
    """Write an explanation: the sentences, and what they are about."""
    return {
        "task": explanation.task,
        "text": explanation.text,
        "slot": _moment(explanation.slot),
        "count": explanation.count,
        "fate": explanation.fate,
        "reason": explanation.reason,
    }


def fate_as_json(record: Record) -> dict[str, Any]:
    """Write the fate of one slot, or of many in a row: moments in ISO 8601, lengths in seconds."""
    return {
        "task": record.task,
        "key": None if record.key is None else str(record.key),
        "slot": _moment(record.slot),
        "last": _moment(record.last),
        "count": record.count,
        "fate": record.fate,
        "reason": record.reason,
        "trigger": record.trigger,
        "run": record.run,
        "lateness": record.lateness,
        "duration": None if record.duration is None else round(record.duration, 6),
        "attempts": record.attempts,
        "text": record.text or None,
    }


def entry_as_json(entry: Entry) -> dict[str, Any]:
    """Write an entry of the journal: what befell the service, or who did what to a task."""
    return {
        "at": _moment(entry.at),
        "until": _moment(entry.until),
        "kind": entry.kind,
        "task": entry.task,
        "who": entry.who or None,
        "where": entry.where or None,
        "note": entry.note or None,
        "data": entry.data,
    }


def _moment(moment: int | None) -> str | None:
    return None if moment is None else to_datetime(moment).isoformat()
