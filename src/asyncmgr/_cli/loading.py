"""Turns targets into one service that has not been started."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import click

from asyncmgr._cli.construct import construct, load_target
from asyncmgr._cli.error_text import in_short
from asyncmgr._cli.logs import configure
from asyncmgr._cli.tasks import hand_out_settings
from asyncmgr._common.functions import signature_of
from asyncmgr._common.log import log
from asyncmgr._service.manager import Manager
from asyncmgr._service.service import Service
from asyncmgr._settings.model import Settings
from asyncmgr._settings.problems import listed
from asyncmgr.errors import AsyncmgrError, InvalidTarget

Value = TypeVar("Value")
_ACCEPTED = "a target is a manager class, a manager, a Service, or a function that returns one of these"


@dataclass(frozen=True, slots=True)
class Found:
    """One manager, manager class or service that a target names."""

    target: str
    value: Manager | type[Manager] | Service
    is_made: bool = False
    """Whether a factory returned it."""


def load_service(targets: Sequence[str], app_dir: str) -> Service:
    """Load targets to inspect them.

    Keeps what they print on import out of stdout, which is for data, and shows only warnings and errors of the log.
    """
    configure("warning", "console", sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):
        found = [one for target in targets for one in find(target, app_dir)]
        return build_service(found, Settings() if lone_service(found) is None else None)


def find(target: str, app_dir: str) -> list[Found]:
    """Load a target. A factory may return several things.

    Raises
    ------
    InvalidTarget
        The target names nothing, or nothing that can be run.
    """
    value = load_target(target, app_dir)
    if _is_usable(value):
        return [Found(target, value)]
    if isinstance(value, type) or not callable(value):
        raise InvalidTarget(f"{target} is {_kind(value)}; {_ACCEPTED}")
    return [Found(target, one, is_made=True) for one in _call(target, value)]


def build_service(found: Sequence[Found], settings: Settings | None, name: str | None = None) -> Service:
    """Make one service of the targets: the service among them, or a new one with these settings."""
    service = lone_service(found)
    if service is None:
        settings = settings or Settings()
        service = Service(*build_managers(found, settings), name=name, settings=settings)
    hand_out_settings(service)
    return service


def lone_service(found: Sequence[Found]) -> Service | None:
    """Return the service among the targets, which must then be the only target."""
    for one in found:
        if isinstance(one.value, Service):
            if len(found) > 1:
                raise click.UsageError(
                    f"{one.target} is a Service and cannot be run with other targets; give it alone"
                )
            return one.value
    return None


def build_managers(found: Iterable[Found], settings: Settings) -> list[Manager]:
    """Make the managers. Classes get their arguments from the settings."""
    managers = [one for one in found if not isinstance(one.value, Service)]
    arguments = settings.arguments_for([one.value.name for one in managers])
    for one in managers:
        _tell_of_unused(one, arguments, settings)
    return [build_manager(one.value, arguments, settings) for one in managers]  # type: ignore[arg-type] # no Service


def build_manager(
    value: Manager | type[Manager], arguments: dict[str, dict[str, Any]], settings: Settings
) -> Manager:
    """Make one manager of one target."""
    if isinstance(value, Manager):
        return value
    name = value.name
    place_of = partial(settings.place_of, "managers", name)
    return construct(value, arguments.get(name, {}), place=f"[managers.{name}]", place_of=place_of)


def _tell_of_unused(one: Found, arguments: dict[str, dict[str, Any]], settings: Settings) -> None:
    if isinstance(one.value, Manager) and not one.is_made and one.value.name in arguments:
        place = settings.place_of("managers", one.value.name)
        log.warning(
            "arguments.unused", target=one.target, place=place, cure="name the class, not an instance"
        )


# What a target names


def _is_usable(value: object) -> bool:
    return isinstance(value, Manager | Service) or (isinstance(value, type) and issubclass(value, Manager))


def _call(target: str, factory: Any) -> list[Any]:
    if inspect.iscoroutinefunction(factory):
        raise InvalidTarget(f"{target} is an async function; a factory is called without a loop: write 'def'")
    _refuse_parameters(target, factory)
    try:
        made = factory()
    except AsyncmgrError:
        raise
    # SystemExit too: a script's main() must not end the command line without a word.
    except (Exception, SystemExit) as exc:
        raise InvalidTarget(f"the factory {target} raised {in_short(exc)}") from None
    return _check_made(target, made)


def _refuse_parameters(target: str, factory: Any) -> None:
    try:
        parameters = signature_of(factory).parameters.values()
    except ValueError:  # some builtins have no signature
        return
    required = [one.name for one in parameters if one.default is one.empty and one.kind not in _OPTIONAL]
    if required:
        raise InvalidTarget(f"{target} needs {listed(required)}; a factory is called without arguments")


_OPTIONAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _check_made(target: str, made: Any) -> list[Any]:
    several = list(made) if isinstance(made, list | tuple | set | frozenset | Iterator) else [made]
    wrong = [one for one in several if not _is_usable(one)]
    if wrong or not several:
        what = _kind(wrong[0]) if wrong else "nothing"
        raise InvalidTarget(f"the factory {target} returned {what}; return managers, or a Service")
    return several


def _kind(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}, which is no Manager"
    return "None" if value is None else f"an object of type {type(value).__name__}"
