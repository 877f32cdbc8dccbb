"""What ``asyncmgr demo`` runs: hosts and a placement service, each in its own process, around a real NATS server.

Read in this order. `story` decides what happens. `processes` starts and ends the processes. `managers` are the services
that run in them, and `server` is the process of the NATS server. May import what `_cli` may.
"""
