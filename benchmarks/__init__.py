"""Measures asyncmgr beside hand-written loops and beside other schedulers: ``python -m benchmarks --quick``.

`targets` says what is measured and promised, `rounds` starts one process for each measurement, `child` is that
process: a workload of `workloads` on a competitor of `competitors`, watched with the instruments of `gauges`;
`report` and `picture` show what came out.

How a figure comes about:

* One process per measurement, interleaved: in each round every competitor has its turn before the next round begins.
* CPU is the process's own (`time.process_time`), over a window that opens after a warm-up.
* The speed of a machine drifts, by two or three times within seconds where it is shared. A fixed loop of plain Python
  is timed in small slices inside the window, where the process is awake anyway; CPU times are given at the one speed
  at which a slice takes `gauges.REFERENCE`, and the slices' own CPU is left out.
* A ratio is taken inside one round, between two processes that ran one after the other. What is shown is the median of
  the rounds, with the smallest and the largest.
"""
