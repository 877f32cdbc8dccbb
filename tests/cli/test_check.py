"""``asyncmgr check``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asyncmgr import Service
from asyncmgr._service.plugins import Plugin
from tests.cli.conftest import Invoke


def fails(service: Service) -> None:
    """Be a plugin that raises."""
    raise RuntimeError("no licence")


def add_snapshots(service: Service) -> None:
    """Be a plugin that adds a manager."""
    from tests.cli.targets import Snapshots

    service.add_manager(Snapshots())


def install(monkeypatch: pytest.MonkeyPatch, *plugins: Plugin) -> None:
    """Make these the plugins that are installed."""
    monkeypatch.setattr("asyncmgr._cli.commands.check.load_plugins", lambda disabled: list(plugins))


def test_what_is_right_is_counted(invoke: Invoke) -> None:
    """Without a problem the managers and tasks are counted."""
    result = invoke("check", "@several")
    assert (result.exit_code, result.stdout) == (0, "ok: 2 managers, 7 tasks (1 switched off)\n")


def test_everything_that_is_wrong_is_said_at_once(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown tasks, transports and failing plugins are found in one go, and are the data."""
    Path("asyncmgr.toml").write_text('transport = "carrier://x"\n[tasks."Volumes.synk"]\nspacing = "5s"')
    install(
        monkeypatch,
        Plugin("meter", "meter:hook", error=ImportError("no meter")),
        Plugin("lic", "lic:x", fails),
    )
    result = invoke("check", "@Volumes")
    assert result.exit_code == 1
    assert "plugin meter (meter:hook): ImportError: no meter" in result.stdout
    assert "plugin lic (lic:x): RuntimeError: no licence" in result.stdout
    assert "transport: no transport for carrier://" in result.stdout
    assert "there is no task 'Volumes.synk' (did you mean 'Volumes.sync'?)" in result.stdout
    assert result.stdout.endswith("4 problems\n")


def test_what_is_another_services_is_told_and_is_no_problem(invoke: Invoke) -> None:
    """A file that two services share."""
    Path("asyncmgr.toml").write_text(
        '[tasks."Volumes.sync"]\nspacing = 5\n[tasks."Compute.reserve"]\ntimeout = 5\n[managers.Compute]\nsize = 1'
    )
    file, others = Path("asyncmgr.toml").absolute(), "here; it may be another service's"
    result = invoke("check", "@Volumes")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[:-1] == [
        f"warning: {file}: [managers.Compute] size: there is no manager 'Compute' {others}",
        f"warning: {file}: [tasks.\"Compute.reserve\"] timeout: there is no task 'Compute.reserve' {others}",
    ]


def test_each_target_is_tried(invoke: Invoke) -> None:
    """A wrong target does not hide the next one."""
    lines = invoke("check", "@Volums", "@number").stdout.splitlines()
    assert [line.split(": ")[0].rpartition(":")[2] for line in lines] == ["Volums", "number", "2 problems"]


def test_wrong_settings_are_listed_one_by_one(invoke: Invoke) -> None:
    """Each wrong key is a problem of its own, and the targets are looked at all the same."""
    Path("asyncmgr.toml").write_text('tolerance = "soon"\ndrain = 5')
    data = json.loads(invoke("check", "@Volums", "--json").stdout)
    assert [problem["where"].rpartition(":")[2] for problem in data["problems"]] == [
        "Volums",
        "settings",
        "settings",
    ]


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("@Driven", "[managers.Driven]: Driven needs 'driver'"),
        ("@raising", "raised KeyError: 'NOT_THERE'"),
    ],
)
def test_managers_are_made(invoke: Invoke, word: str, text: str) -> None:
    """What keeps a manager from being made is found."""
    result = invoke("check", word)
    assert result.exit_code == 1
    assert text in result.stdout


def test_two_managers_of_one_name_are_found(invoke: Invoke) -> None:
    """What a service refuses is a problem."""
    assert "two managers are named 'Volumes'" in invoke("check", "@Volumes", "@volumes").stdout
    assert "give it alone" in invoke("check", "@service", "@volumes").stdout


def test_an_override_that_a_task_cannot_take_is_found(invoke: Invoke) -> None:
    """An override is laid over the declaration, as at a start."""
    Path("asyncmgr.toml").write_text('[tasks."Misscheduled.daily"]\nspacing = "1us"')
    result = invoke("check", "@Misscheduled")
    assert result.exit_code == 1
    assert "spacing" in result.stdout


def test_tasks_of_plugins_count(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a plugin adds may be overridden by the settings, and is counted."""
    Path("asyncmgr.toml").write_text('[tasks."Snapshots.sweep"]\nspacing = "5s"')
    install(monkeypatch, Plugin("snapshots", "snapshots:add", add_snapshots))
    assert invoke("check", "@Volumes").stdout == "ok: 2 managers, 7 tasks (1 switched off)\n"


def test_json_says_the_same(invoke: Invoke) -> None:
    """Programs get the counts and the problems."""
    assert json.loads(invoke("check", "@Volumes", "--json").stdout) == {
        "ok": True,
        "managers": 1,
        "tasks": 6,
        "switched_off": 1,
        "problems": [],
        "warnings": [],
    }


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "no tasks: nothing here has @periodic_task, so nothing would ever run"),
        (
            ["@periodic_task(spacing=5, enabled=False)", "async def sync(self, context): ..."],
            "all 1 tasks are switched off, so nothing would ever run; 'asyncmgr list' says why",
        ),
    ],
)
def test_that_nothing_would_run_is_a_warning(invoke: Invoke, lines: list[str], said: str) -> None:
    """A service without tasks may be meant, as it may have methods; it is worth a word (53)."""
    body = "".join(f"\n    {line}" for line in ["pass", *lines])
    Path("app.py").write_text(f"from asyncmgr import Manager, periodic_task\nclass App(Manager):{body}\n")
    result = invoke("check", "app:App")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == f"warning: {said}"
    assert result.stdout.splitlines()[1].startswith("ok: 1 manager, ")
    assert json.loads(invoke("check", "app:App", "--json").stdout)["warnings"] == [said]
