"""Tells the user what a stop waits for."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from asyncmgr._cli.logs import LogFormat
from asyncmgr._cli.output import lines_of
from asyncmgr._cli.task_views import local, relative
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.log import log
from asyncmgr._service.drain import Pending
from asyncmgr._service.service import Service
from asyncmgr._settings.problems import listed
from asyncmgr.events import Event

_FOREVER = 10 * 365 * 86_400.0


def say_what_is_awaited(service: Service, log_format: LogFormat, _: Event) -> None:
    """Name the runs and calls that the stop waits for, and until when: a user who pressed Ctrl-C wants to know."""
    drain = service.pending()
    if not drain.runs and not drain.calls:
        return
    until = to_datetime(read_wall()) + timedelta(seconds=min(drain.seconds, _FOREVER))
    if log_format == "json":
        runs = [{"task": task, "running_for": round(seconds, 3)} for task, seconds in drain.runs]
        log.info("service.draining", runs=runs, calls=drain.calls, until=until.isoformat())
    else:
        click.echo(lines_of(_awaited_in_words(drain, until)), err=True)


def _awaited_in_words(drain: Pending, until: datetime) -> str:
    waits = [f"{task} (running for {relative(seconds)})" for task, seconds in drain.runs]
    waits += [f"a call of {method}" for method in drain.calls]
    return f"Waiting for {listed(waits)}; at most until {local(until)}. Ctrl-C again stops it at once."
