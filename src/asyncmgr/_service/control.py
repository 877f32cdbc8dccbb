"""The verbs of a running service as data: a request in, an answer out. It knows nothing of sockets, calls and pages.

A request is a JSON object with the key ``verb`` and the verb's arguments. An answer is ``{"ok": true, ...}``, or
``{"ok": false, "error": "AlreadyRunning", "text": "..."}``. Other rooms add verbs by `Control.add`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeAlias

from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._common.durations import parse_duration
from asyncmgr._common.log import log
from asyncmgr._common.safe_text import error_text, safe_repr
from asyncmgr._service.control_answers import key_as_json, record_as_json, status_as_json
from asyncmgr._service.handles import TaskHandle
from asyncmgr._service.health import Health, as_json
from asyncmgr._service.version import own_version
from asyncmgr._settings.problems import listed, suggestion
from asyncmgr._tasks.actions import Actor, acting_as
from asyncmgr._tasks.status import TaskStatus
from asyncmgr.errors import AsyncmgrError, InvalidRequest

PAUSE = 3600.0
"""Seconds of a pause that is asked for without a length."""

PAGE = 50
"""Tasks in one answer, so that no answer keeps the event loop for more than a few milliseconds."""

LONGEST_TEXT = 500
"""Characters of a note or a name."""

Answer: TypeAlias = dict[str, Any]


class Steered(Protocol):
    """The part of a `Service` that is needed here; a Protocol, since `service` imports this module."""

    @property
    def name(self) -> str: ...  # pragma: no cover
    @property
    def host(self) -> str: ...  # pragma: no cover
    @property
    def state(self) -> str: ...  # pragma: no cover
    @property
    def health(self) -> Health: ...  # pragma: no cover
    @property
    def tasks(self) -> tuple[TaskHandle, ...]: ...  # pragma: no cover
    @property
    def task_count(self) -> int: ...  # pragma: no cover
    def task(self, task: str) -> TaskHandle: ...  # pragma: no cover
    def status_page(self, after: int, most: int) -> Sequence[TaskStatus]: ...  # pragma: no cover


class Arguments:
    """The arguments of one request. Each reading names what is wrong with a value; `None` = not given."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def refuse_others(self, verb: str, accepted: Iterable[str]) -> None:
        """Refuse arguments that the verb does not have."""
        others = [name for name in self._given if name not in accepted]
        if others:
            raise InvalidRequest(
                f"{verb}: unknown argument {safe_repr(others[0], 60)}{suggestion(str(others[0]), accepted)}; "
                f"accepted: {listed(accepted) or 'none'}"
            )

    def text(self, name: str) -> str | None:
        value = self._given.get(name)
        if value is not None and not (isinstance(value, str) and 0 < len(value) <= LONGEST_TEXT):
            raise self._wrong(name, f"a text of 1 to {LONGEST_TEXT} characters")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._given.get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def number(self, name: str, default: int = 0) -> int:
        value = self._given.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
            raise self._wrong(name, "a whole number, at least 0")
        return value

    def seconds(self, name: str) -> float | None:
        value = self._given.get(name)
        if value is None:
            return None
        try:
            return parse_duration(value)
        except ValueError as exc:
            raise InvalidRequest(f"{name}: {exc}") from None

    def moment(self, name: str) -> datetime | None:
        value = self._given.get(name)
        if value is None:
            return None
        try:
            moment = datetime.fromisoformat(value)
        except (TypeError, ValueError):
            moment = None
        if moment is None or moment.utcoffset() is None:
            raise self._wrong(name, "a moment with its offset, such as '2026-01-31T04:17:00+00:00'")
        return moment

    def _wrong(self, name: str, accepted: str) -> InvalidRequest:
        return InvalidRequest(
            f"{name}={safe_repr(self._given.get(name), 60)} is not accepted; write {accepted}"
        )


class Verb(NamedTuple):
    """One verb: what it does, which arguments it has, and whether it only reads."""

    do: Callable[[Control, Arguments], Awaitable[Answer]]
    accepts: tuple[str, ...]
    reads: bool = False


class Control:
    """Answers the requests to one service."""

    def __init__(self, service: Steered) -> None:
        self.service = service
        self.since: datetime = to_datetime(read_wall())
        self._verbs = dict(_VERBS)

    def add(self, name: str, verb: Verb) -> None:
        """Add a verb, for a part of the service that answers questions of its own."""
        self._verbs[name] = verb

    def reads(self, name: str) -> bool:
        """Whether there is a verb of this name which only reads."""
        return name in self._verbs and self._verbs[name].reads

    def find(self, task: str | None) -> TaskHandle:
        """Find a task by its full name, or by its own name where that is of one task only; without regard to case.

        Raises
        ------
        InvalidRequest
            There is no such task, or there are several.
        """
        if task is None:
            raise InvalidRequest("no task; write task='Manager.task'")
        with contextlib.suppress(AsyncmgrError):
            return self.service.task(task)
        handles = self.service.tasks
        wanted = task.casefold()
        found = [handle for handle in handles if handle.full_name.casefold() == wanted]
        found = found or [
            handle for handle in handles if handle.full_name.rpartition(".")[2].casefold() == wanted
        ]
        if len(found) == 1:
            return found[0]
        names = [handle.full_name for handle in found or handles]
        if found:
            raise InvalidRequest(f"{safe_repr(task, 100)} is the name of several tasks: {listed(names)}")
        raise InvalidRequest(
            f"the service {self.service.name} on {self.service.host} has no task {safe_repr(task, 100)}"
            f"{suggestion(task, names)}; it has {listed(names)}"
        )

    async def perform(self, verb: str, arguments: Mapping[str, Any], who: Actor) -> Answer:
        """Do what is asked; return the answer without ``ok``.

        Raises
        ------
        InvalidRequest
            There is no such verb or task, or an argument is wrong.
        AsyncmgrError
            The verb is refused; the text says why.
        """
        found = self._verbs.get(verb)
        if found is None:
            raise InvalidRequest(
                f"no verb {safe_repr(verb, 60)}{suggestion(str(verb), self._verbs)}; "
                f"there are {listed(self._verbs)}"
            )
        given = Arguments({name: value for name, value in arguments.items() if value is not None})
        given.refuse_others(verb, found.accepts)
        with acting_as(who):
            answer = await found.do(self, given)
        return {"service": self.service.name, "host": self.service.host, **answer}

    async def answer(self, request: object, who: Actor) -> Answer:
        """Answer a request; an error is an answer too."""
        try:
            if not isinstance(request, dict) or not isinstance(request.get("verb"), str):
                raise InvalidRequest("a request is a JSON object with the key 'verb'")
            arguments = {name: value for name, value in request.items() if name != "verb"}
            return {"ok": True, **await self.perform(request["verb"], arguments, who)}
        except AsyncmgrError as exc:
            return {"ok": False, "error": type(exc).__name__, "text": str(exc)}
        except Exception as exc:
            log.error("control.failed", service=self.service.name, exc_info=exc)
            return {
                "ok": False,
                "error": "RuntimeError",
                "text": f"a fault of asyncmgr's own: {error_text(exc)}",
            }


# The verbs


async def _hello(control: Control, given: Arguments) -> Answer:
    """Say who answers."""
    return {
        "pid": os.getpid(),
        "version": own_version(),
        "state": str(control.service.state),
        "since": control.since.isoformat(),
        "tasks": control.service.task_count,
    }


async def _health(control: Control, given: Arguments) -> Answer:
    """Report on the service: what needs somebody, and the verdicts of probes."""
    return {"health": as_json(control.service.health())}


async def _status(control: Control, given: Arguments) -> Answer:
    """Tell the status of one task, or of all: `PAGE` at a time, from number `after` on."""
    state = str(control.service.state)
    task, key = given.text("task"), given.text("key")
    if key is not None:
        handle = control.find(task)
        told = key_as_json(handle.key(key).status)
        return {"state": state, "tasks": [_told(handle)], "key": told, "next": None}
    if task is not None:
        return {"state": state, "tasks": [_told(control.find(task))], "next": None}
    after = given.number("after")
    page = control.service.status_page(after, PAGE)
    following = after + PAGE if control.service.task_count > after + PAGE else None
    return {"state": state, "tasks": [status_as_json(status) for status in page], "next": following}


def _told(handle: TaskHandle) -> Answer:
    return status_as_json(handle.status)


async def _trigger(control: Control, given: Arguments) -> Answer:
    handle, key = control.find(given.text("task")), given.text("key")
    triggered = handle if key is None else handle.key(key)
    if not given.flag("wait"):
        run_id = await triggered.trigger(wait=False)
        return {"run_id": run_id, "task": _told(handle)}
    record = await triggered.trigger()
    return {"run_id": record.run_id, "run": record_as_json(record), "task": _told(handle)}


async def _pause(control: Control, given: Arguments) -> Answer:
    handle = control.find(given.text("task"))
    length, until, ever = given.seconds("for"), given.moment("until"), given.flag("ever")
    if (length is not None) + (until is not None) + ever > 1:
        raise InvalidRequest("for, until and ever exclude each other; give one of them")
    if length is None and until is None and not ever:
        length = PAUSE
    handle.pause(for_=length, until=until, note=given.text("note"))
    return {"task": _told(handle)}


async def _resume(control: Control, given: Arguments) -> Answer:
    handle = control.find(given.text("task"))
    was_paused = handle.status.paused is not None
    handle.resume()
    return {"changed": was_paused, "task": _told(handle)}


async def _reschedule(control: Control, given: Arguments) -> Answer:
    handle = control.find(given.text("task"))
    handle.reschedule(spacing=given.seconds("spacing"), cron=given.text("cron"), tz=given.text("tz"))
    return {"task": _told(handle)}


async def _enable(control: Control, given: Arguments) -> Answer:
    handle = control.find(given.text("task"))
    was_off = handle.status.off is not None
    handle.enable()
    return {"changed": was_off, "task": _told(handle)}


async def _disable(control: Control, given: Arguments) -> Answer:
    handle = control.find(given.text("task"))
    handle.disable(note=given.text("note"))
    return {"task": _told(handle)}


async def _cancel(control: Control, given: Arguments) -> Answer:
    handle = control.find(given.text("task"))
    run_id, key = given.text("run_id"), given.text("key")
    if run_id is not None and key is not None:
        raise InvalidRequest("run_id and key exclude each other; give one of them")
    run_ids = handle.cancel(run_id) if key is None else handle.key(key).cancel()
    return {"run_ids": list(run_ids), "task": _told(handle)}


_VERBS: dict[str, Verb] = {
    "hello": Verb(_hello, (), reads=True),
    "health": Verb(_health, (), reads=True),
    "status": Verb(_status, ("task", "key", "after"), reads=True),
    "trigger": Verb(_trigger, ("task", "key", "wait")),
    "pause": Verb(_pause, ("task", "for", "until", "ever", "note")),
    "resume": Verb(_resume, ("task",)),
    "reschedule": Verb(_reschedule, ("task", "spacing", "cron", "tz")),
    "enable": Verb(_enable, ("task",)),
    "disable": Verb(_disable, ("task", "note")),
    "cancel": Verb(_cancel, ("task", "key", "run_id")),
}
