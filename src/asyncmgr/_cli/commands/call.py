"""``asyncmgr call``: one call of a method of a service."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeAlias

import click

from asyncmgr._cli import options
from asyncmgr._cli.connect import Connection, talk
from asyncmgr._cli.output import write_json, write_text
from asyncmgr._rpc.client import RpcClient
from asyncmgr._rpc.versions import parse_version

Mode: TypeAlias = Literal["call", "cast", "fanout"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The call to make, and how to make it."""

    service: str
    method: str
    arguments: dict[str, Any]
    mode: Mode
    host: str | None
    namespace: str | None
    version: str
    timeout: float
    as_json: bool


def _read_arguments(_ctx: click.Context, _param: click.Parameter, words: Sequence[str]) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise click.BadParameter(f"{word!r} is no argument; write name=value")
        if name in arguments:
            raise click.BadParameter(f"{name!r} is given twice; keep one")
        arguments[name] = read_value(value)
    return arguments


def read_value(text: str) -> Any:
    """Read the text as JSON; if it is not JSON, return the text itself."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(name: str) -> NoReturn:
    # Python's own reader takes these values; JSON does not have them.
    raise ValueError(name)


def _read_version(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        parse_version(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None
    return value


def _read_timeout(ctx: click.Context, param: click.Parameter, value: str) -> float:
    seconds = options.read_duration(ctx, param, value)
    if not seconds:
        raise click.BadParameter(f"{value!r} leaves no time; write more than 0")
    return seconds


@click.command(
    "call",
    epilog=options.examples(
        "asyncmgr call compute resize volume=v1 gib=20",
        'asyncmgr call compute tag volume=v1 \'tags=["a", "b"]\' --at n1 --version 1.2',
        "asyncmgr call compute refresh --fanout",
        "asyncmgr call compute ping --namespace asyncmgr --at n1",
    ),
)
@click.argument("service")
@click.argument("method")
@click.argument("arguments", metavar="[NAME=VALUE]...", nargs=-1, callback=_read_arguments)
@click.option("--at", "host", metavar="HOST", help="Call this host.  [default: any one of the service]")
@click.option(
    "--version",
    callback=_read_version,
    default="1.0",
    show_default=True,
    help="Of the interface, as called: this or a later minor serves it.",
)
@click.option("--namespace", help="Of the interface.  [default: that of managers that name none]")
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=_read_timeout,
    default="60",
    show_default=True,
    help="How long to wait for the result, as 60 or 1m30s.",
)
@click.option("--cast", is_flag=True, help="Send it to one host, and wait for nothing.")
@click.option("--fanout", is_flag=True, help="Send it to all hosts, and wait for nothing.")
@options.as_json
@options.transport
def call(transport: str | None, *, cast: bool, fanout: bool, **what: Any) -> None:
    """Call a METHOD of a SERVICE, and write its result as JSON.

    A VALUE that is JSON is that value (20, true, null, [1, 2], "20"), any other the text as it stands. So gib=20 is a
    number, and the text "20" is written 'gib="20"'. A result that is a text is written as it is; with --json as JSON,
    in quotes. 'asyncmgr info SERVICE' shows what can be called.

    Exit code 1 if there is no result; stderr then names the error. With --cast and --fanout nothing is written, and
    0 says only that the call was sent.
    """
    if cast and fanout:
        raise click.UsageError("--cast is for one host, --fanout for all; keep one of them")
    if fanout and what["host"] is not None:
        raise click.UsageError("--fanout calls all hosts; leave --at out, or write --cast")
    mode: Mode = "cast" if cast else "fanout" if fanout else "call"
    talk(transport, functools.partial(_call, Wanted(mode=mode, **what)))


async def _call(wanted: Wanted, connection: Connection) -> None:
    client = RpcClient(
        connection.engine,
        wanted.service,
        version=wanted.version,
        namespace=wanted.namespace,
        timeout=wanted.timeout,
    ).at(host=wanted.host)
    result = await getattr(client, wanted.mode)(wanted.method, **wanted.arguments)
    if wanted.mode == "call":
        _write(result, as_json=wanted.as_json)


def _write(result: Any, *, as_json: bool) -> None:
    if isinstance(result, str) and not as_json:
        write_text(result)
    else:
        write_json(result)
