"""The failure policy as a table: delays between attempts, longer spacings, early runs. No event loop."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncmgr import InvalidPeriodicTaskArg, Retry, Settings, Skip, periodic_task
from asyncmgr._settings.model import TaskSettings
from asyncmgr._tasks.declare import declare
from asyncmgr._tasks.overrides import override_options
from asyncmgr._tasks.policy import Hold, early_run_after, spacing_after
from asyncmgr.errors import InvalidSettings

SECOND = 1_000_000


@pytest.mark.parametrize(
    ("retry", "delays"),
    [
        (Retry(5, jitter=0), [1, 2, 4, 8]),
        (Retry(5, delay=10, backoff=3, jitter=0), [10, 30, 60, 60]),
        (Retry(3, delay=timedelta(seconds=2), max_delay=timedelta(seconds=3), jitter=0), [2, 3]),
        (Retry(3, delay=0), [0, 0]),
        (Retry(3, delay=100, max_delay=1, jitter=0), [1, 1]),
    ],
)
def test_delays(retry: Retry, delays: list[float]) -> None:
    """Each is `backoff` times as long as the one before, to `max_delay`."""
    assert [retry.seconds_before(n, lambda: 0.5) for n in range(2, retry.attempts + 1)] == delays


@given(st.floats(0, 1), st.integers(2, 100))
def test_jitter_only_shortens(draw: float, attempt: int) -> None:
    """So that no delay exceeds `max_delay`."""
    retry = Retry(100, jitter=0.25)
    plain = Retry(100, jitter=0).seconds_before(attempt, lambda: draw)
    assert 0.75 * plain <= retry.seconds_before(attempt, lambda: draw) <= plain <= 60


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"attempts": 0}, "Retry(attempts=0) is not accepted; attempts is a whole number from 1 to 100"),
        (
            {"attempts": True},
            "Retry(attempts=True) is not accepted; attempts is a whole number from 1 to 100",
        ),
        ({"attempts": 3, "delay": -1}, "Retry(delay=-1) is not accepted; delay is 0 or more seconds"),
        (
            {"attempts": 3, "max_delay": float("nan")},
            "Retry(max_delay=nan) is not accepted; max_delay is 0 or more",
        ),
        (
            {"attempts": 3, "backoff": 0.5},
            "Retry(backoff=0.5) is not accepted; backoff is a number from 1 to 1000",
        ),
        ({"attempts": 3, "jitter": 2}, "Retry(jitter=2) is not accepted; jitter is a number from 0 to 1"),
        (
            {"attempts": 3, "on": BaseException},
            "Retry(on=<class 'BaseException'>) is not accepted; on is an exception",
        ),
        (
            {"attempts": 3, "on": ()},
            "Retry(on=()) is not accepted; on is an exception class, or a tuple of them",
        ),
    ],
)
def test_a_retry_that_makes_no_sense(values: dict[str, Any], text: str) -> None:
    """The error names the field, the value and what is accepted."""
    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        Retry(**values)
    assert str(caught.value).startswith(text)


def test_what_is_tried_again() -> None:
    """The classes of `on`, by default every `Exception`; never a `Skip`."""
    assert Retry(2).covers(ValueError())
    assert Retry(2).covers(TimeoutError())
    assert not Retry(2).covers(Skip("nothing new"))
    assert not Retry(2, on=Exception).covers(KeyboardInterrupt())
    assert Retry(2, on=(OSError, KeyError)).covers(KeyError())
    assert not Retry(2, on=OSError).covers(ValueError())


@pytest.mark.parametrize(
    ("spacing", "failures", "freshness", "expected"),
    [
        (150, 0, None, 150),
        (150, 1, None, 150),
        (150, 2, None, 300),
        (150, 5, None, 2400),  # "after 5 failures in a row it runs only every 40 min"
        (150, 50, None, 3600),
        (420, 50, None, 3360),  # whole spacings, at most an hour
        (10, 50, 120, 60),  # at most half of `freshness`
        (10, 50, 15, 10),  # never shorter than it was
        (7200, 50, None, 7200),
        (0.001, 10**6, None, 3600),
    ],
)
def test_longer_spacings(spacing: float, failures: int, freshness: int | None, expected: float) -> None:
    """They double from the second failure on."""
    limit = None if freshness is None else freshness * SECOND
    assert spacing_after(failures, round(spacing * SECOND), limit) == expected * SECOND


@pytest.mark.parametrize(
    ("left", "until_next", "expected"),
    [
        (120, 60, None),  # the next slot comes in time
        (120, 120, None),
        (120, 121, 60),  # it does not: halfway
        (120, None, 60),
        (1.9, 10, None),  # no sense in it any more
        (-5, 10, None),  # the promise is broken
    ],
)
def test_early_runs(left: float, until_next: float | None, expected: float | None) -> None:
    """Only where the next slot would break the promise, halfway to the moment at which it is broken."""
    until = None if until_next is None else until_next * SECOND
    found = early_run_after(round(left * SECOND), None if until is None else round(until))
    assert found == (None if expected is None else expected * SECOND)


def test_held_slots() -> None:
    """Those after the failure, to the end; none before it, where the wall was set back."""
    hold = Hold(100, 130, 40, 3, None, None)
    assert [hold.covers(slot) for slot in (90, 100, 110, 130, 140)] == [False, False, True, True, False]


# Declared and set


def test_a_number_stands_for_a_retry() -> None:
    """``retry=3`` in code is ``Retry(3)``."""
    assert declare({"retry": 3}).retry == Retry(3)
    assert declare({"retry": None}).retry is None
    with pytest.raises(InvalidPeriodicTaskArg, match="retry=: Retry\\(attempts=0\\) is not accepted"):
        periodic_task(retry=0)
    with pytest.raises(InvalidPeriodicTaskArg, match="retry is a Retry such as Retry\\(3\\), or a number"):
        periodic_task(retry="often")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"backoff": 1}, "backoff=1 is not accepted; backoff is True or False"),
        ({"pause_after": 0}, "pause_after=0 is not accepted; pause_after is a whole number, at least 1"),
        ({"pause_after": True}, "pause_after=True is not accepted; pause_after is a whole number"),
        ({"freshness": 0}, "freshness=0 is not accepted; freshness is at least 1 ms"),
        ({"critical": "yes"}, "critical='yes' is not accepted; critical is True or False"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], text: str) -> None:
    """Refused where they are declared."""
    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        periodic_task(**options)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, Retry(3)),
        ("3", Retry(3)),
        ({"attempts": 4, "delay": "2s", "max_delay": "1m"}, Retry(4, delay=2)),
        ({"attempts": 2, "backoff": 1, "jitter": 0.5}, Retry(2, backoff=1, jitter=0.5)),
    ],
)
def test_a_retry_in_settings(value: Any, expected: Retry) -> None:
    """A number of attempts, or a table with lengths as settings write them."""
    assert Settings(tasks={"M.t": {"retry": value}}).overrides_for(["M.t"])["M.t"].retry == expected
    assert TaskSettings(retry=value).retry == expected


def test_a_retry_in_a_file_and_a_variable(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is one value: a stronger place replaces all of it. A task may itself be named retry."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asyncmgr.toml").write_text(
        "[tasks.'M.t']\nretry = {attempts = 3, delay = '5s'}\npause_after = 4\nfreshness = '2m'\n"
        "[tasks.M.u.retry]\nattempts = 6\n[tasks.M.retry]\nbackoff = true\ncritical = true\n"
    )
    found = Settings().overrides_for(["M.t", "M.u", "M.retry"])
    assert found["M.t"].retry == Retry(3, delay=5)
    assert (found["M.t"].pause_after, found["M.t"].freshness) == (4, 120)
    assert found["M.u"].retry == Retry(6)
    assert (found["M.retry"].backoff, found["M.retry"].critical) == (True, True)
    monkeypatch.setenv("ASYNCMGR_TASKS__M__T__RETRY", '{"attempts": 9}')
    monkeypatch.setenv("ASYNCMGR_TASKS__M__U__RETRY", "2")
    found = Settings().overrides_for(["M.t", "M.u"])
    assert (found["M.t"].retry, found["M.u"].retry) == (Retry(9), Retry(2))


@pytest.mark.parametrize(
    "value", [0, "often", {"delay": 3}, {"attempts": 3, "on": "OSError"}, {"attempts": 3, "x": 1}]
)
def test_a_wrong_retry_in_settings(value: Any) -> None:
    """It says what is accepted."""
    with pytest.raises(InvalidSettings, match="a number of attempts, or a table of attempts, delay, backoff"):
        Settings(tasks={"M.t": {"retry": value}})


def test_settings_keep_the_errors_of_the_code() -> None:
    """Settings say how often, and the code says which errors; 1 attempt switches it off."""
    declared = declare({"retry": Retry(2, on=OSError)})
    assert override_options(declared, TaskSettings(retry=Retry(5))).retry == Retry(5, on=OSError)
    assert override_options(declared, TaskSettings(retry=Retry(1))).retry == Retry(1, on=OSError)
    assert override_options(declare({}), TaskSettings(retry=Retry(5))).retry == Retry(5)
