"""``asyncmgr simulate``: rehearses an application in virtual time, and says what would become of its slots."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asyncmgr._cli import options
from asyncmgr._cli.commands.explain import MOMENT
from asyncmgr._cli.commands.run import keep_only
from asyncmgr._cli.completion import complete_task
from asyncmgr._cli.loading import load_service
from asyncmgr._cli.logs import configure
from asyncmgr._cli.output import write_json
from asyncmgr._cli.tasks import tasks_of
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._service.service import Service
from asyncmgr._settings.model import Settings
from asyncmgr._settings.problems import listed, suggestion
from asyncmgr._settings.sources import PlacedValue, fold, saying
from asyncmgr._tasks.schedules import load_zone

if TYPE_CHECKING:
    from asyncmgr.testing.rehearsal import Script, Took

NEEDS_YOU = 3
"""The exit code of ``--strict`` where something needs somebody."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of `simulate` that say what is rehearsed."""

    seconds: float
    start: datetime | None
    seed: int | None
    took: Sequence[Took]
    replay: str | None
    run_bodies: bool


def _read_length(ctx: click.Context, param: click.Parameter, value: str) -> float:
    seconds = options.read_duration(ctx, param, value)
    if not seconds:
        raise click.BadParameter(f"{value!r} is no time; write e.g. 24h")
    return seconds


def _read_set(_ctx: click.Context, _param: click.Parameter, value: Sequence[str]) -> list[PlacedValue]:
    return [_placed(text) for text in value]


def _placed(text: str) -> PlacedValue:
    """Read ``Volumes.sync.spacing=15`` or ``max_runs=4``.

    Raises
    ------
    click.BadParameter
        It is of another form.
    """
    key, equals, value = text.partition("=")
    first, *more = parts = key.strip().split(".")
    if first == "tasks" and len(more) >= 3:
        first, *more = parts = more
    place = f"--set {key.strip()}"
    if equals and first in Settings.model_fields and first != "tasks":
        return PlacedValue(tuple(parts), value.strip(), place)
    if equals and len(parts) >= 3 and all(parts):
        return PlacedValue(("tasks", ".".join(parts[:-1]), parts[-1]), value.strip(), place)
    close = suggestion(first, Settings.model_fields)
    raise click.BadParameter(
        f"{text!r} names no option of a task, as Volumes.sync.spacing=15, and no setting, as max_runs=4{close}"
    )


def _read_took(_ctx: click.Context, _param: click.Parameter, value: Sequence[str]) -> list[Took]:
    if not value:
        return []
    from asyncmgr.testing.rehearsal._lengths import read_took

    try:
        return [read_took(text) for text in value]
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


@click.command(
    "simulate",
    epilog=options.examples(
        "asyncmgr simulate app.py:Volumes --took '*=2s±1s'",
        "asyncmgr simulate app.py:Volumes --set Volumes.sync.spacing=15 --plot day.svg",
        "asyncmgr simulate app.py:Volumes --replay /var/lib/app/history.db",
        "asyncmgr simulate app.py:Volumes --start 2026-03-28T12:00+00:00 --strict",
    ),
)
@options.targets
@click.option(
    "--for",
    "seconds",
    metavar="DURATION",
    default="24h",
    callback=_read_length,
    help="[default: 24h]",
)
@click.option(
    "--start",
    metavar="TIME",
    type=MOMENT,
    help="Moment at which the service starts.  [default: this midnight in the setting 'timezone'; with --replay, that "
    "of the service then]",
)
@click.option(
    "--seed",
    type=int,
    help="Of jitter and lengths: the same seed, the same report.  [default: the setting; 0]",
)
@click.option(
    "--set",
    "changes",
    metavar="KEY=VALUE",
    multiple=True,
    callback=_read_set,
    help="Setting to try, as Volumes.sync.spacing=15 or max_runs=4; may be repeated.",
)
@click.option(
    "--only",
    metavar="GLOB",
    multiple=True,
    shell_complete=complete_task,
    help="Rehearse only tasks with such a full name; may be repeated.",
)
@click.option(
    "--took",
    metavar="TASK=DURATION",
    multiple=True,
    callback=_read_took,
    help="How long runs take, as 'Volumes.sync=2s±1s' or '*=500ms'; may be repeated, the last that fits counts.",
)
@click.option(
    "--replay",
    metavar="HISTORY",
    help="History file of the real service: runs take as long, and end, as those in it.",
)
@click.option(
    "--run-bodies",
    is_flag=True,
    help="Run the real bodies and hooks, at your own risk: what they do to files and servers is done.",
)
@click.option(
    "--plot", metavar="FILE", type=click.Path(dir_okay=False), help="Write a picture, an SVG, there."
)
@click.option(
    "--format", "output", type=click.Choice(["text", "json"]), default="text", help="[default: text]"
)
@options.as_json
@click.option("--strict", is_flag=True, help=f"Exit code {NEEDS_YOU} where something needs you.")
@options.places
def simulate(
    targets: Sequence[str],
    app_dir: str,
    *,
    changes: Sequence[PlacedValue],
    only: Sequence[str],
    plot: str | None,
    output: str,
    as_json: bool,
    strict: bool,
    **wishes: Any,
) -> None:
    """Rehearse a day of an application in a second, and say what would become of its slots.

    Schedules, settings, overlap, retries and jitter are the real ones, in virtual time. The bodies of tasks do not run,
    nor do hooks and plugins, and nothing is connected or written: each run only takes as long as --took or --replay
    say, else no time. A task of a scope runs as if this process were the only one.
    """
    wanted = Wishes(**wishes)
    if wanted.run_bodies and (wanted.took or wanted.replay):
        raise click.UsageError(
            "--run-bodies takes the time of the real bodies; leave --took and --replay out"
        )
    with saying(changes), _needing_time_machine():
        from asyncmgr.testing.rehearsal import draw, figures_of, findings_of, rehearse, report, write

        service = load_service(targets, app_dir)
        _refuse_strangers(service, changes)
        keep_only(only, service)
        script = _script(service, wanted)
        configure("warning" if wanted.run_bodies else "critical", "console", sys.stderr)
        with contextlib.redirect_stdout(sys.stderr):
            figures = figures_of(rehearse(service, service.settings, script))
    if plot is not None:
        _write_picture(plot, draw(figures))
    if as_json or output == "json":
        write_json(report(figures))
    else:
        click.echo(write(figures), nl=False)
    if strict and any(finding.needs_you for finding in findings_of(figures)):
        raise click.exceptions.Exit(NEEDS_YOU)


@contextlib.contextmanager
def _needing_time_machine() -> Iterator[None]:
    try:
        yield
    except ImportError as exc:
        raise click.ClickException(str(exc)) from exc


def _refuse_strangers(service: Service, changes: Sequence[PlacedValue]) -> None:
    """Refuse changes of tasks that are not here: in a file they could be another service's, but not here."""
    names = [task.full_name for task in tasks_of(service)]
    known = {fold(name) for name in names}
    for change in changes:
        if change.written[0] == "tasks" and fold(task := change.written[1]) not in known:
            raise click.UsageError(
                f"{change.place}: there is no task {task!r}{suggestion(task, names)}; the tasks are {listed(names)}"
            )


def _script(service: Service, wanted: Wishes) -> Script:
    from asyncmgr.testing.rehearsal import Replay, Script

    replay = None if wanted.replay is None else Replay(wanted.replay)
    began = None if replay is None or replay.began is None else to_datetime(replay.began)
    seed = service.settings.seed if wanted.seed is None else wanted.seed
    return Script(
        wanted.start or began or _midnight(service.settings.timezone),
        wanted.seconds,
        seed or 0,
        wanted.took,
        {} if replay is None else replay.runs([task.full_name for task in tasks_of(service)]),
        wanted.run_bodies,
    )


def _midnight(zone: str) -> datetime:
    now = to_datetime(read_wall()).astimezone(load_zone(zone))
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def _write_picture(place: str, picture: str) -> None:
    try:
        Path(place).write_text(picture, encoding="utf-8")
    except OSError as exc:
        raise click.ClickException(f"the picture cannot be written to {place}: {exc.strerror}") from exc
