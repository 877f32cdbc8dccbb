"""Text of objects that resist being formatted."""

from __future__ import annotations

from typing import Any

import pytest

from asyncmgr._common.safe_text import error_text, printable, safe_repr, safe_str, type_name


class Hidden(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise ValueError("no name")


class Detached:
    def __repr__(self) -> str:
        raise RuntimeError("the row is detached from its session")


class Ending(metaclass=Hidden):
    def __str__(self) -> str:
        raise SystemExit(3)


class Textual(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("not even this")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Detached(), "<Detached whose repr() raised RuntimeError>"),
        (Ending(), "<Ending whose str() raised SystemExit>"),
        (ValueError(Detached()), "<ValueError whose str() raised RuntimeError>"),
    ],
)
def test_what_raises_is_named(value: object, text: str) -> None:
    """An object whose text cannot be had is named with what it raised."""
    show = safe_repr if isinstance(value, Detached) else safe_str
    assert show(value) == text


def test_an_error_is_its_type_and_text() -> None:
    """An error reads as in a traceback's last line, also where its text cannot be had."""
    assert error_text(KeyError("v")) == "KeyError: 'v'"
    assert error_text(TimeoutError()) == "TimeoutError"
    assert error_text(ValueError(Detached())) == "ValueError: <ValueError whose str() raised RuntimeError>"


def test_a_metaclass_does_not_hide_the_type() -> None:
    """The type's name is found below a property of its metaclass."""
    assert type_name(Ending()) == "Ending"


def test_a_keyboard_interrupt_goes_through() -> None:
    """Ctrl-C during a `repr` is the user's, not the object's."""

    class Slow:
        def __repr__(self) -> str:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        safe_repr(Slow())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é😀", "plain é😀"),
        ("\x1b[31mred\n\x00\udc80", "\\x1b[31mred\\n\\x00\\udc80"),
        ("a" * 20, "aaaaaaaaaa... (20 characters)"),
    ],
)
def test_text_is_one_line_without_control_characters(text: str, shown: str) -> None:
    """Terminal escapes, line breaks and lone surrogates are escaped; long text is cut and says how long it was."""
    assert printable(text, 10 if len(text) == 20 else 500) == shown


def test_a_text_of_a_class_of_its_own_is_plain_text() -> None:
    """A subclass of `str` is not asked again."""
    value: Any = Textual("text")

    class Holder:
        def __repr__(self) -> str:
            return value  # type: ignore[no-any-return]

    assert type(safe_repr(Holder())) is str
