"""Lets one process of many run something: locks of one machine; sessions, claims and slots over any store engine.

Locks of one machine: `directory` finds where their files are, `host_lock` locks one, `memory_lock` stands in for it in
virtual time, and `host_record` says what is written in it. `boot` reads the clock that all processes of a machine
share. `host_locks` makes the locks of one application, `host_gate` is what the runner asks for a task of
``scope="host"``, and `host_lease` what users enter.

One process of a cluster: `rules` has every decision of the protocol as a small pure method, `records` what stands in
the store under which `keys`, and `elapsed` how long ago something was. `calls` gives each call of the store a deadline,
and `follow` watches through every loss. `session` keeps this process alive in the eyes of others, `peers` sees the
sessions of others, and `board` the claims. `claims` acquires and releases names for their holders (`holder`); `slots`
keeps the grid of a task over all its holders. `cluster` joins these for one service; `cluster_gate` is what the runner
asks, `lease` what users enter, and `persist` remembers the slots of a task that every process runs.

This package may import `transports` and the floors below; no service without a lease or a task of a scope imports it.
"""
