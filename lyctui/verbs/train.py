"""`lyctui train`: a recipe to its end, headless or with the monitor."""

from __future__ import annotations

from pathlib import Path

from engine.runs import run_info
from lyctui import text
from lyctui.verbs.flags import Asked
from lyctui.verbs.output import reporting, tell
from lyctui.verbs.recipes import load
from lyctui.verbs.show import show
from lyctui.verbs.start import opened, ready, unfinished_run


def train_recipe(
    recipe_file: Path,
    asked: Asked,
    *,
    go_on: bool,
    preset: str | None,
    plain: bool,
    theme: str | None,
    as_json: bool,
) -> int:
    """Train a recipe; with `go_on`, its unfinished run where there is one."""
    with reporting(as_json):
        loaded = load(recipe_file, asked, preset)
        unfinished = unfinished_run(loaded.recipe, recipe_file) if go_on else None
        if unfinished is not None:
            from lyctui.monitor import reopen_run

            step = run_info(unfinished).step
            if not as_json:
                tell(f"Going on with {text.inert(unfinished.name)} from step {text.grouped(step)}.")
            run = reopen_run(unfinished)
        else:
            made = ready(loaded.recipe, loaded.given, quiet=as_json)
            run = opened(made, recipe_file)
        return show(run, plain=plain, theme=theme, as_json=as_json)
