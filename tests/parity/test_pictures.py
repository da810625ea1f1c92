"""A picture with our adapter is the picture that the other programs make of the same file."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.models.load import load_model
from engine.networks.choice import Choice
from engine.networks.files import write_network
from engine.networks.network import Network, build
from engine.sampling import Shot, sample_latents
from tests.engine.networks.layers import stir
from tests.engine.test_sampling import of_the_pipeline, pipeline
from tests.tiny import write_tiny_sd1

SHOT = Shot("a red circle", "blurry", 128, 96, seed=5, steps=4, guidance=5.0, clip_skip=1)


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return load_model(write_tiny_sd1(tmp_path / "tiny.safetensors", seed=2))


def with_network(model: Any, choice: Choice) -> tuple[Network, torch.Tensor]:
    """A network with weights, and our latents with it; the model is left without it."""
    network = stir(build(model.components(), choice, seed=0), 0.03)
    plain = sample_latents(model, SHOT)
    network.inject()
    wanted = sample_latents(model, SHOT)
    network.eject()
    assert (wanted - plain).norm() > 0.01 * plain.norm()
    return network, wanted


@torch.no_grad()
def test_a_lora_in_diffusers(model: Any, tmp_path: Path) -> None:
    network, wanted = with_network(model, Choice("lora", 4, 2.0))
    path = tmp_path / "x.safetensors"
    write_network(path, network.tensors(), {})
    theirs = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The layers are changed in place, so the embeddings carry the text encoder's part too.
        pipeline(theirs).load_lora_weights(str(path.parent), weight_name=path.name)
        found = of_the_pipeline(theirs, SHOT, "latent")
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:lycoris")
@pytest.mark.parametrize("rank", ["full", 2])
@torch.no_grad()
def test_a_lokr_in_lycoris(lycoris: Any, model: Any, rank: Any) -> None:
    network, wanted = with_network(model, Choice("lokr", rank, 2.0, factor=4))
    tensors, parts = network.tensors(), model.components()
    for member in network.members:
        layer = parts[member.component].get_submodule(member.path)
        kind, weights = lycoris.get_module(tensors, member.adapter.name)
        assert kind is lycoris.LokrModule
        lycoris.make_module(kind, weights, member.adapter.name, layer).apply_to()
    found = sample_latents(model, SHOT)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
