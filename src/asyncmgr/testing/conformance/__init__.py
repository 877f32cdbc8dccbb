"""The tests that every store engine, and every transport, passes.

Subclass `StoreConformance` once, in a test module, and tell it how to connect to an engine that only keeps stores::

    class TestMyStore(StoreConformance):
        def connect(self):
            return open_store("my://localhost")

        def outage(self, engine):
            return my_server_is_unreachable(engine)

        def freeze(self):
            return my_server_is_stopped()

        async def wipe(self):
            await my_server_starts_empty()

`TransportConformance` has the same checks, and those of messages. `freeze` and `wipe` may be left out: their checks are
then skipped. Needs pytest-asyncio. The checks use fresh names for subjects and stores, so that they can share one
server. They wait for events, and for time only by `pass_time`; those with `freeze` take up to 15 s each. To see the
values in failed assertions, call ``pytest.register_assert_rewrite("asyncmgr.testing.conformance")`` in a
``conftest.py``.

Read `_checks` first, the base of all checks; then `_stores`, `_watches`, `_kept`, `_deadlines`, `_messages`,
`_requests`, `_outages` and `_closing`, one file for each part of the interface. They may import `errors`, `transports`
and the rest of `testing`.
"""

from __future__ import annotations

from typing import ClassVar

import pytest

from asyncmgr.testing.conformance._checks import MESSAGE_OPERATIONS, STORE_OPERATIONS, E, Operation
from asyncmgr.testing.conformance._closing import MessageClosingChecks, StoreClosingChecks
from asyncmgr.testing.conformance._deadlines import DeadlineChecks
from asyncmgr.testing.conformance._kept import KeptChecks
from asyncmgr.testing.conformance._messages import MessageChecks
from asyncmgr.testing.conformance._outages import MessageOutageChecks, StoreOutageChecks
from asyncmgr.testing.conformance._requests import RequestChecks
from asyncmgr.testing.conformance._stores import StoreChecks
from asyncmgr.testing.conformance._watches import WatchChecks
from asyncmgr.transports._base import Transport
from asyncmgr.transports._stores import StoreEngine

__all__ = ["StoreConformance", "TransportConformance"]


class _AllOfStores(
    StoreChecks[E],
    WatchChecks[E],
    KeptChecks[E],
    DeadlineChecks[E],
    StoreClosingChecks[E],
    StoreOutageChecks[E],
):
    pass


@pytest.mark.asyncio
class StoreConformance(_AllOfStores[StoreEngine]):
    """All checks of stores. Subclass it under a name that pytest collects, and implement `connect` and `outage`."""


@pytest.mark.asyncio
class TransportConformance(
    MessageChecks, RequestChecks, MessageClosingChecks, MessageOutageChecks, _AllOfStores[Transport]
):
    """All checks of stores and messages. Subclass it like `StoreConformance`."""

    operations: ClassVar[dict[str, Operation]] = {
        **STORE_OPERATIONS,
        "subscribe": MESSAGE_OPERATIONS["subscribe"],
    }
