"""Writes families of metrics as text, in the formats of Prometheus and of OpenMetrics. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["counter", "gauge", "summary", "histogram"]

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

AT_ONCE = 500
"""Samples in one chunk: less than a millisecond of work."""


class Labels:
    """The labels of one series, written once."""

    __slots__ = ("inner", "pairs")

    def __init__(self, **pairs: str) -> None:
        self.pairs = pairs
        self.inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in pairs.items())
        """Without the braces."""

    @property
    def text(self) -> str:
        return f"{{{self.inner}}}" if self.inner else ""

    def with_(self, **more: str) -> Labels:
        """Make labels that have more pairs."""
        return Labels(**self.pairs, **more)


class Family(NamedTuple):
    """The series of one name."""

    name: str
    """Of a counter without ``_total``."""
    kind: Kind
    help: str
    samples: Iterable[tuple[str, Labels, float]]
    """What follows the name (``_sum``, for example), the labels, the value."""


class Column(NamedTuple):
    """One of the series that each row of a table has."""

    suffix: str = ""
    label: str = ""
    """The name of the label that tells it from other columns; empty = it has none."""
    value: str = ""


class Table(NamedTuple):
    """The series of one name, where very many rows have the same few series. It is written five times as fast."""

    name: str
    kind: Kind
    help: str
    columns: Sequence[Column]
    rows: Iterable[tuple[Labels, Sequence[float]]]
    """The labels, which are not empty, and a value for each column."""

    @property
    def samples(self) -> Iterator[tuple[str, Labels, float]]:
        for labels, values in self.rows:
            for column, value in zip(self.columns, values, strict=True):
                more = labels.with_(**{column.label: column.value}) if column.label else labels
                yield column.suffix, more, value


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def write(families: Iterable[Family | Table], *, openmetrics: bool = False) -> Iterator[str]:
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
        size = len(family.columns) if isinstance(family, Table) else 1
        for line in _rows(name, family) if isinstance(family, Table) else _samples(name, family):
            lines.append(line)
            count += size
            if count >= AT_ONCE:
                yield "".join(lines)
                lines, count = [], 0
    if openmetrics:
        lines.append("# EOF\n")
    yield "".join(lines)


def _samples(name: str, family: Family) -> Iterator[str]:
    for suffix, labels, value in family.samples:
        yield f"{name}{suffix}{labels.text} {value}\n"


def _rows(name: str, table: Table) -> Iterator[str]:
    """Yield the lines of each row, by one template for all rows."""
    lines = []
    for number, (suffix, label, value) in enumerate(table.columns, start=1):
        more = f',{label}="{_escaped(value)}"' if label else ""
        lines.append(f"{name}{suffix}{{{{{{0}}{more}}}}} {{{number}}}\n")
    form = "".join(lines).format
    for labels, values in table.rows:
        yield form(labels.inner, *values)


def _help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def wants_openmetrics(accept: str) -> bool:
    """Whether a request's ``Accept`` asks for OpenMetrics, as Prometheus does."""
    return "application/openmetrics-text" in accept
