"""``service.lease(name)``: one block of code at a time, in all processes of an application."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncmgr import Manager, Service, Settings
from asyncmgr.errors import InvalidName, LostLease, ServiceStateError
from asyncmgr.events import LeaseAcquired, LeaseLost
from tests.workers import Wire, Worker, seconds_until

pytestmark = pytest.mark.usefixtures("virtual_time")


async def test_one_block_at_a_time() -> None:
    """Blocks of several processes and tasks take turns; tokens grow; each gets its turn within 0.1 s."""
    async with Worker("a", []) as a, Worker("b", []) as b:
        order: list[tuple[str, int]] = []
        inside = 0

        async def block(worker: Worker) -> None:
            nonlocal inside
            async with worker.service.lease("report") as lease:
                inside += 1
                assert inside == 1
                order.append((worker.host, lease.fencing_token))
                await asyncio.sleep(1)
                inside -= 1

        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(block(worker) for worker in (a, b, a, b)))
        assert sorted(host for host, _ in order) == ["a", "a", "b", "b"]
        assert [token for _, token in order] == sorted({token for _, token in order})
        assert asyncio.get_running_loop().time() - began < 4 + 4 * 1.2


async def test_different_names_do_not_wait() -> None:
    async with Worker("a", []) as a, a.service.lease("x"), a.service.lease("y"):
        assert sorted(event.name for event in a.of(LeaseAcquired)) == ["x", "y"]


async def test_a_lost_lease_cancels_its_block() -> None:
    """Three quarters of the TTL after the store was out of reach the block is cancelled, and raises `LostLease`."""
    async with Worker("a", []) as a:
        lease: Any = a.service.lease("report")

        async def block() -> None:
            async with lease:
                await asyncio.sleep(1)
                a.vanish()
                await asyncio.sleep(100)

        with pytest.raises(LostLease, match="report"):
            await block()
        assert lease.lost
        assert asyncio.get_running_loop().time() < 9
        task = asyncio.current_task()
        assert task is not None
        assert not task.cancelling()


async def test_a_lost_lease_tells_its_block() -> None:
    async with Worker("a", []) as a:
        async with a.service.lease("report", on_lost="tell") as lease:
            a.vanish()
            assert not lease.lost
            await lease.lost
            assert lease.lost
        assert a.of(LeaseLost)[0].reason == "trust_ended"


async def test_another_process_gets_it() -> None:
    """By TTL + 0.5 s after the holder vanished, with a higher token; the block that came back does not have it."""
    async with Worker("a", []) as a, Worker("b", []) as b, a.service.lease("report", on_lost="tell") as first:
        await asyncio.sleep(1)
        a.vanish()
        second = b.service.lease("report")
        began = asyncio.get_running_loop().time()
        async with second as lease:
            assert asyncio.get_running_loop().time() - began <= 10.5
            assert lease.fencing_token > first.fencing_token
            a.return_()
            await asyncio.sleep(20)
            assert first.lost
            assert not lease.lost


async def test_a_cancelled_wait_leaves_nothing() -> None:
    """Whoever gives up waiting does not get the lease later."""
    async with Worker("a", []) as a, Worker("b", []) as b:
        async with a.service.lease("x"):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1), b.service.lease("x"):
                    raise AssertionError
        await asyncio.sleep(5)
        async with asyncio.timeout(0.5), a.service.lease("x"):
            pass


async def test_an_error_of_the_block_is_raised() -> None:
    async with Worker("a", []) as a:
        with pytest.raises(KeyError):
            async with a.service.lease("x"):
                raise KeyError
        async with asyncio.timeout(2), a.service.lease("x"):
            pass


async def test_a_lease_outlives_stop_hooks() -> None:
    """One that `pre_start_hook` has entered is held until `cleanup_host` has left it, however long that takes."""
    seen: list[Any] = []

    class Owner(Manager):
        async def pre_start_hook(self) -> None:
            assert self.service is not None
            self.lease = self.service.lease("x")
            await self.lease.__aenter__()

        async def cleanup_host(self) -> None:
            await asyncio.sleep(30)
            seen.append(bool(self.lease.lost))  # type: ignore[attr-defined]
            await self.lease.__aexit__(None, None, None)

    wire = Wire("x")
    async with Worker("b", []) as b:
        service = Service(Owner(), name="s", host="a", transport=wire, settings=Settings())
        await service.start()
        await asyncio.sleep(1)
        stop = asyncio.create_task(service.stop())
        async with b.service.lease("x"):
            seen.append(asyncio.get_running_loop().time())
        await stop
    assert seen[0] is False
    assert 30 < seen[1] < 32
    await wire.aclose()


async def test_a_stop_takes_a_lease_that_nobody_leaves() -> None:
    async with Worker("a", []) as a, Worker("b", []) as b:
        held = a.service.lease("x", on_lost="tell")
        lease = await held.__aenter__()
        await a.service.stop()
        assert lease.lost or not lease.lost
        other = b.service.lease("x")
        task = asyncio.create_task(other.__aenter__())
        assert await seconds_until(task.done) < 1.5
        await other.__aexit__(None, None, None)


async def test_misuse() -> None:
    """What is wrong is said where it is written."""
    a = Worker("a", [])
    with pytest.raises(ServiceStateError, match="start it first"):
        a.service.lease("x")
    async with a:
        with pytest.raises(InvalidName):
            a.service.lease("x" * 200)
        lease: Any = a.service.lease("x")
        with pytest.raises(ServiceStateError, match="not held"):
            _ = lease.fencing_token
        async with lease:
            pass
        with pytest.raises(ServiceStateError, match="entered before"):
            await lease.__aenter__()


async def test_a_lease_of_one_machine() -> None:
    async with Worker("a", []) as a, a.service.lease("x", scope="host") as lease:
        assert lease.fencing_token is None


async def test_a_waiting_block_ends_with_the_service() -> None:
    async with Worker("a", []) as a, Worker("b", []) as b, a.service.lease("x"):
        waiting = asyncio.ensure_future(b.service.lease("x").__aenter__())
        await asyncio.sleep(1)
        await b.service.stop()
        with pytest.raises(ServiceStateError, match="stops"):
            await waiting
