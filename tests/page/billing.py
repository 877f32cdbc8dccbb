"""A service with something of everything: what is well, fails, hangs, is paused, skips, and what befell its loop.

Its past is written into its ledger and journal as the service itself would have written it, so that the page has a
whole hour to show at once; from then on it runs for real.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from asyncmgr import Manager, RunContext, Service, Settings, Skip, periodic_task
from asyncmgr._common.clock import SECOND, read_wall
from asyncmgr._history.slots import CODES, MARK_KIND, ON_WALL, RUN, SPAN, SPAN_KIND, TASK_SHIFT, TEXT_SHIFT
from asyncmgr._service.service import insight_of

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


class Volumes(Manager):
    @periodic_task(spacing=5)
    async def sync(self, context: RunContext) -> None:
        await asyncio.sleep(0.05)

    @periodic_task(spacing=60)
    async def measure(self, context: RunContext) -> None:
        await asyncio.sleep(0.3)

    @periodic_task(spacing=300)
    async def expire(self, context: RunContext) -> None: ...


class Snapshots(Manager):
    @periodic_task(spacing=900)
    async def take(self, context: RunContext) -> None: ...

    @periodic_task(spacing=600)
    async def prune(self, context: RunContext) -> None: ...


class Invoices(Manager):
    @periodic_task(spacing=4, run_immediately=True)
    async def export(self, context: RunContext) -> None:
        raise ConnectionError("503 from pay.example/v2/export")

    @periodic_task(cron="0 7 * * 1-5", tz="Europe/Berlin")
    async def remind(self, context: RunContext) -> None: ...

    @periodic_task(spacing=120)
    async def reconcile(self, context: RunContext) -> None: ...


class Mail(Manager):
    @periodic_task(spacing=15)
    async def flush(self, context: RunContext) -> None:
        raise Skip("no new mail")

    @periodic_task(spacing=600)
    async def digest(self, context: RunContext) -> None: ...


class Search(Manager):
    @periodic_task(spacing=2, run_immediately=True)
    async def reindex(self, context: RunContext) -> None:
        context.progress(1200, 4000, "documents")
        await self.push()

    async def push(self) -> None:
        await asyncio.Event().wait()

    @periodic_task(spacing=1800)
    async def compact(self, context: RunContext) -> None: ...


class Backups(Manager):
    @periodic_task(cron="10 2 * * *", timeout=2700)
    async def nightly(self, context: RunContext) -> None:
        await asyncio.Event().wait()


MANAGERS = (Volumes, Snapshots, Invoices, Mail, Search, Backups)


def billing(host: str = "eu-1", transport: Any = None) -> Service:
    managers = [one() for one in MANAGERS]
    settings = Settings(seed=1, rpc_control=True)
    return Service(*managers, name="billing", host=host, transport=transport, settings=settings)


class Past:
    """Writes what a service has been through. Moments are microseconds before now."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.now = read_wall()
        self.ledger = insight_of(service).history.ledger
        self.random = random.Random(7)

    def run(self, task: str, ago: int, took: float, fate: str = "succeeded", text: str = "") -> None:
        at = self.now - ago
        key = self._key(task) | CODES[fate, None] | ON_WALL
        pen = self.ledger.rest.pen
        pen.write(RUN.pack(0, at / SECOND, 0.0, 0, MARK_KIND))  # what follows is by the wall clock
        number = self.ledger._text(text) << TEXT_SHIFT
        pen.write(RUN.pack(at, 0.0, took, number, key))

    def runs(
        self, task: str, every: int, took: float, *, holes: Callable[[int], bool] = lambda ago: False
    ) -> None:
        for ago in range(HOUR - 7 * SECOND, 0, -every):
            if not holes(ago):
                self.run(task, ago, took * self.random.uniform(0.6, 1.5))

    def span(
        self, task: str, first: int, last: int, count: int, fate: str, reason: str, text: str = ""
    ) -> None:
        key = self._key(task) | CODES[fate, reason] | SPAN_KIND
        number = self.ledger._text(text) << TEXT_SHIFT
        self.ledger.rest.pen.write(SPAN.pack(self.now - first, self.now - last, count, number, key))

    def befell(self, kind: str, ago: int, until: int, **data: Any) -> None:
        self.service.journal.add(kind, at=self.now - ago, until=self.now - until, **data)

    def _key(self, task: str) -> int:
        number = self.ledger.number_of(task)
        assert number is not None
        return number << TASK_SHIFT


def give_past(service: Service) -> None:
    """Write an hour."""
    past = Past(service)
    service.control.since -= timedelta(hours=9)

    def asleep(ago: int) -> bool:
        return 34 * MINUTE < ago < 43 * MINUTE

    past.runs("Volumes.sync", 30 * SECOND, 0.8, holes=asleep)
    past.runs("Volumes.measure", MINUTE, 2, holes=asleep)
    past.runs("Volumes.expire", 5 * MINUTE, 3, holes=asleep)
    past.runs("Snapshots.take", 15 * MINUTE, 50, holes=asleep)
    past.runs("Invoices.reconcile", 2 * MINUTE, 1, holes=asleep)
    past.runs("Mail.flush", 15 * SECOND, 0.5, holes=asleep)
    for ago in (52, 48):
        past.run("Snapshots.prune", ago * MINUTE, 12)
    for ago in range(47, 42, -1):
        past.run("Snapshots.prune", ago * MINUTE, 1, "failed", "PermissionError: /srv/snapshots")
    past.span("Snapshots.prune", 42 * MINUTE, 2 * MINUTE, 5, "skipped", "backoff")
    for ago, took in ((59, 250), (52, 170), (46, 120), (41, 260), (35, 400), (26, 180)):
        past.run("Search.compact", ago * MINUTE, took)
    past.span("Volumes.sync", 43 * MINUTE, 34 * MINUTE, 18, "missed", "suspended")
    past.span("Invoices.reconcile", 43 * MINUTE, 34 * MINUTE, 4, "missed", "suspended")
    past.span("Mail.flush", 43 * MINUTE, 34 * MINUTE, 36, "missed", "suspended")
    past.run("Mail.digest", 55 * MINUTE, 4)
    past.run("Mail.digest", 45 * MINUTE, 4, "timed_out", "Mail.send at mail.py:40")
    for ago in (18, 13):
        past.run("Invoices.export", ago * MINUTE, 20, "failed", "HTTPStatusError: 503")
    for ago in (20, 10):
        past.span("Invoices.export", ago * MINUTE, ago * MINUTE, 1, "skipped", "overlap")
    past.befell("suspended", 43 * MINUTE, 34 * MINUTE)
    past.befell(
        "blocked",
        26 * MINUTE,
        26 * MINUTE - 4_200_000,
        seconds=4.2,
        blame="Reports.render",
        doing="computing",
        place="reports.py:212",
    )
    past.befell(
        "blocked",
        9 * MINUTE,
        9 * MINUTE - 1_300_000,
        seconds=1.3,
        blame="Reports.render",
        doing="computing",
        place="reports.py:212",
    )


def restore_clocks(service: Service) -> None:
    """Have the clocks of the service hold again for what is recorded from now on."""
    runner = insight_of(service).runner
    assert runner is not None
    moment = runner.lookout.clock.read()
    began = moment.wall / SECOND - asyncio.get_running_loop().time()
    pen = insight_of(service).history.ledger.rest.pen
    pen.write(RUN.pack(moment.wall - moment.now, began, 0.0, 0, MARK_KIND))


def age(service: Service, task: str, seconds: float) -> None:
    """Let the run in progress be older."""
    insight = insight_of(service)
    found = insight.find(task)
    assert found is not None
    assert insight.runner is not None
    run = insight.runner.oldest(found[1].standing)
    assert run is not None
    run.started -= seconds


WELL = (
    "Volumes.measure",
    "Volumes.expire",
    "Snapshots.take",
    "Invoices.remind",
    "Invoices.reconcile",
    "Search.compact",
)


async def bring_about(service: Service, *, is_first: bool = True) -> None:
    """Give a running service a past, and the troubles of the present."""
    give_past(service)
    restore_clocks(service)
    for task in WELL:
        await service.task(task).trigger()
    if is_first:
        service.task("Mail.digest").pause(for_=7200, note="mail provider moves, CHG-4411")
        await service.task("Backups.nightly").trigger(wait=False)
        await asyncio.sleep(0)
        age(service, "Backups.nightly", 47 * 60)


def past_of_crowd(service: Service) -> None:
    """Give 1,000 tasks 60 runs each."""
    past = Past(service)
    for number, task in enumerate(service.tasks):
        for ago in range(59, 0, -1):
            is_bad = (number * 7 + ago) % 97 == 0
            fate, text = ("failed", "OSError: no") if is_bad else ("succeeded", "")
            past.run(task.full_name, ago * MINUTE - number * SECOND % MINUTE, 0.5 + number % 7, fate, text)
    restore_clocks(service)
