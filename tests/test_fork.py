"""A service that is built before the process forks: what must differ between the children is drawn at their start."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")

CHILDREN = 4

PRELOADED = """
import asyncio, json, os, sys
from asyncmgr import Manager, RpcClient, Service, Settings, current_call, periodic_task, rpc
from asyncmgr.testing import run_virtual

seen = {}


class Late:
    "A transport that is opened later."

    def __getattr__(self, name):
        return getattr(service.transport, name)


class Volumes(Manager):
    @periodic_task(spacing=1000, jitter=500)
    async def sync(self, context):
        seen.update(jitter=context.lateness, run=context.run_id)

    @rpc
    async def tell(self):
        seen["call"] = current_call().id


service = Service(Volumes(), settings=Settings(start_delay=100, seed=json.loads(sys.argv[1])))
client = RpcClient(Late(), service.name)
narrowed = client.at(timeout=5)


async def main():
    async with service:
        seen["start"] = asyncio.get_running_loop().time()
        await narrowed.call("tell")
        await asyncio.sleep(2000)


for _ in range(int(sys.argv[2])):
    if not os.fork():
        run_virtual(main())
        print(json.dumps(seen), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def children(seed: int | None) -> list[dict[str, Any]]:
    """What each of some forked children has drawn."""
    command = [sys.executable, "-c", PRELOADED, json.dumps(seed), str(CHILDREN)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]


@pytest.mark.parametrize("seed", [None, 1])
def test_what_names_things_differs(seed: int | None) -> None:
    """Ids of runs and calls, also where a seed was given: they have to be unique."""
    drawn = children(seed)
    for what in ("run", "call"):
        assert len({child[what].rpartition("-")[0] for child in drawn}) == CHILDREN


def test_what_spreads_load_differs() -> None:
    """The start delay, and the jitter of a slot."""
    drawn = children(None)
    assert len({child["start"] for child in drawn}) == CHILDREN
    assert len({child["jitter"] for child in drawn}) == CHILDREN


def test_a_seed_makes_all_children_draw_the_same() -> None:
    """Who gives one wants that."""
    drawn = children(1)
    assert len({(child["start"], child["jitter"]) for child in drawn}) == 1
