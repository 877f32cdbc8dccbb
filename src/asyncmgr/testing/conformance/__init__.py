"""The tests that every transport passes.

Subclass `TransportConformance` once, in a test module, and tell it how to connect::

    class TestMyTransport(TransportConformance):
        def connect(self):
            return open_transport("my://localhost")

        def outage(self, transport):
            return my_server_is_unreachable()

Needs pytest-asyncio. The checks use fresh names for subjects and stores, so that they can share one server.
They wait for events, and for time only by `pass_time`. To see the values in failed assertions, call
``pytest.register_assert_rewrite("asyncmgr.testing.conformance")`` in a ``conftest.py``.

Read `_checks` first, the base of all checks; then `_messages`, `_requests`, `_stores`, `_watches`, `_outages` and
`_closing`, one file for each part of the interface. They may import `errors`, `transports` and the rest of `testing`.
"""

from __future__ import annotations

import pytest

from asyncmgr.testing.conformance._closing import ClosingChecks
from asyncmgr.testing.conformance._messages import MessageChecks
from asyncmgr.testing.conformance._outages import OutageChecks
from asyncmgr.testing.conformance._requests import RequestChecks
from asyncmgr.testing.conformance._stores import StoreChecks
from asyncmgr.testing.conformance._watches import WatchChecks

__all__ = ["TransportConformance"]


@pytest.mark.asyncio
class TransportConformance(
    MessageChecks, RequestChecks, StoreChecks, WatchChecks, ClosingChecks, OutageChecks
):
    """All checks. Subclass it under a name that pytest collects, and implement `connect` and `outage`."""
