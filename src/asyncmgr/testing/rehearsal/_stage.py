"""Lets a service run in virtual time, with stand-ins for the bodies of its tasks."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

from asyncmgr._common.clock import SECOND, to_us
from asyncmgr._service.bare import BareService
from asyncmgr._service.manager import state_of
from asyncmgr._service.service import Service, insight_of
from asyncmgr._settings.model import Settings
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr._tasks.runs import Run
from asyncmgr.errors import AsyncmgrError, Skip
from asyncmgr.testing._virtual import run_virtual
from asyncmgr.testing.rehearsal._lengths import Instant, Length, Lengths, Replayed, Said, Took, took_of
from asyncmgr.testing.rehearsal._tape import ReplayedError, Tape, Track

MOST_RUNS = 5_000_000
"""Runs of a rehearsal, as far as the spacings tell; more would take minutes and gigabytes."""

KEYS_UNKNOWN = "its keys are not known"
"""Why a task with keys is off in a rehearsal that runs no code of the application's."""

_COLLECT_AFTER = 100_000
"""Objects made before Python looks for circles among them: there are next to none, and each look walks all runs."""


@dataclass(frozen=True, slots=True)
class Script:
    """What a rehearsal is to be."""

    start: datetime
    """Aware."""
    seconds: float
    """More than 0."""
    seed: int = 0
    took: Sequence[Took] = ()
    replay: Mapping[str, Sequence[tuple[int, Length]]] = field(default_factory=dict)
    """Slots and lengths of real runs by the full name of the task, sorted by slot."""
    run_bodies: bool = False
    """Whether the real bodies run, and with them hooks and plugins."""


@dataclass(frozen=True, slots=True)
class Cast:
    """One task of a rehearsal."""

    name: str
    """The full name."""
    options: PeriodicTask
    off: str | None
    """Why it is switched off; `None` = it is on."""
    is_keyed: bool
    length: str
    """From where the lengths of its runs are: ``said``, ``replayed``, ``none`` or ``body``."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of a rehearsal."""

    script: Script
    service: str
    timezone: str
    """The zone in which the service explains its moments."""
    first: int
    """The moment at which the tasks began: wall time, microseconds since 1970."""
    last: int
    """The last moment; a slot that is planned for it counts."""
    casts: tuple[Cast, ...]
    """All tasks, in definition order."""
    tracks: Mapping[str, Track]
    """By full name."""
    max_runs: int | None
    hooks: tuple[str, ...]
    """The hooks that a start calls and the rehearsal did not."""


def rehearse(service: Service, settings: Settings, script: Script) -> Rehearsal:
    """Run the tasks of a service that has not started, in virtual time, from the start of the script on.

    The service itself is never started: its managers run in a service that reaches nothing outside of this process, and
    belong to nobody again afterwards.

    Parameters
    ----------
    settings
        The settings in force; for a manager with settings of its own, those.

    Raises
    ------
    AsyncmgrError
        The script does not fit the service: it names a task that is not there, or the runs would be too many.
    VirtualTimeError
        This is not the main thread.
    """
    stage = _Stage(service, settings, script)
    with _few_collections(unless=script.run_bodies):
        return run_virtual(stage.play(), start=script.start)


class _Stage:
    """One rehearsal while it lasts."""

    def __init__(self, service: Service, settings: Settings, script: Script) -> None:
        self._script = script
        self._tape = Tape()
        self._hooks = () if script.run_bodies else tuple(_hooks_of(service))
        self._service = BareService(
            *service.managers,
            name=service.name,
            host=service.host,
            settings=settings.model_copy(update={"seed": script.seed}),
            with_hooks=script.run_bodies,
            amend=self._amend,
        )
        for manager in service.managers:
            state_of(manager).give(self._service.settings)
        tasks = [task for manager in service.managers for task in state_of(manager).tasks().values()]
        names = [task.full_name for task in tasks]
        self._took = took_of(names, script.took)
        self._lengths = {name: self._lengths_of(name) for name in names}
        self._refuse_endless(tasks)

    def _lengths_of(self, name: str) -> Lengths:
        # A source of its own for each task: what one draws does not depend on the others.
        chance = random.Random(f"{self._script.seed} {name}")
        if name in self._took:
            return Said(self._took[name], chance)
        if runs := self._script.replay.get(name):
            return Replayed(runs, chance)
        return Instant()

    def _refuse_endless(self, tasks: Sequence[ManagedTask]) -> None:
        counts = {
            task.full_name: self._script.seconds / task.options.schedule.spacing
            for task in tasks
            if task.options.schedule.spacing and task.options.switched_off is None
        }
        total = sum(counts.values())
        if total > MOST_RUNS:
            most = max(counts, key=lambda name: counts[name])
            raise AsyncmgrError(
                f"the rehearsal would have {total:,.0f} slots, {counts[most]:,.0f} of them of {most}, and no more than "
                f"{MOST_RUNS:,} are kept; rehearse a shorter time"
            )

    def _amend(self, task: ManagedTask) -> PeriodicTask:
        if self._script.run_bodies:
            return task.options
        if task.is_keyed and task.options.switched_off is None:
            return replace(task.options, switched_off=KEYS_UNKNOWN)  # else its manager would be asked
        lengths = self._lengths.get(task.full_name)
        has_retried = lengths is not None and lengths.includes_retries
        return replace(task.options, retry=None) if has_retried else task.options

    # While it lasts

    async def play(self) -> Rehearsal:
        script, loop = self._script, asyncio.get_running_loop()
        insight = insight_of(self._service)
        insight.record_by(lambda _: self._tape)
        if not script.run_bodies:
            insight.with_runner(lambda runner: runner.call_by(_StandIn(self._lengths, loop)))
        first = to_us(script.start.timestamp())
        await self._service.start()
        try:  # not by `async with`, which raises the `SystemExit` of a body: it is on the tape
            runner = insight.runner
            assert runner is not None
            await loop.let_pass(max(0.0, script.seconds - loop.time()))  # type: ignore[attr-defined] # the loop of `run_virtual`
            self._tape.close(runner.waiting, loop.time())
            casts = tuple(self._casts())
        finally:
            await self._service.stop(0)
        last = first + round(script.seconds * SECOND)
        settings = self._service.settings
        return Rehearsal(
            script,
            self._service.name,
            settings.timezone,
            first,
            last,
            casts,
            self._tape.tracks,
            settings.max_runs,
            self._hooks,
        )

    def _casts(self) -> Iterator[Cast]:
        for manager in self._service.managers:
            state = state_of(manager)
            for task in state.tasks().values():
                yield Cast(
                    task.full_name, task.options, state.off(task), task.is_keyed, self._source(task.full_name)
                )

    def _source(self, name: str) -> str:
        if self._script.run_bodies:
            return "body"
        lengths = self._lengths.get(name)
        return {Said: "said", Replayed: "replayed"}.get(type(lengths), "none")


class _StandIn:
    """Takes the place of bodies: each run waits as long as a real one would take, and ends as it did."""

    def __init__(self, lengths: Mapping[str, Lengths], loop: asyncio.AbstractEventLoop) -> None:
        self._lengths = lengths
        self._loop = loop
        self._context = contextvars.Context()

    async def __call__(self, run: Run) -> None:
        lengths = self._lengths.get(run.managed.full_name, _INSTANT)
        length = lengths.draw(run.planned if run.on_wall else run.planned + run.look.shift)
        if length.outcome == "timed_out" and run.managed.plan.options.timeout is not None:
            await self._loop.create_future()  # until the timeout in force
        if length.seconds > 0:
            # As `asyncio.sleep`, which costs half as much again: a rehearsal has very many runs.
            waiting = self._loop.create_future()
            timer = self._loop.call_later(length.seconds, _wake, waiting, context=self._context)
            try:
                await waiting
            finally:
                timer.cancel()
        if length.outcome == "failed":
            raise ReplayedError(length.text)
        if length.outcome == "nothing":
            raise Skip(length.text)


_INSTANT = Instant()


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _hooks_of(service: Service) -> Iterator[str]:
    for manager in service.managers:
        for name in ("init_host", "pre_start_hook", "post_start_hook"):
            hook = getattr(type(manager), name)
            if not hook.__module__.startswith("asyncmgr."):
                yield f"{manager.name}.{name}"


@contextmanager
def _few_collections(*, unless: bool) -> Iterator[None]:
    """Look for circles among objects seldom while the block runs."""
    before = gc.get_threshold()
    if not unless:
        gc.set_threshold(_COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
