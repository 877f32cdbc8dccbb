"""``asyncmgr top`` with a real service: over its control socket, and by calls (11, 15)."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._cli.doors import Reach
from asyncmgr._cli.top.app import TopApp
from asyncmgr._cli.top.watching import Watch
from asyncmgr._cli.top.wires import CallFinder, Finder, SocketFinder, Wire
from asyncmgr._service.control_socket import why_unavailable
from asyncmgr.capabilities import Hosts
from tests.cli.screens import FakeFinder, Screen

NAME = f"volumes{os.getpid()}"
"""A name of this process: the temporary directory of the machine may have sockets of others."""


class Volumes(Manager):
    fails = True

    @periodic_task(spacing=3600, initial_delay=3600)
    async def sync(self, context: RunContext) -> None:
        if self.fails:
            raise PermissionError("/srv/volumes")

    @periodic_task(spacing=3600, initial_delay=3600)
    async def moves(self, context: RunContext) -> None:
        context.progress(2, 8, "moving")
        await asyncio.Event().wait()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory with a short path, as a session has."""
    directory = Path(tempfile.mkdtemp(prefix="amr"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield directory
    shutil.rmtree(directory)


def service_of(volumes: Volumes) -> Service:
    settings = Settings(seed=1, control=True, rpc_control=True, store="memory://")
    return Service(volumes, name=NAME, host="nyx", settings=settings)


@asynccontextmanager
async def shown(finder: Finder) -> AsyncIterator[Screen]:
    app = TopApp(Watch(finder), every=None)
    async with app.run_test(size=(100, 30)) as pilot:
        screen = Screen(app, pilot, FakeFinder())
        await screen.step()
        yield screen
    await app.services.close()


async def until(screen: Screen, holds: Callable[[], bool]) -> None:
    """Go on, a round after the other, until it holds."""
    async with asyncio.timeout(60):
        while not holds():
            await screen.step()


async def follow(screen: Screen, volumes: Volumes, service: Service) -> None:
    """See a run fail, get well, hang about and be cancelled, a pause, and the details."""
    await until(screen, lambda: "All 2 tasks are well" in screen.text)
    await screen.press("r")
    assert "is on its way" in screen.text
    await until(screen, lambda: "PermissionError: /srv/volumes." in screen.words)
    assert "1 task needs you  the other 1 is well" in screen.text
    volumes.fails = False
    await screen.press("r")
    await until(screen, lambda: "All 2 tasks are well" in screen.text)
    assert "✕" in screen.line("Volumes.sync")
    await screen.press("G", "r")
    await until(screen, lambda: "running" in screen.line("Volumes.moves"))
    assert "25 %" in screen.line("Volumes.moves")
    await screen.press("enter")
    await until(screen, lambda: "WHERE THE RUN IN PROGRESS WAITS" in screen.text)
    assert "Volumes.moves" in screen.line("test_top_socket.py:")
    await screen.press("escape", "c", "tab", "enter")
    await until(screen, lambda: "running" not in screen.line("▶" if "▶" in screen.text else "Volumes.moves"))
    await screen.press("p", "enter", *"moves", "enter")
    await until(screen, lambda: "paused to" in screen.text)
    assert service.task("Volumes.moves").status.paused is not None


@pytest.mark.skipif(bool(why_unavailable()), reason="no control sockets here")
@pytest.mark.usefixtures("runtime")
async def test_over_the_socket() -> None:
    """It finds the service, shows what happens, steers it, and goes on with the next process of the same service."""
    volumes = Volumes()
    finder = SocketFinder(Reach(NAME, None, False, None))
    async with service_of(volumes) as service, shown(finder) as screen:
        await follow(screen, volumes, service)
        assert "(uid " in str(service.journal.actions()[-1].by)
        await service.stop()
        await until(screen, lambda: "● lost" in screen.text)
        assert "the process is gone" in screen.words
        async with service_of(Volumes()):
            await until(screen, lambda: "● live" in screen.text)
            assert "All 2 tasks are well" in screen.text


async def test_by_calls() -> None:
    """The same over the transport, where what is done is noted as somebody's word."""
    volumes = Volumes()
    async with (
        service_of(volumes) as service,
        Hosts(service.store, NAME) as hosts,
        shown(CallFinder(service.transport, hosts, None)) as screen,
    ):
        await follow(screen, volumes, service)
        assert service.journal.actions()[-1].by.startswith("said to be ")


@pytest.mark.skipif(bool(why_unavailable()), reason="no control sockets here")
@pytest.mark.usefixtures("runtime")
async def test_one_connection_is_enough() -> None:
    """A round is one question over a connection that stays open; one that the service has closed is opened anew."""
    async with service_of(Volumes()):
        (wire,) = await SocketFinder(Reach(NAME, "nyx", False, None)).find()
        first = await wire.ask("hello")
        assert (await wire.ask("hello"))["since"] == first["since"]
        await wire.close()
        assert (await wire.ask("hello"))["since"] == first["since"]
        await wire.close()
    others: Sequence[Wire] = await SocketFinder(Reach("other", None, False, None)).find()
    assert others == []
