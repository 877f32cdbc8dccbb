"""What the command line shows of the failure policy."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from asyncmgr import Manager, Retry, RunContext, Service, Settings, periodic_task
from asyncmgr._cli.status_text import remarks
from asyncmgr._cli.task_views import view_tasks
from asyncmgr._cli.tasks import hand_out_settings
from asyncmgr._common.clock import WallClock
from asyncmgr._service.control_answers import status_as_json
from asyncmgr._tasks.status import TaskState, TaskStatus


class Mails(Manager):
    @periodic_task(
        spacing=60,
        retry=Retry(3, on=(OSError, KeyError)),
        backoff=True,
        pause_after=5,
        freshness=600,
        critical=True,
    )
    async def send(self, context: RunContext) -> None: ...

    @periodic_task(spacing=60)
    async def fetch(self, context: RunContext) -> None: ...


def test_list_shows_the_options() -> None:
    """As they are in force, for programs: those of the settings too."""
    settings = Settings(tasks={"Mails.fetch": {"retry": 2, "freshness": "1h"}})
    service = Service(Mails(), settings=settings)
    hand_out_settings(service)
    send, fetch = (view.as_json() for view in view_tasks(service, WallClock().read()))
    assert send["retry"] == {
        "attempts": 3,
        "delay": 1.0,
        "backoff": 2.0,
        "max_delay": 60.0,
        "jitter": 0.1,
        "on": ["OSError", "KeyError"],
    }
    names = ("backoff", "pause_after", "freshness", "critical")
    assert [send[name] for name in names] == [True, 5, 600, True]
    assert [fetch[name] for name in names] == [False, None, 3600, False]
    assert fetch["retry"]["attempts"] == 2


def told(**facts: Any) -> dict[str, Any]:
    status = TaskStatus("send", "Mails.send", 60.0, "every 1m", None, None, **facts)
    return status_as_json(status)


def test_status_says_that_a_task_is_held_back_or_stale() -> None:
    """In sentences."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    held = told(failures=5, error="ValueError: no", held_spacing=2400.0, state=TaskState.HELD)
    assert list(remarks(held, now)) == [
        "5 failures in a row: ValueError: no",
        "held back: it runs only every 40m until it succeeds",
    ]
    stale = told(fresh=False, freshness=600.0, critical=True, state=TaskState.STALE)
    assert list(remarks(stale, now)) == ["stale: no success within 10m"]
