"""One setting in one row: sign, label, control, note; a problem is text below it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import Blur, DescendantBlur, Key
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Select, Static, TextArea

from lyctui.fields import MANY_LINES, YOU_SET, FormField
from lyctui.text import cells, fit, inert
from lyctui.widgets.path_input import PathInput

LABEL_CELLS = 23
TYPING_KINDS = ("text", "whole", "number", "pair", "numbers", "mixed")


@dataclass(frozen=True, slots=True)
class Look:
    """How a field stands: what is recommended, and what there is to say beside it."""

    text: str
    """Your answer as text; empty where the recommended value is taken."""
    recommended: str
    note: str = ""
    changed: bool = False
    problem: str = ""


class FieldInput(Input):
    """An input whose Enter moves on and whose arrows leave it up and down."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "app.focus_next", "Next field", show=False),
        Binding("up", "app.focus_previous", "Previous field", show=False),
    ]


class SettingField(Vertical):
    """Asks one setting. Posts `Edited` while typing and `Left` when the field is left."""

    DEFAULT_CSS = """
    SettingField { height: auto; }
    SettingField > .row { height: 1; }
    SettingField .label { width: 25; height: 1; }
    SettingField .note {
        width: 1fr; height: 1; padding: 0 0 0 2; color: $dim;
        text-wrap: nowrap; text-overflow: ellipsis;
    }
    SettingField Input { width: 18; height: 1; }
    SettingField Select { width: 23; height: 1; }
    SettingField Input { background: $surface; border: none; padding: 0 1; }
    SettingField Input:focus { background: $panel; border: none; }
    SettingField Input.-textual-compact:focus { background: $panel; }
    SettingField Select > SelectCurrent { background: $surface; padding: 0 1; }
    SettingField Select:focus > SelectCurrent { background: $panel; }
    SettingField Select > SelectOverlay { width: 44; }
    SettingField.-long Input { width: 1fr; }
    SettingField.-long .note { display: none; }
    SettingField TextArea { width: 1fr; height: 4; border: none; padding: 0 1; background: $surface; }
    SettingField TextArea:focus { border: none; background: $panel; }
    SettingField.-lines > .row { height: 4; }
    SettingField:focus-within .label { text-style: bold; color: $accent-text; }
    SettingField > .problem { height: auto; display: none; color: $error-text; padding: 0 0 0 25; }
    SettingField.-wrong > .problem { display: block; }
    """

    @dataclass
    class Edited(Message):
        """The text was changed by a person."""

        field: SettingField
        text: str
        finished: bool
        """Whether the answer is whole: a choice, or the field was left."""

    def __init__(self, form: FormField, look: Look, *, help_text: Callable[[], str]) -> None:
        super().__init__(id=field_id(form.path))
        self.form = form
        self.look = look
        self.touched = False
        self._tell_help = help_text
        self._last = look.text
        if form.kind in ("file", "folder", "text"):
            self.add_class("-long")
        if form.kind in MANY_LINES:
            self.add_class("-lines")

    # building -----------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Label, control, note; the problem below."""
        with Horizontal(classes="row"):
            yield Static(self._label(), classes="label", markup=False)
            yield self._control()
            yield Static("", classes="note", markup=False)
        yield Static("", classes="problem", markup=False)

    def _control(self) -> Widget:
        form, look = self.form, self.look
        if form.picks:
            return self._select()
        if form.kind in MANY_LINES:
            return TextArea(
                look.text,
                compact=True,
                tab_behavior="focus",
                placeholder=look.recommended,
                soft_wrap=True,
                show_line_numbers=False,
            )
        if form.kind in ("file", "folder"):
            return PathInput(look.text, want=form.kind, placeholder=look.recommended, compact=True)
        return FieldInput(look.text, placeholder=look.recommended, compact=True)

    def _select(self) -> Select[str]:
        options = self.form.options(self.look.recommended)
        values = [value for _, value in options]
        chosen = self.look.text or ("" if "" in values else self.look.recommended)
        return Select(
            options,
            value=chosen if chosen in values else values[0],
            allow_blank=False,
            compact=True,
        )

    def on_mount(self) -> None:
        """Show note and sign."""
        self.show(self.look)

    # showing ------------------------------------------------------------------------------

    def show(self, look: Look) -> None:
        """Show how the field stands now; what is being typed stays as it is."""
        self.look = look
        self.query_one(".label", Static).update(self._label())
        self.query_one(".note", Static).update(self._note())
        wrong = look.problem if self.touched else ""
        self.set_class(bool(wrong), "-wrong")
        sign = getattr(getattr(self.app, "signs", None), "error", "✗")
        self.query_one(".problem", Static).update(inert(f"{sign} {wrong}") if wrong else "")
        self._show_control(look)

    def _show_control(self, look: Look) -> None:
        control = self.control
        if isinstance(control, Select):
            self._show_select(control, look)
        elif isinstance(control, Input):
            control.placeholder = look.recommended
            if not control.has_focus and control.value != look.text and not self._unread:
                control.value = self._last = look.text
        elif isinstance(control, TextArea):
            control.placeholder = look.recommended
        if (
            isinstance(control, TextArea)
            and not control.has_focus
            and control.text != look.text
            and not self._unread
        ):
            control.text = self._last = look.text

    @property
    def _unread(self) -> bool:
        """Whether the text is no value: then it stays for correction."""
        return bool(self.look.problem) and self.touched

    def _show_select(self, control: Select[str], look: Look) -> None:
        options = self.form.options(look.recommended)
        values = [value for _, value in options]
        chosen = look.text or ("" if "" in values else look.recommended)
        if chosen not in values:
            chosen = values[0]
        self._last = chosen
        with control.prevent(Select.Changed):
            if options != getattr(self, "_options", None) and not control.expanded:
                self._options = options
                control.set_options(options)
            if control.value != chosen:
                control.value = chosen

    def _label(self) -> str:
        unit = f", {self.form.unit}" if self.form.unit else ""
        mark = "•" if self.look.changed else " "
        return f"{mark} {fit(self.form.label + unit, LABEL_CELLS - 1)}"

    def _note(self) -> str:
        """The whole note, or without the answer, which stands in the field, where that is too long."""
        note = inert(self.look.note)
        room = self.query_one(".note", Static).content_size.width
        return note.partition(YOU_SET)[0] if 0 < room < cells(note) else note

    def on_resize(self) -> None:
        """The room beside the field is known only now."""
        self.query_one(".note", Static).update(self._note())

    # what the person does -----------------------------------------------------------------

    @property
    def control(self) -> Widget:
        """The input itself."""
        return self.query_one("Input, Select, TextArea")

    @property
    def text(self) -> str:
        """What stands in the control now."""
        control = self.control
        if isinstance(control, Select):
            return str(control.value)
        return control.text if isinstance(control, TextArea) else str(getattr(control, "value", ""))

    def focus_control(self) -> None:
        """Put the cursor into the field."""
        self.control.focus()

    def help_text(self) -> str:
        """For the help page."""
        return self._tell_help()

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        if event.value != self._last:
            self._last = event.value
            self.post_message(self.Edited(self, event.value, finished=False))

    @on(TextArea.Changed)
    def _written(self, event: TextArea.Changed) -> None:
        event.stop()
        if event.text_area.text != self._last:
            self._last = event.text_area.text
            self.post_message(self.Edited(self, self._last, finished=False))

    @on(Select.Changed)
    def _picked(self, event: Select.Changed) -> None:
        event.stop()
        if str(event.value) != self._last:
            self._last = str(event.value)
            self.post_message(self.Edited(self, self._last, finished=True))

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self.screen.focus_next()

    @on(PathInput.Chosen)
    def _path_chosen(self, event: PathInput.Chosen) -> None:
        event.stop()
        self._last = event.text
        self.post_message(self.Edited(self, event.text, finished=True))

    def on_descendant_blur(self, event: DescendantBlur | Blur) -> None:
        """Leaving a field checks it."""
        if not self.form.picks:
            self.touched = True
            self.post_message(self.Edited(self, self.text, finished=True))

    def on_key(self, event: Key) -> None:
        """Arrows leave a closed choice sideways only; Enter and space open it."""
        control = self.control
        if not isinstance(control, Select) or not control.has_focus or control.expanded:
            return
        if event.key in ("left", "right"):
            event.stop()
            self._step(control, 1 if event.key == "right" else -1)

    def _step(self, control: Select[str], by: int) -> None:
        values = [value for _, value in self.form.options(self.look.recommended)]
        place = values.index(str(control.value)) if str(control.value) in values else 0
        control.value = values[(place + by) % len(values)]


def field_id(path: str) -> str:
    """Id of the widget that asks a setting."""
    return "field-" + path.replace(".", "-").replace("_", "-")
