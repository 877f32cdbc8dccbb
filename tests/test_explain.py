"""`Service.explain`: what became of a slot, and why, in one or two sentences. In virtual time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

import asyncmgr._common.clock as clocks
from asyncmgr import Skip
from asyncmgr._common.clock import to_us
from asyncmgr._history.explain import Facts, Running, explain
from asyncmgr._history.journal import Entry
from asyncmgr._history.slots import FATES, TRIGGERS, Record
from asyncmgr._history.words import length
from asyncmgr._tasks.actions import Actor, acting_as
from asyncmgr.errors import AsyncmgrError
from asyncmgr.testing import VirtualTime, VirtualTimeLoop, run_virtual
from tests.helpers import Recorded, task

TWO = datetime(2026, 7, 1, 2, tzinfo=UTC)


async def noop(context: Any) -> None: ...


def after(**length: float) -> datetime:
    return TWO + timedelta(**length)


async def until(moment: datetime) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    await loop.let_pass((moment - loop.now()).total_seconds())


def block(seconds: float) -> None:
    """Block the event loop, as computing does: time passes and nothing else happens."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    loop._advance(round(seconds * 1e6))


@contextmanager
def stepped(seconds: float, *, asleep: bool = False) -> Iterator[None]:
    """Set the wall clock forward or back; with `asleep` the machine slept for that long."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    before = clocks.read_asleep
    if asleep:
        clocks.read_asleep = lambda: round(seconds * 1e6)
    try:
        with time_machine.travel(loop.now() + timedelta(seconds=seconds), tick=False):
            yield
    finally:
        clocks.read_asleep = before


def told(recorded: Recorded, at: datetime | None = None, name: str = "M.noop") -> str:
    return str(recorded.service.explain(name, at))


def virtually(coroutine: Any) -> Any:
    return run_virtual(coroutine, start=TWO)


def test_a_pause() -> None:
    """Who paused it, when, until when and why; nothing is caught up; and when it runs next."""

    async def main() -> None:
        recorded = Recorded(task(noop, cron="*/20 * * * *"))
        async with recorded.service:
            await until(after(minutes=17))
            with acting_as(Actor("ops (uid 1000)", "socket")):
                recorded.service.task("M.noop").pause(until=after(hours=2, minutes=17), note="provider moves")
            await until(after(hours=1, minutes=10))
            during = told(recorded, after(hours=1))
            await until(after(hours=2, minutes=18))
            assert told(recorded) == (
                "M.noop: the 6 slots from 02:20 to 04:00 were skipped: ops (uid 1000) paused it at 02:17 until 04:17 "
                '("provider moves"). A resume runs none of them. Next at 04:20.'
            )
            assert during.startswith(
                "M.noop: the 3 slots from 02:20 to 03:00 were skipped: ops (uid 1000) paused it"
            )

    virtually(main())


def test_switched_off() -> None:
    """Who or what switched it off."""

    async def main() -> None:
        recorded = Recorded(
            task(noop, cron="0 * * * *", enabled=False), task(noop, name="b", cron="0 * * * *")
        )
        async with recorded.service:
            recorded.service.task("M.b").disable(note="moved")
            await until(after(hours=1, minutes=1))
            assert told(recorded, after(hours=1)) == (
                "M.noop: the slot of 03:00 was not run: the task is switched off: it is not enabled."
            )
            assert told(recorded, after(hours=1), "M.b") == (
                'M.b: the slot of 03:00 was not run: the application switched the task off at 02:00 ("moved").'
            )

    virtually(main())


def test_switched_off_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and the key are named: in the code the task is switched on."""
    (tmp_path / "asyncmgr.toml").write_text('[tasks."M.noop"]\nenabled = false\n')
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        recorded = Recorded(task(noop, cron="0 * * * *"))
        async with recorded.service:
            await until(after(hours=1, minutes=1))
            by = f'it is switched off by {tmp_path}/asyncmgr.toml, [tasks."M.noop"] enabled'
            assert recorded.service.task("M.noop").status.off == by
            assert told(recorded, after(hours=1)) == (
                f"M.noop: the slot of 03:00 was not run: the task {by.removeprefix('it ')}."
            )

    virtually(main())


def test_overlap() -> None:
    """Which run was in the way, how old it was, and where it waits."""

    async def main() -> None:
        async def push(context: Any) -> None:
            await asyncio.sleep(24 * 60)

        recorded = Recorded(task(push, name="noop", spacing=300))
        async with recorded.service:
            await until(after(minutes=26))
            text = told(recorded, after(minutes=20))
        assert text.startswith(
            "M.noop: the 4 slots from 02:10 to 02:25 were skipped: the run of 02:05 was still going after 20 min, in "
        )
        assert "push at test_explain.py:" in text

    virtually(main())


def test_draining() -> None:
    """Since when the service was stopping, and by which signal."""

    async def main() -> None:
        async def slow(context: Any) -> None:
            await asyncio.sleep(8)

        recorded = Recorded(task(slow, name="slow", spacing=58), task(noop, spacing=60))
        await recorded.service.start()
        await until(after(seconds=59))
        recorded.service.request_stop(because="SIGTERM")
        await recorded.service.wait()
        assert told(recorded, after(seconds=60)) == (
            "M.noop: the slot of 02:01 was skipped: the service was stopping since 02:00:59 (SIGTERM)."
        )

    virtually(main())


def test_a_sleep() -> None:
    """From when to when the machine slept, and which run stands for the slots."""

    async def main() -> None:
        recorded = Recorded(task(noop, spacing=30))
        async with recorded.service:
            await until(after(seconds=598))
            with stepped(545, asleep=True):
                await asyncio.sleep(1)
                assert told(recorded, after(seconds=660)) == (
                    "M.noop: the 18 slots from 02:10 to 02:18:30 were missed: the machine slept from 02:09:58 to "
                    "02:19:03. The run of 02:19 stands for all of them."
                )

    virtually(main())


def test_a_clock_set_forward() -> None:
    """By how much, and when."""

    async def main() -> None:
        recorded = Recorded(task(noop, cron="*/10 * * * *"))
        async with recorded.service:
            await until(after(minutes=14, seconds=50))
            with stepped(3600):
                await asyncio.sleep(1)
                assert told(recorded, after(minutes=30)) == (
                    "M.noop: the 5 slots from 02:20 to 03:00 were missed: the clock was set forward by 1 h at 02:14:50."
                    " The run of 03:10 stands for all of them."
                )

    virtually(main())


def test_a_blocked_loop() -> None:
    """A run that came late says who blocked the loop; missed slots say from when to when."""

    async def main() -> None:
        async def render(context: Any) -> None:
            block(4.2)

        recorded = Recorded(
            task(render, name="render", spacing=3600, initial_delay=29.2), task(noop, spacing=30)
        )
        async with recorded.service:
            await until(after(seconds=40))
            assert told(recorded, after(seconds=30)) == (
                "M.noop: the slot of 02:00:30 ran 3.4 s late because the event loop was blocked for 3.4 s, "
                "and succeeded in 0 us."
            )
            entry = next(one for one in recorded.service.journal if one.kind == "blocked")
            entry.data.update(
                blame="Reports.render", seconds=4.2, doing="computing", place="render at reports.py:212"
            )
            assert (
                "because Reports.render blocked the event loop for 4.2 s (computing, in render at reports.py:212)"
            ) in told(recorded, after(seconds=30))
            block(100)
            await asyncio.sleep(0.1)
            assert told(recorded, after(seconds=90)) == (
                "M.noop: the 2 slots from 02:01 to 02:01:30 were missed: the event loop was blocked from 02:01 to "
                "02:02:20. The run of 02:02 stands for all of them."
            )

    virtually(main())


@pytest.mark.parametrize(
    ("began", "words"),
    [
        (29.0, " 600 ms late because Images.render blocked the event loop for 1.6 s,"),
        (28.3, ","),  # it was over by then
    ],
)
def test_a_block_tells_of_less_lateness(began: float, words: str) -> None:
    """Half a second is worth a word where it is known what held the loop up."""

    async def main() -> None:
        async def render(context: Any) -> None:
            block(1.6)

        recorded = Recorded(
            task(render, name="render", spacing=3600, initial_delay=29), task(noop, spacing=30, tolerance=0)
        )
        async with recorded.service:
            await until(after(seconds=40))
            at, end = (to_us(after(seconds=second).timestamp()) for second in (began, began + 1.6))
            # As the thread tells that watches the loop, which is not there in virtual time.
            recorded.service.journal.add("blocked", at=at, until=end, seconds=1.6, blame="Images.render")
            assert told(recorded, after(seconds=30)).startswith(
                f"M.noop: the slot of 02:00:30 ran{words} and"
            )

    virtually(main())


def test_no_slot() -> None:
    """Which slots there are around the moment."""

    async def main() -> None:
        recorded = Recorded(task(noop, cron="10 2 * * *"))
        async with recorded.service:
            await until(after(hours=2))
            assert told(recorded, after(hours=1)) == (
                "M.noop: no slot at 03:00: '10 2 * * *' UTC gives 02:10 before and 2026-07-02 02:10 after it."
            )

    virtually(main())


def test_nothing_to_do() -> None:
    """What the run had to say."""

    async def main() -> None:
        async def empty(context: Any) -> None:
            raise Skip("no new items")

        recorded = Recorded(task(empty, name="noop", cron="58 * * * *"))
        async with recorded.service:
            await until(after(minutes=59))
            expected = "M.noop: the slot of 02:58 ran. It had nothing to do: no new items."
            assert told(recorded) == told(recorded, after(minutes=58)) == expected

    virtually(main())


def test_running_and_to_come() -> None:
    """Since when it runs, how long it usually takes and where it waits; when the next slot comes."""

    async def main() -> None:
        async def slow(context: Any) -> None:
            await asyncio.sleep(2 if context.slot < after(minutes=2) else 600)

        recorded = Recorded(task(slow, name="noop", spacing=60, timeout=500))
        async with recorded.service:
            await until(after(seconds=90))
            assert told(recorded) == "M.noop: the slot of 02:01 ran, and succeeded in 2 s."
            assert told(recorded, after(minutes=3)) == "M.noop: the slot of 02:03 is still to come, in 90 s."
            await until(after(seconds=150))
            text = told(recorded)
            assert text.startswith(
                "M.noop: the slot of 02:02 is running since 02:02, 30 s. It usually takes 2 s and it "
            )
            assert "slow at test_explain.py:" in text
            await until(after(seconds=650))
            text = told(recorded, after(minutes=2))
            assert text.startswith(
                "M.noop: the slot of 02:02 ran, and timed out after 8 min while it waited in "
            )

    virtually(main())


def test_failures_and_late_ones() -> None:
    """The error; and why a slot was dropped as too late."""

    async def main() -> None:
        async def fail(context: Any) -> None:
            raise PermissionError("/srv/snapshots")

        recorded = Recorded(task(fail, name="fail", spacing=20), task(noop, spacing=30, misfire_grace=2))
        async with recorded.service:
            await until(after(seconds=28))
            assert told(recorded, name="M.fail") == (
                "M.fail: the slot of 02:00:20 ran, and failed after 0 us with PermissionError: /srv/snapshots."
            )
            block(10)
            await asyncio.sleep(0.1)
            assert told(recorded, after(seconds=30)) == (
                "M.noop: the slot of 02:00:30 was dropped as too late: a run could only start 8 s late, and "
                "misfire_grace allows 2 s. The event loop was blocked from 02:00:30 to 02:00:38."
            )

    virtually(main())


def test_what_is_not_kept() -> None:
    """A service without a file says what would keep more."""

    async def main() -> None:
        recorded = Recorded(task(noop, cron="0 * * * *"))
        async with recorded.service:
            await until(after(hours=1, minutes=1))
            assert told(recorded, after(hours=-1)) == (
                "M.noop: nothing is kept of the slot of 01:00: this service began at 02:00; history= keeps what was "
                "before a start."
            )
            with pytest.raises(AsyncmgrError, match="has no time zone"):
                recorded.service.explain("M.noop", datetime(2026, 7, 1))

    virtually(main())


# What other parts enter into the journal


def moment(text: str) -> int:
    return round(datetime.fromisoformat(f"2026-07-01T{text}+00:00").timestamp() * 1e6)


NOW = moment("04:00:00")


def test_another_host_ran_it() -> None:
    """Which one, since when, with which token."""
    record = Record(
        "Leases.rebalance", moment("03:00:00"), moment("03:00:00"), 1, "skipped", "not_owner", text="eu-2"
    )
    taken = Entry(moment("02:27:00"), "lease_taken", data={"holder": "eu-2", "token": "3-118"})
    facts = Facts("Leases.rebalance", NOW, asked=record.slot, record=record, entries=[taken])
    assert str(explain(facts)) == (
        "Leases.rebalance: the slot of 03:00 did not run here, and did on eu-2, which holds the lease since 02:27 "
        "(token 3-118)."
    )


@pytest.mark.parametrize(
    ("reason", "kind", "data", "said"),
    [
        ("lease_lost", "stopped", {"seconds": 1200.0}, "the process got no CPU from 02:40 to 03:00"),
        ("lease_lost", "suspended", {}, "the machine slept from 02:40 to 03:00"),
        ("not_owner", "suspended", {}, "the machine slept from 02:40 to 03:00"),
        (
            "lease_lost",
            "blocked",
            {"seconds": 1200.0, "blame": "Reports.render"},
            "Reports.render blocked the event loop from 02:40 to 03:00",
        ),
    ],
)
def test_this_process_slept_and_another_ran_it(
    reason: str, kind: str, data: dict[str, Any], said: str
) -> None:
    """From when to when it stood still, that it lost the lease by this, and who ran the slots."""
    name, first, last = "Leases.rebalance", moment("02:41:00"), moment("03:00:00")
    record = Record(name, first, last, 20, "skipped", reason, text="eu-1")
    still = Entry(moment("02:40:00"), kind, until=last, data=data)
    lost = Entry(last, "lease_lost", name, data={"holder": "eu-1", "here": True})
    taken = Entry(last, "lease_taken", name, data={"holder": "eu-2", "token": 7})
    facts = Facts(name, NOW, asked=first, record=record, entries=[still, lost, taken])
    slots = (
        f"{name}: the 20 slots from 02:41 to 03:00 did not run here: {said}, and this process lost the lease."
    )
    assert str(explain(facts)) == f"{slots} Meanwhile eu-2 took it (token 7), and ran them."
    assert str(explain(replace(facts, entries=[still, lost]))) == slots
    assert said not in str(explain(replace(facts, entries=[still, taken])))
    assert said not in str(explain(replace(facts, entries=[replace(still, until=first - 1), lost, taken])))


def test_nobody_ran_it() -> None:
    """Who lost the lease, why, and who took it."""
    record = Record("Snapshots.take", moment("02:30:00"), moment("02:30:20"), 3, "missed", "lease_lost")
    entries = [
        Entry(
            moment("02:29:52"),
            "lease_lost",
            note="no answer from the store for 10 s",
            data={"holder": "eu-1"},
        ),
        Entry(moment("02:30:22"), "lease_taken", data={"holder": "eu-3"}),
    ]
    stand_in = Record(
        "Snapshots.take", moment("02:30:30"), moment("02:30:30"), 1, "succeeded", trigger="catch_up"
    )
    facts = Facts("Snapshots.take", NOW, asked=record.slot, record=record, entries=entries, stand_in=stand_in)
    assert str(explain(facts)) == (
        "Snapshots.take: the 3 slots from 02:30 to 02:30:20 were not run anywhere: eu-1 lost the lease at 02:29:52 (no "
        "answer from the store for 10 s), and eu-3 took it at 02:30:22. The run of 02:30:30 stands for all of them."
    )


def test_held_back() -> None:
    """After how many failures, how seldom it runs now, and the last error."""
    record = Record(
        "Snapshots.prune",
        moment("02:30:00"),
        moment("02:50:00"),
        3,
        "skipped",
        "backoff",
        text="5 2400 PermissionError: /srv/snapshots",
    )
    facts = Facts("Snapshots.prune", NOW, asked=record.slot, record=record)
    assert str(explain(facts)) == (
        "Snapshots.prune: the 3 slots from 02:30 to 02:50 were held back: after 5 failures in a row it runs only every "
        "40 min. The last error is PermissionError: /srv/snapshots."
    )


# Every input gives a sentence

moments = st.integers(-(2**62), 2**62) | st.integers(moment("00:00:00"), NOW)
maybe = st.none() | moments
kinds = st.sampled_from(
    [
        "pause",
        "resume",
        "disable",
        "remove",
        "reschedule",
        "stopping",
        "suspended",
        "clock",
        "blocked",
        "stopped",
        "down",
        "lease_taken",
        "lease_lost",
        "started",
        "strange",
    ]
)
data = st.dictionaries(
    st.sampled_from(["holder", "token", "blame", "doing", "place", "crashed"]),
    st.none() | st.text(max_size=8),
)
entries = st.lists(
    st.builds(
        Entry, moments, kinds, until=maybe, who=st.text(max_size=5), note=st.text(max_size=5), data=data
    ),
    max_size=4,
)
records = st.builds(
    lambda fate, slot, last, count, trigger, started, duration, text: Record(
        "M.t", slot, last, count, fate[0], fate[1], trigger, None, started, duration, text
    ),
    st.sampled_from([*FATES, ("strange", "new")]),
    moments,
    moments,
    st.integers(1, 10**9),
    st.sampled_from(TRIGGERS),
    maybe,
    st.none() | st.floats(0, 1e9),
    st.text(max_size=12) | st.sampled_from(["12 1782871200000000 f at x.py:3", "12 x", "1e400", "cancelled"]),
)
runnings = st.builds(Running, moments, moments, st.text(max_size=5), st.none() | st.floats(0, 1e9))


@pytest.mark.parametrize("seconds", [float("inf"), float("-inf"), float("nan")])
def test_a_length_that_is_no_number_is_said_to_be_unknown(seconds: float) -> None:
    """As the text of a record of another program may be."""
    assert length(seconds) == "an unknown time"


@given(
    st.builds(
        Facts,
        task=st.just("M.t"),
        now=moments,
        asked=maybe,
        schedule=st.text(max_size=5),
        before=maybe,
        after=maybe,
        next=maybe,
        record=st.none() | records,
        stand_in=st.none() | records,
        running=st.none() | runnings,
        entries=entries,
        is_paused=st.booleans(),
        why_off=st.text(max_size=5),
        failures=st.integers(0, 9),
        error=st.text(max_size=5),
        grace=st.none() | st.floats(0, 1e6),
        timeout=st.none() | st.floats(0, 1e6),
        started=maybe,
        kept_since=maybe,
        has_file=st.booleans(),
    )
)
def test_every_input_gives_a_sentence(facts: Facts) -> None:
    """Whatever is known or not: a text that begins with the task's name and ends as a sentence does."""
    text = str(explain(facts))
    assert text.startswith("M.t: ")
    assert text.endswith((".", "."))
    assert len(text) < 800


@pytest.mark.slow
async def test_ten_thousand_tasks_are_no_matter(virtual_time: VirtualTime) -> None:
    """An answer takes less than 0.1 s, also where the logs are full."""
    recorded = Recorded(*(task(noop, name=f"t{number}", spacing=10) for number in range(10_000)))
    async with recorded.service:
        await virtual_time.advance(80)
        began = time.thread_time()
        for name in ("M.t0", "M.t9999"):
            assert "ran" in str(recorded.service.explain(name, virtual_time.now() - timedelta(seconds=55)))
        assert (time.thread_time() - began) / 2 < 0.1
