"""Settings that say nothing beside certain others: which, and why. The form greys them, the plan tells."""

from __future__ import annotations

from collections.abc import Callable, Collection

from engine.settings.arguments import relative_step
from engine.settings.optimizers import OPTIMIZERS, SCHEDULE_FREE, optimizer_title
from engine.settings.recipe import Recipe
from engine.settings.walk import setting, value_text

Reason = Callable[[Recipe], str]
RELATIVE = "Adafactor's relative steps set the rate (optim.arguments relative_step=False)"
HUBER = frozenset({"huber", "smooth_l1"})


def idle_reason(recipe: Recipe, path: str) -> str:
    """Why a setting has no effect in this recipe; empty where it has one."""
    found = _IDLE.get(path)
    return found(recipe) if found is not None else ""


def idle_settings(recipe: Recipe, given: Collection[str]) -> list[str]:
    """Sentences about settings that were changed from their default and have no effect here."""
    said = []
    for path in _IDLE:
        if path not in given:
            continue
        row = setting(path)
        section, _, key = path.partition(".")
        value = getattr(getattr(recipe, section), key)
        if row is None or value in (row.default, None, "", 0):
            continue
        reason = idle_reason(recipe, path)
        if reason:
            said.append(f"{path} {value_text(value)} has no effect: {reason}.")
    return said


def follows_no_schedule(recipe: Recipe) -> str:
    """Why the optimizer takes no schedule; empty where it follows one."""
    if recipe.optim.optimizer in SCHEDULE_FREE:
        title = optimizer_title(recipe.optim.optimizer)
        return f"{title} averages its weights instead of following a schedule"
    return RELATIVE if relative_step(recipe.optim) else ""


def _relative_steps(recipe: Recipe) -> str:
    """Adafactor's relative steps take neither rate nor warmup; schedule-free optimizers do warm up."""
    return RELATIVE if relative_step(recipe.optim) else ""


def _of_optimizer(name: str) -> Reason:
    def reason(recipe: Recipe) -> str:
        row = OPTIMIZERS[recipe.optim.optimizer or "adamw"]
        return "" if name in row.arguments else f"{row.title} has no such argument"

    return reason


def _of_schedule(*schedulers: str) -> Reason:
    def reason(recipe: Recipe) -> str:
        if recipe.schedule.scheduler in schedulers:
            return follows_no_schedule(recipe)
        return f"it belongs to the schedule {' or '.join(schedulers)}"

    return reason


def _unless(works: Callable[[Recipe], bool], why: str) -> Reason:
    return lambda recipe: "" if works(recipe) else why


_huber = _unless(
    lambda recipe: recipe.objective.loss in HUBER, "it belongs to the losses huber and smooth_l1"
)
_tags = _unless(
    lambda recipe: recipe.data.shuffle_tags or recipe.data.tag_dropout > 0,
    "tags are neither shuffled nor dropped",
)
_captions = _unless(lambda recipe: recipe.data.captions, "captions are not read")
_reg = _unless(
    lambda recipe: recipe.data.reg_folder is not None, "there are no regularisation pictures"
)
_held_out = _unless(
    lambda recipe: recipe.data.validation > 0, "no pictures are held out (data.validation)"
)
_normal = _unless(
    lambda recipe: recipe.objective.timestep_shape == "logit_normal",
    "it belongs to the timestep shape logit_normal",
)

_IDLE: dict[str, Reason] = {
    "data.caption_extension": _captions,
    "data.keep_empty_captions": _captions,
    "data.keep_tokens": _tags,
    "data.keep_separator": _tags,
    "data.secondary_separator": _tags,
    "data.mask_folder": _unless(
        lambda recipe: recipe.data.masked_loss == "folder", 'data.masked_loss is not "folder"'
    ),
    "data.mask_mean": _unless(
        lambda recipe: recipe.data.masked_loss != "off", "there are no masks (data.masked_loss)"
    ),
    "data.reg_ratio": _reg,
    "objective.prior_loss_weight": _reg,
    "data.validation_seed": _held_out,
    "train.validate_every_epochs": _held_out,
    "train.validate_every_steps": _held_out,
    "data.vae_batch": _unless(
        lambda recipe: recipe.data.cache_latents != "off", "latents are not cached"
    ),
    "optim.lr": _relative_steps,
    "optim.weight_decay": _of_optimizer("weight_decay"),
    "optim.betas": _of_optimizer("betas"),
    "optim.eps": _of_optimizer("eps"),
    "optim.d_coef": _of_optimizer("d_coef"),
    "schedule.warmup_percent": _relative_steps,
    "schedule.warmup_steps": _relative_steps,
    "schedule.scheduler": follows_no_schedule,
    "schedule.cycles": _of_schedule("cosine_with_restarts"),
    "schedule.power": _of_schedule("polynomial"),
    "schedule.min_lr_ratio": _of_schedule("cosine_with_min_lr", "warmup_stable_decay"),
    "schedule.decay_percent": _of_schedule("warmup_stable_decay"),
    "schedule.rules": _of_schedule("piecewise_constant"),
    "objective.huber_schedule": _huber,
    "objective.huber_c": _huber,
    "objective.huber_scale": _huber,
    "objective.noise_offset_random": _unless(
        lambda recipe: recipe.objective.noise_offset > 0, "the noise offset is 0"
    ),
    "objective.multires_discount": _unless(
        lambda recipe: recipe.objective.multires_iterations > 0,
        "objective.multires_iterations is 0",
    ),
    "objective.ip_noise_random": _unless(
        lambda recipe: recipe.objective.ip_noise_gamma > 0, "objective.ip_noise_gamma is 0"
    ),
    "objective.timestep_mean": _normal,
    "objective.timestep_spread": _unless(
        lambda recipe: recipe.objective.timestep_shape in ("logit_normal", "beta"),
        "it belongs to the timestep shapes logit_normal and beta",
    ),
    "run.wandb_project": _unless(lambda recipe: recipe.run.wandb, "run.wandb is off"),
}
