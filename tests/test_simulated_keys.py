"""Hosts that share out keys keep what is promised of them in a simulated cluster, and break it without a rule."""

from __future__ import annotations

import pytest

from asyncmgr.testing.simulation import KEY_ABLATIONS, simulate_keys

pytestmark = pytest.mark.slow

SEEDS = 20
CHUNK = 4

CAUGHT = {"hand-over-busy": (125, 16, 8), "quota": (3, 16, 8), "margin": (0, 16, 8), "place": (52, 40, 16)}
"""Rules whose loss is found soon, each with a seed that shows it, and the numbers of keys and shards."""


@pytest.mark.parametrize("start", range(0, SEEDS, CHUNK))
def test_all_promises_hold(start: int) -> None:
    """No key runs on two hosts that trust themselves; planned moves lose and repeat no slot; every key runs again."""
    for seed in range(start, start + CHUNK):
        report = simulate_keys(seed, keys=16, shards=8)
        report.raise_violation()
        assert report.runs


def test_a_claim_in_vain_is_no_share() -> None:
    """A host whose claim met another one's counted that shard as its own for good, and let a free one stand."""
    simulate_keys(83).raise_violation()


@pytest.mark.parametrize("name", CAUGHT)
def test_a_rule_that_is_taken_away_is_missed(name: str) -> None:
    seed, keys, shards = CAUGHT[name]
    assert simulate_keys(seed, keys=keys, shards=shards, rules=KEY_ABLATIONS[name]).violation is not None
