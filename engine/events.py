"""What a run tells: frozen events, one line each in events.jsonl, and the reducer that sums them up.

The live monitor, `watch`, plain mode and `--json` all read the same events through the same reducer.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal

from engine.event_values import fitting

VERSION = 1


@dataclass(frozen=True, slots=True)
class Event:
    """Base: `time` is seconds since the epoch (UTC)."""

    name: ClassVar[str] = ""
    time: float = field(default_factory=time.time, kw_only=True)


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The loop is about to begin, anew or resumed; written once for each process that owns the run."""

    name: ClassVar[str] = "started"
    run: str
    total_steps: int
    steps_per_epoch: tuple[int, ...]
    batch_size: int
    samples_per_epoch: int
    step: int = 0
    device: str = "cpu"
    vram_total_bytes: int | None = None
    pid: int = 0
    rate_factor: float = 1.0
    """What every learning rate is multiplied by, where the run was rolled back before."""
    notes: tuple[str, ...] = ()
    """What was resumed exactly and what starts fresh, in words."""


@dataclass(frozen=True, slots=True)
class Phase(Event):
    """What the run is busy with: "loading", "checking pictures", "caching latents", "caching text",
    "training", "sampling", "saving"; done and total count where they are known."""

    name: ClassVar[str] = "phase"
    phase: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class StepDone(Event):
    """One optimizer step."""

    name: ClassVar[str] = "step"
    step: int
    epoch: int
    loss: float
    lr: dict[str, float]
    """Learning rate by part: "unet", "te"."""
    grad_norm: float
    seconds: float
    samples: int
    vram_bytes: int | None = None
    """Memory in use: of the GPU where there is one, else of this process."""
    vram_peak_bytes: int | None = None
    scaled_layers: int | None = None
    """Layers whose change was scaled back to the largest norm; None where there is no such limit."""
    skipped: int | None = None
    """Updates that the fp16 loss scaler has left out so far; None without one."""
    rows: int | None = None
    """Samples that a pass holds at most since memory ran short; None where it never did."""


@dataclass(frozen=True, slots=True)
class Saved(Event):
    """A file or a state was written; `checked` once it was read back."""

    name: ClassVar[str] = "saved"
    what: Literal["network", "state", "copy"]
    step: int
    epoch: int
    path: str
    bytes: int = 0
    checked: bool = False
    final: bool = False


@dataclass(frozen=True, slots=True)
class Sampled(Event):
    """Preview pictures were made."""

    name: ClassVar[str] = "sampled"
    step: int
    epoch: int
    paths: tuple[str, ...]
    prompts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Validated(Event):
    """The loss with fixed noise after a step; step 0 is the base before training."""

    name: ClassVar[str] = "validated"
    step: int
    epoch: int
    held_out: float
    """Of the pictures that are not trained: mean square error, no weights."""
    trained: float
    """The same of some pictures that are trained."""


@dataclass(frozen=True, slots=True)
class Warned(Event):
    """Something the user should know; training goes on."""

    name: ClassVar[str] = "warning"
    message: str


@dataclass(frozen=True, slots=True)
class RolledBack(Event):
    """Numbers went wrong in `step`: the run goes on from the state of `to_step` at a lower rate."""

    name: ClassVar[str] = "rolled back"
    step: int
    to_step: int
    reason: str
    pictures: tuple[str, ...]
    rate_factor: float
    """What every learning rate is multiplied by from now on."""
    count: int
    most: int
    """How often a run is rolled back before it gives up."""


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """The run waits for something outside it, such as room on the disk; it goes on where `reason` is ""."""

    name: ClassVar[str] = "waiting"
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Proved(Event):
    """The finished file was loaded into a clean base, and its picture compared with the run's own."""

    name: ClassVar[str] = "proved"
    path: str
    step: int
    good: bool
    findings: tuple[str, ...]
    """What was looked at and is as it has to be, one line each."""
    faults: tuple[str, ...] = ()
    """What is not."""


@dataclass(frozen=True, slots=True)
class Acknowledged(Event):
    """A request was taken: stop, save, sample, pause, continue."""

    name: ClassVar[str] = "acknowledged"
    request: str
    step: int = 0


@dataclass(frozen=True, slots=True)
class Scored(Event):
    """Concept score of the demo, before or after training."""

    name: ClassVar[str] = "score"
    when: Literal["before", "after"]
    concept: float
    base_shape: float
    base_background: float
    base_colour: float


@dataclass(frozen=True, slots=True)
class Ended(Event):
    """The last event of a process that owned the run."""

    name: ClassVar[str] = "ended"
    state: Literal["finished", "stopped", "failed"]
    run: str
    files: tuple[str, ...]
    steps: int
    exit: int
    seconds: float = 0.0
    message: str = ""
    problems: tuple[dict[str, str], ...] = ()


EVENTS: dict[str, type[Event]] = {
    kind.name: kind
    for kind in (
        Started,
        Phase,
        StepDone,
        Saved,
        Sampled,
        Validated,
        Warned,
        RolledBack,
        Waiting,
        Proved,
        Acknowledged,
        Scored,
        Ended,
    )
}


def to_dict(event: Event) -> dict[str, Any]:
    """JSON object of an event; `ended` is named by its state, as the machine interface promises."""
    body = asdict(event)
    label = event.state if isinstance(event, Ended) else event.name
    return {"v": VERSION, "event": label, **body}


def from_dict(data: dict[str, Any]) -> Event | None:
    """Exact inverse of `to_dict`; None for events of a later version and for values of a wrong kind."""
    label = data.get("event", "")
    if not isinstance(label, str):
        return None
    kind = Ended if label in ("finished", "stopped", "failed") else EVENTS.get(label)
    if kind is None:
        return None
    known = {item.name for item in fields(kind)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in data.items()
        if name in known
    }
    return kind(**values) if fitting(kind, values) else None
