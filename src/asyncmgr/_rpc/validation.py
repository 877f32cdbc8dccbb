"""Validates arguments and results of `@rpc` methods by their type hints. Imported when a service serves them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from copy import copy
from functools import cached_property, lru_cache
from typing import Any, NotRequired, Required, get_args, get_origin

from pydantic import ConfigDict, GetCoreSchemaHandler, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema
from typing_extensions import TypedDict, Unpack, get_type_hints, is_typeddict

from asyncmgr._common.functions import signature_of
from asyncmgr._common.safe_text import printable, safe_repr, safe_str
from asyncmgr._rpc.generics import bind
from asyncmgr._rpc.values import secret_fields, to_json_values, transforms
from asyncmgr.errors import InvalidArguments, InvalidRpcMethod, RpcError

_LISTED = 5
"""Problems with the arguments that an error lists."""

_NO_ARGUMENTS = b'{"arguments":{}}'


class Method:
    """One bound method, with the checks that its type hints ask for.

    Raises
    ------
    InvalidRpcMethod
        A hint names nothing, or a type that cannot be validated or cannot travel.
    """

    def __init__(self, function: Callable[..., Awaitable[Any]], name: str) -> None:
        self.function: Callable[..., Awaitable[Any]] = function
        self.name: str = name
        """The full name, ``manager.method``."""
        hints = bind(function, name)
        self._receiver = _receiver_of(function)
        try:
            self._parameters = _Parameters(signature_of(function).parameters.values(), hints)
            self._requests: TypeAdapter[Any] = TypeAdapter(
                _object("Request", arguments=self._parameters.kind)
            )
            self._result: TypeAdapter[Any] | None = _adapter_of(hints.get("return", Any))
        except (PydanticUserError, TypeError) as exc:
            raise InvalidRpcMethod(
                f"{name} has a hint that cannot be validated: {_first_line(exc)}; use types that pydantic knows"
            ) from exc
        self._validates_result = self._result is None or not transforms(
            _schema_of(self._result, "validation")
        )
        if secrets := secret_fields(self._result_schema):
            raise InvalidRpcMethod(
                f"{name} returns {', '.join(secrets)}, which pydantic hides as '**********'; return a str where "
                "a secret is meant to travel"
            )

    def bound_to(self, function: Callable[..., Awaitable[Any]]) -> Method:
        """Return the same checks for the same method of another object."""
        other = copy(self)
        other.function = function
        return other

    def read(self, arguments: Mapping[str, Any], request: bytes) -> dict[str, Any]:
        """Validate the arguments of `request`, and return them as the method takes them.

        `arguments` are the same arguments, already decoded.

        Raises
        ------
        InvalidArguments
            The arguments are not those of the method.
        """
        self._check_names(arguments)
        try:
            # Validate the JSON text, not the decoded values: strict types take JSON's form of a value only from text.
            read: dict[str, Any] = self._requests.validate_json(request if arguments else _NO_ARGUMENTS)
        except ValidationError as exc:
            raise InvalidArguments(f"{self.name}: {_problems(exc)}") from None
        return read["arguments"]  # type: ignore[no-any-return]

    def _check_names(self, arguments: Mapping[str, Any]) -> None:
        unknown = [name for name in arguments if name not in self._parameters.names]
        refused = (
            [name for name in unknown if name in self._receiver] if self._parameters.is_open else unknown
        )
        if refused:
            raise InvalidArguments(
                f"{self.name} has no argument {', '.join(map(safe_repr, refused[:_LISTED]))}; it takes {self._taken()}"
            )

    def _taken(self) -> str:
        return ", ".join(sorted(self._parameters.names)) or "none"

    def write(self, result: object) -> Any:
        """Turn the result into JSON values; fields have their aliases as names.

        Raises
        ------
        TypeError, ValueError
            The result is not what the hints promise, or is not JSON.
        """
        if self._result is None:
            return to_json_values(result)
        if not self._validates_result:
            return self._result.dump_python(result, mode="json", by_alias=True, warnings="error")
        try:
            return self._result.dump_python(self._result.validate_python(result), mode="json", by_alias=True)
        except ValidationError as exc:
            raise TypeError(f"{self.name} returned {safe_repr(result, 60)}: {_problems(exc, 0)}") from None

    def describe(self) -> dict[str, Any]:
        """Describe the method: JSON Schemas of `arguments` and `result`, and the first line of its docstring."""
        return {
            "summary": (inspect.getdoc(self.function) or "").partition("\n")[0],
            "arguments": self._parameters.describe(),
            "result": self._result_schema,
        }

    @cached_property
    def _result_schema(self) -> dict[str, Any]:
        return {} if self._result is None else _schema_of(self._result, "serialization")


class _Parameters:
    """The parameters of a method: their names, and one type for all arguments together."""

    def __init__(self, parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]) -> None:
        fields: dict[str, Any] = {}
        self._others: Any = None
        for parameter in parameters:
            hint = hints.get(parameter.name, Any)
            if parameter.kind is not parameter.VAR_KEYWORD:
                fields[parameter.name] = _field(parameter, hint)
            elif get_origin(hint) is Unpack and is_typeddict(_unpacked(hint)):
                fields |= _fields_of(_unpacked(hint))
            else:
                self._others = hint
        self.names: frozenset[str] = frozenset(fields)
        self.is_open: bool = self._others is not None
        """Whether the method takes arguments of other names too."""
        self._named: Any = _object("Arguments", **fields)
        self.kind: Any = _with_others(self._named, self._others) if self.is_open else self._named

    def describe(self) -> dict[str, Any]:
        """Write the JSON Schema of the arguments."""
        schema = _schema_of(TypeAdapter(self._named), "validation")
        others = _schema_of(TypeAdapter(dict[str, self._others]), "validation") if self.is_open else {}  # type: ignore[name-defined]
        schema["additionalProperties"] = others.get("additionalProperties", self.is_open)
        if "$defs" in others:
            schema["$defs"] = {**others["$defs"], **schema.get("$defs", {})}
        return schema


def _object(title: str, /, **fields: Any) -> Any:
    """Make a typed dict of fields that are known only at run time."""
    made: Any = TypedDict
    return made(title, fields)


def _field(parameter: inspect.Parameter, hint: Any) -> Any:
    """Mark a parameter that has a default as optional, so that the method's own default applies."""
    _check_alias(parameter.name, hint)
    return Required[hint] if parameter.default is parameter.empty else NotRequired[hint]


def _check_alias(name: str, hint: Any) -> None:
    fields = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, FieldInfo)]
    if any(field.validation_alias is not None for field in fields):
        raise TypeError(f"{name!r} has an alias, though arguments are known by the names of the parameters")


def _unpacked(hint: Any) -> Any:
    kind = get_args(hint)[0]
    return get_origin(kind) or kind


def _fields_of(kind: Any) -> dict[str, Any]:
    """Read the fields of ``**options: Unpack[Options]``; each one is an argument."""
    hints = get_type_hints(kind, include_extras=True)
    for name, hint in hints.items():
        _check_alias(name, hint)
    return {name: _as_said(hint, name in kind.__required_keys__) for name, hint in hints.items()}


def _as_said(hint: Any, is_required: bool) -> Any:
    if get_origin(hint) in (Required, NotRequired):
        return hint
    return Required[hint] if is_required else NotRequired[hint]


def _with_others(named: Any, others: Any) -> Any:
    """Make a type that has the fields of `named`, and further fields of the type `others`."""

    class WithOthers:
        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
            schema = handler(named)
            fields: Any = handler.resolve_ref_schema(schema)
            fields |= {"extra_behavior": "allow", "extras_schema": handler.generate_schema(others)}
            return schema

    return WithOthers


def read_result(reply: bytes, into: Any, name: str) -> Any:
    """Read the result from the text of a reply as the type `into`. `name` is the method's name, for errors.

    Raises
    ------
    RpcError
        The result is not of this type.
    """
    try:
        return _replies_of(into).validate_json(reply)["result"]
    except ValidationError as exc:
        raise RpcError(f"{name}: the result is not what into= says: {_problems(exc)}") from None


@lru_cache(256)
def _replies_of(into: Any) -> TypeAdapter[Any]:
    return TypeAdapter(_object("Reply", result=into))


def _receiver_of(function: Any) -> frozenset[str]:
    """Name the parameter that is ``self``: no argument may have this name, not even one of ``**others``."""
    parameters = signature_of(getattr(function, "__func__", function)).parameters.values()
    first = next(iter(parameters), None)
    return frozenset([first.name] if first is not None and first.kind is first.POSITIONAL_OR_KEYWORD else [])


def _adapter_of(hint: Any) -> TypeAdapter[Any] | None:
    """Make the validator of a result; `None` if the hint allows anything."""
    if hint is Any:
        return None
    try:
        # NaN must be refused, not become null.
        return TypeAdapter(hint, config=ConfigDict(ser_json_inf_nan="constants"))
    except PydanticUserError:  # a model, which has its own configuration
        return TypeAdapter(hint)


def _schema_of(adapter: TypeAdapter[Any], mode: Any) -> dict[str, Any]:
    try:
        return adapter.json_schema(mode=mode)
    except PydanticUserError:  # the type has a validator and no schema
        return {}


def _problems(error: ValidationError, around: int = 1) -> str:
    """Say what is wrong and where. Drops the first `around` items of each location."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    told = [_problem(problem["loc"][around:], problem["msg"]) for problem in problems[:_LISTED]]
    more = [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
    return "; ".join([*told, *more])


def _problem(path: tuple[int | str, ...], message: str) -> str:
    where = ".".join(map(str, path))
    text = printable(message)
    return f"{safe_repr(where)}: {text}" if where else text


def _first_line(error: Exception) -> str:
    return safe_str(error, 2000).partition("\\n")[0]
