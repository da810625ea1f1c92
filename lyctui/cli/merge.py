"""`lyctui merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.tools.requests import Form, JoinRequest, MergeRequest
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


def merge(
    networks: Annotated[
        list[str], typer.Argument(metavar="FILE[=STRENGTH]...", show_default=False)
    ],
    output: Output,
    into: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to merge into; without it: one network", show_default=False),
    ] = None,
    to: Annotated[Form, typer.Option(help="Form of the one network")] = "keep",
    rank: Rank = None,
    error: ErrorLimit = None,
    max_rank: MaxRank = None,
    base: BaseModel = None,
    precision: PrecisionFlag = "keep",
    force: Force = False,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Networks into a checkpoint (--into), or several networks into one."""
    from lyctui.verbs.merge import join_networks, merge_networks, no_form_of_a_checkpoint
    from lyctui.verbs.output import reporting
    from lyctui.verbs.tools import rule_of, weighted

    with reporting(json):
        rule, given = rule_of(max_rank, rank=rank, error=error), weighted(networks)
        if into is not None:
            no_form_of_a_checkpoint(to, rule, base)
    if into is not None:
        merging = MergeRequest(
            base=into, networks=given, output=output, precision=precision, force=force
        )
        raise typer.Exit(merge_networks(merging, plain=plain, as_json=json))
    joining = JoinRequest(
        networks=given,
        output=output,
        to=to,
        rule=rule,
        base=base,
        precision=precision,
        force=force,
    )
    raise typer.Exit(join_networks(joining, plain=plain, as_json=json))
