"""Puts the tasks of all watched services together: rows, what needs a person, what is over. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from asyncmgr._cli.top.sparks import SIGNS
from asyncmgr._cli.top.watching import Watched
from asyncmgr._cli.top.words import LOOKS, ORDER, Look, long, plural, sentence, state_of
from asyncmgr._common.safe_text import printable
from asyncmgr._history.slots import CODES
from asyncmgr._monitoring.page_data import Json
from asyncmgr._monitoring.page_words import DID

FILTERS = ("all", "needs you", "failing only")

_FAILED = (CODES["failed", None], CODES["timed_out", None])
_WELL = (CODES["succeeded", None], CODES["nothing", None])
_HOST = Look("⌁", "bad")


class Standing(NamedTuple):
    """How a task stands on one host."""

    on: Watched
    facts: Json
    state: str


@dataclass(slots=True)
class Row:
    """A task on all its hosts."""

    service: str
    name: str
    on: list[Watched] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str]:
        return self.service, self.name

    def standings(self) -> Iterator[Standing]:
        """Yield how it stands on each host."""
        for one in self.on:
            facts = one.facts.get(self.name)
            if facts is not None:
                yield Standing(one, facts, state_of(facts))

    def worst(self) -> Standing | None:
        """Find the host on which it stands worst; of several the one on which it runs."""
        return min(
            self.standings(), key=lambda one: (_rank(one.state), "running" not in one.facts), default=None
        )

    def next(self) -> int | None:
        """Find its next slot on any host; milliseconds since 1970, by that host's clock."""
        return min((one.facts["next"] for one in self.standings() if "next" in one.facts), default=None)

    @property
    def is_failing(self) -> bool:
        return any(one.state in ("failing", "held") or one.facts.get("failures") for one in self.standings())

    @property
    def needs_you(self) -> bool:
        worst = self.worst()
        return worst is not None and "need" in worst.facts

    @property
    def is_lost(self) -> bool:
        """Whether what is known of it is old, on the host that is shown."""
        worst = self.worst()
        return worst is not None and worst.on.is_lost


def _rank(state: str) -> int:
    return ORDER.index(state) if state in ORDER else len(ORDER)


class Need(NamedTuple):
    """What a person has to know, in a sentence."""

    look: Look
    name: str
    parts: list[Any]
    row: Row | None
    on: Watched

    def text(self) -> str:
        """Write all of it."""
        return sentence(self.parts, self.on.now())

    def brief(self) -> str:
        """Write it without what comes next."""
        end = self.parts.index(" Next at ") if " Next at " in self.parts else len(self.parts)
        return sentence(self.parts[:end], self.on.now())


def rows_of(watched: Iterable[Watched]) -> list[Row]:
    """List the tasks of each service, in the order in which the services tell them."""
    rows: dict[tuple[str, str], Row] = {}
    for one in sorted(watched, key=lambda one: (one.wire.service, one.wire.host)):
        for name in one.facts:
            key = (one.wire.service, name)
            rows.setdefault(key, Row(*key)).on.append(one)
    return sorted(rows.values(), key=lambda row: row.service)


def chosen(rows: Iterable[Row], shown: str, search: str) -> list[Row]:
    """Choose the rows of a filter whose name has the searched text, without regard to case."""
    wanted = search.casefold()
    return [row for row in rows if wanted in row.name.casefold() and _passes(row, shown)]


def _passes(row: Row, shown: str) -> bool:
    return {"needs you": row.needs_you, "failing only": row.is_failing}.get(shown, True)


def needs_of(rows: Iterable[Row], watched: Iterable[Watched]) -> list[Need]:
    """Say what needs a person: services in trouble first, then tasks, the most urgent and oldest first."""
    hosts = [
        Need(
            _HOST,
            one.wire.host if one.is_one_of_many else one.wire.service,
            [f"{one.trouble[0].upper()}{one.trouble[1:]}."],
            None,
            one,
        )
        for one in watched
        if one.trouble and not one.is_lost
    ]
    found = [(row, worst) for row in rows if (worst := row.worst()) is not None and "need" in worst.facts]
    found.sort(key=lambda one: (_rank(one[1].state), _began(one[1].facts)))
    return hosts + [
        Need(LOOKS[worst.state], row.name, worst.facts["need"]["text"], row, worst.on) for row, worst in found
    ]


def _began(facts: Json) -> int:
    running = facts.get("running") or {}
    return int(facts.get("failing") or running.get("since") or 0)


def headline(needs: list[Need], total: int) -> tuple[str, str]:
    """Say how many tasks need somebody, and how the others are."""
    count = sum(one.row is not None for one in needs)
    if count:
        rest = total - count
        are = f"the other {rest:,} {'is' if rest == 1 else 'are'} well" if rest else ""
        return f"{plural(count, 'task')} need{'s' if count == 1 else ''} you", are
    if needs:
        return (
            f"{plural(len(needs), 'service')} need{'s' if len(needs) == 1 else ''} you",
            f"all {total:,} tasks are well",
        )
    if total == 1:
        return "The one task is well", ""
    return (f"All {total:,} tasks are well" if total else "No tasks"), ""


# What is over


def earlier(watched: Iterable[Watched], rows: Iterable[Row], span: int) -> list[tuple[int, str]]:
    """Say what is over, the newest first, in a few words each; `span` is in seconds."""
    found: list[tuple[int, str]] = []
    for one in watched:
        since = one.now() - span * 1000
        said = ((entry, _said(entry, one.wire.host)) for entry in one.entries)
        found += [
            (entry["at"], text)
            for entry, text in said
            if text and (entry.get("until") or entry["at"]) >= since
        ]
    for row in rows:
        if not row.needs_you:
            found += _failures(row, span)
    return sorted(found, reverse=True)


def _said(entry: Json, host: str) -> str:
    data, task, host = entry.get("data", {}), entry.get("task", ""), printable(host, 40)
    lasted = f" for {long(entry['until'] - entry['at'])}" if entry.get("until") else ""
    kind, who = entry["kind"], entry.get("who", "")
    if kind == "blocked":
        return f"{data.get('blame', 'something')} blocked the event loop"
    if kind == "suspended":
        return f"{host} slept{lasted}"
    if kind == "stopped":
        return f"{host} got no CPU{lasted}"
    if kind == "clock":
        return f"the clock of {host} was set"
    if kind == "down":
        return f"{host} was down{lasted}"
    if kind == "lease_lost":
        return f"{host} lost the lease of {task}"
    if kind in DID and who not in ("", "code"):
        return f"{'a timer' if who == 'timer' else printable(who, 40)} {DID[kind]} {task}"
    return ""


def _failures(row: Row, span: int) -> Iterator[tuple[int, str]]:
    for one in row.on:
        since = one.now() - span * 1000
        marks = one.marks.get(row.name, ())
        failed = [mark.end for mark in marks if mark.fate in _FAILED and mark.end >= since]
        if failed:
            well = any(mark.fate in _WELL and mark.end > failed[-1] for mark in marks)
            yield failed[-1], f"{row.name} failed{' and is well again' if well else ''}"


def phrases(found: Iterable[tuple[int, str]], most: int = 3) -> str:
    """Join what is over to one line, each thing once."""
    counts: dict[str, int] = {}
    for _, text in found:
        counts[text] = counts.get(text, 0) + 1
    said = [f"{text} ({count} times)" if count > 1 else text for text, count in counts.items()]
    more = f", and {len(said) - most} more" if len(said) > most else ""
    return ", ".join(said[:most]) + more


assert len(SIGNS) == len(CODES)
