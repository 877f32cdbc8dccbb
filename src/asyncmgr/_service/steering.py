"""The verbs that people use on the tasks of one manager: trigger, pause, resume, reschedule, enable, disable, cancel.

Each verb changes the plan and the agenda, is logged, and is noted in the journal with who used it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol

from asyncmgr._common.clock import Moment, to_datetime
from asyncmgr._common.log import log
from asyncmgr._service.pauses import Pause, Pauses, new_pause
from asyncmgr._tasks.actions import POLICY, TIMER, Action, Journal, acting_as, actor
from asyncmgr._tasks.gate import TaskPause
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.options import NEGATIVE, PeriodicTask
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run
from asyncmgr.errors import InvalidPeriodicTaskArg, ServiceStateError, TaskRemoved, WrongThread
from asyncmgr.events import RunFinished, SkipReason

LEFT_TO_OTHERS = "it is left to another process"
"""Why a task with `external_process_ok` does not run here."""

_EARLY = 100
"""Actions that are kept until a service has a journal for them."""


class Triggered(NamedTuple):
    """A triggered run, and the future of its record; `None` = the caller does not wait for the record."""

    run: Run
    record: asyncio.Future[RunFinished] | None


class Tasks(Protocol):
    """What the verbs need of a manager's state; a Protocol, since `manager_state` imports this module."""

    @property
    def name(self) -> str: ...  # pragma: no cover
    @property
    def runner(self) -> Runner | None: ...  # pragma: no cover
    def read_clock(self) -> Moment: ...  # pragma: no cover
    def has(self, task: ManagedTask) -> bool: ...  # pragma: no cover
    def off(self, task: ManagedTask) -> str | None: ...  # pragma: no cover
    def arm(self, task: ManagedTask) -> None: ...  # pragma: no cover
    def plan_anew(self, task: ManagedTask, options: PeriodicTask) -> None: ...  # pragma: no cover
    def take_out(self, task: ManagedTask) -> None: ...  # pragma: no cover
    def tell_gate(self, task: ManagedTask, *, paused: bool | None = None) -> None: ...  # pragma: no cover
    def settle(self, task: ManagedTask, otherwise: SkipReason | None = None) -> None: ...  # pragma: no cover


class Steering:
    """The verbs for the tasks of one manager instance."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._early: deque[Action] = deque(maxlen=_EARLY)
        self._journal: Journal | None = None
        self._unfollow: Callable[[], None] | None = None
        self.pauses = Pauses(self._pause_is_over)

    # Under a service

    def start(self, runner: Runner, journal: Journal) -> None:
        """Note actions in the service's journal, those before its start too, and let pauses end by themselves."""
        self._journal = journal
        while self._early:
            journal.note(self._early.popleft())
        self.pauses.begin_timers(runner.lookout.read)
        self._unfollow = runner.lookout.follow_steps(self.pauses.set_timers)

    def leave(self) -> None:
        """Undo `start`."""
        self._journal = None
        self.pauses.end_timers()
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None

    # Checks

    def check_thread(self, call: str) -> None:
        """Refuse a call from another thread than that of the service's event loop.

        Raises
        ------
        WrongThread
            The call comes from another thread; the text names it and says how to make it.
        """
        runner = self._tasks.runner
        if runner is not None and threading.get_ident() != runner.thread:
            raise WrongThread(
                f"{call} was called in the thread {threading.current_thread().name!r}, but the service of "
                f"{self._tasks.name} runs in an event loop of another thread; call it there: "
                "loop.call_soon_threadsafe(...), or asyncio.run_coroutine_threadsafe(..., loop) for what is awaited"
            )

    def check(self, task: ManagedTask, verb: str) -> None:
        self.check_thread(f"{task.full_name}: {verb}()")
        if not self._tasks.has(task.whole):
            raise TaskRemoved(f"{task.full_name} was removed; add it again with add_periodic_task()")

    def _note(
        self, task: ManagedTask, verb: str, note: str | None = None, details: Mapping[str, Any] | None = None
    ) -> None:
        who = actor()
        at = to_datetime(self._tasks.read_clock().wall)
        action = Action(at, task.full_name, verb, who.name, who.via, note, details or {})
        if self._journal is None:
            self._early.append(action)
        else:
            self._journal.note(action)

    # Verbs

    async def until_settled(self, task: ManagedTask) -> None:
        """Wait while this process is about to get a task that only one process may run: it may then be triggered."""
        self.check(task, "trigger")
        if self._tasks.runner is not None:
            await self._tasks.runner.until_settled(task)

    def trigger(self, task: ManagedTask, *, wait: bool) -> Triggered:
        self.check(task, "trigger")
        if task.is_keyed:
            raise ServiceStateError(
                f"{task.full_name} runs for keys, and is not triggered as a whole; trigger one key: "
                f'service.task("{task.full_name}").key(...).trigger()'
            )
        runner = self._tasks.runner
        if runner is None:
            raise ServiceStateError(
                f"{task.full_name} cannot be triggered: no service runs it; start one first"
            )
        reason = self._tasks.off(task.whole)
        if reason is not None:
            raise ServiceStateError(f"{task.full_name} cannot be triggered: {reason}; enable it first")
        record = asyncio.get_running_loop().create_future() if wait else None
        triggered = Triggered(runner.trigger(task, record), record)
        self._note(task, "trigger", details={**_key_of(task), "run_id": triggered.run.run_id})
        return triggered

    def pause(
        self,
        task: ManagedTask,
        *,
        for_: float | timedelta | None,
        until: datetime | None,
        note: str | None,
    ) -> None:
        self.check(task, "pause")
        self._tasks.settle(task)
        moment = self._tasks.read_clock()
        pause = new_pause(moment, actor().name, for_=for_, until=until, note=note)
        self.pauses.put(task, pause)
        if self._tasks.runner is not None:
            self._tasks.runner.forget(task, "paused")
        self._tasks.tell_gate(task, paused=True)
        end = pause.status(moment).until
        shown = None if end is None else end.isoformat()
        log.info("task.paused", task=task.full_name, until=shown, note=note, by=pause.by)
        self._note(task, "pause", note, {"until": shown})

    def pause_by_policy(self, task: ManagedTask, why: str) -> None:
        """Pause a task that has failed too often in a row. A pause that it has already stays as it is."""
        if self._tasks.has(task) and task not in self.pauses:
            with acting_as(POLICY):
                self.pause(task, for_=None, until=None, note=why)

    def resume(self, task: ManagedTask) -> None:
        self.check(task, "resume")
        self._tasks.settle(task)
        if self.pauses.end(task):
            task.end_hold()
            self._tasks.arm(task)
            self._tasks.tell_gate(task, paused=False)
            log.info("task.resumed", task=task.full_name, by=actor().name)
            self._note(task, "resume")
        else:  # it may be paused where it is held, though this process acts for it no more, or not yet
            self._tasks.tell_gate(task, paused=False)

    def adopt_pause(self, task: ManagedTask, pause: TaskPause) -> None:
        """Go on with the pause of a task that another process held until now. One that it has stays as it is."""
        if task in self.pauses or not self._tasks.has(task):
            return
        until = pause.until
        self.pauses.put(task, Pause(pause.by, pause.since, until, on_wall=until is not None, note=pause.note))
        if self._tasks.runner is not None:
            self._tasks.runner.forget(task, "paused")
        shown = None if until is None else to_datetime(until).isoformat()
        log.info("task.paused", task=task.full_name, until=shown, note=pause.note, by=pause.by)
        if self._journal is not None:
            since = to_datetime(pause.since)
            told = Action(since, task.full_name, "pause", pause.by, "lease", pause.note, {"until": shown})
            self._journal.note(told)

    def leave_pause(self, task: ManagedTask) -> None:
        """Leave the pause of a task to the process that holds it from now on."""
        if task in self.pauses and self._tasks.has(task):
            self._tasks.settle(task)
            self.pauses.end(task)
            self._tasks.arm(task)

    def _pause_is_over(self, task: ManagedTask) -> None:
        with acting_as(TIMER):
            self.resume(task)

    def reschedule(self, task: ManagedTask, options: PeriodicTask) -> None:
        self.check(task, "reschedule")
        if options.switched_off is not None and task.options.switched_off is not None:
            options = replace(options, switched_off=task.options.switched_off)  # who did it, and why
        self._tasks.plan_anew(task, options)
        schedule = str(getattr(options.schedule, "expression", options.schedule))
        log.info("task.rescheduled", task=task.full_name, schedule=schedule, by=actor().name)
        self._note(task, "reschedule", details={"schedule": schedule})

    def enable(self, task: ManagedTask) -> None:
        self.check(task, "enable")
        if self._tasks.off(task) is None:
            return
        if task.options.switched_off is None:
            raise ServiceStateError(
                f"{task.full_name} cannot be enabled: {LEFT_TO_OTHERS}, by the setting "
                "run_external_periodic_tasks = false"
            )
        if task.options.switched_off == NEGATIVE:
            raise ServiceStateError(
                f"{task.full_name} cannot be enabled: its spacing is negative; reschedule() it first"
            )
        self._tasks.settle(task)
        task.plan.adopt(replace(task.options, switched_off=None, enabled=True))
        task.judged_from = self._tasks.read_clock().wall
        task.end_hold()
        self._tasks.arm(task)
        log.info("task.enabled", task=task.full_name, by=actor().name)
        self._note(task, "enable")

    def disable(self, task: ManagedTask, note: str | None) -> None:
        self.check(task, "disable")
        self._tasks.settle(task)
        who = actor().name
        said = f' ("{note}")' if note else ""
        reason = (
            f"{who} switched it off at {to_datetime(self._tasks.read_clock().wall):%Y-%m-%d %H:%M} UTC{said}"
        )
        task.plan.adopt(replace(task.options, switched_off=reason, enabled=False))
        if self._tasks.runner is not None:
            self._tasks.runner.forget(task, "disabled")
        self._tasks.tell_gate(task)
        log.info("task.disabled", task=task.full_name, reason=reason, by=who)
        self._note(task, "disable", note)

    def cancel(self, task: ManagedTask, run_id: str | None) -> tuple[str, ...]:
        self.check(task, "cancel")
        runner = self._tasks.runner
        cancelled = () if runner is None else runner.cancel_asked(task, run_id, actor().name)
        if cancelled:
            self._note(task, "cancel", details={"run_ids": list(cancelled)})
        return cancelled

    def remove(self, task: ManagedTask) -> None:
        self.check_thread(f"{task.full_name}: remove()")
        if isinstance(task.body, str):
            raise InvalidPeriodicTaskArg(
                f"{task.full_name} is declared in its class and cannot be removed; pause() or disable() it, or switch "
                f'it off by the setting [tasks."{task.full_name}"] enabled = false'
            )
        if not self._tasks.has(task):
            return
        self._tasks.settle(task, "removed")
        self._tasks.take_out(task)
        # Switched off too, since a pass in progress may still have the task on its list.
        task.plan.adopt(replace(task.options, switched_off="it was removed"))
        self.pauses.end(task)
        if self._tasks.runner is not None:
            self._tasks.runner.forget(task, "removed")
        self._note(task, "remove")


def _key_of(task: ManagedTask) -> dict[str, str]:
    return {} if task.each_key is None else {"key": str(task.each_key)}
