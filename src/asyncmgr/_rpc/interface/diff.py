"""Compares two `info` documents of a service, an old and a new one, and says which version must move. Pure.

Clients of the old document stay, so an interface may change without them like this:

=========================================================  ================  =====================
what changed                                               in arguments      in results
=========================================================  ================  =====================
a method: removed / added                                  major / minor
a field that must be there: added                          major             minor
a field that may be left out: added                        minor             minor
a field: removed                                           major             major
a field: need not be there any more / must be now          minor / major     major / minor
a type or bound: takes less / takes more                   major / minor     minor / major
anything that cannot be told                               major             major
=========================================================  ================  =====================

The fields of arguments are the arguments themselves too. An argument that is removed is refused, or silently ignored,
except where ``**others`` takes it with its old type. Readers of results ignore fields that they do not know. A major
change needs a greater major version, a minor one a greater minor version or major, and no version may go back.

Managers are told apart by namespace and name; one that has another name now is found by its namespace and major
version, as callers find it. Titles, descriptions and defaults are no part of an interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from asyncmgr._rpc.interface.schema_diff import Effect, Shift, compare_schemas
from asyncmgr._rpc.versions import parse_version


class Move(IntEnum):
    """The part of a version that must become greater."""

    NONE = 0
    MINOR = 1
    MAJOR = 2

    @property
    def word(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Change:
    """One difference, and the move that it needs."""

    move: Move
    method: str
    """Empty if the change is to the interface as a whole."""
    what: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences between an old and a new interface, with both versions."""

    manager: str
    namespace: str | None
    old: str | None
    """The old declared version; `None` = the interface is new."""
    new: str | None
    """The new declared version; `None` = the interface is gone."""
    changes: tuple[Change, ...]

    @property
    def needed(self) -> Move:
        return max((change.move for change in self.changes), default=Move.NONE)

    @property
    def at_least(self) -> str | None:
        """The least version that announces the changes; `None` if the interface is gone."""
        if self.old is None or self.new is None:
            return self.new
        major, minor = parse_version(self.old)
        if self.needed is Move.MAJOR:
            return f"{major + 1}.0"
        return f"{major}.{minor + 1}" if self.needed is Move.MINOR else self.old

    @property
    def went_back(self) -> bool:
        """Whether the new declared version is less than the old one."""
        return (
            self.old is not None
            and self.new is not None
            and parse_version(self.new) < parse_version(self.old)
        )

    @property
    def ok(self) -> bool:
        """Whether the new declared version announces all changes."""
        if self.new is None or self.at_least is None:
            return False
        return parse_version(self.new) >= parse_version(self.at_least)


def compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Comparison]:
    """Compare two `info` documents, interface by interface.

    Raises
    ------
    ValueError
        One of the arguments is not such a document.
    """
    before, after = _interfaces(old), _interfaces(new)
    found = [_compare_interfaces(one, other) for one, other in _pairs(before, after)]
    return [comparison for comparison in found if comparison is not None]


# Interfaces


@dataclass(frozen=True, slots=True)
class _Interface:
    manager: str
    namespace: str | None
    version: str
    methods: Mapping[str, Mapping[str, Any]]

    @property
    def major(self) -> int:
        return parse_version(self.version)[0]


def _interfaces(document: Mapping[str, Any]) -> list[_Interface]:
    try:
        return [_read(manager) for manager in document["managers"]]
    except (LookupError, TypeError, AttributeError, ValueError) as exc:
        reason = f"{type(exc).__name__}: {exc}"
        raise ValueError(
            f"not what a service tells of itself ({reason}); write it with 'asyncmgr info SERVICE --json'"
        ) from None


def _read(manager: Mapping[str, Any]) -> _Interface:
    methods = {str(method["name"]): method for method in manager["methods"]}
    for method in methods.values():
        if not isinstance(method["arguments"], Mapping):
            raise TypeError(f"the arguments of {method['name']} are no schema")
        method["result"]
    namespace = manager["namespace"]
    interface = _Interface(
        str(manager["name"]), None if namespace is None else str(namespace), manager["version"], methods
    )
    parse_version(interface.version)
    return interface


def _pairs(
    before: Sequence[_Interface], after: Sequence[_Interface]
) -> Iterator[tuple[_Interface | None, _Interface | None]]:
    """Pair each old interface with its successor; then list the new ones."""
    left = list(after)
    successors: dict[int, _Interface] = {}
    for is_successor in (_is_same_manager, _is_same_major, _is_same_namespace):
        for number, old in enumerate(before):
            found = next((new for new in left if number not in successors and is_successor(old, new)), None)
            if found is not None:
                successors[number] = found
                left.remove(found)
    yield from ((old, successors.get(number)) for number, old in enumerate(before))
    yield from ((None, new) for new in left)


def _is_same_manager(old: _Interface, new: _Interface) -> bool:
    return (old.namespace, old.manager) == (new.namespace, new.manager)


def _is_same_major(old: _Interface, new: _Interface) -> bool:
    return (old.namespace, old.major) == (new.namespace, new.major)


def _is_same_namespace(old: _Interface, new: _Interface) -> bool:
    return old.namespace == new.namespace


def _compare_interfaces(old: _Interface | None, new: _Interface | None) -> Comparison | None:
    there = new or old
    if there is None or not ((old and old.methods) or (new and new.methods)):
        return None  # managers without methods have no callers
    return Comparison(
        there.manager,
        there.namespace,
        None if old is None else old.version,
        None if new is None else new.version,
        tuple(_changes(old, new)),
    )


def _changes(old: _Interface | None, new: _Interface | None) -> Iterator[Change]:
    if old is None:
        return
    if new is None:
        yield Change(Move.MAJOR, "", "the interface is removed: its callers are refused")
        return
    for name in old.methods.keys() - new.methods.keys():
        yield Change(Move.MAJOR, name, "removed")
    for name in old.methods.keys() & new.methods.keys():
        yield from _method_changes(name, old.methods[name], new.methods[name])
    for name in new.methods.keys() - old.methods.keys():
        yield Change(Move.MINOR, name, "added")


# Methods


def _method_changes(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    arguments = compare_schemas(old["arguments"], new["arguments"], sent=True, path="")
    results = compare_schemas(old["result"], new["result"], sent=False, path="result")
    yield from _sorted(Change(_move(shift, sent=True), name, shift.what) for shift in arguments)
    yield from _sorted(Change(_move(shift, sent=False), name, shift.what) for shift in results)


def _move(shift: Shift, *, sent: bool) -> Move:
    if shift.effect is Effect.OTHER:
        return Move.MAJOR
    if shift.effect is Effect.ADDED:
        return Move.MINOR
    harms = Effect.NARROWER if sent else Effect.WIDER
    return Move.MAJOR if shift.effect is harms else Move.MINOR


def _sorted(changes: Iterable[Change]) -> list[Change]:
    return sorted(dict.fromkeys(changes), key=lambda change: -change.move)
