"""The page's words for fates and for what befell a service (13)."""

from __future__ import annotations

from typing import Any

import pytest

from asyncmgr._history.slots import CODES, FATES
from asyncmgr._monitoring.page_words import FATE_WORDS, words_of


def test_every_fate_has_words() -> None:
    """By the number that marks have; each says its colour, a few words and a part of a sentence."""
    assert [(fate, reason) for fate, reason, *_ in FATE_WORDS] == list(FATES)
    assert all(isinstance(word, str) and word for _, _, *words in FATE_WORDS for word in words)
    assert FATE_WORDS[CODES["skipped", "overlap"]][2:] == ["warn", "still running", "a run was still going"]
    assert FATE_WORDS[CODES["timed_out", None]][2:] == ["bad", "timed out", "timed out after"]


def entry(kind: str, seconds: float = 0, **more: Any) -> dict[str, Any]:
    until = 1000 + round(seconds * 1000) if seconds else None
    return {
        "at": 1000,
        "until": until,
        "kind": kind,
        "task": None,
        "who": None,
        "note": None,
        "data": {},
    } | more


BLOCK = {"blame": "Reports.render", "doing": "computing", "place": "render at reports.py:212", "seconds": 4.2}
SAID: list[tuple[dict[str, Any], list[str] | None, list[str] | None]] = [
    (
        entry("blocked", 4.2, data=BLOCK),
        [
            "Reports.render blocked a loop",
            "Reports.render blocked the event loop of eu-1 for 4.2 s, computing, in render at reports.py:212",
        ],
        ["bad", "4.2 s Reports.render"],
    ),
    (
        entry("blocked", 1, data={"doing": "garbage collection"}),
        [
            "something blocked a loop",
            "something blocked the event loop of eu-1 for 1 s, garbage collection",
        ],
        ["bad", "1 s garbage collection"],
    ),
    (entry("suspended", 540), ["eu-1 slept", "eu-1 slept for 9 min"], ["sleep", "slept 9 min"]),
    (
        entry("stopped", 3),
        ["eu-1 got no CPU", "The process on eu-1 got no CPU for 3 s"],
        ["sleep", "no CPU 3 s"],
    ),
    (
        entry("clock", data={"step": "forward", "seconds": 3600}),
        ["a clock was set", "The clock of eu-1 was set forward by 1 h"],
        ["sleep", "clock +1 h"],
    ),
    (
        entry("clock", data={"step": "back", "seconds": -60.0}),
        ["a clock was set", "The clock of eu-1 was set back by 60 s"],
        ["sleep", "clock -60 s"],
    ),
    (
        entry("down", 120, data={"crashed": True}),
        ["eu-1 was down", "eu-1 was down for 2 min: it did not stop properly"],
        ["gone", "down 2 min"],
    ),
    (
        entry("lease_lost", task="Reports.send", note="no answer"),
        ["eu-1 lost a lease", "eu-1 lost the lease of Reports.send (“no answer”)"],
        None,
    ),
    (
        entry("pause", task="Mail.digest", who="ana", note="provider moves"),
        ["ana paused Mail.digest", "ana paused Mail.digest on eu-1 (“provider moves”)"],
        None,
    ),
    (
        entry("resume", task="Mail.digest", who="timer"),
        ["a timer resumed Mail.digest", "timer resumed Mail.digest on eu-1"],
        None,
    ),
    (entry("trigger", task="Mail.digest", who="code"), None, None),
    (entry("started"), None, ["slate", "started"]),
    (entry("lease_taken", task="Reports.send"), None, None),
]


@pytest.mark.parametrize(("told", "say", "mark"), SAID)
def test_what_befell_a_service_is_said(
    told: dict[str, Any], say: list[str] | None, mark: list[str] | None
) -> None:
    """In a few words, in full, and in the row of the event loop; what the program itself does is not news."""
    words = words_of(told, "eu-1")
    assert words.get("say") == say
    assert words.get("mark") == mark
