"""`lyctui merge`: networks into a checkpoint, or into one network."""

from __future__ import annotations

from pathlib import Path

from engine.errors import Problem, UsageError
from engine.tools.requests import JoinRequest, MergeRequest, Progress, RankRule, ToolReport
from lyctui.verbs.tools import run_tool


def merge_networks(request: MergeRequest, *, plain: bool, as_json: bool) -> int:
    """Merge into a checkpoint, and say what was written."""

    def work(progress: Progress) -> ToolReport:
        from engine.tools.merge import merge

        return merge(request, progress)

    return run_tool(work, plain=plain, as_json=as_json)


def join_networks(request: JoinRequest, *, plain: bool, as_json: bool) -> int:
    """Merge into one network, and say what was written."""

    def work(progress: Progress) -> ToolReport:
        from engine.tools.join import join

        return join(request, progress)

    return run_tool(work, plain=plain, as_json=as_json)


def no_form_of_a_checkpoint(to: str, rule: RankRule | None, base: Path | None) -> None:
    """Raises UsageError for flags that mean nothing where networks go into a checkpoint."""
    given = {
        "--to": to != "keep",
        "--rank or --error": rule is not None,
        "--base": base is not None,
    }
    wrong = [flag for flag, there in given.items() if there]
    if wrong:
        what = f"{', '.join(wrong)} has no meaning with --into."
        raise UsageError(Problem(what, remedy="Leave it out: the whole change is merged."))
