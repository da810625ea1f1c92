"""Optimizer and learning rates."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator

from engine.settings.ask import Ask, Section
from engine.settings.optimizers import OptimizerName, read_optimizer

Rate = Annotated[float, Ge(0), Le(10)]


class Optim(Section):
    """How the weights are moved."""

    optimizer: Annotated[
        OptimizerName | None,
        BeforeValidator(read_optimizer),
        Ask("Optimizer", flag="--optimizer", blank="AdamW8bit where it works, else AdamW"),
    ] = None
    """Rule that turns gradients into changes of the weights."""
    lr: Annotated[
        Rate | None,
        Ask(
            "Learning rate", flag="--lr", blank="1e-4, or 1 for optimizers that find it themselves"
        ),
    ] = None
    """Size of each change, where the parts below have no own rate."""
    unet_lr: Annotated[Rate | None, Ask("U-Net rate", blank="the learning rate")] = None
    """Learning rate of the image part; 0 leaves it untrained."""
    te_lr: Annotated[
        Rate | None,
        Ask(
            "Text-encoder rate",
            blank="5e-5, 0 on SDXL, or the learning rate for optimizers that find it",
        ),
    ] = None
    """Learning rate of the text part; 0 leaves it untrained."""
    te2_lr: Annotated[
        Rate | None, Ask("Second encoder rate", "advanced", blank="the text-encoder rate")
    ] = None
    """Learning rate of SDXL's second text encoder; 0 leaves it untrained."""
    te_stop_percent: Annotated[
        float, Ge(0), Le(100), Ask("Stop text encoder", "advanced", unit="%")
    ] = 0.0
    """Share of all steps after which text encoders are no longer trained; 0 is never."""
    weight_decay: Annotated[
        float | None, Ge(0), Le(1), Ask("Weight decay", "advanced", blank="the optimizer's own")
    ] = None
    """Pull of the weights towards zero in each step."""
    betas: Annotated[
        tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] | None,
        Ask("Betas", "expert", blank="the optimizer's own"),
    ] = None
    """How long gradients and their squares are remembered."""
    eps: Annotated[
        float | None, Gt(0), Le(1), Ask("Epsilon", "expert", blank="the optimizer's own")
    ] = None
    """Smallest denominator of the adaptive step."""
    d_coef: Annotated[float, Gt(0), Le(100), Ask("Prodigy d coefficient", "expert")] = 1.0
    """Multiplies the rate that Prodigy finds."""
    arguments: Annotated[tuple[str, ...], Ask("Optimizer arguments", "expert", kind="lines")] = ()
    """Further arguments of the optimizer, one name=value a line; they win over the fields above."""
    loraplus_ratio: Annotated[
        float | None, Gt(0), Le(1000), Ask("LoRA+ ratio", "advanced", blank="off")
    ] = None
    """Multiplies the learning rate of the up factors; only networks with an up factor have it."""
    max_grad_norm: Annotated[float, Ge(0), Ask("Gradient clipping", "advanced")] = 1.0
    """Longest gradient that is used whole; 0 switches clipping off."""
