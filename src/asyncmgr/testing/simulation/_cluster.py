"""`Cluster`: hosts and their one store on one timeline, and all that can be done to them."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.metadata
import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import time_machine

from asyncmgr.testing.simulation._hosts import Clocks, State
from asyncmgr.testing.simulation._loop import HostLoop, running_in, show
from asyncmgr.testing.simulation._server import EPOCH, Server
from asyncmgr.testing.simulation._store import Connection, Weather
from asyncmgr.testing.simulation._timeline import SECOND, Timeline


def _no_plugins(**selected: Any) -> Any:
    """Find no entry points: also since reading them takes longer than all the rest of a service's start."""
    return importlib.metadata.EntryPoints(())


@dataclass(eq=False)
class Machine:
    """A machine of the cluster, with the process that runs there now."""

    number: int
    """Counts from 0."""
    name: str
    """The host's name, which other machines may have too."""
    clock: Clocks
    chance: random.Random
    """Draws everything that processes of this machine draw."""
    process: Process | None = None
    """`None` = no process runs."""
    is_cut: bool = False
    """Whether it is cut off from the store."""


@dataclass(eq=False)
class Process:
    """One life of one process."""

    machine: Machine
    number: int
    """Counts all processes of the cluster from 1."""
    loop: HostLoop
    connection: Connection
    service: Any = None
    ended: bool = False
    """Whether it has ended in good order."""
    main: asyncio.Task[None] | None = None
    ttl: float = 10.0
    """The TTL of its lease."""
    knows_all: bool = True
    """Whether it runs the version that knows all tasks; else the machine's first version."""
    is_stopping: bool = False
    """Whether it was asked to stop."""
    untrusted_since: int | None = None
    """The real moment since which it does not trust itself, as far as somebody has looked; `None` = it does."""

    def __str__(self) -> str:
        return f"{self.machine.name}#{self.number}"

    @property
    def is_up(self) -> bool:
        return self.loop.state is State.UP and not self.ended

    @property
    def is_alive(self) -> bool:
        return self.loop.state is not State.DEAD and not self.ended


class Cluster:
    """Machines, their store and their faults. Use it inside `running`."""

    def __init__(self, seed: int = 0) -> None:
        self.chance = random.Random(seed)
        self.timeline = Timeline()
        self.server = Server(self.timeline)
        self.weather = Weather()
        self.machines: list[Machine] = []
        self.processes: list[Process] = []
        """All that ever ran, in the order of their starts."""
        self._shown: HostLoop | None = None
        self._entropy = random.Random(seed ^ 0x5EED)

    def add_machine(self, name: str | None = None, clock: Clocks | None = None) -> Machine:
        number = len(self.machines)
        clock = clock or Clocks()
        clock.wall = clock.wall or EPOCH
        machine = Machine(number, name or f"h{number}", clock, random.Random(self.chance.getrandbits(64)))
        self.machines.append(machine)
        return machine

    # Processes

    def start(self, machine: Machine, main: Callable[[Process], Any]) -> Process:
        """Start a process there; `main` is a coroutine function. The machine must have none."""
        assert machine.process is None, f"{machine.process} runs already"
        loop = HostLoop(self.timeline, machine.clock, machine.name)  # type: ignore[abstract]  # hosts need no more
        with running_in(loop):
            connection = Connection(self.server, self.timeline, loop, self.weather, self.chance)
        process = Process(machine, len(self.processes) + 1, loop, connection)
        connection.writer, connection.is_cut = process, machine.is_cut
        connection.gives_up = bool(process.number % 2)
        machine.process = process
        self.processes.append(process)
        loop.call_soon(self._begin, process, main, context=contextvars.Context())
        return process

    def _begin(self, process: Process, main: Callable[[Process], Any]) -> None:
        process.main = process.loop.create_task(main(process))

    def kill(self, machine: Machine) -> None:
        """End the process there between two of its steps, as ``kill -9`` does."""
        process = machine.process
        if process is not None:
            process.connection.leave()
            process.loop.kill()
            machine.process = None

    def end(self, process: Process) -> None:
        """Note that a process has ended in good order."""
        process.ended = True
        self.timeline.after(0, self._bury, process)

    def _bury(self, process: Process) -> None:
        if process.machine.process is process:
            self.kill(process.machine)

    # Running

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show the clocks of the hosts, and draw all randomness from the seed, while the block runs.

        The environment has no part in it: no plugin of an installed package is loaded.
        """
        before = random.getstate(), secrets.token_hex
        find = importlib.metadata.entry_points
        random.seed(self._entropy.getrandbits(64))
        secrets.token_hex = self._token_hex
        importlib.metadata.entry_points = _no_plugins
        travel = time_machine.travel(EPOCH // SECOND, tick=False)
        self._traveller, self._wall = travel.start(), EPOCH
        self.timeline.before_turn = self._before_turn
        try:
            yield
        finally:
            self._clear()
            show(None)
            travel.stop()
            random.setstate(before[0])
            secrets.token_hex = before[1]
            importlib.metadata.entry_points = find

    def _clear(self) -> None:
        """Kill what still runs, so that no task is left."""
        for machine in self.machines:
            self.kill(machine)
        self.timeline.clear()

    def _token_hex(self, nbytes: int | None = None) -> str:
        return self._entropy.randbytes(nbytes or 32).hex()

    def _before_turn(self, loop: Any) -> None:
        if loop is not self._shown:
            show(loop)
            self._shown = loop
        now = self.timeline.now
        wall = EPOCH + now if loop is None else loop.clock.wall_time(now)
        if wall != self._wall:
            self._traveller.shift((wall - self._wall) / SECOND)
            self._wall = wall

    def run_for(self, seconds: float) -> None:
        """Let real time pass."""
        self.timeline.run_until(self.timeline.now + round(seconds * SECOND))
