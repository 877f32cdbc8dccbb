"""`Faults`: carries out the faults of a story on a cluster. Each method is the kind of a `Fault`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from asyncmgr._leases.keys import task_key
from asyncmgr._leases.records import CLAIMS, VERSION
from asyncmgr.testing.simulation._cast import APPLICATION
from asyncmgr.testing.simulation._cluster import Cluster, Machine, Process
from asyncmgr.testing.simulation._hosts import State
from asyncmgr.testing.simulation._invariants import Invariants
from asyncmgr.testing.simulation._server import Table
from asyncmgr.testing.simulation._store import Weather
from asyncmgr.testing.simulation._story import Fault, Story
from asyncmgr.testing.simulation._timeline import SECOND


class Faults:
    """What a story does to a cluster. What makes no sense at the moment (a second kill, say) does nothing."""

    def __init__(
        self,
        cluster: Cluster,
        story: Story,
        invariants: Invariants,
        start: Callable[[Machine, bool], Process],
    ) -> None:
        """`start` starts a process on a machine, in its first version or in the one that knows all tasks."""
        self._cluster = cluster
        self._invariants = invariants
        self._start = start
        self._saved: dict[str, Table] = {}
        for machine, part in zip(cluster.machines, story.machines, strict=True):
            cluster.timeline.at(round(part.starts * SECOND), self.start, machine, False)
        for fault in story.faults:
            cluster.timeline.at(round(fault.at * SECOND), self.happen, fault)
        cluster.timeline.at(round(story.quiet_from * SECOND), self.all_over)

    def happen(self, fault: Fault) -> None:
        """Carry out one fault."""
        self._invariants.note("story", fault.kind, fault.machine, fault.value)
        targets: list[Any] = [] if fault.machine is None else [self._cluster.machines[fault.machine]]
        getattr(self, fault.kind)(*targets, *([] if fault.value is None else [fault.value]))

    def all_over(self) -> None:
        """End all faults: every machine has a process that can reach the store."""
        self._invariants.note("story", "all faults are over")
        fine = Weather()
        for name in Weather.__slots__:
            setattr(self._cluster.weather, name, getattr(fine, name))
        for machine in self._cluster.machines:
            self.resume(machine)
            self.heal(machine)
            self.answer_late(machine, 0.0)
            if machine.process is not None and machine.process.is_stopping:
                self.kill(machine)
            self.start(machine, True)

    # Processes

    def start(self, machine: Machine, knows_all: bool) -> None:
        if machine.process is None:
            self._start(machine, knows_all)

    def kill(self, machine: Machine) -> None:
        process = machine.process
        if process is not None:
            self._cluster.kill(machine)
            self._invariants.gone(process)

    def terminate(self, machine: Machine) -> None:
        process = machine.process
        if process is not None and not process.is_stopping:
            process.is_stopping = True
            if process.service is None:
                self.kill(machine)
            else:
                process.loop.call_soon(process.service.request_stop)

    def pause(self, machine: Machine) -> None:
        self._stop(machine, suspend=False)

    def suspend(self, machine: Machine) -> None:
        self._stop(machine, suspend=True)

    def _stop(self, machine: Machine, *, suspend: bool) -> None:
        process = machine.process
        if process is not None and process.loop.state is State.UP:
            process.loop.pause(suspend=suspend)
            self._invariants.frozen(process)

    def resume(self, machine: Machine) -> None:
        process = machine.process
        if process is not None and process.loop.state is State.PAUSED:
            process.loop.resume()

    def step_wall(self, machine: Machine, seconds: float) -> None:
        machine.clock.wall += round(seconds * SECOND)

    # The store

    def cut(self, machine: Machine) -> None:
        machine.is_cut = True
        if machine.process is not None:
            machine.process.connection.cut()

    def heal(self, machine: Machine) -> None:
        machine.is_cut = False
        if machine.process is not None:
            machine.process.connection.heal()

    def answer_late(self, machine: Machine, seconds: float) -> None:
        if machine.process is not None:
            machine.process.connection.answers_late = seconds

    def break_watches(self, machine: Machine, most: float) -> None:
        if machine.process is not None:
            machine.process.connection.break_watches(most)

    def weather(self, change: tuple[str, float]) -> None:
        setattr(self._cluster.weather, *change)

    def clear_up(self, name: str) -> None:
        setattr(self._cluster.weather, name, getattr(Weather(), name))

    def save(self) -> None:
        self._saved = self._cluster.server.save()

    def restore(self) -> None:
        self._cluster.server.restore(self._saved)

    def wipe(self) -> None:
        self._cluster.server.wipe()

    def drop_claim(self, task: str) -> None:
        """Lose the claim of a task, as where an operator deletes its row: nobody is told but by the watch."""
        server = self._cluster.server
        server.delete(server.table(CLAIMS, None), task_key(APPLICATION, task), None, "story")
        server.note_loss()

    def foreign(self, task: str) -> None:
        """Have a newer program release a task: the claim's record has a version that no process here knows."""
        key = task_key(APPLICATION, task)
        value = json.dumps({"v": VERSION + 1, "owner": None, "token": 1, "ttl": 10.0}).encode()
        self._cluster.server.put(self._cluster.server.table(CLAIMS, None), key, value, "story")

    def set_back(self, seconds: float) -> None:
        self._cluster.server.set_back(seconds)
