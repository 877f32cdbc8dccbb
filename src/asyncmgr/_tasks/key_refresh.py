"""Asks managers for the keys of their tasks, and changes the rings in small steps."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Hashable,
    Iterable,
    Iterator,
)
from typing import Any, Literal, Protocol, TypeAlias

from asyncmgr._common.clock import Moment
from asyncmgr._common.log import is_reminder, log
from asyncmgr._common.safe_text import safe_repr
from asyncmgr._tasks.keys import KeyedTask, Keys
from asyncmgr.errors import InvalidKeys

LONGEST = 60.0
"""Seconds that a manager gets to answer, unless the task's timeout is set."""

_FEW = 40
"""The number of keys that come or go in one step: half a millisecond of work, even among 100,000 others."""

_READ_AT_ONCE = 250
"""The number of keys that are looked at in one step: a millisecond of work, where each is hashed."""


WhyGone: TypeAlias = Literal["removed", "not_owner"]
"""Why keys are gone: the manager gives them no more, or another host runs them."""


class Place(Protocol):
    """What a refresh needs of the runner."""

    def read(self) -> Moment: ...  # pragma: no cover
    def keys_changed(self, task: KeyedTask) -> None: ...  # pragma: no cover
    def forget_keys(
        self, task: KeyedTask, keys: Collection[Hashable], reason: WhyGone
    ) -> None: ...  # pragma: no cover


class KeyRefreshes:
    """The questions for keys of one service, at most one for each task at a time."""

    def __init__(self, place: Place, context: contextvars.Context, host: str) -> None:
        self._place = place
        self._context = context
        self._host = host
        self._in_progress: dict[KeyedTask, asyncio.Task[bool]] = {}
        self._failures: dict[KeyedTask, int] = {}
        self._turns: dict[KeyedTask, asyncio.Lock] = {}

    def begin(self, task: KeyedTask) -> asyncio.Task[bool]:
        """Ask for the keys of a task, unless the question is in progress; return the Task that asks.

        Its result is whether the manager gave keys.
        """
        asking = self._in_progress.get(task)
        if asking is None:
            asking = asyncio.get_running_loop().create_task(
                self._ask(task), name=f"{task.full_name} keys", context=self._context.copy()
            )
            self._in_progress[task] = asking
            asking.add_done_callback(lambda _: self._in_progress.pop(task, None))
        return asking

    async def ask_anew(self, task: KeyedTask) -> bool:
        """Ask for the keys of a task now; a question that is in progress may have been answered too early."""
        before = self._in_progress.get(task)
        if before is not None:
            await asyncio.wait({before})
        return await asyncio.shield(self.begin(task))

    def close(self) -> None:
        """Ask no more."""
        for asking in tuple(self._in_progress.values()):
            asking.cancel()

    async def _ask(self, task: KeyedTask) -> bool:
        timeout = task.options.timeout
        try:
            async with asyncio.timeout(LONGEST if timeout is None else timeout / 1_000_000):
                keys = await read_keys(task)
        except Exception as exc:
            self._failed(task, exc)
            return False
        self._succeeded(task)
        async with self._turns.setdefault(task, asyncio.Lock()):
            ours = keys if task.share is None else await task.share.put(keys)
            await change_keys(task, ours, self._place)
        return True

    async def put(self, task: KeyedTask, choose: Callable[[], Awaitable[Keys]]) -> None:
        """Let other keys of the manager run here than before: `choose` returns them when it is its turn."""
        async with self._turns.setdefault(task, asyncio.Lock()):
            await change_keys(task, await choose(), self._place, "not_owner")

    def _failed(self, task: KeyedTask, error: Exception) -> None:
        failures = self._failures[task] = self._failures.get(task, 0) + 1
        if is_reminder(failures):
            known = len(task.keys.ring)
            log.error(
                "keys.failed",
                task=task.full_name,
                host=self._host,
                failures=failures,
                known=known,
                exc_info=error,
            )

    def _succeeded(self, task: KeyedTask) -> None:
        failures = self._failures.pop(task, 0)
        if failures:
            log.info("keys.recovered", task=task.full_name, host=self._host, after_failures=failures)


async def read_keys(task: KeyedTask) -> Keys:
    """Ask the manager for the keys of a task.

    Raises
    ------
    InvalidKeys
        The answer is no collection of keys; the text names the first wrong one.
    Exception
        What the manager's own code raised.
    """
    each = task.options.each
    source: Any = getattr(task.manager, each) if isinstance(each, str) else each
    answer = source() if callable(source) else source
    if inspect.isawaitable(answer):
        answer = await answer
    if isinstance(answer, AsyncIterable):
        answer = [one async for one in answer]
    if isinstance(answer, str | bytes) or not isinstance(answer, Iterable):
        raise InvalidKeys(
            f"{task.full_name}: {_shown(each)} gave {safe_repr(answer)}; give a list or another collection of keys"
        )
    keys: Keys = {}
    # A copy, since the manager may change its collection in between.
    for number, given in enumerate(tuple(answer)):
        keys[_key_of(given, task)] = given
        if number % _READ_AT_ONCE == _READ_AT_ONCE - 1:
            await asyncio.sleep(0)
    return keys


def _key_of(given: Any, task: KeyedTask) -> Hashable:
    key = given if isinstance(given, str | int) else getattr(given, "key", None)
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise InvalidKeys(
            f"{task.full_name}: {_shown(task.options.each)} gave the key {safe_repr(given)}; "
            "keys are texts, whole numbers, or objects whose attribute 'key' is one"
        )
    return key


def _shown(each: object) -> str:
    return f"{each!r}" if isinstance(each, str) else safe_repr(each)


async def change_keys(task: KeyedTask, keys: Keys, place: Place, reason: WhyGone = "removed") -> None:
    """Make these the keys of the task. Keys that stay keep their slots; the event loop gets its turn in between."""
    ring = task.keys.ring
    come: list[Hashable] = []
    async for key in in_steps(keys):
        given = keys[key]
        if key not in ring.known:
            come.append(key)
        elif given is not key:
            ring.known[key] = given  # an object, perhaps a new one for the same key
    gone = [key async for key in in_steps(ring.known) if key not in keys]
    keeps_dropped = reason == "removed"

    def read() -> int:
        task.settle()
        return place.read().now

    if len(come) + len(gone) > max(_FEW, len(ring) // 20):
        for _ in ring.rebuild(keys, read, keeps_dropped=keeps_dropped):
            await asyncio.sleep(0)
    else:
        for few in _chunks(gone):
            ring.change((), few, read(), keeps_dropped=keeps_dropped)
            await asyncio.sleep(0)
        for some in _chunks(come):
            ring.change([(key, keys[key]) for key in some], (), read())
            await asyncio.sleep(0)
    if task.keys.ring is not ring:
        return  # the task was rescheduled meanwhile, and asks for its keys again
    now = place.read().now
    if come or gone:
        place.keys_changed(task)
    for few in _chunks(gone, _READ_AT_ONCE):
        place.forget_keys(task, few, reason)
        await asyncio.sleep(0)
    for some in _chunks(come, _READ_AT_ONCE):
        if _begin(task, some, now):
            place.keys_changed(task)
        await asyncio.sleep(0)


def _begin(task: KeyedTask, come: list[Hashable], now: int) -> bool:
    """Hand out what keys that have come are owed: their first run, or slots that no other host has run.

    Returns whether there is anything.
    """
    ring, share = task.keys.ring, task.share
    begins = {} if share is None else {key: since for key in come if (since := share.begins(key)) is not None}
    if begins and task.options.catch_up == "one":
        window = task.options.catch_up_window
        # Not since the start of this process only: another one ran the key before.
        owed = begins if window is None else {key: max(since, now - window) for key, since in begins.items()}
        ring.catch_up(owed.items(), now)
    if task.options.run_immediately and len(come) > len(begins):
        ring.run_at_once([key for key in come if key not in begins], now)
        return True
    return bool(begins)


async def in_steps(keys: Iterable[Hashable]) -> AsyncIterator[Hashable]:
    """Yield the keys; others work after some hundreds of them. Nobody may add or drop some meanwhile."""
    for number, key in enumerate(keys):
        yield key
        if number % _READ_AT_ONCE == _READ_AT_ONCE - 1:
            await asyncio.sleep(0)


def _chunks(items: list[Any], most: int = _FEW) -> Iterator[list[Any]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]
