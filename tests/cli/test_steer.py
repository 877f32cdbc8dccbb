"""The verbs and the status over a transport, and how a status reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest

from asyncmgr import Manager, periodic_task
from asyncmgr._cli.commands.steer import _moment
from asyncmgr._cli.doors import Door, Reach, Refused, complete_running_task
from asyncmgr._cli.status_text import line_of, sheet, table, took
from asyncmgr._service import control_client
from asyncmgr._service.control_client import Found
from asyncmgr.errors import ControlUnavailable
from tests.cli.conftest import Elsewhere, Invoke

NOW = datetime(2026, 1, 1, 3, 0, tzinfo=UTC)


class Agent(Manager):
    @periodic_task(spacing=3600)
    async def measure(self, context: Any) -> None: ...


@pytest.fixture
def _two_hosts(elsewhere: Elsewhere) -> None:
    for host in ("n1", "n2"):
        elsewhere.start(Agent(), host=host, rpc_control=True)


def far(elsewhere: Elsewhere, *words: str) -> tuple[str, ...]:
    return *words, "--transport", elsewhere.url


@pytest.mark.usefixtures("_two_hosts")
def test_several_hosts_of_a_service(invoke: Invoke, elsewhere: Elsewhere) -> None:
    """A verb for a task that each has for itself needs --at or --all; the status shows all."""
    asked = invoke(*far(elsewhere, "pause", "measure"))
    assert asked.exit_code == 2
    assert "is a task of agent on n1, agent on n2; say which by --service or --at" in " ".join(
        asked.stderr.split()
    )
    one = invoke(*far(elsewhere, "pause", "measure", "--at", "n1", "--note", "moves"))
    assert (one.exit_code, one.stdout.count("for 1h since")) == (0, 1)
    told = json.loads(invoke(*far(elsewhere, "status", "--json")).stdout)
    states = {service["host"]: service["tasks"][0]["state"] for service in told}
    assert states == {"n1": "paused", "n2": "new"}
    both = invoke(*far(elsewhere, "trigger", "measure", "--all"))
    assert both.exit_code == 0
    assert both.stdout.count("succeeded after") == 2
    nobody = invoke(*far(elsewhere, "status", "--at", "n9"))
    assert nobody.exit_code == 1
    assert "there are: agent on n1, agent on n2" in nobody.stderr


def test_a_service_that_takes_no_verbs_says_so(invoke: Invoke, elsewhere: Elsewhere) -> None:
    """With the setting that would open them; reading works."""
    elsewhere.start(Agent(), host="n1")
    refused = invoke(*far(elsewhere, "pause", "measure"))
    assert refused.exit_code == 1
    assert "set rpc_control = true there" in refused.stderr
    assert invoke(*far(elsewhere, "status", "measure")).exit_code == 0


class Fake(Door):
    """A service that has one task, or none."""

    def __init__(
        self, host: str, owner: str | None = None, *, has_it: bool = True, keys: dict[str, str] | None = None
    ) -> None:
        self.service, self.host = "s", host
        self._owner, self._has_it, self._keys = owner, has_it, keys or {}

    @property
    def label(self) -> str:
        return f"s on {self.host}"

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        if not self._has_it:
            raise Refused("no such task")
        key = arguments.get("key")
        if key is not None and key not in self._keys:
            raise Refused("no such key")
        answer = {"tasks": [told(owner=self._owner)]}
        return answer if key is None else {**answer, "key": {"owner": self._keys[key]}}


def chosen(*doors: Door, every: bool = False, key: str | None = None) -> list[str]:
    return [door.host for door in Reach(None, None, every, None).door_for(doors, "sync", key)]


def test_a_verb_for_a_key_goes_to_the_host_that_runs_it() -> None:
    shared = {"a": "n1~3f", "b": "n2~4e"}
    doors = (Fake("n1", keys=shared), Fake("n2", keys=shared), Fake("n3", has_it=False))
    assert (chosen(*doors, key="a"), chosen(*doors, key="b")) == (["n1"], ["n2"])
    with pytest.raises(ControlUnavailable, match="no service has a task 'sync' with the key 'c'"):
        chosen(*doors, key="c")


def test_which_service_a_verb_goes_to() -> None:
    """The only one that has the task; the holder of a task of the cluster; all where that is said; else none."""
    assert chosen(Fake("n1", has_it=False), Fake("n2")) == ["n2"]
    assert chosen(Fake("n1", "n2~3f"), Fake("n2", "n2~3f"), Fake("n3")) == ["n2"]
    assert chosen(Fake("n1"), Fake("n2"), every=True) == ["n1", "n2"]
    assert chosen(Fake("n1", has_it=False)) == ["n1"]
    with pytest.raises(click.UsageError, match="sync is a task of s on n1, s on n2; say which"):
        chosen(Fake("n1"), Fake("n2"))
    with pytest.raises(ControlUnavailable, match="no service has a task 'sync'; looked at s on n1, s on n2"):
        chosen(Fake("n1", has_it=False), Fake("n2", has_it=False))


def test_a_shell_completes_the_tasks_of_running_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that begin so; a service that does not answer costs nothing."""
    found = [ControlUnavailable("blocked"), Found(Path("x"), "s", "n1", 7, {})]
    monkeypatch.setattr(control_client, "find", lambda *, timeout: iter(found))
    monkeypatch.setattr(
        control_client,
        "ask",
        lambda path, request, *, timeout: {"ok": True, "tasks": [told(), told(task="A.b")], "next": None},
    )
    command = click.Command("pause")
    items = complete_running_task(click.Context(command), click.Argument(["task"]), "Vol")
    assert [item.value for item in items] == ["Volumes.sync"]


# How it reads


def told(**changes: Any) -> dict[str, Any]:
    last = {
        "fate": "succeeded",
        "slot": "2026-01-01T02:59:30+00:00",
        "lateness": 0.0,
        "duration": 1.5,
        "error": None,
    }
    return {
        "task": "Volumes.sync",
        "state": "ok",
        "schedule": "every 30s",
        "spacing": 30.0,
        "tz": None,
        "next_due": "2026-01-01T03:00:12+00:00",
        "last_run": "2026-01-01T02:59:30+00:00",
        "last_success": "2026-01-01T02:59:31.500000+00:00",
        "running": None,
        "last": last,
        "paused": None,
        "off": None,
        "failures": 0,
        "failing_since": None,
        "error": None,
        "runs": 7,
        "skipped": 0,
        "missed": 0,
        "owner": None,
        "fresh": None,
        **changes,
    }


def test_a_line_of_the_table() -> None:
    """How the last run ended and when, how long it took, when the next one is."""
    assert line_of(told(), NOW) == (("Volumes.sync", "ok", "succeeded 28s ago", "1.5s", "in 12s"), ())
    never = told(last=None, last_run=None, last_success=None, state="new")
    assert line_of(never, NOW).cells == ("Volumes.sync", "new", "-", "", "in 12s")


def test_what_is_out_of_the_ordinary_is_a_sentence() -> None:
    """A pause, a run in progress, failures, a switch, an owner."""
    paused = {"by": "ops (uid 1000)", "since": "2026-01-01T02:17:00+00:00", "until": None, "note": None}
    running = {
        "run_id": "a-1",
        "since": "2026-01-01T02:58:00+00:00",
        "trigger": "manual",
        "attempt": 2,
        "where": "Volumes.copy at volumes.py:7",
        "progress": {"done": 3, "total": None, "message": None},
    }
    odd = told(
        paused=paused,
        running=running,
        failures=2,
        failing_since="2025-12-31T02:00:00+00:00",
        error="ValueError: no disk",
        off="it is not enabled",
        owner="n1",
        next_due=None,
    )
    line = line_of(odd, NOW)
    assert line.cells[4] == "-"
    assert line.below == (
        "off: it is not enabled",
        "paused by ops (uid 1000) at 02:17:00, until somebody resumes it",
        "run a-1 (manual) since 2m, attempt 2, 3, in Volumes.copy at volumes.py:7",
        "2 failures in a row since 2025-12-31 02:00:00: ValueError: no disk",
        "run by n1",
    )


def test_a_table_fits_80_columns() -> None:
    """Names of tasks are cut, sentences are wrapped; control characters are shown."""
    long = told(task="Volumes." + "x" * 100, failures=1, error="E\x1b: " + "no disk " * 20)
    lines = list(table([line_of(long, NOW), line_of(told(), NOW)], 80))
    assert max(map(len, (line.replace("\x1b[2m", "").replace("\x1b[0m", "") for line in lines))) <= 89
    assert "E\\x1b" in "".join(lines)
    assert "…" in lines[1]


def test_the_sheet_of_one_task() -> None:
    """All that is known of it."""
    assert dict(sheet(told(tz="UTC"), NOW)) == {
        "state": "ok",
        "schedule": "every 30s UTC",
        "next slot": "03:00:12, in 12s",
        "last run": "succeeded, slot 02:59:30, on time, took 1.5s",
        "last success": "02:59:31, 28s ago",
        "so far": "7 runs; slots skipped: 0, missed: 0",
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0001, "<1ms"), (0.0123, "12.3ms"), (0.1, "0.1s"), (59.94, "59.9s"), (4000, "1h6m")],
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    """Whatever their size."""
    assert took(seconds) == text


def test_until_a_time_of_day() -> None:
    """Today, or tomorrow where that is past; or a date."""
    now = datetime.now().astimezone()
    past = now - timedelta(minutes=2)
    assert timedelta() < _moment(f"{past:%H:%M}") - now <= timedelta(days=1)
    assert _moment("2999-01-31T04:17").year == 2999


@pytest.mark.parametrize("text", ["25:00", "noon", "2020-01-01T00:00"])
def test_a_time_that_cannot_be_meant(invoke: Invoke, text: str) -> None:
    """It is a usage error."""
    result = invoke("pause", "sync", "--until", text)
    assert result.exit_code == 2
    assert "--until: " in result.stderr


def test_options_that_exclude_each_other(invoke: Invoke) -> None:
    """And a reschedule that says nothing."""
    assert invoke("pause", "sync", "--until", "04:17", "--for", "1h").exit_code == 2
    assert invoke("pause", "sync", "--for", "-1").exit_code == 2
    assert invoke("reschedule", "sync").exit_code == 2
