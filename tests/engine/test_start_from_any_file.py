"""A recipe that names a network file and nothing else: its network is that of the file, of every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engine.hardware import Hardware
from engine.models.detect import ModelFacts, inspect_model
from engine.models.load import load_model
from engine.models.shapes import layer_shapes
from engine.networks.choice import Choice
from engine.networks.content import Content, read_content
from engine.networks.files import read_network, write_network
from engine.networks.layouts_glora import old_layout
from engine.networks.names import file_names, name_table, split_key
from engine.networks.network import Network, build, from_file
from engine.networks.shapes import planned_tensors
from engine.networks.targets import real_layers
from engine.plan import Facts, Origin, Plan, plan
from engine.planning.rules import network_choice
from engine.planning.start import start_problems
from engine.settings import Recipe
from engine.settings.check import parse
from engine.settings.toml import read_recipe, write_recipe
from tests.engine.networks.layers import stir
from tests.tiny import write_tiny_sd1

Spelled = Callable[[Network, dict[str, nn.Module]], dict[str, Tensor]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sd1(tmp_path_factory.mktemp("base") / "tiny.safetensors")


@pytest.fixture(scope="module")
def components(base: Path) -> dict[str, nn.Module]:
    return dict(load_model(base).components())


@pytest.fixture(scope="module")
def model(base: Path) -> ModelFacts:
    return inspect_model(base)


@pytest.fixture(scope="module")
def facts(model: ModelFacts) -> Facts:
    hardware = Hardware(gpus=(), cores=2, ram_total=2**34, ram_free=2**33)
    return Facts(hardware, model=model, drawn_seed=1)


def ours(network: Network, components: dict[str, nn.Module]) -> dict[str, Tensor]:
    return network.tensors()


def sgm(network: Network, components: dict[str, nn.Module]) -> dict[str, Tensor]:
    """In the names of the original layout, as kohya's tools write SDXL."""
    places = {(one.component, one.path) for one in real_layers(components)}
    names = file_names(places, sdxl=True)
    return {
        f"{names[one.component, one.path]}.{suffix}": tensor
        for one in network.members
        for suffix, tensor in one.adapter.tensors().items()
    }


def peft(network: Network, components: dict[str, nn.Module]) -> dict[str, Tensor]:
    """As diffusers and PEFT write it: no alpha where it is the rank."""
    parts = {"unet": "unet", "te": "text_encoder.text_model"}
    words = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    return {
        f"{parts[one.component]}.{one.path}.{words[suffix]}": tensor
        for one in network.members
        for suffix, tensor in one.adapter.tensors().items()
        if suffix in words
    }


def old_glora(network: Network, components: dict[str, nn.Module]) -> dict[str, Tensor]:
    found = {}
    for one in network.members:
        tensors = one.adapter.tensors()
        alpha = tensors.pop("alpha")
        for suffix, tensor in {**old_layout(tensors), "alpha": alpha}.items():
            found[f"{one.adapter.name}.{suffix}"] = tensor.contiguous()
    return found


CASES: dict[str, tuple[Choice, Spelled]] = {
    "lora": (Choice("lora", 4, 2.0), ours),
    "lora rs": (Choice("lora", 4, 2.0, rs_lora=True), ours),
    "lora dora input": (Choice("lora", 4, 2.0, dora="input"), ours),
    "lora dora output": (Choice("lora", 4, 2.0, dora="output", targets="full"), ours),
    "lora norms": (Choice("lora", 4, 2.0, train_norm=True, targets="full"), ours),
    "lora of the U-Net's linear layers": (
        Choice("lora", 4, 2.0, conv_rank=0, targets="unet-only"), ours,
    ),
    "lora of original names": (Choice("locon", 4, 2.0, targets="unet-up-blocks"), sgm),
    "lora of original names, convolutions": (
        Choice("locon", 4, 2.0, conv_rank=2, conv_alpha=1.0, targets="full"), sgm,
    ),
    "lora of PEFT": (Choice("lora", 4, 4.0, targets="attn-only"), peft),
    "locon tucker": (Choice("locon", 4, 2.0, tucker=True, conv_rank=2, targets="full"), ours),
    "loha": (Choice("loha", 3, 2.0, targets="full", conv_rank=2, conv_alpha=1.0), ours),
    "loha tucker": (Choice("loha", 3, 2.0, targets="unet-only", tucker=True), ours),
    "lokr full": (Choice("lokr", "full", 1.0, factor=4), ours),
    "lokr full even": (Choice("lokr", "full", 1.0, factor=-1, targets="full"), ours),
    "lokr low": (Choice("lokr", 2, 1.0, factor=8, targets="full"), ours),
    "lokr whole convolutions": (
        Choice("lokr", 2, 1.0, factor=4, targets="full", conv_rank=500), ours,
    ),
    "lokr low convolutions": (
        Choice("lokr", "full", 1.0, factor=4, targets="full", conv_rank=2, conv_alpha=1.0), ours,
    ),
    "lokr low tucker": (Choice("lokr", 2, 1.0, factor=4, targets="full", tucker=True), ours),
    "lokr both": (Choice("lokr", 1, 1.0, factor=4, decompose_both=True), ours),
    "lokr unbalanced": (Choice("lokr", "full", 1.0, factor=4, unbalanced=True), ours),
    "lokr both unbalanced": (
        Choice("lokr", 2, 1.0, factor=4, decompose_both=True, unbalanced=True, targets="full"),
        ours,
    ),
    "lokr dora": (Choice("lokr", 2, 1.0, factor=4, dora="output", targets="full"), ours),
    "ia3": (Choice("ia3", "full", 0.0, targets="ia3"), ours),
    "ia3 attn-mlp": (Choice("ia3", "full", 0.0), ours),
    "ia3 on inputs": (Choice("ia3", "full", 0.0, targets="full", train_on_input=True), ours),
    "dylora": (Choice("dylora", 4, 2.0, block_size=2), ours),
    "glora": (Choice("glora", 3, 2.0, targets="full", conv_rank=2), ours),
    "glora of the old layout": (Choice("glora", 3, 2.0, targets="full"), old_glora),
    "diag-oft": (Choice("diag-oft", 32, 0.0), ours),
    "diag-oft rescaled": (
        Choice("diag-oft", 6, 0.0, targets="full", conv_rank=4, rescaled=True), ours,
    ),
    "boft": (Choice("boft", 32, 0.0), ours),
    "boft rescaled": (Choice("boft", 8, 0.0, rescaled=True, targets="full", conv_rank=4), ours),
    "full": (Choice("full", "full", 0.0, targets="te-only"), ours),
    "full with norms": (Choice("full", "full", 0.0, train_norm=True), ours),
    "t-lora": (Choice("t-lora", 4, 2.0, targets="attn-only"), ours),
}  # fmt: skip


@pytest.fixture
def written(components: dict[str, nn.Module], tmp_path: Path) -> Callable[..., Path]:
    def write(network: Network, spelled: Spelled = ours, **metadata: str) -> Path:
        path = tmp_path / "start.safetensors"
        write_network(path, spelled(network, components), metadata)
        return path

    return write


def made_of(components: dict[str, nn.Module], choice: Choice, size: float = 0.05) -> Network:
    return stir(build(components, choice, seed=0), size)


def planned(path: Path, facts: Facts, **network: Any) -> Plan:
    """The plan of a recipe of a network file; what is given besides was typed."""
    recipe = parse({"network": {"weights": str(path), **network}})
    typed = {f"network.{key}": Origin("you") for key in ("weights", *network)}
    return plan(recipe, facts, typed)


def both_shapes(recipe: Recipe, content: Content, model: ModelFacts) -> tuple[Any, Any]:
    """By place in the base: what the filled recipe alone would build, and what the file holds."""
    assert model.architecture is not None
    layers = layer_shapes(model.architecture)
    table = name_table((layer.component, layer.path) for layer in layers)
    built: dict[Any, dict[str, tuple[int, ...]]] = {}
    for key, shape in planned_tensors(layers, network_choice(recipe.network)).items():
        name, suffix = split_key(key)
        if suffix != "alpha":
            built.setdefault(table[name], {})[suffix] = shape
    held = {
        table[module.name]: {key: shape for key, shape in module.shapes.items() if key != "alpha"}
        for module in content.sources
    }
    return built, held


@pytest.mark.parametrize("case", CASES)
def test_the_network_is_that_of_the_file(
    case: str,
    components: dict[str, nn.Module],
    facts: Facts,
    model: ModelFacts,
    written: Callable[..., Path],
    tmp_path: Path,
) -> None:
    choice, spelled = CASES[case]
    network = made_of(components, choice)
    path = written(network, spelled)
    made = planned(path, facts)
    assert made.problems == ()

    # What run.toml says is read again as it was, and is the network of the file.
    stored = tmp_path / "run.toml"
    stored.write_text(write_recipe(made.filled.recipe))
    recipe = read_recipe(stored)
    assert start_problems(recipe) == ()
    built, held = both_shapes(recipe, read_content(path), model)
    assert built == held

    file = read_network(path)
    again = from_file(
        components, file.tensors, file.metadata, choice=network_choice(recipe.network)
    )
    changes = {(one.component, one.path): one.adapter.delta() for one in again.members}
    assert len(changes) == len(network.members)
    for one in network.members:
        change = one.adapter.delta()
        assert torch.allclose(changes[one.component, one.path], change, rtol=1e-4, atol=1e-6)
        assert float(change.norm()) > 0
