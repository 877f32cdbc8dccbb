"""Simulation of a cluster: real services on hosts with clocks of their own, in virtual time, with a faulty store.

A seed is a story: hosts pause, die, join and run old versions, clocks step, calls are lost or late, the store loses its
data; then all faults end. `simulate` runs one story and checks at every step what ``scope="cluster"`` promises.

Read in this order. `timeline` is real time, `hosts` the clocks of a machine, and `loop` the event loop of a process.
`server` is the store, and `store` a process's faulty way to it. `cluster` joins these. `story` makes up what happens,
`faults` carries it out, `cast` has the services of a story, and `invariants` watches. `doors` reaches into the leases;
`runs` has `simulate`, `ablations` the rules that can be taken away. ``python -m asyncmgr.testing.simulation`` runs many
seeds.
"""

from asyncmgr.testing.simulation.ablations import ABLATIONS, KEY_ABLATIONS
from asyncmgr.testing.simulation.cast import SimulatedHost, WatchedRun
from asyncmgr.testing.simulation.invariants import Violation
from asyncmgr.testing.simulation.keys import simulate_keys
from asyncmgr.testing.simulation.runs import Report, simulate
from asyncmgr.testing.simulation.story import Fault, Story, tell

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
