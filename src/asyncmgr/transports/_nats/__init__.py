"""The transport over NATS."""
