"""``python -m benchmarks``: measures, then writes a table, a picture and the figures behind them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import picture, report, rounds, targets
from benchmarks.competitors import COMPETITORS
from benchmarks.rounds import Pythons, Record
from benchmarks.targets import Workload

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str]) -> None:
    options = _parser().parse_args(arguments)
    if options.render is not None:
        _render(options.render)
        return
    wanted = list(_wanted(options))
    total = sum(rounds.seconds_for(workload, count) for workload, count in wanted)
    print("about {} min {:02} s".format(*divmod(round(total), 60)))
    if not options.plan:
        _measure(options, wanted, list(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="under three minutes: an indication, without most peers"
    )
    parser.add_argument("--only", type=_numbers, metavar="1,2", help="these workloads")
    parser.add_argument("--runs", type=int, metavar="N", help="rounds of each workload")
    parser.add_argument(
        "--against", type=_names, metavar="a3,c", help=f"beside these of {', '.join(COMPETITORS)}"
    )
    parser.add_argument(
        "--python",
        type=_assignment,
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="the interpreter for a4 (APScheduler 4), for 'clean' (import times), or for any competitor",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIRECTORY")
    parser.add_argument("--plan", action="store_true", help="say how long it would take")
    parser.add_argument("--render", type=Path, metavar="FILE.json", help="write table and picture again")
    return parser


def _numbers(text: str) -> frozenset[int]:
    return frozenset(map(int, text.split(",")))


def _names(text: str) -> frozenset[str]:
    names = frozenset(text.split(","))
    if unknown := names - COMPETITORS.keys():
        raise argparse.ArgumentTypeError(
            f"there is no {', '.join(unknown)}; choose from {', '.join(COMPETITORS)}"
        )
    return names


def _assignment(text: str) -> tuple[str, str]:
    name, _, path = text.partition("=")
    return name, path


def _wanted(options: argparse.Namespace) -> Iterator[tuple[Workload, int]]:
    """The workloads asked for, each with its number of rounds."""
    scale = targets.QUICK if options.quick else targets.FULL
    for workload in targets.workloads(scale):
        if options.only is None or workload.number in options.only:
            count = options.runs or workload.rounds or scale.rounds
            yield rounds.chosen(workload, options.against, quick=options.quick), count


def _measure(options: argparse.Namespace, wanted: list[tuple[Workload, int]], arguments: list[str]) -> None:
    machine, pythons = report.this_machine(), Pythons(dict(options.python))
    began = time.monotonic()
    measured: list[tuple[Workload, Record]] = []
    file = options.results / f"{_stem(options)}.json"
    for workload, count in wanted:
        print(f"{workload.number}  {workload.title}")
        workload_began = time.monotonic()
        with _progress() as tell:
            record = rounds.run(workload, count, pythons, tell)
        report.print_targets(workload, record)
        print(f"   {time.monotonic() - workload_began:.0f} s")
        measured.append((workload, record))
        # Written after each, so that a long run that is stopped leaves what it has.
        _save(file, machine, _without_paths(arguments), measured)
        _render(file)
    print(f"{time.monotonic() - began:.0f} s; written to {file.with_suffix('.md')}")


def _stem(options: argparse.Namespace) -> str:
    """A part never takes the place of the whole."""
    is_part = options.only or options.against or options.runs
    return ("quick" if options.quick else "full") + ("-part" if is_part else "")


def _without_paths(arguments: list[str]) -> list[str]:
    """The arguments that say what was measured, not where this machine keeps its interpreters."""
    return [
        argument
        for before, argument in zip(["", *arguments], arguments, strict=False)
        if not {before, argument} & {"--python", "--results"}
        and not argument.startswith(("--python=", "--results="))
    ]


@contextmanager
def _progress() -> Iterator[Any]:
    """Says where we are, on one line of a terminal and nowhere else."""
    shown = sys.stderr.isatty()

    def tell(text: str) -> None:
        if shown:
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    yield tell
    tell("")


def _save(
    file: Path, machine: report.Machine, arguments: list[str], measured: list[tuple[Workload, Record]]
) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    records = [asdict(record) for _, record in measured]
    kept = {"machine": asdict(machine), "arguments": arguments, "records": records}
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def _render(file: Path) -> None:
    """Write the table and the picture of kept figures; all of them can be checked against that file."""
    kept = json.loads(file.read_text(encoding="utf-8"))
    machine = report.Machine(**kept["machine"])
    known = targets.workloads(targets.QUICK if "--quick" in kept["arguments"] else targets.FULL)
    by_number = {workload.number: workload for workload in known}
    measured = [(by_number[record["number"]], Record(**record)) for record in kept["records"]]
    text = report.markdown(machine, kept["arguments"], measured)
    file.with_suffix(".md").write_text(text, encoding="utf-8")
    file.with_suffix(".svg").write_text(picture.svg(machine, measured), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
