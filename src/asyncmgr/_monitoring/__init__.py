"""What a running service tells the outside: health, metrics, HTTP, systemd and OpenTelemetry.

`metrics` counts what befalls tasks and calls, by a recorder around the ledger; `exposition` writes the counts as text.
`web` is the ASGI application, which `guard` protects; `server` serves it under ``asyncmgr run --http``. `systemd` and
`tracing` tell two other listeners. Nothing here is imported by a service that uses none of it.
"""
