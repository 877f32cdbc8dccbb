"""The history file: what it keeps, for how long, and what a restart knows. In virtual time."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from asyncmgr._common.clock import SECOND
from asyncmgr._history.journal import Entry
from asyncmgr._history.slots import TASK_SHIFT, Raw, code_of
from asyncmgr._history.sqlite import SUCCESSES_KEPT, HistoryFile, path_of
from asyncmgr.errors import InvalidSettings
from asyncmgr.testing import VirtualTimeLoop, run_virtual
from tests.helpers import Recorded, log_processors, task

TWO = datetime(2026, 7, 1, 2, tzinfo=UTC)
AT = round(TWO.timestamp() * SECOND)


async def noop(context: Any) -> None: ...


async def until(moment: datetime) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    await loop.let_pass((moment - loop.now()).total_seconds())


def rows(path: Path, question: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(question).fetchall()


def opened(path: Path, now: int = AT) -> HistoryFile:
    return HistoryFile(path, service="s", host="h", incarnation="i", now=now)


def run(slot: int, task: int = 1, fate: str = "succeeded") -> tuple[Raw, str, bool]:
    key = task << TASK_SHIFT | code_of(fate)
    return Raw(key, slot, slot, 1, slot / SECOND, 0.25, 7, 0), "", False


def write(file: HistoryFile, *runs: tuple[Raw, str, bool], elapsed: float = 5.0, now: int = AT) -> None:
    file.write(runs, [], [], name_of=lambda number: f"M.t{number}", now=now, elapsed=elapsed)


def test_a_restart_knows_what_was_before(tmp_path: Path) -> None:
    """A stop and a start: both lives in one answer, and the slots between them were missed, down."""
    url = f"sqlite://{tmp_path}/history.db"

    async def first() -> None:
        recorded = Recorded(task(noop, cron="*/10 * * * *"), history=url)
        async with recorded.service:
            await until(TWO + timedelta(minutes=25))

    async def second() -> None:
        recorded = Recorded(task(noop, cron="*/10 * * * *"), history=url)
        async with recorded.service:
            await until(TWO + timedelta(minutes=75))
            found = recorded.service.history("M.noop")
            assert [(one.fate, one.reason, one.count) for one in found] == [
                ("succeeded", None, 1),
                ("missed", "down", 4),
                ("succeeded", None, 1),
                ("succeeded", None, 1),
            ]
            assert str(recorded.service.explain("M.noop", TWO + timedelta(minutes=40))) == (
                "M.noop: the 4 slots from 02:30 to 03:00 were missed: the service was down from 02:25 to 03:05."
            )
            assert str(recorded.service.explain("M.noop", TWO + timedelta(minutes=10))) == (
                "M.noop: the slot of 02:10 ran, and succeeded in 0 us."
            )

    run_virtual(first(), start=TWO)
    run_virtual(second(), start=TWO + timedelta(minutes=65))
    assert len(rows(tmp_path / "history.db", "SELECT * FROM lives WHERE stopped > 0")) == 2


def test_a_stop_and_a_start_leave_no_slot_without_a_fate(tmp_path: Path) -> None:
    """A slot that came due while the service was stopping was skipped, draining; when it was gone, missed, down."""
    url = f"sqlite://{tmp_path}/history.db"

    async def slow(context: Any) -> None:
        await asyncio.sleep(40)

    def service() -> Recorded:
        return Recorded(
            task(noop, spacing=10), task(slow, name="slow", spacing=3600, initial_delay=24), history=url
        )

    def fates(recorded: Recorded) -> list[tuple[int, int, str, str | None, int]]:
        found = recorded.service.history("M.noop", limit=1000)
        return [
            ((one.slot - AT) // SECOND, (one.last - AT) // SECOND, one.fate, one.reason, one.count)
            for one in found
            if one.reason is not None
        ]

    stopped = (30, 60, "skipped", "draining", 4)

    async def first() -> None:
        recorded = service()
        await recorded.service.start()
        await until(TWO + timedelta(seconds=25))
        await recorded.service.stop(timeout=60)
        assert fates(recorded) == [stopped]

    async def second() -> None:
        recorded = service()
        async with recorded.service:
            await until(TWO + timedelta(seconds=125))
            assert fates(recorded) == [(70, 90, "missed", "down", 3), stopped]
            assert str(recorded.service.explain("M.noop", TWO + timedelta(seconds=50))) == (
                "M.noop: the 4 slots from 02:00:30 to 02:01 were skipped: the service was stopping since 02:00:25."
            )

    run_virtual(first(), start=TWO)
    run_virtual(second(), start=TWO + timedelta(seconds=93))


def test_a_file_is_written_every_five_seconds(tmp_path: Path) -> None:
    """A span that grows keeps its one row; what people did is there too."""
    path = tmp_path / "history.db"

    async def slow(context: Any) -> None:
        await asyncio.sleep(1000)

    async def main() -> None:
        recorded = Recorded(task(slow, name="slow", spacing=1), history=f"sqlite://{path}")
        async with recorded.service:
            await until(TWO + timedelta(seconds=301))
            recorded.service.task("M.slow").pause(note="enough")
            await until(TWO + timedelta(seconds=310))
            assert rows(path, "SELECT slot, slots FROM fates") == [(AT + 2 * SECOND, 300)]
            assert rows(path, "SELECT note FROM journal WHERE kind = 'pause'") == [("enough",)]
            recorded.service.request_stop(at_once=True)

    run_virtual(main(), start=TWO)


def test_busy_tasks_have_a_row_for_five_minutes(tmp_path: Path) -> None:
    """Above 50 successes a second; failures keep their rows."""
    file = opened(tmp_path / "history.db")
    many = [run(AT + number * 10_000) for number in range(400)]
    write(file, *many, run(AT, fate="failed"))
    write(file, *many[:100])
    file.stop(AT)
    assert rows(tmp_path / "history.db", "SELECT at, runs, took FROM busy") == [(AT, 400, 100 * SECOND)]
    assert rows(tmp_path / "history.db", "SELECT count(*) FROM fates") == [(101,)]


def test_what_is_old_or_too_much_is_dropped(tmp_path: Path) -> None:
    """Successes after 7 days or when the file is too large, the rest after 90 days."""
    file = opened(tmp_path / "history.db")
    day = 86_400 * SECOND
    for age in (1, 8, 100):
        write(file, run(AT - age * day), run(AT - age * day, fate="failed"))
    assert not file.drop_old(AT)
    path = tmp_path / "history.db"
    assert rows(path, "SELECT count(*) FROM fates") == [(3,)]
    assert 7 * day == SUCCESSES_KEPT
    file.drop_old(AT, most_bytes=0)
    assert rows(path, "SELECT count(*) FROM fates") == [(2,)]
    file.stop(AT)


def test_two_at_one_moment_are_two_rows(tmp_path: Path) -> None:
    """The moment of the end is the key: the second one is a microsecond later."""
    file = opened(tmp_path / "history.db")
    write(file, run(AT), run(AT, task=2))
    file.write([], [], [Entry(AT, "a"), Entry(AT, "b")], name_of=str, now=AT, elapsed=5)
    file.stop(AT)
    assert rows(tmp_path / "history.db", "SELECT ended - slot FROM fates") == [(250_000,), (250_001,)]
    assert rows(tmp_path / "history.db", "SELECT count(*) FROM journal") == [(2,)]


@pytest.mark.parametrize("url", ["postgresql://h/d", "sqlite://", "sqlite:///", "sqlite://history.db"])
def test_another_url_is_refused(url: str) -> None:
    """The text says how to write it."""
    with pytest.raises(InvalidSettings, match=r"write it like sqlite:///var/lib/app/history\.db"):
        path_of(url)


def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """It is no database, is of another version, or its directory is absent: the service does not start."""
    (tmp_path / "text").write_text("hello " * 1000)
    with closing(sqlite3.connect(tmp_path / "newer")) as db:
        db.execute("PRAGMA user_version = 99")
    for name in ("text", "newer", "absent/history.db"):
        with pytest.raises(InvalidSettings, match=r"cannot be used: .*; name a file in a directory"):
            opened(tmp_path / name)


def test_a_failing_disk_is_told_once_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be written is written later; the log says when it began and when it ended."""
    path, events = tmp_path / "history.db", []

    def keep(logger: Any, name: str, event: dict[str, Any]) -> Any:
        events.append(event["event"])
        raise KeyError

    async def main() -> None:
        recorded = Recorded(task(noop, spacing=2), history=f"sqlite://{path}")
        async with recorded.service:
            with monkeypatch.context() as patch, log_processors(keep):
                patch.setattr(HistoryFile, "_insert", lambda *args: 1 / 0)
                await until(TWO + timedelta(seconds=21))
            with log_processors(keep):
                await until(TWO + timedelta(seconds=35.5))
            assert rows(path, "SELECT count(*) FROM fates") == [(17,)]

    run_virtual(main(), start=TWO)
    assert [one for one in events if one.startswith("history")] == ["history.failed", "history.resumed"]
