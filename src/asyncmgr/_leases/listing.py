"""`list_claims`: reads who holds what, for people. Nothing is decided by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from asyncmgr._leases.keys import prefix_of, session_of, title_of
from asyncmgr._leases.records import (
    CLAIMS,
    SESSIONS,
    SESSIONS_TTL,
    SLOTS,
    ClaimRecord,
    Foreign,
    Record,
    SessionRecord,
    SlotRecord,
    decode,
)
from asyncmgr._leases.rules import Rules
from asyncmgr.errors import InvalidName, TransportClosed
from asyncmgr.transports import SNAPSHOT_DONE, Entry, Store, StoreEngine, decode_token

R = TypeVar("R", bound=Record)

State = Literal["held", "silent", "dead", "gone", "free", "foreign"]
"""``held``: its holder renews its session. ``silent``: it has not for longer than its TTL. ``dead``: others found it
dead. ``gone``: the store knows nothing of its session. ``free``: nobody holds it. ``foreign``: a newer program wrote
the record."""

_knows = Rules().knows


@dataclass(frozen=True, slots=True)
class Listed:
    """One task or lease that a process holds, or held."""

    application: str
    kind: str
    """``task``, ``lease`` or ``unknown``."""
    name: str
    holder: str | None
    """The session: ``host~8 hexadecimal digits``."""
    host: str | None
    state: State
    age: float
    """Seconds since it was acquired or released."""
    token: int | None
    renewed: float | None
    """Seconds since the holder's last renewal, by the store's clock."""
    slot_number: int | None = None
    """The number of the last slot that was claimed, of a task."""
    slot_state: str | None = None
    """What became of it: an outcome, or ``claimed`` while its run goes on."""
    slot_age: float | None = None
    """Seconds since it was due."""


async def list_claims(engine: StoreEngine, application: str | None = None) -> list[Listed]:
    """List the claims of one application, or of all, in the order of their keys."""
    prefix = "" if application is None else prefix_of(application)
    claims = await _entries(await engine.store(CLAIMS, ttl=None), prefix)
    sessions = await _entries(await engine.store(SESSIONS, ttl=SESSIONS_TTL), prefix)
    by_inc = {(key.partition(".")[0], session_of(key)): entry for key, entry in sessions.items()}
    slots = await engine.store(SLOTS, ttl=None, watched=False)
    listed = []
    for key in sorted(claims):
        slot = await slots.get(key) if title_of(key)[0] == "task" else None
        listed.append(_listed(key, claims[key], by_inc, slot))
    return listed


async def _entries(store: Store, prefix: str) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    async with store.watch(prefix) as changes:
        async for change in changes:
            if change is SNAPSHOT_DONE:
                return found
            if isinstance(change, Entry):
                found[change.key] = change
    raise TransportClosed("the store was closed before all keys were read; open it again")


def _listed(
    key: str, entry: Entry, sessions: dict[tuple[str, str | None], Entry], slot: Entry | None
) -> Listed:
    kind, name = title_of(key)
    token = key.partition(".")[0]
    claim = _decoded(ClaimRecord, entry)
    owner = None if claim is None else claim.owner
    session = sessions.get((token, owner)) if owner else None
    record = _decoded(SlotRecord, slot)
    return Listed(
        _application(token),
        kind,
        name,
        owner,
        owner and owner.rpartition("~")[0],
        _state(claim, session),
        entry.age,
        None if claim is None else max(claim.token, entry.revision),
        None if session is None else session.age,
        None if record is None else record.n,
        None if record is None else record.state,
        None if record is None or slot is None else slot.age + record.lag / 1e6,
    )


def _state(claim: ClaimRecord | None, session: Entry | None) -> State:
    if claim is None:
        return "foreign"
    if claim.owner is None:
        return "free"
    if session is None:
        return "gone"
    record = _decoded(SessionRecord, session)
    if record is None:
        return "foreign"
    if record.state == "dead":
        return "dead"
    return "silent" if session.age > record.ttl else "held"


def _decoded(kind: type[R], entry: Entry | None) -> R | None:
    found = None if entry is None else decode(kind, entry.value, _knows)
    return None if isinstance(found, Foreign) else found


def _application(token: str) -> str:
    try:
        return decode_token(token)
    except InvalidName:
        return token
