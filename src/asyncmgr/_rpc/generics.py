"""Resolves the type hints of a method, and replaces type variables by what the class gave for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

from asyncmgr._common.safe_text import error_text
from asyncmgr.errors import InvalidRpcMethod

Bound: TypeAlias = Mapping[Any, Any]
"""The type that stands for each type variable."""


def bind(function: Any, name: str) -> dict[str, Any]:
    """Resolve the type hints of a method. In ``class Users(Repo[User])``, `User` replaces the type variable of `Repo`.

    Raises
    ------
    InvalidRpcMethod
        A hint names nothing, or has a type variable that no class gives a type for.
    """
    owner, bound = _owner_of(function)
    hints = _hints_of(function, name, {each.__name__: each for each in _parameters_of(owner)})
    return {each: _checked(_substitute(hint, bound), name, owner) for each, hint in hints.items()}


def _hints_of(function: Any, name: str, names: dict[str, Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, localns=names, include_extras=True)
    except Exception as exc:  # evaluating a hint may raise anything
        raise InvalidRpcMethod(
            f"{name} has a hint that cannot be resolved ({error_text(exc)}); "
            "import what it names at the top of its module, and not only for type checkers"
        ) from exc


def _owner_of(function: Any) -> tuple[Any, Bound]:
    """Find the class that defines a bound method, and what its type variables stand for in the instance."""
    instance, plain = getattr(function, "__self__", None), getattr(function, "__func__", function)
    bindings: dict[Any, dict[Any, Any]] = {}
    given = getattr(instance, "__orig_class__", None)  # set by Repo[User]()
    _visit(type(instance), _bound_by(given, {}), bindings)
    for cls in type(instance).__mro__:
        if any(value is plain for value in vars(cls).values()):
            return cls, bindings.get(cls, {})
    return None, {}


def _visit(cls: Any, bound: Bound, bindings: dict[Any, dict[Any, Any]]) -> None:
    bindings.setdefault(cls, {}).update(bound)
    for base in vars(cls).get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if isinstance(origin, type) and origin is not Generic:
            _visit(origin, _bound_by(base, bound), bindings)


def _bound_by(alias: Any, outer: Bound) -> dict[Any, Any]:
    """Read from ``Repo[User]`` what the type variables of `Repo` stand for."""
    arguments = [_substitute(argument, outer) for argument in get_args(alias)]
    return dict(zip(_parameters_of(get_origin(alias)), arguments, strict=False))


def _parameters_of(cls: Any) -> tuple[Any, ...]:
    return getattr(cls, "__parameters__", ())


def _substitute(hint: Any, bound: Bound) -> Any:
    if isinstance(hint, TypeVar):
        return bound.get(hint, _default_of(hint))
    free = tuple(_free(hint))
    if not any(each in bound or _default_of(each) is not each for each in free):
        return hint
    return hint[tuple(bound.get(each, _default_of(each)) for each in free)]


def _free(hint: Any) -> Iterator[Any]:
    """List the type variables in a hint; a bare generic class has none.

    Pydantic's `Page[T]` is the class `Page` itself, so its own variables count.
    """
    if isinstance(hint, TypeVar):
        yield hint
    elif not isinstance(hint, type) or hasattr(hint, "__pydantic_generic_metadata__"):
        yield from _parameters_of(hint)


def _default_of(variable: Any) -> Any:
    has_default = getattr(variable, "has_default", None)
    return variable.__default__ if has_default is not None and has_default() else variable


def _checked(hint: Any, name: str, owner: Any) -> Any:
    """Return the hint, or raise if a type variable is left: pydantic would accept any value for it."""
    for variable in _free(hint):
        limited = getattr(variable, "__bound__", None) or getattr(variable, "__constraints__", ())
        if limited or variable in _parameters_of(owner):
            raise InvalidRpcMethod(
                f"{name} has the type variable {variable} in a hint, which stands for nothing; say what it is among "
                "the bases, such as 'class Users(Repo[User])', or write a type"
            )
    return hint
