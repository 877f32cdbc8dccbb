"""`asyncmgr simulate`: the figures are those of a naive count, and nothing outside of the process is touched."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest

from asyncmgr import Manager, Service, Settings, periodic_task
from asyncmgr.testing import VirtualTimeLoop
from tests.cli.conftest import Invoke

HERE = f"{Path(__file__)}:"
START = ("--start", "2026-03-02T00:00+00:00")
HOUR = ("--for", "1h", *START)


def leave(trace: str) -> None:
    """Do something that can be seen."""
    Path(trace).touch()


class Sync(Manager):
    async def init_host(self) -> None:
        leave("hooked")

    @periodic_task(spacing=60)
    async def sync(self, context: Any) -> None:
        leave("ran")


class Kinds(Manager):
    @periodic_task(spacing=60, overlap="skip")
    async def skip(self, context: Any) -> None: ...

    @periodic_task(spacing=60, overlap="queue")
    async def queue(self, context: Any) -> None: ...

    @periodic_task(spacing=60, overlap="allow")
    async def allow(self, context: Any) -> None: ...

    @periodic_task(spacing=60, timeout=20)
    async def short(self, context: Any) -> None: ...

    @periodic_task(spacing=60, jitter=20)
    async def late(self, context: Any) -> None: ...

    @periodic_task(spacing=60, enabled=False)
    async def off(self, context: Any) -> None: ...


class Nights(Manager):
    @periodic_task(cron="30 2 * * *", tz="Europe/Berlin")
    async def fixed(self, context: Any) -> None: ...

    @periodic_task(cron="*/30 * * * *", tz="Europe/Berlin")
    async def star(self, context: Any) -> None: ...

    @periodic_task(cron="30 12 * * *", tz="Europe/Berlin")
    async def noon(self, context: Any) -> None: ...

    @periodic_task(cron="30 2 * * *")
    async def utc(self, context: Any) -> None: ...


class Shared(Manager):
    @periodic_task(spacing=600, scope="host")
    async def of_host(self, context: Any) -> None: ...

    @periodic_task(spacing=600, scope="cluster")
    async def of_cluster(self, context: Any) -> None: ...


class Leaving(Manager):
    @periodic_task(spacing=60)
    async def leave(self, context: Any) -> None:
        raise SystemExit(7)


def made() -> Service:
    """Return a service that brings settings of its own."""
    return Service(Sync(), settings=Settings(tasks={"Sync.sync": {"spacing": 600}}))


def hostile() -> Manager:
    """Return a manager whose names and errors are no friends of XML."""

    class Evil(Manager):
        name = "<script>alert('&\"]]>\u202e"

    async def body(context: Any) -> None:
        raise ValueError("</title><script>\x1b[2J\x00\udc80")

    manager = Evil()
    manager.add_periodic_task(body, name="evil", spacing=60)
    return manager


def many() -> Manager:
    """Return a manager with many tasks of three spacings."""

    class Many(Manager):
        pass

    async def body(context: Any) -> None: ...

    manager = Many()
    for number in range(12):
        manager.add_periodic_task(body, name=f"t{number}", spacing=(60, 90, 600)[number % 3])
    return manager


def rehearsed(invoke: Invoke, *words: str) -> dict[str, Any]:
    """Run the command and read its JSON."""
    done = invoke("simulate", *words, "--json")
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def of_tasks(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the figures by the name of the task alone."""
    return {task["task"].rpartition(".")[2]: task for task in told["tasks"]}


def naive(slots: int, spacing: int, took: int) -> Counter[str]:
    """Count what becomes of slots where each run takes so long; one that ends at a slot is in its way."""
    fates, free_at = Counter[str](), 0
    for slot in range(spacing, spacing * slots + 1, spacing):
        if slot <= free_at:
            fates["skipped"] += 1
        else:
            fates["runs"] += 1
            free_at = slot + took
    return fates


@pytest.mark.parametrize("took", [0, 30, 60, 90, 200])
def test_overlaps_are_those_of_a_naive_count(invoke: Invoke, took: int) -> None:
    """A task whose runs are longer than its spacing loses the slots that they cover."""
    task = of_tasks(rehearsed(invoke, f"{HERE}Sync", *HOUR, "--took", f"*={took}s"))["sync"]
    expected = naive(60, 60, took)
    assert (task["slots"], task["runs"]) == (60, expected["runs"])
    assert task["skipped"] == ({"overlap": expected["skipped"]} if expected["skipped"] else {})


def test_each_kind_of_overlap(invoke: Invoke) -> None:
    """Of a run of 90 s every 60 s: half are skipped, or queued without a gap, or two at once."""
    told = of_tasks(rehearsed(invoke, f"{HERE}Kinds", *HOUR, "--took", "*=90s"))
    assert told["skip"]["runs"] == 30
    # The queue is never empty: a run each 90 s from the first slot on, and each queued slot starts late.
    assert told["queue"]["runs"] == (3600 - 60) // 90 + 1
    assert told["queue"]["latest"]["trigger"] == "queue"
    assert told["allow"]["runs"] == 60
    assert told["allow"]["utilisation"] == pytest.approx((58 * 90 + 60 + 0) / 3600)
    assert told["allow"]["outcomes"] == {"succeeded": 58, "running": 2}
    assert told["short"]["outcomes"] == {"timed_out": 59, "running": 1}
    assert told["off"]["off"]
    assert told["off"]["slots"] == 0


def test_what_needs_somebody_comes_first_on_eighty_columns(invoke: Invoke) -> None:
    """Sentences with the number, the reason and the cure; then a table, then the load."""
    said = invoke("simulate", f"{HERE}Kinds", *HOUR, "--took", "*=90s").stdout
    assert max(map(len, said.splitlines())) <= 80
    words = " ".join(said.split())
    assert "Kinds.skip: 30 of 60 slots skipped, since a run was still going: a run takes 90 s" in words
    assert "A spacing above 90 s loses none" in words
    assert "Kinds.short: 59 of 60 runs timed out, after 20 s." in words
    assert said.index("Needs you") < said.index("Worth knowing") < said.index("\ntask ") < said.index("Load:")
    well = invoke("simulate", f"{HERE}Sync", *HOUR, "--took", "*=1s").stdout
    assert "Nothing needs you." in well


def test_the_same_seed_is_the_same_report(invoke: Invoke) -> None:
    """Byte for byte, text, JSON and picture; another seed draws other lengths and jitter."""

    def told(seed: str, *words: str) -> tuple[str, str]:
        done = invoke(
            "simulate",
            f"{HERE}Kinds",
            *HOUR,
            "--took",
            "*=40s±30s",
            "--seed",
            seed,
            "--plot",
            "p.svg",
            *words,
        )
        assert done.exit_code == 0
        return done.stdout, Path("p.svg").read_text()

    assert told("7") == told("7")
    assert told("7", "--json") == told("7", "--format", "json")
    assert told("7", "--json")[0] != told("8", "--json")[0]
    late = of_tasks(json.loads(told("7", "--json")[0]))["late"]["latest"]["seconds"]
    assert 10 < late <= 20


def test_another_task_changes_no_lengths(invoke: Invoke) -> None:
    """Each task draws from a source of its own: with --only the rest of its figures stay."""
    words = (f"{HERE}Kinds", *HOUR, "--took", "*=40s±30s")
    alone = of_tasks(rehearsed(invoke, *words, "--only", "*.skip"))
    assert alone["skip"] == of_tasks(rehearsed(invoke, *words))["skip"]
    assert alone["allow"]["off"] == "not among --only"


def test_load_and_collisions_are_those_of_a_naive_count(invoke: Invoke) -> None:
    """Every start is in one minute; every second with many tasks due is counted."""
    told = rehearsed(invoke, f"{HERE}many", *HOUR, "--took", "*=7s")
    assert sum(told["load"]["starts"]) == told["runs"] == 4 * (60 + 40 + 6)
    busy = sum(task["busy"] for task in told["tasks"])
    assert sum(told["load"]["in_progress"]) * 60 == pytest.approx(busy, abs=0.1)
    due = Counter[int]()
    for number in range(12):
        due.update(range(0, 3601, (60, 90, 600)[number % 3]))
    del due[0]
    assert told["collisions"]["together"] == 5
    assert told["collisions"]["seconds"] == sum(count >= 5 for count in due.values())
    worst = told["collisions"]["worst"][0]
    assert (worst["count"], worst["at"]) == (12, "2026-03-02T00:30:00+00:00")
    assert told["most_in_progress"] == 12


@pytest.mark.parametrize("most", [1, 3])
def test_max_runs_makes_runs_late(invoke: Invoke, most: int) -> None:
    """A setting can be tried too: twelve runs of 7 s wait for a place."""
    told = rehearsed(invoke, f"{HERE}many", *HOUR, "--took", "*=4s", "--set", f"max_runs={most}")
    assert told["most_in_progress"] == most
    (finding,) = [one for one in told["findings"] if "late" in one["text"]]
    assert f"all {most} places of max_runs were taken" in finding["text"]
    assert max(task["latest"]["seconds"] for task in told["tasks"]) == 4.0 * (12 / most - 1)


def test_what_starts_too_late_is_missed(invoke: Invoke) -> None:
    """With one place for twelve tasks of 4 s, the last of them waits 44 s; it loses that slot by a promise of 43 s."""
    words = (f"{HERE}many", *HOUR, "--set", "max_runs=1", "--took", "*=4s")
    waits = {task["task"]: task["latest"]["seconds"] for task in rehearsed(invoke, *words)["tasks"]}
    last = max(waits, key=lambda name: waits[name])
    assert waits[last] == 44
    told = rehearsed(invoke, *words, "--set", f"{last}.misfire_grace=43")
    lost = of_tasks(told)[last.removeprefix("Many.")]
    assert lost["missed"] == {"late": 1}
    (finding,) = [one for one in told["findings"] if "missed" in one["text"]]
    assert finding["needs_you"]
    assert finding["text"].startswith(
        f"{last}: 1 of {lost['slots']} slots missed, since they would have started"
    )


def test_many_findings_are_counted(invoke: Invoke) -> None:
    """On a terminal twelve are enough; a program gets all."""
    words = ("simulate", f"{HERE}many", *HOUR, "--took", "*=700s", "--set", "Many.t2.spacing=650")
    said = invoke(*words).stdout
    told = json.loads(invoke(*words, "--json").stdout)
    needing = sum(finding["needs_you"] for finding in told["findings"])
    assert needing == 12
    assert "which --json has" not in said
    more = invoke(*words, "--set", "Many.t5.timeout=1").stdout
    assert "  - and 1 more, which --json has" not in more


# Summer time


def test_the_hour_that_is_left_out(invoke: Invoke) -> None:
    """A fixed time moves to the end of the hour; the half hours of that hour have no slot."""
    told = rehearsed(invoke, f"{HERE}Nights", "--start", "2026-03-28T23:00+00:00", "--for", "23h")
    (change,) = told["clock_changes"]
    assert (change["zone"], change["from"], change["to"]) == ("Europe/Berlin", "02:00", "03:00")
    assert change["at"] == "2026-03-29T01:00:00+00:00"
    effects = {one["task"]: (one["times"], one["effect"], one["slots"]) for one in change["tasks"]}
    assert effects == {
        "Nights.fixed": (["02:30"], "moved", 1),
        "Nights.star": (["02:00", "02:30"], "left out", 0),
    }
    tasks = of_tasks(told)
    assert (tasks["fixed"]["runs"], tasks["star"]["runs"], tasks["utc"]["runs"]) == (1, 46, 1)
    assert tasks["fixed"]["latest"]["slot"] == "2026-03-29T01:00:00+00:00"


def test_the_hour_that_comes_twice(invoke: Invoke) -> None:
    """A fixed time runs the first time only; the half hours of that hour come both times."""
    told = rehearsed(invoke, f"{HERE}Nights", "--start", "2026-10-24T22:00+00:00", "--for", "25h")
    (change,) = told["clock_changes"]
    assert (change["from"], change["to"]) == ("03:00", "02:00")
    effects = {one["task"]: (one["times"], one["effect"], one["slots"]) for one in change["tasks"]}
    assert effects == {
        "Nights.fixed": (["02:30"], "once", 1),
        "Nights.star": (["02:00", "02:30"], "twice", 4),
    }
    tasks = of_tasks(told)
    assert (tasks["fixed"]["runs"], tasks["star"]["runs"]) == (1, 50)
    said = invoke("simulate", f"{HERE}Nights", "--start", "2026-10-24T22:00+00:00", "--for", "25h").stdout
    words = " ".join(said.split())
    assert "The first time only run Nights.fixed (02:30). Both times run Nights.star (02:00, 02:30)." in words


def test_a_day_without_a_change_tells_none(invoke: Invoke) -> None:
    """Nor does a zone that no cron task has."""
    assert rehearsed(invoke, f"{HERE}Nights", *START)["clock_changes"] == []


# What is tried


def test_a_task_gets_other_options(invoke: Invoke) -> None:
    """By the path of the settings: in any case of letters, over arguments that the code gives."""
    assert (
        of_tasks(rehearsed(invoke, f"{HERE}Sync", *HOUR, "--set", "sync.SYNC.spacing=15"))["sync"]["runs"]
        == 240
    )
    assert of_tasks(rehearsed(invoke, f"{HERE}made", *HOUR))["sync"]["runs"] == 6
    assert (
        of_tasks(rehearsed(invoke, f"{HERE}made", *HOUR, "--set", "Sync.sync.spacing=30s"))["sync"]["runs"]
        == 120
    )
    tried = ("--set", "tasks.Sync.sync.cron=*/10 * * * *", "--set", "Sync.sync.timeout=5")
    task = of_tasks(rehearsed(invoke, f"{HERE}Sync", *HOUR, *tried, "--took", "*=9s"))["sync"]
    assert task["schedule"].startswith("cron '*/10")
    assert task["outcomes"] == {"timed_out": 5, "running": 1}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (
            "Sync.synk.spacing=5",
            2,
            "there is no task 'Sync.synk' (did you mean 'Sync.sync'?); the tasks are Sync.sync",
        ),
        ("Other.task.spacing=5", 2, "there is no task 'Other.task'; the tasks are Sync.sync"),
        ("Sync.sync.spacin=5", 1, "--set Sync.sync.spacin: unknown key (did you mean 'spacing'?)"),
        ("Sync.sync.spacing=soon", 1, "--set Sync.sync.spacing: 'soon' is not a duration"),
        ("Sync.spacing=5", 2, "names no option of a task"),
        ("max_run=5", 2, "did you mean 'max_runs'?"),
        ("Sync.sync.spacing", 2, "names no option of a task"),
    ],
)
def test_a_wrong_change_is_refused(invoke: Invoke, change: str, code: int, said: str) -> None:
    """It names the change, the fact and what is near; nothing is rehearsed."""
    done = invoke("simulate", f"{HERE}Sync", "--set", change)
    assert done.exit_code == code
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--took", "Nobody=5s"), 1, "fits no task"),
        (("--took", "5s"), 2, "names no task"),
        (("--took", "*=1s±2s"), 2, "less than no time"),
        (("--took", "*=soon"), 2, "is not a duration"),
        (("--for", "-1h"), 2, "is negative"),
        (("--for", "0"), 2, "is no time"),
        (("--run-bodies", "--took", "*=5s"), 2, "leave --took and --replay out"),
        (("--start", "soon"), 2, "is no moment"),
        (("--replay", "absent.db"), 1, "there is no history file"),
        (("--plot", "absent/p.svg", "--for", "1m"), 1, "cannot be written"),
        (("--for", "100000h", "--set", "Sync.sync.spacing=1ms"), 1, "of them of Sync.sync"),
        (("--only", "Nobody.*"), 2, "matches no task"),
    ],
)
def test_a_wrong_word_is_refused(invoke: Invoke, words: tuple[str, ...], code: int, said: str) -> None:
    """2 where the command was called wrongly, 1 where it could not do what was asked."""
    done = invoke("simulate", f"{HERE}Sync", *words)
    assert done.exit_code == code, done.output
    assert said in done.stderr


def test_strict_is_for_machines(invoke: Invoke) -> None:
    """Exit code 3 where something needs somebody, 0 where it is only worth knowing."""
    assert invoke("simulate", f"{HERE}Sync", *HOUR, "--took", "*=90s", "--strict").exit_code == 3
    assert invoke("simulate", f"{HERE}Sync", *HOUR, "--took", "*=90s").exit_code == 0
    assert invoke("simulate", f"{HERE}Sync", *HOUR, "--strict").exit_code == 0


# What is not touched


def test_nothing_is_run_or_reached(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """No body, no hook, no file, no connection, no lock; and no second passes."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a rehearsal reaches out")

    monkeypatch.setenv("ASYNCMGR_HISTORY", f"sqlite://{Path.cwd()}/history.db")
    monkeypatch.setenv("ASYNCMGR_TRANSPORT", "nats://127.0.0.1:1")
    monkeypatch.setenv("ASYNCMGR_STORE", "postgresql://127.0.0.1:1/db")
    monkeypatch.setenv("ASYNCMGR_LEASE__DIRECTORY", f"{Path.cwd()}/locks")
    monkeypatch.setenv("ASYNCMGR_CONTROL", "true")
    monkeypatch.setattr(VirtualTimeLoop, "_wait_really", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    told = rehearsed(invoke, f"{HERE}Sync", f"{HERE}Shared", *START)
    assert told["runs"] == 1440 + 2 * 144
    assert told["hooks_left_out"] == ["Sync.init_host"]
    assert list(Path.cwd().iterdir()) == []


def test_bodies_run_on_demand(invoke: Invoke) -> None:
    """With their hooks, in virtual time: what they do is done."""
    told = rehearsed(invoke, f"{HERE}Sync", *HOUR, "--run-bodies")
    assert (told["runs"], told["bodies"], told["hooks_left_out"]) == (60, True, [])
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["hooked", "ran"]


def test_a_body_that_exits_ends_no_command(invoke: Invoke) -> None:
    """It stops the service, as it would for real: the report has its run, and none after it."""
    told = rehearsed(invoke, f"{HERE}Leaving", *HOUR, "--run-bodies")
    assert (told["runs"], told["tasks"][0]["errors"]) == (1, {"SystemExit: 7": 1})


def test_failures_of_bodies_are_told(invoke: Invoke) -> None:
    """With the error and how often it came."""
    done = invoke("simulate", f"{HERE}hostile", *HOUR, "--run-bodies")
    assert "60 of 60 runs failed: ValueError: " in " ".join(done.stdout.split())
    assert "\x1b" not in done.stdout
    assert "\x00" not in done.stdout


# The picture


def test_the_picture_is_xml_whatever_names_say(invoke: Invoke) -> None:
    """Names and errors are escaped, and nothing in it can be run."""
    done = invoke("simulate", f"{HERE}hostile", *HOUR, "--run-bodies", "--plot", "p.svg")
    assert done.exit_code == 0
    tree = ET.fromstring(Path("p.svg").read_text(encoding="utf-8"))
    tags = {element.tag.rpartition("}")[2] for element in tree.iter()}
    assert tags <= {"svg", "style", "rect", "text", "g", "title", "line", "path"}
    assert not any(name.lower().startswith("on") for element in tree.iter() for name in element.attrib)
    words = "".join(tree.itertext())
    assert "<script>alert('&\"]]>" in words
    assert "\u202e" not in words


def test_the_picture_has_a_row_a_task(invoke: Invoke) -> None:
    """With a mark for each run of a task that has few, its outcome as the class, its facts as the title."""
    words = (f"{HERE}Kinds", *HOUR, "--took", "*=90s", "--plot", "p.svg")
    assert invoke("simulate", *words).exit_code == 0
    tree = ET.fromstring(Path("p.svg").read_text())
    titles = ["".join(element.itertext()) for element in tree.iter() if element.tag.endswith("}title")]
    runs = [title for title in titles if title.startswith("Kinds.skip, slot of ")]
    assert len(runs) == 30
    assert runs[0] == "Kinds.skip, slot of 00:01: succeeded, took 90 s"
    assert "Kinds.skip: the slot of 00:02 was skipped: overlap" in titles
    classes = Counter(
        element.get("class", "").split(" ")[0] for element in tree.iter() if element.tag.endswith("}rect")
    )
    assert classes["timed_out"] == 59 + 1  # and one in the legend
    assert not any("Kinds.off" in title for title in titles)


def test_a_task_with_very_many_runs_is_one_mark(invoke: Invoke) -> None:
    """The picture of a day stays small."""
    words = (f"{HERE}Sync", *START, "--set", "Sync.sync.spacing=5", "--took", "*=2s", "--plot", "p.svg")
    assert rehearsed(invoke, *words)["runs"] == 17280
    picture = Path("p.svg").read_text()
    ET.fromstring(picture)
    assert len(picture) < 20_000
    assert "Sync.sync: 17,279 succeeded, 1 running; a run took 2 s on average" in picture


def test_the_default_start_is_midnight(invoke: Invoke) -> None:
    """In the zone of the settings: one day has one report."""
    told = rehearsed(invoke, f"{HERE}Sync", "--for", "1m", "--set", "timezone=Europe/Berlin")
    local = datetime.fromisoformat(told["start"]).astimezone(ZoneInfo("Europe/Berlin"))
    assert (local.hour, local.minute, local.second) == (0, 0, 0)
    assert datetime.now(UTC) - local < timedelta(days=1, hours=1)


class Pollers(Manager):
    def keys(self) -> list[str]:
        leave("asked")
        return ["a", "b", "c"]

    @periodic_task(spacing=60, each="keys")
    async def poll(self, context: Any, key: str) -> None:
        await asyncio.sleep(5)


def test_keys_are_asked_for_on_demand_only(invoke: Invoke) -> None:
    """A manager may ask a database for them: without its bodies the task is left out, and that is said."""
    told = rehearsed(invoke, f"{HERE}Pollers", *HOUR)
    assert (told["runs"], of_tasks(told)["poll"]["off"]) == (0, "its keys are not known")
    assert any(
        "not rehearsed, since the manager was not asked for the keys" in one["text"]
        for one in told["findings"]
    )
    assert list(Path.cwd().iterdir()) == []
    told = rehearsed(invoke, f"{HERE}Pollers", *HOUR, "--run-bodies")
    assert Path("asked").exists()
    assert of_tasks(told)["poll"]["runs"] >= 3 * 59
    assert of_tasks(told)["poll"]["longest"] == 5


def test_the_page_shows_what_the_command_says(invoke: Invoke) -> None:
    """Its program, its command, its report and its picture belong together."""
    docs = Path(__file__).parents[2] / "docs" / "how-to"
    page = (docs / "rehearsing.md").read_text(encoding="utf-8")
    program, command, report = (
        page.split(f"```{language}\n")[1].split("```")[0] for language in ("python", "console", "text")
    )
    Path("app.py").write_text(program)
    done = invoke(*shlex.split(command.removeprefix("$ asyncmgr ")))
    assert done.stdout == report
    assert Path("rehearsing.svg").read_text(encoding="utf-8") == (docs / "rehearsing.svg").read_text(
        encoding="utf-8"
    )
