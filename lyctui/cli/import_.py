"""`lyctui import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lyctui.cli.options import Json, Plain


def import_(
    file: Annotated[
        Path,
        typer.Argument(help="JSON of kohya_ss, TOML or command of sd-scripts", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Recipe to write", show_default=False),
    ] = None,
    dataset_config: Annotated[
        Path | None,
        typer.Option(help="Data set TOML in place of the one it names", show_default=False),
    ] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """A configuration of kohya's as a recipe, with what became of each of its keys."""
    from lyctui.verbs.import_ import import_config

    raise typer.Exit(
        import_config(file, output=output, dataset_config=dataset_config, as_json=json)
    )
