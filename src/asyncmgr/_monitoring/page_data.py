"""Turns facts into what the page shows, as JSON values: tasks, marks on the time axis, sentences. Pure.

Moments are milliseconds since 1970, lengths are seconds in tasks and milliseconds in marks. A sentence is a list of
parts: texts, and moments that the page shows and keeps up to date, as ``["at", moment]``, ``["ago", moment]`` (how long
ago) and ``["in", moment]`` (how long until).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from asyncmgr._common.safe_text import printable
from asyncmgr._history.journal import Entry
from asyncmgr._history.slots import CODES, RUNS, Record
from asyncmgr._history.words import length
from asyncmgr._monitoring.page_words import words_of

Json: TypeAlias = dict[str, Any]
Told: TypeAlias = Mapping[str, Any]
"""The status of one task, or an entry of the journal, as a service tells it."""
Part: TypeAlias = str | list[Any]

LONGEST_TEXT = 300
LONGEST_NAME = 200

BINS = 1000
"""Successes of one task are drawn as one mark where they lie in one of so many parts of the shown time."""

SKIPS = 2
"""Skipped slots from which on a run in the way needs somebody."""

OVERLAP = CODES["skipped", "overlap"]
NOT_OWNER = CODES["skipped", "not_owner"]


@dataclass(frozen=True, slots=True)
class InTheWay:
    """Slots that were skipped since a run was still going."""

    count: int
    last: int
    """The last of them, microseconds."""
    text: str
    """As in the record: the number of the run, its start and where it waited."""


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a task beside its status."""

    host: str
    is_one_of_many: bool = False
    """Whether there are other hosts, so that sentences name the host."""
    overlap: InTheWay | None = None


def ms(text: str | None) -> int | None:
    """Read a moment in ISO 8601."""
    return None if text is None else round(datetime.fromisoformat(text).timestamp() * 1000)


def short(text: object, limit: int = LONGEST_TEXT) -> str:
    """Make a text of others safe to show: one line, without control characters, not too long."""
    return printable(str(text), limit)


# Tasks


def task_facts(told: Told, about: About) -> Json:
    """Write what the page shows of one task on one host. What is `None` or empty is left out."""
    facts = {
        "task": told["task"],
        "state": told["state"],
        "schedule": schedule_of(told),
        "spacing": told["spacing"],
        "next": ms(told["next_due"]),
        "last": _last(told),
        "success": ms(told["last_success"]),
        "failures": told["failures"],
        "failing": ms(told["failing_since"]),
        "error": told["error"] and short(told["error"]),
        "running": _running(told),
        "paused": _paused(told),
        "off": told["off"] and short(told["off"]),
        "owner": told["owner"],
        "freshness": told.get("freshness"),
        "counts": [told["runs"], told["skipped"], told["missed"]],
        "usual": told.get("usual"),
        "timeout": told.get("timeout"),
        "need": need_of(told, about),
    }
    return {name: value for name, value in facts.items() if value not in (None, "", 0) or name == "timeout"}


def schedule_of(told: Told) -> str:
    """Write a schedule: ``every 30s``, ``0 7 * * 1-5 Europe/Berlin``."""
    if told["spacing"] == 0:
        return "every pass"
    zone = f" {told['tz']}" if told["tz"] else ""
    return short(f"{told['schedule']}{zone}", 120)


def _last(told: Told) -> Json | None:
    last = told["last"]
    if last is None:
        return None
    slot = ms(last["slot"]) or 0
    end = slot + round((last["lateness"] + last["duration"]) * 1000)
    return {"fate": last["fate"], "slot": slot, "end": end, "took": last["duration"]}


def _running(told: Told) -> Json | None:
    running = told["running"]
    if running is None:
        return None
    progress = running["progress"]
    return {
        "run": running["run_id"],
        "since": ms(running["since"]),
        "trigger": running["trigger"],
        "attempt": running["attempt"],
        "where": running["where"] and short(running["where"]),
        "progress": progress and [progress["done"], progress["total"], short(progress["message"] or "")],
    }


def _paused(told: Told) -> Json | None:
    paused = told["paused"]
    if paused is None:
        return None
    note = short(paused["note"] or "")
    return {
        "by": short(paused["by"]),
        "since": ms(paused["since"]),
        "until": ms(paused["until"]),
        "note": note,
    }


# What needs a person


def need_of(told: Told, about: About) -> Json | None:
    """Say in a sentence what a person has to know of a task; `None` = it needs nobody."""
    state = str(told["state"])
    if state == "hung":
        return _need("hung", _hangs(told, about), "cancel")
    if state == "held":
        return _need("held", _held(told, about) + _next(told, "One trial run at "), "trigger")
    if state == "failing":
        return _need("failing", _fails(told, about) + _next(told, "Next at "), "trigger")
    if state == "stale":
        return _need("stale", _stale(told, about) + _next(told, "Next at "), "trigger")
    if _is_in_the_way(told, about):
        return _need("skips", _skips(told, about) + _next(told, "Next at "), "cancel")
    return None


def _need(kind: str, parts: list[Part], verb: str) -> Json:
    return {"kind": kind, "text": parts, "verb": verb}


def _hangs(told: Told, about: About) -> list[Part]:
    running = told["running"]
    if running is None:
        return ["A run hangs."]
    parts: list[Part] = ["Running for ", ["ago", ms(running["since"])], _on(about)]
    usual, timeout = told.get("usual"), told.get("timeout")
    if usual is not None:
        parts.append(f", usually {length(usual)}")
    if timeout is not None:  # an older host does not tell
        parts.append(f"; its timeout is {length(timeout)}" if timeout else "; it has no timeout")
    parts.append(".")
    if running["where"]:
        parts.append(f" It waits in {short(running['where'])}.")
    return parts


def _fails(told: Told, about: About) -> list[Part]:
    keys = told.get("keys")
    if keys and not told["failures"]:
        return [f"Fails for {keys['failing']} of {keys['known']} keys{_on(about)}{_error(told)}."]
    times = "Failed" if told["failures"] == 1 else f"Failed {told['failures']} times in a row"
    parts: list[Part] = [f"{times}{_on(about)}"]
    since = ms(told["failing_since"])
    if since is not None:
        parts += [" since " if told["failures"] > 1 else " at ", ["at", since]]
    return [*parts, f"{_error(told)}."]


def _held(told: Told, about: About) -> list[Part]:
    since = ms(told["failing_since"])
    parts: list[Part] = [f"Held back{_on(about)}"]
    if since is not None:
        parts += [" since ", ["at", since]]
    count = told["failures"]
    parts.append(f", after {count} failure{'s' if count != 1 else ''} in a row")
    if told.get("held_spacing"):
        parts.append(f"; it runs only every {length(told['held_spacing'])}")
    return [*parts, f" ({short(told['error'])})." if told["error"] else "."]


def _stale(told: Told, about: About) -> list[Part]:
    promise = told.get("freshness")
    promised = f"; it promises one every {length(promise)}" if promise else ""
    success = ms(told["last_success"])
    if success is None:
        return [f"No success yet{_on(about)}{promised}."]
    return ["No success for ", ["ago", success], f"{_on(about)}{promised}."]


def _is_in_the_way(told: Told, about: About) -> bool:
    if about.overlap is None or told["running"] is None or about.overlap.count < SKIPS:
        return False
    since = ms(told["running"]["since"]) or 0
    return about.overlap.last >= since * 1000


def _skips(told: Told, about: About) -> list[Part]:
    assert about.overlap is not None
    running = told["running"]
    parts: list[Part] = [f"{about.overlap.count:,} slots skipped{_on(about)}: the run of "]
    parts += [["at", ms(running["since"])], " is still in the way"]
    return [*parts, f", at {short(running['where'])}." if running["where"] else "."]


def _next(told: Told, before: str) -> list[Part]:
    following = ms(told["next_due"])
    return [] if following is None else [f" {before}", ["at", following], ", in ", ["in", following], "."]


def _error(told: Told) -> str:
    return f": {short(told['error']).rstrip('.')}" if told["error"] else ""


def _on(about: About) -> str:
    return f" on {about.host}" if about.is_one_of_many else ""


# Marks on the time axis


def mark_of(record: Record, base: int) -> list[Any]:
    """Write a record as ``[begin, length, fate, count, text, lateness]``, without what is empty at the end.

    `begin` is relative to `base`; of a run it is its start, of slots without a run the first of them.
    """
    fate = CODES[record.fate, record.reason]
    begin = record.slot if record.started is None else record.started
    long = record.last - record.slot if record.started is None else round((record.duration or 0.0) * 1e6)
    late = 0 if record.lateness is None else round(record.lateness * 1000)
    text = "" if fate == CODES["succeeded", None] else short(record.text)
    mark: list[Any] = [begin // 1000 - base, -(-long // 1000), fate, record.count, text, late]
    return _trimmed(mark)


def _trimmed(mark: list[Any]) -> list[Any]:
    empty = {3: 1, 4: "", 5: 0}
    while len(mark) > 3 and mark[-1] == empty[len(mark) - 1]:
        mark.pop()
    return mark


def marks_of(records: Iterable[Record], base: int, span: int, since: int = 0) -> dict[str, list[Any]]:
    """Write records as marks by task, the oldest first, and many successes close to one another as one.

    Parameters
    ----------
    span
        The shown time, milliseconds.
    since
        Wall time, microseconds: what ended before is left out.
    """
    rows: dict[str, list[Any]] = {}
    bin_length = max(1, span // BINS)
    kept = [one for one in records if one.ended >= since]
    for record in sorted(kept, key=lambda one: one.slot if one.started is None else one.started):
        row = rows.setdefault(record.task, [])
        mark = mark_of(record, base)
        if row and _is_close(row[-1], mark, bin_length):
            row[-1] = _joined(row[-1], mark)
        else:
            row.append(mark)
    return rows


def _is_close(one: list[Any], other: list[Any], bin_length: int) -> bool:
    is_success: bool = one[2] == other[2] == CODES["succeeded", None]
    is_same_bin: bool = one[0] // bin_length == other[0] // bin_length
    return is_success and is_same_bin


def _joined(one: list[Any], other: list[Any]) -> list[Any]:
    count = (one[3] if len(one) > 3 else 1) + (other[3] if len(other) > 3 else 1)
    end = max(one[0] + one[1], other[0] + other[1])
    return [one[0], end - one[0], one[2], count]


def in_the_way(record: Record | None) -> InTheWay | None:
    """Read from the newest slots without a run which run is in the way; `None` = they had another reason."""
    if record is None or CODES[record.fate, record.reason] != OVERLAP:
        return None
    return InTheWay(record.count, record.last, record.text)


def is_run(fate: int) -> bool:
    """Whether the number is that of an outcome."""
    return fate < RUNS


# The drawer


def facts_of(told: Told, records: Iterable[Told], timeout: float | None) -> list[list[Any]]:
    """List what a person may want to know of a task, each as a name and a sentence.

    Parameters
    ----------
    records
        The newest slots, as a service tells them: they say how long a run usually takes.
    timeout
        Seconds; `None` = not known, or none.
    """
    following, running, success = ms(told["next_due"]), told["running"], ms(told["last_success"])
    found: list[tuple[str, list[Part]]] = []
    if following is not None:
        found.append(("next slot", [["at", following], ", in ", ["in", following]]))
    if running is not None:
        attempt = f", attempt {running['attempt']}" if running["attempt"] > 1 else ""
        found.append(("run", [f"{running['run_id']} ({running['trigger']}){attempt}"]))
    found.append(
        (
            "last success",
            ["none yet"] if success is None else [["at", success], ", ", ["ago", success], " ago"],
        )
    )
    if usual := _usual(records):
        found.append(("usual length", [usual]))
    if timeout:
        found.append(("timeout", [length(timeout)]))
    if told.get("freshness"):
        found.append(("freshness", [f"a success not older than {length(told['freshness'])}"]))
    found += _trouble(told)
    if told["owner"]:
        found.append(("owner", [short(told["owner"])]))
    skipped, missed = f"{told['skipped']:,} slots skipped", f"{told['missed']:,} missed"
    runs = f"{told['runs']:,} run{'' if told['runs'] == 1 else 's'}"
    found.append(("so far", [f"{runs}, {skipped}, {missed}"]))
    return [list(one) for one in found]


def _trouble(told: Told) -> Iterable[tuple[str, list[Part]]]:
    if told["failures"]:
        since = ms(told["failing_since"])
        more: list[Part] = [] if since is None else [", since ", ["at", since]]
        yield "failures in a row", [str(told["failures"]), *more]
    paused = told["paused"]
    if paused is not None:
        until: list[Part] = [", until ", ["at", ms(paused["until"])]] if paused["until"] else []
        note = f": {short(paused['note'])}" if paused["note"] else ""
        yield "paused", [f"by {short(paused['by'])} at ", ["at", ms(paused["since"])], *until, note]
    if told["off"]:
        yield "switched off", [short(told["off"])]


def _usual(records: Iterable[Told]) -> str:
    """Say how long successful runs take; nothing where there are too few."""
    took = sorted(
        one["duration"] for one in records if one["fate"] == "succeeded" and one["duration"] is not None
    )
    if len(took) < 3:
        return ""
    return f"{length(took[len(took) // 2])} (median), {length(took[int(len(took) * 0.95)])} (95 %)"


# The journal


def entry_facts(entry: Entry, host: str) -> Json:
    """Write an entry of the journal of this host."""
    return _entry(
        {
            "at": entry.at // 1000,
            "until": None if entry.until is None else entry.until // 1000,
            "kind": entry.kind,
            "task": entry.task,
            "who": entry.who,
            "note": entry.note,
            "data": entry.data,
        },
        host,
    )


def told_entry(told: Told, host: str) -> Json:
    """Write an entry that a host told."""
    return _entry({**told, "at": ms(told["at"]), "until": ms(told["until"])}, host)


_SHOWN_DATA = (
    "seconds",
    "blame",
    "doing",
    "place",
    "step",
    "crashed",
    "holder",
    "token",
    "failures",
    "spacing",
)


def _entry(entry: Json, host: str) -> Json:
    data = entry["data"] or {}
    shown = {name: _plain(data[name]) for name in _SHOWN_DATA if data.get(name) is not None}
    return {
        name: value
        for name, value in {
            "at": entry["at"],
            "until": entry["until"],
            "kind": entry["kind"],
            "task": entry["task"],
            "who": short(entry["who"] or ""),
            "note": short(entry["note"] or ""),
            "data": shown,
            **_safe(words_of(entry, host)),
        }.items()
        if value not in (None, "", {})
    }


def _safe(words: Json) -> Json:
    return {
        name: short(said) if isinstance(said, str) else [*map(short, said)] for name, said in words.items()
    }


def _plain(value: object) -> object:
    return value if isinstance(value, int | float | bool) else short(value)


def record_told(told: Told) -> Record:
    """Read a record that another host told."""
    slot = _us(told["slot"])
    lateness = told["lateness"]
    return Record(
        told["task"],
        slot,
        _us(told["last"]),
        told["count"],
        told["fate"],
        told["reason"],
        told["trigger"],
        told["run"],
        None if lateness is None else slot + round(lateness * 1e6),
        told["duration"],
        told["text"] or "",
    )


def _us(text: str) -> int:
    moment = datetime.fromisoformat(text)
    return int(moment.timestamp()) * 1_000_000 + moment.microsecond
