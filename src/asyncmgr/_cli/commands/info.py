"""``asyncmgr info``: shows what a service offers, as it describes itself."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import click

from asyncmgr._cli import options
from asyncmgr._cli.connect import Connection, talk
from asyncmgr._cli.output import lines_of, table_lines, write_json
from asyncmgr._cli.task_views import local, relative
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.safe_text import error_text, safe_str
from asyncmgr._rpc.client import RpcClient
from asyncmgr._rpc.interface.signatures import method_in_words, models_of
from asyncmgr._service.builtin_rpc import NAMESPACE
from asyncmgr.errors import AsyncmgrError

_TIMEOUT = 10.0

_HEADERS = ("task", "schedule", "last run, local", "next slot, local", "in")


@click.command(
    "info",
    epilog=options.examples(
        "asyncmgr info compute",
        "asyncmgr info compute --at n1 --json > compute-1.3.json",
    ),
)
@click.argument("service")
@click.option("--at", "host", metavar="HOST", help="Ask this host.  [default: any one of the service]")
@options.as_json
@options.transport
def info(service: str, host: str | None, transport: str | None, *, as_json: bool) -> None:
    """Show what a SERVICE has: interfaces with version and methods, tasks with schedule and next slot.

    An argument that may be left out is shown with "= ...", and each model below the methods, with its fields. Calls
    need namespace and version as shown here. --json writes JSON Schemas of arguments and results; 'asyncmgr rpc diff'
    compares two such files.
    """
    talk(transport, functools.partial(_ask, service, host, as_json))


async def _ask(service: str, host: str | None, as_json: bool, connection: Connection) -> None:
    client = RpcClient(connection.engine, service, namespace=NAMESPACE, timeout=_TIMEOUT).at(host=host)
    told = await client.call("info")
    if as_json:
        write_json(told)
    else:
        click.echo(_described(service, told))


def _described(service: str, told: Any) -> str:
    try:
        return "\n".join(map(lines_of, _lines(told)))
    except Exception as exc:  # the answer may come from any program: one line says what is odd about it
        raise AsyncmgrError(
            f"{safe_str(service)} answered with no description of a service that this version can read "
            f"({error_text(exc, 100)}); --json shows it as it is"
        ) from None


def _lines(told: Mapping[str, Any]) -> Iterator[str]:
    yield f"{told['service']} on {told['host']}, asyncmgr {told['version']}"
    for manager in told["managers"]:
        yield ""
        yield from _manager_lines(manager)


def _manager_lines(manager: Mapping[str, Any]) -> Iterator[str]:
    yield f"{manager['name']}, {_interface(manager)}"
    for method in manager["methods"]:
        yield f"  {method_in_words(method)}"
        if method["summary"]:
            yield f"      {method['summary']}"
    yield from (f"  {model}" for model in models_of(manager["methods"]))
    if manager["tasks"]:
        yield ""
        yield from (f"  {line}" for line in table_lines(_HEADERS, _task_rows(manager["tasks"])))


def _interface(manager: Mapping[str, Any]) -> str:
    if not manager["methods"]:
        return "nothing to call"
    namespace = "" if manager["namespace"] is None else f"namespace {manager['namespace']}, "
    return f"{namespace}version {manager['version']}"


def _task_rows(tasks: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    now = to_datetime(read_wall())
    for task in tasks:
        last, following = _moment(task["last_run"]), _moment(task["next_due"])
        away = "" if following is None else relative((following - now).total_seconds())
        schedule = " ".join(filter(None, (task["schedule"], task.get("tz"))))
        yield task["name"], schedule, _shown(last), _shown(following), away


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _shown(moment: datetime | None) -> str:
    return "never" if moment is None else local(moment)
