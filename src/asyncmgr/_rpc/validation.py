"""Validates what goes in and out of methods that other hosts call, by their type hints; loaded when they are served."""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NotRequired, Required, get_type_hints

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

from asyncmgr.errors import InvalidArguments, InvalidRpcMethod
from asyncmgr.wire import encode_json

_SHOWN = 5
"""So many of the things that are wrong with arguments are told."""


class Method:
    """One bound method with what its type hints allow.

    Raises
    ------
    InvalidRpcMethod
        A hint names nothing, or nothing that can be validated.
    """

    def __init__(self, function: Callable[..., Awaitable[Any]], name: str) -> None:
        self.function: Callable[..., Awaitable[Any]] = function
        self.name: str = name
        """The full name, ``manager.method``."""
        hints = _hints_of(function, name)
        parameters = inspect.signature(function).parameters.values()
        named = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
        others = [parameter.name for parameter in parameters if parameter.kind is parameter.VAR_KEYWORD]
        self._names = frozenset(parameter.name for parameter in named)
        self._receiver = _receiver_of(function)
        try:
            self._arguments: TypeAdapter[Any] = TypeAdapter(_arguments_type(named, hints))
            self._others: TypeAdapter[Any] | None = _others_adapter(others, hints)
            self._result: TypeAdapter[Any] | None = _adapter_of(hints.get("return", Any))
        except (PydanticUserError, TypeError) as exc:
            raise InvalidRpcMethod(
                f"{name} has a hint that cannot be validated: {_first_line(exc)}; use types that pydantic knows"
            ) from exc

    def read(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that the method is called with, out of JSON values.

        Raises
        ------
        InvalidArguments
            They are not those of the method.
        """
        unknown = {name: value for name, value in arguments.items() if name not in self._names}
        refused = unknown if self._others is None else unknown.keys() & self._receiver
        if refused:
            raise InvalidArguments(
                f"{self.name} has no argument {', '.join(map(repr, refused))}; it takes {self._taken()}"
            )
        try:
            # In pydantic's JSON mode, so that strict types take what JSON has for them.
            values: dict[str, Any] = self._arguments.validate_json(encode_json(arguments))
            if unknown and self._others is not None:
                values |= self._others.validate_json(encode_json(unknown))
        except ValidationError as exc:
            raise InvalidArguments(f"{self.name}: {_problems(exc)}") from None
        return values

    def _taken(self) -> str:
        return ", ".join(sorted(self._names)) or "none"

    def write(self, result: object) -> Any:
        """The result as JSON values.

        Raises
        ------
        TypeError, ValueError
            It is not what the hints promise, or is not JSON.
        """
        if self._result is None:
            return to_json_values(result)
        try:
            return self._result.dump_python(self._result.validate_python(result), mode="json")
        except ValidationError as exc:
            raise TypeError(f"{self.name} returned {reprlib.repr(result)}: {_problems(exc)}") from None

    def describe(self) -> dict[str, Any]:
        """JSON Schemas of `arguments` and `result`, and the first line of its documentation."""
        arguments = _schema_of(self._arguments, "validation")
        others = {} if self._others is None else _schema_of(self._others, "validation")
        arguments["additionalProperties"] = others.get("additionalProperties", self._others is not None)
        if "$defs" in others:
            arguments["$defs"] = {**others["$defs"], **arguments.get("$defs", {})}
        return {
            "summary": (inspect.getdoc(self.function) or "").partition("\n")[0],
            "arguments": arguments,
            "result": {} if self._result is None else _schema_of(self._result, "serialization"),
        }


def to_json_values(value: object) -> Any:
    """`value` as JSON values: models, dates, sets and the like as pydantic writes them.

    Raises
    ------
    ValueError
        There is no such way to write it.
    """
    return to_jsonable_python(value, inf_nan_mode="constants")


def _hints_of(function: Any, name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except Exception as exc:  # a hint is any expression
        raise InvalidRpcMethod(
            f"{name} has a hint that cannot be resolved ({type(exc).__name__}: {exc}); "
            "import what it names at the top of its module, and not only for type checkers"
        ) from exc


def _receiver_of(function: Any) -> frozenset[str]:
    """What ``self`` is called, where no argument can be called so, not even one of ``**others``."""
    parameters = inspect.signature(getattr(function, "__func__", function)).parameters.values()
    first = next(iter(parameters), None)
    return frozenset([first.name] if first is not None and first.kind is first.POSITIONAL_OR_KEYWORD else [])


def _arguments_type(parameters: Iterable[inspect.Parameter], hints: Mapping[str, Any]) -> Any:
    """A typed dict of the parameters: what is left out is left to the method's own defaults."""
    fields: dict[str, Any] = {}
    for parameter in parameters:
        hint = hints.get(parameter.name, Any)
        _check_alias(parameter.name, hint)
        is_required = parameter.default is parameter.empty
        fields[parameter.name] = Required[hint] if is_required else NotRequired[hint]
    return TypedDict("Arguments", fields)  # type: ignore[operator] # made of what is found at run time


def _check_alias(name: str, hint: Any) -> None:
    fields = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, FieldInfo)]
    if any(field.validation_alias is not None for field in fields):
        raise TypeError(f"{name!r} has an alias, though arguments are known by the names of the parameters")


def _others_adapter(names: Sequence[str], hints: Mapping[str, Any]) -> TypeAdapter[Any] | None:
    """What validates the arguments that ``**names`` takes; `None` where there is no such parameter."""
    kind: Any = dict
    return TypeAdapter(kind[str, hints.get(names[0], Any)]) if names else None


def _adapter_of(hint: Any) -> TypeAdapter[Any] | None:
    """What validates a result; `None` where anything will do."""
    if hint is Any:
        return None
    try:
        # NaN is not to become null, but to be refused.
        return TypeAdapter(hint, config=ConfigDict(ser_json_inf_nan="constants"))
    except PydanticUserError:  # a model: its own configuration holds
        return TypeAdapter(hint)


def _schema_of(adapter: TypeAdapter[Any], mode: Any) -> dict[str, Any]:
    try:
        return adapter.json_schema(mode=mode)
    except PydanticUserError:  # it has types with a validator and no schema
        return {}


def _problems(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    told = [_problem(problem["loc"], problem["msg"]) for problem in problems[:_SHOWN]]
    more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
    return "; ".join([*told, *more])


def _problem(path: tuple[int | str, ...], message: str) -> str:
    where = ".".join(map(str, path))
    return f"{where!r}: {message}" if where else message


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
