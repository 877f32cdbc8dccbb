"""Writes what the control verbs answer, as JSON values. Pure."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Any

from asyncmgr._common.safe_text import error_text
from asyncmgr._service.key_verbs import KeyStatus
from asyncmgr._tasks.status import LastStatus, PausedStatus, RunningStatus, TaskStatus
from asyncmgr.events import RunFinished


def status_as_json(status: TaskStatus) -> dict[str, Any]:
    """Write a status: moments in ISO 8601, lengths in seconds."""
    return {
        "task": status.full_name,
        "state": status.state,
        "schedule": status.schedule,
        "spacing": status.spacing,
        "tz": status.tz,
        "next_due": _moment(status.next_due),
        "last_run": _moment(status.last_run),
        "last_success": _moment(status.last_success),
        "running": None if status.running is None else _running(status.running),
        "last": None if status.last is None else _last(status.last),
        "paused": None if status.paused is None else _paused(status.paused),
        "off": status.off,
        "failures": status.failures,
        "failing_since": _moment(status.failing_since),
        "error": status.error,
        "runs": status.runs,
        "skipped": status.skipped,
        "missed": status.missed,
        "owner": status.owner,
        "owner_since": _moment(status.owner_since),
        "fencing_token": status.fencing_token,
        "fresh": status.fresh,
        "freshness": status.freshness,
        "critical": status.critical,
        "held_spacing": status.held_spacing,
        "usual": status.usual,
        "timeout": status.timeout or 0.0,
        "keys": None if status.keys is None else asdict(status.keys),
    }


def key_as_json(status: KeyStatus) -> dict[str, Any]:
    """Write the status of one key of a task with `each=`."""
    return {
        "key": str(status.key),
        "state": status.state,
        "last_run": _moment(status.last_run),
        "next_due": _moment(status.next_due),
        "outcome": status.outcome,
        "duration": status.duration,
        "failures": status.failures,
        "error": status.error,
        "running_since": _moment(status.running_since),
        "owner": status.owner,
    }


def _running(running: RunningStatus) -> dict[str, Any]:
    return {
        "run_id": running.run_id,
        "since": _moment(running.since),
        "trigger": running.trigger,
        "attempt": running.attempt,
        "where": running.where,
        "progress": None if running.progress is None else running.progress._asdict(),
    }


def _last(last: LastStatus) -> dict[str, Any]:
    return {
        "fate": last.fate,
        "slot": _moment(last.slot),
        "lateness": last.lateness,
        "duration": last.duration,
        "error": last.error,
    }


def _paused(paused: PausedStatus) -> dict[str, Any]:
    return {
        "by": paused.by,
        "since": _moment(paused.since),
        "until": _moment(paused.until),
        "note": paused.note,
    }


def record_as_json(record: RunFinished) -> dict[str, Any]:
    """Write the record of a run that has ended."""
    return {
        "run_id": record.run_id,
        "trigger": record.trigger,
        "slot": _moment(record.slot),
        "lateness": record.lateness,
        "duration": round(record.duration, 6),
        "outcome": record.outcome,
        "error": None if record.error is None else error_text(record.error),
        "attempts": record.attempts,
    }


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
