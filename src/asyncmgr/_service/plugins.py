"""Loads plugins, which other packages offer by entry point. A plugin that fails raises nothing: it is a result too."""

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
    """The entry point as its package wrote it: ``module:attribute``."""
    hook: Callable[..., Any] | None = None
    """The plugin's function, called with the service; `None` = loading failed."""
    error: BaseException | None = None
    """The error that loading raised; `None` = the plugin is loaded."""


def load_plugins(group: str = GROUP, *, disabled: Container[str] = ()) -> list[Plugin]:
    """Load the entry points of `group`, in the order of their names and without the `disabled` ones."""
    try:
        # By key, since a package that is on the path twice is found twice.
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
    """Load the plugins and call each with the service; log those that fail, and return their names."""
    failed = []
    for plugin in load_plugins(disabled=disabled):
        error = plugin.error or _call(plugin, service)
        if error is not None:
            failed.append(plugin.name)
            log.error("plugin.failed", plugin=plugin.name, target=plugin.target, exc_info=error)
    return tuple(failed)


def _call(plugin: Plugin, service: Service) -> BaseException | None:
    """Call the plugin with the service; return the error that it raised, or `None`."""
    assert plugin.hook is not None
    try:
        result = plugin.hook(service)
    except (Exception, SystemExit) as exc:  # SystemExit too: no plugin may stop a service
        return exc
    if inspect.iscoroutine(result):
        result.close()
        return TypeError(f"{plugin.target} is 'async def'; a plugin is a plain function")
    return None
