"""`lyctui sample`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.sampler_names import SamplerName
from lyctui.cli.options import Force, Json, Plain


def sample(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="RUN|FILE...", help="A run, or network files", show_default=False),
    ],
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="What to paint; flags at its end as in a recipe"),
    ] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", help="File of prompts: .txt, .json or .toml")
    ] = None,
    strengths: Annotated[
        str, typer.Option(help="Strengths with commas between; 0 is the base alone")
    ] = "0.6,1",
    model: Annotated[
        Path | None,
        typer.Option(help="Base to paint on; without it the one of the run", show_default=False),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", help="Take base and prompts from this run", show_default=False),
    ] = None,
    files: Annotated[int, typer.Option(min=0, help="At most so many files of a run; 0 is all")] = 4,
    negative: Annotated[
        str | None, typer.Option(help="What not to show", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first prompt")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the sampler")] = None,
    sampler: Annotated[SamplerName | None, typer.Option(help="Sampler")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale")] = None,
    width: Annotated[int | None, typer.Option(help="Width in pixels")] = None,
    height: Annotated[int | None, typer.Option(help="Height in pixels")] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, or a GPU", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for sheet and single pictures", show_default=False)
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help="PNG file with all pictures", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="HTML file with all pictures", show_default=False)
    ] = None,
    force: Force = False,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """A contact sheet: files of a run, or any network files, at several strengths."""
    from engine.sheet.values import Wishes
    from lyctui.verbs.sample import Targets, sample_networks

    wishes = Wishes(
        model=model,
        negative=negative,
        seed=seed,
        steps=steps,
        sampler=sampler,
        guidance=guidance,
        width=width,
        height=height,
        device=device,
        most_files=files,
    )
    raise typer.Exit(
        sample_networks(
            Targets(names=targets, run=run, out=out, grid=grid, html=html, force=force),
            wishes,
            prompts=prompt or [],
            prompts_file=prompts_file,
            strengths=strengths,
            plain=plain,
            as_json=json,
        )
    )
