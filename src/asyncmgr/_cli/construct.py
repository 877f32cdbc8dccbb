"""Builds objects from settings: checks arguments by their type hints, and imports what they name."""

from __future__ import annotations

import collections.abc
import inspect
import json
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import InitVar, dataclass, field, is_dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError
from typing_extensions import get_protocol_members, is_protocol

from asyncmgr._cli.targets import import_string, is_import_string, load_target
from asyncmgr._common.functions import annotations_of, signature_of
from asyncmgr._settings.problems import fact, invalid_settings, listed, own_error, shown, suggestion
from asyncmgr.errors import AsyncmgrError, InvalidSettings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = ["construct", "import_string", "load_target"]

Built = TypeVar("Built")
PlaceOf = Callable[..., str]
"""Returns where the value under these keys was written, for error texts."""

_FACTORY = "factory"
_CONTAINERS = {"builtins", "collections", "collections.abc"}
_UNIONS = (Union, types.UnionType)
_KEYWORDS = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}


def construct(
    factory: Callable[..., Built],
    arguments: Mapping[str, Any],
    *,
    place: str,
    place_of: PlaceOf | None = None,
) -> Built:
    """Call `factory`, a class or a function, with arguments from the settings.

    Each argument is checked against its type hint. If the hint is a class, an ABC or a Protocol, a text
    ``"module:attribute"`` is imported: ``type[X]`` gets the class; ``X`` gets the object, or an instance if the text
    names a class. A table ``{factory = "module:attribute", ...}`` makes an instance with arguments of its own.
    Callables are imported likewise.

    `place` names the table in error texts, `place_of` returns the place of one argument.

    Raises
    ------
    InvalidSettings
        Arguments do not fit. One error lists all of them.
    """
    where = place_of or partial(_place_within, place)
    signature = _read_signature(factory)
    results = [_convert(signature, name, value, where) for name, value in arguments.items()]
    problems = [f"{place}: {text}" for text in signature.missing(arguments)]
    problems += [text for result in results for text in result.problems]
    if problems:
        raise invalid_settings(problems) from next((one.cause for one in results if one.cause), None)
    try:
        return factory(**{result.name: result.value for result in results})
    except AsyncmgrError:
        raise
    except Exception as exc:
        raise InvalidSettings(f"{place}: {_name(factory)} raised {type(exc).__name__}: {exc}") from exc


def _place_within(place: str, *keys: str) -> str:
    return f"{place} {'.'.join(keys)}"


def _name(factory: object) -> str:
    return getattr(factory, "__qualname__", None) or repr(factory)


# What a constructor accepts


@dataclass(frozen=True, slots=True)
class _Signature:
    """The names that a factory can be called with."""

    factory: Callable[..., Any]
    required: list[str]
    names: dict[str, None]
    """All names, in order."""
    is_open: bool
    """Whether the factory takes other names too."""

    def missing(self, given: Mapping[str, Any]) -> Iterator[str]:
        for name in self.required:
            if name not in given:
                yield f"{_name(self.factory)} needs {name!r}; accepted: {listed(self.names)}"

    def refusal(self, name: str) -> str | None:
        if name in self.names or self.is_open:
            return None
        known = listed(self.names)
        return (
            f"{_name(self.factory)} has no argument {name!r}{suggestion(name, self.names)}; accepted: {known}"
        )

    def hint(self, name: str) -> Any:
        """Resolve the hint of one argument. Hints of other arguments may name things that only checkers import."""
        failure: Exception | None = None
        for owner in _annotated(self.factory):
            hints = annotations_of(owner)
            try:
                if name in hints:
                    return _resolve(owner, name, hints[name])
            except Exception as exc:
                failure = failure or exc
        if failure is not None:
            raise failure
        return Any


def _read_signature(factory: Callable[..., Any]) -> _Signature:
    own, *inherited = _signatures(factory)
    required = [name for name, one in own.items() if one.kind in _KEYWORDS and one.default is one.empty]
    names: dict[str, None] = {}
    is_open = True
    for parameters in (own, *inherited):
        # Only **kwargs hand names on to the next class.
        names |= {name: None for name, one in parameters.items() if one.kind in _KEYWORDS and is_open}
        is_open = is_open and any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    return _Signature(factory, required, names, is_open)


def _signatures(factory: Callable[..., Any]) -> list[Mapping[str, inspect.Parameter]]:
    own = signature_of(factory).parameters
    inherited = [signature_of(init).parameters for init in _initialisers(factory)[1:]]
    return [own, *(dict(list(each.items())[1:]) for each in inherited)]


def _initialisers(factory: object) -> list[Callable[..., Any]]:
    bases = factory.__mro__[:-1] if isinstance(factory, type) else ()
    return [vars(base)["__init__"] for base in bases if inspect.isfunction(vars(base).get("__init__"))]


def _annotated(factory: Callable[..., Any]) -> list[Any]:
    """List the objects that may hold a hint. A dataclass field is resolved in the class that defines it."""
    if not isinstance(factory, type):
        return [inspect.unwrap(factory)]
    return [inspect.unwrap(init) for init in _initialisers(factory)] + list(factory.__mro__[:-1])


def _resolve(owner: Any, name: str, hint: Any) -> Any:
    module = vars(sys.modules[owner.__module__]) if owner.__module__ in sys.modules else {}
    holder = types.SimpleNamespace(
        __annotations__={name: hint}, __type_params__=getattr(owner, "__type_params__", ())
    )
    return get_type_hints(holder, getattr(owner, "__globals__", module), include_extras=True)[name]


# One argument


@dataclass(frozen=True, slots=True)
class _Result:
    name: str
    value: Any = None
    problems: list[str] = field(default_factory=list)
    cause: BaseException | None = None


def _convert(signature: _Signature, name: str, value: Any, where: PlaceOf) -> _Result:
    if refusal := signature.refusal(name):
        return _Result(name, problems=[f"{where(name)}: {refusal}"])
    try:
        hint = signature.hint(name)
        adapter = TypeAdapter(_wired(hint, partial(where, name)))
    except Exception as exc:
        text = f"{where(name)}: the type hint of {_name(signature.factory)}'s {name!r} cannot be used: {exc}"
        return _Result(name, problems=[text], cause=exc)
    return _validate(adapter, hint, name, value, where)


def _validate(adapter: TypeAdapter[Any], hint: Any, name: str, value: Any, where: PlaceOf) -> _Result:
    try:
        return _Result(name, adapter.validate_python(value))
    except ValidationError as exc:
        errors = exc.errors(include_url=False)
    if (decoded := _decoded(value)) is not value:
        return _validate(adapter, hint, name, decoded, where)
    causes = [cause for error in errors if (cause := own_error(error))]
    placed = [str(cause) for cause in causes if isinstance(cause, InvalidSettings)]
    facts = dict.fromkeys(_fact(error, name, value) for error in errors)
    text = f"{where(name)}: {'; '.join(facts)}; accepted: {inspect.formatannotation(hint)}"
    return _Result(name, problems=placed or [text], cause=next((cause.__cause__ for cause in causes), None))


def _decoded(value: Any) -> Any:
    """Decode a table or list that an environment variable holds as text."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _fact(error: ErrorDetails, name: str, value: Any) -> str:
    keys = list(_keys_into(value, error["loc"]))
    return "".join(f"[{key}] " for key in keys) + fact(error, (name, *keys))


def _keys_into(value: Any, path: tuple[int | str, ...]) -> Iterator[int | str]:
    """Keep the keys that lead into the value; pydantic also puts the members of unions into a location."""
    for key in path:
        try:
            value = value[key]
        except (LookupError, TypeError):
            continue
        yield key


# Hints


def _wired(hint: Any, where: PlaceOf) -> Any:
    """Rewrite `hint` for pydantic so that classes and callables may be given as import strings and tables."""
    if isinstance(hint, InitVar):
        return _wired(hint.type, where)
    origin = get_origin(hint)
    if hint is type or origin is type:
        return _checked(partial(_as_class, (get_args(hint) or (Any,))[0]))
    if collections.abc.Callable in (hint, origin):
        return _checked(_as_callable)
    if origin is Annotated:
        inner, *rest = get_args(hint)
        return _subscribe(Annotated, (_wired(inner, where), *rest))
    if origin in _UNIONS or getattr(origin, "__module__", None) in _CONTAINERS:
        return _wired_arguments(hint, origin, where)
    return _wired_class(hint, origin or hint, where)


def _checked(validate: Callable[[Any], Any]) -> Any:
    return Annotated[Any, BeforeValidator(validate)]


def _wired_arguments(hint: Any, origin: Any, where: PlaceOf) -> Any:
    arguments = get_args(hint)
    wired = tuple(_wired(one, where) if _is_hint(one) else one for one in arguments)
    if wired == arguments:
        return hint
    if origin in _UNIONS:
        return _wired_union(wired)
    return _subscribe(origin, wired)


def _wired_union(members: tuple[Any, ...]) -> Any:
    """Take the first member that fits, in the order written: "Driver | str" is a driver if it can be one."""
    others = tuple(one for one in members if one is not type(None))
    union = _subscribe(Union, others)
    ordered = Annotated[union, Field(union_mode="left_to_right")] if len(others) > 1 else union
    return ordered if len(others) == len(members) else _subscribe(Union, (ordered, None))


def _subscribe(generic: Any, arguments: tuple[Any, ...]) -> Any:
    return generic[arguments]


def _is_hint(one: Any) -> bool:
    return isinstance(one, type) or get_origin(one) is not None


def _wired_class(hint: Any, cls: Any, where: PlaceOf) -> Any:
    # "type X = ..." of Python 3.12 is not a class: pydantic reads it, without import strings.
    if not isinstance(cls, type) or cls.__module__ == "builtins":
        return hint
    if not _is_native(hint):
        return _checked(partial(_as_instance, cls, where))
    if issubclass(cls, BaseModel) or is_dataclass(cls):
        return Annotated[hint, BeforeValidator(partial(_imported, where))]
    return hint


def _is_native(hint: Any) -> bool:
    """Whether pydantic itself can make such a value from text or a table."""
    try:
        TypeAdapter(hint)
    except Exception:
        return False
    return True


# Values


def _imported(where: PlaceOf, value: Any) -> Any:
    """Make the object that an import string or a table with a factory stands for; return other values unchanged."""
    if is_import_string(value):
        found = import_string(value)
        return construct(found, {}, place=where(), place_of=where) if isinstance(found, type) else found
    if isinstance(value, Mapping) and _FACTORY in value:
        factory = import_string(value[_FACTORY])
        arguments = {key: item for key, item in value.items() if key != _FACTORY}
        return construct(_as_callable(factory), arguments, place=where(), place_of=where)
    return value


def _as_instance(cls: type, where: PlaceOf, value: Any) -> Any:
    found = _imported(where, value)
    if lacking := _lacking(cls, found):
        given = shown(value, ()) if found is value else f"{shown(value, ())} gives {shown(found, ())}, which"
        raise ValueError(f"{given} {lacking}; write 'module:attribute' or a table with {_FACTORY!r}")
    return found


def _lacking(cls: type, value: Any) -> str | None:
    if is_protocol(cls):
        names = sorted(name for name in get_protocol_members(cls) if not hasattr(value, name))
        return f"has no {listed(names)}, which {cls.__name__} asks for" if names else None
    return None if isinstance(value, cls) else f"is no {cls.__name__}"


def _as_class(wanted: Any, value: Any) -> Any:
    found = import_string(value) if is_import_string(value) else value
    if not isinstance(found, type):
        raise ValueError(f"{shown(found, ())} is no class; write 'module:attribute'")
    if not any(_is_subclass(found, one) for one in _bounds(wanted)):
        raise ValueError(f"{shown(found, ())} is no subclass of {inspect.formatannotation(wanted)}")
    return found


def _bounds(wanted: Any) -> tuple[Any, ...]:
    if isinstance(wanted, TypeVar):
        # A bound written as text stays a forward reference.
        return (wanted.__bound__ if isinstance(wanted.__bound__, type) else Any,)
    return get_args(wanted) if get_origin(wanted) in _UNIONS else (wanted,)


def _is_subclass(found: type, wanted: Any) -> bool:
    cls = get_origin(wanted) or wanted
    if is_protocol(cls):
        declared = {name for base in found.__mro__ for name in annotations_of(base)}
        return all(name in declared or hasattr(found, name) for name in get_protocol_members(cls))
    return cls is Any or issubclass(found, cls)


def _as_callable(value: Any) -> Any:
    found = import_string(value) if is_import_string(value) else value
    if not callable(found):
        raise ValueError(f"{shown(found, ())} cannot be called; write 'module:attribute'")
    return found
