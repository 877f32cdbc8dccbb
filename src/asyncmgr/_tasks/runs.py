"""One run: what its body is told of it, what the runner notes of it, and how its end is judged."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from asyncmgr._common.clock import SECOND, Moment
from asyncmgr._common.heap import NO_PLACE, Place
from asyncmgr._tasks.agenda import Due
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr.errors import Skip
from asyncmgr.events import Outcome, RunFinished

Trigger = Literal["schedule", "catch_up", "queue", "manual", "pass"]
"""Why a run was started: its slot was due; it stands for missed slots too; it waited for the run before it; somebody
asked for it; a pass found it due."""

Result = tuple[Outcome, BaseException | None]
"""How a run ended, and with what."""


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


class RunContext(ABC):
    """What a run's body gets as its `context`: facts about this run, fresh for each."""

    __slots__ = ()

    @property
    @abstractmethod
    def task(self) -> str:
        """The full name, ``manager.task``."""

    @property
    @abstractmethod
    def slot(self) -> datetime:
        """The planned moment that this run is for; aware, UTC."""

    @property
    @abstractmethod
    def lateness(self) -> float:
        """Seconds from the slot to the actual start; negative if it was nearly due."""

    @property
    @abstractmethod
    def run_id(self) -> str:
        """Unique to this run."""

    @property
    @abstractmethod
    def trigger(self) -> Trigger:
        """Why it was started."""

    @property
    @abstractmethod
    def host(self) -> str:
        """The name under which the service instance is known."""

    @property
    @abstractmethod
    def service(self) -> str:
        """The service's name."""

    def __repr__(self) -> str:
        return f"<RunContext {self.task} slot={self.slot.isoformat()} run_id={self.run_id}>"


class Run(Due, RunContext):
    """One execution of a task, from its slot to its outcome; the runner's own record."""

    __slots__ = (
        "asked",
        "cause",
        "failed",
        "future",
        "has_begun",
        "look",
        "number",
        "place",
        "started",
        "waiter",
    )

    look: Look
    number: int
    started: float
    """Loop time."""

    def __init__(self, managed: ManagedTask, planned: int, missed: int) -> None:
        # Not by super(): its call would cost as much as the rest.
        self.managed = managed
        self.planned = planned
        self.missed = missed
        self.place: Place | None = NO_PLACE
        """Of its deadline."""
        self.asked: Literal["queue", "manual", "pass"] | None = None
        """What started it, where that is not its slot."""
        self.cause: Literal["timed_out", "cancelled"] | None = None
        """Who cancelled it: its own timeout, or the service that stops."""
        self.future: asyncio.Future[None] | None = None
        """The asyncio Task; `None` until it first waits, and for a run that never does."""
        self.has_begun = False
        """Its Task has made the first step."""
        self.failed = False
        """It ended as `failed` or `timed_out`."""
        self.waiter: asyncio.Future[RunFinished] | None = None
        """Gets the record when it has ended, where somebody waits for that."""

    @property
    def full_name(self) -> str:
        return self.managed.full_name

    @property
    def task(self) -> str:
        return self.managed.full_name

    @property
    def lateness(self) -> float:
        """Seconds from the slot to the actual start."""
        handed_out = self.managed.plan.reference(self.look.moment)
        return round((handed_out - self.planned) / SECOND + self.started - self.look.at, 6)

    @property
    def slot(self) -> datetime:
        return self.managed.plan.datetime_of(self.planned, self.look.moment)

    @property
    def host(self) -> str:
        return self.look.site.host

    @property
    def service(self) -> str:
        return self.look.site.service

    @property
    def run_id(self) -> str:
        return f"{self.look.site.incarnation}-{self.number}"

    @property
    def trigger(self) -> Trigger:
        if self.asked is not None:
            return self.asked
        return "catch_up" if self.missed else "schedule"

    @property
    def is_too_late(self) -> bool:
        """Its start is later than the slot's grace allows."""
        if self.managed.plan.options.misfire_grace is None or self.asked == "manual":
            return False
        waited = round((self.started - self.look.at) * SECOND)
        return self.managed.plan.is_too_late(
            self.planned, self.managed.plan.reference(self.look.moment) + waited
        )


def judge(run: Run, error: BaseException | None) -> Result:
    """How a run ended: who cancelled decides, not what the body raised."""
    if run.cause == "timed_out":
        return Outcome.TIMED_OUT, _late(run, error)
    if error is None:
        return Outcome.SUCCEEDED, None
    if isinstance(error, Skip):
        return Outcome.NOTHING, error
    return (Outcome.CANCELLED if isinstance(error, asyncio.CancelledError) else Outcome.FAILED), error


def _late(run: Run, cause: BaseException | None) -> TimeoutError:
    timeout = (run.managed.options.timeout or 0) / SECOND
    late = TimeoutError(f"{run.full_name} ran longer than its timeout of {timeout:g} s")
    late.__cause__ = cause
    return late
