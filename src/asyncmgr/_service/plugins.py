"""Loads what other packages offer by entry point. Never raises: a plugin that fails is a result too."""

from __future__ import annotations

import importlib.metadata
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncmgr._common.log import log

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from asyncmgr._service.service import Service

GROUP = "asyncmgr.plugins"


@dataclass(frozen=True, slots=True)
class Plugin:
    """One entry point: what it loaded, or why it did not."""

    name: str
    target: str
    """As the package wrote it: ``module:attribute``."""
    hook: Callable[..., Any] | None = None
    """To be called with the service; `None` = the plugin failed."""
    error: BaseException | None = None
    """What loading it raised; `None` = it is loaded."""


def load_plugins(group: str = GROUP, *, disabled: Container[str] = ()) -> list[Plugin]:
    """Load the entry points of `group` by name, but for the `disabled` ones."""
    try:
        # A package that is on the path twice is found twice.
        found = {(entry.name, entry.value): entry for entry in importlib.metadata.entry_points(group=group)}
    except Exception as exc:
        return [Plugin(group, "installed packages", error=exc)]
    return [_load(found[key]) for key in sorted(found) if key[0] not in disabled]


def _load(entry: importlib.metadata.EntryPoint) -> Plugin:
    try:
        hook = entry.load()
        if not callable(hook):
            raise TypeError(
                f"{entry.value} is a {type(hook).__name__}; a plugin is a callable that takes the service"
            )
    # SystemExit too: no plugin may stop a service, not even by ending the program.
    except (Exception, SystemExit) as exc:
        return Plugin(entry.name, entry.value, error=exc)
    return Plugin(entry.name, entry.value, hook)


def call_plugins(service: Service, *, disabled: Container[str]) -> tuple[str, ...]:
    """Load the plugins and hand each the service; the names of those that failed, which are logged."""
    failed = []
    for plugin in load_plugins(disabled=disabled):
        error = plugin.error or _call(plugin, service)
        if error is not None:
            failed.append(plugin.name)
            log.error("plugin.failed", plugin=plugin.name, target=plugin.target, exc_info=error)
    return tuple(failed)


def _call(plugin: Plugin, service: Service) -> BaseException | None:
    """Hand it the service; what it raised, if it did."""
    assert plugin.hook is not None
    try:
        result = plugin.hook(service)
    except (Exception, SystemExit) as exc:  # SystemExit too: no plugin may stop a service
        return exc
    if inspect.iscoroutine(result):
        result.close()
        return TypeError(f"{plugin.target} is 'async def'; a plugin is a plain function")
    return None
