"""Tells what becomes of the jobs of the demonstration: who runs them, which are in trouble, and why."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, TypeAlias

from asyncmgr._cli.demo.jobs import BLOCKING, FAILING, HANGING, REPORT
from asyncmgr._cli.demo.processes import own_environment
from asyncmgr._common.clock import read_wall, to_datetime
from asyncmgr._rpc.client import RpcClient
from asyncmgr._service.builtin_rpc import NAMESPACE
from asyncmgr.errors import AsyncmgrError
from asyncmgr.transports import Transport

Told: TypeAlias = Mapping[str, Any]
Tell: TypeAlias = Callable[[str, str], object]
"""Called with a word and a sentence for each thing that happens."""
Quote: TypeAlias = Callable[[str, str], object]
"""Called with a command and its answer."""

DELAYED = "Host.measure"
"""A task that each host runs every second: what blocks the event loop delays it."""

_LOOK_EACH = 0.5
_ENOUGH_FAILURES = 2
_ENOUGH_SKIPS = 2
_LATE = 0.25
"""Seconds of lateness from which on a slot shows what a block does: less than the least by a block of 1.6 s.

A slot of each second falls into it. One that began early, within its window, leaves the next one late by 0.4 s.
"""
_SOON = timedelta(seconds=5)


class Watch:
    """Asks the hosts how the jobs stand, tells what changes, and has each trouble explained once.

    Parameters
    ----------
    service
        The name of the service that the hosts run.
    pids
        The process ids of the hosts that run now, by host.
    """

    def __init__(
        self,
        transport: Transport,
        service: str,
        url: str,
        *,
        pids: Callable[[], Mapping[str, int]],
        tell: Tell,
        quote: Quote,
    ) -> None:
        self._client = RpcClient(transport, service, version="1.1", namespace=NAMESPACE, timeout=4.0)
        self._url = url
        self._pids = pids
        self._tell = tell
        self._quote = quote
        self._explained: set[str] = set()
        self._killed: tuple[str, datetime] | None = None
        self.owner: str = ""
        """The host that runs the report; empty = none is known."""

    def killed(self, host: str) -> None:
        """Remember when a host was killed, to tell how long nobody ran its jobs."""
        self._killed = host, to_datetime(read_wall())

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            told = await self._ask_all()
            for look in (
                self._look_at_owner,
                self._look_at_failing,
                self._look_at_hanging,
                self._look_at_block,
            ):
                await look(told)
            await asyncio.sleep(_LOOK_EACH)

    # Asking

    async def _ask_all(self) -> dict[str, Told]:
        """Ask the hosts for the status of each job, as its owner tells it; a job without an owner is left out."""
        hosts = sorted(self._pids())
        answers = await asyncio.gather(*(self._ask(host, "status") for host in hosts))
        return {
            status["task"]: {**status, "host": host}
            for host, answer in zip(hosts, answers, strict=True)
            for status in answer.get("tasks", ())
            if _host_of(status) == host
        }

    async def _ask(self, host: str, method: str, **arguments: Any) -> Told:
        """Ask one host; one that does not answer says nothing."""
        try:
            answer: Told = await self._client.at(host=host).call(method, **arguments)
        except AsyncmgrError:
            return {}
        return answer

    # Looking

    async def _look_at_owner(self, told: Mapping[str, Told]) -> None:
        status = told.get(REPORT)
        if status is None:
            return
        owner, before = status["host"], self.owner
        if owner != before:
            self.owner = owner
            self._tell("owner", self._changed(status, before))
        if self._killed is not None and owner != self._killed[0] and status["runs"]:
            await self._explain_fail_over(owner, self._killed[0])

    async def _explain_fail_over(self, owner: str, killed: str) -> None:
        """Ask a host that does not run the report, and is not the one that was killed."""
        for other in self._pids().keys() - {owner, killed}:
            await self._explain("took over", "", REPORT, at=other, wanted=f"and did on {owner}")

    def _changed(self, status: Told, before: str) -> str:
        owner = status["host"]
        if not before:
            return f"{owner} runs {REPORT}, the other hosts do not"
        if self._killed is None or self._killed[0] != before:
            return f"{owner} runs {REPORT} now"
        took = (datetime.fromisoformat(status["owner_since"]) - self._killed[1]).total_seconds()
        return f"{owner} took over {REPORT} {took:.1f} s after the kill"

    async def _look_at_failing(self, told: Mapping[str, Told]) -> None:
        status = told.get(FAILING)
        if status is not None and status["failures"] >= _ENOUGH_FAILURES:
            say = f"{FAILING} on {status['host']} fails at each run"
            slot = datetime.fromisoformat(status["last"]["slot"])
            await self._explain(
                "fails", say, FAILING, _time_of(slot), at=status["host"], wanted="ConnectionError"
            )

    async def _look_at_hanging(self, told: Mapping[str, Told]) -> None:
        status = told.get(HANGING)
        if status is None or status["running"] is None:
            return
        where = f"{HANGING} on {status['host']}"
        if status["state"] == "hung":
            await self._explain(
                "hangs", f"{where} hangs", HANGING, at=status["host"], wanted="is running since"
            )
        elif status["skipped"] >= _ENOUGH_SKIPS:
            # Without a moment it would say how the task stands; of a slot it says why there was no run.
            words = (HANGING, _time_of(to_datetime(read_wall())))
            say = f"{where} does not come to an end"
            await self._explain("waits", say, *words, at=status["host"], wanted="was still going")

    async def _look_at_block(self, told: Mapping[str, Told]) -> None:
        status = told.get(BLOCKING)
        if status is None or "blocks" in self._explained or not status["runs"]:
            return
        say = f"{BLOCKING} blocked the event loop of {status['host']}"
        for slot in await self._find_delayed(status["host"]):
            await self._explain("blocks", say, DELAYED, _time_of(slot), at=status["host"], wanted=BLOCKING)

    async def _find_delayed(self, host: str) -> list[datetime]:
        """Find the slots that a block by the job delayed or passed over."""
        found = []
        journal = await self._ask(host, "journal")
        blocks = [one for one in journal.get("entries", ()) if (one["data"] or {}).get("blame") == BLOCKING]
        for block in blocks:
            began = datetime.fromisoformat(block["at"])
            history = await self._ask(host, "history", task=DELAYED, since=block["at"])
            for record in history.get("records", ()):
                slot = datetime.fromisoformat(record["slot"])
                is_hit = record["reason"] == "blocked" or (record["lateness"] or 0) > _LATE
                if is_hit and began < slot < began + _SOON:
                    found.append(slot)
        return found

    # Explaining

    async def _explain(self, word: str, say: str, *words: str, at: str, wanted: str) -> None:
        """Tell of a trouble and quote the command that explains it, with its answer; once.

        The host `at` is asked. An answer without what is `wanted` is of something else, as when the task has just moved
        to another host.
        """
        if word in self._explained:
            return
        command = ["explain", *words, *self._reach(at)]
        answer = await _output_of(command)
        if wanted not in " ".join(answer.split()):
            return
        self._explained.add(word)
        if say:
            self._tell(word, say)
        self._quote(" ".join(["asyncmgr", *command]), answer)

    def _reach(self, host: str) -> list[str]:
        """Say whom the command is to ask. Not by the name alone: another demonstration may run on this machine."""
        pid = self._pids().get(host)
        if pid is None or not hasattr(socket, "AF_UNIX"):  # there are no control sockets
            return ["--at", host, "--transport", self._url]
        return ["--service", str(pid)]


def _host_of(status: Told) -> str:
    """Return the host of a task's holder, which is named ``HOST~DIGITS``."""
    return str(status["owner"] or "").rpartition("~")[0]


def _time_of(moment: datetime) -> str:
    """Write a moment for a command: local, to the nearest second."""
    return (moment + timedelta(seconds=0.5)).astimezone().strftime("%H:%M:%S")


async def _output_of(words: list[str]) -> str:
    """Run ``asyncmgr`` with these words; its output, or nothing if it fails."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "asyncmgr", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**own_environment(), "COLUMNS": "200"},
        cwd=sys.prefix,
        start_new_session=os.name == "posix",
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    return output.decode(errors="replace").strip() if process.returncode == 0 else ""
