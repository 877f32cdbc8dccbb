"""Metrics: names, counts, limits, and a text that Prometheus reads (15)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families as read_prometheus

from asyncmgr import (
    Hosts,
    Manager,
    RpcClient,
    RpcError,
    RunContext,
    Service,
    Settings,
    Skip,
    periodic_task,
    rpc,
)
from asyncmgr._monitoring.collector import Collector
from asyncmgr._monitoring.exposition import Family, Labels, write
from asyncmgr._monitoring.metrics import Metrics, metrics_of
from asyncmgr._service.service import insight_of
from asyncmgr.errors import NoSuchMethod, RemoteError, RevisionConflict, TransportError
from asyncmgr.events import LoopBlocked
from asyncmgr.transports import open_transport

pytestmark = pytest.mark.virtual_time(start="2026-01-01T00:00:00+00:00")
START = 1767225600.0
read_openmetrics: Any = openmetrics_parser.text_string_to_metric_families  # it has no types


class Volumes(Manager):
    lasts = 1.0
    error: Exception | None = None

    @periodic_task(spacing=10)
    async def sync(self, context: RunContext) -> None:
        await asyncio.sleep(self.lasts)
        if self.error:
            raise self.error

    @periodic_task(spacing=10, tolerance=0)
    async def quick(self, context: RunContext) -> None: ...

    @periodic_task(spacing=10, enabled=False)
    async def legacy(self, context: RunContext) -> None: ...

    @rpc
    async def double(self, number: int) -> int:
        await asyncio.sleep(0.5)
        if number < 0:
            raise ValueError(number)
        return 2 * number


def service_of(*managers: Manager, **settings: Any) -> tuple[Service, Metrics]:
    service = Service(*managers, host="nyx", name="compute", settings=Settings(seed=1, **settings))
    return service, metrics_of(service)


async def text_of(metrics: Metrics, *, openmetrics: bool = False) -> str:
    return "".join([chunk async for chunk in metrics.chunks(openmetrics=openmetrics)])


async def read(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read_prometheus(await text_of(metrics))
        for sample in family.samples
    }


def key(name: str, /, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return f"asyncmgr_{name}", frozenset(labels.items())


def of(name: str, /, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return key(f"task_{name}", manager="Volumes", **labels)


async def test_every_series_is_there_before_the_start_and_is_zero() -> None:
    """So that `rate` and alerts see the first failure too."""
    _, metrics = service_of(Volumes())
    found = await read(metrics)
    for outcome in ("succeeded", "nothing", "failed", "timed_out", "cancelled"):
        assert found[of("runs_total", task="sync", outcome=outcome)] == 0
    for result in ("ran", "skipped", "paused", "not_owner", "held", "missed", "late"):
        assert found[of("slots_total", task="sync", result=result)] == 0
    for name in ("running", "paused", "consecutive_failures", "last_success_timestamp_seconds"):
        assert found[of(name, task="quick")] == 0
    assert found[key("tasks", state="hung")] == 0
    assert found[key("clock_steps_total", kind="back")] == 0
    assert found[key("lease_transitions_total", result="lost")] == 0
    assert found[key("store_operations_total", operation="update", result="conflict")] == 0
    assert found[key("store_duration_seconds_sum", operation="get")] == 0
    assert found[key("hosts", state="stale")] == 0


async def test_what_was_asked_of_the_store() -> None:
    """By capabilities and leases: how often, how it ended, and for how long."""
    volumes = Volumes()

    async def shared(context: RunContext) -> None: ...

    volumes.add_periodic_task(shared, scope="cluster", spacing=10)
    service, metrics = service_of(volumes)
    async with service:
        await asyncio.sleep(60)
        found = await read(metrics)

        for error in (TransportError, RevisionConflict):
            with pytest.raises(error):
                await service.store.operations.count("put", raising(error("no")))
        after = await read(metrics)

    def done(operation: str, result: str) -> float:
        return found[key("store_operations_total", operation=operation, result=result)]

    assert (
        4 <= done("open", "ok") <= 8
    )  # sessions, claims, slots and capabilities, and again for a session anew
    assert done("create", "ok") >= 4  # a session, a claim, its slots, an announcement
    assert (
        done("update", "ok") >= 60 / 3.4
    )  # the session is renewed each third of its TTL, and each slot claimed
    assert done("get", "error") == 0
    took = (
        key("store_duration_seconds_sum", operation="put"),
        key("store_duration_seconds_count", operation="put"),
    )
    assert [round(after[name] - found[name], 6) for name in took] == [1, 2]
    for result in ("error", "conflict"):
        name = key("store_operations_total", operation="put", result=result)
        assert after[name] - found[name] == 1


async def raising(error: Exception) -> None:
    await asyncio.sleep(0.5)
    raise error


async def test_hosts_that_a_view_shows() -> None:
    """With the age of each announcement; nothing is counted twice, nor after the view is closed."""
    async with open_transport("memory://") as transport:
        service = Service(
            Volumes(), host="nyx", name="compute", transport=transport, settings=Settings(seed=1)
        )
        other = Service(Volumes(), host="eos", name="other", transport=transport, settings=Settings(seed=1))
        metrics = metrics_of(service)
        async with service, other:
            async with Hosts(transport), Hosts(transport, "other"):
                await asyncio.sleep(30)
                found = await read(metrics)
            closed = await read(metrics)
    assert (found[key("hosts", state="fresh")], found[key("hosts", state="stale")]) == (2, 0)
    ages = [
        found[key("capability_age_seconds", service=a, host=b)]
        for a, b in (("compute", "nyx"), ("other", "eos"))
    ]
    assert all(0 <= age <= 30 for age in ages)
    assert closed[key("hosts", state="fresh")] == 0


async def test_both_formats_are_read_by_the_library_of_prometheus() -> None:
    """And say the same."""
    service, metrics = service_of(Volumes())
    async with service:
        await asyncio.sleep(35)
        plain, rich = await text_of(metrics), await text_of(metrics, openmetrics=True)
    samples = [
        sorted(
            (sample.name, sorted(sample.labels.items()), sample.value)
            for family in families
            for sample in family.samples
        )
        for families in (list(read_prometheus(plain)), list(read_openmetrics(rich)))
    ]
    assert samples[0] == samples[1]
    assert len(samples[0]) > 100


async def test_runs_by_outcome_and_slots_by_result() -> None:
    """On the fast path and off it."""
    volumes = Volumes()
    service, metrics = service_of(volumes)
    async with service:
        await asyncio.sleep(25)
        volumes.error = ValueError("no disk")
        await asyncio.sleep(10)
        volumes.error = Skip("no news")
        await asyncio.sleep(10)
        volumes.lasts = 15
        await asyncio.sleep(18)
        found = await read(metrics)
    count = {
        outcome: found[of("runs_total", task="sync", outcome=outcome)]
        for outcome in ("succeeded", "failed", "nothing")
    }
    assert count == {"succeeded": 2, "failed": 1, "nothing": 1}
    assert found[of("slots_total", task="sync", result="ran")] == 4
    assert found[of("slots_total", task="sync", result="skipped")] == 1
    assert found[of("duration_seconds_sum", task="sync")] == pytest.approx(4)
    assert found[of("duration_seconds_count", task="sync")] == 4
    assert found[of("running", task="sync")] == 1
    assert found[of("runs_total", task="quick", outcome="succeeded")] == 6


async def test_histograms_are_of_a_manager() -> None:
    """With cumulative buckets."""
    service, metrics = service_of(Volumes())
    async with service:
        await asyncio.sleep(35)
        found = await read(metrics)

    def bucket(bound: str) -> float:
        return found[key("run_duration_seconds_bucket", manager="Volumes", le=bound)]

    assert (bucket("0.005"), bucket("0.5"), bucket("1.0"), bucket("2.5"), bucket("+Inf")) == (3, 3, 6, 6, 6)
    assert found[key("run_duration_seconds_sum", manager="Volumes")] == pytest.approx(3)
    assert found[key("run_lateness_seconds_count", manager="Volumes")] == 6


async def test_a_run_by_hand_is_no_slot() -> None:
    """It is a run all the same."""
    service, metrics = service_of(Volumes())
    async with service:
        await service.task("Volumes.sync").trigger()
        await service.task("Volumes.quick").trigger(wait=False)
        await asyncio.sleep(0.1)
        found = await read(metrics)
    for name in ("sync", "quick"):
        assert found[of("runs_total", task=name, outcome="succeeded")] == 1
        assert found[of("slots_total", task=name, result="ran")] == 0


async def test_gauges_of_a_task() -> None:
    """Next slot, last success, failures in a row, pause."""
    volumes = Volumes()
    service, metrics = service_of(volumes)
    async with service:
        await asyncio.sleep(12)
        volumes.error = ValueError("no disk")
        await asyncio.sleep(20)
        service.task("Volumes.quick").pause(for_=3600)
        found = await read(metrics)
        assert found[of("next_due_timestamp_seconds", task="sync")] == START + 40
        assert found[of("next_due_timestamp_seconds", task="quick")] == 0
        assert found[of("last_success_timestamp_seconds", task="sync")] == START + 11
        assert found[of("consecutive_failures", task="sync")] == 2
        assert (found[of("paused", task="sync")], found[of("paused", task="quick")]) == (0, 1)
        states = {
            state: found[key("tasks", state=state)] for state in ("failing", "paused", "disabled", "ok")
        }
        assert states == {"failing": 1, "paused": 1, "disabled": 1, "ok": 0}
        await asyncio.sleep(28)
        service.task("Volumes.quick").resume()
        found = await read(metrics)
        assert found[of("slots_total", task="quick", result="paused")] == 3


async def test_the_ratio_of_a_promise() -> None:
    """Above 1 it is broken."""

    class Promising(Manager):
        @periodic_task(spacing=100, freshness=20)
        async def load(self, context: RunContext) -> None: ...

    service, metrics = service_of(Promising(), monitoring={"ready_needs": "store"})
    async with service:
        await asyncio.sleep(5)
        early = (await read(metrics))[key("task_freshness_ratio", manager="Promising", task="load")]
        await asyncio.sleep(25)
        late = (await read(metrics))[key("task_freshness_ratio", manager="Promising", task="load")]
    assert early == pytest.approx(0.25)
    assert late > 1 or early < late


async def test_a_blocked_loop_is_blamed_on_its_task() -> None:
    """Or on none, where none is known."""
    service, metrics = service_of(Volumes())
    async with service:
        block = LoopBlocked(
            "Volumes.sync", "1", "computing", "", datetime(2026, 1, 1, tzinfo=UTC), seconds=1.5, cpu=None
        )
        for told in (block, block, replace(block, task=None)):
            insight_of(service).reporter.listeners.tell(told)
        found = await read(metrics)
    assert found[key("loop_blocked_seconds_total", task="Volumes.sync")] == 3
    assert found[key("loop_blocked_seconds_total", task="")] == 1.5


async def test_the_scheduler_and_the_clock() -> None:
    """Looks, the age of the last one, transport and store."""
    service, metrics = service_of(Volumes())
    async with service:
        await asyncio.sleep(13)
        found = await read(metrics)
        assert found[key("scheduler_wakeups_total")] >= 2
        assert found[key("scheduler_tick_age_seconds")] == pytest.approx(3)
        assert (found[key("transport_up")], found[key("store_up")], found[key("service_running")]) == (
            1,
            1,
            1,
        )
    found = await read(metrics)
    assert (found[key("transport_up")], found[key("service_running")]) == (0, 0)


async def test_tasks_above_the_limit_share_one_series() -> None:
    """Nothing is lost in the sums, and the number of series stays bounded."""
    manager = Manager()

    async def noop(context: RunContext) -> None: ...

    for number in range(5):
        manager.add_periodic_task(noop, spacing=10, name=f"t{number}")
    service, metrics = service_of(manager, monitoring={"task_series": 2})
    async with service:
        await asyncio.sleep(11)
        found = await read(metrics)
        runs = {
            dict(labels)["task"]: value
            for (name, labels), value in found.items()
            if name == "asyncmgr_task_runs_total" and ("outcome", "succeeded") in labels
        }
        assert runs == {"t0": 1, "t1": 1, "(others)": 3}
        assert found[key("tasks", state="ok")] == 5


async def test_a_removed_task_has_no_series_and_makes_room() -> None:
    """The next one gets series of its own."""
    manager = Manager()

    async def noop(context: RunContext) -> None: ...

    service, metrics = service_of(manager, monitoring={"task_series": 1})
    async with service:
        manager.add_periodic_task(noop, spacing=10, name="a")
        assert 'task="a"' in await text_of(metrics)
        service.task("Manager.a").remove()
        assert 'task="a"' not in await text_of(metrics)
        manager.add_periodic_task(noop, spacing=10, name="b")
        assert 'task="b"' in await text_of(metrics)


async def test_metrics_that_begin_late_count_from_then_on() -> None:
    """A service that runs already can get them."""
    service = Service(Volumes(), host="nyx", name="compute", settings=Settings(seed=1))
    async with service:
        await asyncio.sleep(15)
        metrics = metrics_of(service)
        assert metrics_of(service) is metrics
        await asyncio.sleep(10)
        found = await read(metrics)
        assert found[of("runs_total", task="quick", outcome="succeeded")] == 1
        assert len(service.history("Volumes.quick")) == 2


async def test_calls_by_method_and_end() -> None:
    """A method that nobody serves has one series, whatever its name."""
    async with open_transport("memory://") as transport:
        service = Service(
            Volumes(), host="nyx", name="compute", settings=Settings(seed=1), transport=transport
        )
        metrics = metrics_of(service)
        async with service:
            client = RpcClient(transport, "compute", timeout=5)
            assert await client.call("double", number=2) == 4
            with pytest.raises(RemoteError):
                await client.call("double", number=-1)
            with pytest.raises(RpcError):
                await client.call("double", number="x")
            for name in ("nope", "neither"):
                with pytest.raises(NoSuchMethod):
                    await client.call(name)
            with pytest.raises(RpcError):
                await client.at(timeout=0.2).call("double", number=2)
            await asyncio.sleep(1)
            found = await read(metrics)

    def calls(method: str, code: str) -> float:
        return found[key("rpc_requests_total", method=method, code=code)]

    assert {code: calls("Volumes.double", code) for code in ("ok", "error", "refused", "busy")} == {
        "ok": 1,
        "error": 1,
        "refused": 1,
        "busy": 0,
    }
    assert calls("Volumes.double", "timeout") + calls("Volumes.double", "withdrawn") == 1
    assert calls("(unknown)", "refused") == 2
    assert found[key("rpc_duration_seconds_count", method="Volumes.double")] == 3


async def test_leases() -> None:
    """A cluster-scoped task from the start, a lease while it is held."""

    class Shared(Manager):
        @periodic_task(spacing=10, scope="cluster")
        async def nightly(self, context: RunContext) -> None: ...

    service, metrics = service_of(Shared())
    assert (await read(metrics))[key("lease_held", name="Shared.nightly")] == 0
    async with service:
        await asyncio.sleep(15)
        async with service.lease("report"):
            found = await read(metrics)
        assert found[key("lease_held", name="Shared.nightly")] == 1
        assert found[key("lease_held", name="report")] == 1
        await asyncio.sleep(1)
        found = await read(metrics)
        assert key("lease_held", name="report") not in found
        assert found[key("lease_transitions_total", result="acquired")] == 2
        assert found[key("lease_transitions_total", result="released")] == 1


class Feeds(Manager):
    def sources(self) -> list[str]:
        return ["a", "b", "c"]

    @periodic_task(spacing=10, each="sources")
    async def fetch(self, context: RunContext, source: str) -> None:
        if source == "b":
            await asyncio.sleep(1)
        if source == "c":
            raise ValueError(source)


async def test_a_task_with_keys_has_one_series() -> None:
    """Never one a key; its runs count, on the fast path and off it."""
    service, metrics = service_of(Feeds())
    async with service:
        await asyncio.sleep(35)
        text = await text_of(metrics)
        found = await read(metrics)

    def runs(outcome: str) -> float:
        return found[key("task_runs_total", manager="Feeds", task="fetch", outcome=outcome)]

    assert runs("succeeded") in range(4, 9)
    assert runs("failed") in range(2, 5)
    assert text.count("asyncmgr_task_runs_total{") == 5
    assert found[key("task_keys", manager="Feeds", task="fetch", state="known")] == 3
    assert found[key("task_keys", manager="Feeds", task="fetch", state="failing")] == 1


def test_labels_are_escaped() -> None:
    """Names of tasks may hold anything."""
    family = Family("f", "gauge", "a\nb", [("", Labels(task='a"b\\c\nd'), 1)])
    ((found,),) = [one.samples for one in read_prometheus("".join(write([family])))]
    assert found.labels == {"task": 'a"b\\c\nd'}


async def test_a_scrape_lets_others_have_their_turn() -> None:
    """It comes in chunks."""
    manager = Manager()

    async def noop(context: RunContext) -> None: ...

    for number in range(1000):
        manager.add_periodic_task(noop, spacing=1e6, name=f"t{number}")
    service, metrics = service_of(manager)
    async with service:
        chunks = [chunk async for chunk in metrics.chunks()]
    assert len(chunks) > 20
    assert max(len(chunk.splitlines()) for chunk in chunks) < 600


async def test_the_collector_of_prometheus_client() -> None:
    """It yields what `/metrics` writes; registering it reads nothing."""
    service = Service(Volumes(), host="nyx", name="compute", settings=Settings(seed=1))
    registry = CollectorRegistry(auto_describe=True)
    registry.register(Collector(service))
    async with service:
        await asyncio.sleep(25)
        theirs = generate_latest(registry).decode()
        ours = await text_of(metrics_of(service))
    assert _values(theirs) == _values(ours)


async def test_the_collector_in_another_thread(virtual_time: Any) -> None:
    """As the server of prometheus-client asks."""
    service = Service(Volumes(), host="nyx", name="compute", settings=Settings(seed=1))
    collector = Collector(service)
    async with service:
        found = await asyncio.to_thread(lambda: {metric.name for metric in collector.collect()})
    assert "asyncmgr_task_runs" in found


def _values(text: str) -> dict[Any, float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in read_prometheus(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


async def test_a_service_without_metrics_counts_nothing() -> None:
    """No run pays for what nobody reads."""
    service = Service(Volumes(), host="nyx", name="compute", settings=Settings(seed=1))
    async with service:
        assert "metrics" not in insight_of(service).parts
