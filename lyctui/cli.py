"""The command line: verbs and their flags. What a verb does is imported only when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lyctui.verbs.flags import Asked, settings_flags

TRAIN, LOOK, FILES = "Train", "Look", "Files and settings"

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
    """From a folder of pictures to a LoRA file, in a terminal. Without a verb: the wizard."""
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


@app.command(rich_help_panel=FILES)
def info(
    file: Annotated[Path, typer.Argument(help="Network file", show_default=False)],
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Algorithm, ranks, layers and metadata of a network file."""
    from lyctui.verbs.info import show_info

    raise typer.Exit(show_info(file, as_json=json))


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
