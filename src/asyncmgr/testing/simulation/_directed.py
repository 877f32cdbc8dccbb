"""Stories with a script, for rules that the stories of seeds hardly ever need: fixed hosts, and fixed faults.

A seed still draws delays, jitter and identities, and here and there a moment. All of them keep the promises; without
the rule, or without the rules of a pair, some of the first seeds do not.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from asyncmgr._leases.records import SESSIONS
from asyncmgr.testing.simulation._story import AFTERWARDS, Fault, MachinePart, Story, TaskPart, tell

TTL = 10.0
"""Seconds: the lease TTL of all these stories."""


def _story(
    seed: int,
    faults: Sequence[Fault],
    *,
    tasks: Sequence[TaskPart] = (TaskPart("t0", 2.0, 0.2, 0.0),),
    starts: Sequence[float] = (0.0, 5.0),
    rates: Sequence[float] = (),
    quiet_from: float,
) -> Story:
    """Make a story in which the first machine holds everything at first, since it starts first."""
    machines = tuple(
        MachinePart(
            name=f"h{number}",
            rate=rates[number] if rates else 1.0,
            uptime=1000.0,
            wall_error=0.0,
            ttl=TTL,
            knows=tuple(task.name for task in tasks),
            starts=start,
        )
        for number, start in enumerate(starts)
    )
    ends = quiet_from + 2 * TTL + max(AFTERWARDS, *(task.spacing + task.lasts + 5 for task in tasks))
    return Story(
        seed, machines, tuple(tasks), tuple(sorted(faults, key=lambda fault: fault.at)), quiet_from, ends
    )


def _weather(start: float, end: float, name: str, value: Any) -> list[Fault]:
    return [Fault(start, "weather", None, (name, value)), Fault(end, "clear_up", None, name)]


def slow_answers(seed: int) -> Story:
    """Renewals are written at once and answered late. The holder is cut off; its clock is slow, the other's is fast."""
    cut = 20 + random.Random(seed).uniform(0, 4)
    faults = [Fault(3.0, "answer_late", 0, 1.05), Fault(cut, "cut", 0), Fault(cut + 25, "heal", 0)]
    return _story(seed, faults, rates=(0.9, 1.1), quiet_from=60.0)


def unheard_of_owner(seed: int) -> Story:
    """A process gets a free name right after its start, and others see its claim before its session."""
    moment = 20 + random.Random(seed).uniform(0, 0.5)
    faults = [Fault(20.0, "terminate", 0), *_weather(18, 30, "watch_lag", 4.0)]
    return _story(seed, faults, starts=(0.0, 5.0, moment), quiet_from=32.0)


def set_back_wall(seed: int) -> Story:
    """The wall of the holder is set back by more than a minute, and slots of cron come once more."""
    task = TaskPart("t0", 2.0, 0.2, 0.0, cron="*/2 * * * * *")
    moment = 20 + random.Random(seed).uniform(0, 4)
    return _story(
        seed, [Fault(moment, "step_wall", 0, -90.0)], tasks=(task,), starts=(0.0,), quiet_from=120.0
    )


def lost_claim(seed: int) -> Story:
    """Somebody deletes the row of a claim, and another process takes the name."""
    moment = 30.5 + random.Random(seed).uniform(0, 3)
    task = TaskPart("t0", 15.0, 0.2, 0.0)  # seldom: at the next slot the holder learns of it in any case
    return _story(seed, [Fault(moment, "drop_claim", None, "crew.t0")], tasks=(task,), quiet_from=50.0)


def taken_back(seed: int, *, renewed: bool = False) -> Story:
    """A name is handed over, and the store goes back to before that, where a third process may take it.

    With `renewed`, so long before that the new holder has renewed its session since.
    """
    chance = random.Random(seed)
    left = 20 + chance.uniform(0, 3)
    saved = left - (chance.uniform(3.5, 4.5) if renewed else 0.02)
    faults = [Fault(saved, "save"), Fault(left, "terminate", 0), Fault(left + 0.25, "restore")]
    task = TaskPart("t0", 40.0, 0.2, 0.0)  # seldom: at the next slot a holder learns of a loss in any case
    return _story(seed, faults, tasks=(task,), starts=(0.0, 4.0, left + 0.7), quiet_from=50.0)


def taken_back_long_after(seed: int) -> Story:
    """As `taken_back`, where the new holder has renewed its session since the copy was made."""
    return taken_back(seed, renewed=True)


def body_of_before(seed: int) -> Story:
    """The store is wiped while a body works that takes long to end, and the name is free at once."""
    task = TaskPart("t0", 2.0, 3.5, 0.2, overlap="allow")
    moment = 20 + random.Random(seed).uniform(0, 2)
    return _story(seed, [Fault(moment, "wipe")], tasks=(task,), starts=(0.0,), quiet_from=25.0)


def late_right(seed: int) -> Story:
    """Trust ends, as a clock is set forward, while the answers to a claim are on their way."""
    moment = 20 + random.Random(seed).uniform(0, 6)
    faults = [
        Fault(15.0, "answer_late", 1, 0.95),
        Fault(20.0, "terminate", 0),
        Fault(moment, "step_wall", 1, 9.0),
    ]
    return _story(seed, faults, quiet_from=60.0)


def unheard_of_self(seed: int) -> Story:
    """A process starts that can claim, and cannot write its session."""
    faults = [Fault(19.0, "terminate", 0), *_weather(19.5, 40, "lost_table", SESSIONS)]
    return _story(seed, faults, starts=(0.0, 20.0), quiet_from=45.0)


def unheard_release(seed: int) -> Story:
    """Hosts share tasks out, and releases are lost."""
    tasks = tuple(TaskPart(f"t{number}", 2.0, 0.2, 0.0) for number in range(4))
    return _story(
        seed, _weather(22.0, 26, "lose_request", 0.5), tasks=tasks, starts=(0.0, 20.0), quiet_from=45.0
    )


def back_from_the_dead(seed: int) -> Story:
    """A holder is paused until it was killed and another one has its name, and hears of that late."""
    moment = 20 + random.Random(seed).uniform(0, 3)
    faults = [
        Fault(moment, "pause", 0),
        *_weather(moment + 5, moment + 20, "watch_lag", 4.0),
        Fault(moment + 8 + random.Random(seed + 1).uniform(0, 3), "resume", 0),
    ]
    return _story(seed, faults, quiet_from=50.0)


def answer_in_a_pause(seed: int) -> Story:
    """A slot is claimed, its holder is paused before the answer arrives, and another has the task when it goes on."""
    moment = 20 + random.Random(seed).uniform(0, 4)
    faults = [
        Fault(15.0, "answer_late", 0, 0.9),
        Fault(moment, "break_watches", 0, 15.0),
        Fault(moment, "pause", 0),
        Fault(moment + 16, "resume", 0),
    ]
    return _story(seed, faults, tasks=(TaskPart("t0", 1.0, 0.0, 0.0),), quiet_from=60.0)


def newer_program(seed: int) -> Story:
    """A newer program has released a task: nobody here may claim it."""
    # It ends before it is asked whether every task runs.
    return replace(_story(seed, [Fault(20.0, "foreign", None, "crew.t0")], quiet_from=60.0), ends=50.0)


def late_views(seed: int) -> Story:
    """Reads and watches are late while processes come and go, so that claims meet each other."""
    story = tell(seed)
    faults = [
        Fault(5.0, "weather", None, ("staleness", 3.0)),
        Fault(5.0, "weather", None, ("watch_lag", 4.0)),
    ]
    for number in range(12):
        machine = number % len(story.machines)
        faults.append(Fault(8.0 + number * 5, "terminate", machine))
        faults.append(Fault(9.0 + number * 5, "start", machine, True))
    return replace(story, faults=tuple(faults), quiet_from=75.0, ends=110.0)


DIRECTED: Mapping[str, Callable[[int], Story]] = {
    "trust-from-answer": slow_answers,
    "absent-is-dead": unheard_of_owner,
    "version-blind": newer_program,
    "back-off": late_views,
    "new-slots": set_back_wall,
    "stop-at-loss": lost_claim,
    "store-loss + stop-at-loss": taken_back,
    "adopt-anything + trust-from-answer + store-loss + stop-at-loss": taken_back_long_after,
    "claim-unwinding": body_of_before,
    "late-answer": late_right,
    "claim-untrusted": unheard_of_self,
    "release-repeat + own-claims": unheard_release,
    "renewal-condition + claim-condition": back_from_the_dead,
    "look-before-start + cancel": answer_in_a_pause,
}
"""The stories of ablations that need one, by their names in `ABLATIONS`."""


def story_for(ablation: str | None, seed: int) -> Story:
    """Tell the story in which an ablation is looked for; `None` = all rules are in force."""
    return DIRECTED.get(ablation or "", tell)(seed)
