"""Periodic work beside a web application: the service lives as long as the application does.

``uvicorn examples.web_app:app``
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Response

from asyncmgr import Manager, Service, periodic_task


class Cache(Manager):
    def __init__(self) -> None:
        super().__init__()
        self.refreshed = 0

    @periodic_task(spacing=30, run_immediately=True)
    async def refresh(self, context: Any) -> None:
        self.refreshed += 1


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Service(Cache()) as service:
        app.state.service = service
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/tasks")
async def tasks() -> list[dict[str, Any]]:
    """What runs when."""
    managers = app.state.service.managers
    statuses = [status for manager in managers for status in manager.task_status()]
    return [
        {"task": status.full_name, "last_run": status.last_run, "next_due": status.next_due}
        for status in statuses
    ]


@app.get("/health")
async def health(response: Response) -> dict[str, Any]:
    """Bound to the progress of the schedule, not to the process being there."""
    state = app.state.service.health
    response.status_code = 200 if state.ok else 503
    return {"ok": state.ok, "reason": state.reason}
