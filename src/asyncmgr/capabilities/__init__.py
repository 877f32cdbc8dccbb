"""What a host tells about itself, the live view of what others tell, and how to choose among them.

Managers write reports to the `_board` of their service, as `_values` that nobody can change. The `_announcer` keeps
the host's `_announcement` in a store of the service's engine. Readers open `Hosts` (`_hosts`), which follows the
store: the `_registry` is what they know, `_ageing` says when that may be judged by its age, `_malformed` logs what
cannot be read, and `_changes` buffers what each reader has not read yet. `_selection` chooses among the `_states`.
"""

from __future__ import annotations

from asyncmgr.capabilities._hosts import Hosts
from asyncmgr.capabilities._selection import at_least, capability, weigh
from asyncmgr.capabilities._states import HostChange, HostState

__all__ = ["HostChange", "HostState", "Hosts", "at_least", "capability", "weigh"]
