"""`Dialog`: asks before a verb that may hurt, and for what a verb needs; `Help`: keys and signs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Label, Static

from asyncmgr._cli.top.sparks import LEGEND
from asyncmgr._cli.top.words import LOOKS

Given = dict[str, str]
"""What somebody has written, by the name of the field."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a dialog asks."""

    title: str
    text: str
    go: str
    """The label of the button that does it."""
    fields: Sequence[tuple[str, str, str]] = ()
    """Name, label and first value of each."""
    hurts: bool = False
    """Whether the button that does nothing is the first one."""
    read: Callable[[Given], Mapping[str, Any]] = dict
    """Makes the arguments of the verb of what was written; a `ValueError` is shown."""


class Dialog(ModalScreen[Mapping[str, Any] | None]):
    """Asks a question; its result is what the verb needs, `None` = leave it."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "leave it", show=False)]

    def __init__(self, question: Question) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        question = self._question
        with Vertical(id="ask"):
            yield Label(Text(question.title), id="ask-title")
            if question.text:
                yield Label(Text(question.text), id="ask-text")
            for name, label, value in question.fields:
                yield Label(Text(label), classes="field")
                yield Input(value, id=f"field-{name}")
            yield Label("", id="ask-problem")
            with Horizontal(id="ask-buttons"):
                yield Button(Text("Leave it"), id="leave")
                yield Button(Text(question.go), id="go", variant="error" if question.hurts else "primary")

    def on_mount(self) -> None:
        first = "#leave" if self._question.hurts and not self._question.fields else "#go"
        if self._question.fields:
            first = f"#field-{self._question.fields[0][0]}"
        self.query_one(first).focus()

    def action_leave(self) -> None:
        self.dismiss(None)

    def on_input_submitted(self) -> None:
        fields = list(self.query(Input))
        at = next((number for number, one in enumerate(fields) if one.has_focus), len(fields) - 1)
        if at + 1 < len(fields):
            fields[at + 1].focus()
        else:
            self._go()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "go":
            self._go()
        else:
            self.dismiss(None)

    def _go(self) -> None:
        given = {
            name: self.query_one(f"#field-{name}", Input).value.strip()
            for name, _, _ in self._question.fields
        }
        try:
            read = self._question.read(given)
        except ValueError as exc:
            self.query_one("#ask-problem", Label).update(Text(str(exc)))
            return
        self.dismiss(read)


KEYS = (
    ("↑ ↓ j k", "previous, next task; g G the first, the last"),
    ("Enter", "details of the task; Esc closes them"),
    ("/", "search by name; Esc ends it"),
    ("a n f", "all tasks, what needs you, failing only"),
    ("1 2 3 4", "show 15 minutes, 1, 6 or 24 hours"),
    ("r", "run now"),
    ("p", "pause, or resume"),
    ("c", "cancel the run"),
    ("s", "another schedule"),
    ("d", "switch off, or on"),
    ("h", "in the details: the next host"),
    ("y", "copy the details as text"),
    ("t", "light or dark"),
    ("q", "leave"),
)

_STATES = {
    "hung": "a run hangs",
    "failing": "failing",
    "held": "held back after failures",
    "stale": "no success within its promise",
    "skips": "a run is in the way of slots",
    "running": "running",
    "paused": "paused",
    "disabled": "switched off",
    "new": "not run yet",
    "ok": "well",
}


class Help(ModalScreen[None]):
    """Keys and signs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "leave", "close", show=False)
    ]

    def __init__(self, styles: Mapping[str, Style]) -> None:
        super().__init__()
        self._styles_of = styles

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(self._text())

    def action_leave(self) -> None:
        self.dismiss(None)

    def _text(self) -> Text:
        text = Text()
        self._title(text, "Keys")
        for keys, what in KEYS:
            text.append(f"  {keys:<9}", self._styles_of["strong"]).append(
                f"{what}\n", self._styles_of["text"]
            )
        self._title(text, "\nHow a task stands")
        for state, what in _STATES.items():
            look = LOOKS[state]
            text.append(f"  {look.sign}  ", self._styles_of[look.colour]).append(
                f"{what}\n", self._styles_of["text"]
            )
        self._title(text, "\nWhat became of its slots: the worst in each column")
        for look, what in LEGEND:
            text.append(f"  {look.sign}  ", self._styles_of[look.colour]).append(
                f"{what}\n", self._styles_of["text"]
            )
        return text

    def _title(self, text: Text, title: str) -> None:
        text.append(f"{title}\n", self._styles_of["strong"])
