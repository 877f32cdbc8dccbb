"""Twelve things go wrong in a real service, and a stranger finds each with one command that the README names."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from asyncmgr._service.control_socket import why_unavailable

if why_unavailable():
    pytest.skip("no control sockets here", allow_module_level=True)

README = Path(__file__).parents[2] / "README.md"

PROGRAM = """
import asyncio, time
from asyncmgr import Manager, Skip, periodic_task

class Shop(Manager):
    @periodic_task(spacing=1)
    async def sync(self, context): ...

    @periodic_task(spacing=1)
    async def legacy(self, context): ...

    @periodic_task(spacing=1)
    async def export(self, context): ...

    @periodic_task(spacing=1, timeout=600)
    async def reindex(self, context):
        await asyncio.sleep(3600)

    @periodic_task(spacing=1, timeout=0.2)
    async def fetch(self, context):
        await asyncio.sleep(3600)

    @periodic_task(spacing=2)
    async def bill(self, context):
        raise PermissionError("/srv/bills")

    @periodic_task(spacing=0.5, backoff=True)
    async def prune(self, context):
        raise OSError("no route to host")

    @periodic_task(spacing=1)
    async def rss(self, context):
        raise Skip("no new items")

    @periodic_task(spacing=3600)
    async def render(self, context):
        time.sleep(2.5)

    @periodic_task(cron="0 0 1 1 *")
    async def yearly(self, context): ...

    @periodic_task(spacing=3600)
    async def moves(self, context):
        context.progress(2, 8, "moving")
        await asyncio.sleep(3600)
"""
SETTINGS = """
history = "sqlite:///{directory}/history.db"
[tasks."Shop.legacy"]
enabled = false
"""


class Site:
    """A directory with the service, and a stranger's shell in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "shop.py").write_text(PROGRAM)
        (directory / "asyncmgr.toml").write_text(SETTINGS.format(directory=directory))
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ASYNCMGR_")}
        self._environ = {
            **environ,
            "XDG_RUNTIME_DIR": str(directory),
            "TMPDIR": str(directory),
            "TZ": "UTC",
            "COLUMNS": "80",
        }
        self.start()

    def start(self) -> None:
        with (self.directory / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "asyncmgr", "run", "shop.py:Shop"],
                cwd=self.directory,
                env=self._environ,
                stderr=log,
            )
        self.until(lambda: "Shop.sync" in self.ask("status"))

    def ask(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "asyncmgr", *words],
            cwd=self.directory,
            env=self._environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return re.sub(r"\s+", " ", done.stdout + done.stderr)

    def do(self, *words: str) -> None:
        """Use a verb, until it is done."""
        self.until(lambda: "Error" not in self.ask(*words))

    def until(self, holds: Callable[[], Any]) -> None:
        ends = time.monotonic() + 90
        while not holds():
            assert time.monotonic() < ends, (self.directory / "log").read_text()[-3000:]
            time.sleep(0.1)

    def finds(self, *words: str, cause: str) -> None:
        """One command that the README names says the cause, as soon as that has happened."""
        assert re.search(f"asyncmgr {words[0]}[ `]", README.read_text())
        said = ""

        def holds() -> bool:
            nonlocal said
            said = self.ask(*words)
            return re.search(cause, said) is not None

        ends = time.monotonic() + 60
        while not holds():
            assert time.monotonic() < ends, f"{words}: {said}"
            time.sleep(0.2)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(60)


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="amr") as directory:
        made = Site(Path(directory))
        try:
            yield made
        finally:
            made.end()


def clock(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f+00:00")


def test_each_of_twelve_causes_is_found_by_one_command(site: Site) -> None:
    """In a process of its own, from a shell, by somebody who has read the README and not the code."""
    site.do("pause", "export", "--for", "2h", "--note", "provider moves")
    site.finds(
        "explain", "export", cause=r"paused it at .* until .* \(\"provider moves\"\)\. A resume runs none"
    )
    site.finds(
        "explain", "legacy", cause=r"switched off by \S*asyncmgr\.toml, \[tasks\.\"Shop\.legacy\"\] enabled"
    )
    site.finds("history", "reindex", cause=r"skipped, overlap")
    site.finds("explain", "reindex", cause=r"running since .* It waits in Shop\.reindex at shop\.py:\d+")
    site.finds(
        "explain", "fetch", cause=r"timed out after 200 ms while it waited in Shop\.fetch at shop\.py:\d+"
    )
    site.finds("health", cause=r"Shop\.bill (failed|has failed .*): PermissionError: /srv/bills")
    site.finds(
        "explain", "prune", cause=r"held back: after \d+ failures .* The last error is OSError: no route"
    )
    site.finds("explain", "rss", cause=r"It had nothing to do: no new items")
    site.finds("explain", "yearly", clock(time.time() - 3600), cause=r"no slot at .* '0 0 1 1 \*' UTC gives")
    site.do("trigger", "moves", "--no-wait")
    site.finds("status", "moves", cause=r"2 of 8 \(25 %\), moving, in Shop\.moves at shop\.py:\d+")
    site.do("trigger", "render")
    site.finds(
        "health", cause=r"ago: the event loop was blocked for 2\.\d+ s by Shop\.render \(waiting, in Shop"
    )
    began = time.time()
    site.process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    site.process.send_signal(signal.SIGCONT)
    site.finds("explain", "sync", clock(began + 1.5), cause=r"missed: the process got no CPU from")
    time.sleep(6)  # what happened is written down every five seconds
    site.end()
    died = time.time()
    time.sleep(2)
    site.start()
    site.finds("explain", "sync", clock(died + 1), cause=r"missed: the service was down .* it did not stop")
    site.finds("explain", "sync", clock(began + 1.5), cause=r"missed: the process got no CPU from")
