"""`lyctui resize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.tools.requests import RankRule, ResizeRequest
from lyctui.cli.options import ErrorLimit, Force, Json, MaxRank, Output, Plain, PrecisionFlag, Rank


def resize(
    file: Annotated[Path, typer.Argument(help="LoRA or LoKr", show_default=False)],
    output: Output,
    rank: Rank = None,
    error: ErrorLimit = None,
    sv_ratio: Annotated[
        float | None,
        typer.Option(help="Keep S above the largest divided by this", show_default=False),
    ] = None,
    sv_fro: Annotated[
        float | None, typer.Option(help="Keep this part of the norm", show_default=False)
    ] = None,
    sv_cumulative: Annotated[
        float | None, typer.Option(help="Keep this part of the sum of S", show_default=False)
    ] = None,
    max_rank: MaxRank = None,
    conv_rank: Annotated[
        int | None,
        typer.Option(help="Rank of convolutions beyond one pixel", show_default=False),
    ] = None,
    precision: PrecisionFlag = "keep",
    force: Force = False,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """A LoRA or LoKr with fewer ranks, the most important ones kept."""
    from lyctui.verbs.output import reporting
    from lyctui.verbs.resize import resize_file
    from lyctui.verbs.tools import needed_rule, rule_of

    with reporting(json):
        rule = needed_rule(
            rule_of(
                max_rank,
                rank=rank,
                error=error,
                sv_ratio=sv_ratio,
                sv_fro=sv_fro,
                sv_cumulative=sv_cumulative,
            )
        )
    request = ResizeRequest(
        source=file,
        output=output,
        rule=rule,
        conv_rule=None if conv_rank is None else RankRule("fixed", conv_rank),
        precision=precision,
        force=force,
    )
    raise typer.Exit(resize_file(request, plain=plain, as_json=json))
