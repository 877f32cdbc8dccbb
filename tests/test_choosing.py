"""Ready-made filters and weighers."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from asyncmgr import Hosts, HostState
from asyncmgr.capabilities._selection import at_least, capability, equals, weigh
from tests.announcements import Sender, memory


def host(**capabilities: Any) -> HostState:
    return HostState("s", "h", "", capabilities, "fresh", 0.0, 1, 1)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("memory", {"free": 5}),
        ("memory.free", 5),
        ("disks.1.free", 20),
        ("disks.2.free", None),
        ("disks.x", None),
        ("disks.-1", None),
        ("name", "abc"),
        ("name.0", None),
        ("memory.free.more", None),
        ("nothing", None),
        ("", None),
    ],
)
def test_capability(path: str, found: Any) -> None:
    """A path goes through mappings by key and through lists by number."""
    known = host(memory={"free": 5}, disks=[{"free": 10}, {"free": 20}], name="abc")
    assert capability(known, path) == found
    assert capability(known, "nothing", 7) == 7


def test_filters() -> None:
    """A host that does not say what is asked for does not pass."""
    assert at_least("ram", 5)(host(ram=5))
    assert not at_least("ram", 5)(host(ram=4.9))
    assert not at_least("ram", 0)(host())
    assert not at_least("ram", 0)(host(ram="much"))
    assert not at_least("ram", 0)(host(ram=True))
    assert equals("zone", "eu")(host(zone="eu"))
    assert not equals("zone", None)(host())


def test_weigher() -> None:
    """What is no number weighs as the default."""
    assert weigh("ram")(host(ram=5)) == 5
    assert weigh("ram")(host(ram="much")) == 0
    assert weigh("ram", default=-1)(host()) == -1
    assert weigh("ram", multiplier=-2).multiplier == -2


@pytest.mark.virtual_time
async def test_stacked_and_normalised_as_novas() -> None:
    """No unit outweighs another; a multiplier does, and a negative one spreads instead of stacking."""
    async with memory() as transport:
        for name, ram, load in (("a", 100, 0.9), ("b", 900, 0.8), ("c", 1000, 0.1), ("d", 10, 0.0)):
            await Sender(transport, name).say({"ram": ram, "load": load})
        async with Hosts(transport) as hosts:

            def names(*weighers: weigh, **filters: float) -> list[str]:
                wanted = [at_least(path, amount) for path, amount in filters.items()]
                return [state.host for state in hosts.select(wanted, weighers, count=4)]

            assert names(weigh("ram")) == ["c", "b", "a", "d"]
            assert names(weigh("ram", multiplier=-1)) == ["d", "a", "b", "c"]
            assert names(weigh("load")) == ["a", "b", "c", "d"]
            assert names(weigh("ram"), weigh("load", multiplier=0.1)) == ["c", "b", "a", "d"]
            assert names(weigh("ram"), weigh("load"), ram=50)[0] == "b"
            assert names(weigh("ram", multiplier=0.1), weigh("load", multiplier=10))[0] == "a"


async def passes_later(state: HostState) -> bool:
    return True


class LaterWeigher:
    multiplier = 1.0

    async def __call__(self, state: HostState) -> float:
        return 1.0


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"filters": [passes_later]},
            r"the filter \S*passes_later is async, .* write it as 'def filter\(host: HostState\) -> bool'",
        ),
        ({"filters": [functools.partial(passes_later)]}, r"the filter \S*passes_later is async"),
        ({"weighers": [weigh("x"), LaterWeigher()]}, r"the weigher .*LaterWeigher.* is async.*-> float'"),
        ({"filters": [None]}, "the filter None cannot be called; give a function"),
        ({"weighers": ["ram"]}, "the weigher 'ram' cannot be called"),
    ],
)
async def test_what_cannot_be_called_here_is_refused(given: Any, text: str) -> None:
    """At the call, by name and with what to write, also while there is no host to choose (4)."""
    async with memory() as transport, Hosts(transport) as hosts:
        with pytest.raises(TypeError, match=text):
            hosts.select(**given)


@pytest.mark.virtual_time
async def test_weights_at_the_ends_of_the_floats() -> None:
    """What lies between them is no float any more, and is normalised all the same."""
    async with memory() as transport:
        for name, ram in (("a", -1.7e308), ("b", 1.7e308), ("c", 0), ("d", 1e308)):
            await Sender(transport, name).say({"ram": ram})
        async with Hosts(transport) as hosts:
            chosen = hosts.select(weighers=[weigh("ram")], count=4)
            assert [state.host for state in chosen] == ["b", "d", "c", "a"]


@pytest.mark.virtual_time
@pytest.mark.parametrize("multiplier", [float("nan"), float("inf"), "2x", None])
async def test_multiplier_that_is_no_number_is_refused(multiplier: Any) -> None:
    """By the weigher's name: with NaN any order would come out."""
    async with memory() as transport, Hosts(transport) as hosts:
        with pytest.raises(ValueError, match=r"has the multiplier .*; give a finite number"):
            hosts.select(weighers=[weigh("ram", multiplier=multiplier)])
