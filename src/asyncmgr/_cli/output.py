"""Writes data to stdout: JSON for programs; tables on a terminal, with rich if it is installed, else as plain text.

Names and texts come from other hosts too. If a person reads them, this module escapes what would move the cursor.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TextIO

import click

from asyncmgr._common.safe_text import printable

if TYPE_CHECKING:
    from rich.table import Table

Row = Sequence[str]

_GAP = "  "

LONGEST = 100_000
"""Most characters of one line."""


def write_json(data: Any) -> None:
    """Write data to stdout."""
    click.echo(json_text(data, indent=2))


def write_json_line(data: Any) -> None:
    """Write data to stdout as one line, and flush."""
    click.echo(json_text(data))


def json_text(data: Any, indent: int | None = None) -> str:
    """Write JSON that people can read too. Escapes what would move the cursor or cannot be encoded."""
    return "\n".join(map(_escaped_json, json.dumps(data, indent=indent, ensure_ascii=False).split("\n")))


def _escaped_json(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in line)


def write_text(text: str) -> None:
    """Write another program's text to stdout: unchanged to a pipe, without cursor movements to a terminal."""
    click.echo(lines_of(text) if sys.stdout.isatty() else text.encode(errors="backslashreplace"))


def lines_of(text: str) -> str:
    """Keep the lines of another program's text, and escape whatever else moves the cursor."""
    return "\n".join(printable(line.replace("\t", "    "), LONGEST) for line in text.split("\n"))


def cells_of(rows: Iterable[Row]) -> list[Row]:
    """Escape what would move the cursor in the cells of rows."""
    return [[printable(cell, LONGEST) for cell in row] for row in rows]


def discard_stdout() -> None:
    """Discard further output: the reader has closed the pipe, and Python would complain when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shortened(text: str, width: int) -> str:
    """Cut the text to one line of this width."""
    text = printable(text, LONGEST)
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


def room_for_last(headers: Row, rows: Iterable[Row], width: int) -> int:
    """Return how many columns a line of this width leaves for the last column of a table."""
    *others, _ = _widths(headers, rows)
    return width - sum(others) - len(_GAP) * len(others)


def write_table(
    headers: Row, rows: Iterable[Row], stream: TextIO, *, dim: Iterable[int] = (), paragraphs: Row = ()
) -> None:
    """Write rows under headers. If a terminal is too narrow, write the paragraphs instead, if there are any.

    `dim` are the numbers of the rows that matter less.
    """
    cells = cells_of(rows)
    paragraphs = [lines_of(text) for text in paragraphs]
    width = shutil.get_terminal_size().columns if stream.isatty() else None
    fits = width is None or sum(_widths(headers, cells)) + len(_GAP) * (len(headers) - 1) <= width
    if paragraphs and not fits:
        click.echo("\n".join(paragraphs), file=stream)
    elif width is not None and fits and find_spec("rich"):
        _write_rich(headers, cells, stream, frozenset(dim))
    else:
        _write_plain(headers, cells, stream)


def _widths(headers: Row, rows: Iterable[Row]) -> list[int]:
    return [max(map(len, column)) for column in zip(headers, *rows, strict=True)]


def _write_plain(headers: Row, rows: Iterable[Row], stream: TextIO) -> None:
    for line in table_lines(headers, rows):
        click.echo(line, file=stream)


def table_lines(headers: Row, rows: Iterable[Row]) -> Iterator[str]:
    """Write the table as lines of plain text."""
    rows = cells_of([headers, *rows])
    widths = _widths(headers, rows)
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield _GAP.join(padded).rstrip()


def _write_rich(headers: Row, rows: Iterable[Row], stream: TextIO, dim: frozenset[int]) -> None:
    # imported here: rich is optional, and only a terminal needs it
    from rich.console import Console

    Console(file=stream, highlight=False).print(rich_table(headers, rows, dim))


def rich_table(headers: Row, rows: Iterable[Row], dim: Iterable[int] = ()) -> Table:
    """Make the table for rich; needs rich."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    faded = frozenset(dim)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for header in headers:
        table.add_column(header, no_wrap=True)
    for number, row in enumerate(cells_of(rows)):
        # As Text: a bracket in a name is no markup.
        table.add_row(*map(Text, row), style="dim" if number in faded else None)
    return table
