"""Holds all that changes in one manager instance: its tasks, its clock, its driver. A service uses managers by this."""

from __future__ import annotations

import functools
import inspect
import socket
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from asyncmgr._common.clock import Clock, Moment, WallClock, to_us
from asyncmgr._common.functions import name_of
from asyncmgr._common.log import log
from asyncmgr._service.gates import Gates
from asyncmgr._service.gather import refuse_reserved, tell_if_off
from asyncmgr._service.handles import TaskHandle
from asyncmgr._service.key_verbs import KeyVerbs
from asyncmgr._service.steering import LEFT_TO_OTHERS, Steering
from asyncmgr._tasks.actions import Journal
from asyncmgr._tasks.declare import Addition, check_function, declare, declare_addition, declared
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.options import SETTABLE, PeriodicTask
from asyncmgr._tasks.passes import Passes
from asyncmgr._tasks.runner import Runner
from asyncmgr._tasks.runs import Run, Site
from asyncmgr._tasks.schedules import share_of
from asyncmgr._tasks.status import TaskState, TaskStatus, state_of_task, status_of
from asyncmgr.errors import InvalidPeriodicTaskArg, ManagerInUse, ServiceStateError
from asyncmgr.events import SkipReason

if TYPE_CHECKING:
    from asyncmgr._service.manager import Manager
    from asyncmgr._service.service import Service
    from asyncmgr._settings.model import Settings

_SET_BACK = to_us(60)
"""Microseconds. Where the wall is set back by more than this, wall-clock schedules are planned anew."""


class ManagerState:
    """The state of one manager instance."""

    def __init__(self, manager: Manager, host: str | None, settings: Settings | None) -> None:
        self._manager = manager
        self._host = self._own_host = host
        self._settings = settings
        self._own_settings = settings is not None
        self._driver: object | None = None
        self._tasks: dict[str, ManagedTask] | None = None
        self.verbs = Steering(self)
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
                site,
                present=self.tasks_here,
                runs_here=self.runs_here,
                read=self.read_clock,
                pause=self.verbs.pause_by_policy,
            )
        return self._passes

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
        self.verbs.pauses.end_those_over(self.read_clock())
        return [task for task in self.tasks().values() if self.runs_here(task)]

    def runs_here(self, task: ManagedTask) -> bool:
        """Whether the task is switched on here, and not paused."""
        return self.is_on(task) and task not in self.verbs.pauses

    def tasks_on(self) -> list[ManagedTask]:
        """Return the tasks that are switched on here, in definition order; paused ones too."""
        return [task for task in self.tasks().values() if self.is_on(task)]

    def is_on(self, task: ManagedTask) -> bool:
        return self.off(task) is None

    def off(self, task: ManagedTask) -> str | None:
        """Say why the task is switched off here; `None` = it is switched on."""
        options = task.options
        if options.switched_off is not None:
            return options.switched_off
        if options.external_process_ok and not self.settings.run_external_periodic_tasks:
            return LEFT_TO_OTHERS
        return None

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
        return self._statuses(self.tasks_on())

    def status_of(self, task: ManagedTask) -> TaskStatus:
        return self._statuses([task])[0]

    def status_page(self, after: int, most: int) -> tuple[TaskStatus, ...]:
        """Return the status of up to `most` tasks from number `after` on; of those that are switched off too."""
        return self._statuses(islice(self.tasks().values(), after, after + most))

    def _statuses(self, tasks: Iterable[ManagedTask]) -> tuple[TaskStatus, ...]:
        moment = self.read_clock()
        self.verbs.pauses.end_those_over(moment)
        runs = {} if self._runner is None else self._runner.oldest_runs()
        return tuple(self._status(task, moment, runs.get(task.standing)) for task in tasks)

    def _status(self, task: ManagedTask, moment: Moment, run: Run | None) -> TaskStatus:
        paused, off = self.verbs.pauses.status(task, moment), self.off(task)
        return status_of(
            task,
            moment,
            is_armed=self._is_armed(task, is_here=paused is None and off is None),
            run=run,
            age=0.0 if run is None or self._runner is None else self._runner.age(run),
            paused=paused,
            off=off,
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
        self.verbs.check(task, "key")
        if not isinstance(task, KeyedTask):
            raise ServiceStateError(f"{task.full_name} has no keys; only a task with each= has")
        return KeyVerbs(
            task,
            self._runner,
            self._gates,
            self.read_clock(),
            is_paused=task in self.verbs.pauses,
            trigger=self.verbs.trigger,
        )

    def states(self) -> Iterator[tuple[ManagedTask, TaskState]]:
        """Yield every task with the one word for how it stands, also those that are switched off."""
        moment = self.read_clock()
        pauses, runner = self.verbs.pauses, self._runner
        pauses.end_those_over(moment)
        runs = {} if runner is None else runner.oldest_runs()
        for task in tuple(self.tasks().values()):
            run = runs.get(task.standing) if runs else None
            age = 0.0 if run is None or runner is None else runner.age(run)
            paused, off = task in pauses, self.off(task)
            yield task, state_of_task(task, moment, run=run, age=age, is_paused=paused, off=off)

    def _is_armed(self, task: ManagedTask, *, is_here: bool) -> bool:
        if self._runner is None:  # a pass would start it
            return is_here and self.has(task)
        return self._runner.lookout.is_open and task.lane is not None

    def describe(self, task: ManagedTask) -> str:
        """Describe the task's state in a few words, for people."""
        if self.tasks().get(task.full_name) is not task:
            return "removed"
        if not self.is_on(task):
            return self.off(task) or ""
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
        task.judged_from = self._last.wall
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
        self.verbs.check_thread(f"{self._manager.name}.add_periodic_task()")
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
        if self._runner is not None:
            self._runner.enrol(task)
        tasks[task.full_name] = task  # the task's own text: of very many tasks each byte counts
        self.arm(task)
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

    # What the verbs need

    @property
    def name(self) -> str:
        return self._manager.name

    @property
    def manager(self) -> Manager:
        return self._manager

    @property
    def runner(self) -> Runner | None:
        """The runner of the service that runs the tasks; `None` = no service does."""
        return self._runner

    def has(self, task: ManagedTask) -> bool:
        """Whether the task has not been removed."""
        return self.tasks().get(task.full_name) is task

    def tell_gate(self, task: ManagedTask, *, paused: bool | None = None) -> None:
        """Tell the gate of the task that it was paused or resumed here; `None` = that it was switched off or on."""
        if paused is None:
            self._gates.see(task, on=self.is_on(task))
        else:
            self._gates.pause(task, is_paused=paused)

    def take_out(self, task: ManagedTask) -> None:
        """Take the task out of the manager. A run in progress counts for a new task of its name."""
        del self.tasks()[task.full_name]
        self._gates.see(task, on=False)
        self._still_running = {name: one for name, one in self._still_running.items() if one.is_at_work}
        if task.is_at_work:
            self._still_running[task.full_name] = task

    def plan_anew(self, task: ManagedTask, options: PeriodicTask) -> None:
        """Put a new schedule in force; a cron expression without a zone of its own gets that of the settings."""
        self._plan_anew(task, options.with_zone(self.settings.timezone))

    def _plan_anew(self, task: ManagedTask, options: PeriodicTask) -> None:
        if self._runner is None:
            task.plan.reschedule(options, self.read_clock(), by_service=False)
        else:
            self.settle(task, "removed")
            self._runner.lookout.reschedule(task, options)
            self._runner.enrol(task)
            self.arm(task)

    def settle(self, task: ManagedTask, otherwise: SkipReason | None = None) -> None:
        """Record and drop the slots up to now that a task had which was off or paused, before this changes.

        `otherwise` is the reason for a task that was on, and whose slots up to now no look will find any more.
        """
        reason = self.absence(task) or otherwise
        if reason is not None:
            moment = self.read_clock()  # one for both: between two readings a slot could get lost
            if self._runner is not None:
                self._runner.note_gap(task, reason, moment)
            task.plan.skip_past(moment)

    def settle_all(self, otherwise: SkipReason) -> None:
        """Record the slots up to now that no look has found, of every task, at the end of the service."""
        for task in self.tasks().values():
            self.settle(task, otherwise)

    def absence(self, task: ManagedTask) -> Literal["disabled", "paused"] | None:
        """Say why the slots of the task get no run at present; `None` = they get one."""
        if not self.is_on(task):
            return "disabled"
        return "paused" if task in self.verbs.pauses else None

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
                    said=_said_otherwise(old, new),
                )

    def _change(
        self, task: ManagedTask, before: PeriodicTask, after: PeriodicTask, *, said: frozenset[str]
    ) -> None:
        """Change the options that differ from `before` to `after`; others stay, as those of a live `reschedule`."""
        changed = {
            field.name: getattr(after, field.name)
            for field in fields(PeriodicTask)
            if getattr(before, field.name) != getattr(after, field.name)
        }
        # What a handle changed stays, unless the settings of this very task now say something else of it: the new time
        # zone of all tasks does not.
        if said & {"spacing", "cron", "tz"}:
            changed["schedule"], changed["tz"] = after.schedule, after.tz
        elif task.options.schedule != before.schedule:
            changed.pop("schedule", None)
        if "enabled" in said:
            changed["switched_off"], changed["enabled"] = after.switched_off, after.enabled
        options = replace(task.options, **changed)
        was_judged = self.is_on(task) and task.options.freshness is not None
        self.settle(task)
        if options.switched_off is not None and self._runner is not None:
            self._runner.forget(task, "disabled")
        if changed.keys() & {"schedule", "switched_off", "phase"}:
            self._set_share(task)
            self._plan_anew(task, options)
        else:
            task.plan.adopt(options)
            self._gates.see(task, on=self.is_on(task))
        if not was_judged:
            task.judged_from = self.read_clock().wall

    def arm(self, task: ManagedTask) -> None:
        """Have the service's runner start the task at its next slot, if it is switched on and not paused."""
        self._gates.see(task, on=self.is_on(task))
        if isinstance(task, KeyedTask):
            task.settle = partial(self.settle, task)
        if self._runner is not None and task.lane is None and self.runs_here(task):
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

    def start(self, runner: Runner, journal: Journal, gates: Gates) -> None:
        """Let every task start at this moment, and hand the tasks to the service's runner."""
        self._runner, self._gates = runner, gates
        self._last = runner.lookout.read()
        self.verbs.pauses.move(self.clock.read(), self._last)
        self.clock = runner.lookout
        self.verbs.start(runner, journal)
        moment = self.clock.read()
        for task in self.tasks().values():
            task.plan.begin_at(moment, by_service=True)
            task.judged_from = moment.wall
            runner.enrol(task)
            self.arm(task)
            if task in self.verbs.pauses:
                gates.pause(task, is_paused=True)

    def leave(self) -> None:
        """Leave the service; passes may follow, for which every task starts anew at this moment."""
        self.service = None
        self.release()
        if self._runner is None:
            return
        for task in self.tasks().values():
            self._runner.forget(task, "removed")
            task.key, task.record = 0, None
        self.verbs.leave()
        self._runner, self._gates = None, Gates()
        before, self.clock = self.clock.read(), WallClock()
        self._last = self.clock.read()
        self.verbs.pauses.move(before, self._last)
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


def _said_otherwise(old: object, new: object) -> frozenset[str]:
    """Name the options that the settings of a task set otherwise than before; `None` = they set nothing."""
    names = (option.name for option in SETTABLE)
    return frozenset(name for name in names if getattr(old, name, None) != getattr(new, name, None))


def _in_force(task: ManagedTask, override: Any, settings: Settings) -> PeriodicTask:
    options = task.declared
    if override is not None:
        options = settings.put_over(options, task.full_name, override)
    return options.with_zone(settings.timezone)
