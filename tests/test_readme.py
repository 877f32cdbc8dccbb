"""What README promises is true. Its blocks of code are executed as those of all pages, in ``documentation``."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from asyncmgr import Manager, Service, Settings, periodic_task
from asyncmgr.events import Event, LeaseAcquired, RunFinished, SlotSkipped, SlotsMissed
from asyncmgr.testing import VirtualTime, VirtualTimeLoop
from tests.documentation.blocks import ROOT, blocks
from tests.postgres_servers import PostgresServer

# Promises


class Busy(Manager):
    """Meets its own runs, a long block of the loop and a stop."""

    @periodic_task(spacing=10)
    async def slow(self, context: Any) -> None:
        await asyncio.sleep(25)

    @periodic_task(spacing=10, overlap="queue")
    async def queued(self, context: Any) -> None:
        await asyncio.sleep(25)

    @periodic_task(spacing=10)
    async def quick(self, context: Any) -> None: ...


async def test_no_slot_is_dropped_in_silence(virtual_time: VirtualTime) -> None:
    """Of every slot a listener learns: it was run, or refused, or passed and is stood for by a later run (54)."""
    slots: dict[str, int] = {}

    def note(event: Event) -> None:
        if isinstance(event, RunFinished | SlotSkipped):
            slots[event.task] = slots.get(event.task, 0) + 1
        elif isinstance(event, SlotsMissed):
            slots[event.task] = slots.get(event.task, 0) + event.count

    service = Service(Busy())
    service.add_listener(note)
    async with service:
        await virtual_time.advance(605)
        block(300)
        await virtual_time.advance(100)
    assert slots == dict.fromkeys(["Busy.slow", "Busy.queued", "Busy.quick"], 100)


def block(seconds: int) -> None:
    """Do to the loop what `time.sleep` would: time goes on, and nothing else does."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._advance(seconds * 1_000_000)


async def test_a_blocked_loop_costs_one_late_run(virtual_time: VirtualTime) -> None:
    """What a `time.sleep` in one task does to another: one run catches up, and is told what it stands for (54)."""
    told: list[Any] = []

    class Blocks(Manager):
        @periodic_task(spacing=60, run_immediately=True)
        async def block(self, context: Any) -> None:
            if not told:
                block(5)

        @periodic_task(spacing=1, tolerance=0)
        async def tick(self, context: Any) -> None:
            told.append((context.trigger, round(context.lateness, 3)))

    await virtual_time.run_for(Service(Blocks()), seconds=8.5)
    assert told[:4] == [("catch_up", 0), ("schedule", 0), ("schedule", 0), ("schedule", 0)]


SECRETS = {"password": "hunter2", "token": "t0psecret"}


@pytest.mark.parametrize("kind", ["password", "token", "url"])
def test_secrets_of_the_settings_are_shown_nowhere(kind: str, tmp_path: Path) -> None:
    """Not in a `repr`, nor by a command that cannot connect, whatever its log says (54)."""
    secret = SECRETS.get(kind, "hunter2")
    url = "nats://me:hunter2@127.0.0.1:1" if kind == "url" else "nats://127.0.0.1:1"
    nats = {"password": {"user": "me", "password": secret}, "token": {"token": secret}}.get(kind, {})
    assert secret not in repr(Settings(transport=url, nats=nats))
    assert secret not in str(Settings(transport=url, nats=nats))
    table = "".join(f'{key} = "{value}"\n' for key, value in nats.items())
    (tmp_path / "asyncmgr.toml").write_text(f'transport = "{url}"\n[nats]\nconnect_timeout = "50ms"\n{table}')
    (tmp_path / "app.py").write_text("from asyncmgr import Manager\nclass App(Manager): ...\n")
    for words in (["check", "app:App"], ["hosts"], ["run", "app:App", "--log-level", "debug"]):
        done = subprocess.run(
            [sys.executable, "-m", "asyncmgr", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=60,
        )
        assert secret not in done.stdout + done.stderr
        assert done.returncode in (0, 1)


def test_the_example_of_a_cluster_runs(
    shared_postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """As README shows it, over a real database: one host holds the task, and its runs have a token."""
    (block,) = (
        one.text
        for one in blocks(ROOT / "README.md")
        if "Service(" in one.text and "postgresql://" in one.text
    )
    url = "postgresql://agent@db.example/jobs"
    assert block.count(url) == 1
    names: dict[str, Any] = {}
    code = compile(block.replace(url, shared_postgres_server.url), "README.md", "exec", dont_inherit=True)
    exec(code, names)

    async def run() -> None:
        service: Service = names["service"]
        acquired = asyncio.Event()
        service.add_listener(lambda event: acquired.set(), LeaseAcquired)
        async with service, asyncio.timeout(60):
            await acquired.wait()
            await service.task("Bills.send").trigger()

    asyncio.run(run())
    assert re.search(r"^slot None with token \d+$", capsys.readouterr().out, re.MULTILINE)
