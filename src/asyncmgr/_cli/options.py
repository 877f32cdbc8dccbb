"""Arguments and options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import tzinfo
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from asyncmgr._common.durations import parse_duration
from asyncmgr._settings.sources import APP_VARIABLE, CONFIG_VARIABLE
from asyncmgr._tasks.schedules import load_zone

Function = TypeVar("Function", bound=Callable[..., Any])


def read_duration(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Read seconds, or a text such as ``1h30m``; not negative."""
    if value is None:
        return None
    try:
        seconds = parse_duration(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None
    if seconds < 0:
        raise click.BadParameter(f"{value!r} is negative; write 0 or more")
    return seconds


def read_zone(_ctx: click.Context, _param: click.Parameter, value: str | None) -> tzinfo | None:
    """Read the name of a time zone that this machine knows."""
    if value is None:
        return None
    try:
        return load_zone(value)
    except ValueError as exc:
        raise click.BadParameter(str(exc)) from None


def examples(*lines: str) -> str:
    """Format the examples at the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def targets(function: Function) -> Function:
    """Add the argument for one target or more, by default those of ``ASYNCMGR_APP``."""
    return click.argument(
        "targets", metavar="TARGET...", nargs=-1, callback=_read_targets, shell_complete=_complete
    )(function)


def or_default(targets: Sequence[str], hint: str = "") -> Sequence[str]:
    """Return the given targets, or else those of ``ASYNCMGR_APP``."""
    found = targets or os.environ.get(APP_VARIABLE, "").split()
    if not found:
        raise click.UsageError(
            f"no TARGET{hint}; write 'module:attribute' or 'path/to/file.py:attribute', or set {APP_VARIABLE}"
        )
    return found


def _read_targets(ctx: click.Context, _param: click.Parameter, value: Sequence[str]) -> Sequence[str]:
    return value if ctx.resilient_parsing else or_default(value)


def places(function: Function) -> Function:
    """Add the options for where modules and settings are."""
    app_dir = click.option(
        "--app-dir",
        type=click.Path(exists=True, file_okay=False),
        default=".",
        help="Directory to import modules from.  [default: the current one]",
    )
    return app_dir(config(function))


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from asyncmgr._cli.completion import complete_target  # only completion in a shell needs it

    return complete_target(ctx, param, incomplete)


def as_json(function: Function) -> Function:
    """Add the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")(function)


def transport(function: Function) -> Function:
    """Add the options for where the services are, and for the settings that are needed to connect."""
    url = click.option(
        "--transport",
        metavar="URL",
        help="Where the services are, as nats://host:4222.  [default: the setting 'transport']",
    )
    return url(config(function))


def store(function: Function) -> Function:
    """Add the option for the store that services announce themselves in."""
    return click.option(
        "--store",
        metavar="URL",
        help="Where hosts are announced, as postgresql://user@host/database.  "
        "[default: the setting 'store'; without it, the transport]",
    )(function)


def _use_config(_ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    # Set as a variable, so that targets which read settings themselves read the same file.
    if value is not None:
        os.environ[CONFIG_VARIABLE] = value


config = click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    callback=_use_config,
    expose_value=False,
    help=f"Settings file in place of asyncmgr.toml; the same as {CONFIG_VARIABLE}.",
)
