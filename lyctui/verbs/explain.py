"""`lyctui explain` and `lyctui presets`: what settings and presets are for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from engine.settings.walk import Setting, settings
from lyctui import text
from lyctui.paths import paths
from lyctui.verbs.output import reporting, say, say_json, table

READABLE_COLUMNS = 100

if TYPE_CHECKING:
    from lyctui.presets import Preset


def explain_key(key: str | None, *, recipe: Path | None, as_json: bool) -> int:
    """Say what a setting does; without a key list all settings."""
    with reporting(as_json):
        if key is None:
            _list_settings(as_json)
        else:
            _explain(key, recipe, as_json)
        return 0


def setting_object(setting: Setting) -> dict[str, object]:
    """One setting as the machine interface has it."""
    return {
        "key": setting.path,
        "label": setting.label,
        "type": setting.type,
        "default": setting.default_text,
        "level": setting.level,
        "flag": setting.ask.flag or None,
        "help": setting.help,
    }


def _list_settings(as_json: bool) -> None:
    every = settings()
    if as_json:
        for setting in every:
            say_json(setting_object(setting))
        return
    for line in table([(each.path, each.default_text, each.help) for each in every]):
        say(line)


def _explain(key: str, recipe: Path | None, as_json: bool) -> None:
    from lyctui.guides import explain, explained, find

    numbers = plan_numbers(recipe) if recipe is not None else None
    if as_json:
        setting = find(key)
        say_json({**setting_object(setting), "guide": explain(setting.path, numbers)})
        return
    _say_wrapped(text.inert(explained(key, numbers), lines=True))


def _say_wrapped(words: str) -> None:
    """Broken between words, to a width that is read well."""
    width = min(shutil.get_terminal_size().columns, READABLE_COLUMNS)
    for line in text.wrap(words, width):
        say(line)


def plan_numbers(recipe_file: Path) -> dict[str, str]:
    """Numbers of a recipe's plan, for the guide texts."""
    from engine.plan import gather, plan
    from lyctui.guides import run_numbers
    from lyctui.verbs.flags import Asked
    from lyctui.verbs.recipes import load

    loaded = load(recipe_file, Asked())
    return run_numbers(plan(loaded.recipe, gather(loaded.recipe), loaded.given))


def show_presets(name: str | None, *, as_json: bool) -> int:
    """Say for whom each preset is, or what one of them changes."""
    with reporting(as_json):
        from lyctui.presets import list_presets, load_preset

        own = paths().config / "presets"

        if name is not None:
            _show_preset(load_preset(name, own=own), as_json)
            return 0
        every = list_presets(own=own)
        if as_json:
            for preset in every:
                say_json(preset_object(preset))
            return 0
        rows = [(each.name, text.inert(each.title), text.inert(each.for_whom)) for each in every]
        for line in table(rows):
            say(line)
        return 0


def preset_object(preset: Preset) -> dict[str, object]:
    """One preset as the machine interface has it."""
    from lyctui.draft import flattened

    return {
        "name": preset.name,
        "title": preset.title,
        "for_whom": preset.for_whom,
        "why": preset.why,
        "guide": preset.guide,
        "differs": preset.differs,
        "values": flattened(preset.values),
    }


def _show_preset(preset: Preset, as_json: bool) -> None:
    from engine.settings.walk import value_text
    from lyctui.draft import flattened

    if as_json:
        say_json(preset_object(preset))
        return
    told = [f"{preset.title} ({preset.name}): {preset.for_whom}", preset.why]
    if preset.guide:
        told.append(f"Rests on {preset.guide}.")
    if preset.differs:
        told.append(f"Unlike there: {preset.differs}")
    for words in told:
        _say_wrapped(text.inert(words))
    rows = [
        (path, text.inert(value_text(value))) for path, value in flattened(preset.values).items()
    ]
    for line in table(rows):
        say(line)
