"""The learning-rate curve that a recipe asks for. No torch: the wizard draws it, the trainer follows it."""

from __future__ import annotations

from engine.optim.schedules import Curve, warmup_length
from engine.settings import Recipe
from engine.settings.arguments import relative_step
from engine.settings.optimizers import SCHEDULE_FREE


def curve_of(recipe: Recipe, steps: int) -> Curve:
    """The learning-rate curve of a filled recipe over so many steps."""
    schedule = recipe.schedule
    scheduler = schedule.scheduler
    percent, count = schedule.warmup_percent or 0.0, schedule.warmup_steps
    if recipe.optim.optimizer in SCHEDULE_FREE:
        scheduler = "constant_with_warmup"
    if relative_step(recipe.optim):
        scheduler, percent, count = "adafactor", 0.0, 0
    return Curve(
        scheduler,
        steps,
        warmup_length(steps, percent=percent, count=count),
        cycles=schedule.cycles,
        power=schedule.power,
        min_ratio=schedule.min_lr_ratio,
        decay_percent=schedule.decay_percent,
        rules=schedule.rules,
    )
