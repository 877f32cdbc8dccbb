"""Writes the page of all commands of ``asyncmgr``, with their arguments and options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from asyncmgr._cli.app import command as asyncmgr
from sitegen.docstrings import cell


def commands(group: click.Group = asyncmgr, before: str = "asyncmgr") -> Iterator[tuple[str, click.Command]]:
    """Each command with its full name, those of groups included."""
    for name, found in group.commands.items():
        if found.hidden:
            continue
        full = f"{before} {name}"
        yield full, found
        if isinstance(found, click.Group):
            yield from commands(found, full)


def pages() -> dict[str, str]:
    """The page by its path below ``reference/``."""
    return {"commands.md": "\n".join(_page())}


def _page() -> Iterator[str]:
    yield "# Commands\n"
    yield "What `asyncmgr COMMAND --help` tells, of all commands. [Exit codes](exit-codes.md) are the same for all.\n"
    for name, found in commands():
        context = click.Context(found, info_name=name)
        yield f"## {name}\n"
        yield f"```text\n{name} {' '.join(found.collect_usage_pieces(context))}\n```\n"
        yield _text(found.help or "") + "\n"
        yield from _options(found, context)
        yield from _epilog(found.epilog or "")


def _text(text: str) -> str:
    return re.sub(r"([<*])", r"\\\1", inspect.cleandoc(text).replace("\b\n", ""))


def _options(found: click.Command, context: click.Context) -> Iterator[str]:
    rows = [record for one in found.get_params(context) if (record := one.get_help_record(context))]
    if rows:
        yield "| option | |\n|---|---|"
        yield from (f"| `{name.replace('|', chr(92) + '|')}` | {cell(text)} |" for name, text in rows)
        yield ""


def _epilog(text: str) -> Iterator[str]:
    if text:
        yield f"```text\n{inspect.cleandoc(text.replace(chr(8), '')).strip()}\n```\n"
