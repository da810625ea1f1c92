"""Everything before the start: values and where they come from, cost, files, the same as a command."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Button, Static

from engine.errors import EngineError
from lyctui import text
from lyctui.fields import form_fields, shown_value
from lyctui.recent import remember_model
from lyctui.report import Line
from lyctui.screens.page import WizardPage, go_home
from lyctui.screens.summary import cost_lines, review_rows
from lyctui.steps import NAMES
from lyctui.widgets.lines import Lines
from lyctui.widgets.menu import Menu
from lyctui.wizard import Wizard


class ReviewPage(WizardPage):
    """One screen to read before training; every line leads back to its page."""

    DEFAULT_CSS = """
    ReviewPage ArithmeticLine { display: none; }
    ReviewPage GuidePanel { height: 2; }
    ReviewPage .buttons { height: 1; margin: 0 0 0 2; }
    """

    page: ClassVar[str] = "review"
    INTRODUCTION: ClassVar[str] = (
        "Nothing was written so far but the draft. Enter on a line goes back to its page; Start makes "
        "the run's folder and begins; Save only writes the recipe."
    )
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+n", "to_start", "To the start button", id="review.start", show=False),
        Binding("e", "edit", "edit line", id="review.edit"),
        Binding("v", "values", "all values", id="review.values"),
        Binding("c", "copy", "copy command", id="review.copy"),
        Binding("ctrl+t", "values", "All values", show=False),
    ]

    def __init__(self, wizard: Wizard) -> None:
        super().__init__(wizard)
        self.started = False

    def head(self) -> Iterable[Widget]:
        """The lines."""
        yield Menu(id="lines", title_cells=9)

    def tail(self) -> Iterable[Widget]:
        """Cost, files, command, buttons."""
        yield Lines(id="cost")
        with Horizontal(classes="buttons"):
            yield Button("Start training", id="start", compact=True)
            yield Button("Save only", id="save", compact=True)
            yield Button("Back", id="back", compact=True)

    def on_mount(self) -> None:
        """Look once more at what may have changed, and get torch ready beside the screen."""
        super().on_mount()
        self.wizard.look_again()
        threading.Thread(target=self.wizard.warm_up, name="warm-up", daemon=True).start()

    def focus_first(self) -> None:
        """The lines: a stray Enter must not start anything."""
        self.query_one(Menu).focus()

    def on_screen_resume(self) -> None:
        """Back from a run: the wizard's work is done."""
        if self.started:
            self.wizard.close()
            go_home(self.app)

    # showing ------------------------------------------------------------------------------

    def show_page(self) -> None:
        """Lines and cost."""
        rows = review_rows(self.wizard, self._room())
        self.query_one(Menu).show_rows(rows)
        lines = self._open_problems() or cost_lines(self.wizard, self.host.signs, self._room())
        self.query_one("#cost", Lines).show(lines)
        for name in ("#start", "#save"):
            self.query_one(name, Button).disabled = not self.ready

    @property
    def ready(self) -> bool:
        """Whether it could be started: everything is valid and read."""
        wizard = self.wizard
        return wizard.filled is not None and wizard.plan is not None and not self.all_problems()

    def all_problems(self) -> list[tuple[str, str]]:
        """(page, problem) of everything that is wrong."""
        return [
            (name, text.inert(str(problem)))
            for name in NAMES
            for problem in self.wizard.page_problems(name)
        ]

    def _open_problems(self) -> list[Line]:
        lines: list[Line] = []
        for page, words in self.all_problems()[:6]:
            first, *rest = text.wrap(f"{page}: {words}", self._room())
            lines.append(((f"{self.host.signs.error} ", "error"), (first, "")))
            lines += [(("  " + line, ""),) for line in rest]
        return lines

    def _room(self) -> int:
        return max(30, self.query_one("#form").size.width - 3)

    # acting -------------------------------------------------------------------------------

    @on(Menu.Chosen)
    def _line_chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        self.open_page(event.key.partition("/")[0])

    def action_edit(self) -> None:
        """Go to the page of the highlighted line."""
        key = self.query_one(Menu).key_at_highlight()
        if key:
            self.open_page(key.partition("/")[0])

    def action_next(self) -> None:
        """There is no next page; the start button is as far as a key leads."""
        self.action_to_start()

    def action_to_start(self) -> None:
        """Put the focus on Start; Enter there starts."""
        problems = self.all_problems()
        if problems:
            self.open_page(problems[0][0])
            return
        self.query_one("#start", Button).focus()

    def action_copy(self) -> None:
        """The command line into the clipboard, where the terminal allows it."""
        self.app.copy_to_clipboard(command_line(self.wizard))
        self.notify("The command was sent to the terminal's clipboard (OSC 52).", timeout=3)

    def action_values(self) -> None:
        """Every value and where it comes from."""
        self.app.push_screen(ValuesScreen(self.wizard))

    @on(Button.Pressed)
    def _pressed(self, event: Button.Pressed) -> None:
        event.stop()
        match event.button.id:
            case "start":
                self.start()
            case "save":
                self.save_recipe()
            case "back":
                self.action_back()

    def start(self) -> None:
        """Make the run and begin."""
        wizard = self.wizard
        if wizard.looking_at:
            self.notify(f"One moment: {wizard.looking_at}. Then press Start again.", timeout=4)
            return
        if not self.ready or wizard.filled is None:
            self.refresh_page()
            return
        origins = {path: origin.to_dict() for path, origin in wizard.filled.origins.items()}
        started = self.app.start_run(wizard.filled.recipe, origins)  # type: ignore[attr-defined]
        if started:
            self.started = True
            wizard.draft.delete()
            if wizard.filled.recipe.model.path is not None:
                remember_model(wizard.filled.recipe.model.path)

    def save_recipe(self) -> None:
        """Write the recipe and do not train."""
        try:
            path = write_recipe_file(self.wizard)
        except (EngineError, OSError) as error:
            self.notify(f"The recipe cannot be written: {error}", severity="error", timeout=0)
            return
        self.app.push_screen(SavedScreen(path))


def command_line(wizard: Wizard) -> str:
    """The same from the command line."""
    import shlex

    recipe = wizard.filled.recipe if wizard.filled is not None else None
    if recipe is None or recipe.run.folder is None:
        return "lyctui train run.toml"
    return f"lyctui train {shlex.quote(str(recipe.run.folder / (recipe.run.name or 'run') / 'run.toml'))}"


def write_recipe_file(wizard: Wizard) -> Path:
    """Write the filled recipe beside the runs, under a name that is free."""
    from engine.checkpoint.atomic import write_text
    from engine.settings.toml import write_recipe

    assert wizard.filled is not None
    recipe = wizard.filled.recipe
    folder = (recipe.run.folder or Path.home() / "lyctui" / "runs").expanduser().parent / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    stem, number = recipe.run.name or "run", 1
    path = folder / f"{stem}.toml"
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}.toml"
    write_text(path, write_recipe(recipe))
    return path


class SavedScreen(ModalScreen[None]):
    """Where the recipe is, and how to train it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,enter,q", "dismiss", "Back", id="saved.back"),
    ]

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def compose(self) -> ComposeResult:
        """Path and command."""
        with Vertical(classes="dialog"):
            yield Static(
                "The recipe is written; nothing was started.", classes="strong", markup=False
            )
            yield Static(
                f"\n{text.home(self.path)}\n\nTrain it:  lyctui train {text.home(self.path)}",
                markup=False,
            )
            yield Button("Back", compact=True)

    @on(Button.Pressed)
    def _back(self) -> None:
        self.dismiss()


class ValuesScreen(ModalScreen[None]):
    """Every value of the recipe and its origin."""

    DEFAULT_CSS = """
    ValuesScreen VerticalScroll { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,v", "dismiss", "Back", id="values.back"),
    ]

    def __init__(self, wizard: Wizard) -> None:
        super().__init__()
        self.wizard = wizard

    def compose(self) -> ComposeResult:
        """One row a setting."""
        with Vertical(classes="dialog"):
            yield Static(
                "Every value and where it comes from  (Esc: back)", classes="strong", markup=False
            )
            with VerticalScroll():
                yield Lines(value_lines(self.wizard))

    def on_mount(self) -> None:
        """The arrows scroll at once."""
        self.query_one(VerticalScroll).focus()


def value_lines(wizard: Wizard) -> list[Line]:
    """Setting, value, origin and reason of everything."""
    lines: list[Line] = []
    for form in form_fields(wizard.draft.algorithm):
        origin = wizard.origin(form.path)
        why = f"{origin.source}{f': {origin.reason}' if origin.reason else ''}"
        value = text.inert(shown_value(form, wizard.effective(form.path)))
        lines.append(
            (
                (text.pad(form.path, 28), ""),
                (text.pad(text.fit_middle(value, 24), 26), "strong"),
                (text.inert(why), "dim" if origin.source == "default" else ""),
            )
        )
    return lines
