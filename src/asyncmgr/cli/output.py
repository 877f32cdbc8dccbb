"""Writes data: JSON for programs; tables with rich on a terminal if it is installed, as plain text otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any, TextIO

import click

Row = Sequence[str]

_GAP = "  "


def write_json(data: Any) -> None:
    """Write data to stdout."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def write_table(
    headers: Row, rows: Iterable[Row], stream: TextIO, *, dim: Iterable[int] = (), paragraphs: Row = ()
) -> None:
    """Write rows under headers, or the paragraphs, if there are any, where a terminal is too narrow for that.

    `dim` are the numbers of the rows that matter less.
    """
    cells = [[*row] for row in rows]
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
    rows = [headers, *rows]
    widths = _widths(headers, rows)
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo(_GAP.join(padded).rstrip(), file=stream)


def _write_rich(headers: Row, rows: Iterable[Row], stream: TextIO, dim: frozenset[int]) -> None:
    # Here, and not above: it is optional, and only a terminal needs it.
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for header in headers:
        table.add_column(header, no_wrap=True)
    for number, row in enumerate(rows):
        # As Text: a bracket in a name is no markup.
        table.add_row(*map(Text, row), style="dim" if number in dim else None)
    Console(file=stream, highlight=False).print(table)
