"""What should be known about a plan before it starts, in whole sentences."""

from __future__ import annotations

from engine.data.order import Order, epoch_of_step
from engine.hardware import GIB, NO_GPU
from engine.planning.doubts import doubts
from engine.planning.facts import Facts
from engine.planning.fill import Filled
from engine.planning.rules import total_steps, trains_text
from engine.planning.sizes import RunSizes
from engine.settings import Recipe
from engine.settings.idle import idle_settings
from engine.settings.network import asked
from engine.settings.optimizers import ADAPTIVE
from engine.settings.rules import without_effect

SAFE_SHARE = 0.92
"""Above this share of a card's memory, Windows and WSL spill into RAM without a word."""


def notices_of(
    filled: Filled,
    facts: Facts,
    order: Order | None,
    steps_per_epoch: tuple[int, ...],
    sizes: RunSizes,
) -> tuple[str, ...]:
    """Notices of a plan, the gravest first."""
    limit = filled.recipe.train.max_steps
    notices = [*_machine(filled, facts, sizes)]
    notices += _settings(filled)
    given = _given(filled)
    notices += doubts(filled, facts, given, steps=total_steps(steps_per_epoch, limit))
    notices += without_effect(filled.recipe, given)
    notices += idle_settings(filled.recipe, given)
    if order is not None:
        notices += _length(filled.recipe, order, steps_per_epoch)
    notices += sizes.notices
    return tuple(notices)


def _given(filled: Filled) -> list[str]:
    return [path for path, origin in filled.origins.items() if origin.source in ("you", "preset")]


def _machine(filled: Filled, facts: Facts, sizes: RunSizes) -> list[str]:
    notices = list(facts.hardware.notes)
    if filled.device.gpu is None and not facts.hardware.usable:
        notices.append(f"{NO_GPU[0].upper()}{NO_GPU[1:]}.")
    needed, free = sizes.memory.high, sizes.memory_free
    if needed > SAFE_SHARE * free:
        notices.append(
            f"The run may need {needed / GIB:.1f} GiB of memory (estimate) and {free / GIB:.1f} are"
            f" free. To save memory, in this order: {'; '.join(_savings(filled.recipe))}."
        )
    return notices


def _savings(recipe: Recipe) -> list[str]:
    """What saves most for the least, first."""
    steps = []
    if not recipe.train.checkpointing:
        steps.append("switch train.checkpointing on")
    if trains_text(recipe):
        steps.append("set optim.te_lr to 0")
    if (recipe.train.batch_size or 1) > 1:
        steps.append("lower train.batch_size and raise train.accumulation instead")
    return [*steps, "lower data.resolution"]


def _settings(filled: Filled) -> list[str]:
    notices, recipe = [], filled.recipe
    schedule, network, optim = recipe.schedule, recipe.network, recipe.optim
    became = filled.origins.get("schedule.scheduler")
    if schedule.scheduler == "constant_with_warmup" and became is not None and became.reason:
        notices.append("The constant schedule begins with the warmup, then stays constant.")
    rank = asked(network, "rank")
    if asked(network, "alpha") == 0 and isinstance(rank, int):
        notices.append(f"network.alpha 0 means the same as the rank: {rank}.")
    if optim.optimizer in ADAPTIVE and 0 < (optim.lr or 0.0) <= 0.1:
        notices.append(
            f"{optim.optimizer} finds the rate itself and multiplies it by optim.lr,"
            f" {optim.lr:g} here: 1 is meant."
        )
    if recipe.train.max_steps is not None and recipe.save.every_epochs == 0:
        notices.append("Only the last file is written: save.every_epochs is 0.")
    return notices


def _length(recipe: Recipe, order: Order, steps_per_epoch: tuple[int, ...]) -> list[str]:
    notices = []
    total = sum(steps_per_epoch)
    limit = recipe.train.max_steps
    if limit is not None and limit < total:
        epoch, _ = epoch_of_step(steps_per_epoch, limit)
        notices.append(
            f"train.max_steps ends the run at step {limit} of {total}, in epoch {epoch} of"
            f" {recipe.train.epochs}."
        )
    usage = order.reg_usage(recipe.train.epochs)
    if usage.images and usage.used < usage.images:
        notices.append(
            f"Only {usage.used} of {usage.images} regularisation pictures are used in this run."
        )
    return notices
