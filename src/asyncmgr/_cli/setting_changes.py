"""Lists what changed when settings were read again. Pure; never shows a secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from asyncmgr._settings.model import Settings
from asyncmgr._settings.problems import looks_secret, shown


def changes(before: Settings, after: Settings) -> list[str]:
    """List each key that changed: ``tasks.Volumes.sync.spacing: 5.0 -> 10.0``, with ``none`` for unset."""
    old, new = dict(_leaves(before.model_dump())), dict(_leaves(after.model_dump()))
    keys = [*old, *(key for key in new if key not in old)]
    return [_change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _change(key: tuple[str, ...], old: Any, new: Any) -> str:
    said = "changed (not shown)" if looks_secret(key) else f"{_shown(old, key)} -> {_shown(new, key)}"
    return f"{'.'.join(key)}: {said}"


def _shown(value: Any, key: tuple[str, ...]) -> str:
    return "none" if value is None else shown(value, key)


def _leaves(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, str(key)))
        elif value is not None:
            yield (*path, str(key)), value
