"""Says whether one JSON Schema takes less or more than another, by the keywords that pydantic writes. Pure.

A difference that it cannot judge is `Effect.OTHER`. It reports nothing only if both schemas take the same values.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from asyncmgr._rpc.interface.signatures import type_in_words


class Effect(Enum):
    """How the values that the new schema takes differ from those of the old one."""

    NARROWER = "takes less"
    WIDER = "takes more"
    ADDED = "has a field more, which may be left out by who sends it, and ignored by who reads it"
    OTHER = "takes other values, or it cannot be told"


@dataclass(frozen=True, slots=True)
class Shift:
    """One difference between two schemas."""

    effect: Effect
    what: str
    """The difference in words, with its path."""


Schema: TypeAlias = Any
Shifts: TypeAlias = Iterator[Shift]
Branch: TypeAlias = Mapping[str, Any]
"""A schema of one type or value: no reference and no choice at its top."""

_NOTES = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$defs"}
"""Keywords that do not change which values a schema takes."""
_CHOICES = ("anyOf", "oneOf")
_MAPS = ("properties", "patternProperties")
_PARTS = {"items", "prefixItems", "properties", "required", "additionalProperties"}
"""Keywords whose contents are compared."""
_LOWER = ("minLength", "minItems", "minProperties")
_UPPER = ("maxLength", "maxItems", "maxProperties")
_LIMITS = ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum")
_KIND = "type"
_NAME = "$name"
"""A key added to a branch: the name of its definition."""


def compare_schemas(old: Schema, new: Schema, *, sent: bool, path: str) -> list[Shift]:
    """List the differences between two schemas.

    `sent`: values go to the owner of the schema, who may refuse them; else values come from the owner. `path` names
    the schema as a whole; it is empty for the arguments of a method.
    """
    return list(_Comparer(old, new, sent=sent).compare(old, new, path))


class _Comparer:
    """Compares two schemas with the definitions of their documents."""

    def __init__(self, old: Schema, new: Schema, *, sent: bool) -> None:
        self._old, self._new = _Document(old), _Document(new)
        self._sent = sent
        self._under_way: set[tuple[str, str]] = set()
        """Pairs that are being compared. A type may hold itself; the outer comparison reports its differences."""

    def compare(self, old: Schema, new: Schema, path: str) -> Shifts:
        pair = json.dumps(old, sort_keys=True), json.dumps(new, sort_keys=True)
        if pair in self._under_way or self._old.inlined(old) == self._new.inlined(new):
            return
        self._under_way.add(pair)
        yield from self._compare_choices(self._old.branches(old), self._new.branches(new), path)
        self._under_way.discard(pair)

    def _compare_choices(self, old: list[Branch], new: list[Branch], path: str) -> Shifts:
        pairs = _pairs(old, new)
        for one, other in pairs:
            yield from self._compare_branches(one, other, path)
        lost = [one for one in old if not _is_in(one, (pair[0] for pair in pairs)) and not _fits(one, new)]
        gained = [one for one in new if not _is_in(one, (pair[1] for pair in pairs)) and not _fits(one, old)]
        if lost or gained:
            effect = Effect.OTHER if lost and gained else Effect.NARROWER if lost else Effect.WIDER
            yield Shift(effect, f"{_whole(path)} is {_words(new)}, was {_words(old)}")

    def _compare_branches(self, old: Branch, new: Branch, path: str) -> Shifts:
        """Compare two branches that were paired."""
        if old.get(_KIND) != new.get(_KIND):
            effect = Effect.WIDER if new.get(_KIND) == "number" else Effect.NARROWER
            yield Shift(effect, f"{_whole(path)} is {_words([new])}, was {_words([old])}")
        yield from _compare_bounds(old, new, path)
        yield from self._compare_rest(old, new, path)
        if old.get(_KIND) == "array":
            yield from self._compare_arrays(old, new, path)
        elif old.get(_KIND) == "object":
            yield from self._compare_objects(old, new, path)

    def _compare_rest(self, old: Branch, new: Branch, path: str) -> Shifts:
        """Compare the other keywords. Each one refuses values, so one keyword more takes less."""
        known = {*_NOTES, *_PARTS, *_LOWER, *_UPPER, *_LIMITS, _KIND, _NAME}
        for key in sorted((old.keys() | new.keys()) - known):
            before, after = self._old.inlined_value(key, old), self._new.inlined_value(key, new)
            if before != after:
                effect = (
                    Effect.NARROWER if before is None else Effect.WIDER if after is None else Effect.OTHER
                )
                yield Shift(effect, f"{_whole(path)}: {key} is {_shown(after)}, was {_shown(before)}")

    def _compare_arrays(self, old: Branch, new: Branch, path: str) -> Shifts:
        yield from self.compare(old.get("items", True), new.get("items", True), f"{path}[]")
        before, after = old.get("prefixItems", []), new.get("prefixItems", [])
        if len(before) != len(after):
            yield Shift(Effect.OTHER, f"{_whole(path)} has {len(after)} places, had {len(before)}")
            return
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from self.compare(one, other, f"{path}[{number}]")

    # Objects

    def _compare_objects(self, old: Branch, new: Branch, path: str) -> Shifts:
        before, after = old.get("properties", {}), new.get("properties", {})
        needed_before, needed_after = set(old.get("required", ())), set(new.get("required", ()))
        for name in before:
            what = _field(path, name)
            if name not in after:
                yield from self._compare_removed(before[name], new, what)
                continue
            if (name in needed_before) != (name in needed_after):
                if name in needed_after:
                    yield Shift(Effect.NARROWER, f"{what} must be there")
                else:
                    yield Shift(Effect.WIDER, f"{what} may be left out")
            yield from self.compare(before[name], after[name], what)
        for name in after.keys() - before.keys():
            yield from self._compare_added(old, after[name], _field(path, name), name in needed_after)
        yield from self._compare_others(old, new, path)

    def _compare_removed(self, field: Schema, new: Branch, what: str) -> Shifts:
        others = new.get("additionalProperties", False)
        if self._sent and others is not False:
            yield from self.compare(field, others, what)
        else:
            yield Shift(Effect.OTHER, f"{what} is removed")

    def _compare_added(self, old: Branch, field: Schema, what: str, is_needed: bool) -> Shifts:
        if is_needed:
            yield Shift(Effect.NARROWER, f"{what} is added and must be there")
            return
        yield Shift(Effect.ADDED, f"{what} is added")
        others = old.get("additionalProperties", False)
        if self._sent and others is not False:
            yield from self.compare(others, field, what)

    def _compare_others(self, old: Branch, new: Branch, path: str) -> Shifts:
        """Compare what the schemas say of unnamed fields; if nothing, such fields are ignored or never come."""
        before, after = old.get("additionalProperties"), new.get("additionalProperties")
        if not self._sent:
            before, after = before or None, after or None
        what = "other arguments" if not path else f"other fields of {path}"
        if before == after:
            return
        if before not in (None, False) and after not in (None, False):
            yield from self.compare(before, after, f"{path}{{}}" if path else "other argument")
        elif after is False or (after is None and before is not False):
            effect = Effect.NARROWER if self._sent else Effect.OTHER
            yield Shift(effect, f"{what} are {'refused' if after is False else 'not taken any more'}")
        elif self._sent:
            # The old schema ignored these fields, so they may hold anything.
            is_safe = before is False or after in (True, {})
            yield Shift(Effect.WIDER if is_safe else Effect.OTHER, f"{what} are taken")
        else:
            yield Shift(Effect.ADDED, f"{what} are taken")


# Documents


class _Document:
    """A schema with the definitions that it refers to."""

    def __init__(self, schema: Schema) -> None:
        self._definitions: Mapping[str, Schema] = (
            schema.get("$defs", {}) if isinstance(schema, Mapping) else {}
        )

    def branches(self, schema: Schema, seen: tuple[str, ...] = ()) -> list[Branch]:
        """List the branches that the schema allows; an empty list if it takes no value."""
        if not isinstance(schema, Mapping):
            return [] if schema is False else [{}]
        own = {key: value for key, value in schema.items() if key not in _NOTES}
        if "$ref" in own:
            return self._referred(own, seen)
        several = [one for key in _CHOICES for one in own.get(key, ())]
        if several and own.keys() <= {*_CHOICES, "discriminator"}:
            return [branch for one in several for branch in self.branches(one, seen)]
        if set(own) == {"allOf"} and len(own["allOf"]) == 1:
            return self.branches(own["allOf"][0], seen)
        if "const" in own or "enum" in own:
            return [{"const": value} for value in own.get("enum", [own.get("const")])]
        if isinstance(own.get(_KIND), list):
            return [{**own, _KIND: kind} for kind in own[_KIND]]
        return [own]

    def _referred(self, own: Branch, seen: tuple[str, ...]) -> list[Branch]:
        name = str(own["$ref"]).rpartition("/")[2]
        if set(own) != {"$ref"} or name in seen or name not in self._definitions:
            return [own]
        found = self.branches(self._definitions[name], (*seen, name))
        return [{**branch, _NAME: name} if branch.get(_KIND) == "object" else branch for branch in found]

    def inlined(self, schema: Schema, enclosing: tuple[str, ...] = ()) -> Any:
        """Write the schema in a form that is equal for equal meaning: without notes, with references replaced."""
        if not isinstance(schema, Mapping):
            return {} if schema is True else schema
        name = str(schema.get("$ref", "")).rpartition("/")[2]
        if name in enclosing:
            return {"again": enclosing[::-1].index(name)}
        if name in self._definitions and schema.keys() - _NOTES == {"$ref"}:
            return self.inlined(self._definitions[name], (*enclosing, name))
        keys = schema.keys() - _NOTES - {_NAME}
        return {key: self.inlined_value(key, schema, enclosing) for key in keys}

    def inlined_value(self, key: str, schema: Mapping[str, Any], enclosing: tuple[str, ...] = ()) -> Any:
        value = schema.get(key)
        if key in _MAPS and isinstance(value, Mapping):
            return {name: self.inlined(field, enclosing) for name, field in value.items()}
        if key in ("required", "enum") and isinstance(value, list):
            return sorted(value, key=_shown)
        if key in ("const", "discriminator") or not isinstance(value, Mapping | list):
            return _typed(value)
        return (
            [self.inlined(one, enclosing) for one in value]
            if isinstance(value, list)
            else self.inlined(value, enclosing)
        )


def _typed(value: Any) -> Any:
    """Make 1 differ from True, which Python takes for equal."""
    return ("bool", value) if isinstance(value, bool) else value


# Branches


def _pairs(old: Sequence[Branch], new: Sequence[Branch]) -> list[tuple[Branch, Branch]]:
    """Pair the branches to compare: first by name, then those that are alone in their type on both sides."""
    pairs: list[tuple[Branch, Branch]] = []
    for key in (_name_of, _kind_of, _number_of):
        left_old = [one for one in old if not _is_in(one, (pair[0] for pair in pairs))]
        left_new = [one for one in new if not _is_in(one, (pair[1] for pair in pairs))]
        for kind in dict.fromkeys(filter(None, map(key, left_old))):
            ones = [one for one in left_old if key(one) == kind]
            others = [one for one in left_new if key(one) == kind]
            if len(ones) == len(others) == 1:
                pairs.append((ones[0], others[0]))
    return pairs


def _is_in(branch: Branch, branches: Iterator[Branch]) -> bool:
    return any(branch is one for one in branches)


def _name_of(branch: Branch) -> str | None:
    return branch.get(_NAME)


def _kind_of(branch: Branch) -> str | None:
    return branch.get(_KIND)


def _number_of(branch: Branch) -> str | None:
    return "number" if branch.get(_KIND) in ("integer", "number") else None


def _fits(branch: Branch, others: Sequence[Branch]) -> bool:
    """Whether one of the others certainly takes every value that the branch takes."""
    return any(_takes(other, branch) for other in others)


def _takes(wide: Branch, narrow: Branch) -> bool:
    if not wide:
        return True
    if "const" in narrow:
        kinds = _kinds_of_value(narrow["const"])
        is_same = "const" in wide and _shown(wide["const"]) == _shown(narrow["const"])
        return is_same or (wide.get(_KIND) in kinds and set(wide) == {_KIND})
    return bool(_KIND in narrow and dict(wide) == {_KIND: narrow[_KIND]})


def _kinds_of_value(value: Any) -> tuple[str, ...]:
    match value:
        case bool():
            return ("boolean",)
        case int():
            return ("integer", "number")
        case float():
            return ("number",)
        case str():
            return ("string",)
    return ("null",) if value is None else ()


# Bounds


def _compare_bounds(old: Branch, new: Branch, path: str) -> Shifts:
    for key in _LOWER:
        yield from _moved(key, old.get(key, 0), new.get(key, 0), path)
    for key in _UPPER:
        yield from _moved(key, -old.get(key, math.inf), -new.get(key, math.inf), path)
    for key, sign in (("minimum", 1), ("maximum", -1)):
        yield from _moved(key, _limit(old, key, sign), _limit(new, key, sign), path)


def _limit(branch: Branch, key: str, sign: int) -> tuple[float, bool]:
    """Return the bound times `sign`, and whether it is excluded. The greater one takes less."""
    strict = branch.get(f"exclusive{key.capitalize()}")
    edges = [(sign * branch[key], False)] if key in branch else []
    if strict is not None:
        whole = branch.get(_KIND) == "integer" and isinstance(strict, int)
        edges.append((sign * strict + 1, False) if whole else (sign * strict, True))
    return max(edges, default=(-math.inf, False))


def _moved(key: str, before: Any, after: Any, path: str) -> Shifts:
    if before != after:
        effect = Effect.NARROWER if after > before else Effect.WIDER
        yield Shift(effect, f"{_whole(path)}: {key} is {_edge(after)}, was {_edge(before)}")


def _edge(edge: Any) -> str:
    value, is_excluded = edge if isinstance(edge, tuple) else (edge, False)
    if math.isinf(value):
        return "none"
    return f"{abs(value):g}{' (excluded)' if is_excluded else ''}"


# Words


def _field(path: str, name: str) -> str:
    return f"{path}.{name}" if path else f"argument {name}"


def _whole(path: str) -> str:
    return path or "arguments"


def _words(branches: Sequence[Branch]) -> str:
    return " | ".join(dict.fromkeys(str(one.get(_NAME) or type_in_words(one)) for one in branches)) or "Never"


def _shown(value: Any) -> str:
    return "none" if value is None else json.dumps(value, sort_keys=True, default=str)
