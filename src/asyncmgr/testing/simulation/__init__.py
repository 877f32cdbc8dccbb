"""Simulation of a cluster: real services on hosts with clocks of their own, in virtual time, with a faulty store.

A seed is a story: hosts pause, die, join and run old versions, clocks step, calls are lost or late, the store loses its
data; then all faults end. `simulate` runs one story and checks at every step what ``scope="cluster"`` promises.

Read in this order. `_timeline` is real time, `_hosts` the clocks of a machine, `_loop` the event loop of a process.
`_server` is the store, and `_store` a process's faulty way to it. `_cluster` joins these. `_story` makes up what
happens, `_faults` carries it out, `_cast` has the services of a story, and `_invariants` watches. `_doors` reaches into
the leases; `_runs` has `simulate`, `_ablations` the rules that can be taken away, `_directed` stories for some of
them, and `_keys` the stories of tasks with keys. ``python -m asyncmgr.testing.simulation`` runs many seeds.
"""

from asyncmgr.testing.simulation._ablations import ABLATIONS, KEY_ABLATIONS
from asyncmgr.testing.simulation._cast import SimulatedHost, WatchedRun
from asyncmgr.testing.simulation._invariants import Violation
from asyncmgr.testing.simulation._keys import simulate_keys
from asyncmgr.testing.simulation._runs import Report, simulate
from asyncmgr.testing.simulation._story import Fault, Story, tell

__all__ = [
    "ABLATIONS",
    "KEY_ABLATIONS",
    "Fault",
    "Report",
    "SimulatedHost",
    "Story",
    "Violation",
    "WatchedRun",
    "simulate",
    "simulate_keys",
    "tell",
]
