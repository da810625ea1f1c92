"""What the file tools have in common on the command line: rules of rank, progress, and the report."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from engine.errors import Problem, UsageError
from engine.tools.requests import Progress, RankRule, RuleKind, ToolReport, Weighted, silent
from lyctui import terminal, text
from lyctui.verbs.output import reporting, say, say_json, tell

INTERRUPTED = 130
MOST_SKIPPED = 10
NO_ERROR = 1e-9
"""What is below is the arithmetic's own rounding."""


def run_tool(work: Callable[[Progress], ToolReport], *, plain: bool, as_json: bool) -> int:
    """Do the work with progress where a person sees it, then say what was written."""
    with reporting(as_json):
        try:
            with shown_progress(plain=plain, as_json=as_json) as progress:
                report = work(progress)
        except KeyboardInterrupt:
            tell("Stopped. Nothing was written.")
            raise typer.Exit(INTERRUPTED) from None
        if as_json:
            say_json(report.to_dict())
        else:
            for line in report_lines(report):
                say(text.inert(line))
    return 0


@contextlib.contextmanager
def shown_progress(*, plain: bool, as_json: bool) -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere."""
    shown = terminal.is_terminal(sys.__stderr__) and not terminal.is_dumb()
    if plain or as_json or not shown:
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def progress(done: int, total: int, name: str) -> None:
            shown = text.fit_middle(text.inert(name), 50)
            bar.update(task, completed=done, total=total, description=shown)

        yield progress


def report_lines(report: ToolReport) -> list[str]:
    """The report in words."""
    counted: dict[str, int] = {}
    for module in report.modules:
        counted[module.algorithm] = counted.get(module.algorithm, 0) + 1
    kinds = ", ".join(f"{name} {count}" for name, count in counted.items())
    lines = [
        f"wrote      {report.output}, {text.filesize(report.bytes)}, {report.precision}",
        f"modules    {len(report.modules)}: {kinds}",
    ]
    if report.ranks:
        ranks = ", ".join(
            f"{rank}" if len(report.ranks) == 1 else f"{rank} ({count})"
            for rank, count in report.ranks.items()
        )
        lines.append(f"ranks      {ranks}")
    lines.append(_error_line(report))
    if report.skipped:
        lines.append(f"left out   {len(report.skipped)}")
        lines += [f"           {one}" for one in report.skipped[:MOST_SKIPPED]]
        if len(report.skipped) > MOST_SKIPPED:
            more = len(report.skipped) - MOST_SKIPPED
            lines.append(f"           and {more} more; --json names them all")
    return lines + [f"note       {note}" for note in report.notes]


def _error_line(report: ToolReport) -> str:
    worst = report.worst
    if worst is None:
        return "error      none"
    return (
        f"error      {_share(report.error)} of the change, rounding included; "
        f"most in {worst.name}: {_share(worst.error)}"
    )


def _share(error: float) -> str:
    return f"{text.significant(100 * error, 2)} %" if error > NO_ERROR else "0 %"


def rule_of(limit: int | None, **given: float | None) -> RankRule | None:
    """The one rule that was given by its flag, or None; raises UsageError where there are two.

    `limit` is --max-rank. Flags are the rules' names, and --rank for a fixed one.
    """
    kinds: dict[str, RuleKind] = {
        "rank": "fixed",
        "threshold": "threshold",
        "ratio": "ratio",
        "quantile": "quantile",
        "error": "error",
        "sv_ratio": "sv_ratio",
        "sv_fro": "sv_fro",
        "sv_cumulative": "sv_cumulative",
    }
    asked = {name: value for name, value in given.items() if value is not None}
    if len(asked) > 1:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        remedy = "Give one of them; --max-rank may go with it."
        raise UsageError(Problem(f"Several rules of rank are given: {flags}.", remedy=remedy))
    if not asked:
        if limit is not None:
            remedy = "Give --error, say, or --rank alone."
            raise UsageError(Problem("--max-rank goes with a rule of rank.", remedy=remedy))
        return None
    name, value = next(iter(asked.items()))
    return RankRule(kinds[name], float(value), limit)


def needed_rule(rule: RankRule | None) -> RankRule:
    """The rule; raises UsageError where there is none."""
    if rule is None:
        remedy = "Give --rank, --error, --sv-ratio, --sv-fro or --sv-cumulative."
        raise UsageError(Problem("No rule of rank is given.", remedy=remedy, path="rule"))
    return rule


def weighted(texts: list[str]) -> tuple[Weighted, ...]:
    """Networks as they are typed: FILE or FILE=STRENGTH; raises UsageError for no number."""
    return tuple(_weighted(one) for one in texts)


def _weighted(typed: str) -> Weighted:
    path, sign, strength = typed.rpartition("=")
    # A file may have such a sign in its name.
    if not sign or Path(typed).expanduser().is_file():
        return Weighted(Path(typed).expanduser())
    try:
        return Weighted(Path(path).expanduser(), float(strength))
    except ValueError:
        what = f"The strength is no number: {strength}."
        raise UsageError(
            Problem(what, where=typed, remedy="Write FILE=0.8, say.", path="networks")
        ) from None
