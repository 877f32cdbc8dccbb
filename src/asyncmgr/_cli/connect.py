"""Connects to services that run elsewhere, and to stores, for the commands that need them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeAlias, TypeVar

import click

from asyncmgr._cli.exit import INTERRUPTED, run_to_the_end
from asyncmgr._cli.logs import configure
from asyncmgr._cli.output import discard_stdout, lines_of
from asyncmgr._settings.model import Settings
from asyncmgr._settings.problems import redacted
from asyncmgr.errors import AsyncmgrError, InvalidSettings, NoResponders, RpcError
from asyncmgr.transports import StoreEngine, Transport, open_store, open_transport

E = TypeVar("E", bound=StoreEngine)


@dataclass(frozen=True, slots=True)
class Place(Generic[E]):
    """An open transport or store engine, and its URL for error texts."""

    engine: E
    url: str
    """Without secrets."""
    option: str
    """The option that a command takes it by: ``--transport`` or ``--store``."""


Connection: TypeAlias = Place[Transport]
Keeper: TypeAlias = Place[StoreEngine]


def talk(url: str | None, conversation: Callable[[Connection], Awaitable[object]]) -> NoReturn:
    """Connect to the transport, hold the conversation, and end with its exit code.

    `url` is that of the transport; `None` = the one of the settings. Credentials come from the settings.
    """
    _configure()
    settings = Settings(transport=url)
    _end(open_transport, settings.transport, "--transport", settings, conversation)


def read_store(
    transport: str | None,
    store: str | None,
    conversation: Callable[[Keeper], Awaitable[object]],
    *,
    interrupted: int = INTERRUPTED,
) -> NoReturn:
    """Connect to the store that services use, hold the conversation, and end with its exit code.

    Parameters
    ----------
    transport, store
        URLs; `None` = the one of the settings. As for services, the transport counts where there is no store.
    interrupted
        The exit code of Ctrl-C.
    """
    _configure()
    settings = Settings(transport=transport, store=store)
    url, option = (
        (settings.transport, "--transport") if settings.store is None else (settings.store, "--store")
    )
    _end(open_store, url, option, settings, conversation, interrupted)


def _configure() -> None:
    configure("warning", "console", sys.stderr)


def _end(
    opener: Callable[[str, Settings], AbstractAsyncContextManager[E]],
    url: str,
    option: str,
    settings: Settings,
    conversation: Callable[[Place[E]], Awaitable[object]],
    interrupted: int = INTERRUPTED,
) -> NoReturn:
    refuse_memory(url)
    shown = str(redacted(url))

    async def hold() -> None:
        try:
            async with opener(url, settings) as engine:
                await conversation(Place(engine, shown, option))
        except BrokenPipeError:
            discard_stdout()
            raise SystemExit(1) from None

    code = run_to_the_end(hold, functools.partial(_explain, shown))
    raise click.exceptions.Exit(interrupted if code == INTERRUPTED else code)


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
