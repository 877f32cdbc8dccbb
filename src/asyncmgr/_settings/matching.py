"""Finds out which tables are for tasks and managers of this service, for another service, or for none. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from asyncmgr._settings.problems import invalid_settings, listed, suggestion
from asyncmgr._settings.sources import fold

Value = TypeVar("Value")


@dataclass(frozen=True)
class Foreign:
    """A table that matches no name here. It may be for another service that reads the same file."""

    kind: str
    """``task`` or ``manager``."""
    key: str
    """The key as it was written."""
    place: str

    def __str__(self) -> str:
        return f"{self.place}: there is no {self.kind} {self.key!r} here; it may be another service's"


@dataclass(frozen=True)
class Matches(Generic[Value]):
    """The tables that match the given names, and those that do not."""

    matched: Mapping[str, Value]
    """By the name of the task or manager."""
    foreign: tuple[Foreign, ...] = ()
    """Ignored here; logged at debug level and listed by `check`."""
    doubles: tuple[str, ...] = ()
    """Error texts for keys that match two names."""
    refused: tuple[str, ...] = ()
    """Error texts for keys that match no name and must match one."""

    def raise_problems(self) -> None:
        """Raise one `InvalidSettings` for all doubled and refused keys, if there are any."""
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

    A key that matches no name is taken for another service's. It is an error instead if it is one edit away from a
    name, or if no other setting matches this service.

    Parameters
    ----------
    place_of
        Returns where a key was written.
    others_fit
        Whether another table of the same settings matches this service.
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
    """Whether one of the tables belongs to one of the managers: it has the manager's name, alone or before a dot."""
    known = {fold(name) for name in managers}
    return any(fold(name) in known or fold(name.rpartition(".")[0]) in known for name in tables)


def is_slip(name: str, names: Iterable[str]) -> bool:
    """Whether one of the names is one edit away: one character more, less or different, or two neighbours swapped."""
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
