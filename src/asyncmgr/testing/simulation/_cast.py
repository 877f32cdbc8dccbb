"""The services of a story: a manager whose tasks of ``scope="cluster"`` tell the invariants all that they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from asyncmgr._service.manager import Manager
from asyncmgr._service.service import Service
from asyncmgr._settings.model import Settings
from asyncmgr._tasks.runs import RunContext
from asyncmgr.testing.simulation._cluster import Process
from asyncmgr.testing.simulation._invariants import Body, Invariants
from asyncmgr.testing.simulation._story import Story, TaskPart
from asyncmgr.transports import Transport

APPLICATION = "story"
"""The name of a story's service, and of its application."""


class Crew(Manager):
    """The manager of a story's service. It has no tasks of its own."""

    name = "crew"

    def __init__(self, tasks: dict[TaskPart, Callable[..., Coroutine[Any, Any, None]]]) -> None:
        super().__init__()
        self._bodies = tasks

    async def init_host(self) -> None:
        # Here, since the manager has its service's settings now and need not read any.
        for task, body in self._bodies.items():
            schedule: dict[str, Any] = {"cron": task.cron} if task.cron else {"spacing": task.spacing}
            self.add_periodic_task(body, name=task.name, overlap=task.overlap, scope="cluster", **schedule)


def full_name(task: TaskPart) -> str:
    return f"{Crew.name}.{task.name}"


class WatchedRun:
    """A run that the simulation watches."""

    def __init__(self, body: Any, invariants: Any) -> None:
        # Made by the simulation only, so its parameters are no part of the interface.
        self._body: Body = body
        self._invariants: Invariants = invariants

    def effect(self) -> bool:
        """Call this where the body changes something that is guarded by its fencing token; False = it is refused."""
        return self._invariants.effect(self._body)


class SimulatedHost:
    """What a factory of services gets: the host that its service is for."""

    def __init__(self, process: Any, invariants: Any, seed: int) -> None:
        self._process: Process = process
        self._invariants: Invariants = invariants
        self.name: str = process.machine.name
        """The host's name. In some stories several hosts have the same one."""
        self.number: int = process.machine.number
        """Counts the machines of the story from 0."""
        self.life: int = process.number
        """Counts all processes of the story from 1: a restart is a new life."""
        self.transport: Transport = process.connection
        """The faulty way to the store; give it to the service."""
        self.settings: Settings = _settings(process.ttl).model_copy(
            update={"seed": seed * 1000 + process.number}
        )
        """Settings with a seed and the story's lease TTL; give them to the service."""

    @property
    def moment(self) -> float:
        """Seconds of real time since the story's beginning."""
        return self._invariants.moment

    @property
    def is_over(self) -> bool:
        """Whether the process has died, and its tasks are only being cleared away."""
        return not self._process.is_alive

    @contextmanager
    def watched(self, context: RunContext) -> Iterator[WatchedRun]:
        """Have the simulation watch a run: write the body of a task of ``scope="cluster"`` inside of this."""
        name = context.task if context.key is None else f"{context.task}[{context.key}]"
        body = self._invariants.begin(self._process, name, context.fencing_token, context.slot_number)
        how = "returned"
        try:
            yield WatchedRun(body, self._invariants)
        except asyncio.CancelledError:
            how = "was cancelled"
            raise
        except BaseException:
            how = "raised"
            raise
        finally:
            self._invariants.end(body, how)

    def note(self, what: str, *facts: object) -> None:
        """Write a line to the log of the simulation."""
        self._invariants.note(self._process, what, *facts)


@cache
def _settings(ttl: float) -> Settings:
    # Not from the environment and the files of whoever runs the simulation.
    return Settings(lease={"ttl": ttl}, drain_timeout=ttl / 2, capability_ttl=3600.0)


def service_of_story(story: Story, process: Process, host: SimulatedHost) -> Service:
    """Build the service of one process: it has the tasks that its version knows."""
    crew = Crew({task: _body(host, task, process.ttl) for task in known_tasks(story, process)})
    return Service(crew, name=APPLICATION, host=host.name, transport=host.transport, settings=host.settings)


def known_tasks(story: Story, process: Process) -> tuple[TaskPart, ...]:
    """List the tasks that the process's version knows."""
    if process.knows_all:
        return story.tasks
    return tuple(task for task in story.tasks if task.name in story.machines[process.machine.number].knows)


def _body(host: SimulatedHost, task: TaskPart, ttl: float) -> Callable[..., Coroutine[Any, Any, None]]:
    steps = max(1, round(task.lasts / 0.4))

    async def work(context: RunContext) -> None:
        with host.watched(context) as run:
            run.effect()
            try:
                for _ in range(steps if task.lasts else 0):
                    await asyncio.sleep(task.lasts / steps)
                    run.effect()
            except asyncio.CancelledError:
                await asyncio.sleep(task.unwinds * ttl)
                raise

    work.__name__ = work.__qualname__ = task.name
    return work
