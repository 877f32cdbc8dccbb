"""Chooses nodes by filters and weighers, as Nova's scheduler does; has ready-made ones, by capabilities. Pure.

``hosts.select(filters=[at_least("memory.free", 512)], weighers=[weigh("memory.free"), weigh("load", multiplier=-1)])``
takes the host with the most memory and the least load.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asyncmgr._common.functions import is_async
from asyncmgr._common.safe_text import callable_name, printable, safe_repr
from asyncmgr.capabilities._states import Filter, HostState, Weigher

_NOTHING: Any = object()


def choose(
    states: Iterable[HostState], filters: Iterable[Filter], weighers: Iterable[Weigher], count: int
) -> list[HostState]:
    """The best `count` of the fresh states that pass; see `Hosts.select`."""
    if count < 0:
        raise ValueError(f"count is {count}; give 0 or more")
    filters = _plain_functions(filters, "filter", "bool")
    weighers = _plain_functions(weighers, "weigher", "float")
    passing = [
        state for state in states if state.state == "fresh" and all(passes(state) for passes in filters)
    ]
    totals = _total_weights(passing, weighers)
    ranked = sorted(range(len(passing)), key=lambda index: -totals[index])
    return [passing[index] for index in ranked[:count]]


def _plain_functions(functions: Iterable[Any], what: str, gives: str) -> tuple[Any, ...]:
    functions = tuple(functions)
    for function in functions:
        if is_async(function):
            raise TypeError(
                f"the {what} {callable_name(function)} is async, and nobody would await it; "
                f"write it as 'def {what}(host: HostState) -> {gives}', and fetch what it needs before select()"
            )
        if not callable(function):
            raise TypeError(
                f"the {what} {safe_repr(function)} cannot be called; give a function, 'def {what}(host) -> {gives}'"
            )
    return functions


def _total_weights(states: list[HostState], weighers: Iterable[Weigher]) -> list[float]:
    totals = [0.0] * len(states)
    for weigher in weighers:
        multiplier = _multiplier(weigher)
        for index, weight in enumerate(_normalised([_weigh(weigher, state) for state in states])):
            totals[index] += multiplier * weight
    return totals


def _multiplier(weigher: Weigher) -> float:
    given = getattr(weigher, "multiplier", 1.0)
    if (multiplier := _finite(given)) is None:
        raise ValueError(
            f"the weigher {callable_name(weigher)} has the multiplier {safe_repr(given, 100)}; give a finite number"
        )
    return multiplier


def _weigh(weigher: Weigher, state: HostState) -> float:
    given = weigher(state)
    if (weight := _finite(given)) is None:
        node = printable(f"{state.service}/{state.host}/{state.node}")
        raise ValueError(
            f"the weigher {callable_name(weigher)} gave {safe_repr(given, 100)} for {node}; "
            "give a finite number, or filter such nodes out"
        )
    return weight


def _finite(given: Any) -> float | None:
    try:
        number = float(given)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _normalised(weights: list[float]) -> list[float]:
    # Halves, as the whole from the lowest to the highest may be beyond the range of a float.
    lowest, highest = min(weights, default=0.0) / 2, max(weights, default=0.0) / 2
    spread = highest - lowest
    return [(weight / 2 - lowest) / spread if spread else 0.0 for weight in weights]


def capability(host: HostState, path: str, default: Any = None) -> Any:
    """What a host says under a path such as ``memory.free`` or ``disks.0.free``; `default` where it says nothing."""
    value: Any = host.capabilities
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step, _NOTHING)
        elif isinstance(value, Sequence) and not isinstance(value, str) and step.isdecimal():
            value = value[int(step)] if int(step) < len(value) else _NOTHING
        else:
            value = _NOTHING
    return default if value is _NOTHING else value


@dataclass(frozen=True, slots=True)
class at_least:  # noqa: N801 - read as a function: filters=[at_least("memory", 512)]
    """A filter: passes hosts whose capability at `path` is a number of at least `amount`."""

    path: str
    amount: float

    def __call__(self, host: HostState) -> bool:
        value = _number(capability(host, self.path))
        return value is not None and value >= self.amount


@dataclass(frozen=True, slots=True)
class equals:  # noqa: N801 - likewise
    """A filter: passes hosts whose capability at `path` is `value`."""

    path: str
    value: Any

    def __call__(self, host: HostState) -> bool:
        return bool(capability(host, self.path, _NOTHING) == self.value)


@dataclass(frozen=True, slots=True)
class weigh:  # noqa: N801 - likewise
    """A weigher: hosts with more at `path` come first; with a negative `multiplier` those with less.

    A host without a number there weighs as if it had `default`.
    """

    path: str
    multiplier: float = 1.0
    default: float = 0.0

    def __call__(self, host: HostState) -> float:
        value = _number(capability(host, self.path))
        return self.default if value is None else value


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
