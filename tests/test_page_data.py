"""What the page shows, from facts: tasks, sentences, marks on the time axis, the journal (15). Pure."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from asyncmgr._history.journal import Entry
from asyncmgr._history.slots import CODES, Record
from asyncmgr._monitoring.page_data import (
    About,
    InTheWay,
    entry_facts,
    in_the_way,
    mark_of,
    marks_of,
    need_of,
    record_told,
    task_facts,
    told_entry,
)
from asyncmgr._service.control_answers import status_as_json
from asyncmgr._service.control_history import entry_as_json, fate_as_json
from asyncmgr._tasks.status import LastStatus, PausedStatus, RunningStatus, TaskState, TaskStatus
from asyncmgr.events import Outcome

NOW = datetime(2026, 7, 1, 2, 58, 41, tzinfo=UTC)
MS = round(NOW.timestamp() * 1000)
US = MS * 1000
SECOND = 1_000_000
HERE = About("eu-1")
WELL = TaskStatus(
    "sync",
    "Volumes.sync",
    30.0,
    "every 30s",
    NOW - timedelta(seconds=11),
    NOW + timedelta(seconds=19),
    state=TaskState.OK,
    last=LastStatus(Outcome.SUCCEEDED, NOW - timedelta(seconds=11), 0.5, 2.0),
    last_success=NOW - timedelta(seconds=8),
    runs=120,
)
RUNNING = RunningStatus(
    "abc-7", NOW - timedelta(minutes=47), "schedule", where="Backups.put at client.py:212"
)


def need(status: TaskStatus, about: About = HERE, **more: Any) -> dict[str, Any] | None:
    return need_of({**status_as_json(status), **more}, about)


def words(found: dict[str, Any] | None) -> str:
    """Write a sentence with its moments as seconds from now."""
    assert found is not None
    return "".join(
        part if isinstance(part, str) else f"<{part[0]} {(part[1] - MS) / 1000:g}>" for part in found["text"]
    )


def test_a_task_that_is_well() -> None:
    """Its facts are short: what is empty is left out. All of it is JSON."""
    facts = task_facts(status_as_json(replace(WELL, usual=2.1)), HERE)
    assert json.loads(json.dumps(facts)) == {
        "task": "Volumes.sync",
        "state": "ok",
        "schedule": "every 30s",
        "spacing": 30.0,
        "next": MS + 19_000,
        "last": {"fate": "succeeded", "slot": MS - 11_000, "end": MS - 8_500, "took": 2.0},
        "success": MS - 8_000,
        "counts": [120, 0, 0],
        "usual": 2.1,
        "timeout": 0.0,
    }


def test_a_pause_and_a_run_with_progress() -> None:
    """Who, until when and why; how far, and where it waits."""
    paused = PausedStatus("ops (uid 1000)", NOW, NOW + timedelta(hours=1), "moves")
    status = replace(WELL, state=TaskState.PAUSED, paused=paused, running=RUNNING, off="by hand")
    facts = task_facts(status_as_json(status), HERE)
    assert facts["paused"] == {"by": "ops (uid 1000)", "since": MS, "until": MS + 3_600_000, "note": "moves"}
    assert facts["running"]["where"] == "Backups.put at client.py:212"
    assert facts["off"] == "by hand"
    assert "need" not in facts


@pytest.mark.parametrize(
    ("spacing", "schedule", "tz", "shown"),
    [
        (30.0, "every 30s", None, "every 30s"),
        (0.0, "every pass", None, "every pass"),
        (None, "0 7 * * 1-5", "Europe/Berlin", "0 7 * * 1-5 Europe/Berlin"),
    ],
)
def test_schedules(spacing: float | None, schedule: str, tz: str | None, shown: str) -> None:
    """A cron expression has its time zone."""
    status = replace(WELL, spacing=spacing, schedule=schedule, tz=tz)
    assert task_facts(status_as_json(status), HERE)["schedule"] == shown


def test_a_run_that_hangs() -> None:
    """How long, on which host of several, how long usually, its timeout, and where it waits; the verb ends it."""
    status = replace(WELL, state=TaskState.HUNG, running=RUNNING)
    found = need(replace(status, usual=190.0), About("eu-1", is_one_of_many=True))
    assert words(found) == (
        "Running for <ago -2820> on eu-1, usually 3 min; it has no timeout. It waits in Backups.put at client.py:212."
    )
    assert found is not None
    assert found["verb"] == "cancel"
    assert "its timeout is 45 min" in words(need(replace(status, timeout=2700.0)))
    assert "timeout" not in words(need(status, timeout=None)), "an older host does not tell"


def test_failures() -> None:
    """One, and several in a row; when the next try is."""
    failing = replace(
        WELL,
        state=TaskState.FAILING,
        failures=5,
        failing_since=NOW - timedelta(minutes=41),
        error="HTTPStatusError: 503.",
    )
    assert words(need(failing)) == (
        "Failed 5 times in a row since <at -2460>: HTTPStatusError: 503. Next at <at 19>, in <in 19>."
    )
    once = replace(failing, failures=1, next_due=None)
    assert words(need(once)) == "Failed at <at -2460>: HTTPStatusError: 503."


def test_what_is_held_back() -> None:
    """With what holds it back, and the trial run to come."""
    held = replace(WELL, state=TaskState.HELD, failures=5, failing_since=NOW, error="PermissionError: /srv")
    assert words(need(held, held_spacing=2400.0)) == (
        "Held back since <at 0>, after 5 failures in a row; it runs only every 40 min (PermissionError: /srv)."
        " One trial run at <at 19>, in <in 19>."
    )


def test_what_is_stale() -> None:
    """The promise, and how far it is from being kept."""
    stale = replace(WELL, state=TaskState.STALE)
    assert words(need(stale, freshness=900.0)).startswith(
        "No success for <ago -8>; it promises one every 15 min."
    )
    assert words(need(replace(stale, last_success=None))).startswith("No success yet.")


def test_a_run_in_the_way() -> None:
    """From two skipped slots on, while that run goes on; not slots that were skipped before it began."""
    status = replace(WELL, state=TaskState.RUNNING, running=RUNNING)
    four = InTheWay(4, US, "7 0 Backups.put at client.py:212")
    assert words(need(status, replace(HERE, overlap=four))).startswith(
        "4 slots skipped: the run of <at -2820> is still in the way, at Backups.put at client.py:212. Next at"
    )
    for overlap in (None, replace(four, count=1), replace(four, last=US - 3600 * SECOND)):
        assert need(status, replace(HERE, overlap=overlap)) is None
    assert need(WELL, replace(HERE, overlap=four)) is None


@pytest.mark.parametrize("state", [TaskState.OK, TaskState.PAUSED, TaskState.DISABLED, TaskState.NEW])
def test_who_needs_nobody(state: TaskState) -> None:
    """Somebody made a pause."""
    assert need(replace(WELL, state=state)) is None


def test_texts_of_others_are_made_safe() -> None:
    """One line without control characters or text directions, and not 10 kB of it."""
    bad = "<b>\N{RIGHT-TO-LEFT OVERRIDE}\n" + "x" * 10_000
    facts = task_facts(status_as_json(replace(WELL, state=TaskState.FAILING, failures=1, error=bad)), HERE)
    assert len(facts["error"]) < 400
    assert facts["error"].startswith("<b>\\u202e\\n")
    assert len(words(facts["need"])) < 600


# Marks


def run(ago: float, took: float = 1.0, fate: str = "succeeded", text: str = "", late: float = 0.0) -> Record:
    slot = US - round(ago * SECOND)
    started = slot + round(late * SECOND)
    return Record("Volumes.sync", slot, slot, 1, fate, None, "schedule", 1, started, took, text)


def test_marks_of_runs() -> None:
    """Begin, length and fate; the text of what is no success, and a lateness. The end is trimmed."""
    failed = CODES["failed", None]
    assert mark_of(run(60, 2.5), MS) == [-60_000, 2500, 0]
    assert mark_of(run(60, 2.5, "failed", "OSError: no"), MS) == [-60_000, 2500, failed, 1, "OSError: no"]
    assert mark_of(run(60, late=3.0), MS) == [-57_000, 1000, 0, 1, "", 3000]


def test_marks_of_slots_without_a_run() -> None:
    """From the first to the last, with their count."""
    span = Record("Volumes.sync", US - 90 * SECOND, US - 30 * SECOND, 3, "missed", "suspended")
    assert mark_of(span, MS) == [-90_000, 60_000, CODES["missed", "suspended"], 3]


def test_many_successes_become_one_mark() -> None:
    """Where they lie so close that nobody could tell them apart; a failure among them stays."""
    day = 86_400_000
    records = [run(ago, 0.5) for ago in range(86_000, 0, -10)]
    rows = marks_of([*records, run(4000, 1.0, "failed")], MS, day)
    row = rows["Volumes.sync"]
    assert len(row) < 1010
    assert sum(mark[3] if len(mark) > 3 else 1 for mark in row) == len(records) + 1
    assert [mark for mark in row if mark[2] == CODES["failed", None]] == [[-4_000_000, 1000, 2]]
    assert len(marks_of(records, MS, 1000)["Volumes.sync"]) == len(records)


def test_marks_begin_with_the_shown_time() -> None:
    """What ended before is left out, and they are in order."""
    rows = marks_of([run(10), run(4000), run(30)], MS, 3_600_000, since=US - 3600 * SECOND)
    assert [mark[0] for mark in rows["Volumes.sync"]] == [-30_000, -10_000]


def test_slots_in_the_way_are_of_one_reason() -> None:
    """Other reasons are none of it."""
    overlap = Record("a.b", US, US + SECOND, 2, "skipped", "overlap", text="7 0 x")
    assert in_the_way(overlap) == InTheWay(2, US + SECOND, "7 0 x")
    assert in_the_way(replace(overlap, reason="paused")) is None
    assert in_the_way(None) is None


# What others tell


@pytest.mark.parametrize(
    "record",
    [
        run(60, 2.5, "failed", "OSError: no", late=1.25),
        Record("a.b", US - 90 * SECOND, US, 7, "skipped", "overlap", text="7 0 x"),
    ],
)
def test_a_record_arrives_as_it_was(record: Record) -> None:
    """By way of JSON, from another host."""
    assert record_told(json.loads(json.dumps(fate_as_json(record)))) == record


def test_an_entry_arrives_as_it_was() -> None:
    """With the data that the page shows and no other."""
    entry = Entry(
        US, "blocked", None, US + SECOND, data={"seconds": 1.0, "blame": "a.b", "frames": ["x"] * 99}
    )
    here = entry_facts(entry, "eu-1")
    assert here == {
        "at": MS,
        "until": MS + 1000,
        "kind": "blocked",
        "data": {"seconds": 1.0, "blame": "a.b"},
        "say": ["a.b blocked a loop", "a.b blocked the event loop of eu-1 for 1 s"],
        "mark": ["bad", "1 s a.b"],
    }
    assert told_entry(json.loads(json.dumps(entry_as_json(entry))), "eu-1") == here
