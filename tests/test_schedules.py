"""Schedules: a grid that never drifts, and cron across every kind of change of the clocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asyncmgr._common.clock import SECOND, to_datetime
from asyncmgr._tasks.schedules import SLOTS_COUNTED, Cron, Every, EveryPass

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
        ("* * * * * * *", "'* * * * * * *' has 7 fields; cron has 5, or 6 with seconds in front"),
        ("@reboot", "'@reboot' has 1 fields; cron has 5, or 6 with seconds in front"),
        ("61 * * * *", "'61 * * * *' is not a cron expression: Bad minute"),
        ("* 24 * * *", "'* 24 * * *' is not a cron expression: Bad hour"),
        ("0 0 0 * *", "'0 0 0 * *' is not a cron expression: Bad day-of-month"),
        ("0 0 * 13 *", "'0 0 * 13 *' is not a cron expression: Bad month"),
        ("0 0 * * 8", "'0 0 * * 8' is not a cron expression: Bad day-of-week"),
        ("60 * * * * *", "'60 * * * * *' is not a cron expression: Bad second"),
        ("*/0 * * * *", "'*/0 * * * *' is not a cron expression: Bad minute"),
        ("5-1 * * * *", "'5-1 * * * *' is not a cron expression: Bad minute"),
        ("a b c d e", "'a b c d e' is not a cron expression: Bad minute"),
        ("0 0 30 2 *", "'0 0 30 2 *' is not a cron expression: Bad day-of-month"),
        ("0 0 31 4,6,9,11 *", "'0 0 31 4,6,9,11 *' is not a cron expression: Bad day-of-month"),
        ("0 0 */8 * MON#5", "'0 0 */8 * MON#5' in UTC never comes: there is no such date"),
    ],
)
def test_an_expression_that_means_nothing_is_refused(expression: str, message: str) -> None:
    """With the expression and what is wrong with it; dates that never come, too."""
    with pytest.raises(ValueError, match=r"cron|never") as caught:
        Cron(expression)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "", "/etc/passwd", "../UTC", "Europe", "Europe/Berlin\0", "A" * 300]
)
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    """With an example, and without a look at other files."""
    with pytest.raises(
        ValueError, match=r"is not a time zone of this machine; write e\.g\. 'Europe/Berlin'$"
    ):
        Cron("@daily", zone)


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
def test_a_fixed_time_runs_as_under_debians_cron(
    expression: str, zone: str, around: tuple[int, int, int], expected: list[str]
) -> None:
    """A slot in the hour that is left out moves to its end; in the hour that comes twice it runs the first time."""
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
        ("0 30 2 * * *", "Europe/Berlin", (2026, 3, 29, 1), []),
        ("0 30 2 * * *", "Europe/Berlin", (2026, 10, 25, 1), ["02:30:00 +0200", "02:30:00 +0100"]),
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
    ("0 15 2 * * *", lambda local: (local.hour, local.minute) == (2, 15)),
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
    """The latest slot up to now, how many it stands for (up to a hundred), and the first after now."""
    slot = cron.first(moment)
    now = slot + later
    passed = (
        slots(cron, slot - 1, now) if later < 6 * HOUR else slots(cron, slot - 1, now)[-SLOTS_COUNTED - 2 :]
    )
    assume(passed)
    taken, missed, following = cron.turn(slot, now, 0)
    assert (taken, missed) == (passed[-1], min(len(passed) - 1, SLOTS_COUNTED))
    assert following == cron.first(now)


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_a_first_slot_off_the_grid_is_followed_by_the_grid(start: int, later: int) -> None:
    """`run_immediately` begins at any microsecond."""
    cron = Cron("*/5 * * * * *")
    taken, missed, following = cron.turn(start, start + later, 0)
    on_grid = list(range(start - start % (5 * SECOND) + 5 * SECOND, start + later + 1, 5 * SECOND))
    assert taken == (on_grid[-1] if on_grid else start)
    assert missed == min(len(on_grid), SLOTS_COUNTED)
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
    """The number of searches does not depend on the number of slots; the older ones are counted up to a hundred."""
    cron = Counting(expression, zone)
    slot = cron.first(utc(2026, 1, 1))
    searches.clear()
    taken, missed, following = cron.turn(slot, slot + YEARS_30, 0)
    assert len(searches) < 150
    assert taken <= slot + YEARS_30 < following
    assert cron.first(taken) == following
    assert missed == (7 if expression == "0 0 29 2 *" else SLOTS_COUNTED)


def test_thirty_years_of_milliseconds_are_one_division() -> None:
    """The count of a grid is exact."""
    assert Every(1_000).turn(0, YEARS_30, 0) == (YEARS_30, YEARS_30 // 1_000, YEARS_30 + 1_000)
