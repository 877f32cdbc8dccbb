"""Capabilities as JSON values that nobody can change, and the nodes of a host that have them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias, TypeVar

from asyncmgr._common.safe_text import error_text, printable, safe_repr, type_name
from asyncmgr.errors import InvalidCapabilities, InvalidName
from asyncmgr.transports._given import VALUE_LIMIT
from asyncmgr.transports._tokens import encode_token
from asyncmgr.wire import encode_json

NESTING = 61
"""Levels of mappings and lists that capabilities may have: with the three around them, 64."""

NODES_LIMIT = VALUE_LIMIT - 1024
"""Bytes that the nodes of one service instance may take as JSON; the rest is for what stands around them."""

Node: TypeAlias = tuple[str, Mapping[str, Any]]
"""A node's name and its capabilities, which nobody can change."""

C = TypeVar("C")

_SHOWN = 60
"""Characters of a wrong value in an error."""

_STEP_SHOWN = 60
"""Characters of a key in the path of an error."""

_SECRET = "**********"
"""What pydantic writes in place of a secret."""


def _refuse(self: Any, *args: object, **kwargs: object) -> NoReturn:
    raise TypeError("capabilities cannot be changed; change a copy, which copy.deepcopy() makes")


def _refuses(*methods: str) -> Callable[[type[C]], type[C]]:
    """Replace methods of a class by one that refuses. In the class body each would need the signature of its base."""

    def decorate(cls: type[C]) -> type[C]:
        for method in methods:
            setattr(cls, method, _refuse)
        return cls

    return decorate


@_refuses("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update")
class FrozenDict(dict[str, Any]):
    """A dict that nobody can change: one reader's snapshot is everybody's. Copies of it are plain dicts."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


@_refuses("__setitem__", "__delitem__", "__iadd__", "__imul__", "append", "clear", "extend", "insert")
@_refuses("pop", "remove", "reverse", "sort")
class FrozenList(list[Any]):
    """A list that nobody can change. Copies of it are plain lists."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


PRESENCE: tuple[Node, ...] = (("", FrozenDict()),)
"""The nodes of a host that has reported nothing yet."""


def to_json(value: object, path: str, depth: int = 1) -> Any:
    """A copy of `value` in JSON values that nobody can change; `path` is its place, for errors.

    Raises
    ------
    InvalidCapabilities
        Something in it is not JSON: another type, a key that is no string, NaN or infinity, an integer beyond the
        range of a float, `None`, too deep. Or a pydantic model holds a secret.
    """
    # The conversion of the type itself is used: a subclass, such as that of an enum, may have another one.
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(str.__str__(value), path)
    if isinstance(value, int):
        return _whole(int.__int__(value), path)
    if isinstance(value, float):
        return _finite(float.__float__(value), path)
    return _composite(_dumped(value, path), path, depth)


def _composite(value: object, path: str, depth: int) -> Any:
    if not isinstance(value, Mapping | list | tuple):
        raise InvalidCapabilities(
            f"{path} is {safe_repr(value, _SHOWN)} ({type_name(value)}), which is not a JSON value; "
            "give a mapping, list, string, number or bool, and leave out what is not known"
        )
    if depth > NESTING:
        raise InvalidCapabilities(f"{path} is nested deeper than {NESTING} levels; flatten it")
    if isinstance(value, Mapping):
        items = [(_key(key, path), item) for key, item in value.items()]
        return FrozenDict((key, to_json(item, _below(path, key), depth + 1)) for key, item in items)
    return FrozenList(to_json(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value))


def _below(path: str, key: str) -> str:
    return f"{path}.{key if key.isidentifier() and len(key) <= _STEP_SHOWN else printable(key, _STEP_SHOWN)}"


def _dumped(value: Any, path: str) -> Any:
    """A pydantic model as what it is made of; anything else as it is."""
    if isinstance(value, dict | list | tuple | type) or not hasattr(value, "model_dump"):
        return value
    try:
        dumped = value.model_dump(mode="json")
    except ValueError as exc:  # what pydantic's own errors are
        raise InvalidCapabilities(
            f"{path} is a {type_name(value)} that is not JSON: {error_text(exc, 200)}; change its fields"
        ) from exc
    if _holds(dumped, _SECRET):
        _refuse_secrets(value.model_dump(), path)
    return dumped


def _holds(value: object, text: str) -> bool:
    if isinstance(value, dict):
        return any(_holds(item, text) for item in value.values())
    if isinstance(value, list):
        return any(_holds(item, text) for item in value)
    return value == text


def _refuse_secrets(value: object, path: str) -> None:
    """Capabilities are read by everybody, so a secret is neither told nor replaced by asterisks."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            _refuse_secrets(item, f"{path}.{key if isinstance(key, str) else safe_repr(key, _STEP_SHOWN)}")
    elif isinstance(value, list | tuple | set | frozenset):
        for index, item in enumerate(value):
            _refuse_secrets(item, f"{path}[{index}]")
    elif hasattr(value, "get_secret_value"):
        raise InvalidCapabilities(
            f"{path} is a {type_name(value)}, and every reader of capabilities could see it; "
            "leave it out, with Field(exclude=True)"
        )


def _text(value: str, path: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidCapabilities(
                f"{path} is {safe_repr(value, _SHOWN)}, which is no Unicode text; decode it with errors='replace'"
            ) from None
    return value


def _whole(value: int, path: str) -> int:
    try:
        float(value)
    except OverflowError:
        raise InvalidCapabilities(
            f"{path} is a number beyond the range of a float; give it as a string"
        ) from None
    return value


def _finite(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise InvalidCapabilities(f"{path} is {value}, which JSON cannot say; leave it out or give a number")
    return value


def _key(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise InvalidCapabilities(
            f"{path} has the key {safe_repr(key, _SHOWN)}; keys of JSON are strings, so write str() around it"
        )
    return _text(str.__str__(key), f"the key of {path}")


def same(one: object, other: object) -> bool:
    """Whether two JSON values are the same. To Python True is 1 and 1 is 1.0, in JSON they differ."""
    return one == other and repr(one) == repr(other)


def read_capabilities(capabilities: object) -> tuple[Node, ...]:
    """Turn one mapping or model, or a list of them, into nodes.

    Raises
    ------
    InvalidCapabilities
        Something is not JSON, or two have the same `node`.
    """
    if isinstance(capabilities, Sequence) and not isinstance(capabilities, str | bytes | bytearray):
        items = [(item, f"capabilities[{index}]") for index, item in enumerate(capabilities)]
    else:
        items = [(capabilities, "capabilities")]
    return check_nodes(_read_node(item, path) for item, path in items)


def _read_node(item: object, path: str) -> Node:
    item = _dumped(item, path)
    if not isinstance(item, Mapping):
        raise InvalidCapabilities(f"{path} is {safe_repr(item, _SHOWN)}; give a mapping or a pydantic model")
    values = to_json(item, path)
    return node_name(values.get("node", ""), path), values


def node_name(name: object, path: str) -> str:
    if not isinstance(name, str):
        raise InvalidCapabilities(f"{path}.node is {safe_repr(name, _SHOWN)}; a node's name is a string")
    try:
        encode_token(name, "node name")
    except InvalidName as exc:
        raise InvalidCapabilities(f"{path}.node: {exc}") from exc
    return name


def check_nodes(nodes: Iterable[Node]) -> tuple[Node, ...]:
    """Return `nodes` if they can be announced together.

    Raises
    ------
    InvalidCapabilities
        Two have one name, or all together are too large for one value of a store.
    """
    nodes = refuse_doubles(nodes)
    if (size := len(encode_json(to_fields(nodes)))) > NODES_LIMIT:
        raise InvalidCapabilities(
            f"capabilities take {size} bytes as JSON, at most {NODES_LIMIT} fit; report less, or where to find it"
        )
    return nodes


def refuse_doubles(nodes: Iterable[Node]) -> tuple[Node, ...]:
    nodes, seen = tuple(nodes), set[str]()
    for name, _ in nodes:
        if name in seen:
            raise InvalidCapabilities(
                f"two capabilities are for the node {safe_repr(name, _SHOWN)}; "
                "give each its own name under the key 'node'"
            )
        seen.add(name)
    return nodes


def to_fields(nodes: Iterable[Node]) -> list[dict[str, Any]]:
    return [{"node": name, "capabilities": values} for name, values in nodes]
