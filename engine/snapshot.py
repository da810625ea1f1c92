"""What a run looks like now: the latest numbers, summed up from its events."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.events import (
    Acknowledged,
    Ended,
    Event,
    Phase,
    Proved,
    RolledBack,
    Sampled,
    Saved,
    Scored,
    Started,
    StepDone,
    Validated,
    Waiting,
)

State = Literal["starting", "running", "paused", "finished", "stopped", "failed"]

EMA_STEPS = 50
"""Half-life scale of the mean line: weight of a new loss is 1 / EMA_STEPS once warm."""


@dataclass(frozen=True, slots=True)
class Point:
    """One point of the chart."""

    step: int
    loss: float
    mean: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The latest numbers of a run, as the panels show them. Unknown numbers are None."""

    run: str = ""
    state: State = "starting"
    phase: str = "loading"
    phase_done: int = 0
    phase_total: int = 0
    step: int = 0
    first_step: int = 0
    total_steps: int = 0
    epoch: int = 0
    epochs: int = 0
    batch_size: int = 0
    loss: float | None = None
    loss_mean: float | None = None
    """Exponential mean."""
    loss_epoch_mean: float | None = None
    lr: dict[str, float] = field(default_factory=dict)
    grad_norm: float | None = None
    scaled_layers: int | None = None
    skipped: int | None = None
    """Updates that the fp16 loss scaler has left out so far."""
    rows: int | None = None
    """Samples that a pass holds at most since memory ran short."""
    rate_factor: float = 1.0
    """What every learning rate is multiplied by since the run was rolled back."""
    waiting: str = ""
    """What the run waits for, in words; empty while it works."""
    waiting_remedy: str = ""
    seconds_per_step: float | None = None
    images_per_second: float | None = None
    device: str = ""
    vram_bytes: int | None = None
    vram_peak_bytes: int | None = None
    vram_total_bytes: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    started_clock: float | None = None
    """`started_at` on the clock of this machine that is never set."""
    remaining_seconds: tuple[float, float] | None = None
    """Low and high; the two meet as steps become regular."""
    last_saved_step: int = 0
    points: Sequence[Point] = ()
    """Append-only list shared with the reducer; read `points[:len(points)]`, never change it."""
    log: tuple[Event, ...] = ()
    """The newest notable events, oldest first."""
    files: tuple[str, ...] = ()
    samples: tuple[Sampled, ...] = ()
    validations: tuple[Validated, ...] = ()
    """Each step's once, in the order of the steps."""
    scores: tuple[Scored, ...] = ()
    proofs: tuple[Proved, ...] = ()
    requests: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    end: Ended | None = None

    @property
    def elapsed_seconds(self) -> float:
        """Seconds since this process took the run; a clock that is set meanwhile changes nothing."""
        if self.end is not None and self.end.seconds:
            return self.end.seconds
        if self.started_at is None:
            return 0.0
        if self.ended_at is not None or self.started_clock is None:
            return max(0.0, (self.ended_at or time.time()) - self.started_at)
        return time.monotonic() - self.started_clock


class Reducer:
    """Turns events into a `Snapshot`. One writer; readers take `snapshot`, which is replaced whole."""

    def __init__(self, run: str = "") -> None:
        self.snapshot = Snapshot(run=run)
        self._points: list[Point] = []
        self._log: deque[Event] = deque(maxlen=200)
        self._recent: deque[float] = deque(maxlen=30)
        self._epoch_losses: list[float] = []
        self._mean: float | None = None
        self.snapshot = replace(self.snapshot, points=self._points)

    def apply_all(self, events: Iterable[Event]) -> Snapshot:
        """Apply many events."""
        for event in events:
            self.apply(event)
        return self.snapshot

    def apply(self, event: Event) -> Snapshot:
        """Apply one event."""
        match event:
            case Started():
                self._started(event)
            case Phase():
                self.snapshot = replace(
                    self.snapshot,
                    phase=event.phase,
                    phase_done=event.done,
                    phase_total=event.total,
                )
            case StepDone():
                self._step(event)
            case Saved():
                self._saved(event)
            case Sampled():
                # Repeated steps write their pictures again, under the same names.
                before = (each for each in self.snapshot.samples if each.step != event.step)
                self.snapshot = replace(self.snapshot, samples=(*before, event))
            case Validated():
                self._validated(event)
            case Scored():
                self.snapshot = replace(self.snapshot, scores=(*self.snapshot.scores, event))
            case Proved():
                self.snapshot = replace(self.snapshot, proofs=(*self.snapshot.proofs, event))
            case RolledBack():
                self._rolled_back(event)
            case Waiting():
                self.snapshot = replace(
                    self.snapshot, waiting=event.reason, waiting_remedy=event.remedy
                )
            case Acknowledged():
                self._acknowledged(event)
            case Ended():
                self.snapshot = replace(
                    self.snapshot,
                    state=event.state,
                    end=event,
                    ended_at=event.time,
                    files=event.files or self.snapshot.files,
                    remaining_seconds=None,
                    waiting="",
                    waiting_remedy="",
                )
        if not isinstance(event, StepDone | Phase):
            self._log.append(event)
            self.snapshot = replace(self.snapshot, log=tuple(self._log))
        return self.snapshot

    def _take_back(self, step: int) -> tuple[Validated, ...]:
        """Forget what was drawn of steps after `step`, which are repeated; gives what was validated before."""
        while self._points and self._points[-1].step > step:
            self._points.pop()
        self._mean = self._points[-1].mean if self._points else None
        self._recent.clear()
        self._epoch_losses.clear()
        return tuple(each for each in self.snapshot.validations if each.step <= step)

    def _rolled_back(self, event: RolledBack) -> None:
        validations = self._take_back(event.to_step)
        self.snapshot = replace(
            self.snapshot,
            step=event.to_step,
            rate_factor=event.rate_factor,
            validations=validations,
            # What was painted of steps that are done anew at another rate is no picture of this run.
            samples=tuple(each for each in self.snapshot.samples if each.step <= event.to_step),
        )

    def _started(self, event: Started) -> None:
        # A resumed run may repeat steps after its last state.
        validations = self._take_back(event.step)
        self.snapshot = replace(
            self.snapshot,
            run=event.run,
            state="running",
            step=event.step,
            first_step=event.step,
            total_steps=event.total_steps,
            epochs=len(event.steps_per_epoch),
            batch_size=event.batch_size,
            device=event.device,
            vram_total_bytes=event.vram_total_bytes,
            started_at=event.time,
            # A watcher may have come later than the start, by the clocks as they are now.
            started_clock=time.monotonic() - max(0.0, time.time() - event.time),
            ended_at=None,
            end=None,
            notes=event.notes,
            last_saved_step=event.step,
            rate_factor=event.rate_factor,
            validations=validations,
            waiting="",
            waiting_remedy="",
        )

    def _step(self, event: StepDone) -> None:
        if event.epoch != self.snapshot.epoch:
            self._epoch_losses.clear()
        self._epoch_losses.append(event.loss)
        count = len(self._points) + 1
        weight = 1 / min(count, EMA_STEPS)
        self._mean = (
            event.loss if self._mean is None else self._mean + weight * (event.loss - self._mean)
        )
        self._points.append(Point(event.step, event.loss, self._mean))
        self._recent.append(event.seconds)
        per_step = sorted(self._recent)[len(self._recent) // 2]
        left = max(0, self.snapshot.total_steps - event.step)
        self.snapshot = replace(
            self.snapshot,
            phase="training",
            phase_done=0,
            phase_total=0,
            step=event.step,
            epoch=event.epoch,
            loss=event.loss,
            loss_mean=self._mean,
            loss_epoch_mean=sum(self._epoch_losses) / len(self._epoch_losses),
            lr=event.lr,
            grad_norm=event.grad_norm,
            scaled_layers=event.scaled_layers,
            skipped=event.skipped,
            rows=event.rows,
            seconds_per_step=per_step,
            images_per_second=event.samples / event.seconds if event.seconds else None,
            vram_bytes=event.vram_bytes,
            vram_peak_bytes=event.vram_peak_bytes,
            remaining_seconds=self._remaining(left),
        )

    def _remaining(self, left: int) -> tuple[float, float]:
        recent = sorted(self._recent)
        # The middle half of the last steps bounds the pace; their mean carries the slow ones.
        low, high = recent[len(recent) // 4], recent[(3 * len(recent)) // 4]
        mean = sum(recent) / len(recent)
        return left * min(low, mean), left * max(high, mean)

    def _validated(self, event: Validated) -> None:
        # A run that was resumed before its first state measures step 0 again.
        before = (each for each in self.snapshot.validations if each.step < event.step)
        self.snapshot = replace(self.snapshot, validations=(*before, event))

    def _saved(self, event: Saved) -> None:
        files = self.snapshot.files
        if event.what == "network" and event.path not in files:
            files = (*files, event.path)
        last = event.step if event.what == "state" else self.snapshot.last_saved_step
        self.snapshot = replace(self.snapshot, files=files, last_saved_step=last)

    def _acknowledged(self, event: Acknowledged) -> None:
        state: State = self.snapshot.state
        if event.request == "pause":
            state = "paused"
        elif event.request == "continue":
            state = "running"
        self.snapshot = replace(
            self.snapshot, state=state, requests=(*self.snapshot.requests, event.request)
        )
