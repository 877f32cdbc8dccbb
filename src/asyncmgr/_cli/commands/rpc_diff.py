"""``asyncmgr rpc diff``: says which version must move, by two descriptions of a service."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from asyncmgr._cli import options
from asyncmgr._cli.output import lines_of, write_json
from asyncmgr._common.safe_text import safe_str
from asyncmgr._rpc.interface.diff import Change, Comparison, Move, compare


@click.group("rpc")
def rpc() -> None:
    """Keep interfaces compatible."""


_file = click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True, path_type=Path)


@rpc.command(
    "diff",
    epilog=options.examples(
        "asyncmgr info compute --json > old.json",
        "asyncmgr rpc diff old.json new.json",
        "asyncmgr info compute --at canary --json | asyncmgr rpc diff old.json -",
    ),
)
@click.argument("old", metavar="OLD.json", type=_file)
@click.argument("new", metavar="NEW.json", type=_file)
@options.as_json
def diff(old: Path, new: Path, *, as_json: bool) -> None:
    """Compare two outputs of 'asyncmgr info SERVICE --json', and say which version number must move.

    A change that callers of the old interface can feel is major, one that only new callers see is minor; what cannot
    be proved compatible is major. Exit code 0 if the declared versions say as much, 1 if one does not, 2 if a file
    cannot be read.
    """
    before, after = _read(old), _read(new)
    try:
        comparisons = compare(before, after)
    except ValueError as exc:
        raise click.UsageError(f"{old} or {new} is {exc}") from None
    if before.get("service") != after.get("service"):
        services = f"{safe_str(before.get('service'))} and {safe_str(after.get('service'))}"
        click.echo(f"note: these are of two services, {services}", err=True)
    if as_json:
        write_json([_as_json(comparison) for comparison in comparisons])
    else:
        _write(comparisons)
    raise click.exceptions.Exit(0 if all(comparison.ok for comparison in comparisons) else 1)


def _read(file: Path) -> dict[str, Any]:
    try:
        with click.open_file(str(file), encoding="utf-8") as stream:
            document = json.load(stream)
    except (OSError, ValueError, RecursionError) as exc:
        raise click.UsageError(
            f"{file} cannot be read as JSON ({exc}); write it with 'asyncmgr info SERVICE --json'"
        ) from None
    if not isinstance(document, dict):
        raise click.UsageError(f"{file} is no JSON object; write it with 'asyncmgr info SERVICE --json'")
    return document


def _write(comparisons: Sequence[Comparison]) -> None:
    for comparison in comparisons:
        click.echo(lines_of(f"{_name(comparison)}: {verdict(comparison)}"))
        for change in comparison.changes:
            click.echo(lines_of(f"  {change.move.word:<5}  {_where(change)}{change.what}"))
    if not comparisons:
        click.echo("no interfaces: nothing here has @rpc", err=True)


def _name(comparison: Comparison) -> str:
    return (
        f"{comparison.manager} ({'no namespace' if comparison.namespace is None else comparison.namespace})"
    )


def _where(change: Change) -> str:
    return f"{change.method}(): " if change.method else ""


def verdict(comparison: Comparison) -> str:
    """Say which version is declared, and which one is needed."""
    old, new = comparison.old, comparison.new
    if old is None:
        return f"ok, new in {new}"
    if new is None:
        return f"{old} is gone, and no version can say that; keep it until nobody calls it"
    if comparison.went_back:
        return f"{old} -> {new} went back; it must be at least {comparison.at_least}{_because(comparison)}"
    if not comparison.ok:
        return f"{old} -> {new} must be at least {comparison.at_least}{_because(comparison)}"
    moved = f"{old} -> {new}" if old != new else new
    return f"ok, {moved}{_because(comparison) or ', nothing changed for callers'}"


def _because(comparison: Comparison) -> str:
    return "" if comparison.needed is Move.NONE else f" ({comparison.needed.word})"


def _as_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "manager": comparison.manager,
        "namespace": comparison.namespace,
        "old": comparison.old,
        "new": comparison.new,
        "needed": comparison.needed.word,
        "at_least": comparison.at_least,
        "ok": comparison.ok,
        "verdict": verdict(comparison),
        "changes": list(_changes_as_json(comparison)),
    }


def _changes_as_json(comparison: Comparison) -> Iterator[dict[str, Any]]:
    for change in comparison.changes:
        yield {"needs": change.move.word, "method": change.method or None, "what": change.what}
