"""What targets may be, and what is said where one is something else."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from asyncmgr._service import version as inside
from tests.cli.conftest import Invoke


@pytest.mark.parametrize("word", ["@Volumes", "@volumes", "@service", "@several", "@class_of_it"])
def test_a_target_may_be_many_things(invoke: Invoke, word: str) -> None:
    """A class, an instance, and a factory of a service, of several managers or of a class can be used."""
    result = invoke("list", word)
    assert result.exit_code == 0, result.stderr
    assert "Volumes.sync" in result.stdout


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("@Volums", "no attribute 'Volums' (did you mean 'Volumes'?)"),
        (
            "@number",
            "is an object of type int; a target is a manager class, a manager, a Service, or a function",
        ),
        ("@Driver", "is the class Driver, which is no Manager; a target is"),
        ("@nothing", "returned None; return managers, or a Service"),
        ("@empty", "returned nothing; return managers, or a Service"),
        ("@odd", "returned an object of type int; return managers, or a Service"),
        ("@with_argument", "needs path; a factory is called without arguments"),
        ("@asynchronous", "is an async function; a factory is called without a loop: write 'def'"),
        ("@raising", "raised KeyError: 'NOT_THERE'"),
        ("@refused", "two managers are named 'Volumes'"),
        ("@quitting", "raised SystemExit: 3"),
        ("@Driven", "[managers.Driven]: Driven needs 'driver'"),
        ("no_such_module:x", "there is no module 'no_such_module'"),
    ],
)
def test_a_wrong_target_says_what_was_found(invoke: Invoke, word: str, text: str) -> None:
    """The error is one line that names the target, what it is, and what it should be."""
    result = invoke("list", word)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert text in result.stderr.splitlines()[0]


def test_an_error_shows_where_it_was_raised(invoke: Invoke) -> None:
    """Of what the user's own code raised, the user's own lines are shown, and no others."""
    lines = invoke("list", "@raising").stderr.splitlines()
    assert lines[1].endswith("in raising")
    assert lines[2:] == ['    return Volumes(host=os.environ["NOT_THERE"])']


def test_an_error_while_importing_shows_where(invoke: Invoke) -> None:
    """A module that cannot be imported is shown with its own line."""
    Path("broken.py").write_text("import os\nurl = os.environ['NO_URL']\n")
    lines = invoke("list", "broken:x").stderr.splitlines()
    assert lines[0] == "Error: importing broken raised KeyError: 'NO_URL'"
    assert lines[1].endswith("broken.py:2 in <module>")
    assert lines[2:] == ["    url = os.environ['NO_URL']"]


@pytest.mark.parametrize("command", ["run", "list", "check"])
def test_a_target_is_needed(invoke: Invoke, command: str) -> None:
    """Without a target and without the variable, both are named."""
    result = invoke(command)
    assert result.exit_code == 2
    assert "no TARGET; write 'module:attribute'" in result.stderr
    assert "ASYNCMGR_APP" in result.stderr


def test_a_service_is_alone(invoke: Invoke) -> None:
    """A service among other targets is refused."""
    result = invoke("list", "@service", "@Snapshots")
    assert result.exit_code == 2
    assert "is a Service and cannot be run with other targets; give it alone" in result.stderr


def test_arguments_come_from_the_settings(invoke: Invoke) -> None:
    """A manager class gets what its table says, import strings resolved and types checked."""
    Path("asyncmgr.toml").write_text('[managers.Driven]\ndriver = "targets:LvmDriver"\nlimit = 3')
    assert "Driven.poll" in invoke("list", "@Driven").stdout
    Path("asyncmgr.toml").write_text('[managers.Driven]\ndriver = "targets:LvmDriver"\nlimit = "many"')
    assert "[managers.Driven] limit: 'many' is not accepted" in invoke("list", "@Driven").stderr


def test_arguments_of_an_instance_are_unused(invoke: Invoke) -> None:
    """Settings that cannot take effect are not dropped in silence."""
    Path("asyncmgr.toml").write_text("[managers.Volumes]\nhost = 'a'")
    result = invoke("list", "@volumes")
    assert result.exit_code == 0
    assert "arguments.unused" in result.stderr


def test_arguments_of_no_manager_are_wrong(invoke: Invoke) -> None:
    """A table for a manager that is not there stops the start."""
    Path("asyncmgr.toml").write_text("[managers.Volume]\nhost = 'a'")
    result = invoke("list", "@Volumes")
    assert result.exit_code == 1
    assert "there is no manager 'Volume' (did you mean 'Volumes'?)" in result.stderr


def test_help_has_examples(invoke: Invoke) -> None:
    """Each command shows how it is called."""
    for command in ("run", "list", "next", "check"):
        assert f"Examples:\n    asyncmgr {command} app.py:Volumes" in invoke(command, "--help").stdout
    assert [line.split()[0] for line in invoke("--help").stdout.splitlines()[9:13]] == [
        "run",
        "list",
        "next",
        "check",
    ]
    assert invoke("--version").stdout.startswith("asyncmgr ")


def test_a_bare_tree_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is not installed, the command line works all the same."""
    monkeypatch.setattr(inside, "version", lambda name: importlib.metadata.version("no-such-package"))
    assert inside.own_version() == "(not installed)"
