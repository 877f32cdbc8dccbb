"""``asyncmgr check``: finds everything that is wrong with targets, settings and plugins, without a start."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import click

from asyncmgr._cli import options
from asyncmgr._cli.error_text import facts, in_short
from asyncmgr._cli.loading import build_service, find
from asyncmgr._cli.logs import configure
from asyncmgr._cli.output import lines_of, write_json
from asyncmgr._cli.task_views import view_tasks
from asyncmgr._common.clock import WallClock
from asyncmgr._service.plugins import load_plugins
from asyncmgr._service.service import Service
from asyncmgr._settings.model import Settings
from asyncmgr.errors import AsyncmgrError
from asyncmgr.transports import open_store, open_transport

Value = TypeVar("Value")


@dataclass(slots=True)
class Findings:
    """The problems and warnings of a check; each problem is reported once."""

    problems: list[tuple[str, str]] = field(default_factory=list)
    """Pairs: where, and what."""
    warnings: list[str] = field(default_factory=list)
    """What is allowed but hardly intended."""
    managers: int = 0
    tasks: int = 0
    off: int = 0

    def add(self, where: str, what: str) -> None:
        if what not in [known for _, known in self.problems]:
            self.problems.append((where, what))

    def trying(self, where: str, action: Callable[[], Value]) -> Value | None:
        """Return the result of an action. If it raises, add the problem and return `None`."""
        try:
            return action()
        except AsyncmgrError as exc:
            for fact in facts(exc):
                self.add(where, fact)
        except click.UsageError as exc:
            self.add(where, exc.message)
        except (Exception, SystemExit) as exc:
            self.add(where, in_short(exc))
        return None

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "ok": not self.problems,
            "managers": self.managers,
            "tasks": self.tasks,
            "switched_off": self.off,
            "problems": [{"where": where, "what": what} for where, what in self.problems],
            "warnings": self.warnings,
        }


@click.command(
    "check",
    epilog=options.examples(
        "asyncmgr check app.py:Volumes",
        "asyncmgr check shop.jobs:Orders shop.jobs:Mails --json",
    ),
)
@options.targets
@options.as_json
@options.places
def check(targets: Sequence[str], app_dir: str, *, as_json: bool) -> None:
    """Say everything that is wrong, and start nothing.

    Imports the targets, makes their managers, reads the settings, loads the plugins and hands them the service, and
    looks at the transport's URL. Exit code 1 if anything is wrong. That nothing would run is a warning: exit code 0.
    """
    configure("warning", "console", sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):
        findings = find_problems(targets, app_dir)
    if as_json:
        write_json(findings.as_json())
    else:
        _write(findings)
    raise click.exceptions.Exit(1 if findings.problems else 0)


def find_problems(targets: Sequence[str], app_dir: str) -> Findings:
    """Do everything that a start does, except what reaches outside the process."""
    findings = Findings()
    loaded = [findings.trying(target, partial(find, target, app_dir)) for target in targets]
    settings = findings.trying("settings", Settings)
    if settings is None:
        return findings
    service = None
    if all(one is not None for one in loaded):
        found = [one for several in loaded for one in several or ()]
        service = findings.trying("targets", partial(build_service, found, settings))
    _check_plugins(findings, settings if service is None else service.settings, service)
    if service is not None:
        _check_service(findings, service)
    return findings


def _check_plugins(findings: Findings, settings: Settings, service: Service | None) -> None:
    for plugin in load_plugins(disabled=settings.plugins.disabled):
        where = f"plugin {plugin.name} ({plugin.target})"
        if plugin.error is not None:
            findings.add(where, in_short(plugin.error))
        elif service is not None and plugin.hook is not None:
            findings.trying(where, partial(plugin.hook, service))


def _check_service(findings: Findings, service: Service) -> None:
    transport = service.given_transport
    if isinstance(transport, str):
        # Made and not entered: nothing is connected.
        findings.trying("transport", partial(open_transport, transport, service.settings))
    if isinstance(service.given_store, str):
        findings.trying("store", partial(open_store, service.given_store, service.settings))
    findings.trying("settings", partial(_check_tasks, findings, service))


def _check_tasks(findings: Findings, service: Service) -> None:
    views = view_tasks(service, WallClock().read())
    for view in views:
        findings.trying(view.name, partial(getattr, view, "first_slot"))
    findings.managers, findings.tasks = len(service.managers), len(views)
    findings.off = sum(view.off is not None for view in views)
    if findings.tasks == findings.off:
        findings.warnings.append(_idle(findings))
    names = [view.name for view in views]
    of_managers = service.settings.match_managers([manager.name for manager in service.managers])
    of_tasks = service.settings.match_tasks(names)
    findings.warnings += map(str, [*of_managers.foreign, *of_tasks.foreign])
    of_tasks.raise_problems()


def _idle(findings: Findings) -> str:
    if not findings.tasks:
        return "no tasks: nothing here has @periodic_task, so nothing would ever run"
    return f"all {findings.off} tasks are switched off, so nothing would ever run; 'asyncmgr list' says why"


def _write(findings: Findings) -> None:
    for where, what in findings.problems:
        click.echo(lines_of(f"{where}: {what}"))
    for warning in findings.warnings:
        click.echo(f"warning: {warning}")
    if findings.problems:
        click.echo(_count(len(findings.problems), "problem"))
    else:
        off = f" ({findings.off} switched off)" if findings.off else ""
        click.echo(f"ok: {_count(findings.managers, 'manager')}, {_count(findings.tasks, 'task')}{off}")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
