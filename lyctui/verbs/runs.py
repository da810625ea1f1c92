"""`runs`, `watch` and `stop`: runs seen from another shell."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from engine.errors import Problem, RunError
from engine.runs import RunInfo, ask_run, default_runs_folder, find_run, list_runs, run_info
from lyctui import text
from lyctui.outcome import resume_command
from lyctui.verbs.output import can_ask, cannot_ask, reporting, say, say_json, table, tell

POLL_SECONDS = 0.25


def show_runs(*, as_json: bool) -> int:
    """Say every run, the newest first."""
    infos = list_runs(default_runs_folder())
    if as_json:
        for info in infos:
            say_json(run_object(info))
        return 0
    if not infos:
        say(f"No runs in {text.home(default_runs_folder())} yet.")
        return 0
    rows = [run_row(info) for info in infos]
    for line in table(rows, header=("run", "state", "step", "changed", "folder")):
        say(line)
    return 0


def run_object(info: RunInfo) -> dict[str, object]:
    """One run as the machine interface has it."""
    return {
        "run": info.name,
        "state": info.state,
        "step": info.step,
        "total_steps": info.total_steps,
        "updated_at": info.updated_at,
        "folder": str(info.folder),
        "pid": info.owner.pid if info.owner is not None else None,
        "host": info.owner.host if info.owner is not None else None,
        "resumable": info.resumable,
        "message": info.message,
        "waiting": info.waiting,
    }


def run_row(info: RunInfo) -> tuple[str, str, str, str, str]:
    """One run as a line of a table."""
    state: str = "waiting" if info.waiting else info.state
    if info.owner is not None and not info.owner.here:
        state += f" on {text.inert(info.owner.host)}"
    steps = text.grouped(info.step)
    if info.total_steps:
        steps += f" of {text.grouped(info.total_steps)}"
    return (
        text.inert(info.name),
        state,
        steps,
        text.age(info.updated_at),
        text.home(info.folder),
    )


def watch_run(run: str | None, *, plain: bool, theme: str | None, as_json: bool) -> int:
    """Follow a run: the monitor on a terminal, lines or objects otherwise."""
    with reporting(as_json):
        from lyctui.monitor import WatchedRun
        from lyctui.verbs.show import show

        return show(WatchedRun(chosen_run(run)), plain=plain, theme=theme, as_json=as_json)


def chosen_run(run: str | None) -> Path:
    """The run that was named; without a name the one that is running, else a question."""
    root = default_runs_folder()
    if run is not None:
        return find_run(run, root)
    infos = list_runs(root)
    running = [info for info in infos if info.state == "running"]
    if len(running) == 1:
        return running[0].folder
    choices = running or infos
    if not choices:
        raise RunError(Problem("There are no runs yet.", where=str(root)))
    if len(choices) == 1:
        return choices[0].folder
    return ask_which(choices, "Which run?", "Name one: lyctui watch RUN")


def ask_which(infos: list[RunInfo] | tuple[RunInfo, ...], question: str, answer: str) -> Path:
    """Ask for one of several runs by number."""
    if not can_ask():
        names = ", ".join(text.inert(info.name) for info in infos[:8])
        raise cannot_ask(f"{question} There are {names}.", answer)
    for place, info in enumerate(infos[:20], start=1):
        name, state, steps, changed, _ = run_row(info)
        tell(f"{place:>3}  {name}  {state}, step {steps}, {changed}")
    number: int = typer.prompt(question, default=1, type=int, err=True)
    if not 1 <= number <= len(infos[:20]):
        raise RunError(Problem(f"{number} is not on the list."))
    return infos[number - 1].folder


def stop_run(run: str, *, timeout: float, as_json: bool) -> int:
    """Ask a run to save and stop, and wait until its process has let go."""
    with reporting(as_json):
        folder = find_run(run, default_runs_folder())
        answer = ask_run(folder, "stop")
        if not as_json:
            tell(f"{text.inert(folder.name)}: {text.inert(answer)}, waiting for its state")
        info = _wait_for_end(folder, timeout)
        if as_json:
            say_json(run_object(info))
        else:
            say(f"{text.inert(info.name)} {info.state} at step {text.grouped(info.step)}")
            if info.message:
                say(text.inert(info.message))
            if info.resumable:
                say(f"Go on with: {text.inert(resume_command(info.folder))}")
        return 0


def _wait_for_end(folder: Path, timeout: float) -> RunInfo:
    deadline = time.monotonic() + timeout
    while True:
        info = run_info(folder)
        if info.state != "running":
            return info
        if time.monotonic() > deadline:
            raise RunError(
                Problem(
                    f"The run has not stopped within {timeout:g} seconds.",
                    where=str(folder),
                    remedy="It stops after the step it is in: see `lyctui watch`.",
                )
            )
        time.sleep(POLL_SECONDS)
