"""What every room uses: clock, heap, deadlines, durations, log. Imports nothing of asyncmgr."""
