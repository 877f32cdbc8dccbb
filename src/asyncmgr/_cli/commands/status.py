"""``asyncmgr status``: how the tasks of running services stand, once or live."""

from __future__ import annotations

import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from asyncmgr._cli import options
from asyncmgr._cli.doors import Door, Reach, Refused, complete_running_task, reach
from asyncmgr._cli.exit import ExitCode
from asyncmgr._cli.output import write_json, write_json_line
from asyncmgr._cli.status_text import NEED_YOU, key_in_words, line_of, sheet, table
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.safe_text import printable
from asyncmgr.errors import AsyncmgrError, ControlUnavailable

UNHEALTHY = ExitCode.UNHEALTHY

_BETWEEN = 1.0
"""Seconds between two pictures."""

_WORD = 13
"""Columns for the words of a sheet."""


@click.command(
    "status",
    epilog=options.examples(
        "asyncmgr status",
        "asyncmgr status Volumes.sync --watch",
        "asyncmgr status --service compute --transport nats://127.0.0.1:4222 --json",
    ),
)
@click.argument("task", required=False, shell_complete=complete_running_task)
@click.option("--watch", is_flag=True, help="Go on, and show it each second, until Ctrl-C.")
@click.option("--key", metavar="KEY", help="Show this key of TASK, which is a task with each=.")
@options.as_json
@reach
def status(reach: Reach, task: str | None, key: str | None, *, watch: bool, as_json: bool) -> None:
    """Show how the tasks of running services stand, or one TASK in full.

    Without --transport these are your own services on this machine: those of 'asyncmgr run', and embedded ones with
    the setting control = true. Exit code 3: a service does not answer.
    """
    if key is not None and task is None:
        raise click.UsageError(f"--key {printable(key)} needs the TASK whose key it is")
    with reach.doors() as doors:
        if task is not None and key is not None:
            _show_key(doors, task, key, as_json=as_json)
            return
        if not watch:
            _show(doors, task, as_json=as_json)
            return
        try:
            while True:
                _show_again(doors, task, as_json=as_json)
                time.sleep(_BETWEEN)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(0) from None


def _show(doors: list[Door], task: str | None, *, as_json: bool) -> None:
    told = _ask_all(doors, task)
    if as_json:
        write_json([_as_json(door, tasks) for door, tasks in told])
    else:
        click.echo("\n".join(_picture(told, task)))


def _show_key(doors: list[Door], task: str, key: str, *, as_json: bool) -> None:
    """Show one key of a task, by each service that has it."""
    told, refused = [], []
    for door in doors:
        try:
            told.append((door, door.ask("status", task=task, key=key)["key"]))
        except Refused as exc:
            refused.append(exc)
    if not told:
        raise AsyncmgrError("; ".join(map(str, refused)))
    if as_json:
        write_json([{"service": door.service, "host": door.host, **found} for door, found in told])
        return
    for door, found in told:
        click.echo(
            f"{printable(found['key'])} in {door.label}: {'; '.join(map(printable, key_in_words(found, _now())))}"
        )


def _show_again(doors: list[Door], task: str | None, *, as_json: bool) -> None:
    told = _ask_all(doors, task)
    if as_json:
        write_json_line(
            {"at": _now().isoformat(), "services": [_as_json(door, tasks) for door, tasks in told]}
        )
        return
    lines = list(_picture(told, task))
    if sys.stdout.isatty():
        rows = shutil.get_terminal_size().lines - 1
        lines = [*lines[: rows - 1], *(["..."] if len(lines) >= rows else [])]
        click.echo("\x1b[H\x1b[J" + "\n".join(lines))
    else:
        click.echo("\n".join([*lines, ""]))


def _ask_all(doors: list[Door], task: str | None) -> list[tuple[Door, list[dict[str, Any]]]]:
    """Ask every service; with a task, those that have it.

    Raises
    ------
    AsyncmgrError
        No service has the task.
    click.exceptions.Exit
        A service does not answer.
    """
    told, refused = [], []
    for door in doors:
        try:
            tasks = list(door.statuses()) if task is None else door.ask("status", task=task)["tasks"]
            told.append((door, tasks))
        except Refused as exc:
            refused.append(exc)
        except ControlUnavailable as exc:
            click.echo(printable(str(exc)), err=True)
            raise click.exceptions.Exit(UNHEALTHY) from None
    if not told:
        raise AsyncmgrError("; ".join(map(str, refused)))
    return told


def _as_json(door: Door, tasks: list[dict[str, Any]]) -> dict[str, Any]:
    pid = getattr(door, "pid", None)
    return {"service": door.service, "host": door.host, "pid": pid, "tasks": tasks}


def _now() -> datetime:
    return to_datetime(read_wall())


def _picture(told: list[tuple[Door, list[dict[str, Any]]]], task: str | None) -> Iterator[str]:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    now = _now()
    for number, (door, tasks) in enumerate(told):
        if number:
            yield ""
        if task is None:
            yield from _service(door, tasks, now, width)
        else:
            yield from _sheet(door, tasks[0], now, width)


def _service(door: Door, tasks: list[dict[str, Any]], now: datetime, width: int | None) -> Iterator[str]:
    needing = sum(told["state"] in NEED_YOU for told in tasks)
    count = "1 task" if len(tasks) == 1 else f"{len(tasks)} tasks"
    well = f"{needing} need{'s' if needing == 1 else ''} you" if needing else "none needs you"
    yield click.style(f"{door.label}: {count}, {well}", bold=True)
    yield ""
    yield from table([line_of(told, now) for told in tasks], width)


def _sheet(door: Door, told: dict[str, Any], now: datetime, width: int | None) -> Iterator[str]:
    yield click.style(f"{printable(told['task'])} in {door.label}", bold=True)
    yield ""
    for word, value in sheet(told, now):
        parts = textwrap.wrap(printable(value), (width or 1000) - _WORD - 2) or [""]
        for number, part in enumerate(parts):
            yield f"{click.style((word if not number else '').ljust(_WORD), dim=True)}  {part}"
