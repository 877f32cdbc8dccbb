"""Lets one process of many run something: sessions, claims and slots over any store engine, and locks of one machine.

Read the modules in this order. `rules` has every decision of the protocol as a small pure method, `records` what stands
in the store, and `elapsed` how long ago something was. `calls` gives each call of the store its deadline. `session`
keeps this process alive in the eyes of others, `peers` follows the sessions of others, `board` the claims, and `claims`
acquires and releases them. `slots` keeps the grid of a task over its holders. `cluster` joins these for one service;
`gate` is what the runner asks, `lease` what users enter, `persist` remembers slots of unscoped tasks.

This package may import `transports` and the floors below; no service without a lease or a task of a scope imports it.
"""
