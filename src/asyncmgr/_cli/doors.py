"""Reaches running services for the commands that ask or steer them: by control sockets, or by calls."""

from __future__ import annotations

import asyncio
import getpass
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from asyncmgr._cli import options
from asyncmgr._cli.connect import refuse_memory
from asyncmgr._cli.logs import configure
from asyncmgr._common.safe_text import printable
from asyncmgr._rpc.client import RpcClient
from asyncmgr._service import control_client
from asyncmgr._service.builtin_rpc import NAMESPACE
from asyncmgr._settings.model import Settings
from asyncmgr._settings.problems import listed, redacted
from asyncmgr.capabilities import Hosts
from asyncmgr.errors import AsyncmgrError, ControlUnavailable, NoResponders, RemoteError, RpcError
from asyncmgr.transports import Transport, open_transport

Function = TypeVar("Function", bound=Callable[..., Any])

RUN_WITHIN = 86400.0
"""Seconds that a call waits for the end of a run that it has triggered."""


class Refused(AsyncmgrError):
    """A service refused what was asked, with its own words."""


class Door(ABC):
    """One running service that can be asked."""

    service: str
    host: str

    @abstractmethod
    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        """Ask, and return the answer.

        Raises
        ------
        Refused
            The service refused it.
        AsyncmgrError
            The service cannot be reached.
        """

    @property
    @abstractmethod
    def label(self) -> str:
        """The service for people: ``compute on nyx, pid 4711``."""

    def statuses(self) -> Iterator[dict[str, Any]]:
        """Yield the status of every task, page by page."""
        after: int | None = 0
        while after is not None:
            answer = self.ask("status", after=after)
            yield from answer["tasks"]
            after = answer["next"]


class SocketDoor(Door):
    """A service on this machine, by its control socket."""

    def __init__(self, found: control_client.Found) -> None:
        self.service, self.host, self.pid, self.facts = found.service, found.host, found.pid, found.facts
        self._path: Path = found.path

    @property
    def label(self) -> str:
        return printable(f"{self.service} on {self.host}, pid {self.pid}")

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        timeout = None if arguments.get("wait") else control_client.ANSWER_WITHIN
        answer = control_client.ask(self._path, {"verb": verb, **arguments}, timeout=timeout)
        if not answer.get("ok"):
            raise Refused(str(answer.get("text")))
        return answer


class RpcDoor(Door):
    """A service anywhere, by calls over its transport."""

    def __init__(self, runner: asyncio.Runner, transport: Transport, service: str, host: str) -> None:
        self.service, self.host = service, host
        self._runner = runner
        self._client = RpcClient(transport, service, version="1.1", namespace=NAMESPACE, timeout=10.0).at(
            host=host
        )

    @property
    def label(self) -> str:
        return printable(f"{self.service} on {self.host}")

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        given = {
            ("seconds" if name == "for" else name): value
            for name, value in arguments.items()
            if value is not None
        }
        client = self._client.at(timeout=RUN_WITHIN) if given.get("wait") else self._client
        if verb not in ("status", "explain", "history", "health"):
            given["by"] = getpass.getuser()
        try:
            answer: dict[str, Any] = self._runner.run(client.call(verb, **given))
        except RemoteError as exc:
            raise Refused(exc.text) from None
        except NoResponders:
            raise ControlUnavailable(f"{self.label} does not answer any more") from None
        except RpcError as exc:
            raise ControlUnavailable(f"{self.label}: {type(exc).__name__}: {exc}") from None
        return answer


@dataclass(frozen=True, slots=True)
class Reach:
    """Which services a command is meant for."""

    service: str | None
    """A service's name, or its process's number."""
    at: str | None
    every: bool
    transport: str | None

    @contextmanager
    def doors(self) -> Iterator[list[Door]]:
        """Find the services that fit, and keep them reachable inside the block.

        Raises
        ------
        ControlUnavailable
            There is none.
        """
        configure("warning", "console", sys.stderr)
        with ExitStack() as stack:
            if self.transport is None:
                yield self.local()
            else:
                runner = stack.enter_context(asyncio.Runner())
                yield self._far(runner, stack)

    def local(self) -> list[Door]:
        """Find the services of this user on this machine that fit.

        Raises
        ------
        ControlUnavailable
            There is none.
        """
        doors: list[SocketDoor] = []
        silent: list[ControlUnavailable] = []
        for found in control_client.find():
            if isinstance(found, ControlUnavailable):
                silent.append(found)
            else:
                doors.append(SocketDoor(found))
        fitting: list[Door] = [door for door in doors if self.fits(door.service, door.host, door.pid)]
        for error in silent:
            click.echo(printable(str(error)), err=True)
        if not fitting:
            raise ControlUnavailable(self._nobody(doors, silent))
        return fitting

    def fits(self, service: str, host: str, pid: int) -> bool:
        """Whether a service on this machine is one of those that are meant."""
        return self.service in (None, service, str(pid)) and self.at in (None, host)

    def _nobody(self, doors: Sequence[Door], silent: Sequence[object]) -> str:
        if doors:
            wanted = " ".join(filter(None, (self.service, self.at and f"on {self.at}")))
            return f"no service {wanted} of yours runs here; there are {listed(door.label for door in doors)}"
        if silent:
            return "no service answers"
        return (
            "no service of yours runs here with a control socket: 'asyncmgr run' has one, an embedded service with the "
            "setting control = true; --transport URL reaches services elsewhere"
        )

    def _far(self, runner: asyncio.Runner, stack: ExitStack) -> list[Door]:
        settings = Settings(transport=self.transport)
        refuse_memory(settings.transport)
        opened = AsyncExitStack()
        transport = runner.run(opened.enter_async_context(open_transport(settings.transport, settings)))
        stack.callback(lambda: runner.run(opened.aclose()))
        hosts = runner.run(_hosts(transport, self.service))
        fitting = [(service, host) for service, host in hosts if self.at in (None, host)]
        if not fitting:
            there = listed(f"{service} on {host}" for service, host in hosts)
            raise ControlUnavailable(
                f"nobody fits at {redacted(settings.transport)}; there are: {printable(there)}"
            )
        return [RpcDoor(runner, transport, service, host) for service, host in fitting]

    def door_for(self, doors: Sequence[Door], task: str, key: str | None = None) -> list[Door]:
        """Choose the doors that a verb for this task goes to: the one that has it, its owner, or all where asked for.

        Of a task with keys each key may have another owner.

        Raises
        ------
        click.UsageError
            Several services have the task, and nothing says which of them is meant.
        """
        if len(doors) == 1 or self.every:
            return list(doors)
        having = [(door, told) for door in doors if (told := _told(door, task, key)) is not None]
        owned = [door for door, told in having if _host_of(told.get("owner")) == door.host]
        if len(owned) == 1 or len(having) == 1:
            return owned if len(owned) == 1 else [having[0][0]]
        if not having:
            asked = listed(door.label for door in doors)
            raise ControlUnavailable(
                f"no service has a task {printable(task)!r}{_with(key)}; looked at {asked}"
            )
        raise click.UsageError(
            f"{printable(task)} is a task of {listed(door.label for door, _ in having)}; say which by --service or "
            "--at, or --all for all of them"
        )


def _with(key: str | None) -> str:
    return "" if key is None else f" with the key {printable(key)!r}"


async def _hosts(transport: Transport, service: str | None) -> list[tuple[str, str]]:
    async with Hosts(transport, service) as view:
        return sorted({(state.service, state.host) for state in view.snapshot()})


def _host_of(owner: str | None) -> str | None:
    """Return the host of a task's holder: that of a task of the cluster is named ``HOST~DIGITS``."""
    return None if owner is None else owner.rpartition("~")[0] or owner


def _told(door: Door, task: str, key: str | None) -> dict[str, Any] | None:
    try:
        answer = door.ask("status", task=task, key=key)
    except Refused:
        return None
    (told,) = answer["tasks"]
    return dict(told if key is None else answer["key"])


def reach(function: Function) -> Function:
    """Add the options that say which services are meant: ``--service --at --all --transport``."""

    def read(**given: Any) -> Any:
        made = Reach(given.pop("service"), given.pop("at"), given.pop("every"), given.pop("transport"))
        return function(reach=made, **given)

    read.__doc__, read.__name__ = function.__doc__, function.__name__
    for parameter in (
        click.option("--all", "every", is_flag=True, help="All services that fit, not just one."),
        click.option("--at", metavar="HOST", help="The service on this host."),
        click.option("--service", metavar="NAME|PID", help="The service of this name, or this process."),
    ):
        read = parameter(read)
    url = click.option(
        "--transport",
        metavar="URL",
        help="Reach services elsewhere, as nats://host:4222.  [default: your own on this machine]",
    )
    return url(options.config(read))  # type: ignore[return-value]


def complete_running_task(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the full name of a task of a service that runs here."""
    try:
        found = [one for one in control_client.find(timeout=1.0) if not isinstance(one, ControlUnavailable)]
        names = {told["task"] for one in found for told in SocketDoor(one).statuses()}
    except (AsyncmgrError, OSError, KeyError):
        return []
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
