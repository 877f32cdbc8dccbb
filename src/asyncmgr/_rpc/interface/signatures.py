"""Writes the JSON Schemas of `info` as Python type hints. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_SIMPLE = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
_FORMATS = {
    "date-time": "datetime",
    "date": "date",
    "time": "time",
    "duration": "timedelta",
    "uuid": "UUID",
    "binary": "bytes",
    "path": "Path",
}
_DEPTH = 4
"""Levels of lists and mappings that are written out."""


def method_in_words(method: Mapping[str, Any]) -> str:
    """Write a method of `info`: ``resize(volume: str, gib: int = ...) -> Volume``. ``...`` marks what is optional."""
    result = method.get("result")
    returned = f" -> {type_in_words(result)}" if result else ""
    return f"{method['name']}({', '.join(_parameters(method.get('arguments') or {}))}){returned}"


def models_of(methods: Iterable[Mapping[str, Any]]) -> list[str]:
    """List the models that methods of `info` name, each once, with fields: ``Volume(name: str, gib: int = ...)``."""
    found: dict[str, None] = {}
    for method in methods:
        arguments, result = method.get("arguments") or {}, method.get("result") or {}
        models = [*arguments.get("$defs", {}).items(), *result.get("$defs", {}).items()]
        if "properties" in result:  # the result is itself a model
            models.append((result.get("title", "dict"), result))
        found |= dict.fromkeys(_model_in_words(name, model) for name, model in models)
    return list(found)


def _model_in_words(name: str, model: Mapping[str, Any]) -> str:
    if "properties" in model:
        return f"{name}({', '.join(_parameters(model))})"
    return f"{name} = {type_in_words(model)}"


def _parameters(schema: Mapping[str, Any]) -> Iterator[str]:
    required = schema.get("required", ())
    properties = schema.get("properties", {})
    # Required arguments first, as in Python, although a call names its arguments.
    for name in sorted(properties, key=lambda name: name not in required):
        kind = type_in_words(properties[name])
        hinted = name if kind == "Any" else f"{name}: {kind}"
        default = "" if name in required else "=..." if kind == "Any" else " = ..."
        yield hinted + default
    others = schema.get("additionalProperties", False)
    if others is not False:
        kind = type_in_words(others)
        yield "**others" if kind == "Any" else f"**others: {kind}"


def type_in_words(schema: Any, depth: int = _DEPTH) -> str:
    """Write a schema as ``dict[str, int] | None`` and the like, without bounds."""
    if not isinstance(schema, Mapping) or not depth:
        return "..." if isinstance(schema, Mapping) else "Any" if schema is not False else "Never"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(type_in_words(one, depth) for one in schema[key])) or "Never"
    if "const" in schema or "enum" in schema:
        return " | ".join(map(_literal, schema.get("enum", [schema.get("const")])))
    return _typed(schema, depth)


def _literal(value: Any) -> str:
    return repr(value) if isinstance(value, str) else "None" if value is None else json.dumps(value)


def _typed(schema: Mapping[str, Any], depth: int) -> str:
    match schema.get("type"):
        case "array":
            return _array(schema, depth)
        case "object":
            return _object(schema, depth)
        case "string":
            return _FORMATS.get(str(schema.get("format")), "str")
        case list() as several:
            return " | ".join(type_in_words({**schema, "type": one}, depth) for one in several)
        case kind:
            return _SIMPLE.get(str(kind), "Any")


def _array(schema: Mapping[str, Any], depth: int) -> str:
    if "prefixItems" in schema:
        return f"tuple[{', '.join(type_in_words(one, depth - 1) for one in schema['prefixItems'])}]"
    container = "set" if schema.get("uniqueItems") else "list"
    return f"{container}[{type_in_words(schema.get('items', True), depth - 1)}]"


def _object(schema: Mapping[str, Any], depth: int) -> str:
    if "properties" in schema:
        return str(schema.get("title", "dict"))
    return f"dict[str, {type_in_words(schema.get('additionalProperties', True), depth - 1)}]"
