"""``python -m benchmarks.rehearsal``: how long a rehearsal of 24 h of 50 tasks takes, its report and its picture.

The tasks are of the usual kinds: every 30 s to every hour, some with jitter, and eight cron tasks. Runs take 1 to 3 s,
and some much longer. The target is 2 s, the import and the picture included.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from asyncmgr import Manager, Service
from asyncmgr.testing.rehearsal import Script, draw, figures_of, read_took, rehearse, write

ROUNDS = 5
SPACINGS = (30, 60, 60, 120, 300, 300, 600, 900, 1800, 3600)
CRONS = (
    "0 2 * * *",
    "30 2 * * *",
    "0 * * * *",
    "*/15 * * * *",
    "0 0 * * *",
    "0 3 * * mon-fri",
    "15 4 * * *",
    "0 */6 * * *",
)
TOOK = ("*=2s±1s", "*.t?0=25s±10s", "*.t?9=40m±10m", "*.t?8=20m±15m", "*.cron*=18m±10m")

T = TypeVar("T")


def fleet() -> Manager:
    """Return a manager with 50 tasks."""

    class Fleet(Manager):
        pass

    async def body(context: Any) -> None: ...

    manager = Fleet()
    for number in range(42):
        spacing = SPACINGS[number % 10]
        jitter = 5 if number % 3 == 0 else 0
        manager.add_periodic_task(body, name=f"t{number:02}", spacing=spacing, jitter=jitter, timeout=1800)
    for number, expression in enumerate(CRONS):
        manager.add_periodic_task(body, name=f"cron{number}", cron=expression, tz="Europe/Berlin")
    return manager


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Make a call; return its seconds with its result."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def main() -> None:
    """Measure, and print the best of some rounds."""
    logging.getLogger("asyncmgr").setLevel(logging.CRITICAL)
    script = Script(datetime(2026, 3, 28, 12, tzinfo=UTC), 86_400, 0, [read_took(text) for text in TOOK])
    best: dict[str, float] = {}
    for _ in range(ROUNDS):
        service = Service(fleet())
        played, rehearsal = timed(lambda: rehearse(service, service.settings, script))  # noqa: B023 - called at once
        counted, figures = timed(lambda: figures_of(rehearsal))  # noqa: B023 - called at once
        drawn, picture = timed(lambda: draw(figures))  # noqa: B023 - called at once
        written, _ = timed(lambda: write(figures))  # noqa: B023 - called at once
        for name, seconds in (("rehearse", played), ("count", counted), ("draw", drawn), ("write", written)):
            best[name] = min(seconds, best.get(name, seconds))
    print(f"{figures.total('slots'):,} slots, {figures.total('runs'):,} runs, picture {len(picture):,} bytes")
    for name, seconds in best.items():
        print(f"{name:<9} {seconds:.3f} s")
    print(f"{'together':<9} {sum(best.values()):.3f} s")


if __name__ == "__main__":
    main()
