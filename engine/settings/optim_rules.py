"""What cannot go together in optimizer, rates, schedule and averages: refused by name, with the way out."""

from __future__ import annotations

from collections.abc import Mapping

from engine.errors import Problem
from engine.settings.arguments import read_arguments, relative_step, resolved
from engine.settings.network import TITLES
from engine.settings.optimizers import OPTIMIZERS, optimizer_title
from engine.settings.recipe import Recipe
from engine.settings.schedule import piecewise_rules
from engine.settings.walk import number_text

POLYNOMIAL_END = 1e-7
"""Rate at which the schedule `polynomial` ends."""
WITH_UP_FACTOR = frozenset({"lora", "locon", "dylora"})
"""Algorithms for which LoRA+ was made: an up factor that starts at zero."""
WHOLE_NUMBERS = frozenset({"diag-oft", "boft", "ia3", "t-lora"})
"""Algorithms that are kept in fp32: rotations are inverted, (IA)^3 has next to nothing to save, and of
the factors of a T-LoRA only the small difference to its fixed ones counts, which rounding makes its own."""


def optimizer_rules(recipe: Recipe, rates: Mapping[str, float]) -> list[Problem]:
    """Every combination that would train something else than it says.

    `rates` are those of the parts that are trained, by the name that people know.
    """
    found = list(read_arguments(recipe.optim.optimizer, recipe.optim.arguments).problems)
    found += _same_rates(recipe, rates)
    found += _polynomial(recipe, rates)
    found += _te_stop(recipe, rates)
    for rule in (_loraplus, _piecewise, _adafactor, _max_norm, _network_precision):
        found += rule(recipe)
    return found


def _same_rates(recipe: Recipe, rates: Mapping[str, float]) -> list[Problem]:
    row = OPTIMIZERS[recipe.optim.optimizer or "adamw"]
    if not row.adaptive or len(set(rates.values())) <= 1:
        return []
    told = ", ".join(f"{part} {number_text(rate)}" for part, rate in rates.items())
    return [
        Problem(
            f"{row.title} uses one learning rate for every trained part ({told}).",
            remedy="Give all of them the same rate, or set optim.te_lr to 0.",
            path="optim.te_lr",
        )
    ]


def _loraplus(recipe: Recipe) -> list[Problem]:
    if recipe.optim.loraplus_ratio is None:
        return []
    title, reasons = optimizer_title(recipe.optim.optimizer), []
    if recipe.network.algorithm not in WITH_UP_FACTOR:
        reasons.append(
            (
                f"LoRA+ speeds up the up factors, and {recipe.network.algorithm} has none.",
                "set network.algorithm to lora, locon or dylora",
            )
        )
    if OPTIMIZERS[recipe.optim.optimizer or "adamw"].adaptive:
        what = f"LoRA+ needs two learning rates, and {title} uses one for everything."
        reasons.append((what, "set optim.optimizer to adamw or adamw8bit"))
    elif _relative(recipe):
        what = "LoRA+ needs a learning rate, and Adafactor's relative steps take none."
        reasons.append((what, 'add "relative_step=False" to optim.arguments'))
    return [
        Problem(what, remedy=f"Leave it blank, or {way}.", path="optim.loraplus_ratio")
        for what, way in reasons
    ]


def _polynomial(recipe: Recipe, rates: Mapping[str, float]) -> list[Problem]:
    low = [part for part, rate in rates.items() if rate <= POLYNOMIAL_END]
    if recipe.schedule.scheduler != "polynomial" or not low:
        return []
    return [
        Problem(
            f"The schedule polynomial ends at 1e-7, and the rate of the {low[0]} begins no higher.",
            remedy="Raise the rate, or set schedule.scheduler to linear, which ends at 0.",
            path="schedule.scheduler",
        )
    ]


def _piecewise(recipe: Recipe) -> list[Problem]:
    text = recipe.schedule.rules
    if not text.strip():
        return []
    try:
        piecewise_rules(text)
    except ValueError as error:
        return [
            Problem(
                f"Piecewise rules cannot be read: {error}.",
                remedy='They are written "1:500,0.1:800,0.01".',
                path="schedule.rules",
            )
        ]
    return []


def _adafactor(recipe: Recipe) -> list[Problem]:
    if recipe.schedule.scheduler == "adafactor" and not _relative(recipe):
        return [
            Problem(
                "The schedule adafactor is the optimizer's own, with relative steps.",
                remedy="Set optim.optimizer to adafactor with relative steps, or another schedule.",
                path="schedule.scheduler",
            )
        ]
    if recipe.optim.optimizer != "adafactor" or _relative(recipe):
        return []
    if not resolved(recipe.optim)["warmup_init"]:
        return []
    return [
        Problem(
            "Adafactor's warmup_init is the beginning of its relative steps, which are off.",
            remedy="Leave warmup_init out, or relative_step on.",
            path="optim.arguments",
        )
    ]


def _relative(recipe: Recipe) -> bool:
    return relative_step(recipe.optim)


def _te_stop(recipe: Recipe, rates: Mapping[str, float]) -> list[Problem]:
    if not 0 < recipe.optim.te_stop_percent < 100 or not rates or "U-Net" in rates:
        return []
    return [
        Problem(
            "Only text encoders are trained: nothing would be left to train after they stop.",
            remedy="Set optim.te_stop_percent to 0, or train the U-Net too.",
            path="optim.te_stop_percent",
        )
    ]


def _max_norm(recipe: Recipe) -> list[Problem]:
    """Scaling weights of which a second copy is kept: the copy must be scaled with them."""
    if recipe.network.max_norm == 0:
        return []
    row = OPTIMIZERS[recipe.optim.optimizer or "adamw"]
    reason = ""
    if row.absolute:
        reason = f"{row.title} computes all weights anew in each step and would undo the scaling"
    elif row.schedule_free:
        reason = f"{row.title} averages over weights that are not scaled"
    elif recipe.train.ema_decay > 0 and recipe.network.algorithm == "t-lora":
        reason = "T-LoRA scales its weights by one number, which their running average shares"
    elif recipe.train.ema_decay > 0 and recipe.train.network_precision != "fp32":
        reason = "the running average would be rounded in each step (train.network_precision)"
    if not reason:
        return []
    return [
        Problem(
            f"Maximum norm cannot hold here: {reason}.",
            remedy="Set network.max_norm to 0, or choose another optimizer."
            if row.absolute or row.schedule_free
            else "Set network.max_norm or train.ema_decay to 0.",
            path="network.max_norm",
        )
    ]


def _network_precision(recipe: Recipe) -> list[Problem]:
    kind, base = recipe.train.network_precision, recipe.train.precision
    if kind == "fp32":
        return []
    algorithms = {entry.algorithm for entry in recipe.network.overrides}
    algorithms.add(recipe.network.algorithm)
    whole = sorted(one for one in algorithms if one in WHOLE_NUMBERS)
    path = "train.network_precision"
    found = []
    if whole:
        what = f"{TITLES.get(whole[0], whole[0])} is trained in fp32 only."
        found.append(Problem(what, remedy=f"Set {path} to fp32.", path=path))
    if base is not None and base != kind and (kind == "fp16" or base == "fp16"):
        # In fp16 gradients need the loss scaler; autocast mixes no two half precisions.
        found.append(
            Problem(
                f"A network in {kind} does not go with train.precision {base}.",
                remedy=f"Set both to {kind}, or {path} to fp32.",
                path=path,
            )
        )
    return found
