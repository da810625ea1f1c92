"""How a run ended, in words: the last line, the scores, the closing lines, the commands to go on with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.events import Ended, Proved, Scored
from engine.runs import RunFolder
from engine.snapshot import Snapshot
from lyctui import report, text


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
    return f"lyctui resume {RunFolder(folder).called}"


def watch_command(folder: Path) -> str:
    """The command that shows the run from another shell."""
    return f"lyctui watch {RunFolder(folder).called}"


def result_line(snapshot: Snapshot) -> str:
    """How it ended, in one line."""
    name = text.inert(Path(snapshot.run).name)
    if snapshot.end is None:
        return f"{name}: at step {text.grouped(snapshot.step)} of {_total(snapshot)}."
    took = f" in {text.duration(snapshot.elapsed_seconds)}" if snapshot.started_at else ""
    match snapshot.end.state:
        case "finished":
            return f"{name}: finished, {text.counted(snapshot.end.steps, 'step')}{took}."
        case "stopped":
            return f"{name}: {_stopped(snapshot, snapshot.end)}"
        case _:
            reason = text.inert(" ".join(snapshot.end.message.split()))
            return f"{name}: failed {_where(snapshot, snapshot.end)}. {reason}".rstrip()


def proof_line(proof: Proved) -> str:
    """Whether the finished file may be trusted, in one short line: the results page has the findings."""
    if not proof.good:
        return f"it did not pass: {report.proof_words(proof)}"
    found = [text.inert(each).partition(":")[0] for each in proof.findings[-1:]]
    return ", ".join(["loads in a clean base", *found])


def _stopped(snapshot: Snapshot, end: Ended) -> str:
    """Where it stopped, and what is kept of it: a state is claimed only where one was written."""
    where = _where(snapshot, end)
    if end.message:
        return f"stopped {where}. {text.inert(' '.join(end.message.split()))}"
    if not end.steps:
        return f"stopped {where}; nothing was trained yet."
    # Without a start of its own this run had only just begun to load that very state.
    if snapshot.last_saved_step == end.steps or not snapshot.total_steps:
        return f"stopped {where}; the state is saved."
    if snapshot.last_saved_step:
        saved = text.grouped(snapshot.last_saved_step)
        return f"stopped {where}; the last saved state is of step {saved}."
    return f"stopped {where}; no state is saved."


def _where(snapshot: Snapshot, end: Ended) -> str:
    if not snapshot.total_steps and not end.steps:
        return "before its first step"
    total = f" of {_total(snapshot)}" if snapshot.total_steps else ""
    return f"at step {text.grouped(end.steps)}{total}"


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
    files = [text.home(report.located(path, folder)) for path in snapshot.files]
    if files:
        more = f"  (and {len(files) - 1} more)" if len(files) > 1 else ""
        lines.append(f"file:   {files[-1]}{more}")
    if snapshot.proofs:
        lines.append(f"check:  {proof_line(snapshot.proofs[-1])}")
    lines.append(f"folder: {text.home(folder)}")
    verdict = verdict_line(snapshot.scores)
    if verdict:
        lines.append(f"score:  {verdict}")
    if has_state(folder) and (snapshot.end is None or snapshot.end.state != "finished"):
        lines.append(f"resume: {text.inert(resume_command(folder))}")
    lines.append(f"log:    {text.home(folder / 'run.log')}")
    return lines
