"""Holds all that changes in one manager instance: its tasks, its clock, its driver. A service uses managers by this."""

from __future__ import annotations

import asyncio
import functools
import inspect
import socket
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from asyncmgr._common.clock import Clock, Moment, WallClock, to_datetime, to_us
from asyncmgr._common.functions import name_of
from asyncmgr._common.log import log
from asyncmgr._service.gates import Gates
from asyncmgr._service.gather import refuse_reserved, tell_if_off
from asyncmgr._service.handles import TaskHandle
from asyncmgr._service.key_verbs import KeyVerbs
from asyncmgr._tasks.declare import Addition, check_function, declare, declare_addition, declared
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr._tasks.managed import ManagedTask, Standing, TaskStatus, status_of
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.passes import Passes
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run, Site
from asyncmgr._tasks.schedules import share_of
from asyncmgr.errors import (
    InvalidPeriodicTaskArg,
    ManagerInUse,
    ServiceStateError,
    TaskRemoved,
    WrongThread,
)
from asyncmgr.events import RunFinished

if TYPE_CHECKING:
    from asyncmgr._service.manager import Manager
    from asyncmgr._service.service import Service
    from asyncmgr._settings.model import Settings

_SET_BACK = to_us(60)
"""Microseconds. Where the wall is set back by more than this, wall-clock schedules are planned anew."""


@dataclass(slots=True)
class Pause:
    """A pause of one task."""

    until: datetime | None = None
    note: str | None = None
    timer: asyncio.TimerHandle | None = None

    def end(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Triggered(NamedTuple):
    """A triggered run, and the future of its record; `None` = the caller does not wait for the record."""

    run: Run
    record: asyncio.Future[RunFinished] | None


class ManagerState:
    """The state of one manager instance."""

    def __init__(self, manager: Manager, host: str | None, settings: Settings | None) -> None:
        self._manager = manager
        self._host = self._own_host = host
        self._settings = settings
        self._own_settings = settings is not None
        self._driver: object | None = None
        self._tasks: dict[str, ManagedTask] | None = None
        self._pauses: dict[ManagedTask, Pause] = {}
        self._still_running: dict[str, ManagedTask] = {}
        """By full name: removed tasks whose run goes on. A new task of that name takes over their standing."""
        self._passes: Passes | None = None
        self.clock: Clock = WallClock()
        self._born = self._last = self.clock.read()
        self.service: Service | None = None
        self._runner: Runner | None = None
        self._gates = Gates()

    # Settings and host

    @property
    def settings(self) -> Settings:
        if self._settings is None:
            from asyncmgr._settings.model import Settings

            self._settings = Settings()
        return self._settings

    @property
    def host(self) -> str:
        return self._host or self.settings.host or socket.gethostname()

    # One driver at a time

    def claim(self, driver: object) -> None:
        """Make `driver` the one driver of this manager; raise `ManagerInUse` where it has another."""
        if self._driver is not None:
            raise ManagerInUse(
                f"{self._manager.name} is already driven by {self._driver}; a manager has one driver at a time"
            )
        self._driver = driver

    def release(self) -> None:
        self._driver = None

    @contextmanager
    def driven_by(self, driver: object) -> Iterator[None]:
        """Make `driver` the one driver while the block runs."""
        self.claim(driver)
        try:
            yield
        finally:
            self.release()

    @property
    def passes(self) -> Passes:
        """The passes of this manager, made at first use."""
        if self._passes is None:
            name = type(self._manager).__name__.lower()
            site = Site(self.host, str(getattr(self._manager, "service_name", None) or name), "pass")
            self._passes = Passes(
                site, present=self.tasks_here, runs_here=self.runs_here, read=self.read_clock
            )
        return self._passes

    def check_thread(self, call: str) -> None:
        """Refuse a call from another thread than that of the service's event loop.

        Raises
        ------
        WrongThread
            The call comes from another thread; the text names it and says how to make it.
        """
        if self._runner is not None and threading.get_ident() != self._runner.thread:
            raise WrongThread(
                f"{call} was called in the thread {threading.current_thread().name!r}, but the service of "
                f"{self._manager.name} runs in an event loop of another thread; call it there: "
                "loop.call_soon_threadsafe(...), or asyncio.run_coroutine_threadsafe(..., loop) for what is awaited"
            )

    # Tasks

    def tasks(self) -> dict[str, ManagedTask]:
        """Return all tasks of this instance by full name, also those that are switched off."""
        if self._tasks is None:
            records = type(self._manager)._asyncmgr_tasks  # noqa: SLF001 - its own class
            made = [self._make(attribute, record.name or attribute, record) for attribute, record in records]
            self._apply_overrides(made)
            for task in made:
                task.plan.begin_at(self._born)
            self._tasks = {task.full_name: task for task in made}
        return self._tasks

    def tasks_here(self) -> list[ManagedTask]:
        """Return the tasks that are switched on and not paused, in definition order."""
        return [task for task in self.tasks().values() if self.runs_here(task)]

    def runs_here(self, task: ManagedTask) -> bool:
        """Whether the task is switched on here, and not paused."""
        return self.is_on(task) and task not in self._pauses

    def tasks_on(self) -> list[ManagedTask]:
        """Return the tasks that are switched on here, in definition order; paused ones too."""
        return [task for task in self.tasks().values() if self.is_on(task)]

    def is_on(self, task: ManagedTask) -> bool:
        options = task.options
        if options.switched_off is not None:
            return False
        return self.settings.run_external_periodic_tasks or not options.external_process_ok

    def handles(self) -> tuple[TaskHandle, ...]:
        """Make handles of all tasks, in definition order."""
        return tuple(TaskHandle(self, task) for task in self.tasks().values())

    def handle_of(self, body: object) -> TaskHandle | None:
        """Make the handle of the task whose body is this bound method or function; `None` = there is no such task."""
        function = getattr(body, "__func__", body)
        for task in self.tasks().values():
            called = getattr(self._manager, task.body, None) if isinstance(task.body, str) else task.body
            if called == body or getattr(called, "__func__", called) is function:
                return TaskHandle(self, task)
        return None

    def status(self) -> tuple[TaskStatus, ...]:
        """Return the status of every task that is switched on here."""
        moment = self.read_clock()
        ages = {} if self._runner is None else self._runner.running_for()
        return tuple(self._status(task, moment, ages) for task in self.tasks_on())

    def status_of(self, task: ManagedTask) -> TaskStatus:
        return self._status(
            task, self.read_clock(), {} if self._runner is None else self._runner.running_for()
        )

    def _status(self, task: ManagedTask, moment: Moment, ages: dict[Standing, float]) -> TaskStatus:
        return status_of(
            task,
            moment,
            running_for=ages.get(task.standing),
            paused=task in self._pauses,
            holding=self._gates.holding(task),
            keys=task.count() if isinstance(task, KeyedTask) else None,
        )

    # Keys

    def keys_of(self, task: ManagedTask) -> KeyVerbs:
        """Return what handles of keys call.

        Raises
        ------
        ServiceStateError
            The task has no keys.
        """
        self.check_thread(f"{task.full_name}: key()")
        self._refuse_removed(task)
        if not isinstance(task, KeyedTask):
            raise ServiceStateError(f"{task.full_name} has no keys; only a task with each= has")
        return KeyVerbs(
            task,
            self._runner,
            self._gates,
            self.read_clock(),
            is_paused=task in self._pauses,
            trigger=self.trigger,
        )

    def describe(self, task: ManagedTask) -> str:
        """Describe the task's state in a few words, for people."""
        if self.tasks().get(task.full_name) is not task:
            return "removed"
        if not self.is_on(task):
            return task.options.switched_off or "left to another process"
        status = self.status_of(task)
        words = [status.schedule]
        if status.paused:
            words.append("paused")
        if status.running_since is not None:
            words.append("running")
        if status.failures:
            words.append(f"{status.failures} failures in a row")
        return ", ".join(words)

    def _make(
        self,
        body: str | Callable[..., Any],
        name: str,
        record: PeriodicTask,
        initial_delay: int | None = None,
    ) -> ManagedTask:
        full_name = f"{self._manager.name}.{name}"
        options = record.with_zone(self.settings.timezone)
        still_running = self._still_running.pop(full_name, None)
        if record.each is not None:
            return KeyedTask(
                self._manager, body, full_name, options, tolerance=self._tolerance(), before=still_running
            )
        task = ManagedTask(
            self._manager,
            body,
            full_name,
            options,
            tolerance=self._tolerance(),
            initial_delay=initial_delay,
            standing=None if still_running is None else still_running.standing,
        )
        self._set_share(task)
        return task

    def _tolerance(self) -> int:
        """The nearly-due window of tasks that give none, microseconds; one object for all of them."""
        return _shared(to_us(self.settings.tolerance))

    def _set_share(self, task: ManagedTask) -> None:
        begins_at_share = "auto" in (task.options.phase, self.settings.phase)
        task.plan.share = share_of(f"{self.host}/{task.full_name}") if begins_at_share else None

    def _apply_overrides(self, tasks: Sequence[ManagedTask]) -> None:
        if not self.settings.tasks:
            return
        overrides = self.settings.overrides_for([task.full_name for task in tasks], strict=False)
        for task in tasks:
            override = overrides.get(task.full_name)
            if override is not None:
                options = self.settings.put_over(task.declared, task.full_name, override)
                task.plan.adopt(options.with_zone(self.settings.timezone))
                task.log_level = override.log_level
                self._set_share(task)

    def add(self, function: Callable[..., Any], options: dict[str, Any]) -> TaskHandle:
        self.check_thread(f"{self._manager.name}.add_periodic_task()")
        body, (record, name, initial_delay) = self._read_addition(function, options)
        name = name or name_of(function)
        full_name = f"{self._manager.name}.{name}"
        tasks = self.tasks()
        refuse_reserved(full_name, name)
        if full_name in tasks:
            raise InvalidPeriodicTaskArg(
                f"{full_name} is there already; give name= or remove the other first"
            )
        task = self._make(body, name, record, initial_delay)
        self._apply_overrides([task])
        task.plan.begin_at(self.read_clock(), by_service=self._runner is not None)
        tasks[task.full_name] = task  # the task's own text: of very many tasks each byte counts
        self._schedule(task)
        tell_if_off(self._manager.name, name, task.options)
        return TaskHandle(self, task)

    def _read_addition(self, function: Any, options: dict[str, Any]) -> tuple[Callable[..., Any], Addition]:
        record = declared(function)
        if record is None:
            addition = declare_addition(options)
            check_function(function, takes="context" if addition.record.each is None else "context, key")
            return function, addition
        if options.keys() - {"name"}:
            raise InvalidPeriodicTaskArg(
                f"{function.__qualname__} has its options from @periodic_task; only name= may be given here"
            )
        if not inspect.ismethod(function):
            function = types.MethodType(function, self._manager)
        return function, Addition(record, declare(options).name or record.name, None)

    def remove(self, task: ManagedTask) -> None:
        self.check_thread(f"{task.full_name}: remove()")
        if isinstance(task.body, str):
            raise InvalidPeriodicTaskArg(
                f"{task.full_name} is declared in its class and cannot be removed; pause() it, or switch it off by "
                f'the setting [tasks."{task.full_name}"] enabled = false'
            )
        if self.tasks().get(task.full_name) is not task:
            return
        del self.tasks()[task.full_name]
        # Switched off too, since a pass in progress may still have the task on its list.
        task.plan.adopt(replace(task.options, switched_off="it was removed"))
        self._end_pause(task)
        if self._runner is not None:
            self._runner.forget(task, "removed")
        self._gates.see(task, on=False)
        self._still_running = {name: one for name, one in self._still_running.items() if one.is_at_work}
        if task.is_at_work:
            self._still_running[task.full_name] = task

    def reschedule(self, task: ManagedTask, options: PeriodicTask) -> None:
        self.check_thread(f"{task.full_name}: reschedule()")
        self._refuse_removed(task)
        self._plan_anew(task, options.with_zone(self.settings.timezone))

    def _refuse_removed(self, task: ManagedTask) -> None:
        if self.tasks().get(task.full_name) is not task:
            raise TaskRemoved(f"{task.full_name} was removed; add it again with add_periodic_task()")

    def _plan_anew(self, task: ManagedTask, options: PeriodicTask) -> None:
        if self._runner is None:
            task.plan.reschedule(options, self.read_clock(), by_service=False)
        else:
            self._runner.lookout.reschedule(task, options)
            self._schedule(task)

    # Verbs of the handles

    def trigger(self, task: ManagedTask, *, wait: bool) -> Triggered:
        self.check_thread(f"{task.full_name}: trigger()")
        self._refuse_removed(task.whole)
        if task.is_keyed:
            raise ServiceStateError(
                f"{task.full_name} runs for keys, and is not triggered as a whole; trigger one key: "
                f'service.task("{task.full_name}").key(...).trigger()'
            )
        if self._runner is None:
            raise ServiceStateError(
                f"{task.full_name} cannot be triggered: no service runs it; start one first"
            )
        if not self.is_on(task.whole):
            reason = task.options.switched_off or "it is left to another process"
            raise ServiceStateError(f"{task.full_name} cannot be triggered: {reason}")
        record = asyncio.get_running_loop().create_future() if wait else None
        return Triggered(self._runner.trigger(task, record), record)

    def pause(
        self,
        task: ManagedTask,
        *,
        for_: float | timedelta | None,
        until: datetime | None,
        note: str | None,
    ) -> None:
        self.check_thread(f"{task.full_name}: pause()")
        self._refuse_removed(task)
        pause = Pause(_end_of_pause(self.read_clock(), for_, until), note)
        self._set_end(task, pause)
        self._end_pause(task)
        self._pauses[task] = pause
        if self._runner is not None:
            self._runner.forget(task, "paused")
        self._gates.pause(task, is_paused=True)
        log.info("task.paused", task=task.full_name, until=pause.until and pause.until.isoformat(), note=note)

    def _set_end(self, task: ManagedTask, pause: Pause) -> None:
        """Have the pause end by itself; in the loop that runs now."""
        if pause.until is not None:
            seconds = max(0.0, (pause.until - to_datetime(self.read_clock().wall)).total_seconds())
            pause.timer = asyncio.get_running_loop().call_later(seconds, self.resume, task)

    def resume(self, task: ManagedTask) -> None:
        self.check_thread(f"{task.full_name}: resume()")
        self._refuse_removed(task)
        if self._end_pause(task):
            task.plan.skip_past(self.read_clock())
            self._schedule(task)
            self._gates.pause(task, is_paused=False)
            log.info("task.resumed", task=task.full_name)

    def _end_pause(self, task: ManagedTask) -> bool:
        pause = self._pauses.pop(task, None)
        if pause is not None:
            pause.end()
        return pause is not None

    # Settings in force

    def apply(self, settings: Settings) -> None:
        """Put new settings in force; change only the options that they set otherwise than the old ones."""
        tasks = list(self.tasks().values())
        names = [task.full_name for task in tasks]
        before = self.settings.overrides_for(names, strict=False)
        after = settings.overrides_for(names, strict=False)
        old_settings, self._settings = self.settings, settings
        for task in tasks:
            old, new = before.get(task.full_name), after.get(task.full_name)
            if old != new or old_settings.timezone != settings.timezone:
                task.log_level = None if new is None else new.log_level
                self._change(
                    task,
                    _in_force(task, old, old_settings),
                    _in_force(task, new, settings),
                )

    def _change(self, task: ManagedTask, before: PeriodicTask, after: PeriodicTask) -> None:
        """Change the options that differ from `before` to `after`; others stay, as those of a live `reschedule`."""
        changed = {
            field.name: getattr(after, field.name)
            for field in fields(PeriodicTask)
            if getattr(before, field.name) != getattr(after, field.name)
        }
        options = replace(task.options, **changed)
        if changed.keys() & {"schedule", "switched_off", "phase"}:
            self._set_share(task)
            self._plan_anew(task, options)
        else:
            task.plan.adopt(options)
            self._gates.see(task, on=self.is_on(task))

    def _schedule(self, task: ManagedTask) -> None:
        self._gates.see(task, on=self.is_on(task))
        if self._runner is not None and self.is_on(task) and task not in self._pauses:
            self._runner.lookout.add(task)

    # Under a service

    def join(self, service: Service, settings: Settings, host: str) -> None:
        """Join a service: it becomes the driver, and its settings and host come in force."""
        self.claim(f"the service {service.name}")
        self.service = service
        self.give(settings)
        self.place(host)

    def place(self, host: str) -> None:
        """Take over a service's host where the constructor got none; compute anew what depends on the host."""
        self._host = self._own_host or host
        for task in self.tasks().values():
            task.plan.tolerance = self._tolerance()
            self._set_share(task)

    def give(self, settings: Settings) -> None:
        """Take over a service's settings where the constructor got none; forget the settings that were read before."""
        if self._own_settings:
            return
        if self._tasks is not None:
            self.apply(settings)
        self._settings = settings

    def start(self, runner: Runner, gates: Gates) -> None:
        """Let every task start at this moment, and hand the tasks to the service's runner."""
        self._runner, self._gates = runner, gates
        self.clock = runner.lookout
        for task, pause in self._pauses.items():
            pause.end()  # its timer was another loop's
            self._set_end(task, pause)
        moment = self.clock.read()
        for task in self.tasks().values():
            task.plan.begin_at(moment, by_service=True)
            self._schedule(task)
            if task in self._pauses:
                gates.pause(task, is_paused=True)

    def leave(self) -> None:
        """Leave the service; passes may follow, for which every task starts anew at this moment."""
        self.service = None
        self.release()
        if self._runner is None:
            return
        for task in self.tasks().values():
            self._runner.forget(task, "removed")
        self._runner, self._gates = None, Gates()
        self.clock = WallClock()
        self._last = self.clock.read()
        for task in self.tasks().values():
            self._plan_for_passes(task)

    def _plan_for_passes(self, task: ManagedTask) -> None:
        try:
            task.plan.begin_at(self._last)
        except Exception as exc:  # the next pass asks the schedule again and reports it
            log.error("schedule.failed", task=task.full_name, exc_info=exc)

    # Time

    def read_clock(self) -> Moment:
        """Read the clock. Without a service, plan wall-clock slots anew if the wall went back by over a minute."""
        before, self._last = self._last, self.clock.read()
        if self._runner is None and self._last.wall < before.wall - _SET_BACK:
            for task in self.tasks().values():
                task.plan.set_back(self._last)
        return self._last


@functools.lru_cache
def _shared(number: int) -> int:
    return number


def _in_force(task: ManagedTask, override: Any, settings: Settings) -> PeriodicTask:
    options = task.declared
    if override is not None:
        options = settings.put_over(options, task.full_name, override)
    return options.with_zone(settings.timezone)


def _end_of_pause(moment: Moment, for_: float | timedelta | None, until: datetime | None) -> datetime | None:
    if for_ is not None and until is not None:
        raise InvalidPeriodicTaskArg("pause() takes either for_= or until=; give one of them")
    if until is not None and until.utcoffset() is None:
        raise InvalidPeriodicTaskArg(
            f"until={until!r} has no time zone; write e.g. datetime(..., tzinfo=UTC)"
        )
    if for_ is None:
        return until
    seconds = for_.total_seconds() if isinstance(for_, timedelta) else for_
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < 1e10:
        raise InvalidPeriodicTaskArg(
            f"for_={for_!r} is not accepted; for_ is 0 or more seconds, or a timedelta"
        )
    return to_datetime(moment.wall + to_us(seconds))
