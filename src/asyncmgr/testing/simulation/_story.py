"""`Story`: what a seed stands for. Pure: the cast (machines, tasks), the faults with their moments, and a quiet end."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

TTLS = (4.0, 6.0, 10.0)
"""Seconds: lease TTLs that stories use."""

SPACINGS = (0.5, 1.0, 2.0, 3.0, 5.0)
"""Seconds between the slots of a story's tasks. The first one claims a second of slots at once."""


AFTERWARDS = 12.0
"""Seconds that a story goes on after twice the TTL since its last fault: by then every task has run again."""


@dataclass(frozen=True, slots=True)
class TaskPart:
    """A task of the story."""

    name: str
    spacing: float
    lasts: float
    """Seconds that a body works."""
    unwinds: float
    """Seconds that a body needs to end after it was cancelled, as a share of the TTL below a quarter."""
    cron: str | None = None
    """The slots of the wall clock that it has, in the place of those of its spacing."""
    overlap: Literal["skip", "queue", "allow"] = "skip"


@dataclass(frozen=True, slots=True)
class MachinePart:
    """A machine of the story."""

    name: str
    rate: float
    """How fast its clocks run."""
    uptime: float
    wall_error: float
    """Seconds by which its wall clock is wrong at the beginning."""
    ttl: float
    """The lease TTL that its processes ask for."""
    knows: tuple[str, ...]
    """The tasks that the version it runs at the beginning knows. A restart may bring the version that knows all."""
    starts: float
    """The moment at which its first process starts, seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong, or is set right again."""

    at: float
    """Seconds of real time."""
    kind: str
    """A method of `Faults`."""
    machine: int | None = None
    """`None` = it concerns the store, or all."""
    value: Any = None

    def __str__(self) -> str:
        where = "" if self.machine is None else f" machine {self.machine}"
        return f"{self.kind}{where}{'' if self.value is None else f' {self.value}'}"


@dataclass(frozen=True, slots=True)
class Story:
    """All that happens to a cluster from outside."""

    seed: int
    machines: tuple[MachinePart, ...]
    tasks: tuple[TaskPart, ...]
    faults: tuple[Fault, ...]
    quiet_from: float
    """Seconds: when the last fault is over."""
    ends: float
    """Seconds."""

    @property
    def longest_ttl(self) -> float:
        return max(machine.ttl for machine in self.machines)


def tell(seed: int, *, with_tasks: bool = True) -> Story:
    """Make up the story of a seed. Without tasks, for services that have their own, all machines run one version."""
    chance = random.Random(seed)
    tasks = _tasks(chance) if with_tasks else ()
    machines = _machines(chance, tasks)
    ttl = max(machine.ttl for machine in machines)
    length = chance.uniform(8, 14) * ttl
    faults = sorted(_faults(chance, length, machines, ttl), key=lambda fault: fault.at)
    return Story(seed, machines, tasks, tuple(faults), length, length + 2 * ttl + AFTERWARDS)


def _tasks(chance: random.Random) -> tuple[TaskPart, ...]:
    spacings = chance.sample(SPACINGS, chance.randint(1, 3))
    return tuple(
        TaskPart(f"t{number}", spacing, chance.choice((0.0, 0.2, spacing * 0.6, 3.0)), chance.uniform(0, 0.2))
        for number, spacing in enumerate(spacings)
    )


def _machines(chance: random.Random, tasks: tuple[TaskPart, ...]) -> tuple[MachinePart, ...]:
    count = chance.choice((2, 3, 3, 4, 5))
    share_name = chance.random() < 0.3
    ttls = TTLS if chance.random() < 0.3 else (chance.choice(TTLS),)
    old = chance.random() < 0.3
    return tuple(
        MachinePart(
            name="host" if share_name else f"h{number}",
            rate=chance.uniform(0.9, 1.1) if chance.random() < 0.7 else 1.0,
            uptime=chance.uniform(1, 1e6),
            wall_error=chance.choice((0, 0, chance.uniform(-60, 60), chance.uniform(-1e5, 1e5))),
            ttl=chance.choice(ttls),
            # The first machine knows everything, or else a task might run nowhere.
            knows=tuple(task.name for task in tasks if number == 0 or not old or chance.random() < 0.5),
            starts=0.0 if chance.random() < 0.7 else chance.uniform(0, 30),
        )
        for number in range(count)
    )


def _faults(
    chance: random.Random, length: float, machines: tuple[MachinePart, ...], ttl: float
) -> list[Fault]:
    found: list[Fault] = []
    moment = chance.uniform(0.5, ttl)
    pace = ttl * chance.choice((0.3, 0.6, 1.0))
    while moment < length - 3:
        machine = chance.randrange(len(machines))
        until = min(moment + chance.expovariate(1 / ttl), length)
        make = chance.choices(list(_MAKERS), weights=list(_MAKERS.values()))[0]
        found += make(chance, moment, until, machine, ttl)
        moment += chance.expovariate(1 / pace)
    return found


_Maker = Callable[[random.Random, float, float, int, float], list[Fault]]


def _pause(chance: random.Random, at: float, until: float, machine: int, ttl: float) -> list[Fault]:
    kind = "suspend" if chance.random() < 0.3 else "pause"
    return [Fault(at, kind, machine), Fault(until, "resume", machine)]


def _kill(chance: random.Random, at: float, until: float, machine: int, ttl: float) -> list[Fault]:
    return [Fault(at, "kill", machine), Fault(until, "start", machine, chance.random() < 0.5)]


def _terminate(chance: random.Random, at: float, until: float, machine: int, ttl: float) -> list[Fault]:
    return [Fault(at, "terminate", machine), Fault(until, "start", machine, chance.random() < 0.5)]


def _cut(chance: random.Random, at: float, until: float, machine: int, ttl: float) -> list[Fault]:
    return [Fault(at, "cut", machine), Fault(until, "heal", machine)]


def _step(chance: random.Random, at: float, until: float, machine: int, ttl: float) -> list[Fault]:
    size = chance.choice((1, ttl, 60, 3600)) * chance.choice((-1, 1)) * chance.uniform(0.5, 1.5)
    return [Fault(at, "step_wall", machine, round(size, 3))]


def _weather(chance: random.Random, at: float, until: float, machine: int, ttl: float) -> list[Fault]:
    name, most = chance.choice(
        (
            ("lose_request", 0.6),
            ("lose_reply", 0.8),
            ("double", 0.8),
            ("most_delay", ttl / 4),
            ("staleness", 3.0),
            ("watch_lag", 4.0),
        )
    )
    value = round(chance.uniform(0, most), 4)
    return [Fault(at, "weather", None, (name, value)), Fault(until, "clear_up", None, name)]


def _lose(chance: random.Random, at: float, until: float, machine: int, ttl: float) -> list[Fault]:
    kind = chance.choice(("wipe", "restore", "set_back"))
    if kind == "wipe":
        return [Fault(at, "wipe")]
    if kind == "set_back":
        return [Fault(at, "set_back", None, round(chance.uniform(0.1, 30), 3))]
    return [Fault(max(0.0, at - chance.uniform(0.1, 30)), "save"), Fault(at, "restore")]


def _break(chance: random.Random, at: float, until: float, machine: int, ttl: float) -> list[Fault]:
    return [Fault(at, "break_watches", machine, round(chance.uniform(0, 15), 3))]


_MAKERS: dict[_Maker, float] = {
    _pause: 3,
    _kill: 2,
    _terminate: 1.5,
    _cut: 3,
    _step: 1.5,
    _weather: 4,
    _lose: 1,
    _break: 1,
}
