"""The screen of ``asyncmgr top``: what it shows of services that are made up, and what its keys do (15)."""

from __future__ import annotations

import asyncio
import importlib.util
from datetime import timedelta
from typing import Any

import pytest

from asyncmgr._cli.commands import top as top_command
from asyncmgr._cli.top.watching import LOOKS, Watched
from asyncmgr._cli.top.world import headline
from asyncmgr._service import control_client
from asyncmgr.errors import ControlUnavailable
from tests.cli.conftest import Invoke
from tests.cli.screens import (
    BACKOFF,
    FAILED,
    GONE,
    NOW,
    SUCCEEDED,
    SUSPENDED,
    Clock,
    FakeWire,
    failing,
    hung,
    opened,
    paused,
    well,
)

WIDE = (140, 40)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wire(clock: Clock) -> FakeWire:
    """A service with a task of each kind."""
    wire = FakeWire(clock, well(), hung(), failing(), paused())
    wire.rows = {
        "Volumes.sync": [0, 60, SUCCEEDED, 60, 40, SUSPENDED, 100, 140, SUCCEEDED],
        "Invoices.export": [100, 20, FAILED, 150, 20, BACKOFF],
    }
    return wire


# The list


async def test_the_main_screen(wire: FakeWire) -> None:
    """80 columns are enough: what needs a person in sentences, the worst first, then a row a task with its past."""
    async with opened(wire) as screen:
        assert screen.lines[:11] == [
            " asyncmgr top  billing on eu-1, pid 1  ● live                          02:58:41",
            " 2 tasks need you  the other 2 are well             [all]  needs you 2  failing",
            " ! Backups.nightly Running for 47 min, usually 3 min; it has no timeout. It",
            "                   waits in Backups.put at client.py:212.",
            " ✕ Invoices.export Failed 5 times in a row since 02:17:41: HTTPStatusError: 503",
            "                   from pay.example. Next at 02:59, in 0:19.",
            "   task            last run               -1h         -30m         now     next",
            " ✓ Volumes.sync    ok, 8.5 s ago          ▪▪▪▪▪▪zzzzzz▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪▪     0:19",
            " ! Backups.nightly hangs, 47 min               ▶▶▶▶▶▶▶▶▶▶▶▶▶▶▶▶▶▶▶▶▶▶▶     0:19",
            " ✕ Invoices.export failed 5 in a row                 ✕✕✕   ⊘⊘⊘             0:19",
            " ‖ Mail.digest     paused to 04:17                ‖‖‖‖‖‖‖‖‖‖‖‖‖‖‖‖‖‖‖‖",
        ]
        assert screen.lines[-1].startswith(" Enter details  r run  p pause  c cancel")


async def test_a_wide_screen_is_used(wire: FakeWire) -> None:
    """Sentences have one line, the past gets the columns, and the schedule has one of its own."""
    async with opened(wire, size=WIDE) as screen:
        assert "It waits in Backups.put at client.py:212." in screen.line("! Backups.nightly")
        row = screen.line("Volumes.sync")
        assert row.split()[:3] == ["✓", "Volumes.sync", "every"]
        assert row.count("▪") + row.count("z") > 60
        assert row.endswith("0:19")
        assert max(map(len, screen.lines)) <= 140


async def test_when_all_is_well_it_says_so(clock: Clock) -> None:
    """In one line, and no sentence takes any room."""
    async with opened(FakeWire(clock, well(), well("Volumes.measure"))) as screen:
        assert screen.lines[1].startswith(" All 2 tasks are well")
        assert screen.lines[2].split() == ["task", "last", "run", "-1h", "-30m", "now", "next"]


@pytest.mark.parametrize(
    ("total", "said"), [(0, "No tasks"), (1, "The one task is well"), (1000, "All 1,000 tasks are well")]
)
def test_the_headline_counts(total: int, said: str) -> None:
    """None, one and many."""
    assert headline([], total) == (said, "")


async def test_a_service_in_trouble_comes_first(wire: FakeWire) -> None:
    """What is wrong with the service itself is a sentence above its tasks."""
    wire.health = "the transport is gone since 02:40"
    async with opened(wire) as screen:
        assert "The transport is gone since 02:40." in screen.lines[2]


async def test_what_is_over_is_told_in_one_line(wire: FakeWire) -> None:
    """Blocks of the loop, sleeps, what people did."""
    at = (NOW - timedelta(minutes=26)).isoformat()
    wire.entries = [
        _entry(
            "blocked",
            at,
            until=(NOW - timedelta(minutes=26) + timedelta(seconds=4)).isoformat(),
            data={"blame": "Reports.render"},
        ),
        _entry("pause", at, task="Mail.digest", who="ana"),
    ]
    async with opened(wire, size=WIDE) as screen:
        line = screen.line("Earlier")
        assert "Reports.render blocked the event loop" in line
        assert "ana paused Mail.digest" in line


def _entry(kind: str, at: str, **more: Any) -> dict[str, Any]:
    return {
        "at": at,
        "until": None,
        "kind": kind,
        "task": None,
        "who": None,
        "where": None,
        "note": None,
        "data": {},
    } | more


async def test_changes_come_with_the_next_round(wire: FakeWire, clock: Clock) -> None:
    """Only what has changed is asked for; the countdown goes on by itself."""
    async with opened(wire) as screen:
        wire.change(well("Invoices.export"))
        wire.marks = {"Invoices.export": [[clock.read(), clock.read(), SUCCEEDED]]}
        clock.now += timedelta(seconds=4)
        await screen.step()
        assert "ok, 12 s ago" in screen.line("Invoices.export")
        assert "▪" in screen.line("Invoices.export")
        assert screen.line("Invoices.export").endswith("0:15")
        assert screen.lines[1].startswith(" 1 task needs you  the other 3 are well")
        assert (wire.count("status"), wire.count("fates"), wire.count("changes")) == (1, 1, 2)


async def test_it_asks_little(wire: FakeWire) -> None:
    """One question a round; in every fifth one who needs somebody by the time alone."""
    async with opened(wire) as screen:
        before = len(wire.asked)
        for _ in range(2 * LOOKS):
            await screen.step()
        asked = wire.asked[before:]
        assert {verb for verb, _ in asked} == {"changes"}
        assert len(asked) == 2 * LOOKS
        assert sum(arguments["look"] for _, arguments in asked) == 2


async def test_a_task_that_was_removed_goes(wire: FakeWire) -> None:
    """The number of tasks tells; all is read anew."""
    async with opened(wire) as screen:
        del wire.tasks["Mail.digest"]
        await screen.step()
        await screen.step()
        assert "Mail.digest" not in screen.text


async def test_other_spans(wire: FakeWire) -> None:
    """`1` to `4` show 15 minutes to a day; the past is read for it."""
    async with opened(wire) as screen:
        await screen.press("4")
        await screen.step()
        assert wire.asked[-1][0] in ("journal", "changes")
        assert [given["span"] for verb, given in wire.asked if verb == "fates"] == [3600, 86_400]
        assert screen.line("last run").split()[-4:] == ["-24h", "-12h", "now", "next"]


# Several hosts, several services


async def test_hosts_of_one_service_share_a_row(clock: Clock) -> None:
    """The row shows the host on which it stands worst, sentences name it, and `h` goes to the next host."""
    first, second = FakeWire(clock, well()), FakeWire(clock, failing("Volumes.sync"), host="eu-2")
    async with opened(first, second) as screen:
        assert "billing, 2 hosts" in screen.lines[0]
        assert "Failed 5 times in a row on eu-2" in screen.line("✕ Volumes.sync")
        assert screen.lines[1].startswith(" 1 task needs you")
        await screen.press("enter")
        assert "▸ ✕ eu-2: failed 5 in a row" in screen.text
        await screen.press("h")
        assert "▸ ✓ eu-1: ok, 8.5 s ago" in screen.text
        await screen.press("r")
        assert first.asked[-2] == ("trigger", {"task": "Volumes.sync"})
        assert "eu-1: Volumes.sync: run abc-8 is on its way." in screen.text


async def test_services_have_a_part_each(clock: Clock) -> None:
    """Two services may have a task of one name."""
    async with opened(FakeWire(clock, well()), FakeWire(clock, well(), service="search")) as screen:
        assert "2 services" in screen.lines[0]
        names = [one.split()[0] for one in screen.lines[3:7]]
        assert names == ["billing", "✓", "search", "✓"]


# Filters and search


async def test_filters(wire: FakeWire) -> None:
    """`n` what needs you, `f` failing only, `a` all; the line above says which one holds."""
    async with opened(wire) as screen:
        await screen.press("n")
        assert "[needs you 2]" in screen.lines[1]
        assert _names(screen.lines) == ["Backups.nightly", "Invoices.export"]
        await screen.press("f")
        assert _names(screen.lines) == ["Invoices.export"]
        await screen.press("a")
        assert len(_names(screen.lines)) == 4


async def test_search(wire: FakeWire) -> None:
    """By a part of the name, in any case; Enter keeps it, Esc ends it."""
    async with opened(wire) as screen:
        await screen.press("slash", *"MAIL")
        assert _names(screen.lines) == ["Mail.digest"]
        await screen.press("enter", "j", "enter")
        assert 'by ana at 02:18:41, until 04:17:41 ("provider moves")' in screen.text
        await screen.press("escape", "escape")
        assert len(_names(screen.lines)) == 4


async def test_a_search_that_finds_nothing_says_so(wire: FakeWire) -> None:
    """And how to come back."""
    async with opened(wire) as screen:
        await screen.press("slash", *"nope")
        assert "no task has 'nope' in its name; a shows all" in screen.text


def _names(lines: list[str]) -> list[str]:
    at = next(number for number, line in enumerate(lines) if "last run" in line)
    return [line.split()[1] for line in lines[at + 1 :] if line.startswith((" ✓", " !", " ✕", " ‖"))]


# The drawer


async def test_the_drawer(wire: FakeWire) -> None:
    """The state in a sentence, where the run waits, facts, who did what, the slots newest first with their reasons."""
    wire.waits = [
        {"place": "backups.py:40", "function": "Backups.nightly"},
        {"place": "client.py:212", "function": "Client.put"},
    ]
    wire.slots = [
        _slot("failed", None, 30, duration=1.5, text="HTTPStatusError: 503"),
        _slot("skipped", "overlap", 60, count=4, text="7 123 Backups.put"),
        _slot("succeeded", None, 90, duration=2.0, lateness=3.4),
    ]
    wire.entries = [
        _entry("trigger", NOW.isoformat(), task="Backups.nightly", who="ops (uid 1000)", where="socket")
    ]
    async with opened(wire) as screen:
        await screen.press("enter")
        for line in (
            "! Backups.nightly",
            "10 2 * * * UTC, no timeout, on billing on eu-1, pid 1",
            "Running for 47 min, usually 3 min; it has no timeout. It waits in Backups.put",
            "backups.py:40  Backups.nightly",
            "client.py:212  Client.put",
            "02:58:41  trigger, ops (uid 1000)",
        ):
            assert line in screen.text
        await screen.press("tab", "end")
        assert "02:11:41  ▶ running, 47 min" in screen.text
        assert "02:58:11  ✕ failed, 1.5 s: HTTPStatusError: 503" in screen.text
        assert "02:57:41  » skipped: still running, 4 slots" in screen.text
        assert "02:57:11  ▪ succeeded, 2 s, 3.4 s late" in screen.text


def _slot(fate: str, reason: str | None, ago: int, **more: Any) -> dict[str, Any]:
    at = (NOW - timedelta(seconds=ago)).isoformat()
    slot = {"slot": at, "last": at, "count": 1, "fate": fate, "reason": reason, "trigger": "schedule"}
    return slot | {"lateness": None, "duration": None, "text": None} | more


async def test_the_drawer_stands_beside_the_list_where_there_is_room(wire: FakeWire) -> None:
    """On a narrow screen it takes all of it; it follows the cursor, and Esc closes it."""
    async with opened(wire, size=WIDE) as screen:
        await screen.press("enter")
        assert "Volumes.sync" in screen.text
        assert "FACTS" in screen.text
        await screen.press("j")
        assert "last error" in screen.text
        await screen.press("escape")
        assert "FACTS" not in screen.text
        await screen.resize(80, 24)
        await screen.press("enter")
        assert "last run  " in screen.text
        assert "needs you" in screen.text
        assert "-30m" not in screen.text


async def test_a_task_that_is_well_is_explained(wire: FakeWire) -> None:
    """By the sentence of `explain`."""
    async with opened(wire) as screen:
        await screen.press("G", "k", "k", "k", "enter")
        assert "Volumes.sync: the slot of 02:58:30 ran, and succeeded in 2 s." in screen.text


async def test_copy_as_text(wire: FakeWire) -> None:
    """For a ticket: the same lines, with the time."""
    async with opened(wire) as screen:
        await screen.press("enter", "y")
        assert screen.app.copied.startswith("2026-07-01 02:58:41 +0000\n! Backups.nightly\n")
        assert "usual length 3 min 10 s" in screen.app.copied
        assert "Copied" in screen.text


# Verbs


async def test_a_run_now_and_its_answer(wire: FakeWire) -> None:
    """Nothing is asked before; the answer is shown, and goes after some rounds."""
    async with opened(wire) as screen:
        await screen.press("r")
        assert ("trigger", {"task": "Backups.nightly"}) in wire.asked
        assert "Backups.nightly: run abc-8 is on its way." in screen.text
        for _ in range(10):
            await screen.step()
        assert "on its way" not in screen.text


async def test_a_refusal_is_shown_in_full(wire: FakeWire) -> None:
    """With the service's own words, also where they need two lines."""
    wire.refusal = (
        "Backups.nightly: run abc-7 is in progress since 02:11:41; cancel it, or set overlap='queue'"
    )
    async with opened(wire) as screen:
        await screen.press("r")
        assert "Refused: Backups.nightly: run abc-7 is in progress since 02:11:41; cancel it," in screen.text
        assert "overlap='queue'" in screen.text


async def test_an_answer_that_never_comes(wire: FakeWire) -> None:
    """Nobody knows whether it was done, and it says so."""
    async with opened(wire) as screen:
        wire.error = GONE
        await screen.press("r")
        assert "Nothing is known of whether it was done." in screen.words


async def test_a_cancel_asks_first(wire: FakeWire) -> None:
    """Enter alone leaves it; only the button, or Tab and Enter, cancels; and only the run that was seen."""
    async with opened(wire) as screen:
        await screen.press("c")
        assert "Cancel the run of Backups.nightly?" in screen.text
        assert "It has been running for 47 min. It may leave work half done." in screen.text
        await screen.press("enter")
        assert wire.count("cancel") == 0
        await screen.press("c", "tab", "enter")
        assert ("cancel", {"task": "Backups.nightly", "run_id": "abc-7"}) in wire.asked
        assert "abc-7 is cancelled" in screen.text


async def test_rounds_go_on_behind_a_dialog(wire: FakeWire, clock: Clock) -> None:
    """Also where the task that it asks about has gone meanwhile: the service says so."""
    async with opened(wire) as screen:
        await screen.press("c")
        del wire.tasks["Backups.nightly"]
        for _ in range(3):
            clock.now += timedelta(seconds=1)
            await screen.step()
        assert "Cancel the run of Backups.nightly?" in screen.text
        assert "02:58:44" in screen.lines[0]
        wire.refusal = "the service billing on eu-1 has no task 'Backups.nightly'"
        await screen.press("tab", "enter")
        assert "Refused: the service billing on eu-1 has no task 'Backups.nightly'" in screen.text


async def test_a_pause_asks_how_long_and_why(wire: FakeWire) -> None:
    """An hour by default; what is no length is said in the dialog."""
    wire.tasks["Backups.nightly"] = paused("Backups.nightly")
    wire.tasks["Invoices.export"] = failing()
    async with opened(wire) as screen:
        await screen.press("p")
        assert "Pause Invoices.export" in screen.text
        await screen.press("ctrl+u", *"soon", "enter", "enter")
        assert "soon" in screen.text
        assert wire.count("pause") == 0
        await screen.press("escape", "p", "enter", *"moves", "enter")
        assert ("pause", {"task": "Invoices.export", "for": 3600.0, "note": "moves"}) in wire.asked


async def test_a_pause_for_ever_and_a_resume(wire: FakeWire) -> None:
    """`p` on a task that is paused resumes it."""
    async with opened(wire) as screen:
        await screen.press("p", "ctrl+u", *"ever", "enter", "enter")
        assert wire.asked[-2][0] == "pause"
        assert wire.asked[-2][1]["ever"] is True
        await screen.press("G", "p")
        assert ("resume", {"task": "Mail.digest"}) in wire.asked
        assert "Mail.digest runs again" in screen.text


async def test_another_schedule_and_the_switch(wire: FakeWire) -> None:
    """A length is a spacing, a text with spaces a cron expression; switching off asks."""
    async with opened(wire) as screen:
        await screen.press("G", "k", "s", "ctrl+u", *"1m30s", "enter")
        assert ("reschedule", {"task": "Invoices.export", "spacing": 90.0}) in wire.asked
        await screen.press(
            "s", "ctrl+u", "0", "space", "3", "space", "*", "space", "*", "space", "*", "enter"
        )
        assert ("reschedule", {"task": "Invoices.export", "cron": "0 3 * * *"}) in wire.asked
        await screen.press("d")
        assert "Switch Invoices.export off?" in screen.text
        await screen.press("enter")
        assert wire.asked[-2] == ("disable", {"task": "Invoices.export"})
        wire.change(well("Invoices.export", off="by hand"))
        await screen.step()
        await screen.press("d")
        assert ("enable", {"task": "Invoices.export"}) in wire.asked


# Lost


async def test_a_lost_connection_comes_back_by_itself(wire: FakeWire, clock: Clock) -> None:
    """A red bar says since when and why; the same service in a new process takes its place."""
    async with opened(wire) as screen:
        wire.error = GONE
        clock.now += timedelta(seconds=15)
        await screen.step()
        assert "● lost" in screen.lines[0]
        assert screen.lines[1].startswith(" billing on eu-1, pid 1: no word for 15 s, what you see is old")
        assert "the process is gone); trying again." in screen.text
        await screen.press("r")
        assert "billing on eu-1, pid 1 does not answer: nothing was done." in screen.text
        assert wire.count("trigger") == 0
        again = FakeWire(clock, well(), pid=2)
        screen.finder.wires = [again]
        await screen.step()
        assert "pid 2  ● live" in screen.lines[0]
        assert _names(screen.lines) == ["Volumes.sync"]


async def test_a_process_that_wakes_up_goes_on(wire: FakeWire) -> None:
    """It is the same one, so only what it has done meanwhile is asked for."""
    async with opened(wire) as screen:
        wire.error = ControlUnavailable("the process does not answer: it is blocked or stopped")
        await screen.step()
        assert "it is blocked or stopped" in screen.words
        wire.error = None
        await screen.step()
        assert "● live" in screen.lines[0]
        assert wire.count("status") == 1


async def test_silence_counts_while_a_question_waits(clock: Clock) -> None:
    """A program that slept itself has lost nothing; a service that leaves a question open for 5 s is lost."""
    wire = FakeWire(clock, well())
    one = Watched(wire, 3600, clock.read)
    await one.look(everywhere=True)
    clock.now += timedelta(hours=8)
    assert not one.is_lost
    wire.answers.clear()
    one.asking = asyncio.create_task(one.look(everywhere=False))
    await asyncio.sleep(0)
    clock.now += timedelta(seconds=5)
    assert not one.is_lost
    clock.now += timedelta(seconds=1)
    assert one.is_lost
    wire.answers.set()
    await one.asking
    assert not one.is_lost


async def test_one_of_two_hosts_is_lost(clock: Clock) -> None:
    """The other one stays as it is."""
    first, second = FakeWire(clock, well()), FakeWire(clock, well("Mail.flush"), host="eu-2")
    async with opened(first, second) as screen:
        second.error = GONE
        await screen.step()
        assert "billing on eu-2, pid 1: no word for" in screen.text
        assert "eu-1, pid 1: no word" not in screen.text


async def test_answers_that_make_no_sense(wire: FakeWire) -> None:
    """Are a lost connection with a reason, and no crash."""
    async with opened(wire) as screen:
        wire.error = KeyError("anew")
        await screen.step()
        assert "KeyError: 'anew'" in screen.words


async def test_facts_that_are_no_numbers(wire: FakeWire) -> None:
    """Another host may tell anything: the task is named, and the screen goes on with what it has."""
    async with opened(wire) as screen:
        wire.change(well(failures="many"))
        wire.marks = {"Volumes.sync": [[0, 0, 999]]}
        await screen.step()
        assert "Volumes.sync is told with something else in place of a number" in screen.words
        wire.change(well())
        await screen.step()
        assert "● live" in screen.lines[0]


# Hostile names, many tasks


HOSTILE = (
    "M.[red]bold[/red]",
    "M.[/]",
    "M.\x1b[2J\x1b[31mred",
    "M.two\nlines\tand\rmore",
    "M.\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe",
    "M.שלום_עולם",
    "M.日本語の仕事",
    "M.e\N{COMBINING ACUTE ACCENT}" + "\N{COMBINING TILDE}" * 60,
    "M." + "x" * 5000,
    "M.👩‍👩‍👧‍👦 family",
)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(80, 24), WIDE, (40, 12), (20, 6)])
async def test_hostile_names(clock: Clock, size: tuple[int, int]) -> None:
    """No markup, no escapes, no line too long, and the columns stay where they are, in the list and in the drawer."""
    wire = FakeWire(clock, *[failing(name, text=f"ValueError: {name}") for name in HOSTILE])
    async with opened(wire, size=size) as screen:
        for _ in range(4):
            assert not any(char in screen.text for char in "\x1b\r\t\N{RIGHT-TO-LEFT OVERRIDE}")
            await screen.press(*"jjjjj")
        await screen.press("enter", "r", "y", "c")
        assert "\x1b" not in screen.text
        await screen.press("escape", "escape", "slash", "[", "r", "e", "d", "]")
        if size[0] >= 80:
            assert "M.[red]bold[/red]" in screen.text


async def test_a_thousand_tasks_scroll(clock: Clock) -> None:
    """To the end and back; the head of the columns stays in sight; only the lines in sight are written."""
    wire = FakeWire(clock, *[well(f"Crowd.work_{number:03}") for number in range(1000)])
    async with opened(wire) as screen:
        assert screen.lines[1].startswith(" All 1,000 tasks are well")
        assert wire.count("status") == 20
        await screen.press("G")
        assert "Crowd.work_999" in screen.text
        assert "last run" in screen.lines[2]
        await screen.press("pageup", "pageup")
        first = _names(screen.lines)[0]
        assert "Crowd.work_930" < first < "Crowd.work_965"
        await screen.press("g")
        assert "Crowd.work_000" in screen.text
        await screen.press("slash", *"_77", "enter")
        assert len([line for line in screen.lines if "Crowd.work_77" in line]) == 10


async def test_the_cursor_stays_on_its_task(wire: FakeWire) -> None:
    """Also where sentences come and go above it."""
    async with opened(wire) as screen:
        await screen.press("G")
        wire.change(well("Backups.nightly"), well("Invoices.export"))
        await screen.step()
        await screen.press("p")
        assert ("resume", {"task": "Mail.digest"}) in wire.asked


async def test_help_and_light(wire: FakeWire) -> None:
    """`?` shows the keys and what the signs mean; `t` is light or dark."""
    async with opened(wire, size=(100, 60)) as screen:
        await screen.press("question_mark")
        assert "skipped: held back after failures" in screen.text
        await screen.press("escape", "t")
        assert screen.app.theme == "textual-light"
        await screen.press("t")
        assert screen.app.theme == "textual-dark"


# The command


def test_without_textual_it_says_what_to_install(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is named."""
    monkeypatch.setattr(top_command, "find_spec", lambda name: None)
    result = invoke("top")
    assert result.exit_code == 1
    assert result.stderr == "Error: asyncmgr top needs textual: pip install 'asyncmgr[top]'\n"
    assert importlib.util.find_spec("textual") is not None


def test_without_a_service_it_says_where_they_would_be(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 'asyncmgr status' does, before there is a screen."""
    monkeypatch.setattr(control_client, "find", lambda: iter(()))
    result = invoke("top")
    assert result.exit_code == 1
    assert "no service of yours runs here" in result.stderr
