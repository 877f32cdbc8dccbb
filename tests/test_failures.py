"""Which failures of a task are told apart."""

from __future__ import annotations

import asyncio
import json
import sysconfig
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from asyncmgr._tasks.failures import REMEMBERED, Episode, kind_of, place_of

START = datetime(2026, 1, 1, tzinfo=UTC)


def raised_by(function: Callable[[], object]) -> Exception:
    try:
        function()
    except Exception as exc:
        return exc
    raise AssertionError("it raised nothing")


def parse(text: str) -> object:
    return json.loads(text)


def test_the_place_is_the_users_innermost_line() -> None:
    """A library raises the same refusal from many of its own lines; what differs is who asked it."""
    one, other = raised_by(lambda: parse("{")), raised_by(lambda: parse("[1, 2"))
    assert place_of(one) == place_of(other) == (__file__, parse.__code__.co_firstlineno + 1)
    assert kind_of(one) != kind_of(raised_by(lambda: json.loads("{")))


def test_an_installed_application_has_places_too() -> None:
    """Where all code is in `site-packages`, the user's is the package whose task was called."""
    home = sysconfig.get_path("purelib")
    library = compiled("def fail():\n\n    raise ValueError", f"{home}/lib/deep.py", __name__="lib.deep")
    jobs = compiled(
        "def a(): fail()\ndef b(): fail()",
        f"{home}/jobs/tasks.py",
        __name__="jobs.tasks",
        fail=library["fail"],
    )
    errors = [raised_by(jobs["a"]), raised_by(jobs["b"])]
    for error in errors:  # without the frames of this test, which is not installed
        assert error.__traceback__ is not None
        error.__traceback__ = error.__traceback__.tb_next
    assert [place_of(error) for error in errors] == [
        (f"{home}/jobs/tasks.py", 1),
        (f"{home}/jobs/tasks.py", 2),
    ]


def compiled(source: str, file: str, **names: Any) -> dict[str, Any]:
    exec(compile(source, file, "exec"), names)
    return names


def test_a_group_is_told_apart_by_its_members() -> None:
    """A TaskGroup raises all of its errors from one line."""

    def group(*errors: Exception) -> ExceptionGroup[Exception]:
        return ExceptionGroup("unhandled", errors)

    assert kind_of(group(ValueError("a"))) == kind_of(group(ValueError("b")))
    assert kind_of(group(ValueError())) != kind_of(group(LookupError()))
    assert kind_of(group(group(ValueError()))) != kind_of(group(group(LookupError())))


def test_an_error_without_a_traceback_has_its_type() -> None:
    """A timeout is the service's own error, and has no line."""
    assert place_of(TimeoutError()) is None
    assert kind_of(TimeoutError()) != kind_of(asyncio.CancelledError()) != kind_of(None)


def test_an_error_that_cannot_be_looked_at_has_its_type() -> None:
    """Whatever a class makes of `exceptions`."""

    class Odd(ExceptionGroup[Exception]):
        @property
        def exceptions(self) -> Any:
            raise RuntimeError

    episode = Episode(START)
    assert episode.is_news(Odd("odd", [ValueError()]))
    assert not episode.is_news(Odd("odd", [ValueError()]))


@pytest.mark.parametrize("count", [REMEMBERED, 100])
def test_news_are_limited(count: int) -> None:
    """An episode remembers so many kinds; more of them are told by the reminders alone."""
    episode = Episode(START)
    news = [episode.is_news(type(f"E{number}", (Exception,), {})()) for number in range(count)]
    assert sum(news) == REMEMBERED


def test_this_module_is_not_a_library() -> None:
    """Else the tests above would show something else."""
    assert not Path(__file__).is_relative_to(sysconfig.get_path("purelib"))
