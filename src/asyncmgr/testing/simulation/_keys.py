"""`simulate_keys`: the story of a seed for a task with `each=`, whose keys the hosts share out."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from itertools import pairwise

from asyncmgr._leases.rules import Rules
from asyncmgr._leases.shards import shard_of
from asyncmgr._service.manager import Manager
from asyncmgr._service.service import Service
from asyncmgr._tasks.runs import RunContext
from asyncmgr.testing.simulation._cast import SimulatedHost
from asyncmgr.testing.simulation._invariants import Violation
from asyncmgr.testing.simulation._runs import Report, simulate
from asyncmgr.testing.simulation._story import Fault, Story, tell

PLANNED = frozenset({"terminate", "start"})
"""Faults that are none: hosts that leave and join."""

CRASHES = PLANNED | {"kill"}

_NEARLY = 0.2
"""Seconds for which a slot may be handed out early."""

_SLACK = 1.3
"""Seconds, beside the spacing, between two runs of a key: a move may take one."""


@dataclass
class Seen:
    """What the keys saw."""

    spacing: float
    runs: dict[Hashable, list[tuple[float, float]]] = field(default_factory=dict)
    """By key: real moment and slot of each run."""
    at_once: bool = False
    """Whether a key runs at its coming, beside its slots."""
    hosts: dict[Hashable, str] = field(default_factory=dict)
    """By key: the host of the last run."""


class Poller(Manager):
    """The manager of a story with keys."""

    name = "poller"

    def __init__(
        self, host: SimulatedHost, keys: list[str], seen: Seen, lasts: float, unwinds: float
    ) -> None:
        super().__init__()
        self._host, self.keys, self._seen = host, keys, seen
        self._lasts, self._unwinds = lasts, unwinds

    async def init_host(self) -> None:
        self.add_periodic_task(
            self.poll,
            name="poll",
            spacing=self._seen.spacing,
            each=lambda: self.keys,
            scope="cluster",
            run_immediately=self._seen.at_once,
        )

    async def poll(self, context: RunContext, key: str) -> None:
        with self._host.watched(context) as run:
            if not self._host.is_over:
                self._seen.runs.setdefault(key, []).append((self._host.moment, context.slot.timestamp()))
                self._seen.hosts[key] = f"{self._host.name}#{self._host.life}"
            run.effect()
            try:
                await asyncio.sleep(self._lasts)
            except asyncio.CancelledError:
                await asyncio.sleep(self._unwinds)
                raise
            run.effect()


def key_story(seed: int) -> Story:
    """Make up the story of a seed: some have ten hosts, and some only hosts that leave and join."""
    chance = random.Random(seed ^ 0xE4C5)
    story = tell(seed, with_tasks=False)
    if chance.random() < 0.4:
        parts = story.machines
        more = [replace(parts[at % len(parts)], name=f"m{at}", starts=0.0) for at in range(10 - len(parts))]
        story = replace(story, machines=(*parts, *more))
    if chance.random() < 0.3:
        story = _planned(story, chance)
    return story


def _planned(story: Story, chance: random.Random) -> Story:
    """Leave only hosts that leave, or crash, and join, one at a time, on clocks that agree."""
    machines = tuple(
        replace(part, name=f"h{number}", rate=1.0, wall_error=0.0, starts=0.0)
        for number, part in enumerate(story.machines)
    )
    kind = chance.choice(("terminate", "kill"))
    faults, moment = [], 20.0
    while moment < story.quiet_from - 20:
        machine = chance.randrange(1, len(machines))
        faults += [
            Fault(moment, kind, machine),
            Fault(moment + story.longest_ttl + 5, "start", machine, True),
        ]
        moment += 2 * story.longest_ttl + 10
    return replace(story, machines=machines, faults=tuple(faults))


def simulate_keys(
    seed: int,
    *,
    rules: type[Rules] = Rules,
    keys: int = 40,
    shards: int = 16,
    story: Story | None = None,
    log: Callable[[float, str, str], None] | None = None,
) -> Report:
    """Run the story of a seed on hosts that share out keys; no key may run on two hosts that trust themselves.

    Where hosts only leave and join, no slot of a key may be lost or come twice, nor a run be late by more than a
    second. When all faults are over every key runs, and no host has more than its share.
    """
    chance = random.Random(seed ^ 0x6E75)
    names = [f"10.0.0.{number}" for number in range(keys)]
    seen = Seen(chance.choice((1.0, 2.0, 4.0)), at_once=random.Random(seed ^ 0x0A7C).random() < 0.5)
    lasts, unwinds = chance.choice((0.0, 0.05, 0.3)), chance.choice((0.0, 0.2))
    told = story or key_story(seed)

    def service(host: SimulatedHost) -> Service:
        lease = host.settings.lease.model_copy(update={"shards": shards})
        return Service(
            Poller(host, names, seen, lasts, unwinds),
            name="keys",
            host=host.name,
            transport=host.transport,
            settings=host.settings.model_copy(update={"lease": lease}),
        )

    expected = {f"{Poller.name}.poll[{key}]": seen.spacing + lasts for key in names}
    report = simulate(seed, service, rules=rules, story=told, expected=expected, log=log)
    if report.violation is None:
        promise = _broken_share(told, seen, shards) or _broken_move(told, seen, lasts)
        if promise:
            violation = Violation(promise, seed, report.length, ())
            report = replace(report, violation=violation)
    return report


def _broken_share(story: Story, seen: Seen, shards: int) -> str | None:
    """Look whether a host has more than its share, at the quiet end."""
    if {fault.kind for fault in story.faults} - CRASHES:
        return None
    held: dict[str, set[int]] = {}
    for key, host in seen.hosts.items():
        held.setdefault(host, set()).add(shard_of(f"{Poller.name}.poll", key, shards))
    most = max(map(len, held.values()), default=0)
    quota = Rules().shard_quota(shards, len(story.machines))
    return f"unfair: a host has {most} of {shards} shards, and its quota is {quota}" if most > quota else None


def _broken_move(story: Story, seen: Seen, lasts: float) -> str | None:
    """Look for slots that were lost or came twice although hosts only left and joined, and for gaps after crashes."""
    kinds = {fault.kind for fault in story.faults}
    if kinds - CRASHES:
        return None
    is_planned = not kinds - PLANNED
    most = seen.spacing + lasts + _SLACK + (0 if is_planned else story.longest_ttl)
    for key, runs in seen.runs.items():
        for number, ((early, slot), (late, following)) in enumerate(pairwise(runs)):
            passed = following - slot
            # Of a key that runs at its coming, which only its first host sees, or for the slot before it where that
            # host has left at once, the first slot comes within a spacing; or it gets no run, since it is due or nearly
            # due while that first run goes on.
            is_at_once = seen.at_once and number == 0 and passed > 0
            is_first = is_at_once and late - early <= seen.spacing + lasts + _NEARLY
            if is_planned and not is_first and abs(passed - seen.spacing) > 0.01:
                return f"slots: {key} ran for {slot:.3f} and then for {following:.3f}"
            if late - early > most:
                return f"gap: {key} waited for {late - early:.3f} s at {early:.3f} s"
    return None
