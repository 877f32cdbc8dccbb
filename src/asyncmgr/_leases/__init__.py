"""Lets one process of many run something: locks of one machine; sessions, claims and slots over any store engine.

Locks of one machine: `directory` finds where their files are, `host_lock` locks one, `memory_lock` stands in for it in
virtual time, and `host_record` says what is written in it. `boot` reads the clock that all processes of a machine
share. `host_locks` makes the locks of one application, `host_gate` is what the runner asks for a task of
``scope="host"``, and `host_lease` what users enter.

This package may import `transports` and the floors below; no service without a lease or a task of a scope imports it.
"""
