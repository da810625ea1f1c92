"""Combinations that run and are seldom meant: each a sentence with its reason and a way out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from engine.errors import Problem
from engine.hardware import GIB
from engine.planning.doubts_of_noise import noise_doubts
from engine.planning.facts import Facts
from engine.planning.fill import Filled
from engine.planning.rules import trains_text
from engine.settings import Recipe
from engine.settings.arguments import read_arguments
from engine.settings.optimizers import SCHEDULE_FREE, optimizer_title
from engine.settings.refusals import loss_problems
from engine.settings.walk import number_text

FEW_PICTURES = 15
"""Guide 001: below 15 pictures every one is needed."""
LARGE_RATIO = 32.0
"""Twice what the paper of LoRA+ found best."""
TEXT_ENCODER_GIB = 14
"""What a card of 16 GB has free: from there on SDXL's text encoders may be trained."""
SIDED = frozenset(
    {
        "person", "man", "woman", "boy", "girl", "lady", "guy", "face", "portrait", "character",
        "emblem", "logo", "sign", "text", "lettering", "letters", "flag", "map", "clock",
    }
)  # fmt: skip
"""Class words of what has a left and a right: a parting, a scar, an inscription, a dial."""
SIDED_PRESETS = frozenset({"character", "person", "photo-locon"})
OWN_FIELDS = {name: f"optim.{name}" for name in ("weight_decay", "betas", "eps", "d_coef")}
"""Arguments of an optimizer that have a field of their own."""


@dataclass(frozen=True, slots=True)
class Doubted:
    """What the doubts look at."""

    recipe: Recipe
    facts: Facts
    filled: Filled
    given: frozenset[str]
    """Paths that a person or a preset has set."""
    pictures: int
    steps: int

    @property
    def family(self) -> str:
        """Family of the base; empty while it is not known."""
        return self.facts.model.family or "" if self.facts.model is not None else ""

    @property
    def prediction(self) -> str:
        """ "epsilon", "v", or empty while it is not known."""
        return prediction_of(self.recipe, self.facts)


def prediction_of(recipe: Recipe, facts: Facts) -> str:
    """What the base predicts, as chosen or as detected: "epsilon", "v", or empty."""
    if recipe.model.prediction != "auto":
        return recipe.model.prediction
    return (facts.model.prediction or "") if facts.model is not None else ""


def prediction_problems(recipe: Recipe, facts: Facts) -> tuple[Problem, ...]:
    """Loss weights that belong to another prediction type than the base's."""
    return tuple(loss_problems(recipe, prediction_of(recipe, facts)))


def doubts(filled: Filled, facts: Facts, given: Iterable[str], *, steps: int) -> list[str]:
    """Every doubt about a filled recipe; `steps` is 0 while it is not known."""
    items = facts.survey.items if facts.survey is not None else ()
    pictures = sum(not item.is_reg and item.repeats > 0 for item in items)
    doubted = Doubted(filled.recipe, facts, filled, frozenset(given), pictures, steps)
    return [
        words
        for find in (
            _noise, _text, _encoded_anew, _parts, _mirrored, _pictures, _averages, _precision,
            _optimizer,
        )
        for words in find(doubted)
    ]  # fmt: skip


def _noise(doubted: Doubted) -> list[str]:
    recipe, model = doubted.recipe, doubted.facts.model
    said = noise_doubts(recipe.objective, doubted.prediction, recipe.data.resolution)
    if model is not None and model.zero_terminal_snr and not recipe.objective.zero_terminal_snr:
        said.append(
            "The base says that it was trained with zero terminal SNR: switch"
            " objective.zero_terminal_snr on, as guide 001 advises for such bases."
        )
    return said


def _text(doubted: Doubted) -> list[str]:
    model, data = doubted.recipe.model, doubted.recipe.data
    said = []
    if model.max_tokens > 75:
        passes = model.max_tokens // 75
        often = "in every step" if trains_text(doubted.recipe) else "once"
        said.append(
            f"model.max_tokens {model.max_tokens}: every caption takes {passes} passes of the text"
            f" encoder, {often}, and {passes} times the memory. It only helps captions that are"
            " longer than 75 tokens."
        )
    if doubted.family == "sdxl" and "model.clip_skip" in doubted.given and model.clip_skip != 1:
        said.append(
            f"model.clip_skip {model.clip_skip} has no effect: SDXL always reads the last but one"
            " layer of both text encoders."
        )
    if doubted.family == "sd2" and (model.clip_skip or 1) > 1:
        said.append(
            f"model.clip_skip {model.clip_skip} on Stable Diffusion 2 skips once more than the base"
            " itself does, which it was not trained for: 1 is meant."
        )
    changing = _changing(doubted.recipe)
    if data.cache_text and changing:
        said.append(
            f"{changing} gives captions many forms: the text cache keeps them only where a caption"
            " has few, else captions are encoded in each step."
        )
    if data.keep_separator and (data.keep_tokens or 0) > 0 and "data.keep_tokens" in doubted.given:
        said.append(
            f"data.keep_separator wins over data.keep_tokens {data.keep_tokens}, which only counts"
            " in captions without it."
        )
    return said


def _encoded_anew(doubted: Doubted) -> list[str]:
    data = doubted.recipe.data
    if data.cache_latents == "off":
        return []
    named = [f"data.{key}" for key in ("colour", "random_crop") if getattr(data, key)]
    if not named:
        return []
    return [
        f"{' and '.join(named)} {'give' if len(named) > 1 else 'gives'} other pictures at each draw:"
        " the latent cache is switched off, and every step encodes its pictures anew, some 60 %"
        " more time."
    ]


def _changing(recipe: Recipe) -> str:
    data = recipe.data
    active = {
        "data.wildcards": data.wildcards,
        "data.shuffle_tags": data.shuffle_tags,
        "data.tag_dropout": data.tag_dropout > 0,
    }
    return next((name for name, on in active.items() if on), "")


def _parts(doubted: Doubted) -> list[str]:
    recipe = doubted.recipe
    trained = trains_text(recipe)
    said = []
    if recipe.optim.te_stop_percent > 0 and not trained:
        said.append(
            f"optim.te_stop_percent {number_text(recipe.optim.te_stop_percent)} has no effect: no"
            " text encoder is trained."
        )
    if doubted.family and doubted.family != "sdxl" and "optim.te2_lr" in doubted.given:
        said.append("optim.te2_lr has no effect: this base has one text encoder.")
    gpu = doubted.filled.device.gpu
    if (
        doubted.family == "sdxl"
        and trained
        and gpu is not None
        and gpu.free < TEXT_ENCODER_GIB * GIB
    ):
        said.append(
            f"The text encoders of SDXL are trained with {gpu.free / GIB:.1f} GiB free: cards below"
            " 16 GB seldom hold that beyond batch 1. Set optim.te_lr to 0; its"
            " encoders know most words, and captions can then be cached."
        )
    return said


def _mirrored(doubted: Doubted) -> list[str]:
    data = doubted.recipe.data
    mirrored = [folder for folder in data.folders if folder.flip]
    if not data.flip and not mirrored:
        return []
    texts = [data.class_word] if data.flip else []
    texts += [folder.text or data.class_word for folder in mirrored]
    words = set(re.findall(r"[a-z]+", " ".join(texts).lower()))
    sided = sorted(words & SIDED)
    preset = {
        origin.reason for origin in doubted.filled.origins.values() if origin.source == "preset"
    }
    if not sided and not preset & SIDED_PRESETS:
        return []
    about = f'"{sided[0]}"' if sided else "such a subject"
    return [
        f"data.flip mirrors half of the draws, and {about} has a left and a right (a parting, a"
        " scar, lettering): the network learns both mixed up. Guide 001 warns of it; leave it off"
        " unless the subject is symmetrical."
    ]


def _pictures(doubted: Doubted) -> list[str]:
    recipe, pictures = doubted.recipe, doubted.pictures
    if pictures == 0:
        return []
    said = []
    if recipe.data.validation > 0 and pictures < FEW_PICTURES:
        said.append(
            f"data.validation holds pictures out of only {pictures}: a rough measure, paid for with"
            f" pictures that are not learnt. Below {FEW_PICTURES} leave it at 0."
        )
    measured = recipe.train.validate_every_epochs or recipe.train.validate_every_steps
    if recipe.data.validation > 0 and not measured:
        said.append(
            "data.validation holds pictures out that nothing ever measures:"
            " train.validate_every_epochs and train.validate_every_steps are 0. Set one of them, or"
            " data.validation to 0."
        )
    batch = recipe.train.batch_size or 1
    if batch > pictures:
        said.append(
            f"train.batch_size {batch} is more than there are pictures, {pictures}: a batch then"
            " holds repeats of the same ones, or stays partly empty."
        )
    reg = recipe.data.reg_folder is not None
    if reg and recipe.objective.prior_loss_weight == 0:
        said.append(
            "objective.prior_loss_weight 0: regularisation pictures cost steps and teach nothing."
            " Leave data.reg_folder out instead."
        )
    if reg and recipe.data.reg_ratio == 0:
        said.append("data.reg_ratio 0: no regularisation picture is used.")
    return said


def _averages(doubted: Doubted) -> list[str]:
    decay, optimizer = doubted.recipe.train.ema_decay, doubted.recipe.optim.optimizer or ""
    if decay == 0:
        return []
    said = []
    # Early on the average is short, (1 + k) / (10 + k), or it would hold the untrained start.
    in_force = math.ceil((10 * decay - 1) / (1 - decay))
    if optimizer not in SCHEDULE_FREE and 0 < doubted.steps < in_force:
        span = round((10 + doubted.steps) / 9)
        said.append(
            f"train.ema_decay {number_text(decay)} comes into force at step {in_force}, after this"
            f" run of {doubted.steps}: until then a shorter average is kept, over about {span} steps"
            " in the end."
        )
    if optimizer in SCHEDULE_FREE:
        title = optimizer_title(optimizer)
        said.append(
            f"train.ema_decay {number_text(decay)} has no effect: {title} averages by itself."
        )
    return said


def _precision(doubted: Doubted) -> list[str]:
    if doubted.recipe.train.network_precision != "fp16":
        return []
    return [
        "train.network_precision fp16: small gradients vanish and large ones overflow, which only"
        " the loss scaler catches. bf16 with rounding at random loses nothing on average; fp32"
        " costs little."
    ]


def _optimizer(doubted: Doubted) -> list[str]:
    optim = doubted.recipe.optim
    said = []
    for name in read_arguments(optim.optimizer, optim.arguments).values:
        path = OWN_FIELDS.get(name, "")
        if path in doubted.given:
            said.append(f"{name} in optim.arguments wins over {path}: give it once.")
    ratio = optim.loraplus_ratio or 0.0
    if ratio > LARGE_RATIO:
        up = number_text(float(f"{(optim.lr or 0.0) * ratio:.3g}"))
        said.append(
            f"optim.loraplus_ratio {number_text(ratio)} lets the up factors learn at {up}: its paper"
            " uses about 16, pictures want 4 to 16."
        )
    return said
