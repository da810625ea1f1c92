"""`lyctui runs`."""

from __future__ import annotations

import typer

from lyctui.cli.options import Json, Plain


def runs(plain: Plain = False, json: Json = False) -> None:
    """Every run with its state, step and folder."""
    from lyctui.verbs.runs import show_runs

    raise typer.Exit(show_runs(as_json=json))
