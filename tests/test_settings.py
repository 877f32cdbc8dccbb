"""Settings: the places they come from, their order, and the words for what is wrong."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError, model_validator

from asyncmgr._settings.matching import is_slip
from asyncmgr._settings.model import Settings, TaskSettings
from asyncmgr._settings.sources import TABLES
from asyncmgr._tasks.declare import declare
from asyncmgr._tasks.schedules import Cron
from asyncmgr.errors import InvalidSettings

if TYPE_CHECKING:
    from pathlib import Path

SYNC = "ASYNCMGR_TASKS__VOLUMES__SYNC__"
TASKS = ["Volumes.heartbeat", "Volumes.sync", "Snapshots.sweep"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty directory, without variables of ours."""
    for name in [name for name in os.environ if name.upper().startswith("ASYNCMGR_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(**explicit: Any) -> str:
    """Build settings that are wrong; gives the text of the error."""
    with pytest.raises(InvalidSettings) as caught:
        Settings(**explicit)
    return str(caught.value)


def test_defaults() -> None:
    """Without any place the defaults hold."""
    settings = Settings()
    assert settings.transport == "memory://"
    assert settings.run_external_periodic_tasks is True
    assert (settings.tolerance, settings.start_delay, settings.drain_timeout) == (0.2, 0.0, 30.0)
    assert (settings.seed, settings.capability_ttl, settings.rpc_concurrency) == (None, 60.0, 64)
    assert (settings.log_level, settings.log_format) == ("info", "auto")
    assert (settings.tasks, settings.managers, settings.plugins.disabled) == ({}, {}, ())
    assert (settings.timezone, settings.connect, settings.max_runs) == ("UTC", "required", None)


def test_each_place_yields_to_the_stronger(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Argument over variable over asyncmgr.toml over pyproject.toml over default, key by key."""
    (here / "pyproject.toml").write_text(
        "[tool.asyncmgr]\ntolerance=1\nstart_delay=1\ndrain_timeout=1\nseed=1\n"
    )
    (here / "asyncmgr.toml").write_text("tolerance=2\nstart_delay=2\ndrain_timeout=2\n")
    monkeypatch.setenv("ASYNCMGR_TOLERANCE", "3")
    monkeypatch.setenv("ASYNCMGR_START_DELAY", "3s")
    settings = Settings(tolerance=4)
    read = (settings.tolerance, settings.start_delay, settings.drain_timeout, settings.seed)
    assert read == (4, 3, 2, 1)
    assert settings.capability_ttl == 60


def test_none_as_an_argument_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag that was not used does not hide a variable."""
    monkeypatch.setenv("ASYNCMGR_HOST", "alpha")
    assert Settings(host=None).host == "alpha"


def test_the_host_is_the_machine_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's name is asked for when it is used."""
    settings = Settings()
    monkeypatch.setattr(socket, "gethostname", lambda: "machine")
    assert settings.resolved_host == "machine"
    assert Settings(host="alpha").resolved_host == "alpha"


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("ASYNCMGR_TRANSPORT", "nats://h", "transport", "nats://h"),
        ("asyncmgr_transport", "nats://h", "transport", "nats://h"),
        ("ASYNCMGR_Run_External_Periodic_Tasks", "no", "run_external_periodic_tasks", False),
        ("ASYNCMGR_DRAIN_TIMEOUT", "1m30s", "drain_timeout", 90.0),
        ("ASYNCMGR_SEED", "7", "seed", 7),
        ("ASYNCMGR_LOG_LEVEL", "WARNING", "log_level", "warning"),
        ("ASYNCMGR_LOG_FORMAT", "json", "log_format", "json"),
        ("ASYNCMGR_HOST", "[1]", "host", "[1]"),
        ("ASYNCMGR_TIMEZONE", "Europe/Berlin", "timezone", "Europe/Berlin"),
        ("ASYNCMGR_TIMEZONE", "local", "timezone", "local"),
        ("ASYNCMGR_CONNECT", "Wait", "connect", "wait"),
        ("ASYNCMGR_MAX_RUNS", "8", "max_runs", 8),
    ],
)
def test_variables_are_read_without_case(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, field: str, value: object
) -> None:
    """A variable's name may be in any case, and its text becomes the type of the field."""
    monkeypatch.setenv(variable, text)
    assert getattr(Settings(), field) == value


def test_another_file_by_variable(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ASYNCMGR_CONFIG names a file that is read in place of asyncmgr.toml."""
    (here / "asyncmgr.toml").write_text("this is not read")
    (here / "etc").mkdir()
    (here / "etc" / "other.toml").write_text("seed = 5")
    monkeypatch.setenv("ASYNCMGR_CONFIG", "etc/other.toml")
    assert Settings().seed == 5


def test_only_the_current_directory_is_searched(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a directory above has no effect."""
    (here / "asyncmgr.toml").write_text("seed = 5")
    (here / "pyproject.toml").write_text("[tool.asyncmgr]\nseed = 5")
    (here / "below").mkdir()
    monkeypatch.chdir(here / "below")
    assert Settings().seed is None


def test_reload_reads_again(here: Path) -> None:
    """Settings read again take the changed file, and keep the explicit arguments."""
    (here / "asyncmgr.toml").write_text("seed = 1")
    settings = Settings(host="alpha")
    (here / "asyncmgr.toml").write_text("seed = 2\nhost = 'beta'")
    again = settings.reload()
    assert (settings.seed, again.seed, again.host) == (1, 2, "alpha")


def test_settings_do_not_change() -> None:
    """An attribute cannot be set."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().seed = 5


def test_a_subclass_reads_its_own_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application may add settings of its own."""

    class Own(Settings):
        bucket: str = "none"

        @model_validator(mode="after")
        def _check(self) -> Self:
            if self.bucket == "b2":
                raise ValueError("b2 is full")
            return self

    monkeypatch.setenv("ASYNCMGR_BUCKET", "b1")
    assert Own().bucket == "b1"
    monkeypatch.setenv("ASYNCMGR_BUCKET", "b2")
    with pytest.raises(InvalidSettings, match="settings: b2 is full; accepted: host, "):
        Own()


# Tasks


@pytest.mark.parametrize(
    "text",
    [
        '[tasks."Volumes.sync"]\nspacing = "5m"',
        '[tasks.Volumes.sync]\nspacing = "5m"',
        '[tasks."volumes.SYNC"]\nspacing = 300',
        '[tasks.Volumes]\nsync = { spacing = "300s" }',
    ],
)
def test_both_shapes_of_a_tasks_table(here: Path, text: str) -> None:
    """A task is named in one quoted key or in nested ones, in any case."""
    (here / "asyncmgr.toml").write_text(text)
    assert Settings().overrides_for(TASKS) == {"Volumes.sync": TaskSettings(spacing=300)}


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        (f"{SYNC}SPACING", "5m"),
        ("asyncmgr_tasks__Volumes__sync__spacing", "300"),
        ("ASYNCMGR_TASKS", '{"Volumes.sync": {"spacing": "5m"}}'),
        ("ASYNCMGR_TASKS", '{"Volumes": {"sync": {"spacing": 300}}}'),
        ("ASYNCMGR_TASKS__VOLUMES", '{"sync": {"spacing": 300}}'),
        ("ASYNCMGR_TASKS__VOLUMES__SYNC", '{"spacing": 300}'),
    ],
)
def test_a_task_by_variable(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    """A variable sets one key of a task, or a table as a JSON object."""
    monkeypatch.setenv(variable, text)
    assert Settings().overrides_for(TASKS) == {"Volumes.sync": TaskSettings(spacing=300)}


@pytest.mark.parametrize("name", ["Volumes._sync", "Volumes.sync_", "Volumes.sync__all", "my.volumes.sync"])
def test_underscores_and_dots_in_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A task whose name holds underscores or dots can be named by a variable too."""
    monkeypatch.setenv(f"ASYNCMGR_TASKS__{name.replace('.', '__').upper()}__JITTER", "1")
    assert Settings().overrides_for([*TASKS, name]) == {name: TaskSettings(jitter=1)}


def test_places_merge_by_key(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key of a task comes from the strongest place that has it."""
    (here / "pyproject.toml").write_text("[tool.asyncmgr.tasks.Volumes.sync]\nspacing=1\njitter=1\ntimeout=1")
    (here / "asyncmgr.toml").write_text('[tasks."volumes.sync"]\nspacing=2\njitter=2')
    monkeypatch.setenv(f"{SYNC}SPACING", "3")
    settings = Settings(tasks={"Volumes.sync": {"enabled": False}})
    merged = TaskSettings(enabled=False, spacing=3, jitter=2, timeout=1)
    assert settings.overrides_for(TASKS) == {"Volumes.sync": merged}
    assert list(settings.tasks) == ["Volumes.sync"]


def test_task_settings_as_an_argument() -> None:
    """Settings of a task may be given as an object."""
    given = TaskSettings(cron="@daily", tz="Europe/Berlin")
    assert Settings(tasks={"Volumes.sync": given}).tasks == {"Volumes.sync": given}


@pytest.mark.parametrize(
    ("stronger", "weaker", "left"),
    [
        ({"CRON": "@daily"}, 'spacing="5m"', {"cron": "@daily"}),
        ({"SPACING": "5m"}, 'cron="@daily"\ntz="Europe/Berlin"', {"spacing": 300}),
        ({"CRON": "@daily"}, 'cron="@hourly"\ntz="Europe/Berlin"', {"cron": "@daily", "tz": "Europe/Berlin"}),
        ({"TZ": "Asia/Tokyo"}, 'cron="@hourly"\ntz="UTC"', {"cron": "@hourly", "tz": "Asia/Tokyo"}),
        ({"TZ": "Asia/Tokyo"}, "jitter=1", {"tz": "Asia/Tokyo", "jitter": 1}),
        ({"SPACING": "5m"}, 'tz="Europe/Berlin"', {"spacing": 300}),
    ],
)
def test_a_schedule_replaces_a_weaker_one_of_the_other_kind(
    here: Path, monkeypatch: pytest.MonkeyPatch, stronger: dict[str, str], weaker: str, left: dict[str, Any]
) -> None:
    """A cron of the environment takes the place of a spacing in a file, and the other way round."""
    (here / "asyncmgr.toml").write_text(f'[tasks."Volumes.sync"]\n{weaker}')
    for key, text in stronger.items():
        monkeypatch.setenv(SYNC + key, text)
    assert Settings().overrides_for(TASKS) == {"Volumes.sync": TaskSettings(**left)}


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("spacing", 0, 0.0),
        ("spacing", -1, -1.0),
        ("spacing", "1ms", 0.001),
        ("spacing", "36525d", 3155760000.0),
        ("jitter", 0, 0.0),
        ("tolerance", 0, 0.0),
        ("timeout", "1ms", 0.001),
        ("enabled", "false", False),
        ("cron", "*/5 * * * * *", "*/5 * * * * *"),
        ("log_level", "Debug", "debug"),
        ("tz", "Europe/Berlin", "Europe/Berlin"),
        ("tz", "local", "local"),
        ("run_immediately", "yes", True),
        ("initial_delay", "1m", 60.0),
        ("misfire_grace", "1ms", 0.001),
        ("overlap", "Queue", "queue"),
        ("phase", "Auto", "auto"),
    ],
)
def test_values_of_a_task(key: str, value: object, read: object) -> None:
    """0 is every pass or none, a negative spacing is off, and the ends of each range are in it."""
    assert getattr(Settings(tasks={"A.b": {key: value}}).tasks["A.b"], key) == read


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"spacing": "often"}, "'often' is not a duration; accepted: seconds, or e.g. '30s'"),
        ({"spacing": True}, "True is not a duration"),
        ({"spacing": float("nan")}, "nan is not a duration"),
        ({"spacing": float("inf")}, "inf is not a duration"),
        ({"spacing": 0.0005}, "0.0005 is not accepted; accepted: seconds"),
        ({"spacing": "36526d"}, "'36526d' is not accepted; accepted: seconds"),
        ({"timeout": 0}, "0 is not accepted; accepted: seconds, or e.g. '30s', '5m', '1h30m'; at least 1 ms"),
        ({"jitter": -1}, "-1 is not accepted"),
        ({"tolerance": -1}, "-1 is not accepted"),
        ({"enabled": 3}, "3 is not accepted: input should be a valid boolean"),
        ({"cron": "61 * * * *"}, "'61 * * * *' is not a cron expression"),
        ({"cron": "@daily", "tz": "Mars/Olympus"}, "'Mars/Olympus' is not a time zone"),
        ({"spacing": 5, "cron": "@daily"}, "cron and spacing exclude each other; keep one of them"),
        ({"spacing": 5, "tz": "UTC"}, "tz and spacing exclude each other; keep one of them"),
        (
            {"initial_delay": 5, "run_immediately": True},
            "initial_delay and run_immediately exclude each other",
        ),
        ({"initial_delay": -1}, "-1 is not accepted"),
        (
            {"misfire_grace": 0},
            "0 is not accepted; accepted: seconds, or e.g. '30s', '5m', '1h30m'; at least 1 ms",
        ),
        ({"run_immediately": "maybe"}, "'maybe' is not accepted: input should be a valid boolean"),
        ({"overlap": "drop"}, "'drop' is not accepted: input should be 'skip', 'queue' or 'allow'"),
        ({"phase": "random"}, "'random' is not accepted: input should be 'auto'; accepted: auto"),
        ({"name": "x"}, "unknown key; accepted: spacing, cron, tz"),
        ({"external_process_ok": True}, "unknown key; accepted: spacing, cron, tz"),
        ({"log_level": "loud"}, "accepted: debug, info, warning, error, critical"),
        ({"spacin": 5}, "unknown key (did you mean 'spacing'?); accepted: spacing, cron, tz"),
    ],
)
def test_wrong_values_of_a_task(values: dict[str, object], fact: str) -> None:
    """A task's key that is wrong is named with its place, the fact and what is accepted."""
    text = refusal(tasks={"A.b": values})
    assert text.startswith("argument tasks.A.b.")
    assert fact in text


def test_two_tasks_for_one_key(here: Path) -> None:
    """A key that fits two tasks is refused: upper and lower case are not told apart."""
    (here / "asyncmgr.toml").write_text('[tasks."Volumes.sync"]\nspacing = 5')
    with pytest.raises(InvalidSettings) as caught:
        Settings().overrides_for(["Volumes.sync", "volumes.Sync"])
    assert str(caught.value) == (
        f'{here / "asyncmgr.toml"}: [tasks."Volumes.sync"] spacing: '
        "'Volumes.sync' fits Volumes.sync, volumes.Sync: settings do not tell upper from lower case; rename one"
    )


def test_no_task_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that fits no task is refused with the place, the closest name and those that there are."""
    monkeypatch.setenv("ASYNCMGR_TASKS__VOLUMES__SYNK__SPACING", "5")
    settings = Settings()
    with pytest.raises(InvalidSettings) as caught:
        settings.overrides_for(TASKS)
    assert str(caught.value) == (
        "ASYNCMGR_TASKS__VOLUMES__SYNK__SPACING: there is no task 'volumes.synk' "
        "(did you mean 'Volumes.sync'?); accepted: Volumes.heartbeat, Volumes.sync, Snapshots.sweep"
    )
    assert settings.overrides_for(TASKS, strict=False) == {}


def test_a_setting_that_means_nothing_beside_the_declaration(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused with its own place, also where another one says something else of the task."""
    (here / "asyncmgr.toml").write_text(
        '[tasks."Volumes.sync"]\njitter = 1\n[tasks."Snapshots.sweep"]\ntolerance = 1'
    )
    monkeypatch.setenv(f"{SYNC}TZ", "Europe/Berlin")
    settings = Settings()
    found = settings.overrides_for(TASKS)
    spaced, cron = declare({"spacing": 5}), declare({"cron": "@daily"})
    with pytest.raises(InvalidSettings) as caught:
        settings.put_over(spaced, "Volumes.sync", found["Volumes.sync"])
    assert str(caught.value) == (
        f"{SYNC}TZ: Volumes.sync: tz= is the zone of a cron expression; give cron= too, or leave it out"
    )
    with pytest.raises(InvalidSettings) as caught:
        settings.put_over(cron, "Snapshots.sweep", found["Snapshots.sweep"])
    assert str(caught.value) == (
        f'{here / "asyncmgr.toml"}: [tasks."Snapshots.sweep"] tolerance: Snapshots.sweep: '
        "tolerance= has no meaning with cron=: a cron task is never early"
    )
    assert settings.put_over(cron, "Volumes.sync", found["Volumes.sync"]).schedule == Cron(
        "@daily", "Europe/Berlin"
    )


# Of other services


SHARED = """
[tasks."Volumes.sync"]
spacing = 5
[tasks."Compute.reserve"]
timeout = 5
[managers.Compute]
size = 1
"""


def test_one_file_serves_two_services(here: Path) -> None:
    """What fits nothing here is another service's: it is told with its place, and stops nothing."""
    (here / "asyncmgr.toml").write_text(SHARED)
    settings = Settings()
    assert settings.overrides_for(TASKS) == {"Volumes.sync": TaskSettings(spacing=5)}
    assert settings.arguments_for(["Volumes"]) == {}
    assert [str(one) for one in settings.match_tasks(TASKS).foreign] == [
        f"{here / 'asyncmgr.toml'}: [tasks.\"Compute.reserve\"] timeout: there is no task 'Compute.reserve' here; "
        "it may be another service's"
    ]
    assert [str(one) for one in settings.match_managers(["Volumes"]).foreign] == [
        f"{here / 'asyncmgr.toml'}: [managers.Compute] size: there is no manager 'Compute' here; "
        "it may be another service's"
    ]
    other = settings.match_tasks(["Compute.reserve"])
    assert (other.matched, [one.key for one in other.foreign]) == (
        {"Compute.reserve": TaskSettings(timeout=5)},
        ["Volumes.sync"],
    )
    assert settings.arguments_for(["Compute"]) == {"Compute": {"size": 1}}


@pytest.mark.parametrize(
    "names",
    [["Other.task"], ["Volume.prune", "Computer.run"], []],
    ids=["others", "others that look alike", "none"],
)
def test_settings_of_which_nothing_fits_are_refused(here: Path, names: list[str]) -> None:
    """They were meant for something: all of them are named."""
    (here / "asyncmgr.toml").write_text(SHARED)
    settings = Settings()
    with pytest.raises(InvalidSettings, match=r"no task 'Volumes.sync'[^\n]*\n.*no task 'Compute.reserve'"):
        settings.overrides_for(names)
    assert settings.match_tasks(names).foreign == ()
    with pytest.raises(InvalidSettings, match="no manager 'Compute'"):
        settings.arguments_for(["Other"])


def test_a_manager_that_fits_shows_whose_the_file_is(here: Path) -> None:
    """Tasks that a hook has yet to add may not be there, where the arguments of their manager are."""
    (here / "asyncmgr.toml").write_text(
        "[managers.Volumes]\nsize = 1\n[tasks.'Volumes.tenant-7']\nspacing = 5"
    )
    assert [one.key for one in Settings().match_tasks(["Volumes.sync"]).foreign] == ["Volumes.tenant-7"]


@pytest.mark.parametrize(
    "key",
    [
        "Volumes.synk",
        "Volumes.syn",
        "Volumes.ssync",
        "Volume.sync",
        "Volumes.snyc",
        "volumes_sync",
        "VOLUMES.SYNCS",
    ],
)
def test_a_slip_is_refused_beside_what_fits(here: Path, key: str) -> None:
    """One edit away from a known name, with the name that may be meant."""
    (here / "asyncmgr.toml").write_text(
        f'[tasks."Volumes.heartbeat"]\nspacing = 5\n[tasks."{key}"]\nspacing = 5'
    )
    with pytest.raises(InvalidSettings) as caught:
        Settings().overrides_for(TASKS)
    assert f"there is no task {key!r} (did you mean 'Volumes.sync'?); accepted: " in str(caught.value)
    assert Settings().overrides_for(TASKS, strict=False) == {"Volumes.heartbeat": TaskSettings(spacing=5)}


@pytest.mark.parametrize("key", ["Volumes.sweep", "Volums.synk", "Snapshots", "Compute.sync", "V.s", ""])
def test_what_is_further_away_is_another_services(here: Path, key: str) -> None:
    """Two edits are another name."""
    (here / "asyncmgr.toml").write_text(
        f'[tasks."Volumes.heartbeat"]\nspacing = 5\n[tasks."{key}"]\nspacing = 5'
    )
    assert [one.key for one in Settings().match_tasks(TASKS).foreign] == [key]


@given(st.text("ab_", min_size=1, max_size=5), st.text("ab_", min_size=1, max_size=5))
def test_a_slip_is_one_edit(one: str, other: str) -> None:
    """As the naive enumeration of all edits has it."""
    places = range(len(one) + 1)
    edits = {one[:at] + one[at + 1 :] for at in places}
    edits |= {one[:at] + more + one[at + rest :] for at in places for more in "ab_" for rest in (0, 1)}
    edits |= {one[:at] + one[at : at + 2][::-1] + one[at + 2 :] for at in places}
    assert is_slip(one, [other]) == (other in edits | {one})


# Variables of Kubernetes


SERVICE = {
    "SERVICE_HOST": "10.0.171.239",
    "SERVICE_PORT": "8080",
    "SERVICE_PORT_HTTP": "8080",
    "SERVICE_PORT_HTTP_METRICS": "9100",
    "PORT": "tcp://10.0.171.239:8080",
    "PORT_8080_TCP": "tcp://10.0.171.239:8080",
    "PORT_8080_TCP_PROTO": "tcp",
    "PORT_8080_TCP_PORT": "8080",
    "PORT_8080_TCP_ADDR": "10.0.171.239",
    "PORT_53_UDP": "udp://10.0.171.239:53",
    "PORT_53_UDP_PROTO": "udp",
    "PORT_53_UDP_PORT": "53",
    "PORT_53_UDP_ADDR": "10.0.171.239",
    "PORT_7_SCTP": "sctp://10.0.171.239:7",
    "PORT_7_SCTP_PROTO": "sctp",
    "PORT_7_SCTP_PORT": "7",
    "PORT_7_SCTP_ADDR": "10.0.171.239",
}
V6 = {
    "SERVICE_HOST": "fd00:10:96::1f",
    "PORT": "tcp://[fd00:10:96::1f]:8080",
    "PORT_8080_TCP": "tcp://[fd00:10:96::1f]:8080",
    "PORT_8080_TCP_ADDR": "fd00:10:96::1f",
}


@pytest.mark.parametrize(
    "service", ["ASYNCMGR", "ASYNCMGR_AGENT", "ASYNCMGR_AGENT_2", "ASYNCMGR_TASKS", "ASYNCMGR_HOST"]
)
@pytest.mark.parametrize("family", [SERVICE, V6], ids=["v4", "v6"])
def test_variables_of_a_kubernetes_service_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, service: str, family: dict[str, str]
) -> None:
    """Every container has them where a Service is called `asyncmgr` or `asyncmgr-agent`."""
    for end, value in family.items():
        monkeypatch.setenv(f"{service}_{end}", value)
    monkeypatch.setenv("ASYNCMGR_SEED", "7")
    assert Settings().model_dump(exclude_defaults=True) == {"seed": 7}


@pytest.mark.parametrize("end", SERVICE)
def test_each_of_them_is_known_by_itself(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Not by those that it comes with."""
    monkeypatch.setenv(f"ASYNCMGR_{end}", SERVICE[end])
    Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ASYNCMGR_HOSST", "10.0.171.239"),
        ("ASYNCMGR_HOST_", "10.0.171.239"),
        ("ASYNCMGR_SERVICE_HOST", "alpha"),
        ("ASYNCMGR_SERVICE_HOST", ""),
        ("ASYNCMGR_SERVICE_NAME", "10.0.171.239"),
        ("ASYNCMGR_SERVICE_PORT", "http"),
        ("ASYNCMGR_SERVICE_PORT", "0"),
        ("ASYNCMGR_SERVICE_PORT", "65536"),
        ("ASYNCMGR_SERVICE_PORT", "٨"),
        ("ASYNCMGR_PORT", "8080"),
        ("ASYNCMGR_PORT", "nats://10.0.171.239:4222"),
        ("ASYNCMGR_PORT", "tcp://nats:4222"),
        ("ASYNCMGR_PORT", "tcp://10.0.171.239"),
        ("ASYNCMGR_PORT_TCP", "tcp://10.0.171.239:8080"),
        ("ASYNCMGR_PORT_8080_TCP", "8080"),
        ("ASYNCMGR_PORT_8080_TCP_PROTO", "http"),
        ("ASYNCMGR_PORT_8080_TCP_PORT", "x"),
        ("ASYNCMGR_PORT_8080_TCP_ADDR", "alpha"),
        ("ASYNCMGR_PORT_8080_HTTP", "tcp://10.0.171.239:8080"),
        ("ASYNCMGR_TRANSPORT_PORT", "4222"),
        ("ASYNCMGR_TRANSPOR", "tcp://10.0.171.239:8080"),
        ("ASYNCMGR_TASKS__VOLUMES__SERVICE_PORT", "5"),
        ("ASYNCMGR_NATS__SERVICE_HOST", "10.0.171.239"),
        ("ASYNCMGR__SERVICE_HOST", "10.0.171.239"),
        ("asyncmgr_service_host", "10.0.171.239"),
    ],
)
def test_nothing_else_passes_for_one_of_them(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """A slip of the pen is refused as ever: the name and the value both have to fit."""
    monkeypatch.setenv(variable, value)
    assert refusal().startswith(f"{variable}: unknown key")


def test_a_setting_of_such_a_name_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """An application's own."""

    class Own(Settings):
        service_port: int = 0

    monkeypatch.setenv("ASYNCMGR_SERVICE_PORT", "8080")
    monkeypatch.setenv("ASYNCMGR_SERVICE_HOST", "10.0.171.239")
    assert Own().service_port == 8080


def test_long_lists_are_cut() -> None:
    """Of very many names the first are listed, and how many more there are."""
    with pytest.raises(InvalidSettings, match=r"accepted: A\.t0, .*A\.t19 and 80 more$"):
        Settings(tasks={"Nobody.here": {"spacing": 1}}).overrides_for(f"A.t{number}" for number in range(100))


# Managers and plugins


def test_arguments_of_managers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments of a manager merge from all places, tables in them too, and keep where they were written."""
    (here / "asyncmgr.toml").write_text(
        '[managers.Volumes]\ndriver = {factory = "my.pkg:Lvm", volume_group = "vg0"}\nsize = 1\n'
    )
    monkeypatch.setenv("ASYNCMGR_MANAGERS__VOLUMES__SIZE", "2")
    monkeypatch.setenv("ASYNCMGR_MANAGERS__VOLUMES__DRIVER__VOLUME_GROUP", "vg1")
    monkeypatch.setenv("ASYNCMGR_MANAGERS__SNAPSHOTS", '{"labels": {}}')
    settings = Settings()
    assert settings.arguments_for(["Volumes", "Snapshots"]) == {
        "Volumes": {"driver": {"factory": "my.pkg:Lvm", "volume_group": "vg1"}, "size": "2"},
        "Snapshots": {"labels": {}},
    }
    assert settings.place_of("managers", "Volumes", "size") == "ASYNCMGR_MANAGERS__VOLUMES__SIZE"
    written = f"{here / 'asyncmgr.toml'}: [managers.Volumes.driver] factory"
    assert settings.place_of("managers", "Volumes", "driver", "factory") == written


def test_a_stronger_value_replaces_a_table(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is not mixed into a value of a stronger place, nor a value into a table."""
    (here / "asyncmgr.toml").write_text(
        '[managers.Volumes]\ndriver = {factory = "a:B", size = 1}\npool = "p"'
    )
    monkeypatch.setenv("ASYNCMGR_MANAGERS__VOLUMES__DRIVER", "c:D")
    monkeypatch.setenv("ASYNCMGR_MANAGERS__VOLUMES__POOL__NAME", "q")
    assert Settings().managers == {"Volumes": {"driver": "c:D", "pool": {"name": "q"}}}


def test_no_manager_for_a_table() -> None:
    """A table of a manager that is not there is refused."""
    settings = Settings(managers={"Volume": {"size": 1}})
    with pytest.raises(InvalidSettings, match=r"no manager 'Volume' \(did you mean 'Volumes'\?\)"):
        settings.arguments_for(["Volumes"])
    assert settings.arguments_for(["Volumes"], strict=False) == {}


def test_objects_as_arguments_of_managers() -> None:
    """In code an argument of a manager may be any object."""
    driver = object()
    assert Settings(managers={"Volumes": {"driver": driver}}).managers["Volumes"]["driver"] is driver


@pytest.mark.parametrize("text", ["a,b", " a , b,"])
def test_plugins_are_switched_off_by_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The names of plugins in a variable are separated by commas."""
    monkeypatch.setenv("ASYNCMGR_PLUGINS__DISABLED", text)
    assert Settings().plugins.disabled == ("a", "b")


def test_an_empty_table_hides_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table without keys leaves those of weaker places alone."""
    (here / "asyncmgr.toml").write_text('[tasks."Volumes.sync"]\nspacing = 5\n[managers.Volumes]\n')
    monkeypatch.setenv("ASYNCMGR_TASKS__VOLUMES__SYNC", "{}")
    settings = Settings(managers={"Volumes": {"size": 1}})
    assert settings.tasks == {"Volumes.sync": TaskSettings(spacing=5)}
    assert settings.managers == {"Volumes": {"size": 1}}


# What is wrong


def test_all_that_is_wrong_is_said_at_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error names each wrong setting, with its place and what is accepted."""
    file = here / "asyncmgr.toml"
    file.write_text("tolerence = 1\n[tasks.A.b]\njitter = 'x'\n[plugins]\ndisabled = 5\noff = 1")
    (here / "pyproject.toml").write_text("[tool.asyncmgr]\nrpc_concurrency = true")
    monkeypatch.setenv("ASYNCMGR_SEED", "x")
    monkeypatch.setenv("ASYNCMGR_HOTS", "x")
    first, *lines = refusal(log_format="xml", drain_timeout=-1, managers=5).split("\n  ")
    assert first == "10 settings are wrong:"
    starts = [
        f"{file}: tolerence: unknown key (did you mean 'tolerance'?); accepted: host, transport, ",
        "ASYNCMGR_HOTS: unknown key (did you mean 'host'?); accepted: host, ",
        "ASYNCMGR_SEED: 'x' is not accepted: input should be a valid integer, ",
        "argument log_format: 'xml' is not accepted: input should be 'auto', 'console' or 'json'; accepted: auto",
        "argument drain_timeout: -1 is not accepted: input should be greater than or equal to 0; accepted: ",
        "argument managers: 5 is no table; accepted: tables such as [managers.Name]",
        f"{here / 'pyproject.toml'}: [tool.asyncmgr] rpc_concurrency: True is not a number; accepted: a whole",
        f"{file}: [tasks.A.b] jitter: 'x' is not a duration; accepted: seconds",
        f"{file}: [plugins] disabled: 5 is not accepted: ",
        f"{file}: [plugins] off: unknown key; accepted: disabled",
    ]
    assert [start for start in starts if not any(line.startswith(start) for line in lines)] == []
    assert len(lines) == len(starts)


@pytest.mark.parametrize(
    ("explicit", "start"),
    [
        ({"host": ""}, "argument host: '' is not accepted"),
        ({"host": 5}, "argument host: 5 is not accepted: input should be a valid string; accepted: a name"),
        ({"seed": True}, "argument seed: True is not a number; accepted: a whole number"),
        ({"seed": 1.5}, "argument seed: 1.5 is not accepted"),
        ({"rpc_concurrency": 0}, "argument rpc_concurrency: 0 is not accepted"),
        ({"capability_ttl": 0}, "argument capability_ttl: 0 is not accepted"),
        (
            {"timezone": "Mars"},
            "argument timezone: 'Mars' is not a time zone of this machine; write e.g. 'Europe/Berlin'; accepted: a",
        ),
        ({"timezone": ""}, "argument timezone: '' is not accepted; accepted: a time zone"),
        (
            {"connect": "later"},
            "argument connect: 'later' is not accepted: input should be 'wait' or 'required'",
        ),
        ({"max_runs": 0}, "argument max_runs: 0 is not accepted"),
        ({"max_runs": True}, "argument max_runs: True is not a number; accepted: a whole number, at least 1"),
        ({"_env_file": "x"}, "argument _env_file: unknown key; accepted: host"),
        ({"self": 1}, "argument self: unknown key; accepted: host"),
        ({"tolerance": float("nan")}, "argument tolerance: nan is not a duration"),
        ({"tolerance": "-1s"}, "argument tolerance: '-1s' is not accepted"),
        ({"log_level": "trace"}, "argument log_level: 'trace' is not accepted"),
        ({"run_external_periodic_tasks": "perhaps"}, "argument run_external_periodic_tasks: 'perhaps'"),
        ({"tasks": {"A.b": 5}}, "argument tasks.A.b: 5 is no table; accepted: spacing, cron"),
        ({"tasks": 5}, "argument tasks: 5 is no table; accepted: tables such as [tasks."),
        ({"_cli_parse_args": True}, "argument _cli_parse_args: unknown key; accepted: host"),
    ],
)
def test_wrong_arguments(explicit: dict[str, Any], start: str) -> None:
    """An argument that is wrong is named as one."""
    assert refusal(**explicit).startswith(start)


@pytest.mark.parametrize(
    ("variable", "text", "start"),
    [
        ("ASYNCMGR_TASKS", "{", "ASYNCMGR_TASKS: is not JSON: "),
        ("ASYNCMGR_TASKS", "5", "ASYNCMGR_TASKS: '5' is no table"),
        ("ASYNCMGR_TASKS__SPACING", "5", "ASYNCMGR_TASKS__SPACING: '5' is no table; accepted: spacing, cron"),
        ("ASYNCMGR_PLUGINS", "{}}", "ASYNCMGR_PLUGINS: is not JSON: "),
        ("ASYNCMGR_", "5", "ASYNCMGR_: unknown key"),
        ("ASYNCMGR__ENV_FILE", "5", "ASYNCMGR__ENV_FILE: unknown key"),
        ("ASYNCMGR_HOST__NAME", "5", "ASYNCMGR_HOST__NAME: {'name': '5'} is not accepted"),
        ("ASYNCMGR_CONFIG", "gone.toml", "gone.toml (ASYNCMGR_CONFIG names it): no such file; accepted: "),
        (
            "ASYNCMGR_CONFIG",
            "~no-such-user/a.toml",
            "~no-such-user/a.toml (ASYNCMGR_CONFIG names it): no such",
        ),
        ("ASYNCMGR_CONFIG", ".", ". (ASYNCMGR_CONFIG names it): "),
    ],
)
def test_wrong_variables(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, start: str) -> None:
    """A variable that is wrong is named, whatever its name looks like."""
    monkeypatch.setenv(variable, text)
    assert refusal().startswith(start)


@pytest.mark.skipif(sys.platform == "win32", reason="names of variables have no case there")
def test_one_setting_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One place that says the same thing twice is refused, naming both."""
    monkeypatch.setenv("ASYNCMGR_SEED", "1")
    monkeypatch.setenv("ASYNCMGR_seed", "2")
    assert refusal() == "ASYNCMGR_seed: is said by ASYNCMGR_SEED too; keep one of them"


def test_one_task_said_twice(here: Path) -> None:
    """The two shapes of a task's table may complete each other, but not contradict."""
    file = here / "asyncmgr.toml"
    file.write_text('[tasks."Volumes.sync"]\nspacing = 5\n[tasks.Volumes.sync]\njitter = 1')
    assert Settings().overrides_for(TASKS) == {"Volumes.sync": TaskSettings(spacing=5, jitter=1)}
    file.write_text('[tasks."Volumes.sync"]\nspacing = 5\n[tasks.Volumes.sync]\nspacing = 6')
    assert "[tasks.Volumes.sync] spacing: is said by " in refusal()


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"seed = ", "; accepted: a file in TOML"),
        (b"\xff\xfe", "; accepted: a file in TOML"),
        (None, "; accepted: a readable TOML file"),
    ],
)
@pytest.mark.parametrize("name", ["asyncmgr.toml", "pyproject.toml"])
def test_files_that_cannot_be_read(here: Path, name: str, content: bytes | None, fact: str) -> None:
    """A file that is there and cannot be read stops the start."""
    (here / name).mkdir() if content is None else (here / name).write_bytes(content)
    text = refusal()
    assert name in text
    assert text.endswith(fact)


def test_a_header_that_is_no_table(here: Path) -> None:
    """A value where the table of the settings should be is named."""
    (here / "pyproject.toml").write_text("[tool]\nasyncmgr = 5")
    assert refusal() == f"{here / 'pyproject.toml'}: [tool] asyncmgr: is no table; accepted: a table"


def test_secrets_are_not_shown_in_errors() -> None:
    """An error repeats no value of a key that looks secret, and no password of a URL."""

    class Own(Settings):
        bucket_password: int = 0

    with pytest.raises(InvalidSettings) as caught:
        Own(bucket_password="hunter2", seed="nats://me:hunter2@h")  # type: ignore[arg-type]
    assert "hunter2" not in str(caught.value)
    assert "argument bucket_password: the value (not shown) is not accepted" in str(caught.value)
    assert "argument seed: 'nats://***@h' is not accepted" in str(caught.value)


def test_secrets_are_not_shown_by_repr() -> None:
    """The text of settings shows stars for them; a manager's name makes no secret of its arguments."""
    arguments = {"Tokens": {"token": "hunter2", "size": 77, "hosts": ["nats://me:hunter2@h"]}}
    text = repr(Settings(transport="nats://me:hunter2@h", managers=arguments))
    assert "hunter2" not in text
    assert "transport='nats://***@h'" in text
    assert "{'Tokens': {'token': '***', 'size': 77, 'hosts': ['nats://***@h']}}" in text


def test_pydantics_error_does_not_come_along() -> None:
    """The error holds no pydantic error, as cause or as context."""
    with pytest.raises(InvalidSettings) as caught:
        Settings(seed="x")
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


def test_json_in_settings_is_as_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in JSON is checked key by key like one in a file."""
    monkeypatch.setenv("ASYNCMGR_TASKS", json.dumps({"A.b": {"spacin": 1}}))
    assert refusal().startswith("ASYNCMGR_TASKS A.b.spacin: unknown key (did you mean 'spacing'?)")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("postgresql://me:hunter2@h/jobs", "postgresql://***@h/jobs"),
        ("postgresql://me:hun/ter2@h/jobs", "postgresql://***@h/jobs"),
        (
            "postgresql://h/jobs?user=me&password=hunter2&sslmode=require",
            "postgresql://h/jobs?user=me&password=***&sslmode=require",
        ),
        ("redis://:hunter2@a,:hunter3@b/0", "redis://***@b/0"),
        ("nats://me:hunter2@a,nats://me:hunter2@b", "nats://***@a,nats://***@b"),
        ("sqlite:///var/lib/jobs.db?mode=rw", "sqlite:///var/lib/jobs.db?mode=rw"),
    ],
)
def test_secrets_of_a_store_are_not_shown(url: str, text: str) -> None:
    """A URL is shown without user and password, also where they are parameters or not written as they should be."""
    shown = repr(Settings(store=url))
    assert f"store='{text}'" in shown
    assert "hunter" not in shown


def test_a_variable_gives_a_whole_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting that is a table takes JSON."""
    tables = {
        name
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    assert {(name,) for name in tables} == TABLES
    monkeypatch.setenv("ASYNCMGR_LEASE", '{"ttl": "6s", "shards": 16}')
    monkeypatch.setenv("ASYNCMGR_MONITORING", '{"task_series": 7}')
    settings = Settings()
    assert (settings.lease.ttl, settings.lease.shards, settings.monitoring.task_series) == (6.0, 16, 7)
