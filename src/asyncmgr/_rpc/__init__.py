"""Versioned calls between services: methods declared with `@rpc`, validated, carried as messages, served and called.

Read in this order. `declare` has `@rpc` and finds the methods of a class that have it. `versions` chooses the interface
that serves a request. `context` has the caller and the current call. `messages` encodes requests and replies; the
format is ``docs/reference/wire.md``. `generics`, `values` and `validation` turn type hints into checks of arguments and
results.
On the serving side, `served_call` is one call, `admission` decides when it begins, `server` reads requests and replies,
and `floods` keeps repeated events out of the log. On the calling side, `client` sends calls and `elsewhere` finds the
hosts that serve a method. The package `interface` describes interfaces as data and compares two of them.

May import `_common`, `errors`, `wire`, `events`, `_tasks`, `_settings` and `transports`; never `capabilities`,
`testing` or `_service`.
"""
