"""`lyctui info`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lyctui.cli.options import BaseModel, Json, Plain


def info(
    file: Annotated[Path, typer.Argument(help="Network file", show_default=False)],
    norms: Annotated[bool, typer.Option("--norms", help="Every module with its norm")] = False,
    base: BaseModel = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Algorithm, ranks, norms and metadata of a network file, and which programs load it."""
    from lyctui.verbs.info import show_info

    raise typer.Exit(show_info(file, norms=norms, base=base, as_json=json))
