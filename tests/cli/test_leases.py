"""``asyncmgr leases``."""

from __future__ import annotations

import json
import time
from typing import Any

from asyncmgr import Manager
from tests.cli.conftest import Elsewhere, Invoke


class Jobs(Manager):
    name = "Jobs"

    async def work(self, context: Any) -> None: ...


def test_leases_are_a_table(elsewhere: Elsewhere, invoke: Invoke) -> None:
    """A line for each task, with its holder."""
    jobs = Jobs()
    jobs.add_periodic_task(jobs.work, spacing=60, scope="cluster", run_immediately=True)
    service = elsewhere.start(jobs, host="n1", application="table-of-leases")
    owner = _owner(service)
    result = invoke("leases", "table-of-leases")
    assert (result.exit_code, result.stderr) == (0, "")
    header, line = result.stdout.splitlines()
    assert header.split() == ["application", "kind", "name", "holder", "since", "token", "state"]
    cells = line.split()
    assert cells[:4] == ["table-of-leases", "task", "Jobs.work", owner]
    assert cells[-1] == "held"
    (found,) = json.loads(invoke("leases", "table-of-leases", "--json").stdout)
    assert (found["holder"], found["host"], found["state"]) == (owner, "n1", "held")
    assert found["slot_state"] in ("succeeded", "claimed", "new")
    elsewhere.stop(service)
    (found,) = json.loads(invoke("leases", "table-of-leases", "--json").stdout)
    assert (found["holder"], found["state"]) == (None, "free")


def test_no_leases_are_an_answer(elsewhere: Elsewhere, invoke: Invoke) -> None:
    """It says where was looked, and is no failure."""
    result = invoke("leases", "nobody")
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"no leases of the application 'nobody' at {elsewhere.url}" in result.stderr


def _owner(service: Any) -> str:
    for _ in range(200):
        owner = service.task("Jobs.work").status.owner
        if owner is not None:
            return str(owner)
        time.sleep(0.05)  # the service lives in another thread
    raise AssertionError("nobody holds the task")
