"""Holders that stand still for longer than their lease, and go on: what they tell of the slots that passed meanwhile.

A process is stopped, or its machine sleeps, from second 10 to second 40; another one takes its task over. In virtual
time, on hosts with clocks of their own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from asyncmgr import Manager, RunContext, Service, periodic_task
from asyncmgr.events import RunFinished, SlotSkipped, SlotsMissed
from asyncmgr.testing.simulation import Fault, SimulatedHost, Story, simulate
from asyncmgr.testing.simulation._story import MachinePart

FREEZES, THAWS, ENDS = 10.5, 40.2, 80.0
MACHINES = (MachinePart("a", 1.0, 100.0, 0, 10.0, (), 0.0), MachinePart("b", 1.0, 200.0, 0, 10.0, (), 3.0))


class Jobs(Manager):
    """A task every 2 s, whose run in progress at the freeze is a long one where that is asked for."""

    name = "M"

    def __init__(self, tale: Tale, host: SimulatedHost) -> None:
        super().__init__()
        self.tale, self.host_of = tale, host
        self.add_periodic_task(self.job, spacing=2, scope="cluster", **tale.options)

    def devices(self) -> Iterator[int]:
        yield from range(20)

    async def job(self, context: RunContext, key: int | None = None) -> None:
        moment = self.host_of.moment
        if context.slot_number is not None:
            self.tale.ran[context.slot_number] += 1
        self.tale.hosts.append((moment, self.host_of.name))
        with self.host_of.watched(context) as run:
            run.effect()
            hangs = self.tale.hangs and self.host_of.name == "a" and FREEZES - 2 < moment < FREEZES
            await asyncio.sleep(100 if hangs else 0.1)

    @periodic_task(spacing=5)
    async def look(self, context: RunContext) -> None:
        """Ask what became of a slot in the middle of the freeze."""
        service = self.service
        if self.host_of.name == "a" and service is not None and self.host_of.moment > THAWS + 10:
            ago = self.host_of.moment - (FREEZES + THAWS) / 2
            self.tale.said = str(service.explain("M.job", context.slot - timedelta(seconds=ago)))


class Tale:
    """One freeze, and what was told of the task from its beginning on."""

    def __init__(self, freeze: str, *, hangs: bool, **options: Any) -> None:
        self.hangs, self.options = hangs, options
        self.ran: Counter[int] = Counter()
        self.hosts: list[tuple[float, str]] = []
        self.told: list[tuple[float, str, Any]] = []
        self.said = ""
        faults = (Fault(FREEZES, freeze, 0), Fault(THAWS, "resume", 0))
        story = Story(1, MACHINES, (), faults, THAWS + 5, ENDS)
        simulate(1, self.service, story=story).raise_violation()

    def service(self, host: SimulatedHost) -> Service:
        lease = host.settings.lease.model_copy(update={"shards": 8})  # which are enough, and claimed at once
        settings = host.settings.model_copy(update={"lease": lease})
        service = Service(
            Jobs(self, host), name="s", host=host.name, transport=host.transport, settings=settings
        )
        service.add_listener(
            lambda event: self.told.append((host.moment, host.name, event)),
            SlotsMissed,
            SlotSkipped,
            RunFinished,
        )
        return service

    def of(self, kind: type[Any], host: str) -> list[Any]:
        """The events of the task at a host, from the freeze on."""
        return [
            event
            for at, where, event in self.told
            if isinstance(event, kind) and where == host and at > FREEZES and event.task == "M.job"
        ]


FREEZE = [
    pytest.param("pause", "the event loop was blocked from 00:00:", id="stopped"),
    pytest.param("suspend", "the clock was set forward by 30 s", id="asleep"),
]
"""In virtual time the kind of a standstill is not known: nothing there measures CPU, or sleep."""


@pytest.mark.parametrize(("freeze", "cause"), FREEZE)
@pytest.mark.parametrize("hangs", [False, True], ids=["between-runs", "in-a-run"])
@pytest.mark.parametrize("overlap", ["skip", "queue", "allow"])
def test_slots_that_another_process_ran(freeze: str, cause: str, overlap: str, *, hangs: bool) -> None:
    """The one that slept tells none as missed, whatever run they met there; each has one fate in the cluster."""
    tale = Tale(freeze, hangs=hangs, overlap=overlap)
    assert not tale.of(SlotsMissed, "a")
    assert {event.reason for event in tale.of(SlotSkipped, "a")} <= {"lease_lost", "not_owner"}
    missed = sum(event.count for event in tale.of(SlotsMissed, "b"))
    numbers = sorted(tale.ran)
    assert set(tale.ran.values()) == {1}
    assert numbers[-1] - numbers[0] + 1 - len(numbers) == missed - hangs, (
        "a run that was cut off is missed too"
    )
    assert [host for at, host in tale.hosts if at > THAWS] == ["b"] * sum(at > THAWS for at, _ in tale.hosts)
    assert f"did not run here: {cause}" in tale.said
    assert ", and this process lost the lease. Meanwhile b~" in tale.said
    assert tale.said.endswith("and ran them.")


@pytest.mark.parametrize("freeze", ["pause", "suspend"])
def test_keys_that_another_process_ran(freeze: str) -> None:
    """Slots of keys whose runs hung during the sleep are not told as missed either."""
    tale = Tale(freeze, hangs=True, each="devices", concurrency=50)
    held = {event.key for event in tale.of(RunFinished, "a") if event.outcome == "cancelled"}
    assert held
    assert not tale.of(SlotsMissed, "a")
    assert {event.reason for event in tale.of(SlotSkipped, "a")} <= {"lease_lost", "not_owner"}
    assert held <= {event.key for event in tale.of(RunFinished, "b")}
