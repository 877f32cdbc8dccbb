"""The store engine of ``sqlite:///path``: stores in one file, for the processes of one machine.

Read in this order: `file` says which files serve, `database` does the reading and writing in a thread of its own, and
`engine` awaits it and keeps the watches.
"""
