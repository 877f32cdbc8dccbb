"""`Drawer`: all that is known of one task. The same lines are what "copy as text" copies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from asyncmgr._cli.top.sparks import SIGNS
from asyncmgr._cli.top.words import (
    LOOKS,
    ago,
    countdown,
    fate_in_words,
    long,
    plural,
    sentence,
    standing,
    when,
)
from asyncmgr._cli.top.world import Row, Standing
from asyncmgr._common.safe_text import printable
from asyncmgr._history.slots import FATES
from asyncmgr._monitoring.page_data import Json

Line = list[tuple[str, str]]
"""Texts with the names of their colours."""

SLOTS = 40

_DONE = ("succeeded", "nothing", "cancelled")


def sheet(row: Row, shown: Standing, detail: Json | None) -> Iterator[Line]:
    """Write the lines of the drawer. `detail` is what `gather_detail` gave; `None` = it has not come yet."""
    facts, now = shown.facts, shown.on.now()
    look = LOOKS.get(shown.state, LOOKS["new"])
    yield [(f"{look.sign} ", look.colour), (printable(row.name, 300), "strong")]
    yield [(f"  {_schedule(facts)}, on {printable(shown.on.wire.label)}", "mute")]
    yield []
    yield [(_sentence(shown, detail), look.colour if "need" in facts else "text")]
    if shown.on.is_lost:
        yield [(f"What you see is {long(shown.on.silent)} old.", "bad")]
    yield from _others(row, shown)
    yield from _waits(detail)
    yield from _part("facts")
    for word, value in _facts(facts, now):
        yield [(f"  {word:<13}", "mute"), (printable(value, 400), "text")]
    yield from _actions(detail, now)
    yield from _slots(facts, detail, now)


def as_text(lines: Iterator[Line]) -> str:
    """Write the lines for a ticket."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines) + "\n"


def _part(title: str) -> Iterator[Line]:
    yield []
    yield [(title.upper(), "faint")]


def _schedule(facts: Json) -> str:
    timeout = facts.get("timeout")
    limit = ", no timeout" if timeout == 0 else f", timeout {long(timeout * 1000)}" if timeout else ""
    return f"{facts['schedule']}{limit}"


def _sentence(shown: Standing, detail: Json | None) -> str:
    facts, now = shown.facts, shown.on.now()
    if "need" in facts:
        return sentence(facts["need"]["text"], now)
    if detail is not None:
        return printable(detail["text"], 1000)
    said = standing(facts, now)
    return f"{said[0].upper()}{said[1:]}."


def _others(row: Row, shown: Standing) -> Iterator[Line]:
    standings = list(row.standings())
    if len(standings) < 2:
        return
    yield from _part("hosts (h: the next one)")
    for one in standings:
        look = LOOKS.get(one.state, LOOKS["new"])
        mark = "▸" if one.on is shown.on else " "
        said = standing(one.facts, one.on.now())
        yield [(f"{mark} {look.sign} ", look.colour), (f"{printable(one.on.wire.host)}: {said}", "text")]


def _waits(detail: Json | None) -> Iterator[Line]:
    if detail is None or not detail["waits"]:
        return
    yield from _part("where the run in progress waits")
    width = max(len(one["place"]) for one in detail["waits"])
    for one in detail["waits"]:
        yield [(f"  {one['place']:<{width}}  ", "run"), (one["function"], "text")]


def _facts(facts: Json, now: int) -> Iterator[tuple[str, str]]:
    running, paused, last = facts.get("running"), facts.get("paused"), facts.get("last")
    if running:
        attempt = f", attempt {running['attempt']}" if running["attempt"] > 1 else ""
        yield (
            "running",
            f"{long(now - running['since'])}, {running['trigger']}, run {running['run']}{attempt}",
        )
        if running["progress"]:
            done, total, message = running["progress"]
            of = f" of {total:g} ({min(100, done / total * 100):.0f} %)" if total else ""
            yield "progress", f"{done:g}{of}{f', {message}' if message else ''}"
    if paused:
        until = f"until {when(paused['until'], now)}" if paused["until"] else "until somebody resumes it"
        note = f' ("{paused["note"]}")' if paused["note"] else ""
        yield "paused", f"by {paused['by']} at {when(paused['since'], now)}, {until}{note}"
    if facts.get("off"):
        yield "off", facts["off"]
    following = facts.get("next")
    yield "next slot", f"{when(following, now)}, in {countdown(following, now)}" if following else "none"
    if last:
        yield (
            "last run",
            f"{fate_in_words(last['fate'], None)}, {ago(last['end'], now)}, took {long(last['took'] * 1000)}",
        )
    success = facts.get("success")
    yield "last success", f"{when(success, now)}, {ago(success, now)}" if success else "never"
    if facts.get("error"):
        yield "last error", facts["error"]
    if facts.get("usual"):
        yield "usual length", long(facts["usual"] * 1000)
    if facts.get("freshness"):
        yield "promises", f"a success every {long(facts['freshness'] * 1000)}"
    if facts.get("owner"):
        yield "run by", facts["owner"]
    runs, skipped, missed = facts["counts"]
    yield "so far", f"{plural(runs, 'run')}; slots skipped: {skipped:,}, missed: {missed:,}"


def _actions(detail: Json | None, now: int) -> Iterator[Line]:
    if detail is None or not detail["actions"]:
        return
    yield from _part("who did what")
    for one in reversed(detail["actions"][-8:]):
        note = f' ("{one["note"]}")' if one.get("note") else ""
        who = printable(one.get("who") or "somebody", 80)
        yield [(f"  {when(one['at'], now)}  ", "mute"), (f"{one['kind']}, {who}{note}", "text")]


def _slots(facts: Json, detail: Json | None, now: int) -> Iterator[Line]:
    yield from _part("slots, newest first")
    running = facts.get("running")
    if running:
        yield [
            (f"  {when(running['since'], now):<9} ", "mute"),
            ("▶ running", "run"),
            (f", {long(now - running['since'])}", "text"),
        ]
    slots = None if detail is None else detail["slots"]
    if not slots and not running:
        yield [("  Asking …" if detail is None else "  None yet.", "mute")]
    for one in (slots or [])[:SLOTS]:
        yield _slot(one, now)


def _slot(one: Mapping[str, Any], now: int) -> Line:
    fate, reason = FATES[one["fate"]]
    look = SIGNS[one["fate"]]
    many = f", {plural(one['count'], 'slot')}" if one["count"] > 1 else ""
    took = "" if one["took"] is None else f", {long(one['took'] * 1000)}"
    late = f", {long(one['late'] * 1000)} late" if (one["late"] or 0) > 1 else ""
    text = f": {one['text']}" if one["text"] and fate not in _DONE and reason != "overlap" else ""
    said = fate_in_words(str(fate), None if reason is None else str(reason))
    return [
        (f"  {when(one['slot'], now):<9} ", "mute"),
        (f"{look.sign} {said}", look.colour),
        (f"{many}{took}{late}{text}", "text"),
    ]


class Drawer(VerticalScroll):
    """The lines of one task, which scroll."""

    def __init__(self) -> None:
        super().__init__(id="drawer")
        self._body = Static(id="sheet")

    def compose(self) -> ComposeResult:
        yield self._body

    def show(self, lines: Iterator[Line], styles: Mapping[str, Style]) -> None:
        """Show these lines."""
        text = Text(overflow="fold")
        for number, line in enumerate(lines):
            if number:
                text.append("\n")
            for part, colour in line:
                text.append(part, styles[colour])
        self._body.update(text)
