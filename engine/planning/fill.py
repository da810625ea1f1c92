"""Fills every default that depends on the machine or on other answers, once, with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from engine.hardware import Device, choose_device
from engine.inert import without_controls
from engine.models.recognise import FAMILY_TITLES
from engine.planning import proposals
from engine.planning.base import base_size
from engine.planning.facts import Facts
from engine.planning.family import clip_skip, told_by_base
from engine.planning.fill_network import fill_network, fill_start
from engine.planning.fill_optim import fill_optim
from engine.planning.filler import Filler, Origin
from engine.planning.rules import trains_text
from engine.runs import default_runs_folder
from engine.settings import Recipe

MOST_LOADERS = 4
LONGEST_SIDE = 1024
"""Longest bucket side where the family has no other."""
LONGEST_SIDES = {"sdxl": 2048}


@dataclass(frozen=True, slots=True)
class Filled:
    """A recipe without blanks that matter, and where each value came from."""

    recipe: Recipe
    origins: dict[str, Origin]
    device: Device


def fill(recipe: Recipe, facts: Facts, given: Mapping[str, Origin] | None = None) -> Filled:
    """The recipe with every blank filled that depends on machine or answers. Pure: same in, same out.

    `given` tells where values that were set came from (a preset, you); without it they are yours.
    """
    device = choose_device(recipe.train.device, facts.hardware)
    filler = Filler(recipe, facts, device, base_size(facts.model), given)
    for step in STEPS:
        step(filler)
    filled = filler.recipe
    origins = {}
    before = setting_paths(recipe)
    for path in setting_paths(filled):
        if path in filler.origins:
            origins[path] = filler.origins[path]
        elif before.get(path, False):
            origins[path] = (given or {}).get(path, Origin("you"))
        else:
            origins[path] = Origin("default")
    return Filled(filled, origins, device)


def setting_paths(recipe: Recipe) -> dict[str, bool]:
    """Dotted path of every setting of this recipe, and whether it was set."""
    paths: dict[str, bool] = {}
    for name in type(recipe).model_fields:
        section = getattr(recipe, name)
        if name == "version":
            continue
        for key in type(section).model_fields:
            paths[f"{name}.{key}"] = key in section.model_fields_set
    return paths


def _model(filler: Filler) -> None:
    model = filler.recipe.model
    for answer in told_by_base(filler.facts.model, model):
        filler.put(answer.path, answer.value, "detected", answer.reason)
    facts = filler.facts.model
    if (
        facts is not None
        and facts.zero_terminal_snr
        and filler.unset("objective.zero_terminal_snr")
    ):
        reason = "the base says that it was trained so"
        filler.put("objective.zero_terminal_snr", True, "detected", reason)
    usual = clip_skip(filler.base.family, model.prompt_style)
    filler.fill(usual.path, usual.value, "default", usual.reason)


def _resolution(filler: Filler) -> None:
    side = filler.base.resolution
    small = proposals.propose_side(filler.device, filler.base.family)
    if small is not None and int(small.value) < side:
        filler.fill("data.resolution", (small.value,) * 2, "detected", small.reason)
    filler.fill("data.resolution", (side, side), "detected", f"the base was made for {side} px")
    sides = filler.recipe.data.resolution or (side, side)
    _longest_side(filler, max(*sides, *filler.recipe.data.more_resolutions))
    _small_base(filler, min(filler.recipe.data.resolution or (side, side)))


def _longest_side(filler: Filler, longest: int) -> None:
    """The family's usual limit of bucket sides, raised only where the resolution does not fit."""
    usual, step = (
        LONGEST_SIDES.get(filler.base.family, LONGEST_SIDE),
        filler.recipe.data.bucket_step,
    )
    if longest <= usual:
        reason = f"usual on {FAMILY_TITLES[filler.base.family]}"
        filler.fill("data.bucket_max", usual, "default", reason)
    else:
        most = -(-longest // step) * step
        filler.fill("data.bucket_max", most, "default", "the longest side of the resolution")


def _small_base(filler: Filler, side: int) -> None:
    """A base for small pictures needs buckets below the usual 256 px."""
    smallest = max(8, side // 2)
    if side > 256 or filler.recipe.data.bucket_min <= smallest:
        return
    if filler.usual("data.bucket_min"):
        reason = f"half of {side} px, since the usual 256 leaves no bucket"
        filler.put("data.bucket_min", smallest, "detected", reason)
    step = max(8, side // 4 // 8 * 8)
    if filler.usual("data.bucket_step") and filler.recipe.data.bucket_step > step:
        filler.put("data.bucket_step", step, "detected", f"a quarter of {side} px")


def _train(filler: Filler) -> None:
    device, base, train = filler.device, filler.base, filler.recipe.train
    if train.network_precision == "fp16":
        # Its gradients need the loss scaler, which belongs to fp16.
        filler.fill("train.precision", "fp16", "default", "as train.network_precision")
    filler.propose("train.precision", proposals.propose_precision(device))
    batch = proposals.propose_batch(
        device,
        family=base.family,
        pixels=filler.pixels,
        parameters=base.unet_parameters,
        checkpointing=train.checkpointing,
    )
    survey = filler.facts.survey
    pictures = sum(not item.is_reg for item in survey.items) if survey is not None else 0
    if 0 < pictures < int(batch.value):
        batch = proposals.Proposal(pictures, f"there are only {pictures} pictures")
    filler.propose("train.batch_size", batch)
    checkpointing = proposals.propose_checkpointing(
        device,
        family=base.family,
        pixels=filler.pixels,
        parameters=base.unet_parameters,
        batch=filler.recipe.train.batch_size or 1,
        ram_free=filler.facts.hardware.ram_free,
    )
    filler.propose("train.checkpointing", checkpointing)
    filler.fill("train.seed", filler.facts.drawn_seed, "drawn", "blank, so one was drawn")
    cores = filler.facts.hardware.cores
    filler.fill("train.threads", cores, "detected", f"{cores} CPU cores may be used")


def _data(filler: Filler) -> None:
    data = filler.recipe.data
    changing = data.shuffle_tags or data.tag_dropout > 0
    if not changing:
        filler.fill("data.keep_tokens", 0, "default", "tags are neither shuffled nor dropped")
    elif data.trigger and data.class_word:
        filler.fill("data.keep_tokens", 2, "default", "trigger and class lead and stay in place")
    else:
        filler.fill("data.keep_tokens", 1, "default", "the first tag leads and stays in place")
    if trains_text(filler.recipe):
        filler.fill("data.cache_text", False, "default", "the text encoder is trained")
    elif changing:
        filler.fill("data.cache_text", False, "default", "captions change from draw to draw")
    else:
        filler.fill("data.cache_text", True, "default", "the text encoder is not trained")
    cores = filler.facts.hardware.cores
    workers = max(0, min(MOST_LOADERS, cores - 1))
    filler.fill("data.workers", workers, "detected", f"{cores} CPU cores")


def _sample(filler: Filler) -> None:
    sample, data = filler.recipe.sample, filler.recipe.data
    width, height = data.resolution or (filler.base.resolution,) * 2
    filler.fill("sample.width", max(64, width // 8 * 8), "default", "as trained")
    filler.fill("sample.height", max(64, height // 8 * 8), "default", "as trained")
    filler.fill("sample.seed", filler.recipe.train.seed, "default", "the seed of the run")
    subject = " ".join(word for word in (data.trigger, data.class_word) if word)
    own = sample.prompts or sample.prompts_file is not None
    if not own and filler.unset("sample.prompts") and subject:
        natural = filler.recipe.model.prompt_style == "natural"
        other = f"a photo of {subject}" if natural else f"{subject}, simple background"
        if data.class_word == "style":
            other = f"a house in {subject}"
        filler.put("sample.prompts", (subject, other), "default", "from trigger and class")


def _run(filler: Filler) -> None:
    filler.fill("run.folder", default_runs_folder(), "default", "the usual place")
    stem = safe_name(filler.recipe.data.trigger or filler.recipe.data.class_word or "run")
    number = 1
    while f"{stem}_v{number}" in filler.facts.taken_names:
        number += 1
    reason = "the trigger and a free number" if filler.recipe.data.trigger else "a free number"
    filler.fill("run.name", f"{stem}_v{number}", "default", reason)


def safe_name(text: str) -> str:
    """`text` as a file name: no separators, controls, marks that turn the text, or leading dots."""
    name = re.sub(r"[/\\:*?\"<>|\s]+", "_", without_controls(text).replace("?", "_")).strip("._")
    return name[:60] or "run"


STEPS = (
    _model,
    _resolution,
    fill_start,
    fill_network,
    fill_optim,
    _train,
    _data,
    _sample,
    _run,
)
"""In this order: later ones look at what earlier ones put."""
