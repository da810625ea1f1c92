"""Which screen follows the monitor: results, or what went wrong and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from textual.screen import Screen

from lyctui import report, text
from lyctui.host import Host
from lyctui.monitor import LiveRun, RunView
from lyctui.screens.problem import ProblemScreen, Remedy
from lyctui.screens.results import ResultsScreen

if TYPE_CHECKING:
    from engine.settings import Recipe

OUT_OF_MEMORY = 5


def ending_screen(run: RunView, host: Host) -> Screen[Any]:
    """Results of a finished or stopped run; the problems of a failed one."""
    snapshot = run.snapshot()
    if snapshot.state != "failed":
        return ResultsScreen(run)
    code = run.exit_code if isinstance(run, LiveRun) else (snapshot.end.exit if snapshot.end else 1)
    title = "out of memory" if code == OUT_OF_MEMORY else "the run failed"
    remedies = _remedies(run, host, code, snapshot.last_saved_step)
    return ProblemScreen(
        run.problems, title=title, report=run.folder / "run.log", remedies=remedies
    )


def _remedies(run: RunView, host: Host, code: int, saved_step: int) -> list[Remedy]:
    found = []
    smaller = smaller_recipe(run) if code == OUT_OF_MEMORY else None
    if smaller is not None:

        def begin_anew() -> None:
            host.start_run(smaller)

        found.append(Remedy("Begin anew with batch 1 and checkpointing, same total", begin_anew))
    if saved_step:
        # A run that saved nothing has no state to go on from.
        def go_on() -> None:
            host.resume_run(run.folder)

        found.append(Remedy(f"Go on from the state of step {text.grouped(saved_step)}", go_on))
    files = run.snapshot().files
    newest = f": {text.home(report.located(files[-1], run.folder))}" if files else ""
    found.append(
        Remedy(
            f"Show what the run left behind{newest}",
            lambda: host.push_screen(ResultsScreen(run)),
        )
    )
    return found


def smaller_recipe(run: RunView) -> Recipe | None:
    """The run's recipe with the least memory that changes nothing else; None when it has that.

    Accumulation takes over what the batch loses, so that each update still sees as many pictures.
    """
    recipe: Recipe | None = getattr(getattr(run, "session", None), "recipe", None)
    if recipe is None or (recipe.train.batch_size == 1 and recipe.train.checkpointing):
        return None
    pictures = (recipe.train.batch_size or 1) * recipe.train.accumulation
    change = {"batch_size": 1, "accumulation": pictures, "checkpointing": True}
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=change)})
