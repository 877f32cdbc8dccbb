"""Writes the page of all metrics, from what a service with everything would tell Prometheus."""

from __future__ import annotations

import asyncio
import re

from asyncmgr import Manager, RunContext, Service, periodic_task, rpc
from asyncmgr._monitoring.metrics import metrics_of
from sitegen.docstrings import cell

KINDS = {"counter", "gauge", "histogram", "summary", "info"}


class Everything(Manager):
    """Has one task of each kind that has metrics of its own."""

    @periodic_task(spacing=60, freshness=600)
    async def task(self, context: RunContext) -> None:
        """Do nothing."""

    @periodic_task(spacing=60, each="keys")
    async def keyed(self, context: RunContext, key: str) -> None:
        """Do nothing for a key."""

    @periodic_task(spacing=60, scope="cluster")
    async def scoped(self, context: RunContext) -> None:
        """Do nothing once in a cluster."""

    def keys(self) -> list[str]:
        """One key."""
        return ["a"]

    @rpc
    async def method(self) -> None:
        """Do nothing for a caller."""


def families() -> list[tuple[str, str, str, list[str]]]:
    """Each metric: its name, its kind, its text and its labels."""
    return asyncio.run(_families())


async def _families() -> list[tuple[str, str, str, list[str]]]:
    service = Service(Everything(), host="n1")
    metrics = metrics_of(service)
    async with service:
        text = "".join([chunk async for chunk in metrics.chunks()])
    return [_family(part) for part in text.split("# HELP ")[1:]]


def _family(part: str) -> tuple[str, str, str, list[str]]:
    head, kind, *samples = part.splitlines()
    name, _, text = head.partition(" ")
    labels = {label for line in samples for label in re.findall(r'(\w+)="', line)}
    return name, kind.split()[-1], text, sorted(labels - {"le"})


def pages() -> dict[str, str]:
    """The page by its path below ``reference/``."""
    rows = "\n".join(
        f"| `{name}` | {kind} | {' '.join(f'`{label}`' for label in labels)} | {cell(text)} |"
        for name, kind, text, labels in families()
    )
    head = (
        "# Metrics\n\nAt `/metrics`, as Prometheus reads them; [monitoring](../how-to/monitoring.md) says how they "
        "are served. Lengths are in seconds. Histograms have `_bucket`, `_sum` and `_count`.\n\n"
        "| metric | kind | labels | what it tells |\n|---|---|---|---|\n"
    )
    return {"metrics.md": head + rows + "\n"}
