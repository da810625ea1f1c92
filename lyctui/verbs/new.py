"""The wizard, on a screen or as numbered questions, and `lyctui new` without either."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import Problem, UsageError
from lyctui import terminal, text
from lyctui.verbs.flags import Asked
from lyctui.verbs.output import can_ask, cannot_ask, reporting, say, say_json

if TYPE_CHECKING:
    from engine.settings import Recipe
    from lyctui.draft import Draft
    from lyctui.verbs.recipes import Loaded

NO_TERMINAL = (
    "Without one: lyctui new --model FILE --data DIR --trigger WORD --write run.toml --no-start,"
    " then lyctui train run.toml; or lyctui demo"
)


def wizard(*, plain: bool, theme: str | None) -> int:
    """The welcome page, or the first question of the plain wizard."""
    with reporting(as_json=False):
        if not can_ask():
            raise cannot_ask("The wizard asks questions.", NO_TERMINAL)
        if plain or terminal.wants_plain():
            from lyctui.plain_wizard import run_plain

            return run_plain()
        from lyctui.app import run_app
        from lyctui.screens.welcome import WelcomeScreen

        return run_app(WelcomeScreen, theme=theme)


def new_run(
    asked: Asked,
    *,
    preset: str | None,
    begin_from: Path | None,
    write: Path | None,
    no_start: bool,
    plain: bool,
    theme: str | None,
    as_json: bool,
) -> int:
    """The wizard with answers filled in; a recipe file, a run, or both where nobody can be asked."""
    with reporting(as_json):
        from lyctui.verbs.recipes import load

        loaded = load(begin_from, asked, preset)
        wants_questions = can_ask() and not (no_start or as_json or write is not None)
        if wants_questions:
            return _ask(drafted(loaded, preset), plain=plain, theme=theme)
        return _without_questions(
            loaded, write=write, no_start=no_start, plain=plain, theme=theme, as_json=as_json
        )


def drafted(loaded: Loaded, preset: str | None) -> Draft:
    """The answers given as a draft of the wizard."""
    from lyctui.draft import Draft, flattened
    from lyctui.verbs.recipes import preset_values

    draft = Draft()
    if preset is not None:
        draft.choose_preset(preset, preset_values(preset, loaded.data))
    for path, value in flattened(loaded.data).items():
        if path != "version" and loaded.given[path].source == "you":
            draft.set(path, value)
    return draft


def _ask(draft: Draft, *, plain: bool, theme: str | None) -> int:
    if plain or terminal.wants_plain():
        from lyctui.plain_wizard import run_plain

        return run_plain(draft)
    from lyctui.app import run_app
    from lyctui.screens.pages import make_page
    from lyctui.wizard import Wizard

    def first() -> Any:
        opened = Wizard(draft)
        opened.begin()
        return make_page(draft.page, opened)

    return run_app(first, theme=theme)


def _without_questions(
    loaded: Loaded,
    *,
    write: Path | None,
    no_start: bool,
    plain: bool,
    theme: str | None,
    as_json: bool,
) -> int:
    from lyctui.verbs.start import require_answers

    if no_start and write is None:
        raise UsageError(
            Problem("There is nothing to do: no file to write and no start.", remedy="Add --write.")
        )
    require_answers(loaded.recipe)
    if write is not None:
        write_recipe_file(loaded, write)
        if as_json:
            say_json({"written": str(write)})
        else:
            say(f"{text.inert(write)} is written. Train it: lyctui train {text.inert(write)}")
    if no_start:
        return 0
    from lyctui.verbs.show import show
    from lyctui.verbs.start import opened, ready

    made = ready(loaded.recipe, loaded.given, quiet=as_json)
    return show(opened(made, write), plain=plain, theme=theme, as_json=as_json)


def write_recipe_file(loaded: Loaded, place: Path) -> None:
    """Write the recipe with its comments; an existing file is left alone."""
    from engine.checkpoint.atomic import write_text
    from engine.settings.toml import write_recipe

    path = place.expanduser()
    if path.exists():
        raise UsageError(
            Problem("The file exists already.", where=str(place), remedy="Give another name.")
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, write_recipe(with_prompts(loaded.recipe)))


def with_prompts(recipe: Recipe) -> Recipe:
    """The recipe with the prompts that fill would propose: written out, an empty list means none."""
    from engine.hardware import read_hardware
    from engine.plan import Facts, fill

    proposed = fill(recipe, Facts(read_hardware())).recipe.sample.prompts
    sample = recipe.sample.model_copy(update={"prompts": proposed})
    return recipe.model_copy(update={"sample": sample})
