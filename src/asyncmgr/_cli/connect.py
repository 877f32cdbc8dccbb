"""Connects to services that run elsewhere, for the commands that talk to them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import click

from asyncmgr._cli.exit import INTERRUPTED, run_to_the_end
from asyncmgr._cli.logs import configure
from asyncmgr._cli.output import discard_stdout, lines_of
from asyncmgr._settings.model import Settings
from asyncmgr._settings.problems import redacted
from asyncmgr.errors import AsyncmgrError, InvalidSettings, NoResponders, RpcError
from asyncmgr.transports import Transport, open_transport


@dataclass(frozen=True, slots=True)
class Connection:
    """An open transport, and its URL for error texts."""

    transport: Transport
    url: str
    """Without secrets."""


Conversation: TypeAlias = Callable[[Connection], Awaitable[object]]


def talk(url: str | None, conversation: Conversation, *, interrupted: int = INTERRUPTED) -> NoReturn:
    """Connect, hold the conversation, and end with its exit code.

    Parameters
    ----------
    url
        URL of the transport; `None` = the one of the settings. Credentials come from the settings.
    interrupted
        The exit code of Ctrl-C.
    """
    configure("warning", "console", sys.stderr)
    settings = Settings(transport=url)
    refuse_memory(settings.transport)
    shown = str(redacted(settings.transport))
    hold = functools.partial(_hold, settings, shown, conversation)
    code = run_to_the_end(hold, functools.partial(_explain, shown))
    raise click.exceptions.Exit(interrupted if code == INTERRUPTED else code)


async def _hold(settings: Settings, shown: str, conversation: Conversation) -> None:
    try:
        async with open_transport(settings.transport, settings) as transport:
            await conversation(Connection(transport, shown))
    except BrokenPipeError:
        discard_stdout()
        raise SystemExit(1) from None


def refuse_memory(url: str) -> None:
    """Refuse a transport that reaches nobody.

    Raises
    ------
    InvalidSettings
        It is ``memory://``.
    """
    if url.partition("://")[0].lower() == "memory":
        raise InvalidSettings(
            "memory:// reaches nothing outside of this process; say where the services are: "
            "--transport nats://host:4222, or the setting 'transport' (variable ASYNCMGR_TRANSPORT)"
        )


def _explain(shown: str, error: AsyncmgrError) -> None:
    text = lines_of(str(error)) or type(error).__name__
    if isinstance(error, RpcError):
        text = f"{type(error).__name__}: {text}"
    if isinstance(error, NoResponders):
        text = f"{text} Looked for at {shown}; 'asyncmgr hosts' lists who announces itself there"
    click.ClickException(text).show()
