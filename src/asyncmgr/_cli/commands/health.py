"""``asyncmgr health``: whether running services are well, and what needs somebody. Exit code 3 says that one is not."""

from __future__ import annotations

from typing import Any

import click

from asyncmgr._cli import options
from asyncmgr._cli.commands.status import UNHEALTHY
from asyncmgr._cli.doors import Door, Reach, reach
from asyncmgr._cli.output import lines_of, write_json
from asyncmgr._history.words import length


@click.command(
    "health",
    epilog=options.examples(
        "asyncmgr health",
        "asyncmgr health --service compute --json",
        "asyncmgr health --transport nats://host:4222 --all",
    ),
)
@options.as_json
@reach
def health(reach: Reach, *, as_json: bool) -> None:
    """Say whether the services that run are well, and which tasks need somebody.

    Exit code 0: all are well; 3: one is not; 1: none can be asked.
    """
    with reach.doors() as doors:
        told = [(door, door.ask("health")["health"]) for door in doors]
    if as_json:
        write_json([{"service": door.service, "host": door.host, **report} for door, report in told])
    else:
        for door, report in told:
            _show(door, report)
    if not all(report["ok"] for _, report in told):
        raise click.exceptions.Exit(UNHEALTHY)


def _show(door: Door, report: dict[str, Any]) -> None:
    word = "well" if report["ok"] else "not well"
    click.echo(lines_of(f"{door.label}: {word}, {report['reason']}"))
    for need in report["tasks"]:
        click.echo(lines_of(f"  {need['state']:<8}  {need['text']}"))
    counts = ", ".join(f"{count} {state}" for state, count in report["states"].items() if count)
    click.echo(f"  {report['state']}; tasks: {counts or 'none'}")
    for what in ("live", "ready"):
        if not report[what]["ok"]:
            click.echo(lines_of(f"  not {what}: {report[what]['reason']}"))
    if blocked := report.get("blocked"):  # which an older service does not tell
        when = "now" if blocked["ago"] is None else f"{length(blocked['ago'])} ago"
        click.echo(lines_of(f"  {when}: {blocked['text']}"))
    if report["leases"]["held"]:
        click.echo(lines_of(f"  holds {', '.join(report['leases']['held'])}"))
