"""One process of a cluster, for tests and benchmarks; it lives in the directory in which it is imported.

It appends what happens to ``notes`` of its directory, a JSON object a line, and puts the effect of each run to a
resource that refuses tokens lower than the last it saw.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asyncmgr import Manager, RunContext, Service, Settings, run
from asyncmgr.errors import LostLease
from asyncmgr.events import (
    LeaseAcquired,
    LeaseLost,
    LeaseReleased,
    RunFinished,
    ServiceStarted,
    ServiceStopping,
    SlotSkipped,
    SlotsMissed,
)

NOTES = os.open("notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(what: str, **facts: Any) -> None:
    line = json.dumps({"what": what, "pid": os.getpid(), "at": time.time(), **facts}, default=str)
    os.write(NOTES, f"{line}\n".encode())  # one call: lines of several processes do not mix


def apply(resource: str, token: int) -> bool:
    """Do what a run is for, unless a later holder has been here."""
    with Path(f"resource-{resource}").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        seen = max(map(int, file.read().split()), default=0)
        if token >= seen:
            file.write(f"{token}\n")
        return token >= seen


def freeze() -> bool:
    """Be stopped in mid-body, where a file asks for that; return whether it was so."""
    if not Path(f"freeze-{os.getpid()}").exists():
        return False
    note("frozen")
    os.kill(os.getpid(), signal.SIGSTOP)
    while not Path("thaw").exists():
        time.sleep(0.001)
    return True


class Work(Manager):
    """Tasks whose runs note themselves."""

    name = "M"

    def __init__(self, lasts: float) -> None:
        super().__init__()
        self.lasts = lasts

    async def work(self, context: RunContext) -> None:
        task = context.task.rpartition(".")[2]
        note(
            "ran",
            task=task,
            number=context.slot_number,
            token=context.fencing_token,
            trigger=context.trigger,
            slot=context.slot.timestamp(),
        )
        frozen = freeze()
        if context.fencing_token is not None:
            note(
                "applied" if apply(task, context.fencing_token) else "refused",
                task=task,
                token=context.fencing_token,
            )
        await asyncio.sleep(60 if frozen else self.lasts)


def listen(service: Service, leases: Sequence[str]) -> None:
    guards: list[asyncio.Task[None]] = []

    def hear(event: Any) -> None:
        match event:
            case RunFinished():
                note("ended", task=event.task, outcome=event.outcome, slot=event.slot.timestamp())
            case SlotsMissed():
                note(
                    "missed",
                    task=event.task,
                    count=event.count,
                    reason=event.reason,
                    slot=event.slot.timestamp(),
                )
            case SlotSkipped() if event.reason != "not_owner":  # of which there are very many
                note("skipped", task=event.task, reason=event.reason)
            case LeaseAcquired():
                note("acquired", name=event.name, token=event.token, taken_from=event.taken_from)
            case LeaseLost():
                note("lost", name=event.name, token=event.token, reason=event.reason)
            case LeaseReleased():
                note("released", name=event.name, token=event.token)
            case ServiceStarted():
                note("started")
                guards.extend(asyncio.ensure_future(guard(service, name)) for name in leases)
            case ServiceStopping():
                note("stopping")
                for one in guards:
                    one.cancel()

    service.add_listener(hear)


async def guard(service: Service, name: str) -> None:
    """Hold a lease for ever, whenever it can be had."""
    while True:
        try:
            async with service.lease(name) as lease:
                note("entered", name=name, token=lease.fencing_token)
                assert apply(name, lease.fencing_token)
                await asyncio.Event().wait()
        except LostLease:
            note("left", name=name)


def build(plan: dict[str, Any]) -> Service:
    work = Work(plan.get("lasts", 0.0))
    for name, options in plan["tasks"].items():
        work.add_periodic_task(work.work, name=name, **options)
    service = Service(
        work, name=plan["application"], host=plan["host"], settings=Settings(**plan["settings"])
    )
    listen(service, plan["leases"])
    return service


async def main(plan: dict[str, Any]) -> None:
    await run(build(plan))
    note("stopped")
