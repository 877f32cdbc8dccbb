"""Tools that every other package uses and that know nothing of tasks, services or transports.

Read them in this order. `clock` reads the wall and the loop and counts in microseconds; `durations` reads and writes
lengths of time as text. `heap` keeps items by a key, `timer` moves one timer of the event loop, and `deadlines` puts
the two together. `log` sends events, by `log_records` to the standard library or by `log_structlog` to structlog;
`log_errors` and `safe_text` turn exceptions and other objects of the user's into text that cannot fail. `functions`
looks into a function, `cancellation` asks whether a task is cancelled, and `spans` finds the context variables of
tracing libraries. This package imports nothing else of asyncmgr.
"""
