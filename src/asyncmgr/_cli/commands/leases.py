"""``asyncmgr leases``: lists who holds the tasks and leases that only one process may have."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

from asyncmgr._cli import options
from asyncmgr._cli.connect import Keeper, read_store
from asyncmgr._cli.output import cells_of, write_json, write_table
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.durations import format_duration
from asyncmgr._common.safe_text import safe_repr

if TYPE_CHECKING:
    from asyncmgr._leases.listing import Listed

_HEADERS = ("application", "kind", "name", "holder", "since", "token", "state")


@click.command(
    "leases",
    epilog=options.examples(
        "asyncmgr leases --transport nats://127.0.0.1:4222",
        "asyncmgr leases shop --store postgresql://agent@db.example/jobs",
        "asyncmgr leases shop --json",
    ),
)
@click.argument("application", required=False)
@options.as_json
@options.transport
@options.store
def leases(application: str | None, transport: str | None, store: str | None, *, as_json: bool) -> None:
    """List who holds the tasks of scope "cluster" and the leases, of one APPLICATION or of all.

    "since" is how long ago the holder got it. "state" is held; silent (its holder has not renewed its session for its
    TTL, and others take over soon); dead or gone (they do so now, if any process knows the task); free (nobody holds
    it); or foreign (a newer version of asyncmgr wrote it). --json has the last slot of each task too.
    """
    read_store(transport, store, functools.partial(_list, application, as_json))


async def _list(application: str | None, as_json: bool, keeper: Keeper) -> None:
    from asyncmgr._leases.listing import list_claims

    listed = await list_claims(keeper.engine, application)
    if as_json:
        write_json([_as_json(one) for one in listed])
    elif listed:
        rows = cells_of(_row(one) for one in listed)
        dim = [number for number, one in enumerate(listed) if one.state != "held"]
        write_table(_HEADERS, rows, sys.stdout, dim=dim, paragraphs=[_paragraph(one) for one in listed])
    else:
        _say_none(application, keeper)


def _say_none(application: str | None, keeper: Keeper) -> None:
    whose = "" if application is None else f" of the application {safe_repr(application)}"
    click.echo(
        f"no leases{whose} at {keeper.url}; does a process with a task of scope='cluster' run there "
        f"('asyncmgr run TARGET {keeper.option} {keeper.url}')?",
        err=True,
    )


def _row(one: Listed) -> Sequence[str]:
    since = format_duration(round(one.age))
    token = "" if one.token is None else str(one.token)
    return one.application, one.kind, one.name, one.holder or "", since, token, one.state


def _paragraph(one: Listed) -> str:
    since = format_duration(round(one.age))
    heading = f"{one.kind} {one.name} of {one.application}: {one.state}, {since}"
    return f"{heading}\n  {one.holder or 'nobody'}, token {one.token}"


def _as_json(one: Listed) -> dict[str, Any]:
    facts = asdict(one)
    for name in ("age", "renewed", "slot_age"):
        if facts[name] is not None:
            facts[name] = round(facts[name], 3)
    since = to_datetime(read_wall()) - timedelta(seconds=one.age)
    return {**facts, "since": since.isoformat()}
