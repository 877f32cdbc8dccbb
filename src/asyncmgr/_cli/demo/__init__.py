"""What ``asyncmgr demo`` runs: hosts and a placement service, each in its own process, around a real NATS server.

Read in this order. `story` decides what happens, and serves the page. `processes` starts and ends the processes.
`managers` and `jobs` are what runs in them, and `server` is the process of the NATS server. `watching` tells what
becomes of the jobs, with the answers of ``asyncmgr explain``. May import what `_cli` may.
"""
