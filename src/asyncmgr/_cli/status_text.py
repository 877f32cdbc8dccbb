"""Writes the status of tasks for people. Pure: it gets the moment and the width as arguments."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import click

from asyncmgr._cli.output import shortened
from asyncmgr._cli.task_views import relative
from asyncmgr._common.durations import format_duration
from asyncmgr._common.safe_text import printable

Told = Mapping[str, Any]
"""The status of one task, as a service tells it."""

HEADERS = ("task", "state", "last run", "took", "next slot")

COLOURS = {
    "hung": "red",
    "failing": "red",
    "stale": "red",
    "held": "red",
    "paused": "yellow",
    "disabled": "bright_black",
    "running": "cyan",
    "ok": "green",
}

NEED_YOU = ("hung", "held", "failing", "stale")
"""The states that a person should look at."""

_NARROWEST = 12
"""Least columns for the names of tasks."""


class Line(NamedTuple):
    """One line of a table: the cells of a task, or what is said below it."""

    cells: tuple[str, ...]
    below: tuple[str, ...] = ()


def moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def clock(text: str | None, now: datetime) -> str:
    """Write a moment in local time: without the day where that is today's."""
    when = moment(text)
    if when is None:
        return "-"
    local, today = when.astimezone(), now.astimezone().date()
    return f"{local:%H:%M:%S}" if local.date() == today else f"{local:%Y-%m-%d %H:%M:%S}"


def ago(text: str | None, now: datetime) -> str:
    when = moment(text)
    if when is None:
        return "never"
    seconds = (now - when).total_seconds()
    return "now" if seconds < 0.5 else f"{relative(max(1.0, round(seconds)))} ago"


def ahead(text: str | None, now: datetime) -> str:
    when = moment(text)
    if when is None:
        return "-"
    seconds = (when - now).total_seconds()
    return "now" if seconds < 0.5 else f"in {relative(max(1.0, round(seconds)))}"


def took(seconds: float) -> str:
    """Write a duration in three digits."""
    if seconds < 0.001:
        return "<1ms"
    if seconds < 0.0995:
        return f"{seconds * 1000:.3g}ms"
    return f"{seconds:.3g}s" if seconds < 100 else relative(round(seconds))


def _lateness(seconds: float) -> str:
    if abs(seconds) < 0.001:
        return "on time"
    return f"{took(seconds)} late" if seconds > 0 else f"{took(-seconds)} early"


# The table


def line_of(told: Told, now: datetime) -> Line:
    """Write one task as cells, and below them what a person wants to know of it."""
    last = told["last"]
    ended = "-" if last is None else f"{last['fate']} {ago(_end_of(last), now)}"
    cells = (
        printable(told["task"]),
        told["state"],
        ended,
        "" if last is None else took(last["duration"]),
        ahead(told["next_due"], now),
    )
    return Line(tuple(map(str, cells)), tuple(map(printable, remarks(told, now))))


def _end_of(last: Told) -> str:
    began = datetime.fromisoformat(last["slot"]) + timedelta(seconds=last["lateness"])
    return (began + timedelta(seconds=last["duration"])).isoformat()


def remarks(told: Told, now: datetime) -> Iterator[str]:
    """Say in sentences what is out of the ordinary."""
    if told["off"]:
        yield f"off: {told['off']}"
    if told["paused"] is not None:
        yield paused_in_words(told["paused"], now)
    if told["running"] is not None:
        yield running_in_words(told["running"], now)
    if told["failures"]:
        times = "1 failure" if told["failures"] == 1 else f"{told['failures']} failures in a row"
        since = "" if told["failing_since"] is None else f" since {clock(told['failing_since'], now)}"
        yield f"{times}{since}: {told['error']}"
    if told.get("held_spacing"):
        yield f"held back: it runs only every {format_duration(told['held_spacing'])} until it succeeds"
    if told["fresh"] is False:
        yield f"stale: no success within {format_duration(told['freshness'])}"
    keys = told.get("keys")
    if keys is not None:
        yield from keys_in_words(keys, told["error"] if not told["failures"] else None)
    if told["owner"]:
        yield f"run by {told['owner']}"


def keys_in_words(keys: Told, error: str | None) -> Iterator[str]:
    """Say how many keys a task has here, and how many of all that is; and how many of them run, wait and fail."""
    said = [f"{keys[word]:,} {word}" for word in ("running", "waiting") if keys[word]]
    count = f"{keys['known']:,} key{'s' if keys['known'] != 1 else ''}"
    if keys.get("total") is not None:
        hosts = "1 host has" if keys["hosts"] == 1 else f"{keys['hosts']} hosts share"
        count = f"{keys['known']:,} of {keys['total']:,} keys here, {hosts} them"
    yield ", ".join([count, *said])
    if keys["failing"]:
        verb = "fails" if keys["failing"] == 1 else "fail"
        yield f"{keys['failing']:,} of {keys['known']:,} keys {verb}{f': {error}' if error else ''}"


def key_in_words(told: Told, now: datetime) -> Iterator[str]:
    """Say how one key of a task stands."""
    yield str(told["state"])
    if told["outcome"] is not None:
        yield f"last run {told['outcome']} {ago(told['last_run'], now)}, took {took(told['duration'] or 0.0)}"
    if told["failures"]:
        yield f"{told['failures']} failures in a row: {told['error']}"
    yield f"next slot {ahead(told['next_due'], now)}"
    if told["owner"]:
        yield f"run by {told['owner']}"


def paused_in_words(paused: Told, now: datetime) -> str:
    """Say who paused a task, until when and why."""
    until = "until somebody resumes it" if paused["until"] is None else f"until {clock(paused['until'], now)}"
    note = f': "{paused["note"]}"' if paused["note"] else ""
    return f"paused by {paused['by']} at {clock(paused['since'], now)}, {until}{note}"


def running_in_words(running: Told, now: datetime) -> str:
    """Say since when a run is in progress, how far it is and where it waits."""
    started = moment(running["since"])
    age = 0.0 if started is None else (now - started).total_seconds()
    said = [f"run {running['run_id']} ({running['trigger']}) since {relative(max(0.001, age))}"]
    if running["attempt"] > 1:
        said.append(f"attempt {running['attempt']}")
    if running["progress"] is not None:
        said.append(progress_in_words(running["progress"]))
    if running["where"]:
        said.append(f"in {running['where']}")
    return ", ".join(said)


def progress_in_words(progress: Told) -> str:
    done, total, message = progress["done"], progress["total"], progress["message"]
    said = f"{done:g}" if total is None else f"{done:g} of {total:g}"
    if total:
        said += f" ({min(100, done / total * 100):.0f} %)"
    return f"{said}, {message}" if message else said


def table(lines: Sequence[Line], width: int | None) -> Iterator[str]:
    """Write the lines under headers. The names of tasks are cut where the terminal has no room for them."""
    columns = list(zip(HEADERS, *(line.cells for line in lines), strict=True))
    widths = [max(map(len, column)) for column in columns]
    if width is not None:
        widths[0] = min(widths[0], max(_NARROWEST, width - sum(widths[1:]) - 2 * (len(widths) - 1)))
    yield click.style(_row(HEADERS, widths), dim=True)
    for line in lines:
        yield _row(line.cells, widths, colour=COLOURS.get(line.cells[1]))
        for remark in line.below:
            for part in textwrap.wrap(remark, (width or 1000) - 4) or [""]:
                yield click.style(f"    {part}", dim=True)


def _row(cells: Sequence[str], widths: Sequence[int], colour: str | None = None) -> str:
    padded = [shortened(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True)]
    if colour is not None:
        padded[1] = click.style(padded[1], fg=colour)
    return "  ".join(padded).rstrip()


# One task in full


def sheet(told: Told, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield all that is known of a task, as pairs of a word and its value."""
    zone = f" {told['tz']}" if told["tz"] else ""
    yield "state", str(told["state"])
    for remark in remarks(told, now):
        yield "", remark
    yield "schedule", f"{told['schedule']}{zone}"
    following = told["next_due"]
    yield "next slot", "none" if following is None else f"{clock(following, now)}, {ahead(following, now)}"
    last = told["last"]
    if last is not None:
        slot = f"slot {clock(last['slot'], now)}, {_lateness(last['lateness'])}"
        yield "last run", f"{last['fate']}, {slot}, took {took(last['duration'])}"
    success = told["last_success"]
    yield "last success", "never" if success is None else f"{clock(success, now)}, {ago(success, now)}"
    if told["fresh"] is not None:
        yield "fresh", "yes" if told["fresh"] else "no"
    runs = "1 run" if told["runs"] == 1 else f"{told['runs']} runs"
    yield "so far", f"{runs}; slots skipped: {told['skipped']}, missed: {told['missed']}"
