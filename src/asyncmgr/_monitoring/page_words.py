"""The page's words for fates, and for what befell a service. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncmgr._history.slots import FATES
from asyncmgr._history.words import length

_RUNS = {
    "succeeded": ("ok", "succeeded", "succeeded in"),
    "nothing": ("mute", "nothing to do", "had nothing to do after"),
    "failed": ("bad", "failed", "failed after"),
    "timed_out": ("bad", "timed out", "timed out after"),
    "cancelled": ("slate", "cancelled", "was cancelled after"),
}
_REASONS = {
    "overlap": ("warn", "still running", "a run was still going"),
    "paused": ("slate", "paused", "it was paused"),
    "disabled": ("gone", "switched off", "it was switched off"),
    "not_owner": ("gone", "elsewhere", "it ran elsewhere"),
    "lease_lost": ("warn", "lease lost", "the lease was lost"),
    "backoff": ("bad", "held back", "it was held back after failures"),
    "draining": ("gone", "was stopping", "the service was stopping"),
    "removed": ("gone", "removed", "it was taken off the schedule"),
    "suspended": ("sleep", "slept", "the machine slept"),
    "clock": ("sleep", "clock set", "the clock was set forward"),
    "blocked": ("bad", "loop blocked", "the event loop was blocked"),
    "stopped": ("sleep", "no CPU", "the process got no CPU"),
    "down": ("gone", "down", "the service was down"),
    "late": ("warn", "too late", "it could only start too late"),
}


def _fate(fate: str, reason: str | None) -> list[str | None]:
    words = _RUNS[fate] if reason is None else _REASONS.get(reason, ("gone", reason, reason))
    return [fate, reason, *words]


FATE_WORDS = [_fate(fate, reason) for fate, reason in FATES]
"""For each number of a mark: fate, reason, colour, what is written into a band, and what a sentence says."""

DID = {
    "pause": "paused",
    "resume": "resumed",
    "reschedule": "rescheduled",
    "enable": "switched on",
    "disable": "switched off",
    "cancel": "cancelled a run of",
    "trigger": "ran",
    "remove": "removed",
}
"""What somebody did to a task, by the verb."""


def words_of(entry: Mapping[str, Any], host: str) -> dict[str, Any]:
    """Return what the page says of an entry of the journal.

    ``did`` is what somebody did; ``say`` is in a few words and in full what is over, for the list of what was earlier;
    ``mark`` is a colour and what is written into the row of the event loop.
    """
    words: dict[str, Any] = {}
    did = DID.get(entry["kind"])
    if did is not None:
        words["did"] = did
    say = _by_somebody(entry, host, did) if did is not None else _befell(entry, host)
    if say is not None:
        words["say"] = list(say)
    mark = _mark(entry)
    if mark is not None:
        words["mark"] = list(mark)
    return words


def _by_somebody(entry: Mapping[str, Any], host: str, did: str) -> tuple[str, str] | None:
    who, task = entry["who"], entry["task"] or ""
    if who in (None, "", "code"):
        return None
    subject = "a timer" if who == "timer" else who
    return f"{subject} {did} {task}", f"{who} {did} {task} on {host}{_note(entry)}"


def _befell(entry: Mapping[str, Any], host: str) -> tuple[str, str] | None:
    kind, data, lasted = entry["kind"], entry["data"] or {}, _lasted(entry)
    if kind == "blocked":
        blame = data.get("blame") or "something"
        doing = f", {data['doing']}" if data.get("doing") else ""
        place = f", in {data['place']}" if data.get("place") else ""
        return f"{blame} blocked a loop", f"{blame} blocked the event loop of {host}{lasted}{doing}{place}"
    if kind == "suspended":
        return f"{host} slept", f"{host} slept{lasted}"
    if kind == "stopped":
        return f"{host} got no CPU", f"The process on {host} got no CPU{lasted}"
    if kind == "clock":
        way = "forward" if data.get("step") == "forward" else "back"
        step = length(abs(data.get("seconds") or 0))
        return "a clock was set", f"The clock of {host} was set {way} by {step}"
    if kind == "down":
        crashed = ": it did not stop properly" if data.get("crashed") else ""
        return f"{host} was down", f"{host} was down{lasted}{crashed}"
    if kind == "lease_lost":
        return f"{host} lost a lease", f"{host} lost the lease of {entry['task'] or ''}{_note(entry)}"
    return None


def _mark(entry: Mapping[str, Any]) -> tuple[str, str] | None:
    kind, data = entry["kind"], entry["data"] or {}
    lasted = length((entry["until"] - entry["at"]) / 1000) if entry["until"] else ""
    if kind == "blocked":
        return "bad", f"{lasted} {data.get('blame') or data.get('doing') or 'blocked'}".strip()
    if kind in ("suspended", "stopped", "down"):
        tone, word = {
            "suspended": ("sleep", "slept"),
            "stopped": ("sleep", "no CPU"),
            "down": ("gone", "down"),
        }[kind]
        return tone, f"{word} {lasted}".strip()
    if kind == "clock":
        sign = "+" if data.get("step") == "forward" else "-"
        return "sleep", f"clock {sign}{length(abs(data.get('seconds') or 0))}"
    return ("slate", kind) if kind in ("started", "stopping") else None


def _lasted(entry: Mapping[str, Any]) -> str:
    """Write how long it was; moments are milliseconds."""
    return f" for {length((entry['until'] - entry['at']) / 1000)}" if entry["until"] else ""


def _note(entry: Mapping[str, Any]) -> str:
    return (
        f" (\N{LEFT DOUBLE QUOTATION MARK}{entry['note']}\N{RIGHT DOUBLE QUOTATION MARK})"
        if entry["note"]
        else ""
    )
