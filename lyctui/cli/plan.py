"""`lyctui plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lyctui.cli.options import Json, Plain
from lyctui.verbs.flags import Asked, settings_flags


@settings_flags
def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe (TOML)", show_default=False)],
    asked: Asked,
    preset: Annotated[str | None, typer.Option(help="Preset below the recipe")] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Steps, buckets, memory and files of a recipe before it runs, with the arithmetic."""
    from lyctui.verbs.plan import show_plan

    raise typer.Exit(show_plan(recipe, asked, preset=preset, as_json=json))
