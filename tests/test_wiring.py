"""Objects built from settings: arguments checked by type hint, import strings resolved."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    TypeVar,
    runtime_checkable,
)

import pytest
from pydantic import BaseModel, Field

from asyncmgr import Manager
from asyncmgr._cli.construct import construct
from asyncmgr._settings.model import Settings
from asyncmgr.errors import InvalidSettings, ManagerInUse

if TYPE_CHECKING:
    from decimal import Decimal as Unknown

HERE = __name__
T = TypeVar("T")


class Driver(ABC):
    """An abstract driver."""

    @abstractmethod
    def create(self) -> None: ...


D = TypeVar("D", bound=Driver)


class Lvm(Driver):
    """A driver that needs nothing."""

    def __init__(self, volume_group: str = "vg", size: int = 1) -> None:
        self.volume_group, self.size = volume_group, size

    def create(self) -> None: ...


class Needy(Lvm):
    """A driver that needs an argument."""

    def __init__(self, address: str) -> None:
        super().__init__(address)


class Angry(Lvm):
    """A driver that cannot be built."""

    def __init__(self) -> None:
        raise OSError("no such volume group")


class Creates(Protocol):
    def create(self) -> None: ...


@runtime_checkable
class Sized(Protocol):
    size: int

    def create(self) -> None: ...


class Hook(Protocol):
    def __call__(self, name: str) -> None: ...


class Box(Generic[T]):
    """A generic class of the user's."""


@dataclass
class Pool:
    """A dataclass that may come from a table."""

    name: str
    size: int = 1


class Limits(BaseModel):
    """A model that may come from a table."""

    low: int = Field(ge=0)
    password: int = 0


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int


LVM = Lvm("shared")
LIMITS = Limits(low=3)


def make_lvm(group: str) -> Lvm:
    """Build a driver, as a function."""
    return Lvm(group)


class Volumes:
    """Takes everything there is."""

    def __init__(  # type: ignore[no-untyped-def]
        self,
        *,
        driver: Driver | None = None,
        drivers: list[Driver] = [],  # noqa: B006
        named: Mapping[str, Creates] = {},
        creates: Creates | None = None,
        sized: Sized | None = None,
        kind: type[Driver] | None = None,
        kinds: type[Creates] | None = None,
        some: type[Lvm | Pool] | None = None,
        anything: type | None = None,
        bound: type[D] | None = None,
        call: Callable[[str], Driver] | None = None,
        hook: Hook | None = None,
        box: Box[int] | None = None,
        pool: Pool | None = None,
        limits: Limits | None = None,
        drivers_or_one: list[Driver] | Driver | None = None,
        mixed: Driver | str = "",
        plain: str | Driver = "",
        size: int = 0,
        small: Annotated[int, Field(le=5)] = 0,
        where: Path | None = None,
        colour: Colour = Colour.RED,
        mode: Literal["a", "b"] = "a",
        mode_or_size: Literal["a", "b"] | int = 0,
        point: Point | None = None,
        tags: list[str] = [],  # noqa: B006
        password: int = 0,
        unhinted=None,
        unknown: Unknown | None = None,
    ) -> None:
        self.given = {name: value for name, value in locals().items() if name != "self"}


def build(**arguments: Any) -> dict[str, Any]:
    """Build a `Volumes`; gives what its constructor got."""
    return construct(Volumes, arguments, place="[managers.Volumes]").given


def refusal(factory: Callable[..., Any] = Volumes, /, **arguments: Any) -> str:
    """Build what cannot be built; gives the text of the error."""
    with pytest.raises(InvalidSettings) as caught:
        construct(factory, arguments, place="[managers.Volumes]")
    return str(caught.value)


@pytest.mark.parametrize("name", ["driver", "creates", "sized", "drivers_or_one"])
@pytest.mark.parametrize(
    ("value", "group"),
    [
        (f"{HERE}:Lvm", "vg"),
        (f"{HERE}:LVM", "shared"),
        ({"factory": f"{HERE}:Lvm", "volume_group": "vg1"}, "vg1"),
        ({"factory": f"{HERE}:make_lvm", "group": "vg2"}, "vg2"),
        (f'{{"factory": "{HERE}:Lvm", "volume_group": "vg3"}}', "vg3"),
        (LVM, "shared"),
    ],
)
def test_an_instance(name: str, value: object, group: str) -> None:
    """A class, ABC or Protocol as hint gets an instance: imported, built of a class, or built with arguments."""
    built = build(**{name: value})[name]
    assert isinstance(built, Lvm)
    assert built.volume_group == group


def test_instances_in_containers() -> None:
    """Lists and tables of drivers are resolved one by one."""
    given = build(
        drivers=[f"{HERE}:LVM", {"factory": f"{HERE}:Lvm", "size": "3"}], named={"a": f"{HERE}:LVM"}
    )
    assert given["drivers"][0] is LVM
    assert given["drivers"][1].size == 3
    assert given["named"] == {"a": LVM}


@pytest.mark.parametrize(
    ("name", "value", "built"),
    [
        ("kind", f"{HERE}:Lvm", Lvm),
        ("kinds", f"{HERE}:Lvm", Lvm),
        ("some", f"{HERE}:Pool", Pool),
        ("anything", f"{HERE}:Colour", Colour),
        ("kind", Lvm, Lvm),
        ("bound", f"{HERE}:Lvm", Lvm),
        ("call", f"{HERE}:make_lvm", make_lvm),
        ("call", f"{HERE}:Lvm", Lvm),
        ("hook", f"{HERE}:make_lvm", make_lvm),
        ("pool", {"name": "p", "size": "2"}, Pool("p", 2)),
        ("pool", {"factory": f"{HERE}:Pool", "name": "p"}, Pool("p")),
        ("limits", {"low": 1}, Limits(low=1)),
        ("limits", f"{HERE}:LIMITS", LIMITS),
        ("limits", '{"low": 1}', Limits(low=1)),
        ("mixed", "hello", "hello"),
        ("plain", f"{HERE}:Lvm", f"{HERE}:Lvm"),
        ("size", "5", 5),
        ("small", "5", 5),
        ("where", "/var/lib:x", Path("/var/lib:x")),
        ("colour", "red", Colour.RED),
        ("mode", "b", "b"),
        ("point", [1], Point(1)),
        ("tags", '["a", "b"]', ["a", "b"]),
        ("tags", [f"{HERE}:Lvm"], [f"{HERE}:Lvm"]),
        ("unhinted", f"{HERE}:Lvm", f"{HERE}:Lvm"),
        ("driver", None, None),
    ],
)
def test_other_values(name: str, value: object, built: object) -> None:
    """Classes and callables are imported as they are; plain types stay text and become what the hint says."""
    assert build(**{name: value})[name] == built


@pytest.mark.parametrize(
    ("name", "value", "facts"),
    [
        (
            "size",
            "many",
            ["size: 'many' is not accepted: input should be a valid integer", "; accepted: int"],
        ),
        ("small", 6, ["small: 6 is not accepted: input should be less than or equal to 5"]),
        ("driver", "lvm", ["driver: 'lvm' is no Driver; write 'module:attribute' or a table with 'factory'"]),
        ("driver", f"{HERE}:Pool", ["driver: Pool needs 'name'; accepted: name, size"]),
        ("driver", f"{HERE}:Colour.RED", [f"'{HERE}:Colour.RED' gives a Colour, which is no Driver"]),
        ("driver", f"{HERE}:make_lvm", ["gives a function, which is no Driver"]),
        ("driver", f"{HERE}:Lwm", ["driver: ", "has no attribute 'Lwm' (did you mean 'Lvm'?)"]),
        ("driver", "nowhere_at_all:x", ["there is no module 'nowhere_at_all' on the import path"]),
        ("driver", {"factory": f"{HERE}:Needy"}, ["driver: Needy needs 'address'; accepted: address"]),
        (
            "driver",
            {"factory": f"{HERE}:Lvm", "sice": 1},
            ["driver.sice: Lvm has no argument 'sice' (did you"],
        ),
        ("driver", {"factory": f"{HERE}:Lvm", "size": "x"}, ["driver.size: 'x' is not accepted"]),
        ("driver", {"factory": f"{HERE}:LVM"}, ["a Lvm cannot be called"]),
        ("driver", {"factory": "lvm"}, ["'lvm' is not of the form 'module:attribute'"]),
        ("driver", {"group": "vg"}, ["{'group': 'vg'} is no Driver"]),
        ("driver", f"{HERE}:Angry", ["driver: Angry raised OSError: no such volume group"]),
        ("drivers", [f"{HERE}:LVM", "x"], ["drivers: [1] 'x' is no Driver", "; accepted: list[tests."]),
        ("creates", f"{HERE}:LIMITS", ["gives a Limits, which has no create, which Creates asks for"]),
        ("sized", f"{HERE}:LIMITS", ["has no create, size, which Sized asks for"]),
        ("kind", f"{HERE}:LVM", ["a Lvm is no class; write 'module:attribute'"]),
        ("kind", f"{HERE}:Pool", ["class Pool is no subclass of "]),
        ("bound", f"{HERE}:Pool", ["class Pool is no subclass of "]),
        ("kinds", f"{HERE}:Pool", ["class Pool is no subclass of "]),
        ("call", "make", ["'make' cannot be called; write 'module:attribute'"]),
        (
            "tags",
            "[a, b",
            ["tags: '[a, b' is not accepted: input should be a valid list; accepted: list[str]"],
        ),
        (
            "mode_or_size",
            "c",
            ["'c' is not accepted: input should be 'a' or 'b'; 'c' is not accepted: input shou"],
        ),
        ("box", f"{HERE}:LVM", ["which is no Box"]),
        ("limits", {"low": -1}, ["limits: [low] -1 is not accepted"]),
        (
            "limits",
            {"password": "hunter2", "low": 1},
            ["limits: [password] the value (not shown) is not accepted"],
        ),
        ("password", "hunter2", ["password: the value (not shown) is not accepted; accepted: int"]),
        (
            "drivr",
            1,
            ["drivr: Volumes has no argument 'drivr' (did you mean 'driver'?); accepted: driver, drivers"],
        ),
        (
            "unknown",
            1,
            ["unknown: the type hint of Volumes's 'unknown' cannot be used: name 'Unknown' is not"],
        ),
    ],
)
def test_what_does_not_fit(name: str, value: object, facts: list[str]) -> None:
    """The place, the argument, the fact and what is accepted are named; secrets are not."""
    text = refusal(**{name: value})
    assert text.startswith(f"[managers.Volumes] {name}")
    assert [fact for fact in facts if fact not in text] == []
    assert "hunter2" not in text


def test_all_that_is_wrong_is_said_at_once() -> None:
    """One error names each argument that is unknown, missing or wrong."""

    def make(driver: Driver, size: int) -> None: ...

    assert refusal(make, drivr=1, size="x").split("\n  ")[1:] == [
        f"[managers.Volumes]: {make.__qualname__} needs 'driver'; accepted: driver, size",
        f"[managers.Volumes] drivr: {make.__qualname__} has no argument 'drivr' (did you mean 'driver'?); "
        "accepted: driver, size",
        "[managers.Volumes] size: 'x' is not accepted: input should be a valid integer, unable to parse string "
        "as an integer; accepted: int",
    ]


def test_causes_are_chained() -> None:
    """What a driver's constructor raised is the cause."""
    with pytest.raises(InvalidSettings) as caught:
        build(driver=f"{HERE}:Angry")
    assert isinstance(caught.value.__cause__, OSError)


def test_errors_of_the_library_pass() -> None:
    """An error that explains itself is not wrapped."""

    def make() -> None:
        raise ManagerInUse("in use")

    with pytest.raises(ManagerInUse, match="in use"):
        construct(make, {}, place="here")


class Inherits(Lvm):
    """Hands arguments on."""

    def __init__(self, extra: int = 0, **rest: Any) -> None:
        super().__init__(**rest)
        self.extra = extra


def test_arguments_handed_on_to_a_base_class() -> None:
    """Behind ``**kwargs`` the names and hints of the next class hold."""
    built = construct(Inherits, {"extra": "1", "size": "2"}, place="here")
    assert (built.extra, built.size) == (1, 2)
    assert (
        "Inherits has no argument 'syze' (did you mean 'size'?); accepted: extra, volume_group, size"
        in refusal(Inherits, syze=1)
    )


class Real(Manager):
    """A manager with a driver."""

    def __init__(self, driver: Driver, **rest: Any) -> None:
        super().__init__(**rest)
        self.driver = driver


def test_a_manager() -> None:
    """A manager's own arguments may be set beside those of the base class."""
    built = construct(Real, {"driver": f"{HERE}:LVM", "host": "alpha"}, place="[managers.Real]")
    assert (built.driver, built.host) == (LVM, "alpha")
    assert refusal(Real, hots="x").endswith(
        "Real has no argument 'hots' (did you mean 'host'?); accepted: driver, host, settings"
    )


def test_a_function_that_takes_any_name() -> None:
    """Where every name is accepted, what has no hint is passed as it is."""

    def make(**rest: Any) -> dict[str, Any]:
        return rest

    assert construct(make, {"a": "1"}, place="here") == {"a": "1"}


@dataclass
class Wide(Pool):
    """A dataclass with an argument that is no field."""

    driver: InitVar[Driver | None] = None

    def __post_init__(self, driver: Driver | None) -> None:
        self.built = driver


def test_dataclasses() -> None:
    """A dataclass is built by its fields, inherited ones and init-only ones too."""
    built = construct(Wide, {"name": "p", "size": "4", "driver": f"{HERE}:LVM"}, place="here")
    assert (built.name, built.size, built.built) == ("p", 4, LVM)


@pytest.mark.parametrize(
    ("factory", "arguments", "built"), [(Limits, {"low": 1}, Limits(low=1)), (Point, {"x": "1"}, Point(1))]
)
def test_models_and_named_tuples(factory: type, arguments: dict[str, Any], built: object) -> None:
    """What has no constructor of its own is built by the fields of its class."""
    assert construct(factory, arguments, place="here") == built


def test_places_come_from_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings' own places an argument is named where it was written, in nested tables too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asyncmgr.toml").write_text(
        f'[managers.Volumes]\ndriver = {{factory = "{HERE}:Lvm", size = "x"}}\n'
    )
    monkeypatch.setenv("ASYNCMGR_MANAGERS__VOLUMES__SIZE", "y")
    settings = Settings()
    with pytest.raises(InvalidSettings) as caught:
        construct(
            Volumes,
            settings.arguments_for(["Volumes"])["Volumes"],
            place="[managers.Volumes]",
            place_of=lambda *keys: settings.place_of("managers", "Volumes", *keys),
        )
    wrong = {line.partition(" is not accepted")[0] for line in str(caught.value).split("\n  ")[1:]}
    assert wrong == {
        f"{tmp_path / 'asyncmgr.toml'}: [managers.Volumes.driver] size: 'x'",
        "ASYNCMGR_MANAGERS__VOLUMES__SIZE: 'y'",
    }
