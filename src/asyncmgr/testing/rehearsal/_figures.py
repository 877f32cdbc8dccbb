"""Counts what is on the tape of a rehearsal. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from asyncmgr._common.clock import SECOND, to_datetime
from asyncmgr._tasks.options import PeriodicTask
from asyncmgr.testing.rehearsal._clocks import ClockChange, clock_changes
from asyncmgr.testing.rehearsal._stage import Cast, Rehearsal
from asyncmgr.testing.rehearsal._tape import OUTCOMES, Ran, Track

MINUTE = 60 * SECOND
"""Microseconds."""

WORST = 5
"""Seconds with the most tasks due that are named."""

FEWEST_TOGETHER = 5
"""Tasks due in one second that are worth a word, at least; of many tasks a quarter."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """The latest start of a task."""

    seconds: float
    slot: int
    """Wall time, microseconds since 1970."""
    trigger: str


@dataclass(frozen=True, slots=True)
class TaskFigures:
    """What became of the slots of one task. Lengths are in seconds."""

    name: str
    options: PeriodicTask
    off: str | None
    """Why it is switched off; `None` = it is on."""
    length: str
    """From where the lengths of its runs are: ``said``, ``replayed``, ``none`` or ``body``."""
    is_keyed: bool
    runs: int
    outcomes: dict[str, int]
    """Runs by outcome; ``running`` for those that go on at the end."""
    skipped: dict[str, int]
    """Slots by reason."""
    missed: dict[str, int]
    """Slots by reason."""
    busy: float
    """Seconds of all runs together, within the rehearsal."""
    utilisation: float
    """`busy` by the length of the rehearsal; above 1 where runs overlap."""
    usual: float | None
    """The median of the runs that ended; `None` = none did."""
    longest: float | None
    latest: Lateness | None
    """The latest start; `None` = nothing started."""
    errors: dict[str, int]

    @property
    def slots(self) -> int:
        """All slots that the tape knows of, and runs outside of the grid."""
        return self.runs + sum(self.skipped.values()) + sum(self.missed.values())

    @property
    def failed(self) -> int:
        """Runs that failed or timed out."""
        return self.outcomes.get("failed", 0) + self.outcomes.get("timed_out", 0)

    def as_json(self) -> dict[str, Any]:
        latest = self.latest
        return {
            "task": self.name,
            "schedule": str(self.options.schedule),
            "off": self.off,
            "length": self.length,
            "slots": self.slots,
            "runs": self.runs,
            "outcomes": self.outcomes,
            "skipped": self.skipped,
            "missed": self.missed,
            "busy": round(self.busy, 6),
            "utilisation": round(self.utilisation, 6),
            "usual": self.usual,
            "longest": self.longest,
            "latest": None
            if latest is None
            else {"seconds": latest.seconds, "slot": shown(latest.slot), "trigger": latest.trigger},
            "errors": self.errors,
        }


@dataclass(frozen=True, slots=True)
class Minute:
    """The load of one minute."""

    starts: int
    in_progress: float
    """Runs in progress, on average."""


@dataclass(frozen=True, slots=True)
class Collision:
    """A second in which many tasks are due."""

    at: int
    """Seconds since 1970."""
    tasks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a rehearsal."""

    rehearsal: Rehearsal
    tasks: tuple[TaskFigures, ...]
    minutes: tuple[Minute, ...]
    most_in_progress: int
    """Runs in progress at once, at most."""
    together: int
    """From how many tasks due in one second on that second counts as a collision."""
    collisions: int
    """The number of such seconds."""
    worst: tuple[Collision, ...]
    """Those with the most tasks, the worst first."""
    changes: tuple[ClockChange, ...]
    """Changes of summer time in the zones of cron tasks."""

    def total(self, what: str) -> int:
        """Add up ``runs``, ``slots``, ``skipped`` or ``missed`` of all tasks."""
        found = (getattr(task, what) for task in self.tasks)
        return sum(value if isinstance(value, int) else sum(value.values()) for value in found)

    @property
    def peak(self) -> tuple[int, Minute]:
        """The number of the minute with the most starts, and its load."""
        number = max(range(len(self.minutes)), key=lambda number: self.minutes[number].starts)
        return number, self.minutes[number]

    def as_json(self) -> dict[str, Any]:
        """Everything, for programs: lengths in seconds, times in UTC."""
        rehearsal = self.rehearsal
        return {
            "service": rehearsal.service,
            "start": shown(rehearsal.first),
            "end": shown(rehearsal.last),
            "seconds": rehearsal.script.seconds,
            "seed": rehearsal.script.seed,
            "bodies": rehearsal.script.run_bodies,
            "hooks_left_out": list(rehearsal.hooks),
            "slots": self.total("slots"),
            "runs": self.total("runs"),
            "skipped": self.total("skipped"),
            "missed": self.total("missed"),
            "most_in_progress": self.most_in_progress,
            "tasks": [task.as_json() for task in self.tasks],
            "load": {
                "starts": [minute.starts for minute in self.minutes],
                "in_progress": [round(minute.in_progress, 6) for minute in self.minutes],
            },
            "collisions": {
                "together": self.together,
                "seconds": self.collisions,
                "worst": [
                    {"at": shown(one.at * SECOND), "count": len(one.tasks), "tasks": list(one.tasks)}
                    for one in self.worst
                ],
            },
            "clock_changes": [change.as_json() for change in self.changes],
        }


def shown(wall: int) -> str:
    """Write a moment for programs."""
    return to_datetime(wall).isoformat()


def figures_of(rehearsal: Rehearsal) -> Figures:
    """Count everything."""
    tasks = tuple(_task(cast, _track(rehearsal, cast), rehearsal) for cast in rehearsal.casts)
    is_on = sum(cast.off is None for cast in rehearsal.casts)
    together = max(FEWEST_TOGETHER, is_on // 4)
    collisions, worst = _collisions(rehearsal, together)
    runs = [run for track in rehearsal.tracks.values() for run in track.runs]
    return Figures(
        rehearsal,
        tasks,
        _minutes(runs, rehearsal),
        _most_in_progress(runs),
        together,
        collisions,
        worst,
        tuple(clock_changes(rehearsal)),
    )


def _track(rehearsal: Rehearsal, cast: Cast) -> Track:
    return rehearsal.tracks.get(cast.name) or Track(cast.name)


def _task(cast: Cast, track: Track, rehearsal: Rehearsal) -> TaskFigures:
    outcomes = Counter(run.outcome for run in track.runs)
    skipped, missed = Counter[str](), Counter[str]()
    for gone in track.gone:
        (skipped if gone.kind == "skipped" else missed)[gone.reason] += gone.slots
    lengths = [run.seconds for run in track.runs if OUTCOMES[run.outcome] != "running"]
    busy = sum(run.seconds for run in track.runs)
    return TaskFigures(
        cast.name,
        cast.options,
        cast.off,
        cast.length,
        cast.is_keyed,
        len(track.runs),
        {OUTCOMES[code]: outcomes[code] for code in sorted(outcomes)},
        dict(sorted(skipped.items())),
        dict(sorted(missed.items())),
        busy,
        busy / rehearsal.script.seconds,
        round(median(lengths), 6) if lengths else None,
        round(max(lengths), 6) if lengths else None,
        _latest(track.runs),
        dict(sorted(track.errors.items(), key=lambda one: (-one[1], one[0]))),
    )


def _latest(runs: Sequence[Ran]) -> Lateness | None:
    run = max(runs, key=lambda run: (run.started - run.slot, -run.slot), default=None)
    if run is None:
        return None
    return Lateness(round((run.started - run.slot) / SECOND, 6), run.slot, run.trigger)


def _minutes(runs: Iterable[Ran], rehearsal: Rehearsal) -> tuple[Minute, ...]:
    whole = max(1, -(-(rehearsal.last - rehearsal.first) // MINUTE))
    count = whole + 1  # the last one is for what starts at the very end
    starts, busy = [0] * count, [0.0] * count
    for run in runs:
        begin = run.started - rehearsal.first
        at = min(max(0, begin // MINUTE), count - 1)
        starts[at] += 1
        left = round(run.seconds * SECOND)
        while left > 0 and at < count:
            here = min(left, max(0, (at + 1) * MINUTE - begin))
            busy[at] += here
            left, begin, at = left - here, begin + here, at + 1
    last = (rehearsal.last - rehearsal.first) - (whole - 1) * MINUTE
    lengths = [MINUTE] * (whole - 1) + [max(1, last), 1]
    if not starts[-1]:
        del starts[-1]
    return tuple(
        Minute(number, seconds / length)
        for number, seconds, length in zip(starts, busy, lengths, strict=False)
    )


def _most_in_progress(runs: Sequence[Ran]) -> int:
    starts = sorted(run.started for run in runs)
    ends = sorted(run.started + round(run.seconds * SECOND) for run in runs)
    most = ended = 0
    for begun, start in enumerate(starts, 1):
        while ends[ended] <= start and ended < begun - 1:
            ended += 1
        most = max(most, begun - ended)
    return most


def _collisions(rehearsal: Rehearsal, together: int) -> tuple[int, tuple[Collision, ...]]:
    due = {name: _seconds(track) for name, track in rehearsal.tracks.items()}
    counts = Counter[int]()
    for seconds in due.values():
        counts.update(seconds)
    many = [(-count, second) for second, count in counts.items() if count >= together]
    worst = tuple(
        Collision(second, tuple(name for name, seconds in due.items() if second in seconds))
        for _, second in sorted(many)[:WORST]
    )
    return len(many), worst


def _seconds(track: Track) -> set[int]:
    """The seconds in which the task was due. Runs outside of the grid do not count."""
    found = {run.slot // SECOND for run in track.runs if run.trigger not in ("manual", "retry")}
    found.update(gone.first // SECOND for gone in track.gone)
    return found
