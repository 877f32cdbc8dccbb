"""`asyncmgr simulate --replay`: what the runs of a real service took, and how they ended."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from asyncmgr import Manager, Service, Settings, Skip, periodic_task
from asyncmgr.testing import run_for, run_virtual
from tests.cli.conftest import Invoke
from tests.cli.test_simulate import START, of_tasks, rehearsed

HERE = f"{Path(__file__)}:"


class Told(Manager):
    @periodic_task(spacing=60)
    async def steady(self, context: Any) -> None:
        await asyncio.sleep(10 + (context.slot - BEGAN).total_seconds() / 60 % 7)

    @periodic_task(spacing=300)
    async def mixed(self, context: Any) -> None:
        number = (context.slot - BEGAN).total_seconds() // 300
        if number % 3 == 1:
            raise ValueError("no such row")
        if number % 3 == 2:
            raise Skip("no new items")
        await asyncio.sleep(100)

    @periodic_task(spacing=600, timeout=30)
    async def stuck(self, context: Any) -> None:
        await asyncio.sleep(1000)


BEGAN = datetime(2026, 3, 1, 6, tzinfo=UTC)


def written(hours: float) -> str:
    """Write the history file of a real service, in virtual time; return its path."""
    path = Path.cwd() / "history.db"

    async def live() -> None:
        await run_for(Service(Told(), settings=Settings(history=f"sqlite://{path}")), hours=hours)

    run_virtual(live(), start=BEGAN)
    return str(path)


def test_a_history_is_replayed(invoke: Invoke) -> None:
    """From the start of the service then: its slots take what they took, and end as they ended."""
    told = rehearsed(invoke, f"{HERE}Told", "--replay", written(2), "--for", "1h50m")
    assert told["start"] == BEGAN.isoformat()
    tasks = of_tasks(told)
    assert tasks["steady"]["busy"] == pytest.approx(sum(10 + slot % 7 for slot in range(1, 110)), abs=0.01)
    assert tasks["mixed"]["outcomes"] == {"succeeded": 7, "nothing": 7, "failed": 8}
    assert tasks["mixed"]["errors"] == {"ValueError: no such row": 8}
    assert tasks["stuck"]["outcomes"] == {"timed_out": 10, "running": 1}
    assert {task["length"] for task in told["tasks"]} == {"replayed"}


@pytest.mark.slow
def test_other_slots_draw_from_the_history(invoke: Invoke) -> None:
    """At another time or spacing each run takes what some run of the task took, the same for the same seed."""
    file = written(2)
    words = (f"{HERE}Told", "--replay", file, *START, "--set", "Told.steady.spacing=12")
    tasks = of_tasks(rehearsed(invoke, *words))
    steady = tasks["steady"]
    assert 10 <= steady["usual"] <= steady["longest"] == pytest.approx(16, abs=0.001)
    assert steady["skipped"]["overlap"] > 1000  # those of 13 s and more
    outcomes = tasks["mixed"]["outcomes"]
    assert set(outcomes) >= {"succeeded", "nothing", "failed"}
    assert all(count > 50 for outcome, count in outcomes.items() if outcome != "running")
    assert of_tasks(rehearsed(invoke, *words)) == tasks
    assert of_tasks(rehearsed(invoke, *words, "--seed", "1")) != tasks


def test_what_the_user_says_counts_more_than_a_history(invoke: Invoke) -> None:
    """And another timeout is met by a run that timed out."""
    words = ("--replay", f"sqlite://{written(1)}", "--took", "*.steady=1s", "--set", "Told.stuck.timeout=90")
    tasks = of_tasks(rehearsed(invoke, f"{HERE}Told", *words, "--for", "59m"))
    assert (tasks["steady"]["length"], tasks["steady"]["longest"]) == ("said", 1.0)
    assert tasks["stuck"]["longest"] == pytest.approx(90)


def test_a_file_that_is_no_history(invoke: Invoke) -> None:
    """The text names it."""
    Path("notes.txt").write_text("nothing of the kind" * 100)
    done = invoke("simulate", f"{HERE}Told", "--replay", "notes.txt")
    assert done.exit_code == 1
    assert "notes.txt is no history that this version can read" in done.stderr


def test_policies_follow_replayed_failures(invoke: Invoke) -> None:
    """Backoff and pauses are the real ones: a task that fails in the history is held back, or paused."""
    words = (f"{HERE}Told", "--replay", written(2), *START, "--only", "*.stuck", "--for", "24h")
    held = of_tasks(rehearsed(invoke, *words, "--set", "Told.stuck.backoff=true"))["stuck"]
    assert held["skipped"]["backoff"] + held["runs"] == 144
    assert held["runs"] < 40
    paused = of_tasks(rehearsed(invoke, *words, "--set", "Told.stuck.pause_after=3"))["stuck"]
    assert paused["runs"] == 3
    assert paused["slots"] >= 3


def test_a_task_that_was_too_busy_for_a_row_a_run(invoke: Invoke) -> None:
    """Where five minutes of runs were added up, a run takes their mean."""
    file = written(1)
    with closing(sqlite3.connect(file)) as db, db:
        task = db.execute("SELECT id FROM tasks WHERE name = 'Told.steady'").fetchone()[0]
        db.execute("DELETE FROM fates WHERE task = ?", (task,))
        moment = int(BEGAN.timestamp()) * 1_000_000
        db.execute(
            "INSERT INTO busy VALUES (?, ?, ?, ?, ?, ?, ?)",
            (task, moment, 1000, moment, moment + 299_000_000, 2_500_000_000, 9_000_000),
        )
    steady = of_tasks(rehearsed(invoke, f"{HERE}Told", "--replay", file, "--for", "1h"))["steady"]
    assert (steady["length"], steady["usual"], steady["longest"]) == ("replayed", 2.5, 2.5)
