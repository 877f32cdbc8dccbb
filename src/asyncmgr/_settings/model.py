"""The settings of a service. Read when the service is built, from the places that `sources` merges.

The order of places, the strongest first: arguments of `Settings`, the environment, ``asyncmgr.toml``,
``[tool.asyncmgr]`` of ``pyproject.toml``, the defaults here.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from asyncmgr._common.durations import parse_duration
from asyncmgr._settings import sources
from asyncmgr._settings.matching import Matches, fits_a_manager, match
from asyncmgr._settings.problems import fact, invalid_settings, listed, redacted, suggestion
from asyncmgr._settings.sources import Whole, read_layers
from asyncmgr._tasks.options import (
    BY_SETTINGS,
    LONGEST,
    OPTIONS,
    SETTABLE,
    CatchUp,
    Interrupted,
    Overlap,
    PeriodicTask,
    Scope,
    check_setting,
    conflict,
)
from asyncmgr._tasks.overrides import override_options
from asyncmgr._tasks.policy import Retry, retry_from
from asyncmgr.errors import InvalidPeriodicTaskArg

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

Value = TypeVar("Value")
LogLevel = Literal["debug", "info", "warning", "error", "critical"]

_SECONDS = "seconds, or e.g. '30s', '5m', '1h30m'"
_LONGEST = LONGEST.total_seconds()
_SHORTEST_BLOCK = 0.05


def _check_zone(name: str) -> str:
    check_setting("tz", name, name)
    return name


def _read_seconds(value: Any) -> float:
    try:
        return parse_duration(value)
    except ValueError:
        # The advice of this error is left out: the error of the field names the accepted range.
        raise ValueError(f"{value!r} is not a duration") from None


def _check_threshold(seconds: float) -> float:
    if 0 < seconds < _SHORTEST_BLOCK:
        raise ValueError(f"{seconds:g} s is too short")
    return seconds


def _read_retry(value: Any) -> Retry | None:
    """Read a number of attempts, or a table."""
    found = value.table if isinstance(value, Whole) else value
    if isinstance(found, str) and found.strip().isdecimal():
        found = int(found)
    try:
        if isinstance(found, Mapping):
            lengths = {key: _read_seconds(found[key]) for key in ("delay", "max_delay") if key in found}
            found = {**found, **lengths}
        return retry_from(found)
    except InvalidPeriodicTaskArg as exc:
        raise ValueError(str(exc)) from None


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"{value!r} is not a number")
    return value


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


_Seconds = Annotated[float, BeforeValidator(_read_seconds)]
_Length = Annotated[_Seconds, Field(ge=0, le=_LONGEST)]
_Integer = Annotated[int, BeforeValidator(_no_bool)]
_Level = Annotated[LogLevel, BeforeValidator(_lower)]
_LEVELS = ", ".join(get_args(LogLevel))


def _of_task(name: str) -> Any:
    """Make the field for a task option that settings may set."""
    return Field(default=None, description=OPTIONS[name].written)


class TaskSettings(BaseModel):
    """Settings of one task. `None` = not set: the declaration decides. Lengths are in seconds.

    The fields are the task options that settings may set; the table of options checks their values.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    spacing: _Seconds | None = _of_task("spacing")
    """Replaces a cron, one-off slots or a negative spacing of the declaration."""
    cron: str | None = _of_task("cron")
    """Replaces a spacing or one-off slots of the declaration."""
    tz: str | None = _of_task("tz")
    """Time zone of the cron expression, here or in the declaration."""
    run_immediately: bool | None = _of_task("run_immediately")
    initial_delay: _Seconds | None = _of_task("initial_delay")
    jitter: _Seconds | None = _of_task("jitter")
    tolerance: _Seconds | None = _of_task("tolerance")
    timeout: _Seconds | None = _of_task("timeout")
    misfire_grace: _Seconds | None = _of_task("misfire_grace")
    overlap: Annotated[Overlap, BeforeValidator(_lower)] | None = _of_task("overlap")
    phase: Annotated[Literal["auto"], BeforeValidator(_lower)] | None = _of_task("phase")
    scope: Annotated[Scope, BeforeValidator(_lower)] | None = _of_task("scope")
    persist: bool | None = _of_task("persist")
    catch_up: Annotated[CatchUp, BeforeValidator(_lower)] | None = _of_task("catch_up")
    catch_up_window: _Seconds | None = _of_task("catch_up_window")
    interrupted: Annotated[Interrupted, BeforeValidator(_lower)] | None = _of_task("interrupted")
    concurrency: _Integer | None = _of_task("concurrency")
    retry: Annotated[InstanceOf[Retry], BeforeValidator(_read_retry)] | None = _of_task("retry")
    """Which errors are tried again is said by the declaration."""
    backoff: bool | None = _of_task("backoff")
    pause_after: _Integer | None = _of_task("pause_after")
    freshness: _Seconds | None = _of_task("freshness")
    critical: bool | None = _of_task("critical")
    enabled: bool | None = _of_task("enabled")
    """Decides whether the task runs, whatever spacing and cron say."""
    log_level: _Level | None = Field(default=None, description=_LEVELS)
    """Level of the line logged for each run that succeeds; `None` = no such line."""

    @field_validator(*(option.name for option in SETTABLE), mode="wrap")
    @classmethod
    def _check_option(cls, value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        found = read(value)
        if found is not None and info.field_name is not None:
            check_setting(info.field_name, found, value)
        return found

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        pair = conflict({name: value for name, value in self if value is not None})
        if pair is not None:
            raise ValueError(f"{pair[0]} and {pair[1]} exclude each other; keep one of them")
        return self


class PluginSettings(BaseModel):
    """Which plugins are not loaded."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    disabled: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        default=(), description="names of entry points; in a variable separated by commas"
    )


_SUBJECT = r"^[A-Za-z0-9_=-]+(\.[A-Za-z0-9_=-]+)*$"
_DOMAIN = r"^[A-Za-z0-9_-]+$"


class NatsSettings(BaseModel):
    """Credentials for NATS servers, and how to verify the servers. Files are read at each connect.

    Set one kind of credentials only: user with password, token, nkey or credentials file, or those in the URL. With any
    of the ``tls_`` keys, or ``tls://`` in the URL, servers without TLS are refused. The servers' certificate is always
    verified. The server's own settings of JetStream, limits and permissions apply as well.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    user: str | None = Field(default=None, min_length=1, description="a name, beside password")
    password: SecretStr | None = Field(default=None, description="text, beside user")
    token: SecretStr | None = Field(default=None, description="text")
    nkey_seed_file: Path | None = Field(default=None, description="a file that holds the seed of an nkey")
    credentials_file: Path | None = Field(default=None, description="a .creds file")
    tls_ca_file: Path | None = Field(default=None, description="a PEM file, in place of the system's CAs")
    tls_cert_file: Path | None = Field(default=None, description="a PEM file with this client's certificate")
    tls_key_file: Path | None = Field(default=None, description="a PEM file, beside tls_cert_file")
    tls_hostname: str | None = Field(
        default=None, min_length=1, description="the name in the servers' certificate; without it, the URL's"
    )
    tls_first: bool = Field(default=False, description="true or false")
    """Whether the servers begin with TLS (``handshake_first``), so that even their greeting is encrypted."""
    connect_timeout: Annotated[_Length, Field(gt=0)] = Field(
        default=5.0, description=f"{_SECONDS}; more than 0"
    )
    """Seconds that one server may take to accept the connection."""
    ignore_discovered: bool = Field(default=False, description="true or false")
    """Whether to connect only to the servers of the URL, and not to others that these servers announce."""
    inbox_prefix: Annotated[str, Field(pattern=_SUBJECT)] = Field(
        default="_INBOX", description="tokens of A-Za-z0-9_=- joined by dots"
    )
    """Prefix of the subjects that replies go to. Set it if the user's permissions allow only a prefix of its own."""
    jetstream_domain: Annotated[str, Field(pattern=_DOMAIN)] | None = Field(
        default=None, description="a domain's name"
    )
    """The JetStream domain that keeps the stores, if it is not that of the connected server."""
    replicas: Annotated[_Integer, Field(ge=1, le=5)] = Field(default=1, description="1 to 5")
    """Servers of the cluster that keep a copy of each store. Applies only when a store is created."""

    @model_validator(mode="after")
    def _check_kinds(self) -> Self:
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password go together; give both, or neither")
        kinds = [kind for kind in _CREDENTIALS if getattr(self, kind) is not None]
        if len(kinds) > 1:
            raise ValueError(f"{' and '.join(kinds)} exclude each other; keep one of them")
        if self.tls_key_file and not self.tls_cert_file:
            raise ValueError(
                "tls_key_file is the key of a certificate; give tls_cert_file too, or leave it out"
            )
        return self


_CREDENTIALS = ("user", "token", "nkey_seed_file", "credentials_file")


class LeaseSettings(BaseModel):
    """How processes agree who runs what only one of them may run."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    ttl: Annotated[_Length, Field(ge=1, le=3600)] = Field(default=10.0, description=f"{_SECONDS}; 1 s to 1 h")
    """Seconds after which others take over what a silent host holds. The host itself stops after three quarters."""
    directory: Path | None = Field(
        default=None,
        description="a local directory of the user's own, which the processes of a machine share",
    )
    """Where the locks of this machine are; `None` = in the user's run-time directory, or that for temporary files."""

    shards: Annotated[int, Field(ge=1, le=4096)] = Field(default=256, description="1 to 4096")
    """Into how many parts the keys of a task with `each=` are shared out among hosts: some 20 for each host. The first
    host of a task writes the number down for all others."""


class MonitoringSettings(BaseModel):
    """What a service tells over HTTP, to Prometheus and to OpenTelemetry."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    http: str | None = Field(
        default=None, min_length=1, description="HOST:PORT, or a port such as 8080 of this machine alone"
    )
    """Where `asyncmgr run` serves health, metrics and the page; `None` = nowhere."""
    http_token: SecretStr | None = Field(default=None, min_length=16, description="16 characters or more")
    """What a browser or program has to know to use verbs such as `pause`; `None` = nobody may over HTTP."""
    hosts: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        default=(), description="host names, or '*'; in a variable separated by commas"
    )
    """Names under which HTTP requests may come, beside ``localhost`` and addresses; ``*`` = any."""
    ready_needs: Annotated[tuple[Literal["transport", "store"], ...], BeforeValidator(_split)] = Field(
        default=(), description="transport, store; in a variable separated by commas"
    )
    """The connections without which the service is not ready. By default none: one dead upstream would take every
    replica out at once."""
    task_series: Annotated[_Integer, Field(ge=0)] = Field(default=1000, description="a whole number")
    """Tasks that have metrics of their own; the others of a manager share one series, ``task="(others)"``."""
    opentelemetry: bool = Field(default=False, description="true or false")
    """Whether `asyncmgr run` makes a span of each run and each served call."""


class Settings(BaseModel):
    """The settings of one service; immutable. ``Settings(host="a")`` reads the environment and the files.

    An argument is stronger than all other places; `None` = not given. Files are looked for in the current directory;
    ``ASYNCMGR_CONFIG`` names another file in place of ``asyncmgr.toml``.

    Raises
    ------
    InvalidSettings
        A key or variable is unknown, a value is wrong, or a file cannot be read. One error lists all problems, each
        with its place, its key and what is accepted.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        # For fields that an application adds: their defaults are validated too, and may be of any type.
        validate_default=True,
        arbitrary_types_allowed=True,
    )

    host: str | None = Field(default=None, min_length=1, description="a name; without it, the machine's")
    transport: str = Field(
        default="memory://", min_length=1, description="a URL such as 'memory://' or 'nats://host:4222'"
    )
    store: str | None = Field(
        default=None, min_length=1, description="a URL such as 'postgresql://user@host/database'"
    )
    """Where capabilities, leases and slots are kept; `None` = in the transport's own store."""
    application: str | None = Field(
        default=None, min_length=1, description="a name; without it, the service's"
    )
    """Processes of one application share their tasks of a scope, and their leases; `None` = the service's name."""
    connect: Annotated[Literal["wait", "required"], BeforeValidator(_lower)] = Field(
        default="required", description="wait, required"
    )
    """`required`: a start fails if the transport cannot be reached. `wait`: the schedule starts without it."""
    run_external_periodic_tasks: bool = Field(default=True, description="true or false")
    """`False`: tasks declared with `external_process_ok` are left to another process."""
    tolerance: _Length = Field(default=0.2, description=f"{_SECONDS}; 0 for exact")
    """Seconds: the nearly-due window of tasks that declare none."""
    phase: Annotated[Literal["auto"], BeforeValidator(_lower)] | None = Field(
        default=None, description="auto"
    )
    """`auto`: tasks without a phase of their own begin at a share of their spacing, stable for each host and task."""
    timezone: Annotated[str, AfterValidator(_check_zone)] = Field(
        default="UTC", description="a time zone such as 'Europe/Berlin', or 'local'"
    )
    """Time zone of cron tasks that declare none."""
    start_delay: _Length = Field(default=0.0, description=f"{_SECONDS}; at least 0")
    """Seconds: upper bound of the random delay before the first slot."""
    drain_timeout: _Length = Field(default=30.0, description=f"{_SECONDS}; at least 0")
    """Seconds that runs and calls may take to end when the service stops."""
    block_threshold: Annotated[_Length, AfterValidator(_check_threshold)] = Field(
        default=1.0, description=f"{_SECONDS}; at least 0.05, or 0 = blocks are not watched for"
    )
    """Seconds for which the event loop may be blocked before that is told; 0 = it is not watched."""
    seed: _Integer | None = Field(default=None, description="a whole number")
    """Seed of the generator that draws jitter and delays; `None` = a new one at each start."""
    capability_ttl: Annotated[_Length, Field(gt=0)] = Field(
        default=60.0, description=f"{_SECONDS}; more than 0"
    )
    """Seconds without news after which a host is gone."""
    rpc_concurrency: Annotated[_Integer, Field(ge=1)] = Field(
        default=64, description="a whole number, at least 1"
    )
    """Calls of other services that run at once; more calls wait."""
    max_runs: Annotated[_Integer, Field(ge=1)] | None = Field(
        default=None, description="a whole number, at least 1"
    )
    """Runs of the service in progress at once; more runs wait, and keep their slot. `None` = any number."""
    history: str | None = Field(
        default=None, min_length=1, description="a URL such as 'sqlite:///var/lib/app/history.db'"
    )
    """The file that keeps what became of every slot; `None` = memory keeps the newest 65,536 of fast and slow tasks."""
    control: bool | None = Field(default=None, description="true or false")
    """Whether the service has a control socket for its own user; `None` = only under ``asyncmgr run``."""
    rpc_control: bool = Field(default=False, description="true or false")
    """Whether callers may use the verbs of tasks, such as `pause`. They may always read the status."""
    log_level: _Level = Field(default="info", description=_LEVELS)
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(_lower)] = Field(
        default="auto", description="auto, console, json"
    )
    tasks: dict[str, TaskSettings] = Field(default={}, description="tables such as [tasks.'Manager.task']")
    """Task settings by the name as written; `overrides_for` finds those of existing tasks."""
    managers: dict[str, dict[str, Any]] = Field(default={}, description="tables such as [managers.Name]")
    """Constructor arguments by the manager's name as written; `arguments_for` finds those of existing managers."""
    plugins: PluginSettings = Field(default=PluginSettings(), description="the table [plugins]")
    lease: LeaseSettings = Field(default=LeaseSettings(), description="the table [lease]")
    monitoring: MonitoringSettings = Field(default=MonitoringSettings(), description="the table [monitoring]")
    nats: NatsSettings = Field(default=NatsSettings(), description="the table [nats]")

    _explicit: dict[str, Any] = PrivateAttr(default_factory=dict)
    _places: dict[sources.Keys, str] = PrivateAttr(default_factory=dict)

    def __init__(self, /, **explicit: Any) -> None:
        """Read the settings from all places; `explicit` is the strongest."""
        found = read_layers(explicit, fields=type(self).model_fields)
        kept = sources.merge(found)
        places = {path: placed.place for path, placed in kept.items()}
        problems = []
        try:
            super().__init__(**sources.as_tree(kept, found))
        except ValidationError as exc:
            problems = [_describe(error, type(self), places) for error in exc.errors(include_url=False)]
        # Raised outside the handler: pydantic's error holds the values, secrets too, and would become the context.
        if problems:
            raise invalid_settings(problems)
        self._explicit, self._places = explicit, places

    @property
    def resolved_host(self) -> str:
        """`host`, or the machine's name at this moment."""
        return self.host or socket.gethostname()

    def with_arguments(self, **more: Any) -> Self:
        """Copy these settings with more explicit arguments, which a reload keeps."""
        return type(self)(**{**self._explicit, **more})

    def reload(self) -> Self:
        """Read the settings again, with the same explicit arguments."""
        return type(self)(**self._explicit)

    def match_tasks(self, full_names: Iterable[str]) -> Matches[TaskSettings]:
        """Find the settings of these tasks, by full name, and the tables that match none of them. Raises nothing."""
        names = list(full_names)
        managers = {name.rpartition(".")[0] for name in names}
        return match(
            "task",
            self.tasks,
            names,
            place_of=lambda key: self.place_of("tasks", key),
            others_fit=fits_a_manager(self.managers, managers),
        )

    def match_managers(self, names: Iterable[str]) -> Matches[dict[str, Any]]:
        """Find the constructor arguments of these managers, and the tables that match none of them. Raises nothing."""
        managers = list(names)
        return match(
            "manager",
            self.managers,
            managers,
            place_of=lambda key: self.place_of("managers", key),
            others_fit=fits_a_manager(self.tasks, managers),
        )

    def overrides_for(self, full_names: Iterable[str], *, strict: bool = True) -> dict[str, TaskSettings]:
        """Find the settings of these tasks, by full name; names are compared without case.

        Raises
        ------
        InvalidSettings
            A key matches two tasks. If `strict`, also if a key matches none, unless it is another service's: it is not
            one edit away from a task, and another table of the settings matches this service.
        """
        return _matched(self.match_tasks(full_names), strict=strict)

    def arguments_for(self, names: Iterable[str], *, strict: bool = True) -> dict[str, dict[str, Any]]:
        """Find the constructor arguments of these managers; raises as `overrides_for` does."""
        return _matched(self.match_managers(names), strict=strict)

    def put_over(self, declared: PeriodicTask, full_name: str, override: TaskSettings) -> PeriodicTask:
        """Merge a task's declaration with its settings into the options in force.

        Raises
        ------
        InvalidSettings
            A setting means nothing beside the declaration. The text names its place.
        """
        try:
            options = override_options(declared, override)
        except InvalidPeriodicTaskArg as exc:
            text = str(exc)
            place = self.place_of("tasks", full_name, text.partition("=")[0])
            raise invalid_settings([f"{place}: {full_name}: {text}"]) from None
        if override.enabled is False and declared.switched_off is None:
            # Somebody looks for the cause in the code else, where the task is switched on.
            place = self.place_of("tasks", full_name, "enabled").replace(": ", ", ", 1)
            options = replace(options, switched_off=f"{BY_SETTINGS}{place}")
        return options

    def place_of(self, *path: str) -> str:
        """Say where a value was written, for error texts: ``place_of("managers", "Volumes", "driver")``."""
        return _place_of(path, self._places)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Show the settings without secrets."""
        for name, value in super().__repr_args__():
            yield name, redacted(value, (name,))


def _matched(found: Matches[Value], *, strict: bool) -> dict[str, Value]:
    if found.doubles or strict:
        found.raise_problems()
    return dict(found.matched)


# Texts of what is wrong


def _describe(error: ErrorDetails, model: type[Settings], places: Mapping[sources.Keys, str]) -> str:
    path = tuple(str(key) for key in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(path, model, places)
    fields, key = _table_at(path, model)
    accepted = (key in fields and fields[key].description) or listed(fields)
    return f"{_place_of(path, places)}: {fact(error, path)}; accepted: {accepted}"


def _unknown(path: sources.Keys, model: type[Settings], places: Mapping[sources.Keys, str]) -> str:
    fields, key = _table_at(path, model)
    return f"{_place_of(path, places)}: unknown key{suggestion(key, fields)}; accepted: {listed(fields)}"


def _table_at(path: sources.Keys, model: type[Settings]) -> tuple[Mapping[str, FieldInfo], str]:
    """Find the fields of the table that `path` leads to, and the last key of `path`."""
    match path:
        case ("tasks", _):
            return TaskSettings.model_fields, ""
        case ("tasks", _, key, *_):
            return TaskSettings.model_fields, key
        case ("plugins", key, *_):
            return PluginSettings.model_fields, key
        case ("lease", key, *_):
            return LeaseSettings.model_fields, key
        case ("lease",):
            return LeaseSettings.model_fields, ""
        case ("nats", key, *_):
            return NatsSettings.model_fields, key
        case ("nats",):
            return NatsSettings.model_fields, ""
        case (key, *_):
            return model.model_fields, key
    return model.model_fields, ""


def _place_of(path: sources.Keys, places: Mapping[sources.Keys, str]) -> str:
    """Find the place of the value at `path`, else of a value below it, else of the nearest table around it."""
    wanted = sources.folded(path)
    below = (place for key, place in places.items() if wanted and key[: len(wanted)] == wanted)
    around = (places[wanted[:end]] for end in range(len(wanted), 0, -1) if wanted[:end] in places)
    return next(below, None) or next(around, "settings")
