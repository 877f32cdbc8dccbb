"""``asyncmgr list`` and ``asyncmgr next``."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import time_machine

from asyncmgr._cli import output
from tests.cli.conftest import Invoke, set_zone, target

NOON = "2026-03-27T12:00:00+00:00"


@pytest.fixture(autouse=True)
def _noon() -> object:
    with time_machine.travel(NOON, tick=False):
        yield


def test_list_shows_what_is_in_force(invoke: Invoke) -> None:
    """Each task is a line with its schedule, first slot, options, and why it is off."""
    result = invoke("list", "@Volumes")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "task               schedule                  first slot, local       in      tolerance  timeout  overlap",
        "Volumes.heartbeat  every pass (1m)           2026-03-27 12:00:00     now     0.2s       none     skip",
        "Volumes.sync       every 30s, jitter 5s      2026-03-27 12:00:00     now     0.2s       10s      skip",
        "Volumes.sweep      every 5m                  2026-03-27 12:05:00     5m      0s         none     queue",
        "Volumes.backup     30 2 * * * Europe/Berlin  2026-03-28 01:30:00     13h30m  0s         none     skip",
        "Volumes.legacy     every 1m                  off: it is not enabled          0.2s       none     skip",
        "Volumes.elsewhere  every 1m                  2026-03-27 12:01:00     1m      0.2s       none     skip",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="the zone cannot be set")
def test_list_shows_local_time(invoke: Invoke) -> None:
    """Tables for people are in the machine's own time."""
    set_zone("Europe/Berlin")
    assert "2026-03-27 13:05:00" in invoke("list", "@Volumes").stdout


def test_list_marks_what_settings_override(invoke: Invoke) -> None:
    """What the settings say is in force, and marked."""
    Path("asyncmgr.toml").write_text('[tasks."Volumes.sync"]\nspacing = "10m"\nenabled = false')
    lines = invoke("list", "@Volumes").stdout.splitlines()
    assert lines[2].startswith("Volumes.sync *     every 10m, jitter 5s      off: it is switched off by ")
    assert 'asyncmgr.toml, [tasks."Volumes.sync"]' in lines[2]


def test_list_shows_scopes_where_there_are_any(invoke: Invoke) -> None:
    """Also one that the settings give."""
    assert "scope" not in invoke("list", "@Volumes").stdout
    Path("asyncmgr.toml").write_text('[tasks."Volumes.sweep"]\nscope = "host"')
    lines = invoke("list", "@Volumes").stdout.splitlines()
    assert lines[0].split()[-1] == "scope"
    assert [line.split()[-1] for line in lines[1:]] == ["process", "process", "host", *["process"] * 3]


def test_list_as_json_is_exact(invoke: Invoke) -> None:
    """Programs get every option in seconds, and times in UTC."""
    tasks = json.loads(invoke("list", "@Volumes", "--json").stdout)
    assert [task["task"] for task in tasks] == [f"Volumes.{name}" for name in NAMES]
    assert tasks[1] == {
        "task": "Volumes.sync",
        "manager": "Volumes",
        "name": "sync",
        "on": True,
        "off_reason": None,
        "schedule": "every 30s, jitter 5s",
        "spacing": 30.0,
        "cron": None,
        "tz": None,
        "jitter": 5.0,
        "tolerance": 0.2,
        "timeout": 10.0,
        "overlap": "skip",
        "scope": "process",
        "persist": False,
        "each": None,
        "concurrency": None,
        "retry": None,
        "backoff": False,
        "pause_after": None,
        "freshness": None,
        "critical": False,
        "overridden": False,
        "first_slot": NOON,
        "in": 0.0,
    }
    assert (tasks[3]["cron"], tasks[3]["tz"]) == ("30 2 * * *", "Europe/Berlin")
    assert (tasks[4]["on"], tasks[4]["off_reason"], tasks[4]["first_slot"]) == (
        False,
        "it is not enabled",
        None,
    )


NAMES = ("heartbeat", "sync", "sweep", "backup", "legacy", "elsewhere")


def test_what_a_target_prints_is_no_data(invoke: Invoke) -> None:
    """A module that prints while it is imported does not spoil the JSON."""
    Path("app.py").write_text("from asyncmgr import Manager\nprint('hello')\nclass Quiet(Manager): ...")
    result = invoke("list", "app:Quiet", "--json")
    assert json.loads(result.stdout) == []
    assert "hello" in result.stderr


def test_list_of_no_tasks_says_so(invoke: Invoke) -> None:
    """An empty table would leave the reader guessing."""
    result = invoke("list", "@Idle")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no tasks" in result.stderr


def test_next_shows_both_times_and_where_the_clocks_change(invoke: Invoke) -> None:
    """The slots of a cron task are shown in UTC and its own zone; a change of summer time is pointed at."""
    result = invoke("next", "@Volumes", "backup", "-n", "3")
    assert result.stdout.splitlines() == [
        "Volumes.backup: 30 2 * * * Europe/Berlin",
        "UTC                   Europe/Berlin              in      clocks",
        "2026-03-28T01:30:00Z  2026-03-28T02:30:00+01:00  13h30m",
        "2026-03-29T01:00:00Z  2026-03-29T03:00:00+02:00  1d13h   forward 1h",
        "2026-03-30T00:30:00Z  2026-03-30T02:30:00+02:00  2d12h",
    ]


def test_next_shows_the_zone_that_is_asked_for(invoke: Invoke) -> None:
    """``--tz`` wins over the task's own zone; UTC needs no second column."""
    assert "2026-03-28T10:30:00+09:00" in invoke("next", "@Volumes", "backup", "--tz", "Asia/Tokyo").stdout
    assert invoke("next", "@Volumes", "backup", "--tz", "UTC", "-n", "1").stdout.splitlines()[1:] == [
        "UTC                   in",
        "2026-03-28T01:30:00Z  13h30m",
    ]


def test_next_without_a_task_shows_each_before_it_repeats_one(invoke: Invoke) -> None:
    """The next slot of each task comes first, in order, so that a fast task hides no slow one; then the others (53)."""
    assert invoke("next", "@Volumes", "-n", "7", "--tz", "UTC").stdout.splitlines() == [
        "task               UTC                   in",
        "Volumes.heartbeat  2026-03-27T12:00:00Z  now",
        "Volumes.sync       2026-03-27T12:00:00Z  now",
        "Volumes.elsewhere  2026-03-27T12:01:00Z  1m",
        "Volumes.sweep      2026-03-27T12:05:00Z  5m",
        "Volumes.backup     2026-03-28T01:30:00Z  13h30m",
        "Volumes.sync       2026-03-27T12:00:30Z  30s",
        "Volumes.heartbeat  2026-03-27T12:01:00Z  1m",
    ]


def test_next_shows_each_of_many_tasks(invoke: Invoke) -> None:
    """Where there are more tasks than slots are shown of one, each is shown once (53)."""
    tasks = "".join(
        f"    @periodic_task(spacing={number})\n    async def t{number}(self, context): ...\n"
        for number in range(1, 26)
    )
    Path("app.py").write_text(f"from asyncmgr import Manager, periodic_task\nclass Many(Manager):\n{tasks}")
    slots = json.loads(invoke("next", "app:Many", "--json").stdout)
    assert [slot["task"] for slot in slots] == [f"Many.t{number}" for number in range(1, 26)]
    assert len(json.loads(invoke("next", "app:Many", "t1", "--json").stdout)) == 10


def test_next_of_some_tasks_merges_them(invoke: Invoke) -> None:
    """The slots of tasks that are named are shown in order, in the order of the names where they coincide."""
    lines = invoke("next", "@Volumes", "sync", "heartbeat", "-n", "4").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "task",
        "Volumes.sync",
        "Volumes.heartbeat",
        "Volumes.sync",
        "Volumes.sync",
    ]


def test_next_of_several_zones_says_that_each_has_its_own(invoke: Invoke) -> None:
    """Tasks are shown where their own schedules are read."""
    lines = invoke("next", "@Volumes", "backup", "elsewhere", "-n", "900").stdout.splitlines()
    assert lines[0].split(maxsplit=2) == ["task", "UTC", "its own zone               in"]
    assert "Volumes.backup     2026-03-28T01:30:00Z  2026-03-28T02:30:00+01:00  13h30m" in lines


def test_next_as_json_is_exact(invoke: Invoke) -> None:
    """Programs get both times whole, and the distance in seconds."""
    assert json.loads(invoke("next", "@Volumes", "Volumes.backup", "-n", "1", "--json").stdout) == [
        {
            "task": "Volumes.backup",
            "utc": "2026-03-28T01:30:00+00:00",
            "local": "2026-03-28T02:30:00+01:00",
            "zone": "Europe/Berlin",
            "in": 48600.0,
        }
    ]


def test_next_is_finer_where_slots_are_close(invoke: Invoke) -> None:
    """Slots less than a second apart do not look alike."""
    Path("asyncmgr.toml").write_text('[tasks."Volumes.sweep"]\nspacing = "250ms"')
    assert "2026-03-27T12:00:00.250Z" in invoke("next", "@Volumes", "sweep").stdout


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (
            ["@Volumes", "@Snapshots", "sweep"],
            2,
            "'sweep' is ambiguous; write one of Volumes.sweep, Snapshots.sweep",
        ),
        (["@Volumes", "synk"], 2, "there is no task 'synk' (did you mean"),
        (
            ["@Volumes", "legacy"],
            1,
            "Volumes.legacy is switched off (it is not enabled) and has no next slot",
        ),
        (["sync"], 2, "no TARGET; 'sync' has no ':' and is read as a TASK"),
        (
            ["@Volumes", "--tz", "Mars"],
            2,
            "'Mars' is not a time zone of this machine; write e.g. 'Europe/Berlin'",
        ),
        (["@Volumes", "-n", "0"], 2, "0 is not in the range"),
    ],
)
def test_next_says_what_is_wrong(invoke: Invoke, words: list[str], code: int, text: str) -> None:
    """A task that cannot be meant is answered with those that can."""
    result = invoke("next", *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert text in result.stderr


def test_next_of_nothing_says_so(invoke: Invoke) -> None:
    """No slots is an answer, too."""
    assert "no slots" in invoke("next", "@Idle").stderr


def test_targets_come_from_the_environment(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a target those of ``ASYNCMGR_APP`` are taken, separated by spaces."""
    monkeypatch.setenv("ASYNCMGR_APP", f"{target('@Volumes')} {target('@Snapshots')}")
    assert "Snapshots.sweep" in invoke("list").stdout
    assert "Volumes.backup: " in invoke("next", "backup").stdout


def test_a_config_file_can_be_named(invoke: Invoke, tmp_path: Path) -> None:
    """``--config`` is read in place of ``asyncmgr.toml``."""
    (tmp_path / "other.toml").write_text('[tasks."Volumes.sync"]\nspacing = "10m"')
    assert "every 10m" in invoke("list", "@Volumes", "--config", "other.toml").stdout
    assert invoke("list", "@Volumes", "--config", "absent.toml").exit_code == 2


def test_modules_come_from_the_app_dir(invoke: Invoke, tmp_path: Path) -> None:
    """Modules are found in the current directory, or in the one that is named."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "deep.py").write_text("from asyncmgr import Manager\nclass Deep(Manager): ...")
    assert invoke("list", "deep:Deep").exit_code == 1
    assert invoke("list", "deep:Deep", "--app-dir", "inner").exit_code == 0


class Terminal(io.StringIO):
    """Takes text as a terminal does."""

    def isatty(self) -> bool:
        return True


def written(monkeypatch: pytest.MonkeyPatch, columns: int) -> str:
    """Write a table to a terminal of this width."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    output.write_table(("task", "in"), [("a[red]b", "5m")], stream, paragraphs=["a[red]b: in 5m"])
    return stream.getvalue()


def test_a_terminal_gets_a_styled_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """With rich, a terminal gets lines and colours, and brackets in names stay."""
    pytest.importorskip("rich")
    text = written(monkeypatch, 80)
    assert "─" in text
    assert "a[red]b" in text


@pytest.mark.parametrize("columns", [80, 10])
@pytest.mark.parametrize("rich", [True, False])
def test_names_move_no_cursor(monkeypatch: pytest.MonkeyPatch, columns: int, rich: bool) -> None:
    """Whatever is in a name, a table and its paragraphs show it as an escape (40)."""
    monkeypatch.setattr(output, "find_spec", lambda name: rich or None)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    bad = "\x1b]0;x\x07\u009b2J\n\u202e"
    output.write_table(("task", "in"), [(bad, "5m")], stream, paragraphs=[bad.replace("\n", "")])
    assert all(line.isprintable() for line in stream.getvalue().splitlines())
    assert r"\x1b" in stream.getvalue()


def test_a_text_is_as_it_is_to_a_program_only(monkeypatch: pytest.MonkeyPatch, capsysbinary: Any) -> None:
    """What a method returned is data in a pipe, and shown without its control characters on a terminal (40)."""
    output.write_text("two\nlines\x1b[2J\ud800")
    assert capsysbinary.readouterr().out == b"two\nlines\x1b[2J\\ud800\n"
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    output.write_text("two\nlines\x1b[2J\ud800")
    assert terminal.getvalue() == "two\nlines\\x1b[2J\\ud800\n"


def test_json_is_printable_and_the_same() -> None:
    """Control characters within texts of JSON are written as escapes, which programs read as before (40)."""
    data = {"a\u009b": ["\x1b[2J", "über", "\u202e", "\ud800", "\U000e0001"], "b": 1}
    for indent in (None, 2):
        text = output.json_text(data, indent)
        assert json.loads(text) == data
        assert all(line.isprintable() for line in text.split("\n"))
        assert "über" in text


def test_without_rich_a_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich is optional."""
    monkeypatch.setattr(output, "find_spec", lambda name: None)
    assert written(monkeypatch, 80) == "task     in\na[red]b  5m\n"


def test_a_narrow_terminal_gets_paragraphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit beside each other is written below each other."""
    assert written(monkeypatch, 10) == "a[red]b: in 5m\n"


def test_list_in_a_narrow_terminal_can_be_read(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task is a short paragraph that says all that the table says."""
    stream = Terminal()
    monkeypatch.setattr(
        "asyncmgr._cli.commands.list.write_table",
        lambda *args, **kwargs: output.write_table(args[0], args[1], stream, **kwargs),
    )
    Path("asyncmgr.toml").write_text('[tasks."Volumes.backup"]\njitter = 3')
    invoke("list", "@Volumes")
    assert stream.getvalue().splitlines()[9:14] == [
        "Volumes.backup *: 30 2 * * * Europe/Berlin, jitter 3s",
        "  first slot 2026-03-28 01:30:00 local, in 13h30m",
        "  tolerance 0s, timeout none, overlap skip",
        "Volumes.legacy: every 1m",
        "  off: it is not enabled",
    ]


def test_the_command_line_works_without_rich() -> None:
    """Rich is an extra, and need not be there."""
    code = "import sys; sys.modules['rich'] = None; from asyncmgr._cli.output import find_spec as find; find('rich')"
    subprocess.run([sys.executable, "-c", code], check=True)
