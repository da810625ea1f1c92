"""The base model: found, picked or typed; what it is, is read from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.message import Message
from textual.widget import Widget

from engine.errors import Problem
from lyctui import terminal, text
from lyctui.background import Latest
from lyctui.fields import FormField, form_field
from lyctui.recent import model_folders, recent_models
from lyctui.report import Line
from lyctui.screens.page import WizardPage
from lyctui.widgets.lines import Lines
from lyctui.widgets.menu import Menu, Row

if TYPE_CHECKING:
    from engine.models.detect import ModelFacts

MOST_LISTED = 20
NONE_FOUND = "No base model was found in the usual folders of ComfyUI, A1111, Forge and kohya."
FITS = "What fits: a checkpoint of Stable Diffusion 1.5, 2 or XL, or a relative of one, 2 to 7 GB."


@dataclass
class Found(Message):
    """Base models of recent runs and of the usual folders."""

    models: tuple[ModelFacts, ...]


def look_for_models() -> tuple[ModelFacts, ...]:
    """Base models of recent runs first, then those of the usual folders."""
    from engine.errors import ModelError
    from engine.models.detect import find_models, inspect_model

    recent: list[ModelFacts] = []
    for path in recent_models():
        try:
            recent.append(inspect_model(path))
        except (ModelError, OSError):
            continue
    known = {one.path.absolute() for one in recent}
    others = (one for one in find_models(model_folders()) if one.path.absolute() not in known)
    return (*recent, *others)[:MOST_LISTED]


class ModelPage(WizardPage):
    """Recent and found files, a path, and what the file says of itself."""

    page: ClassVar[str] = "model"
    INTRODUCTION: ClassVar[str] = (
        "The network learns on top of this model and works best with it and its relatives. "
        "Guide 001: take a base, not a mix. Stable Diffusion 1, 2 and XL can be trained on: a "
        ".safetensors or .ckpt file, or a diffusers folder."
    )

    def head(self) -> Iterable[Widget]:
        """What was found."""
        yield Menu(id="models", title_cells=32)

    def tail(self) -> Iterable[Widget]:
        """What was detected."""
        yield Lines(id="detected")

    def open_fields(self) -> tuple[FormField, ...]:
        """The prediction type is asked only where the file does not tell."""
        fields = super().open_fields()
        model = self.wizard.model
        untold = model is not None and model.prediction_assumed and not model.problems
        if untold and not any(one.path == "model.prediction" for one in fields):
            return (*fields, form_field("model.prediction"))
        return fields

    def on_mount(self) -> None:
        """Look for models beside the screen."""
        self.models: tuple[ModelFacts, ...] | None = self.wizard.found_models
        self._search: Latest[tuple[ModelFacts, ...]] = Latest("models", self._found)
        super().on_mount()
        if self.models is None:
            self._search.ask(lambda wanted: look_for_models())

    def on_unmount(self) -> None:
        """Nobody waits any more."""
        self._search.close()
        super().on_unmount()

    def _found(self, answer: tuple[ModelFacts, ...] | BaseException) -> None:
        self.post_message(Found(() if isinstance(answer, BaseException) else answer))

    @on(Found)
    def _show_found(self, event: Found) -> None:
        event.stop()
        self.models = self.wizard.found_models = event.models
        untouched = not self.wizard.draft.value("model.path") and not self.fields[0].text
        self.refresh_page()
        if event.models and untouched:
            self.query_one(Menu).focus()

    def focus_first(self) -> None:
        """The list where there is one, else the path."""
        if self.models and not self.wizard.draft.value("model.path"):
            self.query_one(Menu).focus()
        else:
            super().focus_first()

    @on(Menu.Chosen)
    def _chosen(self, event: Menu.Chosen) -> None:
        event.stop()
        self.wizard.unreadable.pop("model.path", None)
        self.wizard.set("model.path", Path(event.key))
        self.fields[0].touched = True
        self.refresh_page()

    def must_wait(self) -> bool:
        """The file is read before the next page."""
        return self.wizard.reading_model

    def on_news(self) -> None:
        """The prediction type may have to be asked now."""
        if [one.path for one in self.open_fields()] != [one.form.path for one in self.fields]:
            self.call_later(self.rebuild_fields)
        super().on_news()

    def told_already(self, problem: Problem) -> bool:
        """What is wrong with the file stands below the fields."""
        return problem in self.wizard.model_problems

    # showing ------------------------------------------------------------------------------

    def show_page(self) -> None:
        """List and findings."""
        chosen = self.wizard.draft.value("model.path")
        models = self.models or ()
        menu = self.query_one(Menu)
        menu.display = bool(models)
        menu.show_rows(
            [
                Row(
                    str(one.path),
                    one.path.name,
                    f"{one.title} · {text.filesize(one.bytes)} · {text.home(one.path.parent)}",
                    chosen=chosen is not None and Path(str(chosen)) == one.path,
                )
                for one in models
            ]
        )
        self.query_one("#detected", Lines).show(self._detected())

    def _detected(self) -> list[Line]:
        if not self.wizard.draft.value("model.path"):
            return self._without_model()
        signs = self.host.signs
        if self.wizard.model_problems:
            return [
                ((f"{signs.error if not place else ' '} ", "error"), (line, ""))
                for problem in self.wizard.model_problems
                for place, line in enumerate(
                    _broken(text.inert(f"{problem.what} {problem.remedy}"), self._room())
                )
            ]
        model = self.wizard.model
        if model is None:
            return [(("reading the file …", "dim"),)]
        return model_lines(model, signs.done, signs.warning, self._room())

    def _without_model(self) -> list[Line]:
        words = "looking for models …" if self.models is None else ""
        if self.models:
            words = "Choose one above with Enter, or give a path (Ctrl+O browses)."
        elif self.models is not None:
            words = NONE_FOUND
        lines: list[Line] = [((line, "dim"),) for line in _broken(f"{words}\n{FITS}", self._room())]
        return lines + [
            ((line, "dim"),) for line in bring_lines("model.safetensors", "lyctui/models/")
        ]

    def _room(self) -> int:
        return max(30, self.query_one("#form").size.width - 4)


def bring_lines(what: str, folder: str) -> list[str]:
    """How files come here from the person's own machine; the address is a guess."""
    remote = terminal.remote_address()
    if remote is None:
        return []
    address, port = remote
    shell = "" if port == "22" else f"-e 'ssh -p {port}' "
    return [
        "To bring one here, on your own machine (the address is a guess):",
        f"  rsync -av {shell}{what} {address}:{folder}",
    ]


def model_lines(model: ModelFacts, done: str, warning: str, width: int = 76) -> list[Line]:
    """What a model is, in one or two rows."""
    from engine.planning.family import how_told

    if model.family is None:
        words = f"{model.path.suffix} file, {text.filesize(model.bytes)}: what it holds is known after loading."
        return [((f"{warning} ", "warning"), (words, ""))]
    parts = [model.title, model.dtype, text.filesize(model.bytes)]
    if model.native_resolution:
        parts.append(f"made for {model.native_resolution} px")
    first: Line = ((f"{done} ", "done"), (" · ".join(part for part in parts if part), ""))
    lines: list[Line] = [first]
    lines += _told_lines(f"told by {how_told(model)}", "  ", "dim", width)
    if model.prediction_assumed:
        doubt = model.prediction_source.partition("; ")[2]
        asked = (
            f"prediction: {doubt}. Noise (epsilon) is assumed: set the prediction type if it is v."
        )
        lines += _told_lines(asked, f"{warning} ", "warning", width)
    else:
        prediction = f"prediction: {model.prediction} ({model.prediction_source})"
        lines += _told_lines(prediction, "  ", "dim", width)
    if not model.has_vae:
        lines.append(
            ((f"{warning} ", "warning"), ("It has no VAE: give one under more settings.", ""))
        )
    return lines


def _told_lines(words: str, sign: str, role: str, width: int) -> list[Line]:
    """Words over several rows, the first of them behind a sign."""
    return [
        ((sign if not place else "  ", role if sign.strip() else ""), (line, "dim"))
        for place, line in enumerate(_broken(words, width))
    ]


def _broken(words: str, width: int) -> list[str]:
    return text.wrap(words.strip(), width)
