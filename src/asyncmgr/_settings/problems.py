"""Writes error texts for settings: the place, the fact, what is accepted; never a secret."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from asyncmgr.errors import InvalidSettings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

LISTED = 20
"""Most names that a text lists; it counts the rest."""

NAMED_TABLES = ("tasks", "managers")
"""Tables whose second key is a name that the user chose, so that the key says nothing about the value."""

_SECRET = re.compile(
    r"passw|passphrase|pwd|secret|token|credential|creds|nkey|api_?key|private"
    r"|(^|_)(pass|key|pin|auth|dsn)($|_)",
    re.IGNORECASE,
)
# Up to the last @, since a password may have a slash in it that nobody has escaped.
_USERINFO = re.compile(r"(?<=://)(?:(?!://)\S)*@")
_PARAMETER = re.compile(r"(?<=[?&;])([^=&;#\s]+)=([^&;#\s]*)")

_NO_TABLE = {"model_type", "model_attributes_type", "dict_type", "mapping_type"}

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80


def invalid_settings(problems: Sequence[str]) -> InvalidSettings:
    """Make one error of all problems."""
    if len(problems) == 1:
        return InvalidSettings(problems[0])
    return InvalidSettings("\n  ".join([f"{len(problems)} settings are wrong:", *problems]))


def listed(names: Iterable[str]) -> str:
    """List the names; if there are too many, the first ones and the number of the rest."""
    known = list(names)
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    return (", ".join(known[:LISTED]) or "none") + more


def suggestion(name: str, names: Iterable[str]) -> str:
    """Write `` (did you mean 'x'?)`` with the name closest to `name`, or nothing if none is close."""
    choices = list(names)
    folded = {one.casefold(): one for one in choices}
    close = get_close_matches(name, choices, n=1)
    close = close or [folded[one] for one in get_close_matches(name.casefold(), folded, n=1)]
    return f" (did you mean {close[0]!r}?)" if close else ""


def looks_secret(path: tuple[object, ...]) -> bool:
    """Whether a key in the path says that the value is a secret."""
    keys = path[:1] + path[2:] if path[:1] and path[0] in NAMED_TABLES else path
    return any(isinstance(key, str) and _SECRET.search(key) for key in keys)


def redacted(value: Any, path: tuple[object, ...] = ()) -> Any:
    """Replace by stars the user, password and secret parameters of a URL, and all values whose key looks secret."""
    if looks_secret(path):
        return "***"
    if isinstance(value, Mapping):
        return {key: redacted(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item, path) for item in value]
    return _without_secrets(value) if isinstance(value, str) else value


def _without_secrets(text: str) -> str:
    return _PARAMETER.sub(_without_secret, _USERINFO.sub("***@", text))


def _without_secret(parameter: re.Match[str]) -> str:
    return f"{parameter[1]}=***" if _SECRET.search(parameter[1]) else parameter[0]


def shown(value: object, path: tuple[object, ...]) -> str:
    """Show `value` in an error text: short, and without secrets."""
    if isinstance(value, str | int | float | list | tuple | Mapping | None):
        return _repr.repr(redacted(value, path))
    return f"class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def own_error(error: ErrorDetails) -> Exception | None:
    """Return the `ValueError` that a validator raised; `None` if pydantic's error has another cause."""
    found = error.get("ctx", {}).get("error") if error["type"] == "value_error" else None
    return found if isinstance(found, Exception) else None


def fact(error: ErrorDetails, path: tuple[object, ...]) -> str:
    """Say what pydantic found wrong, in one sentence without secrets."""
    if looks_secret(path):
        return "the value (not shown) is not accepted"
    if own := own_error(error):
        return _without_secrets(str(own))
    if error["type"] in _NO_TABLE:
        return f"{shown(error['input'], path)} is no table"
    reason = error["msg"][:1].lower() + error["msg"][1:]
    return f"{shown(error['input'], path)} is not accepted: {reason}"
