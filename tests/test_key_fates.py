"""Every slot of every key has exactly one fate, which can be found later: `explain` and `history` for one key."""

from __future__ import annotations

import asyncio
import gc
import os
from collections import Counter, defaultdict
from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncmgr import Service, UnknownKey
from asyncmgr._history.key_fates import CHUNKS, ROWS_A_CHUNK, KeyFates
from asyncmgr._history.slots import Record, code_of
from asyncmgr._tasks.key_ring import KeyGrid
from asyncmgr._tasks.schedules import Gap
from asyncmgr.errors import AsyncmgrError
from asyncmgr.testing import VirtualTimeLoop
from tests.test_each import SPACING, START, Poller, elapsed, service_of

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")

WINDOW = 0.2
"""Seconds by which a slot may be handed out early."""

EXAMPLES = int(os.environ.get("HISTORIES", "40"))
"""The number of random histories; `nox -s histories` asks for many more."""

NAMES = [f"k{number}" for number in range(12)]


def slots_of(records: list[Record]) -> dict[float, list[str]]:
    """Expand records to their slots, seconds since the start, each with its fates."""
    found: dict[float, list[str]] = defaultdict(list)
    for record in records:
        step = (record.last - record.slot) / max(1, record.count - 1)
        fate = record.fate if record.reason is None else f"{record.fate}/{record.reason}"
        for number in range(record.count):
            at = (record.slot + number * step) / 1e6 - START.timestamp()
            found[round(at, 3)].append(fate)
    return found


def fates_of(service: Service, key: Hashable) -> dict[float, list[str]]:
    assert isinstance(key, str | int)
    return slots_of(service.history("Poller.poll", key=key, limit=10_000))


async def test_each_slot_of_a_key_has_one_fate() -> None:
    """A run, a failure, or slots that were skipped since a run went on: in the order of the slots."""
    poller = Poller(["a", "b", "c"])
    poller.lasts["a"] = 25.0
    poller.broken.add("b")
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(60)
        expected = {
            "a": ["skipped/overlap", "skipped/overlap", "succeeded"],
            "b": ["failed"],
            "c": ["succeeded"],
        }
        for key, some in expected.items():
            found = fates_of(service, key)
            assert {fate for fates in found.values() for fate in fates} == set(some)
            ended = [slot for slot, fates in sorted(found.items()) if len(fates) == 1]
            due = [round(slot, 3) for slot in poller.due(key, 0, 60)]
            assert ended == due[: len(ended)]
            assert len(due) - len(ended) <= (key == "a")
        (failed, *_) = service.history("Poller.poll", key="b", limit=1)
        assert (failed.text, failed.key, failed.trigger) == ("OSError: b is broken", "b", "schedule")
        assert failed.run
        everything = service.history("Poller.poll", limit=1000)
        assert {record.key for record in everything} == {"a", "b", "c"}
        assert service.history(limit=1000) == []


async def test_explain_one_key() -> None:
    poller = Poller(["a", "b", 7])
    poller.lasts["a"] = 1000.0
    poller.broken.add("b")
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(45)
        ran = START + timedelta(seconds=poller.due(7, 0, 45)[1])
        told = service.explain("Poller.poll", ran, key="7")
        assert told.fate == "succeeded"
        assert told.text.startswith("Poller.poll[7]: the slot of 00:00:1")
        failed = START + timedelta(seconds=poller.due("b", 0, 45)[1])
        assert "failed after 0 us with OSError: b is broken" in str(
            service.explain("Poller.poll", failed, key="b")
        )
        hung = service.explain("Poller.poll", key="a")
        assert hung.fate == "running"
        skipped = service.explain(
            "Poller.poll", START + timedelta(seconds=poller.due("a", 0, 45)[2]), key="a"
        )
        assert (skipped.fate, skipped.reason) == ("skipped", "overlap")
        assert "Poller.poll at test_each.py" in skipped.text.replace("slept", "")
        later = service.explain("Poller.poll", START + timedelta(seconds=poller.due("b", 45, 70)[0]), key="b")
        assert later.fate == "to come"
        whole = service.explain("Poller.poll")
        assert str(whole) == (
            "Poller.poll: it runs for 3 keys here, each with slots of its own: 1 running, 1 failing. "
            "Say which key to learn what became of its slots."
        )
        for ask in (service.explain, service.history):
            with pytest.raises(UnknownKey):
                ask("Poller.poll", key="nobody")
        with pytest.raises(AsyncmgrError, match="without a task"):
            service.history(key="a")


async def test_a_key_that_is_gone_is_still_explained() -> None:
    poller = Poller(["a", "b"])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(19)
        poller.devices = ["b"]
        await service.task("Poller.poll").refresh()
        await asyncio.sleep(100)
        told = str(service.explain("Poller.poll", key="a"))
        assert told.endswith("ran, and succeeded in 0 us. Now the manager gives no such key.")
        assert len(fates_of(service, "a")) == len(poller.slots["a"])


async def test_a_pause_is_one_record_for_all_keys() -> None:
    """Each key's slots of that time can be told apart all the same, while it lasts and afterwards."""
    poller = Poller([f"k{number}" for number in range(500)])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(20)
        service.task("Poller.poll").pause(note="the net is down")
        await asyncio.sleep(100)
        during = fates_of(service, "k7")
        assert sum(fates == ["skipped/paused"] for fates in during.values()) == 10
        assert "paused" in str(service.explain("Poller.poll", key="k7"))
        service.task("Poller.poll").resume()
        await asyncio.sleep(20)
        for key in ("k7", "k8"):
            found = fates_of(service, key)
            due = [round(slot, 3) for slot in poller.due(key, 0, elapsed() - 0.3)]
            assert [found[slot] for slot in due] == [
                ["skipped/paused"] if 20.2 < slot <= 120 else ["succeeded"] for slot in due
            ]
        spans = [record for record in service.history("Poller.poll", limit=10_000) if record.count > 1]
        (span,) = spans
        assert (span.key, span.reason) == (None, "paused")
        assert 4980 <= span.count <= 5000  # some were nearly due, and had run


async def test_a_sleep_of_the_machine_is_one_record_for_all_keys() -> None:
    """The last slot of each key got a run; all before that were missed."""
    poller = Poller([f"k{number}" for number in range(300)])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(20)
        from time_machine import travel

        with travel(datetime.now(UTC).timestamp() + 3600, tick=True):
            await asyncio.sleep(9.5)
            for key in ("k7", "k8"):
                found = fates_of(service, key)
                assert set(map(len, found.values())) == {1}
                missed = [slot for slot, fates in found.items() if fates[0].startswith("missed")]
                assert len(missed) in (359, 360)
                assert max(missed) < max(found) - SPACING + 0.001
                told = service.explain("Poller.poll", START + timedelta(seconds=1800), key=key)
                assert told.fate == "missed"
                assert "stands for" in told.text
        spans = [record for record in service.history("Poller.poll", limit=10_000) if record.count > 1]
        assert len(spans) == 1


async def test_a_slot_of_a_key_that_goes_meanwhile_is_told_of() -> None:
    """After a sleep all keys are due at once; one that goes before its turn has the fate `removed`."""
    keys = [f"k{number}" for number in range(2000)]
    poller = Poller(keys)
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(20)
        from time_machine import travel

        with travel(datetime.now(UTC).timestamp() + 600, tick=True):
            refreshing = None

            def ask() -> list[str]:
                return []

            poller.devices = ask
            refreshing = asyncio.ensure_future(service.task("Poller.poll").refresh())
            await asyncio.sleep(9)
            await refreshing
            lost = [key for key in keys if not any(slot > 600 for slot in fates_of(service, key))]
            assert not lost


async def test_many_keys_in_trouble_do_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Twenty lines of an event tell of single keys; then the 32nd, 64th ... with the number so far."""
    keys = [f"k{number}" for number in range(2000)]
    poller = Poller(keys)
    poller.broken |= set(keys)
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(12)
        failed = [record for record in caplog.records if record.event == "task.failed"]  # type: ignore[attr-defined]
        counts = [getattr(record, "keys", None) for record in failed]
        assert counts == [*[None] * 20, 32, 64, 128, 256, 512, 1024]
        assert poller.task.count_failing() == 2000
        await asyncio.sleep(60)
        caplog.clear()
        poller.broken.clear()
        await asyncio.sleep(12)
        well = [record for record in caplog.records if record.event == "task.recovered"]  # type: ignore[attr-defined]
        assert len(well) <= 27


async def test_memory_is_bounded() -> None:
    """Each log keeps the newest 65,536 records; slots without a run of one key are one record."""
    texts = {0: "", 1: "OSError"}
    fates = KeyFates("Poller.poll", lambda number: texts.get(number, ""))
    step = 10_000_000
    for number in range(100_000):
        fates.without_run(
            "hung", Gap(number * step, number * step, 1), code_of("skipped", "overlap"), 0, 0, step
        )
    (one,) = fates.records("hung")
    assert (one.slot, one.last, one.count) == (0, 99_999 * step, 100_000)
    for number in range(100_000):
        key = number % 1000
        fates.without_run(
            key, Gap(number * step, number * step, 1), code_of("skipped", "backoff"), 0, 0, step
        )
    kept = list(fates.records())
    assert ROWS_A_CHUNK * (CHUNKS - 1) <= len(kept) <= ROWS_A_CHUNK * CHUNKS
    assert list(fates.records("hung")) == []
    fates.without_run(
        "hung", Gap(100_000 * step, 100_000 * step, 1), code_of("skipped", "overlap"), 0, 0, step
    )
    (one,) = fates.records("hung")  # the record of before was dropped
    assert one.count == 1
    for number in range(5000):
        fates.absent(
            KeyGrid("Poller.poll", step, 0), Gap(number, number, 1), code_of("skipped", "paused"), 0, 0
        )
    assert sum(record.key is None for record in fates.records()) == 1000


STEP: st.SearchStrategy[tuple[str, list[str]]] = st.one_of(
    st.tuples(st.just("keys"), st.lists(st.sampled_from(NAMES), unique=True, max_size=12)),
    st.tuples(st.just("refresh"), st.lists(st.sampled_from(NAMES), unique=True, max_size=12)),
    st.tuples(st.sampled_from(["pause", "resume", "disable", "enable"]), st.just([])),
)


@given(
    steps=st.lists(st.tuples(STEP, st.floats(0.3, 27)), min_size=1, max_size=8),
    lasts=st.dictionaries(st.sampled_from(NAMES), st.sampled_from([3.0, 25.0, 400.0])),
    broken=st.sets(st.sampled_from(NAMES), max_size=4),
    options=st.fixed_dictionaries(
        {
            "concurrency": st.sampled_from([None, 2, 50]),
            "overlap": st.sampled_from(["skip", "queue", "allow"]),
        }
    ),
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_every_slot_of_every_key_has_one_fate(
    steps: list[tuple[tuple[str, list[str]], float]],
    lasts: dict[str, float],
    broken: set[str],
    options: dict[str, Any],
) -> None:
    """Keys come and go at random, runs hang and fail, the task is paused: a naive model knows every slot."""

    async def main() -> None:
        poller = Poller([], **options)
        poller.lasts.update(lasts)
        poller.broken |= broken
        service, _ = service_of(poller)
        present: dict[str, float] = {}
        spells: list[tuple[str, float, float]] = []
        wanted: list[str] = []

        def ask() -> list[str]:
            now = elapsed()
            for key in set(present) - set(wanted):
                spells.append((key, present.pop(key), now))
            for key in wanted:
                present.setdefault(key, now)
            return list(wanted)

        poller.devices = ask
        moments = [0.0]
        async with service:
            handle = service.task("Poller.poll")
            for (what, keys), seconds in steps:
                moments.append(elapsed())
                if what in ("keys", "refresh"):
                    wanted = keys
                if what == "refresh":
                    await handle.refresh()
                elif what != "keys":
                    getattr(handle, what)()
                await asyncio.sleep(seconds)
        end = elapsed()
        moments += [slot for _, begin, stop in spells for slot in (begin, stop)]
        spells += [(key, since, end) for key, since in present.items()]
        stopped = _stopped(service, end)
        moments.append(stopped)
        for key in NAMES:
            # Not by `history`: a service that has stopped knows no keys.
            found = slots_of(list(service._history.ledger.key_records("Poller.poll", key)))
            due = {
                round(slot, 3)
                for one, begin, stop in spells
                if one == key
                for slot in poller.due(key, begin, stop)
            }
            told = Counter({slot: len(fates) for slot, fates in found.items()})
            assert all(told[slot] == 1 for slot in due if slot <= stopped), (key, due, found)
            strays = [
                slot
                for slot, fates in found.items()
                if slot not in due
                and any(fate in ("succeeded", "failed") for fate in fates)
                and not any(abs(slot - moment) <= WINDOW + 0.001 for moment in moments)
            ]
            assert not strays, (key, strays, due)

    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start=START)) as runner:
        runner.run(main())


def _stopped(service: Service, end: float) -> float:
    """The moment at which the stop began, seconds since the start."""
    stopping = [entry.at for entry in service.journal if entry.kind == "stopping"]
    return stopping[0] / 1e6 - START.timestamp() if stopping else end


def test_keys_that_are_gone_keep_no_memory() -> None:
    """Their newest slots, without a run, stand in a chunk that was dropped long ago."""
    fates = KeyFates("M.t", str)
    skipped, failed = code_of("skipped", "overlap"), code_of("failed", None)
    look: Any = SimpleNamespace(shift=0, began=0)
    run: Any = SimpleNamespace(
        managed=SimpleNamespace(each_key="stays"),
        look=look,
        planned=1,
        asked=None,
        missed=0,
        started=0.0,
        number=1,
        attempt=1,
    )

    def chunks() -> int:
        gc.collect()  # what other tests have left
        return sum(1 for one in gc.get_objects() if type(one) is type(fates._swept))

    before = chunks()
    for number in range(CHUNKS + 20):
        fates.without_run(f"gone{number}", Gap(1, 1, 1), skipped, 0, 0, 10)
        for _ in range(ROWS_A_CHUNK - 1):
            fates.ended(run, 1.0, failed, 0)
    assert len(fates._open) <= CHUNKS + 1
    assert chunks() - before < CHUNKS + 20
