"""Networks of ours, lycoris-lora and peft, put on layers for a while and taken off again."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from cases import Case
from torch import nn

from engine.networks.base import Setup
from engine.networks.dropout import Moment
from engine.networks.flat import flatten
from engine.networks.network import Member, Network
from engine.networks.shapes import shapes_of
from engine.networks.table import create
from engine.networks.targets import real_layers

NOISE = 1e-3
"""Added to every parameter, so that no path is short because a factor is zero."""


def move_away(parameters: list[nn.Parameter]) -> None:
    """Add a little noise to every parameter."""
    for parameter in parameters:
        with torch.no_grad():
            parameter.add_(torch.randn_like(parameter), alpha=NOISE)


@contextmanager
def ours_on(case: Case, layers: Mapping[str, nn.Module]) -> Iterator[Network]:
    """Our network on bare layers."""
    choice = case.choice
    setup = Setup(Moment(0), choice.dropouts)
    members = [
        Member(
            layer.component,
            layer.path,
            create(layer.path, layer.module, shapes_of(layer, choice), choice, setup),
        )
        for layer in real_layers({"unet": nn.ModuleDict(layers)})
    ]
    network = Network(members, setup.moment, [])
    move_away(list(network.parameters()))
    buffers = flatten(network.members, "unet")
    network.inject()
    network.train()
    device = next(iter(buffers.values())).whole.device
    network.begin(step=1, samples=4, timesteps_B=torch.full((4,), 500, device=device))
    try:
        yield network
    finally:
        network.eject()


@contextmanager
def lycoris(
    layers: Mapping[str, nn.Module],
    algorithm: str,
    options: Mapping[str, Any],
    dtype: torch.dtype,
    *,
    rank: int,
    bypass: bool = False,
) -> Iterator[list[nn.Parameter]]:
    """lycoris-lora on these layers; gives its parameters. `bypass` is its two-product mode."""
    from lycoris.wrapper import network_module_dict

    logging.getLogger("LyCORIS").setLevel(logging.ERROR)
    kind = network_module_dict[algorithm]
    kept = {name: dict(layer._parameters) for name, layer in layers.items()}
    modules = []
    for name, layer in layers.items():
        extra = {"bypass_mode": True} if bypass else {}
        module = kind(
            name.replace(".", "_"), layer, 1.0, lora_dim=rank, alpha=rank, **options, **extra
        )
        module.to(next(layer.parameters()).device, dtype)
        module.apply_to()
        modules.append(module)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    move_away(parameters)
    try:
        yield parameters
    finally:
        # Not restore(): it leaves a bound method behind, and new weights that want gradients.
        for name, layer in layers.items():
            for key in ("forward", "_lycoris_wrappers", "_lycoris_original_forward"):
                layer.__dict__.pop(key, None)
            layer._parameters.update(kept[name])


@contextmanager
def peft(
    model: nn.Module, paths: list[str], kind: str, dtype: torch.dtype, *, rank: int
) -> Iterator[list[nn.Parameter]]:
    """peft on these layers of the model; gives its parameters."""
    from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    config: Any
    match kind:
        case "lora" | "dora":
            config = LoraConfig(
                r=rank,
                lora_alpha=rank,
                target_modules=paths,
                init_lora_weights="gaussian",
                use_dora=kind == "dora",
            )
        case "loha":
            config = LoHaConfig(r=rank, alpha=rank, target_modules=paths)
        case _:
            config = LoKrConfig(r=100000, alpha=1, target_modules=paths, decompose_factor=8)
    frozen = {id(parameter) for parameter in model.parameters()}
    inject_adapter_in_model(config, model)
    parameters = []
    for parameter in model.parameters():
        if id(parameter) not in frozen:
            parameter.data = parameter.data.to(dtype)
            parameters.append(parameter.requires_grad_())
    move_away(parameters)
    try:
        yield parameters
    finally:
        for name, module in list(model.named_modules()):
            if isinstance(module, BaseTunerLayer):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, module.get_base_layer())
