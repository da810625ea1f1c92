"""Fills every default that depends on the machine or on other answers, once, with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import ValidationError

from engine.errors import NetworkFileError, RecipeError
from engine.hardware import Device, choose_device
from engine.networks.presets import Preset, preset_of
from engine.planning import proposals
from engine.planning.base import BaseSize, base_size
from engine.planning.facts import Facts
from engine.planning.family import TEXT_UNTRAINED, clip_skip, told_by_base
from engine.planning.rules import layer_choice, trains_text
from engine.planning.start import COMPARED, start_content, start_options, start_values
from engine.runs import default_runs_folder
from engine.settings import Recipe
from engine.settings.arguments import relative_step, shown_defaults
from engine.settings.network import asked
from engine.settings.optimizers import ADAPTIVE, SCHEDULE_FREE, optimizer_title

Source = Literal["you", "preset", "detected", "default", "drawn"]
MOST_LOADERS = 4


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from, and why it is what it is."""

    source: Source
    reason: str = ""

    def to_dict(self) -> dict[str, str]:
        """As JSON."""
        return asdict(self)


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
    filler = _Filler(recipe, facts, device, base_size(facts.model), given)
    for step in (_model, _resolution, _start, _network, _optim, _train, _data, _sample, _run):
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


class _Filler:
    """Collects filled values and their origins."""

    def __init__(
        self,
        recipe: Recipe,
        facts: Facts,
        device: Device,
        base: BaseSize,
        given: Mapping[str, Origin] | None = None,
    ) -> None:
        self.given = given
        self.recipe = recipe
        self.facts = facts
        self.device = device
        self.base = base
        self.origins: dict[str, Origin] = {}

    def blank(self, path: str) -> bool:
        """Whether the setting has no value."""
        section, key = path.split(".")
        return getattr(getattr(self.recipe, section), key) is None

    def unset(self, path: str) -> bool:
        """Whether nobody chose the setting's value."""
        section, key = path.split(".")
        return key not in getattr(self.recipe, section).model_fields_set

    def known(self, path: str) -> bool:
        """Whether the section has such a setting at all: not every algorithm has a rank."""
        section, _, key = path.partition(".")
        return key in type(getattr(self.recipe, section)).model_fields

    def typed(self, path: str) -> bool:
        """Whether the user gave the setting's value, rather than a preset or nobody."""
        if self.unset(path) or self.blank(path):
            return False
        if self.given is None:
            return True
        return path in self.given and self.given[path].source == "you"

    def usual(self, path: str) -> bool:
        """Whether the setting has its declared default, as it also has in a recipe written out."""
        section_name, key = path.split(".")
        section = getattr(self.recipe, section_name)
        return bool(getattr(section, key) == type(section).model_fields[key].default)

    def put(self, path: str, value: Any, source: Source, reason: str) -> None:
        """Set a value and remember why."""
        section_name, key = path.split(".")
        section = getattr(self.recipe, section_name).model_copy(update={key: value})
        self.recipe = self.recipe.model_copy(update={section_name: section})
        self.origins[path] = Origin(source, reason)

    def fill(self, path: str, value: Any, source: Source, reason: str) -> None:
        """Set a value where there is none."""
        if self.blank(path):
            self.put(path, value, source, reason)

    def propose(self, path: str, proposal: proposals.Proposal) -> None:
        """Set a value detected from the machine where there is none."""
        self.fill(path, proposal.value, "detected", proposal.reason)

    @property
    def pixels(self) -> int:
        """Area budget of a picture."""
        width, height = self.recipe.data.resolution or (self.base.resolution,) * 2
        return width * height

    @property
    def adaptive(self) -> bool:
        """Whether the optimizer finds the rate itself."""
        return self.recipe.optim.optimizer in ADAPTIVE


def _model(filler: _Filler) -> None:
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


def _resolution(filler: _Filler) -> None:
    side = filler.base.resolution
    small = proposals.propose_side(filler.device, filler.base.family)
    if small is not None and int(small.value) < side:
        filler.fill("data.resolution", (small.value,) * 2, "detected", small.reason)
    filler.fill("data.resolution", (side, side), "detected", f"the base was made for {side} px")
    sides = filler.recipe.data.resolution or (side, side)
    most = max(1024, 2 * max(*sides, *filler.recipe.data.more_resolutions))
    filler.fill("data.bucket_max", most, "default", "twice the resolution, and at least 1024")
    _small_base(filler, min(filler.recipe.data.resolution or (side, side)))


def _small_base(filler: _Filler, side: int) -> None:
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


def _start(filler: _Filler) -> None:
    """A run that starts from a network file has that file's network, unless the user says otherwise."""
    weights = filler.recipe.network.weights
    if weights is None:
        return
    chosen = filler.recipe.network.algorithm if filler.typed("network.algorithm") else None
    try:
        content = start_content(weights)
        values = start_values(content, chosen) | start_options(content, chosen)
    except NetworkFileError:
        return  # the plan says what is wrong with the file
    wanted = values.pop("algorithm", None)
    if wanted is None:
        return
    if chosen is None:
        _become(filler, wanted)
    if chosen is None and filler.recipe.network.algorithm == wanted:
        filler.put("network.algorithm", wanted, "detected", f"as in {weights.name}")
    if filler.recipe.network.overrides and not filler.unset("network.targets"):
        values.pop("targets", None)  # the overrides were written for that choice of layers
    fields = type(filler.recipe.network).model_fields
    for key in COMPARED:
        # What a preset says of a network's form goes with the network that it was said of.
        path = f"network.{key}"
        if key in ("algorithm", *values) or not filler.known(path) or filler.unset(path):
            continue
        if not filler.typed(path):
            filler.put(path, fields[key].default, "default", "")
    for key, value in values.items():
        # A value that the other algorithm lacks is one the user contradicts: the plan refuses it.
        if key == "rank" and value == "full" and filler.recipe.network.algorithm != "lokr":
            continue
        if filler.known(f"network.{key}") and not filler.typed(f"network.{key}"):
            filler.put(f"network.{key}", value, "detected", f"as in {weights.name}")


def _become(filler: _Filler, algorithm: str) -> None:
    """Change the algorithm; settings that the new one lacks go, and so do the old sizes."""
    network = filler.recipe.network
    if algorithm == network.algorithm:
        return
    bare = Recipe.model_validate({"network": {"algorithm": algorithm}}).network
    kept = {
        key: getattr(network, key)
        for key in network.model_fields_set & set(type(bare).model_fields)
        if key not in ("algorithm", "rank", "alpha") or filler.typed(f"network.{key}")
    }
    values = {**kept, "algorithm": algorithm}
    try:
        changed = Recipe.model_validate({"network": values}).network
    except ValidationError:
        return  # a typed value that the file's algorithm cannot have: the plan refuses the mix
    filler.recipe = filler.recipe.model_copy(update={"network": changed})


RANKS = {
    "loha": (16, "guide 003; two pairs of rank 16 reach rank 256 together"),
    "glora": (16, "two pairs of it are as large as a LoRA of rank 32"),
    "diag-oft": (32, "blocks of up to 32 outputs"),
    "boft": (32, "blocks of up to 32 outputs; every width of these models can be cut so"),
}
"""Usual rank where it is not that of a LoRA, and why."""


def _network(filler: _Filler) -> None:
    algorithm = filler.recipe.network.algorithm
    if algorithm == "locon" and filler.unset("network.targets"):
        reason = "LoCon adds convolutions; without them it is plain LoRA"
        filler.put("network.targets", "full", "default", reason)
    if algorithm == "ia3" and filler.unset("network.targets"):
        reason = "keys, values and the middle of the feed-forward, as its paper has it"
        filler.put("network.targets", "ia3", "default", reason)
    if not filler.known("network.rank"):
        return
    if algorithm == "lokr":
        filler.fill("network.rank", "full", "default", "guide 003 trains LoKr with full factors")
    else:
        small = proposals.largest_rank(filler.device, filler.base.family)
        rank, why = RANKS.get(algorithm, (32, "guides 002 and 004 start with it"))
        if small is not None and int(small.value) < rank:
            filler.propose("network.rank", small)
        filler.fill("network.rank", rank, "default", why)
    _scale(filler)


def _scale(filler: _Filler) -> None:
    """Alpha, and rank and alpha of convolutions, as far as the algorithm has them."""
    rank = asked(filler.recipe.network, "rank")
    if not filler.known("network.alpha"):
        filler.fill("network.conv_rank", min(rank, 1024), "default", "as the rank")
        return
    # The optimizer is filled later, but only a chosen one can be adaptive.
    if not isinstance(rank, int):
        filler.fill("network.alpha", 1.0, "default", "no effect where both factors are full")
        return
    if filler.adaptive:
        filler.fill("network.alpha", float(rank), "default", "the rank, for adaptive optimizers")
    else:
        filler.fill("network.alpha", rank / 2, "default", "half of the rank (guides 000 and 002)")
    alpha = asked(filler.recipe.network, "alpha")
    filler.fill("network.conv_rank", min(rank, 1024), "default", "as the rank")
    filler.fill("network.conv_alpha", alpha, "default", "as the alpha")


def _optim(filler: _Filler) -> None:
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


def _schedule(filler: _Filler, title: str) -> None:
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


def _train(filler: _Filler) -> None:
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


def _data(filler: _Filler) -> None:
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


def _sample(filler: _Filler) -> None:
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


def _run(filler: _Filler) -> None:
    filler.fill("run.folder", default_runs_folder(), "default", "the usual place")
    stem = safe_name(filler.recipe.data.trigger or filler.recipe.data.class_word or "run")
    number = 1
    while f"{stem}_v{number}" in filler.facts.taken_names:
        number += 1
    reason = "the trigger and a free number" if filler.recipe.data.trigger else "a free number"
    filler.fill("run.name", f"{stem}_v{number}", "default", reason)


def safe_name(text: str) -> str:
    """`text` as a file name: no separators, controls or leading dots."""
    name = re.sub(r"[/\\:*?\"<>|\x00-\x1f\x7f\s]+", "_", text).strip("._")
    return name[:60] or "run"
