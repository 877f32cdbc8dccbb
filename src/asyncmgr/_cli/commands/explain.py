"""``asyncmgr explain`` and ``asyncmgr history``: what became of slots, and why."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from asyncmgr._cli import options
from asyncmgr._cli.doors import Door, Reach, Refused, complete_running_task, reach
from asyncmgr._cli.output import lines_of, table_lines, write_json
from asyncmgr._cli.task_views import local
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.durations import parse_duration
from asyncmgr._common.safe_text import printable
from asyncmgr._history.words import length
from asyncmgr.errors import AsyncmgrError

_HEADERS = ("slot, local", "task", "fate", "took", "late", "what")


# Only the stubs of click are generic before 8.3.
if TYPE_CHECKING:
    _Type = click.ParamType[datetime]
else:
    _Type = click.ParamType


class Moment(_Type):
    """A moment as people write it: ``03:00``, ``2026-07-01 03:00``, ``20m ago``; local without an offset."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        now = _now()
        text = str(value).strip()
        try:
            if text.endswith("ago"):
                return now - timedelta(seconds=parse_duration(text.removesuffix("ago").strip()))
            if "-" not in text:
                return _last(
                    datetime.combine(now.date(), datetime.strptime(_padded(text), "%H:%M:%S").time())
                )
            return _aware(datetime.fromisoformat(text))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no moment; write 03:00, '2026-07-01 03:00' or '20m ago'", param, ctx)


def _now() -> datetime:
    return to_datetime(read_wall()).astimezone()


def _padded(text: str) -> str:
    return text if text.count(":") == 2 else f"{text}:00"


def _last(moment: datetime) -> datetime:
    """Of a time of day, the last one that has passed; one of the next hour is still to come."""
    aware = _aware(moment)
    ahead = aware - _now()
    return aware if ahead < timedelta(hours=1) else _aware(moment - timedelta(days=1))


def _aware(moment: datetime) -> datetime:
    return moment if moment.utcoffset() is not None else moment.astimezone()


MOMENT = Moment()

_key = click.option("--key", metavar="KEY", help="Only this key, of a task with each=.")


@click.command(
    "explain",
    epilog=options.examples(
        "asyncmgr explain Volumes.sync",
        "asyncmgr explain Invoices.export 03:00",
        "asyncmgr explain Invoices.export '20m ago' --json",
        "asyncmgr explain Poller.poll 03:00 --key 10.0.0.7",
    ),
)
@click.argument("task", shell_complete=complete_running_task)
@click.argument("moment", metavar="[TIME]", required=False, type=MOMENT)
@_key
@options.as_json
@reach
def explain(reach: Reach, task: str, moment: datetime | None, key: str | None, *, as_json: bool) -> None:
    """Explain in a sentence or two what became of a slot of TASK, and why.

    TIME is up to a minute from the slot: 03:00, '2026-07-01 03:00', '20m ago'; local. Without it: how the task stands.
    Each key of a task with each= has slots of its own: say which by --key.
    """
    at = None if moment is None else moment.isoformat()
    with reach.doors() as doors:
        told = _ask_all(doors, "explain", task=task, key=key, at=at)
    if as_json:
        write_json([answer for _, answer in told])
        return
    for door, answer in told:
        where = f"{door.label}: " if len(told) > 1 else ""
        click.echo(lines_of(f"{where}{answer['text']}"))


@click.command(
    "history",
    epilog=options.examples(
        "asyncmgr history",
        "asyncmgr history Volumes.sync --since '2h ago'",
        "asyncmgr history Poller.poll --key 10.0.0.7",
        "asyncmgr history --limit 500 --json",
    ),
)
@click.argument("task", required=False, shell_complete=complete_running_task)
@click.option("--since", metavar="TIME", type=MOMENT, help="Leave out what ended before.")
@click.option("--until", metavar="TIME", type=MOMENT, help="Leave out slots after.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="Lines at most.")
@_key
@options.as_json
@reach
def history(
    reach: Reach,
    task: str | None,
    key: str | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    *,
    as_json: bool,
) -> None:
    """List what became of the slots of TASK, or of all tasks, the newest first.

    Those of the keys of a task with each= are listed with TASK only.
    """
    if key is not None and task is None:
        raise click.UsageError(f"--key {printable(key)} needs the TASK whose key it is")
    given = {
        "task": task,
        "key": key,
        "since": None if since is None else since.isoformat(),
        "until": None if until is None else until.isoformat(),
        "limit": limit,
    }
    with reach.doors() as doors:
        told = _ask_all(doors, "history", **given)
    if as_json:
        write_json(
            [{"service": door.service, "host": door.host, "records": one["records"]} for door, one in told]
        )
        return
    for door, answer in told:
        if len(told) > 1:
            click.echo(lines_of(door.label))
        click.echo("\n".join(table_lines(_HEADERS, [_row(one) for one in answer["records"]])))


def _row(record: dict[str, Any]) -> tuple[str, ...]:
    slot = local(datetime.fromisoformat(record["slot"]))
    count = "" if record["count"] == 1 else f" and {record['count'] - 1:,} more"
    duration, late = record["duration"], record["lateness"]
    fate = record["fate"] if record["reason"] is None else f"{record['fate']}, {record['reason']}"
    return (
        f"{slot}{count}",
        record["task"] if record.get("key") is None else f"{record['task']}[{record['key']}]",
        fate,
        "" if duration is None else length(duration),
        "" if late is None or late < 1 else length(late),
        record["text"] or "" if record["reason"] != "overlap" else "",
    )


def _ask_all(doors: Sequence[Door], verb: str, **given: Any) -> list[tuple[Door, dict[str, Any]]]:
    """Ask every service; with a task, those that have it."""
    told, refused = [], []
    for door in doors:
        try:
            told.append((door, door.ask(verb, **given)))
        except Refused as exc:
            refused.append(exc)
    if not told:
        raise AsyncmgrError("; ".join(map(str, refused)))
    return told
