r"""The wire format, all of it, and the JSON in it: written compactly, read with suspicion. Pure.

Whoever speaks this can serve, call and watch in any language. Version 1.

JSON
    UTF-8, one object, at most 1 MiB and 64 levels deep, without NaN, infinities, numbers beyond the range of a
    float, and half characters (``"\ud800"``). A reader ignores fields that it does not know. ``v`` is the version of
    the format; a reader refuses another one than it speaks.

Tokens
    ``SERVICE``, ``HOST`` below are names as tokens: bytes (of UTF-8) outside ``A-Za-z0-9_-`` are written ``=XX`` in
    upper case, the empty name ``=``; at most 128 bytes.

Calls
-----
Instances of a service subscribe to three subjects. Over NATS groups are queue groups.

=================================  ==================================================================
``asyncmgr.rpc.SERVICE.any``       in the group ``servers``: each message reaches one of them
``asyncmgr.rpc.SERVICE.all``       in no group: each message reaches all of them
``asyncmgr.rpc.SERVICE.host.HOST`` in the group ``servers``: for the instance on this host
=================================  ==================================================================

A *request* is published there. One with a subject to reply to (NATS: the reply subject) gets exactly one reply,
unless its caller withdrew it or its deadline passed. ::

    {"v": 1, "id": "9f86d081-17", "method": "resize", "namespace": null, "version": "1.0",
     "arguments": {"volume": "v1", "gib": 20}, "timeout": 59.98, "caller": {"service": "api", "host": "n7"}}

``v``, ``id`` (at most 64 characters, unique to the call) and ``method`` must be there. Without ``namespace`` it is
null, without ``version`` ``"1.0"``, without ``arguments`` ``{}``. ``timeout`` is in seconds from when the request is
received, after which the method is cancelled; without it there is no limit. ``caller`` is told to the method and to
logs, and proves nothing; ``service`` in it may be null. Names have at most 256 characters.

Of the interfaces with this namespace the first one serves whose major version is the same, whose minor is not less
(both as integers), and which has the method. Every service has the namespace ``asyncmgr`` in version ``1.0``, with
the methods ``ping`` and ``info`` (see `asyncmgr._service.builtin_rpc`).

A *reply* holds the result or an error. ::

    {"v": 1, "result": {"gib": 20}}
    {"v": 1, "error": {"kind": "remote_error", "type": "ValueError", "text": "no such volume"}}

``kind`` is one of ``malformed``, ``no_such_method``, ``unsupported_version`` (with ``offered``, a list of versions),
``invalid_arguments``, ``remote_error`` (with ``type``, a class name), ``timeout`` and ``busy``; a caller takes one
that it does not know for an error without a name. ``text`` is for people, at most 4,096 characters.

A *withdrawal* tells that nobody waits any more: the method is cancelled, nothing is replied. It goes to the host's
subject, or to ``all`` where the request went to ``any``. As subjects have no common order it may be read before its
request, which then does not begin; so an ``id`` is never used again. ::

    {"v": 1, "withdraw": "9f86d081-17"}

Capabilities
------------
The store ``asyncmgr-capabilities``, whose keys live 3,600 s, holds one value for each service instance, under
``SERVICE.HOST``. Over NATS it is the JetStream key-value bucket of this name, with one value a key. ::

    {"v": 1, "service": "compute", "host": "n1", "incarnation": 1767225600000000, "sequence": 7, "ttl": 60.0,
     "nodes": [{"node": "", "capabilities": {"memory": 1024}}]}

It is the whole truth of that instance: nodes that are not in it are gone. ``incarnation`` is greater for each later
start of the host (microseconds since 1970 will do), ``sequence`` for each later announcement of a start; both are
integers from 0 to 2^63 - 1. An instance that has reported nothing yet has one node, ``""``, with no capabilities: its
presence; one that reports that it has no nodes has none. Capabilities hold no null; all nodes together take at most
1 MiB less 2 KiB.

``ttl`` is in seconds from the writing. The instance writes again every third of it, give or take 10 %, and deletes
the key at a clean stop. A write names the revision that it replaces: on a conflict the writer reads; what an earlier
incarnation left it replaces, and to a later one that is younger than its ``ttl`` it leaves the name. A reader takes
the snapshot, then the changes; it ages each entry on its own monotonic clock, from the age that the store's stamps
imply, and takes it for stale after half of ``ttl`` and for gone after all of it: expiry in the store is announced by
nothing. It ignores what has an older incarnation or sequence than it has seen.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable
from typing import Any, NoReturn

NESTING = 64
"""Levels of objects and arrays that a message may have."""


def encode_json(value: object) -> bytes:
    """`value` in UTF-8.

    Raises
    ------
    ValueError
        It holds NaN, an infinity, or text that is no Unicode, or is nested deeper than `NESTING` levels.
    TypeError
        It holds something that is not JSON.
    """
    try:
        text = _ENCODER.encode(value)
    except RecursionError:
        raise _too_deep() from None
    if _is_deep(text, value):
        raise _too_deep()
    return text.encode()


def decode_json(data: bytes) -> Any:
    """The value that `data` is, all of it finite, Unicode, and at most `NESTING` levels deep.

    Raises
    ------
    ValueError
        It is not such a value in UTF-8.
    """
    text = str(data, "utf-8")
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise _too_deep() from None
    if _is_deep(text, value):
        raise _too_deep()
    if "\\u" in text:
        encode_json(value)  # an escape may stand for half a character
    return value


def typed(value: Any, *kinds: type) -> Any:
    """`value` itself if it is of one of these types, and no bool unless that is one of them; else a `TypeError`."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise TypeError(f"{reprlib.repr(value)} is no {kinds[-1].__name__}")
    return value


def positive(value: Any) -> float:
    """`value` as a number greater than 0 and finite; else a `TypeError` or `ValueError`."""
    number = float(typed(value, int, float))
    if not 0 < number < math.inf:
        raise ValueError(f"{number} is not positive and finite")
    return number


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {NESTING} levels")


def _is_deep(text: str, value: object) -> bool:
    """Whether `value`, which is written as `text`, has more than `NESTING` levels."""
    if text.count("[") + text.count("{") <= NESTING:
        return False
    level = [value]  # by level and not by recursion, whatever its depth
    for _ in range(NESTING):
        level = [item for whole in level for item in _items(whole)]
    return any(isinstance(item, dict | list | tuple) for item in level)


def _items(value: object) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{reprlib.repr(text)} is beyond the range of a float")
    return number


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse)
