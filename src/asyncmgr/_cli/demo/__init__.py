"""What ``asyncmgr demo`` runs: hosts and a placement service in processes of their own around a real NATS server."""
