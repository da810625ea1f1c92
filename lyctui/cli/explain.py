"""`lyctui explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lyctui.cli.options import Json, Plain


def explain(
    key: Annotated[str | None, typer.Argument(help="A setting: optim.lr, or lr")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Use this recipe's numbers", show_default=False)
    ] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """What a setting does, what the guides say, and where they disagree. Without KEY: all settings."""
    from lyctui.verbs.explain import explain_key

    raise typer.Exit(explain_key(key, recipe=recipe, as_json=json))
