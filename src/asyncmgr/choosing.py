"""The former place of the filters and weighers for `Hosts.select`; they are in `asyncmgr.capabilities`."""

from __future__ import annotations

from asyncmgr.capabilities import at_least, capability, weigh

__all__ = ["at_least", "capability", "weigh"]
