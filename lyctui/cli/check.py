"""`lyctui check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lyctui.cli.options import Json, Plain


def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Pictures", show_default=False)],
    reg: Annotated[Path | None, typer.Option(help="Regularisation pictures")] = None,
    trigger: Annotated[str, typer.Option(help="Trigger word")] = "",
    class_word: Annotated[str, typer.Option("--class", help="Class word")] = "",
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Check a folder of pictures: every problem at once, with file names."""
    from lyctui.verbs.check import check_folder

    raise typer.Exit(
        check_folder(folder, reg=reg, trigger=trigger, class_word=class_word, as_json=json)
    )
