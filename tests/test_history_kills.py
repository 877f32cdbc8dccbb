"""The history file survives `kill -9` at any moment: real processes, real files."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

KILLS = int(os.environ.get("KILLS", "3"))

PROGRAM = """
import asyncio, sys, time
import asyncmgr._history.writer as writer
writer.COMMIT = 0.02
from asyncmgr import Manager, Service, Settings, periodic_task

class M(Manager):
    @periodic_task(spacing=0.01, run_immediately=True)
    async def tick(self, context): ...
    @periodic_task(spacing=0.02)
    async def fail(self, context): raise ValueError(context.run_id)

async def main():
    service = Service(M(), name="s", host="h", settings=Settings(history="sqlite://" + sys.argv[1]))
    async with service:
        entry = [one for one in service.journal if one.kind == "down"]
        print("up", entry[0].at if entry else 0, entry[0].until if entry else 0, flush=True)
        while True:
            await asyncio.sleep(0.005)
            print(time.time_ns() // 1000, flush=True)

import logging
logging.getLogger("asyncmgr").setLevel("CRITICAL")
asyncio.run(main())
"""


def life(path: Path, seconds: float) -> tuple[int, int, int]:
    """Let a service live and kill it; from when to when it says that it was down, and when it last wrote a line."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        up = child.stdout.readline().split()
        assert up, "the service did not start"
        time.sleep(seconds)  # any moment will do
        os.kill(child.pid, signal.SIGKILL)
        lines = [line for line in child.stdout.read().splitlines() if line.isdigit() and len(line) == 16]
        child.wait()
    return int(up[1]), int(up[2]), int(lines[-1]) if lines else 0


def test_a_killed_service_loses_little_and_knows_since_when_it_was_down(tmp_path: Path) -> None:
    """The file is whole after each kill, has all but the last moments, and the next start says when it was down."""
    path = tmp_path / "history.db"
    last = 0
    for number in range(KILLS):
        down_since, down_until, seen = life(path, 0.05 + number % 7 * 0.031)
        if last and down_since:
            assert down_since <= last + 1_000_000
            assert last - down_since < 5_000_000, "at most the last five seconds are lost"
            assert down_until > last
        with sqlite3.connect(path) as db:
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert db.execute("SELECT count(*) FROM lives").fetchone() == (number + 1,)
            alive = db.execute("SELECT max(alive) FROM lives").fetchone()[0]
            newest = db.execute("SELECT max(ended) FROM fates").fetchone()[0] or alive
        db.close()
        assert seen - alive < 5_000_000
        assert newest <= alive + 1_000_000
        last = seen or last
    with sqlite3.connect(path) as db:
        runs = db.execute(
            "SELECT count(DISTINCT life || '-' || run), count(*) FROM fates WHERE run > 0"
        ).fetchone()
        assert runs[0] == runs[1] > KILLS
    db.close()
