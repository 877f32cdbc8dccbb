"""``asyncmgr run``: runs a service in the foreground, with logs, until a signal ends it."""

from __future__ import annotations

import fnmatch
import functools
import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import click

import asyncmgr
from asyncmgr._cli import options
from asyncmgr._cli.completion import complete_task
from asyncmgr._cli.draining import say_what_is_awaited
from asyncmgr._cli.error_text import in_words
from asyncmgr._cli.exit import run_to_the_end
from asyncmgr._cli.loading import build_service, find, lone_service
from asyncmgr._cli.logs import LogFormat, choose_format, configure
from asyncmgr._cli.monitoring import monitor
from asyncmgr._cli.output import write_table
from asyncmgr._cli.setting_changes import changes
from asyncmgr._cli.task_views import (
    HEADERS,
    OVER,
    TaskView,
    off_rows,
    paragraphs,
    rows,
    view_tasks,
)
from asyncmgr._cli.tasks import (
    has_log_level,
    tasks_of,
)
from asyncmgr._common.clock import WallClock
from asyncmgr._common.durations import format_duration
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import printable
from asyncmgr._service.service import Service
from asyncmgr._service.version import own_version
from asyncmgr._settings.model import LogLevel, Settings
from asyncmgr._settings.problems import listed, redacted, suggestion
from asyncmgr.errors import AsyncmgrError
from asyncmgr.events import Event, Outcome, RunFinished, ServiceStarted, ServiceStopping, SettingsReloaded
from asyncmgr.transports import StoreEngine


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of `run`; `None` = the settings decide."""

    app_dir: str
    only: Sequence[str]
    name: str | None
    host: str | None
    transport: str | None
    store: str | None
    drain_timeout: float | None
    log_level: str | None
    log_format: str | None
    http: str | None
    http_token: bool

    def settings(self) -> Settings:
        """Read the settings, with the command line as the strongest place."""
        return Settings(
            host=self.host,
            transport=self.transport,
            store=self.store,
            drain_timeout=self.drain_timeout,
            log_level=self.log_level,
            log_format=self.log_format,
        )


@click.command(
    "run",
    epilog=options.examples(
        "asyncmgr run app.py:Volumes",
        "asyncmgr run shop.jobs:Orders shop.jobs:Mails --only 'Orders.*' --log-level debug",
    ),
)
@options.targets
@click.option(
    "--only",
    metavar="GLOB",
    multiple=True,
    shell_complete=complete_task,
    help="Run only tasks with such a full name; may be repeated.",
)
@click.option("--host", help="Name under which this instance is known.  [default: the machine's]")
@click.option("--name", help="Name of the service.  [default: its first manager's, in lower case]")
@click.option("--transport", metavar="URL", help="What carries messages.  [default: memory://]")
@click.option("--store", metavar="URL", help="What keeps capabilities.  [default: the transport]")
@click.option(
    "--drain-timeout",
    metavar="DURATION",
    callback=options.read_duration,
    help="How long runs in progress may go on at the end, as 30 or 1m30s.  [default: 30s]",
)
@click.option(
    "--log-level", type=click.Choice(get_args(LogLevel), case_sensitive=False), help="[default: info]"
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    help="[default: auto: console on a terminal, else json]",
)
@click.option(
    "--http",
    metavar="HOST:PORT",
    help="Serve health, metrics and a page there; a port alone is of this machine only.  [default: not at all]",
)
@click.option("--http-token", is_flag=True, help="Print a link that gives a browser the right to use verbs.")
@options.places
def run(targets: Sequence[str], **wishes: Any) -> None:
    """Run managers until SIGTERM or Ctrl-C.

    The first signal lets runs in progress end (exit code 0) and says which, the second cancels them (130). SIGHUP
    reads the settings again and says what they changed; on a terminal, which was closed then, it ends the service. A
    table of the tasks and then the log go to stderr; stdout is left to the tasks. At --log-level debug each run is
    logged.
    """
    wanted = Wishes(**wishes)
    settings = wanted.settings()
    log_format = choose_format(settings.log_format, sys.stderr)
    configure(settings.log_level, log_format, sys.stderr)
    explain = functools.partial(_explain, log_format)
    try:
        service = _load(targets, wanted, settings)
        monitor(service, wanted.http, with_token=wanted.http_token, log_format=log_format)
    except AsyncmgrError as exc:
        explain(exc)
        raise click.exceptions.Exit(1) from exc
    _introduce(service, log_format)
    service.dump_where_stuck()
    _Reloads(service, log_format)
    service.add_listener(functools.partial(say_what_is_awaited, service, log_format), ServiceStopping)
    service.add_listener(_settle, ServiceStarted)
    try:
        code = run_to_the_end(functools.partial(asyncmgr.run, service), explain)
    finally:
        gc.unfreeze()
    raise click.exceptions.Exit(code)


def _settle(_: Event) -> None:
    """Exempt what stays for good from garbage collection, which would walk all imports again and again."""
    gc.freeze()


class _Reloads:
    """Logs what new settings changed, and applies their log level; at debug level each run has its line."""

    def __init__(self, service: Service, log_format: LogFormat) -> None:
        self._service = service
        self._format = log_format
        self._settings = service.settings
        self._stop_logging_runs: Callable[[], None] = _nothing
        self._follow_runs()
        service.add_listener(self._change, SettingsReloaded)

    def _change(self, _: Event) -> None:
        before, self._settings = self._settings, self._service.settings
        log.info("settings.changed", changes=changes(before, self._settings) or "none")
        configure(self._service.settings.log_level, self._format, sys.stderr)
        self._follow_runs()

    def _follow_runs(self) -> None:
        self._stop_logging_runs()
        self._stop_logging_runs = _nothing
        if self._service.settings.log_level == "debug":
            log_run = functools.partial(_log_success, self._service)
            self._stop_logging_runs = self._service.add_listener(log_run, RunFinished)


def _nothing() -> None:
    """Do nothing: there is nothing to undo."""


def _explain(log_format: LogFormat, exc: AsyncmgrError) -> None:
    if log_format == "json":
        log.critical("service.failed", error=in_words(exc))
    else:
        click.ClickException(in_words(exc)).show()


# The service


def _load(targets: Sequence[str], wanted: Wishes, settings: Settings) -> Service:
    found = [one for target in targets for one in find(target, wanted.app_dir)]
    if lone_service(found) is not None:
        _refuse_for_service(targets[0], wanted)
    service = build_service(found, settings, wanted.name)
    if wanted.drain_timeout is not None:
        service.settings = service.settings.with_arguments(drain_timeout=wanted.drain_timeout)
    if service.settings.control is None:
        service.settings = service.settings.with_arguments(control=True)
    keep_only(wanted.only, service)
    return service


def _refuse_for_service(target: str, wanted: Wishes) -> None:
    for option in ("name", "host", "transport", "store"):
        if getattr(wanted, option) is not None:
            raise click.UsageError(
                f"{target} is a Service, which has its {option} already; "
                f"leave --{option} out, or give its managers as targets"
            )


def keep_only(patterns: Sequence[str], service: Service) -> None:
    """Switch off the tasks whose full name matches none of the patterns. Without patterns, do nothing."""
    tasks = tasks_of(service)
    names = [task.full_name for task in tasks]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise click.UsageError(
                f"--only {pattern!r} matches no task{suggestion(pattern, names)}; the tasks are {listed(names)}"
            )
    for task in tasks:
        if patterns and not any(fnmatch.fnmatchcase(task.full_name, pattern) for pattern in patterns):
            task.switch_off("not among --only")


# What it tells the user


def _introduce(service: Service, log_format: LogFormat) -> None:
    views = view_tasks(service, WallClock().read())
    transport = transport_of(service)
    store = {} if service.given_store is None else {"store": shown_place(service.given_store)}
    if log_format == "json":
        tasks = [_brief(view) for view in views]
        log.info(
            "service.loaded",
            service=service.name,
            host=service.host,
            transport=transport,
            **store,
            tasks=tasks,
        )
    else:
        _write_banner(service, {"transport": transport, **store}, views)


def _brief(view: TaskView) -> dict[str, str]:
    facts = {"task": view.name, "schedule": view.schedule}
    if view.off:
        return {**facts, "off": view.off}
    return {**facts, "first_slot": OVER if view.first_slot is None else view.first_slot.isoformat()}


def _write_banner(service: Service, places: dict[str, str], views: Sequence[TaskView]) -> None:
    facts = {"service": service.name, "host": service.host, **places}
    if service.settings.start_delay:
        facts["start"] = f"delayed by up to {format_duration(service.settings.start_delay)}"
    said = [f"  {name:<9}  {printable(value)}\n" for name, value in facts.items()]
    click.echo(f"asyncmgr {own_version()}\n{''.join(said)}", err=True)
    if views:
        write_table(HEADERS, rows(views), sys.stderr, dim=off_rows(views), paragraphs=paragraphs(views))
    else:
        click.echo("no tasks: nothing here has @periodic_task", err=True)
    click.echo("\nCtrl-C: runs in progress end, then it stops. Twice: it stops at once.\n", err=True)


def transport_of(service: Service) -> str:
    """Return the transport's URL without secrets, or the kind of an open transport."""
    return shown_place(service.given_transport)


def shown_place(given: str | StoreEngine) -> str:
    """Return a URL without secrets, or the kind of what is open already."""
    return str(redacted(given)) if isinstance(given, str) else f"an open {type(given).__name__}"


def _log_success(service: Service, event: Event) -> None:
    if not isinstance(event, RunFinished) or event.outcome is not Outcome.SUCCEEDED:
        return
    if has_log_level(service, event.task):
        return
    log.debug(
        "task.succeeded",
        task=event.task,
        run_id=event.run_id,
        slot=event.slot.isoformat(),
        trigger=event.trigger,
        host=service.host,
        duration=round(event.duration, 6),
        lateness=event.lateness,
    )
