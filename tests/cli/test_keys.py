"""The option `--key`, and what `status` and `list` say of keys: over a transport.

These are the commands of docs/how-to/keys.md.
"""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from typing import Any

import pytest

from asyncmgr import Manager, Service, periodic_task
from asyncmgr._cli.status_text import keys_in_words
from tests.cli.conftest import Elsewhere, Invoke


class Poller(Manager):
    def __init__(self) -> None:
        super().__init__()
        self.devices = ["10.0.0.7", "10.0.0.8", "9"]

    @periodic_task(spacing=3600, each="devices", run_immediately=True)
    async def poll(self, context: Any, device: str) -> None:
        if device == "10.0.0.8":
            raise OSError("no route")


@pytest.fixture
def far(elsewhere: Elsewhere) -> tuple[str, ...]:
    elsewhere.run(_have_run(elsewhere.start(Poller(), host="n1", rpc_control=True)))
    return "--transport", elsewhere.url


async def _have_run(service: Service) -> None:
    """Wait until each key has run."""
    handle = service.task("Poller.poll")
    await handle.refresh()
    while handle.status.runs < 3:  # noqa: ASYNC110 - turns of the loop: the runs are on their way
        await asyncio.sleep(0)


def test_the_status_of_a_key(invoke: Invoke, far: tuple[str, ...]) -> None:
    """A sentence for people, data for programs; the sheet of the task counts its keys."""
    said = invoke("status", "poll", "--key", "10.0.0.8", *far)
    assert said.exit_code == 0
    assert said.stdout.startswith("10.0.0.8 in poller on n1: failing; last run failed ")
    assert "1 failures in a row: OSError: no route; next slot in " in said.stdout
    (told,) = json.loads(invoke("status", "poll", "--key", "9", "--json", *far).stdout)
    assert (told["key"], told["state"], told["outcome"], told["host"]) == ("9", "ok", "succeeded", "n1")
    assert "1 of 3 keys fails: key 10.0.0.8: OSError: no route" in invoke("status", *far).stdout
    assert "1 of 3 keys fails: key 10.0.0.8: OSError: no route" in invoke("status", "poll", *far).stdout
    nobody = invoke("status", "poll", "--key", "10.0.0.9", *far)
    assert nobody.exit_code == 1
    assert "Poller.poll has no key '10.0.0.9' among its 3 here" in nobody.stderr


def test_a_key_is_explained(invoke: Invoke, far: tuple[str, ...]) -> None:
    said = invoke("explain", "poll", "--key", "10.0.0.8", *far)
    assert said.exit_code == 0
    assert said.stdout.startswith("Poller.poll[10.0.0.8]: the slot of ")
    assert "with OSError: no route." in said.stdout
    (told,) = json.loads(invoke("explain", "poll", "1s ago", "--key", "9", "--json", *far).stdout)
    assert (told["task"], told["fate"]) == ("Poller.poll[9]", "succeeded")
    whole = invoke("explain", "poll", *far)
    assert "it runs for 3 keys here, each with slots of its own: 1 failing. Say which key" in whole.stdout
    assert invoke("explain", "poll", "--key", "nobody", *far).exit_code == 1


def test_the_history_of_a_key(invoke: Invoke, far: tuple[str, ...]) -> None:
    """One line a run; without the option those of all keys, and without a task those of none."""
    (service,) = json.loads(invoke("history", "poll", "--key", "10.0.0.8", "--json", *far).stdout)
    (record,) = service["records"]
    assert (record["key"], record["fate"], record["text"]) == ("10.0.0.8", "failed", "OSError: no route")
    assert datetime.fromisoformat(record["slot"]).tzinfo is not None
    lines = invoke("history", "poll", *far).stdout.splitlines()
    assert sorted(line.split()[2] for line in lines[1:]) == [
        "Poller.poll[10.0.0.7]",
        "Poller.poll[10.0.0.8]",
        "Poller.poll[9]",
    ]
    assert len(invoke("history", *far).stdout.splitlines()) <= 1
    assert invoke("history", "poll", "--key", "x", *far).exit_code == 1


def test_a_key_is_triggered(invoke: Invoke, far: tuple[str, ...]) -> None:
    """Alone; the exit code says how the run ended."""
    assert invoke("trigger", "poll", "--key", "9", *far).exit_code == 0
    failed = invoke("trigger", "poll", "--key", "10.0.0.8", *far)
    assert failed.exit_code == 1
    (service,) = json.loads(invoke("history", "poll", "--key", "9", "--json", *far).stdout)
    assert [record["trigger"] for record in service["records"]] == ["manual", "schedule"]
    whole = invoke("trigger", "poll", *far)
    assert whole.exit_code == 1
    assert "trigger one key" in whole.stderr
    nothing = invoke("cancel", "poll", "--key", "9", *far)
    assert nothing.exit_code == 1
    assert "nothing to cancel" in nothing.stdout


@pytest.mark.parametrize("command", ["status", "history"])
def test_a_key_needs_its_task(invoke: Invoke, command: str) -> None:
    asked = invoke(command, "--key", "9")
    assert asked.exit_code == 2
    assert "--key 9 needs the TASK whose key it is" in asked.stderr


def test_how_keys_are_counted() -> None:
    """All of them, or this host's part; then what runs, waits and fails."""
    keys = {"known": 1334, "running": 50, "waiting": 0, "failing": 2, "total": None, "hosts": None}
    assert list(keys_in_words(keys, None)) == ["1,334 keys, 50 running", "2 of 1,334 keys fail"]
    shared = {**keys, "total": 4000, "hosts": 3, "running": 0}
    assert list(keys_in_words(shared, "no route")) == [
        "1,334 of 4,000 keys here, 3 hosts share them",
        "2 of 1,334 keys fail: no route",
    ]
    assert list(keys_in_words({**shared, "hosts": 1, "failing": 0}, None)) == [
        "1,334 of 4,000 keys here, 1 host has them"
    ]


def test_list_says_where_keys_come_from(invoke: Invoke) -> None:
    """How many there are where that is known without calling anything."""
    listed = invoke("list", "@Keyed")
    assert listed.exit_code == 0
    header, *lines = listed.stdout.splitlines()
    at = header.index("keys")
    assert sorted(line[at:].split()[0] for line in lines if line.strip()) == ["3", "tenants()"]
