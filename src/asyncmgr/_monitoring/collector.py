"""`Collector`: hands the metrics of a service to prometheus-client, in applications that use that library."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from asyncmgr._monitoring.exposition import Family
from asyncmgr._monitoring.metrics import metrics_of
from asyncmgr._service.service import Service, insight_of
from asyncmgr.errors import MissingExtra

if TYPE_CHECKING:
    from prometheus_client import Metric

WITHIN = 10.0
"""Seconds that a scrape in another thread waits for the event loop of the service."""


class Collector:
    """A collector for a registry of prometheus-client: ``REGISTRY.register(asyncmgr.Collector(service))``.

    Make it before the start of the service, since it counts from then on. A scrape in another thread reads in the
    thread of the event loop, and raises `TimeoutError` where that is blocked for 10 s.

    Raises
    ------
    MissingExtra
        prometheus-client is not installed.
    """

    def __init__(self, service: Service) -> None:
        try:
            import prometheus_client
        except ImportError as exc:
            raise MissingExtra(
                "asyncmgr.Collector needs prometheus-client: pip install prometheus-client"
            ) from exc
        self._make = prometheus_client.Metric
        self._metrics = metrics_of(service)
        self._insight = insight_of(service)

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering it reads nothing."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        runner, loop = self._insight.runner, self._insight.loop
        if runner is None or loop is None or not loop.is_running() or threading.get_ident() == runner.thread:
            return iter([self._metric(family) for family in self._metrics.families()])
        found = asyncio.run_coroutine_threadsafe(self._gather(), loop)
        return iter(found.result(WITHIN))

    async def _gather(self) -> list[Metric]:
        found = []
        for family in self._metrics.families(await self._metrics.survey()):
            found.append(self._metric(family))
            await asyncio.sleep(0)
        return found

    def _metric(self, family: Family) -> Metric:
        metric = self._make(family.name, family.help, family.kind)
        name = f"{family.name}_total" if family.kind == "counter" else family.name
        for suffix, labels, value in family.samples:
            metric.add_sample(f"{name}{suffix}", dict(labels.pairs), value)
        return metric
