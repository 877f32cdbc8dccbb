"""What a service tells its listeners: one frozen record per thing that happened.

``service.add_listener(callback)`` hands them out; metrics and history hang on them. Durations are seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, TypeAlias

from asyncmgr._common.log import log


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run ended."""

    task: str
    run_id: str
    trigger: str
    slot: datetime
    lateness: float
    duration: float
    outcome: Outcome
    error: BaseException | None


@dataclass(frozen=True, slots=True)
class RunLeaked:
    """A run goes on although it was cancelled."""

    task: str
    run_id: str
    slot: datetime
    running_for: float


@dataclass(frozen=True, slots=True)
class SlotSkipped:
    """A slot was refused; it is not caught up."""

    task: str
    slot: datetime
    reason: Literal["overlap", "draining", "removed", "paused"]


@dataclass(frozen=True, slots=True)
class SlotsMissed:
    """Slots passed before the task could be started; one run stands for all of them."""

    task: str
    slot: datetime
    """The slot of the run that catches up."""
    count: int
    """How many older ones; for cron counted up to 10. Where the reason is `late`, the slot itself too."""
    reason: Literal["late"] | None = None
    """`late`: the slot itself would have started later than `misfire_grace` allows, and no run stands for it."""


@dataclass(frozen=True, slots=True)
class ScheduleFailed:
    """A schedule could not say when its task is due; it is asked again a minute later."""

    task: str
    error: Exception


@dataclass(frozen=True, slots=True)
class ClockStepped:
    """The wall clock jumped, or stands still."""

    kind: Literal["forward", "back", "stopped"]
    seconds: float


@dataclass(frozen=True, slots=True)
class ServiceStarted:
    """Every task's start."""

    service: str
    host: str


@dataclass(frozen=True, slots=True)
class ServiceStopping:
    """No new run begins from now on."""

    service: str
    host: str


@dataclass(frozen=True, slots=True)
class SettingsReloaded:
    """New settings are in force; the managers' `reload` comes next."""

    service: str
    host: str


@dataclass(frozen=True, slots=True)
class HostDuplicated:
    """Another live instance of the service uses this host's name."""

    service: str
    host: str


Event: TypeAlias = (
    RunFinished
    | RunLeaked
    | SlotSkipped
    | SlotsMissed
    | ScheduleFailed
    | ClockStepped
    | ServiceStarted
    | ServiceStopping
    | SettingsReloaded
    | HostDuplicated
)
Listener: TypeAlias = Callable[[Event], None]


class Listeners:
    """The callbacks of one service. Falsy while there is none, so that nobody builds an event for nobody."""

    def __init__(self) -> None:
        self.callbacks: list[tuple[Listener, tuple[type, ...]]] = []

    def __bool__(self) -> bool:
        return bool(self.callbacks)

    def add(self, callback: Listener, *kinds: type[Event]) -> Callable[[], None]:
        item = (callback, kinds)
        self.callbacks.append(item)

        def remove() -> None:
            if item in self.callbacks:
                self.callbacks.remove(item)

        return remove

    def tell(self, event: Event) -> None:
        """Call every listener; one that raises is logged and stops nothing."""
        for callback, kinds in tuple(self.callbacks):
            if kinds and not isinstance(event, kinds):
                continue
            try:
                callback(event)
            except (Exception, SystemExit) as exc:
                log.error("listener.failed", listener=repr(callback), on=type(event).__name__, exc_info=exc)


class Outcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    """The body returned."""
    NOTHING = "nothing"
    """The body raised `Skip`: there was nothing to do. No failure."""
    FAILED = "failed"
    """The body raised."""
    TIMED_OUT = "timed_out"
    """It ran longer than its `timeout`, whatever the body then did."""
    CANCELLED = "cancelled"
    """A cancellation ended it: a requested one, or a stray `CancelledError` of the body's own."""
