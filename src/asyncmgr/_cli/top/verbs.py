"""What to ask before each verb, and how its answer reads. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncmgr._cli.top.dialogs import Given, Question
from asyncmgr._cli.top.words import long
from asyncmgr._cli.top.world import Row, Standing
from asyncmgr._cli.verb_text import (
    Tell,
    cancelled,
    disabled,
    enabled,
    pause_text,
    rescheduled,
    resumed,
    triggered,
)
from asyncmgr._common.durations import parse_duration
from asyncmgr._common.safe_text import printable

TELLS: Mapping[str, Tell] = {
    "trigger": triggered,
    "pause": pause_text(is_default=False),
    "resume": resumed,
    "reschedule": rescheduled,
    "enable": enabled,
    "disable": disabled,
    "cancel": cancelled,
}

EVER = ("ever", "forever")

_NOTE = ("note", "Note, for whoever looks next", "")


def question_of(verb: str, row: Row, shown: Standing) -> Question | None:
    """Return what to ask before a verb; `None` = nothing, it is done at once."""
    name = printable(row.name, 80)
    on = f" on {printable(shown.on.wire.host, 40)}" if len(row.on) > 1 else ""
    if verb == "cancel":
        running = shown.facts.get("running")
        since = f"It has been running for {long(shown.on.now() - running['since'])}. " if running else ""
        run_id = {"run_id": running["run"]} if running else {}
        return Question(
            f"Cancel the run of {name}{on}?",
            f"{since}It may leave work half done.",
            "Cancel run",
            hurts=True,
            read=lambda given: run_id,
        )
    if verb == "pause":
        return Question(
            f"Pause {name}{on}",
            "Its slots are recorded as paused. A resume runs none of them.",
            "Pause",
            [("for", "For how long: 15m, 1h, 4h, 1d, or ever", "1h"), _NOTE],
            read=_read_pause,
        )
    if verb == "disable":
        return Question(
            f"Switch {name} off{on}?",
            "It gets no slots until somebody switches it on, or the service restarts.",
            "Switch off",
            [_NOTE],
            hurts=True,
            read=_read_note,
        )
    if verb == "reschedule":
        spacing, schedule = shown.facts.get("spacing"), str(shown.facts.get("schedule", ""))
        return Question(
            f"Reschedule {name}{on}",
            "It holds until the service restarts.",
            "Reschedule",
            [
                (
                    "schedule",
                    "Time between two slots (30, 1m30s), or a cron expression",
                    f"{spacing:g}" if spacing else schedule,
                )
            ],
            read=_read_schedule,
        )
    return None


def _read_note(given: Given) -> dict[str, Any]:
    return {"note": given["note"]} if given["note"] else {}


def _read_pause(given: Given) -> dict[str, Any]:
    if given["for"] in EVER:
        return {"ever": True, **_read_note(given)}
    seconds = parse_duration(given["for"])
    if seconds <= 0:
        raise ValueError(f"{given['for']!r} is no length of a pause; write 15m, 1h or ever")
    return {"for": seconds, **_read_note(given)}


def _read_schedule(given: Given) -> dict[str, Any]:
    text = given["schedule"]
    if not text:
        raise ValueError("write the time between two slots, or a cron expression")
    return {"cron": text} if " " in text or text.startswith("@") else {"spacing": parse_duration(text)}
