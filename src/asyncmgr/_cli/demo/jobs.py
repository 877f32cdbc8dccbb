"""The jobs of the demonstration: each is run by one of the three hosts, and three of them are in trouble.

Written as a user writes them, and run by the path of this file: so it is not asyncmgr's own code, and what is said of a
run names its line.
"""

from __future__ import annotations

import asyncio
import time

from asyncmgr._service.manager import Manager
from asyncmgr._tasks.declare import periodic_task
from asyncmgr._tasks.runs import RunContext

REPORT = "Reports.send"
FAILING = "Invoices.export"
HANGING = "Search.reindex"
BLOCKING = "Images.render"

RENDERED_IN = 1.6
"""Seconds for which the event loop is blocked: more than the threshold, less than what costs a host its leases."""


class Reports(Manager):
    """What has to be done once, however many hosts there are."""

    @periodic_task(spacing=10, run_immediately=True, scope="cluster")
    async def send(self, context: RunContext) -> None:
        await asyncio.sleep(0.4)


class Invoices(Manager):
    """Talks to somebody who refuses."""

    @periodic_task(spacing=10, run_immediately=True, scope="cluster")
    async def export(self, context: RunContext) -> None:
        await asyncio.sleep(0.2)
        raise ConnectionError("503 from pay.example/v2/export")


class Search(Manager):
    """Waits for an answer that never comes."""

    @periodic_task(spacing=5, run_immediately=True, scope="cluster")
    async def reindex(self, context: RunContext) -> None:
        context.progress(1200, 4000, "documents")
        await self.push()

    async def push(self) -> None:
        await asyncio.Event().wait()


class Images(Manager):
    """Does in the event loop what belongs into a thread."""

    @periodic_task(spacing=150, initial_delay=6, scope="cluster")
    async def render(self, context: RunContext) -> None:
        time.sleep(RENDERED_IN)  # noqa: ASYNC251 - in place of a library that renders, and returns not before
