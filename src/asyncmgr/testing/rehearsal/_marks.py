"""The marks of one row of the picture: runs, and slots without a run. Pure.

Few runs are drawn one by one. Of many, those that fall on one column of two units are drawn together: in the colour of
the worst of them, and the stronger the longer they take of the column's time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from asyncmgr._common.clock import SECOND
from asyncmgr._history.words import length
from asyncmgr.testing.rehearsal._axis import Axis
from asyncmgr.testing.rehearsal._svg import rect, titled
from asyncmgr.testing.rehearsal._tape import OUTCOMES, Gone, Ran, Track

ONE_BY_ONE = 150
"""Runs of a task up to which each has a mark and a text of its own."""

COLUMN = 2.0
"""Units of width that one mark of many runs takes."""

_NARROWEST = 1.6
_WORST_FIRST = ("failed", "timed_out", "cancelled", "running", "nothing", "succeeded")
_NEAR = 5.0
"""Units of width: slots without a run that are nearer become one band."""

Clock = Callable[[int], str]


def run_marks(track: Track, axis: Axis, y: float, height: float, clock: Clock) -> Iterator[str]:
    """Draw the runs of a task."""
    if len(track.runs) <= ONE_BY_ONE:
        for run in track.runs:
            if run.started >= axis.last:
                continue  # nothing of it would be seen but an edge
            x = axis.x(run.started)
            width = max(_NARROWEST, axis.x(run.started + round(run.seconds * SECOND)) - x)
            x = min(x, axis.left + axis.width - width)
            yield rect(
                x, y, width, height, OUTCOMES[run.outcome], radius=1, title=_of_run(track.name, run, clock)
            )
        return
    yield from _together(track, axis, y, height)


def _of_run(name: str, run: Ran, clock: Clock) -> str:
    late = (run.started - run.slot) / SECOND
    lateness = f", {length(late)} late" if late >= 0.001 else ""
    outcome = OUTCOMES[run.outcome].replace("_", " ")
    took = "so far" if outcome == "running" else "took"
    long = length(run.seconds) if run.seconds else "no time"
    return f"{name}, slot of {clock(run.slot)}: {outcome}, {took} {long}{lateness}"


def _together(track: Track, axis: Axis, y: float, height: float) -> Iterator[str]:
    size = axis.pixel * COLUMN
    count = int(axis.width / COLUMN)
    cover = [0.0] * count
    worst = [len(_WORST_FIRST)] * count
    for run in track.runs:
        if run.started >= axis.last:
            continue
        begin = max(0, run.started - axis.first)
        end = begin + round(run.seconds * SECOND)
        first, last = min(int(begin / size), count - 1), min(int(end / size), count - 1)
        rank = _RANKS[run.outcome]
        for at in range(first, last + 1):
            cover[at] += (min(end, (at + 1) * size) - max(begin, at * size)) / size
            worst[at] = min(worst[at], rank)
    paths: dict[str, list[str]] = defaultdict(list)
    for first, end, kind in _stretches(worst, cover):
        x = axis.left + first * COLUMN
        paths[kind].append(f"M{x:g} {y:.1f}h{(end - first) * COLUMN:g}v{height:.1f}H{x:g}z")
    said = _of_many(track)
    for kind, path in paths.items():
        yield titled(f'<path d="{"".join(path)}" class="{kind}"/>', said)


_RANKS = [_WORST_FIRST.index(outcome) for outcome in OUTCOMES]


def _stretches(worst: list[int], cover: list[float]) -> Iterator[tuple[int, int, str]]:
    """Yield columns of one kind that follow one another: first, end, classes."""
    kinds = [_kind(rank, share) for rank, share in zip(worst, cover, strict=True)]
    first = 0
    for at in range(1, len(kinds) + 1):
        if at == len(kinds) or kinds[at] != kinds[first]:
            if kinds[first]:
                yield first, at, kinds[first]
            first = at


def _kind(rank: int, share: float) -> str:
    if rank == len(_WORST_FIRST):
        return ""
    name = _WORST_FIRST[rank]
    if name not in ("succeeded", "nothing") or share >= 0.75:
        return name
    return f"{name} l{1 + (share >= 0.1) + (share >= 0.4)}"


def _of_many(track: Track) -> str:
    outcomes = Counter(OUTCOMES[run.outcome].replace("_", " ") for run in track.runs)
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
    mean = sum(run.seconds for run in track.runs) / len(track.runs)
    return f"{track.name}: {counts}; a run took {length(mean) if mean else 'no time'} on average"


# Slots without a run


@dataclass(slots=True)
class _Band:
    """Slots without a run that are near each other in the picture."""

    first: int
    last: int
    kind: str
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, gone: Gone) -> None:
        self.last = max(self.last, gone.last)
        self.reasons[gone.reason] += gone.slots


def gone_marks(track: Track, axis: Axis, y: float, height: float, clock: Clock) -> Iterator[str]:
    """Draw the slots of a task that got no run, as bands with their reasons."""
    for band in _bands(track, axis):
        x = axis.x(band.first)
        width = max(_NARROWEST, axis.x(band.last) - x)
        x = min(x, axis.left + axis.width - width)
        yield rect(x, y, width, height, band.kind, radius=1, title=_of_band(track.name, band, clock))


def _bands(track: Track, axis: Axis) -> Iterator[_Band]:
    bands: dict[str, _Band] = {}
    for gone in sorted(track.gone):
        band = bands.get(gone.kind)
        if band is None or (gone.first - band.last) / axis.pixel > _NEAR:
            if band is not None:
                yield band
            band = bands[gone.kind] = _Band(gone.first, gone.last, gone.kind)
        band.add(gone)
    yield from bands.values()


def _of_band(name: str, band: _Band, clock: Clock) -> str:
    count = band.reasons.total()
    reasons = ", ".join(
        f"{reason} {number:,}" if len(band.reasons) > 1 else reason for reason, number in band.reasons.items()
    )
    if count == 1:
        return f"{name}: the slot of {clock(band.first)} was {band.kind}: {reasons}"
    return (
        f"{name}: {count:,} slots from {clock(band.first)} to {clock(band.last)} were {band.kind}: {reasons}"
    )
