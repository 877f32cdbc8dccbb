"""What a service says of its host, and when: seen in the store, in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
import time_machine

from asyncmgr import Hosts, InvalidCapabilities, Service, TransportError, periodic_task
from asyncmgr.capabilities import _announcer
from asyncmgr.capabilities._announcement import announcement_key
from asyncmgr.capabilities._announcer import ANSWER_WITHIN, Announcer
from asyncmgr.capabilities._board import Board
from asyncmgr.events import HostDuplicated, Listeners
from asyncmgr.transports._retries import RESUME_WITHIN
from asyncmgr.transports._shelf import Shelf
from tests.announcements import (
    Agent,
    Link,
    OtherAgent,
    Said,
    Sender,
    captured,
    count,
    listen,
    make_service,
    memory,
    now,
    open_store,
)

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")

EMPTY: dict[str, Any] = {"": {}}


@asynccontextmanager
async def serving(*agents: Any, host: str = "n1", **settings: Any) -> AsyncIterator[tuple[Service, Link]]:
    """A service with a connection of its own, and what is at the other end of neither."""
    async with memory() as transport:
        service = make_service(*agents, transport=transport, host=host, **settings)
        async with service:
            yield service, transport


def announcer_of(service: Service) -> Announcer:
    assert service._presence.announcer is not None
    return service._presence.announcer


def crash(service: Service) -> None:
    """End the announcer as kill -9 does: without a word."""
    announcer = announcer_of(service)
    assert announcer._task is not None
    announcer._task.cancel()
    announcer._task = None


def duplicates(service: Service) -> list[Any]:
    seen: list[Any] = []
    service.add_listener(seen.append, HostDuplicated)
    return seen


# Presence and changes


async def test_started_host_is_announced_without_capabilities() -> None:
    """Presence: node and capabilities are empty; no reader has to wait for the first report."""
    async with listen() as said, serving(Agent()):
        await asyncio.sleep(0)
        assert said.nodes == EMPTY
        assert said.at == [0]


async def test_service_without_a_reporting_manager_is_announced() -> None:
    """Presence belongs to the service, not to capabilities."""
    async with listen(service="bare") as said, memory() as transport:
        from tests.helpers import Bare

        async with Service(Bare(), host="n1", transport=transport):
            await asyncio.sleep(100)
    assert 6 <= len(said) <= 8
    assert said.withdrawn


async def test_nothing_is_sent_before_the_first_update() -> None:
    """The publishing task sends nothing on its own: in an hour there are refreshes only, of the presence."""
    async with listen() as said, serving(Agent()):
        await asyncio.sleep(3600)
        assert {str(fields and fields["nodes"]) for _, fields in said.all} == {
            str([{"node": "", "capabilities": {}}])
        }
        assert 3600 / 22 <= len(said) <= 3600 / 18 + 1


async def test_update_before_the_start_is_announced_with_it() -> None:
    """What was reported before the start is in the first announcement."""
    agent = Agent()
    agent.update_service_capabilities({"ram": 1})
    async with listen() as said, serving(agent):
        await asyncio.sleep(0)
        assert len(said) == 1
        assert said.nodes == {"": {"ram": 1}}


@pytest.mark.parametrize("after", [0.0, 0.1, 0.6, 10.0, 19.9])
async def test_change_is_sent_within_a_second(after: float) -> None:
    """However long after the last announcement it comes."""
    agent = Agent()
    async with listen() as said, serving(agent):
        await asyncio.sleep(after)
        agent.update_service_capabilities({"ram": 1})
        await asyncio.sleep(1)
        assert said.nodes == {"": {"ram": 1}}


async def test_burst_of_updates_is_no_storm() -> None:
    """Of 1000 updates in a row the last arrives within a second, in at most two announcements."""
    agent = Agent()
    async with listen() as said, serving(agent):
        await asyncio.sleep(5)
        for ram in range(1000):
            agent.update_service_capabilities({"ram": ram})
        await asyncio.sleep(1)
        assert said.nodes == {"": {"ram": 999}}
        assert len(said) == 2


async def test_steady_updates_are_no_storm() -> None:
    """A manager that updates each 10 ms is announced twice a second, never more than a second late."""
    agent = Agent()
    async with listen() as said, serving(agent):
        for ram in range(1000):
            agent.update_service_capabilities({"ram": ram})
            await asyncio.sleep(0.01)
            if ram >= 100:
                assert said.nodes[""]["ram"] >= ram - 100
        assert 10 <= len(said) <= 22


async def test_change_while_another_is_written_is_sent() -> None:
    """An update that comes in the middle of a write is not lost."""
    agent = Agent()
    async with listen() as said, serving(agent) as (_, transport):
        await asyncio.sleep(5)
        transport.delay = 0.2
        for ram in (1, 2):
            agent.update_service_capabilities({"ram": ram})
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.8)
        assert said.nodes == {"": {"ram": 2}}


async def test_update_in_a_thread_is_sent() -> None:
    """Measuring is often done in one: what it reports is sent while it goes on."""
    agent = Agent()
    arrived = threading.Event()

    def report() -> bool:
        agent.update_service_capabilities({"ram": 1})
        return arrived.wait(5)

    async def look(hosts: Hosts) -> None:
        async for _ in hosts.changes():
            arrived.set()

    asyncio.get_running_loop().set_debug(True)  # calls that are not safe in a thread raise
    async with serving(agent), memory() as transport, Hosts(transport) as hosts:
        looking = asyncio.create_task(look(hosts))
        await asyncio.sleep(5)
        assert await asyncio.to_thread(report)
    await looking


async def test_update_without_a_change_sends_nothing() -> None:
    """The same again is no news; what only Python takes for the same is."""
    agent = Agent()
    async with listen() as said, serving(agent):
        for value in (1, 1, 1, True, 1.0):
            agent.update_service_capabilities({"x": value})
            await asyncio.sleep(1.5)
        values = [fields["nodes"][0]["capabilities"] for _, fields in said.all if fields]
    assert [str(value) for value in values] == ["{}", "{'x': 1}", "{'x': True}", "{'x': 1.0}"]


async def test_list_is_the_whole_truth() -> None:
    """Absent nodes are withdrawn, also the presence; the empty list withdraws all, and the host stays announced."""
    agent = Agent()
    async with listen() as said, serving(agent):
        agent.update_service_capabilities([{"node": "a"}, {"node": "b"}])
        await asyncio.sleep(1)
        assert said.nodes.keys() == {"a", "b"}
        agent.update_service_capabilities(({"node": "b"},))
        await asyncio.sleep(1)
        assert said.nodes.keys() == {"b"}
        agent.update_service_capabilities([])
        await asyncio.sleep(1)
        assert said.nodes == {}
        before = len(said)
        await asyncio.sleep(60)
        assert said.nodes == {}
        assert len(said) >= before + 2


async def test_two_managers_of_one_service_are_announced_together() -> None:
    """The host's nodes are those of all managers; one of another is refused, and changes nothing."""
    one, two = Agent(), OtherAgent()
    async with listen() as said, serving(one, two):
        one.update_service_capabilities({"node": "a", "x": 1})
        two.update_service_capabilities({"node": "b", "x": 2})
        with pytest.raises(InvalidCapabilities, match="two capabilities are for the node 'a'"):
            two.update_service_capabilities({"node": "a", "x": 3})
        await asyncio.sleep(1)
        assert {node: values["x"] for node, values in said.nodes.items()} == {"a": 1, "b": 2}
        one.update_service_capabilities([])
        two.update_service_capabilities({"node": "a", "x": 3})
        await asyncio.sleep(1)
        assert {node: values["x"] for node, values in said.nodes.items()} == {"a": 3}


async def test_managers_that_do_not_go_together_fail_the_start() -> None:
    """Two that reported one node before the start: nobody can tell which is meant."""
    one, two = Agent(), OtherAgent()
    one.update_service_capabilities({"node": "a"})
    two.update_service_capabilities({"node": "a"})
    async with listen() as said:
        with pytest.raises(InvalidCapabilities, match="two capabilities are for the node 'a'"):
            async with serving(one, two):
                pass
    assert len(said) == 0


async def test_two_managers_share_the_room() -> None:
    """Each fits alone, both together do not: the second is refused, under a running service."""
    one, two = Agent(), OtherAgent()
    async with serving(one, two):
        one.update_service_capabilities({"node": "a", "x": "x" * 600_000})
        with pytest.raises(InvalidCapabilities, match="bytes as JSON, at most"):
            two.update_service_capabilities({"node": "b", "x": "x" * 600_000})


async def test_publishing_task_sends_what_nothing_else_sent() -> None:
    """`publish_service_capabilities` is a periodic task: each pass sends a change that was only remembered."""
    agent = Agent()
    async with listen() as said, serving(agent) as (service, _):
        await asyncio.sleep(55)
        agent.last_capabilities = (("", {"x": 1}),)
        assert [task.full_name for task in service.managers[0].task_status()] == [
            "Agent.publish_service_capabilities"
        ]
        await asyncio.sleep(6)
        assert said.nodes == {"": {"x": 1}}


async def test_after_the_stop_an_update_is_remembered_only() -> None:
    """A manager whose service has ended is one without a service."""
    agent = Agent()
    async with listen() as said:
        async with serving(agent):
            pass
        agent.update_service_capabilities({"x": 1})
        await asyncio.sleep(100)
    assert said.withdrawn
    assert agent.last_capabilities == (("", {"x": 1}),)


# Refresh


def intervals(said: Said) -> list[float]:
    return [round(after - before, 6) for before, after in pairwise(said.at)]


@pytest.mark.parametrize("ttl", [60.0, 0.9, 600.0])
async def test_refresh_comes_every_third_of_the_ttl(ttl: float) -> None:
    """Give or take a tenth, each time another; the TTL travels in the message."""
    async with listen() as said, serving(Agent(), capability_ttl=ttl):
        await asyncio.sleep(ttl * 20)
        gaps = intervals(said)
        assert all(0.9 * ttl / 3 <= gap <= 1.1 * ttl / 3 for gap in gaps)
        assert len(set(gaps)) > 30
        assert said.last["ttl"] == ttl


async def test_refresh_is_spread_by_host() -> None:
    """Hosts started together drift apart, each the same way every time."""

    async def refreshes(host: str) -> list[float]:
        async with listen(host) as said, serving(Agent(), host=host):
            await asyncio.sleep(300)
            return intervals(said)

    first, again, other = [await refreshes(host) for host in ("n1", "n1", "n2")]
    assert first == again
    assert not set(first) & set(other)


async def test_refresh_outruns_the_backstop_of_the_store() -> None:
    """With a TTL of a day, the store still forgets what is not written for an hour."""
    async with listen() as said, serving(Agent(), capability_ttl=86400):
        await asyncio.sleep(20_000)
        assert max(intervals(said)) <= 1320


async def test_sequence_grows_and_incarnation_stays() -> None:
    """Within one start."""
    async with listen() as said, serving(Agent()):
        await asyncio.sleep(100)
        said_before = [fields for _, fields in said.all if fields]
    assert [fields["sequence"] for fields in said_before] == list(range(1, len(said_before) + 1))
    assert len({fields["incarnation"] for fields in said_before}) == 1


async def test_steps_of_the_wall_clock_change_nothing() -> None:
    """A host whose clock is set while it runs is refreshed as before, under the same incarnation."""
    async with listen() as said, serving(Agent()):
        await asyncio.sleep(50)
        with time_machine.travel(datetime(1970, 1, 1, tzinfo=UTC), tick=False):
            await asyncio.sleep(600)
        assert max(intervals(said)) <= 22
        assert len({fields["incarnation"] for _, fields in said.all if fields}) == 1


# The end


async def test_clean_stop_withdraws() -> None:
    """The key is gone when the service has stopped, before its TTL."""
    async with listen() as said:
        async with serving(Agent()):
            await asyncio.sleep(5)
        assert said.at[-1] == 5
        assert said.withdrawn


async def test_stop_while_a_write_is_under_way_withdraws() -> None:
    """What is being written is not written after the withdrawal."""
    agent = Agent()
    async with listen() as said, memory() as transport:
        async with make_service(agent, transport=transport):
            await asyncio.sleep(5)
            transport.delay = 0.3
            agent.update_service_capabilities({"x": 1})
            await asyncio.sleep(0.1)
        await asyncio.sleep(60)
    assert said.withdrawn


async def test_stop_while_the_first_write_is_under_way_withdraws() -> None:
    """A write that the engine has got is done, whoever is cancelled meanwhile: the withdrawal comes after it."""
    async with listen() as said, memory() as transport:
        store = await open_store(transport)
        create = store.create

        async def create_late(*args: Any) -> int:
            await asyncio.sleep(0.3)
            return await create(*args)

        async def create_anyway(*args: Any) -> int:
            return await asyncio.shield(asyncio.create_task(create_late(*args)))

        async def open_it(*args: Any, **kwargs: Any) -> Any:
            return store

        store.create = create_anyway  # type: ignore[assignment, method-assign]
        transport.store = open_it  # type: ignore[method-assign]
        service = make_service(Agent(), transport=transport)
        starting = asyncio.create_task(service.start())
        await asyncio.sleep(0.1)
        await service.stop()
        await asyncio.wait({starting})
        await asyncio.sleep(60)
    assert len(said) == 2
    assert said.withdrawn


async def test_stop_is_silent_where_another_instance_is_quicker() -> None:
    """One that takes the name in the middle of the withdrawal keeps it."""
    with captured() as logs:
        async with listen() as said, memory() as other, serving(Agent()) as (service, _):
            assert service._presence.announcer is not None
            store = service._presence.announcer._store
            assert store is not None
            get = store.get

            async def get_and_lose(key: str) -> Any:
                entry = await get(key)
                await Sender(other, incarnation=2**60).say({"other": True})
                return entry

            store.get = get_and_lose  # type: ignore[method-assign]
            await service.stop()
            assert said.nodes == {"": {"other": True}}
    assert count(logs, "withdrawal.failed") == 0


async def test_stop_without_the_transport_does_not_wait_for_it() -> None:
    """Disconnected: at once. No answer: after `ANSWER_WITHIN`, at most a third of the TTL. Either is logged."""
    with captured() as logs:
        async with serving(Agent()) as (service, transport):
            await asyncio.sleep(5)
            with transport.outage():
                await service.stop()
                assert now() == 5
        async with serving(Agent(), host="n2") as (service, transport):
            await asyncio.sleep(5)
            transport.answers.clear()
            await service.stop()
            assert now() == 10 + ANSWER_WITHIN
            transport.answers.set()
        async with serving(Agent(), host="n3", capability_ttl=0.9) as (service, transport):
            transport.answers.clear()
            await service.stop()
            assert now() == pytest.approx(10 + ANSWER_WITHIN + 0.3)
            transport.answers.set()
    assert count(logs, "withdrawal.failed") == 3
    assert count(logs, "service.step_failed") == 0


async def test_only_its_own_announcement_is_withdrawn() -> None:
    """A stop leaves what another instance has written meanwhile."""
    async with listen() as said:
        async with serving(Agent()) as (_, transport):
            sender = Sender(transport, incarnation=2**60)
            await sender.say({"other": True})
        await asyncio.sleep(1)
        assert said.nodes == {"": {"other": True}}


@pytest.mark.parametrize("turns", range(12))
async def test_start_cancelled_anywhere_leaves_nothing(turns: int) -> None:
    """Whichever await a start is cut off at, after the stop there is no announcement, task or listener."""
    async with memory() as transport:
        service = make_service(Agent(), transport=transport)
        starting = asyncio.create_task(service.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait({starting})
        await service.stop()
        assert await (await open_store(transport)).keys() == []
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert transport._listeners == []


# Restarts


async def test_restart_after_a_crash_is_no_duplicate() -> None:
    """The new incarnation takes over at once what the dead one has left."""
    with captured() as logs:
        async with listen() as said, memory() as transport:
            dead = make_service(Agent(), transport=transport)
            await dead.start()
            await asyncio.sleep(5)
            crash(dead)
            async with serving(Agent()):
                await asyncio.sleep(100)
                first, last = said.all[0][1], said.last
                assert first is not None
                assert last["incarnation"] > first["incarnation"]
            await dead.stop()
    assert count(logs, "host.duplicated") == 0


async def test_restart_with_a_clock_set_back_is_a_later_incarnation() -> None:
    """Also where the wall clock, and so the incarnation, begins in the past."""
    async with listen() as said, memory() as transport:
        await Sender(transport, incarnation=2**60).say()
        async with serving(Agent()):
            await asyncio.sleep(50)
            assert said.last["incarnation"] == 2**60 + 1


async def test_restart_at_the_same_instant_is_a_later_incarnation() -> None:
    """In virtual time a host can be stopped and started at one instant."""
    async with listen() as said:
        for _ in range(3):
            async with serving(Agent()):
                await asyncio.sleep(0)
    incarnations = [fields["incarnation"] for _, fields in said.all if fields]
    assert incarnations == sorted(set(incarnations))
    assert len(said) == 6


async def test_malformed_value_under_the_key_is_replaced() -> None:
    """Whatever it is."""
    async with listen() as said, memory() as transport:
        await (await open_store(transport)).put(announcement_key("compute", "n1"), b'"nonsense"')
        async with serving(Agent()):
            await asyncio.sleep(30)
            assert said.nodes == EMPTY


@pytest.mark.parametrize("incarnation", [2**63 - 1, 2**63 - 2])
async def test_last_incarnation_under_the_key_hides_no_host(incarnation: int) -> None:
    """Nothing could follow it: the key is deleted, and the host begins with its own number, before readers too (43)."""
    async with listen() as said, memory() as transport, Hosts(transport) as hosts:
        await Sender(transport, incarnation=incarnation).say({"x": 0})
        await asyncio.sleep(0.001)
        async with serving(Agent()):
            await asyncio.sleep(1)
            assert said.nodes == EMPTY
            assert said.last["incarnation"] < 2**53
            assert [state.capabilities for state in hosts.snapshot()] == [{}]
            await asyncio.sleep(100)
            assert len(hosts.snapshot()) == 1


async def test_last_incarnation_written_while_the_host_runs_ends_with_its_ttl() -> None:
    """It passes for another instance for so long, at most for the hour that the store keeps it (43)."""
    async with listen() as said, serving(Agent()), memory() as transport, Hosts(transport) as hosts:
        await asyncio.sleep(1)
        await Sender(transport, incarnation=2**63 - 1, ttl=1e9).say({"x": 0})
        await asyncio.sleep(3600 + 22)
        assert said.nodes == EMPTY
        assert [state.capabilities for state in hosts.snapshot()] == [{}]


# Duplicates


async def test_each_episode_of_a_duplicate_is_reported() -> None:
    """Once when it begins, and once when the name is this instance's again (43)."""
    agent = Agent()
    with captured() as logs:
        async with serving(agent) as (older, _):
            heard = duplicates(older)
            for episode in range(3):
                async with serving(Agent()):
                    await asyncio.sleep(100)
                    assert len(heard) == episode + 1
                    assert count(logs, "host.reclaimed") == episode
                await asyncio.sleep(22)
                assert count(logs, "host.reclaimed") == episode + 1
    assert count(logs, "host.duplicated") == len(heard) == 3


async def test_duplicate_is_reported_once() -> None:
    """Of two live instances with one name the older says so, once, with the cure; the newer is announced."""
    older_agent, newer_agent = Agent(), Agent()
    older_agent.update_service_capabilities({"which": "older"})
    newer_agent.update_service_capabilities({"which": "newer"})
    with captured() as logs:
        async with listen() as said, memory() as transport:
            older = make_service(older_agent, transport=transport)
            newer = make_service(newer_agent, transport=transport)
            heard = duplicates(older), duplicates(newer)
            async with older:
                await asyncio.sleep(5)
                async with newer:
                    await asyncio.sleep(22)
                    assert count(logs, "host.duplicated") == 1
                    for load in range(600):
                        older_agent.update_service_capabilities({"which": "older", "load": load})
                        await asyncio.sleep(1)
                        assert said.nodes == {"": {"which": "newer"}}
    assert heard == ([HostDuplicated("compute", "n1")], [])
    (entry,) = [entry for entry in logs if entry["event"] == "host.duplicated"]
    assert entry["log_level"] == "error"
    assert "give each instance a name of its own: host=" in entry["cure"]
    assert count(logs, "announcement.failed") == 0


async def test_duplicates_that_start_together_are_reported_once() -> None:
    """Whoever of them writes first."""
    with captured() as logs:
        async with memory() as one, memory() as other:
            services = [make_service(Agent(), transport=transport) for transport in (one, other)]
            heard = [duplicates(service) for service in services]
            await asyncio.gather(*[service.start() for service in services])
            await asyncio.sleep(200)
            await asyncio.gather(*[service.stop() for service in services])
    assert sorted(map(len, heard)) == [0, 1]
    assert count(logs, "host.duplicated") == 1


@pytest.mark.parametrize("apart", [0.0, 0.3])
async def test_duplicates_of_one_incarnation_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, apart: float
) -> None:
    """Processes that were forked at one instant may draw one number: one reports, the other is announced (7)."""
    monkeypatch.setattr(_announcer, "_next_incarnation", lambda: 5)
    with captured() as logs:
        async with listen() as said, memory() as one, memory() as other:
            services = [make_service(Agent(), transport=transport) for transport in (one, other)]
            starting = [asyncio.create_task(services[0].start())]
            await asyncio.sleep(apart)
            starting.append(asyncio.create_task(services[1].start()))
            await asyncio.sleep(100)
            assert count(logs, "host.duplicated") == 1
            before = len(said)
            await asyncio.sleep(100)
            assert 4 <= len(said) - before <= 6
            for service in services:
                await service.stop()


async def test_same_host_of_another_service_is_no_duplicate() -> None:
    """Several services share a host and its name."""
    with captured() as logs:
        async with (
            memory() as transport,
            serving(Agent()),
            Service(Agent(), name="other", host="n1", transport=transport),
        ):
            await asyncio.sleep(100)
    assert count(logs, "host.duplicated") == 0


async def test_older_duplicate_is_back_when_the_newer_stops() -> None:
    """Within one refresh after a clean stop."""
    agent = Agent()
    async with listen() as said, serving(agent):
        async with serving(Agent()):
            await asyncio.sleep(100)
        agent.update_service_capabilities({"x": 1})
        await asyncio.sleep(1)
        assert said.nodes == {"": {"x": 1}}
        await asyncio.sleep(22)
        assert said.nodes == {"": {"x": 1}}


async def test_older_duplicate_is_back_when_the_newer_is_dead() -> None:
    """A crashed one holds the name for its TTL and no longer; the survivor is then the newer incarnation."""
    agent = Agent()
    agent.update_service_capabilities({"x": 1})
    async with listen() as said, serving(agent), memory() as transport:
        newer = make_service(Agent(), transport=transport)
        await newer.start()
        await asyncio.sleep(100)
        crash(newer)
        died, held_by = said.at[-1], said.last["incarnation"]
        await asyncio.sleep(60 + 22)
        assert said.nodes == {"": {"x": 1}}
        assert said.at[-1] >= died + 60
        assert said.last["incarnation"] > held_by
        await newer.stop()
        assert not said.withdrawn


# A service that cannot serve calls


async def test_suspended_host_is_withdrawn_until_it_is_resumed() -> None:
    """At once, with one log event at each change; meanwhile nothing is announced, whatever managers report (41)."""
    agent = Agent()
    with captured() as logs:
        async with listen() as said, serving(agent) as (service, _):
            await asyncio.sleep(5)
            for _ in range(2):
                announcer_of(service).suspend("its subjects cannot be subscribed to\n")
                await asyncio.sleep(0.001)
            assert said.withdrawn
            before = len(said)
            for ram in range(200):
                agent.update_service_capabilities({"ram": ram})
                await asyncio.sleep(1)
            assert len(said) == before
            for _ in range(2):
                announcer_of(service).resume()
                await asyncio.sleep(0.001)
            assert said.nodes == {"": {"ram": 199}}
            await asyncio.sleep(100)
            assert said.last["sequence"] > 5
        assert said.withdrawn
    suspended, restored = [entry for entry in logs if entry["event"].split(".")[0] == "announcement"]
    assert (suspended["event"], suspended["log_level"]) == ("announcement.suspended", "warning")
    assert suspended["reason"] == "its subjects cannot be subscribed to\\n"
    assert (restored["event"], restored["log_level"]) == ("announcement.restored", "info")


async def test_host_suspended_before_its_start_is_not_announced() -> None:
    """A service that could not begin to serve shows up when it can."""
    async with listen() as said, memory() as transport:
        announcer = Announcer(transport, "compute", "n1", ttl=60, board=Board(), listeners=Listeners())
        announcer.suspend("not served yet")
        await announcer.start()
        await asyncio.sleep(100)
        assert len(said) == 0
        announcer.resume()
        await asyncio.sleep(0.001)
        assert said.nodes == EMPTY
        await announcer.stop()
        assert said.withdrawn


async def test_suspended_while_a_write_is_under_way_is_withdrawn() -> None:
    """What is written meanwhile is withdrawn right after; resuming during a withdrawal likewise."""
    async with listen() as said, serving(Agent()) as (service, transport):
        await asyncio.sleep(5)
        transport.delay = 0.2
        service.board.write("Agent", (("", {"x": 1}),))
        await asyncio.sleep(0.1)
        announcer_of(service).suspend("why not")
        await asyncio.sleep(2)
        assert said.withdrawn
        announcer_of(service).resume()
        await asyncio.sleep(0.1)
        announcer_of(service).suspend("why not")
        await asyncio.sleep(0.1)
        announcer_of(service).resume()
        await asyncio.sleep(3)
        assert said.nodes == {"": {"x": 1}}


async def test_suspended_host_leaves_another_instance_alone() -> None:
    """Only its own announcement is withdrawn."""
    async with listen() as said, serving(Agent()) as (service, transport):
        await Sender(transport, incarnation=2**60).say({"other": True})
        announcer_of(service).suspend("why not")
        await asyncio.sleep(30)
        assert said.nodes == {"": {"other": True}}


async def test_suspended_in_an_outage_is_withdrawn_after_it() -> None:
    """As soon as the store can be reached."""
    async with listen() as said, serving(Agent()) as (service, transport):
        await asyncio.sleep(1)
        with transport.outage():
            announcer_of(service).suspend("no connection")
            await asyncio.sleep(30)
        await asyncio.sleep(RESUME_WITHIN)
        assert said.withdrawn


# Outages


async def test_outage_is_logged_once_and_ends_with_the_latest_values() -> None:
    """One event at each change of state; after the reconnection the last value only is sent, within moments."""
    agent = Agent()
    with captured() as logs:
        async with listen() as said, serving(agent) as (_, transport):
            await asyncio.sleep(5)
            before = len(said)
            with transport.outage():
                for ram in range(600):
                    agent.update_service_capabilities({"ram": ram})
                    await asyncio.sleep(1)
            assert count(logs, "announcement.failed") == 1
            assert count(logs, "announcement.resumed") == 0
            back = now()
            await asyncio.sleep(10)
            assert len(said) == before + 1
            assert said.nodes == {"": {"ram": 599}}
            assert said.at[-1] <= back + RESUME_WITHIN
    assert count(logs, "announcement.failed") == count(logs, "announcement.resumed") == 1
    (failed,) = [entry for entry in logs if entry["event"] == "announcement.failed"]
    assert (failed["service"], failed["host"], failed["log_level"]) == ("compute", "n1", "warning")
    assert "exc_info" not in failed


async def test_local_schedule_misses_no_slot_during_an_outage() -> None:
    """Neither a lost connection nor an engine that gives no answer delays a task."""
    ran: list[float] = []

    class Busy(Agent):
        @periodic_task(spacing=1)
        async def work(self, context: Any) -> None:
            ran.append(now())
            self.update_service_capabilities({"ran": len(ran)})

    async with serving(Busy()) as (_, transport):
        with transport.outage():
            await asyncio.sleep(60)
        transport.answers.clear()
        await asyncio.sleep(60.5)
        transport.answers.set()
    assert ran == [float(second) for second in range(1, 121)]


async def test_outage_is_waited_out_patiently() -> None:
    """In an hour without the transport there are tries with a growing pause, not as many as there are updates."""
    agent = Agent()
    async with serving(agent) as (_, transport):
        tries: list[float] = []
        opened = transport.store

        async def store(*args: Any, **kwargs: Any) -> Any:
            tries.append(now())
            return await opened(*args, **kwargs)

        transport.store = store  # type: ignore[method-assign]
        with transport.outage():
            for load in range(3600):
                agent.update_service_capabilities({"load": load})
                await asyncio.sleep(1)
    pauses = [after - before for before, after in pairwise(tries)]
    assert len(tries) < 3600 / 15 + 20
    assert all(pause <= 30 for pause in pauses)
    assert 15 < sum(pauses[-50:]) / 50 < 30
    assert len(set(pauses[-50:])) == 50


@pytest.mark.parametrize("lasts", [0.0, 0.01, 5.0])
async def test_host_is_announced_again_after_an_outage_that_it_did_not_notice(lasts: float) -> None:
    """Also to a store that came back empty, and long before the next refresh would be due."""
    with captured() as logs:
        async with listen() as said, serving(Agent()) as (_, transport), memory() as other:
            await asyncio.sleep(1)
            with transport.outage():
                await Sender(other).withdraw()
                await asyncio.sleep(lasts)
            await asyncio.sleep(RESUME_WITHIN)
            assert said.nodes == EMPTY
    assert count(logs, "announcement.failed") == count(logs, "host.duplicated") == 0


async def test_return_of_the_connection_ends_patience() -> None:
    """After a long outage a first try that comes too early is followed by another within a second."""
    async with listen() as said, serving(Agent()) as (_, transport):
        with transport.outage():
            await asyncio.sleep(3600)
            transport.fault = TransportError("the engine is still starting")
        await asyncio.sleep(RESUME_WITHIN)
        before = len(said)
        transport.fault = None
        await asyncio.sleep(1)
        assert len(said) == before + 1


class Instance:
    """One of several services with one name and host, each on a connection of its own."""

    def __init__(self, who: int, stack: AsyncExitStack) -> None:
        self.agent = Agent()
        self.report(who)
        self._stack = stack
        self.outage = contextlib.ExitStack()

    def report(self, x: int) -> None:
        self.latest = {"who": id(self), "x": x}
        self.agent.update_service_capabilities(self.latest)

    async def start(self) -> None:
        self.link = await self._stack.enter_async_context(memory())
        self.service = make_service(self.agent, transport=self.link)
        self.reports = duplicates(self.service)
        await self.service.start()
        self._stack.push_async_callback(self.service.stop)


@pytest.mark.parametrize("seed", range(20))
async def test_in_the_end_a_live_instance_is_announced(seed: int) -> None:
    """However many share the name, come, go, crash, and lose their connections: with its latest values, no fight."""
    chance = random.Random(seed)
    live: list[Instance] = []
    async with listen() as said, AsyncExitStack() as stack:
        everyone: list[Instance] = []
        for step in range(60):
            what = chance.choice(["start", "stop", "crash", "report", "lose", "find", "wait", "wait"])
            instance = chance.choice(live) if live else None
            if what == "start" and len(live) < 3:
                live.append(Instance(step, stack))
                everyone.append(live[-1])
                await live[-1].start()
            elif what == "wait" or instance is None:
                await asyncio.sleep(chance.choice([0, 0.1, 3, 25, 70]))
            elif what == "stop":
                live.remove(instance)
                await instance.service.stop()
            elif what == "crash":
                live.remove(instance)
                crash(instance.service)
            elif what == "report":
                instance.report(step)
            elif what == "lose" and instance.link.connected:
                instance.outage.enter_context(instance.link.outage())
            elif what == "find":
                instance.outage.close()
        for instance in live:
            instance.outage.close()
        await asyncio.sleep(60 + 22 + 22)
        before = len(said)
        await asyncio.sleep(220)
        if live:
            assert said.nodes[""] in [instance.latest for instance in live]
            assert 10 <= len(said) - before <= 13
        else:
            assert len(said) == before
        assert all(len(instance.reports) <= len(everyone) for instance in everyone)


async def test_return_of_the_connection_is_no_storm() -> None:
    """Hosts that lost it together spread their announcements, also where each has something new to say."""
    agents = [Agent() for _ in range(50)]
    async with AsyncExitStack() as stack:
        transport = await stack.enter_async_context(memory())
        for index, agent in enumerate(agents):
            service = make_service(agent, transport=transport, host=f"n{index}")
            await stack.enter_async_context(service)
        watch = await stack.enter_async_context(
            (await open_store(await stack.enter_async_context(memory()))).watch()
        )
        with transport.outage():
            for _ in range(30):
                for load, agent in enumerate(agents):
                    agent.update_service_capabilities({"load": load})
                await asyncio.sleep(1)
        back, at = now(), []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                async for _ in watch:
                    at.append(now() - back)  # noqa: PERF401 - what came before the timeout is wanted
    again = at[51:]
    assert len(again) == 50
    assert max(sum(begin <= when < begin + 0.2 for when in again) for begin in again) < 20
    assert max(again) <= RESUME_WITHIN


async def test_service_starts_without_its_transport() -> None:
    """A given transport that is down stops no start; the host is announced as soon as it is there."""
    agent = Agent()
    with captured() as logs:
        async with listen() as said, memory() as transport:
            outage = transport.outage()
            outage.__enter__()
            async with make_service(agent, transport=transport) as service:
                assert now() == 0
                assert service.health.ok
                agent.update_service_capabilities({"x": 1})
                await asyncio.sleep(100)
                assert len(said) == 0
                outage.__exit__(None, None, None)
                await asyncio.sleep(RESUME_WITHIN)
                assert said.nodes == {"": {"x": 1}}
    assert count(logs, "announcement.failed") == count(logs, "announcement.resumed") == 1


async def test_service_starts_beside_an_engine_that_gives_no_answer() -> None:
    """Serving and announcing wait for `ANSWER_WITHIN` each and no longer; then it goes on without."""
    with captured() as logs:
        async with listen() as said, memory() as transport:
            transport.answers.clear()
            async with make_service(Agent(), transport=transport):
                assert now() == 2 * ANSWER_WITHIN
                await asyncio.sleep(100)
                transport.answers.set()
                await asyncio.sleep(31)
                assert said.nodes == EMPTY
    assert count(logs, "announcement.failed") == count(logs, "announcement.resumed") == 1


async def test_whatever_a_transport_raises_is_survived() -> None:
    """An exception that no transport should raise is logged with its traceback, and the host is announced later."""
    with captured() as logs:
        async with listen() as said, serving(Agent()) as (_, transport):
            await asyncio.sleep(1)
            transport.fault = RuntimeError("what a transport should not raise")
            await asyncio.sleep(100)
            before = len(said)
            transport.fault = None
            await asyncio.sleep(31)
            assert len(said) > before
    (failed,) = [entry for entry in logs if entry["event"] == "announcement.failed"]
    assert isinstance(failed["exc_info"], RuntimeError)


async def test_key_that_is_gone_is_written_again() -> None:
    """Whoever deleted it, the next announcement brings it back, and nothing is reported."""
    with captured() as logs:
        async with listen() as said, serving(Agent()), memory() as other:
            await asyncio.sleep(5)
            await Sender(other).withdraw()
            await asyncio.sleep(22)
            assert said.nodes == EMPTY
    assert not [entry for entry in logs if entry["event"].startswith(("announcement", "host"))]


async def test_unanswered_write_that_arrived_is_not_taken_for_another_instance() -> None:
    """After no answer it is not known what was written: what stands there may be its own."""
    agent = Agent()
    with captured() as logs:
        async with listen() as said, serving(agent) as (service, _):
            await asyncio.sleep(5)
            assert service._presence.announcer is not None
            store = service._presence.announcer._store
            assert store is not None
            update = store.update

            async def lose_the_answer(*args: Any) -> int:
                await update(*args)
                raise TransportError("no answer")

            store.update = lose_the_answer  # type: ignore[assignment, method-assign]
            agent.update_service_capabilities({"x": 1})
            await asyncio.sleep(5)
            agent.update_service_capabilities({"x": 2})
            await asyncio.sleep(1)
            assert said.nodes == {"": {"x": 2}}
        assert said.withdrawn
    assert count(logs, "host.duplicated") == 0


async def test_closed_transport_ends_no_service() -> None:
    """One that its owner closes too early costs the announcements, not the schedule."""
    async with memory() as transport, make_service(Agent(), transport=transport) as service:
        await transport.aclose()
        await asyncio.sleep(100)
        assert service.health.ok


async def test_unreachable_url_fails_the_start() -> None:
    """Where the service is to open the transport itself, and cannot, it does not start."""

    @asynccontextmanager
    async def opener(url: str, settings: Any) -> AsyncIterator[Any]:
        raise TransportError("nobody at home")
        yield

    from asyncmgr.transports import register_scheme

    register_scheme("nowhere", opener)
    with pytest.raises(TransportError, match="nobody at home"):
        await make_service(Agent(), transport="nowhere://x").start()


async def test_announcer_that_was_never_started_stops() -> None:
    """A stop before the start does nothing."""
    async with memory() as transport:
        announcer = Announcer(transport, "compute", "n1", ttl=60, board=Board(), listeners=Listeners())
        await announcer.stop()
        assert asyncio.all_tasks() == {asyncio.current_task()}


# Nobody reads


async def test_what_nobody_can_read_unseen_is_not_written_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside one process a host is refreshed only while somebody watches; who comes later finds it fresh (51)."""
    written: list[float] = []
    write = Shelf.write

    def note(shelf: Shelf, key: str, value: bytes) -> int:
        written.append(now())
        return write(shelf, key, value)

    monkeypatch.setattr(Shelf, "write", note)
    async with serving(Agent()) as (_, transport):
        await asyncio.sleep(10 * 86_400)
        assert written == [0]
        async with Hosts(transport) as hosts:
            (state,) = hosts.snapshot()
            assert (state.state, state.age) == ("fresh", 0)
            await asyncio.sleep(600)
            assert hosts.snapshot()[0].state == "fresh"
            assert 25 < len(written) < 40
        await asyncio.sleep(60)
        written.clear()
        await asyncio.sleep(86_400)
        assert written == []


async def test_a_duplicate_is_found_where_nobody_reads() -> None:
    """The older of two instances learns of the newer one at once: its announcement was written over (51)."""
    async with serving(Agent()) as (older, _):
        heard = duplicates(older)
        async with serving(Agent()):
            await asyncio.sleep(1)
            assert len(heard) == 1
