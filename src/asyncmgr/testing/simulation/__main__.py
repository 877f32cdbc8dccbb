"""``python -m asyncmgr.testing.simulation``: runs many seeds, or shows one, with all rules or with one taken away."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from asyncmgr._leases.rules import Rules
from asyncmgr.testing.simulation._ablations import ABLATIONS, KEY_ABLATIONS, MASKED
from asyncmgr.testing.simulation._directed import story_for
from asyncmgr.testing.simulation._keys import simulate_keys
from asyncmgr.testing.simulation._runs import Report, simulate

CHUNK = 4
"""Seeds that one process runs at a time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 1 where a promise was broken, else 0. With an ablation it is the other way round.

    An ablation that other rules mask (`MASKED`) is shown, and decides nothing.
    """
    options = _parser().parse_args(arguments)
    if options.keys:
        return _run_keys(range(options.start, options.start + options.seeds), options)
    if options.seed is not None:
        return _show(options.seed, options.ablation, log=options.log)
    names = list(ABLATIONS) if options.ablations else [options.ablation]
    seeds = range(options.start, options.start + options.seeds)
    results = [_run(name, seeds, options.jobs) for name in names]
    return int(not all(results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m asyncmgr.testing.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, metavar="N", help="number of seeds (100)")
    parser.add_argument("--from", type=int, default=0, metavar="N", dest="start", help="the first seed (0)")
    parser.add_argument(
        "--ablation", choices=sorted({*ABLATIONS, *KEY_ABLATIONS}), metavar="NAME", help="take this rule away"
    )
    parser.add_argument("--ablations", action="store_true", help="take each rule away in turn")
    parser.add_argument("--keys", action="store_true", help="hosts that share out the keys of a task")
    parser.add_argument("--seed", type=int, metavar="N", help="run this seed only")
    parser.add_argument("--log", action="store_true", help="with --seed: show all events")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes at once"
    )
    return parser


def _show(seed: int, ablation: str | None, *, log: bool) -> int:
    report = _simulate(seed, ablation, log=_print if log else None)
    _say(
        f"seed {seed}: {report.runs} runs in {report.length:.0f} s, {report.events} events, {report.digest[:16]}"
    )
    if report.violation is not None:
        _say(str(report.violation))
    return int(report.violation is not None)


def _print(moment: float, where: str, what: str) -> None:
    _say(f"{moment:12.6f} {where:10} {what}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # a file shows how far it is


def _run(ablation: str | None, seeds: range, jobs: int) -> bool:
    """Run these seeds and print a row; return whether the result is as it should be."""
    began = time.perf_counter()
    broken: list[Report] = []
    runs = 0
    for report in reports(seeds, ablation, jobs):
        runs += report.runs
        if report.violation is not None:
            broken.append(report)
    took = time.perf_counter() - began
    kinds = Counter(report.violation.promise.partition(":")[0] for report in broken if report.violation)
    shown = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(4))
    first = f"first seed {broken[0].seed}" if broken else ""
    _say(
        f"{ablation or 'all rules':33} {len(seeds):7} seeds {runs:9} runs {len(broken):6} broken "
        f"{len(seeds) / took:7.1f} seeds/s  {first}  {shown}"
    )
    if ablation is None and broken and broken[0].violation:
        _say(str(broken[0].violation))
    return ablation in MASKED or bool(broken) == (ablation is not None)


def reports(seeds: range, ablation: str | None, jobs: int) -> Iterator[Report]:
    """Run the seeds in so many processes; yield the reports in the order of the seeds."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    if jobs <= 1:
        for seed in seeds:
            yield _simulate(seed, ablation)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(partial(_simulate_all, ablation=ablation), chunks):
            yield from found


def _run_keys(seeds: range, options: argparse.Namespace) -> int:
    """Run these seeds, or one, for keys; return 1 where the result is not as it should be."""
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    names = list(KEY_ABLATIONS) if options.ablations else [options.ablation]
    results = [_run_keys_without(name, seeds, options.jobs) for name in names]
    return int(not all(results))


def _run_keys_without(ablation: str | None, seeds: range, jobs: int) -> bool:
    """Run these seeds, a rule taken away until it is found broken; return whether the result is as it should be."""
    rules = KEY_ABLATIONS[ablation] if ablation else Rules
    done, broken = 0, 0
    with ProcessPoolExecutor(jobs) as pool:
        for chunk in range(0, len(seeds), CHUNK * jobs):
            for report in pool.map(partial(simulate_keys, rules=rules), seeds[chunk : chunk + CHUNK * jobs]):
                done += 1
                if report.violation is not None:
                    broken += 1
                    told = report.violation
                    _say(f"seed {told.seed}, {told.moment:.6f} s: {told.promise}" if ablation else str(told))
            if ablation and broken:
                break
    _say(f"keys, {ablation or 'all rules'}: {done} seeds, {broken} broken")
    return bool(broken) == (ablation is not None)


def _simulate_all(seeds: range, ablation: str | None) -> list[Report]:
    return [_simulate(seed, ablation) for seed in seeds]


def _simulate(
    seed: int, ablation: str | None, log: Callable[[float, str, str], None] | None = None
) -> Report:
    rules = ABLATIONS[ablation] if ablation else Rules
    return simulate(seed, rules=rules, story=story_for(ablation, seed), log=log)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # whoever reads the log has seen enough
        sys.stderr.close()
