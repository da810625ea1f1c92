"""How a run ended, in words: the last line, the scores, the closing lines, the commands to go on with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.events import Scored, Snapshot
from engine.runs import RunFolder
from lyctui import text
from lyctui.report import located


def score_lines(scores: Iterable[Scored]) -> list[str]:
    """The demo's scores before and after; nothing without them."""
    by_time = {score.when: score for score in scores}
    before, after = by_time.get("before"), by_time.get("after")
    if after is None:
        return []
    lines = []
    rows = (
        ("concept (the new emblem)", "concept"),
        ("known shapes", "base_shape"),
        ("known backgrounds", "base_background"),
        ("known colours", "base_colour"),
    )
    for label, name in rows:
        now = float(getattr(after, name))
        was = f"{float(getattr(before, name)):.2f} before, " if before is not None else ""
        lines.append(f"{label:<26}{was}{now:.2f} after")
    return lines


def verdict_line(scores: Iterable[Scored]) -> str:
    """What the demo's two scores mean, in one line; empty without both."""
    by_time = {score.when: score for score in scores}
    before, after = by_time.get("before"), by_time.get("after")
    if before is None or after is None:
        return ""
    from lyctui.demo.run import verdict

    return verdict(before, after)


def resume_command(folder: Path) -> str:
    """The command that goes on with the run."""
    import shlex

    from engine.runs import default_runs_folder

    known = folder.parent == default_runs_folder()
    return f"lyctui resume {shlex.quote(folder.name if known else str(folder))}"


def watch_command(folder: Path) -> str:
    """The command that shows the run from another shell."""
    return resume_command(folder).replace("lyctui resume", "lyctui watch", 1)


def result_line(snapshot: Snapshot) -> str:
    """How it ended, in one line."""
    name = text.inert(Path(snapshot.run).name)
    if snapshot.end is None:
        return f"{name}: at step {text.grouped(snapshot.step)} of {_total(snapshot)}."
    took = f" in {text.duration(snapshot.elapsed_seconds)}" if snapshot.started_at else ""
    steps = text.grouped(snapshot.end.steps)
    match snapshot.end.state:
        case "finished":
            return f"{name}: finished, {text.counted(snapshot.end.steps, 'step')}{took}."
        case "stopped":
            return f"{name}: stopped at step {steps} of {_total(snapshot)}; the state is saved."
        case _:
            reason = text.inert(" ".join(snapshot.end.message.split()))
            return f"{name}: failed at step {steps} of {_total(snapshot)}. {reason}".rstrip()


def _total(snapshot: Snapshot) -> str:
    return text.grouped(snapshot.total_steps)


def has_state(folder: Path) -> bool:
    """Whether there is anything to resume from."""
    try:
        return any(RunFolder(folder).states.iterdir())
    except OSError:
        return False


def closing_lines(snapshot: Snapshot, folder: Path) -> list[str]:
    """Three to eight plain lines after the screen is gone: result, files, resume command, log."""
    lines = [result_line(snapshot)]
    files = [text.home(located(path, folder)) for path in snapshot.files]
    if files:
        more = f"  (and {len(files) - 1} more)" if len(files) > 1 else ""
        lines.append(f"file:   {files[-1]}{more}")
    lines.append(f"folder: {text.home(folder)}")
    verdict = verdict_line(snapshot.scores)
    if verdict:
        lines.append(f"score:  {verdict}")
    if has_state(folder) and (snapshot.end is None or snapshot.end.state != "finished"):
        lines.append(f"resume: {resume_command(folder)}")
    lines.append(f"log:    {text.home(folder / 'run.log')}")
    return lines
