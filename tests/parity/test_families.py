"""Networks of Stable Diffusion 2 and XL in diffusers and lycoris-lora: the same outputs as ours."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.networks.choice import Choice
from engine.networks.files import read_network, write_network
from engine.networks.names import TEXT_ROOT
from engine.networks.network import Network, build
from engine.unet_names import original_unet_names
from tests.engine.networks.layers import stir
from tests.tiny_families import TEXT_ENCODERS, UNETS, FamilyModules, family_modules

PIPELINES = {"sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}
LOCON = Choice("locon", 4, 2.0, "full", conv_rank=2, conv_alpha=1.0)


@pytest.fixture(params=PIPELINES)
def modules(request: pytest.FixtureRequest) -> FamilyModules:
    return family_modules(request.param)


def parts_of(modules: FamilyModules) -> dict[str, nn.Module]:
    parts = {"unet": modules.unet, "te": modules.text_encoder}
    return parts if modules.text_encoder_2 is None else {**parts, "te2": modules.text_encoder_2}


@torch.no_grad()
def outputs(modules: FamilyModules) -> dict[str, Tensor]:
    """Text and noise; the U-Net reads drawn text, so that an error cannot hide in the other's."""
    generator = torch.Generator().manual_seed(0)
    width = UNETS[modules.family]["cross_attention_dim"]
    context = torch.randn(1, 77, width, generator=generator)
    added = None
    if modules.family == "sdxl":
        pooled = torch.randn(1, TEXT_ENCODERS["sdxl"][1]["projection_dim"], generator=generator)
        sizes = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]])
        added = {"text_embeds": pooled, "time_ids": sizes}
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    noise = modules.unet(latents, torch.tensor([500]), context, added_cond_kwargs=added).sample
    ids = torch.arange(77)[None] + 320
    found = {"noise": noise, "te": modules.text_encoder(ids).last_hidden_state}
    if modules.text_encoder_2 is not None:
        found["te2"] = modules.text_encoder_2(ids).text_embeds
    return found


def written(modules: FamilyModules, choice: Choice, path: Path) -> dict[str, Tensor]:
    """Write a network that changes something; what the model then gives, and the plain one's noise."""
    network = stir(build(parts_of(modules), choice, seed=0), 0.02)
    write_network(path, network.tensors(), {})
    plain = outputs(modules)
    network.inject()
    wanted = outputs(modules)
    network.eject()
    for name, value in wanted.items():
        assert (value - plain[name]).norm() > 0.004 * plain[name].norm(), name
    return wanted


def assert_equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=2e-4, atol=2e-4, msg=name)


def test_diffusers_makes_the_same_of_the_file(modules: FamilyModules, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    wanted = written(modules, LOCON, path)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_there(modules, path)
        found = outputs(modules)

    assert_equal(found, wanted)


def load_there(modules: FamilyModules, path: Path) -> None:
    import diffusers

    given: dict[str, Any] = {
        "vae": modules.vae,
        "text_encoder": modules.text_encoder,
        "tokenizer": None,
        "unet": modules.unet,
        "scheduler": diffusers.DDIMScheduler(),
    }
    if modules.family == "sdxl":
        given |= {"text_encoder_2": modules.text_encoder_2, "tokenizer_2": None}
        given |= {"add_watermarker": False}
    else:
        given |= {"safety_checker": None, "feature_extractor": None}
        given |= {"requires_safety_checker": False}
    pipeline = getattr(diffusers, PIPELINES[modules.family])(**given)
    pipeline.load_lora_weights(str(path.parent), weight_name=path.name)


@pytest.fixture(scope="module")
def kohya() -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield importlib.import_module("lycoris.kohya")


@pytest.mark.parametrize("choice", [LOCON, Choice("lokr", 4, 2.0, factor=4)], ids=["locon", "lokr"])
def test_lycoris_makes_the_same_of_the_file(
    modules: FamilyModules, choice: Choice, kohya: Any, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    wanted = written(modules, choice, path)
    network = theirs(kohya, modules, path)

    network.apply_to(modules.text_encoder, modules.unet, True, True)
    assert_equal(outputs(modules), wanted)


def theirs(kohya: Any, modules: FamilyModules, path: Path) -> Any:
    """lycoris-lora finds modules by kohya's names, which are not those of diffusers' modules."""
    unet = dict(modules.unet.named_modules())
    if modules.family == "sdxl":
        original = original_unet_names(unet)
        unet = {original(name): module for name, module in unet.items()}
    encoders = [
        named({TEXT_ROOT + name.removeprefix(TEXT_ROOT): one for name, one in te.named_modules()})
        for te in (modules.text_encoder, modules.text_encoder_2)
        if te is not None
    ]
    network, _ = kohya.create_network_from_weights(
        1.0, str(path), None, encoders if len(encoders) > 1 else encoders[0], named(unet)
    )
    found = {lora.lora_name for lora in (*network.unet_loras, *network.text_encoder_loras)}
    assert found == {name.partition(".")[0] for name in read_network(path).tensors}
    return network


def named(modules: Mapping[str, nn.Module]) -> nn.Module:
    """A module that has these below it under these paths."""
    root = nn.Module()
    for path, module in modules.items():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        *way, last = path.split(".")
        place = root
        for step in way:
            if step not in dict(place.named_children()):
                place.add_module(step, nn.Module())
            place = getattr(place, step)
        place.add_module(last, module)
    return root


def test_what_is_written_are_the_names_that_other_programs_know(modules):
    network: Network = build(parts_of(modules), LOCON, seed=0)
    names = set(network.adapters)
    sdxl = modules.family == "sdxl"

    starts = ("lora_unet_", "lora_te1_", "lora_te2_") if sdxl else ("lora_unet_", "lora_te_")
    assert {next(one for one in starts if name.startswith(one)) for name in names} == set(starts)
    assert ("lora_unet_input_blocks_5_1_proj_in" in names) == sdxl
    assert ("lora_unet_down_blocks_1_attentions_1_proj_in" in names) == (not sdxl)
    assert all("text_model_encoder_layers_" in name for name in names if "_te" in name[:8])
