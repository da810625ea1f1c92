"""`lyctui paths`."""

from __future__ import annotations

import typer

from lyctui.cli.options import Json, Plain


def paths(plain: Plain = False, json: Json = False) -> None:
    """Where configuration, state, cache, drafts and runs are."""
    from lyctui.verbs.paths import show_paths

    raise typer.Exit(show_paths(as_json=json))
