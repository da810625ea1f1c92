"""Numbers of a run for other programs: a CSV file, TensorBoard, Weights & Biases. Fed by events.

The first two are files in the run's folder. Weights & Biases is the only one that sends anything, and
only when it is switched on by name; its key comes from the environment and is never written.
What a logger cannot do is told once; training goes on without it.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from engine.checkpoint.atomic import write_text
from engine.errors import EnvironmentFault, Problem
from engine.events import Event, Sampled, Saved, Started, StepDone, Validated, Warned
from engine.runs import RunFolder, read_events

if TYPE_CHECKING:
    from engine.settings.run import Run

Emit = Callable[[Event], None]

CSV_NAME = "steps.csv"
COLUMNS = (
    "event", "step", "epoch", "time", "loss", "grad_norm", "lr_unet", "lr_te", "lr_te2",
    "seconds", "samples", "vram_bytes", "vram_peak_bytes", "held_out", "trained",
)  # fmt: skip
"""Columns of steps.csv; `event` is step or validated. Times are seconds since 1970, UTC."""
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}
OFFLINE = ("offline", "dryrun", "disabled")
WANDB_ID = "wandb-run"
"""File in the run's folder with the name under which wandb knows the run: no key."""


# before the start -----------------------------------------------------------------------------


def require_loggers(run: Run) -> None:
    """Refuse a logger whose package or key is missing; raises EnvironmentFault with all of them."""
    problems = logger_problems(tensorboard=run.tensorboard, wandb=run.wandb)
    if problems:
        raise EnvironmentFault(*problems)


def logger_problems(*, tensorboard: bool, wandb: bool) -> tuple[Problem, ...]:
    """What the chosen loggers lack on this machine."""
    wanted = {"tensorboard": tensorboard, "wandb": wandb}
    missing = [name for name, on in wanted.items() if on and not _installed(PACKAGES[name])]
    problems = [
        Problem(
            f"The package {PACKAGES[name]} is not installed.",
            remedy=f"Install it with `pip install {PACKAGES[name]}`, or switch run.{name} off.",
            path=f"run.{name}",
        )
        for name in missing
    ]
    if wandb and "wandb" not in missing and not _can_log_in():
        problems.append(
            Problem(
                "Weights & Biases has no key here and would ask for one.",
                remedy="Run `wandb login` or set WANDB_API_KEY; WANDB_MODE=offline needs none.",
                path="run.wandb",
            )
        )
    return tuple(problems)


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _can_log_in() -> bool:
    """Whether wandb would not ask: it is offline, or has a key of the environment or its own login."""
    if os.environ.get("WANDB_MODE", "").lower() in OFFLINE or os.environ.get("WANDB_API_KEY"):
        return True
    login = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        return "wandb" in login.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


# one logger -----------------------------------------------------------------------------------


class Logger(Protocol):
    """Takes the events of a run, the first of them `Started`."""

    def see(self, event: Event) -> None: ...
    def close(self) -> None: ...


Row = dict[str, Any]


def row_of(event: Event) -> Row | None:
    """The line of steps.csv that an event makes; None for events without numbers."""
    if isinstance(event, StepDone):
        rates = {f"lr_{part}": rate for part, rate in event.lr.items()}
        return {
            "event": "step",
            "step": event.step,
            "epoch": event.epoch,
            "time": round(event.time, 3),
            "loss": event.loss,
            "grad_norm": event.grad_norm,
            **{name: rate for name, rate in rates.items() if name in COLUMNS},
            "seconds": round(event.seconds, 6),
            "samples": event.samples,
            "vram_bytes": event.vram_bytes,
            "vram_peak_bytes": event.vram_peak_bytes,
        }
    if isinstance(event, Validated):
        return {
            "event": "validated",
            "step": event.step,
            "epoch": event.epoch,
            "time": round(event.time, 3),
            "held_out": event.held_out,
            "trained": event.trained,
        }
    return None


class CsvLogger:
    """steps.csv: a line for each step. A resume takes back the lines of the steps it repeats."""

    def __init__(self, folder: RunFolder) -> None:
        self.path = folder.path / CSV_NAME
        self._events = folder.events
        self._file: io.TextIOWrapper | None = None

    def see(self, event: Event) -> None:
        """Begin at `Started`, write what has numbers, and put lines to disk with each state."""
        if isinstance(event, Started):
            self._begin(event.step)
        row = row_of(event)
        if self._file is None:
            return
        if row is not None:
            csv.DictWriter(self._file, COLUMNS, lineterminator="\n").writerow(row)
            self._file.flush()
        elif isinstance(event, Saved) and event.what == "state":
            os.fsync(self._file.fileno())

    def _begin(self, step: int) -> None:
        self.close()
        rows = self._rows_before(step)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path, text.getvalue())
        self._file = self.path.open("a", encoding="utf-8", newline="")

    def _rows_before(self, step: int) -> list[Row]:
        """Lines that stay: none of a new run, else those up to the step that is gone on from."""
        if step == 0:
            return []
        if self.path.is_file():
            return _readable_rows(self.path, step)
        # Switched on for the resume: what was before stands in the events.
        return _rows_of(read_events(self._events)[0], step)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _readable_rows(path: Path, last: int) -> list[Row]:
    """Whole lines of the file up to a step; a half-written last line is none."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        found = list(csv.DictReader(file))
    rows = []
    for row in found:
        step = row.get("step") or ""
        whole = step.isdecimal() and None not in row and None not in row.values()
        if whole and int(step) <= last:
            rows.append({name: row.get(name, "") for name in COLUMNS})
    return rows


def _rows_of(events: Iterable[Event], last: int) -> list[Row]:
    """Lines of earlier events, without those of steps that were repeated later."""
    rows: list[Row] = []
    for event in events:
        if isinstance(event, Started):
            rows = [row for row in rows if row["step"] <= event.step and event.step > 0]
        elif (row := row_of(event)) is not None:
            rows.append(row)
    return [row for row in rows if row["step"] <= last]


def numbers_of(event: Event) -> dict[str, float | str]:
    """What a tracker draws of an event, by curve."""
    match event:
        case StepDone():
            found: dict[str, float | str] = {
                "loss/step": event.loss,
                "gradient/norm": event.grad_norm,
                "speed/seconds per step": event.seconds,
            }
            found |= {f"rate/{part}": rate for part, rate in event.lr.items()}
            if event.vram_bytes is not None:
                found["memory/bytes"] = float(event.vram_bytes)
            return found
        case Validated():
            return {"loss/held out": event.held_out, "loss/trained": event.trained}
        case Saved() if event.what == "network":
            return {"saved": Path(event.path).name}
    return {}


class Tracker:
    """TensorBoard or Weights & Biases, through the trackers of accelerate."""

    def __init__(self, open_tracker: Callable[[Started], Any], image_format: str = "") -> None:
        self._open = open_tracker
        self._image_options = {"dataformats": image_format} if image_format else {}
        self._tracker: Any = None

    def see(self, event: Event) -> None:
        """Begin at `Started`; draw numbers and pictures at their step."""
        if isinstance(event, Started):
            self.close()
            self._tracker = self._open(event)
        elif self._tracker is None:
            return
        elif isinstance(event, Sampled):
            pictures = _pictures(event.paths)
            self._tracker.log_images(pictures, step=event.step, **self._image_options)
        elif numbers := numbers_of(event):
            self._tracker.log(numbers, step=getattr(event, "step", None))

    def close(self) -> None:
        """End the tracker."""
        if self._tracker is not None:
            tracker, self._tracker = self._tracker, None
            tracker.finish()


def _pictures(paths: Iterable[str]) -> dict[str, Any]:
    """Pictures as arrays (1, height, width, 3) of bytes, by prompt."""
    import numpy as np
    from PIL import Image

    found = {}
    for place, path in enumerate(paths):
        with Image.open(path) as picture:
            found[f"samples/{place + 1}"] = np.asarray(picture.convert("RGB"))[None]
    return found


def tensorboard_tracker(folder: RunFolder) -> Tracker:
    """Event files in the run's folder; steps that a resume repeats are hidden from the step on."""

    def opened(started: Started) -> Any:
        from accelerate import PartialState
        from accelerate.tracking import TensorBoardTracker

        PartialState()
        purge = started.step + 1 if started.step else None
        tracker = TensorBoardTracker("tensorboard", folder.path, purge_step=purge)
        tracker.start()
        return tracker

    return Tracker(opened, "NHWC")


def wandb_tracker(folder: RunFolder, project: str, recipe_text: str) -> Tracker:
    """A run of Weights & Biases; a resume goes on with it. `recipe_text` holds no local paths."""

    def opened(started: Started) -> Any:
        import wandb
        from accelerate import PartialState
        from accelerate.tracking import WandBTracker

        PartialState()
        tracker = WandBTracker(
            project,
            name=folder.name,
            id=_wandb_id(folder),
            resume="allow",
            dir=str(folder.path),
            config={"recipe": recipe_text},
            # The screen is ours: wandb neither prints nor captures what is printed.
            # Nor does it look at this machine, its programs or a repository around them.
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        tracker.start()
        return tracker

    return Tracker(opened)


def _wandb_id(folder: RunFolder) -> str:
    """The run's name at wandb, made once and kept with the run."""
    path = folder.path / WANDB_ID
    try:
        kept = path.read_text(encoding="utf-8").strip()
    except OSError:
        kept = ""
    if not kept.isalnum():
        kept = secrets.token_hex(4)
        write_text(path, kept + "\n")
    return kept


# all of a run ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Loggers:
    """The loggers of a run. A failure takes out that logger, tells of it, and never rises."""

    loggers: dict[str, Logger]

    def telling(self, emit: Emit) -> Emit:
        """`emit` that also feeds the loggers."""

        def tell(event: Event) -> None:
            emit(event)
            for warning in self.see(event):
                emit(Warned(warning))

        return tell

    def see(self, event: Event) -> list[str]:
        """Feed every logger; gives what went wrong, in words."""
        return self._each(lambda logger: logger.see(event))

    def close(self) -> list[str]:
        """End every logger; gives what went wrong."""
        return self._each(lambda logger: logger.close())

    def _each(self, do: Callable[[Logger], None]) -> list[str]:
        warnings = []
        for name, logger in list(self.loggers.items()):
            try:
                do(logger)
            # Code of others, with errors of its own kinds: whatever it is, training goes on.
            except Exception as error:
                del self.loggers[name]
                first = str(error).splitlines()[0] if str(error) else ""
                words = f"{type(error).__name__} {first}".rstrip()
                warnings.append(f"The {name} log has stopped: {words}. Training goes on.")
        return warnings


def open_loggers(run: Run, folder: RunFolder, recipe_text: str) -> Loggers:
    """The loggers that a run asks for; nothing is written before its first event."""
    found: dict[str, Logger] = {}
    if run.csv:
        found["CSV"] = CsvLogger(folder)
    if run.tensorboard:
        found["TensorBoard"] = tensorboard_tracker(folder)
    if run.wandb:
        found["WandB"] = wandb_tracker(folder, run.wandb_project, recipe_text)
    return Loggers(found)
