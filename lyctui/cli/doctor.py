"""`lyctui doctor`."""

from __future__ import annotations

import typer

from lyctui.cli.options import Json, Plain


def doctor(plain: Plain = False, json: Json = False) -> None:
    """Look at GPU, driver, torch, disk and terminal; each fault with its remedy."""
    from lyctui.verbs.doctor import show_doctor

    raise typer.Exit(show_doctor(as_json=json))
