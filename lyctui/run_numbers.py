"""The numbers of a run that explanations may name: by placeholder, from a plan. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from engine.settings.network import asked
from engine.settings.optimizers import ADAPTIVE
from engine.settings.walk import number_text, setting, value_text

if TYPE_CHECKING:
    from engine.plan import Plan

PLACEHOLDERS: dict[str, str] = {
    # Settings: the placeholder and the dotted path whose value it shows.
    "accumulation": "train.accumulation",
    "algorithm": "network.algorithm",
    "alpha": "network.alpha",
    "batch_size": "train.batch_size",
    "betas": "optim.betas",
    "block_size": "network.block_size",
    "bucket_max": "data.bucket_max",
    "bucket_min": "data.bucket_min",
    "bucket_step": "data.bucket_step",
    "cache_latents": "data.cache_latents",
    "cache_text": "data.cache_text",
    "caption_dropout": "data.caption_dropout",
    "checkpointing": "train.checkpointing",
    "class_word": "data.class_word",
    "clip_skip": "model.clip_skip",
    "constraint": "network.constraint",
    "conv_alpha": "network.conv_alpha",
    "conv_rank": "network.conv_rank",
    "cycles": "schedule.cycles",
    "debiased": "objective.debiased",
    "decay_percent": "schedule.decay_percent",
    "dora": "network.dora",
    "ema_decay": "train.ema_decay",
    "epochs": "train.epochs",
    "factor": "network.factor",
    "huber_c": "objective.huber_c",
    "ip_noise_gamma": "objective.ip_noise_gamma",
    "keep_tokens": "data.keep_tokens",
    "loss": "objective.loss",
    "lr": "optim.lr",
    "masked_loss": "data.masked_loss",
    "max_grad_norm": "optim.max_grad_norm",
    "max_norm": "network.max_norm",
    "max_timestep": "objective.max_timestep",
    "max_tokens": "model.max_tokens",
    "min_lr_ratio": "schedule.min_lr_ratio",
    "min_rank": "network.min_rank",
    "min_snr_gamma": "objective.min_snr_gamma",
    "min_timestep": "objective.min_timestep",
    "multires_discount": "objective.multires_discount",
    "multires_iterations": "objective.multires_iterations",
    "name": "run.name",
    "network_precision": "train.network_precision",
    "noise_offset": "objective.noise_offset",
    "optimizer": "optim.optimizer",
    "power": "schedule.power",
    "precision": "train.precision",
    "prediction": "model.prediction",
    "prior_loss_weight": "objective.prior_loss_weight",
    "prompt_style": "model.prompt_style",
    "rank": "network.rank",
    "reg_ratio": "data.reg_ratio",
    "repeats": "data.repeats",
    "resolution": "data.resolution",
    "sampler": "sample.sampler",
    "save_every": "save.every_epochs",
    "save_precision": "save.precision",
    "scheduler": "schedule.scheduler",
    "seed": "train.seed",
    "shuffle_tags": "data.shuffle_tags",
    "state_minutes": "save.state_minutes",
    "targets": "network.targets",
    "te2_lr": "optim.te2_lr",
    "te_lr": "optim.te_lr",
    "te_stop_percent": "optim.te_stop_percent",
    "threads": "train.threads",
    "timestep_shape": "objective.timestep_shape",
    "train_norm": "network.train_norm",
    "trigger": "data.trigger",
    "unet_lr": "optim.unet_lr",
    "warmup_percent": "schedule.warmup_percent",
    "weight_decay": "optim.weight_decay",
    "workers": "data.workers",
    "zero_terminal_snr": "objective.zero_terminal_snr",
}
COMPUTED: dict[str, str] = {
    # Numbers that are computed from several settings or from the pictures, and what they are.
    "cache_size": "size of the latent cache",
    "captioned": "training pictures that have a caption file, without those held out",
    "conv_scale": "convolution alpha / convolution rank",
    "cycle_steps": "steps of one cycle of the schedule",
    "decay_steps": "steps in which the rate falls at the end",
    "effective_batch": "batch size x accumulation",
    "effective_lr": "learning rate of the U-Net x scale",
    "effective_te_lr": "learning rate of the text encoder x scale",
    "ema_span": "steps that the running average spans",
    "exposures": "repeats x epochs x sizes: how often each picture is seen",
    "file_size": "size of one network file",
    "files": "network files that the run leaves behind",
    "held_out": "training pictures that are measured instead of trained",
    "images": "training pictures",
    "latent_size": "sides of a latent",
    "lowest_lr": "learning rate at the end of a schedule that ends above zero",
    "reg_images": "regularisation pictures",
    "reg_samples": "regularisation samples of one epoch",
    "resolutions": "sizes at which each picture is trained, where there are several",
    "samples": "samples of one epoch, regularisation included",
    "scale": "alpha / rank (alpha / sqrt(rank) when rank-stabilised)",
    "steps": "steps of the run",
    "te_stop_step": "last step in which the text encoder is trained",
    "text_cache_size": "size of the encoded captions",
    "timesteps": "how many timesteps are trained",
    "up_lr": "learning rate of the up factors",
    "warmup_steps": "steps of the warmup",
}
LATENT_FACTOR = 8


def run_numbers(plan: Plan) -> dict[str, str]:
    """Every placeholder's value for a planned run; what does not exist in it is left out."""
    recipe = plan.recipe
    return {
        **_settings(recipe),
        **_detected(plan),
        **_pictures(plan),
        **_sizes(plan),
        **_scales(recipe),
        **_rates(recipe),
        **_moments(recipe, plan.steps),
        **_objective(recipe),
    }


def _settings(recipe: Any) -> dict[str, str]:
    numbers = {}
    for name, path in PLACEHOLDERS.items():
        section, _, key = path.partition(".")
        value = getattr(getattr(recipe, section), key, None)
        if value is not None:
            numbers[name] = _shown(path, value)
    return numbers


def _detected(plan: Plan) -> dict[str, str]:
    """What the base's file tells where the recipe leaves it open."""
    told = None if plan.base is None else plan.base.prediction
    return {"prediction": told} if told and plan.recipe.model.prediction == "auto" else {}


def _pictures(plan: Plan) -> dict[str, str]:
    train = [item for item in plan.items if not item.is_reg]
    numbers = {}
    repeats = {item.repeats for item in train}
    if len(repeats) > 1:
        numbers["repeats"] = f"{min(repeats)} to {max(repeats)}"
    elif repeats:
        numbers["repeats"] = str(repeats.pop())
    if not plan.samples_per_epoch:
        return numbers
    if plan.exposures is not None:
        low, high = map(_grouped, plan.exposures)
        numbers["exposures"] = low if low == high else f"{low} to {high}"
    from engine.planning.rules import split_of

    sizes = 1 + len(plan.recipe.data.more_resolutions)
    if sizes > 1:
        numbers["resolutions"] = str(sizes)
    split = split_of(plan.placed, plan.recipe.data)
    return numbers | {
        "images": _grouped(plan.images),
        "samples": _grouped(plan.samples_per_epoch),
        "reg_samples": _grouped(plan.reg_samples_per_epoch),
        "reg_images": _grouped(sum(item.is_reg for item in plan.items)),
        "steps": _grouped(plan.steps),
        "captioned": _grouped(
            sum(item.has_caption for item in train if item.index in split.trained)
        ),
        "held_out": _grouped(len(split.held_out)),
    }


def _sizes(plan: Plan) -> dict[str, str]:
    sizes = plan.sizes
    numbers = {}
    if sizes.file_bytes is not None:
        numbers["file_size"] = f"{sizes.file_bytes / 1e6:.1f} MB"
    if plan.samples_per_epoch:
        numbers["files"] = _grouped(sizes.files)
        numbers["cache_size"] = f"{sizes.cache_bytes / 1e6:.1f} MB"
        numbers["text_cache_size"] = f"{sizes.text_cache_bytes / 1e6:.1f} MB"
    if plan.recipe.data.resolution is not None:
        sides = (str(side // LATENT_FACTOR) for side in plan.recipe.data.resolution)
        numbers["latent_size"] = "×".join(sides)
    return numbers


def _scales(recipe: Any) -> dict[str, str]:
    """Scale of the network and what it makes of the learning rates."""
    network, optim = recipe.network, recipe.optim
    numbers = {}
    conv_rank, conv_alpha = asked(network, "conv_rank"), asked(network, "conv_alpha")
    stabilised = asked(network, "rs_lora")
    if conv_rank and conv_alpha is not None:
        numbers["conv_scale"] = number_text(_scale(conv_rank, conv_alpha, stabilised))
    rank, alpha = asked(network, "rank"), asked(network, "alpha")
    if not isinstance(rank, int) or alpha is None:
        return numbers
    scale = _scale(rank, alpha, stabilised)
    numbers["scale"] = number_text(scale)
    if optim.optimizer in ADAPTIVE:
        # They find the step themselves; their rate is a factor on it, which says little of strength.
        return numbers
    for name, rate in (("effective_lr", optim.unet_lr), ("effective_te_lr", optim.te_lr)):
        if rate is not None:
            numbers[name] = number_text(_short(rate * scale))
    return numbers


def _scale(rank: int, alpha: float, stabilised: bool) -> float:
    return _short((alpha or rank) / (rank**0.5 if stabilised else rank))


def _rates(recipe: Any) -> dict[str, str]:
    optim = recipe.optim
    if optim.lr is None:
        return {}
    numbers = {"lowest_lr": number_text(_short(optim.lr * recipe.schedule.min_lr_ratio))}
    if optim.loraplus_ratio is not None:
        numbers["up_lr"] = number_text(_short(optim.lr * optim.loraplus_ratio))
    return numbers


def _moments(recipe: Any, steps: int) -> dict[str, str]:
    """Where in the run something begins or ends."""
    schedule = recipe.schedule
    numbers: dict[str, str] = {}
    if not steps:
        return numbers
    if recipe.train.ema_decay > 0:
        # In a short run the warm start keeps the average shorter than the decay says.
        numbers["ema_span"] = _grouped(
            round(min(1 / (1 - recipe.train.ema_decay), (10 + steps) / 9))
        )
    warmup = warmup_of(recipe, steps)
    if warmup is not None:
        numbers["warmup_steps"] = _grouped(warmup)
        numbers["cycle_steps"] = _grouped(max(1, (steps - warmup) // schedule.cycles))
    numbers["decay_steps"] = _grouped(int(schedule.decay_percent / 100 * steps))
    trained = (recipe.optim.te_lr or 0) > 0 or (recipe.optim.te2_lr or 0) > 0
    if 0 < recipe.optim.te_stop_percent < 100 and trained:
        numbers["te_stop_step"] = _grouped(math.ceil(steps * recipe.optim.te_stop_percent / 100))
    return numbers


def warmup_of(recipe: Any, steps: int) -> int | None:
    """Steps of the warmup; None where the recipe does not say."""
    schedule = recipe.schedule
    if schedule.warmup_steps is not None:
        return min(steps, int(schedule.warmup_steps))
    if schedule.warmup_percent is None:
        return None
    return int(schedule.warmup_percent / 100 * steps)


def _objective(recipe: Any) -> dict[str, str]:
    first, last = recipe.objective.min_timestep, recipe.objective.max_timestep
    return {"timesteps": _grouped(max(1, last - first))}


def _shown(path: str, value: Any) -> str:
    if path == "data.resolution":
        return "×".join(str(side) for side in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    row = setting(path)
    if row is not None and row.kind in ("choice", "text"):
        return str(value)
    return value_text(_short(value) if isinstance(value, float) else value)


def products(known: Mapping[str, str]) -> dict[str, str]:
    """What follows from other numbers, where these are plain numbers."""
    value = {name: _number(text) for name, text in known.items()}

    def product(first: str, second: str) -> str:
        one, two = value.get(first), value.get(second)
        return number_text(_short(one * two)) if one is not None and two is not None else ""

    return {
        "exposures": product("repeats", "epochs"),
        "effective_batch": product("batch_size", "accumulation"),
    }


def _number(text: str) -> float | None:
    try:
        return float(text.replace(" ", ""))
    except ValueError:
        return None


def _short(value: float) -> float:
    """Three significant figures."""
    return float(f"{value:.3g}") if abs(value) < 1000 else float(round(value))


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")
