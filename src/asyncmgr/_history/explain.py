"""Says in one or two sentences what became of a slot, and why. Pure and total: every input gives a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo

from asyncmgr._common.clock import SECOND
from asyncmgr._history.journal import Entry
from asyncmgr._history.slots import Record
from asyncmgr._history.words import Dial, length, quoted, was
from asyncmgr._tasks.options import BY_SETTINGS

LATE = 1.0
"""Seconds from which on a late start is worth a word."""

LATE_BY_A_BLOCK = 0.25
"""The same, where it is known what held the loop up. Below, a start may be late because of the block's end only."""


@dataclass(frozen=True, slots=True)
class Running:
    """A run in progress. Moments are microseconds since 1970."""

    slot: int
    since: int
    where: str = ""
    """The line of code where it waits."""
    usual: float | None = None
    """Seconds that a run of the task usually takes."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one task around one moment. Moments are microseconds since 1970."""

    task: str
    now: int
    zone: tzinfo = UTC
    asked: int | None = None
    """The moment that is asked about; `None` = the present state."""
    schedule: str = ""
    before: int | None = None
    """The slot of the present grid at the asked moment, or the last one before it."""
    after: int | None = None
    """The first slot of the present grid after the asked moment."""
    next: int | None = None
    """The next slot that will get a run; `None` = there is none."""
    tolerance: int = 60 * SECOND
    """How far a slot may be from the asked moment and still be meant."""
    record: Record | None = None
    """The fate of the slot."""
    stand_in: Record | None = None
    """The run that followed missed slots and stands for them."""
    running: Running | None = None
    entries: Sequence[Entry] = ()
    """The journal around the slot, the oldest first."""
    is_paused: bool = False
    why_off: str = ""
    """Why the task is switched off; empty = it is on."""
    failures: int = 0
    error: str = ""
    """The last of the failures in a row."""
    grace: float | None = None
    """`misfire_grace`, seconds."""
    timeout: float | None = None
    started: int | None = None
    """When this service began to run tasks."""
    kept_since: int | None = None
    """The moment to which what is kept reaches back."""
    has_file: bool = False
    elsewhere: str = ""
    """Why this process does not run the key that is asked about; empty = it does, or it is no key."""
    holder: str = ""
    """The process that holds the task at present; empty = it needs no holder, or none is known."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of a slot, and why."""

    task: str
    text: str
    """One or two sentences."""
    slot: int | None = None
    """The first slot that it is about, microseconds since 1970; `None` = there is none."""
    count: int = 0
    """The number of slots."""
    fate: str = ""
    """The fate; ``running``, ``to come``, ``none`` (no such slot) or ``not kept``."""
    reason: str | None = None
    entries: Sequence[Entry] = field(default=(), repr=False)
    """The entries of the journal that it rests on."""

    def __str__(self) -> str:
        return self.text


def explain(facts: Facts) -> Explanation:
    """Explain what became of the slot that the facts are about."""
    dial = Dial(facts.now, facts.zone)
    record = facts.record
    if record is None:
        text, slot, fate = _without_record(facts, dial)
        return Explanation(facts.task, f"{facts.task}: {text}", slot, int(slot is not None), fate)
    tell = _TELL.get((record.fate, record.reason), _told_plainly)
    text = tell(facts, record, dial)
    if record.fate in ("skipped", "missed") and facts.asked is None and facts.next is not None:
        text += f" Next at {dial.show(facts.next)}."
    if facts.elsewhere and facts.asked is None:
        text += f" Now {facts.elsewhere}."
    return Explanation(
        facts.task,
        f"{facts.task}: {text}",
        record.slot,
        record.count,
        record.fate,
        record.reason,
        tuple(facts.entries),
    )


def explain_keys(task: str, known: int, running: int, waiting: int, failing: int) -> Explanation:
    """Say how the keys of a task stand together: each has slots of its own, so there is none to explain."""
    counts = ((running, "running"), (waiting, "waiting for a place"), (failing, "failing"))
    said = ", ".join(f"{count:,} {word}" for count, word in counts if count) or "none running or failing"
    keys = (
        "1 key here, with slots of its own"
        if known == 1
        else f"{known:,} keys here, each with slots of its own"
    )
    return Explanation(
        task,
        f"{task}: it runs for {keys}: {said}. Say which key to learn what became of its slots.",
        fate="none",
    )


def _without_record(facts: Facts, dial: Dial) -> tuple[str, int | None, str]:
    running, asked = facts.running, facts.asked
    if running is not None and (asked is None or abs(running.slot - asked) <= facts.tolerance):
        return _running(running, facts, dial), running.slot, "running"
    if facts.elsewhere:
        return f"nothing is kept of it here, and {facts.elsewhere}.", None, "none"
    if asked is None:
        return _nothing_yet(facts, dial)
    slot = _slot_meant(facts)
    if slot is None:
        return _no_slot(facts, dial), None, "none"
    if slot > facts.now:
        return _to_come(slot, facts, dial), slot, "to come"
    return _not_kept(slot, facts, dial), slot, "not kept"


def _slot_meant(facts: Facts) -> int | None:
    asked = facts.now if facts.asked is None else facts.asked
    slots = [slot for slot in (facts.before, facts.after) if slot is not None]
    near = [slot for slot in slots if abs(slot - asked) <= facts.tolerance]
    return min(near, key=lambda slot: abs(slot - asked), default=None)


def _running(running: Running, facts: Facts, dial: Dial) -> str:
    age = (facts.now - running.since) / SECOND
    text = f"the slot of {dial.show(running.slot)} is running since {dial.show_second(running.since)}, {length(age)}."
    about = []
    if running.usual is not None:
        about.append(f"it usually takes {length(running.usual)}")
    if running.where:
        about.append(f"it waits in {running.where}")
    if not about:
        return text
    said = " and ".join(about)
    return f"{text} {said[0].upper()}{said[1:]}."


def _nothing_yet(facts: Facts, dial: Dial) -> tuple[str, int | None, str]:
    if facts.why_off:
        return f"it is {_why_off(facts.why_off)}.", None, "none"
    if facts.is_paused:
        return f"{_pause(facts, dial)}. No slot has passed since.", None, "none"
    if facts.next is None:
        return f"no slot is left: its schedule, {facts.schedule}, is over.", None, "none"
    return _to_come(facts.next, facts, dial), facts.next, "to come"


def _to_come(slot: int, facts: Facts, dial: Dial) -> str:
    wait = f"in {length(max(0, slot - facts.now) / SECOND)}"
    if facts.why_off:
        return f"the slot of {dial.show(slot)}, {wait}, will not be run: it is {_why_off(facts.why_off)}."
    if facts.is_paused:
        return f"the slot of {dial.show(slot)} is still to come, {wait}, but {_pause(facts, dial)}."
    return f"the slot of {dial.show(slot)} is still to come, {wait}."


def _no_slot(facts: Facts, dial: Dial) -> str:
    assert facts.asked is not None
    text = f"no slot at {dial.show(facts.asked)}: {facts.schedule} gives"
    if facts.before is None and facts.after is None:
        return f"{text} none around it."
    if facts.before is None:
        return f"{text} none before it and {dial.show(facts.after or 0)} after it."
    if facts.after is None:
        return f"{text} {dial.show(facts.before)} before and none after it."
    return f"{text} {dial.show(facts.before)} before and {dial.show(facts.after)} after it."


def _not_kept(slot: int, facts: Facts, dial: Dial) -> str:
    down = _newest(facts, "down")
    if down is not None and down.overlaps(slot, slot):
        return f"the slot of {dial.show(slot)} was missed: {_down(down, dial)}."
    if facts.started is not None and slot < facts.started:
        if not facts.has_file:
            return (
                f"nothing is kept of the slot of {dial.show(slot)}: this service began at "
                f"{dial.show_second(facts.started)}; history= keeps what was before a start."
            )
        if facts.kept_since is None or facts.kept_since > slot:
            since = facts.started if facts.kept_since is None else facts.kept_since
            return f"nothing is kept of the slot of {dial.show(slot)}: the history begins at {dial.show_second(since)}."
        return f"no fate of the slot of {dial.show(slot)} is known: another life of the service had it."
    if facts.kept_since is not None and slot < facts.kept_since:
        more = "" if facts.has_file else "; history= keeps more"
        return (
            f"nothing is kept of the slot of {dial.show(slot)}: memory reaches back to "
            f"{dial.show_second(facts.kept_since)}{more}."
        )
    return f"the slot of {dial.show(slot)} is due, and has not started yet."


# Slots without a run

Tell = Callable[[Facts, Record, Dial], str]


def _paused(facts: Facts, record: Record, dial: Dial) -> str:
    return f"{dial.slots(record)} {was(record)} skipped: {_pause(facts, dial)}. A resume runs none of them."


def _pause(facts: Facts, dial: Dial) -> str:
    limit = facts.record.slot if facts.record is not None else facts.now
    entry = _newest(facts, "pause", limit)
    if entry is None:
        return "it was paused"
    end = "" if entry.until is None else f" until {dial.show_second(entry.until)}"
    return f"{_who(entry)} paused it at {dial.show_second(entry.at)}{end}{quoted(entry.note)}"


def _disabled(facts: Facts, record: Record, dial: Dial) -> str:
    verb = "was not run" if record.count == 1 else "were not run"
    return f"{dial.slots(record)} {verb}: {_off(facts, record, dial)}."


def _off(facts: Facts, record: Record, dial: Dial) -> str:
    entry = _newest(facts, "disable", record.slot)
    if entry is not None:
        return f"{_who(entry)} switched the task off at {dial.show_second(entry.at)}{quoted(entry.note)}"
    entry = _newest(facts, "switched_off", record.slot)
    why = entry.note if entry is not None else facts.why_off
    return f"the task is {_why_off(why)}" if why else "the task was switched off then"


def _why_off(why: str) -> str:
    place = why.removeprefix(BY_SETTINGS)
    return f"switched off: {why}" if place == why else f"switched off by {place}"


def _overlap(facts: Facts, record: Record, dial: Dial) -> str:
    text = f"{dial.slots(record)} {was(record)} skipped:"
    number, _, rest = record.text.partition(" ")
    began, _, place = rest.partition(" ")
    if not number or not began.isdigit():
        return f"{text} a run before was still going."
    age = max(0.0, (record.last - int(began)) / SECOND)
    where = f", in {place}" if place else ""
    return f"{text} the run of {dial.show_second(int(began))} was still going after {length(age)}{where}."


def _not_owner(facts: Facts, record: Record, dial: Dial) -> str:
    if (told := _slept_through(facts, record, dial)) is not None:
        return told
    verb = "did not run here"
    holder = record.text
    if not holder:
        # Nobody asked who it was then: that may cost a look into a file at each slot.
        which = f"now it is {facts.holder}" if facts.holder else "it is not known which"
        return f"{dial.slots(record)} {verb}: another process held the task; {which}."
    taken = _newest(facts, "lease_taken", record.last, lambda one: one.data.get("holder", holder) == holder)
    since = "" if taken is None else f" since {dial.show_second(taken.at)}{_token(taken)}"
    return f"{dial.slots(record)} {verb}, and did on {holder}, which holds the lease{since}."


def _slept_through(facts: Facts, record: Record, dial: Dial) -> str | None:
    """Tell of slots that passed while this process stood still and so lost the lease; `None` = it was not so."""
    meant = record.slot if facts.asked is None or not record.covers(facts.asked) else facts.asked
    still = [one for one in facts.entries if one.kind in _STANDSTILLS and one.overlaps(meant, meant)]
    lost = [one for one in facts.entries if one.kind == "lease_lost" and one.data.get("here")]
    cause = _cause([one for one in still if any(_came_of(loss, one) for loss in lost)], dial)
    if not cause:
        return None
    text = f"{dial.slots(record)} did not run here: {cause}, and this process lost the lease."
    taken = _newest(facts, "lease_taken")
    if taken is None or taken.data.get("here"):
        return text
    them = "it" if record.count == 1 else "them"
    return f"{text} Meanwhile {taken.data.get('holder', 'another process')} took it{_token(taken)}, and ran {them}."


_STANDSTILLS = ("suspended", "blocked", "stopped", "clock")
_NOTICED_WITHIN = 10 * SECOND
"""Microseconds from the end of a standstill within which a process finds that it has lost the lease."""


def _came_of(loss: Entry, still: Entry) -> bool:
    return still.at <= loss.at <= (still.until or still.at) + _NOTICED_WITHIN


def _token(entry: Entry) -> str:
    token = entry.data.get("token")
    return "" if token is None else f" (token {token})"


def _lost_here(facts: Facts, record: Record, dial: Dial) -> str:
    if (told := _slept_through(facts, record, dial)) is not None:
        return told
    lost = _newest(facts, "lease_lost", record.last, lambda one: bool(one.data.get("here", True)))
    if lost is None:
        return f"{dial.slots(record)} {was(record)} not started: this process had lost the lease."
    return (
        f"{dial.slots(record)} {was(record)} not started: this process lost the lease at "
        f"{dial.show_second(lost.at)}{_why(lost)}."
    )


def _lost_everywhere(facts: Facts, record: Record, dial: Dial) -> str:
    later = (one for one in facts.entries if one.kind == "lease_taken" and one.at >= record.last)
    taken = next(later, None) or _newest(facts, "lease_taken")
    lost = _newest(facts, "lease_lost", None if taken is None else taken.at)
    told = []
    if lost is not None:
        whose = lost.data.get("holder", "the holder")
        told.append(f"{whose} lost the lease at {dial.show_second(lost.at)}{_why(lost)}")
    if taken is not None:
        told.append(f"{taken.data.get('holder', 'this process')} took it at {dial.show_second(taken.at)}")
    why = ", and ".join(told) or "its holder was lost"
    return f"{dial.slots(record)} {was(record)} not run anywhere: {why}.{_stand_in(facts, record, dial)}"


def _why(entry: Entry) -> str:
    return f" ({entry.note})" if entry.note else ""


def _draining(facts: Facts, record: Record, dial: Dial) -> str:
    stopping = _newest(facts, "stopping", record.last)
    since = "" if stopping is None else f" since {dial.show_second(stopping.at)}{_why(stopping)}"
    return f"{dial.slots(record)} {was(record)} skipped: the service was stopping{since}."


def _removed(facts: Facts, record: Record, dial: Dial) -> str:
    removed = _newest(facts, "remove") or _newest(facts, "reschedule")
    if removed is None:
        return f"{dial.slots(record)} {was(record)} skipped: the task was taken from its schedule before a run began."
    did = "removed the task" if removed.kind == "remove" else "changed the schedule"
    return f"{dial.slots(record)} {was(record)} skipped: {_who(removed)} {did} at {dial.show_second(removed.at)}."


def _backoff(facts: Facts, record: Record, dial: Dial) -> str:
    failures, _, rest = record.text.partition(" ")
    spacing, _, error = rest.partition(" ")
    text = f"{dial.slots(record)} {was(record)} held back: after {failures or 'some'} failures in a row"
    try:
        text += f" it runs only every {length(float(spacing))}."
    except (ValueError, OverflowError):
        text += " it runs less often."
    return f"{text} The last error is {error}." if error else text


def _missed(what: Callable[[Facts, Record, Dial], str]) -> Tell:
    def tell(facts: Facts, record: Record, dial: Dial) -> str:
        why = what(facts, record, dial)
        return f"{dial.slots(record)} {was(record)} missed: {why}.{_stand_in(facts, record, dial)}"

    return tell


def _slept(facts: Facts, record: Record, dial: Dial) -> str:
    return f"the machine slept{_from_to(_newest(facts, 'suspended'), dial)}"


def _clock(facts: Facts, record: Record, dial: Dial) -> str:
    step = _newest(facts, "clock", match=lambda one: one.data.get("step") == "forward")
    if step is None:
        return "the clock was set forward"
    size = float(step.data.get("seconds", 0))
    return f"the clock was set forward by {length(size)} at {dial.show_second(step.at)}"


def _blocked(facts: Facts, record: Record, dial: Dial) -> str:
    block = _newest(facts, "blocked")
    who = "the event loop was blocked" if block is None else _block(block, passive=True)
    return f"{who}{_from_to(block, dial)}"


def _stopped(facts: Facts, record: Record, dial: Dial) -> str:
    return f"the process got no CPU{_from_to(_newest(facts, 'stopped'), dial)}"


def _was_down(facts: Facts, record: Record, dial: Dial) -> str:
    down = _newest(facts, "down")
    return "the service was down" if down is None else _down(down, dial)


def _down(entry: Entry, dial: Dial) -> str:
    text = f"the service was down{_from_to(entry, dial)}"
    return f"{text}; it did not stop, and was seen alive until then" if entry.data.get("crashed") else text


def _too_late(facts: Facts, record: Record, dial: Dial) -> str:
    try:
        late = f" {length(float(record.text))} late"
    except ValueError:
        late = " late"
    grace = "" if facts.grace is None else f", and misfire_grace allows {length(facts.grace)}"
    text = f"{dial.slots(record)} {was(record)} dropped as too late: a run could only start{late}{grace}."
    cause = _cause(facts.entries, dial)
    return f"{text} {cause[0].upper()}{cause[1:]}." if cause else text


def _cause(entries: Sequence[Entry], dial: Dial) -> str:
    """Say what held the event loop or the machine up around the slot; empty = nothing is known."""
    for entry in reversed(entries):
        if entry.kind == "suspended":
            return f"the machine slept{_from_to(entry, dial)}"
        if entry.kind == "blocked":
            return f"{_block(entry, passive=True)}{_from_to(entry, dial)}"
        if entry.kind == "stopped":
            return f"the process got no CPU{_from_to(entry, dial)}"
        if entry.kind == "clock" and entry.data.get("step") == "forward":
            return f"the clock was set forward by {length(float(entry.data.get('seconds', 0)))}"
    return ""


def _stand_in(facts: Facts, record: Record, dial: Dial) -> str:
    stand_in = facts.stand_in
    if stand_in is None:
        return ""
    whom = "it" if record.count == 1 else "all of them"
    return f" The run of {dial.show(stand_in.slot)} stands for {whom}."


# Runs


def _succeeded(facts: Facts, record: Record, dial: Dial) -> str:
    return _run(facts, record, dial, f"succeeded in {length(record.duration or 0)}")


def _run(facts: Facts, record: Record, dial: Dial, end: str) -> str:
    slot = f"the slot of {dial.show(record.slot)}"
    if record.trigger == "manual":
        return f"the run that was triggered at {dial.show_second(record.slot)} {end}."
    late = record.lateness or 0.0
    if record.attempts > 1:
        end = f"{end}, after {record.attempts} attempts"
    if record.trigger == "retry":
        return f"the early run at {dial.show_second(record.slot)} {end}."
    if late < LATE and not _is_late_by_a_block(facts, record, late):
        return f"{slot} ran, and {end}."
    return f"{slot} ran {length(late)} late{_late_because(facts, record, dial)}, and {end}."


def _is_late_by_a_block(facts: Facts, record: Record, late: float) -> bool:
    """Whether the slot came up while something blocked the loop, for long enough to say so."""
    block = _newest(facts, "blocked")
    return (
        block is not None and late >= LATE_BY_A_BLOCK and block.at <= record.slot <= (block.until or block.at)
    )


def _late_because(facts: Facts, record: Record, dial: Dial) -> str:
    if record.trigger == "queue":
        return " because it waited for the end of the run before"
    block = _newest(facts, "blocked")
    if block is not None:
        return f" because {_block(block, passive=False)}"
    cause = _cause(facts.entries, dial)
    return f" because {cause}" if cause else ""


def _block(entry: Entry, *, passive: bool) -> str:
    """Say who blocked the loop: ``Reports.render blocked the event loop for 4.2 s (computing, in render at ...)``."""
    seconds = entry.data.get("seconds")
    lasted = f" for {length(float(seconds))}" if seconds and not passive else ""
    blame, kind, where = (str(entry.data.get(name) or "") for name in ("blame", "doing", "place"))
    details = ", ".join(filter(None, (kind, f"in {where}" if where else "")))
    about = f" ({details})" if details else ""
    if blame:
        return f"{blame} blocked the event loop{lasted}{about}"
    return f"the event loop was blocked{lasted}{about}"


def _nothing(facts: Facts, record: Record, dial: Dial) -> str:
    what = f": {record.text}" if record.text else ""
    return f"the slot of {dial.show(record.slot)} ran. It had nothing to do{what}."


def _failed(facts: Facts, record: Record, dial: Dial) -> str:
    error = f" with {record.text}" if record.text else ""
    if record.text.startswith("the schedule raised"):
        return f"the slot of {dial.show_second(record.slot)} had no run: {record.text}."
    return _run(facts, record, dial, f"failed after {length(record.duration or 0)}{error}")


def _timed_out(facts: Facts, record: Record, dial: Dial) -> str:
    where = f" while it waited in {record.text}" if record.text else ""
    after = facts.timeout if facts.timeout is not None else record.duration or 0
    return _run(facts, record, dial, f"timed out after {length(after)}{where}")


def _cancelled(facts: Facts, record: Record, dial: Dial) -> str:
    after = length(record.duration or 0)
    if record.text == "cancelled":
        return _run(facts, record, dial, f"was cancelled after {after}, since the service was stopping")
    if record.text == "lease_lost":
        return _run(
            facts, record, dial, f"was cancelled after {after}, since this process had lost the lease"
        )
    if not record.text or "CancelledError" in record.text:
        return _run(facts, record, dial, f"was cancelled after {after} by its own code")
    return _run(facts, record, dial, f"was cancelled after {after} by {record.text}")


def _told_plainly(facts: Facts, record: Record, dial: Dial) -> str:
    reason = f", {record.reason}" if record.reason else ""
    return f"{dial.slots(record)} {was(record)} {record.fate}{reason}."


_TELL: dict[tuple[str, str | None], Tell] = {
    ("succeeded", None): _succeeded,
    ("nothing", None): _nothing,
    ("failed", None): _failed,
    ("timed_out", None): _timed_out,
    ("cancelled", None): _cancelled,
    ("skipped", "overlap"): _overlap,
    ("skipped", "paused"): _paused,
    ("skipped", "disabled"): _disabled,
    ("skipped", "not_owner"): _not_owner,
    ("skipped", "lease_lost"): _lost_here,
    ("skipped", "backoff"): _backoff,
    ("skipped", "draining"): _draining,
    ("skipped", "removed"): _removed,
    ("missed", "suspended"): _missed(_slept),
    ("missed", "clock"): _missed(_clock),
    ("missed", "blocked"): _missed(_blocked),
    ("missed", "stopped"): _missed(_stopped),
    ("missed", "down"): _missed(_was_down),
    ("missed", "late"): _too_late,
    ("missed", "lease_lost"): _lost_everywhere,
}


# The journal


def _newest(
    facts: Facts, kind: str, limit: int | None = None, match: Callable[[Entry], bool] = lambda entry: True
) -> Entry | None:
    """Find the newest entry of this kind that began at or before `limit`."""
    for entry in reversed(facts.entries):
        if entry.kind == kind and (limit is None or entry.at <= limit) and match(entry):
            return entry
    return None


def _who(entry: Entry) -> str:
    if entry.who in ("", "code"):
        return "the application"
    return "its timer" if entry.who == "timer" else entry.who


def _from_to(entry: Entry | None, dial: Dial) -> str:
    if entry is None:
        return ""
    if entry.until is None:
        return f" from {dial.show_second(entry.at)}"
    return f" from {dial.show_second(entry.at)} to {dial.show_second(entry.until)}"
