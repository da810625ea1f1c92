"""Optimizer and learning rates."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from engine.settings.ask import Ask, Section

OptimizerName = Literal["adamw", "adamw8bit", "prodigy"]
Rate = Annotated[float, Ge(0), Le(10)]


class Optim(Section):
    """How the weights are moved."""

    optimizer: Annotated[
        OptimizerName | None,
        Ask("Optimizer", flag="--optimizer", blank="AdamW8bit where it works, else AdamW"),
    ] = None
    """Rule that turns gradients into changes of the weights."""
    lr: Annotated[
        Rate | None, Ask("Learning rate", flag="--lr", blank="1e-4, or 1 for Prodigy")
    ] = None
    """Size of each change, where the parts below have no own rate."""
    unet_lr: Annotated[Rate | None, Ask("U-Net rate", blank="the learning rate")] = None
    """Learning rate of the image part; 0 leaves it untrained."""
    te_lr: Annotated[
        Rate | None, Ask("Text-encoder rate", blank="5e-5, or the learning rate for Prodigy")
    ] = None
    """Learning rate of the text part; 0 leaves it untrained."""
    weight_decay: Annotated[
        float | None, Ge(0), Le(1), Ask("Weight decay", "advanced", blank="the optimizer's own")
    ] = None
    """Pull of the weights towards zero in each step."""
    betas: Annotated[
        tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]] | None,
        Ask("Betas", "expert", blank="0.9, 0.999"),
    ] = None
    """How long gradients and their squares are remembered."""
    eps: Annotated[float, Gt(0), Le(1), Ask("Epsilon", "expert")] = 1e-8
    """Smallest denominator of the adaptive step."""
    d_coef: Annotated[float, Gt(0), Le(100), Ask("Prodigy d coefficient", "expert")] = 1.0
    """Multiplies the rate that Prodigy finds."""
    loraplus_ratio: Annotated[
        float | None, Gt(0), Le(1000), Ask("LoRA+ ratio", "advanced", blank="off")
    ] = None
    """Multiplies the learning rate of the up factors; only networks with an up factor have it."""
    max_grad_norm: Annotated[float, Ge(0), Ask("Gradient clipping", "advanced")] = 1.0
    """Longest gradient that is used whole; 0 switches clipping off."""
