"""``asyncmgr next``: shows when tasks will start, in UTC and in the time zone of their schedule."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, pairwise
from operator import attrgetter
from typing import Any

import click

from asyncmgr._cli import options
from asyncmgr._cli.completion import complete_target_or_task
from asyncmgr._cli.loading import load_service
from asyncmgr._cli.output import write_json, write_table
from asyncmgr._cli.task_views import TaskView, relative, view_tasks
from asyncmgr._common.clock import WallClock, to_datetime
from asyncmgr._common.safe_text import printable
from asyncmgr._settings.problems import listed, suggestion

_COUNT = 10


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot to come."""

    at: datetime
    view: TaskView
    zone: tzinfo | None
    """The time zone in which it is shown; `None` = local time."""

    @property
    def local(self) -> datetime:
        return self.at.astimezone(self.zone)

    @property
    def zone_name(self) -> str:
        return "local time" if self.zone is None else str(self.zone)

    def as_json(self) -> dict[str, Any]:
        """Write the exact facts for programs; lengths in seconds."""
        return {
            "task": self.view.name,
            "utc": self.at.isoformat(),
            "local": self.local.isoformat(),
            "zone": self.zone_name,
            "in": self.view.seconds_to(self.at),
        }


@click.command(
    "next",
    epilog=options.examples(
        "asyncmgr next app.py:Volumes Volumes.backup -n 20 --tz Europe/Berlin",
        "asyncmgr next app.py:Volumes",
        "ASYNCMGR_APP=app.py:Volumes asyncmgr next backup",
    ),
)
@click.argument("words", metavar="[TARGET]... [TASK]...", nargs=-1, shell_complete=complete_target_or_task)
@click.option(
    "-n",
    "--count",
    type=click.IntRange(min=1),
    help="How many slots.  [default: 10, without a TASK at least one of each]",
)
@click.option(
    "--tz",
    metavar="ZONE",
    callback=options.read_zone,
    help="Zone to show beside UTC.  [default: the task's; local time]",
)
@options.as_json
@options.places
def next_slots(
    words: Sequence[str], count: int | None, tz: tzinfo | None, app_dir: str, *, as_json: bool
) -> None:
    """Show the next slots of a task; or the next one of each task, and then those that follow.

    A word with ":" is a TARGET, any other a TASK: its full name, or its own where only one has it. A task with a
    spacing counts from now, as if the service started now. Where the clocks of the zone change, the line says so.
    """
    targets, names = _sort_out(words)
    views = view_tasks(load_service(targets, app_dir), WallClock().read())
    if names:
        chosen = [_choose(name, views) for name in names]
        upcoming = _merged(chosen, tz)
    else:
        chosen = [view for view in views if view.off is None]
        upcoming = _each_first(chosen, tz)
    slots = list(islice(upcoming, count or max(_COUNT, 0 if names else len(chosen))))
    if as_json:
        write_json([slot.as_json() for slot in slots])
    elif slots:
        _write(slots, chosen)
    else:
        click.echo("no slots: no task is switched on here", err=True)


# What the words mean


def _sort_out(words: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """Tell targets from tasks, whose names have no colon."""
    names = [word for word in words if not _is_target(word)]
    hint = f"; {names[0]!r} has no ':' and is read as a TASK" if names else ""
    return options.or_default([word for word in words if _is_target(word)], hint), names


def _is_target(word: str) -> bool:
    return ":" in word or "/" in word or word.endswith(".py")


def _choose(name: str, views: Sequence[TaskView]) -> TaskView:
    view = _named(name, views)
    if view.off is not None:
        raise click.ClickException(f"{view.name} is switched off ({view.off}) and has no next slot")
    return view


def _named(name: str, views: Sequence[TaskView]) -> TaskView:
    found = [view for view in views if view.name == name] or [
        view for view in views if view.task.name == name
    ]
    if len(found) == 1:
        return found[0]
    known = [view.name for view in found or views]
    if found:
        raise click.UsageError(f"{name!r} is ambiguous; write one of {listed(known)}")
    closest = suggestion(name, [*known, *(view.task.name for view in views)])
    raise click.UsageError(f"there is no task {name!r}{closest}; the tasks are {listed(known)}")


# Slots


def _merged(views: Sequence[TaskView], zone: tzinfo | None) -> Iterator[Slot]:
    """Merge the slots of all tasks in order."""
    return heapq.merge(*(_slots_of(view, zone) for view in views), key=attrgetter("at"))


def _each_first(views: Sequence[TaskView], zone: tzinfo | None) -> Iterator[Slot]:
    """Yield the next slot of each task before any second one: else a task each second would hide the nightly one."""
    rest = [_slots_of(view, zone) for view in views]
    yield from sorted((slot for slots in rest for slot in islice(slots, 1)), key=attrgetter("at"))
    yield from heapq.merge(*rest, key=attrgetter("at"))


def _slots_of(view: TaskView, zone: tzinfo | None) -> Iterator[Slot]:
    return (Slot(at, view, zone or view.zone) for at in view.slots())


def _write(slots: Sequence[Slot], chosen: Sequence[TaskView]) -> None:
    precision = _precision(slots)
    columns = [
        ("task", [slot.view.name for slot in slots] if len(chosen) > 1 else []),
        ("UTC", [text.replace("+00:00", "Z") for text in _iso([slot.at for slot in slots], precision)]),
        (_zones(slots), [] if _is_utc(slots) else _iso([slot.local for slot in slots], precision)),
        ("in", [relative(slot.view.seconds_to(slot.at)) for slot in slots]),
        ("clocks", _changes(slots)),
    ]
    shown = [(header, cells) for header, cells in columns if any(cells)]
    for view in chosen if len(chosen) == 1 else ():
        click.echo(printable(f"{view.name}: {view.schedule}"))
    write_table([header for header, _ in shown], zip(*(cells for _, cells in shown), strict=True), sys.stdout)


def _is_utc(slots: Sequence[Slot]) -> bool:
    """Whether all slots are shown in UTC, perhaps because the machine's own time is UTC."""
    return all(slot.zone is UTC or (slot.zone is None and not slot.local.utcoffset()) for slot in slots)


def _zones(slots: Sequence[Slot]) -> str:
    names = {slot.zone_name for slot in slots}
    return names.pop() if len(names) == 1 else "its own zone"


def _iso(moments: Sequence[datetime], precision: str) -> list[str]:
    return [moment.isoformat(timespec=precision) for moment in moments]


def _precision(slots: Sequence[Slot]) -> str:
    """Choose seconds, or milliseconds if two slots are less than a second apart."""
    gaps = (later - sooner for sooner, later in pairwise(sorted(slot.at for slot in slots)))
    return "milliseconds" if any(timedelta() < gap < timedelta(seconds=1) for gap in gaps) else "seconds"


def _changes(slots: Sequence[Slot]) -> list[str]:
    """Say for each slot how far its zone's offset moved since the slot before, or since now; empty if not at all."""
    before: dict[str, timedelta] = {}
    changes: dict[int, str] = {}
    for number, slot in sorted(enumerate(slots), key=lambda one: one[1].at):
        offset = _offset(slot.at, slot.zone)
        moved = offset - before.get(slot.zone_name, _offset(to_datetime(slot.view.moment.wall), slot.zone))
        changes[number] = _in_hours(moved) if moved else ""
        before[slot.zone_name] = offset
    return [changes[number] for number in range(len(slots))]


def _offset(at: datetime, zone: tzinfo | None) -> timedelta:
    return at.astimezone(zone).utcoffset() or timedelta()


def _in_hours(moved: timedelta) -> str:
    hours = moved.total_seconds() / 3600
    return f"{'forward' if hours > 0 else 'back'} {abs(hours):g}h"
