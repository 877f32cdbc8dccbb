"""Executes the blocks of code of README and of the pages in ``docs/``.

A fence is executed by its language (`blocks` has the list). One that cannot be says why, in a comment above it::

    <!-- not executed: a file of systemd -->

Read `blocks` first; `programs` runs Python, in virtual time, and `shells` runs commands.
"""
