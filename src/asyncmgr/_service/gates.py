"""`Gates`: sets the gate of each task that only one process may run, whatever adds, changes or removes the task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from asyncmgr._tasks.gate import Gate, Holding, TaskPause
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.options import Scope
from asyncmgr._tasks.runner import Runner

Kind = Scope | Literal["persist"]
"""What a gate is for: the scope of a task, or that the slots of a task of every process are written down."""

Maker = Callable[[ManagedTask, Runner], Gate | None]
"""Makes the gate of a task; `None` = it needs none. It raises nothing: a gate that cannot work refuses its runs, and
logs why."""


class Gates:
    """The gates of one service.

    The managers call `see` whenever a task comes, goes or changes. A scope without a maker has no gates.
    """

    def __init__(self) -> None:
        self.makers: dict[Kind, Maker] = {}
        self._runner: Runner | None = None
        self._set: dict[ManagedTask, tuple[Kind, Gate]] = {}

    def open(self, runner: Runner) -> None:
        """Set the gates of this runner, as tasks are seen."""
        self._runner = runner

    def pause(self, task: ManagedTask, pause: TaskPause | None) -> None:
        """Tell the gate of the task that it was paused here; `None` = that it was resumed."""
        _, gate = self._set.get(task, (None, None))
        if gate is not None:
            gate.paused(pause)

    def see(self, task: ManagedTask, *, on: bool) -> None:
        """Give the task the gate of its scope, and close the gate of another scope; one that is off has no gate."""
        if self._runner is None:
            return
        kind = _kind_of(task) if on else "process"
        before, gate = self._set.get(task, ("process", None))
        if kind == before:
            return
        if gate is not None:
            del self._set[task]
            self._runner.set_gate(task, None)
            gate.close()
        maker = self.makers.get(kind)
        made = None if maker is None else maker(task, self._runner)
        if made is not None:
            self._set[task] = kind, made
            self._runner.set_gate(task, made)

    def holding(self, task: ManagedTask) -> Holding | None:
        """Say who holds the task; `None` = it has no gate, or no holder is known."""
        _, gate = self._set.get(task, (None, None))
        return None if gate is None else gate.holding()

    def stopping(self) -> None:
        """Tell all gates that no more runs start."""
        for _, gate in tuple(self._set.values()):
            gate.stopping()

    def close(self) -> None:
        """Close all gates, once no run is in progress."""
        gates, self._set, self._runner = self._set, {}, None
        for _, gate in gates.values():
            gate.close()


def _kind_of(task: ManagedTask) -> Kind:
    scope = task.options.scope
    return "persist" if scope == "process" and task.options.persist else scope
