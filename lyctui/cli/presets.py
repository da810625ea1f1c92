"""`lyctui presets`."""

from __future__ import annotations

from typing import Annotated

import typer

from lyctui.cli.options import Json, Plain


def presets(
    name: Annotated[str | None, typer.Argument(help="One preset in full")] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Presets, for whom they are, and what they change."""
    from lyctui.verbs.explain import show_presets

    raise typer.Exit(show_presets(name, as_json=json))
