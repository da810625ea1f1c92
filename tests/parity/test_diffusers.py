"""diffusers' `load_lora_weights` makes of our file the output that our adapters make."""

from __future__ import annotations

import warnings

import pytest
import torch

from engine.networks.choice import Choice
from engine.networks.files import write_network
from engine.networks.network import build
from tests.engine.networks.layers import stir
from tests.tiny import tiny_modules


@pytest.mark.parametrize(
    "choice",
    [
        Choice("lora", 4, 2.0),
        Choice("lora", 4, 2.0, rs_lora=True),
        Choice("lora", 4, 2.0, scalar=True),
        Choice("locon", 4, 2.0, "full", conv_rank=2, conv_alpha=1.0),
    ],
    ids=["lora", "rs", "scalar", "locon"],
)
@torch.no_grad()
def test_the_same_unet_and_text_output(choice, tmp_path):
    modules = tiny_modules()
    parts = {"unet": modules.unet, "te": modules.text_encoder}
    network = stir(build(parts, choice, seed=0), 0.02)
    path = tmp_path / "x.safetensors"
    write_network(path, network.tensors(), {})
    plain = outputs(modules)
    network.inject()
    wanted = outputs(modules)
    network.eject()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = load_there(modules, path)
        found = outputs(theirs)

    for name in ("text", "noise"):
        assert (wanted[name] - plain[name]).norm() > 0.005 * plain[name].norm()
        torch.testing.assert_close(found[name], wanted[name], rtol=2e-4, atol=2e-4)


def outputs(modules) -> dict[str, torch.Tensor]:
    ids = torch.arange(77)[None] + 320
    text = modules.text_encoder(ids).last_hidden_state
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    # The plain text on both sides: an error in the text encoder must not hide in the U-Net's.
    context = torch.randn(1, 77, 64, generator=generator)
    noise = modules.unet(latents, torch.tensor([500]), context).sample
    return {"text": text, "noise": noise}


def load_there(modules, path):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=modules.vae,
        text_encoder=modules.text_encoder,
        tokenizer=None,
        unet=modules.unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
    return pipeline
