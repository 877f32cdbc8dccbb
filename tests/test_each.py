"""Tasks that run for each key of their manager (`each=`), under a service and in a pass."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncmgr import (
    InvalidKeys,
    InvalidPeriodicTaskArg,
    Manager,
    RunContext,
    Service,
    Settings,
    periodic_task,
)
from asyncmgr._service.manager import state_of
from asyncmgr._tasks.keys import KeyedTask
from asyncmgr.events import Event, Outcome, RunFinished, SlotSkipped, SlotsMissed
from asyncmgr.testing import VirtualTimeLoop, context

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
START = datetime(2026, 1, 1, tzinfo=UTC)
SPACING = 10.0


def elapsed() -> float:
    return (datetime.now(UTC) - START).total_seconds()


class Poller(Manager):
    """Notes the slots of its keys; the tests say how long a run of a key lasts, and which keys fail."""

    def __init__(self, devices: Any = (), **options: Any) -> None:
        super().__init__(settings=Settings())
        self.devices = devices
        self.slots: dict[Hashable, list[float]] = defaultdict(list)
        self.contexts: list[RunContext] = []
        self.lasts: dict[Hashable, float] = {}
        self.broken: set[Hashable] = set()
        self.now = self.most = 0
        self.add_periodic_task(
            self.poll, name="poll", each=lambda: self.asked(), **{"spacing": SPACING, **options}
        )

    def asked(self) -> Any:
        return self.devices() if callable(self.devices) else self.devices

    async def poll(self, context: RunContext, device: Any) -> None:
        self.contexts.append(context)
        key = context.key
        assert key is not None
        self.slots[key].append(round((context.slot - START).total_seconds(), 6))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.lasts.get(key):
                await asyncio.sleep(self.lasts[key])
            if key in self.broken:
                raise OSError(f"{key} is broken")
        finally:
            self.now -= 1

    @property
    def task(self) -> KeyedTask:
        task = state_of(self).tasks()["Poller.poll"]
        assert isinstance(task, KeyedTask)
        return task

    def phase(self, key: Hashable) -> float:
        return self.task.keys.ring.phase_of(key) / 1_000_000

    def due(self, key: Hashable, begin: float, end: float) -> list[float]:
        """The slots of a key after `begin` and up to `end`, by a naive count."""
        slots = (self.phase(key) + count * SPACING for count in itertools.count())
        return [
            round(slot, 6) for slot in itertools.takewhile(lambda slot: slot <= end, slots) if slot > begin
        ]


def service_of(poller: Poller) -> tuple[Service, list[Event]]:
    service = Service(poller, host="h", name="s", settings=Settings(seed=1))
    events: list[Event] = []
    service.add_listener(events.append)
    return service, events


def fates(events: list[Event], key: Hashable) -> list[str]:
    found: list[str] = []
    for event in events:
        if isinstance(event, RunFinished) and event.key == key:
            found.append(str(event.outcome))
        if isinstance(event, SlotSkipped) and event.key == key:
            found.append(event.reason)
    return found


async def test_each_key_has_its_own_slots() -> None:
    """Every key runs once in each spacing, at a place of its own, and its context names it."""
    poller = Poller(["a", "b", 7])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(60.5)
    for key in ("a", "b", 7):
        assert poller.slots[key] == poller.due(key, 0, 60.5)
    assert {one.task for one in poller.contexts} == {"Poller.poll"}
    assert len({one.run_id for one in poller.contexts}) == len(poller.contexts)


async def test_a_key_that_hangs_delays_no_other() -> None:
    """Its own slots are skipped; all others keep theirs."""
    poller = Poller(["a", "b", "c"])
    poller.lasts["a"] = 35.0
    service, events = service_of(poller)
    async with service:
        await asyncio.sleep(60)
    assert fates(events, "a")[:4] == ["overlap", "overlap", "overlap", "succeeded"]
    for key in ("b", "c"):
        assert poller.slots[key] == poller.due(key, 0, 60)
        assert set(fates(events, key)) == {"succeeded"}


async def test_a_timeout_holds_for_each_key() -> None:
    poller = Poller(["a", "b"], timeout=2)
    poller.lasts.update(a=5.0, b=1.0)
    service, events = service_of(poller)
    async with service:
        await asyncio.sleep(15)
    assert set(fates(events, "a")) == {"timed_out"}
    assert set(fates(events, "b")) == {"succeeded"}


async def test_failures_belong_to_a_key() -> None:
    """A key that fails is counted alone, and forgotten when it succeeds."""
    poller = Poller(["a", "b"])
    poller.broken.add("a")
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(31)
        trouble = poller.task.active["a"].standing.trouble
        assert trouble is not None
        assert trouble.failures == len(poller.slots["a"])
        assert list(poller.task.active) == ["a"]
        assert poller.task.count_failing() == 1
        poller.broken.clear()
        await asyncio.sleep(10)
        assert poller.task.active == {}
    (status,) = service.status() or (None,)
    assert poller.task.standing.runs == len(poller.contexts)
    assert status is not None


async def test_an_idle_key_costs_no_task() -> None:
    poller = Poller([f"k{number}" for number in range(2000)])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(29.7)
        assert poller.task.active == {}
        assert len(poller.task.last) == 2000
        when, duration, outcome = poller.task.last_of("k0") or (0, 0.0, None)
        assert (outcome, duration) == (Outcome.SUCCEEDED, 0.0)
        assert abs(when / 1e6 - START.timestamp() - poller.slots["k0"][-1]) < 0.3
    assert {len(slots) for slots in poller.slots.values()} <= {2, 3}


@pytest.mark.parametrize("limit", [1, 3])
async def test_concurrency_limits_the_runs_of_the_task(limit: int) -> None:
    """What waits for a place keeps its slot; its timeout begins at its start."""
    poller = Poller([f"k{number}" for number in range(10)], concurrency=limit, timeout=1.5, overlap="queue")
    poller.lasts = {f"k{number}": 0.9 for number in range(10)}
    service, events = service_of(poller)
    async with service:
        await asyncio.sleep(45)
        assert poller.most == limit
    assert {event.outcome for event in events if isinstance(event, RunFinished)} <= {
        Outcome.SUCCEEDED,
        Outcome.CANCELLED,
    }
    assert {len(slots) >= 3 for slots in poller.slots.values()} == {True}


async def test_a_stop_refuses_the_runs_that_wait_for_a_place() -> None:
    poller = Poller([f"k{number}" for number in range(10)], concurrency=1, run_immediately=True, spacing=1000)
    poller.lasts = {f"k{number}": 8.0 for number in range(10)}
    service, events = service_of(poller)
    async with service:
        await asyncio.sleep(1)
        assert (poller.now, len(poller.task.waiting)) == (1, 9)
    assert Counter(fate for number in range(10) for fate in fates(events, f"k{number}")) == {
        "succeeded": 1,
        "draining": 9,
    }
    assert poller.task.active == {}


@pytest.mark.parametrize("overlap", ["queue", "allow"])
async def test_overlap_holds_for_each_key(overlap: str) -> None:
    poller = Poller(["a"], overlap=overlap)
    poller.lasts["a"] = 14.0
    service, events = service_of(poller)
    async with service:
        await asyncio.sleep(35)
        assert poller.most == (2 if overlap == "allow" else 1)
        if overlap == "allow":
            assert poller.slots["a"] == poller.due("a", 0, 35)
    assert "overlap" not in fates(events, "a")
    assert poller.task.active == {}


async def test_keys_come_and_go() -> None:
    """They are asked for in every spacing. A key that stays keeps its slots, one that comes begins after its coming."""
    poller = Poller(["a", "b"])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(25)
        poller.devices = ["b", "c"]
        await asyncio.sleep(40)
    assert poller.slots["a"] == poller.due("a", 0, 30)
    assert poller.slots["b"] == poller.due("b", 0, 65)
    assert poller.slots["c"] == poller.due("c", 30, 65)


async def test_the_queued_run_of_a_key_that_goes_is_refused() -> None:
    poller = Poller(["a"], overlap="queue")
    poller.lasts["a"] = 19.0
    service, events = service_of(poller)
    async with service:
        await asyncio.sleep(poller.phase("a") + 10.1)
        assert poller.task.active["a"].standing.queued
        poller.devices = []
        await asyncio.sleep(30)
    assert fates(events, "a") == ["removed", "succeeded"]
    assert poller.task.active == {}
    assert poller.task.last == {}


async def test_a_new_key_may_run_at_once() -> None:
    poller = Poller(["a"], run_immediately=True)
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(0.01)
        assert poller.slots == {"a": [0.0]}
        await asyncio.sleep(10)
        poller.devices = ["a", "b"]
        await asyncio.sleep(10.5)
        assert poller.slots["b"][0] == 20.0
        assert poller.slots["a"] == [0.0, *poller.due("a", 0, 20.5)]


@dataclass
class Device:
    key: str
    address: str = ""


async def test_keys_may_be_objects() -> None:
    """The method gets the object that was given last for the key."""
    seen: list[Device] = []
    poller = Poller([Device("a", "old")])
    poller.add_periodic_task(_collect(seen), name="see", spacing=SPACING, each=lambda: poller.devices)
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(9.5)
        poller.devices = [Device("a", "new")]
        await asyncio.sleep(20)
    assert [device.address for device in seen] == ["old", "new", "new"]
    assert {one.key for one in poller.contexts} == {"a"}


def _collect(seen: list[Device]) -> Any:
    async def see(context: RunContext, device: Device) -> None:
        seen.append(device)

    return see


async def _ask() -> list[str]:
    await asyncio.sleep(1)
    return ["a", "b"]


async def _stream() -> AsyncIterator[str]:
    yield "a"
    yield "b"


@pytest.mark.parametrize("devices", [("a", "b"), {"a": 1, "b": 2}, _ask, _stream, lambda: iter(["a", "b"])])
async def test_keys_may_come_from_anywhere(devices: Any) -> None:
    poller = Poller(devices)
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(22)
    assert set(poller.slots) == {"a", "b"}


class Declared(Manager):
    def __init__(self) -> None:
        super().__init__(settings=Settings())
        self.seen: list[Any] = []

    async def devices(self) -> list[str]:
        return ["a"]

    @periodic_task(spacing=1, each="devices", concurrency=5)
    async def poll(self, context: RunContext, key: str) -> None:
        self.seen.append((context.key, key))


async def test_keys_of_a_method_by_name() -> None:
    manager = Declared()
    async with Service(manager, settings=Settings()):
        await asyncio.sleep(3.5)
    assert manager.seen == [("a", "a")] * 3


@pytest.mark.parametrize(
    "devices",
    [3, "abc", ["a", None], [True], [object()], [["a"]], lambda: 1 / 0, lambda: asyncio.sleep(1000)],
)
async def test_a_wrong_answer_keeps_the_keys_of_before(
    devices: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged at the first, second, fourth failure and when it is over; the schedule goes on."""
    caplog.set_level("INFO")
    poller = Poller(["a"])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(5)
        poller.devices = devices
        await asyncio.sleep(300)
        assert set(poller.slots) == {"a"}
        assert poller.slots["a"] == poller.due("a", 0, 305)
        told = [record.getMessage() for record in caplog.records if "keys.failed" in record.getMessage()]
        assert 1 <= len(told) <= 6
        poller.devices = ["b"]
        await asyncio.sleep(80)
        assert "b" in poller.slots
    assert any("keys.recovered" in record.getMessage() for record in caplog.records)


async def test_the_error_names_the_wrong_key(caplog: pytest.LogCaptureFixture) -> None:
    poller = Poller(["a", 2.5])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(1)
    (record,) = [record for record in caplog.records if "keys.failed" in record.getMessage()]
    assert record.exc_info
    assert isinstance(record.exc_info[1], InvalidKeys)
    assert "2.5" in str(record.exc_info[1])


async def test_a_suspend_costs_each_key_one_run() -> None:
    """The wall jumps by an hour: each key that became due runs once, and its older slots are counted."""
    poller = Poller([f"k{number}" for number in range(300)])
    service, events = service_of(poller)
    async with service:
        await asyncio.sleep(20)
        runs = {key: len(slots) for key, slots in poller.slots.items()}
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        from time_machine import travel

        with travel(datetime.now(UTC).timestamp() + 3600, tick=True):
            await asyncio.sleep(9.5)
            extra = {key: len(poller.slots[key]) - count for key, count in runs.items()}
            assert set(extra.values()) <= {1, 2}
    missed = [event for event in events if isinstance(event, SlotsMissed)]
    assert {event.key for event in missed} == set(runs)
    assert {event.count for event in missed} <= {359, 360, 361}


async def test_phases_stay_over_a_restart() -> None:
    """A key has its slots at the same moments of the wall clock, whenever the service starts."""
    first, second = Poller(["a"]), Poller(["a"])
    async with service_of(first)[0]:
        await asyncio.sleep(33.3)
    async with service_of(second)[0]:
        await asyncio.sleep(30)
    assert second.slots["a"][0] % 10 == pytest.approx(first.slots["a"][0] % 10)


async def test_pause_and_resume() -> None:
    poller = Poller(["a", "b"])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(20)
        handle = service.task("Poller.poll")
        handle.pause()
        await asyncio.sleep(100)
        assert poller.slots["a"] == poller.due("a", 0, 20)
        handle.resume()
        await asyncio.sleep(20)
    assert poller.slots["a"] == [*poller.due("a", 0, 20), *poller.due("a", 120, 140)]


async def test_reschedule() -> None:
    poller = Poller(["a", "b"])
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(20)
        service.task("Poller.poll").reschedule(spacing=2)
        before = len(poller.slots["a"])
        await asyncio.sleep(20.1)
        assert len(poller.slots["a"]) - before == 10
        steps = {round(late - early, 3) for early, late in itertools.pairwise(poller.slots["a"][before:])}
        assert steps == {2.0}


async def test_a_pass_runs_the_keys_that_are_due() -> None:
    poller = Poller(["a", "b"])
    first_idle = await poller.periodic_tasks(None)
    assert first_idle <= 10
    await asyncio.sleep(10)
    await poller.periodic_tasks(None)
    assert {key: len(slots) for key, slots in poller.slots.items()} == {"a": 1, "b": 1}
    poller.devices = ["b"]
    await asyncio.sleep(10)
    await poller.periodic_tasks(None)
    assert len(poller.slots["b"]) == 2


async def test_a_pass_raises_what_a_key_raised() -> None:
    poller = Poller(["a"])
    await poller.periodic_tasks(None)
    poller.broken.add("a")
    await asyncio.sleep(10)
    with pytest.raises(OSError, match="a is broken"):
        await poller.periodic_tasks(None, raise_on_error=True)


async def test_a_context_for_a_unit_test() -> None:
    assert context("Poller.poll", key="10.0.0.7").key == "10.0.0.7"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"each": "devices"}, "each= needs spacing="),
        ({"each": "devices", "cron": "* * * * *"}, "each= needs spacing="),
        ({"each": "not a name", "spacing": 1}, "each is the name"),
        ({"each": 3, "spacing": 1}, "each is the name"),
        ({"each": "devices", "spacing": 1, "jitter": 1}, "jitter= has no meaning"),
        ({"each": "devices", "spacing": 1, "initial_delay": 1}, "initial_delay= has no meaning"),
        ({"concurrency": 3, "spacing": 1}, "give each= too"),
        ({"each": "devices", "spacing": 1, "concurrency": 0}, "at least 1"),
        ({"each": "devices", "spacing": 1, "concurrency": True}, "at least 1"),
    ],
)
def test_what_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidPeriodicTaskArg, match=words):
        periodic_task(**options)


def test_the_method_takes_the_key() -> None:
    with pytest.raises(InvalidPeriodicTaskArg, match=r"cannot be called with \(self, context, key\)"):

        @periodic_task(spacing=1, each="devices")
        async def poll(self: Any, context: Any) -> None: ...


KEYS = st.lists(st.sampled_from([f"k{number}" for number in range(12)]), unique=True, max_size=12)


@given(
    histories=st.lists(st.tuples(KEYS, st.floats(0.5, 27)), min_size=1, max_size=6),
    lasts=st.dictionaries(
        st.sampled_from([f"k{number}" for number in range(12)]), st.sampled_from([3.0, 25.0])
    ),
    limit=st.sampled_from([None, 2, 50]),
)
@settings(max_examples=60, deadline=None)
def test_every_key_of_every_moment_has_its_slots(
    histories: list[tuple[list[str], float]], lasts: dict[str, float], limit: int | None
) -> None:
    """Each slot that a naive model expects has one fate: a run, or a skip. Nothing else is told."""

    async def main() -> None:
        poller = Poller(histories[0][0], concurrency=limit)
        poller.lasts.update(lasts)
        service, events = service_of(poller)
        expected: dict[str, list[float]] = defaultdict(list)
        present: dict[str, float] = {}
        async with service:

            def ask() -> list[str]:
                now = elapsed()
                for key in set(present) - set(wanted):
                    expected[key] += poller.due(key, present.pop(key), now)
                for key in wanted:
                    present.setdefault(key, now)
                return list(wanted)

            poller.devices = ask
            wanted = histories[0][0]
            for keys, seconds in histories:
                wanted = keys
                await asyncio.sleep(seconds)
            poller.task.keys.refresh_at = None  # no more questions: what is present stays
            end = elapsed()
            for key, since in present.items():
                expected[key] += poller.due(key, since, end)
        told: dict[str, list[float]] = defaultdict(list)
        for event in events:
            if isinstance(event, RunFinished | SlotSkipped):
                told[str(event.key)].append(round((event.slot - START).total_seconds(), 3))
        for key in {*expected, *told}:
            window = 0.2  # a slot that is nearly due at a change or at the end may have been handed out
            ours, theirs = Counter(told[key]), Counter(round(slot, 3) for slot in expected[key])
            assert max(ours.values(), default=1) == 1, (key, ours)
            extra = list(ours - theirs)
            lost = list(theirs - ours)
            changes = list(itertools.accumulate(seconds for _, seconds in histories))
            asked = [10.0 * count for count in range(20)]
            assert all(
                any(-window <= slot - moment <= window for moment in [*changes, *asked, end])
                for slot in extra
            ), (
                key,
                extra,
            )
            assert not lost, (key, lost)

    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start=START)) as runner:
        runner.run(main())


async def test_a_key_with_two_slots_in_one_look_runs_once_at_a_time() -> None:
    """Its first slot may be its coming, and the next one of its grid is due at the same moment."""
    keys = [f"k{number}" for number in range(200)]
    poller = Poller(keys, run_immediately=True)
    poller.lasts = dict.fromkeys(keys, 0.5)
    most: Counter[Hashable] = Counter()
    service, events = service_of(poller)
    async with service:
        await asyncio.sleep(0.4)
        most.update(context.key for context in poller.contexts)
        await asyncio.sleep(20)
    assert set(most.values()) == {1}
    assert all(poller.task.active == {} for _ in events)


@pytest.mark.parametrize("verb", ["pause", "remove"])
async def test_no_run_that_waits_for_a_place_starts_after_a_pause(verb: str) -> None:
    poller = Poller([f"k{number}" for number in range(10)], concurrency=2, run_immediately=True, spacing=1000)
    poller.lasts = {f"k{number}": 50.0 for number in range(10)}
    service, events = service_of(poller)
    async with service:
        await asyncio.sleep(1)
        task = poller.task
        getattr(service.task("Poller.poll"), verb)()
        assert not task.waiting
        await asyncio.sleep(60)
        assert len(poller.contexts) == 2
        assert (task.running, task.active) == (0, {})
    refused = [event for event in events if isinstance(event, SlotSkipped) and event.reason != "overlap"]
    assert {event.reason for event in refused} == {f"{verb}d"}
    assert len({event.key for event in refused}) == 8


async def test_a_failing_key_that_goes_is_forgotten() -> None:
    """Also one whose run is in progress then; a key that comes again begins without failures."""
    poller = Poller(["a", "b"])
    poller.broken |= {"a", "b"}
    poller.lasts["b"] = 9.0
    service, _ = service_of(poller)
    async with service:
        await asyncio.sleep(29)
        assert poller.task.count_failing() == 2
        poller.devices = []
        await asyncio.sleep(12)
        assert (poller.task.count_failing(), poller.task.active, poller.task.last) == (0, {}, {})
