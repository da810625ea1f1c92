"""All verbs as one program, and what `lyctui` does without one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from lyctui.cli import version_text
from lyctui.cli.check import check
from lyctui.cli.convert import convert
from lyctui.cli.demo import demo
from lyctui.cli.doctor import doctor
from lyctui.cli.explain import explain
from lyctui.cli.export import export
from lyctui.cli.extract import extract
from lyctui.cli.import_ import import_
from lyctui.cli.info import info
from lyctui.cli.merge import merge
from lyctui.cli.new import new
from lyctui.cli.options import Plain, Theme
from lyctui.cli.paths import paths
from lyctui.cli.plan import plan
from lyctui.cli.presets import presets
from lyctui.cli.resize import resize
from lyctui.cli.resume import resume
from lyctui.cli.runs import runs
from lyctui.cli.sample import sample
from lyctui.cli.stop import stop
from lyctui.cli.train import train
from lyctui.cli.watch import watch

TRAIN, LOOK, TOOLS, FILES = "Train", "Look", "Network files", "Files and settings"
VERBS: tuple[tuple[str, Callable[..., None]], ...] = (
    (TRAIN, new),
    (TRAIN, train),
    (TRAIN, resume),
    (TRAIN, demo),
    (LOOK, watch),
    (TRAIN, stop),
    (LOOK, runs),
    (LOOK, plan),
    (LOOK, doctor),
    (LOOK, check),
    (FILES, presets),
    (FILES, explain),
    (TOOLS, info),
    (TOOLS, sample),
    (TOOLS, convert),
    (TOOLS, merge),
    (TOOLS, extract),
    (TOOLS, resize),
    (FILES, import_),
    (FILES, export),
    (FILES, paths),
)
"""In the order of `lyctui --help`, each below its heading."""

app = typer.Typer(
    name="lyctui",
    no_args_is_help=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


for _panel, _verb in VERBS:
    app.command(_verb.__name__.rstrip("_"), rich_help_panel=_panel)(_verb)


def run(*, as_json: bool) -> int:
    """Do what the command line says; gives the exit status."""
    try:
        # typer words its own errors for people; for programs they are objects like all others.
        code: int | None = app(standalone_mode=not as_json)
    except typer.Abort:
        code = 130
    except Exception as error:
        from lyctui.verbs.output import unforeseen

        code = unforeseen(error, as_json=as_json)
    return code or 0
