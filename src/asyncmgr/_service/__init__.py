"""Runs managers on one host: their tasks, their calls and what they report, under one life cycle.

Read them in this order. `manager` is the class that users derive from; `gather` collects the tasks of such a class,
`manager_state` holds what changes in an instance, and `handles` lets users act on one task. `service` is the class that
runs managers: it lists what a start and a stop do as `steps`, `lifecycle` takes these steps in a task of its own, and
`drain` ends the work in progress. Its parts are `connections` to a transport and a store, its `presence` for other
hosts, and `scopes`, which make the gates of tasks that run in one place only. `naming` checks names, `plugins` calls
other packages, `reload` reads the settings again, `builtin_rpc` is the interface that every service serves,
`capability_manager` reports what a host offers, and `signals` runs a service in the foreground. This package may import
all others but `_cli`, and nothing but the face of asyncmgr and `_cli` imports it.
"""
