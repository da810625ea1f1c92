"""What a run's numbers say, in words: the lines of the monitor, the line log and the closing words.

Lines are spans of (text, role); a screen gives each role a colour, plain mode drops it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from engine.events import (
    Acknowledged,
    Ended,
    Event,
    Proved,
    RolledBack,
    Sampled,
    Saved,
    Scored,
    Started,
    Validated,
    Waiting,
    Warned,
)
from engine.snapshot import Snapshot
from lyctui import text
from lyctui.text import UNICODE_SIGNS, Signs

Span: TypeAlias = tuple[str, str]
"""Text and its role: "", "dim", "strong", "accent", "warning", "error", "done"."""
Line: TypeAlias = tuple[Span, ...]

REQUEST_WORDS = {
    "stop": "stop",
    "save": "save now",
    "sample": "sample now",
    "pause": "pause",
    "continue": "go on",
}


def plain(line: Line) -> str:
    """A line without roles."""
    return "".join(part for part, _ in line)


def folded(lines: Sequence[Line], width: int) -> list[Line]:
    """Lines that are too wide go on in the next row: a path or command must be seen whole."""
    return [part for line in lines for part in _folded(line, max(8, width))]


def _folded(line: Line, width: int) -> list[Line]:
    rows: list[list[Span]] = [[]]
    room = width
    for words, role in line:
        while text.cells(words) > room:
            head = _first_words(words, room)
            fits_below = rows[-1] and text.cells(words.strip()) <= width
            if not head and not fits_below:
                head = text.head(words, room)
            rows[-1].append((head, role))
            words = words[len(head) :].removeprefix(" ")
            rows.append([])
            room = width
        rows[-1].append((words, role))
        room -= text.cells(words)
    return [tuple(row) for row in rows]


def _first_words(words: str, room: int) -> str:
    """As many whole words as fit, the spaces before them included; empty when none does."""
    lead = words[: len(words) - len(words.lstrip())]
    room -= text.cells(lead)
    if room < 8 or " " not in words.strip():
        return ""
    return lead + text.wrap(words.strip(), room)[0]


def within(path: str, folder: Path) -> str:
    """A path as shown: below the run's folder without it, else with ~ for home."""
    given = Path(path)
    if given.is_absolute() and given.is_relative_to(folder):
        return text.inert(given.relative_to(folder))
    return text.home(path)


def located(path: str, folder: Path) -> Path:
    """The file that an event names, wherever the run's folder is now."""
    given = Path(path)
    return given if given.is_absolute() else folder / given


def phase_words(snapshot: Snapshot) -> str:
    """The phase in words: "training", "caching latents 120 of 400", "paused", "waiting"."""
    if snapshot.end is not None:
        return snapshot.end.state
    if snapshot.waiting:
        return "waiting"
    if snapshot.state == "paused":
        return "paused"
    words = text.inert(snapshot.phase)
    if snapshot.phase_total and snapshot.phase != "training":
        done, total = text.grouped(snapshot.phase_done), text.grouped(snapshot.phase_total)
        return f"{words} {done} of {total}"
    return words


def step_words(snapshot: Snapshot) -> str:
    """ "step 812 / 1 920"."""
    if not snapshot.total_steps:
        return ""
    return f"step {text.grouped(snapshot.step)} / {text.grouped(snapshot.total_steps)}"


def progress(snapshot: Snapshot) -> float:
    """Share of the steps that is done, 0 to 1."""
    return min(1.0, snapshot.step / snapshot.total_steps) if snapshot.total_steps else 0.0


def gauge(snapshot: Snapshot, width: int, signs: Signs = UNICODE_SIGNS) -> Line:
    """The progress bar: of the steps, or of a counted phase before the first one."""
    share = progress(snapshot)
    counted = snapshot.phase_total and snapshot.phase not in ("training", "sampling")
    if counted and snapshot.step == 0:
        share = min(1.0, snapshot.phase_done / snapshot.phase_total)
    # 100 % only when it is: a bar that is full one step early says what is not true.
    percent = f"{int(share * 100):3} %"
    room = max(4, width - len(percent) - 2)
    full = int(share * room)
    return (
        (signs.full * full, "accent"),
        (signs.empty * (room - full), "empty"),
        (f"  {percent}", ""),
    )


def waiting_words(snapshot: Snapshot) -> str:
    """What the run waits for and what ends that, in whole sentences; "" while it works."""
    if not snapshot.waiting or snapshot.end is not None:
        return ""
    return _waiting(snapshot.waiting, snapshot.waiting_remedy)


def _waiting(reason: str, remedy: str) -> str:
    reason = text.inert(reason).rstrip(".")
    lowered = reason[:1].lower() + reason[1:]
    return " ".join(part for part in (f"Waiting: {lowered}.", text.inert(remedy)) if part)


def time_line(snapshot: Snapshot, signs: Signs = UNICODE_SIGNS, width: int = 0) -> Line:
    """Epoch, elapsed and remaining time, and when it will be done, where there is room for that."""
    dot = f" {'·' if signs is UNICODE_SIGNS else '-'} "
    parts: list[str] = []
    if snapshot.epochs:
        parts.append(f"epoch {max(1, snapshot.epoch)} of {snapshot.epochs}")
    if snapshot.started_at is not None:
        parts.append(f"{text.duration(snapshot.elapsed_seconds)} elapsed")
    if snapshot.end is None and snapshot.remaining_seconds is not None:
        low, high = snapshot.remaining_seconds
        parts.append(f"{text.span(low, high)} left")
        if high >= 90 and snapshot.state != "paused" and not snapshot.waiting:
            done_at = text.clock(time.time() + (low + high) / 2)[:5]
            done = f"done about {done_at}"
            if not width or text.cells(dot.join([*parts, done])) <= width:
                parts.append(done)
    return ((dot.join(parts) or "starting", ""),)


def number_lines(snapshot: Snapshot) -> list[Line]:
    """Loss, learning rate, step time, gradient and memory, in two columns of aligned numbers.

    More rows where there is more to tell: rates that were lowered, passes that were made smaller, updates
    that were left out, changes that are held to a norm; the losses of pictures held out and trained.
    """
    norm = "-" if snapshot.grad_norm is None else text.significant(snapshot.grad_norm)
    epoch = f"{text.loss(snapshot.loss_epoch_mean)} epoch"
    left = [
        _pair("Loss", f"{text.loss(snapshot.loss_mean)} mean", f"{text.loss(snapshot.loss)} last"),
        _pair("Step", _seconds(snapshot), _images(snapshot)),
        _pair("", epoch, f"{norm} gradient"),
    ]
    right = [_pair("LR", *(_rates(snapshot) or ["-"]))]
    if snapshot.rate_factor != 1:
        right.append(_pair("", factor(snapshot.rate_factor), "rolled back"))
    right += [_memory(snapshot), _pair("Device", text.inert(snapshot.device or "-"), "")]
    for pair in _cares(snapshot):
        (left if len(left) <= len(right) else right).append(pair)
    (left if len(left) < len(right) else right).extend([()] * abs(len(left) - len(right)))
    if snapshot.validations:
        first, second = _measured(snapshot.validations)
        left.append(first)
        right.append(second)
    return [_columns(first, second) for first, second in zip(left, right, strict=True)]


def factor(number: float) -> str:
    """What learning rates are multiplied by: "× 0.5"."""
    return f"× {number:.3g}"


def _cares(snapshot: Snapshot) -> list[Line]:
    """What the run does otherwise than it was told, since numbers or memory asked for it."""
    found = []
    if snapshot.rows is not None:
        found.append(_pair("Passes", f"of {text.counted(snapshot.rows, 'picture')}"))
    if snapshot.skipped:
        found.append(_pair("fp16", text.counted(snapshot.skipped, "update"), "skipped"))
    if snapshot.scaled_layers is not None:
        found.append(_pair("Limit", text.counted(snapshot.scaled_layers, "layer"), "scaled back"))
    return found


def _measured(validations: Sequence[Validated]) -> tuple[Line, Line]:
    """The fixed-noise losses now, and when that of held-out pictures was lowest."""
    last, lowest = validations[-1], min(validations, key=lambda each: each.held_out)
    now = _pair("Fixed", f"{_fine(last.held_out)} held out", f"{_fine(last.trained)} trained")
    when = f"step {text.grouped(lowest.step)}"
    return now, _pair("Lowest", f"{_fine(lowest.held_out)} held out", when)


def _fine(loss: float) -> str:
    """A loss that is compared with itself: it changes in a digit that the jumping one needs not show."""
    return text.significant(loss, 4)


def _rates(snapshot: Snapshot) -> list[str]:
    """Rates of the U-Net and of the text encoders; two that differ share their column, rounded."""
    shown = {part: text.rate(value) for part, value in snapshot.lr.items()}
    if "te" in shown and (second := shown.pop("te2", None)) is not None and second != shown["te"]:
        shown["te"] = f"{snapshot.lr['te']:.0e}/{snapshot.lr['te2']:.0e}"
    return [f"{value} {text.inert(part)}" for part, value in shown.items()][:2]


def _pair(label: str, first: str, second: str = "") -> Line:
    return (
        (f"{label:<7}", "dim"),
        (text.pad(first, 17), "strong" if label == "Loss" else ""),
        (second, ""),
    )


def _columns(left: Line, right: Line, width: int = 40) -> Line:
    gap = max(1, width - text.cells(plain(left)))
    return (*left, (" " * gap, ""), *right)


def _seconds(snapshot: Snapshot) -> str:
    seconds = snapshot.seconds_per_step
    return "-" if seconds is None else f"{text.significant(seconds)} s"


def _images(snapshot: Snapshot) -> str:
    speed = snapshot.images_per_second
    return "" if speed is None else f"{text.significant(speed, 2)} images/s"


def _memory(snapshot: Snapshot) -> Line:
    label = "VRAM" if snapshot.vram_total_bytes else "RAM"
    if snapshot.vram_bytes is None:
        return _pair(label, "-")
    used = text.memory(snapshot.vram_bytes)
    if snapshot.vram_total_bytes:
        used = f"{used.removesuffix(' GiB')} / {text.memory(snapshot.vram_total_bytes)}"
    peak = snapshot.vram_peak_bytes
    return _pair(label, used, f"peak {text.memory(peak)}" if peak else "")


# --- events ---


def event_line(event: Event, folder: Path, signs: Signs = UNICODE_SIGNS) -> Line | None:
    """One event of the log, without its time; None for events that a log does not show."""
    match event:
        case Started():
            return ((_started(event), ""),)
        case Saved():
            return ((_saved(event, folder), ""),)
        case Sampled():
            return ((_sampled(event, folder), ""),)
        case Validated():
            return ((_validated(event), ""),)
        case Warned():
            return ((f"{signs.warning} {text.inert(event.message)}", "warning"),)
        case RolledBack():
            return ((f"{signs.warning} {rolled_back_words(event)}", "warning"),)
        case Waiting():
            return _waits(event, signs)
        case Proved():
            return _proved(event, folder, signs)
        case Acknowledged():
            words = REQUEST_WORDS.get(event.request, text.inert(event.request))
            return ((f"asked to {words}: taken at step {text.grouped(event.step)}", ""),)
        case Scored():
            return ((f"concept score {event.when} training: {event.concept:.2f}", ""),)
        case Ended():
            return _ended(event, signs)
        case _:
            return None


def rolled_back_words(event: RolledBack) -> str:
    """From where to where, why, and what is different from now on."""
    begin, end = text.grouped(event.step), text.grouped(event.to_step)
    reason = text.inert(event.reason).rstrip(".")
    reason = reason[:1].lower() + reason[1:]
    named = f" ({text.listed(map(text.inert, event.pictures))})" if event.pictures else ""
    words = f"Rolled back from step {begin} to {end}: {reason}{named}."
    if event.count:
        # A roll-back for want of memory leaves the rates as one before it has set them.
        words += (
            f" Rates {factor(event.rate_factor)} of what is set, {event.count} of {event.most}."
        )
    return words


def _waits(event: Waiting, signs: Signs) -> Line:
    if not event.reason:
        return (("the wait is over", ""),)
    return ((f"{signs.warning} {_waiting(event.reason, event.remedy)}", "warning"),)


def proof_words(event: Proved) -> str:
    """What was looked at in the finished file, and what came out."""
    told = event.findings if event.good else event.faults or event.findings
    found = "; ".join(text.inert(each).rstrip(".") for each in told)
    return found or ("nothing wrong was found" if event.good else "it did not pass")


def _proved(event: Proved, folder: Path, signs: Signs) -> Line:
    sign, role = (signs.done, "done") if event.good else (signs.warning, "warning")
    return ((f"{sign} {within(event.path, folder)} checked: {proof_words(event)}", role),)


def _started(event: Started) -> str:
    steps = text.counted(event.total_steps, "step")
    begin = f"going on after step {text.grouped(event.step)} of" if event.step else "training"
    return f"{begin} {steps} on {text.inert(event.device)}"


def _saved(event: Saved, folder: Path) -> str:
    shown = within(event.path, folder)
    checked = ", checked" if event.checked else ""
    size = f", {text.filesize(event.bytes)}" if event.bytes and event.what != "state" else ""
    if event.what == "state":
        return f"state saved at step {text.grouped(event.step)}{checked}"
    verb = "copied to" if event.what == "copy" else "saved"
    return f"{verb} {shown}{size}{checked}"


def _sampled(event: Sampled, folder: Path) -> str:
    where = within(str(Path(event.paths[0]).parent), folder) + "/" if event.paths else ""
    when = f"step {text.grouped(event.step)}" if event.step else "before training"
    return f"samples, {when}: {where} ({text.counted(len(event.paths), 'picture')})"


def _validated(event: Validated) -> str:
    when = f"after step {text.grouped(event.step)}" if event.step else "before training"
    held_out, trained = _fine(event.held_out), _fine(event.trained)
    return f"measured {when}: loss {held_out} held out, {trained} trained"


def _ended(event: Ended, signs: Signs) -> Line:
    steps = text.counted(event.steps, "step")
    if event.state == "failed":
        reason = text.inert(" ".join(event.message.split())) or "training failed"
        return ((f"{signs.error} failed at step {text.grouped(event.steps)}: {reason}", "error"),)
    sign = signs.done if event.state == "finished" else ""
    why = f": {text.inert(' '.join(event.message.split()))}" if event.message else ""
    return ((f"{sign} {event.state} after {steps}{why}".strip(), "done"),)


def news(event: Event) -> str:
    """What a person should be told of at once; "" for an event that may wait to be read."""
    match event:
        case Warned():
            return text.inert(event.message)
        case RolledBack():
            return rolled_back_words(event)
        case _:
            return ""


def log_lines(snapshot: Snapshot, folder: Path, rows: int, signs: Signs) -> list[Line]:
    """The newest notable events with their times, the newest first."""
    lines: list[Line] = []
    for event in reversed(snapshot.log):
        line = event_line(event, folder, signs)
        if line is not None:
            lines.append(((f"{text.clock(event.time)}  ", "dim"), *line))
        if len(lines) == rows:
            break
    return lines


def sample_lines(samples: Sequence[Sampled], folder: Path) -> list[Line]:
    """Every sample picture's path under the step and the prompt that made it, the newest first."""
    lines: list[Line] = []
    for sampled in reversed(samples):
        when = f"step {text.grouped(sampled.step)}" if sampled.step else "before training"
        epoch = f", epoch {sampled.epoch}" if sampled.epoch and sampled.step else ""
        lines.append(((when + epoch, "strong"),))
        for number, path in enumerate(sampled.paths):
            if number < len(sampled.prompts):
                lines.append(((f"  {text.inert(sampled.prompts[number])}", "dim"),))
            lines.append(((f"  {within(path, folder)}", ""),))
    return lines
