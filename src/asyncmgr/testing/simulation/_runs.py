"""`simulate`: runs the story of one seed, and reports what happened."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from asyncmgr._common.safe_text import error_text
from asyncmgr._leases.rules import Rules
from asyncmgr._service.service import Service
from asyncmgr.testing.simulation import _doors as doors
from asyncmgr.testing.simulation._cast import SimulatedHost, full_name, known_tasks, service_of_story
from asyncmgr.testing.simulation._cluster import Cluster, Machine, Process
from asyncmgr.testing.simulation._faults import Faults
from asyncmgr.testing.simulation._hosts import Clocks
from asyncmgr.testing.simulation._invariants import Invariants, Violation
from asyncmgr.testing.simulation._server import EPOCH
from asyncmgr.testing.simulation._story import Story, tell
from asyncmgr.testing.simulation._timeline import SECOND

Services: TypeAlias = Callable[[SimulatedHost], Service]
"""Builds the service of one process; called at each start of a process."""

RESTART_AFTER = 2.0
"""Seconds after which a process whose start failed is started again."""

SLACK = 2.0
"""Seconds, beside twice the TTL, within which every task has run again once the faults are over."""


@dataclass(frozen=True, slots=True)
class Report:
    """What happened in the story of one seed."""

    seed: int
    violation: Violation | None
    """The promise that was broken; `None` = all held."""
    digest: str
    """A hash of all events: two runs of a seed have the same one."""
    events: int
    runs: int
    """Bodies that began."""
    refused: int
    """Effects that were refused because of an old fencing token."""
    losses: int
    """How often the store lost what it had acknowledged."""
    length: float
    """Seconds of real time in the story."""
    turns: int
    """Callbacks of all hosts."""
    calls: Mapping[str, int] = field(default_factory=dict)
    """Calls that reached the store, by kind."""
    took: float = 0.0
    """Seconds of the processor."""

    def raise_violation(self) -> None:
        """Raise the violation, if there is one."""
        if self.violation is not None:
            raise self.violation


def simulate(
    seed: int,
    services: Services | None = None,
    *,
    rules: type[Rules] = Rules,
    story: Story | None = None,
    expected: Mapping[str, float] | None = None,
    log: Callable[[float, str, str], None] | None = None,
) -> Report:
    """Run the story of a seed on services that share one faulty store, in virtual time.

    Parameters
    ----------
    services
        Builds the service of each process that starts, for a test of your own managers. Default: services whose tasks
        check the promises of ``scope="cluster"``.
    rules
        The rules that the processes follow; an ablation takes one of them away.
    story
        Default: the one that the seed stands for.
    expected
        Names of watched runs, each with its spacing, that must have run again once all faults are over.
    log
        Called with each event: its moment (seconds), where it happened, and what.

    Raises
    ------
    VirtualTimeError
        This is not the main thread: the wall clock of the process moves.
    """
    began = time.process_time()
    told = story or tell(seed, with_tasks=services is None)
    with _no_collector():
        return _Run(told, services, rules, expected or {}, log).report(time.process_time() - began)


@contextmanager
def _no_collector() -> Iterator[None]:
    """Keep the garbage collector off in the block, and clear away after it.

    All that a run leaves is young then, and one cheap collection finds it. Left there, it would slow the next runs.
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(0)
        if before:
            gc.enable()


class _Run:
    """One story on one cluster."""

    def __init__(
        self,
        story: Story,
        services: Services | None,
        rules: type[Rules],
        expected: Mapping[str, float],
        log: Callable[[float, str, str], None] | None,
    ) -> None:
        self._story = story
        self._services = services
        self._rules = rules
        self._violation: Violation | None = None
        self._cluster = Cluster(story.seed)
        for part in story.machines:
            wall = EPOCH + round(part.wall_error * SECOND)
            self._cluster.add_machine(part.name, Clocks(part.rate, part.uptime, wall))
        self._known = {full_name(task): task for task in story.tasks}
        self._invariants = Invariants(
            self._cluster,
            story.seed,
            longest_ttl=story.longest_ttl,
            knows=self._knows,
            parts=self._known,
        )
        if log is not None:
            self._invariants.listeners.append(log)
        self._expected = expected
        Faults(self._cluster, story, self._invariants, self._start)
        self._cluster.timeline.at(round(self._checked_at * SECOND), self._check_runs, story.quiet_from)
        with self._invariants.hearing_logs(), self._cluster.running():
            try:
                self._cluster.run_for(story.ends)
            except Violation as exc:
                self._violation = exc.with_traceback(None)  # whose frames would keep everything alive

    @property
    def _checked_at(self) -> float:
        spacings = [task.spacing + task.lasts for task in self._story.tasks]
        longest = max([*spacings, *self._expected.values()], default=0.0)
        return self._story.quiet_from + 2 * self._story.longest_ttl + longest + SLACK

    def _check_runs(self, since: float) -> None:
        self._invariants.is_settled = True
        spacings = {name: task.spacing for name, task in self._known.items()}
        self._invariants.check_runs({**spacings, **self._expected}, since)

    def _knows(self, process: Process, name: str) -> bool:
        task = self._known.get(name)
        return task is None or task in known_tasks(self._story, process)

    # Processes

    def _start(self, machine: Machine, knows_all: bool) -> Process:
        process = self._cluster.start(machine, self._live)
        process.ttl = self._story.machines[machine.number].ttl
        process.knows_all = knows_all
        process.loop.on_error = partial(self._invariants.error, process)
        self._invariants.note(process, "process started")
        return process

    async def _live(self, process: Process) -> None:
        """Be one process: start its service, and wait until that has stopped."""
        host = SimulatedHost(process, self._invariants, self._story.seed)
        source = random.Random(process.machine.chance.getrandbits(64))
        try:
            process.service = self._build(process, host)
        except Exception as exc:  # the caller's own mistake: no fault of the story
            self._cluster.timeline.halt(exc)
            return
        doors.set_rules(process.service, self._rules(source))
        self._invariants.follow(process)
        try:
            await process.service.start()
            await process.service.wait()
        except Exception as exc:
            self._invariants.note(process, "process failed", error_text(exc))
            self._cluster.timeline.after(RESTART_AFTER, self._restart, process.machine, process.knows_all)
        self._invariants.note(process, "process ended")
        self._invariants.gone(process)
        self._cluster.end(process)

    def _build(self, process: Process, host: SimulatedHost) -> Service:
        if self._services is None:
            return service_of_story(self._story, process, host)
        return self._services(host)

    def _restart(self, machine: Machine, knows_all: bool) -> None:
        if machine.process is None:
            self._start(machine, knows_all)

    def report(self, took: float) -> Report:
        invariants, cluster = self._invariants, self._cluster
        return Report(
            seed=self._story.seed,
            violation=self._violation,
            digest=invariants.digest,
            events=len(invariants.events),
            runs=invariants.runs,
            refused=invariants.refused,
            losses=cluster.server.lost_writes,
            length=cluster.timeline.now / SECOND,
            turns=cluster.timeline.turns,
            calls=dict(sorted(cluster.server.calls.items())),
            took=took,
        )
