"""`Invariants`: what must hold at every step of a simulation, and the log of what happened.

It learns from three places: the store's server tells every write, the story's tasks tell their steps, and at the end
of each moment every process is asked what it trusts.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from asyncmgr._common.log import LOGGER
from asyncmgr._common.safe_text import error_text
from asyncmgr._leases.keys import title_of
from asyncmgr._leases.records import (
    CLAIMS,
    SLOTS,
    VERSION,
    ClaimRecord,
    Foreign,
    SessionRecord,
    SlotRecord,
    decode,
)
from asyncmgr._leases.slots import MISSED, PASSED, SEVERAL
from asyncmgr.errors import AsyncmgrError
from asyncmgr.events import (
    LeaseAcquired,
    LeaseLost,
    LeaseReleased,
    Outcome,
    RunFinished,
    SlotSkipped,
    SlotsMissed,
)
from asyncmgr.testing.simulation import _doors as doors
from asyncmgr.testing.simulation._cluster import Cluster, Process
from asyncmgr.testing.simulation._hosts import State
from asyncmgr.testing.simulation._server import Write
from asyncmgr.testing.simulation._story import TaskPart
from asyncmgr.testing.simulation._timeline import SECOND

KEPT = 50
"""Events that a violation shows."""

MOST_CALLS = 80
"""Calls of the store in a second beyond which a process is in a hot loop."""


OWN_ERRORS = frozenset(
    (
        "lease.loop_failed",
        "lease.step_failed",
        "listener.failed",
        "scheduler.died",
        "service.step_abandoned",
        "service.step_failed",
        "store.misbehaved",
    )
)
"""Events of the package's log that no fault from outside may cause."""


class _Ear(logging.Handler):
    """Hands log records on."""

    def __init__(self, hear: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        self._hear(record)


class Violation(AsyncmgrError, AssertionError):
    """A promise was broken. The text has the seed, the moment and the last events."""

    def __init__(self, promise: str, seed: int, moment: float, events: tuple[str, ...]) -> None:
        super().__init__(promise, seed, moment, events)
        self.promise = promise
        """What was broken, by the name of a promise, and how."""
        self.seed = seed
        self.moment = moment
        """Seconds of real time since the story's beginning."""
        self.events = events
        """The last events, one a line."""

    def __str__(self) -> str:
        lines = "\n  ".join(self.events)
        return f"seed {self.seed}, {self.moment:.6f} s: {self.promise}\n  {lines}"


@dataclass(eq=False)
class Body:
    """A run of a task whose body has begun."""

    process: Process
    task: str
    token: int
    number: int | None
    began: int
    session: Any
    """The session in which it began."""
    lost: int | None = None
    """The real moment at which its process learned that it may run it no more."""
    untrusted: int | None = None
    """The real moment at which its session was first seen without trust; `None` = it is trusted."""
    ended: bool = False
    how: str = ""
    """How it ended."""
    frozen: bool = False
    """Whether its process was paused meanwhile: two such bodies may overlap, and the token tells them apart."""


@dataclass
class Standing:
    """What is known of one task."""

    token: int = 0
    """The highest token that any run showed."""
    owner: str | None = None
    """The identity of the session that its claim names."""
    claim_token: int = 0
    """The highest token of any claim."""
    own: dict[Process, int] = field(default_factory=dict)
    """The last slot that each process has started: it remembers that itself, whatever the store has lost."""
    started: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Slot numbers that were started: how often the store had lost writes by then, and where."""
    bodies: list[Body] = field(default_factory=list)
    """Bodies in progress."""
    last: Body | None = None
    """The body that began last."""
    last_losses: int = 0
    """How often the store had lost writes by then."""
    is_sure: bool = True
    """Whether it began on a claim that the store still had."""
    told: int = 0
    """Slots that got a fate since, other than by a run."""
    is_missed: bool = False
    """Whether the store's record says of its slot that it was cut off."""
    skips: dict[Process, int] = field(default_factory=dict)
    """Slots that a holder skipped since, which may be later than that of a run that waits for its claim."""
    just_missed: dict[Process, int] = field(default_factory=dict)
    """Slots of which a process told last, where one follows that it skips too."""
    unwritten: dict[Process, int] = field(default_factory=dict)
    """Slots that a holder told of since: nobody else knows of them before it claims the next one or leaves."""
    repeated: int = 0
    """Slots that a holder skipped which then lost the task: the next one cannot know, and says that they are missed."""
    unknown: int = 0
    """Slots that were claimed together by a holder that then lost the task: some may have got no run."""
    writer: object = None
    """Who wrote the record of its slots last."""
    told_late: int = 0
    """Slots of which that one told when it had lost the task: the answer to their claim came after the loss."""
    last_start: int = -1
    """Real moment."""


class Invariants:
    """Looks on, and raises `Violation` (through the timeline) when a promise is broken."""

    def __init__(
        self,
        cluster: Cluster,
        seed: int,
        *,
        longest_ttl: float,
        knows: Callable[[Process, str], bool],
        parts: Mapping[str, TaskPart],
    ) -> None:
        """`knows` says whether a process runs a version that knows a task; `parts` are those of the story."""
        self.seed = seed
        self.longest_ttl = longest_ttl
        self._timeline = cluster.timeline
        self._server = cluster.server
        self._holders: dict[str, dict[Process, int]] = {}
        """Names, each with the processes that hold it as far as they know, and their tokens."""
        self._knows = knows
        self._on_wall = {name for name, part in parts.items() if part.cron}
        """Tasks whose slots are moments of the wall clock: they are not counted."""
        self._overlapping = {name for name, part in parts.items() if part.overlap == "allow"}
        self.tasks: dict[str, Standing] = {}
        self.events: list[tuple[int, object, str, tuple[Any, ...]]] = []
        """What happened: real moment, where, what, and facts."""
        self.runs = 0
        self.is_settled = False
        """Whether all faults were over long ago."""
        self.refused = 0
        """Effects that were refused because of their token."""
        self.listeners: list[Callable[[float, str, str], None]] = []
        cluster.server.on_write = self._on_write
        cluster.timeline.after_moment = self._look
        self._cluster = cluster
        self._calls: dict[Process, int] = {}
        cluster.timeline.after(1.0, self._count_calls)

    # The log

    def note(self, who: object, what: str, *facts: Any) -> None:
        """Note an event, for the log and for the hash that two runs of a seed must share."""
        event = (self._timeline.now, who, what, facts)
        self.events.append(event)
        for listener in self.listeners:
            listener(event[0] / SECOND, str(who), _text(what, facts))

    @property
    def digest(self) -> str:
        """The hash of all events so far."""
        lines = (f"{moment} {who} {_text(what, facts)}\n" for moment, who, what, facts in self.events)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def moment(self) -> float:
        """Seconds of real time since the story's beginning."""
        return self._timeline.now / SECOND

    def break_promise(self, promise: str) -> None:
        """Stop the simulation: a promise is broken."""
        events = tuple(
            f"{moment / SECOND:12.6f} {who!s:10} {_text(what, facts)}"
            for moment, who, what, facts in self.events[-KEPT:]
        )
        self._timeline.halt(Violation(promise, self.seed, self._timeline.now / SECOND, events))

    def _of(self, task: str) -> Standing:
        return self.tasks.setdefault(task, Standing())

    def error(self, process: Process, context: Mapping[str, Any]) -> None:
        """Learn of an error that nobody handled on a host."""
        error = context.get("exception")
        text = context["message"] if error is None else f"{context['message']}: {error_text(error)}"
        self.break_promise(f"error: on {process}: {text}")

    @contextmanager
    def hearing_logs(self) -> Iterator[None]:
        """Hear what the package logs while the block runs. Errors of its own are none of the story."""
        logger = logging.getLogger(LOGGER)
        before = logger.level, logger.propagate, logger.handlers
        handler = _Ear(self._hear_log)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.DEBUG if self.listeners else logging.ERROR)
        try:
            yield
        finally:
            logger.handlers, logger.propagate = before[2], before[1]
            logger.setLevel(before[0])

    def _hear_log(self, record: logging.LogRecord) -> None:
        loop = asyncio.get_running_loop()
        if getattr(loop, "state", None) is State.DEAD:
            return
        line = record.getMessage()
        for listener in self.listeners:
            listener(self._timeline.now / SECOND, getattr(loop, "name", ""), f"({line})")
        if line.partition(" ")[0] in OWN_ERRORS:
            self.break_promise(f"error: {line}")

    # Bodies

    def begin(self, process: Process, task: str, token: int | None, number: int | None) -> Body:
        """Learn that the body of a run makes its first step."""
        body = Body(process, task, token or 0, number, self._timeline.now, doors.session(process))
        if not process.is_alive:
            return body  # it died, and its tasks are being cleared away
        standing = self._of(task)
        self.runs += 1
        self.note(process, "body began", task, number, token)
        standing.last_start = self._timeline.now
        if not self._knows(process, task):
            self.break_promise(f"unknown task: {process} runs {task}, which it does not know")
        self._check_token(standing, body)
        self._check_slot(standing, body)
        self._check_alone(standing, body)
        standing.bodies.append(body)
        return body

    def _check_token(self, standing: Standing, body: Body) -> None:
        if body.token < standing.token and not self._is_excused:
            self.break_promise(
                f"token went back: {body.process} runs {body.task} with {body.token} after {standing.token}"
            )
        standing.token = max(standing.token, body.token)

    def _check_slot(self, standing: Standing, body: Body) -> None:
        if body.number is None:
            return
        losses = self._server.lost_writes
        if body.task not in self._on_wall:
            self._check_fates(standing, body, body.number, losses)
        if body.number <= standing.own.get(body.process, -1):
            self.break_promise(
                f"slot twice: {body.process} starts slot {body.number} of {body.task} once more"
            )
        standing.own[body.process] = body.number
        before = standing.started.get(body.number)
        if before is not None and before[0] == losses and not self._is_excused:
            self.break_promise(
                f"slot twice: {body.process} starts slot {body.number} of {body.task}, as {before[1]} did"
            )
        standing.started[body.number] = losses, str(body.process)

    def _check_fates(self, standing: Standing, body: Body, number: int, losses: int) -> None:
        """Check that each slot between two runs was told of once: no more, and no less."""
        last, before = standing.last, standing.last_losses
        was_sure, told = standing.is_sure, standing.told
        repeated = standing.repeated + standing.is_missed
        # Slots that were refused while this run waited for its claim come after its own.
        most_ahead = standing.skips.get(body.process, 0)
        standing.last, standing.last_losses, standing.is_sure = body, losses, not self._is_excused
        unsure, standing.unknown, standing.told_late = standing.unknown + standing.told_late, 0, 0
        standing.is_missed = False
        is_known = last is not None and last.number is not None and losses == before and was_sure
        if last is None or last.number is None or not is_known:
            least, most = 0, most_ahead
        else:
            between = max(0, number - last.number - 1)
            least = min(most_ahead, max(0, told - between - repeated))
            most = min(most_ahead, max(0, told - between + unsure))
            where = f"lie between {last.number} on {last.process} and {number} on {body.process}"
            if told > between + repeated + most_ahead:
                self.break_promise(f"two fates: {told} slots of {body.task} were told of, {between} {where}")
            if told < between - unsure:
                self.break_promise(f"no fate: {told} slots of {body.task} were told of, {between} {where}")
        standing.told, standing.repeated = most, most - least
        standing.skips, standing.just_missed = {body.process: most}, {}
        standing.unwritten = {body.process: most}

    def _check_alone(self, standing: Standing, body: Body) -> None:
        for other in standing.bodies:
            is_own = other.process is body.process
            is_allowed = is_own and body.task in self._overlapping
            # Whatever the store lost, a process knows which of its bodies it may run no more.
            is_left = is_own and other.lost is not None
            if not other.frozen and (is_left or not (is_allowed or self._is_excused)):
                self.break_promise(f"two run: {body.process} starts {body.task}, which {other.process} runs")

    def effect(self, body: Body) -> bool:
        """Learn that a body changes something outside that is guarded by tokens; False = it is refused."""
        if not body.process.is_alive:
            return False
        standing = self._of(body.task)
        if body.token < standing.token:
            self.refused += 1
            self.note(body.process, "effect refused", body.task, body.token)
            return False
        self._check_in_time(body, "changes something")
        return True

    def end(self, body: Body, how: str) -> None:
        """Learn that a body has ended."""
        if body.ended or not body.process.is_alive:
            return
        body.ended, body.how = True, how
        self.note(body.process, "body ended", body.task, body.number, how)
        self._of(body.task).bodies.remove(body)
        self._check_in_time(body, "ends")

    def _check_in_time(self, body: Body, what: str) -> None:
        """Check that a body ends within a quarter of the TTL after the right to run it has ended."""
        if body.frozen or body.process.loop.state is not State.UP:
            return
        now = self._timeline.now
        if doors.untrusted_for(body.session) <= 0:
            body.untrusted = None  # trust has come back before anybody looked
        elif body.untrusted is None:
            body.untrusted = now
        since = min((moment for moment in (body.lost, body.untrusted) if moment is not None), default=now)
        late = (now - since) / SECOND
        # A quarter of the TTL on the slowest clock, and a look at a clock that was set.
        if late > body.process.ttl * (0.25 * 1.15 + 0.1) + 0.1:
            self.break_promise(
                f"runs on: {body.process} {what} in {body.task} {late:.3f} s after its trust ended"
            )

    def gone(self, process: Process) -> None:
        """Learn that a process has died."""
        for standing in self.tasks.values():
            standing.bodies = [body for body in standing.bodies if body.process is not process]
        for holders in self._holders.values():
            holders.pop(process, None)

    def frozen(self, process: Process) -> None:
        """Learn that a process was paused: what its bodies do from now on is promised by their tokens only."""
        for standing in self.tasks.values():
            for body in standing.bodies:
                body.frozen |= body.process is process

    # Claims and slots, in the store

    def _on_write(self, write: Write) -> None:
        if write.table == CLAIMS:
            before = None if write.before is None else write.before.value
            if before is not None and isinstance(decode(ClaimRecord, before, _any_version), Foreign):
                self.break_promise(f"unknown version: {write.writer} overwrites {title_of(write.key)[1]}")
            self._on_claim(write)
        elif write.table == SLOTS:
            self._on_slot(write)
        elif (
            write.after.value is not None and b'"dead"' in write.after.value
        ):  # cheap: it is asked of each renewal
            self._on_session(write)

    def _on_session(self, write: Write) -> None:
        record = decode(SessionRecord, write.after.value, _any_version)
        if isinstance(record, SessionRecord) and record.state == "dead":
            self.note(write.writer, "session ended", record.inc)

    def _on_claim(self, write: Write) -> None:
        record = decode(ClaimRecord, write.after.value, _any_version)
        if isinstance(record, Foreign):
            return
        standing = self._of(title_of(write.key)[1])
        token = max(record.token, write.after.revision)
        self.note(write.writer, "claim written", title_of(write.key)[1], record.owner, token)
        standing.owner = record.owner
        if record.owner is None:
            return
        if token <= standing.claim_token:
            self.break_promise(
                f"token fell: {title_of(write.key)[1]} is claimed with {token} after {standing.claim_token}"
            )
        standing.claim_token = max(token, standing.claim_token)

    def _on_slot(self, write: Write) -> None:
        record = decode(SlotRecord, write.after.value, _any_version)
        if isinstance(record, Foreign):
            return
        self.note(write.writer, "slot written", title_of(write.key)[1], record.n, record.state, record.token)
        before = None if write.before is None else decode(SlotRecord, write.before.value, _any_version)
        if not isinstance(before, SlotRecord) or before.spacing != record.spacing:
            return
        standing = self._of(title_of(write.key)[1])
        standing.writer = write.writer
        if record.n > before.n and record.n == record.token:
            standing.is_sure = False  # the store lost slots, and numbers begin anew
        if record.state == PASSED:
            standing.unwritten.clear()
        if record.state == SEVERAL and record.token != before.token:
            standing.unknown = SECOND // record.spacing
        if record.state == MISSED and standing.last is not None and standing.last.number == record.n:
            standing.is_missed = True
        if before.oldest and record.token != before.token:
            standing.repeated += before.n - before.oldest + 1  # perhaps its holder has told of them
        if record.n < before.n and (record.state != PASSED or record.token != before.token):
            self.break_promise(f"slots went back: {title_of(write.key)[1]} from {before.n} to {record.n}")
        elif record.n == before.n and before.state in _FATES and record.state not in (before.state, "new"):
            self.break_promise(
                f"two fates: slot {record.n} of {title_of(write.key)[1]} is {before.state}, then {record.state}"
            )

    # Trust

    def follow(self, process: Process) -> None:
        """Listen to the service of a process that is about to start."""
        process.service.add_listener(
            partial(self._hear, process),
            LeaseAcquired,
            LeaseLost,
            LeaseReleased,
            RunFinished,
            SlotSkipped,
            SlotsMissed,
        )

    def _hear(self, process: Process, event: Any) -> None:
        if not process.is_alive:
            return
        match event:
            case LeaseAcquired():
                self.note(process, "acquired", event.name, event.token, event.taken_from)
                if not self._knows(process, event.name):
                    self.break_promise(f"unknown task: {process} owns {event.name}, which it does not know")
                if doors.untrusted_for(doors.session(process)) >= 0:
                    self.break_promise(f"late right: {process} gets {event.name}, and does not trust itself")
                self._holders.setdefault(event.name, {})[process] = event.token
                for other in [other for other in self._of(event.name).unwritten if other is not process]:
                    self._repeat(self._of(event.name), other)
            case LeaseLost() | LeaseReleased():
                why = event.reason if isinstance(event, LeaseLost) else "released"
                self.note(process, "lost", event.name, event.token, why)
                self._holders.get(event.name, {}).pop(process, None)
                self._note_loss(process, event.name)
                if why != "released":
                    self._repeat(self._of(event.name), process)
            case RunFinished():
                self.note(process, "run finished", event.task, event.outcome, event.trigger)
            case SlotSkipped():
                if event.reason != "not_owner":
                    self.note(process, "slot skipped", event.task, event.reason)
                if event.reason not in ("not_owner", "lease_lost") and self._acts(process, event.task):
                    standing = self._of(event.task)
                    older = standing.just_missed.pop(process, 0)
                    standing.skips[process] = standing.skips.get(process, 0) + older + 1
                    self._tell(standing, process, 1)
                    if event.reason == "draining":
                        standing.repeated += 1  # the next holder runs it, or tells of it too
                if event.reason == "lease_lost" and self.is_settled:
                    self.break_promise(
                        f"wrong fate: {process} says lease_lost of {event.task} long after all faults"
                    )
            case SlotsMissed():
                self.note(process, "slots missed", event.task, event.count, event.reason)
                if self._acts(process, event.task):
                    self._of(event.task).just_missed = {process: event.count}
                    self._tell(self._of(event.task), process, event.count)
                elif self._of(event.task).writer is process:
                    self._of(event.task).told_late += event.count

    def _acts(self, process: Process, name: str) -> bool:
        """Whether a process has the right to tell what becomes of a task's slots."""
        own = doors.session(process)
        return process in self._holders.get(name, {}) and own is not None and self._of(name).owner == own.inc

    @staticmethod
    def _tell(standing: Standing, process: Process, slots: int) -> None:
        standing.told += slots
        standing.unwritten[process] = standing.unwritten.get(process, 0) + slots

    def _repeat(self, standing: Standing, process: Process) -> None:
        """Note that a holder has lost a task, or died: the next one cannot know what it told and did not write down."""
        standing.repeated += standing.unwritten.pop(process, 0)

    def _note_loss(self, process: Process, name: str) -> None:
        for body in self._of(name).bodies:
            if body.process is process and body.lost is None:
                body.lost = self._timeline.now

    @property
    def _is_excused(self) -> bool:
        """Whether the store lost acknowledged writes less than a TTL ago.

        Nobody who comes later can know who held a name. The holder learns of the loss when it renews, and trusts itself
        for no longer than that takes in any case.
        """
        lost_at = self._server.lost_at
        return lost_at is not None and self._timeline.now - lost_at < self.longest_ttl * SECOND * 1.1

    def _look(self) -> None:
        """Called at the end of each moment: no two processes trust one claim."""
        for name, holders in self._holders.items():
            if len(holders) > 1:
                trusting = [
                    process for process in holders if process.is_alive and doors.acts_on(process, name)
                ]
                if len(trusting) > 1 and not self._is_excused:
                    self.break_promise(f"two trust: {' and '.join(map(str, trusting))} both hold {name}")

    def _count_calls(self) -> None:
        """Called every second: no process makes calls in a hot loop."""
        before, self._calls = self._calls, {}
        for process in self._cluster.processes:
            if process.is_alive:
                made = self._calls[process] = process.connection.calls
                if made - before.get(process, 0) > MOST_CALLS:
                    self.break_promise(
                        f"hot loop: {process} makes {made - before.get(process, 0)} calls in a second"
                    )
        self._cluster.timeline.after(1.0, self._count_calls)

    # The quiet end

    def check_runs(self, tasks: Mapping[str, float], since: float) -> None:
        """Check that each of these tasks (with its spacing) has started since that moment, seconds."""
        for task in tasks:
            if self._of(task).last_start < since * SECOND:
                self.break_promise(
                    f"stands still: {task} has not run since {since:g} s, when all faults were over"
                )


_FATES = frozenset(outcome.value for outcome in Outcome)


def _any_version(version: object) -> bool:
    return version == VERSION


def _text(what: str, facts: tuple[Any, ...]) -> str:
    return " ".join([what, *map(str, facts)])
