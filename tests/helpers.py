"""What several test modules share: managers built from functions, and a record of a service's events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog

from asyncmgr import Manager, Service, Settings
from asyncmgr.events import Event

E = TypeVar("E", bound=Event)


class Bare(Manager):
    """A manager without tasks; tests add theirs."""

    name = "M"


class Recorded:
    """A service, its one manager and all that it tells its listeners."""

    def __init__(self, *tasks: tuple[Callable[..., Any], dict[str, Any]], **settings: Any) -> None:
        self.manager = Bare()
        self.settings = Settings(seed=1, **settings)
        self.service = Service(self.manager, host="h", name="s", settings=self.settings)
        self.events: list[Event] = []
        self.service.add_listener(self.events.append)
        for function, options in tasks:
            self.manager.add_periodic_task(function, **options)

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]


def task(function: Callable[..., Any], **options: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    return function, options


@contextmanager
def log_processors(*processors: Any) -> Iterator[None]:
    """Configure structlog as an application with these processors does."""
    structlog.configure(processors=[*processors])
    try:
        yield
    finally:
        structlog.reset_defaults()
