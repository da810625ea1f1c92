"""From a recipe to a run that may start: what is missing, what the machine says, what is proposed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from engine.errors import EnvironmentFault, Problem, RecipeError
from engine.hardware import Hardware, choose_device, read_hardware
from engine.plan import Facts, Origin, Plan, arithmetic_line, gather, plan
from engine.runs import RunFolder, RunInfo, default_runs_folder, list_runs
from engine.settings import Recipe
from lyctui import terminal, text
from lyctui.verbs.output import tell

if TYPE_CHECKING:
    from lyctui.monitor import LiveRun

RECIPE_FILE = "recipe file"
"""Key in origins.json: the file that a run was started from, which `--continue` looks for."""


def require_answers(recipe: Recipe) -> None:
    """Refuse a recipe without base model or pictures, naming the flags that give them."""
    problems = []
    if recipe.model.path is None:
        problems.append(
            Problem(
                "No base model is given.",
                remedy="Give it with --model FILE, or set model.path in the recipe.",
                path="model.path",
            )
        )
    if recipe.data.folder is None:
        problems.append(
            Problem(
                "No pictures are given.",
                remedy="Give them with --data DIR, or set data.folder in the recipe.",
                path="data.folder",
            )
        )
    if problems:
        raise RecipeError(*problems)


def require_cuda(recipe: Recipe, hardware: Hardware) -> None:
    """Refuse to train on a GPU that the installed torch cannot use."""
    device = choose_device(recipe.train.device, hardware)
    build = hardware.torch
    if device.gpu is None or build is None or build.cuda is not None:
        return
    raise EnvironmentFault(
        Problem(
            f"The installed torch {build.version} is a build without CUDA and cannot use"
            f" {device.gpu.name}.",
            remedy="Install a CUDA build of torch, or train on the CPU with --device cpu."
            " `lyctui doctor` says more.",
            path="train.device",
        )
    )


def ready(recipe: Recipe, given: Mapping[str, Origin], *, quiet: bool) -> Plan:
    """The plan of a recipe that can start; raises EngineError with everything against it."""
    require_answers(recipe)
    hardware = read_hardware()
    require_cuda(recipe, hardware)
    with_words = not quiet and terminal.is_terminal(sys.__stderr__)
    facts = gather(
        recipe,
        hardware=hardware,
        progress=_progress if with_words else None,
        adamw8bit_works=probe_adamw8bit(recipe, hardware),
    )
    made = plan(recipe, facts, given)
    made.raise_errors()
    if not quiet:
        tell(text.inert(arithmetic_line(made)))
        for notice in made.notices:
            tell(f"! {text.inert(notice)}")
    return made


def probe_adamw8bit(recipe: Recipe, hardware: Hardware) -> bool | None:
    """Try one 8-bit step on the GPU, where the choice of the optimizer hangs on it."""
    device = choose_device(recipe.train.device, hardware)
    if recipe.optim.optimizer is not None or device.gpu is None:
        return None
    from engine.optim.probe import adamw8bit_works

    works, _ = adamw8bit_works(device.torch_name)
    return works


def _progress(done: int, total: int) -> None:
    if done % 25 == 0 or done == total:
        end = "\n" if done == total else ""
        sys.stderr.write(f"\rlooking at pictures: {done} of {total}{end}")
        sys.stderr.flush()


def opened(made: Plan, recipe_file: Path | None) -> LiveRun:
    """The run of a plan, in a folder of its own, not yet started."""
    from lyctui.monitor import open_run

    origins: dict[str, object] = {
        path: origin.to_dict() for path, origin in made.filled.origins.items()
    }
    if recipe_file is not None:
        origins[RECIPE_FILE] = {"source": "you", "reason": str(recipe_file.absolute())}
    run = open_run(made.recipe, origins)
    if run.folder.name != made.recipe.run.name:
        taken, name = text.inert(made.recipe.run.name or ""), text.inert(run.folder.name)
        tell(f"! The name {taken} is taken; this run is called {name}.")
    return run


def unfinished_run(recipe: Recipe, recipe_file: Path) -> Path | None:
    """The newest run of this recipe that `resume` can go on with, or None."""
    root = recipe.run.folder or default_runs_folder()
    own = recipe_file.absolute()

    def belongs(info: RunInfo) -> bool:
        folder = RunFolder(info.folder)
        return folder.recipe.absolute() == own or _recipe_file(folder) == str(own)

    return _newest(list_runs(root.expanduser()), belongs)


def _newest(infos: tuple[RunInfo, ...], belongs: Callable[[RunInfo], bool]) -> Path | None:
    return next((info.folder for info in infos if _can_go_on(info) and belongs(info)), None)


def _can_go_on(info: RunInfo) -> bool:
    """Running counts: a second start is refused in words rather than trained beside the first."""
    if info.state == "running":
        return True
    return info.resumable and any(RunFolder(info.folder).states.glob("step-*"))


def _recipe_file(folder: RunFolder) -> str:
    try:
        return str(json.loads(folder.origins.read_text())[RECIPE_FILE]["reason"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


__all__ = [
    "Facts",
    "opened",
    "probe_adamw8bit",
    "ready",
    "require_answers",
    "require_cuda",
    "unfinished_run",
]
