"""The verbs ``explain`` and ``history``: what became of slots, as JSON values. They only read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Protocol

from asyncmgr._common.clock import to_datetime
from asyncmgr._history.explain import Explanation
from asyncmgr._history.slots import Record
from asyncmgr._service.control import Answer, Arguments, Control, Verb

MOST = 500
"""Records in one answer."""


class Remembering(Protocol):
    """The part of a `Service` that is needed here; a Protocol, since `service` imports this module."""

    def explain(self, task: str, at: datetime | None = None) -> Explanation: ...  # pragma: no cover
    def history(
        self,
        task: str | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
    ) -> Sequence[Record]: ...  # pragma: no cover


def add_history(control: Control, service: Remembering) -> None:
    """Add the verbs to those of a service."""

    async def explain(control: Control, given: Arguments) -> Answer:
        task = control.find(given.text("task")).full_name
        return explanation_as_json(service.explain(task, given.moment("at")))

    async def history(control: Control, given: Arguments) -> Answer:
        name = given.text("task")
        task = None if name is None else control.find(name).full_name
        found = service.history(
            task,
            since=given.moment("since"),
            until=given.moment("until"),
            limit=min(given.number("limit", 100), MOST),
        )
        return {"records": [fate_as_json(record) for record in found]}

    control.add("explain", Verb(explain, ("task", "at"), reads=True))
    control.add("history", Verb(history, ("task", "since", "until", "limit"), reads=True))


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


def _moment(moment: int | None) -> str | None:
    return None if moment is None else to_datetime(moment).isoformat()
