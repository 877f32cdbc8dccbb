"""Tells what the thread of an event loop did during a block, and whose code it was, from looks at it. Pure.

The thread that looks needs the interpreter for it, so how long it had to wait for that tells a lot. Code of Python
gives the interpreter up after a switch interval (5 ms); C code that has released it lets the thread look at once; C
code that holds it lets nobody look until it ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from asyncmgr._tasks.blame import Culprit, Sight
from asyncmgr._tasks.recorder import Stall
from asyncmgr.events import BlockKind

SHARE = 0.6
"""Who is blamed has been seen for this share of a block at least."""

_HELD = 10
"""Switch intervals. Who waits longer for the interpreter does not wait for Python code."""

_FREE = 0.6
"""Switch intervals. Who waits less for the interpreter has found it free."""

_STARVED = 0.03
"""The share of CPU below which a thread that wants to compute is as good as stopped."""

_OTHERS = 3
"""How much more CPU than the loop's thread another one gets that holds the interpreter."""

_K = TypeVar("_K", bound=Hashable)


class Reading(NamedTuple):
    """The meters of the process at one moment. All are sums since they began, in seconds; only differences count."""

    at: float
    cpu: float | None
    """CPU time of the loop's thread; `None` = the system does not tell."""
    process: float
    """CPU time of all threads."""
    queued: float
    """How long the loop's thread has waited for a CPU; 0 where the system does not tell."""
    collected: float
    """Garbage collection by the loop's thread."""
    collected_elsewhere: float
    """Garbage collection by other threads, which lets nobody else run either."""
    own_queued: float
    """How long the looking thread has waited for a CPU."""
    own_turns: int | None
    """How often the looking thread got a CPU; `None` = the system does not tell."""


class Stretch(NamedTuple):
    """What the meters say of the time between two looks, in seconds."""

    seconds: float
    late: float
    """How much later the look came than the thread had wanted."""
    cpu: float
    others: float
    """CPU time of the other threads."""
    queued: float
    collected: float
    collected_elsewhere: float
    own_queued: float
    own_turns: int | None

    def is_stop(self, interval: float) -> bool:
        """Whether the looking thread did not run either: a wait for the interpreter would have woken it up often."""
        gap = self.late - self.own_queued
        if gap < _HELD * interval or self.cpu > 0.2 * gap:
            return False
        if self.own_turns is None:
            return self.others < 0.2 * gap
        return self.own_turns < gap / interval / 10


def stretch(before: Reading, now: Reading, *, since: float, asked: float) -> Stretch:
    """Measure the time from `since` to a reading; `before` was read at that moment or a little earlier.

    `asked` is the moment at which the thread had wanted to look.
    """
    seconds = max(0.0, now.at - since)
    process = now.process - before.process
    cpu = process if now.cpu is None or before.cpu is None else now.cpu - before.cpu
    return Stretch(
        seconds,
        min(seconds, max(0.0, now.at - asked)),
        min(seconds, cpu),
        max(0.0, process - cpu),
        min(seconds, now.queued - before.queued),
        min(seconds, now.collected - before.collected),
        min(seconds, now.collected_elsewhere - before.collected_elsewhere),
        now.own_queued - before.own_queued,
        None if now.own_turns is None or before.own_turns is None else now.own_turns - before.own_turns,
    )


def kind_of(stretches: Sequence[Stretch], interval: float) -> BlockKind:
    """Tell what the thread did for most of a block; `interval` is the interpreter's switch interval, seconds."""
    half = sum(one.seconds for one in stretches) / 2
    cpu = sum(one.cpu for one in stretches)
    wanted = cpu + sum(one.queued for one in stretches)
    held = sum(one.late for one in stretches if one.late > _HELD * interval)
    if sum(one.late for one in stretches if one.is_stop(interval)) >= half:
        return "stopped"
    if sum(one.collected + one.collected_elsewhere for one in stretches) >= half:
        return "garbage collection"
    others = sum(one.others for one in stretches)
    if held >= half and others > max(_OTHERS * cpu, _STARVED * 2 * half):
        return "another thread"
    if wanted < half:
        return "waiting"
    if cpu < 2 * half * _STARVED:
        return "stopped"
    if held >= half:
        return "computing in C"
    free = sum(one.seconds for one in stretches if one.late - one.own_queued < _FREE * interval)
    return "computing in C" if free >= half else "computing"


class Finding(NamedTuple):
    """What is known of a block."""

    began: float
    """On the clock of `time.monotonic`, as all moments here."""
    seconds: float
    culprit: Culprit | None
    kind: BlockKind
    place: str
    cpu: float | None

    def overlap(self, since: float, until: float) -> float:
        """Return for how many seconds from `since` to `until` it lasted."""
        return max(0.0, min(until, self.began + self.seconds) - max(since, self.began))


def stall_of(kind: BlockKind) -> Stall:
    """Say what a block of this kind is to the slots that came due meanwhile."""
    return "stopped" if kind == "stopped" else "blocked"


class Block:
    """A block, and what looks at it have shown so far."""

    def __init__(self, began: float, interval: float) -> None:
        self.began = began
        self._interval = interval
        self._stretches: list[Stretch] = []
        self._sights: list[tuple[Sight, float]] = []
        self._tells_cpu = True

    @property
    def is_seen(self) -> bool:
        """Whether anybody has looked at it while it lasted."""
        return bool(self._stretches)

    def seen_since(self, moment: float) -> float:
        """Return how many seconds after `moment` the looks so far tell of."""
        until = self.began + sum(one.seconds for one in self._stretches)
        return max(0.0, until - max(moment, self.began))

    def add(self, sight: Sight, measured: Stretch, *, tells_cpu: bool = True) -> None:
        """Add one look, and what was measured since the look before. What it shows holds for all this time."""
        self._sights.append((sight, measured.seconds))
        self._stretches.append(measured)
        self._tells_cpu = self._tells_cpu and tells_cpu

    def finding(self, seconds: float) -> Finding:
        """Sum up the block, which has lasted so long."""
        kind = kind_of(self._stretches, self._interval)
        cpu = round(sum(one.cpu for one in self._stretches), 3) if self._tells_cpu else None
        if kind in ("stopped", "another thread") or (kind == "garbage collection" and self._was_elsewhere()):
            return Finding(self.began, seconds, None, kind, "", cpu)
        culprit, share = _most((one.culprit, weight) for one, weight in self._sights)
        if share < SHARE:
            return Finding(self.began, seconds, None, kind, "", cpu)
        place, _ = _most((one.place, weight) for one, weight in self._sights if one.culprit == culprit)
        return Finding(self.began, seconds, culprit, kind, place or "", cpu)

    def _was_elsewhere(self) -> bool:
        elsewhere = sum(one.collected_elsewhere for one in self._stretches)
        return elsewhere > sum(one.collected for one in self._stretches)


def _most(weighed: Iterable[tuple[_K, float]]) -> tuple[_K | None, float]:
    """Find what weighs most, and its share of the whole."""
    weights: defaultdict[_K, float] = defaultdict(float)
    for what, weight in weighed:
        weights[what] += weight
    whole = sum(weights.values())
    if not whole:
        return None, 1.0
    found = max(weights, key=lambda one: weights[one])
    return found, weights[found] / whole
