"""Every optimizer with every schedule on the embedded base: a few steps each, and whether it learnt.

The loss is measured before and after on pictures held out, with fixed noise. Rates were chosen by
trial on this tiny base; they say nothing about a real one. What cannot run on this machine is named
with its reason.

    python benchmarks/demo_optimizers.py [--only adamw,prodigy] [--schedules cosine,rex] [--steps 12]
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any, get_args

from engine.assemble import Training, assemble
from engine.assemble_optim import movers
from engine.checkpoint.state import Place
from engine.errors import EngineError
from engine.optim.probe import require_optimizer
from engine.plan import gather, plan
from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.optimizers import ADAPTIVE, OptimizerName
from engine.settings.schedule import SchedulerName
from engine.step import train_step
from engine.validation import validation_loss
from lyctui.demo.run import demo_recipe

RATES: dict[str, float] = {
    "adagrad": 1e-2,
    "adadelta": 1.0,
    "adafactor": 2e-3,
    "asgd": 2.0,
    "lion": 5e-4,
    "lion8bit": 5e-4,
    "paged-lion8bit": 5e-4,
    "came": 5e-4,
    "radam-schedulefree": 2e-2,
    "sgd": 2.0,
    "sgd-nesterov": 0.5,
    "sgd-nesterov8bit": 0.5,
    "sgd-schedulefree": 2.0,
    "rprop": 1e-3,
}
USUAL = 2e-3
ESTIMATES = {"dadapt-adam": "d0=1e-4 growth_rate=1.5", "dadapt-adan": "d0=1e-5 growth_rate=1.1",
             "dadapt-adagrad": "d0=1e-2", "dadapt-lion": "d0=1e-4", "dadapt-sgd": "d0=1e-1",
             "prodigy": "d0=1e-4"}  # fmt: skip
"""A first guess of the rate that a few steps can show something with; the usual one is 1e-6."""
MORE: dict[str, dict[str, Any]] = {
    "piecewise_constant": {"rules": "1:6,0.3"},
    "constant_with_warmup": {"warmup_steps": 4},
}
OWN_RATE = frozenset({"adafactor"})
"""Optimizers that schedule themselves unless told otherwise."""


def recipe_of(optimizer: str, schedule: str, steps: int, runs: Path) -> Recipe:
    """The demo's recipe, filled, with another optimizer and schedule."""
    values = demo_recipe(runs).model_dump(mode="python", exclude_unset=True)
    rate = 1.0 if optimizer in ADAPTIVE else RATES.get(optimizer, USUAL)
    values["optim"] = {"optimizer": optimizer, "lr": rate, "te_lr": rate}
    if optimizer in ESTIMATES:
        values["optim"]["arguments"] = [ESTIMATES[optimizer]]
    if optimizer in OWN_RATE and schedule != "adafactor":
        values["optim"]["arguments"] = ["relative_step=False", "scale_parameter=False"]
    values["schedule"] = {"scheduler": schedule} | MORE.get(schedule, {})
    values["train"] |= {"batch_size": 4, "max_steps": steps, "epochs": 8}
    values["data"]["validation"] = 0.2
    values["sample"] = {"prompts": []}
    recipe = parse(values)
    made = plan(recipe, gather(recipe))
    made.raise_errors()
    return made.recipe


def measure(training: Training) -> float:
    """Loss on the pictures held out."""
    assert training.validation is not None
    return validation_loss(training, training.validation, training.validation.held_out)


def try_out(training: Training, recipe: Recipe, start: dict[str, Any], steps: int) -> float:
    """Loss after so many steps from the same start."""
    training.network.load_training_state(start)
    for member in training.network.members:
        member.adapter.requires_grad_(True)
    moving = movers(
        recipe, training.network, training.rates, steps=steps,
        device=training.device, precision=training.precision,
    )  # fmt: skip
    training.weights, training.optimizer = moving.weights, moving.optimizer
    training.averages, training.curve = moving.averages, moving.curve
    rate = 1.0 if recipe.optim.optimizer in ADAPTIVE else float(recipe.optim.lr or 0)
    training.rates = dict.fromkeys(training.rates, rate)
    training.network.train()
    for number, batches in enumerate(training.order.epoch(1)[:steps], start=1):
        train_step(training, batches, Place(number, 1, number))
    return measure(training)


def main() -> None:
    """Print a table: the loss after, as a share of the loss before."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(get_args(OptimizerName)))
    parser.add_argument("--schedules", default=",".join(get_args(SchedulerName)))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--folder", type=Path, default=Path("out/optimizers"))
    given = parser.parse_args()
    schedules = [name for name in given.schedules.split(",") if name != "adafactor"]
    runs = given.folder.absolute()
    first = recipe_of("adamw", "cosine", given.steps, runs)
    training = assemble(first, runs / "cache", lambda *_: None)
    start = training.network.training_state()
    before = measure(training)
    print(f"Loss before {before:.4f}; after {given.steps} steps, as a share of it:\n")
    print("| optimizer | " + " | ".join(schedules) + " |\n|---|" + "---|" * len(schedules))
    for optimizer in given.only.split(","):
        try:
            require_optimizer(optimizer, training.device)
        except EngineError as error:
            print(f"| {optimizer} | " + str(error).splitlines()[0] + " |" * len(schedules))
            continue
        shares = []
        for schedule in schedules:
            try:
                recipe = recipe_of(optimizer, schedule, given.steps, runs)
                share = try_out(training, recipe, start, given.steps) / before
            except EngineError:
                shares.append("refused")
                continue
            shares.append(f"{share:.3f}" if math.isfinite(share) else "not finite")
        print(f"| {optimizer} | " + " | ".join(shares) + " |", flush=True)


if __name__ == "__main__":
    main()
