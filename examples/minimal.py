"""The smallest service: one manager, two tasks. Run it with ``asyncmgr run examples/minimal.py:Volumes``."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncmgr
from asyncmgr import Manager, RunContext, periodic_task


class Volumes(Manager):
    @periodic_task(spacing=2, run_immediately=True)
    async def sync(self, context: RunContext) -> None:
        print(f"sync, {context.lateness * 1000:.1f} ms after its slot")

    @periodic_task(cron="*/5 * * * *", tz="Europe/Berlin", timeout=60)
    async def sweep(self, context: Any) -> None:
        print("sweep")


if __name__ == "__main__":
    asyncio.run(asyncmgr.run(Volumes()))
