"""Colours, and texts of others cut to columns. What others wrote is never markup and never moves the cursor."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from rich.cells import cell_len, set_cell_size
from rich.style import Style

from asyncmgr._common.safe_text import printable

DARK = {
    "ok": "#5fd38d",
    "bad": "#ff6b5e bold",
    "warn": "#f2b134 bold",
    "run": "#6cb6ff",
    "slate": "#9fb3c8",
    "sleep": "#c39bff",
    "mute": "#8b9199",
    "text": "#e6e6e6",
    "strong": "#ffffff bold",
    "faint": "#6b7178",
    "old": "#6b7178",
}
LIGHT = {
    "ok": "#1f7a4d",
    "bad": "#b3261e bold",
    "warn": "#8f5a00 bold",
    "run": "#0b5cad",
    "slate": "#4a5d73",
    "sleep": "#6a3fb5",
    "mute": "#5f6368",
    "text": "#202124",
    "strong": "#000000 bold",
    "faint": "#80868b",
    "old": "#a0a4a8",
}
CURSOR = {"dark": "on #2f3b4a", "light": "on #d3e3f5"}

LONGEST = 2_000


def palette(*, dark: bool) -> Mapping[str, Style]:
    """Return the style of each name of a colour, and ``cursor``."""
    named = {name: Style.parse(text) for name, text in (DARK if dark else LIGHT).items()}
    return {**named, "cursor": Style.parse(CURSOR["dark" if dark else "light"])}


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Make a text of others fill exactly so many columns: cut with ``…``, or padded."""
    if width <= 0:
        return ""
    text = printable(text, LONGEST)
    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…"
    padding = " " * (width - length)
    return padding + text if right else text + padding


def wrapped(text: str, width: int, most: int) -> list[str]:
    """Break a text of others into up to `most` lines; the last one ends with ``…`` where something is left out."""
    lines = textwrap.wrap(printable(text, LONGEST), max(8, width)) or [""]
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]} …"]
    return lines
