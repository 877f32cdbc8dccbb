"""``asyncmgr run``: the banner, the log, signals and exit codes."""

from __future__ import annotations

import gc
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from asyncmgr._cli import app
from asyncmgr._cli import exit as ending
from tests.cli.conftest import Invoke, target


def events(result: Result) -> list[dict[str, Any]]:
    """Read the JSON lines of the log; there are no others."""
    return [json.loads(line) for line in result.stderr.splitlines()]


def event(result: Result, name: str) -> dict[str, Any]:
    """Find the one event of this name."""
    (found,) = [event for event in events(result) if event["event"] == name]
    return found


# What is said


def test_the_banner_says_what_will_run(invoke: Invoke) -> None:
    """Host, service and transport come first, then the tasks with schedule and first slot."""
    result = invoke("run", "@Stops", "--host", "a", "--name", "shop", "--log-format", "console")
    lines = result.stderr.splitlines()
    banner = lines[next(number for number, line in enumerate(lines) if line.startswith("asyncmgr ")) :]
    assert banner[1:4] == ["  service    shop", "  host       a", "  transport  memory://"]
    assert banner[5].split() == ["task", "schedule", "first", "slot,", "local", "in"]
    assert banner[6].startswith("Stops.stop   every 10s  20")
    assert banner[6].endswith("  now")
    assert banner[7].endswith("  10s")
    assert (result.exit_code, result.stdout) == (0, "")


def test_where_logs_are_for_programs_every_line_is_json(invoke: Invoke) -> None:
    """Off a terminal the log is JSON, and the banner an event of it."""
    result = invoke("run", "@Stops", "--host", "a")
    loaded = event(result, "service.loaded")
    assert (loaded["service"], loaded["host"], loaded["transport"]) == ("stops", "a", "memory://")
    assert [task["task"] for task in loaded["tasks"]] == ["Stops.stop", "Stops.other"]
    assert list(loaded)[:3] == ["timestamp", "level", "event"]


def test_the_collector_leaves_out_what_is_there_for_good(invoke: Invoke, tmp_path: Path) -> None:
    """While tasks run, and no longer: all that was imported need not be walked again and again."""
    target = tmp_path / "frozen.py"
    target.write_text(
        "import gc\n"
        "from asyncmgr import Manager, periodic_task\n"
        "class Frozen(Manager):\n"
        "    @periodic_task(run_immediately=True)\n"
        "    async def look(self, context):\n"
        "        print(gc.get_freeze_count())\n"
        "        self.service.request_stop()\n"
    )
    assert int(invoke("run", f"{target}:Frozen").stdout) > 1000
    assert gc.get_freeze_count() == 0


def test_a_manager_without_tasks_says_so(invoke: Invoke) -> None:
    """No tasks is worth a line."""
    assert "no tasks" in invoke("run", "@Unstartable", "--log-format", "console").stderr


def test_a_password_is_not_shown(invoke: Invoke) -> None:
    """The URLs of transport and store are shown without their secrets."""
    result = invoke("run", "@Stops", "--transport", "nope://me:hunter2@there")
    assert event(result, "service.loaded")["transport"] == "nope://***@there"
    assert "hunter2" not in result.stderr
    for log_format in ("json", "console"):
        result = invoke(
            "run", "@Stops", "--store", "nope://there?password=hunter2", "--log-format", log_format
        )
        assert "nope://there?password=***" in result.stderr
        assert "hunter2" not in result.stderr
        assert "no store for nope://" in result.stderr


def test_nothing_that_is_said_moves_the_cursor(invoke: Invoke) -> None:
    """Control characters in names and in the texts of the log are shown as escapes, in every command (40)."""
    Path("app.py").write_text(
        "import logging, structlog\n"
        "from asyncmgr import Manager, periodic_task\n"
        "bad = '\\x1b]0;x\\x07\\x9b2J'\n"
        "class App(Manager):\n"
        "    name = bad\n"
        "    @periodic_task(run_immediately=True)\n"
        "    async def sync(self, context):\n"
        "        structlog.get_logger().warning(bad, key=bad, several=[bad])\n"
        "        logging.getLogger(bad).warning('line\\n' + bad)\n"
        "        self.service.request_stop()\n"
        "        raise ValueError(bad)\n"
    )
    ran = invoke("run", "app:App", "--log-format", "console", "--name", "a\x1b[2Jb")
    said = [invoke(command, "app:App") for command in ("list", "next", "check")]
    unknown = invoke("next", "app:App", "\x1b[2J")
    for result in (ran, *said, unknown):
        assert all(line.isprintable() for line in result.output.split("\n"))
    assert r"a\x1b[2Jb" in ran.stderr
    assert ran.stderr.count(r"\x1b]0;x") > 5
    assert unknown.exit_code == 2


def test_a_start_delay_is_said(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first slots are only known up to the random delay."""
    monkeypatch.setenv("ASYNCMGR_START_DELAY", "1ms")
    result = invoke("run", "@Stops", "--log-format", "console")
    assert "  start      delayed by up to 0.001s\n" in result.stderr


def test_at_debug_each_run_is_logged(invoke: Invoke) -> None:
    """A run that succeeds is an event only at debug."""
    logged = event(invoke("run", "@Stops", "--log-level", "debug"), "task.succeeded")
    assert (logged["task"], logged["level"], logged["trigger"]) == ("Stops.stop", "debug", "schedule")
    assert "task.succeeded" not in invoke("run", "@Stops").stderr
    assert "task.succeeded" not in invoke("run", "@Fails", "--log-level", "debug").stderr


def test_a_level_from_the_settings_is_not_doubled(invoke: Invoke) -> None:
    """A task that the settings give a log level is logged at that level, once."""
    Path("asyncmgr.toml").write_text('[tasks."Stops.stop"]\nlog_level = "info"')
    assert event(invoke("run", "@Stops", "--log-level", "debug"), "task.succeeded")["level"] == "info"


def test_the_log_level_holds_for_all_loggers(invoke: Invoke) -> None:
    """The standard library's logging goes the same way in the same format."""
    Path("app.py").write_text(
        "import logging, warnings\n"
        "from asyncmgr import Manager\n"
        "logging.getLogger('app').warning('low on %s', 'disk', extra={'free': 3})\n"
        "logging.getLogger('app').info('not shown')\n"
        "class App(Manager): ...\n"
        "raise SystemExit\n"
    )
    first, _ = events(invoke("run", "app:App", "--log-level", "warning"))
    assert (first["event"], first["logger"], first["free"]) == ("low on disk", "app", 3)


def test_a_failure_in_json_is_one_line(invoke: Invoke) -> None:
    """The traceback is a text field, without the values of variables."""
    failed = event(invoke("run", "@Fails"), "task.failed")
    assert failed["exception"].endswith("ValueError: 7 is wrong")
    assert "hunter2" not in failed["exception"].replace('secret = "hunter2"', "")


def test_a_failure_on_the_console_is_a_plain_traceback(invoke: Invoke) -> None:
    """The traceback is Python's own, without the values of variables."""
    text = invoke("run", "@Fails", "--log-format", "console").stderr
    assert "\nTraceback (most recent call last):\n" in text
    assert "\nValueError: 7 is wrong\n" in text
    assert "locals" not in text


# Which tasks


def test_only_some_tasks_are_run(invoke: Invoke) -> None:
    """Tasks that match no pattern are switched off, and shown so."""
    result = invoke("run", "@Stops", "--only", "*.stop")
    assert event(result, "service.loaded")["tasks"][1] == {
        "task": "Stops.other",
        "schedule": "every 10s",
        "off": "not among --only",
    }
    assert event(result, "service.started")["tasks"] == 1


def test_a_pattern_that_matches_nothing_is_an_error(invoke: Invoke) -> None:
    """The tasks that there are are listed."""
    result = invoke("run", "@Stops", "--only", "Stops.*", "--only", "Stops.halt")
    assert result.exit_code == 2
    assert "--only 'Stops.halt' matches no task" in result.stderr
    assert "the tasks are Stops.stop, Stops.other" in result.stderr


# A service as target


@pytest.mark.parametrize("option", ["--host", "--name", "--transport", "--store"])
def test_a_service_keeps_what_it_was_built_with(invoke: Invoke, option: str) -> None:
    """Options that would change a finished service are refused."""
    result = invoke("run", "@service", option, "x")
    assert result.exit_code == 2
    assert f"is a Service, which has its {option[2:]} already; leave {option} out" in result.stderr


def test_a_service_can_be_told_how_long_to_drain(invoke: Invoke) -> None:
    """``--drain-timeout`` holds for a service too, beside what it was built with."""
    Path("app.py").write_text(
        "import logging\n"
        "from asyncmgr import Service, Settings\n"
        "from targets import Stops\n"
        "class Tells(Stops):\n"
        "    name = 'Stops'\n"
        "    async def cleanup_host(self):\n"
        "        settings = self.service.settings.reload()\n"
        "        logging.warning(f'{settings.drain_timeout} {settings.tolerance}')\n"
        "service = Service(Tells(), settings=Settings(tolerance=0.1))\n"
    )
    assert invoke("list", "@Stops").exit_code == 0  # makes "targets" importable
    result = invoke("run", "app:service", "--drain-timeout", "1m30s")
    assert event(result, "90.0 0.1")


@pytest.mark.parametrize(
    ("text", "said"),
    [("soon", "'soon' is not a duration"), ("-5s", "'-5s' is negative; write 0 or more")],
)
def test_a_wrong_duration_is_refused(invoke: Invoke, text: str, said: str) -> None:
    """A length of time that cannot be meant is a usage error."""
    result = invoke("run", "@Stops", "--drain-timeout", text)
    assert result.exit_code == 2
    assert said in result.stderr


# How it ends


@pytest.mark.parametrize(
    ("word", "code"), [("@Stops", 0), ("@Quits", 7), ("@Interrupted", 130), ("@Fails", 0)]
)
def test_the_exit_code_says_how_it_ended(invoke: Invoke, word: str, code: int) -> None:
    """0 where the service was stopped, a run's own code where it raised `SystemExit`, 130 where interrupted."""
    assert invoke("run", word).exit_code == code


def test_a_text_as_exit_code_is_said(invoke: Invoke) -> None:
    """A run may say why it ends the process, as with Python's own `sys.exit`."""
    result = invoke("run", "@Complains", "--log-format", "console")
    assert result.exit_code == 1
    assert result.stderr.endswith("\nthe disk is full\n")


def test_a_start_that_asyncmgr_refuses_is_one_line(invoke: Invoke) -> None:
    """What asyncmgr raises on purpose has no traceback, but says where in the user's code it was."""
    result = invoke("run", "@Misdeclared", "--log-format", "console")
    assert result.exit_code == 1
    assert (
        "\nError: print is a plain function; @periodic_task needs 'async def'; for work that blocks, "
        in result.stderr
    )
    assert "targets.py:" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_start_that_raises_shows_the_users_traceback(invoke: Invoke) -> None:
    """Another error has a traceback, which begins in the user's code."""
    result = invoke("run", "@Unstartable", "--log-format", "console")
    assert result.exit_code == 1
    assert "service.failed" in result.stderr
    assert result.stderr.endswith("RuntimeError: no disk\n")
    assert "runners.py" not in result.stderr


@pytest.mark.parametrize("word", ["@Misdeclared", "@number", "@Driven"])
def test_in_json_a_failing_start_is_an_event(invoke: Invoke, word: str) -> None:
    """A log of JSON stays one to its end."""
    result = invoke("run", word)
    assert result.exit_code == 1
    assert event(result, "service.failed")["level"] == "critical"


def test_an_interrupt_before_the_start_is_one(invoke: Invoke) -> None:
    """Ctrl-C while a target is imported ends with 130, too."""
    Path("app.py").write_text("raise KeyboardInterrupt")
    assert invoke("run", "app:x").exit_code == 130


def test_the_process_leaves_what_will_not_end(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Tasks and threads that outlive the service are named, and the process ends with its code."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    guard = ending.leave_within(0, 5)
    guard.join()
    assert codes == [5]


def test_main_ends_with_the_commands_code(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """The entry point is the command."""
    monkeypatch.setattr(sys, "argv", ["asyncmgr", "check", target("@number")])
    with pytest.raises(SystemExit) as caught:
        app.main()
    assert caught.value.code == 1
    assert "object of type int" in capsys.readouterr().out


def test_main_does_not_wait_for_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where threads are left, the process is ended from outside of them."""
    limits: list[tuple[float, int]] = []
    monkeypatch.setattr(app, "threads_left", lambda: ["worker"])
    monkeypatch.setattr(app, "leave_within", lambda *limit: limits.append(limit))
    monkeypatch.setattr(sys, "argv", ["asyncmgr", "--version"])
    with pytest.raises(SystemExit):
        app.main()
    assert limits == [(ending.EXIT_GRACE, 0)]


# Signals, in a process of its own


@contextmanager
def running(word: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a target in a process of its own."""
    command = [sys.executable, "-m", "asyncmgr", "run", target(word), *words]
    # In a session of its own it has no controlling terminal, wherever the suite runs: SIGHUP reloads.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], name: str) -> dict[str, Any]:
    """Read the log up to the event of this name."""
    assert process.stderr is not None
    for line in process.stderr:
        found: dict[str, Any] = json.loads(line)
        if found["event"] == name:
            return found
    raise AssertionError(f"the process ended before {name}")


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")


@needs_signals
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(number: int) -> None:
    """A run in progress ends by itself, and the exit code is 0."""
    with running("@Lets") as process:
        wait_for(process, "holding")
        process.send_signal(number)
        assert wait_for(process, "service.stopping")["runs"] == 1
        assert wait_for(process, "service.stopped")["cancelled"] == 0
        assert process.wait(20) == 0


@needs_signals
def test_a_signal_says_what_is_waited_for_and_until_when() -> None:
    """Whoever stops it learns which runs keep it, for how long they have run, and when they are cancelled (53)."""
    with running("@Holds", "--drain-timeout", "1h") as process:
        wait_for(process, "holding")
        process.send_signal(signal.SIGINT)
        draining = wait_for(process, "service.draining")
        assert [run["task"] for run in draining["runs"]] == ["Holds.hold"]
        left = datetime.fromisoformat(draining["until"]) - datetime.fromisoformat(draining["timestamp"])
        assert timedelta(minutes=59) < left <= timedelta(hours=1)


@needs_signals
def test_on_the_console_it_is_a_sentence() -> None:
    """A person reads it as one, with what a second signal does (53)."""
    with running("@Holds", "--drain-timeout", "50ms", "--log-format", "console") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "holding" in line:
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert re.search(
            r"\nWaiting for Holds\.hold \(running for \S+\); at most until 20\d\d-\S+ \S+\. "
            r"Ctrl-C again stops it at once\.\n",
            said,
        )
        assert process.wait(20) == 0


def test_where_nothing_runs_nothing_is_waited_for(invoke: Invoke) -> None:
    """A stop without runs in progress says nothing of them."""
    assert "service.draining" not in invoke("run", "@Quits", "--drain-timeout", "0").stderr


@needs_signals
def test_the_second_signal_cancels() -> None:
    """A run that would go on is cancelled, and the exit code is 130."""
    with running("@Holds") as process:
        wait_for(process, "holding")
        process.send_signal(signal.SIGINT)
        wait_for(process, "service.stopping")
        process.send_signal(signal.SIGINT)
        assert wait_for(process, "service.stopped")["cancelled"] == 1
        assert process.wait(20) == 130


@needs_signals
def test_a_run_that_ignores_all_does_not_keep_the_process() -> None:
    """What swallows its cancellation is named, and the process leaves without it."""
    with running("@Swallows") as process:
        wait_for(process, "holding")
        process.send_signal(signal.SIGTERM)
        wait_for(process, "service.stopping")
        process.send_signal(signal.SIGTERM)
        assert wait_for(process, "process.abandoned")["tasks"] == ["Swallows.swallow"]
        assert process.wait(20) == 130


@needs_signals
def test_sighup_changes_the_log_level(tmp_path: Path) -> None:
    """A new level in the settings is in force from then on."""
    config = tmp_path / "settings.toml"
    config.write_text('log_level = "info"')
    with running("@Holds", "--drain-timeout", "0", "--config", str(config)) as process:
        wait_for(process, "holding")
        config.write_text('log_level = "error"')
        process.send_signal(signal.SIGHUP)
        wait_for(process, "settings.reloaded")
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert "service.stopping" not in process.stderr.read()
        assert process.wait(20) == 0


@needs_signals
def test_sighup_says_what_changed(tmp_path: Path) -> None:
    """Each key with its old and its new value; where nothing did, that (53)."""
    config = tmp_path / "settings.toml"
    config.write_text('[tasks."Holds.hold"]\nspacing = 100\n[nats]\ntoken = "old"')
    with running("@Holds", "--drain-timeout", "0", "--config", str(config)) as process:
        wait_for(process, "holding")
        config.write_text('[tasks."Holds.hold"]\nspacing = "5m"\ntimeout = 9\n[nats]\ntoken = "new"')
        process.send_signal(signal.SIGHUP)
        assert wait_for(process, "settings.changed")["changes"] == [
            "tasks.Holds.hold.spacing: 100.0 -> 300.0",
            "nats.token: changed (not shown)",
            "tasks.Holds.hold.timeout: none -> 9.0",
        ]
        process.send_signal(signal.SIGHUP)
        assert wait_for(process, "settings.changed")["changes"] == "none"


@needs_signals
def test_sighup_says_every_error(tmp_path: Path) -> None:
    """All that is wrong with new settings is said, each on a line of its own (53)."""
    config = tmp_path / "settings.toml"
    config.write_text("")
    with running("@Holds", "--log-format", "console", "--config", str(config)) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "holding" in line:
                break
        config.write_text('tolerance = "soon"\ndrain = 5')
        process.send_signal(signal.SIGHUP)
        event, *facts = [process.stderr.readline() for _ in range(3)]
        assert "settings.rejected" in event
        assert "2 settings are wrong" in event
        assert sum("drain: unknown key" in fact for fact in facts) == 1
        assert sum("tolerance: 'soon' is not" in fact for fact in facts) == 1


@needs_signals
def test_sighup_reads_the_settings_again() -> None:
    """SIGHUP is answered, and ends nothing."""
    with running("@Holds", "--drain-timeout", "0") as process:
        wait_for(process, "holding")
        process.send_signal(signal.SIGHUP)
        wait_for(process, "settings.reloaded")
        process.send_signal(signal.SIGTERM)
        assert wait_for(process, "service.stopped")["cancelled"] == 1
        assert process.wait(20) == 0
