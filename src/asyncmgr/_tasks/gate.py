"""`Gate`: asked before each run of a task that only one process may run. Rooms above implement it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from asyncmgr._tasks.managed import Holding as Holding
from asyncmgr._tasks.managed import ManagedTask
from asyncmgr._tasks.runs import Run
from asyncmgr._tasks.runs import SlotClaim as SlotClaim
from asyncmgr.events import Outcome

Answer = Literal["run", "later", "not_owner", "lease_lost", "overlap"]
"""The answer of a gate: start the run; it comes later (`Runner.admit`, `Runner.refuse`); or why it may not start."""


class Gate(ABC):
    """Says for one task whether this process may run it. All methods are called in the event loop."""

    @abstractmethod
    def ask(self, run: Run) -> Answer:
        """Ask whether the slot of `run` may be run here; set `run.claim` where it may.

        The gate may plan the task anew meanwhile (`Runner.continue_grid`), where the holder before kept another grid.
        """

    def not_here(self, run: Run) -> Literal["not_owner", "lease_lost"] | None:
        """Say why another process may have run the slots of `run`; `None` = they are this one's. It takes nothing."""
        return None

    @abstractmethod
    def still_holds(self, run: Run) -> bool:
        """Whether the run may still start: asked right before its first step, which may be long after the answer."""

    @abstractmethod
    def ended(self, run: Run, outcome: Outcome | None) -> None:
        """Learn how a run has ended for which the answer was `run`; `None` = it never started.

        Each run that was admitted is told of once, also after `close`.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the task up: this process runs it no more. A run in progress keeps its right to its end."""

    @abstractmethod
    def holder(self) -> str | None:
        """Name the present holder, for people; `None` = it is not known, or there is none."""

    def holder_for(self, run: Run) -> str | None:
        """Name the process that may run this, for people."""
        return self.holder()

    def stopping(self) -> None:  # noqa: B027 - most gates wait for `close`
        """Learn that the service starts no more runs. Those in progress go on."""

    async def until_settled(self, task: ManagedTask) -> None:  # noqa: B027 - most know at once
        """Wait, for some seconds at most, while this process is about to get the task, or to give it up.

        `task` is the one that the gate is for, or the one of a single key. It is the only method that waits.
        """

    def is_settled(self, task: ManagedTask) -> bool:
        """Whether this process is neither about to get the task nor to give it up."""
        return True

    def holding(self) -> Holding | None:
        """Say who holds the task, since when and with which token; `None` = nobody, as far as is known."""
        owner = self.holder()
        return None if owner is None else Holding(owner)

    def paused(self, *, is_paused: bool) -> None:  # noqa: B027 - most gates have nothing to do
        """Learn that the task was paused here, or resumed."""
