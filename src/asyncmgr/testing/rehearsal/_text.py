"""Writes the figures of a rehearsal for a terminal of 80 columns. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from asyncmgr._common.clock import to_datetime
from asyncmgr._common.durations import format_duration
from asyncmgr._common.safe_text import printable
from asyncmgr._history.words import length
from asyncmgr.testing.rehearsal._figures import Figures, TaskFigures
from asyncmgr.testing.rehearsal._findings import Finding, clock_of, findings_of, zone_of

WIDTH = 80

SHOWN = 12
"""Findings of one kind that are written; the others are counted."""

_BARS = " ▁▂▃▄▅▆▇█"
_COLUMNS = 60
"""Columns of the picture of the load."""

_HEADERS = ("runs", "failed", "skipped", "missed", "busy", "usual", "latest")


def write(figures: Figures) -> str:
    """Write the report: what needs somebody, a table of the tasks, the load."""
    parts = [
        _head(figures),
        *_sections(findings_of(figures)),
        "\n".join(_table(figures.tasks)),
        "\n".join(_load(figures)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(figures: Figures) -> str:
    rehearsal = figures.rehearsal
    zone = zone_of(figures)
    start = to_datetime(rehearsal.first).astimezone(zone)
    script = rehearsal.script
    long = format_duration(round(script.seconds, 3))
    on = sum(task.off is None for task in figures.tasks)
    tasks = f"{on} task{'' if on == 1 else 's'}"
    text = (
        f"{printable(rehearsal.service)}: {long} from {start:%Y-%m-%d %H:%M:%S} {rehearsal.timezone}, "
        f"seed {script.seed}. {tasks}, {figures.total('slots'):,} slots: {figures.total('runs'):,} runs, "
        f"{figures.total('skipped'):,} skipped, {figures.total('missed'):,} missed."
    )
    return textwrap.fill(text, WIDTH)


def _sections(findings: Sequence[Finding]) -> Iterator[str]:
    needing = [finding for finding in findings if finding.needs_you]
    others = [finding for finding in findings if not finding.needs_you]
    yield _section("Needs you", needing) if needing else "Nothing needs you."
    yield _section("Worth knowing", others) if others else ""


def _section(title: str, findings: Sequence[Finding]) -> str:
    lines = [title]
    for finding in findings[:SHOWN]:
        lines += textwrap.wrap(
            printable(finding.text, 2000),
            WIDTH,
            initial_indent="  - ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )
    if len(findings) > SHOWN:
        lines.append(f"  - and {len(findings) - SHOWN:,} more, which --json has")
    return "\n".join(lines)


# The table


def _table(tasks: Sequence[TaskFigures]) -> Iterator[str]:
    if not tasks:
        yield "no tasks: nothing here has @periodic_task"
        return
    rows = [_HEADERS, *(_cells(task) for task in tasks if task.off is None)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = WIDTH - sum(widths) - 2 * len(widths)
    names = ["task", *(_short(task.name, room) for task in tasks if task.off is None)]
    off = [(_short(task.name, room), f"off: {printable(task.off)}") for task in tasks if task.off is not None]
    longest = max(map(len, [*names, *(name for name, _ in off)]))
    for name, cells in zip(names, rows, strict=True):
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        yield "  ".join([name.ljust(longest), *padded])
    for name, why in off:
        yield f"{name.ljust(longest)}  {why}"[:WIDTH]


def _short(name: str, most: int) -> str:
    name = printable(name)
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _cells(task: TaskFigures) -> Sequence[str]:
    return [
        f"{task.runs:,}",
        _count(task.failed),
        _count(sum(task.skipped.values())),
        _count(sum(task.missed.values())),
        f"{task.utilisation:.0%}" if task.utilisation >= 0.1 or not task.busy else f"{task.utilisation:.1%}",
        "-" if task.usual is None else length(task.usual) if task.usual else "0 s",
        "-" if task.latest is None or task.latest.seconds <= 0 else length(task.latest.seconds),
    ]


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


# The load


def _load(figures: Figures) -> Iterator[str]:
    if not figures.total("runs"):
        return
    number, peak = figures.peak
    mean = figures.total("runs") * 60 / figures.rehearsal.script.seconds
    clock = clock_of(figures)
    at = clock(figures.rehearsal.first + number * 60_000_000)
    yield from textwrap.wrap(
        f"Load: {mean:,.1f} runs start a minute, at most {peak.starts:,} (at {at}); at most "
        f"{figures.most_in_progress:,} in progress at once.",
        WIDTH,
    )
    columns = _columns([minute.starts for minute in figures.minutes])
    bars = "".join(_bar(value, peak.starts) for value in columns)
    first, last = clock(figures.rehearsal.first), clock(figures.rehearsal.last)
    yield f"  {bars}"
    yield f"  {first}{last.rjust(len(bars) - len(first))}"


def _columns(values: Sequence[int]) -> list[int]:
    """Make of many minutes a few columns: each shows its busiest minute."""
    count = min(len(values), _COLUMNS)
    return [max(values[at * len(values) // count : (at + 1) * len(values) // count]) for at in range(count)]


def _bar(value: int, most: int) -> str:
    if not value:
        return _BARS[0]
    return _BARS[max(1, round(value / most * (len(_BARS) - 1)))]
