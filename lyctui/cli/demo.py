"""`lyctui demo`."""

from __future__ import annotations

import typer

from lyctui.cli.options import Json, Plain, Theme


def demo(
    plain: Plain = False,
    theme: Theme = None,
    json: Json = False,
) -> None:
    """Teach the embedded base a concept: two minutes, no GPU, nothing to download."""
    from lyctui.verbs.demo import run_demo

    raise typer.Exit(run_demo(plain=plain, theme=theme, as_json=json))
