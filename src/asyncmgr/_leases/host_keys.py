"""`HostKeysGate`: lets one process of this machine run all keys of a task with `each=` and ``scope="host"``.

The slots of keys are not written down, as those of other tasks are: every process of the machine has the same phases of
the keys, so the next holder goes on with the next slot of any key. A slot that the dead holder had begun right before
may come a second time.
"""

from __future__ import annotations

from dataclasses import replace

from asyncmgr._leases.host_gate import HostGate
from asyncmgr._leases.host_record import HostRecord
from asyncmgr._tasks.gate import Answer, SlotClaim
from asyncmgr._tasks.runs import Run


class HostKeysGate(HostGate):
    """Asks the lock of one task with keys, at the slots of its keys."""

    def _take_over(self, run: Run, found: HostRecord | None) -> Answer:
        self._tell(found)
        self._write(replace(HostRecord(self._boot.id), state="ended"))
        return self._claim(run)

    def _claim(self, run: Run, number: int | None = None, *, takes_over: bool = False) -> Answer:
        run.claim = SlotClaim()
        self._active += 1
        return "run"
