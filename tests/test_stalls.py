"""Slots that came due while the process got no CPU: `missed`, `stopped`, in memory and after a restart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asyncmgr import Manager, RunContext, Service, Settings, periodic_task
from asyncmgr._common.clock import to_datetime

pytestmark = pytest.mark.skipif(
    not hasattr(os, "kill") or sys.platform == "win32", reason="nothing stops there"
)

LENGTH = 1.7
STOP = f"sleep 0.2; kill -STOP {{me}}; sleep {LENGTH}; kill -CONT {{me}}"


def stopping() -> list[str]:
    """The command that stops this process for a while, and lets it go on."""
    return ["sh", "-c", STOP.format(me=os.getpid())]


class Stalls(Manager):
    """Each task is in another way at work while the process stands still."""

    @periodic_task(spacing=3600)
    async def waits(self, context: RunContext) -> None:
        """The loop waits for events, and an event comes too."""
        process = await asyncio.create_subprocess_exec(*stopping())
        await process.wait()

    @periodic_task(spacing=3600)
    async def sleeps(self, context: RunContext) -> None:
        """The loop waits for its timer."""
        process = subprocess.Popen(stopping())  # noqa: ASYNC220  nothing of it is awaited
        await asyncio.sleep(0.2 + LENGTH + 0.3)
        process.wait()

    @periodic_task(spacing=3600)
    async def computes(self, context: RunContext) -> None:
        """A run has the event loop. It stops the process itself: a busy machine cannot make what it computes longer."""
        again = f"for i in 1 2 3 4 5; do sleep {LENGTH}; kill -CONT {os.getpid()}; done"
        process = subprocess.Popen(["sh", "-c", again])  # noqa: ASYNC220
        os.kill(os.getpid(), signal.SIGSTOP)
        process.kill()
        process.wait()

    @periodic_task(spacing=3600)
    async def blocks(self, context: RunContext) -> None:
        """Nobody stops the process: a run blocks the event loop."""
        time.sleep(LENGTH)  # noqa: ASYNC251


class Ticking(Manager):
    @periodic_task(spacing=0.1)
    async def tick(self, context: RunContext) -> None: ...


CAUSES = {"waits": "stopped", "sleeps": "stopped", "computes": "stopped", "blocks": "blocked"}


async def main(path: str) -> None:
    """Let the process stand still in each way; print the fates of slots, now and after a restart."""
    for life in range(2):
        settings = Settings(history=f"sqlite:///{path}")
        async with Service(Stalls(), Ticking(), settings=settings, host="h") as service:
            if not life:
                for name in CAUSES:
                    await stall(service, name)
                    await asyncio.sleep(0.5)
            missed = [one for one in service.history("Ticking.tick", limit=10_000) if one.fate == "missed"]
            long = [one for one in missed if one.count > 10]
            told = [
                (one.reason, one.count, str(service.explain("Ticking.tick", to_datetime(one.slot))))
                for one in long
            ]
            sys.stdout.write(json.dumps(told[::-1]) + "\n")


async def stall(service: Service, name: str) -> None:
    await service.task(f"Stalls.{name}").trigger()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells less of a thread")
def test_a_process_without_cpu(tmp_path: Path) -> None:
    """Whatever its loop did just then; a run that blocks the loop is another cause. A restart changes nothing."""
    command = [sys.executable, "-m", "tests.test_stalls", str(tmp_path / "history.db")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    now, later = (json.loads(line) for line in ended.stdout.splitlines())
    assert [reason for reason, _, _ in now] == list(CAUSES.values())
    assert [told[:2] for told in later if told[0] != "down"] == [told[:2] for told in now]
    for reason, count, text in (*now, *later):
        assert count >= 10
        if reason == "stopped":
            assert "were missed: the process got no CPU from " in text
        elif reason == "blocked":
            assert "Stalls.blocks blocked the event loop" in text


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
