"""Networks of all algorithms on one model, and a small U-Net that each of them trains."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from engine.networks import ALGORITHMS
from engine.networks.choice import Choice
from engine.networks.network import Network, build
from tests.engine.networks.layers import (
    CHOICES,
    make_input,
    make_model,
    make_network,
    stir,
    with_dropouts,
)
from tests.tiny import UNET

FORMS = {choice.algorithm: form for form, choice in reversed(CHOICES.items())}
"""The first form of each algorithm in the table."""
ON_LINEAR = sorted(set(FORMS) - {"norm"})
"""Algorithms that change a linear layer."""


def network_of(model: nn.Module, algorithm: str, seed: int) -> Network:
    network = stir(make_network(model, CHOICES[FORMS[algorithm]], seed=seed), 0.1, seed=seed)
    network.eval()
    return network


def run(model: nn.Module, x: Tensor, probe: Tensor, network: Network) -> tuple[Tensor, ...]:
    """What the model gives, and the gradients of one network's parameters."""
    out = model(x)
    return out, *torch.autograd.grad((out * probe).sum(), list(network.parameters()))


@pytest.mark.parametrize(("one", "other"), list(combinations(ON_LINEAR, 2)))
def test_two_algorithms_on_one_layer_add_up_and_see_nothing_of_each_other(one, other):
    model, x = make_model("linear"), make_input("linear")
    base = model(x)
    probe = torch.randn(base.shape, generator=torch.Generator().manual_seed(2))
    networks = [network_of(model, one, 1), network_of(model, other, 2)]
    files = [save(network.tensors()) for network in networks]
    alone = []
    for network in networks:
        network.inject()
        alone.append(run(model, x, probe, network))
        network.eject()

    for network in networks:
        network.inject()
    wanted = sum(out - base for out, *_ in alone)
    for network, (_, *gradients) in zip(networks, alone, strict=True):
        both, *found = run(model, x, probe, network)
        torch.testing.assert_close(both - base, wanted, rtol=1e-3, atol=1e-4)
        for gradient, expected in zip(found, gradients, strict=True):
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)

    networks[1].set_strength(0.0)
    torch.testing.assert_close(model(x), alone[0][0], rtol=1e-4, atol=1e-5)
    networks[0].eject()
    networks[1].set_strength(1.0)
    torch.testing.assert_close(model(x), alone[1][0], rtol=1e-4, atol=1e-5)
    networks[1].eject()
    assert torch.equal(model(x), base)
    assert [save(network.tensors()) for network in networks] == files


@pytest.mark.parametrize("algorithm", ON_LINEAR)
def test_a_network_is_the_same_whatever_others_did_before(algorithm):
    model, x = make_model("linear"), make_input("linear")
    network = network_of(model, algorithm, 1)
    network.inject()
    wanted, file = model(x), save(network.tensors())
    network.eject()
    del network

    for other in ON_LINEAR:
        choice = with_dropouts(CHOICES[FORMS[other]], module=0.5)
        busy = stir(make_network(model, choice, seed=7))
        busy.inject()
        busy.train()
        busy.begin(step=12, batch=3, samples=3)
        busy.set_strength(-2.0)
        model(x)
        busy.apply_max_norm(0.1)
        busy.eject()

    again = network_of(model, algorithm, 1)
    again.inject()
    assert torch.equal(model(x), wanted)
    assert save(again.tensors()) == file


STEPS = 3
FIRST = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
"""Computed a second time under checkpointing; what comes last in a block may not be."""
SMALL = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}
RATES = {"full": 1e-4}
RANKS: dict[str, Any] = {"ia3": "full", "full": "full", "norm": "full", "lokr": "full", "boft": 64}


@pytest.fixture
def unet() -> Any:
    """The small U-Net with two of its levels, checkpointing its blocks."""
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = UNet2DConditionModel(**{**UNET, **SMALL})
    model.requires_grad_(False).train().enable_gradient_checkpointing()
    return model


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_trains_a_checkpointed_unet(unet, algorithm):
    choice = Choice(algorithm, RANKS.get(algorithm, 4), 4.0, "unet-only")
    generator = torch.Generator().manual_seed(0)
    sample, target = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps_B = torch.tensor([100, 700])
    text = torch.randn(2, 5, 64, generator=generator)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}

    def loss() -> Tensor:
        return F.mse_loss(unet(sample, timesteps_B, text).sample, target)

    with torch.no_grad():
        start = float(loss())
    network = build({"unet": unet}, choice, seed=1)
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, lr=RATES.get(algorithm, 1e-3))
    passes: list[int] = []
    if FIRST in network.adapters:
        network.adapters[FIRST].register_forward_hook(lambda *_: passes.append(step))
    network.inject()
    network.train()
    losses = []
    for step in range(1, STEPS + 1):
        network.begin(step=step, samples=2, timesteps_B=timesteps_B)
        found = loss()
        losses.append(float(found.detach()))
        optimizer.zero_grad()
        found.backward()
        assert all(parameter.grad is not None for parameter in parameters)
        assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in parameters)
        optimizer.step()
    network.eval()
    assert passes == ([1, 1, 2, 2, 3, 3] if FIRST in network.adapters else [])
    with torch.no_grad():
        losses.append(float(loss()))
    network.eject()

    assert losses[0] == start
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in unet.state_dict().items())
