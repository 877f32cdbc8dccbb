"""Draws a rehearsal as one SVG: a row a task, colour = outcome, width = duration, the load below. Pure.

It has no script and no outside font, and follows the light or dark theme of whoever shows it.
"""

from __future__ import annotations

from collections.abc import Iterator

from asyncmgr._common.clock import SECOND, to_datetime
from asyncmgr._common.durations import format_duration
from asyncmgr.testing.rehearsal._axis import Axis, axis_of
from asyncmgr.testing.rehearsal._figures import Figures, TaskFigures
from asyncmgr.testing.rehearsal._findings import clock_of, zone_of
from asyncmgr.testing.rehearsal._marks import gone_marks, run_marks
from asyncmgr.testing.rehearsal._svg import rect, text, titled
from asyncmgr.testing.rehearsal._tape import OUTCOMES

WIDTH = 1280
LEFT = 232
RIGHT = 196
_TOP = 92
_CHART = 54
"""Height of one picture of the load."""

_STYLE = """
svg{--bg:#fff;--text:#1b1c20;--mute:#5c5f68;--lane:#f1f1ee;--grid:#dfdfda;--succeeded:#2e8f6b;--nothing:#92a7c6;
--failed:#c62f1d;--timed_out:#b3437a;--cancelled:#8a8d94;--running:#2563c4;--skipped:#c77700;--missed:#7448b8;--load:#4d5f7d}
@media(prefers-color-scheme:dark){svg{--bg:#121317;--text:#e9eaed;--mute:#a7abb5;--lane:#20232a;--grid:#33363f;
--succeeded:#4cc295;--nothing:#5d7397;--failed:#ff6b57;--timed_out:#f08bbd;--cancelled:#7d828d;--running:#6aa3f8;
--skipped:#e2a93f;--missed:#b08cf0;--load:#92a7c6}}
text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--text);white-space:pre}
.h{font-size:17px;font-weight:600}.m{fill:var(--mute)}.s{font-size:11px;fill:var(--mute)}.e{text-anchor:end}.c{text-anchor:middle}
.w{fill:var(--skipped)}.b{fill:var(--failed)}.bg{fill:var(--bg)}.lane{fill:var(--lane)}.grid{stroke:var(--grid)}
.clock{stroke:var(--running);stroke-dasharray:4 3}.load{fill:var(--load)}
.succeeded{fill:var(--succeeded)}.nothing{fill:var(--nothing)}.failed{fill:var(--failed)}.timed_out{fill:var(--timed_out)}
.cancelled{fill:var(--cancelled)}.running{fill:var(--running)}.skipped{fill:var(--skipped)}.missed{fill:var(--missed)}
.l1{opacity:.4}.l2{opacity:.55}.l3{opacity:.75}
"""

_LEGEND = (
    ("succeeded", "succeeded"),
    ("nothing", "nothing to do"),
    ("failed", "failed"),
    ("timed_out", "timed out"),
    ("cancelled", "cancelled"),
    ("running", "goes on at the end"),
    ("skipped", "skipped"),
    ("missed", "missed"),
)


def draw(figures: Figures) -> str:
    """Draw the picture; tasks that are switched off are left out."""
    tasks = [task for task in figures.tasks if task.off is None]
    row = 30 if len(tasks) <= 12 else 20 if len(tasks) <= 30 else 15
    bottom = _TOP + row * len(tasks)
    height = bottom + 2 * (_CHART + 34) + 16
    axis = axis_of(figures, LEFT, WIDTH - RIGHT, zone_of(figures))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img"><style>{_STYLE}</style>',
        rect(0, 0, WIDTH, height, "bg"),
        *_head(figures, tasks),
        *_grid(axis, _TOP, height - 16),
        *(
            part
            for number, task in enumerate(tasks)
            for part in _row(figures, axis, task, _TOP + number * row, row)
        ),
        *_clock_changes(figures, axis, bottom),
        *_loads(figures, axis, bottom + 34),
        "</svg>\n",
    ]
    return "\n".join(parts)


def _head(figures: Figures, tasks: list[TaskFigures]) -> Iterator[str]:
    rehearsal = figures.rehearsal
    start = to_datetime(rehearsal.first).astimezone(zone_of(figures))
    long = format_duration(round(rehearsal.script.seconds, 3))
    yield text(16, 28, f"{rehearsal.service}, {long} from {start:%Y-%m-%d %H:%M} {rehearsal.timezone}", "h")
    losses = f"{figures.total('skipped'):,} skipped, {figures.total('missed'):,} missed"
    yield text(
        16,
        48,
        f"{len(tasks)} tasks, {figures.total('runs'):,} runs, {losses}; rehearsed with seed {rehearsal.script.seed}",
        "m",
    )
    tracks = rehearsal.tracks.values()
    seen = {OUTCOMES[run.outcome] for track in tracks for run in track.runs if run.started < rehearsal.last}
    seen |= {kind for task in tasks for kind in ("skipped", "missed") if getattr(task, kind)}
    x = LEFT
    for name, words in _LEGEND:
        if name in seen:
            yield rect(x, 59, 12, 12, name, radius=2)
            yield text(x + 17, 69, words, "m")
            x += round(30 + 6.6 * len(words))
    if figures.worst:
        yield f'<path d="M{x + 1:.0f} 60h10l-5 9z" class="load"/>'
        yield text(x + 17, 69, f"{figures.together} or more due in one second", "m")


def _grid(axis: Axis, top: float, bottom: float) -> Iterator[str]:
    for x, label in axis.ticks:
        yield f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}" class="grid"/>'
        yield text(x, top - 5, label, "s c")


# A row


def _row(figures: Figures, axis: Axis, task: TaskFigures, y: float, height: float) -> Iterator[str]:
    track = figures.rehearsal.tracks.get(task.name)
    lane = height - (5 if height > 18 else 3)
    base = y + height / 2 + 4
    yield titled(text(LEFT - 10, base, _end(task.name, 28), "e"), f"{task.name}, {task.options.schedule}")
    yield rect(LEFT, y, axis.width, lane, "lane", radius=2)
    if track is not None:
        has_gone = bool(track.gone)
        part = lane * 0.62 if has_gone else lane
        yield from run_marks(track, axis, y, part, clock_of(figures))
        if has_gone:
            yield from gone_marks(track, axis, y + part + 1, lane - part - 1, clock_of(figures))
    words, kind = _summary(task)
    yield titled(text(WIDTH - RIGHT + 10, base, _start(words, 27), kind), words)


def _summary(task: TaskFigures) -> tuple[str, str]:
    runs = f"{task.runs:,} run{'' if task.runs == 1 else 's'}"
    bad = [
        f"{task.outcomes[name]:,} {name.replace('_', ' ')}"
        for name in ("failed", "timed_out")
        if name in task.outcomes
    ]
    lost = [
        f"{count:,} {kind}: {reason}"
        for kind, reasons in (("skipped", task.skipped), ("missed", task.missed))
        for reason, count in reasons.items()
    ]
    kind = "s b" if bad else "s w" if lost else "s"
    return ", ".join([runs, *bad, *lost]), kind


def _end(name: str, most: int) -> str:
    return name if len(name) <= most else f"…{name[1 - most :]}"


def _start(words: str, most: int) -> str:
    return words if len(words) <= most else f"{words[: most - 1]}…"


def _clock_changes(figures: Figures, axis: Axis, bottom: float) -> Iterator[str]:
    for change in figures.changes:
        x = axis.x(change.at)
        words = f"{change.zone}: {change.from_time} becomes {change.to_time}"
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}" class="clock"/>'
        yield titled(line, "; ".join([words, *(f"{task.task} {task.effect}" for task in change.tasks)]))
        is_right = x > (LEFT + WIDTH - RIGHT) / 2
        yield text(x + (-5 if is_right else 5), bottom + 12, words, "s e" if is_right else "s")


# The load


def _loads(figures: Figures, axis: Axis, top: float) -> Iterator[str]:
    starts = [float(minute.starts) for minute in figures.minutes]
    progress = [minute.in_progress for minute in figures.minutes]
    yield from _chart(figures, axis, top, starts, "runs started a minute", "at most")
    yield from _worst(figures, axis, top)
    yield from _chart(
        figures, axis, top + _CHART + 34, progress, "runs in progress", "mean of a minute, at most"
    )


def _chart(
    figures: Figures, axis: Axis, top: float, values: list[float], what: str, how: str
) -> Iterator[str]:
    most = max(values, default=0.0)
    bottom = top + _CHART
    yield text(LEFT - 10, top + 16, what, "e")
    yield text(LEFT - 10, top + 31, f"{how} {most:,.3g}" if most < 1000 else f"{how} {most:,.0f}", "s e")
    yield rect(LEFT, top, axis.width, _CHART, "lane", radius=2)
    if not most:
        return
    path = [f"M{LEFT:.1f} {bottom:.1f}"]
    for left, _, value in axis.columns(values):
        y = f"V{bottom - value / most * (_CHART - 4):.1f}"
        if path[-1] != y:
            path += [f"H{left:.1f}", y]
    path.append(f"H{LEFT + axis.width:.1f}V{bottom:.1f}z")
    number = values.index(most)
    at = clock_of(figures)(figures.rehearsal.first + number * 60 * SECOND)
    yield titled(f'<path d="{"".join(path)}" class="load"/>', f"{what}: {how} {most:,.4g}, at {at}")


def _worst(figures: Figures, axis: Axis, top: float) -> Iterator[str]:
    clock = clock_of(figures)
    for one in figures.worst:
        x = axis.x(one.at * SECOND)
        names = ", ".join(one.tasks)
        title = f"{clock(one.at * SECOND)}: {len(one.tasks)} tasks are due in one second: {names}"
        yield titled(f'<path d="M{x - 5:.1f} {top - 11:.1f}h10l-5 9z" class="load"/>', title)
