"""One measured process: reads what to measure from its argument, prints the figures as JSON on its last line."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys

from benchmarks.competitors import PACKAGES
from benchmarks.gauges import Gauges
from benchmarks.workloads import WORKLOADS, Measurement, Result


def main(argument: str) -> None:
    measurement = Measurement(**json.loads(argument))
    try:
        answer = {"result": _measure(measurement), "version": _version(measurement.competitor)}
    except ImportError as exc:
        answer = {"skipped": f"{type(exc).__name__}: {exc}"}
    print(json.dumps(answer))


def _measure(measurement: Measurement) -> Result:
    gauges = Gauges()
    make_loop = gauges.make_uvloop if measurement.loop == "uvloop" else gauges.make_loop
    with asyncio.Runner(loop_factory=make_loop) as runner:
        result = runner.run(WORKLOADS[measurement.kind](measurement, gauges))
    if measurement.loop == "uvloop":
        del result["wakeups"]  # nobody saw them
    return result


def _version(competitor: str) -> str | None:
    package = PACKAGES.get(competitor)
    return package and f"{package} {importlib.metadata.version(package)}"


if __name__ == "__main__":
    main(sys.argv[1])
