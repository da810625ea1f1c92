"""Small layers and networks on them, for the table of all algorithms, options and layer kinds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from engine.networks.choice import Choice, Dropouts
from engine.networks.network import Network, build


class Transformer2DModel(nn.Module):
    """Bears the class name that presets aim at; holds one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


class ResnetBlock2D(Transformer2DModel):
    """The same for convolutions beyond one pixel."""


KINDS = ("linear", "conv1x1", "conv3x3")


def make_model(kind: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    """A frozen model of one layer; the 3 x 3 convolution has stride, padding and dilation."""
    torch.manual_seed(seed)
    layer: nn.Module
    if kind == "linear":
        layer = nn.Linear(24, 36)
    elif kind == "conv1x1":
        layer = nn.Conv2d(24, 36, 1)
    else:
        layer = nn.Conv2d(24, 36, 3, stride=2, padding=2, dilation=2, bias=False)
    model = ResnetBlock2D(layer) if kind == "conv3x3" else Transformer2DModel(layer)
    return model.to(dtype).eval().requires_grad_(False)


def make_input(kind: str, dtype: torch.dtype = torch.float32, rows: int = 3) -> Tensor:
    shape = (rows, 5, 24) if kind == "linear" else (rows, 24, 9, 7)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


CHOICES: dict[str, Choice] = {
    "lora": Choice("lora", 4, 2.0),
    "lora alpha 0": Choice("lora", 4, 0.0),
    "lora rs": Choice("lora", 4, 2.0, rs_lora=True),
    "lora scalar": Choice("lora", 4, 2.0, scalar=True),
    "locon tucker": Choice("locon", 4, 2.0, tucker=True),
    "locon tucker scalar rs": Choice("locon", 4, 2.0, tucker=True, scalar=True, rs_lora=True),
    "locon conv rank": Choice("locon", 4, 2.0, conv_rank=2, conv_alpha=3.0),
    "loha": Choice("loha", 6, 3.0),
    "loha narrow": Choice("loha", 2, 1.0),
    "loha alpha 0 rs": Choice("loha", 6, 0.0, rs_lora=True),
    "loha narrow scalar rs": Choice("loha", 2, 3.0, scalar=True, rs_lora=True),
    "loha tucker": Choice("loha", 6, 3.0, tucker=True),
    "loha tucker narrow scalar": Choice("loha", 2, 1.0, tucker=True, scalar=True),
    "lokr full": Choice("lokr", "full", 1.0, factor=4),
    "lokr full even": Choice("lokr", "full", 1.0, factor=-1),
    "lokr full unbalanced": Choice("lokr", "full", 1.0, factor=3, unbalanced=True),
    "lokr full scalar": Choice("lokr", "full", 1.0, factor=4, scalar=True),
    "lokr rank too large": Choice("lokr", 100, 7.0, factor=4),
    "lokr low": Choice("lokr", 2, 3.0, factor=2),
    "lokr low rs": Choice("lokr", 2, 3.0, factor=2, rs_lora=True),
    "lokr low scalar": Choice("lokr", 2, 3.0, factor=2, scalar=True),
    "lokr both": Choice("lokr", 1, 3.0, factor=-1, decompose_both=True),
    "lokr both unbalanced scalar": Choice(
        "lokr", 2, 3.0, factor=4, decompose_both=True, unbalanced=True, scalar=True
    ),
    "lokr tucker": Choice("lokr", 2, 3.0, factor=2, tucker=True),
    "lokr tucker both scalar": Choice(
        "lokr", 1, 3.0, factor=4, tucker=True, decompose_both=True, scalar=True
    ),
    "lora dora input": Choice("lora", 4, 2.0, dora="input"),
    "lora dora output": Choice("lora", 4, 2.0, dora="output"),
    "lora dora output scalar rs": Choice("lora", 4, 2.0, dora="output", scalar=True, rs_lora=True),
    "locon tucker dora input": Choice("locon", 4, 2.0, tucker=True, dora="input"),
    "loha dora input": Choice("loha", 6, 3.0, dora="input"),
    "loha narrow dora output scalar": Choice("loha", 2, 1.0, dora="output", scalar=True),
    "lokr full dora input": Choice("lokr", "full", 1.0, factor=4, dora="input"),
    "lokr low dora output scalar": Choice("lokr", 2, 3.0, factor=2, dora="output", scalar=True),
    "dylora": Choice("dylora", 4, 2.0, block_size=2),
    "dylora single rs": Choice("dylora", 4, 2.0, block_size=1, rs_lora=True),
    "dylora all learn": Choice("dylora", 6, 2.0, block_size=3, detach_lower=False),
    "dylora conv rank": Choice("dylora", 4, 2.0, block_size=2, conv_rank=2, conv_alpha=3.0),
    "glora": Choice("glora", 4, 2.0),
    "glora rs": Choice("glora", 4, 2.0, rs_lora=True),
    "glora scalar": Choice("glora", 4, 2.0, scalar=True),
    "glora conv rank scalar rs": Choice(
        "glora", 4, 2.0, conv_rank=2, conv_alpha=3.0, scalar=True, rs_lora=True
    ),
    "diag-oft": Choice("diag-oft", 4, 1.0),
    "diag-oft constraint": Choice("diag-oft", 4, 1.0, constraint=0.05),
    "diag-oft rescaled": Choice("diag-oft", 6, 1.0, rescaled=True),
    "diag-oft rescaled constraint": Choice("diag-oft", 6, 1.0, rescaled=True, constraint=0.05),
    "boft": Choice("boft", 18, 1.0),
    "boft constraint": Choice("boft", 18, 1.0, constraint=0.1),
    "boft rescaled": Choice("boft", 18, 1.0, rescaled=True),
    "boft one stage constraint": Choice("boft", 36, 1.0, rescaled=True, constraint=0.1),
    "ia3": Choice("ia3", "full", 1.0),
    "ia3 on input": Choice("ia3", "full", 1.0, train_on_input=True),
    "full": Choice("full", "full", 1.0),
    "t-lora": Choice("t-lora", 4, 2.0),
    "t-lora last": Choice("t-lora", 4, 2.0, sig_type="last"),
    "t-lora middle": Choice("t-lora", 4, 2.0, sig_type="middle", min_rank=2, mask_alpha=0.5),
    "t-lora drawn": Choice("t-lora", 4, 0.0, use_data_init=False),
}
"""Every form of every algorithm, by name."""


def make_network(model: nn.Module, choice: Choice, *, seed: int = 3) -> Network:
    return build({"unet": model}, replace(choice, targets="unet-only"), seed=seed)


def stir(network: Network, size: float = 0.3, seed: int = 5) -> Network:
    """Move every parameter away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * size)
    return network


def with_dropouts(choice: Choice, **chances: Any) -> Choice:
    return replace(choice, dropouts=Dropouts(**chances))
