"""One run: what its body is told of it, and what the runner notes of it."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from asyncmgr._common.clock import SECOND, Moment
from asyncmgr._common.heap import NO_TICKET
from asyncmgr._tasks.agenda import Due, Entry

Trigger = Literal["schedule", "catch_up", "queue"]
"""Why a run was started: its slot was due; it stands for missed slots too; it waited for the run before it."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where runs happen: the same for all runs of one service."""

    host: str
    service: str
    incarnation: str
    """Eight hexadecimal digits, drawn at each start of a service."""


@dataclass(frozen=True, slots=True)
class Look:
    """The look at the agenda at which slots were handed out: the same for a whole batch."""

    site: Site
    moment: Moment
    at: float
    """The moment in loop time."""


class Run(Due):
    """One execution of a task, from its slot to its outcome; the runner's own record.

    Lean, as there is one for each run: what only a run that waits has is set when it first waits.
    """

    __slots__ = ("begun", "body", "cause", "look", "number", "queued", "scope", "started", "task", "ticket")

    look: Look
    number: int
    started: float
    """Loop time."""
    scope: contextvars.Context
    """Its own copy of the context variables."""
    body: Coroutine[Any, Any, object]
    begun: bool
    """Once it has a Task: whether it has made its first step there."""

    def __init__(self, entry: Entry, planned: int, missed: int) -> None:
        # Not by super(): its call would cost as much as the rest.
        self.entry: Entry = entry
        self.planned: int = planned
        self.missed: int = missed
        self.queued: bool = False
        self.ticket: int = NO_TICKET
        """Of its deadline."""
        self.cause: Literal["timed_out", "cancelled"] | None = None
        """Who cancelled it: its own timeout, or the service that stops."""
        self.task: asyncio.Task[None] | None = None
        """Its own, from the moment at which it first waits."""

    @property
    def full_name(self) -> str:
        return self.entry.full_name

    @property
    def lateness(self) -> float:
        """Seconds from the slot to the actual start."""
        handed_out = self.entry.reference(self.look.moment)
        return round((handed_out - self.planned) / SECOND + self.started - self.look.at, 6)

    @property
    def slot(self) -> datetime:
        return self.entry.slot_datetime(self.planned, self.look.moment)

    @property
    def run_id(self) -> str:
        return f"{self.look.site.incarnation}-{self.number}"

    @property
    def trigger(self) -> Trigger:
        if self.queued:
            return "queue"
        return "catch_up" if self.missed else "schedule"


class RunContext:
    """What a run's body gets as its `context`: facts about this run, fresh for each."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    @property
    def task(self) -> str:
        """The full name, ``manager.task``."""
        return self._run.entry.full_name

    @property
    def slot(self) -> datetime:
        """The planned moment that this run is for; aware, UTC."""
        return self._run.slot

    @property
    def lateness(self) -> float:
        """Seconds from the slot to the actual start; negative if it was nearly due."""
        return self._run.lateness

    @property
    def run_id(self) -> str:
        """Unique to this run."""
        return self._run.run_id

    @property
    def trigger(self) -> Trigger:
        """Why it was started."""
        return self._run.trigger

    @property
    def host(self) -> str:
        """The name under which the service instance is known."""
        return self._run.look.site.host

    @property
    def service(self) -> str:
        """The service's name."""
        return self._run.look.site.service

    def __repr__(self) -> str:
        return f"<RunContext {self.task} slot={self.slot.isoformat()} run_id={self.run_id}>"
