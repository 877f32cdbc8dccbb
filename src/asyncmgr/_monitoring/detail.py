"""`detail_of`: what the drawer of the page shows of one task on one host; `gather_detail`: the same for others."""

from __future__ import annotations

import asyncio
import contextlib
import linecache
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from asyncmgr._history.slots import CODES
from asyncmgr._monitoring.page_data import Json, facts_of, ms, short, told_entry
from asyncmgr._service.insight import Insight
from asyncmgr._tasks.actions import Actor
from asyncmgr._tasks.whereabouts import Place
from asyncmgr.errors import AsyncmgrError

if TYPE_CHECKING:
    from asyncmgr._monitoring.neighbours import Neighbours
    from asyncmgr._service.service import Service

SLOTS = 60
"""Records that are shown."""

Ask: TypeAlias = Callable[..., Awaitable[Json]]
"""Asks a service for a verb that only reads; its arguments come by name."""

_READER = Actor("the page", "http")


async def detail_of(
    service: Service,
    insight: Insight,
    neighbours: Neighbours,
    task: str,
    host: str,
    at: str | None,
) -> Json:
    """Gather a sentence on the task or on its slot at a moment, its newest slots, and who did what to it.

    Raises
    ------
    AsyncmgrError
        There is no such task, or the host does not answer.
    """
    is_here = host in ("", service.host)

    async def ask(verb: str, **arguments: Any) -> Json:
        if is_here:
            return await service.control.perform(verb, arguments, _READER)
        return await neighbours.ask(host, verb, **arguments)

    if at is not None:
        explained = await ask("explain", task=task, at=at)
        return {"text": short(explained["text"], 1000)}
    found = await gather_detail(ask, task, host or service.host)
    if is_here:
        found["options"] = _options(insight, task)
        found["waits"] = await asyncio.to_thread(_with_code, insight.places_of(task))
    return found


async def gather_detail(ask: Ask, task: str, host: str) -> Json:
    """Ask a service what a drawer shows of one task: a sentence, newest slots, where its run waits, who did what.

    Raises
    ------
    AsyncmgrError
        There is no such task, or the service does not answer.
    """
    explained = await ask("explain", task=task)
    told = await ask("history", task=task, limit=SLOTS)
    (status,) = (await ask("status", task=task))["tasks"]
    entries: list[Any] = []
    waits: list[Any] = []
    with contextlib.suppress(AsyncmgrError):  # an older host
        entries = (await ask("journal", task=task, limit=100))["entries"]
        waits = (await ask("waits", task=task))["waits"]
    return {
        "text": short(explained["text"], 1000),
        "slots": [_slot(one) for one in told["records"] if one["reason"] != "not_owner"],
        "waits": [{"function": short(one["function"]), "place": short(one["place"])} for one in waits],
        "actions": [told_entry(one, host) for one in entries if one["task"] == task and one["where"]][-20:],
        "facts": facts_of(status, told["records"], status.get("timeout")),
    }


def _with_code(places: list[Place]) -> list[Json]:
    """Add to lines what is written there, which reads their files."""
    return [
        {
            "place": f"{one.file.rpartition('/')[2]}:{one.line}",
            "function": one.function,
            "code": short(linecache.getline(one.file, one.line).strip(), 120),
        }
        for one in places
    ]


def _slot(told: Mapping[str, Any]) -> Json:
    return {
        "slot": ms(told["slot"]),
        "last": ms(told["last"]),
        "count": told["count"],
        "fate": CODES[told["fate"], told["reason"]],
        "late": told["lateness"],
        "took": told["duration"],
        "trigger": told["trigger"],
        "text": short(told["text"] or ""),
    }


def _options(insight: Insight, task: str) -> Json:
    """Tell options of the task that a person may ask for."""
    found = insight.find(task)
    if found is None:
        return {}
    options = found[1].plan.options
    timeout = options.timeout
    return {
        "timeout": None if timeout is None else timeout / 1_000_000,
        "overlap": str(getattr(options, "overlap", "") or ""),
        "scope": str(getattr(options, "scope", "") or ""),
    }
