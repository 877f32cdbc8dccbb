"""A rehearsal: a real application in virtual time, with stand-ins for the bodies of its tasks.

Read in this order. `_lengths` says how long a run takes, from what the user says or from a history file (`_replay`);
`_tape` records the fate of every slot; `_stage` builds the service and lets the time pass. `_figures` counts what is on
the tape, `_clocks` looks at changes of summer time, `_findings` says in sentences what needs somebody. `_text` and
`_picture` show all of it.

The runner, the schedules, the settings and the failure policy are the package's own; no part of them is a model.
"""

from __future__ import annotations

from asyncmgr.testing.rehearsal._figures import Figures, figures_of
from asyncmgr.testing.rehearsal._findings import Finding, findings_of, report
from asyncmgr.testing.rehearsal._lengths import Length, Took, read_took
from asyncmgr.testing.rehearsal._picture import draw
from asyncmgr.testing.rehearsal._replay import Replay
from asyncmgr.testing.rehearsal._stage import Rehearsal, Script, rehearse
from asyncmgr.testing.rehearsal._text import write

__all__ = [
    "Figures",
    "Finding",
    "Length",
    "Rehearsal",
    "Replay",
    "Script",
    "Took",
    "draw",
    "figures_of",
    "findings_of",
    "read_took",
    "rehearse",
    "report",
    "write",
]
