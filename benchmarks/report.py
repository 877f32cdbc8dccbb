"""The figures as Markdown: first the targets, then a table for each workload."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from benchmarks.gauges import REFERENCE
from benchmarks.rounds import ROOT, Record
from benchmarks.targets import Column, Round, Target, Workload, title_of
from benchmarks.workloads import Measurement


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and when it was measured."""

    cpu: str
    cores: int
    kernel: str
    python: str
    date: str
    revision: str
    """Of the source beside the benchmarks."""
    load: float
    """Runnable processes at the start, averaged over a minute; the benchmark itself keeps one core busy at most."""

    def __str__(self) -> str:
        return (
            f"{self.cores} x {self.cpu}, {self.kernel}, {self.python}, {self.date}; "
            f"load before the start {self.load:.1f}"
        )


def this_machine() -> Machine:
    return Machine(
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        kernel=f"{platform.system()} {platform.release().partition('-')[0]}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        date=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M"),
        revision=_revision(),
        load=os.getloadavg()[0],
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _revision() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=, with changes"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@dataclass(frozen=True, slots=True)
class Spread:
    """A value over the rounds."""

    middle: float
    least: float
    most: float

    @classmethod
    def over(cls, rounds: list[Round], value: Callable[[Round], float]) -> Spread | None:
        """Of the rounds that have it; `None` = no round has."""
        found = []
        for results in rounds:
            try:
                found.append(value(results))
            except KeyError:
                continue
        return cls.of(found)

    @classmethod
    def of(cls, found: list[float]) -> Spread | None:
        return cls(median(found), min(found), max(found)) if found else None

    def show(self, digits: int, unit: str = "") -> str:
        middle, least, most = (f"{part:,.{digits}f}" for part in (self.middle, self.least, self.most))
        return f"{middle}{unit}" if least == most else f"{middle}{unit} [{least}-{most}]"


def markdown(machine: Machine, arguments: list[str], measured: list[tuple[Workload, Record]]) -> str:
    """The whole report."""
    return "\n".join(
        [
            "# asyncmgr beside hand-written loops and other schedulers",
            "",
            f"Machine: {machine}.",
            f"Revision {machine.revision}; versions: {', '.join(_versions(measured))}.",
            f"Made by `python -m benchmarks {' '.join(arguments)}`".rstrip() + ".",
            "",
            "Medians of the rounds, [smallest-largest]. Ratios are taken inside a round, between processes that ran "
            "one after the other.",
            f"CPU is given at the speed at which the calibration loop takes {REFERENCE / 1000:g} us; "
            f"the machine ran at {_over_all(measured, 'speed', 2)} of it.",
            f"Starved: other processes kept these from a core for {_over_all(measured, 'starved', 1)} % of the "
            "windows; where that is much, lateness and the share achieved tell of the machine.",
            "c = one heap, one timer, a bare Task per run, 0.2 s window. b = a `call_at` chain per job. "
            "A3 = APScheduler 3.",
            "",
            "## Targets",
            "",
            *targets_table(measured),
            *(line for workload, record in measured for line in _section(workload, record)),
            "",
        ]
    )


def _versions(measured: list[tuple[Workload, Record]]) -> list[str]:
    return sorted({version for _, record in measured for version in record.versions.values()})


def _over_all(measured: list[tuple[Workload, Record]], metric: str, digits: int) -> str:
    """A metric over all processes that tell it."""
    results = [result for _, record in measured for results in record.rounds for result in results.values()]
    spread = Spread.of([result[metric] for result in results if metric in result])
    return "an unknown share" if spread is None else spread.show(digits)


def targets_table(measured: list[tuple[Workload, Record]]) -> list[str]:
    """One line for each promise."""
    rows = [
        f"| {workload.number} | {target.text} | {' | '.join(_verdict(target, record))} |"
        for workload, record in measured
        for target in workload.targets
    ]
    return ["| | target | value | |", "|---|---|---|---|", *rows]


def _verdict(target: Target, record: Record) -> tuple[str, str]:
    value = Spread.over(record.rounds, target.value)
    if value is None:
        return "-", "not measured"
    shown = value.show(
        3 if target.unit == "x" else 2, {"x": " x", "us": " us", "ms": " ms", "%": " %"}[target.unit]
    )
    if target.is_met(value.middle):
        return shown, "met"
    return shown, f"**missed by {target.missed_by(value.middle)}**"


def _section(workload: Workload, record: Record) -> Iterator[str]:
    yield from ("", f"## {workload.number}. {workload.title}", "")
    yield from _table(workload, record)
    if workload.note:
        yield from ("", workload.note)
    remarks = [*_absences(workload, record), *_complaints(record)]
    if remarks:
        yield from ("", *remarks)


def _table(workload: Workload, record: Record) -> Iterator[str]:
    rounds = f"{len(record.rounds)} round{'s' * (len(record.rounds) > 1)}"
    yield f"| {rounds} | {' | '.join(column.title for column in workload.columns)} |"
    yield "|---|" + "---|" * len(workload.columns)
    for measurement in (*workload.needed, *workload.others):
        if any(measurement.name in results for results in record.rounds):
            cells = (_cell(column, measurement, record) for column in workload.columns)
            yield f"| {_emphasised(measurement)} | {' | '.join(cells)} |"


def _emphasised(measurement: Measurement) -> str:
    title = title_of(measurement)
    return f"**{title}**" if measurement.competitor == "asyncmgr" else title


def _cell(column: Column, measurement: Measurement, record: Record) -> str:
    def value(results: Round) -> float:
        own = results[measurement.name][column.metric]
        return own / results[column.against][column.metric] if column.against else own

    spread = Spread.over(record.rounds, value)
    return "-" if spread is None else spread.show(column.digits)


def _absences(workload: Workload, record: Record) -> Iterator[str]:
    for measurement in (*workload.needed, *workload.others):
        if measurement.name in record.absent:
            yield f"* Not measured: {title_of(measurement)}: {record.absent[measurement.name]}."


def _complaints(record: Record) -> Iterator[str]:
    for name, said in record.said.items():
        yield (
            f"* {name} logged: " + ", ".join(f"{text!r} {count} times" for text, count in said.items()) + "."
        )


def print_targets(workload: Workload, record: Record) -> None:
    """The promises of one workload, as soon as it is measured."""
    for target in workload.targets:
        value, verdict = _verdict(target, record)
        print(f"   {target.text:72} {value:28} {verdict.strip('*')}")
    for line in (*_absences(workload, record), *_complaints(record)):
        print(f"   {line}")
