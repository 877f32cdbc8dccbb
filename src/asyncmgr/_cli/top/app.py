"""`TopApp`: the screen of ``asyncmgr top``. Asks each second, shows what came, and does what a person wants done."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Static

from asyncmgr._cli.doors import Refused
from asyncmgr._cli.top.dialogs import Dialog, Help
from asyncmgr._cli.top.drawer import Drawer, as_text, sheet
from asyncmgr._cli.top.paint import palette
from asyncmgr._cli.top.rows import WIDE, Item, TaskList
from asyncmgr._cli.top.verbs import TELLS, question_of
from asyncmgr._cli.top.watching import Watch, Watched
from asyncmgr._cli.top.words import clock, long, plural
from asyncmgr._cli.top.world import (
    FILTERS,
    Need,
    Row,
    Standing,
    chosen,
    earlier,
    headline,
    needs_of,
    phrases,
    rows_of,
)
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.safe_text import printable
from asyncmgr._monitoring.detail import gather_detail
from asyncmgr._monitoring.page_data import Json
from asyncmgr.errors import AsyncmgrError

MOST_NEEDS = 6
"""Sentences at the top of the list; the filter "needs you" has all of them."""

SAID_FOR = 8
"""Rounds for which an answer stays in sight."""

EARLIER_AFTER = 10
"""Rounds after which what is over is looked for again."""

DETAIL_AFTER = 5
"""Rounds after which an open drawer asks again though nothing has changed."""

SPANS = {"1": 900, "2": 3600, "3": 21_600, "4": 86_400}


class TopApp(App[None]):
    """The application.

    Parameters
    ----------
    watch
        The services.
    every
        Seconds between two rounds; `None` = whoever made the application calls `step`, as tests do.
    """

    CSS = """
    Screen { layers: base; }
    #title, #headline, #keys { height: 1; padding: 0 1; }
    #lost { height: auto; padding: 0 1; background: #b3261e; color: #ffffff; text-style: bold; display: none; }
    #lost.on { display: block; }
    #search { display: none; height: 1; border: none; padding: 0 1; }
    #search.on { display: block; }
    #main { height: 1fr; }
    #tasks { width: 1fr; height: 1fr; padding: 0 0 0 1; overflow-x: hidden; scrollbar-gutter: stable;
             scrollbar-size-vertical: 1; }
    #drawer { display: none; width: 46%; height: 1fr; border-left: solid $primary; padding: 0 1;
              scrollbar-size-vertical: 1; }
    .details #drawer { display: block; }
    .details.narrow #tasks { display: none; }
    .details.narrow #drawer { width: 1fr; border-left: none; }
    #said { height: auto; max-height: 4; padding: 0 1; display: none; }
    #said.on { display: block; }
    #said.bad { color: $text-error; text-style: bold; }
    Dialog, Help { align: center middle; }
    #ask { width: 70; max-width: 95%; height: auto; max-height: 95%; border: round $primary; padding: 0 2;
           background: $surface; }
    #ask-title { text-style: bold; width: 1fr; }
    #ask-text, .field { width: 1fr; color: $text-muted; }
    #ask Input { background: $boost; border: none; height: 1; padding: 0; }
    #ask-problem { width: 1fr; color: $text-error; }
    #ask-buttons { height: auto; align-horizontal: right; }
    #ask-buttons Button { margin-left: 2; border: none; height: 1; min-width: 8; padding: 0 2; }
    #help { width: 70; max-width: 95%; height: auto; max-height: 95%; border: round $primary; padding: 0 2;
            background: $surface; }
    """

    TITLE = "asyncmgr top"

    ENABLE_COMMAND_PALETTE = False

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "leave"),
        Binding("slash", "search", "search"),
        Binding("escape", "leave", "back", show=False),
        *(Binding(key, f"show('{name}')", name) for key, name in zip("anf", FILTERS, strict=True)),
        *(Binding(key, f"span({seconds})", show=False) for key, seconds in SPANS.items()),
        Binding("r", "verb('trigger')", "run now"),
        Binding("p", "pause", "pause or resume"),
        Binding("c", "verb('cancel')", "cancel the run"),
        Binding("s", "verb('reschedule')", "schedule"),
        Binding("d", "switch", "switch off or on"),
        Binding("h", "host", "next host", show=False),
        Binding("y", "copy", "copy as text", show=False),
        Binding("t", "theme", "light or dark", show=False),
        Binding("question_mark", "help", "keys"),
    ]

    def __init__(self, watch: Watch, *, every: float | None = 1.0) -> None:
        super().__init__()
        self.services = watch
        self._every = every
        self._shown = FILTERS[0]
        self._search = ""
        self._rows: list[Row] = []
        self._needs: list[Need] = []
        self._revision: object = None
        self._round = 0
        self._said_until = 0
        self._earlier: tuple[int, str] = (-EARLIER_AFTER, "")
        self._open: tuple[str, str] | None = None
        self._host: str | None = None
        self._detail: Json | None = None
        self._detail_of: object = None
        self._detail_round = 0
        self.copied = ""
        """The text that was copied last."""

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        yield Static(id="lost")
        yield Static(id="headline")
        yield Input(placeholder="part of a task's name; Enter keeps it, Esc ends it", id="search")
        with Horizontal(id="main"):
            yield TaskList()
            yield Drawer()
        yield Static(id="said")
        yield Static(id="keys")

    async def on_mount(self) -> None:
        self.theme = "textual-dark"
        self.query_one(TaskList).focus()
        self._draw()
        if self._every is not None:
            self.run_worker(self._go_on(self._every), name="watch")

    async def _go_on(self, every: float) -> None:
        while True:
            await self.step()
            await asyncio.sleep(every)

    async def step(self) -> None:
        """Ask all services once, and show what came."""
        await self.services.step()
        self._round += 1
        if self._round == self._said_until:
            self._say("")
        await self._ask_detail()
        self._draw()

    @property
    def styles_of(self) -> Mapping[str, Style]:
        return palette(dark=self.current_theme.dark)

    # Showing

    def on_resize(self) -> None:
        self.set_class(self.size.width < WIDE, "narrow")
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        watched = list(self.services.watched.values())
        revision = (self.services.revision, [one.is_lost for one in watched])
        if self._revision != revision:
            self._revision, self._rows = revision, rows_of(watched)
            self._needs = needs_of(self._rows, watched)
        needs = self._needs
        self._draw_head(watched, needs)
        tasks = self.query_one(TaskList)
        tasks.styles_of = self.styles_of
        rows = chosen(self._rows, self._shown, self._search)
        longest = max((len(row.name) for row in rows), default=8)
        tasks.show(self._items(rows, needs, watched), self.services.span, longest)
        self._draw_drawer()
        self._draw_keys()

    def _draw_head(self, watched: list[Watched], needs: list[Need]) -> None:
        styles, lost = self.styles_of, [one for one in watched if one.is_lost]
        where = _where(watched)
        live = ("● lost", "bad") if lost else ("● live", "ok") if self._rows else ("● asking", "mute")
        title = (
            Text()
            .append("asyncmgr top  ", styles["strong"])
            .append(f"{printable(where, 60)}  ", styles["mute"])
        )
        title.append(live[0], styles[live[1]])
        self._right(title, clock(self.services.now()), "mute")
        self.query_one("#title", Static).update(title)
        is_known = bool(self._rows) or any(not one.is_lost and one.is_read for one in watched)
        said, rest = headline(needs, len(self._rows)) if is_known else ("Asking …", "")
        colour = (
            "old"
            if lost and len(lost) == len(watched)
            else "warn"
            if needs
            else "ok"
            if self._rows
            else "mute"
        )
        line = Text().append(f"{said}  ", styles[colour]).append(rest, styles["mute"])
        self._right(line, self._filter_text(sum(one.row is not None for one in needs)), "mute")
        self.query_one("#headline", Static).update(line)
        bar = self.query_one("#lost", Static)
        bar.set_class(bool(lost), "on")
        bar.update(Text("\n".join(_lost(one) for one in lost[:3]), overflow="ellipsis"))

    def _right(self, text: Text, right: str, colour: str) -> None:
        room = self.size.width - 2 - text.cell_len - len(right)
        if room > 0:
            text.append(" " * room).append(right, self.styles_of[colour])

    def _filter_text(self, needing: int) -> str:
        names = {"all": "all", "needs you": f"needs you {needing}", "failing only": "failing"}
        shown = "  ".join(f"[{text}]" if name == self._shown else text for name, text in names.items())
        return f"{shown}  /{self._search}" if self._search else shown

    def _items(self, rows: list[Row], needs: list[Need], watched: list[Watched]) -> list[Item]:
        items: list[Item] = []
        if not self._search:
            most = max(2, min(MOST_NEEDS, self.size.height // 6)) if self._shown == "all" else len(needs)
            items += [Item("need", row=one.row, need=one) for one in needs[:most]]
            if len(needs) > most:
                items.append(Item("note", f"and {len(needs) - most} more: press n"))
            if self._shown == "all" and (over := self._over(watched)):
                items.append(Item("note", f"Earlier: {over}"))
        items.append(Item("axis"))
        services = {one.wire.service for one in watched}
        last = None
        for row in rows:
            if len(services) > 1 and row.service != last:
                last = row.service
                items.append(Item("service", row.service))
            items.append(Item("task", row=row))
        if not rows and self._rows:
            why = (
                f"no task has {self._search!r} in its name"
                if self._search
                else f"no task is {_WORD[self._shown]}"
            )
            items.append(Item("note", f"{why}; a shows all"))
        return items

    def _over(self, watched: list[Watched]) -> str:
        if self._rows and self._round - self._earlier[0] >= EARLIER_AFTER:
            self._earlier = (self._round, phrases(earlier(watched, self._rows, self.services.span)))
        return self._earlier[1]

    def _draw_keys(self) -> None:
        keys = (
            [
                ("↑↓", "task"),
                ("Esc", "close"),
                ("r", "run"),
                ("p", "pause"),
                ("c", "cancel"),
                ("y", "copy"),
                ("?", "keys"),
            ]
            if self._open
            else [
                ("Enter", "details"),
                ("r", "run"),
                ("p", "pause"),
                ("c", "cancel"),
                ("/", "search"),
                ("n", "needs you"),
                ("?", "keys"),
                ("q", "quit"),
            ]
        )
        text = Text()
        for key, what in keys:
            text.append(f"{key} ", self.styles_of["strong"]).append(f"{what}  ", self.styles_of["mute"])
        self.query_one("#keys", Static).update(text)

    def _say(self, text: str, *, bad: bool = False) -> None:
        said = self.query_one("#said", Static)
        said.set_class(bool(text), "on")
        said.set_class(bad, "bad")
        said.update(Text(text))
        self._said_until = self._round + (2 if bad else 1) * SAID_FOR

    # The drawer

    def _standing(self) -> tuple[Row, Standing] | None:
        """Return the task that is meant: that of the drawer, else that under the cursor; on the host that is shown."""
        row = self.query_one(TaskList).selected
        if self._open is not None:
            row = next((one for one in self._rows if one.key == self._open), None)
        shown = None if row is None else row.worst()
        if row is None or shown is None:
            return None
        return row, next((one for one in row.standings() if one.on.wire.key == self._host), shown)

    def on_task_list_opened(self) -> None:
        row = self.query_one(TaskList).selected
        if row is not None:
            self._open, self._host, self._detail, self._detail_of = row.key, None, None, None
            self.add_class("details")
            self.query_one(Drawer).scroll_home(animate=False)
            self.run_worker(self._show_detail(), name="detail", exclusive=True, group="detail")
            self.call_after_refresh(self._draw)

    def on_task_list_moved(self) -> None:
        row = self.query_one(TaskList).selected
        if self._open is not None and row is not None and row.key != self._open:
            self.on_task_list_opened()

    async def _show_detail(self) -> None:
        await self._ask_detail()
        self._draw_drawer()

    async def _ask_detail(self) -> None:
        """Ask for what the drawer shows, where its task has changed, or it is old."""
        meant = self._standing() if self._open is not None else None
        if meant is None or meant[1].on.is_lost:
            return
        row, shown = meant
        made_of = (row.key, shown.on.wire.key, shown.facts)
        if made_of == self._detail_of and self._round - self._detail_round < DETAIL_AFTER:
            return
        try:
            detail = await gather_detail(shown.on.wire.ask, row.name, shown.on.wire.host)
        except (AsyncmgrError, KeyError, TypeError, ValueError):
            return  # the round says it, and asks again
        if self._open == row.key:
            self._detail, self._detail_of, self._detail_round = detail, made_of, self._round

    def _draw_drawer(self) -> None:
        if self._open is None:
            return
        meant = self._standing()
        if meant is None:
            self.action_leave()
            return
        self.query_one(Drawer).show(sheet(*meant, self._detail), self.styles_of)

    def action_host(self) -> None:
        meant = self._standing()
        if self._open is not None and meant is not None:
            keys = [one.on.wire.key for one in meant[0].standings()]
            self._host = keys[(keys.index(meant[1].on.wire.key) + 1) % len(keys)]
            self._detail = self._detail_of = None
            self.run_worker(self._show_detail(), name="detail", exclusive=True, group="detail")
            self._draw_drawer()

    def action_copy(self) -> None:
        meant = self._standing()
        if meant is None:
            return
        detail = self._detail if self._open is not None else None
        now = meant[1].on.now()
        head = f"{to_datetime(now * 1000).astimezone():%Y-%m-%d %H:%M:%S %z}\n"
        self.copied = head + as_text(sheet(*meant, detail))
        self.copy_to_clipboard(self.copied)
        self._say("Copied, if your terminal allows it (OSC 52). Shift and the mouse select in any terminal.")

    # What a person chooses

    def action_search(self) -> None:
        search = self.query_one("#search", Input)
        search.add_class("on")
        search.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if event.input.id == "search":
            self._search = event.value.strip()
            self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if event.input.id == "search":
            event.input.remove_class("on")
            self.query_one(TaskList).focus()

    def action_leave(self) -> None:
        """Close what is open: the search, else the drawer."""
        search = self.query_one("#search", Input)
        if search.has_class("on") or (self._open is None and self._search):
            search.value = ""
            search.remove_class("on")
        elif self._open is not None:
            self._open = self._host = self._detail = None
            self.remove_class("details")
            self.call_after_refresh(self._draw)
        self.query_one(TaskList).focus()

    def action_show(self, shown: str) -> None:
        self._shown = shown
        self._draw()

    async def action_span(self, span: int) -> None:
        self.services.show(span)
        self._earlier = (-EARLIER_AFTER, "")
        self._say(f"Showing {long(span * 1000)}.")
        self._draw()

    def action_theme(self) -> None:
        self.theme = "textual-light" if self.current_theme.dark else "textual-dark"
        self._draw()

    def action_help(self) -> None:
        self.push_screen(Help(self.styles_of))

    # Verbs

    def action_pause(self) -> None:
        meant = self._standing()
        self.action_verb("resume" if meant is not None and "paused" in meant[1].facts else "pause")

    def action_switch(self) -> None:
        meant = self._standing()
        self.action_verb("enable" if meant is not None and "off" in meant[1].facts else "disable")

    def action_verb(self, verb: str) -> None:
        """Use a verb on the task that is meant, after a question where it may hurt or needs something."""
        meant = self._standing()
        if meant is None:
            self._say("No task is selected.", bad=True)
            return
        row, shown = meant
        if shown.on.is_lost:
            self._say(f"{shown.on.wire.label} does not answer: nothing was done.", bad=True)
            return
        question = question_of(verb, row, shown)
        if question is None:
            self.run_worker(self._perform(verb, row, shown.on, {}), group="verbs")
            return

        def go(given: Mapping[str, Any] | None) -> None:
            if given is not None:
                self.run_worker(self._perform(verb, row, shown.on, given), group="verbs")

        self.push_screen(Dialog(question), go)

    async def _perform(self, verb: str, row: Row, on: Watched, given: Mapping[str, Any]) -> None:
        where = f"{printable(on.wire.host, 40)}: " if len(row.on) > 1 else ""
        try:
            answer = await on.wire.ask(verb, task=row.name, **given)
            said = TELLS[verb](answer, to_datetime(read_wall()))
        except Refused as exc:
            self._say(f"{where}Refused: {printable(str(exc), 1000)}", bad=True)
        except (AsyncmgrError, OSError, KeyError, TypeError, ValueError) as exc:
            self._say(f"{where}{printable(str(exc))}. Nothing is known of whether it was done.", bad=True)
        else:
            self._say(f"{where}{printable(said, 1000)}", bad=answer.get("run_ids") == [])
        await on.look(everywhere=False)
        self._draw()


_WORD = {"all": "here", "needs you": "in need of you", "failing only": "failing"}


def _where(watched: list[Watched]) -> str:
    services = {one.wire.service for one in watched}
    if not watched:
        return "looking for services"
    if len(watched) == 1:
        return watched[0].wire.label
    if len(services) > 1:
        return plural(len(services), "service")
    are_hosts = len({one.wire.host for one in watched}) == len(watched)
    many = plural(len(watched), "host") if are_hosts else f"{len(watched)} processes"
    return f"{services.pop()}, {many}"


def _lost(one: Watched) -> str:
    return (
        f"{one.wire.label}: no word for {long(max(1000, one.silent))}, what you see is old"
        f"{f' ({printable(one.error, 200)})' if one.error else ''}; trying again."
    )
