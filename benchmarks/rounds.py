"""Starts one process for each measurement, round after round, and gathers what they print. Measures nothing itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks.targets import IMPORTS, Round, Workload, title_of
from benchmarks.workloads import Measurement, Result

ROOT = Path(__file__).parent.parent

OWN_ENVIRONMENT = {"a4": "it cannot be installed beside APScheduler 3; name another with --python a4=PATH"}
"""Competitors that take part only where they are given a Python of their own."""

CLEAN = "clean"
"""The Python in whose environment imports are timed."""


@dataclass(slots=True)
class Record:
    """What came out of one workload."""

    number: int
    rounds: list[Round] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)
    """Why a measurement is missing, by its name."""
    said: dict[str, dict[str, int]] = field(default_factory=dict)
    """Warnings and errors that processes logged, by the measurement's name, counted."""
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pythons:
    """Which interpreter runs what."""

    named: dict[str, str]

    def of(self, measurement: Measurement) -> str:
        name = CLEAN if measurement.kind == "import" else measurement.competitor
        return self.named.get(name, sys.executable)

    def why_not(self, measurement: Measurement) -> str | None:
        """Why it cannot take part."""
        name = measurement.competitor
        return None if name in self.named else OWN_ENVIRONMENT.get(name)


def chosen(workload: Workload, against: frozenset[str] | None, *, quick: bool) -> Workload:
    """The workload with those that shall take part: asyncmgr always, the others as asked for."""
    if against is None:
        return replace(workload, others=()) if quick else workload
    wanted = against | {"asyncmgr"}

    def keep(measurements: Iterable[Measurement]) -> tuple[Measurement, ...]:
        return tuple(one for one in measurements if one.kind == "import" or one.competitor in wanted)

    return replace(workload, needed=keep(workload.needed), others=keep(workload.others))


def seconds_for(workload: Workload, rounds: int) -> float:
    """About how long a workload takes."""
    return rounds * sum(map(_seconds_of, (*workload.needed, *workload.others)))


def _seconds_of(measurement: Measurement) -> float:
    if measurement.kind == "import":
        return 0.3
    if measurement.kind == "declare":
        return 1.5
    start = 0.5 + measurement.tasks * 45e-6
    return (
        start + measurement.warmup + 2 * measurement.marking + measurement.window + measurement.churned * 2e-4
    )


def run(workload: Workload, rounds: int, pythons: Pythons, tell: Callable[[str], None]) -> Record:
    """All measurements of a workload, interleaved: everyone once, then everyone again."""
    record = Record(workload.number)
    measurements = []
    for measurement in (*workload.needed, *workload.others):
        reason = pythons.why_not(measurement)
        if reason is None:
            measurements.append(measurement)
        else:
            record.absent[measurement.name] = reason
    for number in range(rounds):
        tell(f"{workload.number}  round {number + 1} of {rounds}")
        record.rounds.append(_round(measurements, pythons, record))
    return record


def _round(measurements: list[Measurement], pythons: Pythons, record: Record) -> Round:
    results: Round = {}
    for measurement in measurements:
        if measurement.name not in record.absent:
            measure = _time_import if measurement.kind == "import" else _measure
            result = measure(measurement, pythons.of(measurement), record)
            if result is not None:
                results[measurement.name] = result
    return results


def _measure(measurement: Measurement, python: str, record: Record) -> Result | None:
    """Run one process; its figures, or nothing and the reason on record."""
    command = [python, "-m", "benchmarks.child", json.dumps(asdict(measurement))]
    limit = 60 + 4 * _seconds_of(measurement)
    with tempfile.TemporaryDirectory() as directory:
        try:
            done = subprocess.run(
                command,
                cwd=directory,
                env=_environment(),
                capture_output=True,
                text=True,
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired:
            record.absent[measurement.name] = f"it had not ended after {limit:.0f} s"
            return None
    result = _read_answer(measurement, done, record)
    if result is not None:
        _note_what_it_said(measurement, done.stderr, record)
    return result


def _environment() -> dict[str, str]:
    """No setting from outside reaches a measured process."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "ASYNCMGR_"))}
    return kept | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}


def _read_answer(
    measurement: Measurement, done: subprocess.CompletedProcess[str], record: Record
) -> Result | None:
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        record.absent[measurement.name] = f"it failed with exit code {done.returncode}: {lines[-1]}"
        return None
    answer = json.loads(done.stdout.splitlines()[-1])
    if "skipped" in answer:
        record.absent[measurement.name] = answer["skipped"]
        return None
    if answer["version"]:
        record.versions[title_of(measurement)] = answer["version"]
    result: Result = answer["result"]
    return result


def _note_what_it_said(measurement: Measurement, stderr: str, record: Record) -> None:
    """A process that complains has not measured what was meant."""
    said = Counter(filter(None, map(_complaint, stderr.splitlines())))
    if said:
        record.said[measurement.name] = dict(Counter(record.said.get(measurement.name, {})) + said)


def _complaint(line: str) -> str | None:
    """The event of a warning or an error; of what is no event, that it is there."""
    try:
        event = json.loads(line)
    except json.JSONDecodeError:
        return "a line on stderr"
    is_event = isinstance(event, dict) and event.get("level") in ("warning", "error", "critical")
    return str(event["event"]) if is_event else None


def _time_import(measurement: Measurement, python: str, record: Record) -> Result | None:
    """A whole process that imports something; CPU as the kernel accounts for it."""
    command = [python, "-I", "-c", IMPORTS[measurement.competitor]]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        record.absent[measurement.name] = f"the import failed in {python}"
        return None
    return {"cpu_ms": 1000 * (usage.ru_utime + usage.ru_stime), "wall_ms": 1000 * wall}
