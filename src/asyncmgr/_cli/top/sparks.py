"""Writes what became of a task's slots as one line of signs, each with its colour. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from asyncmgr._cli.top.words import Look
from asyncmgr._history.slots import CODES, FATES
from asyncmgr._service.control_watch import Axis, Mark

NOTHING = Look(" ", "mute")

_BY_FATE = {
    "succeeded": Look("▪", "ok"),
    "nothing": Look("▫", "ok"),
    "failed": Look("✕", "bad"),
    "timed_out": Look("T", "bad"),
    "cancelled": Look("c", "slate"),
    "missed": Look("m", "sleep"),
}
_BY_REASON = {
    "overlap": Look("»", "warn"),
    "paused": Look("‖", "slate"),
    "disabled": Look("○", "mute"),
    "removed": Look("○", "mute"),
    "draining": Look("○", "mute"),
    "backoff": Look("⊘", "bad"),
    "lease_lost": Look("L", "warn"),
    "suspended": Look("z", "sleep"),
    "down": Look("_", "mute"),
    "not_owner": NOTHING,
}

SIGNS = [_BY_REASON.get(reason or "") or _BY_FATE[fate] for fate, reason in FATES]
"""How each fate is shown, by its number."""

RUNNING = Look("▶", "run")

PAUSED = CODES["skipped", "paused"]

LEGEND = (
    (_BY_FATE["succeeded"], "succeeded"),
    (_BY_FATE["nothing"], "had nothing to do"),
    (_BY_FATE["failed"], "failed"),
    (_BY_FATE["timed_out"], "timed out"),
    (_BY_FATE["cancelled"], "cancelled"),
    (RUNNING, "running"),
    (_BY_REASON["overlap"], "skipped: a run was still going"),
    (_BY_REASON["backoff"], "skipped: held back after failures"),
    (_BY_REASON["paused"], "skipped: paused"),
    (_BY_REASON["disabled"], "skipped: off, removed or stopping"),
    (_BY_REASON["lease_lost"], "lease lost"),
    (_BY_REASON["suspended"], "missed: the machine slept"),
    (_BY_FATE["missed"], "missed: clock, block, no CPU, too late"),
    (_BY_REASON["down"], "missed: the service was down"),
)


def axis_of(now: float, span: int, width: int) -> Axis:
    """Make the axis of a line `width` columns wide. It moves by whole columns, so that signs do not dance.

    `now` is in milliseconds, `span` in seconds.
    """
    column = max(1, span * 1000 // max(1, width))
    end = (int(now) // column + 1) * column
    return Axis(end - column * width, end, width)


def spark(
    marks: Iterable[Mark], axis: Axis, running: int | None = None, paused: int | None = None
) -> list[Look]:
    """Write marks as one sign a column.

    Parameters
    ----------
    running, paused
        Since when a run is in progress, and a pause; milliseconds, `None` = it is not.
    """
    row = axis.row()
    if paused is not None:
        axis.put(row, Mark(paused, axis.end, PAUSED))
    for mark in marks:
        axis.put(row, mark)
    looks = [SIGNS[code - 1] if code else NOTHING for code in row]
    if running is not None:
        for at in range(axis.bin_of(running), axis.bins):
            if row[at] == 0 or at == axis.bins - 1:
                looks[at] = RUNNING
    return looks


def runs_of(looks: Iterable[Look]) -> Iterator[tuple[str, str]]:
    """Join neighbours of one colour: yield texts with their colour."""
    for colour, some in groupby(looks, key=lambda look: look.colour):
        yield "".join(look.sign for look in some), colour


def scale(axis: Axis, now: float, span: int) -> str:
    """Write the ends of an axis: ``-1h`` on the left, ``now`` on the right."""
    begin = f"-{span // 3600}h" if span >= 3600 else f"-{span // 60}m"
    half = f"-{span // 7200}h" if span >= 7200 else f"-{span // 120}m"
    width = axis.bins
    if width < len(begin) + 5:
        return "now".rjust(width)[:width]
    left = begin.ljust(width - 3)
    middle = width // 2 - len(half) // 2
    if width >= 24:
        left = left[:middle] + half + left[middle + len(half) :]
    return f"{left}now"
