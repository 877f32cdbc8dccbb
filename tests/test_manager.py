"""Managers: which tasks a class has, what each instance keeps for itself, and who may drive it."""

from __future__ import annotations

import abc
import asyncio
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest
import structlog
import time_machine

from asyncmgr import (
    InvalidPeriodicTaskArg,
    InvalidSettings,
    Manager,
    ManagerInUse,
    ManagerNotInitialised,
    SchedulerDependentManager,
    Service,
    Settings,
    TaskRemoved,
    periodic_task,
)
from asyncmgr._common.clock import Moment
from asyncmgr._service.gather import RESERVED
from tests.helpers import Bare

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    """A wall clock that only the test moves."""
    with time_machine.travel(START, tick=False) as traveller:
        yield traveller


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


def names(manager: type[Manager] | Manager) -> list[str]:
    instance = manager() if isinstance(manager, type) else manager
    return [status.name for status in instance.task_status()]


class Noting(Manager):
    """Notes the runs of its tasks."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ran: list[str] = []


async def one_pass(manager: Noting) -> list[str]:
    """What one pass runs."""
    manager.ran.clear()
    await manager.periodic_tasks(None, raise_on_error=True)
    return manager.ran


class Parent(Noting):
    @periodic_task(run_immediately=True, spacing=10)
    async def first(self, context: object) -> None:
        self.ran.append("Parent.first")

    @periodic_task(run_immediately=True, spacing=20)
    async def second(self, context: object) -> None:
        self.ran.append("Parent.second")


# Inheritance


async def test_tasks_come_in_definition_order_inherited_first() -> None:
    """A child's own tasks follow those of its parent."""

    class Child(Parent):
        @periodic_task
        async def alpha(self, context: object) -> None:
            self.ran.append("Child.alpha")

    assert names(Child) == ["first", "second", "alpha"]
    assert await one_pass(Child()) == ["Parent.first", "Parent.second", "Child.alpha"]


async def test_a_decorated_override_wins_and_keeps_the_parents_place() -> None:
    """The child's body runs once, on the child's schedule; the parent's does not run."""

    class Child(Parent):
        @periodic_task
        async def own(self, context: object) -> None:
            self.ran.append("Child.own")

        @periodic_task(spacing=5, run_immediately=True)
        async def first(self, context: object) -> None:
            self.ran.append("Child.first")

    assert [(status.name, status.spacing) for status in Child().task_status()] == [
        ("first", 5.0),
        ("second", 20.0),
        ("own", 0.0),
    ]
    assert await one_pass(Child()) == ["Child.first", "Parent.second", "Child.own"]


async def test_an_override_without_the_decorator_keeps_the_parents_schedule() -> None:
    """Only the body changes."""

    class Child(Parent):
        async def first(self, context: object) -> None:
            self.ran.append("Child.first")

    assert [(status.name, status.spacing) for status in Child().task_status()] == [
        ("first", 10.0),
        ("second", 20.0),
    ]
    assert await one_pass(Child()) == ["Child.first", "Parent.second"]


@pytest.mark.parametrize("options", [{"enabled": False}, {"spacing": -1}])
async def test_an_override_can_switch_a_task_off(options: dict[str, Any]) -> None:
    """By `enabled=False` or a negative spacing; the parent's task stays as it is."""

    class Child(Parent):
        @periodic_task(**options)
        async def first(self, context: object) -> None: ...

    assert names(Child) == ["second"]
    assert await one_pass(Child()) == ["Parent.second"]
    assert names(Parent) == ["first", "second"]


def test_a_grandchild_can_switch_a_task_on_again() -> None:
    """In its old place; the class in between stays without it."""

    class Child(Parent):
        @periodic_task(enabled=False)
        async def first(self, context: object) -> None: ...

    class Grandchild(Child):
        @periodic_task(spacing=3)
        async def first(self, context: object) -> None: ...

    assert names(Grandchild) == ["first", "second"]
    assert names(Child) == ["second"]


def test_an_undecorated_override_of_a_task_that_is_off_stays_off() -> None:
    """It keeps the parent's schedule, which is none."""

    class Child(Parent):
        @periodic_task(spacing=-1)
        async def first(self, context: object) -> None: ...

    class Grandchild(Child):
        async def first(self, context: object) -> None: ...

    assert names(Grandchild) == ["second"]


async def test_none_deletes_a_task() -> None:
    """`first = None`, as Python does for `__hash__`; also where a class further down has a method of that name."""

    class Child(Parent):
        first = None  # type: ignore[assignment]

    class Grandchild(Child):
        async def first(self, context: object) -> None:  # type: ignore[override]
            self.ran.append("Grandchild.first")

    assert names(Child) == ["second"]
    assert await one_pass(Child()) == ["Parent.second"]
    assert names(Grandchild) == ["second"]


async def test_a_deleted_task_can_be_declared_again() -> None:
    """It is back in its old place."""

    class Child(Parent):
        first = None  # type: ignore[assignment]

    class Grandchild(Child):
        @periodic_task
        async def first(self, context: object) -> None:  # type: ignore[override]
            self.ran.append("Grandchild.first")

    assert await one_pass(Grandchild()) == ["Grandchild.first", "Parent.second"]


class Mixin:
    """No manager."""

    ran: list[str]

    @periodic_task
    async def mixed(self, context: object) -> None:
        self.ran.append("Mixin.mixed")


class Other(Noting):
    @periodic_task
    async def other(self, context: object) -> None:
        self.ran.append("Other.other")

    @periodic_task(spacing=7)
    async def second(self, context: object) -> None:
        self.ran.append("Other.second")


async def test_tasks_of_a_plain_mixin_count() -> None:
    """Wherever it stands among the bases."""

    class Before(Mixin, Parent): ...

    class After(Parent, Mixin): ...

    assert await one_pass(Before()) == ["Mixin.mixed", "Parent.first", "Parent.second"]
    assert await one_pass(After()) == ["Parent.first", "Parent.second", "Mixin.mixed"]


async def test_tasks_of_all_bases_count() -> None:
    """Base by base; where two have a task of one name, Python's method resolution decides."""

    class Both(Parent, Other): ...

    class Reverse(Other, Parent): ...

    assert names(Both) == ["first", "second", "other"]
    assert await one_pass(Both()) == ["Parent.first", "Parent.second", "Other.other"]
    assert names(Reverse) == ["other", "second", "first"]
    assert {status.name: status.spacing for status in Reverse().task_status()}["second"] == 7.0


async def test_a_diamond_has_each_task_once() -> None:
    """The override nearest in the method resolution order runs."""

    class Left(Parent):
        async def second(self, context: object) -> None:
            self.ran.append("Left.second")

    class Right(Parent):
        @periodic_task(spacing=3, run_immediately=True)
        async def first(self, context: object) -> None:
            self.ran.append("Right.first")

    class Bottom(Left, Right): ...

    assert [(status.name, status.spacing) for status in Bottom().task_status()] == [
        ("first", 3.0),
        ("second", 20.0),
    ]
    assert await one_pass(Bottom()) == ["Right.first", "Left.second"]


async def test_super_reaches_the_parents_body() -> None:
    """An override can add to what it overrides."""

    class Child(Parent):
        async def first(self, context: object) -> None:
            await super().first(context)
            self.ran.append("Child.first")

    assert await one_pass(Child()) == ["Parent.first", "Child.first", "Parent.second"]


def test_a_later_subclass_changes_nothing_of_its_parent() -> None:
    """Neither the schedule nor the set."""
    before = [(status.name, status.spacing) for status in Parent().task_status()]

    class Child(Parent):
        @periodic_task(spacing=1)
        async def first(self, context: object) -> None: ...

        @periodic_task(spacing=1)
        async def third(self, context: object) -> None: ...

    assert [(status.name, status.spacing) for status in Parent().task_status()] == before


async def test_a_user_may_bring_a_metaclass() -> None:
    """The package needs none of its own."""

    class Registry(type):
        classes: ClassVar[list[str]] = []

        def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> None:
            super().__init__(name, bases, namespace)
            cls.classes.append(name)

    class Registered(Parent, metaclass=Registry): ...

    class Abstract(Noting, abc.ABC):
        @periodic_task(run_immediately=True)
        @abc.abstractmethod
        async def first(self, context: object) -> None: ...

    class Concrete(Abstract):
        async def first(self, context: object) -> None:
            self.ran.append("Concrete.first")

    assert Registry.classes == ["Registered"]
    assert await one_pass(Registered()) == ["Parent.first", "Parent.second"]
    assert await one_pass(Concrete()) == ["Concrete.first"]


def test_class_arguments_reach_the_users_own_init_subclass() -> None:
    """`Manager.__init_subclass__` hands on what it does not know."""

    class Kinds:
        kind: str

        def __init_subclass__(cls, kind: str = "", **kwargs: Any) -> None:
            super().__init_subclass__(**kwargs)
            cls.kind = kind

    class Disks(Manager, Kinds, kind="disk"): ...

    assert Disks.kind == "disk"


# What is refused at class creation


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_name_of_the_manager_cannot_be_a_task(name: str) -> None:
    """Neither as the method's name nor as `name=`."""

    async def method(self: Manager, context: object) -> None: ...

    message = f"Disks.{{}}: '{name}' belongs to Manager; give the task another name"
    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        type("Disks", (Manager,), {name: periodic_task(method)})
    assert str(caught.value) == message.format(name)


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_name_of_the_manager_cannot_be_given_to_a_task(name: str) -> None:
    """`name=` obeys the same rule."""

    async def method(self: Manager, context: object) -> None: ...

    with pytest.raises(InvalidPeriodicTaskArg, match=f"Disks.sweep: '{name}' belongs to Manager"):
        type("Disks", (Manager,), {"sweep": periodic_task(name=name)(method)})


def test_the_reserved_names_are_those_of_the_contract() -> None:
    """Every other name is the user's."""
    assert " ".join(sorted(RESERVED)) == (
        "RPC_API_NAMESPACE RPC_API_VERSION add_periodic_task cleanup_host host init_host name periodic_tasks "
        "post_start_hook pre_start_hook reload service settings task_status"
    )
    public = {name for name in vars(Manager) if not name.startswith("_")}
    assert public == RESERVED


def test_two_tasks_of_one_name_are_refused() -> None:
    """Own or inherited: the message names the class, the name and both methods."""
    with pytest.raises(InvalidPeriodicTaskArg) as caught:

        class Disks(Parent):
            @periodic_task(name="first")
            async def another(self, context: object) -> None: ...

    assert str(caught.value) == (
        "Disks has two tasks named 'first': first and another; give one another name="
    )


def test_an_alias_is_a_task_of_its_own_name() -> None:
    """Tasks are known by their attribute, not by `__name__`."""

    class Disks(Manager):
        @periodic_task
        async def sweep(self, context: object) -> None: ...

        clean = sweep

    assert names(Disks) == ["sweep", "clean"]


def test_an_alias_of_a_named_task_is_refused() -> None:
    """It would have the same name."""
    with pytest.raises(InvalidPeriodicTaskArg, match="Disks has two tasks named 'x': sweep and clean"):

        class Disks(Manager):
            @periodic_task(name="x")
            async def sweep(self, context: object) -> None: ...

            clean = sweep


@pytest.mark.parametrize("wrap", [staticmethod, classmethod])
def test_a_task_below_staticmethod_or_classmethod_is_refused(wrap: Any) -> None:
    """It is not hidden in silence."""

    async def sweep(self: Manager, context: object) -> None: ...

    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        type("Disks", (Manager,), {"sweep": wrap(periodic_task(sweep))})
    assert str(caught.value) == f"Disks.sweep is a {wrap.__name__}; write 'async def sweep(self, context)'"


def test_an_override_that_cannot_be_a_task_is_refused() -> None:
    """It would inherit the schedule: the message names class and method, what it is and what to write."""
    with pytest.raises(
        InvalidPeriodicTaskArg, match=r"Child\.first is a plain function; .* needs 'async def'"
    ):

        class Child(Parent):
            def first(self, context: object) -> None: ...  # type: ignore[override]

    with pytest.raises(
        InvalidPeriodicTaskArg, match=r"\.Wide\.first\(self, .* cannot be called with \(self, context\)"
    ):

        class Wide(Parent):
            async def first(self, context: object, path: str) -> None: ...  # type: ignore[override]

    with pytest.raises(InvalidPeriodicTaskArg, match=r"\.Value\.first is no function; .* needs 'async def'"):

        class Value(Parent):
            first = 5  # type: ignore[assignment]


# Names


def test_a_managers_name_is_its_class_name() -> None:
    """Of the class that is asked, on the class and on an instance."""

    class Child(Parent): ...

    assert (Parent.name, Child.name, Child().name) == ("Parent", "Child", "Child")
    assert [status.full_name for status in Child().task_status()] == ["Child.first", "Child.second"]


def test_a_manager_may_have_another_name() -> None:
    """Given on the class or by the instance; it is the first half of the full names."""

    class Disks(Parent):
        name = "disks"

    instance = Parent()
    instance.name = "special"
    assert Disks().task_status()[0].full_name == "disks.first"
    assert instance.task_status()[0].full_name == "special.first"
    assert Parent().task_status()[0].full_name == "Parent.first"


def test_a_task_may_have_another_name() -> None:
    """`name=` replaces the method's in status and full name."""

    class Disks(Manager):
        @periodic_task(name="sweep-all")
        async def sweep(self, context: object) -> None: ...

    status = Disks().task_status()[0]
    assert (status.name, status.full_name) == ("sweep-all", "Disks.sweep-all")


async def test_an_undecorated_override_keeps_the_tasks_name() -> None:
    """And the method of the child is what runs."""

    class Disks(Noting):
        @periodic_task(name="sweep-all")
        async def sweep(self, context: object) -> None: ...

    class Child(Disks):
        async def sweep(self, context: object) -> None:
            self.ran.append("Child.sweep")

    assert names(Child) == ["sweep-all"]
    assert await one_pass(Child()) == ["Child.sweep"]


def test_every_other_name_is_the_users() -> None:
    """Also those that another library's managers would take."""

    class Disks(Manager):
        start = stop = run = state = entries = clock = tasks = log = context = 5

    assert Disks().entries == 5


# What is switched off


def test_a_disabled_task_is_told_once_at_class_creation(logs: list[Any]) -> None:
    """One info line with manager, task and reason; none for instances, none for a subclass that changes nothing."""

    class Disks(Manager):
        @periodic_task(enabled=False)
        async def sweep(self, context: object) -> None: ...

        @periodic_task(spacing=-1, name="trim-all")
        async def trim(self, context: object) -> None: ...

    class Child(Disks): ...

    assert names(Disks) == names(Child) == []
    assert logs == [
        {
            "event": "task.disabled",
            "log_level": "info",
            "manager": "Disks",
            "task": "sweep",
            "reason": "it is not enabled",
        },
        {
            "event": "task.disabled",
            "log_level": "info",
            "manager": "Disks",
            "task": "trim-all",
            "reason": "its spacing is negative",
        },
    ]


def test_an_override_that_switches_off_is_told(logs: list[Any]) -> None:
    """Once, with the name of the class that does it."""

    class Child(Parent):
        @periodic_task(enabled=False)
        async def first(self, context: object) -> None: ...

    class Grandchild(Child):
        async def first(self, context: object) -> None: ...

    assert [(log["manager"], log["task"]) for log in logs] == [("Child", "first")]


def test_a_disabled_task_of_a_mixin_is_told_by_the_manager_that_takes_it(logs: list[Any]) -> None:
    """The mixin's own class creation is nobody's."""

    class Off:
        @periodic_task(enabled=False)
        async def sweep(self, context: object) -> None: ...

    class Disks(Off, Manager): ...

    class Child(Disks): ...

    assert [(log["manager"], log["task"]) for log in logs] == [("Disks", "sweep")]


def test_tasks_that_are_on_are_not_told(logs: list[Any]) -> None:
    """Declaring is silent."""

    class Child(Parent): ...

    assert logs == []


# Instances


def test_constructing_does_no_io(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings are read and the machine is asked for its name at first use only."""
    monkeypatch.setenv("ASYNCMGR_HOST", "")
    monkeypatch.setattr(socket, "gethostname", lambda: pytest.fail("asked for the machine's name"))
    manager = Parent()
    with pytest.raises(InvalidSettings, match="ASYNCMGR_HOST"):
        _ = manager.host


def test_the_host_is_the_argument_the_setting_or_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order; an empty argument is none."""
    monkeypatch.setattr(socket, "gethostname", lambda: "machine")
    assert Parent().host == "machine"
    assert Parent(host="").host == "machine"
    monkeypatch.setenv("ASYNCMGR_HOST", "from-environment")
    assert Parent().host == "from-environment"
    assert Parent(settings=Settings(host="from-settings")).host == "from-settings"
    assert Parent(host="given", settings=Settings(host="from-settings")).host == "given"


def test_settings_are_those_given_or_read_once() -> None:
    """Two looks see one object."""
    settings = Settings(tolerance=1)
    assert Parent(settings=settings).settings is settings
    manager = Parent()
    assert manager.settings is manager.settings


class Forgetful(Manager):
    """Does not call its parent's `__init__`."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    @periodic_task
    async def sweep(self, context: object) -> None: ...


FORGOTTEN = r"^Forgetful.__init__ does not call super\(\).__init__\(\); call it first$"


@pytest.mark.parametrize("use", ["host", "settings", "service"])
def test_a_forgotten_init_is_told_at_first_use(use: str) -> None:
    """Not as an AttributeError from within the package."""
    with pytest.raises(ManagerNotInitialised, match=FORGOTTEN):
        getattr(Forgetful(), use)


async def test_a_forgotten_init_is_told_by_every_method() -> None:
    """The pass, the status, adding a task and a service."""
    with pytest.raises(ManagerNotInitialised, match=FORGOTTEN):
        await Forgetful().periodic_tasks(None)
    with pytest.raises(ManagerNotInitialised, match=FORGOTTEN):
        Forgetful().task_status()
    with pytest.raises(ManagerNotInitialised, match=FORGOTTEN):
        Forgetful().add_periodic_task(added)
    with pytest.raises(ManagerNotInitialised, match=FORGOTTEN):
        await Service(Forgetful()).start()


def test_a_missing_attribute_is_named_as_python_names_it() -> None:
    """Also inside a property, whose own error is not covered by another."""

    class Disks(Manager):
        @property
        def pool(self) -> object:
            return self._pol  # type: ignore[attr-defined]

    with pytest.raises(AttributeError, match="'Disks' object has no attribute '_pol'"):
        _ = Disks().pool


async def test_state_belongs_to_the_instance(clock: time_machine.Traveller) -> None:
    """One instance's run is not another's, and a class keeps nothing."""
    one, two = Parent(), Parent()
    assert await one_pass(one) == ["Parent.first", "Parent.second"]
    assert [status.last_run for status in two.task_status()] == [None, None]
    clock.shift(5)
    assert await one_pass(one) == []
    assert await one_pass(two) == ["Parent.first", "Parent.second"]
    assert [status.last_run for status in one.task_status()] == [START, START]


async def test_a_run_looks_the_method_up_on_the_instance() -> None:
    """A method patched on the instance is what runs."""
    manager = Parent()

    async def patched(context: object) -> None:
        manager.ran.append("patched")

    manager.first = patched  # type: ignore[method-assign]
    assert await one_pass(manager) == ["patched", "Parent.second"]


# task_status


async def test_task_status_shows_wall_time(clock: time_machine.Traveller) -> None:
    """Definition order; seconds, the schedule in words, the last start and what remains from now on."""

    class Disks(Manager):
        @periodic_task
        async def heartbeat(self, context: object) -> None: ...

        @periodic_task(spacing=90.5)
        async def sweep(self, context: object) -> None: ...

        @periodic_task(cron="30 2 * * *", tz="Europe/Berlin")
        async def trim(self, context: object) -> None: ...

        @periodic_task(spacing=timedelta(days=1), initial_delay=5)
        async def count(self, context: object) -> None: ...

    disks = Disks()
    clock.shift(10)
    now = START + timedelta(seconds=10)
    assert [
        (status.name, status.spacing, status.schedule, status.last_run, status.next_due)
        for status in disks.task_status()
    ] == [
        ("heartbeat", 0.0, "every pass", None, now),
        ("sweep", 90.5, "every 1m30.5s", None, START + timedelta(seconds=90.5)),
        ("trim", None, "30 2 * * *", None, datetime(2026, 1, 1, 1, 30, tzinfo=UTC)),
        ("count", 86_400.0, "every 1d", None, now),
    ]
    await disks.periodic_tasks(None)
    clock.shift(20)
    assert [(status.last_run, status.next_due) for status in disks.task_status()] == [
        (now, now + timedelta(seconds=20)),
        (None, START + timedelta(seconds=90.5)),
        (None, datetime(2026, 1, 1, 1, 30, tzinfo=UTC)),
        (now, START + timedelta(days=1, seconds=5)),
    ]


async def test_next_due_is_wall_time_now_plus_what_remains(clock: time_machine.Traveller) -> None:
    """After a set-back the slot is as far away as before, so it is shown earlier on the wall."""
    manager = Parent()
    await manager.periodic_tasks(None)
    clock.shift(4)
    manager.task_status()
    clock.shift(-3600)
    wall = START + timedelta(seconds=4 - 3600)
    assert [status.next_due for status in manager.task_status()] == [
        wall + timedelta(seconds=6),
        wall + timedelta(seconds=16),
    ]


def test_task_status_lists_only_what_is_switched_on_here() -> None:
    """Neither disabled tasks nor those left to another process."""

    class Disks(Manager):
        @periodic_task(external_process_ok=True)
        async def elsewhere(self, context: object) -> None: ...

        @periodic_task(enabled=False)
        async def off(self, context: object) -> None: ...

        @periodic_task
        async def on(self, context: object) -> None: ...

    assert names(Disks()) == ["elsewhere", "on"]
    assert names(Disks(settings=Settings(run_external_periodic_tasks=False))) == ["on"]


def test_task_status_is_a_tuple_that_cannot_be_changed() -> None:
    """Of frozen objects."""
    statuses = Parent().task_status()
    assert isinstance(statuses, tuple)
    with pytest.raises(AttributeError):
        statuses[0].name = "x"  # type: ignore[misc]


def test_the_capability_manager_has_one_task_of_its_own() -> None:
    """Inherited first."""

    class Agent(SchedulerDependentManager):
        @periodic_task
        async def measure(self, context: object) -> None: ...

    assert names(Agent) == ["publish_service_capabilities", "measure"]


# Settings


async def test_settings_change_schedules_without_code(clock: time_machine.Traveller) -> None:
    """Spacing, cron, enabled: by full name, without regard to case."""
    settings = Settings(
        tasks={
            "parent.FIRST": {"spacing": "5m"},
            "Parent.second": {"enabled": False},
            "Somebody.else": {"spacing": 1},
        }
    )
    manager = Parent(settings=settings)
    assert [(status.name, status.spacing) for status in manager.task_status()] == [("first", 300.0)]
    assert await one_pass(manager) == ["Parent.first"]
    clock.shift(299)
    assert await one_pass(manager) == []
    clock.shift(1)
    assert await one_pass(manager) == ["Parent.first"]


def test_the_environment_changes_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read at first use, not at import."""
    manager = Parent()
    monkeypatch.setenv("ASYNCMGR_TASKS__PARENT__FIRST__CRON", "@hourly")
    assert manager.task_status()[0].schedule == "@hourly"


async def test_settings_hold_for_the_default_tolerance(clock: time_machine.Traveller) -> None:
    """The tolerance of tasks that declare none."""

    class Disks(Noting):
        @periodic_task(spacing=10)
        async def usual(self, context: object) -> None:
            self.ran.append("usual")

        @periodic_task(spacing=10, tolerance=0)
        async def exact(self, context: object) -> None:
            self.ran.append("exact")

    disks = Disks(settings=Settings(tolerance=2))
    clock.shift(8)
    assert await one_pass(disks) == ["usual"]
    clock.shift(2)
    assert await one_pass(disks) == ["exact"]


async def test_settings_that_fit_two_tasks_are_told_at_every_use() -> None:
    """The second look does not find tasks half set up."""

    class Disks(Manager):
        @periodic_task(spacing=10)
        async def sweep(self, context: object) -> None: ...

        @periodic_task(spacing=10)
        async def Sweep(self, context: object) -> None: ...  # noqa: N802

    disks = Disks(settings=Settings(tasks={"disks.sweep": {"spacing": 5}}))
    for _ in range(2):
        with pytest.raises(InvalidSettings, match=r"'disks\.sweep' fits Disks\.sweep, Disks\.Sweep"):
            await disks.periodic_tasks(None)


# add_periodic_task, remove, reschedule


async def added(context: object) -> None:
    """Add me."""


async def test_a_function_can_be_added_to_one_instance(clock: time_machine.Traveller) -> None:
    """It is called with the context, at the end of the order; other instances know nothing of it."""
    manager, other = Parent(), Parent()
    seen: list[object] = []

    async def count(context: object) -> None:
        seen.append(context)

    handle = manager.add_periodic_task(count, spacing=10)
    assert handle.full_name == "Parent.count"
    assert names(manager) == ["first", "second", "count"]
    assert names(other) == ["first", "second"]
    clock.shift(10)
    await manager.periodic_tasks("context")
    assert seen == ["context"]


async def test_the_start_of_an_added_task_is_its_adding(clock: time_machine.Traveller) -> None:
    """Its first slot is one spacing after that, or that moment itself."""
    manager = Parent()
    clock.shift(100)
    manager.add_periodic_task(added, spacing=10, name="a")
    manager.add_periodic_task(added, spacing=10, name="b", run_immediately=True)
    manager.add_periodic_task(added, name="c", initial_delay=3)
    now = START + timedelta(seconds=100)
    assert [status.next_due for status in manager.task_status()][2:] == [
        now + timedelta(seconds=10),
        now,
        now + timedelta(seconds=3),
    ]


async def test_tasks_that_differ_in_name_and_delay_share_their_options() -> None:
    """So that very many of them are cheap; each keeps its own delay, from each new start on."""
    manager = Bare()
    for number in range(3):
        manager.add_periodic_task(added, name=f"t{number}", spacing=10, initial_delay=number)
    entries = list(manager._asyncmgr.tasks().values())
    assert len({id(entry.options) for entry in entries}) == 1
    for entry in entries:
        entry.plan.begin_at(Moment(0, 0), by_service=True)
    assert [entry.plan.slot for entry in entries] == [0, 1_000_000, 2_000_000]


def test_an_initial_delay_and_running_immediately_exclude_each_other() -> None:
    """Also where the task is added."""
    with pytest.raises(InvalidPeriodicTaskArg, match="exclude each other"):
        Bare().add_periodic_task(added, run_immediately=True, initial_delay=3)


async def test_a_decorated_function_is_added_with_its_own_options() -> None:
    """A method of this manager, of another, or a function that takes the manager first."""
    manager, other = Parent(), Other()

    @periodic_task(spacing=7, run_immediately=True)
    async def free(self: Parent, context: object) -> None:
        self.ran.append("free")

    manager.add_periodic_task(free)
    manager.add_periodic_task(manager.first, name="again")
    manager.add_periodic_task(other.other)
    assert [(status.name, status.spacing) for status in manager.task_status()][2:] == [
        ("free", 7.0),
        ("again", 10.0),
        ("other", 0.0),
    ]
    assert await one_pass(manager) == ["Parent.first", "Parent.second", "free", "Parent.first"]
    assert other.ran == ["Other.other"]


def test_options_of_a_decorated_function_are_not_given_twice() -> None:
    """Only its name may be another."""
    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        Parent().add_periodic_task(Other().other, spacing=5)
    assert str(caught.value) == (
        "Other.other has its options from @periodic_task; only name= may be given here"
    )


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (print, {}, "print is a plain function; @periodic_task needs 'async def'"),
        (lambda context: None, {}, "is a plain function; @periodic_task needs 'async def'"),
        (5, {}, "5 is no function; @periodic_task needs 'async def'"),
        (added, {"spacin": 5}, "@periodic_task has no argument 'spacin'; accepted: spacing, cron,"),
        (added, {"spacing": float("nan")}, "spacing=nan is not accepted"),
        (added, {"name": "first"}, "Parent.first is there already; give name= or remove the other first"),
        (added, {"name": "a.b"}, "name='a.b' is not accepted; name is letters, digits, '_' and '-'"),
        (added, {"name": "settings"}, "Parent.settings: 'settings' belongs to Manager"),
        (Other().other, {"name": "a.b"}, "name='a.b' is not accepted; name is letters, digits, '_' and '-'"),
        (Other().other, {"name": 5}, "name=5 is not accepted; name is letters, digits, '_' and '-'"),
    ],
)
def test_an_addition_that_cannot_be_meant_is_refused(
    function: Any, options: dict[str, Any], message: str
) -> None:
    """With the thing, the fact and the cure; nothing is added."""
    manager = Parent()
    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        manager.add_periodic_task(function, **options)
    assert message in str(caught.value)
    assert names(manager) == ["first", "second"]


def test_a_function_that_wants_more_than_the_context_is_refused() -> None:
    """The message gives the signature to write."""

    async def count(self: object, context: object) -> None: ...

    with pytest.raises(InvalidPeriodicTaskArg) as caught:
        Parent().add_periodic_task(count)
    assert "cannot be called with (context): missing a required argument: 'context'" in str(caught.value)
    assert str(caught.value).endswith("write 'async def count(context)'")


def test_a_name_that_is_switched_off_is_taken_too() -> None:
    """Switching it on later must not make two of it."""

    class Disks(Manager):
        @periodic_task(enabled=False)
        async def sweep(self, context: object) -> None: ...

    with pytest.raises(InvalidPeriodicTaskArg, match=r"Disks\.sweep is there already"):
        Disks().add_periodic_task(added, name="sweep")


def test_an_added_task_that_is_off_is_told(logs: list[Any]) -> None:
    """One info line, as at class creation."""
    manager = Parent()
    manager.add_periodic_task(added, enabled=False)
    assert [(log["event"], log["manager"], log["task"]) for log in logs] == [
        ("task.disabled", "Parent", "added")
    ]
    assert names(manager) == ["first", "second"]


async def test_settings_reach_added_tasks() -> None:
    """By their full name."""
    manager = Parent(settings=Settings(tasks={"Parent.added": {"spacing": 3}}))
    manager.add_periodic_task(added, spacing=10)
    assert manager.task_status()[2].spacing == 3.0


async def test_a_removed_task_is_gone() -> None:
    """At once and for good; its name is free again, and removing it twice does nothing."""
    manager = Parent()
    handle = manager.add_periodic_task(added)
    handle.remove()
    assert names(manager) == ["first", "second"]
    second = manager.add_periodic_task(added)
    handle.remove()
    assert names(manager) == ["first", "second", "added"]
    second.remove()
    assert names(manager) == ["first", "second"]


def test_a_removed_task_cannot_be_rescheduled() -> None:
    """The message says what to do instead."""
    handle = Parent().add_periodic_task(added)
    handle.remove()
    with pytest.raises(
        TaskRemoved, match=r"^Parent\.added was removed; add it again with add_periodic_task\(\)$"
    ):
        handle.reschedule(spacing=5)


async def test_rescheduling_counts_from_the_last_slot(clock: time_machine.Traveller) -> None:
    """The next slot is the last one plus the new spacing, or now if that is past."""
    manager = Noting()
    handle = manager.add_periodic_task(added, spacing=10)
    clock.shift(10.1)
    await manager.periodic_tasks(None)
    clock.shift(5)
    handle.reschedule(spacing=30)
    assert manager.task_status()[0].next_due == START + timedelta(seconds=40)
    handle.reschedule(spacing=2)
    assert manager.task_status()[0].next_due == START + timedelta(seconds=15.1)
    assert manager.task_status()[0].spacing == 2.0


async def test_rescheduling_before_the_first_slot_counts_from_the_start(
    clock: time_machine.Traveller,
) -> None:
    """There is no last slot yet."""
    manager = Noting()
    handle = manager.add_periodic_task(added, spacing=10)
    clock.shift(5)
    handle.reschedule(spacing=30)
    assert manager.task_status()[0].next_due == START + timedelta(seconds=30)


async def test_rescheduling_between_spacing_cron_and_every_pass(clock: time_machine.Traveller) -> None:
    """Any schedule can follow any other."""
    manager = Noting()
    handle = manager.add_periodic_task(added, spacing=10)
    clock.shift(90)
    handle.reschedule(cron="0 3 * * *", tz="Asia/Tokyo")
    status = manager.task_status()[0]
    assert (status.schedule, status.next_due) == ("0 3 * * *", datetime(2026, 1, 1, 18, tzinfo=UTC))
    handle.reschedule(spacing=0)
    status = manager.task_status()[0]
    assert (status.schedule, status.next_due) == ("every pass", START + timedelta(seconds=90))
    await manager.periodic_tasks(None)
    handle.reschedule(spacing=7)
    assert manager.task_status()[0].next_due == START + timedelta(seconds=97)


async def test_rescheduling_switches_off_and_on() -> None:
    """A negative spacing takes it out, another brings it back."""
    manager = Noting()
    handle = manager.add_periodic_task(added, spacing=10)
    handle.reschedule(spacing=-1)
    assert names(manager) == []
    handle.reschedule(spacing=5)
    assert names(manager) == ["added"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"reschedule\(\) takes either spacing= or cron="),
        ({"spacing": 5, "cron": "@daily"}, r"reschedule\(\) takes either spacing= or cron="),
        ({"spacing": True}, "spacing=True is not accepted"),
        ({"cron": 5}, "cron=5 is not accepted; cron is a text that is not empty"),
        ({"cron": "61 * * * *"}, "Bad minute"),
        ({"cron": "@daily", "tz": "Mars"}, "'Mars' is not a time zone"),
        ({"cron": "@daily", "tz": 5}, "tz=5 is not accepted"),
        ({"spacing": 5, "tz": "UTC"}, "tz= is the zone of a cron expression"),
    ],
)
def test_a_reschedule_that_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    """The schedule in force stays."""
    manager = Noting()
    handle = manager.add_periodic_task(added, spacing=10)
    with pytest.raises(InvalidPeriodicTaskArg, match=message):
        handle.reschedule(**options)
    assert manager.task_status()[0].spacing == 10.0


# One driver at a time


async def test_a_pass_during_a_pass_is_refused() -> None:
    """With the name of the manager and of its driver; the first pass is not disturbed."""
    entered, leave = asyncio.Event(), asyncio.Event()

    class Disks(Manager):
        @periodic_task
        async def sweep(self, context: object) -> None:
            entered.set()
            await leave.wait()

    disks = Disks()
    running = asyncio.create_task(disks.periodic_tasks(None))
    await entered.wait()
    with pytest.raises(ManagerInUse) as caught:
        await disks.periodic_tasks(None)
    leave.set()
    assert str(caught.value) == "Disks is already driven by a pass; a manager has one driver at a time"
    assert await running == 60.0
    assert await disks.periodic_tasks(None) == 60.0


async def test_a_task_cannot_make_a_pass_over_its_own_manager() -> None:
    """It would meet itself."""

    class Disks(Manager):
        @periodic_task
        async def sweep(self, context: object) -> None:
            await self.periodic_tasks(context)

    with pytest.raises(ManagerInUse):
        await Disks().periodic_tasks(None, raise_on_error=True)


async def test_a_failed_or_cancelled_pass_gives_the_manager_free() -> None:
    """The next pass finds it unused."""
    waiting = asyncio.Event()

    class Disks(Manager):
        @periodic_task
        async def sweep(self, context: str) -> None:
            if context == "raise":
                raise ValueError("on purpose")
            if context == "wait":
                waiting.set()
                await asyncio.Event().wait()

    disks = Disks()
    with pytest.raises(ValueError, match="on purpose"):
        await disks.periodic_tasks("raise", raise_on_error=True)
    running = asyncio.create_task(disks.periodic_tasks("wait"))
    await waiting.wait()
    running.cancel()
    await asyncio.wait([running])
    assert await disks.periodic_tasks("") == 60.0


@pytest.mark.virtual_time
async def test_a_pass_under_a_running_service_is_refused() -> None:
    """So is a second service; after the stop the manager is free again."""
    manager = Parent()
    assert manager.service is None
    async with Service(manager, name="disks") as service:
        assert manager.service is service
        with pytest.raises(
            ManagerInUse, match="Parent is already driven by the service disks; a manager has one"
        ):
            await manager.periodic_tasks(None)
        with pytest.raises(ManagerInUse, match="already driven by the service disks"):
            await Service(manager).start()
    assert manager.service is None
    assert 0 <= await manager.periodic_tasks(None) <= 60


@pytest.mark.virtual_time
async def test_a_service_during_a_pass_is_refused() -> None:
    """The pass was first."""
    entered, leave = asyncio.Event(), asyncio.Event()

    class Disks(Manager):
        @periodic_task
        async def sweep(self, context: object) -> None:
            entered.set()
            await leave.wait()

    disks = Disks()
    running = asyncio.create_task(disks.periodic_tasks(None))
    await entered.wait()
    with pytest.raises(ManagerInUse, match="Disks is already driven by a pass"):
        await Service(disks).start()
    leave.set()
    assert await running == 60.0


@pytest.mark.virtual_time
async def test_a_running_service_follows_its_managers_tasks() -> None:
    """Tasks that are added, rescheduled and removed while it runs."""
    runs: list[float] = []

    async def run(context: object) -> None:
        runs.append((datetime.now(UTC) - start).total_seconds())

    manager = Noting()
    async with Service(manager):
        await asyncio.sleep(7)
        start = datetime.now(UTC)
        handle = manager.add_periodic_task(run, spacing=10)
        await asyncio.sleep(25)
        handle.reschedule(spacing=7)
        await asyncio.sleep(10)
        handle.remove()
        await asyncio.sleep(100)
    assert runs == pytest.approx([10, 20, 27, 34], abs=0.001)


@pytest.mark.virtual_time
async def test_rescheduling_does_not_take_a_task_from_another_process() -> None:
    """Also under a service it stays where it runs."""
    runs: list[object] = []

    async def run(context: object) -> None:
        runs.append(context)

    manager = Noting()
    async with Service(manager, settings=Settings(run_external_periodic_tasks=False)):
        handle = manager.add_periodic_task(run, spacing=10, external_process_ok=True)
        handle.reschedule(spacing=5)
        await asyncio.sleep(60)
    assert runs == []
