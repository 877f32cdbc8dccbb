"""The pass, against outcomes that a reference model gave for Nova's, oslo.service's and generated cases."""

from __future__ import annotations

import builtins
import json
from datetime import UTC, datetime
from pathlib import Path
from types import new_class
from typing import Any

import pytest
import time_machine

from asyncmgr import InvalidPeriodicTaskArg, Manager, Settings, periodic_task

CASES = json.loads((Path(__file__).parent / "cases" / "pass_cases.json").read_text())
START = datetime(2026, 1, 1, tzinfo=UTC)
OPTIONS = ("spacing", "run_immediately", "enabled", "external_process_ok")


class Bench:
    """Builds the managers of one case and notes their runs."""

    def __init__(self, case: dict[str, Any], clock: time_machine.Traveller) -> None:
        self.case = case
        self.clock = clock
        self.runs: list[str] = []

    def managers(self) -> list[Manager]:
        tasks = self.case["tasks"]
        base = self._make_class(
            "Base", (Manager,), [task for task in tasks if task.get("defined_in") != "sub"]
        )
        cls = self._make_class("Sub", (base,), [task for task in tasks if task.get("defined_in") == "sub"])
        count = self.case["settings"].get("instances", 1)
        settings = Settings(
            run_external_periodic_tasks=self.case["settings"].get("run_external_periodic_tasks", True)
        )
        managers = [cls(settings=settings) for _ in range(count)]
        for index, manager in enumerate(managers):
            manager.suffix = f"@{index}" if count > 1 else ""
        return managers

    def _make_class(self, name: str, bases: tuple[type, ...], tasks: list[dict[str, Any]]) -> Any:
        body = {task["name"]: self._make_task(task) for task in tasks}
        return new_class(name, bases, exec_body=lambda namespace: namespace.update(body))

    def _make_task(self, task: dict[str, Any]) -> Any:
        async def method(manager: Any, context: object) -> None:
            self.runs.append(task.get("label", task["name"]) + manager.suffix)
            self.clock.shift(task.get("duration_s", 0))
            if task["raises"]:
                raise getattr(builtins, task["raises"])("on purpose")

        if not task.get("decorated", True):
            return method
        return periodic_task(**{option: task[option] for option in OPTIONS})(method)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
async def test_pass_agrees_with_the_reference_model(case: dict[str, Any]) -> None:
    """Each step runs exactly the expected tasks in order and returns the expected idle time."""
    with time_machine.travel(START, tick=False) as clock:
        bench = Bench(case, clock)
        if case.get("expect_definition_error"):
            with pytest.raises(InvalidPeriodicTaskArg):
                bench.managers()
            return
        managers = bench.managers()
        registered = [status.name for status in managers[0].task_status()]
        labels = {task["name"]: task.get("label", task["name"]) for task in case["tasks"]}
        assert [labels[name] for name in registered] == case["expect_registered"]
        for step in case["steps"]:
            await run_step(bench, managers, step)


async def run_step(bench: Bench, managers: list[Manager], step: dict[str, Any]) -> None:
    bench.runs.clear()
    bench.clock.shift(step["advance_s"])
    manager = managers[step.get("instance", 0)]
    call = manager.periodic_tasks(None, raise_on_error=step.get("raise_on_error", False))
    if "expect_raises" in step:
        with pytest.raises(getattr(builtins, step["expect_raises"]), match="on purpose"):
            await call
    else:
        assert await call == pytest.approx(step["expect_idle_for"], abs=step["tolerance"])
    assert bench.runs == step["expect_runs"]
