"""Writes the answers to verbs as sentences. Pure: it gets the moment as an argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from asyncmgr._cli.status_text import ahead, clock, running_in_words, took
from asyncmgr._common.durations import format_duration

Answer: TypeAlias = Mapping[str, Any]

Tell: TypeAlias = Callable[[Answer, datetime], str]
"""Writes an answer as sentences, at a moment."""

PAUSE = 3600.0
"""Seconds of a pause where nothing is said."""


def triggered(answer: Answer, now: datetime) -> str:
    name, run = answer["task"]["task"], answer.get("run")
    if run is None:
        return f"{name}: run {answer['run_id']} is on its way."
    error = f": {run['error']}" if run["error"] else ""
    return f"{name}: run {run['run_id']} {_outcome(run['outcome'])} after {took(run['duration'])}{error}"


def _outcome(outcome: str) -> str:
    return {"timed_out": "timed out", "nothing": "had nothing to do", "cancelled": "was cancelled"}.get(
        outcome, outcome
    )


def cancelled(answer: Answer, now: datetime) -> str:
    name, run_ids = answer["task"]["task"], answer["run_ids"]
    if not run_ids:
        return f"{name}: nothing to cancel, no such run is in progress."
    are = "is" if len(run_ids) == 1 else "are"
    return f"{name}: {', '.join(run_ids)} {are} cancelled; {following_in_words(answer, now)}"


def pause_text(*, is_default: bool) -> Tell:
    def tell(answer: Answer, now: datetime) -> str:
        told = answer["task"]
        name, until = told["task"], told["paused"]["until"]
        if until is None:
            said = f"{name} is paused for ever; 'asyncmgr resume {name}' ends it."
        else:
            default = f", for {format_duration(PAUSE)} since --for says nothing else" if is_default else ""
            said = f"{name} is paused until {clock(until, now)}{default}."
        if told["running"] is not None:
            said += f" A run goes on: {running_in_words(told['running'], now)}."
        return said

    return tell


def resumed(answer: Answer, now: datetime) -> str:
    was = "runs again" if answer["changed"] else "was not paused"
    return f"{answer['task']['task']} {was}; {following_in_words(answer, now)}"


def rescheduled(answer: Answer, now: datetime) -> str:
    told = answer["task"]
    zone = f" {told['tz']}" if told["tz"] else ""
    return f"{told['task']}: {told['schedule']}{zone}, until the service restarts; {following_in_words(answer, now)}"


def enabled(answer: Answer, now: datetime) -> str:
    was = "is switched on until the service restarts" if answer["changed"] else "was on already"
    return f"{answer['task']['task']} {was}; {following_in_words(answer, now)}"


def disabled(answer: Answer, now: datetime) -> str:
    told = answer["task"]
    said = f"{told['task']} is switched off until the service restarts."
    if told["running"] is not None:
        said += f" A run goes on: {running_in_words(told['running'], now)}."
    return said


def following_in_words(answer: Answer, now: datetime) -> str:
    due = answer["task"]["next_due"]
    if due is None:
        return f"no slot is to come: it is {answer['task']['state']}."
    return f"next slot {clock(due, now)}, {ahead(due, now)}."
