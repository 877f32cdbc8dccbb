"""Targets for the tests of the command line."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from abc import ABC, abstractmethod
from typing import Any

from asyncmgr import Manager, Service, periodic_task
from asyncmgr._service.service import State


class Volumes(Manager):
    """A bit of everything."""

    @periodic_task
    async def heartbeat(self, context: Any) -> None: ...

    @periodic_task(spacing=30, run_immediately=True, timeout=10, jitter=5)
    async def sync(self, context: Any) -> None: ...

    @periodic_task(spacing=300, tolerance=0, overlap="queue")
    async def sweep(self, context: Any) -> None: ...

    @periodic_task(cron="30 2 * * *", tz="Europe/Berlin")
    async def backup(self, context: Any) -> None: ...

    @periodic_task(spacing=60, enabled=False)
    async def legacy(self, context: Any) -> None: ...

    @periodic_task(spacing=60, external_process_ok=True)
    async def elsewhere(self, context: Any) -> None: ...


class Snapshots(Manager):
    """A second one, which shares a task's name with the first."""

    @periodic_task(spacing=3600)
    async def sweep(self, context: Any) -> None: ...


class Driver(ABC):
    """What `Driven` is given by the settings."""

    @abstractmethod
    def size(self) -> int: ...


class LvmDriver(Driver):
    """One driver."""

    def size(self) -> int:
        return 3


class Driven(Manager):
    """A manager with an argument."""

    def __init__(self, driver: Driver, limit: int = 1) -> None:
        super().__init__()
        self.driver = driver
        self.limit = limit

    @periodic_task(spacing=1)
    async def poll(self, context: Any) -> None: ...


class Idle(Manager):
    """No task."""


class Quits(Manager):
    """Ends the process in its first run."""

    @periodic_task(spacing=10, run_immediately=True)
    async def quit(self, context: Any) -> None:
        raise SystemExit(7)


class Complains(Manager):
    """Ends the process in its first run, and says why."""

    @periodic_task(spacing=10, run_immediately=True)
    async def complain(self, context: Any) -> None:
        raise SystemExit("the disk is full")


class Stops(Manager):
    """Stops its service in its first run."""

    @periodic_task(spacing=10, run_immediately=True)
    async def stop(self, context: Any) -> None:
        assert self.service is not None
        self.service.request_stop()

    @periodic_task(spacing=10)
    async def other(self, context: Any) -> None: ...


class Interrupted(Manager):
    """Raises `KeyboardInterrupt` in its first run."""

    @periodic_task(spacing=10, run_immediately=True)
    async def interrupt(self, context: Any) -> None:
        raise KeyboardInterrupt


class Unstartable(Manager):
    """Cannot start, for a reason of its own."""

    async def init_host(self) -> None:
        raise RuntimeError("no disk")


class Misdeclared(Manager):
    """Cannot start, for a reason that asyncmgr knows."""

    async def init_host(self) -> None:
        self.add_periodic_task(print)


class Fails(Manager):
    """Fails in its first run, with something in a local variable, and stops the service."""

    @periodic_task(spacing=10, run_immediately=True)
    async def fail(self, context: Any) -> None:
        secret = "hunter2"
        assert self.service is not None
        self.service.request_stop()
        raise ValueError(f"{len(secret)} is wrong")


class Holds(Manager):
    """Has a run in progress until somebody ends it."""

    @periodic_task(spacing=100, run_immediately=True)
    async def hold(self, context: Any) -> None:
        logging.getLogger(__name__).info("holding")
        await asyncio.Event().wait()


class Lets(Manager):
    """Has a run in progress until the service stops."""

    @periodic_task(spacing=100, run_immediately=True)
    async def go(self, context: Any) -> None:
        assert self.service is not None
        logging.getLogger(__name__).info("holding")
        while self.service.state is not State.STOPPING:  # noqa: ASYNC110 - what a user might write
            await asyncio.sleep(0)


class Swallows(Manager):
    """Has a run in progress for ever."""

    @periodic_task(spacing=100, run_immediately=True)
    async def swallow(self, context: Any) -> None:
        logging.getLogger(__name__).info("holding")
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.Event().wait()


class Misscheduled(Manager):
    """Its declaration and the settings of its test do not go together."""

    @periodic_task(cron="@daily")
    async def daily(self, context: Any) -> None: ...


volumes = Volumes()
number = 5


def service() -> Service:
    return Service(Volumes(), name="shop", host="till-1")


def several() -> list[Manager]:
    return [Volumes(), Snapshots()]


def class_of_it() -> type[Manager]:
    return Volumes


def nothing() -> None: ...


def with_argument(path: str) -> Manager:
    return Volumes(host=path)


def raising() -> Manager:
    return Volumes(host=os.environ["NOT_THERE"])


def refused() -> Service:
    return Service(Volumes(), Volumes())


def quitting() -> Manager:
    raise SystemExit(3)


def empty() -> list[Manager]:
    return []


def odd() -> list[object]:
    return [Volumes(), 5]


async def asynchronous() -> Manager:
    return Volumes()


class Keyed(Manager):
    """Runs for keys: those of an attribute, and those of a method."""

    devices = ("a", "b", "c")

    def tenants(self) -> list[str]:
        raise AssertionError("nothing is called to list tasks")

    @periodic_task(spacing=30, each="devices")
    async def poll(self, context: Any, key: str) -> None: ...

    @periodic_task(spacing=30, each="tenants")
    async def bill(self, context: Any, key: str) -> None: ...
