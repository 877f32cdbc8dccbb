"""What listeners may be, and what becomes of one that raises."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import gc
import pickle
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from unittest import mock

import pytest
import structlog

from asyncmgr import Outcome, RunContext
from asyncmgr.errors import InvalidListener
from asyncmgr.events import ClockStepped, Event, Listener, Listeners, RunFinished, ServiceStarted
from asyncmgr.testing import VirtualTime
from tests.helpers import Recorded, task

EVENT = ServiceStarted("s", "h")


async def note(event: Event) -> None:
    raise AssertionError("nobody awaits it")


class Noting:
    async def __call__(self, event: Event) -> None:
        raise AssertionError("nobody awaits it")

    async def note(self, event: Event) -> None:
        raise AssertionError("nobody awaits it")


async def stream(event: Event) -> Any:
    yield event


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (note, f"{__name__}.note"),
        (Noting(), "Noting object"),
        (Noting().note, f"{__name__}.Noting.note"),
        (functools.partial(note), f"{__name__}.note"),
        (functools.partial(functools.partial(Noting())), "Noting object"),
        (mock.AsyncMock(), "AsyncMock"),
        (stream, f"{__name__}.stream"),
    ],
)
def test_async_listeners_are_refused(given: Any, name: str) -> None:
    """Where they are given, with their name and what to write: nothing would ever await them."""
    listeners = Listeners()
    with pytest.raises(InvalidListener, match=r"is async.*asyncio\.create_task") as caught:
        listeners.add(given)
    assert name in str(caught.value)
    assert not listeners


@pytest.mark.parametrize(
    ("given", "kinds", "text"),
    [
        (None, (), "the listener None cannot be called"),
        (print, ("RunFinished",), "the listener builtins.print asks for 'RunFinished'"),
        (print, (RunFinished, EVENT), "asks for ServiceStarted"),
    ],
)
def test_what_cannot_be_told_is_refused(given: Any, kinds: Any, text: str) -> None:
    """Else each event would raise, at whatever the service was doing just then."""
    with pytest.raises(InvalidListener, match=text):
        Listeners().add(given, *kinds)


@pytest.mark.parametrize("given", [print, [].append, Noting, functools.partial(print, "told"), mock.Mock()])
def test_what_can_be_called_is_taken(given: Any) -> None:
    """Functions, bound methods, classes and objects."""
    listeners = Listeners()
    remove = listeners.add(given, RunFinished, ClockStepped)
    assert listeners
    remove()
    assert not listeners


def test_the_service_refuses_where_it_is_asked() -> None:
    """`add_listener` is the door that users know."""
    with pytest.raises(TypeError, match="is async"):
        Recorded().service.add_listener(cast("Listener", note))


@pytest.mark.filterwarnings("error")
def test_a_function_that_answers_a_coroutine_is_told_of() -> None:
    """A lambda around one is not seen to be async; the coroutine is closed, and the log says what to write."""
    listeners = Listeners()
    heard: list[Event] = []
    listeners.add(cast("Listener", lambda event: note(event)))
    listeners.add(heard.append)
    with structlog.testing.capture_logs() as logs, warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        listeners.tell(EVENT)
        gc.collect()
    (failed,) = logs
    assert failed["event"] == "listener.failed"
    assert "asyncio.create_task" in str(failed["exc_info"])
    assert (heard, warned) == ([EVENT], [])


class Owner:
    """A part of an application that cannot be shown."""

    def __init__(self, raised: BaseException) -> None:
        self.raised = raised

    def __repr__(self) -> str:
        raise RuntimeError("detached")

    def hear(self, event: Event) -> None:
        raise self.raised


@pytest.mark.parametrize(
    "raised", [ValueError("no"), SystemExit(3), asyncio.CancelledError(), GeneratorExit()]
)
def test_what_a_listener_raises_is_logged(raised: BaseException) -> None:
    """The others are told, whatever it raises, and its owner is not asked for text."""
    listeners = Listeners()
    heard: list[Event] = []
    listeners.add(Owner(raised).hear)
    listeners.add(heard.append)
    with structlog.testing.capture_logs() as logs:
        listeners.tell(EVENT)
    (failed,) = logs
    assert (failed["listener"], failed["on"]) == (f"{__name__}.Owner.hear", "ServiceStarted")
    assert failed["exc_info"] is raised
    assert heard == [EVENT]


def test_a_keyboard_interrupt_goes_through() -> None:
    """Ctrl-C under a plain `asyncio.run` arrives in whatever runs, a listener too: it must not be lost there."""
    listeners = Listeners()
    listeners.add(Owner(KeyboardInterrupt()).hear)
    with structlog.testing.capture_logs() as logs, pytest.raises(KeyboardInterrupt):
        listeners.tell(EVENT)
    assert logs == []


def test_ctrl_c_in_a_listener_ends_the_program() -> None:
    """`asyncio.run` gets the interrupt, ends its tasks, and the service stops; the failure is counted by then."""
    recorded: list[Recorded] = []

    async def bad(context: RunContext) -> None:
        raise ValueError("broken")

    async def main() -> None:
        recorded.append(Recorded(task(bad, spacing=0.01)))
        recorded[0].service.add_listener(Owner(KeyboardInterrupt()).hear, RunFinished)
        async with recorded[0].service:
            await asyncio.sleep(60)

    with structlog.testing.capture_logs(), pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    (entry,) = recorded[0].manager._asyncmgr.tasks().values()
    assert entry.standing.trouble is not None
    assert (entry.standing.trouble.failures, entry.standing.running) == (1, 0)


def test_records_can_be_shown() -> None:
    """A listener that prints what it is told does not fail because of what a task raised."""
    slot = datetime(2026, 1, 1, tzinfo=UTC)
    error = ValueError(Owner(ValueError()))
    event = RunFinished("M.t", "a-1", "schedule", slot, 0.0, 1.5, Outcome.FAILED, error)
    text = repr(event)
    assert text.startswith("RunFinished(task='M.t', run_id='a-1', trigger='schedule', slot=datetime")
    assert "error=<ValueError whose repr() raised RuntimeError>" in text
    assert repr(EVENT) == "ServiceStarted(service='s', host='h')"


async def test_a_record_is_whole_however_it_is_read(virtual_time: VirtualTime) -> None:
    """Fields that are read when asked for are fields like others: equal, hashable, copied, pickled and shown."""

    async def noop(context: RunContext) -> None: ...

    recorded = Recorded(task(noop, spacing=10))
    await virtual_time.run_for(recorded.service, seconds=10)
    (event,) = recorded.of(RunFinished)
    again = pickle.loads(pickle.dumps(copy.copy(event)))
    assert again == event
    assert hash(again) == hash(event)
    assert repr(again) == repr(event)
    built = RunFinished(
        "M.noop",
        event.run_id,
        "schedule",
        virtual_time.start + timedelta(seconds=10),
        0.0,
        0.0,
        event.outcome,
        None,
    )
    assert event == built
    assert dataclasses.replace(event, task="M.b") == dataclasses.replace(built, task="M.b")
    assert not hasattr(event, "absent")
    assert not hasattr(built, "absent")
