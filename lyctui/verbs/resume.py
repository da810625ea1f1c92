"""`lyctui resume`: go on with a run exactly, or begin a new one from a network file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from engine.errors import Problem, RunError
from engine.runs import RunInfo, default_runs_folder, find_run, list_runs, run_info
from lyctui import text
from lyctui.outcome import has_state, resume_command
from lyctui.verbs.flags import Asked
from lyctui.verbs.output import can_ask, cannot_ask, reporting, tell
from lyctui.verbs.recipes import combine, set_texts
from lyctui.verbs.show import show
from lyctui.verbs.start import opened, ready

if TYPE_CHECKING:
    from lyctui.monitor import LiveRun


def resume_run(
    run: str | None,
    asked: Asked,
    *,
    from_step: int | None,
    yes: bool,
    plain: bool,
    theme: str | None,
    as_json: bool,
) -> int:
    """Go on with a run, or train a network file further in a new one."""
    with reporting(as_json):
        if run is not None and is_network_file(run):
            live = from_network(Path(run), asked, quiet=as_json)
        else:
            folder = chosen(run, yes=yes)
            live = reopened(folder, asked, from_step=from_step, quiet=as_json)
        return show(live, plain=plain, theme=theme, as_json=as_json)


def is_network_file(name: str) -> bool:
    """Whether a name means a file of weights rather than a run."""
    path = Path(name).expanduser()
    return path.suffix.lower() == ".safetensors" or path.is_file()


def chosen(run: str | None, *, yes: bool) -> Path:
    """The run that was named; without a name the newest unfinished one, if that is wanted."""
    root = default_runs_folder()
    if run is not None:
        return find_run(run, root)
    unfinished = [info for info in list_runs(root) if info.resumable]
    # The newest first, but one that saved nothing would only begin again.
    unfinished.sort(key=lambda info: not has_state(info.folder))
    if not unfinished:
        raise RunError(
            Problem(
                "There is no unfinished run.",
                where=str(root),
                remedy="`lyctui runs` lists all; a finished one goes on with"
                " `lyctui resume RUN --set train.epochs=N`.",
            )
        )
    newest = unfinished[0]
    if yes:
        return newest.folder
    words = _described(newest)
    if not can_ask():
        raise cannot_ask(f"Go on with {words}?", f"lyctui resume {newest.name}, or --yes")
    if not typer.confirm(f"Go on with {words}?", default=True, err=True):
        raise typer.Exit(0)
    return newest.folder


def _described(info: RunInfo) -> str:
    name, steps = text.inert(info.name), text.grouped(info.step)
    return f"{name} ({info.state} at step {steps} of {text.grouped(info.total_steps)})"


def reopened(folder: Path, asked: Asked, *, from_step: int | None, quiet: bool) -> LiveRun:
    """A run to go on with; changed settings are checked, said, and kept in its run.toml."""
    from lyctui.monitor import reopen_run

    info = run_info(folder)
    if info.state == "finished" and not asked and from_step is None:
        raise RunError(
            Problem(
                f"The run is finished: {text.grouped(info.step)} steps are done.",
                where=str(folder),
                remedy=_further(info),
            )
        )
    if asked:
        change_recipe(folder, asked, quiet=quiet)
    return reopen_run(folder, from_step=from_step)


def _further(info: RunInfo) -> str:
    """What to raise so that a finished run trains on: the step limit where that has ended it."""
    from engine.session import stored_recipe

    cut = stored_recipe(info.folder).train.max_steps == info.total_steps
    what, key = ("step limit", "max_steps") if cut else ("epochs", "epochs")
    return f"Raise the {what}: {resume_command(info.folder)} --set train.{key}=N"


def change_recipe(folder: Path, asked: Asked, *, quiet: bool) -> None:
    """Put allowed changes into run.toml; raises RunError with every change that is not allowed."""
    from engine.session import stored_recipe

    stored_recipe(folder, set_texts(asked))
    if not quiet:
        tell(f"run.toml of {text.inert(folder.name)} is changed; the old one is kept beside it.")


def from_network(file: Path, asked: Asked, *, quiet: bool) -> LiveRun:
    """A new run that starts from the weights of a network file of ours."""
    from lyctui.network_file import read_network_facts

    facts = read_network_facts(file.expanduser().absolute())
    loaded = combine(facts.answers, asked, where=str(file))
    made = ready(loaded.recipe, loaded.given, quiet=quiet)
    if not quiet:
        tell(f"A new run from {text.inert(file.name)}: {text.inert(facts.words)}.")
        tell("Exact: the weights. Fresh: optimizer, learning-rate curve, step and order.")
        tell("The file itself stays as it is.")
    return opened(made, None)
