"""`asyncmgr explain` and `asyncmgr history`, over a transport."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import click
import pytest

from asyncmgr import Manager, Skip, periodic_task
from asyncmgr._cli.commands.explain import MOMENT, _now, _row
from tests.cli.conftest import Elsewhere, Invoke


class Feeds(Manager):
    @periodic_task(spacing=3600, run_immediately=True)
    async def rss(self, context: Any) -> None:
        raise Skip("no new items")


def test_a_service_explains(invoke: Invoke, elsewhere: Elsewhere) -> None:
    """A sentence for people, data for programs; an error where nobody has the task."""
    elsewhere.start(Feeds(), host="n1")
    far = ("--transport", elsewhere.url)
    said = invoke("explain", "rss", *far)
    assert said.stdout.startswith("Feeds.rss: the slot of ")
    assert said.stdout.endswith("ran. It had nothing to do: no new items.\n")
    (told,) = json.loads(invoke("explain", "Feeds.rss", "1s ago", "--json", *far).stdout)
    assert (told["task"], told["fate"], told["count"]) == ("Feeds.rss", "nothing", 1)
    lines = invoke("history", *far).stdout.splitlines()
    assert lines[0].split()[0] == "slot,"
    assert "Feeds.rss  nothing" in lines[1]
    (service,) = json.loads(invoke("history", "rss", "--since", "1h ago", "--json", *far).stdout)
    assert [record["text"] for record in service["records"]] == ["no new items"]
    nobody = invoke("explain", "absent", *far)
    assert nobody.exit_code == 1
    assert "has no task 'absent'" in nobody.stderr


def test_moments_are_read_as_people_write_them() -> None:
    """A time of day is the last one; without an offset it is local."""
    now = _now()
    ago = MOMENT.convert("20m ago", None, None)
    assert timedelta(minutes=19) < now - ago < timedelta(minutes=21)
    assert MOMENT.convert("2026-07-01 03:00", None, None) == datetime(2026, 7, 1, 3).astimezone()
    assert MOMENT.convert("2026-07-01T03:00+02:00", None, None).utcoffset() == timedelta(hours=2)
    three = MOMENT.convert("03:00", None, None)
    assert (three.hour, three.minute) == (3, 0)
    assert timedelta(hours=-1) <= now - three <= timedelta(hours=25)
    with pytest.raises(click.UsageError, match="is no moment; write 03:00"):
        MOMENT.convert("soon", None, None)


def test_a_span_is_one_line() -> None:
    """With the number of its slots."""
    record = {
        "task": "M.t",
        "slot": "2026-07-01T03:00:00+00:00",
        "count": 5,
        "fate": "skipped",
        "reason": "paused",
        "duration": None,
        "lateness": None,
        "text": None,
    }
    slot, *rest = _row(record)
    assert slot.endswith(" and 4 more")
    assert rest == ["M.t", "skipped, paused", "", "", ""]
