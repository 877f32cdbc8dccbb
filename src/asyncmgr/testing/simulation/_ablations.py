"""The rules that can be taken away, each by a subclass of `Rules` that overrides a method or two.

A simulation that finds nothing without a rule proves nothing with it: so each ablation must be caught. Where other
rules mask one, it is taken away together with them (a pair), and the table says so.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from asyncmgr._leases.records import ClaimRecord, SessionRecord, SlotRecord
from asyncmgr._leases.rules import Readings, Rules


class NoMargin(Rules):
    """A session trusts itself for its whole TTL; nothing is left for bodies to unwind."""

    def trust_lasts(self, ttl: float) -> float:
        return ttl


class TrustFromAnswer(Rules):
    """A renewal counts from its answer, not from the start of the attempt."""

    def trust_begins(self, attempt: Readings, answer: Readings) -> Readings:
        return answer


class WallClock(Rules):
    """Time is measured by the wall clock, which anybody may set."""

    def elapsed(self, then: Readings, now: Readings) -> float:
        return now.wall - then.wall

    def observed_at(self, now: Readings) -> float:
        return now.wall


class MonotonicOnly(Rules):
    """Trust is measured by the monotonic clock alone, which stands still in a suspend."""

    def elapsed(self, then: Readings, now: Readings) -> float:
        return now.monotonic - then.monotonic


class NoCancel(Rules):
    """Runs go on when trust has ended."""

    def must_cancel(self, *, trusted: bool) -> bool:
        return False


class NoDeadlines(Rules):
    """A call of the store may take as long as it likes."""

    def call_deadline(self, ttl: float) -> float | None:
        return None


class RenewAnyway(Rules):
    """A renewal overwrites whatever stands there, its own death too."""

    def renewal_condition(self, seen: int) -> int | None:
        return None


class AdoptAnything(Rules):
    """Any record under its own key counts as a renewal that worked, after a conflict."""

    def adopts(self, record: SessionRecord, inc: str, doubtful: Collection[int]) -> bool:
        return True


class HostNameIdentity(Rules):
    """A session is named after its host, as another process of that name or an earlier life is."""

    def identity(self, host: str) -> str:
        return f"{host}~00000000"


class OwnTtl(Rules):
    """The observer waits for its own TTL, not for that of the session that it watches."""

    def patience(self, record_ttl: float, own_ttl: float) -> float:
        return own_ttl


class AbsentIsDead(Rules):
    """A session without a record counts as dead."""

    def is_dead(self, record: SessionRecord | None) -> bool:
        return record is None or super().is_dead(record)


class StoreAge(Rules):
    """What the store's clock says of a session's age decides when it is killed."""

    def silence_at_sight(self, age: float) -> float:
        return age + 5.0


class KillAnyway(Rules):
    """A session is killed even where it was renewed meanwhile."""

    def kill_condition(self, seen: int) -> int | None:
        return None


class VersionBlind(Rules):
    """A process acts on records of versions that it does not know."""

    def knows(self, version: object) -> bool:
        return True


class ClaimUntrusted(Rules):
    """A process claims while it is not trusted."""

    def may_claim(self, *, known: bool, trusted: bool, unwinding: bool) -> bool:
        return known and not unwinding


class ClaimWhileUnwinding(Rules):
    """A process claims a name while one of its own bodies still unwinds there."""

    def may_claim(self, *, known: bool, trusted: bool, unwinding: bool) -> bool:
        return known and trusted


class ClaimAnyway(Rules):
    """A claim is decided on a read: it is written whatever stands there by then."""

    def claim_condition(self, seen: int) -> int | None:
        return None


class LateAnswer(Rules):
    """A claim that was confirmed after trust had ended counts."""

    def answer_counts(self, *, same_session: bool, trusted: bool) -> bool:
        return True


class NoBackOff(Rules):
    """After a conflict the next try follows at once."""

    def back_off(self) -> float:
        return 0.0


class NextToken(Rules):
    """A token is the old one plus one, which a wipe makes start over."""

    def next_token(self, old: int, highest_seen: int, store_clock: int) -> int:
        return old + 1

    def token_of(self, record: ClaimRecord, revision: int) -> int:
        return record.token


class UnfencedSlots(Rules):
    """A slot is written whatever another holder wrote meanwhile."""

    def slot_condition(self, seen: int) -> int | None:
        return None


class KeepForeignSlots(Rules):
    """A new holder does not write its token over the slot record, so the holder before may still write."""

    def takes_slots(self, record: SlotRecord | None, token: int) -> bool:
        return record is None


class RunBeforeClaim(Rules):
    """A run starts before its slot is claimed for sure."""

    def may_start(self, *, slot_written: bool, trusted: bool) -> bool:
        return trusted


class RepeatSlots(Rules):
    """Slots that were claimed before are claimed again."""

    def is_new_slot(self, number: int, last: int) -> bool:
        return True


class ForgetSlots(Rules):
    """After the store lost its data, slots are counted from what it has, not from what this process knows."""

    def remembered(self, found: int, own: int) -> int:
        return found


class NoLookBeforeStart(Rules):
    """Trust is not looked at again right before a run starts."""

    def may_start(self, *, slot_written: bool, trusted: bool) -> bool:
        return slot_written

    def still_starts(self, *, trusted: bool) -> bool:
        return True


class KeepLostClaims(Rules):
    """A holder goes on although its claim is gone or names another."""

    def must_stop(self, record: ClaimRecord | None, inc: str) -> bool:
        return False


class IgnoreStoreLoss(Rules):
    """A session goes on although the store went back."""

    def went_back(self, before: Mapping[str, int], snapshot: Mapping[str, int]) -> bool:
        return False


class ReleaseAnyway(Rules):
    """A release overwrites whatever claim stands there."""

    def release_condition(self, seen: int) -> int | None:
        return None


class ReleaseOnce(Rules):
    """A release of unknown outcome is not repeated."""

    def release_is_over(self, *, known: bool) -> bool:
        return True


class HandOverBusy(Rules):
    """A shard of keys is handed over while runs of its keys go on."""

    def may_hand_over(self, *, busy: bool) -> bool:
        return True


class ResumeNow(Rules):
    """A new host of a shard begins at once, wherever the last one stopped."""

    def resumes_at(self, stopped: int, now: int) -> int:
        return now


class NoQuota(Rules):
    """Whoever is first may hold all shards."""

    def shard_quota(self, shards: int, hosts: int) -> int:
        return shards


KEY_ABLATIONS: dict[str, type[Rules]] = {
    "hand over busy": HandOverBusy,
    "resume": ResumeNow,
    "quota": NoQuota,
    "margin": NoMargin,
    "claim while unwinding": ClaimWhileUnwinding,
    "no cancel": NoCancel,
}
"""The rules that tasks with keys need, by their names; those of the shards alone, and some of all names."""


class ForgetOwnClaims(Rules):
    """A process does not know a claim that names its own session for its own."""

    def is_ours(self, record: ClaimRecord | None, inc: str) -> bool:
        return False


_SINGLE: dict[str, type[Rules]] = {
    "margin": NoMargin,
    "trust-from-answer": TrustFromAnswer,
    "wall-clock": WallClock,
    "monotonic-only": MonotonicOnly,
    "cancel": NoCancel,
    "deadlines": NoDeadlines,
    "renewal-condition": RenewAnyway,
    "adopt-anything": AdoptAnything,
    "identity": HostNameIdentity,
    "record-ttl": OwnTtl,
    "absent-is-dead": AbsentIsDead,
    "store-age": StoreAge,
    "death-condition": KillAnyway,
    "version-blind": VersionBlind,
    "claim-untrusted": ClaimUntrusted,
    "claim-unwinding": ClaimWhileUnwinding,
    "claim-condition": ClaimAnyway,
    "late-answer": LateAnswer,
    "back-off": NoBackOff,
    "next-token": NextToken,
    "slot-condition": UnfencedSlots,
    "slot-takeover": KeepForeignSlots,
    "slot-before-run": RunBeforeClaim,
    "new-slots": RepeatSlots,
    "remembered-slots": ForgetSlots,
    "look-before-start": NoLookBeforeStart,
    "stop-at-loss": KeepLostClaims,
    "store-loss": IgnoreStoreLoss,
    "release-condition": ReleaseAnyway,
    "release-repeat": ReleaseOnce,
    "own-claims": ForgetOwnClaims,
}


def without(*names: str) -> type[Rules]:
    """Take several rules away together, by their names in `ABLATIONS`."""
    found = tuple(_SINGLE[name] for name in names)
    return found[0] if len(found) == 1 else type("And".join(one.__name__ for one in found), found, {})


TOGETHER = (
    ("renewal-condition", "claim-condition"),
    ("store-loss", "stop-at-loss"),
    ("adopt-anything", "trust-from-answer", "store-loss", "stop-at-loss"),
    ("release-condition", "stop-at-loss"),
    ("release-repeat", "own-claims"),
    ("look-before-start", "cancel"),
)
"""Rules that others mask, the first of each line, with those that mask them."""

ABLATIONS: dict[str, type[Rules]] = {
    **_SINGLE,
    **{" + ".join(names): without(*names) for names in TOGETHER},
}
"""All ablations by the name of the rule that is taken away; several names = all of them."""

MASKED = frozenset(names[0] for names in TOGETHER)
"""Ablations that no story need catch: others mask the rule, and `TOGETHER` has it with those."""
