"""The commands of ``asyncmgr``, one file for each. May import all of `_cli` except `app`."""
