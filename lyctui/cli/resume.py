"""`lyctui resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from lyctui.cli.options import Json, Plain, Theme
from lyctui.verbs.flags import Asked, settings_flags


@settings_flags
def resume(
    asked: Asked,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|FILE]",
            help="A run to go on with, or a network file to start from",
            show_default=False,
        ),
    ] = None,
    from_step: Annotated[int | None, typer.Option(help="Use the state of this step")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the newest run unasked")] = False,
    plain: Plain = False,
    theme: Theme = None,
    json: Json = False,
) -> None:
    """Go on with a run exactly where its state was saved, or train a network file further."""
    from lyctui.verbs.resume import resume_run

    raise typer.Exit(
        resume_run(run, asked, from_step=from_step, yes=yes, plain=plain, theme=theme, as_json=json)
    )
