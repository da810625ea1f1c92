"""`lyctui convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.tools.requests import ConvertRequest, Form, GloraLayout, Names, Program
from lyctui.cli.options import (
    BaseModel,
    ErrorLimit,
    Force,
    Json,
    MaxRank,
    Output,
    Plain,
    PrecisionFlag,
    Rank,
)


def convert(
    file: Annotated[Path, typer.Argument(help="Network file", show_default=False)],
    output: Output,
    program: Annotated[
        Program | None,
        typer.Option("--for", help="What this program loads", show_default=False),
    ] = None,
    to: Annotated[Form, typer.Option(help="Form of every module")] = "keep",
    names: Annotated[Names, typer.Option(help="Spelling of the module names")] = "keep",
    glora: Annotated[
        GloraLayout | None, typer.Option(help="Layout of a GLoRA", show_default=False)
    ] = None,
    rank: Rank = None,
    error: ErrorLimit = None,
    max_rank: MaxRank = None,
    base: BaseModel = None,
    precision: PrecisionFlag = "keep",
    force: Force = False,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """A network file for another program, in another form, or under other names."""
    from lyctui.verbs.convert import convert_file
    from lyctui.verbs.output import reporting
    from lyctui.verbs.tools import rule_of

    with reporting(json):
        rule = rule_of(max_rank, rank=rank, error=error)
    request = ConvertRequest(
        source=file,
        output=output,
        program=program,
        to=to,
        names=names,
        glora=glora,
        rule=rule,
        base=base,
        precision=precision,
        force=force,
    )
    raise typer.Exit(convert_file(request, plain=plain, as_json=json))
