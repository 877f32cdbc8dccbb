"""Writes moments, lengths and states in few words, as the page does. Pure: moments are milliseconds since 1970."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from asyncmgr._common.safe_text import printable

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000

ORDER = ("hung", "failing", "held", "stale", "skips", "running", "paused", "disabled", "new", "ok")
"""States, the most urgent first."""


class Look(NamedTuple):
    """How a state or a fate is shown: a sign that is read without colours, and the name of a colour."""

    sign: str
    colour: str


LOOKS = {
    "hung": Look("!", "warn"),
    "failing": Look("✕", "bad"),
    "held": Look("⊘", "bad"),
    "stale": Look("◷", "bad"),
    "skips": Look("»", "warn"),
    "running": Look("▶", "run"),
    "paused": Look("‖", "slate"),
    "disabled": Look("○", "mute"),
    "new": Look("·", "mute"),
    "ok": Look("✓", "ok"),
}

REASONS = {
    "paused": "paused",
    "disabled": "switched off",
    "backoff": "held back",
    "lease_lost": "lease lost",
    "draining": "was stopping",
    "removed": "removed",
    "suspended": "slept",
    "clock": "clock set",
    "blocked": "loop blocked",
    "stopped": "no CPU",
    "down": "down",
    "late": "too late",
    "overlap": "still running",
    "not_owner": "elsewhere",
}

FATES = {"timed_out": "timed out", "succeeded": "ok"}
"""Fates of the last run, short enough for a column."""


def clock(moment: float) -> str:
    """Write local time to the second: ``02:58:41``."""
    return f"{_local(moment):%H:%M:%S}"


def when(moment: float, now: float, *, seconds: bool = True) -> str:
    """Write a moment in local time, without its day where that is today, without seconds where they are 0."""
    local = _local(moment)
    day = "" if local.date() == _local(now).date() else f"{local:%Y-%m-%d} "
    return f"{day}{local:%H:%M:%S}" if seconds and local.second else f"{day}{local:%H:%M}"


def _local(moment: float) -> datetime:
    try:
        return datetime.fromtimestamp(moment / 1000).astimezone()
    except (OverflowError, ValueError, OSError):
        return datetime.fromtimestamp(0).astimezone()


def long(length: float) -> str:
    """Write a length: ``300 ms``, ``4.2 s``, ``3 min 10 s``, ``47 min``, ``2 h 5 min``, ``1 d 3 h``."""
    seconds = length / 1000
    if seconds < 0.0005:
        return "0 ms"
    if seconds < 1:
        return f"{round(length)} ms"
    if seconds < 119.5:
        return f"{round(seconds, 1):g} s" if seconds < 9.95 else f"{round(seconds)} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h"


def ago(moment: float, now: float) -> str:
    return "just now" if now - moment < 1000 else f"{long(now - moment)} ago"


def countdown(moment: float, now: float) -> str:
    """Write how long until a moment: ``0:19``, ``3h 01m``, ``2d 4h``, ``due``."""
    left = -int(-(moment - now) // 1000)
    if left <= 0:
        return "due"
    if left < 3600:
        return f"{left // 60}:{left % 60:02}"
    if left < 86_400:
        return f"{left // 3600}h {left % 3600 // 60:02}m"
    return f"{left // 86_400}d {left % 86_400 // 3600}h"


def sentence(parts: Sequence[Any], now: float) -> str:
    """Write a sentence of `page_data`: texts, and moments such as ``["ago", moment]``."""
    return "".join(_part(part, now) for part in parts).replace(", in any", ", any")


def _part(part: Any, now: float) -> str:
    if isinstance(part, str):
        return printable(part)
    kind, moment = part
    if kind == "at":
        return when(moment, now)
    if kind == "ago":
        return long(max(0.0, now - moment))
    return "any moment" if moment < now else countdown(moment, now)


def state_of(facts: Mapping[str, Any]) -> str:
    """Return the state, or ``skips`` where a run is in the way of slots."""
    need = facts.get("need")
    return "skips" if need is not None and need["kind"] == "skips" else str(facts["state"])


def standing(facts: Mapping[str, Any], now: float) -> str:
    """Say how a task stands in two or three words."""
    state, last, running = state_of(facts), facts.get("last"), facts.get("running")
    if state == "hung" and running:
        return f"hangs, {long(now - running['since'])}"
    if state == "failing":
        many = facts.get("failures", 0) > 1
        return (
            f"failed {facts['failures']} in a row"
            if many
            else f"failed {ago(last['end'], now) if last else ''}"
        )
    if state == "held":
        return f"held back after {facts.get('failures', 0)}"
    if state == "stale":
        success = facts.get("success")
        return f"no success, {long(now - success)}" if success else "no success yet"
    if state == "skips":
        return f"skips, {facts['counts'][1]:,} so far"
    if state == "paused":
        until = (facts.get("paused") or {}).get("until")
        return f"paused to {when(until, now, seconds=False)}" if until else "paused"
    if state == "disabled":
        return "switched off"
    return _well(facts, now)


def _well(facts: Mapping[str, Any], now: float) -> str:
    last, running = facts.get("last"), facts.get("running")
    if running:
        progress = running.get("progress")
        part = f", {min(100, round(progress[0] / progress[1] * 100))} %" if progress and progress[1] else ""
        if part or not last or now - running["since"] > 2000:
            return f"running {long(max(0.0, now - running['since']))}{part}"
    if not last:
        return "not run yet"
    return f"{FATES.get(last['fate'], last['fate'])}, {ago(last['end'], now)}"


def fate_in_words(fate: str, reason: str | None) -> str:
    said = {"timed_out": "timed out", "nothing": "nothing to do"}.get(fate, fate)
    return f"{said}: {REASONS.get(reason, reason)}" if reason else said


def plural(count: int, one: str, many: str | None = None) -> str:
    """Write ``1 task``, ``4 tasks``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
