"""Files for Stable Diffusion 2 and XL, however they are spelled: the same network on the same layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engine.errors import NetworkFileError
from engine.networks.choice import Choice
from engine.networks.content import read_content
from engine.networks.files import write_network
from engine.networks.names import file_names, flat_name, name_of
from engine.networks.network import Network, build, from_file
from engine.networks.targets import real_layers
from engine.planning.start import start_problems, start_values
from engine.settings import Recipe
from engine.settings.network import Lora
from tests.engine.networks.layers import stir
from tests.tiny_families import family_modules

Parts = dict[str, nn.Module]
FULL = Choice("locon", 3, 1.5, "full", conv_rank=2, conv_alpha=1.0)
PEFT_PARTS = {"unet": "unet", "te": "text_encoder.text_model", "te2": "text_encoder_2"}
PEFT_WORDS = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}


def parts_of(family: str, *, linear: bool | None = None) -> Parts:
    modules = family_modules(family, linear=linear)  # type: ignore[arg-type]
    parts = {"unet": modules.unet, "te": modules.text_encoder}
    return parts if family == "sd2" else {**parts, "te2": modules.text_encoder_2}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def sd2() -> Parts:
    return parts_of("sd2")


@pytest.fixture(scope="module")
def sdxl() -> Parts:
    return parts_of("sdxl")


def renamed(network: Network, name: Callable[[str, str], str]) -> dict[str, Tensor]:
    return {
        f"{name(one.component, one.path)}.{suffix}": tensor
        for one in network.members
        for suffix, tensor in one.adapter.tensors().items()
    }


def peft(network: Network) -> dict[str, Tensor]:
    """As diffusers and PEFT write it: alpha is not there, and so is the rank."""
    return {
        f"{PEFT_PARTS[one.component]}.{one.path}.{PEFT_WORDS[suffix]}": tensor
        for one in network.members
        for suffix, tensor in one.adapter.tensors().items()
        if suffix in PEFT_WORDS
    }


def spellings(network: Network, parts: Parts) -> dict[str, dict[str, Tensor]]:
    prefixes = {"unet": "lora_unet", "te": "lora_te1", "te2": "lora_te2"}
    sgm = file_names(((one.component, one.path) for one in real_layers(parts)), sdxl=True)
    original = renamed(network, lambda part, path: sgm[part, path])
    return {
        "kohya": network.tensors(),
        "diffusers blocks, as OneTrainer writes them": renamed(
            network, lambda part, path: flat_name(prefixes[part], path)
        ),
        "blocks of the original": original,
        "the wrapper of LyCORIS": {
            key.replace("lora_unet_", "lycoris_"): tensor for key, tensor in original.items()
        },
    }


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_every_spelling_is_the_same_network(family: str, request: pytest.FixtureRequest) -> None:
    parts: Parts = request.getfixturevalue(family)
    network = stir(build(parts, FULL, seed=0))
    wanted = network.tensors()
    assert {name.partition("_unet")[0] for name in wanted if "_unet" in name} == {"lora"}

    for spelling, tensors in spellings(network, parts).items():
        read = from_file(parts, tensors, {}).tensors()
        assert read.keys() == wanted.keys(), spelling
        assert all(torch.equal(read[name], wanted[name]) for name in wanted), spelling
    without_alpha = from_file(parts, peft(network), {})
    for name, adapter in network.adapters.items():
        scale = adapter.size.scale  # type: ignore[attr-defined]
        torch.testing.assert_close(without_alpha.adapters[name].delta() * scale, adapter.delta())


def test_projections_of_either_form_are_read_and_written_in_that_of_the_model(sd2: Parts) -> None:
    convolutions = parts_of("sd2", linear=False)
    choice = Choice("lora", 3, 1.5)
    name = "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight"
    from_linear = stir(build(sd2, choice, seed=0)).tensors()
    from_convolutions = stir(build(convolutions, choice, seed=0)).tensors()
    assert (from_linear[name].dim(), from_convolutions[name].dim()) == (2, 4)

    read = from_file(sd2, from_convolutions, {}).tensors()
    assert read.keys() == from_linear.keys()
    assert read[name].dim() == 2
    assert torch.equal(read[name], from_convolutions[name][:, :, 0, 0])
    assert from_file(convolutions, from_linear, {}).tensors()[name].dim() == 4


def test_a_network_of_text_encoders_alone_has_the_names_of_its_family(sdxl: Parts) -> None:
    """Nothing in the parts that are trained tells that there are two encoders."""
    only = build(sdxl, Choice("lora", 2, 1.0), seed=0, trained=("te",))

    assert all(name.startswith("lora_te1_text_model_encoder_layers_") for name in only.adapters)
    assert name_of("te", "a").startswith("lora_te_")


def test_the_recipe_follows_an_sdxl_file(sdxl: Parts, tmp_path: Path) -> None:
    path = tmp_path / "xl.safetensors"
    for choice, trained, targets in (
        (Choice("lora", 6, 3.0), ("unet",), "unet-transformer-only"),
        (Choice("lora", 6, 3.0), ("unet", "te", "te2"), "attn-mlp"),
        (FULL, ("unet", "te", "te2"), "full"),
    ):
        write_network(path, build(sdxl, choice, seed=0, trained=trained).tensors(), {})
        content = read_content(path)
        values = start_values(content)
        assert content.foreign is None and content.family == "sdxl"
        assert values["targets"] == targets
        assert (values["rank"], values["alpha"]) == (choice.rank, choice.alpha)


def test_a_file_of_another_family_is_refused_before_anything_is_loaded(
    sdxl: Parts, sd2: Parts, tmp_path: Path
) -> None:
    path = tmp_path / "xl.safetensors"
    network = build(sdxl, Choice("lora", 2, 1.0), seed=0)
    write_network(path, network.tensors(), {})
    recipe = Recipe(network=Lora(weights=path))

    assert start_problems(recipe, "sdxl") == ()
    for base in ("sd1", "sd2"):
        (problem,) = start_problems(recipe, base)
        assert problem.what.startswith("This is an SDXL network; the base model is of Stable")
        assert (problem.where, problem.path) == (str(path), "network.weights")
    with pytest.raises(NetworkFileError, match="This is an SDXL network"):
        from_file(sd2, network.tensors(), {})
