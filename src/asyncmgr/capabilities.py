"""What a host offers: capabilities as JSON values, the announcement that carries them, and the manager that has them.

The announcement of one service instance is one value in the store `STORE`, under the key ``SERVICE.HOST`` (each one
token, see `transports.tokens`). It is the whole truth of that host: nodes that are not in it are gone.

::

    {"v": 1, "service": "compute", "host": "n1", "incarnation": 1767225600000000, "sequence": 7, "ttl": 60.0,
     "nodes": [{"node": "", "capabilities": {"memory": 1024}}]}

A reader ignores fields that it does not know, and announcements of an older incarnation or sequence. `ttl` is in
seconds from the arrival, on the reader's own clock. A host that has reported nothing has one node, ``""``, with no
capabilities: its presence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from asyncmgr.errors import InvalidCapabilities
from asyncmgr.manager import Manager
from asyncmgr.task import periodic_task

if TYPE_CHECKING:
    from pydantic import BaseModel

STORE = "asyncmgr-capabilities"
STORE_TTL = 3600.0
"""Seconds: the store's own TTL is only a backstop; readers go by the announcement's."""

NESTING = 64
"""Levels of nesting that a value may have."""

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool"
Node: TypeAlias = tuple[str, Mapping[str, Any]]
"""A node's name and its capabilities."""


class FrozenDict(dict[str, Any]):
    """A dict that nobody can change: one reader's snapshot is everybody's."""

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("capabilities are a snapshot and cannot be changed; make a copy with dict()")

    __setitem__ = __delitem__ = clear = pop = popitem = setdefault = update = __ior__ = _refuse

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))


class FrozenList(list[Any]):
    """A list that nobody can change."""

    def _refuse(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError("capabilities are a snapshot and cannot be changed; make a copy with list()")

    __setitem__ = __delitem__ = append = clear = extend = insert = pop = remove = reverse = sort = _refuse
    __iadd__ = __imul__ = _refuse


def freeze(value: Any) -> Any:
    """The JSON value with nothing in it that could be changed."""
    if isinstance(value, dict):
        return FrozenDict((key, freeze(item)) for key, item in value.items())
    return FrozenList(map(freeze, value)) if isinstance(value, list) else value


def to_json(value: object, path: str, depth: int = 0) -> Any:
    """A copy of `value` in JSON values only; `path` says where it is, for the error.

    Raises
    ------
    InvalidCapabilities
        Something in it is not JSON: another type, a key that is no string, NaN or infinity, `None`, too deep.
    """
    if depth > NESTING:
        raise InvalidCapabilities(f"{path} is nested deeper than {NESTING} levels; flatten it")
    if isinstance(value, bool | str):
        return value if isinstance(value, bool) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _finite(float(value), path)
    if isinstance(value, Mapping):
        return {_key(key, path): to_json(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    raise InvalidCapabilities(
        f"{path} is {value!r} ({type(value).__name__}), which is not a JSON value; "
        "give a mapping, list, string, number or bool, and leave out what is not known"
    )


def _finite(value: float, path: str) -> float:
    if not math.isfinite(value):
        raise InvalidCapabilities(f"{path} is {value}, which JSON cannot say; leave it out or give a number")
    return value


def _key(key: object, path: str) -> str:
    if not isinstance(key, str):
        raise InvalidCapabilities(f"{path} has the key {key!r}; keys of JSON are strings")
    return str(key)


def read_capabilities(capabilities: object) -> tuple[Node, ...]:
    """One mapping or model, or a list of them, as nodes.

    Raises
    ------
    InvalidCapabilities
        Something is not JSON, or two have the same `node`.
    """
    if isinstance(capabilities, Sequence) and not isinstance(capabilities, str | bytes):
        nodes = [_read_node(item, f"capabilities[{index}]") for index, item in enumerate(capabilities)]
    else:
        nodes = [_read_node(capabilities, "capabilities")]
    _refuse_doubles(name for name, _ in nodes)
    return tuple(nodes)


def _read_node(item: Any, path: str) -> Node:
    if hasattr(item, "model_dump"):
        item = item.model_dump(mode="json")
    if not isinstance(item, Mapping):
        raise InvalidCapabilities(f"{path} is {item!r}; give a mapping or a pydantic model")
    values = to_json(item, path)
    node = values.get("node", "")
    if not isinstance(node, str):
        raise InvalidCapabilities(f"{path}.node is {node!r}; a node's name is a string")
    return node, values


def _refuse_doubles(names: Iterable[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidCapabilities(
                f"two capabilities are for the node {name!r}; give each its own name under the key 'node'"
            )
        seen.add(name)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What one service instance says of itself."""

    service: str
    host: str
    incarnation: int
    sequence: int
    ttl: float
    nodes: tuple[Node, ...]

    def encode(self) -> bytes:
        """The value as it is stored."""
        nodes = self.nodes or (("", {}),)
        fields = {
            "v": 1,
            "service": self.service,
            "host": self.host,
            "incarnation": self.incarnation,
            "sequence": self.sequence,
            "ttl": self.ttl,
            "nodes": [{"node": name, "capabilities": values} for name, values in nodes],
        }
        return json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()

    @classmethod
    def decode(cls, value: bytes) -> Announcement:
        """Read a stored value.

        Raises
        ------
        ValueError
            It is not an announcement of version 1.
        """
        try:
            fields = json.loads(value, parse_constant=_refuse_constant)
            if fields["v"] != 1:
                raise ValueError(f"version {fields['v']!r} of an announcement, and 1 is known")
            nodes = tuple(
                (_typed(node["node"], str), freeze(_typed(node["capabilities"], dict)))
                for node in fields["nodes"]
            )
            return cls(
                _typed(fields["service"], str),
                _typed(fields["host"], str),
                _typed(fields["incarnation"], int),
                _typed(fields["sequence"], int),
                _positive(fields["ttl"]),
                nodes,
            )
        except (KeyError, TypeError, RecursionError, AttributeError) as exc:
            raise ValueError(f"not an announcement: {exc!r}") from exc


def _typed(value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no {kind.__name__}")
    return value


def _positive(value: Any) -> float:
    number = float(_typed(value, int | float))  # type: ignore[arg-type] # isinstance takes a union
    if not 0 < number < math.inf:
        raise ValueError(f"a TTL of {value!r}")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class SchedulerDependentManager(Manager):
    """A manager that reports capabilities of its host to whoever chooses between hosts."""

    service_name: str | None = None
    """The service's name on the wire; `None` = the service decides."""

    last_capabilities: tuple[Node, ...] | None = None
    """What was last given to `update_service_capabilities`; `None` = nothing yet, and nothing is sent."""

    def update_service_capabilities(
        self, capabilities: Mapping[str, Any] | BaseModel | Sequence[Mapping[str, Any] | BaseModel]
    ) -> None:
        """Remember what this host offers; under a service a change is sent within a second.

        One mapping or pydantic model, or a list with one for each node, named by the key ``node``. The list is the
        whole truth: nodes that are not in it are withdrawn, and the empty list withdraws all. The values are copied
        now.

        Raises
        ------
        InvalidCapabilities
            Something is not a JSON value (the text has its path), or a node comes twice.
        """
        nodes = read_capabilities(capabilities)
        if self.service is not None:
            _refuse_doubles([name for name, _ in nodes] + self._nodes_of_others())
        changed, self.last_capabilities = nodes != self.last_capabilities, nodes
        if changed and self.service is not None and self.service.announcer is not None:
            self.service.announcer.announce_soon()

    def _nodes_of_others(self) -> list[str]:
        assert self.service is not None
        others = (manager for manager in self.service.managers if manager is not self)
        return [
            name
            for manager in others
            if isinstance(manager, SchedulerDependentManager)
            for name, _ in manager.last_capabilities or ()
        ]

    @periodic_task
    async def publish_service_capabilities(self, context: Any) -> None:
        """Send what is not sent yet. Without a service, or before the first update, this does nothing."""
        if (
            self.service is not None
            and self.service.announcer is not None
            and self.last_capabilities is not None
        ):
            self.service.announcer.announce_changes()


def nodes_of(managers: Iterable[Manager]) -> tuple[Node, ...]:
    """All nodes that these managers report.

    Raises
    ------
    InvalidCapabilities
        Two managers report the same node.
    """
    nodes = [
        node
        for manager in managers
        if isinstance(manager, SchedulerDependentManager)
        for node in manager.last_capabilities or ()
    ]
    _refuse_doubles(name for name, _ in nodes)
    return tuple(nodes)
