"""The command line: verbs and their flags. What a verb does is imported only when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from lyctui.verbs.flags import Asked, settings_flags

TRAIN, LOOK, TOOLS, FILES = "Train", "Look", "Network files", "Files and settings"

app = typer.Typer(
    name="lyctui",
    no_args_is_help=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line")]
Plain = Annotated[bool, typer.Option("--plain", help="Lines of text instead of screens")]
Theme = Annotated[
    str | None, typer.Option("--theme", help="dark, light or ansi", show_default=False)
]
RunName = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Name or folder of a run", show_default=False)
]

# Flags of the tools that read and write network files.
ProgramName = Literal["comfyui", "a1111", "forge", "diffusers", "lycoris"]
FormName = Literal["keep", "lora", "diff"]
NamesName = Literal["keep", "kohya", "diffusers", "sgm", "peft"]
LayoutName = Literal["new", "old"]
PrecisionName = Literal["keep", "fp32", "fp16", "bf16"]
SamplerName = Literal[
    "ddim",
    "euler",
    "euler_a",
    "heun",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_sde_karras",
    "unipc",
    "lms",
    "pndm",
    "ddpm",
]
"""As the settings have them; imported from there they would cost `--version` its quarter second."""
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write", show_default=False)]
BaseModel = Annotated[
    Path | None,
    typer.Option("--base", help="Base model that it was trained on", show_default=False),
]
Rank = Annotated[
    int | None, typer.Option("--rank", help="Rank of what becomes a LoRA", show_default=False)
]
ErrorLimit = Annotated[
    float | None,
    typer.Option("--error", help="Largest relative error, 0.05 say", show_default=False),
]
MaxRank = Annotated[
    int | None, typer.Option("--max-rank", help="Never more ranks than this", show_default=False)
]
PrecisionFlag = Annotated[PrecisionName, typer.Option("--precision", help="Number format")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there")]


def version_text() -> str:
    """Program and version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"lyctui {version('lyctui')}"
    except PackageNotFoundError:
        return "lyctui (not installed)"


@app.callback(
    invoke_without_command=True,
    epilog="Examples:  lyctui  ·  lyctui demo  ·  lyctui new --write run.toml --no-start  ·  "
    "lyctui train run.toml --set train.epochs=12  ·  lyctui resume  ·  lyctui watch",
)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Say the version and leave")] = False,
    plain: Plain = False,
    theme: Theme = None,
) -> None:
    """From a folder of pictures to a LoRA or LyCORIS file. Without a verb: the wizard."""
    if version:
        from lyctui.verbs.output import say

        say(version_text())
        raise typer.Exit
    if context.invoked_subcommand is None:
        from lyctui.verbs.new import wizard

        raise typer.Exit(wizard(plain=plain, theme=theme))


@app.command(rich_help_panel=TRAIN)
@settings_flags
def new(
    asked: Asked,
    preset: Annotated[str | None, typer.Option(help="Begin from a preset")] = None,
    begin_from: Annotated[
        Path | None, typer.Option("--from", help="Begin from a recipe or a run's run.toml")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="Write the recipe to this file")] = None,
    no_start: Annotated[bool, typer.Option("--no-start", help="Do not train")] = False,
    plain: Plain = False,
    theme: Theme = None,
    json: Json = False,
) -> None:
    """The wizard with answers filled in; with --write and --no-start it only saves a recipe."""
    from lyctui.verbs.new import new_run

    raise typer.Exit(
        new_run(
            asked,
            preset=preset,
            begin_from=begin_from,
            write=write,
            no_start=no_start,
            plain=plain,
            theme=theme,
            as_json=json,
        )
    )


@app.command(rich_help_panel=TRAIN)
@settings_flags
def train(
    recipe: Annotated[Path, typer.Argument(help="Recipe (TOML)", show_default=False)],
    asked: Asked,
    go_on: Annotated[
        bool,
        typer.Option("--continue", help="Go on with this recipe's unfinished run if there is one"),
    ] = False,
    preset: Annotated[str | None, typer.Option(help="Preset below the recipe")] = None,
    plain: Plain = False,
    theme: Theme = None,
    json: Json = False,
) -> None:
    """Train a recipe: the monitor on a terminal, a line log otherwise."""
    from lyctui.verbs.train import train_recipe

    raise typer.Exit(
        train_recipe(
            recipe, asked, go_on=go_on, preset=preset, plain=plain, theme=theme, as_json=json
        )
    )


@app.command(rich_help_panel=TRAIN)
@settings_flags
def resume(
    asked: Asked,
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|FILE]",
            help="A run to go on with, or a network file to start from",
            show_default=False,
        ),
    ] = None,
    from_step: Annotated[int | None, typer.Option(help="Use the state of this step")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take the newest run unasked")] = False,
    plain: Plain = False,
    theme: Theme = None,
    json: Json = False,
) -> None:
    """Go on with a run exactly where its state was saved, or train a network file further."""
    from lyctui.verbs.resume import resume_run

    raise typer.Exit(
        resume_run(run, asked, from_step=from_step, yes=yes, plain=plain, theme=theme, as_json=json)
    )


@app.command(rich_help_panel=TRAIN)
def demo(
    plain: Plain = False,
    theme: Theme = None,
    json: Json = False,
) -> None:
    """Teach the embedded base a concept: two minutes, no GPU, nothing to download."""
    from lyctui.verbs.demo import run_demo

    raise typer.Exit(run_demo(plain=plain, theme=theme, as_json=json))


@app.command(rich_help_panel=LOOK)
def watch(
    run: RunName = None, plain: Plain = False, theme: Theme = None, json: Json = False
) -> None:
    """Follow a run from another shell; it can be stopped, paused, saved and sampled there."""
    from lyctui.verbs.runs import watch_run

    raise typer.Exit(watch_run(run, plain=plain, theme=theme, as_json=json))


@app.command(rich_help_panel=TRAIN)
def stop(
    run: Annotated[str, typer.Argument(help="Name or folder of a run", show_default=False)],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for its end")] = 600.0,
    json: Json = False,
) -> None:
    """Ask a run to save its exact state and stop; waits until it has."""
    from lyctui.verbs.runs import stop_run

    raise typer.Exit(stop_run(run, timeout=timeout, as_json=json))


@app.command(rich_help_panel=LOOK)
def runs(plain: Plain = False, json: Json = False) -> None:
    """Every run with its state, step and folder."""
    from lyctui.verbs.runs import show_runs

    raise typer.Exit(show_runs(as_json=json))


@app.command(rich_help_panel=LOOK)
@settings_flags
def plan(
    recipe: Annotated[Path, typer.Argument(help="Recipe (TOML)", show_default=False)],
    asked: Asked,
    preset: Annotated[str | None, typer.Option(help="Preset below the recipe")] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Steps, buckets, memory and files of a recipe before it runs, with the arithmetic."""
    from lyctui.verbs.plan import show_plan

    raise typer.Exit(show_plan(recipe, asked, preset=preset, as_json=json))


@app.command(rich_help_panel=LOOK)
def doctor(plain: Plain = False, json: Json = False) -> None:
    """Look at GPU, driver, torch, disk and terminal; each fault with its remedy."""
    from lyctui.verbs.doctor import show_doctor

    raise typer.Exit(show_doctor(as_json=json))


@app.command(rich_help_panel=LOOK)
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


@app.command(rich_help_panel=FILES)
def presets(
    name: Annotated[str | None, typer.Argument(help="One preset in full")] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Presets, for whom they are, and what they change."""
    from lyctui.verbs.explain import show_presets

    raise typer.Exit(show_presets(name, as_json=json))


@app.command(rich_help_panel=FILES)
def explain(
    key: Annotated[str | None, typer.Argument(help="A setting: optim.lr, or lr")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Use this recipe's numbers", show_default=False)
    ] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """What a setting does, what the guides say, and where they disagree. Without KEY: all settings."""
    from lyctui.verbs.explain import explain_key

    raise typer.Exit(explain_key(key, recipe=recipe, as_json=json))


@app.command(rich_help_panel=TOOLS)
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


@app.command(rich_help_panel=TOOLS)
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
    files: Annotated[int, typer.Option(help="At most so many files of a run; 0 is all")] = 4,
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


@app.command(rich_help_panel=TOOLS)
def convert(
    file: Annotated[Path, typer.Argument(help="Network file", show_default=False)],
    output: Output,
    program: Annotated[
        ProgramName | None,
        typer.Option("--for", help="What this program loads", show_default=False),
    ] = None,
    to: Annotated[FormName, typer.Option(help="Form of every module")] = "keep",
    names: Annotated[NamesName, typer.Option(help="Spelling of the module names")] = "keep",
    glora: Annotated[
        LayoutName | None, typer.Option(help="Layout of a GLoRA", show_default=False)
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
    from engine.tools.requests import ConvertRequest
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


@app.command(rich_help_panel=TOOLS)
def merge(
    networks: Annotated[
        list[str], typer.Argument(metavar="FILE[=STRENGTH]...", show_default=False)
    ],
    output: Output,
    into: Annotated[
        Path | None,
        typer.Option(help="Checkpoint to merge into; without it: one network", show_default=False),
    ] = None,
    to: Annotated[FormName, typer.Option(help="Form of the one network")] = "keep",
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
    from engine.tools.requests import JoinRequest, MergeRequest
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


@app.command(rich_help_panel=TOOLS)
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
    from engine.tools.requests import ExtractRequest, RankRule
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


@app.command(rich_help_panel=TOOLS)
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
    from engine.tools.requests import RankRule, ResizeRequest
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


@app.command("import", rich_help_panel=FILES)
def import_(
    file: Annotated[
        Path,
        typer.Argument(help="JSON of kohya_ss, TOML or command of sd-scripts", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Recipe to write", show_default=False),
    ] = None,
    dataset_config: Annotated[
        Path | None,
        typer.Option(help="Data set TOML in place of the one it names", show_default=False),
    ] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """A configuration of kohya's as a recipe, with what became of each of its keys."""
    from lyctui.verbs.import_ import import_config

    raise typer.Exit(
        import_config(file, output=output, dataset_config=dataset_config, as_json=json)
    )


@app.command(rich_help_panel=FILES)
def export(
    recipe: Annotated[Path, typer.Argument(help="Recipe (TOML)", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Script to write", show_default=False),
    ] = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """A recipe as the nearest command of kohya's sd-scripts, and what differs there."""
    from lyctui.verbs.export import export_recipe

    raise typer.Exit(export_recipe(recipe, output=output, as_json=json))


@app.command(rich_help_panel=FILES)
def paths(plain: Plain = False, json: Json = False) -> None:
    """Where configuration, state, cache, drafts and runs are."""
    from lyctui.verbs.paths import show_paths

    raise typer.Exit(show_paths(as_json=json))


def main() -> None:
    """Entry point of the `lyctui` command."""
    if sys.argv[1:] == ["--version"]:
        # The one answer that scripts ask for often: not even typer's help is needed.
        sys.stdout.write(version_text() + "\n")
        return
    as_json = "--json" in sys.argv
    try:
        # typer words its own errors for people; for programs they are objects like all others.
        code = app(standalone_mode=not as_json)
    except typer.Abort:
        code = 130
    except Exception as error:
        from lyctui.verbs.output import unforeseen

        code = unforeseen(error, as_json=as_json)
    sys.exit(code or 0)


if __name__ == "__main__":
    main()
