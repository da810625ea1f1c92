"""Preview pictures, saving, and the run's name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from textual.widget import Widget

from engine.errors import EngineError
from lyctui import text
from lyctui.report import Line
from lyctui.screens.page import WizardPage
from lyctui.widgets.lines import Lines


class SamplesPage(WizardPage):
    """Prompts, how often, and where the files go."""

    page: ClassVar[str] = "samples"
    INTRODUCTION: ClassVar[str] = (
        "The same prompts are painted before training and after every epoch; they judge the network "
        "better than the loss does."
    )

    def tail(self) -> Iterable[Widget]:
        """What will be made."""
        yield Lines(id="made")

    def show_page(self) -> None:
        """Files and pictures in one or two rows."""
        wizard = self.wizard
        if wizard.filled is None:
            self.query_one("#made", Lines).show([])
            return
        recipe = wizard.filled.recipe
        sample = recipe.sample
        sign = self.host.signs.error
        lines: list[Line] = prompt_problems(sample.prompts, sign, sample.prompts_file)
        folder = (recipe.run.folder / (recipe.run.name or "run")) if recipe.run.folder else None
        if folder is not None:
            lines.append((("  Run folder  ", "dim"), (text.home(folder), "")))
        kept = wizard.plan.sizes.files - 1 if wizard.plan is not None else 0
        words = f"{recipe.run.name}.safetensors" + (f" and {kept} on the way" if kept else "")
        lines.append((("  Files       ", "dim"), (text.inert(words), "")))
        self.query_one("#made", Lines).show(lines)


def prompt_problems(prompts: Iterable[str], sign: str, file: Path | None = None) -> list[Line]:
    """What is wrong with the prompts and with their file."""
    from engine.prompt_files import all_prompts

    try:
        all_prompts(tuple(prompts), file)
    except EngineError as error:
        return [
            ((f"{sign} ", "error"), (text.inert(str(problem)), "")) for problem in error.problems
        ]
    return []
