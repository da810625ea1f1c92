"""`lyctui stop`."""

from __future__ import annotations

from typing import Annotated

import typer

from lyctui.cli.options import Json


def stop(
    run: Annotated[str, typer.Argument(help="Name or folder of a run", show_default=False)],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for its end")] = 600.0,
    json: Json = False,
) -> None:
    """Ask a run to save its exact state and stop; waits until it has."""
    from lyctui.verbs.runs import stop_run

    raise typer.Exit(stop_run(run, timeout=timeout, as_json=json))
