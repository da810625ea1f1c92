"""How high a healthy loss jumps by the rule for spikes and by a plain one, and what sets the rule off.

The rule (engine/spikes.py) divides each sample's loss by the usual one of its timesteps; the plain rule
compares a step's loss with three times its exponential mean. On the demo's base, which is trained as the
demo trains it but for the batch size: a healthy run, and from two thirds of it on a run for each fault.

    python benchmarks/spike_rule.py [--steps 900] [--batches 1,8]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from engine.assemble import Training, assemble
from engine.checkpoint.resume import put_back
from engine.checkpoint.state import Identity, Place, State
from engine.data.loader import Batch
from engine.plan import gather, plan
from engine.settings import Recipe
from engine.settings.check import parse
from engine.spikes import IN_A_ROW, Spikes
from engine.step import train_step
from lyctui.demo.run import demo_recipe

LIMIT = 5.0
PLAIN_TIMES, PLAIN_STEPS = 3.0, 50
"""The plain rule: so many times the exponential mean over so many steps."""
SPOILT = 100.0
"""What the latents of spoilt batches are multiplied by."""

TRIED = 100
"""Steps for which a fault is tried."""

Fault = Callable[[Training], contextlib.AbstractContextManager[None]]


@dataclass(slots=True)
class Course:
    """What both rules saw of a run."""

    ratios: list[float] = field(default_factory=list)
    plain: list[int] = field(default_factory=list)
    """Steps at which the plain rule fires."""
    fired: int | None = None
    """The step at which the rule fires first."""
    broke: int | None = None
    """The step whose loss was not a number."""

    @property
    def highest(self) -> float:
        """Of one step."""
        return max(self.ratios)

    @property
    def three(self) -> float:
        """The highest limit that three steps running would all have passed."""
        starts = range(len(self.ratios) - IN_A_ROW + 1)
        return max(min(self.ratios[start : start + IN_A_ROW]) for start in starts)


def recipe_of(batch: int, steps: int, runs: Path) -> Recipe:
    """The demo's recipe, filled, for more steps of another size."""
    values: dict[str, Any] = demo_recipe(runs).model_dump(mode="python", exclude_unset=True)
    values["train"] |= {"batch_size": batch, "max_steps": steps, "epochs": steps}
    values["sample"] = {"prompts": []}
    recipe = parse(values)
    made = plan(recipe, gather(recipe))
    made.raise_errors()
    return made.recipe


def places(training: Training) -> Iterator[Place]:
    """Every step of a run."""
    step = 0
    for epoch, steps in enumerate(training.steps_per_epoch, start=1):
        for number in range(1, steps + 1):
            step += 1
            yield Place(step, epoch, number)


def course(
    training: Training, after: int, until: int, spikes: Spikes, *, stop: bool = False
) -> Course:
    """Train the steps behind `after` to `until`, or with `stop` until the rule fires, and look."""
    found, mean = Course(), None
    for place in places(training):
        if not after < place.step <= until:
            continue
        batches = training.order.epoch(place.epoch)[place.epoch_step - 1]
        done = train_step(training, batches, place)
        loss, losses = float(done.loss), done.plain_N.tolist()
        if not math.isfinite(loss):
            found.broke = place.step
            break
        timesteps = done.timesteps_N.tolist()
        found.ratios.append(spikes.ratio(losses, timesteps) or 0.0)
        if spikes.add(losses, timesteps, LIMIT) and found.fired is None:
            found.fired = place.step
        if mean is not None and place.step > PLAIN_STEPS and loss > PLAIN_TIMES * mean:
            found.plain.append(place.step)
        mean = loss if mean is None else mean + (loss - mean) / min(place.step, PLAIN_STEPS)
        if stop and found.fired is not None:
            break
    return found


@dataclass(slots=True)
class Healthy:
    """A training at the step where faults are tried, and how it went there and further."""

    training: Training
    at: int
    kept: State
    spikes: dict[str, Any]
    course: Course

    def with_fault(self, fault: Fault) -> Course:
        """From there with the fault, until the rule fires."""
        training, spikes = self.training, Spikes()
        training.begin_anew()
        put_back(training, replace(self.kept, optimizer=copy.deepcopy(self.kept.optimizer)))
        training.network.train()
        spikes.load_state(self.spikes)
        with fault(training):
            return course(training, self.at, self.at + TRIED, spikes, stop=True)


def healthy(recipe: Recipe, cache: Path, at: int, last: int) -> Healthy:
    """Train without a fault."""
    training = assemble(recipe, cache, lambda *_: None)
    training.network.train()
    spikes = Spikes()
    before = course(training, 0, at, spikes)
    kept = State(
        place=Place(),
        identity=Identity("", "", "", 0),
        network=training.network.training_state(),
        optimizer=copy.deepcopy(training.optimizer.state_dict()),
        scaler=training.scaler.state_dict(),
        session={},
        guard=training.guard.state(),
    )
    numbers = spikes.state()
    after = course(training, at, last, spikes)
    whole = Course(
        before.ratios + after.ratios,
        before.plain + after.plain,
        before.fired or after.fired,
    )
    return Healthy(training, at, kept, numbers, whole)


@contextlib.contextmanager
def raised(training: Training, times: float) -> Iterator[None]:
    """The learning rate goes up."""
    usual = dict(training.rates)
    training.rates.update({part: rate * times for part, rate in usual.items()})
    yield
    training.rates.update(usual)


@contextlib.contextmanager
def spoilt(training: Training) -> Iterator[None]:
    """Latents become far too large, and stay so."""
    whole = training.loader.batch

    def batch(*args: Any, **named: Any) -> Batch:
        made = whole(*args, **named)
        return replace(made, latents_BCHW=made.latents_BCHW * SPOILT)

    training.loader.batch = batch  # type: ignore[method-assign]
    yield
    training.loader.batch = whole  # type: ignore[method-assign]


FAULTS: dict[str, Fault] = {
    "rate times 1000": lambda training: raised(training, 1000),
    "rate times 100": lambda training: raised(training, 100),
    f"latents times {SPOILT:g}": spoilt,
}


def fired(found: Course, at: int) -> str:
    """When the rule fired, in words."""
    if found.fired is not None:
        return f"after {found.fired - at} steps"
    if found.broke is not None:
        return f"not a number after {found.broke - at} steps"
    return f"not in {TRIED} steps"


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--folder", type=Path, default=Path("out/spikes"))
    given = parser.parse_args()
    runs, at = given.folder.absolute(), given.steps * 2 // 3
    print("| batch | highest ratio | of three running | the rule fires | the plain rule fires | "
          + " | ".join(FAULTS) + " |")  # fmt: skip
    print("|---|---|---|---|---|" + "---|" * len(FAULTS), flush=True)
    for size in (int(size) for size in given.batches.split(",")):
        recipe = recipe_of(size, given.steps + TRIED, runs)
        found = healthy(recipe, runs / "cache", at, given.steps)
        cells = [
            str(size),
            f"{found.course.highest:.2f}",
            f"{found.course.three:.2f}",
            "never" if found.course.fired is None else f"in step {found.course.fired}",
            f"{len(found.course.plain)} times",
            *(fired(found.with_fault(fault), at) for fault in FAULTS.values()),
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
