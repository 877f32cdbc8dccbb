"""Reads settings from all places (arguments, environment, files), and merges them into one tree.

Keeps with each value the place where it was written. Does not know what the values mean.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from asyncmgr._settings.kubernetes import is_of_a_service
from asyncmgr._settings.problems import NAMED_TABLES, invalid_settings
from asyncmgr._tasks.options import REPLACED_BY

PREFIX = "ASYNCMGR_"
NESTED = "__"
CONFIG_VARIABLE = "ASYNCMGR_CONFIG"
"""Names the file to read in place of ``asyncmgr.toml``."""
APP_VARIABLE = "ASYNCMGR_APP"
"""Names the default targets of the command line; not a setting."""

TABLES = {("plugins",), ("nats",), ("lease",), ("monitoring",)}
"""Settings that are tables: their variable is read as JSON."""

_NO_SETTINGS = {CONFIG_VARIABLE, APP_VARIABLE}

Keys = tuple[str, ...]
Layer = Sequence["PlacedValue"]

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class PlacedValue:
    """One value, and where it was written."""

    written: Keys
    """The keys as written, with a task's name as one key: ``("tasks", "Volumes.sync", "spacing")``."""
    value: Any
    """Never a table, except an empty one."""
    place: str
    """For error texts: file, table and key, or the variable, or the argument."""

    @property
    def path(self) -> Keys:
        """The keys in the form that is the same in all places: names of tasks and managers folded."""
        return folded(self.written)


def fold(name: str) -> str:
    """Write `name` as a variable would, in lower case: names that fold alike are one key."""
    return name.casefold().replace(".", NESTED)


def folded(keys: Keys) -> Keys:
    """Fold the name of the task or manager in `keys`."""
    if len(keys) < 2 or keys[0] not in NAMED_TABLES:
        return keys
    return (keys[0], fold(keys[1]), *keys[2:])


def from_arguments(arguments: Mapping[str, Any]) -> list[PlacedValue]:
    """Read the constructor's arguments; `None` = not given."""
    given = {key: value for key, value in arguments.items() if value is not None}
    return [
        PlacedValue(_named(path, leaf), leaf, f"argument {'.'.join(path)}") for path, leaf in _leaves(given)
    ]


def from_environment(variables: Mapping[str, str], fields: Container[str] = ()) -> list[PlacedValue]:
    """Read the variables that begin with ``ASYNCMGR_``, in any case. A variable for a whole table holds JSON.

    Leaves out the variables that Kubernetes sets for a Service, unless one has the name of one of the `fields`.
    """
    ours = (name for name in variables if _is_setting(name, variables[name], fields))
    return [placed for name in ours for placed in _from_variable(name, variables[name])]


def _is_setting(variable: str, text: str, fields: Container[str]) -> bool:
    name = variable.upper()
    if not name.startswith(PREFIX) or name in _NO_SETTINGS:
        return False
    return variable[len(PREFIX) :].lower() in fields or not is_of_a_service(variable, text)


def from_file(file: Path, header: Keys = (), *, required_by: str | None = None) -> list[PlacedValue]:
    """Read the table `header` of a TOML file. A missing file is empty, unless something requires it."""
    table = _read_toml(file, required_by)
    for depth, key in enumerate(header, 1):
        table = table.get(key, {})
        if not isinstance(table, Mapping):
            raise invalid_settings([f"{_in_toml(file, header[:depth])}: is no table; accepted: a table"])
    return [
        PlacedValue(_named(path, leaf), leaf, _in_toml(file, (*header, *path)))
        for path, leaf in _leaves(table)
    ]


def merge(layers: Iterable[Layer]) -> dict[Keys, PlacedValue]:
    """Find the values in force, by path. An earlier layer is stronger.

    Raises
    ------
    InvalidSettings
        A layer sets the same key twice.
    """
    kept: dict[Keys, PlacedValue] = {}
    tables: set[Keys] = set()
    for layer in layers:
        _refuse_doubles(layer)
        for placed in [placed for placed in layer if not _outranked(placed.path, kept, tables)]:
            kept[placed.path] = placed
            tables.update(_above(placed.path))
    return kept


def as_tree(kept: Mapping[Keys, PlacedValue], layers: Iterable[Layer]) -> dict[str, Any]:
    """Nest the merged values. Names are spelled as in the weakest layer: files have upper case, variables may not."""
    spelled = {placed.path[:2]: placed.written[:2] for layer in layers for placed in layer}
    tree: dict[str, Any] = {}
    for path, placed in sorted(kept.items(), key=_depth):
        *tables, key = (*spelled[path[:2]], *path[2:])
        node = tree
        for table in tables:
            node = node.setdefault(table, {})
        node[key] = {} if isinstance(placed.value, Mapping) else placed.value
    return tree


def _depth(item: tuple[Keys, PlacedValue]) -> int:
    return len(item[0])


@dataclass(frozen=True, slots=True)
class Whole:
    """A table that is one value: a stronger place replaces all of it."""

    table: Mapping[Any, Any]


def _is_whole(key: str, value: object) -> bool:
    """Whether this is the option `retry` as a table, and no table of a task of that name, whose options are others."""
    return (
        key.lower() == "retry"
        and isinstance(value, Mapping)
        and not {"attempts", "delay", "max_delay"}.isdisjoint(value)
    )


def _leaves(table: Mapping[Any, Any], path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, value in table.items():
        found = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
        if _is_whole(str(key), found):
            yield (*path, str(key)), Whole(found)
        elif isinstance(found, Mapping) and found:
            yield from _leaves(found, (*path, str(key)))
        else:
            yield (*path, str(key)), found


def _named(path: Keys, leaf: object) -> Keys:
    """Join the name of a task into one key, whichever way it was nested."""
    end = len(path) if isinstance(leaf, Mapping) else len(path) - 1
    if path[0] != "tasks" or end < 2:
        return path
    return ("tasks", ".".join(path[1:end]), *path[end:])


def _from_variable(variable: str, text: str) -> Iterator[PlacedValue]:
    path = _variable_path(variable)
    value = _decoded(variable, text) if _names_table(path) and text.lstrip().startswith("{") else text
    if not isinstance(value, Mapping) or _is_whole(path[-1], value):
        leaf = Whole(value) if isinstance(value, Mapping) else value
        yield PlacedValue(_named(path, leaf), leaf, variable)
        return
    for inner, leaf in _leaves(value):
        yield PlacedValue(_named((*path, *inner), leaf), leaf, f"{variable} {'.'.join(inner)}")


def _variable_path(variable: str) -> Keys:
    name = variable[len(PREFIX) :].lower()
    table, _, rest = name.partition(NESTED)
    if table == "tasks" and NESTED in rest:
        # Split from the right: a task's name may begin and end with underscores.
        task, _, key = rest.rpartition(NESTED)
        return (table, task.replace(NESTED, "."), key)
    return tuple(name.split(NESTED))


def _names_table(path: Keys) -> bool:
    # Deeper values of [managers] stay text: only the type hint of the argument tells a table from a password.
    return path[0] == "tasks" or path in TABLES or (path[0] == "managers" and len(path) <= 2)


def _decoded(variable: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise invalid_settings([f"{variable}: is not JSON: {exc}; accepted: a JSON object"]) from None


def _read_toml(file: Path, required_by: str | None) -> Mapping[str, Any]:
    named = f" ({required_by} names it)" if required_by else ""
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError as exc:
        if required_by is None:
            return {}
        raise invalid_settings([f"{file}{named}: no such file; accepted: a TOML file"]) from exc
    except OSError as exc:
        raise invalid_settings([f"{file}{named}: {exc.strerror}; accepted: a readable TOML file"]) from exc
    except (ValueError, RecursionError) as exc:
        raise invalid_settings([f"{file.absolute()}{named}: {exc}; accepted: a file in TOML"]) from exc


def _in_toml(file: Path, path: Keys) -> str:
    *table, key = (part if _BARE_KEY.fullmatch(part) else json.dumps(part) for part in path)
    return f"{file.absolute()}: " + (f"[{'.'.join(table)}] " if table else "") + key


def _refuse_doubles(layer: Layer) -> None:
    seen: dict[Keys, PlacedValue] = {}
    problems = []
    for placed in sorted(layer, key=lambda placed: len(placed.path)):
        other = next((seen[path] for path in (placed.path, *_above(placed.path)) if path in seen), None)
        if other and not isinstance(other.value, Mapping):
            problems.append(f"{placed.place}: is said by {other.place} too; keep one of them")
        seen[placed.path] = placed
    if problems:
        raise invalid_settings(problems)


def _outranked(path: Keys, kept: Mapping[Keys, PlacedValue], tables: set[Keys]) -> bool:
    if path in kept or path in tables:
        return True
    if any(above in kept and not isinstance(kept[above].value, Mapping) for above in _above(path)):
        return True
    # A task has one schedule: a spacing in a stronger place replaces the cron of a weaker place, and the reverse.
    replacing = REPLACED_BY.get(path[2], ()) if path[0] == "tasks" and len(path) == 3 else ()
    return any((*path[:2], key) in kept for key in replacing)


def _above(path: Keys) -> list[Keys]:
    return [path[:end] for end in range(1, len(path))]


_said_for_all: ContextVar[tuple[PlacedValue, ...]] = ContextVar("asyncmgr settings for all", default=())


@contextmanager
def saying(values: Iterable[PlacedValue]) -> Iterator[None]:
    """Put these values over all places, in all settings that are read inside the block, whoever reads them."""
    token = _said_for_all.set(tuple(values))
    try:
        yield
    finally:
        _said_for_all.reset(token)


def read_layers(explicit: Mapping[str, Any], *, fields: Container[str] = ()) -> list[Layer]:
    """Read all places, the strongest first. `fields` are the names of settings."""
    return [
        _said_for_all.get(),
        from_arguments(explicit),
        from_environment(os.environ, fields),
        _read_config(),
        from_file(Path("pyproject.toml"), ("tool", "asyncmgr")),
    ]


def _read_config() -> Layer:
    named = os.environ.get(CONFIG_VARIABLE)
    if named is None:
        return from_file(Path("asyncmgr.toml"))
    # Not Path.expanduser, which raises for an unknown user: "no such file" says it better.
    file = Path(os.path.expanduser(named))  # noqa: PTH111
    return from_file(file, required_by=CONFIG_VARIABLE)
