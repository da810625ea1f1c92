"""`lyctui watch`."""

from __future__ import annotations

import typer

from lyctui.cli.options import Json, Plain, RunName, Theme


def watch(
    run: RunName = None, plain: Plain = False, theme: Theme = None, json: Json = False
) -> None:
    """Follow a run from another shell; it can be stopped, paused, saved and sampled there."""
    from lyctui.verbs.runs import watch_run

    raise typer.Exit(watch_run(run, plain=plain, theme=theme, as_json=json))
