"""``asyncmgr top``: a screen that stays open, with what needs a person, all tasks, and the verbs."""

from __future__ import annotations

import asyncio
import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asyncmgr._cli import options
from asyncmgr._cli.connect import refuse_memory
from asyncmgr._cli.doors import Reach, reach
from asyncmgr._cli.logs import configure
from asyncmgr._settings.model import Settings
from asyncmgr._settings.problems import redacted
from asyncmgr.capabilities import Hosts
from asyncmgr.errors import ControlUnavailable, MissingExtra
from asyncmgr.transports import open_transport

if TYPE_CHECKING:
    from asyncmgr._cli.top.wires import Finder


@click.command(
    "top",
    epilog=options.examples(
        "asyncmgr top", "asyncmgr top --service compute --transport nats://127.0.0.1:4222"
    ),
)
@reach
def top(reach: Reach) -> None:
    """Show running services, live: what needs you, how all tasks stand, and the verbs at a key.

    Without --transport these are your own services on this machine, as for 'asyncmgr status'. Press ? for the keys.
    """
    if find_spec("textual") is None:
        raise MissingExtra("asyncmgr top needs textual: pip install 'asyncmgr[top]'")
    with Path(os.devnull).open("w") as nowhere:  # a line of a log would be written across the screen
        configure("warning", "console", nowhere)
        asyncio.run(_near(reach) if reach.transport is None else _far(reach, reach.transport))


async def _near(reach: Reach) -> None:
    from asyncmgr._cli.top.wires import SocketFinder

    await asyncio.to_thread(reach.local)  # says what is wrong while there is no screen
    await _show(SocketFinder(reach))


async def _far(reach: Reach, url: str) -> None:
    from asyncmgr._cli.top.wires import CallFinder

    settings = Settings(transport=url)
    refuse_memory(settings.transport)
    async with (
        open_transport(settings.transport, settings) as transport,
        Hosts(transport, reach.service) as hosts,
    ):
        finder = CallFinder(transport, hosts, reach.at)
        if not await finder.find():
            raise ControlUnavailable(f"nobody fits at {redacted(settings.transport)}")
        await _show(finder)


async def _show(finder: Finder) -> None:
    from asyncmgr._cli.top.app import TopApp
    from asyncmgr._cli.top.watching import Watch

    watch = Watch(finder)
    try:
        await TopApp(watch).run_async()
    finally:
        await watch.close()
