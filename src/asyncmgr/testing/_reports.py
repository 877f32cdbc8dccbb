"""The report of `run_for`: counts the runs of a service, and keeps the first failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

from asyncmgr._common.safe_text import error_text
from asyncmgr.events import Event, Outcome, RunFinished, ScheduleFailed, SlotSkipped, SlotsMissed

KEPT = 100
"""Failures that a report keeps; later ones are only counted."""

_FAILED = (Outcome.FAILED, Outcome.TIMED_OUT)

_Stopped = TypeVar("_Stopped")
_Stopped_co = TypeVar("_Stopped_co", covariant=True)


@dataclass(frozen=True, slots=True)
class RunReport(Generic[_Stopped_co]):
    """The runs of a service while `run_for` ran it."""

    stop: _Stopped_co
    """The value that the service's `stop()` returned."""
    runs: int = 0
    """Runs that ended, whatever their outcome."""
    failed: int = 0
    """Runs that failed or timed out, and schedules that could not say when their task is due."""
    failures: tuple[RunFinished | ScheduleFailed, ...] = ()
    """The first hundred failures, in the order in which they ended, each with its task and its error."""
    skipped: int = 0
    """Slots that were refused."""
    missed: int = 0
    """Slots that passed before their task could start."""

    def raise_failures(self) -> None:
        """Raise the errors of all `failures` as one exception group that names each task, if there are any."""
        if not self.failures:
            return
        named = "".join(f"\n  {_named(failure)}" for failure in self.failures)
        more = f"\n  and {self.failed - len(self.failures)} more" if self.failed > len(self.failures) else ""
        errors = [failure.error for failure in self.failures if failure.error is not None]
        raise BaseExceptionGroup(f"{self.failed} of {self.runs} runs failed:{named}{more}", errors)


def _named(failure: RunFinished | ScheduleFailed) -> str:
    slot = f" at {failure.slot.isoformat()}" if isinstance(failure, RunFinished) else " has no next slot"
    return f"{failure.task}{slot}: {error_text(failure.error) if failure.error else 'no error'}"


@runtime_checkable
class Tells(Protocol):
    """A service that takes listeners."""

    def add_listener(self, callback: Callable[[Event], None], *kinds: type[Event]) -> Callable[[], None]: ...


class Tally:
    """Counts the runs of a service by its events."""

    def __init__(self) -> None:
        self._runs = self._failed = self._skipped = self._missed = 0
        self._failures: list[RunFinished | ScheduleFailed] = []

    def follow(self, service: object) -> None:
        """Listen to the service. A service that takes no listeners gets a report without runs."""
        if isinstance(service, Tells):
            service.add_listener(self.note, RunFinished, ScheduleFailed, SlotSkipped, SlotsMissed)

    def note(self, event: Event) -> None:
        match event:
            case RunFinished():
                self._runs += 1
                if event.outcome in _FAILED:
                    self._note_failure(event)
            case ScheduleFailed():
                self._note_failure(event)
            case SlotSkipped():
                self._skipped += 1
            case SlotsMissed():
                self._missed += event.count

    def _note_failure(self, failure: RunFinished | ScheduleFailed) -> None:
        self._failed += 1
        if len(self._failures) < KEPT:
            self._failures.append(failure)

    def report(self, stop: _Stopped) -> RunReport[_Stopped]:
        return RunReport(stop, self._runs, self._failed, tuple(self._failures), self._skipped, self._missed)
