"""``asyncmgr list``: lists the tasks of a target, with the options in force."""

from __future__ import annotations

import sys
from collections.abc import Sequence, Sized

import click

from asyncmgr._cli import options
from asyncmgr._cli.loading import load_service
from asyncmgr._cli.output import write_json, write_table
from asyncmgr._cli.task_views import (
    HEADERS,
    TaskView,
    off_rows,
    paragraphs,
    rows,
    seconds_in_words,
    view_tasks,
)
from asyncmgr._common.clock import WallClock
from asyncmgr._common.functions import name_of

_HEADERS = (*HEADERS, "tolerance", "timeout", "overlap")


@click.command(
    "list",
    epilog=options.examples(
        "asyncmgr list app.py:Volumes",
        "asyncmgr list shop.jobs:Orders shop.jobs:Mails --json",
    ),
)
@options.targets
@options.as_json
@options.places
def list_tasks(targets: Sequence[str], app_dir: str, *, as_json: bool) -> None:
    """List the tasks with what is in force for each.

    The first slot is that of a service which would start now. "*" marks a task of which the settings say something
    else than the code.
    """
    views = view_tasks(load_service(targets, app_dir), WallClock().read())
    if as_json:
        write_json([view.as_json() for view in views])
    elif views:
        cells = [_row(view, row) for view, row in zip(views, rows(views), strict=True)]
        headers: tuple[str, ...] = _HEADERS
        if any(view.task.options.scope != "process" for view in views):
            headers = (*headers, "scope")
            cells = [(*row, view.task.options.scope) for view, row in zip(views, cells, strict=True)]
        if any(view.task.options.each is not None for view in views):
            headers = (*headers, "keys")
            cells = [(*row, _keys(view)) for view, row in zip(views, cells, strict=True)]
        said = paragraphs(views, in_full=True)
        write_table(headers, cells, sys.stdout, dim=off_rows(views), paragraphs=said)
    else:
        click.echo("no tasks: nothing here has @periodic_task", err=True)


def _keys(view: TaskView) -> str:
    """Say how many keys a task has, where that is known without calling anything; else where they come from."""
    each = view.task.options.each
    if each is None:
        return ""
    found = getattr(view.task.managed.manager, each, None) if isinstance(each, str) else None
    if isinstance(found, Sized) and not isinstance(found, str | bytes):
        return str(len(found))
    return f"{each if isinstance(each, str) else name_of(each)}()"


def _row(view: TaskView, row: tuple[str, ...]) -> tuple[str, ...]:
    _, *others = row
    in_force = view.task.options
    return (
        view.marked_name,
        *others,
        seconds_in_words(view.tolerance),
        seconds_in_words(in_force.timeout),
        in_force.overlap,
    )
