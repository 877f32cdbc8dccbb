"""`KeyVerbs`: what handles do with the keys of one task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal, overload

from asyncmgr._common.clock import SECOND, Moment, to_datetime
from asyncmgr._common.safe_text import safe_repr
from asyncmgr._history.keeper import Asked
from asyncmgr._history.ledger import Ledger
from asyncmgr._service.gates import Gates
from asyncmgr._tasks.actions import actor
from asyncmgr._tasks.keys import KeyedTask, KeyTask
from asyncmgr._tasks.runner import Runner
from asyncmgr.errors import InvalidKeys, ServiceStateError, UnknownKey
from asyncmgr.events import Outcome, RunFinished

KeyState = Literal["running", "waiting", "failing", "new", "ok"]
"""The one word for how a key stands: a run is in progress; a run waits for a place; its last run failed or timed out;
no run has ended; its last run ended well."""


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """The state of one key of a task at one moment. Times are aware, in UTC; durations are seconds."""

    key: Hashable
    state: KeyState
    last_run: datetime | None = None
    """The moment of the last run: of its start while the key is at work or failing, else of its end; `None` = this
    process has not run the key."""
    next_due: datetime | None = None
    """The key's next slot; `None` = the task is paused."""
    outcome: Outcome | None = None
    """The outcome of the last run that ended; `None` = none has."""
    error: str | None = None
    """The last failure as type and text; `None` = there are no failures in a row."""
    duration: float | None = None
    """Duration of the last run that ended, seconds."""
    failures: int = 0
    """The number of failures in a row."""
    running_since: datetime | None = None
    """The start of the oldest run in progress; `None` = none is."""
    owner: str | None = None
    """The process that runs the key, where hosts share them out; `None` = this one, or nobody as far as is known."""


class KeyVerbs:
    """The keys of one task at one moment."""

    def __init__(
        self,
        task: KeyedTask,
        runner: Runner | None,
        gates: Gates,
        moment: Moment,
        *,
        is_paused: bool,
        trigger: Callable[..., Any],
    ) -> None:
        self._task, self._runner, self._gates = task, runner, gates
        self._moment, self._is_paused, self._trigger = moment, is_paused, trigger

    def find(self, text: str | int) -> Hashable:
        """Find a key as the manager gave it, or by its text.

        Raises
        ------
        UnknownKey
            The task has no such key now.
        """
        key = self._task.find(text)
        if key is None:
            count = len(self._task.keys.ring)
            raise UnknownKey(
                f"{self._task.full_name} has no key {safe_repr(text)} among its {count} here; "
                "refresh() asks the manager for its keys anew"
            )
        return key

    def asked(self, text: str | int, ledger: Ledger, absence: str | None, why_off: str) -> Asked:
        """Say what is known of one key, for an explanation. Raises `UnknownKey`, but not where its fates are kept."""
        key = self._task.find(text)
        if key is None and (key := ledger.find_key(self._task.full_name, str(text))) is None:
            key = self.find(text)
        task = self._task.active.get(key)
        run = None if task is None or self._runner is None else self._runner.oldest(task.standing)
        return Asked(
            self._task,
            self._moment,
            absence=absence,
            why_off=why_off,
            run=run,
            key=key,
            elsewhere=self._elsewhere(key),
        )

    def _elsewhere(self, key: Hashable) -> str:
        share = self._task.share
        if key in self._task.keys.ring.known:
            return ""
        if share is None or key not in share.all:
            return "the manager gives no such key"
        held = share.holder_of(key)
        return "no host is known that runs it" if held is None else f"{held.owner} runs it: ask there"

    def status(self, text: str | int) -> KeyStatus:
        """Return the status of one key. Raises `UnknownKey`."""
        key = self.find(text)
        task = self._task.active.get(key)
        due = None
        if not self._is_paused:
            due = to_datetime(self._moment.wall + max(0, self._task.keys.remaining_of(key, self._moment)))
        found = self._idle(key, due) if task is None else self._at_work(task, due)
        held = None if self._task.share is None else self._task.share.holder_of(key)
        return found if held is None else replace(found, owner=held.owner)

    def _idle(self, key: Hashable, due: datetime | None) -> KeyStatus:
        last = self._task.last_of(key)
        if last is None:
            return KeyStatus(key, "new", next_due=due)
        wall, duration, outcome = last
        return KeyStatus(key, "ok", to_datetime(wall), due, outcome, duration=duration)

    def _at_work(self, task: KeyTask, due: datetime | None) -> KeyStatus:
        standing = task.standing
        run = None if self._runner is None else self._runner.oldest_runs().get(standing)
        age = None if run is None or self._runner is None else self._runner.age(run)
        failures = standing.trouble.failures if standing.trouble else 0
        before = self._task.last_of(task.each_key)
        outcome = standing.outcome or (before and before[2])
        state: KeyState = "ok" if outcome else "new"
        if age is not None:
            state = "running"
        elif standing.running:
            state = "waiting"
        elif failures:
            state = "failing"
        return KeyStatus(
            task.each_key,
            state,
            None if standing.last_run is None else to_datetime(standing.last_run),
            due,
            outcome,
            error=(standing.trouble.text or None) if standing.trouble else None,
            duration=standing.duration if standing.outcome else (before and before[1]),
            failures=failures,
            running_since=None if age is None else to_datetime(self._moment.wall - round(age * SECOND)),
        )

    async def until_settled(self, text: str | int) -> None:
        """Wait while this process is about to get the key, or to give it up."""
        if self._runner is None:
            return
        key_task = self._task.task_of(self.find(text))
        try:
            await self._runner.until_settled(key_task)
        finally:
            self._task.let_go(key_task)

    def trigger(self, text: str | int, *, wait: bool) -> tuple[Any, Awaitable[RunFinished] | None]:
        """Run one key now, outside its grid. Raises `UnknownKey`, and what the trigger of a task raises."""
        key_task = self._task.task_of(self.find(text))
        try:
            run, record = self._trigger(key_task, wait=wait)
        finally:
            self._task.let_go(key_task)
        return run, record

    def cancel(self, text: str | int) -> tuple[str, ...]:
        """Cancel the runs of one key that are in progress; return their ids. The key may be gone."""
        key = self._task.find(text)
        task = self._task.active.get(text if key is None else key)
        return (
            ()
            if task is None or self._runner is None
            else self._runner.cancel_asked(task, None, actor().name)
        )

    async def refresh(self) -> int:
        """Ask the manager for the keys now; return how many there are.

        Raises
        ------
        InvalidKeys
            The manager gave none; the log says why. The keys of before stay.
        ServiceStateError
            No service runs the task.
        """
        if self._runner is None:
            raise ServiceStateError(
                f"{self._task.full_name}: no service runs it, so nothing asks for its keys; start one first"
            )
        if not await self._runner.refreshes.ask_anew(self._task):
            raise InvalidKeys(
                f"{self._task.full_name}: the manager gave no keys; the log says why, at keys.failed"
            )
        return len(self._task.keys.ring)


class KeyHandle:
    """One key of a task with `each=`: ``service.task("Poller.poll").key("10.0.0.7")``.

    The handle belongs to the event loop of the service that runs the task.
    """

    __slots__ = ("_full_name", "_key", "_verbs")

    def __init__(self, verbs: Callable[[], KeyVerbs], full_name: str, key: Hashable) -> None:
        self._verbs = verbs
        self._full_name = full_name
        self._key: Any = key

    def __repr__(self) -> str:
        return f"<KeyHandle {self._full_name}[{self._key}]>"

    @property
    def key(self) -> Hashable:
        """The key, as the manager gave it."""
        key: Hashable = self._key
        return key

    @property
    def full_name(self) -> str:
        """``manager.task`` of the task."""
        return self._full_name

    @property
    def status(self) -> KeyStatus:
        """The key's status at this moment.

        Raises
        ------
        UnknownKey
            The key is gone.
        TaskRemoved
            The task was removed.
        """
        return self._verbs().status(self._key)

    @overload
    async def trigger(self, *, wait: Literal[True] = True) -> RunFinished: ...
    @overload
    async def trigger(self, *, wait: Literal[False]) -> str: ...
    async def trigger(self, *, wait: bool = True) -> RunFinished | str:
        """Run the key now, outside its grid: its next slot stays.

        Returns
        -------
        RunFinished
            The record of the run, when the run has ended.
        str
            The run's id, at once, with ``wait=False``.

        Raises
        ------
        UnknownKey
            The key is gone.
        AlreadyRunning
            A run of this key is in progress, and the task's `overlap` allows no second one.
        NotOwner
            Another process runs this key.
        ServiceStateError
            No service runs the task, or the task is switched off.
        TaskFailed
            The service stopped, or the key went, before the run could start.
        """
        await self._verbs().until_settled(self._key)
        run, record = self._verbs().trigger(self._key, wait=wait)
        return str(run.run_id) if record is None else await record

    def cancel(self) -> tuple[str, ...]:
        """Cancel the runs of the key that are in progress, and return their ids; their outcome is `cancelled`."""
        return self._verbs().cancel(self._key)
