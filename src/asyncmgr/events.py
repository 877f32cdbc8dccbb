"""Events: the frozen records that a service hands to its listeners.

``service.add_listener(callback)`` adds a listener; metrics and history are built on events. Durations are seconds as
float, moments are aware datetimes in UTC, and `task` is the full name, ``manager.task``.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from asyncmgr._common.functions import is_async
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import callable_name, safe_repr
from asyncmgr.errors import InvalidListener


class Outcome(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"
    """The body returned."""
    NOTHING = "nothing"
    """The body raised `Skip`: it had nothing to do. This is no failure."""
    FAILED = "failed"
    """The body raised."""
    TIMED_OUT = "timed_out"
    """The run took longer than its `timeout`, whatever the body then did."""
    CANCELLED = "cancelled"
    """A cancellation ended the run: a requested one, or a stray `CancelledError` that the body raised itself."""


SkipReason: TypeAlias = Literal[
    "overlap", "paused", "disabled", "not_owner", "lease_lost", "backoff", "draining", "removed"
]
"""Why a slot got no run although the service looked at it, or could have."""

MissReason: TypeAlias = Literal["suspended", "clock", "blocked", "stopped", "down", "late", "lease_lost"]
"""Why slots passed before anybody could look at them: the machine slept, the wall clock was set forward, the event loop
was blocked, the process got no CPU, the service was down; a start would have come too late; or no process ran the
task, since its holder had lost it."""


class _Record:
    """A record whose `repr` shows all fields, and does not raise where the `repr` of one raises."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (f"{one.name}={safe_repr(getattr(self, one.name))}" for one in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


class _Facts(Protocol):
    """What a `RunFinished` reads of its run, where somebody asks for it."""

    @property
    def run_id(self) -> str: ...  # pragma: no cover
    @property
    def trigger(self) -> str: ...  # pragma: no cover
    @property
    def slot(self) -> datetime: ...  # pragma: no cover
    @property
    def lateness(self) -> float: ...  # pragma: no cover
    @property
    def key(self) -> Hashable | None: ...  # pragma: no cover


class _Late(_Record):
    """A record that reads some of its fields only when somebody asks for them: most listeners want few of them."""

    __slots__ = ("_facts",)

    if not TYPE_CHECKING:  # else every name would pass

        def __getattr__(self, name):
            # Called for a field that is not set. A plain record has no `_facts`, and no such attribute.
            facts = None if name == "_facts" else getattr(self, "_facts", None)
            if facts is None or name not in _READ_LATER:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            value = getattr(facts, name)
            object.__setattr__(self, name, value)
            return value


_READ_LATER = frozenset({"run_id", "trigger", "slot", "lateness", "key"})


@dataclass(frozen=True, slots=True, repr=False)
class RunFinished(_Late):
    """A run ended."""

    task: str
    run_id: str
    """Unique to this run."""
    trigger: str
    """Why it was started: ``schedule``, ``catch_up``, ``queue`` or ``manual``."""
    slot: datetime
    """The planned start of the run."""
    lateness: float
    """Seconds from the slot to the start; negative where the run started nearly due."""
    duration: float
    """Seconds from the start to the end."""
    outcome: Outcome
    error: BaseException | None
    """The exception that ended the run; `None` where it succeeded."""
    key: Hashable | None = None
    """The key of a task with `each=`; `None` for all other tasks."""


def run_finished(
    task: str, duration: float, outcome: Outcome, error: BaseException | None, facts: _Facts
) -> RunFinished:
    """Make the record of a run's end in a third of the time; the other fields are read from `facts` when asked for."""
    event = _new(RunFinished)
    _set_task(event, task)
    _set_duration(event, duration)
    _set_outcome(event, outcome)
    _set_error(event, error)
    _set_facts(event, facts)
    return event


_new = object.__new__
_set_task, _set_duration, _set_outcome, _set_error, _set_facts = (
    getattr(RunFinished, name).__set__ for name in ("task", "duration", "outcome", "error", "_facts")
)


@dataclass(frozen=True, slots=True, repr=False)
class RunLeaked(_Record):
    """A run goes on although it was cancelled. This comes 10 s after its timeout, and at the end of a stop."""

    task: str
    run_id: str
    slot: datetime
    running_for: float
    """Seconds since the run's start."""
    key: Hashable | None = None
    """The key of a task with `each=`; `None` for all other tasks."""


@dataclass(frozen=True, slots=True, repr=False)
class RunProgressed(_Record):
    """A run told by `context.progress` how far it is. At most ten of these a second come from one run."""

    task: str
    run_id: str
    done: float
    total: float | None
    message: str | None


@dataclass(frozen=True, slots=True, repr=False)
class SlotSkipped(_Record):
    """A slot got no run, and will get none later."""

    task: str
    slot: datetime
    """The slot that got no run."""
    reason: SkipReason
    holder: str | None = None
    """Who runs the task instead, where the reason is `not_owner` and it is known."""
    key: Hashable | None = None
    """The key of a task with `each=`; `None` for all other tasks."""


@dataclass(frozen=True, slots=True, repr=False)
class SlotsMissed(_Record):
    """Slots passed before the task could start. One run stands for all of them, or is refused itself."""

    task: str
    slot: datetime
    """The slot of the run that stands for them; where this run is refused, a `SlotSkipped` follows."""
    count: int
    """The number of older slots. Where no run stands for them, the slot itself counts too."""
    reason: MissReason | None = None
    """Why they got no run of their own. `late`: a run would start later than `misfire_grace` allows. `lease_lost`: no
    process held the task, or the one that did died during the run. `down`: no process was there to run them. `None` =
    the task is run by passes."""
    run_id: str | None = None
    """The run that stands for them, or would have; `None` = none does."""
    key: Hashable | None = None
    """The key of a task with `each=`; `None` for all other tasks."""


@dataclass(frozen=True, slots=True, repr=False)
class ScheduleFailed(_Record):
    """A schedule raised when it was asked for the next slot. It is asked again a minute later."""

    task: str
    error: Exception


@dataclass(frozen=True, slots=True, repr=False)
class ClockStepped(_Record):
    """The wall clock jumped, or stands still."""

    kind: Literal["forward", "back", "stopped"]
    """``forward``: set forward, or the machine slept. ``back``: set back. ``stopped``: it stands still."""
    seconds: float
    """The size of the jump; for ``stopped`` how long the wall clock has stood still so far."""


@dataclass(frozen=True, slots=True, repr=False)
class LeaseAcquired(_Record):
    """This process holds a name now: a task of ``scope="cluster"``, or a lease."""

    name: str
    """The full name of the task, or the name of the lease."""
    kind: Literal["task", "lease"]
    token: int
    """The fencing token."""
    taken_from: str | None = None
    """The session that held it before and was found dead; `None` = nobody held it."""


@dataclass(frozen=True, slots=True, repr=False)
class LeaseLost(_Record):
    """This process may act no more for a name that it held; what it did for it was cancelled."""

    name: str
    kind: Literal["task", "lease"]
    token: int
    reason: Literal["trust_ended", "taken", "session_lost", "closed"]
    """``trust_ended``: the store could not be reached for three quarters of the TTL; where it can again before another
    process takes the name, a `LeaseAcquired` follows. ``taken``: another process has it, or its
    record is gone. ``session_lost``: others found this process dead. ``closed``: the service ended."""


@dataclass(frozen=True, slots=True, repr=False)
class LeaseReleased(_Record):
    """This process gave a name up; another one may hold it now."""

    name: str
    kind: Literal["task", "lease"]
    token: int


@dataclass(frozen=True, slots=True, repr=False)
class ServiceStarted(_Record):
    """The service has started; its tasks run from this moment on."""

    service: str
    host: str


@dataclass(frozen=True, slots=True, repr=False)
class ServiceStopping(_Record):
    """The service begins to stop: no run starts after this event."""

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
    | RunProgressed
    | SlotSkipped
    | SlotsMissed
    | ScheduleFailed
    | ClockStepped
    | LeaseAcquired
    | LeaseLost
    | LeaseReleased
    | ServiceStarted
    | ServiceStopping
    | SettingsReloaded
    | HostDuplicated
)
Listener: TypeAlias = Callable[[Event], None]


class Listeners:
    """The listeners of one service. It is false without listeners: check it before you build an event."""

    def __init__(self) -> None:
        self.callbacks: list[tuple[Listener, tuple[type, ...]]] = []
        self.of_runs: list[Listener] = []
        """Those of them that hear of the end of a run: without one, an ordinary run need not be told."""

    def __bool__(self) -> bool:
        return bool(self.callbacks)

    def add(self, callback: Listener, *kinds: type[Event]) -> Callable[[], None]:
        """Call `callback` with events of these kinds, or with all; return a function that removes it.

        Raises
        ------
        InvalidListener
            The callback cannot be called with an event, or is `async def`, which nothing would await; or a kind is no
            class.
        """
        _check(callback, kinds)
        item = (callback, kinds)
        self.callbacks.append(item)
        hears_of_runs = not kinds or any(issubclass(RunFinished, kind) for kind in kinds)
        if hears_of_runs:
            self.of_runs.append(callback)

        def remove() -> None:
            if item in self.callbacks:
                self.callbacks.remove(item)
                if hears_of_runs:
                    self.of_runs.remove(callback)

        return remove

    def tell(self, event: Event) -> None:
        """Call every listener with the event. Where one raises, log the error and go on.

        A `KeyboardInterrupt` is raised at once, and the listeners after that one are not called: where `asyncio.run`
        has installed no handler, Ctrl-C arrives as this exception in the code that runs just then.
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
    """Raise for a plain function that returns a coroutine: a lambda around an `async def`, for example."""
    if isinstance(answer, Coroutine):
        answer.close()
        raise InvalidListener(
            f"the listener {callable_name(callback)} answered a coroutine, and nothing awaits it; "
            "have it start a Task: asyncio.create_task(work(event))"
        )
