"""What a host tells about itself, the live view of what others tell, and how to choose among them."""

from __future__ import annotations

from asyncmgr.capabilities._hosts import HostChange, Hosts, HostState
from asyncmgr.capabilities._selection import at_least, capability, weigh

__all__ = ["HostChange", "HostState", "Hosts", "at_least", "capability", "weigh"]
