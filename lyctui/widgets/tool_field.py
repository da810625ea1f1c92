"""One field of a file tool's form, and the rows in which networks get their strengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.events import DescendantBlur
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Static

from lyctui.fields import FormField
from lyctui.text import inert
from lyctui.widgets.path_input import PathInput
from lyctui.widgets.setting_field import FieldInput, Look, SettingField
from lyctui.widgets.tool_path import ToolPathInput

MOST_NETWORKS = 32


class ToolSettingField(SettingField):
    """A setting's row whose paths are picked as file tools need them."""

    DEFAULT_CSS = """
    ToolSettingField Select { width: 28; }
    """

    def __init__(
        self,
        form: FormField,
        look: Look,
        *,
        help_text: Callable[[], str],
        start: Callable[[], Path],
    ) -> None:
        super().__init__(form, look, help_text=help_text)
        self._start = start

    def _control(self) -> Widget:
        if self.form.kind != "file":
            return super()._control()
        return ToolPathInput(
            self.look.text,
            start=self._start,
            save=self.form.path == "output",
            placeholder=self.look.recommended,
        )


class NetworkRows(Vertical):
    """Network files, each with its strength. Posts `Edited` while they are typed."""

    DEFAULT_CSS = """
    NetworkRows { height: auto; }
    NetworkRows > .row { height: 1; }
    NetworkRows .label { width: 25; height: 1; }
    NetworkRows .by { width: 3; height: 1; color: $dim; }
    NetworkRows Input { height: 1; background: $surface; border: none; padding: 0 1; }
    NetworkRows Input:focus { background: $panel; border: none; }
    NetworkRows PathInput { width: 1fr; }
    NetworkRows FieldInput { width: 9; }
    NetworkRows > .row:focus-within .label { text-style: bold; color: $accent-text; }
    NetworkRows > .problem { height: auto; display: none; color: $error-text; padding: 0 0 0 25; }
    NetworkRows.-wrong > .problem { display: block; }
    """

    @dataclass
    class Edited(Message):
        """Paths or strengths were changed."""

        rows: list[tuple[str, str]]
        finished: bool

    def __init__(
        self,
        form: FormField,
        rows: Sequence[tuple[str, str]],
        *,
        help_text: Callable[[], str],
        start: Callable[[], Path],
    ) -> None:
        super().__init__(id="networks")
        self.form = form
        self.touched = False
        self._tell_help = help_text
        self._start = start
        self._rows = [*rows, ("", "")]
        self._last = list(rows)

    def compose(self) -> ComposeResult:
        """A row for each network and an empty one; the problem below."""
        for number, row in enumerate(self._rows, 1):
            yield self._row(number, *row)
        yield Static("", classes="problem", markup=False)

    def _row(self, number: int, path: str, strength: str) -> Horizontal:
        label = Static(f"  Network {number}", classes="label", markup=False)
        hint = "path of a .safetensors file" if number == 1 else "one more, or leave it empty"
        return Horizontal(
            label,
            ToolPathInput(path, start=self._start, placeholder=hint),
            Static(" × ", classes="by", markup=False),
            FieldInput(strength, placeholder="1", compact=True),
            classes="row",
        )

    @property
    def rows(self) -> list[tuple[str, str]]:
        """What is typed, row by row, the empty ones too."""
        paths = [one.value for one in self.query(PathInput)]
        strengths = [one.value for one in self.query(FieldInput)]
        return list(zip(paths, strengths, strict=True))

    def show_problem(self, words: str) -> None:
        """What is wrong with them, a line each; empty where nothing is."""
        wrong = words if self.touched else ""
        self.set_class(bool(wrong), "-wrong")
        sign = getattr(getattr(self.app, "signs", None), "error", "✗")
        lines = [inert(f"{sign} {line}") for line in wrong.splitlines()]
        self.query_one(".problem", Static).update("\n".join(lines))

    def focus_control(self) -> None:
        """Put the cursor into the first row."""
        self.query(PathInput).first().focus()

    def help_text(self) -> str:
        """For the help page."""
        return self._tell_help()

    @on(Input.Changed)
    async def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._tell(finished=False)
        await self._grow()

    @on(PathInput.Chosen)
    def _chosen(self, event: PathInput.Chosen) -> None:
        event.stop()
        self._tell(finished=True)

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        self.screen.focus_next()

    def on_descendant_blur(self, event: DescendantBlur) -> None:
        """Leaving a row checks it."""
        self._tell(finished=True)

    def _tell(self, *, finished: bool) -> None:
        rows = self.rows
        if finished and any(path.strip() for path, _ in rows):
            self.touched = True
        if rows != self._last or finished:
            self._last = rows
            self.post_message(self.Edited(rows, finished))

    async def _grow(self) -> None:
        """There is always an empty row below the last one that was filled."""
        rows = self.rows
        if rows[-1][0].strip() and len(rows) < MOST_NETWORKS:
            await self.mount(self._row(len(rows) + 1, "", ""), before=".problem")
