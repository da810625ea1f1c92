"""Blanks of optimizer, learning rates and schedule."""

from __future__ import annotations

from engine.errors import RecipeError
from engine.networks.presets import Preset, preset_of
from engine.planning import proposals
from engine.planning.family import TEXT_UNTRAINED
from engine.planning.filler import Filler
from engine.planning.rules import layer_choice
from engine.settings import Recipe
from engine.settings.arguments import relative_step, shown_defaults
from engine.settings.optimizers import SCHEDULE_FREE, optimizer_title


def fill_optim(filler: Filler) -> None:
    """The optimizer with its arguments, and a rate for each part."""
    works = filler.facts.adamw8bit_works
    filler.propose("optim.optimizer", proposals.propose_optimizer(filler.device, works))
    optimizer = filler.recipe.optim.optimizer or "adamw"
    title = optimizer_title(optimizer)
    if filler.adaptive:
        filler.fill("optim.lr", 1.0, "default", f"{title} finds the rate itself")
    else:
        filler.fill("optim.lr", 1e-4, "default", "guides 000 and 002")
    lr = filler.recipe.optim.lr
    preset = _layers_chosen(filler.recipe)
    if preset is not None and not preset.unet:
        filler.fill("optim.unet_lr", 0.0, "default", "the layers chosen are the text encoder's")
    filler.fill("optim.unet_lr", lr, "default", "the learning rate")
    if preset is not None and not preset.text:
        filler.fill("optim.te_lr", 0.0, "default", "the layers chosen are the U-Net's")
    elif filler.base.family in TEXT_UNTRAINED and (preset is None or preset.unet):
        reason = "SDXL's text encoders are large and learn least; a rate above 0 trains them"
        filler.fill("optim.te_lr", 0.0, "default", reason)
    elif filler.adaptive:
        filler.fill("optim.te_lr", lr, "default", f"{title} needs one rate for all parts")
    else:
        filler.fill("optim.te_lr", min(5e-5, lr or 0.0), "default", "guides 001 and 004")
    if filler.base.text_encoders > 1:
        filler.fill("optim.te2_lr", filler.recipe.optim.te_lr, "default", "the text-encoder rate")
    for key, value in shown_defaults(optimizer).items():
        if key != "eps":
            filler.fill(f"optim.{key}", value, "default", f"the default of {optimizer}")
    _schedule(filler, title)


def _schedule(filler: Filler, title: str) -> None:
    """Warmup, and the curve where the optimizer follows none."""
    scheduler = filler.recipe.schedule.scheduler
    if relative_step(filler.recipe.optim) and filler.unset("schedule.scheduler"):
        filler.put("schedule.scheduler", "adafactor", "default", f"{title} sets its own rate")
    elif filler.recipe.optim.optimizer in SCHEDULE_FREE and filler.unset("schedule.scheduler"):
        reason = f"{title} averages instead of following a curve"
        filler.put("schedule.scheduler", "constant", "default", reason)
        scheduler = "constant_with_warmup"
    if filler.recipe.schedule.warmup_steps is None:
        if filler.adaptive:
            warmup, why = 0.0, f"{title} begins slowly by itself"
        elif relative_step(filler.recipe.optim):
            warmup, why = 0.0, f"{title} sets its own rate"
        elif scheduler == "constant":
            warmup, why = 0.0, "a constant rate begins at once, unless a warmup is wanted"
        else:
            warmup, why = 10.0, "guide 004"
        filler.fill("schedule.warmup_percent", warmup, "default", why)
    schedule = filler.recipe.schedule
    if scheduler == schedule.scheduler == "constant" and (schedule.warmup_steps or (
        schedule.warmup_steps is None and schedule.warmup_percent
    )):  # fmt: skip
        reason = "constant, with the warmup before it"
        filler.put("schedule.scheduler", "constant_with_warmup", "default", reason)


def _layers_chosen(recipe: Recipe) -> Preset | None:
    """What the choice of layers takes; None where a person's own file is wrong, which the plan tells."""
    try:
        return preset_of(layer_choice(recipe.network))
    except RecipeError:
        return None
