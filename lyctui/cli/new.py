"""`lyctui new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lyctui.cli.options import Json, Plain, Theme
from lyctui.verbs.flags import Asked, settings_flags


@settings_flags
def new(
    asked: Asked,
    preset: Annotated[str | None, typer.Option(help="Begin from a preset")] = None,
    begin_from: Annotated[
        Path | None, typer.Option("--from", help="Begin from a recipe or a run's run.toml")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="Write the recipe to this file")] = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Do not train")] = False,
    plain: Plain = False,
    theme: Theme = None,
    json: Json = False,
) -> None:
    """The wizard with answers filled in; with --write and --no-start it only saves a recipe."""
    from lyctui.verbs.new import new_run

    raise typer.Exit(
        new_run(
            asked,
            preset=preset,
            begin_from=begin_from,
            write=write,
            no_start=no_start,
            plain=plain,
            theme=theme,
            as_json=json,
        )
    )
