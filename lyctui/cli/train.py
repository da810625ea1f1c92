"""`lyctui train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lyctui.cli.options import Json, Plain, Theme
from lyctui.verbs.flags import Asked, settings_flags


@settings_flags
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe (TOML)", show_default=False)],
    asked: Asked,
    go_on: Annotated[
        bool,
        typer.Option("--continue", help="Go on with this recipe's unfinished run if there is one"),
    ] = False,
    preset: Annotated[str | None, typer.Option(help="Preset below the recipe")] = None,
    plain: Plain = False,
    theme: Theme = None,
    json: Json = False,
) -> None:
    """Train a recipe: the monitor on a terminal, a line log otherwise."""
    from lyctui.verbs.train import train_recipe

    raise typer.Exit(
        train_recipe(
            recipe, asked, go_on=go_on, preset=preset, plain=plain, theme=theme, as_json=json
        )
    )
