"""``asyncmgr trigger, pause, resume, reschedule, enable, disable, cancel``: the verbs for tasks of running services."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

from asyncmgr._cli import options
from asyncmgr._cli.doors import Reach, complete_running_task, reach
from asyncmgr._cli.output import lines_of
from asyncmgr._cli.verb_text import (
    PAUSE,
    Tell,
    cancelled,
    disabled,
    enabled,
    pause_text,
    rescheduled,
    resumed,
    triggered,
)
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.durations import parse_duration
from asyncmgr.errors import AsyncmgrError

Function = TypeVar("Function", bound=Callable[..., Any])

EVER = ("ever", "forever")

_task = click.argument("task", shell_complete=complete_running_task)
_key = click.option("--key", metavar="KEY", help="Only this key, of a task with each=.")
_note = click.option("--note", metavar="TEXT", help="Why, for those who wonder later.")


def _steer(reach: Reach, verb: str, tell: Tell, *, task: str, **arguments: Any) -> None:
    """Use a verb on the task of each service that is meant; exit with 1 where one refuses it."""
    failed = False
    with reach.doors() as doors:
        chosen = reach.door_for(doors, task, arguments.get("key"))
        for door in chosen:
            try:
                answer = door.ask(verb, task=task, **arguments)
            except AsyncmgrError as exc:
                if len(chosen) == 1:
                    raise
                click.echo(f"{door.label}: {lines_of(str(exc))}", err=True)
                failed = True
                continue
            text = lines_of(tell(answer, to_datetime(read_wall())))
            click.echo(text if len(chosen) == 1 else f"{door.label}: {text}")
            failed = failed or _is_bad(answer)
    if failed:
        raise click.exceptions.Exit(1)


def _is_bad(answer: dict[str, Any]) -> bool:
    """Whether a triggered run has ended badly, or there was nothing to cancel."""
    run = answer.get("run")
    return answer.get("run_ids") == [] or (run is not None and run["outcome"] not in ("succeeded", "nothing"))


# Running


@click.command(
    "trigger", epilog=options.examples("asyncmgr trigger Volumes.sync", "asyncmgr trigger sync --no-wait")
)
@_task
@click.option("--wait/--no-wait", default=True, help="Wait for the end of the run.  [default: wait]")
@_key
@reach
def trigger(reach: Reach, task: str, key: str | None, *, wait: bool) -> None:
    """Run TASK now, beside its schedule; the next slot stays.

    It works while the task is paused. Ctrl-C ends the waiting, and not the run. Exit code 1: the run failed, or it
    was refused, since another one is in progress.
    """
    _steer(reach, "trigger", triggered, task=task, key=key, wait=wait)


@click.command(
    "cancel",
    epilog=options.examples("asyncmgr cancel Search.reindex", "asyncmgr cancel reindex --run 3f1a-12"),
)
@_task
@click.option("--run", "run_id", metavar="ID", help="Only this run, as 'asyncmgr status' names it.")
@_key
@reach
def cancel(reach: Reach, task: str, run_id: str | None, key: str | None) -> None:
    """Cancel the runs of TASK that are in progress.

    Their outcome is 'cancelled', which is no failure. One that goes on for 10 s all the same is logged as leaked.
    Exit code 1: there was none.
    """
    _steer(reach, "cancel", cancelled, task=task, key=key, run_id=run_id)


# Pausing


@click.command(
    "pause",
    epilog=options.examples(
        'asyncmgr pause Invoices.export --for 2h --note "provider moves"',
        "asyncmgr pause Invoices.export --until 04:17",
        "asyncmgr pause Invoices.export --for ever",
    ),
)
@_task
@click.option("--for", "length", metavar="DURATION|ever", help="How long, as 30m or 2h.  [default: 1h]")
@click.option("--until", metavar="TIME", help="Until when: 04:17, or 2026-01-31T04:17, local time.")
@_note
@reach
def pause(reach: Reach, task: str, length: str | None, until: str | None, note: str | None) -> None:
    """Start no run of TASK for a while. A run in progress goes on.

    It ends by itself, so that nobody has to remember it; only '--for ever' does not. A new pause replaces the one
    before.
    """
    if length is not None and until is not None:
        raise click.UsageError("--for and --until exclude each other; give one of them")
    arguments: dict[str, Any] = {"note": note}
    if until is not None:
        arguments["until"] = _moment(until).isoformat()
    elif length in EVER:
        arguments["ever"] = True
    else:
        arguments["for"] = PAUSE if length is None else _seconds("--for", length)
    _steer(reach, "pause", pause_text(is_default=length is None and until is None), task=task, **arguments)


def _seconds(option: str, text: str) -> float:
    try:
        seconds = parse_duration(text)
    except ValueError as exc:
        raise click.UsageError(f"{option}: {exc}") from None
    if seconds < 0:
        raise click.UsageError(f"{option}: {text!r} is negative; write 0 or more")
    return seconds


def _moment(text: str) -> datetime:
    """Read a local time of today or tomorrow, or a date with a time; with an offset it is that of the offset."""
    now = to_datetime(read_wall()).astimezone()
    try:
        moment = datetime.fromisoformat(text if "-" in text else f"{now:%Y-%m-%d}T{text}")
    except ValueError:
        raise click.UsageError(f"--until: {text!r} is no time; write 04:17, or 2026-01-31T04:17") from None
    if "-" not in text and moment.astimezone() <= now:
        moment += timedelta(days=1)
    if moment.astimezone() <= now:
        raise click.UsageError(f"--until: {text} is past")
    return moment.astimezone()


@click.command("resume", epilog=options.examples("asyncmgr resume Invoices.export"))
@_task
@reach
def resume(reach: Reach, task: str) -> None:
    """End the pause of TASK. Slots that passed meanwhile are not caught up."""
    _steer(reach, "resume", resumed, task=task)


# Schedule and switch


@click.command(
    "reschedule",
    epilog=options.examples(
        "asyncmgr reschedule Volumes.sync --spacing 5m",
        "asyncmgr reschedule Backups.nightly --cron '30 2 * * *' --tz Europe/Berlin",
    ),
)
@_task
@click.option("--spacing", metavar="DURATION", help="Time between two slots, as 30 or 5m.")
@click.option("--cron", metavar="EXPRESSION", help="A cron expression of 5 or 6 fields.")
@click.option("--tz", metavar="ZONE", help="The zone of the cron expression.")
@reach
def reschedule(reach: Reach, task: str, spacing: str | None, cron: str | None, tz: str | None) -> None:
    """Give TASK another schedule, until its service restarts or the settings say otherwise of it."""
    if (spacing is None) == (cron is None) and tz is None:
        raise click.UsageError("say either --spacing or --cron (or --tz alone)")
    seconds = None if spacing is None else _seconds("--spacing", spacing)
    _steer(reach, "reschedule", rescheduled, task=task, spacing=seconds, cron=cron, tz=tz)


@click.command("enable", epilog=options.examples("asyncmgr enable Feeds.legacy"))
@_task
@reach
def enable(reach: Reach, task: str) -> None:
    """Switch TASK on, until its service restarts or the settings say otherwise of it."""
    _steer(reach, "enable", enabled, task=task)


@click.command("disable", epilog=options.examples('asyncmgr disable Feeds.legacy --note "too dear"'))
@_task
@_note
@reach
def disable(reach: Reach, task: str, note: str | None) -> None:
    """Switch TASK off, until its service restarts or the settings say otherwise of it. A run in progress goes on."""
    _steer(reach, "disable", disabled, task=task, note=note)


VERBS = (trigger, pause, resume, reschedule, enable, disable, cancel)
