"""From a filled recipe and a network to what moves its weights: groups, optimizer, curve, averages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.networks.flat import flatten
from engine.optim.averaged import Averages, MovingAverage, ScheduleFree
from engine.optim.groups import Group
from engine.optim.named import NamedOptimizer
from engine.optim.optimizers import OptimizerChoice, build_optimizer
from engine.optim.schedules import Curve
from engine.optim.weights import Weights
from engine.planning.curve import curve_of
from engine.settings.arguments import resolved
from engine.settings.optimizers import SCHEDULE_FREE

if TYPE_CHECKING:
    from engine.networks.network import Network
    from engine.settings import Recipe

NETWORK_PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Movers:
    """What moves the weights of a run."""

    weights: Weights
    optimizer: NamedOptimizer
    averages: Averages
    scaler: torch.amp.GradScaler
    curve: Curve
    te_stop_step: int | None
    """The last step in which text encoders are trained, where that is not the last of all."""


def movers(
    recipe: Recipe,
    network: Network,
    rates: Mapping[str, float],
    *,
    steps: int,
    device: torch.device,
    precision: torch.dtype,
) -> Movers:
    """Weights in flat buffers, and what steps and averages them; `rates` are those of trained parts."""
    curve = curve_of(recipe, steps)
    choice = optimizer_choice(recipe, warms_up=curve.warmup > 0)
    dtype = NETWORK_PRECISIONS[recipe.train.network_precision]
    weights = Weights(optimizer_groups(network, rates, choice, dtype))
    optimizer = build_optimizer(choice, weights.stepped)
    scaled = precision == torch.float16 and (device.type == "cuda" or dtype == torch.float16)
    return Movers(
        weights=weights,
        optimizer=optimizer,
        averages=_averages(recipe, weights, optimizer),
        scaler=torch.amp.GradScaler(device.type, enabled=scaled),
        curve=curve,
        te_stop_step=te_stop_step(recipe.optim.te_stop_percent, steps),
    )


def _averages(recipe: Recipe, weights: Weights, optimizer: NamedOptimizer) -> Averages:
    if recipe.optim.optimizer in SCHEDULE_FREE:
        return ScheduleFree(weights, optimizer)
    if recipe.train.ema_decay > 0:
        return MovingAverage(weights, recipe.train.ema_decay)
    return Averages(weights)


def te_stop_step(percent: float, steps: int) -> int | None:
    """The step after which text encoders are frozen: ceil(steps x percent / 100); None for never."""
    # 0.1 x 30 / 100 is a little more than 0.03: rounded first, or a step too many would be trained.
    step = math.ceil(round(steps * percent / 100, 9))
    return step if percent > 0 and step < steps else None


def optimizer_groups(
    network: Network,
    rates: Mapping[str, float],
    choice: OptimizerChoice,
    dtype: torch.dtype = torch.float32,
) -> list[Group]:
    """The network's trained tensors, moved into flat buffers: one for each rate and kind of state."""
    return [
        Group(
            part=part,
            rate=rate,
            flat=buffer.whole,
            places=buffer.places,
            shaped=list(buffer.parameters.values()),
            ratio=choice.plus_ratio if kind.plus else 1.0,
            small=kind.small,
        )
        for part, rate in rates.items()
        for kind, buffer in flatten(
            network.members,
            part,
            split_plus=choice.plus_ratio != 1,
            small_below=choice.small_below,
            dtype=dtype,
        ).items()
    ]


def optimizer_choice(recipe: Recipe, *, warms_up: bool) -> OptimizerChoice:
    """The optimizer of a filled recipe with everything it is given; some want to know of a warmup."""
    return OptimizerChoice(
        name=recipe.optim.optimizer or "adamw",
        arguments=resolved(recipe.optim, warms_up=warms_up),
        plus_ratio=recipe.optim.loraplus_ratio or 1.0,
    )
