"""A simulated cluster keeps what ``scope="cluster"`` promises, and breaks it where a rule is taken away."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from itertools import count, islice

import pytest

from asyncmgr import Manager, RunContext, Service, periodic_task
from asyncmgr._leases.rules import Rules
from asyncmgr.testing.simulation import ABLATIONS, SimulatedHost, Story, Violation, simulate, tell
from asyncmgr.testing.simulation.__main__ import main
from asyncmgr.testing.simulation._ablations import MASKED, TOGETHER, without
from asyncmgr.testing.simulation._directed import DIRECTED

SEEDS = int(os.environ.get("SIMULATED_SEEDS", "50"))
"""Stories that are run: 1,000 on the highest Python of `nox -s tests`, and 50 elsewhere."""
CHUNK = 10

QUICK = {
    "claim-condition": 11,
    "identity": 0,
    "margin": 6,
    "next-token": 9,
    "slot-before-run": 0,
    "store-age": 0,
}
"""Rules whose loss is found soon, each with the seed to begin at."""


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_all_promises_hold(start: int) -> None:
    """In no story is a promise broken, and in each some task runs."""
    for seed in range(start, start + CHUNK):
        report = simulate(seed)
        report.raise_violation()
        assert report.runs


def first_violation(rules: type[Rules], start: int, most: int = 40) -> Violation:
    for seed in range(start, start + most):
        violation = simulate(seed, rules=rules).violation
        if violation is not None:
            return violation
    pytest.fail(f"{rules.__name__} was not caught in {most} seeds from {start} on")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_rule_that_is_taken_away_is_missed(name: str) -> None:
    """The violation names the seed, the moment and the last events."""
    violation = first_violation(ABLATIONS[name], QUICK[name])
    assert f"seed {violation.seed}, {violation.moment:.6f} s: {violation.promise}" in str(violation)
    assert 1 < len(violation.events) <= 50
    assert violation.events[-1] in str(violation)


class OneAtATime(Rules):
    """Names wait for their turn in a story too, which has few of them."""

    def claims_at_once(self) -> int:
        return 1


@pytest.mark.parametrize("seed", range(6))
def test_names_that_wait_for_their_turn_are_claimed(seed: int) -> None:
    simulate(seed, rules=OneAtATime).raise_violation()


STORIES = 16
"""Seeds of a story with a script within which the loss of a rule has to show."""

ALONE = {name: names for names in TOGETHER if (name := " + ".join(names)) in DIRECTED}


@pytest.mark.slow
@pytest.mark.parametrize("name", DIRECTED)
def test_a_story_with_a_script_misses_its_rule(name: str) -> None:
    """It holds with all rules, and with all but one of a pair: so each of the pair is needed, and masks the others."""
    parts = ALONE.get(name, ())
    fewer = [without(*(one for one in parts if one != part)) for part in parts]
    for seed in range(STORIES):
        story = DIRECTED[name](seed)
        if simulate(seed, story=story, rules=ABLATIONS[name]).violation is None:
            continue
        simulate(seed, story=story).raise_violation()
        if all(simulate(seed, story=story, rules=rules).violation is None for rules in fewer):
            return
    pytest.fail(f"{name} was not caught in {STORIES} seeds")


def test_each_rule_is_looked_for() -> None:
    """What need not be caught alone is caught together with the rules that mask it."""
    assert set(DIRECTED) <= set(ABLATIONS)
    assert {names[0] for names in TOGETHER} == MASKED
    assert set(ABLATIONS) >= {one for names in TOGETHER for one in names}


def failing_seed(number: int) -> int:
    """Find a seed that fails without the rule of identities, the first one for 0."""
    failing = (seed for seed in count() if simulate(seed, rules=ABLATIONS["identity"]).violation is not None)
    return next(islice(failing, number, None))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(int(os.environ.get("REPLAYED_SEEDS", "2"))))
def test_a_failing_seed_is_replayed_identically(number: int) -> None:
    """Each replay has the same events and the same violation: `REPLAYED_SEEDS` seeds, each `REPLAYS` times."""
    seed, rules = failing_seed(number), ABLATIONS["identity"]
    first = simulate(seed, rules=rules)
    for _ in range(int(os.environ.get("REPLAYS", "3"))):
        assert simulate(seed, rules=rules).digest == first.digest


def test_a_seed_is_replayed_identically() -> None:
    """Two runs of a seed share all events, whether a rule is missing or not."""
    for rules in (Rules, ABLATIONS["margin"]):
        first, second = simulate(6, rules=rules), simulate(6, rules=rules)
        assert replace(first, took=0, violation=None) == replace(second, took=0, violation=None)
        assert str(first.violation) == str(second.violation)
    assert simulate(6).digest != simulate(7).digest


def test_no_thread_takes_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread follows real time, and what it hands to a loop is a turn that no second run has."""
    started: list[str] = []
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread.name))
    assert simulate(6).runs
    assert not started


@pytest.mark.slow
def test_other_processes_tell_the_same_story() -> None:
    """No order depends on the hashes of strings or on addresses."""
    program = (
        "from asyncmgr.testing.simulation import simulate; print(simulate(6).digest, simulate(9).digest)"
    )
    told = set()
    for seed in ("0", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        told.add(done.stdout)
    assert len(told) == 1


def test_nothing_is_left() -> None:
    """Afterwards the wall clock, the loop and the log are as before."""
    simulate(0)
    assert time.time() > 1_710_000_000
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


def quiet(seed: int) -> Story:
    return replace(tell(seed), faults=())


def test_without_faults_every_slot_runs_once() -> None:
    """In a story without faults no effect is refused and every task runs at its pace."""
    story = quiet(3)
    report = simulate(3, story=story)
    report.raise_violation()
    expected = sum(
        (report.length - 10) * 0.9 / max(task.spacing, task.lasts + task.spacing) for task in story.tasks
    )
    assert report.runs >= expected / 2
    assert not report.refused
    assert not report.losses


class Counts(Manager):
    """Counts its runs on all hosts together."""

    def __init__(self, host: SimulatedHost, counted: list[str]) -> None:
        super().__init__()
        self.simulated = host
        self.counted = counted

    @periodic_task(spacing=2, scope="cluster")
    async def count(self, context: RunContext) -> None:
        with self.simulated.watched(context) as run:
            await asyncio.sleep(0.1)
            if run.effect():
                self.counted.append(self.simulated.name)


def test_users_run_their_own_services() -> None:
    """A factory builds the service of each process; the runs of its managers are watched."""
    counted: list[str] = []
    lives: list[int] = []

    def service(host: SimulatedHost) -> Service:
        lives.append(host.life)
        return Service(
            Counts(host, counted),
            name="counts",
            host=host.name,
            transport=host.transport,
            settings=host.settings,
        )

    report = simulate(2, services=service)
    report.raise_violation()
    assert report.runs >= len(counted) > 5
    assert lives == list(range(1, len(lives) + 1))


def test_the_error_of_a_factory_is_raised() -> None:
    """A mistake of the caller's is none of the story's faults."""

    def service(host: SimulatedHost) -> Service:
        raise ZeroDivisionError(host.name)

    with pytest.raises(ZeroDivisionError):
        simulate(1, services=service)


class Careless(Manager):
    @periodic_task(spacing=2, scope="cluster")
    async def fail(self, context: RunContext) -> None:
        asyncio.get_running_loop().call_soon(int, "no number")


def test_an_error_in_a_callback_is_a_violation() -> None:
    """What asyncio would only log ends the simulation, and the violation has the error."""

    def service(host: SimulatedHost) -> Service:
        return Service(Careless(), name="c", host=host.name, transport=host.transport, settings=host.settings)

    violation = simulate(1, services=service).violation
    assert violation is not None
    assert "error: on h" in violation.promise
    assert "no number" in violation.promise


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """One row for a set of rules; the exit status says whether it is as it should be."""
    assert main(["--seeds", "4", "--from", "20", "--jobs", "1"]) == 0
    assert "all rules" in capsys.readouterr().out
    assert main(["--seeds", "2", "--from", str(QUICK["margin"]), "--ablation", "margin", "--jobs", "1"]) == 0
    assert " broken" in capsys.readouterr().out


def test_the_command_shows_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """With --log every event is a line."""
    assert main(["--seed", "20", "--log"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 50
    assert any("all faults are over" in line for line in lines)
    assert lines[-1].startswith("seed 20: ")
