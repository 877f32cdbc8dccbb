"""Finds whose the tables are that are named after tasks and managers: this service's, another's, nobody's. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from asyncmgr._settings.problems import invalid_settings, listed, suggestion
from asyncmgr._settings.sources import fold

Value = TypeVar("Value")


@dataclass(frozen=True)
class Foreign:
    """A table that fits nothing here, and may be meant for another service that reads the same file."""

    kind: str
    """``task`` or ``manager``."""
    key: str
    """As written."""
    place: str

    def __str__(self) -> str:
        return f"{self.place}: there is no {self.kind} {self.key!r} here; it may be another service's"


@dataclass(frozen=True)
class Matches(Generic[Value]):
    """What was found for the names that were asked about."""

    matched: Mapping[str, Value]
    """By name of the task or the manager."""
    foreign: tuple[Foreign, ...] = ()
    """Left alone; worth a line at debug level, and in `check`."""
    doubles: tuple[str, ...] = ()
    """What fits two names, in words."""
    refused: tuple[str, ...] = ()
    """What fits none, although it has to, in words."""

    def raise_problems(self) -> None:
        """Raise `InvalidSettings` for all that cannot be meant, if there is any."""
        if self.doubles or self.refused:
            raise invalid_settings([*self.doubles, *self.refused])


def match(
    kind: str,
    values: Mapping[str, Value],
    names: Iterable[str],
    *,
    place_of: Callable[[str], str],
    others_fit: bool = False,
) -> Matches[Value]:
    """Match the keys of a table with names; both are compared without case.

    A key that fits no name is another service's, unless it is one edit away from a name, or nothing that the settings
    say fits this service at all.

    Parameters
    ----------
    place_of
        Where a key was written.
    others_fit
        Something else in the same settings fits this service.
    """
    known = _by_fold(names) if values else {}
    fitting = {key: known.get(fold(key), []) for key in values}
    anything_fits = others_fit or any(fitting.values())
    foreign, doubles, refused = [], [], []
    for key, found in fitting.items():
        if len(found) > 1:
            doubles.append(f"{place_of(key)}: {_double(key, found)}")
        elif not found and (not anything_fits or is_slip(fold(key), known)):
            refused.append(f"{place_of(key)}: {_misfit(kind, key, known)}")
        elif not found:
            foreign.append(Foreign(kind, key, place_of(key)))
    matched = {found[0]: values[key] for key, found in fitting.items() if len(found) == 1}
    return Matches(matched, tuple(foreign), tuple(doubles), tuple(refused))


def fits_a_manager(tables: Iterable[str], managers: Iterable[str]) -> bool:
    """Whether one of these names of managers, or of tasks with a manager's name before the dot, is of one of these."""
    known = {fold(name) for name in managers}
    return any(fold(name) in known or fold(name.rpartition(".")[0]) in known for name in tables)


def is_slip(name: str, names: Iterable[str]) -> bool:
    """Whether one of the names is one edit away: a character more, less or another one, or two in the wrong order."""
    return any(_one_edit(name, other) for other in names if abs(len(name) - len(other)) <= 1)


def _one_edit(one: str, other: str) -> bool:
    same = _common_prefix(one, other)
    rest, other_rest = one[same:], other[same:]
    if len(rest) != len(other_rest):
        longer, shorter = (rest, other_rest) if len(rest) > len(other_rest) else (other_rest, rest)
        return longer[1:] == shorter
    return rest[1:] == other_rest[1:] or (rest[:2] == other_rest[1::-1] and rest[2:] == other_rest[2:])


def _common_prefix(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def _by_fold(names: Iterable[str]) -> dict[str, list[str]]:
    known: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        known.setdefault(fold(name), []).append(name)
    return known


def _double(key: str, fitting: list[str]) -> str:
    return f"{key!r} fits {listed(fitting)}: settings do not tell upper from lower case; rename one"


def _misfit(kind: str, key: str, known: Mapping[str, list[str]]) -> str:
    names = [name for group in known.values() for name in group]
    return f"there is no {kind} {key!r}{suggestion(key, names)}; accepted: {listed(names)}"
