"""Schedules: a grid that never drifts, and cron across every kind of change of the clocks."""

from __future__ import annotations

import itertools
import sys
import time as time_module
from bisect import bisect_left
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asyncmgr._common.clock import SECOND, to_datetime
from asyncmgr._tasks.schedules import Cron, Every, EveryPass, Once, share_of

MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR
YEARS_30 = 30 * 365 * DAY

ZONES = [
    "Africa/Cairo",  # changes at midnight, on a Friday
    "Africa/Casablanca",  # winter time for the month of Ramadan
    "America/Havana",  # changes at midnight
    "America/New_York",
    "America/Santiago",  # changes at midnight, on the other half of the globe
    "America/St_Johns",  # until 2011 a minute past midnight
    "Asia/Beirut",  # changes at midnight
    "Asia/Kathmandu",  # never changes, and is 5:45 ahead
    "Asia/Tehran",  # changed at midnight until 2022
    "Australia/Lord_Howe",  # changes by half an hour
    "Europe/Berlin",
    "Europe/London",
    "Pacific/Apia",  # left out the whole of 30 December 2011
]
YEARS = [2010, 2011, 2017, 2026]


def us(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def utc(*parts: int) -> int:
    return us(datetime(*parts, tzinfo=UTC))  # type: ignore[misc, arg-type]


@cache
def changes(zone: str, year: int) -> tuple[datetime, ...]:
    """The instants, in UTC, at which the offset of a zone changes in a year; to the minute."""
    info, found = ZoneInfo(zone), []
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in range(366)]
    for before, after in itertools.pairwise(days):
        if before.astimezone(info).utcoffset() != after.astimezone(info).utcoffset():
            minutes = (before + timedelta(minutes=minute) for minute in range(24 * 60 + 1))
            offset = before.astimezone(info).utcoffset()
            found.append(next(minute for minute in minutes if minute.astimezone(info).utcoffset() != offset))
    return tuple(found)


CHANGES = [(zone, change) for zone in ZONES for year in YEARS for change in changes(zone, year)]
AT_EACH_CHANGE = pytest.mark.parametrize(
    ("zone", "change"), CHANGES, ids=[f"{zone}-{change:%Y-%m-%d}" for zone, change in CHANGES]
)


def slots(cron: Cron, after: int, until: int) -> list[int]:
    """All slots of an expression: each is the first after the one before."""
    found = []
    while (after := cron.first(after)) <= until:
        found.append(after)
    return found


def on_the_wall(cron: Cron, moments: Iterable[int]) -> list[str]:
    return [
        to_datetime(moment).astimezone(ZoneInfo(cron.tz)).strftime("%m-%d %H:%M:%S %z") for moment in moments
    ]


# Every


@pytest.mark.parametrize(
    ("slot", "now", "window", "turn"),
    [
        (10, 10, 0, (10, 0, 20)),
        (10, 9, 1, (10, 0, 20)),
        (10, 8, 2, (10, 0, 20)),
        (10, 15, 2, (10, 0, 20)),
        (10, 17, 2, (10, 0, 20)),
        (10, 18, 2, (20, 1, 30)),
        (10, 19, 0, (10, 0, 20)),
        (10, 20, 0, (20, 1, 30)),
        (10, 55, 0, (50, 4, 60)),
        (10, 3, 0, (10, 0, 20)),
    ],
)
def test_a_turn_takes_the_latest_slot_due(
    slot: int, now: int, window: int, turn: tuple[int, int, int]
) -> None:
    """(that slot, how many older ones it stands for, the next one): on a grid of 10, whatever the moment."""
    assert Every(10).turn(slot, now, window) == turn


steps = st.integers(1_000, 100 * 365 * DAY)
instants = st.integers(-(10**17), 10**17)


@given(steps, instants, st.data())
def test_a_turn_keeps_the_grid(step: int, slot: int, data: st.DataObject) -> None:
    """The next slot is the first `slot + k * step` after now + window; with those it stands for, none is left out."""
    window = data.draw(st.integers(0, min(step // 2, 10 * SECOND)))
    now = data.draw(st.integers(slot - window, slot + 10**17))
    taken, missed, following = Every(step).turn(slot, now, window)
    assert (following - slot) % step == 0
    assert following - step <= now + window < following
    assert taken == slot + missed * step == following - step


@given(steps, instants, st.lists(st.integers(0, 10 * DAY), max_size=30))
def test_a_grid_does_not_drift(step: int, start: int, pauses: list[int]) -> None:
    """However late each turn is: every slot is on the grid of the start, and is taken or counted once."""
    every, now = Every(step), start
    slot = first = every.first(start)
    accounted = 0
    for pause in pauses:
        now = max(now, slot) + pause
        taken, missed, slot = every.turn(slot, now, 0)
        accounted += missed + 1
        assert (taken - start) % step == 0
        assert first + accounted * step == slot


def test_every_describes_itself() -> None:
    """Spacing in seconds, one gap for all slots, words for people."""
    every = Every(90_500_000)
    assert (every.spacing, every.gap(0), every.first(7), str(every)) == (
        90.5,
        90_500_000,
        90_500_007,
        "every 1m30.5s",
    )


# Every pass


def test_an_every_pass_task_is_due_whenever_anybody_looks() -> None:
    """The moment itself is the slot, nothing is ever missed."""
    schedule = EveryPass()
    assert schedule.first(7) == 7
    assert schedule.turn(7, 1_000, 0) == (1_000, 0, 1_000)
    assert (schedule.spacing, schedule.gap(7), str(schedule)) == (0.0, 60_000_000, "every pass")


# Cron: what is written


@pytest.mark.parametrize(
    ("expression", "first", "second"),
    [
        ("30 2 * * *", (2026, 1, 1, 2, 30), (2026, 1, 2, 2, 30)),
        ("*/20 * * * *", (2026, 1, 1, 0, 20), (2026, 1, 1, 0, 40)),
        ("0 0 * * MON", (2026, 1, 5), (2026, 1, 12)),
        ("0 0 L * *", (2026, 1, 31), (2026, 2, 28)),
        ("0 0 29 2 *", (2028, 2, 29), (2032, 2, 29)),
        ("15 30 2 * * *", (2026, 1, 1, 2, 30, 15), (2026, 1, 2, 2, 30, 15)),
        ("*/15 * * * * *", (2026, 1, 1, 0, 0, 15), (2026, 1, 1, 0, 0, 30)),
        ("@yearly", (2027, 1, 1), (2028, 1, 1)),
        ("@annually", (2027, 1, 1), (2028, 1, 1)),
        ("@monthly", (2026, 2, 1), (2026, 3, 1)),
        ("@weekly", (2026, 1, 4), (2026, 1, 11)),
        ("@daily", (2026, 1, 2), (2026, 1, 3)),
        ("@midnight", (2026, 1, 2), (2026, 1, 3)),
        ("@hourly", (2026, 1, 1, 1), (2026, 1, 1, 2)),
        ("@DAILY", (2026, 1, 2), (2026, 1, 3)),
    ],
)
def test_slots_of_an_expression(expression: str, first: tuple[int, ...], second: tuple[int, ...]) -> None:
    """5 fields, 6 with seconds in front, or a name; always after the moment asked about."""
    cron = Cron(expression)
    moment = datetime(*first, tzinfo=UTC), datetime(*second, tzinfo=UTC)  # type: ignore[misc, arg-type]
    start = utc(2026, 1, 1)
    assert (cron.first(start), cron.first(cron.first(start))) == (us(moment[0]), us(moment[1]))
    assert cron.turn(us(moment[0]), us(moment[0]), 0) == (us(moment[0]), 0, us(moment[1]))
    assert cron.gap(start) == us(moment[1]) - us(moment[0])


def test_a_slot_is_after_the_moment_to_the_microsecond() -> None:
    """A microsecond before it finds it, the slot itself finds the next."""
    cron = Cron("0 3 * * *", "Europe/Berlin")
    slot = utc(2026, 1, 1, 2)
    assert cron.first(slot - 1) == slot
    assert cron.first(slot) == cron.first(slot + 1) == slot + DAY


def test_cron_describes_itself() -> None:
    """It has no constant spacing, and two of the same words are equal."""
    cron = Cron("@daily", "Europe/Berlin")
    assert (cron.spacing, str(cron)) == (None, "cron '@daily' Europe/Berlin")
    assert cron == Cron("@daily", "Europe/Berlin")
    assert cron != Cron("@daily")
    assert hash(cron) == hash(Cron("@daily", "Europe/Berlin"))


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "'' has 0 fields; cron has 5, or 6 with seconds in front"),
        ("* * *", "'* * *' has 3 fields; cron has 5, or 6 with seconds in front"),
        ("5", "'5' has 1 field; cron has 5, or 6 with seconds in front"),
        (
            "* * * * * * *",
            "'* * * * * * *' has 7 fields; cron has 5, or 6 with seconds in front, and no year",
        ),
        (
            "0 0 5 * * ? 2026",
            "'0 0 5 * * ? 2026' has 7 fields; cron has 5, or 6 with seconds in front, and no year: leave 2026 out",
        ),
        (
            "0 5 * * * 2026",
            "'0 5 * * * 2026' has 6 fields; cron has 5, or 6 with seconds in front, and no year: leave 2026 out",
        ),
        (
            "0 5 * * * 2026-2030",
            "'0 5 * * * 2026-2030' has 6 fields; cron has 5, or 6 with seconds in front, and no year: "
            "leave 2026-2030 out",
        ),
        (
            "TZ=Europe/Berlin 0 5 * * *",
            "'TZ=Europe/Berlin 0 5 * * *' is not a cron expression: the time zone is an option of its own; "
            "write cron='0 5 * * *', tz='Europe/Berlin'",
        ),
        (
            "CRON_TZ=UTC @daily",
            "'CRON_TZ=UTC @daily' is not a cron expression: the time zone is an option of its own; "
            "write cron='@daily', tz='UTC'",
        ),
        ("@every 5m", "'@every 5m' is no cron expression: write spacing=300 instead of cron="),
        (
            "@every often",
            "'@every often' is no cron expression: write spacing=<seconds> instead of cron=",
        ),
        ("@reboot", "'@reboot' is no cron expression: write run_immediately=True for a run at the start"),
        (
            "@dayly",
            "'@dayly' is not a cron expression: it has 1 field and is none of the names @yearly, @annually, @monthly, "
            "@weekly, @daily, @midnight, @hourly; cron has 5, or 6 with seconds in front",
        ),
        (
            "61 * * * *",
            "'61 * * * *' is not a cron expression: Bad minute '61'; "
            "minute is 0-59, '*', lists '1,2', ranges '1-5', steps '*/5'",
        ),
        (
            "* 24 * * *",
            "'* 24 * * *' is not a cron expression: Bad hour '24'; "
            "hour is 0-23, '*', lists '1,2', ranges '1-5', steps '*/5'",
        ),
        (
            "0 0 0 * *",
            "'0 0 0 * *' is not a cron expression: Bad day-of-month '0'; day-of-month is 1-31, '*', lists '1,2', "
            "ranges '1-5', steps '*/5', the last day 'L', the last working day 'LW'",
        ),
        (
            "0 0 * 13 *",
            "'0 0 * 13 *' is not a cron expression: Bad month '13'; "
            "month is 1-12 or JAN-DEC, '*', lists '1,2', ranges '1-5', steps '*/5'",
        ),
        (
            "0 0 * * 8",
            "'0 0 * * 8' is not a cron expression: Bad day-of-week '8'; day-of-week is 0-6 or SUN-SAT, '*', lists "
            "'1,2', ranges '1-5', steps '*/5', the last Friday '5L', the second 'FRI#2'; 7 is Sunday too",
        ),
        (
            "60 * * * * *",
            "'60 * * * * *' is not a cron expression: Bad second '60'; "
            "second is 0-59, '*', lists '1,2', ranges '1-5', steps '*/5'",
        ),
        (
            "*/0 * * * *",
            "'*/0 * * * *' is not a cron expression: Bad minute '*/0'; "
            "minute is 0-59, '*', lists '1,2', ranges '1-5', steps '*/5'",
        ),
        (
            "22-2/0 * * * *",
            "'22-2/0 * * * *' is not a cron expression: Bad minute '22-2/0'; "
            "minute is 0-59, '*', lists '1,2', ranges '1-5', steps '*/5'",
        ),
        (
            "a b c d e",
            "'a b c d e' is not a cron expression: Bad minute 'a'; "
            "minute is 0-59, '*', lists '1,2', ranges '1-5', steps '*/5'",
        ),
        ("0 0 30 2 *", "'0 0 30 2 *' never comes: there is no such date"),
        ("0 0 0 30 2 *", "'0 0 0 30 2 *' never comes: there is no such date"),
        ("0 0 31 4,6,9,11 *", "'0 0 31 4,6,9,11 *' never comes: there is no such date"),
        ("0 0 */8 * MON#5", "'0 0 */8 * MON#5' never comes: there is no such date"),
    ],
)
def test_an_expression_that_means_nothing_is_refused(expression: str, message: str) -> None:
    """With the expression and what is wrong with it; dates that never come, too."""
    with pytest.raises(ValueError, match=r"cron|never") as caught:
        Cron(expression)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("wrapped", "plain"),
    [
        ("0 0 * * FRI-MON", "0 0 * * FRI,SAT,SUN,MON"),
        ("0 0 * * fri-mon", "0 0 * * 5,6,0,1"),
        ("0 0 * * MON-SUN", "0 0 * * *"),
        ("0 0 * * SAT-SUN", "0 0 * * 6,0"),
        ("0 0 * * 6-2/2", "0 0 * * 6,1"),
        ("0 0 * * 7-2", "0 0 * * 0,1,2"),
        ("0 22-2 * * *", "0 22,23,0,1,2 * * *"),
        ("0 22-2/2 * * *", "0 22,0,2 * * *"),
        ("0 1,22-0 * * *", "0 1,22,23,0 * * *"),
        ("55-5 * * * *", "55,56,57,58,59,0,1,2,3,4,5 * * * *"),
        ("50-10/10 * * * * *", "50,0,10 * * * * *"),
        ("0 0 30-2 * *", "0 0 30,31,1,2 * *"),
        ("0 0 1 NOV-MAR *", "0 0 1 11,12,1,2,3 *"),
        ("0 0 1 11-3/2 *", "0 0 1 11,1,3 *"),
        ("0 0 ? * MON", "0 0 * * MON"),
        ("0 0 1 * ?", "0 0 1 * *"),
        ("0 0 12 ? * 2#1", "0 0 12 * * 2#1"),
        ("? ? ? ? ?", "* * * * *"),
    ],
)
def test_ranges_wrap_and_a_question_mark_is_a_star(wrapped: str, plain: str) -> None:
    """They are other words for the same slots; a range that wraps is no star, so it restricts its field."""
    start = utc(2026, 1, 1)
    one, other = Cron(wrapped, "Europe/Berlin"), Cron(plain, "Europe/Berlin")
    found = itertools.accumulate(range(40), lambda slot, _: one.first(slot), initial=start)
    assert list(found) == list(
        itertools.accumulate(range(40), lambda slot, _: other.first(slot), initial=start)
    )


def test_a_range_that_wraps_restricts_its_day_field() -> None:
    """`MON-SUN` is every day, but it does not begin with a star: either of the two day fields fits."""
    every_day = Cron("0 0 13 * MON-SUN")
    assert slots(every_day, utc(2026, 1, 1), utc(2026, 1, 4)) == [utc(2026, 1, day) for day in (2, 3, 4)]


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "", "/etc/passwd", "../UTC", "Europe", "Europe/Berlin\0", "A" * 300]
)
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    """With an example, and without a look at other files."""
    with pytest.raises(
        ValueError, match=r"is not a time zone of this machine; write e\.g\. 'Europe/Berlin'$"
    ):
        Cron("@daily", zone)


def test_a_machine_without_zone_data_is_told_of_the_package_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name of the zone is not at fault then."""

    def none(name: str) -> ZoneInfo:
        raise ZoneInfoNotFoundError(f"No time zone found with key {name}")

    none.no_cache = none  # type: ignore[attr-defined]
    monkeypatch.setattr("asyncmgr._tasks.schedules.ZoneInfo", none)
    with pytest.raises(ValueError, match="Berlin") as caught:
        Cron("@daily", "Europe/Berlin")
    assert str(caught.value) == (
        "'Europe/Berlin' is not a time zone of this machine, which has no time zone data at all: install the package "
        "tzdata; write e.g. 'Europe/Berlin'"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="the C library cannot be told of another zone there")
@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/20 * * * *", "0 0 * * *", "15 45 1-2 * * *"])
def test_local_is_the_zone_of_the_process(
    zone: str, expression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through both changes of a year it has the very slots of the zone by name."""
    monkeypatch.setenv("TZ", zone)
    time_module.tzset()
    try:
        for change in changes(zone, 2026) or (datetime(2026, 6, 1, tzinfo=UTC),):
            span = us(change) - 30 * HOUR, us(change) + 30 * HOUR
            assert slots(Cron(expression, "local"), *span) == slots(Cron(expression, zone), *span)
    finally:
        monkeypatch.undo()
        time_module.tzset()


# Cron: when the clocks change


@pytest.mark.parametrize(
    ("expression", "zone", "around", "expected"),
    [
        (
            "30 2 * * *",
            "Europe/Berlin",
            (2026, 3, 29),
            ["03-28 02:30:00 +0100", "03-29 03:00:00 +0200", "03-30 02:30:00 +0200"],
        ),
        (
            "15 30 2 * * *",
            "Europe/Berlin",
            (2026, 3, 29),
            ["03-28 02:30:15 +0100", "03-29 03:00:00 +0200", "03-30 02:30:15 +0200"],
        ),
        (
            "15 30 2 * * *",
            "Europe/Berlin",
            (2026, 10, 25),
            ["10-24 02:30:15 +0200", "10-25 02:30:15 +0200", "10-26 02:30:15 +0100"],
        ),
        (
            "30 2 * * *",
            "Europe/Berlin",
            (2026, 10, 25),
            ["10-24 02:30:00 +0200", "10-25 02:30:00 +0200", "10-26 02:30:00 +0100"],
        ),
        (
            "0 0 * * *",
            "Africa/Cairo",
            (2026, 4, 24),
            ["04-23 00:00:00 +0200", "04-24 01:00:00 +0300", "04-25 00:00:00 +0300"],
        ),
        (
            "30 23 * * *",
            "America/Santiago",
            (2026, 4, 4),
            ["04-03 23:30:00 -0300", "04-04 23:30:00 -0300", "04-05 23:30:00 -0400"],
        ),
        (
            "15 2 * * *",
            "Australia/Lord_Howe",
            (2026, 10, 4),
            ["10-03 02:15:00 +1030", "10-04 02:30:00 +1100", "10-05 02:15:00 +1100"],
        ),
        (
            "0 12 * * *",
            "Pacific/Apia",
            (2011, 12, 30),
            ["12-29 12:00:00 -1000", "12-31 00:00:00 +1400", "12-31 12:00:00 +1400"],
        ),
    ],
)
def test_a_fixed_time_moves_to_the_end_of_the_hour_left_out_and_runs_once(
    expression: str, zone: str, around: tuple[int, int, int], expected: list[str]
) -> None:
    """In the hour that comes twice it runs the first time; a whole day left out moves to that day's end."""
    cron = Cron(expression, zone)
    middle = us(datetime(*around, 12, tzinfo=ZoneInfo(zone)))
    assert on_the_wall(cron, slots(cron, middle - 36 * HOUR, middle + 40 * HOUR)[:3]) == expected


@pytest.mark.parametrize(
    ("expression", "zone", "change", "expected"),
    [
        (
            "0 * * * *",
            "Europe/Berlin",
            (2026, 3, 29, 1),
            ["01:00:00 +0100", "03:00:00 +0200", "04:00:00 +0200"],
        ),
        (
            "0 * * * *",
            "Europe/Berlin",
            (2026, 10, 25, 1),
            ["02:00:00 +0200", "02:00:00 +0100", "03:00:00 +0100"],
        ),
        (
            "30 * * * *",
            "Australia/Lord_Howe",
            (2026, 10, 3, 15, 30),
            ["01:30:00 +1030", "02:30:00 +1100", "03:30:00 +1100"],
        ),
        ("0 */30 2 * * *", "Europe/Berlin", (2026, 3, 29, 1), []),
        (
            "0 */30 2 * * *",
            "Europe/Berlin",
            (2026, 10, 25, 1),
            ["02:00:00 +0200", "02:30:00 +0200", "02:00:00 +0100", "02:30:00 +0100"],
        ),
    ],
)
def test_other_expressions_run_whenever_a_clock_shows_such_a_time(
    expression: str, zone: str, change: tuple[int, ...], expected: list[str]
) -> None:
    """Every hour is an hour, also when it comes twice or is left out."""
    cron, middle = Cron(expression, zone), utc(*change)
    wall = on_the_wall(cron, slots(cron, middle - HOUR - 1, middle + 2 * HOUR - 1))
    assert [moment.partition(" ")[2] for moment in wall] == expected


def fixed_times(zone: str, times: list[tuple[int, int]], first: date, last: date) -> list[int]:
    """The slots of times of day, by the naive rule: minute after minute until the local time exists."""
    found = set()
    for day, (hour, minute) in itertools.product(range((last - first).days + 1), times):
        naive = datetime.combine(first + timedelta(days=day), time(hour, minute))
        while not exists(naive, zone):
            naive += timedelta(minutes=1)
        found.add(us(naive.replace(tzinfo=ZoneInfo(zone))))
    return sorted(found)


def exists(naive: datetime, zone: str) -> bool:
    aware = naive.replace(tzinfo=ZoneInfo(zone))
    return aware.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == naive


@AT_EACH_CHANGE
def test_a_time_of_day_runs_once_per_local_day(zone: str, change: datetime) -> None:
    """Around every change of every zone: exactly the slots of the naive rule, each day that there is has one."""
    first, last = us(change) - 40 * HOUR, us(change) + 40 * HOUR
    day_before, day_after = change.date() - timedelta(days=4), change.date() + timedelta(days=4)
    for hour, minute in itertools.product((0, 1, 2, 3, 23), (0, 30)):
        found = slots(Cron(f"{minute} {hour} * * *", zone), first, last)
        naive = fixed_times(zone, [(hour, minute)], day_before, day_after)
        assert found == [slot for slot in naive if first < slot <= last]
        assert found == slots(Cron(f"0 {minute} {hour} * * *", zone), first, last)
        days = [to_datetime(slot).astimezone(ZoneInfo(zone)).date() for slot in found]
        if (zone, change.year, change.month) != ("Pacific/Apia", 2011, 12):
            assert all(after - before == timedelta(days=1) for before, after in itertools.pairwise(days))


@AT_EACH_CHANGE
def test_the_next_time_of_day_is_ahead_from_any_moment(zone: str, change: datetime) -> None:
    """Also from within the hour that comes twice, whose first passing is over."""
    days = change.date() - timedelta(days=4), change.date() + timedelta(days=4)
    for hour, minute in itertools.product((0, 1, 2, 23), (10, 45)):
        cron, naive = Cron(f"{minute} {hour} * * *", zone), fixed_times(zone, [(hour, minute)], *days)
        for moment in range(us(change) - 2 * HOUR, us(change) + 2 * HOUR, 20 * MINUTE):
            assert cron.first(moment) == next(slot for slot in naive if slot > moment)


def test_the_second_passing_of_an_hour_is_not_walked_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot a second: those of the hour that comes twice are over after its first passing."""
    cron = Cron("* 0-59 2 * * *", "Europe/Berlin")
    looked_at: list[datetime] = []
    first_passing = Cron._first_passing

    def counting(self: Cron, local: datetime) -> int:
        looked_at.append(local)
        return first_passing(self, local)

    monkeypatch.setattr(Cron, "_first_passing", counting)
    assert cron.first(utc(2026, 10, 25, 1, 0, 5)) == utc(2026, 10, 26, 1)
    assert len(looked_at) < 3


@AT_EACH_CHANGE
def test_several_times_of_a_day_run_once_each(zone: str, change: datetime) -> None:
    """Those that a change moves onto one another are one."""
    first, last = us(change) - 40 * HOUR, us(change) + 40 * HOUR
    naive = fixed_times(
        zone,
        [(hour, minute) for hour in (0, 1, 2, 23) for minute in (0, 15)],
        change.date() - timedelta(days=4),
        change.date() + timedelta(days=4),
    )
    assert slots(Cron("0,15 0-2,23 * * *", zone), first, last) == [
        slot for slot in naive if first < slot <= last
    ]


LOCAL_RULES: list[tuple[str, Callable[[datetime], bool]]] = [
    ("*/15 * * * *", lambda local: local.minute % 15 == 0),
    ("30 * * * *", lambda local: local.minute == 30),
    ("*/20 1 * * *", lambda local: local.hour == 1 and local.minute % 20 == 0),
    (
        "*/30 0-2 * * FRI,SAT,SUN",
        lambda local: local.hour <= 2 and local.minute % 30 == 0 and local.weekday() >= 4,
    ),
    ("0 */15 2 * * *", lambda local: local.hour == 2 and local.minute % 15 == 0),
]


@AT_EACH_CHANGE
def test_other_expressions_have_every_instant_that_fits(zone: str, change: datetime) -> None:
    """Around every change of every zone, exactly as a walk over the minutes has it."""
    first, last = us(change) - 30 * HOUR, us(change) + 30 * HOUR
    minutes = [
        (moment, to_datetime(moment).astimezone(ZoneInfo(zone))) for moment in range(first, last + 1, MINUTE)
    ]
    for expression, fits in LOCAL_RULES:
        naive = [moment for moment, local in minutes[1:] if fits(local)]
        assert slots(Cron(expression, zone), first, last) == naive, expression


fields = st.tuples(
    st.sampled_from(["0", "30", "*/10", "*/17", "7,37", "*"]),
    st.sampled_from(["0", "1", "2", "23", "1-3", "*/2", "*"]),
    st.sampled_from(["*", "1", "*/2", "L"]),
    st.just("*"),
    st.sampled_from(["*", "FRI", "SUN", "1-5"]),
)
crons = st.builds(
    lambda second, parts, zone: Cron(" ".join((*second, *parts)), zone),
    st.sampled_from([(), (), ("0",), ("*/30",), ("7",)]),
    fields,
    st.sampled_from(["UTC", *ZONES]),
)
around_changes = st.builds(
    lambda change, offset: us(change[1]) + offset,
    st.sampled_from(CHANGES),
    st.integers(-2 * DAY, 2 * DAY),
)


@given(crons, around_changes, st.integers(0, 3 * DAY))
def test_slots_increase_strictly_and_none_lies_between(cron: Cron, moment: int, later: int) -> None:
    """The first slot after a moment is the first after every moment up to it."""
    slot = cron.first(moment)
    assert slot > moment
    assert cron.first(slot) > slot
    between = min(moment + later, slot - 1)
    assert cron.first(between) == slot


@given(crons, around_changes, st.integers(0, 2 * DAY))
def test_a_turn_agrees_with_naive_enumeration(cron: Cron, moment: int, later: int) -> None:
    """The latest slot up to now, how many it stands for, and the first after now."""
    slot = cron.first(moment)
    now = slot + later
    passed = slots(cron, slot - 1, now)
    assume(passed)
    taken, missed, following = cron.turn(slot, now, 0)
    assert (taken, missed) == (passed[-1], len(passed) - 1)
    assert following == cron.first(now)


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_first_slot_off_the_grid_is_followed_by_the_grid(start: int, later: int) -> None:
    """`run_immediately` begins at any microsecond."""
    cron = Cron("*/5 * * * * *")
    taken, missed, following = cron.turn(start, start + later, 0)
    on_grid = list(range(start - start % (5 * SECOND) + 5 * SECOND, start + later + 1, 5 * SECOND))
    assert taken == (on_grid[-1] if on_grid else start)
    assert missed == len(on_grid)
    assert following == (start + later) // (5 * SECOND) * 5 * SECOND + 5 * SECOND


def test_a_turn_before_its_slot_keeps_the_order() -> None:
    """After a small set-back a slot may be ahead of now: the next one is after both."""
    cron = Cron("* * * * *")
    slot = utc(2026, 1, 1, 12)
    assert cron.turn(slot, slot - 30 * SECOND, 0) == (slot, 0, slot + MINUTE)


class Counting(Cron):
    """Counts how often a slot is searched for."""

    def first(self, start: int) -> int:
        return super().first(start)

    def _after(self, wall: int) -> int:
        searches.append(wall)
        return super()._after(wall)


searches: list[int] = []


@pytest.mark.parametrize(
    "expression", ["* * * * * *", "* * * * *", "*/7 * * * *", "@daily", "@monthly", "0 0 29 2 *"]
)
@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_thirty_years_are_caught_up_without_a_walk(expression: str, zone: str) -> None:
    """The number of searches does not depend on the number of slots, and yet every one of them is counted.

    Only around a change of the clocks, twice a year, are daily slots searched for one by one.
    """
    cron = Counting(expression, zone)
    slot = cron.first(utc(2026, 1, 1))
    searches.clear()
    taken, missed, following = cron.turn(slot, slot + YEARS_30, 0)
    assert len(searches) < (400 if zone == "Europe/Berlin" else 150)
    assert taken <= slot + YEARS_30 < following
    assert cron.first(taken) == following
    passed = taken - slot
    expected = {
        "* * * * * *": passed // SECOND,
        "* * * * *": passed // MINUTE,
        "@daily": round(passed / DAY),
        "@monthly": 359,
        "0 0 29 2 *": 7,
    }
    assert missed == expected.get(expression, missed)


def test_thirty_years_of_milliseconds_are_one_division() -> None:
    """The count of a grid is exact."""
    assert Every(1_000).turn(0, YEARS_30, 0) == (YEARS_30, YEARS_30 // 1_000, YEARS_30 + 1_000)


# Once


NOON, NIGHT, MORNING = utc(2026, 1, 1, 12), utc(2026, 1, 2), utc(2026, 1, 2, 6)


def test_slots_one_by_one_end_with_the_last() -> None:
    """After it there is none: the task is over."""
    once = Once((NOON, NIGHT, MORNING))
    assert [once.first(moment) for moment in (0, NOON - 1, NOON, NIGHT, MORNING - 1, MORNING)] == [
        NOON,
        NOON,
        NIGHT,
        MORNING,
        MORNING,
        None,
    ]
    assert (once.gap(NOON), once.gap(NIGHT)) == (12 * HOUR, 6 * HOUR)
    assert once.gap(MORNING) > 30 * 365 * DAY
    assert (once.on_wall, once.spacing) == (True, None)


@pytest.mark.parametrize(
    ("slot", "now", "turn"),
    [
        (NOON, NOON, (NOON, 0, NIGHT)),
        (NOON, NIGHT - 1, (NOON, 0, NIGHT)),
        (NOON, NIGHT, (NIGHT, 1, MORNING)),
        (NOON, MORNING, (MORNING, 2, None)),
        (MORNING, MORNING + DAY, (MORNING, 0, None)),
        (NOON - HOUR, NOON - HOUR, (NOON - HOUR, 0, NOON)),
        (NOON - HOUR, NIGHT, (NIGHT, 2, MORNING)),
        (NOON, NOON - 30 * SECOND, (NOON, 0, NIGHT)),
    ],
)
def test_a_turn_of_one_off_slots(slot: int, now: int, turn: tuple[int, int, int | None]) -> None:
    """As on every grid: the latest one due, how many older ones it stands for, the next; off the grid too."""
    assert Once((NOON, NIGHT, MORNING)).turn(slot, now, 0) == turn


@pytest.mark.parametrize("moments", [(), (NIGHT, NOON), (NOON, NOON)])
def test_slots_one_by_one_are_in_order(moments: tuple[int, ...]) -> None:
    """Without any there is nothing to plan."""
    with pytest.raises(ValueError, match="are not slots in order"):
        Once(moments)


def test_one_off_slots_describe_themselves() -> None:
    """In UTC."""
    assert str(Once((NOON,))) == "once at 2026-01-01 12:00:00 UTC"
    assert str(Once((NOON, NIGHT, MORNING))) == "3 times from 2026-01-01 12:00:00 UTC"


# The share of a spacing


@pytest.mark.parametrize(
    "names",
    [
        [f"host/dev-{number:03}" for number in range(1000)],
        [f"dev-{number}/Volumes.sync" for number in range(1000)],
        [f"node{number:04}.example.org/A.b" for number in range(1000)],
        [f"host/Tenants.tenant-{number}" for number in range(1000)],
        [chr(97 + number % 26) * (1 + number // 26) for number in range(1000)],
    ],
    ids=lambda names: names[0],
)
def test_similar_names_are_spread_over_the_spacing(names: list[str]) -> None:
    """Any twentieth of the spacing holds 2 to 9 % of a thousand of them."""
    shares = sorted(share_of(name) for name in names)
    twentieth = (1 << 32) // 20
    for low in range(0, (1 << 32) - twentieth, twentieth // 8):
        held = bisect_left(shares, low + twentieth) - bisect_left(shares, low)
        assert 20 <= held <= 90


def test_a_share_is_always_the_same() -> None:
    """A version of asyncmgr that gave another one would move every task with `phase`."""
    shares = [share_of(text) for text in ("", "a/Volumes.sync", "größe", "\udc80")]
    assert shares == [309448485, 942314099, 2700527704, 1303163085]
