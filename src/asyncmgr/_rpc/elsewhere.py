"""Finds the hosts of a service that serve a method: asks all hosts to describe themselves, and keeps the answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from asyncmgr._rpc.messages import Request, read_reply, subject_of_all
from asyncmgr._rpc.versions import is_compatible
from asyncmgr.errors import RpcError
from asyncmgr.transports._base import Transport
from asyncmgr.transports._streams import Subscription

NAMESPACE = "asyncmgr"
"""The namespace of the interface that every service has."""

GATHERED = 0.25
"""Seconds to wait for hosts to answer while a call waits."""

REMEMBERED = 30.0
"""Seconds that answers are kept. No host is asked again in this time, even if many calls reach an old host."""

Managers: TypeAlias = Sequence[Mapping[str, Any]]
"""A host's managers, as its ``info`` describes them."""


def serves(method: str, version: str, namespace: str | None) -> Callable[[Managers], bool]:
    """Make a test that says whether one of a host's managers serves this method in this version."""

    def does(managers: Managers) -> bool:
        return any(
            each["namespace"] == namespace
            and is_compatible(version, each["version"])
            and any(offered["name"] == method for offered in each["methods"])
            for each in managers
        )

    return does


class Elsewhere:
    """The hosts of one service, as they described themselves in the last `REMEMBERED` seconds."""

    def __init__(self, transport: Transport, service: str) -> None:
        self._transport = transport
        self._service = service
        self._known: dict[str, Managers] = {}
        self._good_until = 0.0

    async def find(self, fits: Callable[[Managers], bool], most: float) -> str | None:
        """Choose a host that passes the test, at random among several. `most`: seconds that the caller has left."""
        now = asyncio.get_running_loop().time()
        if now >= self._good_until or not any(map(fits, self._known.values())):
            self._known = await self.ask(min(GATHERED, most / 2))
            self._good_until = now + REMEMBERED
        hosts = [host for host, managers in self._known.items() if fits(managers)]
        return random.choice(hosts) if hosts else None

    async def ask(self, within: float) -> dict[str, Managers]:
        """Ask every host for its managers, and return the answers that come within these seconds.

        Raises
        ------
        TransportError
            The transport is down.
        """
        self._transport.check_loop()
        inbox = self._transport.new_inbox()
        found: dict[str, Managers] = {}
        request = Request(secrets.token_hex(8), "info", NAMESPACE, "1.0", {}, max(within, 1e-3), None)
        async with self._transport.subscribe(inbox) as replies:
            await self._transport.publish(subject_of_all(self._service), request.encode(), reply_to=inbox)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within):
                    await _gather(replies, found)
        return found


async def _gather(replies: Subscription, found: dict[str, Managers]) -> None:
    async for reply in replies:
        # A host that is at its limits, or whose answer cannot be read, counts as one that does not answer.
        with contextlib.suppress(RpcError, KeyError, TypeError, ValueError):
            info = read_reply(reply.data)
            for each in info["managers"]:
                (
                    is_compatible("1.0", each["version"]),
                    each["namespace"],
                    [one["name"] for one in each["methods"]],
                )
            found[str(info["host"])] = info["managers"]
