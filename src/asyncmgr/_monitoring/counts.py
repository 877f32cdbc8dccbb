"""What is counted: of each task, of each manager, of each method. Written by `metrics`, read at each scrape."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from asyncmgr._monitoring.exposition import Labels
from asyncmgr._rpc.server import Code
from asyncmgr.events import Outcome

BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds, seconds."""

RESULTS = ("ran", "skipped", "paused", "not_owner", "held", "missed", "late")
"""What became of a slot. `held`: held back after failures in a row."""

OTHERS = "(others)"
"""The name of the series that the tasks above the limit share."""

CODES: tuple[Code, ...] = ("ok", "error", "timeout", "withdrawn", "stopping", "busy", "refused")

_LE = (*(str(bound) for bound in BUCKETS), "+Inf")


class Histogram:
    """Lengths of one manager's runs, by size."""

    __slots__ = ("_labels", "counts", "labels", "total")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self._labels = tuple(labels.with_(le=bound) for bound in _LE)
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def samples(self) -> Iterator[tuple[str, Labels, float]]:
        below = 0
        for labels, count in zip(self._labels, tuple(self.counts), strict=True):
            below += count
            yield "_bucket", labels, below
        yield "_sum", self.labels, self.total
        yield "_count", self.labels, below


class ManagerCounts:
    """What is counted of one manager."""

    __slots__ = ("durations", "latenesses", "name", "others")

    def __init__(self, name: str) -> None:
        self.name = name
        labels = Labels(manager=name)
        self.durations = Histogram(labels)
        self.latenesses = Histogram(labels)
        self.others: TaskCounts | None = None
        """The counts that tasks above the limit share; `None` = there is no such task."""


class TaskCounts:
    """What is counted of one task, or of the tasks of a manager that share a series."""

    __slots__ = (
        "by_outcome",
        "by_result",
        "cancelled",
        "duration",
        "failed",
        "labels",
        "lateness",
        "manager",
        "manual",
        "nothing",
        "slots",
        "succeeded",
        "timed_out",
    )

    def __init__(self, manager: ManagerCounts, task: str) -> None:
        self.manager = manager
        self.labels = Labels(manager=manager.name, task=task)
        self.by_outcome = tuple(self.labels.with_(outcome=str(outcome)) for outcome in Outcome)
        self.by_result = tuple(self.labels.with_(result=result) for result in RESULTS)
        self.succeeded = self.nothing = self.failed = self.timed_out = self.cancelled = 0
        self.manual = 0
        """Runs among these that no slot gave."""
        self.duration = 0.0
        self.lateness = 0.0
        self.slots: Counter[str] = Counter()
        """Slots without a run, by result."""

    @property
    def runs(self) -> int:
        return self.succeeded + self.nothing + self.failed + self.timed_out + self.cancelled

    def outcomes(self) -> Iterator[tuple[str, Labels, float]]:
        values = (self.succeeded, self.nothing, self.failed, self.timed_out, self.cancelled)
        for labels, value in zip(self.by_outcome, values, strict=True):
            yield "", labels, value

    def results(self) -> Iterator[tuple[str, Labels, float]]:
        ran, *others = self.by_result
        yield "", ran, self.runs - self.manual
        slots = self.slots
        for labels in others:
            yield "", labels, slots[labels.pairs["result"]] if slots else 0


class MethodCounts:
    """What is counted of one method that is served."""

    __slots__ = ("_labels", "codes", "count", "duration", "labels")

    def __init__(self, method: str) -> None:
        self.labels = Labels(method=method)
        self._labels = tuple((code, self.labels.with_(code=code)) for code in CODES)
        self.codes: Counter[str] = Counter()
        self.count = 0
        self.duration = 0.0

    def note(self, code: Code, duration: float | None) -> None:
        self.codes[code] += 1
        if duration is not None:
            self.count += 1
            self.duration += duration

    def by_code(self) -> Iterator[tuple[str, Labels, float]]:
        for code, labels in self._labels:
            yield "", labels, self.codes[code]
