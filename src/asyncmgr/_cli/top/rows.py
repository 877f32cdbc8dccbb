"""`TaskList`: what needs a person, then a row a task. Only the lines in sight are written: 1,000 tasks scroll well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from asyncmgr._cli.top.paint import fit, palette, wrapped
from asyncmgr._cli.top.sparks import axis_of, runs_of, scale, spark
from asyncmgr._cli.top.words import LOOKS, countdown, standing
from asyncmgr._cli.top.world import Need, Row, Standing

Key = tuple[str, str, str]
"""The kind of an item, its service and its task."""

Cell = tuple[str, str]
"""A text and the name of its colour."""

NEED_LINES = 2
"""Lines of one sentence; all of it is in the drawer."""

WIDE = 110
"""Columns from which on a sentence has one line, and there is room for more."""

LEAST_SPARK = 8


@dataclass(slots=True)
class Item:
    """One thing in the list."""

    kind: str
    """``need``, ``note``, ``axis``, ``service``, ``task``."""
    text: str = ""
    row: Row | None = None
    need: Need | None = None
    lines: list[str] = field(default_factory=list)

    @property
    def key(self) -> Key | None:
        """What it is known by; `None` = nobody can select it."""
        return None if self.row is None else (self.kind, *self.row.key)

    @property
    def height(self) -> int:
        return max(1, len(self.lines))


class Columns:
    """How wide the columns are."""

    def __init__(self, width: int, longest_name: int) -> None:
        self.next = 8
        self.standing = 22 if width < WIDE else 26
        self.schedule = 0 if width < WIDE else 16
        most = max(14, width * 3 // 10)
        self.name = max(10, min(longest_name, most))
        self.spark = width - 2 - self.name - self.standing - self.next - 3
        if self.schedule:
            self.spark -= self.schedule + 1
        if self.spark < LEAST_SPARK:
            self.name, self.spark = max(8, self.name + self.spark), 0


class TaskList(ScrollView, can_focus=True):
    """The list, with a cursor on a task."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "previous", show=False),
        Binding("down,j", "move(1)", "next", show=False),
        Binding("pageup", "leap(-1)", "page up", show=False),
        Binding("pagedown,space", "leap(1)", "page down", show=False),
        Binding("home,g", "end(-1)", "first", show=False),
        Binding("end,G", "end(1)", "last", show=False),
        Binding("enter", "open", "details", show=False),
    ]

    class Opened(Message):
        """Somebody wants the details of the task under the cursor."""

    class Moved(Message):
        """The cursor is on another task."""

    def __init__(self) -> None:
        super().__init__(id="tasks")
        self._items: list[Item] = []
        self._tops: list[int] = []
        self._lines: list[tuple[int, int]] = []
        """For each line the number of its item, and which of its lines it is."""
        self._axis_line = 0
        self._cursor = 0
        self._span = 3600
        self._columns = Columns(80, 20)
        self._sparks: dict[tuple[str, str], tuple[object, list[Cell]]] = {}
        self._shown_from: int | None = None
        self.styles_of: Mapping[str, Style] = palette(dark=True)

    # What is shown

    def show(self, items: Sequence[Item], span: int, longest_name: int) -> None:
        """Show these items; the cursor stays on its task, and that on its line of the screen."""
        before, offset = self.selected_key, self._line_of_cursor() - self.scroll_offset.y
        self._items, self._span = list(items), span
        self._columns = Columns(self._room, longest_name)
        self._lay_out()
        self._cursor = self._find(before)
        self.virtual_size = Size(self._room, len(self._lines))
        moved = self._line_of_cursor() - offset
        if before is not None and before == self.selected_key and moved != self.scroll_offset.y:
            self.scroll_to(y=max(0, moved), animate=False)
        self.refresh()

    @property
    def _room(self) -> int:
        return max(20, self.scrollable_content_region.width)

    def _lay_out(self) -> None:
        self._lines, self._tops, self._axis_line = [], [], 0
        for number, item in enumerate(self._items):
            if item.need is not None:
                item.lines = self._wrap(item.need)
            self._tops.append(len(self._lines))
            if item.kind == "axis":
                self._axis_line = len(self._lines)
            self._lines += [(number, at) for at in range(item.height)]

    def _wrap(self, need: Need) -> list[str]:
        first = 3 + self._columns.name
        room = self._room - first
        lines = wrapped(need.text(), room, NEED_LINES + 1)
        if len(lines) == 1:
            return lines
        # What comes next has a column of its own, so it is the first thing to go.
        brief = wrapped(need.brief(), room, NEED_LINES)
        return brief if len(brief) < len(lines) else lines

    def _find(self, key: Key | None) -> int:
        """Find the item that the cursor belongs on: that of the key, else of the same task, else near the place."""
        if key is not None:
            for wanted in (key, ("task", *key[1:])):
                for number, item in enumerate(self._items):
                    if item.key == wanted:
                        return number
        near = [number for number, item in enumerate(self._items) if item.key is not None]
        return min(near, key=lambda number: abs(number - self._cursor), default=0)

    # The cursor

    @property
    def selected(self) -> Row | None:
        """The task under the cursor."""
        return self._items[self._cursor].row if self._cursor < len(self._items) else None

    @property
    def selected_key(self) -> Key | None:
        return self._items[self._cursor].key if self._cursor < len(self._items) else None

    def _line_of_cursor(self) -> int:
        return self._tops[self._cursor] if self._cursor < len(self._tops) else 0

    def action_move(self, by: int) -> None:
        at = self._cursor + by
        while 0 <= at < len(self._items):
            if self._items[at].key is not None:
                self._put_cursor(at)
                return
            at += by
        if by < 0:
            self.scroll_to(y=0, animate=False)

    def action_leap(self, pages: int) -> None:
        wanted = self._line_of_cursor() + pages * max(1, self.size.height - 2)
        self._put_cursor_near(wanted, pages)

    def action_end(self, side: int) -> None:
        self._put_cursor_near(0 if side < 0 else len(self._lines), -side)
        if side < 0:
            self.scroll_to(y=0, animate=False)

    def _put_cursor_near(self, line: int, direction: int) -> None:
        line = max(0, min(line, len(self._lines) - 1))
        numbers = [number for number, item in enumerate(self._items) if item.key is not None]
        if numbers:
            self._put_cursor(
                min(numbers, key=lambda number: (abs(self._tops[number] - line), -number * direction))
            )

    def _put_cursor(self, number: int) -> None:
        self._cursor = number
        self._keep_in_sight()
        self.refresh()
        self.post_message(self.Moved())

    def _keep_in_sight(self) -> None:
        top = self._line_of_cursor()
        bottom = top + self._items[self._cursor].height
        first = self.scroll_offset.y
        sticky = 1 if top > self._axis_line else 0
        if top - sticky < first:
            self.scroll_to(y=max(0, top - sticky), animate=False)
        elif bottom > first + self.size.height:
            self.scroll_to(y=bottom - self.size.height, animate=False)

    def action_open(self) -> None:
        if self.selected is not None:
            self.post_message(self.Opened())

    def on_click(self, event: events.Click) -> None:
        line = self._content_line(event.y)
        if line < len(self._lines):
            number = self._lines[line][0]
            if self._items[number].key is not None:
                is_again = number == self._cursor
                self._put_cursor(number)
                if is_again or event.chain > 1:
                    self.action_open()

    # Lines

    def _content_line(self, y: int) -> int:
        """Return the line of the list that is at line `y` of the widget: the axis stays in sight at the top."""
        first = self.scroll_offset.y
        return self._axis_line if y == 0 and first > self._axis_line else first + y

    def render_line(self, y: int) -> Strip:
        line = self._content_line(y)
        if line >= len(self._lines):
            return Strip.blank(self._room, self.rich_style)
        number, at = self._lines[line]
        item = self._items[number]
        cells = self._cells_of(item, at)
        base = self.styles_of["cursor"] if number == self._cursor and item.key is not None else Style.null()
        segments = [Segment(text, self.styles_of[colour] + base) for text, colour in cells]
        return Strip(segments).adjust_cell_length(self._room, base).apply_style(self.rich_style)

    def _cells_of(self, item: Item, at: int) -> list[Cell]:
        if item.need is not None:
            return self._need_cells(item.need, item.lines[at] if item.lines else "", at)
        if item.kind == "task" and item.row is not None:
            return self._task_cells(item.row)
        if item.kind == "axis":
            return self._axis_cells()
        return [(fit(f" {item.text}", self._room), "strong" if item.kind == "service" else "mute")]

    def _need_cells(self, need: Need, text: str, at: int) -> list[Cell]:
        width = self._columns.name
        colour = "old" if need.on.is_lost else None
        if at:
            return [(" " * (width + 3), "text"), (text, colour or "text")]
        return [
            (f"{need.look.sign} ", colour or need.look.colour),
            (f"{fit(need.name, width)} ", colour or "strong"),
            (text, colour or "text"),
        ]

    def _task_cells(self, row: Row) -> list[Cell]:
        worst = row.worst()
        if worst is None:
            return []
        look, now, columns = LOOKS.get(worst.state, LOOKS["new"]), worst.on.now(), self._columns
        following = row.next()
        quiet = look.colour in ("ok", "mute")
        cells = [
            (f"{look.sign} ", look.colour),
            (f"{fit(row.name, columns.name)} ", "mute" if worst.state == "disabled" else "text"),
        ]
        if columns.schedule:
            cells.append((f"{fit(str(worst.facts['schedule']), columns.schedule)} ", "faint"))
        cells.append(
            (f"{fit(standing(worst.facts, now), columns.standing)} ", "mute" if quiet else look.colour)
        )
        if columns.spark:
            cells += [*self._spark_of(row, worst, columns.spark), (" ", "text")]
        cells.append(
            (fit("" if following is None else countdown(following, now), columns.next, right=True), "text")
        )
        return [(text, "old") for text, _ in cells] if worst.on.is_lost else cells

    def _spark_of(self, row: Row, worst: Standing, width: int) -> list[Cell]:
        """Write what became of its slots on all hosts; kept until something has changed or the axis moves."""
        axis = axis_of(worst.on.now(), self._span, width)
        marks = [mark for one in row.on for mark in one.marks.get(row.name, ())]
        running = min(
            (one.facts["running"]["since"] for one in row.standings() if "running" in one.facts), default=None
        )
        paused = (worst.facts.get("paused") or {}).get("since") if worst.state == "paused" else None
        made_of = (axis.begin, width, len(marks), marks[-1] if marks else None, running, paused)
        known = self._sparks.get(row.key)
        if known is None or known[0] != made_of:
            known = self._sparks[row.key] = (made_of, list(runs_of(spark(marks, axis, running, paused))))
        return known[1]

    def _axis_cells(self) -> list[Cell]:
        columns = self._columns
        schedule = f"{fit('schedule', columns.schedule)} " if columns.schedule else ""
        cells = [(f"  {fit('task', columns.name)} {schedule}{fit('last run', columns.standing)} ", "faint")]
        if columns.spark:
            axis = axis_of(0, self._span, columns.spark)
            cells.append((f"{scale(axis, 0, self._span)} ", "faint"))
        return [*cells, (fit("next", columns.next, right=True), "faint")]
