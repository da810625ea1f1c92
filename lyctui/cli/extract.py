"""`lyctui extract`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.tools.requests import ExtractRequest, RankRule
from lyctui.cli.options import ErrorLimit, Force, Json, MaxRank, Output, Plain, PrecisionFlag, Rank


def extract(
    base: Annotated[Path, typer.Argument(help="Checkpoint before", show_default=False)],
    tuned: Annotated[Path, typer.Argument(help="Checkpoint after", show_default=False)],
    output: Output,
    rank: Rank = None,
    threshold: Annotated[
        float | None, typer.Option(help="Keep S above this", show_default=False)
    ] = None,
    ratio: Annotated[
        float | None, typer.Option(help="Keep S above this part of the largest", show_default=False)
    ] = None,
    quantile: Annotated[
        float | None, typer.Option(help="Keep this part of the sum of S", show_default=False)
    ] = None,
    error: ErrorLimit = None,
    max_rank: MaxRank = None,
    conv_rank: Annotated[
        int | None,
        typer.Option(
            help="Rank of convolutions beyond one pixel; 0 leaves them out", show_default=False
        ),
    ] = None,
    diff: Annotated[bool, typer.Option("--diff", help="Whole differences, no LoRA")] = False,
    norms: Annotated[bool, typer.Option("--norms", help="Norm layers too")] = False,
    no_unet: Annotated[bool, typer.Option("--no-unet", help="Leave the U-Net out")] = False,
    no_text: Annotated[bool, typer.Option("--no-text", help="Leave text encoders out")] = False,
    precision: PrecisionFlag = "fp16",
    force: Force = False,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """What a checkpoint was changed by, as a network. Without a rule: rank 32."""
    from lyctui.verbs.extract import extract_network
    from lyctui.verbs.output import reporting
    from lyctui.verbs.tools import rule_of

    with reporting(json):
        rule = rule_of(
            max_rank, rank=rank, threshold=threshold, ratio=ratio, quantile=quantile, error=error
        )
    request = ExtractRequest(
        base=base,
        tuned=tuned,
        output=output,
        rule=rule or RankRule("fixed", 32),
        conv_rule=None if conv_rank is None else RankRule("fixed", conv_rank),
        diff=diff,
        norms=norms,
        unet=not no_unet,
        text=not no_text,
        precision=precision,
        force=force,
    )
    raise typer.Exit(extract_network(request, plain=plain, as_json=json))
