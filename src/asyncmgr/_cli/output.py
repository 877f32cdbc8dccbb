"""Writes data: JSON for programs; tables with rich on a terminal if it is installed, as plain text otherwise.

Names and texts come from other hosts too: what would move a cursor is escaped here, wherever a person reads it.
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
"""Characters of one line at most."""


def write_json(data: Any) -> None:
    """Write data to stdout."""
    click.echo(as_json(data, indent=2))


def write_json_line(data: Any) -> None:
    """Write data to stdout, in one line that is there at once."""
    click.echo(as_json(data))


def as_json(data: Any, indent: int | None = None) -> str:
    """JSON that can be read; what would move a cursor, or cannot be encoded, is written as an escape."""
    return "\n".join(map(_escaped_json, json.dumps(data, indent=indent, ensure_ascii=False).split("\n")))


def _escaped_json(line: str) -> str:
    if line.isprintable():
        return line
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in line)


def write_text(text: str) -> None:
    """Write a text of somebody else to stdout: as it is to a program, without what moves a cursor to a person."""
    click.echo(lines_of(text) if sys.stdout.isatty() else text.encode(errors="backslashreplace"))


def lines_of(text: str) -> str:
    """The text of somebody else, for a person to read: its lines are kept, and nothing else that moves a cursor."""
    return "\n".join(printable(line.replace("\t", "    "), LONGEST) for line in text.split("\n"))


def cells_of(rows: Iterable[Row]) -> list[Row]:
    """Rows with nothing in them that moves a cursor."""
    return [[printable(cell, LONGEST) for cell in row] for row in rows]


def discard_stdout() -> None:
    """Write to nowhere: whoever read this has enough, and Python would complain when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def shortened(text: str, width: int) -> str:
    """The text in one line, or what fits of it."""
    text = printable(text, LONGEST)
    return text if len(text) <= width else f"{text[: max(0, width - 1)]}…"


def room_for_last(headers: Row, rows: Iterable[Row], width: int) -> int:
    """Columns that a line of this width leaves to the last column of a table."""
    *others, _ = _widths(headers, rows)
    return width - sum(others) - len(_GAP) * len(others)


def write_table(
    headers: Row, rows: Iterable[Row], stream: TextIO, *, dim: Iterable[int] = (), paragraphs: Row = ()
) -> None:
    """Write rows under headers, or the paragraphs, if there are any, where a terminal is too narrow for that.

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
    """The table as plain text."""
    rows = cells_of([headers, *rows])
    widths = _widths(headers, rows)
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        yield _GAP.join(padded).rstrip()


def _write_rich(headers: Row, rows: Iterable[Row], stream: TextIO, dim: frozenset[int]) -> None:
    # Here, and not above: it is optional, and only a terminal needs it.
    from rich.console import Console

    Console(file=stream, highlight=False).print(rich_table(headers, rows, dim))


def rich_table(headers: Row, rows: Iterable[Row], dim: Iterable[int] = ()) -> Table:
    """The table as rich has it; needs rich."""
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
