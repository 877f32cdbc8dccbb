"""How the keys of a task are shared out among hosts. Pure.

Keys hash onto shards, and hosts claim shards. A host holds up to its quota: nobody else decides for it. So a host that
leaves frees its own shards only, and one that joins gets what the others have over the new quota.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable

from asyncmgr._tasks.schedules import share_of

FIRST_PATIENCE = 0.75
"""Seconds for which a shard that is to be handed over starts no run, so that its runs in progress can end."""

LONGEST_PATIENCE = 60.0


def shard_of(name: str, key: Hashable, count: int) -> int:
    """Compute the shard of a key: always the same for one task, key and number of shards.

    The phase of a key comes from another text, so that the keys of a shard are spread over the spacing.
    """
    return share_of(f"{key!r}@{name}") * count >> 32


def weight_of(shard: int, inc: str) -> int:
    """Compute how much a host is for a shard: of those that may claim it, the one with the highest weight is first."""
    return share_of(f"{shard}/{inc}")


def choose_free(free: Iterable[int], held: int, quota: int, own: str) -> list[int]:
    """Choose the shards to claim: as many as there is room for, first those for which this host weighs most."""
    return sorted(free, key=lambda shard: -weight_of(shard, own))[: max(0, quota - held)]


def choose_excess(
    held: Collection[int], quota: int, own: str, leaving: Collection[int], busy: Collection[int]
) -> list[int]:
    """Choose the shards to give up, beside those that are being given up already: those without runs come first."""
    over = len(held) - quota
    if over <= 0:
        return []
    order = sorted(held, key=lambda shard: (shard not in leaving, shard in busy, weight_of(shard, own)))
    return order[:over]
