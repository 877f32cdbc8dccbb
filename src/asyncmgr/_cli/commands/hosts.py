"""``asyncmgr hosts``: lists the hosts that announce themselves, once or live."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click

from asyncmgr._cli import options
from asyncmgr._cli.capability_text import capabilities_in_short
from asyncmgr._cli.connect import Keeper, read_store
from asyncmgr._cli.exit import INTERRUPTED
from asyncmgr._cli.logs import configure
from asyncmgr._cli.output import (
    LONGEST,
    cells_of,
    room_for_last,
    shortened,
    write_json,
    write_json_line,
    write_table,
)
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.durations import format_duration
from asyncmgr._common.safe_text import printable, safe_repr
from asyncmgr.capabilities import Hosts, HostState

if TYPE_CHECKING:
    from rich.console import RenderableType

_HEADERS = ("service", "host", "node", "state", "age", "capabilities")
_NODE = 2
_NARROWEST = 24
"""Least columns for capabilities beside the rest of a table."""

_PAUSE = 0.1
"""Seconds between two pictures, however many changes there are."""

_KINDS = ("found", "joined", "updated", "stale", "left")
_KIND_WIDTH = max(map(len, _KINDS))


@click.command(
    "hosts",
    epilog=options.examples(
        "asyncmgr hosts --transport nats://127.0.0.1:4222",
        "asyncmgr hosts compute --watch",
        "asyncmgr hosts compute --json",
        "asyncmgr hosts --store postgresql://agent@db.example/jobs",
    ),
)
@click.argument("service", required=False)
@click.option("--watch", is_flag=True, help="Go on, and show what changes, until Ctrl-C.")
@options.as_json
@options.transport
@options.store
def hosts(
    service: str | None, transport: str | None, store: str | None, *, watch: bool, as_json: bool
) -> None:
    """List the hosts that announce themselves, of one SERVICE or of all.

    "age" is how long ago a host announced itself; after half of the time that it asked for (the setting
    capability_ttl, 60s) it is "stale", after all of it gone. On a terminal long capabilities are cut; --json has all
    of them. --watch on a terminal shows the table live, elsewhere a line for each change; with --json each line is
    an object whose "kind" is found (there from the beginning), joined, updated, stale or left.
    """
    conversation = _conversation(service, watch=watch, as_json=as_json)
    read_store(transport, store, conversation, interrupted=0 if watch else INTERRUPTED)


def _conversation(
    service: str | None, *, watch: bool, as_json: bool
) -> Callable[[Keeper], Awaitable[object]]:
    if not watch:
        return functools.partial(_list, service, as_json)
    if as_json:
        return functools.partial(_follow, service, _write_change_as_json)
    live = sys.stdout.isatty() and find_spec("rich") is not None
    return functools.partial(_redraw, service) if live else functools.partial(_follow, service, _write_change)


# Once


async def _list(service: str | None, as_json: bool, keeper: Keeper) -> None:
    async with Hosts(keeper.engine, service) as view:
        states = view.snapshot()
    if as_json:
        write_json([_as_json(state) for state in states])
    elif states:
        headers, rows = _table(states, _width(sys.stdout))
        write_table(headers, rows, sys.stdout, dim=_stale(states), paragraphs=[*map(_paragraph, states)])
    else:
        _say_nobody(service, keeper)


def _say_nobody(service: str | None, keeper: Keeper) -> None:
    whose = "" if service is None else f" of the service {safe_repr(service)}"
    click.echo(
        f"no hosts{whose} at {keeper.url}; does the service run there "
        f"('asyncmgr run TARGET {keeper.option} {keeper.url}'), under this name?",
        err=True,
    )


def _width(stream: Any) -> int | None:
    return shutil.get_terminal_size().columns if stream.isatty() else None


def _table(states: Sequence[HostState], width: int | None) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Make headers and rows. There is a column for nodes only if a node has a name."""
    rows = cells_of(_row(state) for state in states)
    headers: Sequence[str] = _HEADERS
    if not any(row[_NODE] for row in rows):
        headers, rows = _without_node(headers), [_without_node(row) for row in rows]
    if width is not None:
        room = max(_NARROWEST, room_for_last(headers, rows, width))
        rows = [(*row[:-1], shortened(row[-1], room)) for row in rows]
    return headers, rows


def _without_node(row: Sequence[str]) -> Sequence[str]:
    return (*row[:_NODE], *row[_NODE + 1 :])


def _row(state: HostState) -> Sequence[str]:
    return (
        state.service,
        state.host,
        state.node,
        state.state,
        _age(state),
        capabilities_in_short(state.capabilities),
    )


def _age(state: HostState) -> str:
    return format_duration(round(state.age))


def _stale(states: Sequence[HostState]) -> list[int]:
    return [number for number, state in enumerate(states) if state.state == "stale"]


def _paragraph(state: HostState) -> str:
    return f"{_name(state)}: {state.state}, {_age(state)} old\n  {capabilities_in_short(state.capabilities)}"


def _name(state: HostState) -> str:
    return "/".join(filter(None, (state.service, state.host, state.node)))


def _as_json(state: HostState) -> dict[str, Any]:
    return {
        "service": state.service,
        "host": state.host,
        "node": state.node,
        "state": state.state,
        "age": round(state.age, 3),
        "capabilities": state.capabilities,
        "incarnation": state.incarnation,
        "sequence": state.sequence,
    }


# Live


async def _follow(service: str | None, write: Any, keeper: Keeper) -> None:
    """Write a line for each host that is there, and then for each change."""
    async with Hosts(keeper.engine, service) as view:
        changes = view.changes()
        states = view.snapshot()
        if not states:
            _say_nobody(service, keeper)
        for state in states:
            write("found", state)
        async for change in changes:
            write(change.kind, change.host)


def _write_change_as_json(kind: str, state: HostState) -> None:
    write_json_line({"at": to_datetime(read_wall()).isoformat(), "kind": kind, **_as_json(state)})


def _write_change(kind: str, state: HostState) -> None:
    at = to_datetime(read_wall()).astimezone().strftime("%H:%M:%S")
    text = f"{_name(state)}  {capabilities_in_short(state.capabilities)}"
    click.echo(f"{at}  {kind:<{_KIND_WIDTH}}  {printable(text, LONGEST)}".rstrip())


async def _redraw(service: str | None, keeper: Keeper) -> None:
    """Draw the table again at each change, and each second, as ages grow."""
    from rich.live import Live  # optional, and only a terminal needs it

    async with Hosts(keeper.engine, service) as view:
        title = f"{'all services' if service is None else service} at {keeper.url}"
        with Live(auto_refresh=False) as live, _log_above():
            changes = view.changes()
            while True:
                live.update(_picture(title, view.snapshot()), refresh=True)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(anext(changes), timeout=1)
                await asyncio.sleep(_PAUSE)


@contextlib.contextmanager
def _log_above() -> Iterator[None]:
    """Send the log to the current `sys.stderr`, which writes above the picture."""
    configure("warning", "console", sys.stderr)
    try:
        yield
    finally:
        configure("warning", "console", sys.__stderr__ or sys.stderr)


def _picture(title: str, states: Sequence[HostState]) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    from asyncmgr._cli.output import rich_table

    width = shutil.get_terminal_size().columns
    heading = f"{title}: {len(states)} {'host' if len(states) == 1 else 'hosts'}"
    lines = [Text(shortened(heading, width)), Text("")]
    if not states:
        return Group(*lines, Text("waiting for the first; Ctrl-C ends"))
    headers, rows = _table(states, width)
    return Group(*lines, rich_table(headers, rows, _stale(states)), Text("\nCtrl-C ends", style="dim"))
