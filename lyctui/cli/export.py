"""`lyctui export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lyctui.cli.options import Json, Plain


def export(
    recipe: Annotated[Path, typer.Argument(help="Recipe (TOML)", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Script to write", show_default=False),
    ] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """A recipe as the nearest command of kohya's sd-scripts, and what differs there."""
    from lyctui.verbs.export import export_recipe

    raise typer.Exit(export_recipe(recipe, output=output, as_json=json))
