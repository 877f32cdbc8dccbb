"""What a service tells its listeners: one frozen record for each thing that happens.

``service.add_listener(callback)`` asks for them; metrics and history are built on them. Durations are seconds as
float, moments are aware datetimes in UTC, `task` is the full name, ``manager.task``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Literal, TypeAlias

from asyncmgr._common.functions import is_async
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import callable_name, safe_repr
from asyncmgr.errors import InvalidListener


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


class _Record:
    """Shows its fields, and does not fail where one of them cannot be shown."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (f"{one.name}={safe_repr(getattr(self, one.name))}" for one in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, slots=True, repr=False)
class RunFinished(_Record):
    """A run ended."""

    task: str
    run_id: str
    """Unique to this run."""
    trigger: str
    """Why it was started: ``schedule``, ``catch_up`` or ``queue``."""
    slot: datetime
    """The planned moment that the run was for."""
    lateness: float
    """Seconds from the slot to the start; negative where it was nearly due."""
    duration: float
    """Seconds from the start to the end."""
    outcome: Outcome
    error: BaseException | None
    """What ended it; `None` where it succeeded."""


@dataclass(frozen=True, slots=True, repr=False)
class RunLeaked(_Record):
    """A run goes on although it was cancelled; it is told 10 s after its timeout, and at the end of a stop."""

    task: str
    run_id: str
    slot: datetime
    running_for: float
    """Seconds since its start."""


@dataclass(frozen=True, slots=True, repr=False)
class SlotSkipped(_Record):
    """A task did not run at one of its slots, and will not run for it later."""

    task: str
    slot: datetime
    """The slot that had no run."""
    reason: Literal["overlap", "draining", "removed", "paused"]


@dataclass(frozen=True, slots=True, repr=False)
class SlotsMissed(_Record):
    """Several slots passed before the task could start; one run stands for all of them, or was refused itself."""

    task: str
    slot: datetime
    """The slot of the run that catches up; where that is refused, a `SlotSkipped` tells so."""
    count: int
    """How many older ones; for cron counted up to 10. Where the reason is `late`, the slot itself too."""
    reason: Literal["late"] | None = None
    """`late`: the slot itself would have started later than `misfire_grace` allows, and no run stands for it."""


@dataclass(frozen=True, slots=True, repr=False)
class ScheduleFailed(_Record):
    """A schedule could not say when its task is due; it is asked again a minute later."""

    task: str
    error: Exception


@dataclass(frozen=True, slots=True, repr=False)
class ClockStepped(_Record):
    """The wall clock jumped, or stands still."""

    kind: Literal["forward", "back", "stopped"]
    """``forward``: set forward, or the machine slept. ``back``: set back. ``stopped``: it stands still."""
    seconds: float
    """By how much; for ``stopped`` how long it has stood still so far."""


@dataclass(frozen=True, slots=True, repr=False)
class ServiceStarted(_Record):
    """The service has started; its tasks run from this moment on."""

    service: str
    host: str


@dataclass(frozen=True, slots=True, repr=False)
class ServiceStopping(_Record):
    """The service begins to stop: no run starts after this."""

    service: str
    host: str


@dataclass(frozen=True, slots=True, repr=False)
class SettingsReloaded(_Record):
    """The settings were read again and are in force; each manager's `reload` is called next."""

    service: str
    host: str


@dataclass(frozen=True, slots=True, repr=False)
class HostDuplicated(_Record):
    """Another living instance of the service uses the same host name, so that callers cannot tell them apart."""

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
        """Have `callback` told of events of these kinds (none = all); the answer takes it off again.

        Raises `InvalidListener` for what cannot be called like that: `async def` functions among them, since a
        listener is called and nothing awaits it.
        """
        _check(callback, kinds)
        item = (callback, kinds)
        self.callbacks.append(item)

        def remove() -> None:
            if item in self.callbacks:
                self.callbacks.remove(item)

        return remove

    def tell(self, event: Event) -> None:
        """Call every listener; one that raises is logged and stops nothing.

        A `KeyboardInterrupt` goes through at once, and listeners after that one are not told: where `asyncio.run`
        has installed no handler, that is how Ctrl-C arrives, in whatever runs just then.
        """
        for callback, kinds in tuple(self.callbacks):
            if kinds and not isinstance(event, kinds):
                continue
            try:
                answer = callback(event)
                if answer is not None:
                    _refuse_awaitable(callback, answer)
            except KeyboardInterrupt:
                raise
            except BaseException as exc:
                log.error(
                    "listener.failed", listener=callable_name(callback), on=type(event).__name__, exc_info=exc
                )


def _check(callback: object, kinds: tuple[object, ...]) -> None:
    name = callable_name(callback)
    if is_async(callback):
        raise InvalidListener(
            f"the listener {name} is async, and nothing would await it; give a plain function, "
            "which may start a Task of its own: asyncio.create_task(work(event))"
        )
    if not callable(callback):
        raise InvalidListener(
            f"the listener {safe_repr(callback)} cannot be called; give a function of one event"
        )
    for kind in kinds:
        if not isinstance(kind, type):
            raise InvalidListener(
                f"the listener {name} asks for {safe_repr(kind)}; name classes of asyncmgr.events, such as RunFinished"
            )


def _refuse_awaitable(callback: Listener, answer: object) -> None:
    """A function that is no `async def` and answers a coroutine all the same: a lambda around one, for example."""
    if isinstance(answer, Coroutine):
        answer.close()
        raise InvalidListener(
            f"the listener {callable_name(callback)} answered a coroutine, and nothing awaits it; "
            "have it start a Task: asyncio.create_task(work(event))"
        )
