"""What a run will do, before it starts: exact steps and buckets, exact file size, estimated memory.

No torch: the wizard's arithmetic line, `lyctui plan` and the start of `train` all stand on this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.data.buckets import Placement, settle
from engine.data.findings import Finding, error_of
from engine.data.order import BucketRow, Order
from engine.data.placing import Place, check_places
from engine.data.survey import Item, survey
from engine.errors import EngineError, ModelError, Problem, RecipeError
from engine.hardware import Device, Hardware, read_hardware
from engine.models.attention import attention_problems
from engine.models.detect import ModelFacts, inspect_model, settle_choice
from engine.models.vae_facts import vae_problems
from engine.networks.consumers import TITLES, Consumer, Verdict
from engine.planning.disk import check_disks, disk_at
from engine.planning.doubts import prediction_problems
from engine.planning.facts import Facts
from engine.planning.family import how_told, prediction_notice
from engine.planning.fill import Filled, fill, setting_paths
from engine.planning.filler import Origin
from engine.planning.leaving import leaving
from engine.planning.lengths import with_cut_captions
from engine.planning.memory import MemoryEstimate
from engine.planning.notices import notices_of
from engine.planning.rules import (
    bucket_rules,
    cache_notices,
    cut_steps,
    order_of,
    resolutions,
    split_of,
    survey_rules,
)
from engine.planning.sizes import RunSizes, run_sizes
from engine.planning.start import start_problems
from engine.prompt_files import all_prompts
from engine.runs import default_runs_folder
from engine.settings import Recipe
from engine.settings.rules import text_cache_problems

__all__ = [
    "Facts",
    "Filled",
    "Origin",
    "Placed",
    "Plan",
    "arithmetic_line",
    "fill",
    "gather",
    "plan",
    "plan_filled",
    "setting_paths",
]

Progress = Callable[[int, int], None]


Placed = Place
"""One picture at one resolution and where it goes; None where it has no place."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A run before it starts."""

    filled: Filled
    steps: int
    steps_per_epoch: tuple[int, ...]
    """Of the epochs that are trained; `train.max_steps` may cut the last one."""
    images: int
    samples_per_epoch: int
    """Regularisation included."""
    reg_samples_per_epoch: int
    partial_steps: int
    """Steps that partial batches and partial groups add."""
    buckets: tuple[BucketRow, ...]
    placed: tuple[Placed, ...]
    sizes: RunSizes
    findings: tuple[Finding, ...]
    notices: tuple[str, ...]
    problems: tuple[Problem, ...] = ()
    """What is wrong with the rules themselves."""
    model_problems: tuple[Problem, ...] = ()
    """Why the base model cannot be trained on as asked."""
    base: ModelFacts | None = None
    """What the base model's file tells of itself."""
    seconds: tuple[float, float] | None = None
    """A range remembered for this machine, or None until steps were measured."""

    @property
    def recipe(self) -> Recipe:
        """The filled recipe."""
        return self.filled.recipe

    @property
    def device(self) -> Device:
        """What it will run on."""
        return self.filled.device

    @property
    def memory(self) -> MemoryEstimate:
        """The estimate."""
        return self.sizes.memory

    @property
    def items(self) -> tuple[Item, ...]:
        """The pictures, each once however many resolutions it is placed at."""
        return tuple({each.item.index: each.item for each in self.placed}.values())

    @property
    def exposures(self) -> tuple[int, int] | None:
        """How often the least and the most seen training picture is seen, at all its resolutions."""
        trained = split_of(self.placed, self.recipe.data).trained
        uses: Counter[int] = Counter()
        for each in self.placed:
            if each.item.index in trained and each.placement is not None:
                uses[each.item.index] += each.item.repeats * len(self.steps_per_epoch)
        return (min(uses.values()), max(uses.values())) if uses else None

    def raise_errors(self) -> None:
        """Raise one typed error with everything that keeps this run from starting."""
        if self.problems:
            raise RecipeError(*self.problems)
        if self.model_problems:
            raise ModelError(*self.model_problems)
        error = error_of(self.findings)
        if error is not None:
            raise error

    def to_dict(self) -> dict[str, Any]:
        """The object of `plan --json`."""
        memory = self.memory
        return {
            "steps": self.steps,
            "steps_per_epoch": list(self.steps_per_epoch),
            "samples_per_epoch": self.samples_per_epoch,
            "buckets": [
                {
                    "width": row.width,
                    "height": row.height,
                    "images": row.images,
                    "samples": row.samples,
                    "batches": row.batches,
                    "last_batch": row.last_batch,
                }
                for row in self.buckets
            ],
            "images": [_image(each.item, each.placement) for each in self.placed],
            "seconds": list(self.seconds) if self.seconds is not None else None,
            "memory_bytes": {
                **memory.parts,
                "total": memory.total,
                "low": memory.low,
                "high": memory.high,
                "free": self.sizes.memory_free,
            },
            "base": _base(self.base),
            "disk_bytes": self.sizes.disk_bytes,
            "file_bytes": self.sizes.file_bytes,
            **_readers(self.sizes.network.readers),
            "notices": list(self.notices),
            "origins": {path: origin.to_dict() for path, origin in self.filled.origins.items()},
        }


def _readers(found: Mapping[Consumer, Verdict]) -> dict[str, Any]:
    """As `info --json` says it of a file."""
    return {
        "loads_in": [TITLES[one] for one, verdict in found.items() if verdict.level == "yes"],
        "readers": {TITLES[one]: verdict._asdict() for one, verdict in found.items()},
    }


def _image(item: Item, placement: Placement | None) -> dict[str, Any]:
    if placement is None:
        return {"path": str(item.image.path), "bucket": None, "resized": None, "crop": None}
    return {
        "path": str(item.image.path),
        "bucket": list(placement.bucket),
        "resized": list(placement.resized),
        "crop": list(placement.crop),
    }


def gather(
    recipe: Recipe,
    *,
    hardware: Hardware | None = None,
    decode: bool = True,
    progress: Progress | None = None,
    adamw8bit_works: bool | None = None,
) -> Facts:
    """Read what a plan stands on: machine, base model, pictures, names that are taken.

    Raises EngineError where the model cannot be read; mistakes in pictures are findings.
    """
    folder = recipe.run.folder or default_runs_folder()
    model: ModelFacts | None = None
    if recipe.model.path is not None:
        model = inspect_model(recipe.model.path.expanduser())
    found = None
    if recipe.data.folder is not None:
        found = survey(survey_rules(recipe.data), decode=decode, progress=progress)
        found = with_cut_captions(found, recipe)
    return Facts(
        hardware=hardware or read_hardware(),
        model=model,
        survey=found,
        adamw8bit_works=adamw8bit_works,
        taken_names=frozenset(_names_in(folder.expanduser())),
        disk_at=disk_at,
    )


def _names_in(folder: Path) -> Iterable[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []


def plan(recipe: Recipe, facts: Facts, given: Mapping[str, Origin] | None = None) -> Plan:
    """Fill a recipe and say what it will do. Errors are collected: see `Plan.raise_errors`."""
    return plan_filled(fill(recipe, facts, given), facts)


def plan_filled(filled: Filled, facts: Facts) -> Plan:
    """What a filled recipe will do."""
    recipe = filled.recipe
    placed, findings, problems = _placements(recipe, facts)
    every = [each for each in placed if each.placement is not None]
    order = _order(recipe, every)
    epochs = recipe.train.epochs
    per_epoch = order.steps_per_epoch(epochs) if order is not None else ()
    trained = cut_steps(per_epoch, recipe.train.max_steps)
    sizes = run_sizes(recipe, facts, filled.device, [each.placement for each in every], trained)
    _, rounding = settle(bucket_rules(recipe.data))
    assumed = prediction_notice(facts.model, recipe.model)
    no_room, tight = _disks(recipe, sizes, facts)
    survey_findings = facts.survey.findings if facts.survey is not None else ()
    return Plan(
        filled=filled,
        steps=sum(trained),
        steps_per_epoch=trained,
        images=len(split_of(every, recipe.data).trained),
        samples_per_epoch=order.samples_per_epoch if order is not None else 0,
        reg_samples_per_epoch=order.reg_samples if order is not None else 0,
        partial_steps=_partial_steps(order, recipe, per_epoch) if order is not None else 0,
        buckets=order.bucket_table() if order is not None else (),
        placed=placed,
        sizes=sizes,
        findings=(*survey_findings, *findings),
        notices=(
            # First, since pages have room for a few: a preset may have switched it on.
            *leaving(recipe, filled.origins),
            *filter(None, [assumed]),
            *rounding,
            *cache_notices(recipe.data),
            *tight,
            *notices_of(filled, facts, order, per_epoch, sizes),
        ),
        problems=(
            *problems,
            *sizes.network.problems,
            *text_cache_problems(recipe),
            *_prompt_problems(recipe),
            *start_problems(recipe, None if facts.model is None else facts.model.family),
            *prediction_problems(recipe, facts),
            *attention_problems(recipe.train.attention),
            *no_room,
        ),
        model_problems=_model_problems(recipe, facts),
        base=facts.model,
    )


def _disks(recipe: Recipe, sizes: RunSizes, facts: Facts) -> tuple[list[Problem], list[str]]:
    if facts.disk_at is None:
        return [], []
    return check_disks(recipe, sizes.disk, facts.disk_at)


def _base(model: ModelFacts | None) -> dict[str, Any] | None:
    """The base in `plan --json`: what it is and how that was told."""
    if model is None:
        return None
    return {
        "family": model.family,
        "family_source": how_told(model) if model.family is not None else None,
        "prediction": model.prediction,
        "prediction_source": model.prediction_source,
        "prediction_assumed": model.prediction_assumed,
        "inpainting": model.inpainting,
    }


def _prompt_problems(recipe: Recipe) -> tuple[Problem, ...]:
    """Wrong flags are found before the model is loaded, not after."""
    try:
        all_prompts(recipe.sample.prompts or (), recipe.sample.prompts_file)
    except RecipeError as error:
        return error.problems
    return ()


def _model_problems(recipe: Recipe, facts: Facts) -> tuple[Problem, ...]:
    if facts.model is None or facts.model.layout == "ckpt":
        return facts.model.problems if facts.model is not None else ()
    try:
        settle_choice(facts.model, family=recipe.model.family, prediction=recipe.model.prediction)
    except ModelError as error:
        return error.problems
    return vae_problems(recipe.model.vae, facts.model)


def _placements(
    recipe: Recipe, facts: Facts
) -> tuple[tuple[Placed, ...], tuple[Finding, ...], tuple[Problem, ...]]:
    if facts.survey is None:
        return (), (), ()
    items = facts.survey.items
    try:
        return *check_places(items, resolutions(recipe.data)), ()
    except EngineError as error:
        return tuple(Placed(item, None) for item in items), (), error.problems


def _order(recipe: Recipe, placed: list[Placed]) -> Order | None:
    trained = [each for each in placed if not each.item.is_reg and each.item.repeats > 0]
    if not trained:
        return None
    return order_of(placed, recipe.data, recipe.train)


def _partial_steps(order: Order, recipe: Recipe, per_epoch: tuple[int, ...]) -> int:
    """Steps more than samples / (batch x accumulation) would make."""
    each = order.batch_size * order.accumulation
    return sum(per_epoch) - -(-order.samples_per_epoch * recipe.train.epochs // each)


def arithmetic_line(plan: Plan) -> str:
    """One line: images x repeats + reg x epochs / batch = steps, and what they cost.

    The number is the exact one; what partial batches add is said.
    """
    recipe = plan.recipe
    if not plan.samples_per_epoch:
        return "no pictures yet"
    train_samples = plan.samples_per_epoch - plan.reg_samples_per_epoch
    repeats = {each.item.repeats for each in plan.placed if not each.item.is_reg}
    if len(repeats) == 1 and train_samples == plan.images * min(repeats):
        line = f"{_count(plan.images, 'image')} × {_count(repeats.pop(), 'repeat')}"
    else:
        line = f"{_count(train_samples, 'sample')} of {_count(plan.images, 'image')}"
    if plan.reg_samples_per_epoch:
        line = f"({line} + {grouped(plan.reg_samples_per_epoch)} reg)"
    line += f" × {_count(recipe.train.epochs, 'epoch')} ÷ batch {recipe.train.batch_size}"
    if recipe.train.accumulation > 1:
        line += f" ÷ accumulation {recipe.train.accumulation}"
    line += f" = {_count(plan.steps, 'step')}"
    if recipe.train.max_steps is not None and plan.steps == recipe.train.max_steps:
        line += " (cut by the step limit)"
    elif plan.partial_steps > 0:
        line += f" ({grouped(plan.partial_steps)} from partial batches)"
    low, high = plan.memory.low / (1 << 30), plan.memory.high / (1 << 30)
    return f"{line}, about {low:.1f} to {high:.1f} GiB (estimate)"


def grouped(number: int) -> str:
    """1920 as "1 920"."""
    return f"{number:,}".replace(",", " ")


def _count(number: int, word: str) -> str:
    return f"{grouped(number)} {word}{'' if number == 1 else 's'}"
