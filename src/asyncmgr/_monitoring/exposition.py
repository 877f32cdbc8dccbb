"""Writes families of metrics as text, in the formats of Prometheus and of OpenMetrics. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "summary", "histogram"]

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

AT_ONCE = 1000
"""Samples in one chunk: about a millisecond of work."""


class Labels:
    """The labels of one series, written once."""

    __slots__ = ("pairs", "text")

    def __init__(self, **pairs: str) -> None:
        self.pairs = pairs
        written = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs.items())
        self.text = f"{{{written}}}" if written else ""

    def with_(self, **more: str) -> Labels:
        """Make labels that have more pairs."""
        return Labels(**self.pairs, **more)


class Sample(NamedTuple):
    """One line."""

    suffix: str
    """What follows the name of the family: ``_sum``, for example."""
    labels: Labels
    value: float


class Family(NamedTuple):
    """The series of one name."""

    name: str
    """Of a counter without ``_total``."""
    kind: Kind
    help: str
    samples: Iterable[tuple[str, Labels, float]]


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def write(families: Iterable[Family], *, openmetrics: bool = False) -> Iterator[str]:
    """Write the families, in chunks of about `AT_ONCE` samples."""
    lines: list[str] = []
    count = 0
    for family in families:
        name = family.name
        is_counter = family.kind == "counter"
        shown = f"{name}_total" if is_counter and not openmetrics else name
        lines.append(f"# HELP {shown} {_help(family.help)}\n# TYPE {shown} {family.kind}\n")
        if is_counter:
            name = f"{name}_total"
        for suffix, labels, value in family.samples:
            lines.append(f"{name}{suffix}{labels.text} {value}\n")
            count += 1
            if count == AT_ONCE:
                yield "".join(lines)
                lines, count = [], 0
    if openmetrics:
        lines.append("# EOF\n")
    yield "".join(lines)


def _help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def wants_openmetrics(accept: str) -> bool:
    """Whether a request's ``Accept`` asks for OpenMetrics, as Prometheus does."""
    return "application/openmetrics-text" in accept
