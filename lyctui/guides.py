"""What a setting does, what the guides say about it, and this run's numbers.

The texts are data: `presets/guides/<section>.md`, a heading `## section.key` for each setting. A last
paragraph that begins with "Here: " holds placeholders for numbers of the run; of it only those
sentences are shown whose numbers are known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import Problem, UsageError
from engine.settings.names import find_setting, nearest_key
from engine.settings.network import asked
from engine.settings.walk import (
    Setting,
    algorithms,
    number_text,
    sections,
    setting,
    settings,
    value_text,
)
from presets import GUIDES_PATH

if TYPE_CHECKING:
    from engine.plan import Plan

HERE = "Here: "

PLACEHOLDERS: dict[str, str] = {
    # Settings: the placeholder and the dotted path whose value it shows.
    "accumulation": "train.accumulation",
    "algorithm": "network.algorithm",
    "alpha": "network.alpha",
    "batch_size": "train.batch_size",
    "bucket_max": "data.bucket_max",
    "bucket_min": "data.bucket_min",
    "bucket_step": "data.bucket_step",
    "cache_latents": "data.cache_latents",
    "caption_dropout": "data.caption_dropout",
    "checkpointing": "train.checkpointing",
    "class_word": "data.class_word",
    "clip_skip": "model.clip_skip",
    "block_size": "network.block_size",
    "constraint": "network.constraint",
    "conv_alpha": "network.conv_alpha",
    "conv_rank": "network.conv_rank",
    "cycles": "schedule.cycles",
    "epochs": "train.epochs",
    "dora": "network.dora",
    "factor": "network.factor",
    "keep_tokens": "data.keep_tokens",
    "lr": "optim.lr",
    "max_grad_norm": "optim.max_grad_norm",
    "max_norm": "network.max_norm",
    "min_rank": "network.min_rank",
    "min_snr_gamma": "objective.min_snr_gamma",
    "name": "run.name",
    "optimizer": "optim.optimizer",
    "precision": "train.precision",
    "prior_loss_weight": "objective.prior_loss_weight",
    "prompt_style": "model.prompt_style",
    "rank": "network.rank",
    "reg_ratio": "data.reg_ratio",
    "repeats": "data.repeats",
    "resolution": "data.resolution",
    "save_every": "save.every_epochs",
    "save_precision": "save.precision",
    "scheduler": "schedule.scheduler",
    "seed": "train.seed",
    "shuffle_tags": "data.shuffle_tags",
    "state_minutes": "save.state_minutes",
    "targets": "network.targets",
    "train_norm": "network.train_norm",
    "te_lr": "optim.te_lr",
    "trigger": "data.trigger",
    "unet_lr": "optim.unet_lr",
    "warmup_percent": "schedule.warmup_percent",
    "weight_decay": "optim.weight_decay",
}
COMPUTED: dict[str, str] = {
    # Numbers that are computed from several settings or from the pictures, and what they are.
    "captioned": "training pictures that have a caption file",
    "effective_batch": "batch size x accumulation",
    "effective_lr": "learning rate of the U-Net x scale",
    "effective_te_lr": "learning rate of the text encoder x scale",
    "exposures": "repeats x epochs: how often each picture is seen",
    "file_size": "size of one network file",
    "images": "training pictures",
    "reg_images": "regularisation pictures",
    "reg_samples": "regularisation samples of one epoch",
    "samples": "samples of one epoch, regularisation included",
    "scale": "alpha / rank (alpha / sqrt(rank) when rank-stabilised)",
    "steps": "steps of the run",
    "warmup_steps": "steps of the warmup",
}


@dataclass(frozen=True, slots=True)
class GuideText:
    """The explanation of one setting."""

    path: str
    text: str
    """Paragraphs, separated by empty lines."""
    here: str = ""
    """Sentences with placeholders, without the leading "Here: "."""


# explaining -----------------------------------------------------------------------------------


def explain(name: str, numbers: Mapping[str, str] | None = None) -> str:
    """The guide text of a setting, with this run's numbers where they are known.

    `name` is a path, a bare key or a near name ("batch size"); `numbers` come from `run_numbers`.
    Empty for a setting that has no text. Raises UsageError for an unknown name.
    """
    guide = guides().get(find(name).path)
    if guide is None:
        return ""
    here = filled(guide.here, numbers or {})
    return f"{guide.text}\n\n{HERE}{here}" if here else guide.text


def explained(name: str, numbers: Mapping[str, str] | None = None) -> str:
    """Everything about a setting: name, help, type, default, then its guide text.

    The name of a section gives a list of its settings.
    """
    if name.strip().strip("[]") in sections():
        return _section_list(name.strip().strip("[]"))
    row = find(name)
    lines = [f"{row.path} · {row.label}", row.help, "", f"Type: {row.type}."]
    lines.append(f"Default: {row.default_text}.")
    if row.algorithms and len(row.algorithms) < len(algorithms()):
        lines.append(f"Only for {', '.join(row.algorithms)}.")
    text = explain(row.path, numbers)
    if text:
        lines += ["", text]
    if row.path in RELATED:
        lines += ["", f"See also: {', '.join(RELATED[row.path])}"]
    return "\n".join(lines)


def _section_list(name: str) -> str:
    rows = [row for row in settings() if row.section == name]
    return "\n".join([sections()[name], "", *(f"{row.path}: {row.help}" for row in rows)])


RELATED = {
    "data.captions": ("data.trigger", "data.keep_tokens", "data.shuffle_tags"),
    "data.keep_tokens": ("data.shuffle_tags", "data.tag_dropout", "data.captions"),
    "data.reg_folder": ("data.reg_ratio", "objective.prior_loss_weight"),
    "data.repeats": ("train.epochs",),
    "network.alpha": ("network.rank", "optim.lr"),
    "network.rank": ("network.alpha", "network.algorithm"),
    "objective.prior_loss_weight": ("data.reg_folder", "data.reg_ratio"),
    "optim.lr": ("optim.te_lr", "network.alpha", "train.batch_size"),
    "train.batch_size": ("train.accumulation", "train.checkpointing", "optim.lr"),
    "train.epochs": ("data.repeats", "save.every_epochs"),
}


def find(name: str) -> Setting:
    """The setting that a name means; raises UsageError with the nearest one."""
    row = find_setting(name)
    if row is not None:
        return row
    near = nearest_key(name)
    remedy = f"Did you mean {near}?" if near else "`lyctui explain` lists every setting."
    raise UsageError(Problem(f'There is no setting "{name}".', remedy=remedy, path=name))


def filled(template: str, numbers: Mapping[str, str]) -> str:
    """The sentences whose placeholders are all known, with their values."""
    known = _resolved(numbers)
    sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z{])", template)
    shown = []
    for sentence in sentences:
        needed = placeholders(sentence)
        if needed and all(known.get(name) for name in needed):
            shown.append(re.sub(r"\{(\w+)\}", lambda found: known[found[1]], sentence))
    return _singular(" ".join(shown))


def _singular(words: str) -> str:
    """ "1 repeats" as people say it."""
    return re.sub(
        r"(?<![\d.,] )(?<![\d.,])\b1 (repeat|epoch|time|step|picture|sample)s\b", r"1 \1", words
    )


def placeholders(template: str) -> set[str]:
    """Names in braces."""
    return set(re.findall(r"\{(\w+)\}", template))


def _resolved(numbers: Mapping[str, str]) -> dict[str, str]:
    """Numbers by placeholder; dotted paths are accepted too, and what follows from them is computed."""
    known = {
        name: str(numbers.get(name) or numbers.get(path) or "")
        for name, path in PLACEHOLDERS.items()
    }
    known |= {name: str(numbers.get(name, "")) for name in COMPUTED}
    for name, value in _products(known).items():
        known[name] = known.get(name) or value
    return known


def _products(known: Mapping[str, str]) -> dict[str, str]:
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


# this run's numbers ---------------------------------------------------------------------------


def run_numbers(plan: Plan) -> dict[str, str]:
    """Every placeholder's value for a planned run."""
    recipe = plan.recipe
    numbers = {}
    for name, path in PLACEHOLDERS.items():
        section, _, key = path.partition(".")
        value = getattr(getattr(recipe, section), key, None)
        if value is not None:
            numbers[name] = _shown(path, value)
    train = [each.item for each in plan.placed if not each.item.is_reg]
    repeats = {item.repeats for item in train}
    if len(repeats) > 1:
        numbers["repeats"] = f"{min(repeats)} to {max(repeats)}"
    elif repeats:
        numbers["repeats"] = str(repeats.pop())
    if plan.samples_per_epoch:
        numbers |= {
            "images": _grouped(plan.images),
            "samples": _grouped(plan.samples_per_epoch),
            "reg_samples": _grouped(plan.reg_samples_per_epoch),
            "reg_images": _grouped(sum(each.item.is_reg for each in plan.placed)),
            "steps": _grouped(plan.steps),
            "captioned": _grouped(_captioned(plan)),
        }
    if plan.sizes.file_bytes is not None:
        numbers["file_size"] = f"{plan.sizes.file_bytes / 1e6:.1f} MB"
    return numbers | _scales(recipe) | _warmup(recipe, plan.steps)


def _scales(recipe: Any) -> dict[str, str]:
    """Scale of the network and what it makes of the learning rates."""
    network, optim = recipe.network, recipe.optim
    rank, alpha = asked(network, "rank"), asked(network, "alpha")
    if not isinstance(rank, int) or alpha is None:
        return {}
    scale = (alpha or rank) / (rank**0.5 if asked(network, "rs_lora") else rank)
    numbers = {"scale": number_text(_short(scale))}
    for name, rate in (("effective_lr", optim.unet_lr), ("effective_te_lr", optim.te_lr)):
        if rate is not None:
            numbers[name] = number_text(_short(rate * scale))
    return numbers


def _warmup(recipe: Any, steps: int) -> dict[str, str]:
    warmup = recipe.schedule.warmup_steps
    if warmup is None and recipe.schedule.warmup_percent is not None:
        warmup = int(recipe.schedule.warmup_percent / 100 * steps)
    return {} if warmup is None or not steps else {"warmup_steps": _grouped(warmup)}


def _captioned(plan: Plan) -> int:
    return sum(not each.item.is_reg and each.item.has_caption for each in plan.placed)


def _shown(path: str, value: Any) -> str:
    if path == "data.resolution":
        return "×".join(str(side) for side in value)
    if isinstance(value, bool):
        return "on" if value else "off"
    row = setting(path)
    if row is not None and row.kind in ("choice", "text"):
        return str(value)
    return value_text(_short(value) if isinstance(value, float) else value)


def _short(value: float) -> float:
    """Three significant figures."""
    return float(f"{value:.3g}") if abs(value) < 1000 else float(round(value))


def _grouped(number: int) -> str:
    return f"{number:,}".replace(",", " ")


# the files ------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def guides() -> dict[str, GuideText]:
    """Every explanation by dotted path."""
    found: dict[str, GuideText] = {}
    for name in sections():
        path = GUIDES_PATH / f"{name}.md"
        if path.is_file():
            for guide in read_guides(path):
                found[guide.path] = guide
    return found


def read_guides(path: Path) -> list[GuideText]:
    """The explanations of one file, in its order."""
    parts = re.split(r"(?m)^## +(\S+) *$", path.read_text("utf-8"))
    return [_guide(name, body) for name, body in zip(parts[1::2], parts[2::2], strict=True)]


def _guide(name: str, body: str) -> GuideText:
    """Lines of a paragraph are joined: a screen breaks them where it wants."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", body) if part.strip()]
    here = ""
    if paragraphs and paragraphs[-1].startswith(HERE):
        here = paragraphs.pop().removeprefix(HERE)
    return GuideText(name, "\n\n".join(paragraphs), here)


def missing_texts() -> list[str]:
    """Basic and advanced settings without an explanation."""
    return [row.path for row in settings() if row.level != "expert" and row.path not in guides()]
