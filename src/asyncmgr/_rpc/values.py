"""Turns Python values into JSON values, and finds secrets that pydantic would hide."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Secret, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

_HIDDEN = b"**********"
"""What pydantic writes in place of a secret."""

_SECRETS = (SecretStr, SecretBytes, Secret)
_ENCODINGS = ("base64", "base64url")


def to_json_values(value: object) -> Any:
    """Convert `value` to JSON values: models (by alias), dates, sets and the like as pydantic writes them.

    Raises
    ------
    ValueError
        `value` has no JSON form.
    """
    try:
        return to_jsonable_python(value, by_alias=True, inf_nan_mode="constants")
    except UnicodeDecodeError as exc:
        raise ValueError(
            f"bytes that are no UTF-8 ({exc.reason} at {exc.start}) are not JSON; send base64, and hint it Base64Bytes"
        ) from None


def check_secrets(value: object, written: bytes) -> None:
    """Refuse `value` if pydantic hid a secret in it when it was `written`: only asterisks would arrive.

    Raises
    ------
    ValueError
        The text names the field.
    """
    # A real text may hold the same asterisks, so the value itself is searched only in this case.
    path = next(_secrets_in(value, ""), None) if _HIDDEN in written else None
    if path is not None:
        raise ValueError(
            f"{path.lstrip('.') or 'the value'} is a secret, which pydantic hides as '**********'; "
            "give get_secret_value() where it is meant to travel"
        )


def _secrets_in(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, _SECRETS):
        yield path
    for name, part in _parts_of(value):
        yield from _secrets_in(part, f"{path}.{name}")


def _parts_of(value: Any) -> Iterator[tuple[object, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        yield from enumerate(value)
    elif isinstance(value, BaseModel):
        yield from {**vars(value), **(value.model_extra or {})}.items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))


def secret_fields(schema: Any) -> list[str]:
    """List the fields of a JSON Schema that hold secrets."""
    return [path for path, part in _walk(schema, "a value") if _is_secret(part)]


def transforms(schema: Any) -> bool:
    """Whether values of this JSON Schema are written in another form than they are read: base64, JSON in a text."""
    return any(
        part.get("format") in _ENCODINGS or "contentMediaType" in part for _, part in _walk(schema, "a value")
    )


def _is_secret(schema: Mapping[str, Any]) -> bool:
    return schema.get("format") == "password" and schema.get("writeOnly") is True


def _walk(schema: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Visit each schema inside a schema, with the path of its field."""
    if isinstance(schema, list):
        for each in schema:
            yield from _walk(each, path)
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for key, part in schema.items():
        if key in ("properties", "$defs", "patternProperties") and isinstance(part, Mapping):
            owner = schema.get("title", path) if key != "$defs" else ""
            for name, each in part.items():
                yield from _walk(each, f"{owner}.{name}".lstrip("."))
        elif key in _SUBSCHEMAS:
            yield from _walk(part, path)


_SUBSCHEMAS = (
    "items",
    "prefixItems",
    "additionalProperties",
    "anyOf",
    "oneOf",
    "allOf",
    "contains",
    "contentSchema",
)
